"""The built-in data set: scenes of textured shapes, computed from their index with integers alone.

A scene is defined on a canvas whose short side is 64 units, so its content does not depend on the
resolution it is drawn at. Positions are in 1/64 unit, directions are table sines in 1/1024.

Six classes of shapes lie over a cluttered background and partly over each other. What tells them
apart is the outline (disc, square, triangle, ring, cross) or, for the last one, the texture (a
checker, on an ellipse); the others have a habitual texture that they do not always wear. The two
colours of an object, which of them fills the larger part, and its orientation are drawn without
regard to the class, so a pixel or a linear filter over pixels has nothing to go by.
"""

import numpy as np

from intaglio.data.augmentation import Augmentation
from intaglio.data.dataset import Dataset
from intaglio.spec.errors import IntaglioError
from intaglio.spec.rng import derive, random_bits, uniform_below

__all__ = ["SHAPES_CLASSES", "SINE", "Shapes", "scene"]

SHAPES_CLASSES = ("background", "disc", "square", "triangle", "ring", "cross", "checker")
_PALETTE = (
    (0, 0, 0), (230, 75, 60), (55, 125, 215), (250, 190, 40), (145, 80, 180), (50, 170, 90),
    (240, 130, 190),
)  # fmt: skip
#: Samples in each split.
_COUNTS = {"train": 1024, "val": 64}
#: Separates the scenes from all other random bits.
_PURPOSE = 0x736861706573
#: round(1024 sin(2 pi k / 64)) for a quarter turn; the rest of the circle follows by symmetry.
SINE = (0, 100, 200, 297, 392, 483, 569, 650, 724, 792, 851, 903, 946, 980, 1004, 1019, 1024)
#: Positions per unit.
_UNIT = 64
_PLAIN, _STRIPES, _DOTS, _GRAIN = range(4)
#: Texture that five sixths of a class's objects have; the others have any of the four.
_HABITS = {"disc": _STRIPES, "square": _DOTS, "triangle": _PLAIN, "ring": _GRAIN, "cross": _PLAIN}


def _sine(angle: int) -> int:
    """Return 1024 sin(2 pi angle / 64)."""
    quarter, step = divmod(angle % 64, 16)
    value = SINE[16 - step] if quarter % 2 else SINE[step]
    return -value if quarter >= 2 else value


class _Draws:
    """Numbers for one scene, one counter: each call takes the next."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._index = 0

    def between(self, low: int, high: int) -> int:
        """Return an integer in [low, high]."""
        self._index += 1
        return low + uniform_below(high - low + 1, self._key, 0, self._index)

    def color(self, low: int = 24, high: int = 232) -> np.ndarray:
        return np.array([self.between(low, high) for _ in range(3)], np.int64)

    def color_pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Return two colours that differ by at least 60 in brightness (mean of the channels)."""
        while True:
            first, second = self.color(), self.color()
            if abs(int(first.sum() - second.sum())) >= 180:
                return first, second

    def grid(self, *shape: int) -> np.ndarray:
        """Return an array of random bytes, int64."""
        self._index += 1
        bits = random_bits(derive(self._key, self._index), 1, np.arange(int(np.prod(shape))))
        return (bits >> np.uint64(56)).astype(np.int64).reshape(shape)


def _turn(x: np.ndarray, y: np.ndarray, angle: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotate positions by ``angle`` / 64 of a turn."""
    c, s = _sine(angle + 16), _sine(angle)
    return (x * c + y * s) >> 10, (y * c - x * s) >> 10


def _outline(kind: int, u: np.ndarray, v: np.ndarray, radius: int) -> np.ndarray:
    """Return where the shape of class ``kind`` is, for positions relative to its middle."""
    name = SHAPES_CLASSES[kind]
    if name == "disc":
        return u * u + v * v <= radius * radius
    if name == "ring":
        square = u * u + v * v
        return (square <= radius * radius) & (4 * square >= radius * radius)
    if name == "square":
        return np.maximum(abs(u), abs(v)) * 8 <= radius * 7
    if name == "triangle":
        inside = np.ones(u.shape, bool)
        # An equilateral triangle with its corners at 3/2 of the radius: three half planes.
        for angle in (0, 21, 43):
            inside &= (_turn(u, v, angle)[0] * 8) <= radius * 6
        return inside
    if name == "cross":
        arm = radius * 3 // 8
        return ((abs(u) <= arm) & (abs(v) <= radius)) | ((abs(v) <= arm) & (abs(u) <= radius))
    # Half axes 1 and 3/4.
    return 9 * u * u + 16 * v * v <= 9 * radius * radius


def _texture(draws: _Draws, kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return which pixels take the second of the two colours."""
    period = draws.between(2, 3) * _UNIT
    phase = draws.between(0, 7) * _UNIT
    columns, rows = (u + phase) // period, (v + phase) // period
    name = SHAPES_CLASSES[kind]
    if name == "checker":
        return ((columns + rows) & 1) == 1
    texture = _HABITS[name] if draws.between(1, 6) <= 5 else draws.between(0, 3)
    if texture == _STRIPES:
        return (columns & 1) == 1
    if texture == _DOTS:
        return ((columns & 1) & (rows & 1)) == 1
    if texture == _GRAIN:
        h, w = u.shape
        coarse = draws.grid((h + 1) // 2, (w + 1) // 2) & 1
        return np.repeat(np.repeat(coarse, 2, 0), 2, 1)[:h, :w] == 1
    return np.zeros(u.shape, bool)


def _background(draws: _Draws, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a gradient between two colours with soft blobs, int64 (H, W, 3)."""
    h, w = x.shape
    first, second = draws.color(), draws.color()
    along = _turn(x, y, draws.between(0, 63))[0]
    low, high = int(along.min()), int(along.max())
    mix = ((along - low) * 256) // max(high - low, 1)
    picture = (first * (256 - mix[..., None]) + second * mix[..., None]) >> 8

    # Value noise: a coarse grid of bytes, interpolated between its points (in 1/256).
    cells = draws.grid(12, 12, 3)
    step = 12 * _UNIT
    row, column = y // step, x // step
    down, across = ((y % step) * 256 // step)[..., None], ((x % step) * 256 // step)[..., None]
    upper = (
        cells[row % 12, column % 12] * (256 - across) + cells[row % 12, (column + 1) % 12] * across
    )
    row = row + 1
    lower = (
        cells[row % 12, column % 12] * (256 - across) + cells[row % 12, (column + 1) % 12] * across
    )
    noise = (upper * (256 - down) + lower * down) >> 16
    return picture + ((noise - 128) * draws.between(64, 160) >> 8)


def _stroke(draws: _Draws, x: np.ndarray, y: np.ndarray, extent: tuple[int, int]) -> np.ndarray:
    """Return where a random straight stroke is."""
    middle_x, middle_y = draws.between(0, extent[1]), draws.between(0, extent[0])
    u, v = _turn(x - middle_x, y - middle_y, draws.between(0, 63))
    half = draws.between(_UNIT // 2, _UNIT)
    return (abs(v) <= half) & (abs(u) <= draws.between(6, 24) * _UNIT)


def scene(key: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scene of ``key``, a 64-bit word: image uint8 (H, W, 3) and mask uint8 (H, W)."""
    draws = _Draws(key)
    short = min(height, width)
    rows = (2 * np.arange(height, dtype=np.int64) + 1) * 64 * _UNIT // (2 * short)
    columns = (2 * np.arange(width, dtype=np.int64) + 1) * 64 * _UNIT // (2 * short)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    extent = (64 * _UNIT * height // short, 64 * _UNIT * width // short)

    picture = _background(draws, x, y)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draws.between(4, 7)):
        picture[_stroke(draws, x, y, extent)] = draws.color()
    for _ in range(draws.between(2, 4) * height * width // (short * short)):
        kind = draws.between(1, len(SHAPES_CLASSES) - 1)
        radius = draws.between(11 * _UNIT, 17 * _UNIT)
        middle_y = draws.between(10 * _UNIT, extent[0] - 10 * _UNIT)
        middle_x = draws.between(10 * _UNIT, extent[1] - 10 * _UNIT)
        u, v = _turn(x - middle_x, y - middle_y, draws.between(0, 63))
        inside = _outline(kind, u, v, radius)
        first, second = draws.color_pair()
        colors = np.where(_texture(draws, kind, u, v)[..., None], second, first)
        picture[inside] = colors[inside]
        mask[inside] = kind
    # Thin occluders belong to the background.
    for _ in range(draws.between(1, 2)):
        occluder = _stroke(draws, x, y, extent)
        picture[occluder] = draws.color()
        mask[occluder] = 0

    gain = draws.between(208, 288)
    noise = draws.grid(height, width, 3) + draws.grid(height, width, 3) - 255
    picture = ((picture * gain) >> 8) + (noise * draws.between(6, 16) >> 7)
    return picture.clip(0, 255).astype(np.uint8), mask


class Shapes(Dataset):
    """The built-in scenes: 1024 for train, 64 for val, 64x64 unless a size is given.

    Every size is drawn afresh, nothing is scaled or padded. No pixel is void.
    """

    name = "shapes"
    classes = SHAPES_CLASSES
    palette = np.array(_PALETTE, np.uint8)
    # The scenes already vary in everything; scaling below 1 would only add void.
    augmentation = Augmentation(smallest=64, largest=72)

    def __init__(self, split: str, *, height: int | None = None, width: int | None = None) -> None:
        if split not in _COUNTS:
            raise IntaglioError(f"shapes has no split {split!r}; choose from {', '.join(_COUNTS)}")
        super().__init__(
            split=split,
            height=64 if height is None and width is None else height,
            width=64 if height is None and width is None else width,
        )
        self._names = tuple(f"{split}_{i:04d}" for i in range(_COUNTS[split]))

    def names(self) -> tuple[str, ...]:
        return self._names

    def _load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        assert self.height is not None and self.width is not None
        split = list(_COUNTS).index(self.split)
        return scene(derive(0, _PURPOSE, split, index), self.height, self.width)
