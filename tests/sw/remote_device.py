"""A device for machines without one: its tensors compute on the CPU, but do not mix with it.

A :class:`Remote` says that it lies on the device "meta" and keeps its payload on the CPU. As on
CUDA, operators refuse tensors of both sides, except for scalars and copies, and ``_int_mm`` takes
the shapes that it takes there. No memory of a Remote can be read from the CPU.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from intaglio.nn import IntTensor

__all__ = ["DEVICE", "Remote", "RemoteDevice"]

DEVICE = torch.device("meta")
aten = torch.ops.aten


class Remote(torch.Tensor):
    """A tensor on the device."""

    payload: torch.Tensor

    @staticmethod
    def __new__(cls, payload: torch.Tensor) -> "Remote":
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            payload.shape,
            strides=payload.stride(),
            storage_offset=payload.storage_offset(),
            dtype=payload.dtype,
            device=DEVICE,
        )
        out.payload = payload
        return out

    def __repr__(self, **_: Any) -> str:
        return f"Remote({self.payload!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run ``func`` where its tensors lie, or where ``device`` wants the result."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    remote = [x for x in tensors if isinstance(x, Remote)]
    local = [x for x in tensors if not isinstance(x, Remote)]
    moves = func in (aten._to_copy.default, aten.copy_.default)
    if remote and not moves and any(x.dim() for x in local):
        raise AssertionError(f"{func} mixes tensors of the CPU and of the device")
    if func is aten._int_mm.default and remote:
        (M, K), N = args[0].shape, args[1].shape[1]
        assert M > 16 and K % 8 == 0 and N % 8 == 0, f"CUDA has no _int_mm of {M}, {K}, {N}"
    target = kwargs.get("device")
    on_device = bool(remote) if target is None else torch.device(target) == DEVICE
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    payloads = {id(x.payload): x for x in remote}
    inside = tree_map(lambda x: x.payload if isinstance(x, Remote) else x, (args, kwargs))
    result = func(*inside[0], **inside[1])
    if func is aten.copy_.default:
        return args[0]

    def wrap(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not on_device:
            return x
        same = payloads.get(id(x))  # what was changed in place stays itself
        return Remote(x) if same is None else same

    return tree_map(wrap, result)


class RemoteDevice(TorchDispatchMode):
    """Inside the block, ``device=DEVICE`` makes :class:`Remote` tensors; ``seen`` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        if any(isinstance(x, IntTensor) for x in leaves):
            return func(*args, **(kwargs or {}))
        result = compute(func, args, kwargs or {})
        if any(isinstance(x, Remote) for x in tree_leaves(result)):
            self.seen[str(func)] = self.seen.get(str(func), 0) + 1
        return result
