"""The load unit: memory to scratchpads, with padding, dense or as overlapping windows."""

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Buffer, Error
from intaglio.spec.memory import OUTSTANDING
from intaglio_hw.axi import ROW_BITS, RowBursts, RowWalker
from intaglio_hw.interfaces import (
    ERROR_BITS,
    IN_FLIGHT,
    AxiReadSignature,
    UnitSignature,
    WritePortSignature,
    follow_offer,
    instruction_layout,
)
from intaglio_hw.load_rows import REST, STEP, hand_over, place_layout, row_layout, step_fields
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
    LATENCY = 4
    #: Cycles from the hand-over of a row to when the writing side may begin with it.
    ROW = 1 + Queue.LATENCY + TwinBuffer.LATENCY
    #: Cycles from the end of asking, and from that of writing, to when another may be accepted, or
    #: taken: it is noted, then the side rests.
    NEXT_ACCEPT, NEXT_TAKE = 3, 2
    #: Cycles from the last beat of a burst to when it is no longer on its way.
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
        width = 8 * config.R
        self._depths = {
            Buffer.IFM: config.ifm_depth,
            Buffer.WGT: config.wgt_depth,
            Buffer.VEC: config.vec_depth,
            Buffer.PRM: config.prm_depth // config.params_per_vector,
        }
        super().__init__(
            {
                "unit": Out(UnitSignature(isa.LOAD, held=lean)),
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

        m.submodules.walker = walker = RowWalker(held=self.lean)
        m.submodules.bursts = bursts = RowBursts(config=self.config)
        m.submodules.infos = infos = Queue(shape=row_layout(self.config), depth=16)
        m.submodules.next_row = next_row = TwinBuffer(shape=place_layout(self.config))

        # ``abort`` throws away all that is on its way: rows, bursts not yet offered, beats.
        abort = Signal()
        m.d.comb += [walker.halt.eq(abort), bursts.halt.eq(abort)]

        # Instructions in flight.
        finish = Signal()
        accept = Signal()
        stopping = Signal()
        idle = Signal(init=1)  # of the asking side
        asks = Signal()  # its complement: the first has all the instruction to tell
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
            may_accept.eq(~asks & ~accept & (finish | ~full) & ~self.unit.stop & ~stopping),
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
        vectors_behind = Signal(signed(17), reset_less=True)
        one_vector = Signal(reset_less=True)
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
            vectors_behind.eq(ask.vectors - 3),
            one_vector.eq(ask.vectors == 1),
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
            asks.eq(accept | (asks & ~asked_all)),
            starts.eq(preparing[CHOOSE] | again | (starts & abort & waits)),
            lists.eq((starts & ~abort) | (lists & ~asked_all & ~again)),
        ]
        offered = self.unit.instruction.payload
        follow_offer(m, self.unit, idle, ask.eq(offered), also=[reach.eq(0)])

        handing = hand_over(m, self.config, bursts, infos, next_row, ask, one_vector)

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
        # It goes a step ahead whenever the beat is there: ``advance`` out of two registers. What
        # the step does, ``now``, was decided by the one before, or in front of the places for the
        # first of a row.
        pad = Signal(8, reset_less=True)
        step = Signal(lane_bits + 1, reset_less=True)
        double_step = Signal(lane_bits + 2, reset_less=True)
        vectors = Signal(signed(17), reset_less=True)
        selected = Signal(len(self._depths), reset_less=True)
        address = Signal(row_bits, reset_less=True)
        outside = Signal(reset_less=True)
        error = Signal(ERROR_BITS)

        resting = Signal(init=1)
        engaged = Signal()  # its complement
        running = Signal()
        now = Signal(STEP, init=REST)
        wants = Signal()  # waiting for a beat, or abort
        then_data = Signal(reset_less=True)  # the next beat comes from memory
        row_last = Signal(reset_less=True)
        row_error = Signal(ERROR_BITS, reset_less=True)
        head_keep = Signal(R, reset_less=True)  # of the first beat, then all
        tail_keep = Signal(R, reset_less=True)
        lead_left = Signal(3, reset_less=True)
        lead_near = Signal(reset_less=True)  # 2 at most
        some = Signal(reset_less=True)
        # Beats, if there are ``some``, with those of padding in front, behind the next but one;
        # none: negative.
        more = Signal(signed(ROW_BITS + 2 - lane_bits), reset_less=True)
        shift, then_shift = Signal(lane_bits, reset_less=True), Signal(lane_bits, reset_less=True)
        over, then_over = Signal(reset_less=True), Signal(reset_less=True)
        # Vectors behind the next but one: negative when the next one is the last.
        vectors_left = Signal(signed(17), reset_less=True)
        vector_next = vectors_left[-1]
        vector_last = Signal(reset_less=True)
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
            advance.eq(~now.is_data | r.valid),
            row_there.eq(next_row.o.valid & now.takes),
            next_row.o.ready.eq((now.takes & advance) | abort),
            r.ready.eq(wants),
            keep.eq(now.is_data.replicate(R) & head_keep & (tail_keep | then_data.replicate(R))),
            farther.eq(then_shift + double_step),
        ]
        m.d.comb += after_data.eq(lead_near & some & ~more[-1])
        for lane in range(R):
            byte = slice(8 * lane, 8 * lane + 8)
            m.d.comb += [
                current[byte].eq(Mux(keep[lane], r.payload.data[byte], pad)),
                previous[byte].eq(Mux(fresh, pad, earlier[byte])),
            ]

        # After the last row nothing is held and nothing taken.
        with m.If(advance):
            with m.If(now.within):
                is_data = Mux(now.skip | over, then_data, now.is_data)
                onward = Mux(now.skip, over | vector_last, then_over | vector_next)
                at_end = Mux(now.skip, vector_last, vector_next)
                following = step_fields(
                    is_data=is_data, onward=onward, skip=Const(0), at_end=at_end, last=row_last
                )
                m.d.sync += [now[name].eq(value) for name, value in following.items()]
                m.d.sync += wants.eq(following["beat_waiting"])
            with m.Elif(row_there):
                m.d.sync += [now.eq(info.first), wants.eq(info.first.beat_waiting)]
            with m.Else():
                m.d.sync += [now[name].eq(REST.get(name, 0)) for name in STEP.members]
                m.d.sync += [now.takes.eq(now.takes), wants.eq(0)]

        # Rows.
        with m.If(now.row_free | (now.row_waiting & r.valid)):
            m.d.sync += [
                row_last.eq(info.last),
                row_error.eq(info.error),
                tail_keep.eq(info.tail),
                some.eq(info.some),
            ]
        # Beats.
        with m.If(now.beat_free | (now.beat_waiting & r.valid)):
            at_end = now.at_end
            m.d.sync += [
                earlier.eq(current),
                fresh.eq(at_end),
                then_data.eq(Mux(at_end, info.then_data, after_data)),
                head_keep.eq(Mux(at_end, info.head, head_keep | now.is_data.replicate(R))),
                lead_left.eq(Mux(at_end, info.lead, Mux(lead_left == 0, 0, lead_left - 1))),
                lead_near.eq(Mux(at_end, info.lead_near, lead_left <= 3)),
                more.eq(Mux(at_end, info.more.as_signed(), more - 1)),
            ]
        # Vectors.
        with m.If(now.vector_free | (now.vector_waiting & r.valid)):
            with m.If(now.within):
                m.d.sync += [
                    shift.eq(then_shift),
                    over.eq(then_over),
                    then_shift.eq(then_shift + step),
                    # Two steps on, less the one that ``then_over`` has counted.
                    then_over.eq(Mux(then_over, farther[lane_bits + 1], farther[lane_bits])),
                    vectors_left.eq(vectors_left - 1),
                    vector_last.eq(vector_next),
                ]
            with m.Else():
                m.d.sync += [
                    shift.eq(info.shift),
                    over.eq(info.over),
                    then_shift.eq(info.then_shift),
                    then_over.eq(info.then_over),
                    vectors_left.eq(vectors),
                    vector_last.eq(info.single),
                ]

        # Stage 2: the pair, its address, and what was wrong with its step. Stage 3: shifted by
        # whole fours of bytes. Stage 4: its vector. Stage 5: the write ports.
        pair = Signal(16 * R, reset_less=True)
        pair_shift = Signal(lane_bits, reset_less=True)
        pair_valid = Signal()
        ended, failed, bus_error = Signal(), Signal(), Signal()  # failed: on the bus, or a row
        m.d.sync += [
            pair.eq(Cat(previous, current)),
            pair_shift.eq(shift),
            pair_valid.eq(now.emits & advance),
            ended.eq(now.ends & advance),
            failed.eq(
                (now.is_data & r.valid & r.payload.resp[1]) | (row_there & advance & info.failed)
            ),
            bus_error.eq(now.is_data & r.valid & r.payload.resp[1]),
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
        coarse_valid = Signal()
        vector = Signal(8 * R, reset_less=True)
        vector_address = Signal(row_bits, reset_less=True)
        vector_selected = Signal.like(selected)
        writes = Signal(len(self._depths))
        # The end goes along; the error after it is known.
        flush = Signal()
        flushes = Signal(3)
        errors = [Signal(ERROR_BITS, name=f"error{i}", reset_less=True) for i in range(3)]
        m.d.sync += [
            coarse.eq(pair[8:] >> (pair_shift[2:] << 5)),
            coarse_shift.eq(pair_shift[:2]),
            coarse_address.eq(address),
            coarse_selected.eq(selected),
            coarse_valid.eq(pair_valid & ~outside & ~bus_error & ~abort),
            vector.eq(coarse >> (coarse_shift << 3)),
            vector_address.eq(coarse_address),
            vector_selected.eq(coarse_selected),
            writes.eq(coarse_selected & coarse_valid.replicate(len(writes))),
            flushes.eq(Cat(flush, flushes)[: len(flushes)]),
            errors[0].eq(Mux(abort, error, Error.NONE)),
            *(after.eq(before) for before, after in pairwise(errors)),
            finish.eq(flushes[-1]),
            self.unit.error.eq(Mux(flushes[-1], errors[-1], Error.NONE)),
        ]
        m.d.comb += self.unit.done.eq(finish)
        # Registers for each scratchpad: their blocks lie all over the chip. Lean: for all of them.
        written = Signal(8 * R, reset_less=True)
        written_address = Signal(row_bits, reset_less=True)
        if self.lean:
            m.d.sync += [written.eq(vector), written_address.eq(vector_address)]
        for i, key in enumerate(self._depths):
            port = getattr(self, key.name.lower())
            m.d.sync += port.en.eq(writes[i])
            if self.lean:
                m.d.comb += [port.addr.eq(written_address[: len(port.addr)]), port.data.eq(written)]
                continue
            with m.If(vector_selected[i]):
                m.d.sync += [port.addr.eq(vector_address[: len(port.addr)]), port.data.eq(vector)]

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
        m.d.comb += take.eq(~engaged & waits & (lists | stopping))
        with m.If(resting):
            m.d.sync += [
                pad.eq(ask.pad_code),
                step.eq(ask.vector_step[: lane_bits + 1]),
                double_step.eq(ask.vector_step[: lane_bits + 1] << 1),
                vectors.eq(vectors_behind),
                selected.eq(Cat(ask.buffer[:2] == key for key in self._depths)),
                address.eq(place),
                outside.eq(place_outside),
                error.eq(Mux(stopping, Error.NONE, Error.FIELD)),
            ]
            with m.Switch(ask.buffer[:2]):
                for key, depth in self._depths.items():
                    with m.Case(key):
                        m.d.sync += above.eq((1 << 16) - depth)
        beyond = pair_valid & outside
        with m.If(running):
            m.d.sync += error.eq(row_error)
            with m.If(beyond):
                m.d.sync += error.eq(Error.BUFFER)
            with m.If(bus_error):
                m.d.sync += error.eq(Error.BUS)
            with m.If(stopping):
                m.d.sync += error.eq(Error.NONE)
        begins, fails, ends_well, ends_badly = (
            Signal(name=name) for name in ("begins", "fails", "ends_well", "ends_badly")
        )
        m.d.comb += [
            begins.eq(take & ~stopping & ~field_error),
            fails.eq(running & (stopping | failed | beyond)),
            ends_well.eq(running & ended & ~(stopping | failed | beyond)),
            ends_badly.eq(abort & quiet & (~asks | waits)),
            flush.eq(ends_well | ends_badly),
        ]
        m.d.sync += [
            resting.eq((resting & ~take) | flush),
            engaged.eq((engaged | take) & ~flush),
            running.eq(begins | (running & ~ended & ~fails)),
            abort.eq((take & ~begins) | fails | (abort & ~ends_badly)),
        ]
        with m.If(begins):
            m.d.sync += now.takes.eq(1)
        with m.If(abort):
            m.d.sync += [now[name].eq(REST.get(name, 0)) for name in STEP.members]
            m.d.sync += wants.eq(1)
        return m

    def _is_outside(self, m: Module, row: Signal, buffer: Value) -> Signal:
        """Return whether ``row`` is none of the scratchpad ``buffer``."""
        result = Signal()
        with m.Switch(buffer):
            for key, depth in self._depths.items():
                with m.Case(key):
                    m.d.comb += result.eq(row[(depth - 1).bit_length() :].any())
        return result
