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
from intaglio_hw.streams import Queue

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
    LATENCY = 2

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
        m.submodules.infos = infos = Queue(shape=row_info_layout(self.config), depth=16)

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
            self.unit.instruction.ready.eq(idle & room & ~self.unit.stop & ~stopping),
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
        wiring.connect(m, bursts.info, infos.i)

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
        may_ask = Signal()
        asked = Signal()
        answered = Signal()
        ar, r = self.memory.ar, self.memory.r
        m.d.comb += [
            may_ask.eq(outstanding != self.max_outstanding),
            ar.payload.eq(bursts.burst.payload),
            ar.valid.eq(bursts.burst.valid & may_ask),
            bursts.burst.ready.eq(ar.ready & may_ask),
            asked.eq(ar.valid & ar.ready),
            answered.eq(r.valid & r.ready & r.payload.last),
            self.beat.eq(r.valid & r.ready),
        ]
        m.d.sync += outstanding.eq((outstanding + asked - answered)[: len(outstanding)])

        # The writing side. Stage 1: beats and padding become pairs of neighbouring beats and a
        # position in them. Vector i of a row starts at byte s = head - lead + i * vector_step after
        # the start of its first beat. It is read when the beat with its last byte, floor((s + R -
        # 1) / R), is there: as R bytes of (beat before, this beat), from byte ``shift`` + 1 of the
        # pair, 0 <= shift < R. Hence shift + vector_step >= R: go on to the next beat.
        buffer = Signal(2, reset_less=True)
        pad = Signal(8, reset_less=True)
        step = Signal(lane_bits + 1, reset_less=True)
        lead = Signal(8, reset_less=True)
        vectors = Signal(16, reset_less=True)
        single = Signal(reset_less=True)
        address = Signal(row_bits, reset_less=True)
        outside = Signal(reset_less=True)
        error = Signal(ERROR_BITS)

        row_held = Signal()
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

        is_data = Signal(reset_less=True)  # the current beat comes from memory
        have = Signal()
        onward = Signal()
        move = Signal()
        emit = Signal()
        emitted = Signal()
        row_end = Signal()
        row_load = Signal()
        running = Signal()
        current = Signal(8 * R)
        previous = Signal(8 * R)
        keep = Signal(R)
        position = Signal(lane_bits + 1)
        bus_error = Signal()

        info = infos.o.payload
        # lead - head, in beats and bytes; negative: the first vector also needs the second beat.
        ahead = Signal(
            data.StructLayout({"bytes": lane_bits, "beats": 8 - lane_bits, "negative": 1})
        )
        m.d.comb += [
            ahead.eq((lead - info.head)[:9]),
            have.eq(running & row_held & (~is_data | r.valid)),
            bus_error.eq(have & is_data & r.payload.resp[1]),
            keep.eq(
                is_data.replicate(R)
                & (head_keep | (~beat_first).replicate(R))
                & (tail_keep | (~beat_final).replicate(R))
            ),
            position.eq(shift + step),
            onward.eq(skip | vector_last | over),
            move.eq(have & onward),
            emit.eq(have & ~skip),
            emitted.eq(emit & ~bus_error & ~outside),
            row_end.eq(emit & vector_last),
            r.ready.eq(abort | (running & row_held & is_data & onward)),
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

        next_address = Signal(row_bits)
        m.d.comb += next_address.eq((address + 1)[:row_bits])
        next_outside = is_outside(next_address, buffer)
        with m.If(emit):
            m.d.sync += [
                address.eq(next_address),
                outside.eq(next_outside),
                shift.eq(position[:lane_bits]),
                over.eq((position[:lane_bits] + step)[lane_bits]),
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
            row_load.eq(running & infos.o.valid & (~row_held | (row_end & ~row_last))),
            infos.o.ready.eq(row_load | abort),
        ]
        with m.If(row_end):
            m.d.sync += row_held.eq(0)
        with m.If(row_load):
            m.d.sync += [
                row_held.eq(1),
                row_last.eq(info.last),
                head_keep.eq((Const((1 << R) - 1, R) << info.head)[:R]),
                tail_keep.eq(~(((Const((1 << R) - 2, R)) << (info.tail - 1)[:lane_bits])[:R])),
                beats_left.eq(info.beats),
                beats_any.eq(info.beats != 0),
                beat_first.eq(1),
                beat_final.eq(info.beats == 1),
                lead_left.eq(Mux(ahead.negative, 0, ahead.beats)[:3]),
                is_data.eq((info.beats != 0) & (ahead.negative | (ahead.beats == 0))),
                skip.eq(ahead.negative),
                shift.eq(~ahead.bytes),
                over.eq(((~ahead.bytes)[:lane_bits] + step)[lane_bits]),
                vectors_left.eq(vectors),
                vector_last.eq(single),
                fresh.eq(1),
            ]

        # Stage 1 control. ``flush``: the instruction ends, its place in the pipeline follows the
        # last vector.
        flush = Signal()
        base = Signal(row_bits)
        m.d.comb += base.eq(Mux(ask.buffer == Buffer.PRM, ask.base >> pair_bits, ask.base))
        # ``running`` and ``abort`` are states, told by registers of their own.
        to_abort = [running.eq(0), abort.eq(1)]
        with m.FSM(name="writing"):
            with m.State("IDLE"):
                m.d.comb += take.eq(held & ~taken & (prepared | stopping))
                base_outside = is_outside(base, ask.buffer[:2])
                m.d.sync += [
                    buffer.eq(ask.buffer[:2]),
                    pad.eq(ask.pad_code.as_unsigned()),
                    step.eq(ask.vector_step[: lane_bits + 1]),
                    lead.eq(ask.lead),
                    vectors.eq(ask.vectors),
                    single.eq(ask.vectors == 1),
                    address.eq(base),
                    outside.eq(base_outside),
                    error.eq(Error.NONE),
                    row_held.eq(0),
                ]
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
                    m.d.sync += running.eq(0)
                    m.next = "IDLE"
                with m.Elif(row_load & (info.error != Error.NONE)):
                    m.d.sync += [error.eq(info.error), *to_abort]
                    m.next = "ABORT"
            with m.State("ABORT"):
                quiet = bursts.idle & (outstanding == 0) & (infos.level == 0)
                with m.If(quiet & ~(held & taken)):
                    m.d.comb += flush.eq(1)
                    m.d.sync += abort.eq(0)
                    m.next = "IDLE"

        # Stage 2: the pair. Stage 3: its vector, at the write ports.
        pair = Signal(16 * R, reset_less=True)
        pair_shift = Signal(lane_bits, reset_less=True)
        pair_address = Signal(row_bits, reset_less=True)
        pair_buffer = Signal(2, reset_less=True)
        pair_valid = Signal()
        pair_flush = Signal()
        pair_error = Signal(ERROR_BITS, reset_less=True)
        write_data = Signal(8 * R, reset_less=True)
        write_address = Signal(row_bits, reset_less=True)
        write_enable = Signal(len(Buffer))
        write_flush = Signal()
        write_error = Signal(ERROR_BITS, reset_less=True)
        m.d.sync += [
            pair.eq(Cat(previous, current)),
            pair_shift.eq(shift),
            pair_address.eq(address),
            pair_buffer.eq(buffer),
            pair_valid.eq(emitted),
            pair_flush.eq(flush),
            pair_error.eq(error),
            write_data.eq((pair[8:] >> (pair_shift << 3))[: 8 * R]),
            write_address.eq(pair_address),
            write_enable.eq(
                Mux(pair_valid, Const(1, len(Buffer)) << pair_buffer, 0)[: len(Buffer)]
            ),
            write_flush.eq(pair_flush),
            write_error.eq(pair_error),
            finish.eq(write_flush),
            self.unit.error.eq(Mux(write_flush, write_error, Error.NONE)),
        ]
        m.d.comb += self.unit.done.eq(finish)
        for key in self._depths:
            port = getattr(self, key.name.lower())
            m.d.comb += [
                port.addr.eq(write_address[: len(port.addr)]),
                port.data.eq(write_data),
                port.en.eq(write_enable[key]),
            ]
        return m
