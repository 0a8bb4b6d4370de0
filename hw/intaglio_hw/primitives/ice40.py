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


def _mac16(m: Module, name: str, *, a: Value, b: Value, output: Signal, **options) -> None:
    """Add a SB_MAC16 that multiplies; ``options`` in place of what is not used."""
    parameters = {
        "A_REG": 1,
        "B_REG": 1,
        "C_REG": 0,
        "D_REG": 0,
        "TOP_8x8_MULT_REG": 0,
        "BOT_8x8_MULT_REG": 0,
        "PIPELINE_16x16_MULT_REG1": 0,
        "PIPELINE_16x16_MULT_REG2": 0,
        "TOPADDSUB_LOWERINPUT": 0,
        "TOPADDSUB_UPPERINPUT": 0,
        "TOPADDSUB_CARRYSELECT": 0,
        "BOTADDSUB_LOWERINPUT": 0,
        "BOTADDSUB_UPPERINPUT": 0,
        "BOTADDSUB_CARRYSELECT": 0,
        "NEG_TRIGGER": 0,
        "MODE_8x8": 0,
        "A_SIGNED": 1,
        "B_SIGNED": 1,
    }
    inputs = {
        **{f"{each}HOLD": Const(0) for each in "ABCD"},
        **{f"{each}{half}": Const(0) for each in ("IRST", "ORST") for half in ("TOP", "BOT")},
        **{f"{each}{half}": Const(0) for each in ("OLOAD", "OHOLD") for half in ("TOP", "BOT")},
        **{f"ADDSUB{half}": Const(0) for half in ("TOP", "BOT")},
        "CE": Const(1),
        "CI": Const(0),
        "ACCUMCI": Const(0),
        "SIGNEXTIN": Const(0),
    }
    for key, value in options.items():
        (parameters if key in parameters or key.endswith("_SELECT") else inputs)[key] = value
    m.submodules[name] = Instance(
        "SB_MAC16",
        **{f"p_{key}": value for key, value in parameters.items()},
        **{f"i_{key}": value for key, value in inputs.items()},
        i_CLK=ClockSignal(),
        i_A=a,
        i_B=b,
        i_C=Const(0, MAX_WIDTH),
        i_D=Const(0, MAX_WIDTH),
        o_O=output,
    )


def byte_products(m: Module, *, a: Value, b: Value, load: Value, products: Value) -> None:
    """Add SB_MAC16s that multiply two pairs of bytes each, with the registers of the factors and of
    the products; ``load`` moves that of ``b``.
    """
    registered_product = 2
    for index in range(len(a) // MAX_WIDTH):
        output = Signal(2 * MAX_WIDTH, name=f"products_{index}")
        _mac16(
            m,
            f"pair{index}",
            a=a.word_select(index, MAX_WIDTH),
            b=b.word_select(index, MAX_WIDTH),
            output=output,
            BHOLD=~load,
            MODE_8x8=1,
            TOP_8x8_MULT_REG=1,
            BOT_8x8_MULT_REG=1,
            TOPOUTPUT_SELECT=registered_product,
            BOTOUTPUT_SELECT=registered_product,
        )
        m.d.comb += products.word_select(index, 2 * MAX_WIDTH).eq(output)


def word_product(
    m: Module, *, a: Value, b: Value, a_signed: bool, b_signed: bool, enable: Value, product: Value
) -> None:
    """Add a SB_MAC16 with the registers of its factors and of the product, moved by ``enable``."""
    _mac16(
        m,
        "cell",
        a=a,
        b=b,
        output=product,
        CE=enable,
        A_SIGNED=int(a_signed),
        B_SIGNED=int(b_signed),
        PIPELINE_16x16_MULT_REG2=1,
        TOPOUTPUT_SELECT=_PRODUCT,
        BOTOUTPUT_SELECT=_PRODUCT,
    )


def single_port_ram(
    m: Module,
    *,
    address: Value,
    write_data: Value,
    write_mask: Value,
    write: Value,
    read_data: Value,
) -> None:
    """Add SB_SPRAM256KAs side by side; ``write_mask`` has a bit for each byte."""
    for index in range(len(write_data) // MAX_WIDTH):
        mask = write_mask[2 * index : 2 * index + 2]
        m.submodules[f"block{index}"] = Instance(
            "SB_SPRAM256KA",
            i_CLOCK=ClockSignal(),
            i_ADDRESS=address,
            i_DATAIN=write_data.word_select(index, MAX_WIDTH),
            i_MASKWREN=Cat(mask[0], mask[0], mask[1], mask[1]),
            i_WREN=write,
            i_CHIPSELECT=Const(1),
            i_STANDBY=Const(0),
            i_SLEEP=Const(0),
            i_POWEROFF=Const(1),
            o_DATAOUT=read_data.word_select(index, MAX_WIDTH),
        )


def late_mux(m: Module, *, select: Value, late: Value, early: Value, output: Value) -> None:
    """Add a SB_LUT4 for each bit, the last on the way: synthesis does not know what comes late."""
    for index in range(len(output)):
        bit = Signal(name=f"late_{index}")
        m.submodules[f"late{index}"] = Instance(
            "SB_LUT4",
            # I2 ? I1 : I0.
            p_LUT_INIT=Const(0b1100_1010_1100_1010, 16),
            i_I0=early[index],
            i_I1=late[index],
            i_I2=select,
            i_I3=Const(0),
            o_O=bit,
        )
        m.d.comb += output[index].eq(bit)
