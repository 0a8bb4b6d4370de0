"""Array instructions: a pass of the array for each channel block and kernel position."""

from intaglio.spec import isa
from intaglio.spec.isa import Error
from intaglio_hw.sequential.assembler import Register
from intaglio_hw.sequential.context import Context
from intaglio_hw.sequential.interface import Condition, Port, Source

__all__ = ["array"]

#: A row or column that is beyond every tile.
_BEYOND = 4096


def _step(x: Context, position: Register, step: Register) -> None:
    """Move a tile row or column on; those beyond every tile stay at _BEYOND."""
    a = x.a
    done = a.fresh("inside")
    a.add(position, step)
    a.cmp(position, _BEYOND)
    a.jump(done, Condition.LT)
    a.mov(position, _BEYOND)
    a.label(done)


def array(x: Context, link: Register) -> None:
    """Emit the subroutine ``array``."""
    a, item = x.a, isa.ARRAY

    def field(name: str) -> Register:
        return x.field(item, name)

    pixels, h, w, rows, cols, first, began = a.registers(
        "pixels", "tile row", "tile column", "kernel rows left", "kernel columns left", "first",
        "began",
    )  # fmt: skip
    # A0 of a channel block, of a kernel row and of a kernel position; offset_w, of two words.
    plane, row, place = a.wide("plane place"), a.wide("row place"), a.wide("kernel place")
    across = a.register("offset sign")
    a.label("array")
    a.mul(field("out_rows"), field("out_cols"))
    x.move((pixels, x.t), (Source.PL, Source.PHU))
    a.cmp(x.t, 0)
    x.fail(Error.BUFFER, Condition.Z, unless=True)
    a.cmp(pixels, x.config.acc_depth)
    x.fail(Error.BUFFER, Condition.HI)
    # Weights: 255 * 255 * 65535 of them are a number of 32 bits.
    a.mul(field("kernel_h"), field("kernel_w"))
    a.mov(x.t, Source.PL)
    a.mul(x.t, field("blocks"))
    x.move((x.t, x.u), (Source.PL, Source.PHU))
    x.add_wide((x.t, x.u), (field("wgt_base"), 0))
    x.fail(Error.BUFFER, Condition.C)
    x.compare_wide((x.t, x.u), (x.config.wgt_depth, 0))
    x.fail(Error.BUFFER, Condition.HI)
    # As many passes as weights.
    a.sub(x.t, field("wgt_base"))
    x.add_product(a.mapped("array_busy"), x.t, pixels)

    a.mov(x.t, field("wgt_base"))
    a.add(x.t, x.layout.regions["wgt"])
    a.out(Port.AWGT, x.t)
    for port, name in (
        (Port.AROWS, "ifm_rows"),
        (Port.ACOLS, "ifm_cols"),
        (Port.ASH, "stride_h"),
        (Port.ASW, "stride_w"),
        (Port.APAD, "pad_code"),
    ):
        a.out(port, field(name))
    a.mul(field("stride_h"), field("ifm_cols"))
    a.out(Port.ARSL, Source.PL)
    a.out(Port.ARSH, Source.PHU)
    for port, name in ((Port.AP, "out_rows"), (Port.AQ, "out_cols")):
        a.mov(x.t, field(name))
        a.sub(x.t, 1)
        a.out(port, x.t)
    a.mov(x.t, 0)
    a.cmp(field("acc_bank"), 0)
    a.jump("array.bank", Condition.Z)
    a.mov(x.t, x.config.acc_depth)
    a.label("array.bank")
    a.out(Port.AACC, x.t)
    a.mov(first, field("accumulate"))
    a.xor(first, 1)
    a.mov(began, 0)
    x.move(plane, (field("ifm_base"), 0))
    x.sign(across, field("offset_w"))

    a.label("array.block")
    a.mov(h, field("offset_h"))
    a.mov(rows, field("kernel_h"))
    a.label("array.row")
    a.mul(h, field("ifm_cols"))
    x.move(row, plane)
    x.add_wide(row, (Source.PL, Source.PHS))
    a.mov(w, field("offset_w"))
    a.mov(cols, field("kernel_w"))
    x.move(place, row)
    x.add_wide(place, (w, across))
    a.label("array.position")
    a.out(Port.AA0L, place[0])
    a.out(Port.AA0H, place[1])
    a.out(Port.AH0, h)
    a.out(Port.AW0, w)
    a.label("array.wait")
    a.jump("array.wait", Condition.ARR_BUSY)
    # Before the first pass the flag is that of another instruction.
    a.cmp(began, 0)
    a.jump("array.go", Condition.Z)
    x.fail(Error.BUFFER, Condition.ARR_ERR)
    a.label("array.go")
    a.out(Port.AGO, first)
    a.mov(first, 0)
    a.mov(began, 1)
    x.add_wide(place, (field("dilation_w"), 0))
    _step(x, w, field("dilation_w"))
    a.sub(cols, 1)
    a.jump("array.position", Condition.Z, unless=True)
    _step(x, h, field("dilation_h"))
    a.sub(rows, 1)
    a.jump("array.row", Condition.Z, unless=True)
    # Planes beyond IFM are at its end, whatever its size.
    x.add_wide(plane, (field("ifm_plane"), 0))
    a.cmp(plane[1], 0)
    a.jump("array.plane", Condition.Z)
    x.move(plane, (0, 1))
    a.label("array.plane")
    a.sub(field("blocks"), 1)
    a.jump("array.block", Condition.Z, unless=True)
    a.label("array.last")
    a.jump("array.last", Condition.ARR_BUSY)
    x.fail(Error.BUFFER, Condition.ARR_ERR)
    a.ret(link)
