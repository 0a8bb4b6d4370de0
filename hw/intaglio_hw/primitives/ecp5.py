"""Blocks of the Lattice ECP5: MULT18X18D and DP16KD.

Ports and parameters are those of Lattice's *ECP5 and ECP5-5G Memory Usage Guide* and *sysDSP Usage
Guide*, as yosys and nextpnr name them. Only CLK0 and synchronous registers are used.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

from intaglio_hw.primitives.blocks import ADDRESS_BITS, BLOCK_BITS, Block

__all__ = ["add_block", "multiplier"]

_FACTOR_BITS = 18
#: Bits of one half of a block's data.
_HALF = 18
_BYTE = 9


def _bits(prefix: str, name: str, value: Value) -> dict[str, Value]:
    """Return the connections of a bus that the cell has as single bits."""
    return {f"{prefix}_{name}{i}": value[i] for i in range(len(value))}


def multiplier(
    m: Module, *, a: Value, b: Value, enable: Value, load: Value, product: Value
) -> None:
    """Add a MULT18X18D with input, pipeline and output registers.

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
    m.submodules.cell = Instance(
        "MULT18X18D",
        **parameters,
        p_CLK0_DIV="ENABLED",
        p_GSR="DISABLED",
        p_MULT_BYPASS="DISABLED",
        p_RESETMODE="SYNC",
        p_SOURCEB_MODE="B_SHIFT",  # the port or the chain, as SOURCEB says
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
    m.d.comb += product.eq(full[2 * _FACTOR_BITS - len(product) :])


def add_block(m: Module, block: Block, *, write_addr: Value, read_addr: Value) -> None:
    """Add a DP16KD with output registers: port A writes, port B reads.

    With 36 bits in a row it is pseudo dual port: both halves of the data pins are used for writing
    with port A's address and for reading with port B's.
    """
    if block.bits > _BYTE:
        # The lowest bits of the address are the byte enables.
        enables = Cat(block.enables)
        address_a = Cat(enables, Const(0, block.step - len(enables)), write_addr)
        we = Const(1)
    else:
        address_a = Cat(Const(0, block.step), write_addr)
        we = block.enables[0]
    address_b = Cat(Const(0, block.step), read_addr)
    if block.bits <= _HALF:
        data_a, data_b = block.data[:_HALF], Const(0, _HALF)
        out_a, out_b = Signal(_HALF, name=f"{block.name}_unused"), block.output[:_HALF]
    else:
        data_a, data_b = block.data[:_HALF], block.data[_HALF:BLOCK_BITS]
        out_a, out_b = block.output[:_HALF], block.output[_HALF:]
    m.submodules[block.name] = Instance(
        "DP16KD",
        p_DATA_WIDTH_A=block.bits,
        p_DATA_WIDTH_B=block.bits,
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
        **_bits("i", "ADA", Cat(address_a, Const(0, ADDRESS_BITS - len(address_a)))),
        **_bits("i", "ADB", Cat(address_b, Const(0, ADDRESS_BITS - len(address_b)))),
        **_bits("i", "DIA", data_a),
        **_bits("i", "DIB", data_b),
        **_bits("o", "DOA", out_a),
        **_bits("o", "DOB", out_b),
    )
