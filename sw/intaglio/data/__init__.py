"""Data sets, augmentation and batches; everything from the decoded pixel on is integers.

Not a dependency of anything but training and the tools: the networks themselves see int8 codes
only.
"""

from pathlib import Path

from intaglio.data.ade20k import Ade20k
from intaglio.data.augmentation import Augmentation, augment
from intaglio.data.batches import (
    batch_indices,
    batches_per_epoch,
    encode,
    epoch_batches,
    ordered_batches,
)
from intaglio.data.camvid import CamVid
from intaglio.data.dataset import Dataset, Sample
from intaglio.data.files import read_image
from intaglio.data.palette import color_map, colorize, overlay
from intaglio.data.resize import fit_image, pad_image
from intaglio.data.shapes import Shapes
from intaglio.data.voc import Voc
from intaglio.spec.errors import IntaglioError

__all__ = [
    "Ade20k",
    "Augmentation",
    "CamVid",
    "Dataset",
    "Sample",
    "Shapes",
    "Voc",
    "augment",
    "batch_indices",
    "batches_per_epoch",
    "color_map",
    "colorize",
    "encode",
    "epoch_batches",
    "find_reader",
    "fit_image",
    "open_dataset",
    "ordered_batches",
    "overlay",
    "pad_image",
    "read_image",
]

#: Readers that need a folder.
_READERS: dict[str, type[CamVid] | type[Voc] | type[Ade20k]] = {
    "camvid": CamVid,
    "voc": Voc,
    "ade20k": Ade20k,
}


def find_reader(spec: str) -> type[Dataset]:
    """Return the class that reads the data set ``spec``, whose folder may be gone.

    Its ``palette`` needs no folder. Raises :class:`IntaglioError`.
    """
    name, colon, directory = spec.partition(":")
    if name == "shapes" and not colon:
        return Shapes
    if name in _READERS and directory:
        return _READERS[name]
    choices = ", ".join(["shapes", *(f"{reader}:DIR" for reader in _READERS)])
    raise IntaglioError(f"unknown data set {spec!r}; choose from {choices}")


def open_dataset(
    spec: str, split: str, *, height: int | None = None, width: int | None = None
) -> Dataset:
    """Open the data set ``spec``: ``shapes``, ``camvid:DIR``, ``voc:DIR`` or ``ade20k:DIR``.

    ``split`` is ``train`` or ``val``, or another one of that data set (``trainaug`` of voc,
    ``test`` of camvid). ``height`` and ``width`` in pixels go together; see :class:`Dataset` for
    how a sample is brought to that size. Lists and folders are checked now, images when they are
    read. Raises :class:`IntaglioError`.
    """
    if find_reader(spec) is Shapes:
        return Shapes(split, height=height, width=width)
    name, _, directory = spec.partition(":")
    return _READERS[name](Path(directory).expanduser(), split, height=height, width=width)
