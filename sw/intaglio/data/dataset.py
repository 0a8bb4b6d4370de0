"""What every data set is: samples with class masks, scaled once and kept in memory."""

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from intaglio.data.augmentation import Augmentation
from intaglio.data.resize import fit, pad

__all__ = ["Dataset", "Sample"]

#: Decoded samples that a data set keeps, in bytes; what does not fit is decoded again when asked
#: for.
CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Sample:
    """One image with its classes.

    ``image`` is uint8 (H, W, 3), RGB; ``mask`` uint8 (H, W) with class indices and 255 for void;
    ``name`` identifies the sample within its data set and makes a file name. The arrays are shared:
    do not write.
    """

    image: np.ndarray
    mask: np.ndarray
    name: str


class Dataset:
    """A sequence of samples of one split; the base of all readers.

    With ``height`` and ``width`` in pixels (both or neither) every sample has that size: it is
    scaled, keeping its proportions, to the largest size that fits, and padded in the middle of the
    frame with code 0 (pixel 128) and void. Nothing is distorted and nothing is cut off; an image of
    the same proportions has no padding.

    Subclasses set ``name``, ``classes`` and ``palette`` (uint8 (n, 3)), optionally ``main_classes``
    (the class indices of a second mean IoU) and ``augmentation``, and define ``names`` and
    ``_load``.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    palette: np.ndarray
    main_classes: tuple[int, ...] | None = None
    augmentation: Augmentation = Augmentation()

    def __init__(self, *, split: str, height: int | None = None, width: int | None = None) -> None:
        if (height is None) != (width is None):
            raise ValueError(f"height and width go together, not {height} and {width}")
        for what, value in (("height", height), ("width", width)):
            if value is not None and value < 1:
                raise ValueError(f"{what} must be >= 1, not {value}")
        self.split = split
        self.height = height
        self.width = width
        self._cache: dict[int, Sample] = {}
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def names(self) -> tuple[str, ...]:
        """Return the name of every sample, in order."""
        raise NotImplementedError(f"{type(self).__name__}.names")

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask of sample ``index`` at their own size, mask in class indices."""
        raise NotImplementedError(f"{type(self).__name__}._load")

    def __len__(self) -> int:
        return len(self.names())

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index`` at ``height`` x ``width``, or at its own size without these."""
        sample = self.fitted(index)
        if self.height is None or self.width is None:
            return sample
        image, mask = pad(sample.image, sample.mask, self.height, self.width)
        return Sample(image, mask, sample.name)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def fitted(self, index: int) -> Sample:
        """Return sample ``index`` scaled but not padded: what the random crop starts from."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} is outside [0, {len(self) - 1}] of {self.name}")
        with self._lock:
            if index in self._cache:
                return self._cache[index]
        image, mask = self._load(index)
        if self.height is not None and self.width is not None:
            image, mask = fit(image, mask, self.height, self.width)
        image.setflags(write=False)
        mask.setflags(write=False)
        sample = Sample(image, mask, self.names()[index])
        with self._lock:
            size = image.nbytes + mask.nbytes
            if index not in self._cache and self._cached_bytes + size <= CACHE_BYTES:
                self._cache[index] = sample
                self._cached_bytes += size
        return sample

    def preload(self, *, progress: bool = True) -> None:
        """Decode, check and keep every sample now, so that a broken file is found before training.

        A progress bar appears on standard error when it takes longer than a second.
        """
        bar = tqdm(
            range(len(self)),
            desc=f"reading {self.name} {self.split}",
            unit="image",
            delay=1.0,
            disable=not progress,
            file=sys.stderr,
        )
        for index in bar:
            self.fitted(index)
