"""The operations of the frozen graph, in plain exact integer arithmetic on numpy int64.

The definition that every executor is held to: slow, obviously right. Tensors are int8 codes in (N,
C, H, W) (any integer type is accepted); the result is int8, of :func:`argmax` unsigned.
Requantisation is :func:`intaglio.spec.arith.requantize`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from intaglio.spec.arith import (
    ACC_MAX,
    ACC_MIN,
    CODE_MIN,
    closest_division,
    exact_division,
    requantize,
    round_shift,
    saturate,
)
from intaglio.spec.isa import den_h_max

__all__ = [
    "CORNERS",
    "ResizeScale",
    "add",
    "argmax",
    "avg_pool",
    "broadcast",
    "class_dtype",
    "concat",
    "conv",
    "conv_accumulate",
    "conv_transpose",
    "conv_transpose_accumulate",
    "max_pool",
    "output_size",
    "resize",
    "resize_scale",
    "resize_size",
    "resize_source",
]

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]

#: Corner conventions of :func:`resize`.
CORNERS = ("half_pixel", "align")


def output_size(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1
) -> int:
    """Return the rows that a window operation makes of ``size`` rows (may be < 1 when the window
    does not fit).
    """
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.int64)


def _pad(x: np.ndarray, padding: Padding, code: int) -> np.ndarray:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=code)


def _windows(x: np.ndarray, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Any:
    """Yield (r, s, the elements that kernel position (r, s) meets: (N, C, P, Q)) of a padded
    ``x``.
    """
    rows = output_size(x.shape[2], kernel[0], stride[0], 0, 0, dilation[0])
    cols = output_size(x.shape[3], kernel[1], stride[1], 0, 0, dilation[1])
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            top, left = r * dilation[0], s * dilation[1]
            yield (
                r,
                s,
                x[
                    :,
                    :,
                    top : top + (rows - 1) * stride[0] + 1 : stride[0],
                    left : left + (cols - 1) * stride[1] + 1 : stride[1],
                ],
            )


def _channels(x: Any) -> np.ndarray:
    return _wide(x).reshape(1, -1, 1, 1)


def _check_accumulator(acc: np.ndarray) -> np.ndarray:
    if acc.size and (acc.min() < ACC_MIN or acc.max() > ACC_MAX):
        raise OverflowError(
            f"accumulator [{acc.min()}, {acc.max()}] exceeds [{ACC_MIN}, {ACC_MAX}]"
        )
    return acc


def conv_accumulate(
    x: Any, weight: Any, *, stride: Pair, padding: Padding, dilation: Pair, pad_code: int = 0
) -> np.ndarray:
    """Return the int32 accumulators (N, K, P, Q), as int64, of a convolution with ``weight`` (K, C,
    R, S).

    Raises OverflowError when an accumulator exceeds int32.
    """
    x, weight = _pad(_wide(x), padding, pad_code), _wide(weight)
    acc: Any = 0
    for r, s, window in _windows(x, weight.shape[2:], stride, dilation):  # (N, C, P, Q)
        acc = acc + np.einsum("ncpq,kc->nkpq", window, weight[:, :, r, s], optimize=True)
    return _check_accumulator(acc)


def conv(
    x: Any,
    weight: Any,
    multiplier: Any,
    bias: Any,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    pad_code: int,
    shift: int,
    low: int,
    high: int,
    residual: Any = None,
    residual_shift: int = 0,
) -> np.ndarray:
    """Return the requantised convolution, int8 (N, K, P, Q).

    ``padding`` is (top, left, bottom, right), filled with ``pad_code``; ``multiplier`` and ``bias``
    have one entry per output channel; ``residual`` is int8 (N, K, P, Q).
    """
    acc = conv_accumulate(
        x, weight, stride=stride, padding=padding, dilation=dilation, pad_code=pad_code
    )
    return requantize(
        acc,
        _channels(multiplier),
        _channels(bias),
        shift,
        residual=_wide(0 if residual is None else residual),
        residual_shift=residual_shift,
        low=low,
        high=high,
    ).astype(np.int8)


def conv_transpose_accumulate(x: Any, weight: Any, *, stride: Pair, padding: Padding) -> np.ndarray:
    """Return the int32 accumulators, as int64, of a transposed convolution with ``weight`` (C, K,
    R, S).

    The full output has ``(H - 1) * stride + R`` rows; ``padding`` (top, left, bottom, right) is cut
    off.
    """
    x, weight = _wide(x), _wide(weight)
    batch, _, rows, cols = x.shape
    _, outputs, kernel_h, kernel_w = weight.shape
    full = np.zeros(
        (batch, outputs, (rows - 1) * stride[0] + kernel_h, (cols - 1) * stride[1] + kernel_w),
        np.int64,
    )
    for r in range(kernel_h):
        for s in range(kernel_w):
            full[
                :,
                :,
                r : r + (rows - 1) * stride[0] + 1 : stride[0],
                s : s + (cols - 1) * stride[1] + 1 : stride[1],
            ] += np.einsum("nchw,ck->nkhw", x, weight[:, :, r, s], optimize=True)
    top, left, bottom, right = padding
    full = full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]
    return _check_accumulator(full)


def conv_transpose(
    x: Any,
    weight: Any,
    multiplier: Any,
    bias: Any,
    *,
    stride: Pair,
    padding: Padding,
    shift: int,
    low: int,
    high: int,
) -> np.ndarray:
    """Return the requantised transposed convolution, int8; see
    :func:`conv_transpose_accumulate`.
    """
    acc = conv_transpose_accumulate(x, weight, stride=stride, padding=padding)
    return requantize(
        acc, _channels(multiplier), _channels(bias), shift, low=low, high=high
    ).astype(np.int8)


def max_pool(x: Any, *, kernel: Pair, stride: Pair, padding: Padding) -> np.ndarray:
    """Return the maximum of each window, int8; positions in the padding never win."""
    # One below every code: only a window without any element could yield it, and the graph refuses
    # those.
    x = _pad(_wide(x), padding, CODE_MIN - 1)
    result: Any = None
    for _, _, window in _windows(x, kernel, stride):
        result = window if result is None else np.maximum(result, window)
    return result.astype(np.int8)


def avg_pool(
    x: Any,
    multiplier: Any,
    bias: Any,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    shift: int,
    low: int,
    high: int,
) -> np.ndarray:
    """Return the requantised sum of each window (padding counts as 0), int8; the division lies in
    ``multiplier`` and ``shift``.
    """
    x = _pad(_wide(x), padding, 0)
    acc: Any = 0
    for _, _, window in _windows(x, kernel, stride):
        acc = acc + window
    _check_accumulator(acc)
    return requantize(
        acc, _channels(multiplier), _channels(bias), shift, low=low, high=high
    ).astype(np.int8)


def resize_size(size: int, ratio: int, corners: str) -> int:
    """Return the output rows of a resize by ``ratio``."""
    return size * ratio if corners == "half_pixel" else (size - 1) * ratio + 1


def resize_source(
    size: int, ratio: int, corners: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return for each output row: lower source row, upper source row, fraction; and the fraction's
    denominator.

    Output row i lies at source row ``(2 i + 1 - f) / (2 f)`` ("half_pixel") or ``i / f`` ("align");
    the two rows are clamped into the source.
    """
    index = np.arange(resize_size(size, ratio, corners), dtype=np.int64)
    if corners == "half_pixel":
        numerator, denominator = 2 * index + 1 - ratio, 2 * ratio
    else:
        numerator, denominator = index, ratio
    lower = numerator // denominator
    fraction = numerator - lower * denominator
    return lower.clip(0, size - 1), (lower + 1).clip(0, size - 1), fraction, denominator


@dataclass(frozen=True, kw_only=True)
class ResizeScale:
    """How a resize turns the weighted sum of its four codes into a code.

    ``steps``, ``dens``: the next output lies ``steps / dens`` of the way between two source
    positions further, vertically and horizontally; ``dens`` are the denominators of
    :func:`resize_source`, or half of that where all fractions are even. With weights over ``dens``,
    the sum ``s`` becomes ``round_shift(factor * s * multiplier + bias, shift)``.

    ``exact``: that is ``s / (dens[0] * dens[1])`` rounded to nearest, ties towards +inf, for every
    sum. There are such numbers for equal ratios up to 25; where there are none, the closest
    ones define the result, which is off by one where that lies within 1/100 of a tie.

    ``division``: (scale, offset, divisor) that do the same to the sum ``t`` over the denominators
    of :func:`resize_source`: ``floor((scale * t + offset) / divisor)``.
    """

    steps: Pair
    dens: Pair
    factor: int
    multiplier: int
    bias: int
    shift: int
    exact: bool
    division: tuple[int, int, int]


@cache
def resize_scale(ratio: Pair, corners: str) -> ResizeScale:
    """Return how a resize by ``ratio`` scales its sums.

    The factor, common to all weights, makes the multiplier finer; it is bounded by the denominators
    that an instruction can hold.
    """
    half = corners == "half_pixel"
    even = [half and f % 2 == 0 for f in ratio]
    steps = (1 + even[0], 1 + even[1])
    dens = (ratio[0] * steps[0], ratio[1] * steps[1])
    area = dens[0] * dens[1]
    # By how much the sums over the denominators of resize_source are larger.
    common = (2 // steps[0]) * (2 // steps[1]) if half else 1
    most = den_h_max(dens[1]) // dens[0]
    try:
        factor, multiplier, bias, shift = exact_division(area, -CODE_MIN * area, most)
    except ValueError:
        exact, bias = False, 0
        factor, multiplier, shift = closest_division(area, most)
        division = (factor * multiplier, ((1 << shift) >> 1) * common, common << shift)
    else:
        exact, division = True, (2, area * common, 2 * area * common)
    return ResizeScale(
        steps=steps,
        dens=dens,
        factor=factor,
        multiplier=multiplier,
        bias=bias,
        shift=shift,
        exact=exact,
        division=division,
    )


def resize(x: Any, *, ratio: Pair, corners: str) -> np.ndarray:
    """Return the bilinear resize by integer ratios, int8: one rounding to nearest, ties towards
    +inf, as :func:`resize_scale` says.
    """
    x = _wide(x)
    top, bottom, row_fraction, row_den = resize_source(x.shape[2], ratio[0], corners)
    left, right, col_fraction, col_den = resize_source(x.shape[3], ratio[1], corners)
    f, g = row_fraction[:, None], col_fraction[None, :]
    rows = x[:, :, top] * (row_den - f) + x[:, :, bottom] * f  # (N, C, H', W)
    total = rows[:, :, :, left] * (col_den - g) + rows[:, :, :, right] * g  # (N, C, H', W')
    scale, offset, divisor = resize_scale(tuple(ratio), corners).division
    return ((scale * total + offset) // divisor).astype(np.int8)


def broadcast(x: Any, *, size: Pair) -> np.ndarray:
    """Return a (N, C, 1, 1) map repeated to ``size``."""
    x = np.asarray(x)
    return np.broadcast_to(x, (*x.shape[:2], *size)).astype(np.int8)


def add(
    a: Any, b: Any, *, shift_a: int, shift_b: int, shift: int, low: int, high: int
) -> np.ndarray:
    """Return ``saturate(round_shift((a << shift_a) + (b << shift_b), shift), low, high)``, int8."""
    total = (_wide(a) << shift_a) + (_wide(b) << shift_b)
    return saturate(round_shift(total, shift), low, high).astype(np.int8)


def concat(*inputs: Any) -> np.ndarray:
    """Return the inputs joined along the channels, int8."""
    return np.concatenate([np.asarray(x) for x in inputs], axis=1).astype(np.int8)


def argmax(x: Any) -> np.ndarray:
    """Return the channel with the largest code at each position, (N, 1, H, W) of
    :func:`class_dtype`; the lowest wins a tie.
    """
    x = np.asarray(x)
    return x.argmax(axis=1, keepdims=True).astype(class_dtype(x.shape[1]))


def class_dtype(classes: int) -> str:
    """Return the type of a class map: "uint8" up to 256 classes, "uint16" above."""
    return "uint8" if classes <= 256 else "uint16"
