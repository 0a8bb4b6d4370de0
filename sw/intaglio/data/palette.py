"""Colours of classes and pictures of masks, in integers."""

import numpy as np

from intaglio.spec.arith import round_shift
from intaglio.spec.metrics import VOID

__all__ = ["color_map", "colorize", "overlay"]


def color_map(classes: int) -> np.ndarray:
    """Return the colour map of PASCAL VOC for ``classes`` classes, uint8 (classes, 3).

    The bits of the class index are dealt to red, green and blue in turn, highest bit first (the
    ``VOClabelcolormap`` of the VOC development kit). Class 0 is black.
    """
    index = np.arange(classes)
    colors = np.zeros((classes, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.astype(np.uint8)


def colorize(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return ``mask`` (H, W), class indices and 255, in the colours of ``palette``; void is white.

    ``palette`` is uint8 (n, 3); the result uint8 (H, W, 3). Raises ``ValueError`` for other values.
    """
    mask = np.asarray(mask)
    known = (mask < len(palette)) | (mask == VOID)
    if not known.all():
        raise ValueError(f"class {mask[~known][0]} is outside [0, {len(palette) - 1}] and not void")
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[mask]


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, *, opacity: int = 128
) -> np.ndarray:
    """Lay the colours of ``mask`` over ``image``, uint8 (H, W, 3) each; void pixels keep the image.

    ``opacity`` is in 1/256, from 0 (image alone) to 256 (colours alone); rounded to nearest.
    """
    if not 0 <= opacity <= 256:
        raise ValueError(f"opacity must be in [0, 256], not {opacity}")
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"image {image.shape} and mask {mask.shape} have different sizes")
    colors = colorize(mask, palette).astype(np.int64)
    mixed = round_shift(image.astype(np.int64) * (256 - opacity) + colors * opacity, 8)
    return np.where((mask == VOID)[..., None], image, mixed).astype(np.uint8)
