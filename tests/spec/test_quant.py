"""The rules of integer training against rational arithmetic, adjoints and real-valued formulas."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intaglio.spec import ops, quant
from intaglio.spec.arith import requantize
from intaglio.spec.rng import random_bits

RNG = np.random.default_rng(20261124)


def nearest(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


# --- small rules ------------------------------------------------------------------------------


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**9))
def test_round_divide_is_nearest_with_ties_up(a, b):
    assert quant.round_divide(a, b) == nearest(Fraction(a, b))


def test_log2_ceil_of_arrays_is_that_of_integers():
    x = np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, (1 << 40) - 1, 1 << 40, (1 << 40) + 1])
    expected = [math.ceil(math.log2(v)) if v > 1 else 0 for v in x[:9].tolist()] + [40, 40, 41]
    assert quant.log2_ceil(x).tolist() == expected
    assert [quant.log2_ceil(int(v)) for v in x] == expected


@pytest.mark.parametrize("bits", [8, 16])
def test_scale_shift_fills_the_bits_and_no_more(bits):
    half = 1 << (bits - 1)
    for maximum in [*range(1, 2000), 12345, 1 << 20, (1 << 20) + 1]:
        shift = quant.scale_shift(maximum, bits)
        assert Fraction(maximum, 1 << shift) <= half
        assert shift == 0 or Fraction(maximum, 1 << shift) > Fraction(half, 2)


def test_stochastic_shift_rounds_to_a_neighbour_and_is_unbiased():
    count, shift = 1 << 16, 5
    bits = random_bits(3, 9, np.arange(count))
    for x in (-77, -32, 0, 1, 31, 100):
        y = quant.stochastic_shift(np.full(count, x), shift, bits)
        low = x >> shift
        assert set(np.unique(y)) <= {low, low + (1 if x % 32 else 0)}
        # five standard deviations of the mean of Bernoulli variables
        assert abs(y.mean() - x / 32) < 5 * 0.5 / math.sqrt(count)


def test_stochastic_shift_by_zero_and_by_the_largest_shift():
    bits = random_bits(1, 1, np.arange(4))
    x = np.array([-5, -1, 0, 7])
    assert quant.stochastic_shift(x, 0, bits).tolist() == x.tolist()
    assert set(quant.stochastic_shift(x, 62, bits).tolist()) <= {-1, 0}


def test_merge_is_the_exact_sum():
    a, b = RNG.integers(-1000, 1000, (2, 3)), RNG.integers(-(10**9), 10**9, (2, 3))
    total, exponent = quant.merge([(a, -3), (b, -20)])
    assert exponent == -20
    assert (total == a * 2**17 + b).all()


# --- error diffusion --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 1, 9), (6, 4, 1, 1)])
@pytest.mark.parametrize("shift", [0, 1, 4, 9])
def test_diffusion_loses_at_most_half_a_step_of_any_running_sum(shape, shift):
    values = RNG.integers(-(30 << shift), (30 << shift) + 1, shape)
    values[RNG.random(shape) < 0.4] = 0
    codes = quant.diffuse(values, shift)
    assert (codes[values == 0] == 0).all()
    axes = (0,) if shape[2] * shape[3] == 1 else (2,)
    flat = (values, codes)
    if axes == (2,):
        flat = tuple(v.reshape(*shape[:2], -1) for v in flat)
    sums = [np.cumsum(v, axes[0]) for v in flat]
    assert (np.abs(2 * (sums[1] << shift) - 2 * sums[0]) <= 1 << shift).all()


def test_diffusion_by_hand_and_reset_at_each_image():
    values = np.array([[3, 3, 3, -5], [3, 0, 0, 3]]).reshape(2, 1, 1, 4)
    # S = 3 6 9 4 -> round(S / 4) = 1 2 2 1 -> differences; the second image starts from 0
    assert quant.diffuse(values, 2).reshape(2, 4).tolist() == [[1, 1, 0, -1], [1, 0, 0, 1]]


def test_diffusion_saturates_symmetrically():
    values = np.array([1000, -1000, 0]).reshape(1, 1, 1, 3)
    assert quant.diffuse(values, 1).ravel().tolist() == [127, -127, 0]


def test_error_codes_take_the_scale_of_their_own_maximum():
    values = RNG.integers(-5000, 5001, (2, 3, 4, 5))
    values[0, 0, 0, 0] = 5000
    codes, exponent = quant.error_codes(values, -30)
    assert exponent == -30 + 6  # ceil(log2 5000) - 7
    assert np.abs(codes).max() <= 127
    assert (quant.error_codes(values * 0, -30)[0] == 0).all()


# --- weights ----------------------------------------------------------------------------------


@given(st.lists(st.integers(-32767, 32767), min_size=1, max_size=20))
def test_weight_codes_are_the_nearest_multiples(values):
    master = np.array(values, np.int16)
    codes, shift = quant.weight_codes(master)
    for w, q in zip(values, codes.tolist(), strict=True):
        assert q == max(-127, min(127, nearest(Fraction(w, 1 << shift))))
    assert shift == 0 or np.abs(codes).max() >= 64


def test_affine_codes_are_the_upper_byte():
    master = np.array([-32767, -129, -128, 0, 127, 128, 32767], np.int16)
    expected = [max(-127, min(127, nearest(Fraction(int(v), 256)))) for v in master]
    assert quant.affine_codes(master).tolist() == expected


@pytest.mark.parametrize("acc_exponent, exponent", [(-14, -4), (-9, -3), (-20, -5), (1, -3)])
def test_bias_multiplier_is_exact(acc_exponent, exponent):
    bias = RNG.integers(-32767, 32768, 5)
    m, b, shift = quant.bias_multiplier(bias, acc_exponent, exponent)
    for acc in (-5000, -1, 0, 3, 99):
        for k in range(5):
            value = Fraction(acc) * Fraction(2) ** acc_exponent
            value += int(bias[k]) * Fraction(2) ** quant.BIAS_EXPONENT
            expected = max(-128, min(127, nearest(value / Fraction(2) ** exponent)))
            assert requantize(acc, int(m[k]), int(b[k]), shift) == expected


def test_bias_multiplier_refuses_exponents_that_are_too_far_apart():
    with pytest.raises(ValueError, match="more than 14 and 47 apart"):
        quant.bias_multiplier(np.zeros(2, np.int64), 4, -3)


# --- batch norm -------------------------------------------------------------------------------


def accumulators(shape=(4, 5, 6, 7), spread=9000):
    scale = RNG.integers(1, spread, (shape[1], 1, 1))
    offset = RNG.integers(-spread, spread, (shape[1], 1, 1))
    return (RNG.standard_normal(shape) * scale + offset).round().astype(np.int64)


def test_batch_norm_statistics_by_rationals():
    acc = accumulators()
    mean, deviation, count = quant.batch_norm_statistics(acc)
    assert count == 4 * 6 * 7
    for c in range(5):
        values = [int(v) for v in acc[:, c].ravel()]
        assert mean[c] == nearest(Fraction(sum(values), count))
        assert deviation[c] == max(sum(abs(v - int(mean[c])) for v in values), count)


def test_constant_channel_has_a_deviation_of_one_step():
    mean, deviation, count = quant.batch_norm_statistics(np.full((2, 1, 3, 3), -77))
    assert (mean[0], deviation[0], count) == (-77, 18, 18)


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 24))
def test_reciprocal_has_sixteen_bits(count, ratio):
    deviation = np.array([count * ratio - (count // 3 if ratio > 1 else 0)], np.int64)
    mantissa, shift = quant.batch_norm_reciprocal(deviation, count)
    assert 1 << 15 <= mantissa[0] <= 1 << 16
    exact = Fraction(count, int(deviation[0]))
    assert mantissa[0] == nearest(exact * 2 ** int(shift[0]))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual_exponent", [None, -5, -4])
def test_batch_norm_forward_rounds_once_after_xhat(relu, residual_exponent):
    acc = accumulators((2, 3, 4, 4))
    gamma, beta = RNG.integers(-127, 128, 3), RNG.integers(-127, 128, 3)
    mean, deviation, count = quant.batch_norm_statistics(acc)
    mantissa, shift = quant.batch_norm_reciprocal(deviation, count)
    residual = None
    if residual_exponent is not None:
        residual = RNG.integers(-127, 128, acc.shape)
    xhat, y = quant.batch_norm_forward(
        acc,
        mean,
        mantissa,
        shift,
        gamma,
        beta,
        exponent=-4,
        relu=relu,
        residual=residual,
        residual_exponent=residual_exponent,
    )
    for n, c, h, w in np.ndindex(acc.shape):
        exact = Fraction(int(acc[n, c, h, w] - mean[c]) * count, int(deviation[c])) * 4096
        assert abs(exact - int(xhat[n, c, h, w])) <= Fraction(1, 2) + abs(exact) / (1 << 16)
        value = Fraction(int(xhat[n, c, h, w]), 4096) * Fraction(int(gamma[c]), 64)
        value += Fraction(int(beta[c]), 64)
        if residual is not None:
            value += int(residual[n, c, h, w]) * Fraction(2) ** residual_exponent
        low = 0 if relu else -127
        assert y[n, c, h, w] == max(low, min(127, nearest(value * 16)))


def test_batch_norm_gradient_is_the_derivative_of_the_real_formula():
    """Against the analytic derivative of gamma * (x - mean x) / mean|x - mean x| in float64."""
    acc = accumulators((3, 4, 5, 6))
    gamma = np.array([64, -90, 1, 127])
    error = RNG.integers(-127, 128, acc.shape)
    mean, deviation, count = quant.batch_norm_statistics(acc)
    mantissa, shift = quant.batch_norm_reciprocal(deviation, count)
    xhat, _ = quant.batch_norm_forward(
        acc, mean, mantissa, shift, gamma, gamma * 0, exponent=-4, relu=False
    )
    sums = [v.sum((0, 2, 3)) for v in (error, error * xhat, np.sign(xhat))]
    means = quant.batch_norm_error_means(*sums, count)
    factors, factor_exponent = quant.batch_norm_error_factors(gamma, mantissa, shift)
    assert np.abs(factors).max() <= 1 << 15
    wide = quant.batch_norm_gradient(error, xhat, *means, factors)
    found = wide * 2.0 ** (factor_exponent - 16)

    x = acc.astype(np.float64)
    centred = x - x.mean((0, 2, 3), keepdims=True)
    sigma = np.abs(centred).mean((0, 2, 3), keepdims=True)
    normal, sign = centred / sigma, np.sign(centred)
    g = (gamma / 64).reshape(1, -1, 1, 1)
    mean_of = lambda v: v.mean((0, 2, 3), keepdims=True)  # noqa: E731
    expected = (
        g / sigma * (error - mean_of(error) - (sign - mean_of(sign)) * mean_of(error * normal))
    )
    for c in range(4):
        a, b = found[:, c].ravel(), expected[:, c].ravel()
        assert a @ b / math.sqrt((a @ a) * (b @ b)) > 0.99999
        # the smallest gamma has only as many bits as the common scale leaves it
        assert math.sqrt((a @ a) / (b @ b)) == pytest.approx(1, abs=0.01)


def test_tracked_statistics_average_evenly_and_then_with_the_window():
    running = np.array([0])
    seen = []
    for batch in range(20):
        total = int(RNG.integers(-(10**6), 10**6))
        seen.append(Fraction(total, 100) * Fraction(2) ** (24 - 12))
        before = running
        running = quant.track_statistics(running, np.array([total]), 100, -12, batch)
        n = min(batch + 1, 16)
        expected = int(before[0]) + Fraction(nearest(seen[-1]) - int(before[0]), n)
        assert running[0] == nearest(expected)
        if batch < 16:
            assert abs(running[0] - sum(seen) / len(seen)) <= batch + 2


@pytest.mark.parametrize("residual_exponent", [None, -4, -5])
def test_folded_batch_norm_is_the_real_one_within_a_rounding(residual_exponent):
    K, acc_exponent, exponent = 6, -15, -4
    gamma, beta = RNG.integers(-127, 128, K), RNG.integers(-127, 128, K)
    deviation = RNG.integers(1 << 21, 1 << 25, K)
    mean = RNG.integers(-(1 << 25), 1 << 25, K)
    bound = np.full(K, 1 << 22)
    m, b, s, r = quant.fold_batch_norm(
        gamma,
        beta,
        mean,
        deviation,
        acc_exponent=acc_exponent,
        acc_bound=bound,
        exponent=exponent,
        residual_exponent=residual_exponent,
    )
    assert np.abs(m).max() <= 32767 and 0 <= s <= 47
    for k in range(K):
        assert int(bound[k]) * abs(int(m[k])) + abs(int(b[k])) + (128 << r) < 1 << 47
        for acc in RNG.integers(-(1 << 15), 1 << 15, 50).tolist():
            z = int(RNG.integers(-127, 128)) if residual_exponent is not None else 0
            centred = Fraction(acc) * Fraction(2) ** acc_exponent
            centred -= int(mean[k]) * Fraction(2) ** -24
            value = centred / (int(deviation[k]) * Fraction(2) ** -24) * Fraction(int(gamma[k]), 64)
            value += Fraction(int(beta[k]), 64)
            value += z * Fraction(2) ** (residual_exponent or 0)
            exact = value / Fraction(2) ** exponent
            y = requantize(acc, int(m[k]), int(b[k]), s, residual=z, residual_shift=r)
            # half a step, and the error of a multiplier that is off by at most half of 2**-s
            slack = Fraction(1, 2) + abs(centred) * Fraction(2) ** -acc_exponent / 2**s
            assert abs(max(-128, min(127, exact)) - y) <= slack


def test_fold_refuses_what_no_shift_fits():
    with pytest.raises(ValueError, match="cannot be folded"):
        quant.fold_batch_norm(
            np.array([127]),
            np.array([0]),
            np.array([0]),
            np.array([1]),
            acc_exponent=0,
            acc_bound=np.array([1 << 30]),
            exponent=-4,
        )


# --- gradients are adjoints -------------------------------------------------------------------

GEOMETRIES = [
    dict(stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), kernel=(3, 3)),
    dict(stride=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1), kernel=(3, 3)),
    dict(stride=(2, 1), padding=(0, 2, 1, 0), dilation=(1, 1), kernel=(2, 3)),
    dict(stride=(1, 1), padding=(4, 4, 4, 4), dilation=(4, 4), kernel=(3, 3)),
    dict(stride=(2, 2), padding=(0, 0, 0, 0), dilation=(1, 1), kernel=(1, 1)),
    dict(stride=(2, 3), padding=(2, 1, 2, 1), dilation=(2, 1), kernel=(3, 2)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_gradients_are_its_adjoints(geometry):
    """<conv(x, w), e> = <x, dx(e, w)> = <w, dw(x, e)>, exactly."""
    kernel = geometry["kernel"]
    rest = {k: v for k, v in geometry.items() if k != "kernel"}
    x, w = RNG.integers(-128, 128, (2, 3, 9, 10)), RNG.integers(-127, 128, (4, 3, *kernel))
    acc = ops.conv_accumulate(x, w, **rest)
    e = RNG.integers(-127, 128, acc.shape)
    inner = int((acc * e).sum())
    assert int((x * quant.conv_input_gradient(e, w, (9, 10), **rest)).sum()) == inner
    assert int((w * quant.conv_weight_gradient(x, e, kernel, **rest)).sum()) == inner


@pytest.mark.parametrize("kernel, stride, padding", [(4, 2, 1), (8, 4, 2), (3, 2, 0), (2, 3, 0)])
def test_transposed_convolution_gradients_are_its_adjoints(kernel, stride, padding):
    options = dict(stride=(stride, stride), padding=(padding,) * 4)
    x, w = RNG.integers(-128, 128, (2, 3, 4, 5)), RNG.integers(-127, 128, (3, 6, kernel, kernel))
    acc = ops.conv_transpose_accumulate(x, w, **options)
    e = RNG.integers(-127, 128, acc.shape)
    inner = int((acc * e).sum())
    assert int((x * quant.conv_transpose_input_gradient(e, w, **options)).sum()) == inner
    gradient = quant.conv_transpose_weight_gradient(x, e, (kernel, kernel), **options)
    assert int((w * gradient).sum()) == inner


@pytest.mark.parametrize("ratio, corners", [((2, 4), "half_pixel"), ((3, 2), "align")])
def test_resize_gradient_is_its_adjoint_and_wide_is_resize_before_rounding(ratio, corners):
    x = RNG.integers(-128, 128, (2, 3, 4, 5))
    wide = quant.resize_wide(x, ratio=ratio, corners=corners)
    unit = 2 if corners == "half_pixel" else 1
    area = unit * unit * ratio[0] * ratio[1]
    rounded = (2 * wide + area) // (2 * area)
    assert (rounded == ops.resize(x, ratio=ratio, corners=corners)).all()
    e = RNG.integers(-127, 128, wide.shape)
    back = quant.resize_gradient(e, (4, 5), ratio=ratio, corners=corners)
    assert int((wide * e).sum()) == int((x * back).sum())


def test_max_pool_gradient_goes_to_the_first_maximum():
    x = np.array([[1, 7, 7, 0], [7, 2, 0, 0]]).reshape(1, 1, 2, 4)
    e = np.array([[5, -3]]).reshape(1, 1, 1, 2)
    found = quant.max_pool_gradient(x, e, kernel=(2, 2), stride=(2, 2))
    assert found[0, 0].tolist() == [[0, 5, -3, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_max_pool_gradient_is_the_slope_of_the_maxima(kernel, stride, padding):
    options = dict(kernel=(kernel,) * 2, stride=(stride,) * 2, padding=(padding,) * 4)
    x = RNG.permutation(2 * 7 * 8)[: 2 * 7 * 8].reshape(1, 2, 7, 8) - 56  # no ties
    y = ops.max_pool(x, **options)
    e = RNG.integers(-127, 128, y.shape)
    found = quant.max_pool_gradient(x, e, **options)
    for index in [tuple(int(RNG.integers(0, n)) for n in x.shape) for _ in range(30)]:
        wins = 0  # the sum of the errors of the windows that this element is the maximum of
        for _, p, q in np.ndindex(1, *y.shape[2:]):
            if y[0, index[1], p, q] == x[index]:
                rows = range(p * stride - padding, p * stride - padding + kernel)
                columns = range(q * stride - padding, q * stride - padding + kernel)
                if index[2] in rows and index[3] in columns:
                    wins += int(e[0, index[1], p, q])
        assert found[index] == wins


@pytest.mark.parametrize("count", [1, 2, 3, 300, 4800, 76800, 1 << 24])
def test_average_multiplier_has_fifteen_bits(count):
    m, shift = quant.average_pool_multiplier(count)
    assert 1 << 14 <= m < 1 << 15
    assert abs(Fraction(m, 1 << shift) * count - 1) <= Fraction(1, 1 << 14)


def test_average_and_broadcast_gradients():
    e = RNG.integers(-127, 128, (2, 3, 1, 1))
    wide, exponent = quant.average_pool_gradient(e, (5, 6))
    m, shift = quant.average_pool_multiplier(30)
    assert exponent == -shift and (wide == e * m).all() and wide.shape == (2, 3, 5, 6)
    e = RNG.integers(-127, 128, (2, 3, 5, 6))
    assert (quant.broadcast_gradient(e)[:, :, 0, 0] == e.sum((2, 3))).all()


# --- loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes, spread", [(2, 40), (11, 300), (21, 2000)])
def test_softmax_error_and_loss_against_real_numbers(classes, spread):
    z = RNG.integers(-spread, spread + 1, (2, classes, 6, 7))
    labels = RNG.integers(0, classes, (2, 6, 7))
    labels[0, 0] = 255
    error, loss, pixels = quant.softmax_cross_entropy(z, labels, 255)
    assert pixels == 2 * 6 * 7 - 7
    real = z / 64
    p = np.exp(real - real.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    hit = labels[:, None] == np.arange(classes)[:, None, None]
    expected = np.where((labels != 255)[:, None], 128 * (p - hit), 0)
    assert (error[:, :, :][np.broadcast_to((labels == 255)[:, None], error.shape)] == 0).all()
    assert np.abs(error - expected).max() < 2.5
    a, b = error.ravel().astype(float), expected.ravel()
    assert a @ b / math.sqrt((a @ a) * (b @ b)) > 0.9995
    nats = -np.log(np.take_along_axis(p, np.where(labels == 255, 0, labels)[:, None], 1))[:, 0]
    total = nats[labels != 255].sum()
    assert loss / 65536 == pytest.approx(total, rel=0.01)


def test_softmax_of_equal_logits_by_hand():
    z, labels = np.zeros((1, 4, 1, 1), np.int64), np.full((1, 1, 1), 2)
    error, loss, _ = quant.softmax_cross_entropy(z, labels, 255)
    assert error.ravel().tolist() == [32, 32, -96, 32]
    assert loss / 65536 == pytest.approx(math.log(4), abs=4e-3)  # the middle of a bin


@pytest.mark.parametrize("exponent", [-12, -6, -3])
def test_logits_are_rounded_once_to_the_step_of_the_loss(exponent):
    codes = RNG.integers(-5000, 5000, 100)
    expected = [nearest(Fraction(int(c)) * Fraction(2) ** (exponent + 6)) for c in codes]
    assert quant.softmax_logits(codes, exponent).tolist() == expected


# --- update -----------------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_learning_rate_has_eight_bits(numerator, denominator):
    mantissa, shift = quant.learning_rate(numerator, denominator)
    assert 128 <= mantissa <= 255
    ratio = Fraction(mantissa) * Fraction(2) ** -shift / Fraction(numerator, denominator)
    assert abs(ratio - 1) <= Fraction(1, 256)


def test_learning_rate_of_zero():
    assert quant.learning_rate(0, 7) == (0, 0)


def words(count, stream):
    return random_bits(11, stream, np.arange(count))


def test_momentum_is_seven_eighths_plus_gradient_plus_decay():
    n = 4096
    momentum = RNG.integers(-30000, 30000, n)
    gradient = RNG.integers(-(1 << 20), 1 << 20, n)
    gradient[0] = 1 << 20
    master = RNG.integers(-32767, 32768, n)
    codes, exponent = quant.momentum_update(
        momentum,
        -40,
        gradient,
        -42,
        master,
        -45,
        gradient_bits=8,
        random=(words(n, 1), words(n, 2)),
    )
    real = momentum * 2.0**-40 * 7 / 8 + gradient * 2.0**-42 + master * 2.0**-45
    found = codes * 2.0**exponent
    assert np.abs(codes).max() <= 32767 and np.abs(codes).max() > 16000
    # G is rounded stochastically to 2**13 of its steps, M to a step of its own
    assert np.abs(found - real).max() <= 2.0 ** (-42 + 13) + 2.0**exponent
    assert abs((found - real).mean()) < 5 * 2.0 ** (-42 + 13) / math.sqrt(n)


def test_momentum_of_nothing_is_zero():
    zero = np.zeros(3, np.int64)
    codes, exponent = quant.momentum_update(
        zero, -9, zero, -3, None, 0, gradient_bits=8, random=(words(3, 1), words(3, 2))
    )
    assert codes.tolist() == [0, 0, 0] and exponent == -9


def test_momentum_of_terms_that_are_far_apart_keeps_the_large_one():
    momentum, gradient = np.array([100, -200]), np.array([127, 5])
    codes, exponent = quant.momentum_update(
        momentum, 0, gradient, -100, None, 0, gradient_bits=8, random=(words(2, 1), words(2, 2))
    )
    assert (codes * 2.0**exponent).tolist() == pytest.approx([87.5, -175], rel=1e-3)


@pytest.mark.parametrize("shift_of_rate", [3, 12, 25])
def test_weight_update_subtracts_rate_times_momentum(shift_of_rate):
    n = 4096
    master, momentum = RNG.integers(-20000, 20000, n), RNG.integers(-32767, 32768, n)
    rate = (200, shift_of_rate)
    out, exponent = quant.weight_update(
        master, -15, momentum, -20, rate, fixed=False, random=words(n, 3)
    )
    real = master * 2.0**-15 - momentum * 2.0**-20 * 200 * 2.0**-shift_of_rate
    step = 2.0**exponent
    assert np.abs(out * step - real).max() <= step * (1 if exponent == -15 else 1.5)
    assert np.abs(out).max() <= 32767


def test_masters_that_outgrow_int16_are_halved_or_saturate():
    master, momentum = np.array([32000, -100]), np.array([-32000, 0])
    out, exponent = quant.weight_update(
        master, -15, momentum, -15, (128, 7), fixed=False, random=words(2, 3)
    )
    assert (out.tolist(), exponent) == ([32000, -50], -14)
    out, exponent = quant.weight_update(
        master, -15, momentum, -15, (128, 7), fixed=True, random=words(2, 3)
    )
    assert (out.tolist(), exponent) == ([32767, -100], -15)
