"""The load unit: memory to scratchpads, with padding, dense or as overlapping windows."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
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
from intaglio_hw.streams import Queue, Tally, TwinBuffer

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
    5. ``beat`` is high for one cycle for each beat taken from the memory, in the cycle after.

    ``memory_base`` (a multiple of 4096) and ``memory_bytes`` (a multiple of R) are constant while
    an instruction runs.

    Parameters
    ----------
    config
        Sizes of the machine.
    max_outstanding
        Bursts on their way, at least 1.
    """

    #: Cycles from an instruction to its first burst: 1 to accept, log2(R) + 7 to prepare, 5 for
    #: row and burst.
    ISSUE_CYCLES = {8: 16, 16: 17, 32: 18}
    #: Cycles from a beat to the write of the vector that it completes.
    LATENCY = 3
    #: Cycles from the hand-over of a row to when the writing side may begin with it.
    ROW = 1 + Queue.LATENCY + TwinBuffer.LATENCY
    #: Cycles from the end of asking, and from that of writing, to when another may be accepted, or
    #: taken: it is noted, then the side rests.
    NEXT_ACCEPT, NEXT_TAKE = 3, 2
    #: Cycles from the last beat of a burst to when it is no longer on its way.
    RELEASE = 2

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
        # What the writing side has to know about a row is formed in front of its queue, and of the
        # two places behind it.
        info_layout = row_info_layout(self.config)
        row_shape = data.StructLayout(
            {
                **info_layout.members,
                "failed": 1,  # has an error
                "two": 1,  # it has so many beats at least
                "three": 1,
                "is_data": 1,  # the first beat comes from memory, the second
                "then_data": 1,
                "skip": 1,  # the first vector also needs the second beat
                "lead": 3,  # whole beats of padding in front
                "shift": lane_bits,  # of the first vector, of the second
                "over": 1,
                "then_shift": lane_bits,
                "then_over": 1,
            }
        )
        place_shape = data.StructLayout({**row_shape.members, "head": R, "tail": R})
        m.submodules.infos = infos = Queue(shape=row_shape, depth=16)
        m.submodules.next_row = next_row = TwinBuffer(shape=place_shape)

        # ``abort`` throws away all that is on its way: rows, bursts not yet offered, beats.
        abort = Signal()
        m.d.comb += [walker.halt.eq(abort), bursts.halt.eq(abort)]

        # Instructions in flight.
        finish = Signal()
        accept = Signal()
        stopping = Signal()
        idle = Signal(init=1)  # of the asking side
        m.submodules.flying = flying = Tally(size=IN_FLIGHT)
        may_accept = Signal(init=1)
        full = flying.level[-1] | (accept & flying.level[-2])
        m.d.comb += [
            flying.up.eq(accept),
            flying.down.eq(finish),
            self.unit.instruction.ready.eq(may_accept),
            accept.eq(self.unit.instruction.valid & may_accept),
        ]
        m.d.sync += [
            stopping.eq(self.unit.stop | (stopping & flying.level[0])),
            may_accept.eq(idle & ~accept & (finish | ~full) & ~self.unit.stop & ~stopping),
        ]

        # The asking side: one instruction, prepared, then its rows one after the other. It
        # ``waits`` for the writing side to take it, is not ``idle`` until that has happened and all
        # its rows are handed over, and starts anew when it was not taken before an abort.
        waits = Signal()
        take = Signal()
        ask = Signal(instruction_layout(isa.LOAD), reset_less=True)
        # One after the other: PREPARE, a multiplication, CHOOSE, then ``starts`` until there is no
        # abort, and ``lists``.
        PREPARE, CHOOSE = 1, 5 + lane_bits
        preparing = Signal(CHOOSE + 1)
        starts, lists = Signal(), Signal()
        # reach: bytes of a row up to the last byte of its last vector, (vectors - 1) * vector_step
        # + R - lead, as a sum of parts.
        reach = Signal(data.StructLayout({"low": ROW_BITS + 1, "negative": 1}), reset_less=True)
        part = Signal(signed(ROW_BITS + 2), reset_less=True)
        addend = Signal(ROW_BITS + 1, reset_less=True)
        step_left = Signal(lane_bits + 1)
        shorter = Signal(reset_less=True)
        used = Signal(ROW_BITS, reset_less=True)
        # Of the instruction that is held, from the second cycle on.
        vectors_less = Signal(16, reset_less=True)
        in_front = Signal(signed(10), reset_less=True)
        place = Signal(row_bits, reset_less=True)
        place_outside = Signal(reset_less=True)
        wrong = Signal(3, reset_less=True)
        field_error = Signal(reset_less=True)

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
            # A vector_step beyond R never asks: its product would not be the one above.
            walker.start.eq(starts & ~field_error & ~abort),
        ]
        m.d.sync += [
            vectors_less.eq(ask.vectors - 1),
            in_front.eq(R - ask.lead),
            place.eq(Mux(ask.buffer == Buffer.PRM, ask.base >> pair_bits, ask.base)),
            place_outside.eq(self._is_outside(m, place, ask.buffer[:2])),
            wrong.eq(
                Cat(
                    ask.vector_step > R,
                    ask.lead > 7 * R,
                    (ask.buffer == Buffer.PRM) & ask.base[:pair_bits].any(),
                )
            ),
            field_error.eq(wrong.any()),
            preparing.eq(Cat(accept, preparing)[: len(preparing)]),
            addend.eq(addend << 1),
            step_left.eq(step_left >> 1),
            part.eq(Mux(step_left[0], addend, 0)),
            reach.eq(reach.as_value() + part),
            shorter.eq((reach.low - ask.row_bytes[:ROW_BITS])[-1]),
        ]
        with m.If(preparing[PREPARE]):
            m.d.sync += [
                addend.eq(vectors_less),
                step_left.eq(ask.vector_step[: lane_bits + 1]),
                part.eq(in_front),
            ]
        with m.If(preparing[CHOOSE]):
            m.d.sync += used.eq(Mux(shorter, reach.low, ask.row_bytes)[:ROW_BITS])
            with m.If(reach.negative):
                m.d.sync += used.eq(0)
        asked_all = Signal()
        again = Signal()
        m.d.comb += [
            asked_all.eq(~waits & Mux(lists, abort | ~walker.busy, starts & abort)),
            again.eq(lists & waits & abort),
        ]
        m.d.sync += [
            waits.eq(accept | (waits & ~take)),
            idle.eq((idle & ~accept) | asked_all),
            starts.eq(preparing[CHOOSE] | again | (starts & abort & waits)),
            lists.eq((starts & ~abort) | (lists & ~asked_all & ~again)),
        ]
        with m.If(idle):
            m.d.sync += [ask.eq(self.unit.instruction.payload), reach.eq(0)]

        handing = self._hand_over(m, bursts, infos, next_row, ask)

        # Bursts on their way; one that is asked for is counted a cycle later, before the next one
        # is offered.
        m.submodules.outstanding = outstanding = Tally(size=self.max_outstanding)
        may_ask = ~outstanding.level[-1]
        ar, r = self.memory.ar, self.memory.r
        m.d.comb += [
            ar.payload.eq(bursts.burst.payload),
            ar.valid.eq(bursts.burst.valid & may_ask),
            bursts.burst.ready.eq(ar.ready & may_ask),
        ]
        m.d.sync += [
            outstanding.up.eq(ar.valid & ar.ready),
            outstanding.down.eq(r.valid & r.ready & r.payload.last),
            self.beat.eq(r.valid & r.ready),
        ]

        # The writing side. Stage 1: beats and padding become pairs of neighbouring beats and a
        # position in them. Vector i of a row starts at byte s = head - lead + i * vector_step after
        # the start of its first beat. It is read when the beat with its last byte, floor((s + R -
        # 1) / R), is there: as R bytes of (beat before, this beat), from byte ``shift`` + 1 of the
        # pair, 0 <= shift < R. Hence shift + vector_step >= R: go on to the next beat.
        #
        # It goes a step ahead whenever the beat is there: ``advance`` out of two registers. What a
        # step does was decided by the one before: ``at_end``, go on to the next row, if there is
        # one; ``skip``, to the next beat without a vector; otherwise to the next vector, and with
        # ``onward`` to the next beat.
        pad = Signal(8, reset_less=True)
        step = Signal(lane_bits + 1, reset_less=True)
        double_step = Signal(lane_bits + 2, reset_less=True)
        vectors = Signal(16, reset_less=True)
        single, double = Signal(reset_less=True), Signal(reset_less=True)
        selected = Signal(len(self._depths), reset_less=True)
        address = Signal(row_bits, reset_less=True)
        outside = Signal(reset_less=True)
        error = Signal(ERROR_BITS)

        resting, running = Signal(init=1), Signal()
        takes, ends = Signal(), Signal()  # the step takes a row, ends the instruction
        row_held = Signal()
        is_data, then_data = Signal(), Signal(reset_less=True)  # this beat, the next one
        at_end = Signal(init=1)
        # The same for those who choose by it between many bits.
        at_end_beats, at_end_vectors = Signal(init=1), Signal(init=1)
        for copy in (at_end_beats, at_end_vectors):
            copy.attrs["keep"] = 1
        skip = Signal()
        onward = Signal(init=1)
        wants = Signal()  # onward and data, or abort
        row_last = Signal(reset_less=True)
        row_error = Signal(ERROR_BITS, reset_less=True)
        head_keep = Signal(R, reset_less=True)
        tail_keep = Signal(R, reset_less=True)
        beat_first = Signal(reset_less=True)
        lead_left = Signal(3, reset_less=True)
        lead_done = Signal(reset_less=True)
        # Beats behind the current one, or while ``lead_left`` behind the first; then: so many.
        more = Signal(ROW_BITS + 1 - lane_bits, reset_less=True)
        some, two, three = Signal(reset_less=True), Signal(reset_less=True), Signal(reset_less=True)
        shift, then_shift = Signal(lane_bits, reset_less=True), Signal(lane_bits, reset_less=True)
        over, then_over = Signal(reset_less=True), Signal(reset_less=True)
        vectors_left = Signal(16, reset_less=True)
        vector_last, vector_next = Signal(reset_less=True), Signal(reset_less=True)
        fresh = Signal(reset_less=True)
        earlier = Signal(8 * R, reset_less=True)

        advance = Signal()
        row_there = Signal()
        after_data = Signal()
        farther = Signal(lane_bits + 2)
        current = Signal(8 * R)
        previous = Signal(8 * R)
        keep = Signal(R)
        info = next_row.o.payload
        m.d.comb += [
            advance.eq(~is_data | r.valid),
            row_there.eq(next_row.o.valid & takes),
            next_row.o.ready.eq((takes & advance) | abort),
            r.ready.eq(wants),
            keep.eq(
                is_data.replicate(R)
                & (head_keep | (~beat_first).replicate(R))
                & (tail_keep | then_data.replicate(R))
            ),
            farther.eq(then_shift + double_step),
        ]
        with m.Switch(lead_left):
            with m.Case(0):
                m.d.comb += after_data.eq(three)
            with m.Case(1):
                m.d.comb += after_data.eq(two)
            with m.Case(2):
                m.d.comb += after_data.eq(some)
        for lane in range(R):
            byte = slice(8 * lane, 8 * lane + 8)
            m.d.comb += [
                current[byte].eq(Mux(keep[lane], r.payload.data[byte], pad)),
                previous[byte].eq(Mux(fresh, pad, earlier[byte])),
            ]

        # Beats. With no row held ``onward`` is high as well.
        with m.If(advance):
            with m.If(at_end):
                row_onward = info.skip | info.over | single
                m.d.sync += [
                    is_data.eq(info.is_data & row_there),
                    onward.eq(~row_there | row_onward),
                    wants.eq(info.is_data & row_there & row_onward),
                ]
            with m.Elif(skip):
                m.d.sync += [
                    is_data.eq(then_data),
                    onward.eq(over | vector_last),
                    wants.eq(then_data & (over | vector_last)),
                ]
            with m.Else():
                beat_data = Mux(over, then_data, is_data)
                m.d.sync += [
                    is_data.eq(beat_data),
                    onward.eq(then_over | vector_next),
                    wants.eq(beat_data & (then_over | vector_next)),
                ]
        with m.If(advance & at_end):
            m.d.sync += [
                row_last.eq(info.last),
                row_error.eq(info.error),
                head_keep.eq(info.head),
                tail_keep.eq(info.tail),
                some.eq(info.some),
                two.eq(info.two),
            ]
        with m.If(advance & onward):
            m.d.sync += [
                earlier.eq(current),
                fresh.eq(at_end_beats),
                then_data.eq(Mux(at_end_beats, info.then_data, after_data)),
                beat_first.eq(at_end_beats | (beat_first & ~is_data)),
                lead_left.eq(Mux(at_end_beats, info.lead, Mux(lead_done, 0, lead_left - 1))),
                lead_done.eq(Mux(at_end_beats, info.lead == 0, lead_left[1:] == 0)),
                more.eq(Mux(at_end_beats, info.more, more - lead_done)),
                three.eq(Mux(at_end_beats, info.three, three & ~(lead_done & (more == 2)))),
            ]

        # Vectors.
        with m.If(advance & ~skip):
            m.d.sync += [
                shift.eq(Mux(at_end_vectors, info.shift, then_shift)),
                over.eq(Mux(at_end_vectors, info.over, then_over)),
                then_shift.eq(Mux(at_end_vectors, info.then_shift, then_shift + step)),
                # Two steps on, less the one that ``then_over`` has counted.
                then_over.eq(
                    Mux(
                        at_end_vectors,
                        info.then_over,
                        Mux(then_over, farther[lane_bits + 1], farther[lane_bits]),
                    )
                ),
                vectors_left.eq(Mux(at_end_vectors, vectors, vectors_left - 1)),
                vector_last.eq(Mux(at_end_vectors, single, vector_next)),
                vector_next.eq(Mux(at_end_vectors, double, vectors_left == 3)),
            ]

        # Rows. After the last row nothing is held and nothing taken.
        ends_of_row = (at_end, at_end_beats, at_end_vectors)
        with m.If(advance):
            with m.If(at_end):
                row_end = single & ~info.skip
                m.d.sync += [
                    row_held.eq(row_there),
                    skip.eq(info.skip & row_there),
                    *(end.eq(~row_there | row_end) for end in ends_of_row),
                    ends.eq(row_there & row_end & info.last),
                ]
                with m.If(row_there):
                    m.d.sync += takes.eq(row_end & ~info.last)
            with m.Else():
                row_end = Mux(skip, vector_last, vector_next)
                m.d.sync += [
                    skip.eq(0),
                    *(end.eq(row_end) for end in ends_of_row),
                    ends.eq(row_end & row_last),
                    takes.eq(row_end & ~row_last),
                ]

        # Stage 2: the pair, its address, and what was wrong with its step. Stage 3: shifted by
        # whole fours of bytes. Stage 4: its vector, at the write ports.
        pair = Signal(16 * R, reset_less=True)
        pair_shift = Signal(lane_bits, reset_less=True)
        pair_valid = Signal()
        ended, failed, bus_error = Signal(), Signal(), Signal()  # failed: on the bus, or a row
        m.d.sync += [
            pair.eq(Cat(previous, current)),
            pair_shift.eq(shift),
            pair_valid.eq(row_held & ~skip & advance),
            ended.eq(ends & advance),
            failed.eq(
                (is_data & r.valid & r.payload.resp[1]) | (row_there & advance & info.failed)
            ),
            bus_error.eq(is_data & r.valid & r.payload.resp[1]),
        ]
        # Once outside, an address stays there. The mask has the bits above an address inside.
        above = Signal(16, reset_less=True)
        with m.If(pair_valid):
            m.d.sync += [
                address.eq(address + 1),
                outside.eq(outside | (address[:16] | above).all()),
            ]
        coarse = Signal(8 * (R + 3), reset_less=True)
        coarse_shift = Signal(2, reset_less=True)
        coarse_address = Signal(row_bits, reset_less=True)
        coarse_selected = Signal.like(selected)
        coarse_valid, coarse_flush, write_flush = Signal(), Signal(), Signal()
        flush = Signal()
        coarse_error, write_error = (
            Signal(ERROR_BITS, name=f"{n}_error", reset_less=True) for n in ("coarse", "write")
        )
        m.d.sync += [
            coarse.eq(pair[8:] >> (pair_shift[2:] << 5)),
            coarse_shift.eq(pair_shift[:2]),
            coarse_address.eq(address),
            coarse_selected.eq(selected),
            coarse_valid.eq(pair_valid & ~outside & ~bus_error & ~abort),
            coarse_flush.eq(flush),
            coarse_error.eq(Mux(abort, error, Error.NONE)),
            write_flush.eq(coarse_flush),
            write_error.eq(coarse_error),
            finish.eq(write_flush),
            self.unit.error.eq(Mux(write_flush, write_error, Error.NONE)),
        ]
        m.d.comb += self.unit.done.eq(finish)
        # Registers for each scratchpad: their blocks lie all over the chip.
        for i, key in enumerate(self._depths):
            port = getattr(self, key.name.lower())
            m.d.sync += port.en.eq(coarse_valid & coarse_selected[i])
            with m.If(coarse_selected[i]):
                m.d.sync += [
                    port.addr.eq(coarse_address[: len(port.addr)]),
                    port.data.eq((coarse >> (coarse_shift << 3))[: 8 * R]),
                ]

        # Nothing is on its way any more; during an abort nothing new comes.
        quiet = Signal()
        m.d.sync += quiet.eq(
            abort
            & bursts.idle
            & ~outstanding.up
            & ~outstanding.level[0]
            & ~handing
            & infos.empty
            & ~next_row.o.valid
        )

        # Control: ``resting``, ``running`` or ``abort``, from what the step before has done.
        # ``flush``: the instruction ends, its place in the pipeline follows the last vector.
        # ``error`` has a meaning once there is an abort.
        m.d.comb += take.eq(resting & waits & (lists | stopping))
        with m.If(resting):
            m.d.sync += [
                pad.eq(ask.pad_code),
                step.eq(ask.vector_step[: lane_bits + 1]),
                double_step.eq(ask.vector_step[: lane_bits + 1] << 1),
                vectors.eq(ask.vectors),
                single.eq(ask.vectors == 1),
                double.eq(ask.vectors == 2),
                selected.eq(Cat(ask.buffer[:2] == key for key in self._depths)),
                address.eq(place),
                outside.eq(place_outside),
                error.eq(Mux(stopping, Error.NONE, Error.FIELD)),
            ]
            with m.Switch(ask.buffer[:2]):
                for key, depth in self._depths.items():
                    with m.Case(key):
                        m.d.sync += above.eq((1 << 16) - depth)
            with m.If(take):
                m.d.sync += resting.eq(0)
                with m.If(stopping | field_error):
                    m.d.sync += abort.eq(1)
                with m.Else():
                    m.d.sync += [running.eq(1), takes.eq(1)]
        beyond = pair_valid & outside
        with m.If(running):
            m.d.sync += error.eq(row_error)
            with m.If(beyond):
                m.d.sync += error.eq(Error.BUFFER)
            with m.If(bus_error):
                m.d.sync += error.eq(Error.BUS)
            with m.If(stopping):
                m.d.sync += error.eq(Error.NONE)
        with m.If(running & (stopping | failed | beyond)):
            m.d.sync += [running.eq(0), abort.eq(1)]
        with m.Elif(running & ended):
            m.d.comb += flush.eq(1)
            m.d.sync += [running.eq(0), resting.eq(1)]
        with m.If(abort):
            m.d.sync += [
                *(signal.eq(0) for signal in (takes, ends, row_held, is_data, skip)),
                *(signal.eq(1) for signal in (*ends_of_row, onward, wants)),
            ]
            with m.If(quiet & (idle | waits)):
                m.d.comb += flush.eq(1)
                m.d.sync += [abort.eq(0), resting.eq(1)]
        return m

    def _is_outside(self, m: Module, row: Signal, buffer: Value) -> Signal:
        """Return whether ``row`` is none of the scratchpad ``buffer``."""
        result = Signal()
        with m.Switch(buffer):
            for key, depth in self._depths.items():
                with m.Case(key):
                    m.d.comb += result.eq(row[(depth - 1).bit_length() :].any())
        return result

    def _hand_over(self, m: Module, bursts, infos, next_row, ask) -> Signal:
        """Form what the writing side has to know of a row; return whether one is on its way.

        RowBursts hands over one row in three cycles: what its ``ready`` says may be a cycle old,
        and what depends on ``head`` is formed before the row is handed over.
        """
        R = self.config.R
        lane_bits = (R - 1).bit_length()
        # The instruction of the row, which may have gone when the row is handed over.
        lead = Signal(8, reset_less=True)
        stride = Signal(lane_bits + 1, reset_less=True)
        with m.If(bursts.row.ready):
            m.d.sync += [lead.eq(ask.lead), stride.eq(ask.vector_step)]
        # lead - head, in beats and bytes.
        ahead_layout = data.StructLayout(
            {"bytes": lane_bits, "beats": 8 - lane_bits, "negative": 1}
        )
        next_ahead = Signal(ahead_layout, reset_less=True)
        ahead = Signal(ahead_layout, reset_less=True)
        handed = Signal(bursts.info.payload.shape(), reset_less=True)
        two, three = Signal(reset_less=True), Signal(reset_less=True)
        failed = Signal(reset_less=True)
        handing = Signal()
        about = bursts.info.payload
        m.d.sync += [
            bursts.info.ready.eq(infos.i.ready),
            handing.eq(bursts.info.valid & bursts.info.ready),
            next_ahead.eq(lead - about.head),
            ahead.eq(next_ahead),
            handed.eq(about),
            two.eq(about.some & about.more.any()),
            three.eq(about.some & about.more[1:].any()),
            failed.eq(about.error != Error.NONE),
        ]
        shape = infos.i.payload
        then = Signal(lane_bits + 1)
        farther = Signal(lane_bits + 1)
        m.d.comb += [
            infos.i.valid.eq(handing),
            *(shape[name].eq(handed[name]) for name in bursts.info.payload.shape().members),
            shape.two.eq(two),
            shape.three.eq(three),
            shape.failed.eq(failed),
            shape.skip.eq(ahead.negative),
            shape.lead.eq(Mux(ahead.negative, 0, ahead.beats)),
            shape.is_data.eq(handed.some & (shape.lead == 0)),
            shape.then_data.eq(Mux(shape.lead == 0, two, handed.some & (shape.lead == 1))),
            shape.shift.eq(~ahead.bytes),
            then.eq(shape.shift + stride),
            shape.over.eq(then[lane_bits]),
            shape.then_shift.eq(then),
            farther.eq(shape.then_shift + stride),
            shape.then_over.eq(farther[lane_bits]),
        ]
        row, place = infos.o.payload, next_row.i.payload
        m.d.comb += [
            next_row.i.valid.eq(infos.o.valid),
            infos.o.ready.eq(next_row.i.ready),
            *(place[name].eq(row[name]) for name in row.shape().members),
            place.head.eq(Const((1 << R) - 1, R) << row.head),
            place.tail.eq(~(Const((1 << R) - 2, R) << (row.tail - 1)[:lane_bits])[:R]),
        ]
        return handing
