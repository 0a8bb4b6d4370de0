"""Workers that share a batch: sums, maxima and gathered tensors of integers.

Integer sums and maxima depend neither on their order nor on how a batch is split, so that the same
global batch gives the same bytes on any number of workers. Outside :func:`joined` there is one
worker, and every function here returns what it is given.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from intaglio.spec.errors import IntaglioError

__all__ = [
    "count",
    "first",
    "gather",
    "joined",
    "launched",
    "maximum",
    "own",
    "rank",
    "scanned",
    "total",
    "unscanned",
]

_T = TypeVar("_T")
#: Device of the collectives while there are several workers.
_device: torch.device | None = None


def launched() -> tuple[int, int]:
    """Return (rank, number of workers) as torchrun has put them into the environment; (0, 1)
    without it.
    """
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def joined(device: torch.device | str = "cpu") -> Iterator[None]:
    """Join the workers that torchrun has launched, if any, for the time of the block.

    They talk through nccl on CUDA, else through gloo. ``device`` is this worker's.
    """
    global _device
    if launched()[1] == 1 or _device is not None:
        yield
        return
    device = torch.device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, count = next(rendezvous("env://"))
    # torchrun keeps one store for all lives of its workers; addresses of the dead are still in it.
    store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    _device = device
    try:
        yield
    finally:
        _device = None
        distributed.destroy_process_group()


def count() -> int:
    """Return the number of workers that share the batch."""
    return 1 if _device is None else distributed.get_world_size()


def rank() -> int:
    """Return the number of this worker; its samples are the ``rank``-th share of the batch."""
    return 0 if _device is None else distributed.get_rank()


def _reduce(x: torch.Tensor, operation: Any) -> torch.Tensor:
    y = x.to(_device, copy=True).contiguous()
    distributed.all_reduce(y, operation)
    return y.to(x.device)


def total(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``x``, int32 or int64, over the workers; the caller knows that it fits."""
    return x if _device is None else _reduce(x, distributed.ReduceOp.SUM)


def maximum(value: int) -> int:
    """Return the largest of the workers' values, each in int64."""
    if _device is None:
        return value
    x = torch.tensor(value, dtype=torch.int64, device=_device)
    return int(_reduce(x, distributed.ReduceOp.MAX))


def gather(x: torch.Tensor) -> torch.Tensor:
    """Return the shares of all workers joined along the first axis; they have equal shapes."""
    if _device is None:
        return x
    # As int64: neither gloo nor nccl knows int16.
    mine = x.to(_device, torch.int64).contiguous()
    shares = [torch.empty_like(mine) for _ in range(count())]
    distributed.all_gather(shares, mine)
    return torch.cat(shares).to(x.device, x.dtype)


def own(x: torch.Tensor) -> torch.Tensor:
    """Return this worker's share of what :func:`gather` has joined."""
    return x if _device is None else x.chunk(count())[rank()]


def scanned(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` (N, H, W, C) as diffusion has to see it: 1x1 maps with the whole batch."""
    return gather(x) if x.shape[1] * x.shape[2] == 1 else x


def unscanned(codes: torch.Tensor) -> torch.Tensor:
    """Return this worker's share of what was quantised after :func:`scanned`."""
    return own(codes) if codes.shape[1] * codes.shape[2] == 1 else codes


def first(make: Callable[[], _T]) -> _T:
    """Run ``make`` in worker 0 alone and return its result in all of them.

    Raises
    ------
    IntaglioError
        In every worker, when ``make`` raised it in worker 0.
    """
    if _device is None:
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except IntaglioError as error:
            box[1] = str(error)
    distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise IntaglioError(box[1])
    found: _T = box[0]
    return found
