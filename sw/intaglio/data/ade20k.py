"""ADE20K in the layout of the scene parsing challenge 2016, 150 classes."""

from pathlib import Path

import numpy as np

from intaglio.data.dataset import Dataset
from intaglio.data.files import class_table, read_lines, read_pair, require_folder
from intaglio.data.palette import color_map
from intaglio.spec.errors import IntaglioError

__all__ = ["Ade20k"]

_CLASSES = 150
_LAYOUT = (
    "ADEChallengeData2016/{images/{training,validation}/NAME.jpg, "
    "annotations/{training,validation}/NAME.png, objectInfo150.txt}"
)
_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(Dataset):
    """ADE20K in ``directory``, ``ADEChallengeData2016`` or its parent; splits train and val.

    Stored value 0 is void, 1 .. 150 are the classes 0 .. 149. The classes have the first of their
    names in ``objectInfo150.txt``. Samples are all images of the split's folder, in the order of
    their names.
    """

    name = "ade20k"
    palette = color_map(_CLASSES + 1)[1:]  # black is left to void

    def __init__(
        self,
        directory: str | Path,
        split: str,
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(split=split, height=height, width=width)
        if split not in _FOLDERS:
            raise IntaglioError(f"ade20k has no split {split!r}; choose from {', '.join(_FOLDERS)}")
        root = require_folder(Path(directory), _LAYOUT)
        if (root / "ADEChallengeData2016").is_dir():
            root = root / "ADEChallengeData2016"
        self.classes = _class_names(root / "objectInfo150.txt")
        self._images = require_folder(root / "images" / _FOLDERS[split], _LAYOUT)
        self._masks = require_folder(root / "annotations" / _FOLDERS[split], _LAYOUT)
        self._names = tuple(sorted(path.stem for path in self._images.glob("*.jpg")))
        if not self._names:
            raise IntaglioError(f"{self._images}: no .jpg file; expected layout: {_LAYOUT}")
        self._table = class_table(_CLASSES, first=1, void=0)

    def names(self) -> tuple[str, ...]:
        return self._names

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        name = self._names[index]
        return read_pair(self._images / f"{name}.jpg", self._masks / f"{name}.png", self._table)


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the first name of every class in ``objectInfo150.txt``, a tab-separated table."""
    rows = read_lines(path, _LAYOUT)[1:]
    if len(rows) != _CLASSES:
        raise IntaglioError(f"{path}: {len(rows)} classes below the head line, expected {_CLASSES}")
    names = []
    for number, row in enumerate(rows, 1):
        fields = row.split("\t")
        if len(fields) != 5 or fields[0].strip() != str(number):
            raise IntaglioError(f"{path}: entry {number} is not 'Idx Ratio Train Val Name'")
        names.append(fields[4].split(",")[0].strip())
    return tuple(names)
