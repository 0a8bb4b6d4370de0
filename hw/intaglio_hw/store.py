"""The store unit: the scratchpad OFM to memory."""

from amaranth.hdl import Module, Signal
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
    instruction_layout,
)
from intaglio_hw.streams import Queue

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
    4. ``beat`` is high for one cycle for each beat given to the memory.

    ``memory_base`` (a multiple of 4096) and ``memory_bytes`` (a multiple of R) are constant while
    an instruction runs.

    Parameters
    ----------
    config
        Sizes of the machine.
    max_outstanding
        Bursts without a response, at least 3.
    """

    #: Cycles from an instruction to its first burst: 1 to accept, 1 to check, 5 for row and burst.
    ISSUE_CYCLES = 7
    #: Cycles from the acceptance of a burst to its first beat, when no other waits.
    LATENCY = 3 + READ_LATENCY + 2
    #: Cycles from the last response to ``done``.
    DONE_CYCLES = 2

    def __init__(self, *, config: AcceleratorConfig, max_outstanding: int = OUTSTANDING) -> None:
        self.config = config
        self.max_outstanding = max_outstanding
        super().__init__(
            {
                "unit": Out(UnitSignature(isa.STORE)),
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

        m.submodules.walker = walker = RowWalker()
        m.submodules.bursts = bursts = RowBursts(config=self.config)
        abort = Signal()
        m.d.comb += [walker.halt.eq(abort), bursts.halt.eq(abort)]

        # Rows: ``row_end`` is the address of the last vector of the row that comes next.
        now = Signal(instruction_layout(isa.STORE), reset_less=True)
        row_end = Signal(18, reset_less=True)
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
            bursts.row.payload.last.eq(walker.o.payload.last),
            walker.o.ready.eq(bursts.row.ready),
        ]
        with m.If(row_end[depth_bits:].any()):
            m.d.comb += bursts.row.payload.error.eq(Error.BUFFER)
        with m.If(walker.o.valid & walker.o.ready):
            m.d.sync += row_end.eq((row_end + now.vectors)[:18])

        # Addresses. A burst whose address was taken owes its beats (``lengths``) and its response
        # (``outstanding``).
        m.submodules.lengths = lengths = Queue(shape=8, depth=self.max_outstanding)
        outstanding = Signal(range(self.max_outstanding + 1))
        may_ask = Signal()
        asked = Signal()
        answered = Signal()
        m.d.comb += [
            may_ask.eq((outstanding != self.max_outstanding) & lengths.i.ready),
            aw.payload.eq(bursts.burst.payload),
            aw.valid.eq(bursts.burst.valid & may_ask),
            bursts.burst.ready.eq(aw.ready & may_ask),
            asked.eq(aw.valid & aw.ready),
            lengths.i.valid.eq(asked),
            lengths.i.payload.eq(aw.payload.len),
            b.ready.eq(1),
            answered.eq(b.valid),
        ]
        m.d.sync += outstanding.eq((outstanding + asked - answered)[: len(outstanding)])

        # Reads of OFM, as many as the queue of beats has places for what is on its way.
        beats_shape = data.StructLayout({"data": 8 * R, "last": 1})
        places_all = 8
        m.submodules.beats = beats = Queue(shape=beats_shape, depth=places_all)
        places = Signal(range(places_all + 1), init=places_all)
        vector = Signal(depth_bits, reset_less=True)
        reading = Signal()
        reads_left = Signal(8, reset_less=True)  # minus one
        # Both are formed one step ahead.
        read_last = Signal(reset_less=True)
        place_free = Signal(init=1)
        read = Signal()
        freed = Signal()
        m.d.comb += [
            read.eq(reading & place_free),
            lengths.o.ready.eq(~reading | (read & read_last)),
            freed.eq(w.valid & w.ready),
            self.ofm.addr.eq(vector),
            self.beat.eq(freed),
        ]
        m.d.sync += [
            places.eq((places - read + freed)[: len(places)]),
            place_free.eq(freed | ~((places == 0) | (read & (places == 1)))),
        ]
        with m.If(read):
            m.d.sync += [
                vector.eq((vector + 1)[:depth_bits]),
                reads_left.eq((reads_left - 1)[:8]),
                read_last.eq(reads_left == 1),
            ]
        with m.If(lengths.o.ready):
            m.d.sync += [
                reading.eq(lengths.o.valid),
                reads_left.eq(lengths.o.payload),
                read_last.eq(lengths.o.payload == 0),
            ]
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
        given = self.unit.instruction.payload
        error = Signal(ERROR_BITS)
        bus_error = Signal()
        m.d.sync += stop.eq(self.unit.stop)
        complete = Signal()
        # An instruction may come: idle, and not in the cycle of ``done``.
        open_ = Signal(init=1)
        accept = Signal()
        m.d.comb += [
            self.unit.instruction.ready.eq(open_ & ~stop),
            accept.eq(self.unit.instruction.valid & self.unit.instruction.ready),
        ]
        with m.If(b.valid & b.payload.resp[1]):
            m.d.sync += bus_error.eq(1)
        m.d.comb += bursts.info.ready.eq(1)
        m.d.sync += [self.unit.done.eq(0), self.unit.error.eq(Error.NONE)]
        m.d.comb += complete.eq(bursts.idle & (outstanding == 0))
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    open_.eq(1),
                    now.eq(given),
                    misaligned.eq(
                        (given.address | given.plane_step | given.row_step)[:lane_bits].any()
                    ),
                    error.eq(Error.NONE),
                    bus_error.eq(0),
                ]
                with m.If(accept):
                    m.d.sync += open_.eq(0)
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [
                    row_end.eq((now.base + now.vectors - 1)[:18]),
                    vector.eq(now.base[:depth_bits]),
                ]
                m.next = "ROWS"
                with m.If(stop):
                    m.next = "ABORT"
                with m.Elif(misaligned):
                    m.d.sync += error.eq(Error.MEMORY)
                    m.next = "ABORT"
                with m.Else():
                    m.d.comb += walker.start.eq(1)
            with m.State("ROWS"):
                with m.If(stop | bus_error):
                    m.next = "ABORT"
                with m.Elif(bursts.info.valid & (bursts.info.payload.error != Error.NONE)):
                    m.d.sync += error.eq(bursts.info.payload.error)
                    m.next = "ABORT"
                with m.Elif(bursts.info.valid & bursts.info.payload.last):
                    m.next = "FINISH"
            with m.State("ABORT"):
                m.d.comb += abort.eq(1)
                m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += abort.eq(stop | bus_error)
                with m.If(complete):
                    m.d.sync += [
                        self.unit.done.eq(1),
                        self.unit.error.eq(error),
                    ]
                    with m.If(bus_error):
                        m.d.sync += self.unit.error.eq(Error.BUS)
                    m.next = "IDLE"
        return m
