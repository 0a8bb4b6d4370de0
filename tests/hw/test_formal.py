"""Proofs, and for each a planted fault that it finds."""

import inspect
import sys
import types

import pytest
from amaranth.hdl import signed, unsigned

from intaglio.spec import arith as spec
from intaglio.spec.config import CONFIGS
from intaglio.spec.isa import LOAD
from intaglio_hw import arith, axi, requantizer, stages, streams
from intaglio_sim.formal import TERM_BITS, ProofFailure, Term, Unrolling, prove
from intaglio_sim.formal.properties import (
    NUMBER_BITS,
    BurstProperties,
    FunctionProbe,
    StreamProperties,
    TokenProperties,
    UnitStageProperties,
)

z3 = pytest.importorskip("z3")
pytest.importorskip("pyosys")

CONFIG = CONFIGS["tiny-8x8"]


def mutant(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """Return a copy of ``module`` in which the one place ``old`` reads ``new``."""
    text = inspect.getsource(module)
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {module.__name__}"
    copy = types.ModuleType(f"{module.__name__}_mutant")
    sys.modules[copy.__name__] = copy  # Amaranth looks annotations up there
    try:
        exec(compile(text.replace(old, new), f"<{copy.__name__}>", "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    return copy


def fails(claim, *arguments, **options) -> None:
    """Check that the proof finds a counterexample, rather than giving up."""
    with pytest.raises(ProofFailure) as info:
        claim(*arguments, **options)
    assert "no proof in" not in str(info.value) and "nothing was proved" not in str(info.value)


# -------------------------------------------------------------------------------------- arithmetic


def round_shift_is_the_specification(module, width: int, shift_bits: int) -> None:
    probe = FunctionProbe(module.round_shift, {"x": signed(width), "shift": unsigned(shift_bits)})
    logic = Unrolling(probe, steps=0)
    x, o = logic.term("x", 0, signed=True), logic.term("o", 0, signed=True)
    # One shift at a time: that is quick, and they are all there are.
    for shift in range(1 << shift_bits):
        logic.prove(
            o.equals(spec.round_shift(x, shift)),
            given=[logic.wire("shift", 0) == shift],
            show={"x": x, "o": o},
        )


@pytest.mark.parametrize(("width", "shift_bits"), [(8, 4), (10, 1), (49, 6)])
def test_round_shift(width, shift_bits):
    round_shift_is_the_specification(arith, width, shift_bits)


def test_round_shift_fault():
    # Ties away from zero for what is negative: wrong in one value of 2**shift.
    wrong = mutant(arith, "(shifted + 1) >> 1", "(shifted + ~shifted[-1]) >> 1")
    fails(round_shift_is_the_specification, wrong, 49, 6)


def saturate_is_the_specification(module, width: int) -> None:
    inputs = {"x": signed(width), "low": signed(8), "high": signed(8)}
    logic = Unrolling(FunctionProbe(module.saturate, inputs), steps=0)
    x, low, high, o = (logic.term(name, 0, signed=True) for name in ("x", "low", "high", "o"))
    logic.prove(o.equals(spec.saturate(x, low, high)), show={"x": x, "low": low, "high": high})


@pytest.mark.parametrize("width", [8, 10, 49])
def test_saturate(width):
    saturate_is_the_specification(arith, width)


def test_saturate_fault():
    wrong = mutant(arith, "less(high, x) | less(high, low)", "less(high, x)")
    fails(saturate_is_the_specification, wrong, 10)


# -------------------------------------------------------------------------------------- requantiser


def sum_is_the_specification(module) -> None:
    """Product and addend, from stage 3 to stage 6, in every case that there can be.

    The products themselves are cut: the halves are free registers, their sum in the range of
    int32 x int16.
    """
    logic = Unrolling(module.Requantizer(lanes=1), steps=3)
    low, high = (logic.term(f"product_{name}_3_0", 0, signed=True) for name in ("low", "high"))
    bias, residual = (logic.term(name, 0, signed=True) for name in ("bias_0_3", "residual_3_0"))
    total = logic.term("total_6_0", 3, signed=True)
    product = low + (high << 17)
    logic.prove(
        total.equals(product + bias + residual),
        given=[
            product.between(spec.ACC_MIN * spec.MULTIPLIER_MAX, spec.ACC_MIN * spec.MULTIPLIER_MIN),
            bias.between(spec.BIAS_MIN, spec.BIAS_MAX),
            residual.between(
                spec.CODE_MIN << spec.RESIDUAL_SHIFT_MAX, spec.CODE_MAX << spec.RESIDUAL_SHIFT_MAX
            ),
        ],
        show={"low": low, "high": high, "bias": bias, "residual": residual, "total": total},
    )


#: Codes in stage 10 are limited to these, which are beyond every bound.
STAGE_10 = (-256, 256)


def stage_10(logic: Unrolling, step: int) -> Term:
    """Return the value that stage 10 stands for."""
    code, beyond, negative = (
        logic.wire(f"{name}_10_0", step) for name in ("code", "beyond", "sign")
    )
    end = z3.If(negative == 1, *(z3.BitVecVal(bound, TERM_BITS) for bound in STAGE_10))
    return Term(z3.If(beyond == 1, end, Term.of(code, signed=True).bits))


def shifts_are_the_specification(module) -> None:
    """From the sum to stage 10, whatever it is, by any shift: shifted and rounded."""
    logic = Unrolling(module.Requantizer(lanes=1), steps=5)
    total, code = logic.term("total_6_0", 1, signed=True), stage_10(logic, 5)
    for shift in range(spec.SHIFT_MAX + 1):
        logic.prove(
            code.equals(spec.saturate(spec.round_shift(total, shift), *STAGE_10)),
            given=[logic.wire("shift_5", 0) == shift],
            show={"total": total, "code": code},
        )


def bounds_are_the_specification(module) -> None:
    """From stage 10 to the output; and that the limits there do not matter."""
    logic = Unrolling(module.Requantizer(lanes=1), steps=2)
    code = stage_10(logic, 0)
    low, high = (logic.term(f"{name}_10", 0, signed=True) for name in ("low", "high"))
    o = logic.term("o", 2, signed=True)
    anything = Term(z3.BitVec("anything", TERM_BITS))
    logic.prove(
        z3.And(
            o.equals(spec.saturate(code, low, high)),
            spec.saturate(anything, low, high).equals(
                spec.saturate(spec.saturate(anything, *STAGE_10), low, high)
            ),
        ),
        given=[code.between(*STAGE_10)],
        show={"code": code, "low": low, "high": high, "o": o},
    )


def residual_is_the_specification(module) -> None:
    """The shifted residual, from the input to stage 3."""
    logic = Unrolling(module.Requantizer(lanes=1), steps=4)
    fields, offset = {}, 0
    for name, field in module.requantizer_layout(1):
        width = field.width
        fields[name] = Term.of(
            z3.Extract(offset + width - 1, offset, logic.wire("i", 0)),
            signed=name not in ("residual_shift", "shift"),
        )
        offset += width
    residual = logic.term("residual_3_0", 4, signed=True)
    logic.prove(
        residual.equals(fields["residual"] << fields["residual_shift"]),
        given=[fields["residual_shift"].between(0, spec.RESIDUAL_SHIFT_MAX)],
        show={**fields, "residual_3": residual},
    )


def test_requantizer_lane():
    shifts_are_the_specification(requantizer)
    bounds_are_the_specification(requantizer)
    sum_is_the_specification(requantizer)
    residual_is_the_specification(requantizer)


def test_requantizer_faults():
    # A code that is beyond by little is taken for one that is not.
    fails(
        shifts_are_the_specification,
        mutant(requantizer, "near_8[1] & ~middle_8[1]", "near_8[1] & (middle_8 == 0)"),
    )
    # A code that is beyond every bound is at the wrong end.
    fails(
        bounds_are_the_specification,
        mutant(
            requantizer, "Mux(beyond_11, ~sign_11, above_11)", "Mux(beyond_11, sign_11, above_11)"
        ),
    )
    # A carry from the lower half is lost.
    fails(
        sum_is_the_specification,
        mutant(
            requantizer,
            "_add(product_5, addend_5, low_5[-1])",
            "_add(product_5, addend_5, Const(0))",
        ),
    )
    fails(
        residual_is_the_specification,
        mutant(
            requantizer, "_left(residual_1, fours_1, 4, 23)", "_left(residual_1, fours_1, 4, 19)"
        ),
    )


# ------------------------------------------------------------------------------------------ streams

#: What a slot of the skid buffer holds, so that an induction need not begin at a reset.
SKID_INVARIANTS = (
    "(=> [dut.spare_full] [dut.front_full])",
    f"(=> [dut.spare_full] (= [dut.spare] (bvadd [left] (_ bv1 {NUMBER_BITS}))))",
    "(= [held] (bvadd (ite [dut.front_full] #b001 #b000) (ite [dut.spare_full] #b001 #b000)))",
)


def skid_buffer_keeps_order(module) -> None:
    buffer = module.SkidBuffer(shape=NUMBER_BITS)
    prove(
        StreamProperties(buffer, capacity=2, latency=buffer.LATENCY),
        depth=6,
        induction=True,
        invariants=SKID_INVARIANTS,
    )


def test_skid_buffer():
    """For ever, by induction."""
    skid_buffer_keeps_order(streams)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("front.eq(spare)", "front.eq(self.i.payload)"),  # the waiting one is lost
        ("spare_full | self.i.valid", "self.i.valid"),
        ("with m.If(self.o.ready | ~front_full)", "with m.If(self.o.ready)"),
    ],
)
def test_skid_buffer_faults(old, new):
    fails(skid_buffer_keeps_order, mutant(streams, old, new))


def twin_buffer_keeps_order(module) -> None:
    buffer = module.TwinBuffer(shape=NUMBER_BITS)
    prove(StreamProperties(buffer, capacity=2, latency=buffer.LATENCY), depth=9)


def test_twin_buffer():
    """Bounded: 9 cycles from the reset: filled, emptied and filled again."""
    twin_buffer_keeps_order(streams)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("inside.down.eq(self.o.valid & self.o.ready)", "inside.down.eq(self.o.ready)"),
        ("self.i.ready & (write == i)", "write == i"),  # the one that waits is lost
        ("write.eq(write ^ inside.up)", "write.eq(write ^ self.i.valid)"),
    ],
)
def test_twin_buffer_faults(old, new):
    fails(twin_buffer_keeps_order, mutant(streams, old, new))


def queue_keeps_order(module, depth: int) -> None:
    queue = module.Queue(shape=NUMBER_BITS, depth=depth)
    prove(StreamProperties(queue, capacity=depth, latency=queue.LATENCY), depth=3 * depth + 1)


def test_queue():
    """Bounded: 10 cycles from the reset: a queue of three is filled, emptied and filled again."""
    queue_keeps_order(streams, 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("free.eq(self.o.ready | ~front_full)", "free.eq(1)"),  # the one that waits is lost
        ("(self.o.ready | front_empty) & inside.level[0]", "inside.level[0]"),
        ("(self.up & self.level[-2])", "(self.up & self.level[-1])"),
        ("self.up ^ self.down", "self.up | self.down"),
        ("write.en.eq(self.i.ready)", "write.en.eq(self.i.valid & inside.level[0])"),
        ("Cat(1, self.level[:-1])", "Cat(1, self.level[1:])"),
    ],
)
def test_queue_faults(old, new):
    fails(queue_keeps_order, mutant(streams, old, new), 3)


# ------------------------------------------------------------------------------------------- tokens


def counter_counts(module) -> None:
    properties = TokenProperties(module.TokenCounter())
    prove(properties, depth=3, induction=True, invariants=properties.INVARIANTS)


def test_token_counter():
    """For ever, by induction: never below zero, never beyond TOKEN_MAX without an error."""
    counter_counts(stages)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("~self.take & ~full, self.take", "~self.take, self.take"),
        ("self.overflow.eq(self.give & ~self.take & full)", "self.overflow.eq(self.give & full)"),
        ("full.eq(~self.take & (above", "full.eq((above"),
        ("Mux(self.give, ~self.take & ~full, self.take)", "self.give & ~full | self.take"),
    ],
)
def test_token_counter_faults(old, new):
    fails(counter_counts, mutant(stages, old, new))


def stage_takes_what_there_is(module) -> None:
    properties = UnitStageProperties(module.UnitStage(instruction=LOAD))
    prove(properties, depth=4, induction=True, invariants=properties.INVARIANTS)


def test_unit_stage():
    """For ever, by induction."""
    stage_takes_what_there_is(stages)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("head.payload.wait & ~self.available", "head.payload.wait & ~self.available & 7"),
        ("                & (~second | finished)\n", ""),
        ("starting | leaving | left | self.stop", "starting | left | self.stop"),
        ("with m.If(left | self.clear):", "with m.If(left):"),
    ],
)  # fmt: skip
def test_unit_stage_faults(old, new):
    fails(stage_takes_what_there_is, mutant(stages, old, new))


# ------------------------------------------------------------------------------------------- bursts


def bursts_stay_inside(module) -> None:
    splitter = module.RowBursts(config=CONFIG)
    prove(BurstProperties(splitter, config=CONFIG), depth=8, timeout_s=600)


def test_bursts():
    """Bounded: 8 cycles from the reset, a row of any size and its first burst."""
    bursts_stay_inside(axi)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bad.eq(room_behind[-1])", "bad.eq(room_behind[-1] & (end[-1] == 0))"),
        ("beat[count_bits:page_bits].all()", "beat[count_bits:page_bits].all() & 0"),
        ("(span - 1)[lane_bits", "span[lane_bits"),
    ],
)
def test_burst_faults(old, new):
    fails(bursts_stay_inside, mutant(axi, old, new))
