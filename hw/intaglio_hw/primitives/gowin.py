"""Blocks of Gowin's GW2A: MULT9X9, MULT18X18 and SDPX9B.

Ports and parameters are those of Gowin's *DSP* and *BSRAM & SSRAM User Guides* (UG287, UG285).
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

from intaglio_hw.primitives.blocks import Block

__all__ = ["add_block", "multiplier"]

_BYTE = 9


def multiplier(m: Module, *, a: Value, b: Value, enable: Value, product: Value) -> None:
    """Add the smaller multiplier that holds the factors, with its registers of ``a``, in the middle
    and at the output, which ``enable`` moves.

    All registers of the block have the same clock enable: that of ``b`` is outside.
    """
    width = 9 if max(len(a), len(b)) <= 9 else 18
    full = Signal(2 * width)
    m.submodules.cell = Instance(
        f"MULT{width}X{width}",
        p_AREG=Const(1, 1),
        p_BREG=Const(0, 1),
        p_OUT_REG=Const(1, 1),
        p_PIPE_REG=Const(1, 1),
        p_ASIGN_REG=Const(0, 1),
        p_BSIGN_REG=Const(0, 1),
        p_SOA_REG=Const(0, 1),
        p_MULT_RESET_MODE="SYNC",
        i_CLK=ClockSignal(),
        i_CE=enable,
        i_RESET=Const(0),
        i_A=Cat(Const(0, width - len(a)), a),
        i_B=Cat(Const(0, width - len(b)), b),
        i_SIA=Const(0, width),
        i_SIB=Const(0, width),
        i_ASIGN=Const(1),
        i_BSIGN=Const(1),
        i_ASEL=Const(0),
        i_BSEL=Const(0),
        o_DOUT=full,
    )
    m.d.comb += product.eq(full[2 * width - len(product) :])


def add_block(m: Module, block: Block, *, write_addr: Value, read_addr: Value) -> None:
    """Add an SDPX9B with its output register (READ_MODE 1)."""
    wide = block.bits >= 2 * _BYTE
    # The lowest bits of the address are the byte enables.
    below = Cat(block.enables) if wide else Const(0, 0)
    m.submodules[block.name] = Instance(
        "SDPX9B" if block.bits >= _BYTE else "SDPB",
        p_READ_MODE=Const(1, 1),
        p_BIT_WIDTH_0=block.bits,
        p_BIT_WIDTH_1=block.bits,
        p_BLK_SEL_0=Const(0, 3),
        p_BLK_SEL_1=Const(0, 3),
        p_RESET_MODE="SYNC",
        i_CLKA=ClockSignal(),
        i_CLKB=ClockSignal(),
        i_CEA=Cat(block.enables).any(),
        i_CEB=Const(1),
        i_OCE=Const(1),
        i_RESETA=Const(0),
        i_RESETB=Const(0),
        i_BLKSELA=Const(0, 3),
        i_BLKSELB=Const(0, 3),
        i_ADA=Cat(below, Const(0, block.step - len(below)), write_addr),
        i_ADB=Cat(Const(0, block.step), read_addr),
        i_DI=block.data if block.bits >= _BYTE else block.data[:32],
        o_DO=block.output if block.bits >= _BYTE else block.output[:32],
    )
