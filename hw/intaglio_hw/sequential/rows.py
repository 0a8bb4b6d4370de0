"""Load and store: rows between the memory and the scratchpads."""

from collections.abc import Callable
from itertools import pairwise

from intaglio.spec import isa
from intaglio.spec.isa import Error
from intaglio_hw.sequential.assembler import Register
from intaglio_hw.sequential.context import Context
from intaglio_hw.sequential.interface import Condition, Port, Source
from intaglio_hw.sequential.layout import STAGE_BEATS

__all__ = ["Shared", "load", "store", "transfer"]

_R = 8
_PAGE = 4096
_WRITE = 1 << 15
#: Bytes of a row that vectors can reach: so many of the largest scratchpad.
_REACH = 4096 * _R


def transfer(x: Context) -> None:
    """Emit the subroutine ``transfer``: ``beats`` (at least 1) between the bus address ``bus`` and
    the vectors from ``place`` on, in the ``direction`` of DMAGO; all of them move on. BUS if one
    was answered with an error.
    """
    a, burst = x.a, x.t
    most = min(x.config.burst_beats, 256)
    a.label("transfer")
    # To the next boundary.
    a.mov(burst, 0)
    a.sub(burst, x.bus[0])
    a.and_(burst, _PAGE - 1)
    a.jump("transfer.whole", Condition.Z)
    for _ in range(_R.bit_length() - 1):
        a.shr(burst, burst)
    a.cmp(burst, most)
    a.jump("transfer.shorter", Condition.C, unless=True)
    a.label("transfer.whole")
    a.mov(burst, most)
    a.label("transfer.shorter")
    a.cmp(burst, x.beats)
    a.jump("transfer.go", Condition.C, unless=True)
    a.mov(burst, x.beats)
    a.label("transfer.go")
    a.out(Port.DMAL, x.bus[0])
    a.out(Port.DMAH, x.bus[1])
    a.out(Port.DMAV, x.place)
    a.mov(x.u, burst)
    a.sub(x.u, 1)
    a.or_(x.u, x.direction)
    a.out(Port.DMAGO, x.u)
    a.add(x.place, burst)
    a.sub(x.beats, burst)
    x.times(burst, _R)
    a.add(x.bus[0], burst)
    a.adc(x.bus[1], 0)
    a.label("transfer.wait")
    a.jump("transfer.wait", Condition.DMA_BUSY)
    x.fail(Error.BUS, Condition.DMA_ERR)
    a.cmp(x.beats, 0)
    a.jump("transfer", Condition.Z, unless=True)
    a.ret(x.transfer)


class _Rows:
    """Walks over planes and rows, for one of the two instructions."""

    def __init__(self, x: Context, instruction: isa.Instruction, shared: "Shared") -> None:
        self.x, self.shared = x, shared
        fields = x.fields[instruction.name]
        self.address, self.plane_step, self.row_step = (
            fields[name] for name in ("address", "plane_step", "row_step")
        )
        (self.planes,), (self.rows,) = fields["planes"], fields["rows"]
        self.name = instruction.name

    def each(self, size: tuple[Register, ...], body: Callable[[], None]) -> None:
        """Emit the loops; ``body`` handles one row at ``row``, which lies inside of the memory with
        its ``size`` bytes.
        """
        x, a, name = self.x, self.x.a, self.name
        row, plane, left = self.shared.row, self.shared.plane, self.shared.left
        x.move(plane, self.address)
        a.label(f"{name}.plane")
        x.move(row, plane)
        a.mov(left, self.rows)
        a.label(f"{name}.row")
        end = (x.t, x.u)
        x.move(end, row)
        x.add_wide(end, size)
        x.fail(Error.MEMORY, Condition.C)
        x.compare_wide(end, a.mapped("memory_bytes"))
        x.fail(Error.MEMORY, Condition.HI)
        body()
        # A row beyond 32 bits is beyond the memory.
        a.sub(left, 1)
        a.jump(f"{name}.next_plane", Condition.Z)
        x.add_wide(row, self.row_step)
        a.jump(f"{name}.row", Condition.C, unless=True)
        x.fail(Error.MEMORY)
        a.label(f"{name}.next_plane")
        a.sub(self.planes, 1)
        a.jump(f"{name}.end", Condition.Z)
        x.add_wide(plane, self.plane_step)
        a.jump(f"{name}.plane", Condition.C, unless=True)
        x.fail(Error.MEMORY)
        a.label(f"{name}.end")

    def address_of_row(self) -> None:
        """Emit: ``bus`` is the address of the beat that holds the first byte of the row."""
        x, a = self.x, self.x.a
        x.move(x.bus, self.shared.row)
        a.and_(x.bus[0], 0x10000 - _R)
        x.add_wide(x.bus, a.mapped("memory_base"))


class Shared:
    """Registers of both instructions: the ``row`` and the ``plane`` at hand, the rows ``left`` in
    it; vectors that still fit (``room``); the next ``target``.
    """

    def __init__(self, x: Context) -> None:
        a = x.a
        self.row, self.plane = a.wide("row"), a.wide("plane")
        self.left, self.room, self.target = a.registers("rows left", "room", "target")


def store(x: Context, shared: Shared, link: Register) -> None:
    """Emit the subroutine ``store``."""
    a, item = x.a, isa.STORE
    fields = x.fields[item.name]
    (base,), (vectors,) = fields["base"], fields["vectors"]
    size = a.wide("store size")
    a.label("store")
    a.mov(x.t, fields["address"][0])
    a.or_(x.t, fields["plane_step"][0])
    a.or_(x.t, fields["row_step"][0])
    a.and_(x.t, _R - 1)
    x.fail(Error.MEMORY, Condition.Z, unless=True)
    a.mul(vectors, _R)
    x.move(size, (Source.PL, Source.PHU))
    a.mov(shared.room, x.config.ofm_depth)
    a.sub(shared.room, base)
    a.jump("store.begins", Condition.C)
    a.mov(shared.room, 0)
    a.label("store.begins")
    a.mov(shared.target, base)
    a.add(shared.target, x.layout.regions["ofm"])
    rows = _Rows(x, item, shared)

    def body() -> None:
        a.sub(shared.room, vectors)
        x.fail(Error.BUFFER, Condition.C, unless=True)
        rows.address_of_row()
        a.mov(x.place, shared.target)
        a.add(shared.target, vectors)
        a.mov(x.beats, vectors)
        a.mov(x.direction, _WRITE)
        x.add_wide(a.mapped("write_beats"), (vectors, 0))
        a.call(x.transfer, "transfer")

    rows.each(size, body)
    a.ret(link)


def load(x: Context, shared: Shared, link: Register) -> None:
    """Emit the subroutine ``load``.

    A row of which beats are vectors goes straight into the scratchpad. Others pass the stage, a few
    beats at a time, of which the last one stays for the vector that lies across.
    """
    a, item = x.a, isa.LOAD
    fields = x.fields[item.name]
    (buffer,), (pad,), (base,), (vectors,), (step,), (lead,) = (
        fields[name] for name in ("buffer", "pad_code", "base", "vectors", "vector_step", "lead")
    )
    row_bytes = fields["row_bytes"]
    # Per instruction: the pad code twice; bytes of a row, as far as they can matter.
    pads, limit = a.registers("pads", "limit")
    # Per row: vectors; bytes used of them; where the row begins in its first beat; beats.
    count, used, skew, beats = a.registers("count", "used", "skew", "beats of row")
    fill = a.register("fill link")

    a.label("load")
    a.cmp(step, _R)
    x.fail(Error.FIELD, Condition.HI)
    a.cmp(lead, 7 * _R)
    x.fail(Error.FIELD, Condition.HI)
    for number in isa.Buffer:
        name = number.name.lower()
        a.mov(shared.target, x.layout.regions[name])
        a.mov(shared.room, getattr(x.config, f"{name}_depth"))
        if number != max(isa.Buffer):
            a.cmp(buffer, int(number))
            a.jump("load.buffer", Condition.Z)
    a.label("load.buffer")
    a.add(shared.target, base)
    a.sub(shared.room, base)
    a.jump("load.begins", Condition.C)
    a.mov(shared.room, 0)
    a.label("load.begins")
    a.and_(pad, 0xFF)
    a.swp(pads, pad)
    a.or_(pads, pad)
    a.mov(limit, row_bytes[0])
    x.compare_wide(row_bytes, (_REACH & 0xFFFF, _REACH >> 16))
    a.jump("load.limited", Condition.C, unless=True)
    a.mov(limit, _REACH)
    a.label("load.limited")
    rows = _Rows(x, item, shared)

    def body() -> None:
        a.mov(count, vectors)
        a.cmp(shared.room, count)
        a.jump("load.fits", Condition.C)
        a.mov(count, shared.room)
        a.cmp(count, 0)
        x.fail(Error.BUFFER, Condition.Z)
        a.label("load.fits")
        # used = limit(count * step + R - step - lead, 0, limit)
        a.mul(count, step)
        a.mov(used, Source.PL)
        a.add(used, _R)
        a.sub(used, step)
        a.sub(used, lead)
        a.jump("load.reaches", Condition.HI)
        a.mov(used, 0)
        a.label("load.reaches")
        a.cmp(used, limit)
        a.jump("load.used", Condition.C, unless=True)
        a.mov(used, limit)
        a.label("load.used")
        a.mov(skew, shared.row[0])
        a.and_(skew, _R - 1)
        a.mov(beats, 0)
        a.cmp(used, 0)
        a.jump("load.asked", Condition.Z)
        a.mov(beats, used)
        a.add(beats, skew)
        a.add(beats, _R - 1)
        for _ in range(_R.bit_length() - 1):
            a.shr(beats, beats)
        a.label("load.asked")
        x.add_wide(a.mapped("read_beats"), (beats, 0))
        rows.address_of_row()
        a.mov(x.direction, 0)
        a.cmp(step, _R)
        a.jump("load.slow", Condition.Z, unless=True)
        a.mov(x.t, lead)
        a.and_(x.t, _R - 1)
        a.or_(x.t, skew)
        a.jump("load.slow", Condition.Z, unless=True)
        _aligned(x, shared, lead=lead, count=count, used=used, beats=beats, pads=pads, fill=fill)
        a.label("load.row_done")
        # The vectors that did not fit.
        a.cmp(shared.room, 0)
        a.jump("load.room", Condition.Z, unless=True)
        a.cmp(count, vectors)
        x.fail(Error.BUFFER, Condition.Z, unless=True)
        a.label("load.room")

    rows.each(row_bytes, body)
    a.ret(link)
    _slow(
        x, shared, step=step, lead=lead, pad=pad, count=count, skew=skew, beats=beats, limit=limit
    )
    _fill(x, pads=pads, link=fill)


def _fill(x: Context, *, pads: Register, link: Register) -> None:
    """Emit the subroutine ``fill``: write ``t`` vectors of padding from the pointer on."""
    a = x.a
    a.label("fill.more")
    for _ in range(4):
        a.out(Port.SPWI, pads)
    a.sub(x.t, 1)
    a.label("fill")
    a.cmp(x.t, 0)
    a.jump("fill.more", Condition.Z, unless=True)
    a.ret(link)


def _aligned(
    x: Context,
    shared: Shared,
    *,
    lead: Register,
    count: Register,
    used: Register,
    beats: Register,
    pads: Register,
    fill: Register,
) -> None:
    """Emit a row of which beats are vectors: padding, beats, padding."""
    a = x.a
    before = x.t
    a.mov(before, lead)
    for _ in range(_R.bit_length() - 1):
        a.shr(before, before)
    a.cmp(count, before)
    a.jump("aligned.lead", Condition.C)
    a.mov(before, count)
    a.label("aligned.lead")
    a.mov(x.place, shared.target)
    a.add(x.place, before)
    _point(x, shared.target)
    # After this row, and how many vectors of padding end it.
    a.add(shared.target, count)
    a.sub(shared.room, count)
    a.call(fill, "fill")
    a.cmp(beats, 0)
    a.jump("aligned.tail", Condition.Z)
    a.mov(x.beats, beats)
    a.call(x.transfer, "transfer")
    # Bytes of the last beat that are behind the row.
    a.mov(x.u, used)
    a.and_(x.u, _R - 1)
    a.jump("aligned.tail", Condition.Z)
    _point(x, x.place)
    a.mov(x.t, x.u)
    a.shr(x.t, x.t)
    a.sub(x.t, 4)
    a.add(x.t, x.pointer)
    a.out(Port.SPA, x.t)
    a.mov(x.t, x.u)
    a.and_(x.t, 1)
    a.jump("aligned.words", Condition.Z)
    a.out(Port.BSEL, 1)
    a.out(Port.SPBYTE, pads)
    a.mov(x.t, Source.SPWI)  # moves on
    a.add(x.u, 1)
    a.label("aligned.words")
    a.cmp(x.u, _R)
    a.jump("aligned.tail", Condition.C)
    a.out(Port.SPWI, pads)
    a.add(x.u, 2)
    a.jump("aligned.words")
    a.label("aligned.tail")
    _point(x, x.place)
    a.mov(x.t, shared.target)
    a.sub(x.t, x.place)
    a.call(fill, "fill")


def _point(x: Context, vector: Register) -> None:
    """Emit: the pointer is at ``vector``; so is ``pointer``."""
    a = x.a
    a.mov(x.pointer, vector)
    x.times(x.pointer, 4)
    a.out(Port.SPA, x.pointer)


def _slow(
    x: Context,
    shared: Shared,
    *,
    step: Register,
    lead: Register,
    pad: Register,
    count: Register,
    skew: Register,
    beats: Register,
    limit: Register,
) -> None:
    """Emit a row through the stage.

    ``at``: the byte of the row at which the vector begins, signed. A *position* counts bytes from
    the row's first beat. ``loaded``: positions below are in the stage, or have been. ``origin``:
    where the word of position 0 would be. ``inner``: below it a vector is all inside of the row.
    """
    a = x.a
    at, loaded, origin, inner, left, last = a.registers(
        "byte", "loaded", "origin", "inner", "vectors left", "last beat"
    )
    position, to, refill = a.registers("position", "to", "refill link")
    w = tuple(a.register(f"word{number}") for number in range(5))
    stage = x.layout.stage
    a.label("load.slow")
    a.mov(at, 0)
    a.sub(at, lead)
    a.mov(loaded, 0)
    a.mov(last, 4 * stage)
    a.mov(inner, limit)
    a.sub(inner, _R - 1)
    a.jump("slow.inner", Condition.C)
    a.mov(inner, 0)
    a.label("slow.inner")
    a.mov(left, count)
    a.mov(to, shared.target)
    x.times(to, 4)
    a.add(shared.target, count)
    a.sub(shared.room, count)

    a.label("slow.vector")
    a.cmp(at, inner)
    a.jump("slow.bytes", Condition.C)
    a.mov(position, at)
    a.add(position, skew)
    a.mov(x.t, position)
    a.add(x.t, _R)
    a.cmp(loaded, x.t)
    a.jump("slow.whole", Condition.C)
    a.call(refill, "refill")
    a.label("slow.whole")
    a.mov(x.t, position)
    a.shr(x.t, x.t)
    a.jump("slow.odd", Condition.C)
    a.add(x.t, origin)
    a.out(Port.SPA, x.t)
    for word in w[:4]:
        a.mov(word, Source.SPWI)
    a.label("slow.write")
    a.out(Port.SPA, to)
    for word in w[:4]:
        a.out(Port.SPWI, word)
    a.label("slow.next")
    a.add(to, 4)
    a.add(at, step)
    a.sub(left, 1)
    a.jump("slow.vector", Condition.Z, unless=True)
    a.jump("load.row_done")

    a.label("slow.odd")
    a.add(x.t, origin)
    a.out(Port.SPA, x.t)
    for word in w:
        a.swp(word, Source.SPWI)
    for word, following in pairwise(w):
        a.and_(word, 0xFF)
        a.mov(x.t, following)
        a.and_(x.t, 0xFF00)
        a.or_(word, x.t)
    a.jump("slow.write")

    # Byte by byte, some of them padding. at + byte, byte, what it is.
    byte, number, value = w[0], w[1], w[2]
    a.label("slow.bytes")
    a.mov(byte, at)
    a.mov(number, 0)
    a.label("slow.byte")
    a.mov(value, pad)
    a.cmp(byte, limit)
    a.jump("slow.put", Condition.C)
    a.mov(position, byte)
    a.add(position, skew)
    a.cmp(position, loaded)
    a.jump("slow.get", Condition.C, unless=True)
    a.call(refill, "refill")
    a.label("slow.get")
    a.out(Port.BSEL, position)
    a.mov(x.t, position)
    a.shr(x.t, x.t)
    a.add(x.t, origin)
    a.out(Port.SPA, x.t)
    a.mov(value, Source.SBX)
    a.label("slow.put")
    a.out(Port.BSEL, number)
    a.mov(x.t, number)
    a.shr(x.t, x.t)
    a.add(x.t, to)
    a.out(Port.SPA, x.t)
    a.out(Port.SPBYTE, value)
    a.add(byte, 1)
    a.add(number, 1)
    a.cmp(number, _R)
    a.jump("slow.byte", Condition.Z, unless=True)
    a.jump("slow.next")

    # The next beats; the last of those before them moves in front.
    a.label("refill")
    keep = (x.t, x.u, x.beats, x.place)
    a.out(Port.SPA, last)
    for word in keep:
        a.mov(word, Source.SPWI)
    a.out(Port.SPA, 4 * stage)
    for word in keep:
        a.out(Port.SPWI, word)
    a.mov(x.beats, STAGE_BEATS)
    a.cmp(x.beats, beats)
    a.jump("refill.beats", Condition.C, unless=True)
    a.mov(x.beats, beats)
    a.label("refill.beats")
    a.sub(beats, x.beats)
    a.mov(last, x.beats)
    x.times(last, 4)
    a.mov(x.t, loaded)
    a.shr(x.t, x.t)
    a.mov(origin, 4 * (stage + 1))
    a.sub(origin, x.t)
    a.add(loaded, last)
    a.add(loaded, last)
    a.add(last, 4 * stage)
    a.mov(x.place, stage + 1)
    a.call(x.transfer, "transfer")
    a.ret(refill)
