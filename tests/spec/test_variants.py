"""The variants of the recipe against rational arithmetic and real-valued formulas."""

import math
from fractions import Fraction

import numpy as np
import pytest

from intaglio.spec import quant, variants
from intaglio.spec.errors import IntaglioError
from intaglio.spec.rng import random_bits
from intaglio.spec.variants import WIDE_LIMIT, Recipe, error_digits

RNG = np.random.default_rng(20261125)


def value(digits):
    """Return the sum of the digits in units of the smallest, and its exponent."""
    return quant.merge(digits)


def wide_error(shape, bits=34):
    """Values with the long tails of an error: most are far below the largest."""
    return RNG.integers(-(1 << bits), 1 << bits, shape) >> RNG.integers(0, bits, shape)


def words(shape):
    return random_bits(3, 7, np.arange(math.prod(shape))).reshape(shape)


# --- errors -----------------------------------------------------------------------------------


def test_the_default_is_the_error_of_the_default_recipe():
    values = wide_error((2, 3, 4, 5))
    codes, exponent = quant.error_codes(values, -40)
    ((digit, found),) = error_digits(values, -40, bits=8, rounding="diffusion")
    assert (digit == codes).all() and found == exponent


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "diffusion"])
@pytest.mark.parametrize("bits", [8, 9, 16])
@pytest.mark.parametrize("maximum", [1, 127, 128, 16256, 16257, 1 << 15, (1 << 33) - 1])
def test_digits_are_int8_and_within_a_step_of_the_value(bits, rounding, maximum):
    shape = (2, 3, 4, 5)
    values = wide_error(shape)
    values = values * maximum // np.abs(values).max()
    values[0, 0, 0, :2] = maximum, -maximum
    digits = error_digits(values, -40, bits=bits, rounding=rounding, words=words(shape))
    assert len(digits) == (1 if bits == 8 else 2)
    for codes, _ in digits:
        assert codes.min() >= -128 and codes.max() <= 127
    assert all((codes[values == 0] == 0).all() for codes, _ in digits) or rounding == "diffusion"
    total, exponent = value(digits)
    step = 1 << quant.scale_shift(maximum, {8: 8, 9: 15, 16: 16}[bits])
    error = np.abs((total << exponent + 40) - values)
    if bits == 9:
        step = np.where(np.abs(values) <= 127 * step, step, step << 7)
    # Diffusion adds two halves of what came before; near the largest magnitude codes saturate.
    bound = {"nearest": 0.5, "stochastic": 1, "diffusion": 1}[rounding]
    inside = np.abs(values) < maximum * (1 - 2**-6)
    assert (error <= bound * step)[inside].all()
    assert (error <= 2 * np.maximum(step, maximum >> 8)).all()


def test_a_flag_uses_one_digit_of_each_element():
    values = wide_error((2, 3, 8, 8))
    (coarse, high), (fine, low) = error_digits(values, 0, bits=9, rounding="nearest")
    assert high == low + 7
    assert not (coarse * fine).any() and coarse.any() and fine.any()
    assert (np.abs(fine) <= 127).all() and np.abs(coarse).max() >= 63


def test_flag_by_hand():
    # 15 bits: the step is 2. 254 is the last fine code, 256 the first coarse one, of 256.
    values = np.array([32767, 254, 255, 383, 384, -3]).reshape(1, 1, 1, 6)
    (coarse, high), (fine, low) = error_digits(values, 5, bits=9, rounding="nearest")
    assert (high, low) == (13, 6)
    assert coarse.ravel().tolist() == [127, 0, 1, 1, 2, 0]
    assert fine.ravel().tolist() == [0, 127, 0, 0, 0, -1]


def test_wide_codes_have_two_digits():
    codes = np.arange(-WIDE_LIMIT, WIDE_LIMIT + 1)
    high, low = variants.digits_of_wide(codes)
    assert (256 * high + low == codes).all()
    assert (high.min(), high.max(), low.min(), low.max()) == (-127, 127, -128, 127)


def test_diffusion_keeps_the_sum_of_each_range():
    values = wide_error((1, 2, 16, 16))
    shift = quant.scale_shift(int(np.abs(values).max()), 15)
    small = np.abs(values) <= 127 << shift
    (coarse, _), (fine, _) = error_digits(values, 0, bits=9, rounding="diffusion")
    for digit, part, right in ((fine, small, shift), (coarse, ~small, shift + 7)):
        if np.abs(digit).max() < 127:  # nothing saturated
            exact = np.where(part, values, 0).sum((2, 3))
            assert (np.abs((digit.sum((2, 3)) << right) - exact) <= 1 << right >> 1).all()


# --- L2 batch norm ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 1000, (1 << 31) - 1])
def test_l2_statistics_are_the_standard_deviation(scale):
    acc = RNG.integers(-scale, scale + 1, (2, 3, 5, 7))
    mean, deviation, count = variants.batch_norm_statistics_l2(acc)
    assert count == 70
    for k in range(3):
        channel = [int(v) for v in acc[:, k].ravel()]
        assert mean[k] == math.floor(2 * sum(channel) / 140 + 0.5)
        squares = sum((v - int(mean[k])) ** 2 for v in channel)
        assert deviation[k] == max(math.isqrt(squares * count), count)
        sigma = np.std(np.array(channel, np.float64))
        # The mean is rounded, by half a step at most, and the root by one 70th.
        assert abs(deviation[k] / count - max(sigma, 1)) <= 0.5**2 / max(sigma, 1) + 1 / count


@pytest.mark.parametrize("scale", [0, 1, 5000, (1 << 31) - 1])
def test_std_statistics_by_rationals(scale):
    acc = RNG.integers(-scale, scale + 1, (2, 3, 5, 7))
    acc[0, 0, 0, :3] *= 7  # a tail
    mean, deviation, count = variants.batch_norm_statistics_std(acc)
    assert count == 70
    for k in range(3):
        channel = [int(v) for v in acc[:, k].ravel()]
        assert mean[k] == math.floor(Fraction(sum(channel), 70) + Fraction(1, 2))
        distances = [abs(v - int(mean[k])) for v in channel]
        distance = max(sum(distances), 70)
        bound = math.floor(Fraction(2 * distance, 70) + Fraction(1, 2))
        tail = sum(d - bound for d in distances if d > bound)
        assert deviation[k] == math.floor(Fraction(9, 8) * (distance + 2 * tail))


@pytest.mark.parametrize("tails", ["uniform", "normal", "logistic", "laplace"])
def test_std_statistics_are_nearly_the_standard_deviation(tails):
    acc = (getattr(RNG, tails)(size=(1, 1, 400, 500)) * 10**5).astype(np.int64)
    _, deviation, count = variants.batch_norm_statistics_std(acc)
    _, exact, _ = variants.batch_norm_statistics_l2(acc)
    assert abs(int(deviation[0]) / int(exact[0]) - 1) < 0.03


def test_std_gradient_is_the_derivative_of_the_real_formula():
    """Of ``sum(dy * gamma * (x - mean) / sigma)``, by central differences in float64."""
    acc = RNG.integers(-50000, 50001, (2, 2, 3, 5))
    error = RNG.integers(-127, 128, acc.shape)
    gamma = np.array([64, -37])
    mean, deviation, count = variants.batch_norm_statistics_l2(acc)
    mantissa, shift = quant.batch_norm_reciprocal(deviation, count)
    beta = np.zeros(2, np.int64)
    xhat, _ = quant.batch_norm_forward(
        acc, mean, mantissa, shift, gamma, beta, exponent=-5, relu=False
    )
    sums = [v.sum((0, 2, 3)) for v in (error, error * xhat, np.sign(xhat))]
    m0, m1, _ = quant.batch_norm_error_means(*sums, count)
    factors, exponent = quant.batch_norm_error_factors(gamma, mantissa, shift)
    found = variants.batch_norm_gradient_std(error, xhat, m0, m1, factors)
    found = found * 2.0 ** (exponent - quant.MEAN_BITS)

    def loss(x):
        centred = x - x.mean((0, 2, 3), keepdims=True)
        normal = centred / np.sqrt((centred**2).mean((0, 2, 3), keepdims=True))
        return (error * normal * gamma[:, None, None] / 64).sum()

    for index in [(0, 0, 0, 0), (1, 0, 2, 4), (0, 1, 1, 2), (1, 1, 0, 3)]:
        step = np.zeros(acc.shape)
        step[index] = 8.0
        slope = (loss(acc + step) - loss(acc - step)) / 16
        assert found[index] == pytest.approx(slope, rel=2e-3, abs=1e-3 * np.abs(found).max())


# --- update and recipe ------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(8, 25))
def test_masters_of_other_widths_have_the_same_value(bits):
    codes = np.array([-32767, -16384, -1, 0, 1, 255, 32767])
    found, exponent = variants.master_from_16(codes, -20, bits)
    assert np.abs(found).max() <= variants.master_limit(bits)
    error = np.abs(found * 2.0**exponent - codes * 2.0**-20)
    assert (error <= (0 if bits >= 16 else 2.0**exponent)).all()
    assert exponent == -20 + 16 - bits


@pytest.mark.parametrize("bits", [10, 16, 24])
def test_update_of_masters_of_other_widths(bits):
    limit = variants.master_limit(bits)
    master = np.array([limit, -limit, 5])
    momentum = np.array([-(1 << 14), 0, 0])
    rate = quant.learning_rate(1, 1)
    random = np.zeros(3, np.uint64)
    arguments = (master, -bits, momentum, -14, rate)
    found, exponent = quant.weight_update(*arguments, fixed=False, random=random, limit=limit)
    # 1 is more than what 2**-bits leaves room for: halved until it fits
    assert exponent > -bits and np.abs(found).max() <= limit
    assert found[0] * 2.0**exponent == pytest.approx(1 + limit * 2.0**-bits, rel=2.0 ** (3 - bits))
    found, exponent = quant.weight_update(*arguments, fixed=True, random=random, limit=limit)
    assert exponent == -bits and found.tolist() == [limit, -limit, 5]


@pytest.mark.parametrize("maximum", [1, 2, 3, 127, 128, 129, 1 << 40])
def test_without_magnitude_the_largest_is_at_most_one(maximum):
    exponent = variants.normalized_exponent(maximum)
    assert 0.5 < maximum * 2.0**exponent <= 1


def test_merged_losses_are_the_loss_of_the_whole():
    z = RNG.integers(-900, 900, (6, 5, 3, 4))
    labels = RNG.integers(0, 6, (6, 3, 4))
    labels[labels == 5] = 255
    whole = quant.softmax_cross_entropy(z, labels, 255)[1]
    parts = [quant.softmax_cross_entropy(z[i : i + 1], labels[i : i + 1], 255)[1] for i in range(6)]
    assert quant.merge_losses(parts) == whole != sum(parts)
    for bits in range(2000):
        assert quant.merge_losses([bits * quant._LN2 >> 8]) == bits * quant._LN2 >> 8


@pytest.mark.parametrize(
    "values, text",
    [
        (dict(error_bits=10), "error_bits must be one of 8, 9, 16, not 10"),
        (dict(error_rounding="up"), "error_rounding must be one of diffusion, nearest, stochastic"),
        (dict(norm="l3"), "norm must be one of l1, l1-std, l2, not 'l3'"),
        (dict(master_bits=25), r"master_bits must be in \[8, 24\], not 25"),
        (dict(magnitude=1), "magnitude must be true or false, not 1"),
    ],
)
def test_unknown_recipes_are_refused(values, text):
    with pytest.raises(IntaglioError, match=text):
        Recipe(**values)
