"""Memory side of the units: rows of a transfer, their bursts, the arbiter between two readers.

A transfer is ``planes`` x ``rows`` rows. :class:`RowWalker` lists the rows, :class:`RowBursts`
checks each against the memory and cuts it into bursts, :class:`AxiReadArbiter` merges the bursts of
two readers and returns each its beats.
"""

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error
from intaglio.spec.memory import OUTSTANDING
from intaglio_hw.interfaces import ADDRESS_BITS, ERROR_BITS, AxiReadSignature
from intaglio_hw.streams import Queue, SkidBuffer

__all__ = [
    "BOUNDARY_BYTES",
    "OFFSET_BITS",
    "ROW_BITS",
    "AxiReadArbiter",
    "RowBursts",
    "RowWalker",
    "row_info_layout",
    "row_layout",
]

#: A burst never crosses a multiple of this many bytes.
BOUNDARY_BYTES = 4096
#: Width of a byte offset into the memory: a row that starts inside of it plus one 32-bit step,
#: without wrapping.
OFFSET_BITS = 33
#: Width of the bytes of a row: 0 to 2**20 (load), 0 to 65535 * 32 (store).
ROW_BITS = 21


def row_layout() -> data.StructLayout:
    """Return the layout of a row that :class:`RowBursts` takes.

    ``offset``: byte offset of its first byte. ``bytes``: bytes that must lie in the memory.
    ``used``: how many of them, from the first, are transferred. ``error``: not 0 refuses the row
    with this code. ``last``: passed through.
    """
    return data.StructLayout(
        {
            "offset": OFFSET_BITS,
            "bytes": ROW_BITS,
            "used": ROW_BITS,
            "error": ERROR_BITS,
            "last": 1,
        }
    )


def row_info_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of what :class:`RowBursts` says about a row.

    ``head``: bytes of the first beat before the row. ``tail``: used bytes end at this byte of the
    last beat (0: at its end). ``beats``: beats transferred. ``error``: not 0: none, and no further
    row follows. ``last``: as given.
    """
    lane_bits = (config.bus_bytes - 1).bit_length()
    return data.StructLayout(
        {
            "head": lane_bits,
            "tail": lane_bits,
            "beats": ROW_BITS + 1 - lane_bits,
            "error": ERROR_BITS,
            "last": 1,
        }
    )


class RowWalker(wiring.Component):
    """List the byte offsets of the rows of a transfer, planes outside, rows inside.

    1. ``start`` takes ``address``, ``plane_step``, ``row_step`` (bytes), ``planes`` and ``rows``
       (at least 1); it is given only while ``busy`` is low. The fields may change in the next
       cycle.
    2. From then on ``o`` offers one row after the other, one per cycle; ``last`` marks the final
       one. ``busy`` is high until that has been taken.
    3. ``halt`` drops what is left; from the next cycle on ``o`` is withdrawn.
    4. Offsets are exact as long as no row before lies at or above 2**32; the taker stops at such a
       row.
    """

    #: Cycles from ``start`` to the first row.
    LATENCY = 1

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "halt": In(1),
                "address": In(32),
                "plane_step": In(32),
                "row_step": In(32),
                "planes": In(16),
                "rows": In(16),
                "busy": Out(1),
                "o": Out(stream.Signature(data.StructLayout({"offset": OFFSET_BITS, "last": 1}))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row = Signal(OFFSET_BITS, reset_less=True)
        plane = Signal(OFFSET_BITS, reset_less=True)
        plane_step = Signal(32, reset_less=True)
        row_step = Signal(32, reset_less=True)
        rows = Signal(16, reset_less=True)
        rows_left = Signal(16, reset_less=True)
        planes_left = Signal(16, reset_less=True)
        single_row = Signal(reset_less=True)
        last_row = Signal(reset_less=True)
        last_plane = Signal(reset_less=True)

        m.d.comb += [
            self.o.valid.eq(self.busy),
            self.o.payload.offset.eq(row),
            self.o.payload.last.eq(last_row & last_plane),
        ]
        with m.If(self.o.valid & self.o.ready):
            with m.If(last_row):
                next_plane = (plane + plane_step)[:OFFSET_BITS]
                m.d.sync += [
                    row.eq(next_plane),
                    plane.eq(next_plane),
                    rows_left.eq(rows),
                    last_row.eq(single_row),
                    planes_left.eq(planes_left - 1),
                    last_plane.eq(planes_left == 2),
                ]
                with m.If(last_plane):
                    m.d.sync += self.busy.eq(0)
            with m.Else():
                m.d.sync += [
                    row.eq(row + row_step),
                    rows_left.eq(rows_left - 1),
                    last_row.eq(rows_left == 2),
                ]
        with m.If(self.start):
            m.d.sync += self.busy.eq(1)
        # Whatever they are: ``start`` comes late in a cycle.
        with m.If(~self.busy):
            m.d.sync += [
                row.eq(self.address),
                plane.eq(self.address),
                plane_step.eq(self.plane_step),
                row_step.eq(self.row_step),
                rows.eq(self.rows),
                rows_left.eq(self.rows),
                planes_left.eq(self.planes),
                single_row.eq(self.rows == 1),
                last_row.eq(self.rows == 1),
                last_plane.eq(self.planes == 1),
            ]
        with m.If(self.halt):
            m.d.sync += self.busy.eq(0)
        return m


class RowBursts(wiring.Component):
    """Check rows against the memory and cut them into bursts of whole beats.

    1. ``row`` takes rows (:func:`row_layout`), ``info`` says for each, in order, what becomes of it
       (:func:`row_info_layout`); ``burst`` carries the bursts of all rows, in order, those of a row
       after its ``info``.
    2. A row lies in the memory when ``offset + bytes <= memory_bytes``, computed without wrapping.
       Otherwise its ``error`` is MEMORY; inside, its ``error`` is the one given. A row with an
       error has no burst, and no row is taken after it until ``halt``.
    3. The first beat is the one that holds the first byte. No burst is longer than ``burst_beats``
       or crosses BOUNDARY_BYTES. The bus address is ``memory_base`` (a multiple of BOUNDARY_BYTES)
       plus the offset.
    4. ``halt`` drops all rows, one that it takes too, and may withdraw ``info``; a burst that is
       offered stays. ``idle``: nothing inside.

    At most one burst in three cycles and one row in three; a burst is offered GAP cycles after the
    one before was taken at the earliest. ``memory_base``, ``memory_bytes`` (a multiple of the beat)
    are constant from the cycle before the first row on while not idle.

    Parameters
    ----------
    config
        Bus width and ``burst_beats``.
    """

    #: Cycles from a row to its burst, when nothing waits.
    LATENCY = 5
    #: Cycles from the transfer of a burst to the offer of the next one.
    GAP = 2

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "memory_base": In(32),
                "memory_bytes": In(32),
                "halt": In(1),
                "idle": Out(1),
                "row": In(stream.Signature(row_layout())),
                "info": Out(stream.Signature(row_info_layout(config))),
                "burst": Out(stream.Signature(data.StructLayout({"addr": ADDRESS_BITS, "len": 8}))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat_bytes = self.config.bus_bytes
        burst_beats = self.config.burst_beats
        lane_bits = (beat_bytes - 1).bit_length()
        page_bits = (BOUNDARY_BYTES // beat_bytes - 1).bit_length()  # of a beat in its page
        beat_bits = 32 - lane_bits  # of a beat in the memory

        # Stage 1: sums. Stage 2: comparison, beats. Stage 3: hand over.
        end = Signal(OFFSET_BITS + 1, reset_less=True)
        span = Signal(ROW_BITS + 1, reset_less=True)
        empty = Signal(reset_less=True)
        row = Signal(row_layout(), reset_less=True)
        first = row.offset[lane_bits:32]
        bad = Signal(reset_less=True)
        beats = Signal(ROW_BITS + 1 - lane_bits, reset_less=True)
        room = Signal(
            range(burst_beats + 1), reset_less=True
        )  # longest burst that may start at the row
        info = self.info.payload
        error = Signal(ERROR_BITS)

        # The splitter: the burst at beat ``at`` has the smaller of ``limit`` and ``left`` beats.
        at = Signal(beat_bits, reset_less=True)
        left = Signal.like(beats)
        limit = Signal.like(room)
        count = Signal.like(room)
        is_final = Signal(reset_less=True)
        page = Signal(20, reset_less=True)  # bus address above the page offset
        free = Signal()
        emit = Signal()

        def room_at(beat: Signal) -> Mux:
            to_boundary = Signal(range((1 << page_bits) + 1))
            m.d.comb += to_boundary.eq((1 << page_bits) - beat[:page_bits])
            return Mux(to_boundary < burst_beats, to_boundary, burst_beats)

        m.d.comb += [
            error.eq(Mux(bad, Error.MEMORY, row.error)),
            info.head.eq(row.offset[:lane_bits]),
            info.tail.eq(span[:lane_bits]),
            info.beats.eq(beats),
            info.error.eq(error),
            info.last.eq(row.last),
        ]
        # The sign of a difference is one carry chain; a comparison would become a tree of tables.
        room_behind = Signal(OFFSET_BITS + 2)
        memory_bytes = Signal(32, reset_less=True)
        memory_page = Signal(20, reset_less=True)
        m.d.sync += [memory_bytes.eq(self.memory_bytes), memory_page.eq(self.memory_base[12:])]
        m.d.comb += room_behind.eq((memory_bytes - end)[: OFFSET_BITS + 2])

        takes = Signal(init=1)  # TAKE, from a register of its own
        m.d.comb += self.row.ready.eq(takes)
        with m.FSM(name="check"):
            with m.State("TAKE"):
                m.d.sync += [
                    row.eq(self.row.payload),
                    end.eq(self.row.payload.offset + self.row.payload.bytes),
                    span.eq(self.row.payload.offset[:lane_bits] + self.row.payload.used),
                    empty.eq(self.row.payload.used == 0),
                ]
                with m.If(self.row.valid & ~self.halt):
                    m.d.sync += takes.eq(0)
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += [
                    bad.eq(room_behind[-1]),
                    beats.eq(Mux(empty, 0, (span + (beat_bytes - 1))[lane_bits : ROW_BITS + 1])),
                    room.eq(room_at(first)),
                ]
                m.next = "HAND"
                with m.If(self.halt):
                    m.d.sync += takes.eq(1)
                    m.next = "TAKE"
            with m.State("HAND"):
                m.d.comb += self.info.valid.eq(free & ~self.halt)
                with m.If(self.info.valid & self.info.ready):
                    m.d.sync += takes.eq(1)
                    m.next = "TAKE"
                    with m.If(error != Error.NONE):
                        m.d.sync += takes.eq(0)
                        m.next = "FAILED"
                with m.If(self.halt):
                    m.d.sync += takes.eq(1)
                    m.next = "TAKE"
            with m.State("FAILED"):
                with m.If(self.halt):
                    m.d.sync += takes.eq(1)
                    m.next = "TAKE"

        with m.FSM(name="split"):
            with m.State("FREE"):
                m.d.comb += free.eq(1)
                m.d.sync += [at.eq(first), left.eq(beats), limit.eq(room)]
                with m.If(self.info.valid & self.info.ready & (error == Error.NONE) & (beats != 0)):
                    m.next = "SIZE"
            with m.State("ROOM"):
                m.d.sync += limit.eq(room_at(at))
                m.next = "SIZE"
                with m.If(self.halt):
                    m.next = "FREE"
            with m.State("SIZE"):
                m.d.sync += [
                    count.eq(Mux(left <= limit, left, limit)[: len(count)]),
                    is_final.eq(left <= limit),
                    page.eq((memory_page + at[page_bits:])[:20]),
                ]
                m.next = "EMIT"
                with m.If(self.halt):
                    m.next = "FREE"
            with m.State("EMIT"):
                with m.If(self.halt):
                    m.next = "FREE"
                with m.Elif(~self.burst.valid):
                    m.d.comb += emit.eq(1)
                    m.d.sync += [
                        at.eq((at + count)[:beat_bits]),
                        left.eq((left - count)[: len(left)]),
                    ]
                    m.next = "ROOM"
                    with m.If(is_final):
                        m.next = "FREE"

        # The burst that is offered; the next one follows when it has gone, so that ``ready``, which
        # comes from far away, ends here.
        address = Cat(Signal(lane_bits), at[:page_bits], page)
        m.d.sync += self.burst.valid.eq(emit | (self.burst.valid & ~self.burst.ready))
        with m.If(~self.burst.valid):
            m.d.sync += [
                self.burst.payload.addr.eq(address),
                self.burst.payload.len.eq((count - 1)[:8]),
            ]
        m.d.comb += self.idle.eq(takes & free & ~self.burst.valid)
        return m


class AxiReadArbiter(wiring.Component):
    """Merge two readers of the memory into one.

    1. Bursts of ``fetch`` go before those of ``load``; a burst that is offered at ``memory`` stays.
    2. Beats arrive in the order of the bursts; each goes to the reader that asked for it.
    3. At most ``max_outstanding`` bursts are on their way; one is until its last beat leaves the
       memory.
    4. A reader that does not take its beats holds up the other: each takes what it asked for after
       a finite time.

    All outputs towards the memory are registered: no combinational path leads through from one side
    to the other.

    Parameters
    ----------
    config
        Bus width.
    max_outstanding
        Bursts on their way, at least 3.
    """

    #: Cycles from a reader's burst to the memory, and from a beat of the memory to its reader.
    LATENCY = 1

    def __init__(self, *, config: AcceleratorConfig, max_outstanding: int = OUTSTANDING) -> None:
        self.config = config
        self.max_outstanding = max_outstanding
        super().__init__(
            {
                "fetch": In(AxiReadSignature(config)),
                "load": In(AxiReadSignature(config)),
                "memory": Out(AxiReadSignature(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Bursts: one register towards the memory; its owner enters the queue at the same time.
        shape: ShapeLike = self.memory.ar.payload.shape()
        m.submodules.owners = owners = Queue(shape=1, depth=self.max_outstanding)
        m.submodules.bursts = bursts = SkidBuffer(shape=shape)
        wiring.connect(m, bursts.o, wiring.flipped(self.memory.ar))
        may = Signal()
        m.d.comb += [
            may.eq(owners.i.ready & bursts.i.ready),
            bursts.i.valid.eq((self.fetch.ar.valid | self.load.ar.valid) & owners.i.ready),
            bursts.i.payload.eq(
                Mux(
                    self.fetch.ar.valid,
                    self.fetch.ar.payload.as_value(),
                    self.load.ar.payload.as_value(),
                )
            ),
            owners.i.valid.eq((self.fetch.ar.valid | self.load.ar.valid) & bursts.i.ready),
            owners.i.payload.eq(~self.fetch.ar.valid),
            self.fetch.ar.ready.eq(may),
            self.load.ar.ready.eq(may & ~self.fetch.ar.valid),
        ]
        # Beats: two places, as in a SkidBuffer, each with a bit for each reader that says that its
        # beat is there. A beat never comes before its burst was at the memory, by then its owner is
        # known.
        beat, spare = (
            Signal(self.memory.r.payload.shape(), name=name, reset_less=True)
            for name in ("beat", "spare")
        )
        valid, spare_valid, arriving = Signal(2), Signal(2), Signal(2)
        moves, full = Signal(), Signal()
        r = self.memory.r
        m.d.comb += [
            full.eq(spare_valid.any()),
            r.ready.eq(~full),
            arriving.eq(Mux(r.valid, Mux(owners.o.payload, 0b10, 0b01), 0)),
            moves.eq(~(valid & ~Cat(self.fetch.r.ready, self.load.r.ready)).any()),
            Cat(self.fetch.r.valid, self.load.r.valid).eq(valid),
            self.fetch.r.payload.eq(beat),
            self.load.r.payload.eq(beat),
            owners.o.ready.eq(r.valid & r.ready & r.payload.last),
        ]
        with m.If(~full):
            m.d.sync += spare.eq(r.payload)
        with m.If(moves):
            m.d.sync += [valid.eq(Mux(full, spare_valid, arriving)), spare_valid.eq(0)]
            with m.If(full):
                m.d.sync += beat.eq(spare)
            with m.Else():
                m.d.sync += beat.eq(r.payload)
        with m.Elif(~full):
            m.d.sync += spare_valid.eq(arriving)
        return m
