"""The operations of the frozen graph on torch tensors: codes (N, H, W, C) in, codes out.

:data:`OPERATIONS` has them by name; :func:`intaglio.nn.inference.graph_op` and
:class:`intaglio.nn.executor.GraphExecutor` run them. :mod:`intaglio.spec.ops` defines them.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from intaglio.nn import kernels
from intaglio.nn.int_tensor import Stamp
from intaglio.spec import ops

__all__ = [
    "OPERATIONS",
    "PreparedConv",
    "Window",
    "add",
    "check_channels",
    "check_residual",
    "nchw",
    "nhwc",
]

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


def nhwc(codes: torch.Tensor) -> torch.Tensor:
    """Return (N, C, H, W) codes as a contiguous (N, H, W, C) tensor; no copy where they lie so."""
    return codes.permute(0, 2, 3, 1).contiguous()


def nchw(codes: torch.Tensor) -> torch.Tensor:
    """Return the (N, C, H, W) view of a (N, H, W, C) tensor."""
    return codes.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution: padding is (top, left, bottom, right)."""

    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair

    def output(self, size: Pair) -> Pair:
        rows, cols = (
            ops.output_size(
                size[i],
                self.kernel[i],
                self.stride[i],
                self.padding[i],
                self.padding[2 + i],
                self.dilation[i],
            )
            for i in (0, 1)
        )
        return rows, cols

    def transposed(self, size: Pair) -> Pair:
        rows, cols = (
            (size[i] - 1) * self.stride[i] + self.kernel[i] - self.padding[i] - self.padding[2 + i]
            for i in (0, 1)
        )
        return rows, cols

    @functools.lru_cache(256)  # noqa: B019 - windows are few, and small
    def live(self, size: Pair) -> tuple["Window", tuple[slice, slice]]:
        """Return the window without the outer taps that meet padding only, and its taps.

        ``size`` is that of the input. Far dilation on small maps leaves little but the centre.
        """
        output, taps, padding = self.output(size), [], list(self.padding)
        for i in (0, 1):
            step, last = self.dilation[i], (output[i] - 1) * self.stride[i] - self.padding[i]
            alive = [
                r
                for r in range(self.kernel[i])
                if last + r * step >= 0 and r * step - self.padding[i] < size[i]
            ]
            first, end = (alive[0], alive[-1] + 1) if alive else (0, 1)
            padding[i] -= first * step
            padding[2 + i] -= (self.kernel[i] - end) * step
            taps.append(slice(first, end))
        kernel = taps[0].stop - taps[0].start, taps[1].stop - taps[1].start
        window = Window(kernel, self.stride, (*padding,), self.dilation)  # type: ignore[arg-type]
        return window, (taps[0], taps[1])

    @functools.cached_property
    def geometry(self) -> dict[str, Pair]:
        """Value of what the products want to know besides the kernel."""
        return {"stride": self.stride, "origin": self.padding[:2], "dilation": self.dilation}


def check_channels(found: int, wanted: int) -> None:
    """Raise ValueError unless a map has the channels of the weights."""
    # The kernels read as much memory as the shapes of the weights say.
    if found != wanted:
        raise ValueError(f"a convolution of {wanted} channels was given a map of {found}")


def check_residual(found: Sequence[int], wanted: Sequence[int]) -> None:
    """Raise ValueError unless the shape of a residual is that of the result."""
    if tuple(found) != tuple(wanted):
        raise ValueError(f"residual {tuple(found)} does not have the shape {tuple(wanted)}")


class PreparedConv:
    """A convolution of the frozen graph, ready to run: weights packed, vectors laid out.

    It keeps nothing of the tensors that it is made from. A copy of it, or a pickle, is None: layers
    that are copied prepare their own. ``key`` and ``stamp`` say what it was made from.
    """

    key: tuple[Any, ...]
    stamp: Stamp

    def __init__(
        self,
        op: str,
        *,
        weight: torch.Tensor,
        multiplier: torch.Tensor,
        bias: torch.Tensor,
        stride: Pair,
        padding: Padding,
        dilation: Pair = (1, 1),
        pad_code: int = 0,
        **options: int,
    ) -> None:
        self._window = Window((weight.shape[2], weight.shape[3]), stride, padding, dilation)
        self._channels = weight.shape[:2] if op == "conv_transpose" else weight.shape[1::-1]
        k, vectors = kernels.active(), (multiplier.to(torch.int64), bias.to(torch.int64))
        self._transposed = op == "conv_transpose"
        options |= {"stride": stride}  # type: ignore[dict-item]
        if self._transposed:
            self._weight: Any = None
            whole = k.ConvTransposeOperation(weight, *vectors, origin=padding[:2], **options)
        else:
            options |= {"dilation": dilation, "code": pad_code}  # type: ignore[dict-item]
            # Taps that meet padding only are left out, here or by the kernel.
            pointwise = max(self._window.kernel) == 1 or pad_code != 0
            self._weight = None if pointwise or weight.shape[1] >= k.WHOLE_TAP else weight.clone()
            self._make = lambda w, origin: k.ConvOperation(w, *vectors, origin=origin, **options)
            whole = None if self._weight is not None else self._make(weight, padding[:2])
        self._whole = whole
        #: Operations by what is left of the kernel, and what runs for each size of the input.
        self._parts: dict[tuple[int, ...], Any] = {}
        self._sizes: dict[tuple[int, ...], tuple[Any, Pair]] = {}

    def _prepare(self, size: Pair, channels: int) -> tuple[Any, Pair]:
        check_channels(channels, self._channels[0])
        window = self._window
        output = window.transposed(size) if self._transposed else window.output(size)
        if self._weight is None:
            return self._whole, output
        live, taps = window.live(size)
        key = taps[0].start, taps[0].stop, taps[1].start, taps[1].stop
        if key not in self._parts:
            part = self._weight[:, :, taps[0], taps[1]]
            self._parts[key] = self._make(part, live.padding[:2])
        return self._parts[key], output

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the result (N, P, Q, K) of x and, if any, a residual, both (N, H, W, C)."""
        x = inputs[0]
        shape = x.shape
        found = self._sizes.get(shape)
        if found is None:
            found = self._sizes[shape] = self._prepare((shape[1], shape[2]), shape[3])
        operation, output = found
        residual = inputs[1] if len(inputs) > 1 else None
        if residual is not None:
            N, H, W, C = residual.shape
            check_residual((N, C, H, W), (shape[0], self._channels[1], *output))
        return operation(x, residual, output)

    def __reduce__(self) -> Any:
        return type(None), ()


def _run_conv(inputs: list[torch.Tensor], **options: Any) -> torch.Tensor:
    return PreparedConv("conv", **options)(inputs)


def _run_conv_transpose(inputs: list[torch.Tensor], **options: Any) -> torch.Tensor:
    return PreparedConv("conv_transpose", **options)(inputs)


def _run_max_pool(
    inputs: list[torch.Tensor], *, kernel: Pair, stride: Pair, padding: Padding
) -> torch.Tensor:
    x = inputs[0]
    size = Window(kernel, stride, padding, (1, 1)).output((x.shape[1], x.shape[2]))
    return kernels.active().window_maxima(x, kernel, stride, padding, size)


def _run_avg_pool(
    inputs: list[torch.Tensor],
    *,
    multiplier: torch.Tensor,
    bias: torch.Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Padding,
    shift: int,
    low: int,
    high: int,
) -> torch.Tensor:
    x = inputs[0]
    if padding != (0, 0, 0, 0):
        x = torch.nn.functional.pad(
            x, (0, 0, padding[1], padding[3], padding[0], padding[2]), value=0
        )
    if kernel == (x.shape[1], x.shape[2]):
        total = kernels.active().average_sum(x)
    else:
        windows = x.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])
        total = windows.sum((-2, -1), dtype=torch.int64)
    total = total * multiplier.to(torch.int64) + bias
    return ((total + ((1 << shift) >> 1)) >> shift).clamp_(low, high).to(torch.int8)


#: Tables of the sizes that were met last.
_resize_source = functools.lru_cache(32)(ops.resize_source)


def _run_resize(inputs: list[torch.Tensor], *, ratio: Pair, corners: str) -> torch.Tensor:
    x = inputs[0]
    rows = _resize_source(x.shape[1], ratio[0], corners)
    columns = _resize_source(x.shape[2], ratio[1], corners)
    division = ops.resize_scale(tuple(ratio), corners).division
    return kernels.active().resize_rounded(x, rows, columns, division)


def _run_broadcast(inputs: list[torch.Tensor], *, size: Pair) -> torch.Tensor:
    return inputs[0].expand(-1, *size, -1).contiguous()


def add(
    inputs: Sequence[torch.Tensor], *, shift_a: int, shift_b: int, shift: int, low: int, high: int
) -> torch.Tensor:
    """Return the sum of two maps, rounded once."""
    a, b = (x.to(torch.int64) for x in inputs)
    total = (a << shift_a) + (b << shift_b)
    return ((total + ((1 << shift) >> 1)) >> shift).clamp_(low, high).to(torch.int8)


def _run_concat(inputs: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(inputs, 3)


def _run_argmax(inputs: list[torch.Tensor]) -> torch.Tensor:
    return kernels.active().argmax(inputs[0])


OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "conv": _run_conv,
    "conv_transpose": _run_conv_transpose,
    "max_pool": _run_max_pool,
    "avg_pool": _run_avg_pool,
    "resize": _run_resize,
    "broadcast": _run_broadcast,
    "add": add,
    "concat": _run_concat,
    "argmax": _run_argmax,
}
