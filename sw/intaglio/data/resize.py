"""Resampling of images and masks in integers: exact area means, fixed-point bilinear, nearest."""

import numpy as np

from intaglio.spec.arith import round_shift
from intaglio.spec.metrics import VOID

__all__ = [
    "PAD_PIXEL",
    "area",
    "bilinear",
    "bilinear_taps",
    "fit",
    "fit_image",
    "fit_size",
    "nearest_taps",
    "pad",
    "pad_image",
]

#: Pixel that fills what lies outside an image: it becomes code 0.
PAD_PIXEL = 128
#: Fraction bits of a bilinear position.
_FRACTION = 8


def nearest_taps(source: int, target: int) -> np.ndarray:
    """Return for each of ``target`` pixels the source pixel under its centre, int64 (target,).

    Pixel ``i`` has its centre at ``(2 i + 1) / (2 target)`` of the extent; the source pixel is the
    floor of ``(2 i + 1) source / (2 target)``.
    """
    return ((2 * np.arange(target, dtype=np.int64) + 1) * source) // (2 * target)


def bilinear_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower tap, upper tap and weight of the upper one (0..255, in 1/256), each (target,).

    The position of output ``i`` is ``(2 i + 1) source / (2 target) - 1/2`` source pixels, rounded
    down to a multiple of 1/256 and limited to the first and the last pixel.
    """
    centre = ((2 * np.arange(target, dtype=np.int64) + 1) * source << _FRACTION) // (2 * target)
    position = (centre - (1 << _FRACTION >> 1)).clip(0, (source - 1) << _FRACTION)
    lower = position >> _FRACTION
    return lower, np.minimum(lower + 1, source - 1), position & ((1 << _FRACTION) - 1)


def bilinear(
    image: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Interpolate ``image``, uint8 (H, W, C), at the taps: uint8 (len(rows), len(columns), C).

    ``rows`` and ``columns`` are (parts of) results of :func:`bilinear_taps`. The weighted sum of
    the four pixels is exact and rounded once, ties up.
    """
    top, bottom, down = rows
    left, right, across = columns
    down = down.astype(np.int32)[:, None, None]
    across = across.astype(np.int32)[:, None]
    one = 1 << _FRACTION
    upper = image[top].astype(np.int32)  # (P, W, C)
    mixed = upper * (one - down) + image[bottom].astype(np.int32) * down
    total = mixed[:, left] * (one - across) + mixed[:, right] * across  # (P, Q, C), below 2**24
    return round_shift(total, 2 * _FRACTION).astype(np.uint8)


def _interval_sums(values: np.ndarray, target: int) -> np.ndarray:
    """Sum ``values`` (S, ...), int64, over ``target`` equal intervals of axis 0, times ``target``.

    Interval ``i`` is [i S / target, (i + 1) S / target); a pixel that it covers in part counts in
    part.
    """
    source = len(values)
    below = np.zeros((source + 1, *values.shape[1:]), np.int64)
    np.cumsum(values, axis=0, out=below[1:])
    edges = np.arange(target + 1, dtype=np.int64) * source
    whole, part = edges // target, edges % target
    part = part.reshape(-1, *[1] * (values.ndim - 1))
    # The last edge has whole == source and part 0; the tap is limited only to stay inside.
    partial = values[np.minimum(whole, source - 1)] * part
    return np.diff(below[whole] * target + partial, axis=0)


def area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the exact mean of ``image`` over each output pixel's area, uint8 (height, width, C).

    ``image`` is uint8 (H, W, C). The mean is a rational number, rounded once to nearest, ties up.
    """
    h, w = image.shape[:2]
    sums = _interval_sums(image.astype(np.int64), height)  # (height, W, C), times height
    sums = _interval_sums(sums.swapaxes(0, 1), width).swapaxes(0, 1)  # times height * width
    return ((2 * sums + h * w) // (2 * h * w)).astype(np.uint8)


def fit_size(source: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return the largest (height, width) with the proportions of ``source`` inside the frame.

    The side that does not touch the frame is rounded to nearest, and is at least 1.
    """
    h, w = source
    if height * w <= width * h:
        return height, max(1, (2 * w * height + h) // (2 * h))
    return max(1, (2 * h * width + w) // (2 * w)), width


def fit_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale ``image``, uint8 (H, W, 3), to :func:`fit_size`: area mean to shrink, else bilinear."""
    size = fit_size(image.shape[:2], height, width)
    if image.shape[:2] == size:
        return image
    if size[0] <= image.shape[0] and size[1] <= image.shape[1]:
        return area(image, *size)
    rows, columns = (bilinear_taps(s, t) for s, t in zip(image.shape[:2], size, strict=True))
    return bilinear(image, rows, columns)


def fit(
    image: np.ndarray, mask: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image as :func:`fit_image` does, and its mask by the nearest pixel."""
    size = fit_size(image.shape[:2], height, width)
    if mask.shape != size:
        rows, columns = (nearest_taps(s, t) for s, t in zip(mask.shape, size, strict=True))
        mask = mask[rows[:, None], columns]
    return fit_image(image, height, width), mask


def _frame(size: tuple[int, int], height: int, width: int) -> tuple[slice, slice]:
    h, w = size
    if h > height or w > width:
        raise ValueError(f"an image of {h}x{w} does not fit {height}x{width}")
    top, left = (height - h) // 2, (width - w) // 2
    return slice(top, top + h), slice(left, left + w)


def pad_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Put ``image`` in the middle of a frame of PAD_PIXEL, uint8 (height, width, 3)."""
    if image.shape[:2] == (height, width):
        return image
    framed = np.full((height, width, image.shape[2]), PAD_PIXEL, np.uint8)
    framed[_frame(image.shape[:2], height, width)] = image
    return framed


def pad(
    image: np.ndarray, mask: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put an image as :func:`pad_image` does, and its mask into a frame of void."""
    if mask.shape == (height, width):
        return image, mask
    framed = np.full((height, width), VOID, np.uint8)
    framed[_frame(mask.shape, height, width)] = mask
    return pad_image(image, height, width), framed
