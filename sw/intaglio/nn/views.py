"""What operations see of tensors: codes as (N, H, W, C), weights as int8, the host's arrays."""

from typing import Any

import numpy as np
import torch

from intaglio.nn import kernels
from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.operations import nhwc
from intaglio.spec import quant

__all__ = [
    "Pair",
    "affine_view",
    "device_like",
    "host",
    "lower_bound",
    "take",
    "terms",
    "weight_view",
    "wide_nhwc",
]

Pair = tuple[int, int]


def terms(gradient: IntTensor) -> list[tuple[torch.Tensor, int]]:
    """Return the terms of a gradient, whose sum it is, as codes (N, H, W, C) with exponents."""
    return [(codes.permute(0, 2, 3, 1), e) for codes, e in gradient.terms]


def wide_nhwc(gradient: IntTensor) -> tuple[torch.Tensor, int]:
    """Return a gradient as one map of codes (N, H, W, C), which may be wide, and its exponent."""
    return nhwc(gradient.codes), gradient.exponent


def weight_view(
    weight: IntTensor, taps: tuple[slice, slice] | None = None
) -> tuple[torch.Tensor, int]:
    """Return the int8 codes of a master, or of some of its taps, and their exponent."""
    # Masters of other than 16 bits are a variant, which the plain kernels alone know.
    k = kernels.active() if weight.codes.dtype == torch.int16 else kernels.plain
    codes, weight.shift_guess = k.weight_codes(weight.codes, taps, weight.shift_guess)
    return codes, weight.exponent + weight.shift_guess


def affine_view(master: IntTensor) -> torch.Tensor:
    """Return gamma or beta as int64 codes at AFFINE_EXPONENT."""
    return torch.from_numpy(quant.affine_codes(host(master.codes))).to(master.codes.device)


def host(x: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array of the host."""
    return x.detach().cpu().numpy()


def device_like(x: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Return an array as int64 on the device of ``like``."""
    return torch.from_numpy(np.ascontiguousarray(x, np.int64)).to(like.device)


def lower_bound(relu: bool) -> int:
    """Return the lower bound of the saturation that makes int8 codes."""
    return 0 if relu else -quant.CODE_LIMIT


def take(ctx: Any, *names: str) -> tuple[Any, ...]:
    """Return attributes of ``ctx`` and drop them: the graph lives on to the end of the pass."""
    try:
        values = tuple(getattr(ctx, name) for name in names)
    except AttributeError:
        raise RuntimeError("a graph is differentiated once: what it kept is freed") from None
    for name in names:
        delattr(ctx, name)
    return values
