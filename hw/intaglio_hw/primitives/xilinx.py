"""Blocks of Xilinx' 7 series and UltraScale+: DSP48E1, DSP48E2, RAMB18E1, RAMB18E2.

Ports and parameters are those of the user guides UG479 and UG473, UG579 and UG573.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

from intaglio_hw.primitives.blocks import Block

__all__ = ["add_block", "multiplier"]

_A_BITS, _B_BITS, _C_BITS = 30, 18, 48
#: P = M: X and Y multiplexers take the product, Z is zero.
_OPMODE = 0b0000101
_BYTE, _CODE = 9, 8


def multiplier(
    m: Module, *, a: Value, b: Value, enable: Value, load: Value, product: Value, generation: int
) -> None:
    """Add a DSP48E1 (``generation`` 1) or DSP48E2 (2): registers A, B, M and P."""
    full = Signal(_C_BITS)
    ones = {name: enable for name in ("CEA1", "CEA2", "CEM", "CEP")} | {"CEB1": load, "CEB2": load}
    zeros = (
        "CARRYCASCIN", "CARRYIN", "MULTSIGNIN", "CEAD", "CEALUMODE", "CEC", "CECARRYIN", "CECTRL",
        "CED", "CEINMODE", "RSTA", "RSTALLCARRYIN", "RSTALUMODE", "RSTB", "RSTC", "RSTCTRL", "RSTD",
        "RSTINMODE", "RSTM", "RSTP",
    )  # fmt: skip
    used = ("AREG", "BREG", "MREG", "PREG", "ACASCREG", "BCASCREG")
    unused = (
        "ADREG", "ALUMODEREG", "CARRYINREG", "CARRYINSELREG", "CREG", "DREG", "INMODEREG",
        "OPMODEREG",
    )  # fmt: skip
    special: dict = {"p_USE_DPORT": "FALSE"} if generation == 1 else {"p_AMULTSEL": "A"}
    m.submodules.cell = Instance(
        f"DSP48E{generation}",
        **{f"p_{name}": 1 for name in used},
        **{f"p_{name}": 0 for name in unused},
        **special,
        p_USE_MULT="MULTIPLY",
        i_CLK=ClockSignal(),
        **{f"i_{name}": value for name, value in ones.items()},
        **{f"i_{name}": Const(0) for name in zeros},
        i_A=Cat(a, a[-1].replicate(_A_BITS - len(a))),
        i_B=Cat(b, b[-1].replicate(_B_BITS - len(b))),
        i_C=Const(0, _C_BITS),
        i_D=Const(0, 25 if generation == 1 else 27),
        i_ACIN=Const(0, _A_BITS),
        i_BCIN=Const(0, _B_BITS),
        i_PCIN=Const(0, _C_BITS),
        i_ALUMODE=Const(0, 4),
        i_CARRYINSEL=Const(0, 3),
        i_INMODE=Const(0, 5),
        i_OPMODE=Const(_OPMODE, 7 if generation == 1 else 9),
        o_P=full,
    )
    m.d.comb += product.eq(full[: len(product)])


def _split(row: Value, bits: int) -> tuple[Value, Value]:
    """Return the data and the parity pins of a row: the ninth bit of each byte is a parity pin."""
    if bits < _BYTE:
        return row[:32], Const(0, 4)
    starts = range(0, 4 * _BYTE, _BYTE)
    return (
        Cat(row[start : start + _CODE] for start in starts),
        Cat(row[start + _CODE] for start in starts),
    )


def add_block(
    m: Module, block: Block, *, write_addr: Value, read_addr: Value, generation: int
) -> None:
    """Add a RAMB18E1 (``generation`` 1) or RAMB18E2 (2): port A reads with its output register,
    port B writes.

    With 36 bits in a row it is simple dual port, with the data pins of both ports on both sides.
    """
    simple = block.bits == 4 * _BYTE
    data, parity = _split(block.data, block.bits)
    if simple:
        inputs = {"A": (data[:16], parity[:2]), "B": (data[16:], parity[2:])}
        write = Cat(block.enables)
    else:
        inputs = {"A": (Const(0, 16), Const(0, 2)), "B": (data[:16], parity[:2])}
        # A narrow block has its one enable on both bytes of the port.
        enables = block.enables if block.bits == 2 * _BYTE else block.enables * 2
        write = Cat(enables, Const(0, 2))
    di, do = ("DI", "DO") if generation == 1 else ("DIN", "DOUT")
    pins: dict = {}
    outputs = {}
    for port, (value, above) in inputs.items():
        outputs[port] = Signal(18, name=f"{block.name}_{port}")
        pins |= {
            f"i_{di}{port}{di}": value,
            f"i_{di}P{port}{di}P": above,
            f"o_{do}{port}{do}": outputs[port][:16],
            f"o_{do}P{port}{do}P": outputs[port][16:],
        }
    out_data = Cat(outputs["A"][:16], outputs["B"][:16])
    out_parity = Cat(outputs["A"][16:], outputs["B"][16:])
    if block.bits < _BYTE:
        m.d.comb += block.output.eq(out_data)
    else:
        bytes_out = (Cat(out_data.word_select(i, _CODE), out_parity[i]) for i in range(4))
        m.d.comb += block.output.eq(Cat(bytes_out))
    # In the second generation the width alone says that the ports are simple.
    if generation == 1:
        special: dict = {"p_RAM_MODE": "SDP" if simple else "TDP"}
    else:
        special = {"p_CLOCK_DOMAINS": "COMMON", "i_SLEEP": Const(0)}
        special |= {f"i_ADDREN{port}": Const(1) for port in "AB"}
    m.submodules[block.name] = Instance(
        f"RAMB18E{generation}",
        p_DOA_REG=1,
        p_DOB_REG=1,
        p_READ_WIDTH_A=block.bits,
        p_READ_WIDTH_B=0,
        p_WRITE_WIDTH_A=0,
        p_WRITE_WIDTH_B=block.bits,
        p_WRITE_MODE_A="READ_FIRST",
        p_WRITE_MODE_B="READ_FIRST",
        **special,
        i_CLKARDCLK=ClockSignal(),
        i_CLKBWRCLK=ClockSignal(),
        i_ENARDEN=Const(1),
        i_ENBWREN=Const(1),
        i_REGCEAREGCE=Const(1),
        i_REGCEB=Const(1),
        **{f"i_RST{name}": Const(0) for name in ("RAMARSTRAM", "RAMB", "REGARSTREG", "REGB")},
        i_ADDRARDADDR=Cat(Const(1).replicate(block.step), read_addr),
        i_ADDRBWRADDR=Cat(Const(1).replicate(block.step), write_addr),
        i_WEA=Const(0, 2),
        i_WEBWE=write,
        **pins,
    )
