"""Images in and class maps out."""

from pathlib import Path

import numpy as np

from intaglio.data import fit_image, overlay, pad_image, read_image
from intaglio.spec.files import atomic_write

__all__ = ["read_input", "write_pictures"]


def read_input(path: Path, height: int, width: int) -> np.ndarray:
    """Return the image in ``path`` at the network's size, uint8 (height, width, 3).

    A photo is turned as its EXIF orientation says. It is scaled as far as it fits, keeping its
    proportions, and padded in the middle of the frame.
    Raises IntaglioError when the file is missing or broken.
    """
    return pad_image(fit_image(read_image(path, upright=True), height, width), height, width)


def write_pictures(
    folder: Path, name: str, image: np.ndarray, mask: np.ndarray, palette: np.ndarray
) -> dict[str, Path]:
    """Write the class map ``mask`` (H, W) and its overlay on ``image``; return both paths.

    The class map is a palette PNG, of more than 256 classes a 16-bit grey one: pixel values are
    class indices.
    """
    from PIL import Image

    if len(palette) <= 256:
        picture = Image.fromarray(mask.astype(np.uint8), mode="P")
        colors = np.full((256, 3), 255, np.uint8)
        colors[: len(palette)] = palette
        picture.putpalette(colors.reshape(-1).tolist())
    else:
        picture = Image.fromarray(mask.astype(np.uint16))
    paths = {
        "classes": folder / f"{name}-classes.png",
        "overlay": folder / f"{name}-overlay.png",
    }
    with atomic_write(paths["classes"]) as file:
        picture.save(file, format="PNG")
    with atomic_write(paths["overlay"]) as file:
        Image.fromarray(overlay(image, mask, palette)).save(file, format="PNG")
    return paths
