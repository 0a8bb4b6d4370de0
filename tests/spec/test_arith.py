"""The arithmetic against rational numbers, and against vectors that others have published."""

import base64
import json
import math
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from intaglio.spec import arith
from intaglio.spec.arith import (
    ACC_MAX,
    ACC_MIN,
    BIAS_MAX,
    BIAS_MIN,
    MULTIPLIER_MAX,
    MULTIPLIER_MIN,
    RESIDUAL_SHIFT_MAX,
    SHIFT_MAX,
    SUM_MAX,
    SUM_MIN,
    ceil_log2,
    closest_division,
    exact_division,
    requantize,
    round_shift,
    saturate,
    wrap,
)

VECTORS = Path(__file__).resolve().parent.parent / "vectors"

codes = st.integers(-128, 127)
shifts = st.integers(0, SHIFT_MAX)


def nearest_up(x: Fraction) -> int:
    """Return the nearest integer, the larger one at a tie, by the definition of both words."""
    below = math.floor(x)
    return below if x - below < Fraction(1, 2) else below + 1


def test_the_limits_are_those_of_the_formats() -> None:
    assert (arith.CODE_MIN, arith.CODE_MAX) == (-128, 127)
    assert (np.iinfo(np.int32).min, np.iinfo(np.int32).max) == (ACC_MIN, ACC_MAX)
    assert (np.iinfo(np.int16).min, np.iinfo(np.int16).max) == (MULTIPLIER_MIN, MULTIPLIER_MAX)
    assert SUM_MIN == BIAS_MIN == -(2**47)
    assert SUM_MAX == BIAS_MAX == 2**47 - 1
    # The largest shifts leave one sign bit, and a code of 8 bits.
    assert SHIFT_MAX == 47
    assert -128 << RESIDUAL_SHIFT_MAX >= SUM_MIN > -128 << (RESIDUAL_SHIFT_MAX + 2)


# ----------------------------------------------------------------------- against rational numbers


@given(st.integers(-(1 << 61), 1 << 61), st.integers(0, 60))
@example(-1, 1)
@example(1, 1)
@example(-(1 << 59), 60)
@example(1 << 59, 60)
def test_round_shift(x: int, shift: int) -> None:
    expected = nearest_up(Fraction(x, 1 << shift))
    assert round_shift(x, shift) == expected
    assert round_shift(np.int64(x), np.int64(shift)) == expected
    assert round_shift(np.array([x]), shift)[0] == expected


@given(st.integers(-(10**30), 10**30), st.integers(0, 200))
def test_round_shift_of_int_has_no_bound(x: int, shift: int) -> None:
    assert round_shift(x, shift) == nearest_up(Fraction(x, 1 << shift))


def test_round_shift_of_all_small_numbers() -> None:
    x = np.arange(-(1 << 12), 1 << 12)
    for shift in range(14):
        expected = [nearest_up(Fraction(int(v), 1 << shift)) for v in x]
        np.testing.assert_array_equal(round_shift(x, shift), expected)
    # The shift may be an array.
    mixed = np.arange(len(x)) % 14
    expected = [nearest_up(Fraction(int(v), 1 << int(s))) for v, s in zip(x, mixed, strict=True)]
    np.testing.assert_array_equal(round_shift(x, mixed), expected)


@given(st.integers(-(10**12), 10**12), codes, codes)
@example(128, -128, 127)
@example(-129, -128, 127)
def test_saturate(x: int, a: int, b: int) -> None:
    low, high = sorted((a, b))
    expected = sorted((low, x, high))[1]
    assert saturate(x, low, high) == expected
    assert saturate(np.array([x]), low, high)[0] == expected
    assert saturate(x) == sorted((-128, x, 127))[1]


@given(st.integers(-(10**30), 10**30), st.integers(1, 64))
@example((1 << 31) - 1 + 1, 32)
def test_wrap(x: int, bits: int) -> None:
    result = wrap(x, bits)
    assert -(1 << (bits - 1)) <= result < 1 << (bits - 1)
    assert (x - result) % (1 << bits) == 0


def test_wrap_is_that_of_numpy() -> None:
    x = np.arange(-1000, 1000) * 987654321
    np.testing.assert_array_equal(wrap(x, 8), x.astype(np.int8))
    np.testing.assert_array_equal(wrap(x, 32), x.astype(np.int32))


@given(
    st.integers(ACC_MIN, ACC_MAX),
    st.integers(MULTIPLIER_MIN, MULTIPLIER_MAX),
    st.integers(BIAS_MIN, BIAS_MAX),
    shifts,
    codes,
    st.integers(0, RESIDUAL_SHIFT_MAX),
    codes,
    codes,
)
@example(ACC_MIN, MULTIPLIER_MIN, BIAS_MAX, 0, 127, RESIDUAL_SHIFT_MAX, -128, 127)
@example(ACC_MIN, MULTIPLIER_MAX, BIAS_MIN, SHIFT_MAX, -128, RESIDUAL_SHIFT_MAX, -128, 127)
@example(-1, 1, 0, 1, 0, 0, -128, 127)
@example(1, 1, 0, 1, 0, 0, -128, 127)
@example(-3, 1, 0, 1, 0, 0, -128, 127)
def test_requantize(
    acc: int, m: int, b: int, shift: int, residual: int, residual_shift: int, x: int, y: int
) -> None:
    low, high = sorted((x, y))
    exact = Fraction(acc * m + b + residual * 2**residual_shift, 2**shift)
    expected = sorted((low, nearest_up(exact), high))[1]
    found = requantize(
        acc, m, b, shift, residual=residual, residual_shift=residual_shift, low=low, high=high
    )
    assert found == expected
    # The largest sums need 50 bits, which int64 holds.
    array = requantize(
        np.array([acc]),
        np.array([m]),
        np.array([b]),
        shift,
        residual=np.array([residual]),
        residual_shift=residual_shift,
        low=low,
        high=high,
    )
    assert array[0] == expected


@given(st.integers(0, 1 << 70))
@example(0)
@example(1)
@example(1 << 53)
@example((1 << 53) + 1)
def test_ceil_log2(x: int) -> None:
    n = ceil_log2(x)
    assert 2**n >= x
    assert n == 0 or 2 ** (n - 1) < x


def test_ceil_log2_of_an_array() -> None:
    x = np.array([[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(ceil_log2(x), [[0, 0, 1], [2, 2, 3]])


# ----------------------------------------------------------------------------------- exact division


def division_is_exact(divisor: int, bound: int, x: np.ndarray, most: int = 1) -> None:
    factor, m, b, s = exact_division(divisor, bound, most)
    assert 1 <= factor <= most
    assert 1 <= m <= MULTIPLIER_MAX
    assert 0 <= s <= SHIFT_MAX
    assert 0 <= b <= BIAS_MAX
    # floor(x / d + 1/2) = floor((2 x + d) / (2 d)), in integers.
    expected = (2 * x + divisor) // (2 * divisor)
    np.testing.assert_array_equal(round_shift(factor * x * m + b, s), expected)


@pytest.mark.parametrize("divisor", range(1, 65))
def test_exact_division_of_every_number(divisor: int) -> None:
    """All numbers up to the bound that the function promises for every divisor."""
    bound = (1 << 13) - 1
    division_is_exact(divisor, bound, np.arange(-bound, bound + 1))


@given(st.integers(1, 1 << 13), st.integers(0, 1 << 15))
@example(3, 5461)
@example(127, 8320)
@example(127, 8321)
@example(8191, 8191)
def test_exact_division_or_refusal(divisor: int, bound: int) -> None:
    try:
        exact_division(divisor, bound)
    except ValueError as error:
        assert str(error) == (
            f"no multiplier of 16 bits and factor up to 1 divide by {divisor} exactly for "
            f"|x| <= {bound}; bounds below 2**13 are always possible"
        )
        assert bound >= 1 << 13
        return
    division_is_exact(divisor, bound, thresholds(divisor, bound))


def thresholds(divisor: int, bound: int) -> np.ndarray:
    """Every threshold and its neighbours, where a wrong rounding would show, and both ends."""
    halves = np.arange(-(2 * bound) // divisor - 1, 2 * bound // divisor + 2) * divisor // 2
    x = np.unique(np.concatenate([halves + d for d in (-1, 0, 1)] + [[-bound, bound]]))
    return x[np.abs(x) <= bound]


def test_exact_division_by_the_areas_of_resizes() -> None:
    """All ratios up to 16 x 16, with fractions of at most 2047."""
    sides = sorted({f for f in range(1, 17)} | {2 * f for f in range(2, 17, 2)})
    for rows in sides:
        for cols in sides:
            bound = 128 * rows * cols
            x = thresholds(rows * cols, bound)
            division_is_exact(rows * cols, bound, x, 2047 // rows)


def test_factor_is_the_smallest() -> None:
    with pytest.raises(ValueError, match="factor up to 1 divide by 225 "):
        exact_division(225, 128 * 225)
    assert exact_division(225, 128 * 225, 20)[0] == 3
    with pytest.raises(ValueError, match="factor up to 34 divide by 3600 exactly"):
        exact_division(3600, 128 * 3600, 34)


@pytest.mark.parametrize("log2", [0, 1, 5, 30])
def test_powers_of_two_need_no_multiplier(log2: int) -> None:
    assert exact_division(1 << log2, 1 << 60) == (1, 1, 0, log2)


@pytest.mark.parametrize(("divisor", "bound"), [(0, 1), (-3, 1), (3, -1)])
def test_exact_division_of_bad_arguments(divisor: int, bound: int) -> None:
    with pytest.raises(ValueError, match=f"not {divisor}, 1 and {bound}"):
        exact_division(divisor, bound)


@pytest.mark.parametrize(("divisor", "most"), [(1, 1), (3, 1), (225, 20), (3600, 34), (3136, 36)])
def test_closest_division_is_the_closest_of_all(divisor: int, most: int) -> None:
    factor, m, shift = closest_division(divisor, most)
    assert 1 <= factor <= most and 1 <= m <= MULTIPLIER_MAX and 0 <= shift <= SHIFT_MAX
    found = abs(Fraction(factor * m, 1 << shift) - Fraction(1, divisor))
    m = np.arange(1, MULTIPLIER_MAX + 1)
    for f in range(1, most + 1):
        for s in range(SHIFT_MAX + 1):
            # |f m / 2**s - 1 / d| = |f m d - 2**s| / (2**s d)
            least = Fraction(int(np.abs(f * m * divisor - (1 << s)).min()), divisor << s)
            assert found < least or (found == least and factor <= f)


@pytest.mark.parametrize(("divisor", "most"), [(0, 1), (3, 0)])
def test_closest_division_of_bad_arguments(divisor: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"not {divisor} and {most}"):
        closest_division(divisor, most)


# ----------------------------------------------------------------------------------- from outside


def test_gemmlowp_layer() -> None:
    """A layer of a real network that gemmlowp publishes, with its exact rule."""
    vector = json.loads((VECTORS / "gemmlowp.json").read_text(encoding="utf-8"))

    def operand(name: str) -> np.ndarray:
        raw = zlib.decompress(base64.b64decode(vector[f"{name}_zlib_base64"]))
        return np.frombuffer(raw, np.uint8).reshape(-1, vector["depth"]).astype(np.int64)

    acc = (operand("a") + vector["a_offset"]) @ (operand("b") + vector["b_offset"]).T
    expected = np.array(vector["c"])
    # gemmlowp adds its offset before it multiplies; here it is part of the bias.
    found = requantize(
        acc,
        vector["c_mult_int"],
        vector["c_offset"] * vector["c_mult_int"],
        vector["c_shift"],
        low=0,
        high=255,
    )
    np.testing.assert_array_equal(found, expected)
    assert expected.max() == 255  # one of them is saturated
    assert len(np.unique(expected)) >= 8


@pytest.mark.parametrize("zero_point", [-128, -127, -1, 0, 1, 77, 126, 127])
@pytest.mark.parametrize("s", range(1, 32))
def test_xnnpack_rndnu(zero_point: int, s: int) -> None:
    """The conditions that XNNPACK publishes for "round to nearest, ties up".

    google/XNNPACK, test/requantization-tester.h: TestExactDivideByPO2,
    TestDivideByPO2WithRoundingUp, ...RoundingDown and ...RoundingTiesUp, with scale 2**-s: each of
    these inputs that fits int32 gives exactly i.
    """
    i = np.arange(-128, 128)
    exact = (i - zero_point) << s
    half = 1 << (s - 1)
    for inputs in (exact, exact - half + 1, exact + half - 1, exact - half):
        fits = (inputs >= ACC_MIN) & (inputs <= ACC_MAX)
        found = requantize(inputs[fits], 1, zero_point << s, s)
        np.testing.assert_array_equal(found, i[fits])


@pytest.mark.parametrize(
    ("x", "shift", "expected"),
    # Vectors of ARM's SRSHR (signed rounding shift right), whose rule is the same:
    # (x + (1 << (shift - 1))) >> shift, Arm Architecture Reference Manual, C7.2 "SRSHR".
    [(-1, 1, 0), (-3, 1, -1), (3, 1, 2), (-128, 8, 0), (127, 8, 0), (-129, 8, -1), (128, 8, 1)],
)
def test_arm_srshr(x: int, shift: int, expected: int) -> None:
    assert round_shift(x, shift) == expected
