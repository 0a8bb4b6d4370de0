"""The meaning of integer training: quantisers, L1 batch norm, loss, gradients and the update.

Every function is exact integer arithmetic on numpy int64; executors (torch operators, the fused
kernels) have to agree with it on every byte. A value is ``code * 2**exponent``; feature maps are
(N, C, H, W). "Wide" means codes before a quantiser, as many bits as the exact sum needs.

Scale rule (:func:`scale_shift`): the exponent of an n-bit tensor is ``ceil(log2 m) - (n - 1)`` for
the largest magnitude ``m``, so that codes fill n bits and the largest saturates at most by one
step.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from intaglio.spec import ops
from intaglio.spec.arith import (
    CODE_MAX,
    MULTIPLIER_MAX,
    RESIDUAL_SHIFT_MAX,
    SHIFT_MAX,
    SUM_MAX,
    round_shift,
    saturate,
)

__all__ = [
    "AFFINE_EXPONENT",
    "AFFINE_MASTER_EXPONENT",
    "BIAS_EXPONENT",
    "CODE_LIMIT",
    "LOGIT_EXPONENT",
    "LOG_EXPONENT",
    "MASTER_LIMIT",
    "MEAN_BITS",
    "MOMENTUM_SHIFT",
    "NORMAL_EXPONENT",
    "NORMAL_LIMIT",
    "STATISTICS_EXPONENT",
    "STATISTICS_WINDOW",
    "affine_codes",
    "average_pool_gradient",
    "average_pool_multiplier",
    "batch_norm_error_factors",
    "batch_norm_error_means",
    "batch_norm_forward",
    "batch_norm_gradient",
    "batch_norm_reciprocal",
    "batch_norm_shifts",
    "batch_norm_statistics",
    "bias_multiplier",
    "broadcast_gradient",
    "conv_input_gradient",
    "conv_transpose_input_gradient",
    "conv_transpose_weight_gradient",
    "conv_weight_gradient",
    "diffuse",
    "error_codes",
    "fold_batch_norm",
    "learning_rate",
    "log2_ceil",
    "max_pool_gradient",
    "merge",
    "merge_losses",
    "momentum_update",
    "resize_gradient",
    "resize_wide",
    "round_divide",
    "scale_shift",
    "softmax_cross_entropy",
    "softmax_logits",
    "stochastic_shift",
    "through_saturation",
    "track_statistics",
    "weight_codes",
    "weight_update",
]

#: Symmetric range of weights, errors and activations.
CODE_LIMIT = CODE_MAX
#: Symmetric range of int16 masters and momenta.
MASTER_LIMIT = (1 << 15) - 1
#: Normalised activations: int16 with 12 fractional bits.
NORMAL_EXPONENT, NORMAL_LIMIT = -12, (1 << 15) - 1
#: gamma and beta as batch norm sees them (int8), and their int16 masters.
AFFINE_EXPONENT, AFFINE_MASTER_EXPONENT = -6, -14
#: Masters of convolution biases.
BIAS_EXPONENT = -12
#: Fractional bits of the means in batch norm's backward: with 0 the gradient's cosine is .72. An
#: error of a mean is the same at every pixel, and so adds up wherever the input has a mean.
MEAN_BITS = 16
#: Running statistics are integers at this exponent, averages over about this many batches.
STATISTICS_EXPONENT, STATISTICS_WINDOW = -24, 16
#: Step of the logits in the loss, and of the loss itself.
LOGIT_EXPONENT, LOG_EXPONENT = -6, -16
#: Momentum is ``1 - 2**-MOMENTUM_SHIFT``.
MOMENTUM_SHIFT = 3
_FAR = 1 << 62


# --- small rules ------------------------------------------------------------------------------


def round_divide(a: Any, b: Any) -> Any:
    """Return ``floor(a / b + 1/2)`` for ``b > 0``: division with the rule of ``round_shift``.

    >>> [round_divide(a, 4) for a in (-6, -2, 2, 6)]
    [-1, 0, 1, 2]
    """
    return (2 * a + b) // (2 * b)


_POWERS = np.array([1 << i for i in range(63)], np.int64)


def log2_ceil(x: Any) -> Any:
    """Return ``ceil_log2`` of an int64 array (or of an ``int``), without a loop.

    >>> log2_ceil(np.array([0, 1, 2, 3, 4, 5])).tolist()
    [0, 0, 1, 2, 2, 3]
    """
    if isinstance(x, int):
        return max(x - 1, 0).bit_length()
    return np.searchsorted(_POWERS, x).astype(np.int64)


def scale_shift(maximum: int, bits: int) -> int:
    """Return the right shift that brings magnitudes up to ``maximum`` into signed ``bits`` bits.

    ``ceil(log2 maximum) - (bits - 1)``, at least 0: a tensor that fits is left alone.

    >>> [scale_shift(m, 8) for m in (0, 127, 128, 129, 256, 257)]
    [0, 0, 0, 1, 1, 2]
    """
    return max(log2_ceil(int(maximum)) - (bits - 1), 0)


def stochastic_shift(x: Any, shift: int, bits: Any) -> Any:
    """Divide by ``2**shift`` and round up with the probability of the fraction that is dropped.

    ``floor((x + u) / 2**shift)`` with ``u`` the lowest ``shift`` bits of ``bits``, random words of
    :func:`intaglio.spec.rng.random_bits` (uint64). ``shift`` in [0, 62].
    """
    u = (bits & np.uint64((1 << shift) - 1)).astype(np.int64)
    return (x + u) >> shift


def merge(terms: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Add wide tensors ``(codes, exponent)`` exactly, at the smallest of the exponents."""
    exponent = min(e for _, e in terms)
    total = sum(codes.astype(np.int64) << (e - exponent) for codes, e in terms)
    return np.asarray(total), exponent


def diffuse(values: np.ndarray, shift: int, *, limit: int = CODE_LIMIT) -> np.ndarray:
    """Divide (N, C, H, W) by ``2**shift``, carrying each rounding error to the next pixel.

    The scan runs along the pixels of a channel and starts anew with each image; in 1x1 maps,
    which have no next pixel, it runs along the images. With S the running sum,
    ``q[n] = round_shift(S[n], shift) - round_shift(S[n - 1], shift)``, so zeros stay zero, and a
    sum over pixels is off by at most one half. The result is saturated to +-``limit``.
    """
    N, C, H, W = values.shape
    if H * W == 1:
        scan = values.reshape(1, N, C).transpose(0, 2, 1)
    else:
        scan = values.reshape(N, C, H * W)
    rounded = round_shift(np.cumsum(scan.astype(np.int64), axis=2), shift)
    codes = np.diff(rounded, axis=2, prepend=0)
    if H * W == 1:
        codes = codes.transpose(0, 2, 1)
    return saturate(codes.reshape(N, C, H, W), -limit, limit)


def error_codes(values: np.ndarray, exponent: int) -> tuple[np.ndarray, int]:
    """Quantise a wide error to 8 bits: codes and their exponent.

    The scale is the tensor's own maximum. (That of the step before would do nearly as well while
    training is calm, but saturates where the loss jumps; an executor may use it as a guess that
    saves a pass over the data, and repeat the pass where the guess was wrong.)
    """
    shift = scale_shift(int(np.abs(values).max(initial=0)), 8)
    return diffuse(values, shift), exponent + shift


def through_saturation(error: Any, y: Any, low: int) -> Any:
    """Return the error in front of ``y = saturate(x, low, CODE_LIMIT)`` from the error behind it.

    At a bound only an error passes whose descent leads back inside: a positive one at the upper, a
    negative one at the lower. An error that passed outwards would drive x further for as long as
    the loss asks for more than y can say. ``low`` is ``-CODE_LIMIT``, or 0 for ReLU, at whose
    bound nothing passes. ``error`` and ``y`` have one shape.

    >>> [through_saturation(e, y, -127) for y in (-127, 0, 127) for e in (-5, 5)]
    [-5, 0, -5, 5, 0, 5]
    >>> [through_saturation(e, y, 0) for y in (0, 1, 127) for e in (-5, 5)]
    [0, 0, -5, 5, 0, 5]
    """
    above = (y > low) | ((error < 0) & (low < 0))
    below = (y < CODE_LIMIT) | (error > 0)
    return error * (above & below)


# --- weights ----------------------------------------------------------------------------------


def weight_codes(master: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the int8 view of an int16 master and the shift that it is coarser by.

    The exponent of the view is the master's plus ``shift`` = ``ceil(log2 max|w|) - 7``; a master
    within +-128 is used as it is. Nearest, symmetric.
    """
    shift = scale_shift(int(np.abs(master.astype(np.int64)).max(initial=0)), 8)
    return saturate(round_shift(master.astype(np.int64), shift), -CODE_LIMIT, CODE_LIMIT), shift


def affine_codes(master: np.ndarray) -> np.ndarray:
    """Return gamma or beta as batch norm sees it: int8 codes at AFFINE_EXPONENT."""
    shift = AFFINE_EXPONENT - AFFINE_MASTER_EXPONENT
    return saturate(round_shift(master.astype(np.int64), shift), -CODE_LIMIT, CODE_LIMIT)


def bias_multiplier(
    bias: np.ndarray, acc_exponent: int, exponent: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return ``(m, b, s)`` of a layer ``acc + bias`` without batch norm; a power of two.

    ``bias`` is a master at BIAS_EXPONENT (K,). Raises ``ValueError`` where the exponents are so far
    apart that m or s leaves its range.
    """
    common = min(acc_exponent, BIAS_EXPONENT, exponent)
    if acc_exponent - common > 14 or exponent - common > SHIFT_MAX:
        raise ValueError(
            f"exponents of accumulator ({acc_exponent}), bias ({BIAS_EXPONENT}) and output "
            f"({exponent}) are more than 14 and {SHIFT_MAX} apart"
        )
    m = np.full(bias.shape, 1 << (acc_exponent - common), np.int64)
    return m, bias.astype(np.int64) << (BIAS_EXPONENT - common), exponent - common


# --- L1 batch norm ----------------------------------------------------------------------------


def batch_norm_statistics(acc: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return per channel the mean of ``acc`` (N, C, H, W), the sum of ``|acc - mean|``, the count.

    The mean is rounded to an integer: a deviation is thousands of accumulator steps. The sum is at
    least the count, that is, the deviation at least one step.
    """
    values = acc.astype(np.int64)
    count = values.size // values.shape[1]
    mean = round_divide(values.sum((0, 2, 3)), count)
    deviation = np.abs(values - mean[:, None, None]).sum((0, 2, 3))
    return mean, np.maximum(deviation, count), count


def batch_norm_reciprocal(deviation: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``count / deviation`` (C,) as mantissas in [2**15, 2**16] and right shifts >= 15.

    ``deviation`` is the sum of :func:`batch_norm_statistics`, below 2**45.
    """
    if int(deviation.max()) >= 1 << 45:
        raise ValueError(f"sum of deviations {int(deviation.max())} is not below 2**45")
    shift = 15 + log2_ceil(-(-deviation // count))
    return round_divide(np.int64(count) << shift, deviation), shift


def batch_norm_shifts(exponent: int, residual_exponent: int | None) -> tuple[int, int]:
    """Return the output's right shift and the residual's left shift in batch norm's forward."""
    total = NORMAL_EXPONENT + AFFINE_EXPONENT
    residual = 0 if residual_exponent is None else residual_exponent - total
    if exponent < total or residual < 0:
        raise ValueError(
            f"exponents of output ({exponent}) and residual ({residual_exponent}) must be "
            f">= {total}"
        )
    return exponent - total, residual


def batch_norm_forward(
    acc: np.ndarray,
    mean: np.ndarray,
    mantissa: np.ndarray,
    shift: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    *,
    exponent: int,
    relu: bool,
    residual: np.ndarray | None = None,
    residual_exponent: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(xhat int16, y int8)``: ``y = gamma * xhat + beta [+ residual]``, rounded once.

    ``xhat = saturate(round_shift((acc - mean) * mantissa, shift - 12))``; gamma and beta are int8
    codes (C,). ReLU is the lower bound of the saturation.
    """
    gain = [v[:, None, None] for v in (mean, mantissa, shift, gamma, beta)]
    centred = (acc.astype(np.int64) - gain[0]) * gain[1]
    xhat = saturate(round_shift(centred, gain[2] + NORMAL_EXPONENT), -NORMAL_LIMIT, NORMAL_LIMIT)
    out_shift, residual_shift = batch_norm_shifts(exponent, residual_exponent)
    total = xhat * gain[3] + (gain[4] << -NORMAL_EXPONENT)
    if residual is not None:
        total = total + (residual.astype(np.int64) << residual_shift)
    low = 0 if relu else -CODE_LIMIT
    return xhat, saturate(round_shift(total, out_shift), low, CODE_LIMIT)


def batch_norm_error_means(
    error_sum: np.ndarray, product_sum: np.ndarray, sign_sum: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what batch norm's backward subtracts, each (C,) with MEAN_BITS fractional bits.

    The means of dy, of dy * xhat, and the latter times the mean of sgn xhat, from their sums over
    ``count`` pixels.
    """
    m0 = round_divide(error_sum << MEAN_BITS, count)
    m1 = round_divide(product_sum << (MEAN_BITS + NORMAL_EXPONENT), count)
    return m0, m1, round_divide(m1 * sign_sum, count)


def batch_norm_error_factors(
    gamma: np.ndarray, mantissa: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return ``gamma / deviation`` (C,) as integers of at most 2**15 and their common exponent.

    The value is in units of the accumulator's step: ``gamma * mantissa * 2**-shift`` at
    AFFINE_EXPONENT.
    """
    product = gamma.astype(np.int64) * mantissa
    top = int((log2_ceil(np.abs(product)) - shift).max())
    right = shift - (15 - top)
    factors = np.where(
        right >= 0, round_shift(product, np.maximum(right, 0)), product << np.maximum(-right, 0)
    )
    return factors, AFFINE_EXPONENT - (15 - top)


def batch_norm_gradient(
    error: np.ndarray,
    xhat: np.ndarray,
    m0: np.ndarray,
    m1: np.ndarray,
    m2: np.ndarray,
    factors: np.ndarray,
) -> np.ndarray:
    """Return the wide error of the accumulator.

    ``((dy << 16) - m0 - sgn(xhat) * m1 + m2) * factor``, with the means of
    :func:`batch_norm_error_means`. Its exponent is that of ``error`` - 16 + that of the factors -
    that of the accumulator.
    """
    a, b, c, f = (v[:, None, None] for v in (m0, m1, m2, factors))
    sign = np.sign(xhat).astype(np.int64)
    return ((error.astype(np.int64) << MEAN_BITS) - a - sign * b + c) * f


def track_statistics(
    running: np.ndarray, total: np.ndarray, count: int, acc_exponent: int, batches: int
) -> np.ndarray:
    """Move a running statistic (C,) towards ``total / count`` of a new batch.

    ``running`` is at STATISTICS_EXPONENT, ``total`` a sum over the batch in accumulator steps. The
    first STATISTICS_WINDOW batches are averaged evenly, then a batch weighs 1 / STATISTICS_WINDOW.
    ``batches`` is the number of batches seen before.
    """
    shift = acc_exponent - STATISTICS_EXPONENT
    if int(np.abs(total).max(initial=0)) >> max(61 - shift, 0):
        raise ValueError(
            f"a sum of {int(np.abs(total).max())} steps of 2**{acc_exponent} is too large"
        )
    if shift >= 0:
        value = round_divide(total << shift, count)
    else:
        value = round_divide(total, count << -shift)
    return running + round_divide(value - running, min(batches + 1, STATISTICS_WINDOW))


def fold_batch_norm(
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    *,
    acc_exponent: int,
    acc_bound: np.ndarray,
    exponent: int,
    residual_exponent: int | None = None,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return ``(m, b, s, r)``: batch norm as the one requantisation of :mod:`intaglio.spec.arith`.

    gamma and beta are int8 codes, mean and deviation running statistics at STATISTICS_EXPONENT,
    ``acc_bound`` the largest possible magnitude of each channel's accumulator. s is the largest
    shift for which every m fits int16 and every sum fits 48 bits; with ``gain = gamma / deviation``
    in output steps per accumulator step, ``m = round(gain * 2**s)`` and
    ``b = round((beta / step) * 2**s - mean * m)``.
    """
    # Python integers: the intermediate products need more than 64 bits.
    g, t = [int(v) for v in gamma], [int(v) for v in beta]
    mu, dev = [int(v) for v in mean], [max(int(v), 1) for v in deviation]
    bound = [int(v) for v in acc_bound]

    def scaled(numerator: int, power: int, denominator: int = 1) -> int:
        if power >= 0:
            return int(round_divide(numerator << power, denominator))
        return int(round_divide(numerator, denominator << -power))

    for s in range(SHIFT_MAX, -1, -1):
        r = 0 if residual_exponent is None else residual_exponent - exponent + s
        if not 0 <= r <= RESIDUAL_SHIFT_MAX:
            continue
        gain_power = s + acc_exponent - exponent + AFFINE_EXPONENT - STATISTICS_EXPONENT
        m = [scaled(a, gain_power, d) for a, d in zip(g, dev, strict=True)]
        if max(map(abs, m)) > MULTIPLIER_MAX:
            continue
        b = [
            scaled(c, s + AFFINE_EXPONENT - exponent)
            - scaled(u * k, STATISTICS_EXPONENT - acc_exponent)
            for c, u, k in zip(t, mu, m, strict=True)
        ]
        rest = ((1 << 7) << r if residual_exponent is not None else 0) + ((1 << s) >> 1)
        if all(n * abs(k) + abs(c) + rest <= SUM_MAX for n, k, c in zip(bound, m, b, strict=True)):
            return np.array(m, np.int64), np.array(b, np.int64), s, r
    raise ValueError(
        f"batch norm cannot be folded: no shift in [0, {SHIFT_MAX}] fits multipliers of 16 "
        f"and sums of 48 bits (smallest deviation {min(dev)} * 2**{STATISTICS_EXPONENT})"
    )


# --- products ---------------------------------------------------------------------------------
#
# ``padding`` is (top, left, bottom, right); the padding code is 0 while training.


def _pad(x: np.ndarray, padding: tuple[int, int, int, int]) -> np.ndarray:
    top, left, bottom, right = padding
    return np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)))


def _window(
    padded: np.ndarray,
    r: int,
    s: int,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """Return the view of ``padded`` that tap (r, s) of the kernel meets, (N, C, P, Q)."""
    top, left = r * dilation[0], s * dilation[1]
    return padded[
        :,
        :,
        top : top + (size[0] - 1) * stride[0] + 1 : stride[0],
        left : left + (size[1] - 1) * stride[1] + 1 : stride[1],
    ]


def conv_weight_gradient(
    x: np.ndarray,
    error: np.ndarray,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Return the gradient (K, C, R, S) for input x (N, C, H, W) and error (N, K, P, Q)."""
    padded, e, (R, S) = _pad(x, padding), error.astype(np.int64), kernel
    out = np.zeros((e.shape[1], x.shape[1], R, S), np.int64)
    for r in range(R):
        for s in range(S):
            tap = _window(padded, r, s, stride, dilation, (e.shape[2], e.shape[3]))
            out[:, :, r, s] = np.einsum("nchw,nkhw->kc", tap, e)
    return out


def conv_input_gradient(
    error: np.ndarray,
    weight: np.ndarray,
    size: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Return the wide error (N, C, H, W) of a convolution's input of (H, W) = ``size``."""
    top, left, bottom, right = padding
    (N, _, P, Q), (_, C, R, S) = error.shape, weight.shape
    padded = np.zeros((N, C, size[0] + top + bottom, size[1] + left + right), np.int64)
    for r in range(R):
        for s in range(S):
            part = np.einsum(
                "nkhw,kc->nchw", error.astype(np.int64), weight[:, :, r, s].astype(np.int64)
            )
            _window(padded, r, s, stride, dilation, (P, Q))[...] += part
    return padded[:, :, top : top + size[0], left : left + size[1]]


def conv_transpose_input_gradient(
    error: np.ndarray,
    weight: np.ndarray,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> np.ndarray:
    """Return the wide error of a transposed convolution's input: an ordinary convolution."""
    return ops.conv_accumulate(error, weight, stride=stride, padding=padding, dilation=(1, 1))


def conv_transpose_weight_gradient(
    x: np.ndarray,
    error: np.ndarray,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> np.ndarray:
    """Return the gradient (C, K, R, S) of a transposed convolution's weight."""
    return conv_weight_gradient(error, x, kernel, stride=stride, padding=padding)


# --- pooling and resize -----------------------------------------------------------------------


def max_pool_gradient(
    x: np.ndarray,
    error: np.ndarray,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> np.ndarray:
    """Return the error of a max pool's input: each window's first maximum takes it all."""
    top, left, bottom, right = padding
    N, C, H, W = x.shape
    P, Q = error.shape[2:]
    padded = np.pad(
        x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-_FAR
    )
    size, one = (P, Q), (1, 1)
    taps = [(r, s) for r in range(kernel[0]) for s in range(kernel[1])]
    windows = np.stack([_window(padded, r, s, stride, one, size) for r, s in taps])
    winner = windows.argmax(0)
    out = np.zeros_like(padded)
    for index, (r, s) in enumerate(taps):
        _window(out, r, s, stride, one, size)[...] += np.where(winner == index, error, 0)
    return out[:, :, top : top + H, left : left + W]


def average_pool_multiplier(count: int) -> tuple[int, int]:
    """Return ``(m, s)`` with ``m / 2**s`` nearest to ``1 / count`` and m in [2**14, 2**15).

    >>> average_pool_multiplier(300)
    (27962, 23)
    """
    if not 1 <= count <= 1 << 24:
        raise ValueError(f"count must be in [1, 2**24], not {count}")
    shift = 14 + log2_ceil(count)
    m = int(round_divide(1 << shift, count))
    return (m, shift) if m <= MULTIPLIER_MAX else (m >> 1, shift - 1)


def average_pool_gradient(error: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Return the wide error of a global average's input, and the exponent to add (-s)."""
    m, shift = average_pool_multiplier(size[0] * size[1])
    wide = error.astype(np.int64) * m
    return np.broadcast_to(wide, (*error.shape[:2], *size)), -shift


def broadcast_gradient(error: np.ndarray) -> np.ndarray:
    """Return the wide error of a broadcast's input (N, C, 1, 1): the sum over the pixels."""
    return error.astype(np.int64).sum((2, 3), keepdims=True)


def _resize_matrix(size: int, ratio: int, corners: str) -> np.ndarray:
    first, second, weight, unit = ops.resize_source(size, ratio, corners)
    out = np.zeros((len(first), size), np.int64)
    rows = np.arange(len(first))
    np.add.at(out, (rows, first), unit - weight)
    np.add.at(out, (rows, second), weight)
    return out


def resize_wide(x: np.ndarray, *, ratio: tuple[int, int], corners: str) -> np.ndarray:
    """Return the exact bilinear interpolation times the two denominators of ``resize_source``."""
    rows = _resize_matrix(x.shape[2], ratio[0], corners)
    columns = _resize_matrix(x.shape[3], ratio[1], corners)
    return np.einsum("ph,nchw,qw->ncpq", rows, x.astype(np.int64), columns, optimize=True)


def resize_gradient(
    error: np.ndarray, size: tuple[int, int], *, ratio: tuple[int, int], corners: str
) -> np.ndarray:
    """Return the adjoint of :func:`resize_wide`, (N, C) + ``size``."""
    rows = _resize_matrix(size[0], ratio[0], corners)
    columns = _resize_matrix(size[1], ratio[1], corners)
    return np.einsum("ph,ncpq,qw->nchw", rows, error.astype(np.int64), columns, optimize=True)


# --- loss -------------------------------------------------------------------------------------

#: round(256 * log2(1 + (i + 1/2) / 256)): log2 of a mantissa, mid-bin.
_LOG2 = np.array([round(256 * float(np.log2(1 + (i + 0.5) / 256))) for i in range(256)], np.int64)
#: round(2**12 * 2**(i / 32)).
_EXP2 = np.array([round(4096 * 2.0 ** (i / 32)) for i in range(32)], np.int64)
_LN2 = 45426  # round(2**16 * ln 2)


def softmax_logits(codes: np.ndarray, exponent: int) -> np.ndarray:
    """Return logits at LOGIT_EXPONENT, rounded once."""
    shift = LOGIT_EXPONENT - exponent
    codes = codes.astype(np.int64)
    return round_shift(codes, shift) if shift >= 0 else codes << -shift


def softmax_cross_entropy(
    z: np.ndarray, labels: np.ndarray, void: int
) -> tuple[np.ndarray, int, int]:
    """Return ``(error codes, loss sum, pixels)`` of logits z (N, K, H, W) at LOGIT_EXPONENT.

    The error ``p - [k = y]`` has exponent -7 and is zero where ``labels`` (N, H, W) is ``void``.
    The loss is the sum over the counted pixels, in nats, at LOG_EXPONENT. With ``d = z - max``,
    ``t = round_shift(d * 369, 9)`` is ``d / ln 2`` in steps of 1/32; with its integer and
    fractional parts i and f, ``p = EXP2[f] >> -i`` is ``2**12 * exp d``.
    """
    K = z.shape[1]
    d = z - z.max(1, keepdims=True)
    t = round_shift(d * 369, 9)
    p = _EXP2[t & 31] >> np.minimum(-(t >> 5), 16)
    total = p.sum(1, keepdims=True)
    hit = labels[:, None] == np.arange(K)[:, None, None]
    counted = (labels != void)[:, None]
    error = saturate((256 * p + total) // (2 * total) - 128 * hit, -CODE_LIMIT, CODE_LIMIT)
    # log2(total / 2**12) - t_y / 32, with 8 fractional bits; total >= 2**12.
    whole = np.searchsorted(_POWERS, total, side="right") - 1
    log = ((whole - 12) << 8) + _LOG2[(total >> (whole - 8)) & 255]
    bits = np.where(counted & hit, log - (t << 3), 0).sum()
    return np.where(counted, error, 0), int(bits) * _LN2 >> 8, int(counted.sum())


def merge_losses(losses: Iterable[int]) -> int:
    """Return the loss sum of a batch from those of its parts, as :func:`softmax_cross_entropy`
    returns them.

    Each is ``floor(bits * LN2 / 2**8)``. As LN2 / 2**8 is above 1, ``bits`` is the only integer in
    ``[loss * 2**8 / LN2, (loss + 1) * 2**8 / LN2)``, and the sum of the bits is rounded once.
    """
    bits = sum(-(-(int(loss) << 8) // _LN2) for loss in losses)
    return bits * _LN2 >> 8


# --- update -----------------------------------------------------------------------------------


def learning_rate(numerator: int, denominator: int) -> tuple[int, int]:
    """Return ``(mantissa, shift)`` with ``mantissa / 2**shift`` nearest to the ratio.

    The mantissa has 8 bits, [128, 255], or is 0 for 0. ``numerator`` >= 0, ``denominator`` > 0.

    >>> learning_rate(1, 10)
    (205, 11)
    """
    if numerator == 0:
        return 0, 0
    shift = 8 + denominator.bit_length() - numerator.bit_length()
    while True:
        scaled = (numerator << max(shift, 0), denominator << max(-shift, 0))
        mantissa = int(round_divide(*scaled))
        if mantissa <= 255:
            return (mantissa, shift) if mantissa >= 128 else (2 * mantissa, shift + 1)
        shift -= 1


def momentum_update(
    momentum: np.ndarray,
    momentum_exponent: int,
    gradient: np.ndarray,
    gradient_exponent: int,
    master: np.ndarray | None,
    decay_exponent: int,
    *,
    gradient_bits: int,
    random: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, int]:
    """Return the new momentum ``M - (M >> 3) + G + (W >> d)`` as int16 codes and its exponent.

    The wide gradient becomes G, ``gradient_bits`` wide, by stochastic rounding with the words
    ``random[0]``; the exact sum of the terms becomes int16 with ``random[1]``. ``master`` (None: no
    decay) counts with ``decay_exponent``, its own exponent minus d. All terms meet at the smallest
    exponent, but at most 40 bits below the largest term: lower bits are rounded off.
    """
    g = gradient.astype(np.int64)
    shift = scale_shift(int(np.abs(g).max(initial=0)), gradient_bits)
    limit = (1 << (gradient_bits - 1)) - 1
    g = saturate(stochastic_shift(g, shift, random[0]), -limit, limit)
    terms = [
        (
            momentum.astype(np.int64) * ((1 << MOMENTUM_SHIFT) - 1),
            momentum_exponent - MOMENTUM_SHIFT,
        ),
        (g, gradient_exponent + shift),
    ]
    if master is not None:
        terms.append((master.astype(np.int64), decay_exponent))
    sizes = [int(np.abs(v).max(initial=0)) for v, _ in terms]
    alive = [(v, e, n) for (v, e), n in zip(terms, sizes, strict=True) if n]
    if not alive:
        return np.zeros_like(g), momentum_exponent
    top = max(e + log2_ceil(n) for _, e, n in alive)
    base = max(min(e for _, e, _ in alive), top - 40)
    total = np.zeros_like(g)
    for v, e, _ in alive:
        total = total + (v << (e - base) if e >= base else round_shift(v, min(base - e, 62)))
    shift = scale_shift(int(np.abs(total).max()), 16)
    codes = saturate(stochastic_shift(total, shift, random[1]), -MASTER_LIMIT, MASTER_LIMIT)
    return codes, base + shift


def weight_update(
    master: np.ndarray,
    master_exponent: int,
    momentum: np.ndarray,
    momentum_exponent: int,
    rate: tuple[int, int],
    *,
    fixed: bool,
    random: np.ndarray,
    limit: int = MASTER_LIMIT,
) -> tuple[np.ndarray, int]:
    """Return ``W - SR(lr * M)`` and its exponent; ``rate`` is that of :func:`learning_rate`.

    Masters that outgrow +-``limit`` are halved and their exponent raised, except with ``fixed``
    (gamma, beta, bias), where they saturate.
    """
    mantissa, rate_shift = rate
    shift = master_exponent - momentum_exponent + rate_shift
    product = momentum.astype(np.int64) * mantissa
    if shift > 48:
        delta = np.zeros_like(product)
    elif shift >= 0:
        delta = stochastic_shift(product, shift, random)
    else:
        delta = product << min(-shift, 32)
    out = master.astype(np.int64) - delta
    if not fixed:
        while int(np.abs(out).max(initial=0)) > limit:
            out, master_exponent = round_shift(out, 1), master_exponent + 1
    return saturate(out, -limit, limit), master_exponent
