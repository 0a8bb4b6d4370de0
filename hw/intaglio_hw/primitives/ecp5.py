"""Blocks of the Lattice ECP5: MULT18X18D and DP16KD.

Ports and parameters are those of Lattice's *ECP5 and ECP5-5G Memory Usage Guide* and *sysDSP Usage
Guide*, as yosys and nextpnr name them. Only CLK0 and synchronous registers are used.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

__all__ = ["block_ram", "fits_block_ram", "multiplier"]

_FACTOR_BITS = 18
#: Rows of a block -> bits of a row. The ninth bit of a byte is not used in narrow blocks.
_SHAPES = {512: 36, 1024: 18, 2048: 9, 4096: 4, 8192: 2, 16384: 1}
#: Bits of the block's addresses, and of one half of its data.
_ADDRESS_BITS = 14
_HALF = 18
#: Bits under one byte enable.
_BYTE = 9
#: A memory up to this many bits is better off in the logic's RAM.
_SMALL_ROWS = 64


def _bits(prefix: str, name: str, value: Value) -> dict[str, Value]:
    """Return the connections of a bus that the cell has as single bits."""
    return {f"{prefix}_{name}{i}": value[i] for i in range(len(value))}


def multiplier(*, a: Value, b: Value, enable: Value, load: Value, product: Value) -> Instance:
    """Return a MULT18X18D with input, pipeline and output registers.

    ``a`` and ``b`` are signed and stand at the upper end of the ports, zeros below them: the
    product is then at the upper end, too.
    """
    registers = {"PIPELINE": "CE0", "OUTPUT": "CE0", "INPUTA": "CE0", "INPUTB": "CE1"}
    parameters: dict = {}
    for name, enabled_by in registers.items():
        parameters[f"p_REG_{name}_CLK"] = "CLK0"
        parameters[f"p_REG_{name}_CE"] = enabled_by
        parameters[f"p_REG_{name}_RST"] = "RST0"
    full = Signal(2 * _FACTOR_BITS)
    result = full[2 * _FACTOR_BITS - len(product) :]
    instance = Instance(
        "MULT18X18D",
        **parameters,
        p_CLK0_DIV="ENABLED",
        p_GSR="DISABLED",
        p_MULT_BYPASS="DISABLED",
        p_RESETMODE="SYNC",
        p_SOURCEB_MODE="B_INPUT",
        i_CLK0=ClockSignal(),
        i_CE0=enable,
        i_CE1=load,
        i_RST0=Const(0),
        i_SIGNEDA=Const(1),
        i_SIGNEDB=Const(1),
        i_SOURCEA=Const(0),
        i_SOURCEB=Const(0),
        **_bits("i", "A", Cat(Const(0, _FACTOR_BITS - len(a)), a)),
        **_bits("i", "B", Cat(Const(0, _FACTOR_BITS - len(b)), b)),
        **_bits("o", "P", full),
    )
    m = Module()
    m.submodules.cell = instance
    m.d.comb += product.eq(result)
    return m


def fits_block_ram(*, depth: int) -> bool:
    """Return whether block RAM is right for a memory and it needs no multiplexer behind blocks."""
    return _SMALL_ROWS < depth <= max(_SHAPES)


def block_ram(
    m: Module,
    *,
    depth: int,
    granularity: int,
    write_addr: Value,
    write_data: Value,
    write_en: Value,
    read_addr: Value,
    read_data: Value,
) -> None:
    """Add to ``m`` blocks side by side, with output registers: port A writes, port B reads.

    With 36 bits in a row a block is pseudo dual port: both halves of the data pins are used for
    writing with port A's address and for reading with port B's.
    """
    rows = min(shape for shape in _SHAPES if shape >= depth)
    bits = _SHAPES[rows]
    # Bits of a row that a block holds, and what one enable covers in it.
    if granularity >= len(write_data):
        used, byte = bits, bits
    else:
        byte = max(size for size in range(1, min(bits, _BYTE) + 1) if granularity % size == 0)
        used = byte * max(1, bits // _BYTE)
    # The lower address bits select a part of the widest row, or are byte enables.
    step = _ADDRESS_BITS - (rows - 1).bit_length()
    for index, start in enumerate(range(0, len(write_data), used)):
        piece = write_data[start : start + used]
        count = -(-len(piece) // byte)
        # Where each byte of the piece stands in the block.
        stride = bits if byte == bits else _BYTE
        inputs = Cat(
            Cat(part, Const(0, stride - len(part)))
            for part in (piece[byte * i : byte * i + byte] for i in range(count))
        )
        inputs = Cat(inputs, Const(0, 2 * _HALF - len(inputs)))
        enables = [write_en[(start + byte * i) // granularity] for i in range(count)]
        if bits > _BYTE:
            pads = [Const(0)] * (bits // _BYTE)
            if byte == bits:
                pads = enables * len(pads)
            else:
                pads[:count] = enables
            address_a = Cat(Cat(pads), Const(0, step - len(pads)), write_addr)
            we = Const(1)
        else:
            address_a = Cat(Const(0, step), write_addr)
            we = enables[0]
        address_b = Cat(Const(0, step), read_addr)
        outputs = Signal(2 * _HALF, name=f"outputs_{index}")
        if bits <= _HALF:
            data_a, data_b = inputs[:_HALF], Const(0, _HALF)
            out_a, out_b = Signal(_HALF, name=f"unused_{index}"), outputs[:_HALF]
        else:
            data_a, data_b = inputs[:_HALF], inputs[_HALF:]
            out_a, out_b = outputs[:_HALF], outputs[_HALF:]
        m.submodules[f"block{index}"] = Instance(
            "DP16KD",
            p_DATA_WIDTH_A=bits,
            p_DATA_WIDTH_B=bits,
            p_REGMODE_A="OUTREG",
            p_REGMODE_B="OUTREG",
            p_RESETMODE="SYNC",
            p_ASYNC_RESET_RELEASE="SYNC",
            p_CSDECODE_A="0b000",
            p_CSDECODE_B="0b000",
            p_CLKAMUX="CLKA",
            p_CLKBMUX="CLKB",
            p_WRITEMODE_A="NORMAL",
            p_WRITEMODE_B="NORMAL",
            p_GSR="DISABLED",
            i_CLKA=ClockSignal(),
            i_CLKB=ClockSignal(),
            i_WEA=we,
            i_WEB=Const(0),
            **{f"i_{name}{port}": Const(1) for name in ("CE", "OCE") for port in "AB"},
            **{f"i_RST{port}": Const(0) for port in "AB"},
            **{f"i_CS{port}{i}": Const(0) for port in "AB" for i in range(3)},
            **_bits("i", "ADA", Cat(address_a, Const(0, _ADDRESS_BITS - len(address_a)))),
            **_bits("i", "ADB", Cat(address_b, Const(0, _ADDRESS_BITS - len(address_b)))),
            **_bits("i", "DIA", data_a),
            **_bits("i", "DIB", data_b),
            **_bits("o", "DOA", out_a),
            **_bits("o", "DOB", out_b),
        )
        for i in range(count):
            first = start + byte * i
            last = min(first + byte, start + len(piece))
            m.d.comb += read_data[first:last].eq(outputs[stride * i :][: last - first])
