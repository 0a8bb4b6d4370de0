"""Scaling against rational arithmetic; augmentation and batches, whoever makes them."""

from fractions import Fraction
from itertools import islice
from math import floor

import numpy as np
import pytest

from intaglio.data import (
    Augmentation,
    Sample,
    augment,
    batch_indices,
    batches_per_epoch,
    encode,
    epoch_batches,
    fit_image,
    open_dataset,
    ordered_batches,
    pad_image,
)
from intaglio.data.dataset import Dataset
from intaglio.data.resize import area, bilinear, bilinear_taps, fit, fit_size, nearest_taps, pad
from intaglio.spec.errors import IntaglioError

RNG = np.random.default_rng(3)


class Counted(Dataset):
    """Samples whose red channel and mask are their index, sizes vary."""

    name = "counted"
    classes = tuple(map(str, range(40)))
    palette = np.zeros((40, 3), np.uint8)

    def __init__(self, count: int, **size) -> None:
        super().__init__(split="train", **size)
        self._count = count

    def names(self):
        return tuple(map(str, range(self._count)))

    def _load(self, index):
        size = (8 + index % 3, 10)
        image = np.random.default_rng(index).integers(0, 256, (*size, 3)).astype(np.uint8)
        image[..., 0] = index
        return image, np.full(size, index, np.uint8)


def half_up(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


@pytest.mark.parametrize(
    ("h", "w", "p", "q"), [(9, 12, 3, 4), (7, 5, 4, 3), (5, 6, 5, 6), (4, 3, 6, 5)]
)
def test_area_is_the_exact_mean(h, w, p, q):
    image = RNG.integers(0, 256, (h, w, 3)).astype(np.uint8)
    image[0, :2] = [[255] * 3, [0] * 3]
    result = area(image, p, q)

    def overlap(i, source, target, k):
        low, high = Fraction(i * source, target), Fraction((i + 1) * source, target)
        return max(Fraction(0), min(high, k + 1) - max(low, Fraction(k)))

    for i in range(p):
        for j in range(q):
            for c in range(3):
                total = sum(
                    overlap(i, h, p, y) * overlap(j, w, q, x) * int(image[y, x, c])
                    for y in range(h)
                    for x in range(w)
                )
                assert result[i, j, c] == half_up(total / (Fraction(h, p) * Fraction(w, q)))


@pytest.mark.parametrize(
    ("h", "w", "p", "q"), [(4, 3, 8, 6), (5, 7, 5, 11), (6, 4, 3, 2), (1, 1, 3, 2)]
)
def test_bilinear_against_fractions(h, w, p, q):
    image = RNG.integers(0, 256, (h, w, 2)).astype(np.uint8)
    result = bilinear(image, bilinear_taps(h, p), bilinear_taps(w, q))

    def position(i, source, target):
        exact = Fraction((2 * i + 1) * source, 2 * target) - Fraction(1, 2)
        return min(max(Fraction(floor(exact * 256), 256), Fraction(0)), Fraction(source - 1))

    for i in range(p):
        for j in range(q):
            y, x = position(i, h, p), position(j, w, q)
            top, left = floor(y), floor(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            down, across = y - top, x - left
            for c in range(2):
                value = (
                    (1 - down) * (1 - across) * int(image[top, left, c])
                    + (1 - down) * across * int(image[top, right, c])
                    + down * (1 - across) * int(image[bottom, left, c])
                    + down * across * int(image[bottom, right, c])
                )
                assert result[i, j, c] == half_up(value)


def test_nearest_taps():
    assert nearest_taps(4, 2).tolist() == [1, 3]
    assert nearest_taps(2, 4).tolist() == [0, 0, 1, 1]
    assert nearest_taps(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert nearest_taps(5, 3).tolist() == [floor(Fraction(2 * i + 1, 6) * 5) for i in range(3)]


def test_fit_keeps_proportions():
    assert fit_size((360, 480), 120, 160) == (120, 160)
    assert fit_size((360, 480), 176, 240) == (176, 235)
    assert fit_size((256, 171), 176, 240) == (176, 118)
    assert fit_size((1, 1000), 50, 60) == (1, 60)
    for _ in range(200):
        h, w, p, q = (int(v) for v in RNG.integers(1, 300, 4))
        fitted = fit_size((h, w), p, q)
        assert 1 <= fitted[0] <= p and 1 <= fitted[1] <= q
        assert fitted[0] == p or fitted[1] == q
    image = RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    assert fit_image(image, 6, 9) is image
    assert np.array_equal(fit_image(image, 3, 4), area(image, 3, 4))
    assert fit_image(image, 12, 20).shape == (12, 16, 3)


def test_fit_and_pad():
    image = np.full((4, 8, 3), 9, np.uint8)
    mask = np.full((4, 8), 2, np.uint8)
    image, mask = pad(*fit(image, mask, 5, 4), 5, 4)
    assert image[:, :, 0].tolist() == [[128] * 4, [9] * 4, [9] * 4, [128] * 4, [128] * 4]
    assert mask.tolist() == [[255] * 4, [2] * 4, [2] * 4, [255] * 4, [255] * 4]
    assert np.array_equal(pad_image(image[1:3], 5, 4), image)
    with pytest.raises(ValueError, match="5x4 does not fit 4x4"):
        pad(image, mask, 4, 4)


def test_encode():
    pixels = np.arange(256, dtype=np.uint8)
    assert encode(pixels).dtype == np.int8
    assert encode(pixels).tolist() == [p - 128 for p in range(256)]


def sample_of(h: int, w: int) -> Sample:
    """A sample in which every pixel is different, and its mask says where it is."""
    grid = np.arange(h * w).reshape(h, w).astype(np.uint8)
    return Sample(np.stack([grid] * 3, -1), grid, "x")


def varied(sample, index, *, policy, height=6, width=7, epoch=0, seed=1):
    return augment(
        sample, seed=seed, epoch=epoch, index=index, height=height, width=width, policy=policy
    )


def test_augment_at_scale_one_cuts_and_flips():
    """Without scaling every result is a window of the sample, mirrored or not; all occur."""
    sample = sample_of(8, 8)
    policy = Augmentation(smallest=64, largest=64)
    windows = {}
    for top in range(3):
        for left in range(2):
            window = sample.image[top : top + 6, left : left + 7]
            windows[window.tobytes()] = (top, left, 0)
            windows[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (top, left, 1)
    seen = set()
    for index in range(200):
        image, mask = varied(sample, index, policy=policy)
        assert np.array_equal(image[..., 0], mask)
        seen.add(windows[np.ascontiguousarray(image).tobytes()])
    assert len(seen) == 12
    never = Augmentation(flip=False, smallest=64, largest=64)
    for index in range(50):
        image, _ = varied(sample, index, policy=never)
        assert windows[np.ascontiguousarray(image).tobytes()][2] == 0


def test_augment_pads_with_void():
    sample = Sample(np.full((4, 4, 3), 50, np.uint8), np.full((4, 4), 3, np.uint8), "x")
    places = set()
    for index in range(100):
        image, mask = varied(sample, index, policy=Augmentation(smallest=64, largest=64))
        inside = mask == 3
        assert inside.sum() == 16 and (mask[~inside] == 255).all()
        assert (image[inside] == 50).all() and (image[~inside] == 128).all()
        rows, columns = np.nonzero(inside)
        places.add((int(rows.min()), int(columns.min())))
        assert rows.max() - rows.min() == columns.max() - columns.min() == 3
    assert places == {(r, c) for r in range(3) for c in range(4)}


def test_augment_equals_scaling_the_whole_image():
    """Computing only the window gives the same pixels as scaling first and cutting afterwards."""
    sample = Sample(
        RNG.integers(0, 256, (9, 11, 3)).astype(np.uint8),
        RNG.integers(0, 5, (9, 11)).astype(np.uint8),
        "x",
    )
    for scale in (20, 64, 90, 150):
        policy = Augmentation(flip=False, smallest=scale, largest=scale)
        tall, wide = (9 * scale + 32) // 64, (11 * scale + 32) // 64
        whole = bilinear(sample.image, bilinear_taps(9, tall), bilinear_taps(11, wide))
        classes = sample.mask[nearest_taps(9, tall)[:, None], nearest_taps(11, wide)]
        framed = np.full((tall + 40, wide + 40, 3), 128, np.uint8)
        framed[20:-20, 20:-20] = whole
        labels = np.full((tall + 40, wide + 40), 255, np.uint8)
        labels[20:-20, 20:-20] = classes
        for index in range(10):
            image, mask = varied(sample, index, policy=policy)
            assert any(
                np.array_equal(image, framed[r : r + 6, c : c + 7])
                and np.array_equal(mask, labels[r : r + 6, c : c + 7])
                for r in range(framed.shape[0] - 5)
                for c in range(framed.shape[1] - 6)
            )


def test_augment_depends_on_seed_epoch_and_index_only():
    sample = sample_of(12, 12)
    policy = Augmentation()
    base = varied(sample, 5, policy=policy)
    again = varied(sample, 5, policy=policy)
    assert all(np.array_equal(a, b) for a, b in zip(base, again, strict=True))
    others = [
        [varied(sample, i, policy=policy) for i in range(8)],
        [varied(sample, i, policy=policy, epoch=1) for i in range(8)],
        [varied(sample, i, policy=policy, seed=2) for i in range(8)],
    ]
    texts = [b"".join(image.tobytes() for image, _ in row) for row in others]
    assert len(set(texts)) == 3
    assert len({image.tobytes() for image, _ in others[0]}) > 4


def test_augmentation_is_checked():
    with pytest.raises(ValueError, match="1 <= smallest <= largest <= 1024 .* not 70 and 60"):
        Augmentation(smallest=70, largest=60)


def test_batch_indices():
    order = batch_indices(35, 8, 1, 0)
    assert order.shape == (4, 8) and len(set(order.ravel().tolist())) == 32
    assert set(order.ravel().tolist()) <= set(range(35))
    assert not np.array_equal(order, batch_indices(35, 8, 1, 1))
    assert not np.array_equal(order, batch_indices(35, 8, 2, 0))
    assert np.array_equal(order, batch_indices(35, 8, 1, 0))
    assert batches_per_epoch(35, 8) == 4
    with pytest.raises(IntaglioError, match="a batch of 8 needs as many samples, .* has 3"):
        batch_indices(3, 8, 0, 0)
    with pytest.raises(ValueError, match="batch must be >= 1, not 0"):
        batches_per_epoch(3, 0)


def flat(batches) -> list[bytes]:
    return [images.tobytes() + labels.tobytes() for images, labels in batches]


OPTIONS = dict(batch=4, seed=5, epoch=2, height=6, width=7)


def test_epoch_batches_content():
    data = Counted(18)
    batches = list(epoch_batches(data, **OPTIONS, augment=False))
    order = batch_indices(18, 4, 5, 2)
    assert len(batches) == 4
    for (images, labels), indices in zip(batches, order, strict=True):
        assert images.dtype == np.int8 and images.shape == (4, 3, 6, 7)
        assert labels.dtype == np.uint8 and labels.shape == (4, 6, 7)
        assert images.flags.c_contiguous and labels.flags.c_contiguous
        for n, index in enumerate(indices):
            known = labels[n] != 255
            assert set(labels[n][known].tolist()) == {index}
            assert (images[n, 0][known] == index - 128).all()
            assert (images[n][:, ~known] == 0).all()  # padding is code 0


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_workers_together_make_the_batch_of_one(world, prefetch):
    one = list(epoch_batches(Counted(18), **OPTIONS))
    shares = [
        list(epoch_batches(Counted(18), **OPTIONS, rank=r, world=world, prefetch=prefetch))
        for r in range(world)
    ]
    assert len(one) == 4 and {len(share) for share in shares} == {4}
    for number, (images, labels) in enumerate(one):
        parts = [share[number] for share in shares]
        assert np.array_equal(np.concatenate([p[0] for p in parts]), images)
        assert np.array_equal(np.concatenate([p[1] for p in parts]), labels)


def test_resumed_epoch_continues():
    data = Counted(18)
    whole = flat(epoch_batches(data, **OPTIONS))
    for start in range(5):
        assert flat(epoch_batches(data, **OPTIONS, start=start)) == whole[start:]
    with pytest.raises(ValueError, match=r"start must be in \[0, 4\], not 5"):
        next(epoch_batches(data, **OPTIONS, start=5))


def test_prefetch_stops_early_and_passes_errors_on():
    class Broken(Counted):
        def _load(self, index):
            if index == int(batch_indices(18, 4, 5, 2)[2, 0]):
                raise IntaglioError("broken")
            return super()._load(index)

    assert len(list(islice(epoch_batches(Counted(18), **OPTIONS, prefetch=2), 1))) == 1
    seen = 0
    with pytest.raises(IntaglioError, match="broken"):
        for _ in epoch_batches(Broken(18), **OPTIONS, prefetch=2):
            seen += 1
    assert seen == 2


@pytest.mark.parametrize(
    ("rank", "world", "text"),
    [
        (0, 3, "a batch of 4 does not divide among 3 workers"),
        (0, 0, "a batch of 4 does not divide among 0 workers"),
        (2, 2, r"rank must be in \[0, 1\], not 2"),
    ],
)
def test_worker_errors(rank, world, text):
    with pytest.raises(ValueError, match=text):
        next(epoch_batches(Counted(18), **OPTIONS, rank=rank, world=world))


def test_ordered_batches():
    data = Counted(7, height=6, width=7)
    batches = list(ordered_batches(data, batch=3))
    assert [len(images) for images, _ in batches] == [3, 3, 1]
    labels = np.concatenate([labels for _, labels in batches])
    assert [int(m[3, 3]) for m in labels] == list(range(7))
    for n, sample in enumerate(data):
        assert np.array_equal(labels[n], sample.mask)
    halves = [[int(m[3, 3]) for _, b in ordered_batches(data, batch=3, rank=r, world=2) for m in b]
              for r in range(2)]  # fmt: skip
    assert halves == [[0, 2, 4, 6], [1, 3, 5]]
    with pytest.raises(ValueError, match="open the data set with height and width"):
        next(ordered_batches(Counted(7), batch=3))


def test_no_float_on_the_way(monkeypatch):
    """From the decoded pixel to the batch every array is of an integer type."""
    import intaglio.data.augmentation as augment_module
    import intaglio.data.resize as resize_module

    class Watch:
        """numpy, with an eye on what its functions return."""

        seen = 0

        def __getattr__(self, name):
            value = getattr(np, name)
            if not callable(value) or isinstance(value, type):
                return value

            def call(*args, **kwargs):
                result = value(*args, **kwargs)
                if isinstance(result, np.ndarray):
                    Watch.seen += 1
                    assert result.dtype.kind in "iub", f"{name} made {result.dtype}"
                return result

            return call

    for module in (augment_module, resize_module):
        monkeypatch.setattr(module, "np", Watch())
    image = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    mask = np.zeros((30, 40), np.uint8)
    for index in range(20):
        result, _ = varied(Sample(image, mask, "x"), index, policy=Augmentation())
        assert result.dtype == np.uint8
    assert fit(image, mask, 20, 20)[0].dtype == np.uint8
    assert Watch.seen > 50


def test_shapes_is_the_default_of_everything():
    data = open_dataset("shapes", "val", height=16, width=16)
    images, labels = next(ordered_batches(data, batch=2))
    assert images.shape == (2, 3, 16, 16) and labels.max() < len(data.classes)
