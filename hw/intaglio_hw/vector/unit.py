"""The vector unit."""

import itertools

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from intaglio.spec import isa
from intaglio.spec.arith import CODE_MAX, CODE_MIN
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error, Function
from intaglio.spec.timing_vector import MIN_CHUNK, SETUP, SETUP_MIN
from intaglio_hw.arith import less
from intaglio_hw.interfaces import (
    DRAIN_LATENCY,
    ERROR_BITS,
    READ_LATENCY,
    ReadPortSignature,
    UnitSignature,
    WritePortSignature,
    address_width,
    follow_offer,
    instruction_layout,
)
from intaglio_hw.primitives import Multiplier, delay_line
from intaglio_hw.requantizer import Requantizer
from intaglio_hw.stages import narrow_layout
from intaglio_hw.vector.addresses import AddressPipeline
from intaglio_hw.vector.argmax import ArgmaxScanner
from intaglio_hw.vector.beats import OFFSET_BITS, beat_layout, delay
from intaglio_hw.vector.parameters import PAIR, ParameterLoader
from intaglio_hw.vector.reducer import Reducer
from intaglio_hw.vector.walker import Walker
from intaglio_hw.vector.writer import OutputWriter

__all__ = ["VectorUnit"]


class _Setup(wiring.Component):
    """Products and checks of a new instruction.

    ``start`` is high in the first cycle in which ``fields`` is valid. ``bad`` is valid LATENCY
    cycles later, ``offset`` and ``step`` one more: with the first position.

    Members
    -------
    before
        The function of the instruction before, if that was one output of one chunk, one-hot as
        ``goes_on``: max, sum.
    goes_on
        This one can be gone on with.
    offset
        ``offset_h * src_cols``, modulo 2**24.
    step
        *resize*: ``(src_rows - 1) * src_cols``; else ``stride_h * src_cols``.
    bad
        The fields contradict each other: Error.FIELD.
    """

    LATENCY = 5

    def __init__(self, *, config: AcceleratorConfig, family: str = "generic") -> None:
        self.config, self.family = config, family
        super().__init__(
            {
                "fields": In(instruction_layout(isa.VECTOR)),
                "start": In(1),
                "before": In(2),
                "goes_on": Out(2),
                "offset": Out(OFFSET_BITS),
                "step": Out(OFFSET_BITS),
                "bad": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, fields = self.config, self.fields

        # One multiplier, used twice; the second product stays. Blocks for it are where the array
        # leaves some: the product has a cycle for the way.
        m.submodules.product = block = Multiplier(a_width=14, b_width=13, family=self.family)
        factor = Signal(signed(14), reset_less=True)
        bottom = Signal(12, reset_less=True)
        resizes = Signal(reset_less=True)
        m.d.sync += [
            bottom.eq(fields.src_rows[:12] - 1),
            resizes.eq(fields.function == Function.RESIZE),
            factor.eq(Mux(resizes, bottom, fields.stride_h)),
        ]
        with m.If(self.start):
            m.d.sync += factor.eq(fields.offset_h[:13].as_signed())
        m.d.comb += [
            block.enable.eq(1),
            block.load.eq(1),
            block.a.eq(factor),
            block.b.eq(fields.src_cols[:12]),
        ]
        m.d.sync += self.step.eq(block.product[:OFFSET_BITS])
        offset_ready = delay(m, self.start, 2 + block.LATENCY, name="start", reset_less=False)
        assert self.LATENCY + 1 == 3 + block.LATENCY
        with m.If(offset_ready):
            m.d.sync += self.offset.eq(self.step)

        is_drain, is_resize, is_argmax = (Signal(reset_less=True) for _ in range(3))
        ones, reduces = Signal(3, reset_less=True), Signal(2, reset_less=True)
        m.d.sync += [
            is_drain.eq(fields.function == Function.DRAIN),
            is_resize.eq(fields.function == Function.RESIZE),
            is_argmax.eq(fields.function == Function.ARGMAX),
            reduces.eq(Cat(fields.function == Function.MAX, fields.function == Function.SUM)),
            ones.eq(Cat(fields.chunks == 1, fields.out_rows == 1, fields.out_cols == 1)),
            self.goes_on.eq(Mux(ones.all(), reduces, 0)),
        ]
        fractions = Signal(4, reset_less=True)
        weights = Signal(len(isa.DEN_H_MAX) - 1, reset_less=True)
        bad_lane, many_chunks = Signal(reset_less=True), Signal(reset_less=True)
        checks = Signal(6, reset_less=True)
        m.d.sync += [
            fractions.eq(
                Cat(
                    ~less(fields.frac_h, fields.den_h),
                    ~less(fields.frac_w, fields.den_w),
                    less(fields.den_h, fields.step_h),
                    less(fields.den_w, fields.step_w),
                )
            ),
            weights.eq(
                Cat(
                    (fields.den_h > largest) & (fields.den_w > bound)
                    for (bound, _), (_, largest) in itertools.pairwise(isa.DEN_H_MAX)
                )
            ),
            bad_lane.eq((fields.lane & (config.drain_lanes - 1)).any() | (fields.lane >= config.R)),
            many_chunks.eq(fields.chunks > config.K // config.drain_lanes),
            # The lanes of argmax follow from the output column.
            checks[0].eq(~is_argmax & bad_lane),
            checks[1].eq(is_drain & many_chunks),
            checks[2].eq(fields.residual[0] & ~is_drain & (fields.function != Function.SUM)),
            checks[3].eq(is_resize & fractions.any()),
            checks[4].eq(is_resize & weights.any()),
            checks[5].eq(fields.accumulate[0] & ~(self.before & self.goes_on).any()),
            self.bad.eq(checks.any()),
        ]
        return m


class VectorUnit(wiring.Component):
    """The unit that runs ``vector`` instructions (:data:`intaglio.spec.isa.VECTOR`).

    Every beat that the :class:`~intaglio_hw.vector.walker.Walker` steps through goes down one
    pipeline that never stalls. Cycles after the beat, with V = 18:

    ====== ========================================================================
    0      counted
    2      position
    3 - 6  inside or outside, clamped, weight, address: VEC is addressed in cycle 6
    8      checked: a beat that may not be performed is dropped; VEC data
    9      lanes selected
    10-17  products, reduction, arg max; ACC is addressed in cycle V - 7
    V      :class:`~intaglio_hw.requantizer.Requantizer` takes the value
    V + 13 codes
    V + 14 OFM is written
    V + 15 ``done``, if the beat was the last
    ====== ========================================================================

    The parameters of the next chunk are read while the current one is processed. The next
    instruction is accepted when the last beat has come to cycle V, so that its set-up overlaps the
    requantisation of this one. :mod:`intaglio.spec.timing_vector` has the exact cycles.

    Errors: FIELD for fields that contradict each other (``lane`` not a multiple of L or not below
    R, except for argmax; drain with ``chunks * L > K``; ``residual`` with another function than
    drain and sum; resize with a fraction not below its denominator or a step above it, or with
    weights of more than 17 bits; ``accumulate`` where there is nothing to go on with); BUFFER for
    an access outside of VEC, PRM, OFM or the accumulator bank, and for an argmax position outside
    of the source. All outputs before it are written, none after it.

    Members
    -------
    unit
        :class:`~intaglio_hw.interfaces.UnitSignature`.
    acc
        Read port: address ``bank * acc_depth + pixel``, data K x int32, lane 0 in the lowest bits.
    vec, prm
        Read ports, rows of R bytes.
    ofm
        Write port, R bytes with byte enables.
    busy
        An instruction is accepted and not done.
    """

    def __init__(
        self, *, config: AcceleratorConfig, family: str = "generic", lean: bool = False
    ) -> None:
        self.config, self.family, self.lean = config, family, lean
        R, K = config.R, config.K
        #: Cycles from a beat to the value that the requantiser takes, V: to the lanes of VEC, one
        #: for the multipliers' inputs, the reduction, one for the choice of the value.
        self.value_latency = Walker.LATENCY + AddressPipeline.LATENCY + 1 + 1 + Reducer.LATENCY + 1
        #: Cycles from an instruction's last beat to ``done``.
        self.latency = self.value_latency + Requantizer.LATENCY + OutputWriter.LATENCY + 1
        super().__init__(
            {
                "unit": Out(UnitSignature(isa.VECTOR, held=lean)),
                "acc": Out(ReadPortSignature(depth=2 * config.acc_depth, width=32 * K)),
                "vec": Out(ReadPortSignature(depth=config.vec_depth, width=8 * R)),
                "prm": Out(
                    ReadPortSignature(
                        depth=config.prm_depth // config.params_per_vector, width=8 * R
                    )
                ),
                "ofm": Out(WritePortSignature(depth=config.ofm_depth, width=8 * R, granularity=8)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        R, K, L, value = config.R, config.K, config.drain_lanes, self.value_latency

        m.submodules.setup = setup = _Setup(config=config, family=self.family)
        m.submodules.walker = walker = Walker(config=config)
        m.submodules.addresses = addresses = AddressPipeline(config=config, family=self.family)
        m.submodules.parameters = parameters = ParameterLoader(config=config, lean=self.lean)
        m.submodules.reducer = reducer = Reducer(lanes=L, family=self.family, lean=self.lean)
        m.submodules.argmax = argmax = ArgmaxScanner(lanes=R)
        m.submodules.requantizer = requantizer = Requantizer(
            lanes=L, family=self.family, lean=self.lean
        )
        m.submodules.writer = writer = OutputWriter(config=config)

        # The instruction, from its acceptance until its last beat has come to cycle V.
        # Each field has the bits that its range needs: the sequencer lets no others through.
        kept = Signal(narrow_layout(isa.VECTOR), reset_less=True)
        fields = Signal(instruction_layout(isa.VECTOR))
        m.d.comb += [fields[field.name].eq(kept[field.name]) for field in isa.VECTOR.fields]
        is_drain, is_argmax, is_max = (Signal(reset_less=True) for _ in range(3))
        is_neutral, reloads = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            is_neutral.eq((fields.function == Function.MAX) | (fields.function == Function.ARGMAX)),
            is_drain.eq(fields.function == Function.DRAIN),
            is_argmax.eq(fields.function == Function.ARGMAX),
            is_max.eq(fields.function == Function.MAX),
            reloads.eq(~fields.uniform[0] & ~is_neutral),
        ]
        # What was set up before: its values stay in the reducer, for ``accumulate``.
        before = Signal(2)
        m.d.comb += [
            setup.before.eq(before),
            setup.fields.eq(fields),
            walker.fields.eq(fields),
            addresses.fields.eq(fields),
            walker.row_start.eq(setup.offset),
            walker.row_step.eq(setup.step),
            addresses.last_row.eq(setup.step),
            parameters.base.eq(fields.prm_base),
            parameters.fixed.eq(fields.uniform[0]),
            parameters.neutral.eq(is_neutral),
        ]
        connect(m, parameters.prm, flipped(self.prm))

        # Control: accept, set up, issue the beats, wait until the last is out of the way. What the
        # states tell the others comes from registers beside the state.
        issue, issue_last, issue_field_error = Signal(), Signal(), Signal()
        last_at_value = Signal()
        # A chunk has begun and its successor's parameters are not being read yet.
        taken = Signal()
        idle, running = Signal(init=1), Signal()
        ready = Signal(init=1)  # idle, without a stop
        rest = Signal(init=1)
        go = Signal(init=1)
        chunk_young = Signal()
        stop, cancel = Signal(), Signal()
        phase = Signal(1 + setup.LATENCY)  # of the set-up, one-hot
        accepted = self.unit.instruction.valid & ready
        m.d.sync += [
            phase.eq(Cat(accepted, phase[:-1])),
            stop.eq(self.unit.stop),
            cancel.eq(addresses.aborted | stop),
        ]
        m.d.comb += [
            self.unit.instruction.ready.eq(ready),
            setup.start.eq(phase[0]),
            parameters.start.eq(phase[0]),
            issue.eq(running & ~cancel & go),
            walker.step.eq(go),
            walker.rest.eq(rest),
            walker.rest_ahead.eq(~(phase[-2] | phase[-1] | running)),
        ]
        # The first step is that of the last phase. A chunk begins when its parameters are there and
        # the one before is not too young; formed one step ahead.
        wait = taken | chunk_young | ~parameters.soon
        begins_chunk = go & walker.chunk_first
        assert Walker.MIN_CHUNK == MIN_CHUNK == 3
        if L + SETUP < SETUP_MIN:
            # The parameters of so few lanes are there before the first chunk, which that step
            # begins, is old enough for a second one.
            wait, begins_chunk = wait | phase[-1], begins_chunk | phase[-1]
        m.d.sync += [
            rest.eq(walker.rest_ahead),
            chunk_young.eq(begins_chunk),
        ]
        with m.If(rest):
            m.d.sync += go.eq(1)
        with m.Elif(go):
            m.d.sync += go.eq(~(walker.chunk_last & (walker.chunk_first | wait)))
        with m.Else():
            m.d.sync += go.eq(~wait)
        # Set up, run until the last beat, wait for it.
        refused, ends = setup.bad | cancel, cancel | (go & walker.last)
        becomes_idle = (idle & ~accepted) | last_at_value
        m.d.comb += [
            issue_last.eq((phase[-1] & refused) | (running & ends)),
            issue_field_error.eq(phase[-1] & setup.bad),
        ]
        m.d.sync += [
            running.eq((phase[-1] & ~refused) | (running & ~ends)),
            idle.eq(becomes_idle),
            ready.eq(becomes_idle & ~self.unit.stop),
        ]
        payload = self.unit.instruction.payload
        taken_fields = (kept[field.name].eq(payload[field.name]) for field in isa.VECTOR.fields)
        follow_offer(m, self.unit, idle, *taken_fields)
        with m.If(stop):
            m.d.sync += before.eq(0)
        with m.Elif(phase[-1]):
            m.d.sync += before.eq(setup.goes_on)

        # Cycles 1 and 2: the position. A young chunk keeps the next one waiting until it is taken.
        way = Walker.LATENCY
        first_1 = delay(m, issue & walker.chunk_first, 1, name="first", reset_less=False)
        field_error_1 = delay(m, issue_field_error, 1, name="field_error", reset_less=False)
        with m.If(first_1):
            m.d.sync += taken.eq(reloads)
        with m.Elif(parameters.more | setup.start):
            m.d.sync += taken.eq(0)
        error_2 = Signal(ERROR_BITS, reset_less=True)
        m.d.sync += error_2.eq(Error.NONE)
        with m.If(field_error_1):
            m.d.sync += error_2.eq(Error.FIELD)
        with m.Elif(first_1 & parameters.outside):
            m.d.sync += error_2.eq(Error.BUFFER)
        assert way == 2
        m.d.comb += [
            addresses.position.eq(walker.position),
            addresses.valid.eq(delay(m, issue, way, name="valid", reset_less=False)),
            addresses.last.eq(delay(m, issue_last, way, name="last", reset_less=False)),
            addresses.error.eq(error_2),
        ]

        # Cycles 6 to 9: VEC, the lanes of the source, what replaces them.
        checked = Walker.LATENCY + AddressPipeline.LATENCY
        assert checked == Walker.LATENCY + AddressPipeline.ADDRESS_LATENCY + READ_LATENCY
        chosen = checked + 1
        reduced_from = chosen + 1
        reduced = reduced_from + Reducer.LATENCY
        summed_from = value - DRAIN_LATENCY - 2
        assert reduced == value - 1
        m.d.comb += self.vec.addr.eq(addresses.vec_addr)
        beats = {checked: addresses.beat}
        validity = ("valid", "take", "write", "last")
        # Each stage keeps what is still needed behind it.
        layout = beat_layout(config)
        everything = tuple(name for name, _ in layout)
        to_write: tuple[str, ...] = ("write", "last", "error", "ofm", "ofm_lane")
        if self.lean:  # what is wanted at the end goes there by itself
            everything = tuple(name for name in everything if name not in to_write[2:])
            to_write = to_write[:2]
        for stage in range(chosen, value + 1):
            members = everything if stage <= summed_from else to_write
            if summed_from < stage < value:
                members = (*members, "take", "chunk")
            beat = Signal(layout, name=f"beat_{stage}")
            for name in members:
                register = Signal(
                    layout[name].shape,
                    name=f"beat_{stage}_{name}",
                    reset_less=name not in validity,
                )
                m.d.sync += register.eq(beats[stage - 1][name])
                m.d.comb += beat[name].eq(register)
            beats[stage] = beat
        m.d.comb += [
            parameters.more.eq(
                delay(
                    m,
                    beats[value - ParameterLoader.CHANGE - 1].take & reloads,
                    1,
                    name="more",
                    reset_less=False,
                )
            ),
            last_at_value.eq(beats[value].last),
        ]

        codes = {
            stage: Signal(data.ArrayLayout(signed(8), L), name=f"codes_{stage}", reset_less=True)
            for stage in range(chosen, value)
        }
        groups = Array(self.vec.data[8 * L * n : 8 * L * (n + 1)] for n in range(R // L))
        selected = Signal(data.ArrayLayout(signed(8), L))
        m.d.comb += selected.eq(groups[beats[checked].group])
        for j in range(L):
            m.d.sync += codes[chosen][j].eq(
                Mux(beats[checked].padded, fields.pad_code, selected[j])
            )
        # All lanes, for the arg max. Channels beyond the last are never larger, and lose a tie.
        row = Signal(data.ArrayLayout(signed(8), R), reset_less=True)
        for j in range(R):
            code = self.vec.data[8 * j : 8 * j + 8]
            m.d.sync += row[j].eq(Mux(beats[checked].unused[j], CODE_MIN, code.as_signed()))
        for stage in range(chosen + 1, value):
            if not self.lean or stage == reduced_from:
                m.d.sync += codes[stage].eq(codes[stage - 1])
        if self.lean:
            passing, cycles = codes[reduced_from].as_value(), value - 1 - reduced_from
            late = delay_line(m, passing, cycles, name="residual_codes")
            m.d.comb += codes[value - 1].eq(late)

        # Up to cycle V - 1: reduction, arg max, and the accumulators beside them.
        index = delay(m, argmax.index, reduced - chosen - argmax.latency, name="index")
        m.d.comb += [
            reducer.codes.eq(codes[reduced_from]),
            reducer.codes_ahead.eq(codes[reduced_from - 1]),
            reducer.weight_ahead.eq(beats[reduced_from - 1].weight),
            reducer.first.eq(beats[reduced_from].first & ~fields.accumulate[0]),
            reducer.valid.eq(beats[reduced_from].valid),
            reducer.vertical.eq(beats[reduced_from].vertical),
            reducer.top.eq(beats[reduced_from].top),
            reducer.bottom.eq(beats[reduced_from].bottom),
            reducer.steps.eq(beats[reduced_from].steps),
            reducer.maximum.eq(is_max),
            argmax.codes.eq(row),
            argmax.first.eq(beats[chosen].first),
            argmax.valid.eq(beats[chosen].valid),
            argmax.high_byte.eq(fields.high_byte[0]),
        ]
        bank_offset = address_width(config.acc_depth)
        m.d.comb += [
            self.acc.addr[:bank_offset].eq(beats[summed_from].pixel),
            self.acc.addr[bank_offset].eq(fields.acc_bank[0]),
        ]
        sums = Array(self.acc.data[32 * L * n : 32 * L * (n + 1)] for n in range(K // L))
        acc_lanes = Signal(data.ArrayLayout(signed(32), L), reset_less=True)
        m.d.sync += acc_lanes.eq(sums[beats[value - 2].chunk])
        residuals = Signal(data.ArrayLayout(signed(8), L), reset_less=True)
        m.d.sync += residuals.eq(Mux(fields.residual[0], codes[value - 1].as_value(), 0))

        # Cycle V: everything that the requantiser wants.
        pairs = Signal(data.ArrayLayout(PAIR, L), reset_less=True)
        with m.If(beats[value - 1].take):
            m.d.sync += pairs.eq(parameters.pairs)
        shift, low, high = (
            Signal(6, reset_less=True),
            Signal(signed(8), reset_less=True),
            Signal(signed(8), reset_less=True),
        )
        m.d.sync += [
            shift.eq(Mux(is_max | is_argmax, 0, fields.shift[:6])),
            low.eq(Mux(is_argmax, CODE_MIN, fields.low)),
            high.eq(Mux(is_argmax, CODE_MAX, fields.high)),
        ]
        payload = requantizer.i
        for j in range(L):
            result = Signal(signed(32), name=f"value_{j}", reset_less=True)
            m.d.sync += result.eq(Mux(is_drain, acc_lanes[j], reducer.values[j]))
            if j == 0:  # an index goes through as a code with the same bits
                with m.If(is_argmax):
                    m.d.sync += result.eq(index.as_signed())
            m.d.comb += [
                payload.value[j].eq(result),
                payload.multiplier[j].eq(pairs[j].multiplier),
                payload.bias[j].eq(pairs[j].bias),
                payload.residual[j].eq(residuals[j]),
            ]
        m.d.comb += [
            payload.residual_shift.eq(fields.res_shift[:6]),
            payload.shift.eq(shift),
            payload.low.eq(low),
            payload.high.eq(high),
            requantizer.i_valid.eq(beats[value].write),
        ]

        # Cycles V + 13 to V + 15: write, report.
        stages = Requantizer.LATENCY
        done_stages = self.latency - value
        final = beats[value]
        error = Mux(final.last, final.error, Error.NONE)
        if self.lean:
            beat = beats[checked]
            place = Cat(beat.ofm, beat.ofm_lane, is_argmax)
            place = delay_line(m, place, value - checked + stages, name="place")
            late = delay_line(m, beat.error, self.latency - checked, name="error")
            m.d.comb += [
                writer.codes.eq(requantizer.o),
                writer.valid.eq(requantizer.o_valid),
                Cat(writer.addr, writer.lane, writer.single).eq(place),
                self.unit.done.eq(delay(m, final.last, done_stages, name="done", reset_less=False)),
                self.unit.error.eq(Mux(self.unit.done, late, Error.NONE)),
            ]
        else:
            m.d.comb += [
                writer.codes.eq(requantizer.o),
                writer.valid.eq(requantizer.o_valid),
                writer.addr.eq(delay(m, final.ofm, stages, name="ofm_addr")),
                writer.lane.eq(delay(m, final.ofm_lane, stages, name="ofm_lane")),
                writer.single.eq(delay(m, is_argmax, stages, name="single")),
                self.unit.done.eq(delay(m, final.last, done_stages, name="done", reset_less=False)),
                self.unit.error.eq(
                    delay(m, error[:ERROR_BITS], done_stages, name="error", reset_less=False)
                ),
            ]
        connect(m, writer.ofm, flipped(self.ofm))

        pending = Signal(2)
        m.d.sync += pending.eq(pending + accepted - self.unit.done)
        m.d.comb += self.busy.eq(pending.any())
        return m
