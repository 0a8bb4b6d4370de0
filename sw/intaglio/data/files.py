"""Reading images, masks and lists; whatever is wrong with a file is told in one line."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from intaglio.spec.errors import IntaglioError
from intaglio.spec.metrics import VOID

__all__ = ["class_table", "read_image", "read_lines", "read_mask", "read_pair", "require_folder"]

# What Pillow raises for files that are cut off, garbled or not images at all (a broken PNG is a
# SyntaxError).
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def _open(path: Path, what: str, mode: str | None, *, upright: bool = False) -> np.ndarray:
    if not path.is_file():
        raise IntaglioError(f"{path}: no such {what}")
    try:
        with Image.open(path) as picture:
            if mode is not None:
                turned = _upright(picture) if upright else picture
                return np.array(_eight_bits(path, turned).convert(mode))
            if picture.mode not in ("P", "L"):
                raise IntaglioError(
                    f"{path}: a mask holds one class index per pixel (palette or 8-bit "
                    f"grayscale), this file is {picture.mode}"
                )
            return np.array(picture)
    except _BROKEN as error:
        raise IntaglioError(f"{path}: broken {what}: {_one_line(error)}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Return ``picture`` turned as its EXIF orientation says."""
    picture.getexif()  # Pillow keeps what it finds
    picture.info.pop("exif", None)  # else all of it is written again, which odd tags break
    return ImageOps.exif_transpose(picture)


def _eight_bits(path: Path, picture: Image.Image) -> Image.Image:
    """Return ``picture`` with 8 bits in each channel: Pillow's own conversion saturates."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.array(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise IntaglioError(
            f"{path}: an image has 8 or 16 bits per channel, this file is {picture.mode} "
            f"({'32-bit integers' if picture.mode == 'I' else 'floating point'})"
        )
    return picture


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_image(path: str | Path, *, upright: bool = False) -> np.ndarray:
    """Return the image in ``path`` as uint8 (H, W, 3), RGB; gray and palette images are converted,
    of 16 bits the upper 8 are taken. ``upright``: a photo is turned as its EXIF orientation says,
    which masks have none of.

    Raises :class:`IntaglioError` when the file is missing, cut off, no image, or one of 32-bit
    integers or floats, of which nothing says what is white.
    """
    return _open(Path(path), "image", "RGB", upright=upright)


def class_table(classes: int, *, first: int = 0, void: int = VOID) -> np.ndarray:
    """Return the class of every stored mask value, int16 (256,); -1 where the value is not allowed.

    Values ``first`` .. ``first + classes - 1`` are the classes 0 .. classes - 1, ``void`` is 255
    (void).
    """
    table = np.full(256, -1, np.int16)
    table[first : first + classes] = np.arange(classes)
    table[void] = VOID
    return table


def read_mask(path: str | Path, table: np.ndarray) -> np.ndarray:
    """Return the mask in ``path`` as uint8 (H, W) with class indices and 255 for void.

    ``table`` is a :func:`class_table`. Raises :class:`IntaglioError` when the file is missing,
    broken, neither palette nor grayscale, or holds a value that the table does not allow.
    """
    stored = _open(Path(path), "mask", None)
    classes = table[stored]
    if classes.min() < 0:
        row, column = (int(v) for v in np.argwhere(classes < 0)[0])
        allowed = np.flatnonzero(table >= 0)
        runs = np.split(allowed, np.flatnonzero(np.diff(allowed) > 1) + 1)
        text = " and ".join(f"{r[0]}..{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
        raise IntaglioError(
            f"{path}: value {stored[row, column]} at row {row}, column {column} is no class; "
            f"allowed are {text}"
        )
    return classes.astype(np.uint8)


def read_pair(image: Path, mask: Path, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its mask; raises :class:`IntaglioError` also when their sizes differ."""
    pixels, classes = read_image(image), read_mask(mask, table)
    if pixels.shape[:2] != classes.shape:
        raise IntaglioError(
            f"{mask}: the mask is {classes.shape[1]}x{classes.shape[0]}, but the image {image} is "
            f"{pixels.shape[1]}x{pixels.shape[0]} (width x height)"
        )
    return pixels, classes


def require_folder(path: Path, layout: str) -> Path:
    """Return ``path`` if it is a folder, else raise :class:`IntaglioError` with the layout."""
    if not path.is_dir():
        raise IntaglioError(f"{path}: no such folder; expected layout: {layout}")
    return path


def read_lines(path: Path, layout: str) -> list[str]:
    """Return the lines of a list file, stripped, without blank ones.

    Raises :class:`IntaglioError` when the file is missing, empty or not text.
    """
    if not path.is_file():
        raise IntaglioError(f"{path}: no such list file; expected layout: {layout}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise IntaglioError(f"{path}: cannot be read: {_one_line(error)}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise IntaglioError(f"{path}: the list is empty")
    return lines
