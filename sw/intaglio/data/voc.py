"""PASCAL VOC 2012 segmentation, with the augmented annotations where they are present."""

from pathlib import Path

import numpy as np

from intaglio.data.dataset import Dataset
from intaglio.data.files import class_table, read_lines, read_pair, require_folder
from intaglio.data.palette import color_map
from intaglio.spec.errors import IntaglioError

__all__ = ["VOC_CLASSES", "Voc"]

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
#: The classes that a subset centred on animals has enough of: the second mean IoU.
_MAIN7 = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
_LAYOUT = (
    "VOC2012/{JPEGImages/NAME.jpg, SegmentationClass/NAME.png, SegmentationClassAug/NAME.png for "
    "aug and trainaug, ImageSets/Segmentation/{train,val,trainaug}.txt}"
)
#: Folder of the masks of each split.
_MASKS = {
    "train": "SegmentationClass",
    "val": "SegmentationClass",
    "trainval": "SegmentationClass",
    "aug": "SegmentationClassAug",
    "trainaug": "SegmentationClassAug",
}


class Voc(Dataset):
    """PASCAL VOC 2012 in ``directory``: ``VOCdevkit`` or ``VOCdevkit/VOC2012``.

    Splits: train, val, trainval (masks of SegmentationClass), aug, trainaug (of
    SegmentationClassAug). 21 classes; 255, the border of the objects, is void. ``main_classes`` is
    background, cat, cow, dog, horse, person and sheep. Raises :class:`IntaglioError` when something
    is missing.
    """

    name = "voc"
    classes = VOC_CLASSES
    palette = color_map(len(VOC_CLASSES))
    main_classes = tuple(VOC_CLASSES.index(name) for name in _MAIN7)

    def __init__(
        self,
        directory: str | Path,
        split: str,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(split=split, height=height, width=width)
        if split not in _MASKS:
            raise IntaglioError(f"voc has no split {split!r}; choose from {', '.join(_MASKS)}")
        root = require_folder(Path(directory), _LAYOUT)
        if (root / "VOC2012").is_dir():
            root = root / "VOC2012"
        self._images = require_folder(root / "JPEGImages", _LAYOUT)
        self._masks = require_folder(root / _MASKS[split], _LAYOUT)
        listed = read_lines(root / "ImageSets" / "Segmentation" / f"{split}.txt", _LAYOUT)
        self._names = tuple(listed)
        self._table = class_table(len(self.classes))

    def names(self) -> tuple[str, ...]:
        return self._names

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        name = self._names[index]
        return read_pair(self._images / f"{name}.jpg", self._masks / f"{name}.png", self._table)
