"""Blocks of Lattice Nexus (CrossLink-NX, Certus-NX): MULT9X9, MULT18X18, PDPSC16K, OSCA and DCC.

Ports and parameters are those of Lattice's *sysDSP*, *Memory Usage* and *sysCLOCK PLL Design Guides
for Nexus Platform*, as yosys and nextpnr name them.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

from intaglio_hw.primitives.blocks import Block

__all__ = ["add_block", "multiplier", "oscillator"]

_BYTE = 9
_ALL_BLOCKS = 0b111


def multiplier(m: Module, *, a: Value, b: Value, enable: Value, product: Value) -> None:
    """Add the smaller multiplier that holds the factors, with its registers of ``a`` and at the
    output, which ``enable`` moves.

    The block has no register in the middle; a third one stands behind it. That of ``b`` is outside:
    where clock enables of ``b`` differ from multiplier to multiplier, nextpnr finds no way to some.
    """
    width = 9 if max(len(a), len(b)) <= 9 else 18
    full = Signal(2 * width)
    m.submodules.cell = Instance(
        f"MULT{width}X{width}",
        p_REGINPUTA="REGISTER",
        p_REGINPUTB="BYPASS",
        p_REGOUTPUT="REGISTER",
        p_GSR="DISABLED",
        p_RESETMODE="SYNC",
        i_CLK=ClockSignal(),
        i_CEA=enable,
        i_CEB=Const(1),
        i_CEOUT=enable,
        i_RSTA=Const(0),
        i_RSTB=Const(0),
        i_RSTOUT=Const(0),
        i_SIGNEDA=Const(1),
        i_SIGNEDB=Const(1),
        i_A=Cat(Const(0, width - len(a)), a),
        i_B=Cat(Const(0, width - len(b)), b),
        o_Z=full,
    )
    last = Signal(len(product), reset_less=True)
    with m.If(enable):
        m.d.sync += last.eq(full[2 * width - len(product) :])
    m.d.comb += product.eq(last)


def add_block(m: Module, block: Block, *, write_addr: Value, read_addr: Value) -> None:
    """Add a PDPSC16K with its output register."""
    # The lowest bits of the address are the byte enables; bits that select nothing are ones.
    below = Cat(block.enables) if block.bits >= 2 * _BYTE else Const(0, 0)
    m.submodules[block.name] = Instance(
        "PDPSC16K",
        p_DATA_WIDTH_W=f"X{block.bits}",
        p_DATA_WIDTH_R=f"X{block.bits}",
        p_OUTREG="USED",
        p_RESETMODE="SYNC",
        p_ASYNC_RST_RELEASE="SYNC",
        p_GSR="DISABLED",
        p_ECC="DISABLED",
        p_CSDECODE_W="111",
        p_CSDECODE_R="111",
        i_CLK=ClockSignal(),
        i_CEW=Cat(block.enables).any(),
        i_CER=Const(1),
        i_CSW=Const(_ALL_BLOCKS, 3),
        i_CSR=Const(_ALL_BLOCKS, 3),
        i_RST=Const(0),
        i_ADW=Cat(below, Const(1).replicate(block.step - len(below)), write_addr),
        i_ADR=Cat(Const(1).replicate(block.step), read_addr),
        i_DI=block.data,
        o_DO=block.output,
    )


def oscillator(m: Module, *, clock: Value) -> None:
    """Add the oscillator of 450 MHz, divided by two, as the source of ``clock``, on a LIFCL-40.

    The oscillator is in the upper right corner. Its clock enters the network at the left side,
    across the chip: without threads (as in WebAssembly) nextpnr's router 2 routes nets within a
    quarter of the chip without the wires of the others, and those into the clock network have the
    place of the upper left corner.
    """
    source = Signal()
    m.submodules.oscillator = Instance(
        "OSCA",
        p_HF_OSC_EN="ENABLED",
        p_HF_CLK_DIV="1",
        i_HFOUTEN=Const(1),
        o_HFCLKOUT=source,
    )
    m.submodules.clock = Instance(
        "DCC", a_BEL="X0/Y28/DCC_L0", i_CLKI=source, i_CE=Const(1), o_CLKO=clock
    )
