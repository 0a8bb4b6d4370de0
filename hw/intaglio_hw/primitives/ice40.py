"""Blocks of the Lattice iCE40 UltraPlus: SB_MAC16.

Ports and parameters are those of Lattice's *iCE Technology Library*. The portable memory maps to
SB_RAM40_4K with its read register; the block has no second one. SB_SPRAM256KA has one port, where
the contract of a memory wants one to write and one to read in each cycle.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value

__all__ = ["MAX_WIDTH", "multiplier"]

#: Bits of a factor.
MAX_WIDTH = 16
#: Value of TOPOUTPUT_SELECT and BOTOUTPUT_SELECT: the product of 16 x 16 bits, registered.
_PRODUCT = 3


def multiplier(m: Module, *, a: Value, b: Value, enable: Value, product: Value) -> None:
    """Add a SB_MAC16 with its register of ``a`` and both in the middle, which ``enable`` moves.

    All registers of the block have the same clock enable: that of ``b`` is outside. ``a`` and ``b``
    stand at the upper end of the ports.
    """
    full = Signal(2 * MAX_WIDTH)
    m.submodules.cell = Instance(
        "SB_MAC16",
        p_A_REG=1,
        p_B_REG=0,
        p_C_REG=0,
        p_D_REG=0,
        p_TOP_8x8_MULT_REG=1,
        p_BOT_8x8_MULT_REG=1,
        p_PIPELINE_16x16_MULT_REG1=1,
        p_PIPELINE_16x16_MULT_REG2=1,
        p_TOPOUTPUT_SELECT=_PRODUCT,
        p_BOTOUTPUT_SELECT=_PRODUCT,
        p_TOPADDSUB_LOWERINPUT=0,
        p_TOPADDSUB_UPPERINPUT=0,
        p_TOPADDSUB_CARRYSELECT=0,
        p_BOTADDSUB_LOWERINPUT=0,
        p_BOTADDSUB_UPPERINPUT=0,
        p_BOTADDSUB_CARRYSELECT=0,
        p_NEG_TRIGGER=0,
        p_MODE_8x8=0,
        p_A_SIGNED=1,
        p_B_SIGNED=1,
        i_CLK=ClockSignal(),
        i_CE=enable,
        i_A=Cat(Const(0, MAX_WIDTH - len(a)), a),
        i_B=Cat(Const(0, MAX_WIDTH - len(b)), b),
        i_C=Const(0, 16),
        i_D=Const(0, 16),
        **{f"i_{name}HOLD": Const(0) for name in "ABCD"},
        **{f"i_{reg}{half}": Const(0) for reg in ("IRST", "ORST") for half in ("TOP", "BOT")},
        **{f"i_{reg}{half}": Const(0) for reg in ("OLOAD", "OHOLD") for half in ("TOP", "BOT")},
        **{f"i_ADDSUB{half}": Const(0) for half in ("TOP", "BOT")},
        i_CI=Const(0),
        i_ACCUMCI=Const(0),
        i_SIGNEXTIN=Const(0),
        o_O=full,
    )
    m.d.comb += product.eq(full[2 * MAX_WIDTH - len(product) :])
