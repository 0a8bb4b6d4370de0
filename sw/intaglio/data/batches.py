"""Batches whose content depends on seed, epoch and number, not on who computes them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from intaglio.data.augmentation import augment as augment_sample
from intaglio.data.dataset import Dataset
from intaglio.data.resize import fit, pad
from intaglio.spec.errors import IntaglioError
from intaglio.spec.rng import derive, permutation

__all__ = ["batch_indices", "batches_per_epoch", "encode", "epoch_batches", "ordered_batches"]

#: Separates the order of samples from all other draws of the same seed.
_PURPOSE = 0x6F72646572

Batch = tuple[np.ndarray, np.ndarray]


def encode(pixels: np.ndarray) -> np.ndarray:
    """Turn uint8 pixels into the int8 codes of the network input: ``pixel - 128``, exponent -7."""
    return (pixels ^ np.uint8(128)).view(np.int8)


def batches_per_epoch(count: int, batch: int) -> int:
    """Return how many whole batches ``count`` samples make; raises when there is none."""
    if batch < 1:
        raise ValueError(f"batch must be >= 1, not {batch}")
    if count < batch:
        raise IntaglioError(f"a batch of {batch} needs as many samples, the data set has {count}")
    return count // batch


def batch_indices(count: int, batch: int, seed: int, epoch: int) -> np.ndarray:
    """Return the sample of every place of every batch of an epoch, int64 (count // batch, batch).

    A permutation of ``range(count)`` drawn from (seed, epoch); the last, incomplete batch is
    dropped.
    """
    number = batches_per_epoch(count, batch)
    order = permutation(count, derive(seed, _PURPOSE), epoch)
    return order[: number * batch].reshape(number, batch)


def _share(batch: int, rank: int, world: int) -> slice:
    if world < 1 or batch % world:
        raise ValueError(f"a batch of {batch} does not divide among {world} workers")
    if not 0 <= rank < world:
        raise ValueError(f"rank must be in [0, {world - 1}], not {rank}")
    return slice(rank * (batch // world), (rank + 1) * (batch // world))


def _stack(pairs: list[Batch]) -> Batch:
    images = np.stack([image for image, _ in pairs])  # (N, H, W, 3)
    labels = np.stack([mask for _, mask in pairs])  # (N, H, W)
    return np.ascontiguousarray(encode(images).transpose(0, 3, 1, 2)), labels


def _ahead(make: Callable[[np.ndarray], Batch], work: Iterable[np.ndarray], depth: int):
    """Yield ``make(item)`` for each item in order, made up to ``depth`` items ahead in a thread."""
    if not depth:
        yield from map(make, work)
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for item in work:
                waiting.append(pool.submit(make, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def epoch_batches(
    dataset: Dataset,
    *,
    batch: int,
    seed: int,
    epoch: int,
    height: int,
    width: int,
    augment: bool = True,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    prefetch: int = 0,
) -> Iterator[Batch]:
    """Yield the training batches of an epoch: images and labels.

    Images are int8 codes (n, 3, height, width), labels uint8 (n, height, width) with class indices
    and 255 for void. ``batch`` is the global size; worker ``rank`` of ``world`` gets its ``n =
    batch / world`` consecutive samples of each, so the shares of all workers put together are the
    batch of one. ``start`` is the first batch to make (to resume); ``augment=False`` fits and pads
    instead; ``prefetch`` is how many batches a thread makes ahead. None of these changes the
    content of a batch.
    """
    share = _share(batch, rank, world)
    order = batch_indices(len(dataset), batch, seed, epoch)
    if not 0 <= start <= len(order):
        raise ValueError(f"start must be in [0, {len(order)}], not {start}")

    def make(indices: np.ndarray) -> Batch:
        pairs = []
        for index in map(int, indices):
            sample = dataset.fitted(index)
            if augment:
                pair = augment_sample(
                    sample,
                    seed=seed,
                    epoch=epoch,
                    index=index,
                    height=height,
                    width=width,
                    policy=dataset.augmentation,
                )
            else:
                pair = pad(*fit(sample.image, sample.mask, height, width), height, width)
            pairs.append(pair)
        return _stack(pairs)

    return _ahead(make, order[start:, share], prefetch)


def ordered_batches(
    dataset: Dataset, *, batch: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Yield every sample once, in order and unchanged, in the form of :func:`epoch_batches`.

    For evaluation: the last batch may be smaller. ``batch`` is what this worker gets at a time;
    worker ``rank`` gets the samples rank, rank + world, ... The data set must have been opened with
    height and width.
    """
    if batch < 1:
        raise ValueError(f"batch must be >= 1, not {batch}")
    _share(world, rank, world)
    if dataset.height is None:
        raise ValueError("samples differ in size: open the data set with height and width")
    mine = range(rank, len(dataset), world)
    for first in range(0, len(mine), batch):
        samples = [dataset[i] for i in mine[first : first + batch]]
        yield _stack([(sample.image, sample.mask) for sample in samples])
