"""CamVid in the layout that was published with SegNet."""

from pathlib import Path

import numpy as np

from intaglio.data.dataset import Dataset
from intaglio.data.files import class_table, read_lines, read_pair, require_folder
from intaglio.spec.errors import IntaglioError

__all__ = ["CAMVID_CLASSES", "CamVid"]

CAMVID_CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
    "Pedestrian", "Bicyclist",
)  # fmt: skip
#: Colours of SegNet's demonstration.
_PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
_LAYOUT = (
    "CamVid/{train,trainannot,val,valannot}/NAME and CamVid/{train,val}.txt with a line "
    "'IMAGE MASK' for each pair"
)
_SPLITS = ("train", "val", "test")


class CamVid(Dataset):
    """CamVid in ``directory``; splits train, val, test; 11 classes, stored value 11 is void.

    A list names an image and a mask on each line. Only the last two parts of a path are used
    (``train/NAME``), since the published lists start with a folder of their author's machine.
    """

    name = "camvid"
    classes = CAMVID_CLASSES
    palette = np.array(_PALETTE, np.uint8)

    def __init__(
        self,
        directory: str | Path,
        split: str,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(split=split, height=height, width=width)
        if split not in _SPLITS:
            raise IntaglioError(f"camvid has no split {split!r}; choose from {', '.join(_SPLITS)}")
        root = require_folder(Path(directory), _LAYOUT)
        listing = root / f"{split}.txt"
        self._pairs = []
        for number, line in enumerate(read_lines(listing, _LAYOUT), 1):
            fields = line.split()
            if len(fields) != 2:
                raise IntaglioError(
                    f"{listing}: entry {number} has {len(fields)} fields, expected 'IMAGE MASK'"
                )
            image, mask = (root.joinpath(*Path(field).parts[-2:]) for field in fields)
            self._pairs.append((image, mask))
        self._names = tuple(image.stem for image, _ in self._pairs)
        self._table = class_table(len(self.classes), void=len(self.classes))

    def names(self) -> tuple[str, ...]:
        return self._names

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return read_pair(*self._pairs[index], self._table)
