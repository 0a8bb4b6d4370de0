"""The load unit: memory to scratchpads, with padding, dense or as overlapping windows."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Buffer, Error
from intaglio.spec.memory import OUTSTANDING
from intaglio_hw.axi import ROW_BITS, RowBursts, RowWalker, row_info_layout
from intaglio_hw.interfaces import (
    ERROR_BITS,
    IN_FLIGHT,
    AxiReadSignature,
    UnitSignature,
    WritePortSignature,
    instruction_layout,
)
from intaglio_hw.streams import Queue, SkidBuffer

__all__ = ["LoadUnit"]


class LoadUnit(wiring.Component):
    """Run ``load`` instructions (:data:`intaglio.spec.isa.LOAD`).

    1. Rows are handled in order; a row's MEMORY check comes before its data, BUFFER and BUS when a
       vector needs it. FIELD (``vector_step`` above R, ``lead`` above 7 R, a PRM ``base`` that is
       no multiple of R / 8) comes before everything. Vectors before the error are written, none
       after it.
    2. Beats are asked for up to ``max_outstanding`` bursts ahead, across rows and into the next
       instruction. Only bytes that a vector uses are asked for.
    3. One vector per cycle when beats arrive and rows are aligned; an unaligned row costs its one
       beat more. Rows whose bursts are short are limited by :class:`intaglio_hw.axi.RowBursts`.
    4. ``done`` comes one cycle after the last write. After an error, and after ``stop``, it waits
       for all beats on their way. An instruction behind a failed one runs unless ``stop`` comes;
       with ``stop`` it ends without effect.
    5. ``beat`` is high for one cycle for each beat taken from the memory.

    ``memory_base`` (a multiple of 4096) and ``memory_bytes`` (a multiple of R) are constant while
    an instruction runs.

    Parameters
    ----------
    config
        Sizes of the machine.
    max_outstanding
        Bursts on their way, at least 1.
    """

    #: Cycles from an instruction to its first burst: 1 to accept, log2(R) + 4 to prepare, 5 for
    #: row and burst.
    ISSUE_CYCLES = {8: 13, 16: 14, 32: 15}
    #: Cycles from a beat to the write of the vector that it completes.
    LATENCY = 3
    #: Cycles from the hand-over of a row to when the writing side may begin with it.
    ROW = Queue.LATENCY + SkidBuffer.LATENCY

    def __init__(self, *, config: AcceleratorConfig, max_outstanding: int = OUTSTANDING) -> None:
        self.config = config
        self.max_outstanding = max_outstanding
        width = 8 * config.R
        self._depths = {
            Buffer.IFM: config.ifm_depth,
            Buffer.WGT: config.wgt_depth,
            Buffer.VEC: config.vec_depth,
            Buffer.PRM: config.prm_depth // config.params_per_vector,
        }
        super().__init__(
            {
                "unit": Out(UnitSignature(isa.LOAD)),
                "memory_base": In(32),
                "memory_bytes": In(32),
                "memory": Out(AxiReadSignature(config)),
                "beat": Out(1),
                **{
                    buffer.name.lower(): Out(WritePortSignature(depth=depth, width=width))
                    for buffer, depth in self._depths.items()
                },
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R = self.config.R
        lane_bits = (R - 1).bit_length()
        pair_bits = (self.config.params_per_vector - 1).bit_length()
        row_bits = 16 + 1  # of a running vector address: one above the largest scratchpad

        m.submodules.walker = walker = RowWalker()
        m.submodules.bursts = bursts = RowBursts(config=self.config)
        # What the writing side has to know about a row is formed in front of its queue.
        info_layout = row_info_layout(self.config)
        row_shape = data.StructLayout(
            {
                **info_layout.members,
                "some": 1,  # it has beats, one beat
                "one": 1,
                "skip": 1,  # the first vector also needs the second beat
                "lead": 3,  # whole beats of padding in front
                "shift": lane_bits,
                "over": 1,
            }
        )
        m.submodules.infos = infos = Queue(shape=row_shape, depth=16)
        m.submodules.next_row = next_row = SkidBuffer(shape=row_shape)
        wiring.connect(m, infos.o, next_row.i)

        # ``abort`` throws away all that is on its way: rows, bursts not yet offered, beats.
        abort = Signal()
        m.d.comb += [walker.halt.eq(abort), bursts.halt.eq(abort)]

        # Instructions in flight.
        finish = Signal()
        in_flight = Signal(range(IN_FLIGHT + 1))
        accept = Signal()
        stopping = Signal()
        m.d.sync += stopping.eq(self.unit.stop | (stopping & (in_flight != 0)))
        # Fewer than IN_FLIGHT, and the asking side idle: formed one step ahead.
        room = Signal(init=1)
        idle = Signal(init=1)
        m.d.sync += [
            in_flight.eq((in_flight + accept - finish)[: len(in_flight)]),
            room.eq(finish | ~((in_flight == IN_FLIGHT) | (accept & (in_flight == IN_FLIGHT - 1)))),
        ]
        m.d.comb += [
            self.unit.instruction.ready.eq(idle & room & ~stopping),
            accept.eq(self.unit.instruction.valid & self.unit.instruction.ready),
        ]

        # The asking side: one instruction, prepared, then its rows one after the other. It is
        # ``held`` until the writing side has taken it and all its rows are handed over, and starts
        # anew when it was not taken before an abort.
        held = Signal()
        taken = Signal()
        take = Signal()
        prepared = Signal()
        ask = Signal(instruction_layout(isa.LOAD), reset_less=True)
        field_error = Signal(reset_less=True)
        # reach: bytes of a row up to the last byte of its last vector, (vectors - 1) * vector_step
        # + R - lead.
        reach = Signal(data.StructLayout({"low": ROW_BITS + 1, "negative": 1}), reset_less=True)
        addend = Signal(ROW_BITS + 1, reset_less=True)
        step_left = Signal(lane_bits + 1, reset_less=True)
        steps = Signal(range(lane_bits + 2), reset_less=True)
        used = Signal(ROW_BITS, reset_less=True)

        m.d.comb += [
            walker.address.eq(ask.address),
            walker.plane_step.eq(ask.plane_step),
            walker.row_step.eq(ask.row_step),
            walker.planes.eq(ask.planes),
            walker.rows.eq(ask.rows),
            bursts.memory_base.eq(self.memory_base),
            bursts.memory_bytes.eq(self.memory_bytes),
            bursts.row.valid.eq(walker.o.valid),
            bursts.row.payload.offset.eq(walker.o.payload.offset),
            bursts.row.payload.bytes.eq(ask.row_bytes[:ROW_BITS]),
            bursts.row.payload.used.eq(used),
            bursts.row.payload.error.eq(Error.NONE),
            bursts.row.payload.last.eq(walker.o.payload.last),
            walker.o.ready.eq(bursts.row.ready),
        ]
        # lead - head, in beats and bytes.
        ahead = Signal(
            data.StructLayout({"bytes": lane_bits, "beats": 8 - lane_bits, "negative": 1})
        )
        # The instruction of the row, which may have gone when the row is handed over.
        lead = Signal(8, reset_less=True)
        stride = Signal(lane_bits + 1, reset_less=True)
        with m.If(bursts.row.ready):
            m.d.sync += [lead.eq(ask.lead), stride.eq(ask.vector_step)]
        shape = infos.i.payload
        m.d.comb += [
            infos.i.valid.eq(bursts.info.valid),
            bursts.info.ready.eq(infos.i.ready),
            ahead.eq((lead - bursts.info.payload.head)[:9]),
            shape.some.eq(bursts.info.payload.beats != 0),
            shape.one.eq(bursts.info.payload.beats == 1),
            shape.skip.eq(ahead.negative),
            shape.lead.eq(Mux(ahead.negative, 0, ahead.beats)[:3]),
            shape.shift.eq(~ahead.bytes),
            shape.over.eq(((~ahead.bytes)[:lane_bits] + stride)[lane_bits]),
        ]
        m.d.comb += [shape[name].eq(bursts.info.payload[name]) for name in info_layout.members]

        with m.FSM(name="asking"):
            with m.State("IDLE"):
                m.d.sync += ask.eq(self.unit.instruction.payload)
                with m.If(accept):
                    m.d.sync += [held.eq(1), taken.eq(0), idle.eq(0)]
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                m.d.sync += [
                    reach.eq(R - ask.lead),
                    addend.eq(ask.vectors - 1),
                    step_left.eq(ask.vector_step[: lane_bits + 1]),
                    steps.eq(lane_bits),
                    field_error.eq(
                        (ask.vector_step > R)
                        | (ask.lead > 7 * R)
                        | ((ask.buffer == Buffer.PRM) & ask.base[:pair_bits].any())
                    ),
                ]
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [
                    addend.eq((addend << 1)[: len(addend)]),
                    step_left.eq(step_left >> 1),
                    steps.eq((steps - 1)[: len(steps)]),
                ]
                with m.If(step_left[0]):
                    m.d.sync += reach.eq((reach.as_value() + addend)[: ROW_BITS + 2])
                with m.If(steps == 0):
                    m.next = "LIMIT"
            with m.State("LIMIT"):
                m.d.sync += used.eq(
                    Mux(
                        reach.negative,
                        0,
                        Mux(reach.low < ask.row_bytes[:ROW_BITS], reach.low, ask.row_bytes),
                    )[:ROW_BITS]
                )
                m.next = "START"
            with m.State("START"):
                # A vector_step beyond R never asks: its product would not be the one above.
                m.d.comb += walker.start.eq(~field_error & ~abort)
                with m.If(~abort):
                    m.next = "ROWS"
                with m.Elif(taken):
                    m.d.sync += [held.eq(0), idle.eq(1)]
                    m.next = "IDLE"
            with m.State("ROWS"):
                m.d.comb += prepared.eq(~taken)
                with m.If(taken & (abort | ~walker.busy)):
                    m.d.sync += [held.eq(0), idle.eq(1)]
                    m.next = "IDLE"
                with m.Elif(abort):
                    m.next = "START"
        with m.If(take):
            m.d.sync += taken.eq(1)

        # Bursts on their way.
        outstanding = Signal(range(self.max_outstanding + 1))
        may_ask = Signal(init=1)  # fewer than max_outstanding; formed one step ahead
        asked = Signal()
        answered = Signal()
        ar, r = self.memory.ar, self.memory.r
        m.d.comb += [
            ar.payload.eq(bursts.burst.payload),
            ar.valid.eq(bursts.burst.valid & may_ask),
            bursts.burst.ready.eq(ar.ready & may_ask),
            asked.eq(ar.valid & ar.ready),
            answered.eq(r.valid & r.ready & r.payload.last),
            self.beat.eq(r.valid & r.ready),
        ]
        m.d.sync += [
            outstanding.eq((outstanding + asked - answered)[: len(outstanding)]),
            may_ask.eq(
                answered
                | ~(
                    (outstanding == self.max_outstanding)
                    | (asked & (outstanding == self.max_outstanding - 1))
                )
            ),
        ]

        # The writing side. Stage 1: beats and padding become pairs of neighbouring beats and a
        # position in them. Vector i of a row starts at byte s = head - lead + i * vector_step after
        # the start of its first beat. It is read when the beat with its last byte, floor((s + R -
        # 1) / R), is there: as R bytes of (beat before, this beat), from byte ``shift`` + 1 of the
        # pair, 0 <= shift < R. Hence shift + vector_step >= R: go on to the next beat.
        buffer = Signal(2, reset_less=True)
        pad = Signal(8, reset_less=True)
        step = Signal(lane_bits + 1, reset_less=True)
        double_step = Signal(lane_bits + 2, reset_less=True)
        vectors = Signal(16, reset_less=True)
        single = Signal(reset_less=True)
        address = Signal(row_bits, reset_less=True)
        outside = Signal(reset_less=True)
        error = Signal(ERROR_BITS)

        # Of the next three each is high only while the one before is.
        running = Signal()
        row_held = Signal()
        is_data = Signal()  # the current beat comes from memory
        row_last = Signal(reset_less=True)
        head_keep = Signal(R, reset_less=True)
        tail_keep = Signal(R, reset_less=True)
        beats_left = Signal(ROW_BITS + 1 - lane_bits, reset_less=True)
        beats_any = Signal(reset_less=True)
        beat_first = Signal(reset_less=True)
        beat_final = Signal(reset_less=True)
        lead_left = Signal(3, reset_less=True)
        skip = Signal(reset_less=True)
        shift = Signal(lane_bits, reset_less=True)
        over = Signal(reset_less=True)  # shift + vector_step >= R; formed one step ahead
        vectors_left = Signal(16, reset_less=True)
        vector_last = Signal(reset_less=True)
        fresh = Signal(reset_less=True)
        earlier = Signal(8 * R, reset_less=True)

        have = Signal()
        onward = Signal()
        move = Signal()
        emit = Signal()
        emitted = Signal()
        row_end = Signal()
        row_load = Signal()
        current = Signal(8 * R)
        previous = Signal(8 * R)
        keep = Signal(R)
        farther = Signal(lane_bits + 2)
        bus_error = Signal()

        info = next_row.o.payload
        m.d.comb += [
            have.eq(row_held & (~is_data | r.valid)),
            bus_error.eq(have & is_data & r.payload.resp[1]),
            keep.eq(
                is_data.replicate(R)
                & (head_keep | (~beat_first).replicate(R))
                & (tail_keep | (~beat_final).replicate(R))
            ),
            farther.eq(shift + double_step),
            onward.eq(skip | vector_last | over),
            move.eq(have & onward),
            emit.eq(have & ~skip),
            emitted.eq(emit & ~bus_error & ~outside),
            row_end.eq(emit & vector_last),
            r.ready.eq(abort | (is_data & onward)),
        ]
        for lane in range(R):
            byte = slice(8 * lane, 8 * lane + 8)
            m.d.comb += [
                current[byte].eq(Mux(keep[lane], r.payload.data[byte], pad)),
                previous[byte].eq(Mux(fresh, pad, earlier[byte])),
            ]

        def is_outside(row: Signal, which: Signal) -> Signal:
            result = Signal()
            with m.Switch(which):
                for key, depth in self._depths.items():
                    with m.Case(key):
                        m.d.comb += result.eq(row[(depth - 1).bit_length() :].any())
            return result

        # Once outside, an address stays there. The mask has the bits above an address inside.
        above = Signal(16, reset_less=True)
        with m.If(emit):
            m.d.sync += [
                address.eq((address + 1)[:row_bits]),
                outside.eq(outside | (address[:16] | above).all()),
                shift.eq((shift + step)[:lane_bits]),
                # Two steps on, less the one that ``over`` has counted.
                over.eq(Mux(over, farther[lane_bits + 1], farther[lane_bits])),
                vectors_left.eq((vectors_left - 1)[:16]),
                vector_last.eq(vectors_left == 2),
            ]
        with m.If(move):
            m.d.sync += [earlier.eq(current), fresh.eq(0), skip.eq(0)]
            with m.If(lead_left != 0):
                m.d.sync += [
                    lead_left.eq((lead_left - 1)[:3]),
                    is_data.eq((lead_left == 1) & beats_any),
                ]
            with m.Elif(is_data):
                m.d.sync += [
                    beats_left.eq((beats_left - 1)[: len(beats_left)]),
                    is_data.eq(~beat_final),
                    beat_final.eq(beats_left == 2),
                    beat_first.eq(0),
                ]

        # The next row, in the cycle in which the one before ends.
        m.d.comb += [
            row_load.eq(running & next_row.o.valid & (~row_held | (row_end & ~row_last))),
            next_row.o.ready.eq(row_load | abort),
        ]
        with m.If(row_end):
            m.d.sync += [row_held.eq(0), is_data.eq(0)]
        with m.If(row_load):
            m.d.sync += [
                row_held.eq(1),
                row_last.eq(info.last),
                head_keep.eq((Const((1 << R) - 1, R) << info.head)[:R]),
                tail_keep.eq(~(((Const((1 << R) - 2, R)) << (info.tail - 1)[:lane_bits])[:R])),
                beats_left.eq(info.beats),
                beats_any.eq(info.some),
                beat_first.eq(1),
                beat_final.eq(info.one),
                lead_left.eq(info.lead),
                is_data.eq(info.some & (info.lead == 0)),
                skip.eq(info.skip),
                shift.eq(info.shift),
                over.eq(info.over),
                vectors_left.eq(vectors),
                vector_last.eq(single),
                fresh.eq(1),
            ]

        # Nothing is on its way any more; during an abort nothing new comes.
        quiet = Signal()
        m.d.sync += quiet.eq(
            bursts.idle & (outstanding == 0) & (infos.level == 0) & ~next_row.o.valid & abort
        )

        # Stage 1 control. ``flush``: the instruction ends, its place in the pipeline follows the
        # last vector.
        flush = Signal()
        base = Signal(row_bits)
        m.d.comb += base.eq(Mux(ask.buffer == Buffer.PRM, ask.base >> pair_bits, ask.base))
        # ``running`` and ``abort`` are states, told by registers of their own.
        to_rest = [running.eq(0), row_held.eq(0), is_data.eq(0)]
        to_abort = [*to_rest, abort.eq(1)]
        with m.FSM(name="writing"):
            with m.State("IDLE"):
                m.d.comb += take.eq(held & ~taken & (prepared | stopping))
                base_outside = is_outside(base, ask.buffer[:2])
                m.d.sync += [
                    buffer.eq(ask.buffer[:2]),
                    pad.eq(ask.pad_code.as_unsigned()),
                    step.eq(ask.vector_step[: lane_bits + 1]),
                    double_step.eq(ask.vector_step[: lane_bits + 1] << 1),
                    vectors.eq(ask.vectors),
                    single.eq(ask.vectors == 1),
                    address.eq(base),
                    outside.eq(base_outside),
                    error.eq(Error.NONE),
                ]
                with m.Switch(ask.buffer[:2]):
                    for key, depth in self._depths.items():
                        with m.Case(key):
                            m.d.sync += above.eq((1 << 16) - depth)
                with m.If(take):
                    m.d.sync += running.eq(1)
                    m.next = "RUN"
                    with m.If(stopping):
                        m.d.sync += to_abort
                        m.next = "ABORT"
                    with m.Elif(field_error):
                        m.d.sync += [error.eq(Error.FIELD), *to_abort]
                        m.next = "ABORT"
            with m.State("RUN"):
                with m.If(stopping):
                    m.d.sync += to_abort
                    m.next = "ABORT"
                with m.Elif(bus_error):
                    m.d.sync += [error.eq(Error.BUS), *to_abort]
                    m.next = "ABORT"
                with m.Elif(emit & outside):
                    m.d.sync += [error.eq(Error.BUFFER), *to_abort]
                    m.next = "ABORT"
                with m.Elif(row_end & row_last):
                    m.d.comb += flush.eq(1)
                    m.d.sync += to_rest
                    m.next = "IDLE"
                with m.Elif(row_load & (info.error != Error.NONE)):
                    m.d.sync += [error.eq(info.error), *to_abort]
                    m.next = "ABORT"
            with m.State("ABORT"):
                with m.If(quiet & ~(held & taken)):
                    m.d.comb += flush.eq(1)
                    m.d.sync += abort.eq(0)
                    m.next = "IDLE"

        # Stage 2: the pair. Stage 3: shifted by whole fours of bytes. Stage 4: its vector, at the
        # write ports.
        carried = data.StructLayout(
            {
                "shift": lane_bits,
                "address": row_bits,
                "buffer": 2,
                "error": ERROR_BITS,
            }
        )
        pair = Signal(16 * R, reset_less=True)
        pair_info = Signal(carried, reset_less=True)
        pair_valid, pair_flush = Signal(), Signal()
        coarse = Signal(8 * (R + 3), reset_less=True)
        coarse_info = Signal(carried, reset_less=True)
        coarse_valid, coarse_flush = Signal(), Signal()
        write_flush = Signal()
        write_error = Signal(ERROR_BITS, reset_less=True)
        m.d.sync += [
            pair.eq(Cat(previous, current)),
            pair_info.shift.eq(shift),
            pair_info.address.eq(address),
            pair_info.buffer.eq(buffer),
            pair_info.error.eq(error),
            pair_valid.eq(emitted),
            pair_flush.eq(flush),
            coarse.eq((pair[8:] >> (pair_info.shift[2:] << 5))[: len(coarse)]),
            coarse_info.eq(pair_info),
            coarse_valid.eq(pair_valid),
            coarse_flush.eq(pair_flush),
            write_flush.eq(coarse_flush),
            write_error.eq(coarse_info.error),
            finish.eq(write_flush),
            self.unit.error.eq(Mux(write_flush, write_error, Error.NONE)),
        ]
        m.d.comb += self.unit.done.eq(finish)
        # Registers for each scratchpad: their blocks lie all over the chip.
        for key in self._depths:
            port = getattr(self, key.name.lower())
            chosen = coarse_info.buffer == key
            m.d.sync += port.en.eq(coarse_valid & chosen)
            with m.If(chosen):
                m.d.sync += [
                    port.addr.eq(coarse_info.address[: len(port.addr)]),
                    port.data.eq((coarse >> (coarse_info.shift[:2] << 3))[: 8 * R]),
                ]
        return m
