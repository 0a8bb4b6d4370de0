"""The store unit: the scratchpad OFM to memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error
from intaglio.spec.memory import OUTSTANDING
from intaglio_hw.axi import RowBursts, RowWalker
from intaglio_hw.interfaces import (
    ERROR_BITS,
    READ_LATENCY,
    AxiWriteSignature,
    ReadPortSignature,
    UnitSignature,
    follow_offer,
    instruction_layout,
)
from intaglio_hw.streams import Queue, Tally

__all__ = ["StoreUnit"]


class StoreUnit(wiring.Component):
    """Run ``store`` instructions (:data:`intaglio.spec.isa.STORE`), one at a time.

    1. An ``address``, ``plane_step`` or ``row_step`` that is no multiple of R is the error MEMORY,
       before everything. Then rows are handled in order; a row outside the memory (MEMORY) or, if
       inside, with vectors outside OFM (BUFFER) is not written, nor any after it. A response with
       an error is the error BUS; it goes before those of later rows.
    2. The data of a burst follows its address, without gaps between beats when the memory is ready,
       up to ``max_outstanding`` bursts without a response.
    3. ``done`` comes DONE_CYCLES after the last response. After an error, and after ``stop``, every
       burst whose address was offered is completed first.
    4. ``beat`` is high for one cycle for each beat given to the memory, in the cycle after.

    ``memory_base`` (a multiple of 4096) and ``memory_bytes`` (a multiple of R) are constant while
    an instruction runs.

    Parameters
    ----------
    config
        Sizes of the machine.
    max_outstanding
        Bursts without a response, at least 3.
    """

    #: Cycles from an instruction to its first burst: 1 to accept, 3 to check, 5 for row and burst.
    ISSUE_CYCLES = 9
    #: Cycles from the acceptance of a burst to its first beat, when no other waits.
    LATENCY = 4 + READ_LATENCY + 2
    #: Cycles from the last response to ``done``.
    DONE_CYCLES = 4
    #: Cycles from a response to when its burst is no longer on its way.
    RELEASE = 2

    def __init__(
        self,
        *,
        config: AcceleratorConfig,
        max_outstanding: int = OUTSTANDING,
        lean: bool = False,
    ) -> None:
        self.config, self.lean = config, lean
        self.max_outstanding = max_outstanding
        super().__init__(
            {
                "unit": Out(UnitSignature(isa.STORE, held=lean)),
                "memory_base": In(32),
                "memory_bytes": In(32),
                "ofm": Out(ReadPortSignature(depth=config.ofm_depth, width=8 * config.R)),
                "memory": Out(AxiWriteSignature(config)),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R = self.config.R
        lane_bits = (R - 1).bit_length()
        depth_bits = (self.config.ofm_depth - 1).bit_length()
        aw, w, b = self.memory.aw, self.memory.w, self.memory.b

        m.submodules.walker = walker = RowWalker(held=self.lean)
        m.submodules.bursts = bursts = RowBursts(config=self.config)
        abort = Signal()
        m.d.comb += [walker.halt.eq(abort), bursts.halt.eq(abort)]
        # Control, one after the other; ``aborts`` only to stop what is asked for.
        rests, checks, lists = Signal(init=1), Signal(3), Signal()
        aborts, finishes = Signal(2), Signal()

        # Rows: whether the last vector of the one that comes next, at ``start`` + ``behind``, is
        # outside OFM is known three cycles after the row before was taken.
        now = Signal(instruction_layout(isa.STORE), reset_less=True)
        start = Signal(17, reset_less=True)
        next_start = Signal(17, reset_less=True)  # formed one step ahead: a row takes three cycles
        behind = Signal(16, reset_less=True)
        row_end = Signal(18, reset_less=True)
        outside = Signal(reset_less=True)
        bytes_in_row = now.vectors << lane_bits
        m.d.comb += [
            walker.address.eq(now.address),
            walker.plane_step.eq(now.plane_step),
            walker.row_step.eq(now.row_step),
            walker.planes.eq(now.planes),
            walker.rows.eq(now.rows),
            bursts.memory_base.eq(self.memory_base),
            bursts.memory_bytes.eq(self.memory_bytes),
            bursts.row.valid.eq(walker.o.valid),
            bursts.row.payload.offset.eq(walker.o.payload.offset),
            bursts.row.payload.bytes.eq(bytes_in_row),
            bursts.row.payload.used.eq(bytes_in_row),
            bursts.row.payload.error.eq(Mux(outside, Error.BUFFER, Error.NONE)),
            bursts.row.payload.last.eq(walker.o.payload.last),
            walker.o.ready.eq(bursts.row.ready),
        ]
        m.d.sync += [
            next_start.eq(start + now.vectors),
            behind.eq(now.vectors - 1),
            row_end.eq(start + behind),
            outside.eq(row_end[depth_bits:].any()),
        ]
        row_taken = walker.o.valid & walker.o.ready
        with m.If(checks[0] | row_taken):
            # At most the depth of OFM while rows may follow.
            m.d.sync += start.eq(Mux(checks[0], now.base, next_start))

        # Addresses. A burst whose address was taken owes its beats (``lengths``) and its response
        # (``outstanding``); it is counted a cycle later, before the next one is offered.
        m.submodules.lengths = lengths = Queue(shape=8, depth=self.max_outstanding)
        m.submodules.outstanding = outstanding = Tally(size=self.max_outstanding)
        may_ask = ~outstanding.level[-1]
        m.d.comb += [
            aw.payload.eq(bursts.burst.payload),
            aw.valid.eq(bursts.burst.valid & may_ask),
            bursts.burst.ready.eq(aw.ready & may_ask),
            # It has still its length, and there is room: it is outstanding.
            lengths.i.valid.eq(outstanding.up),
            lengths.i.payload.eq(bursts.burst.payload.len),
            b.ready.eq(1),
        ]
        m.d.sync += [outstanding.up.eq(aw.valid & aw.ready), outstanding.down.eq(b.valid)]

        # Reads of OFM, as many as the queue of beats has places for what is on its way.
        beats_shape = data.StructLayout({"data": 8 * R, "last": 1})
        places_all = 8
        m.submodules.beats = beats = Queue(shape=beats_shape, depth=places_all)
        m.submodules.places = places = Tally(size=places_all)
        vector = Signal(depth_bits, reset_less=True)
        reading = Signal()
        reads_left = Signal(8, reset_less=True)  # minus one
        read_last = Signal(reset_less=True)  # formed one step ahead
        read = Signal()
        place_free = ~places.level[-1]
        m.d.comb += [
            read.eq(reading & place_free),
            lengths.o.ready.eq(~reading | (place_free & read_last)),
            places.up.eq(read),
            self.ofm.addr.eq(vector),
            self.beat.eq(places.down),
        ]
        m.d.sync += places.down.eq(w.valid & w.ready)
        with m.If(read):
            m.d.sync += [
                vector.eq(vector + 1),
                reads_left.eq(reads_left - 1),
                read_last.eq(reads_left == 1),
            ]
        with m.If(lengths.o.ready):
            m.d.sync += [
                reading.eq(lengths.o.valid),
                reads_left.eq(lengths.o.payload),
                read_last.eq(lengths.o.payload == 0),
            ]
        with m.If(checks[0]):
            m.d.sync += vector.eq(now.base)
        arrived = Signal(READ_LATENCY)
        arrived_last = Signal(READ_LATENCY, reset_less=True)
        m.d.sync += [
            arrived.eq(((arrived << 1) | read)[:READ_LATENCY]),
            arrived_last.eq(((arrived_last << 1) | read_last)[:READ_LATENCY]),
        ]
        m.d.comb += [
            beats.i.valid.eq(arrived[-1]),
            beats.i.payload.data.eq(self.ofm.data),
            beats.i.payload.last.eq(arrived_last[-1]),
            w.valid.eq(beats.o.valid),
            w.payload.data.eq(beats.o.payload.data),
            w.payload.last.eq(beats.o.payload.last),
            beats.o.ready.eq(w.ready),
        ]

        # Control.
        stop = Signal()
        misaligned = Signal(reset_less=True)
        error = Signal(ERROR_BITS)
        bus_error = Signal()
        # An instruction may come: at rest, and not in the cycle of ``done``.
        may_accept = Signal(init=1)
        accept = Signal()
        # What became of a row, in the cycle after.
        row_failed, row_last = Signal(), Signal()
        row_error = Signal(ERROR_BITS, reset_less=True)
        about = bursts.info
        complete = Signal()
        m.d.comb += [
            self.unit.instruction.ready.eq(may_accept),
            accept.eq(self.unit.instruction.valid & may_accept),
            about.ready.eq(1),
        ]
        m.d.sync += [
            stop.eq(self.unit.stop | (stop & ~rests)),
            may_accept.eq(rests & ~accept & ~self.unit.stop),
            misaligned.eq((now.address | now.plane_step | now.row_step)[:lane_bits].any()),
            row_failed.eq(about.valid & (about.payload.error != Error.NONE)),
            row_last.eq(about.valid & about.payload.last),
            row_error.eq(about.payload.error),
            bus_error.eq(~rests & (bus_error | (b.valid & b.payload.resp[1]))),
            complete.eq(bursts.idle & ~outstanding.up & ~outstanding.level[0]),
            self.unit.done.eq(0),
            self.unit.error.eq(Error.NONE),
        ]
        fails = stop | bus_error
        finished = finishes & complete
        m.d.comb += walker.start.eq(checks[-1] & ~stop & ~misaligned)
        m.d.sync += [
            rests.eq((rests & ~accept) | finished),
            checks.eq(Cat(accept, checks)[: len(checks)]),
            lists.eq(walker.start | (lists & ~(fails | row_failed | row_last))),
            aborts.eq(
                Cat(
                    (checks[-1] & (stop | misaligned)) | (lists & (fails | row_failed)),
                    aborts[0],
                )
            ),
            finishes.eq(
                (lists & row_last & ~fails & ~row_failed) | aborts[-1] | (finishes & ~finished)
            ),
            abort.eq(aborts[0] | (finishes & fails)),
        ]
        follow_offer(m, self.unit, rests, now.eq(self.unit.instruction.payload))
        with m.If(checks[-1]):
            m.d.sync += error.eq(Mux(misaligned & ~stop, Error.MEMORY, Error.NONE))
        with m.If(lists & row_failed & ~fails):
            m.d.sync += error.eq(row_error)
        with m.If(finished):
            m.d.sync += [
                self.unit.done.eq(1),
                self.unit.error.eq(Mux(bus_error, Error.BUS, error)),
            ]
        return m
