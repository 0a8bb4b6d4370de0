"""Memory side of the units: rows of a transfer, their bursts, the arbiter between two readers.

A transfer is ``planes`` x ``rows`` rows. :class:`RowWalker` lists the rows, :class:`RowBursts`
checks each against the memory and cuts it into bursts, :class:`AxiReadArbiter` merges the bursts of
two readers and returns each its beats.
"""

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value
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

    ``some``: beats are transferred; ``more``: beats after the first one, if there is one. ``head``:
    bytes of the first beat before the row. ``tail``: used bytes end at this byte of the last beat
    (0: at its end). ``error``: not 0: no beats, whatever ``some`` says, and no further row follows.
    ``last``: as given.
    """
    lane_bits = (config.bus_bytes - 1).bit_length()
    return data.StructLayout(
        {
            "head": lane_bits,
            "tail": lane_bits,
            "some": 1,
            "more": ROW_BITS + 1 - lane_bits,
            "error": ERROR_BITS,
            "last": 1,
        }
    )


class RowWalker(wiring.Component):
    """List the byte offsets of the rows of a transfer, planes outside, rows inside.

    1. ``start`` takes ``address``, ``plane_step``, ``row_step`` (bytes), ``planes`` and ``rows``
       (at least 1); it is given only while ``busy`` is low. The fields are there from two cycles
       before on, and may change in the next cycle.
    2. From then on ``o`` offers one row after the other, one in two cycles; ``last`` marks the
       final one. ``busy`` is high until that has been taken.
    3. ``halt`` drops what is left; from the next cycle on ``o`` is withdrawn.
    4. Offsets are exact as long as no row before lies at or above 2**32; the taker stops at such a
       row.

    With ``held`` nothing is latched: the fields stay while ``busy``, or until ``halt``.
    """

    #: Cycles from ``start`` to the first row.
    LATENCY = 1

    def __init__(self, *, held: bool = False) -> None:
        self._held = held
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
        if self._held:
            plane_step, row_step, rows = self.plane_step, self.row_step, self.rows
            latched = []
        else:
            plane_step = Signal(32, reset_less=True)
            row_step = Signal(32, reset_less=True)
            rows = Signal(16, reset_less=True)
            latched = [
                plane_step.eq(self.plane_step),
                row_step.eq(self.row_step),
                rows.eq(self.rows),
            ]
        rows_left = Signal(16, reset_less=True)
        planes_left = Signal(16, reset_less=True)
        last_row = Signal(reset_less=True)
        last_plane = Signal(reset_less=True)
        # What comes next, if a row or if a plane is next: formed while a row is offered.
        next_row = Signal(OFFSET_BITS, reset_less=True)
        next_plane = Signal(OFFSET_BITS, reset_less=True)
        next_rows_left = Signal(16, reset_less=True)
        next_planes_left = Signal(16, reset_less=True)
        single_row, single_plane = Signal(reset_less=True), Signal(reset_less=True)
        row_is_next = Signal(reset_less=True)  # the last one
        plane_is_next = Signal(reset_less=True)
        m.d.sync += [
            next_row.eq(row + row_step),
            next_plane.eq(plane + plane_step),
            next_rows_left.eq(rows_left - 1),
            next_planes_left.eq(planes_left - 1),
            single_row.eq(rows == 1),
            single_plane.eq(planes_left == 1),
            row_is_next.eq(rows_left == 2),
            plane_is_next.eq(planes_left == 2),
        ]

        offered = Signal()
        rests = Signal(init=1)  # not busy
        # The cycle after a row that is not the final one was taken; which is the last of its plane.
        moves = Signal()
        moves_plane = Signal(reset_less=True)
        taken = Signal()
        m.d.comb += [
            self.o.valid.eq(offered),
            self.o.payload.offset.eq(row),
            self.o.payload.last.eq(last_row & last_plane),
            taken.eq(offered & self.o.ready),
        ]
        m.d.sync += [
            offered.eq(self.start | moves | (offered & ~self.o.ready)),
            moves.eq(taken & ~self.o.payload.last),
            moves_plane.eq(taken & last_row & ~last_plane),
            self.busy.eq(self.start | (self.busy & ~(taken & self.o.payload.last))),
            rests.eq(~self.start & (rests | (taken & self.o.payload.last))),
        ]
        with m.If(moves):
            m.d.sync += [
                row.eq(Mux(moves_plane, next_plane, next_row)),
                rows_left.eq(Mux(moves_plane, rows, next_rows_left)),
                last_row.eq(Mux(moves_plane, single_row, row_is_next)),
            ]
        with m.If(moves_plane):
            m.d.sync += [
                plane.eq(next_plane),
                planes_left.eq(next_planes_left),
                last_plane.eq(plane_is_next),
            ]
        # Whatever they are: ``start`` comes late in a cycle.
        with m.If(rests):
            m.d.sync += [
                row.eq(self.address),
                plane.eq(self.address),
                *latched,
                rows_left.eq(self.rows),
                planes_left.eq(self.planes),
                last_row.eq(single_row),
                last_plane.eq(single_plane),
            ]
        with m.If(self.halt):
            m.d.sync += [
                offered.eq(0),
                moves.eq(0),
                moves_plane.eq(0),
                self.busy.eq(0),
                rests.eq(1),
            ]
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
    4. ``halt`` drops all rows, one that it takes too, and may withdraw ``info``; in its first cycle
       a burst may still begin, and one that is offered stays. ``idle``: nothing inside.

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
        lane_bits = (beat_bytes - 1).bit_length()
        page_bits = (BOUNDARY_BYTES // beat_bytes - 1).bit_length()  # of a beat in its page
        count_bits = (self.config.burst_beats - 1).bit_length()  # of a burst's beats minus one
        halt, info, burst = self.halt, self.info.payload, self.burst

        # Stage 1, ``takes``: sums. Stage 2, ``compares``: comparison, beats. Stage 3, ``hands``:
        # hand over; none of them after a row with an error.
        takes = Signal(init=1)
        holds = Signal()  # not ``takes``
        compares, hands = Signal(), Signal()
        row = Signal(row_layout(), reset_less=True)
        first = row.offset[lane_bits:12]
        end = Signal(OFFSET_BITS + 1, reset_less=True)
        span = Signal(ROW_BITS + 1, reset_less=True)
        given = Signal(reset_less=True)  # an error was
        some = Signal(reset_less=True)
        bad = Signal(reset_less=True)
        more = Signal(ROW_BITS + 1 - lane_bits, reset_less=True)
        # The splitter: from ``begin`` on ``measures`` (the first burst: ``free``), ``sizes``,
        # ``emits``. Beats are counted without one: ``left`` and ``limit`` of what is left and of
        # the longest burst at ``at``, ``count`` of the burst.
        free = Signal(init=1)
        measures, sizes, emits = Signal(), Signal(), Signal()
        at = Signal(page_bits, reset_less=True)
        left = Signal.like(more)
        # The same behind the burst that is emitted.
        next_at = Signal(page_bits, reset_less=True)
        crossed = Signal(reset_less=True)
        next_left = Signal.like(left)
        # More are left than the longest burst has, of a row, or of what is left of it.
        row_many, left_many = Signal(reset_less=True), Signal(reset_less=True)
        limit = Signal(count_bits, reset_less=True)
        count = Signal.like(limit)
        less = Signal.like(limit)  # its complement: of -1 - count
        is_final = Signal(reset_less=True)
        vacant = Signal(init=1)  # no burst is offered
        # Bus address above the page offset: of the row, of the burst, of the page behind it.
        row_page = Signal(20, reset_less=True)
        page = Signal(20, reset_less=True)
        next_page = Signal(20, reset_less=True)

        # The sign of a difference is one carry chain; a comparison would become a tree of tables.
        room_behind = Signal(OFFSET_BITS + 2)
        memory_bytes = Signal(32, reset_less=True)
        memory_page = Signal(20, reset_less=True)
        m.d.sync += [memory_bytes.eq(self.memory_bytes), memory_page.eq(self.memory_base[12:])]
        m.d.comb += room_behind.eq((memory_bytes - end)[: OFFSET_BITS + 2])

        handed, begin, emit = Signal(), Signal(), Signal()
        m.d.comb += [
            self.row.ready.eq(~holds),
            self.info.valid.eq(hands & free),
            handed.eq(self.info.valid & self.info.ready),
            begin.eq(handed & some & ~bad & ~given),
            info.head.eq(row.offset[:lane_bits]),
            info.tail.eq(span[:lane_bits]),
            info.some.eq(some),
            info.more.eq(more),
            info.error.eq(Mux(bad, Error.MEMORY, row.error)),
            info.last.eq(row.last),
            emit.eq(emits & ~burst.valid),
            self.idle.eq(takes & free & ~burst.valid),
        ]
        with m.If(takes):
            m.d.sync += [
                row.eq(self.row.payload),
                end.eq(self.row.payload.offset + self.row.payload.bytes),
                span.eq(self.row.payload.offset[:lane_bits] + self.row.payload.used),
                some.eq(self.row.payload.used != 0),
                given.eq(self.row.payload.error != Error.NONE),
            ]
        with m.If(compares):
            m.d.sync += [
                bad.eq(room_behind[-1]),
                more.eq((span - 1)[lane_bits : ROW_BITS + 1]),
                row_page.eq(memory_page + row.offset[12:32]),
            ]
        m.d.sync += [
            takes.eq(halt | (takes & ~self.row.valid) | (handed & ~bad & ~given)),
            holds.eq(~halt & (holds | self.row.valid) & ~(handed & ~bad & ~given)),
            compares.eq(takes & self.row.valid & ~halt),
            hands.eq((compares | (hands & ~handed)) & ~halt),
        ]

        # Bursts are as long as they may, but for the last places of a page: then, without a carry,
        # 2**count_bits - 1 - at.
        def limit_at(beat: Value) -> Value:
            near = beat[count_bits:page_bits].all()
            return ~(beat[:count_bits] & near.replicate(count_bits))

        with m.If(free):
            m.d.sync += [at.eq(first), left.eq(more), page.eq(row_page), limit.eq(limit_at(first))]
        with m.If(measures):
            m.d.sync += [at.eq(next_at), left.eq(next_left), limit.eq(limit_at(next_at))]
        with m.If(measures & crossed):
            m.d.sync += page.eq(next_page)
        m.d.sync += [
            row_many.eq(free & more[count_bits:].any()),
            left_many.eq(measures & next_left[count_bits:].any()),
            next_page.eq(page + 1),
            # One carry chain each; -1 - count is the complement of count.
            Cat(next_at, crossed).eq(at - Cat(~count, Const(-1, page_bits + 1 - count_bits))),
            next_left.eq((left + Cat(less, Const(-1, len(left) - count_bits)))[: len(left)]),
        ]
        with m.If(sizes):
            fits = ~row_many & ~left_many & ~(limit - left[:count_bits])[-1]
            m.d.sync += [
                is_final.eq(fits),
                count.eq(Mux(fits, left[:count_bits], limit)),
                less.eq(~Mux(fits, left[:count_bits], limit)),
            ]
        m.d.sync += [
            free.eq(halt | (free & ~begin) | (emit & is_final)),
            measures.eq(emit & ~is_final & ~halt),
            sizes.eq((begin | measures) & ~halt),
            emits.eq((sizes | (emits & ~emit)) & ~halt),
            # The burst that is offered; the next one follows when it has gone, so that ``ready``,
            # which comes from far away, ends here.
            burst.valid.eq(emit | (burst.valid & ~burst.ready)),
            vacant.eq(~emit & (vacant | burst.ready)),
        ]
        with m.If(vacant):
            m.d.sync += [
                burst.payload.addr.eq(Cat(Const(0, lane_bits), at, page)),
                burst.payload.len.eq(count),
            ]
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
        full = Signal()  # the second place
        free = Signal(init=1)  # its complement
        moves = Signal()
        r = self.memory.r
        m.d.comb += [
            r.ready.eq(free),
            arriving.eq(Mux(r.valid, Mux(owners.o.payload, 0b10, 0b01), 0)),
            moves.eq(~(valid & ~Cat(self.fetch.r.ready, self.load.r.ready)).any()),
            Cat(self.fetch.r.valid, self.load.r.valid).eq(valid),
            self.fetch.r.payload.eq(beat),
            self.load.r.payload.eq(beat),
            owners.o.ready.eq(r.valid & free & r.payload.last),
        ]
        m.d.sync += [full.eq((full | r.valid) & ~moves), free.eq((free & ~r.valid) | moves)]
        with m.If(free):
            m.d.sync += [spare.eq(r.payload), spare_valid.eq(arriving)]
        with m.If(moves):
            m.d.sync += valid.eq(Mux(full, spare_valid, arriving))
            with m.If(full):
                m.d.sync += beat.eq(spare)
            with m.Else():
                m.d.sync += beat.eq(r.payload)
        return m
