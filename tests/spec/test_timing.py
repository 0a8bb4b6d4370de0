"""The timing formulas by hand; the RTL itself is held against them in tests/hw/bench_array.py."""

from intaglio.spec.config import CONFIGS
from intaglio.spec.timing import ArrayCycles, ArraySchedule, ArrayTiming

MINI = CONFIGS["mini-8x8"]


def _fields(P, Q, *, blocks=1, kernel_h=1, kernel_w=1):
    return {
        "out_rows": P, "out_cols": Q, "blocks": blocks, "kernel_h": kernel_h, "kernel_w": kernel_w,
    }  # fmt: skip


def test_constants_of_an_8x8():
    timing = ArrayTiming(MINI)
    assert (timing.startup, timing.min_pass, timing.drain, timing.tree) == (12, 8, 21, 4)
    assert timing.latency(_fields(1, 1)) == 12 + 21
    assert timing.latency(_fields(7, 8, blocks=4, kernel_h=3, kernel_w=3)) == 12 + 36 * 56 - 1 + 21
    # Passes shorter than the minimum wait for it, but not after the last one.
    assert timing.latency(_fields(1, 2, kernel_w=3)) == 12 + 2 * 8 + 1 + 21


def test_narrow_arrays_wait_for_the_accumulator():
    timing = ArrayTiming(CONFIGS["narrow-8x4"])
    assert timing.min_pass == timing.ACCUMULATE == 6
    assert timing.startup == 12  # the set-up is longer than the weights


def test_schedule_of_one_is_the_formula():
    for config in CONFIGS.values():
        for fields in (_fields(1, 1), _fields(5, 6, blocks=2), _fields(1, 3, kernel_h=3)):
            cycles = ArraySchedule(config).issue(100, fields)
            assert cycles.accepted == 100
            assert cycles.done - 100 == ArrayTiming(config).latency(fields)


def test_schedule_hides_setup_and_weights():
    schedule = ArraySchedule(MINI)
    assert schedule.issue(0, _fields(8, 8)) == ArrayCycles(0, 12, 75, 96)
    # Accepted when the first one starts, and no bubble between the two.
    assert schedule.issue(1, _fields(8, 8)) == ArrayCycles(12, 76, 139, 160)
    # Only two in flight: the third is accepted after the first one's done.
    assert schedule.issue(13, _fields(8, 8)) == ArrayCycles(97, 140, 203, 224)
