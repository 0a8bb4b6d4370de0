"""Random scale, crop and flip in integers, drawn from counters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from intaglio.data.resize import PAD_PIXEL, bilinear, bilinear_taps, nearest_taps
from intaglio.spec.metrics import VOID
from intaglio.spec.rng import derive, uniform_below

if TYPE_CHECKING:
    from intaglio.data.dataset import Sample

__all__ = ["Augmentation", "augment"]

#: Separates these draws from all others of the same seed.
_PURPOSE = 0x6175676D656E74


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to a training sample.

    ``flip``: mirror left and right with probability 1/2. The scale is uniform among the multiples
    of 1/64 from ``smallest / 64`` to ``largest / 64``; 64 is the size of the sample.
    """

    flip: bool = True
    smallest: int = 48
    largest: int = 96

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest <= 1024:
            raise ValueError(
                "scales need 1 <= smallest <= largest <= 1024 (in 1/64), "
                f"not {self.smallest} and {self.largest}"
            )


def _window(scaled: int, frame: int, draw: int) -> int:
    """Return where the frame starts in the scaled image; negative where there is padding."""
    return draw if scaled >= frame else -draw


def augment(
    sample: "Sample",
    *,
    seed: int,
    epoch: int,
    index: int,
    height: int,
    width: int,
    policy: Augmentation | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 (height, width, 3) and mask uint8 (height, width) of a varied sample.

    The sample is scaled (image bilinear, mask nearest), a random window of ``height`` x ``width``
    is cut out, and it may be mirrored. Where the scaled image is smaller than the window it lies at
    a random place in it, surrounded by pixel 128 and void. All draws depend on (seed, epoch, index)
    alone: pass the index in the data set, and the result is the same in any batch and on any
    worker. ``policy`` defaults to ``Augmentation()``.
    """
    policy = policy or Augmentation()
    key = derive(seed, _PURPOSE, epoch, index)
    h, w = sample.mask.shape
    scale = policy.smallest + uniform_below(policy.largest - policy.smallest + 1, key, 0, 0)
    tall, wide = max(1, (h * scale + 32) // 64), max(1, (w * scale + 32) // 64)
    top = _window(tall, height, uniform_below(abs(tall - height) + 1, key, 0, 1))
    left = _window(wide, width, uniform_below(abs(wide - width) + 1, key, 0, 2))

    # Only what the window shows is computed.
    rows = slice(max(top, 0), min(top + height, tall))
    columns = slice(max(left, 0), min(left + width, wide))
    image = bilinear(
        sample.image,
        tuple(t[rows] for t in bilinear_taps(h, tall)),  # type: ignore[arg-type]
        tuple(t[columns] for t in bilinear_taps(w, wide)),  # type: ignore[arg-type]
    )
    mask = sample.mask[nearest_taps(h, tall)[rows, None], nearest_taps(w, wide)[columns]]

    if mask.shape != (height, width):
        place = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        inner_image, inner_mask = image, mask
        image = np.full((height, width, 3), PAD_PIXEL, np.uint8)
        mask = np.full((height, width), VOID, np.uint8)
        image[place] = inner_image
        mask[place] = inner_mask
    if policy.flip and uniform_below(2, key, 0, 3):
        image, mask = image[:, ::-1], mask[:, ::-1]
    return image, mask
