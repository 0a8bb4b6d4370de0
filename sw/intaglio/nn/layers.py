"""Layers of integer networks: ordinary modules, whose parameters are int16 masters.

In training mode a layer computes with the batch's integers and is differentiable; in eval mode it
lowers to operations of the frozen graph. A convolution without bias returns accumulators, which
only :class:`BatchNorm2d` takes; with ``bias=True`` it requantises itself.
"""

import math
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from intaglio.nn import functional as F
from intaglio.nn import inference
from intaglio.nn.error_scale import ErrorScale
from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.views import host
from intaglio.spec import quant
from intaglio.spec.rng import random_bits

__all__ = [
    "ACTIVATION_EXPONENT",
    "LOGITS_EXPONENT",
    "RESIDUAL_EXPONENT",
    "Add",
    "ArgMax",
    "BatchNorm2d",
    "Broadcast",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "GlobalAvgPool",
    "IntLayer",
    "MaxPool2d",
    "QuantizeImage",
    "Resize",
    "bilinear_master",
    "normal_master",
]

#: Exponents of activations: after batch norm, after a residual sum, of class scores.
ACTIVATION_EXPONENT, RESIDUAL_EXPONENT, LOGITS_EXPONENT = -5, -4, -3

Pair = tuple[int, int]


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def normal_master(shape: tuple[int, ...], std: float, seed: int, stream: int) -> IntTensor:
    """Return an int16 master of nearly normal values: sums of four uniform 16-bit words.

    Values reach 3.46 ``std``; the exponent is chosen so that this is 2**14 at most, which leaves a
    factor of two before the master's exponent has to rise.
    """
    count, part = math.prod(shape), 1 << 20
    exponent = math.ceil(math.log2(std * math.sqrt(12))) - 14
    factor = round(std * 2.0**-exponent * math.sqrt(3) * 2**7)
    codes = np.empty(count, np.int16)
    for start in range(0, count, part):  # the largest layers would take gigabytes at once
        bits = random_bits(seed, stream, np.arange(start, min(start + part, count)))
        words = [((bits >> np.uint64(16 * i)) & np.uint64(0xFFFF)).view(np.int64) for i in range(4)]
        centred = 2 * np.add.reduce(words) - 4 * 0xFFFF  # standard deviation 2**17 / sqrt(3)
        codes[start : start + part] = (centred * factor + (1 << 23)) >> 24
    return IntTensor(torch.from_numpy(codes).reshape(shape), exponent)


def bilinear_master(shape: tuple[int, ...], stride: int) -> IntTensor:
    """Return a master (C, K, R, S), C = K, that interpolates each channel bilinearly."""
    C, K, R, S = shape
    if C != K or R != S:
        raise ValueError(f"a bilinear kernel needs equal channels and sides, not {shape}")
    centre = 2 * np.arange(R) - (R - 1)  # twice the distance from the centre
    tent = np.maximum(2 * stride - np.abs(centre), 0)  # in units of 1 / (2 stride)
    kernel = np.outer(tent, tent)  # at most (2 stride - 1)**2
    exponent = -2 * (1 + quant.log2_ceil(stride))
    if stride & (stride - 1):
        raise ValueError(f"stride must be a power of two, not {stride}")
    room = 14 - quant.log2_ceil(int(kernel.max()))
    codes = np.zeros(shape, np.int64)
    codes[np.arange(C), np.arange(C)] = kernel << room
    return IntTensor(torch.from_numpy(codes.astype(np.int16)), exponent - room)


def _constant_master(channels: int, value: int, exponent: int) -> IntTensor:
    return IntTensor(torch.full((channels,), value << -exponent, dtype=torch.int16), exponent)


class IntLayer(nn.Module):
    """Base of the layers.

    ``path`` is the module path, set by :func:`intaglio.nn.inference.record`; ``prepared`` belongs
    to :class:`intaglio.nn.inference.PendingConv`.
    """

    path = ""
    prepared: Any = None

    def train(self, mode: bool = True) -> Self:
        self.prepared = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "prepared"}


class QuantizeImage(IntLayer):
    """uint8 pixels or int8 codes (N, 3, H, W) to the network's input with exponent -7."""

    def forward(self, images: torch.Tensor | IntTensor) -> IntTensor:
        return images if isinstance(images, IntTensor) else F.quantize_image(images)


class Conv2d(IntLayer):
    """A convolution: int8 x int8 products, exact int32 sums.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation
        As in :class:`torch.nn.Conv2d`.
    bias
        False: the result is an accumulator for :class:`BatchNorm2d`. True: the layer adds its bias
        and requantises to int8 at ``exponent``, with ``relu`` as lower bound.

    Attributes
    ----------
    weight
        int16 master (K, C, R, S); the convolution sees its int8 view.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        bias: bool = False,
        exponent: int = LOGITS_EXPONENT,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = _pair(kernel_size), _pair(stride)
        self.dilation = _pair(dilation)
        p = _pair(padding)
        for i in (0, 1):
            most = self.dilation[i] * (self.kernel[i] - 1)
            if not 0 <= p[i] <= most:
                raise ValueError(f"padding must be in [0, {most}], not {p[i]}")
        self.padding = (*p, *p)
        self.exponent, self.relu = exponent, relu
        fan_in = in_channels * self.kernel[0] * self.kernel[1]
        self.gain = 1 / 16 if bias and not relu else 2.0
        self.std = math.sqrt(self.gain / fan_in)
        shape = (out_channels, in_channels, *self.kernel)
        self.weight = nn.Parameter(normal_master(shape, self.std, 0, 1))
        self.bias: Any = None
        if bias:
            self.bias = nn.Parameter(_constant_master(out_channels, 0, quant.BIAS_EXPONENT))
            self.error_scale = ErrorScale()

    def reset(self, seed: int, stream: int) -> None:
        """Draw the weights anew: normal with variance 2 / fan-in, of scores 1 / (16 fan-in)."""
        master = normal_master(tuple(self.weight.shape), self.std, seed, stream)
        self.weight.assign(master.codes, master.exponent)

    def forward(self, x: IntTensor) -> Any:  # (N, C, H, W) -> (N, K, P, Q)
        if not self.training:
            return self._infer(x)
        if self.bias is None:
            return F.conv(x, self.weight, **self._geometry())
        return F.requantize_bias(
            F.conv_acc(x, self.weight, **self._geometry()),
            self.bias,
            exponent=self.exponent,
            relu=self.relu,
            scale=self.error_scale,
        )

    def _geometry(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def _infer(self, x: IntTensor) -> Any:
        pending = inference.PendingConv("conv", self, x, {**self._geometry(), "pad_code": 0})
        return pending if self.bias is None else pending.finish(self)

    def sources(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors that :meth:`fold` depends on."""
        return (self.bias,)

    def fold(
        self, *, acc_exponent: int, acc_bound: np.ndarray, residual_exponent: int | None
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return multipliers, biases, shift and residual shift of the requantisation."""
        return _fold_bias(self, acc_exponent)


def _fold_bias(layer: Any, acc_exponent: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    return *quant.bias_multiplier(host(layer.bias.codes), acc_exponent, layer.exponent), 0


class ConvTranspose2d(IntLayer):
    """A transposed convolution with bias, int8 at ``exponent``; weight (C, K, R, S).

    It starts as bilinear interpolation where channels and sides allow, else normal. ``padding`` is
    cut off all four sides; called with an ``output_size``, off the top and the left, and what is
    beyond that size off the bottom and the right.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair,
        padding: int | Pair = 0,
        exponent: int = LOGITS_EXPONENT,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = _pair(kernel_size), _pair(stride)
        p = _pair(padding)
        for i in (0, 1):
            if not 0 <= p[i] < self.kernel[i]:
                raise ValueError(f"padding must be in [0, {self.kernel[i] - 1}], not {p[i]}")
        self.padding = (*p, *p)
        self.exponent, self.relu = exponent, relu
        self.shape = (in_channels, out_channels, *self.kernel)
        self.weight = nn.Parameter(self._initial(0, 1))
        self.bias = nn.Parameter(_constant_master(out_channels, 0, quant.BIAS_EXPONENT))
        self.error_scale = ErrorScale()

    def _initial(self, seed: int, stream: int) -> IntTensor:
        C, K, R, S = self.shape
        if C == K and R == S and self.stride[0] == self.stride[1]:
            return bilinear_master(self.shape, self.stride[0])
        fan_in = C * R * S / (self.stride[0] * self.stride[1])
        return normal_master(self.shape, math.sqrt(1 / fan_in), seed, stream)

    def reset(self, seed: int, stream: int) -> None:
        """Set the weights to their start."""
        master = self._initial(seed, stream)
        self.weight.assign(master.codes, master.exponent)

    def _cut(self, x: IntTensor, output_size: Pair | None) -> tuple[int, int, int, int]:
        top, left, bottom, right = self.padding
        if output_size is not None:
            bottom, right = (
                (x.shape[2 + i] - 1) * self.stride[i]
                + self.kernel[i]
                - self.padding[i]
                - output_size[i]
                for i in (0, 1)
            )
            if min(bottom, right) < 0:
                raise ValueError(
                    f"output_size {tuple(output_size)} is larger than what a map of "
                    f"{x.shape[2]} x {x.shape[3]} gives"
                )
        return top, left, bottom, right

    def forward(self, x: IntTensor, output_size: Pair | None = None) -> IntTensor:
        padding = self._cut(x, output_size)
        if self.training:
            acc = F.conv_transpose_acc(x, self.weight, stride=self.stride, padding=padding)
            return F.requantize_bias(
                acc,
                self.bias,
                exponent=self.exponent,
                relu=self.relu,
                scale=self.error_scale,
            )
        attributes = {"stride": self.stride, "padding": padding}
        return inference.PendingConv("conv_transpose", self, x, attributes).finish(self)

    def sources(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors that :meth:`fold` depends on."""
        return (self.bias,)

    def fold(
        self, *, acc_exponent: int, acc_bound: np.ndarray, residual_exponent: int | None
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return multipliers, biases, shift and residual shift of the requantisation."""
        return _fold_bias(self, acc_exponent)


class BatchNorm2d(IntLayer):
    """L1 batch norm of an accumulator, with ReLU and residual sum under one rounding.

    Call as ``bn(acc)`` or ``bn(acc, residual)``. In eval mode it becomes the requantisation of the
    convolution before it, from running statistics.

    Parameters
    ----------
    channels
        Number of channels.
    exponent
        Of the int8 result.
    relu
        Whether negative results become 0.

    Attributes
    ----------
    weight, bias
        gamma and beta, int16 masters with exponent -14, of which 8 bits are used.
    running_mean, running_deviation
        int64 with exponent -24, (C,).
    norm
        "l1", "l1-std" or "l2", see :class:`intaglio.spec.variants.Recipe`.
    """

    def __init__(
        self, channels: int, *, exponent: int = ACTIVATION_EXPONENT, relu: bool = True
    ) -> None:
        super().__init__()
        self.exponent, self.relu, self.norm = exponent, relu, "l1"
        self.weight = nn.Parameter(_constant_master(channels, 1, quant.AFFINE_MASTER_EXPONENT))
        self.bias = nn.Parameter(_constant_master(channels, 0, quant.AFFINE_MASTER_EXPONENT))
        one = 1 << -quant.STATISTICS_EXPONENT
        self.register_buffer("running_mean", torch.zeros(channels, dtype=torch.int64))
        self.register_buffer("running_deviation", torch.full((channels,), one))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))
        self.error_scale = ErrorScale()
        self.acc_error_scale = ErrorScale()

    def forward(self, acc: Any, residual: IntTensor | None = None) -> IntTensor:
        return acc.finish(self, residual)

    def sources(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors that :meth:`fold` depends on."""
        return self.weight, self.bias, self.running_mean, self.running_deviation

    def fold(
        self, *, acc_exponent: int, acc_bound: np.ndarray, residual_exponent: int | None
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return multipliers, biases, shift and residual shift of the requantisation."""
        return quant.fold_batch_norm(
            quant.affine_codes(host(self.weight.codes)),
            quant.affine_codes(host(self.bias.codes)),
            host(self.running_mean),
            host(self.running_deviation),
            acc_exponent=acc_exponent,
            acc_bound=acc_bound,
            exponent=self.exponent,
            residual_exponent=residual_exponent,
        )


class MaxPool2d(IntLayer):
    """Max pooling; the first of equal codes wins, padding never.

    With ``ceil`` windows that only begin inside the map count as well.
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        *,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil: bool = False,
    ) -> None:
        super().__init__()
        self.kernel = _pair(kernel_size)
        self.stride = self.kernel if stride is None else _pair(stride)
        p = _pair(padding)
        if max(p) >= min(self.kernel):
            raise ValueError(f"padding must be below the kernel {self.kernel}, not {p}")
        self.padding, self.ceil = (*p, *p), ceil

    def forward(self, x: IntTensor) -> IntTensor:
        padding = self.padding
        if self.ceil:
            more = []
            for i in (0, 1):
                size = x.shape[2 + i] + 2 * padding[i]
                rest = (self.kernel[i] - size) % self.stride[i]
                # Where the last window would begin.
                last = size + rest - self.kernel[i] - padding[i]
                more.append(rest if last < x.shape[2 + i] else 0)
            padding = (*padding[:2], padding[2] + more[0], padding[3] + more[1])
        attributes: dict[str, Any] = {
            "kernel": self.kernel,
            "stride": self.stride,
            "padding": padding,
        }
        if self.training:
            return F.max_pool(x, **attributes)
        return inference.graph_op("max_pool", self.path, [x], x.exponent, attributes, {})


class GlobalAvgPool(IntLayer):
    """The mean over the pixels: (N, C, H, W) to (N, C, 1, 1), at the input's exponent."""

    def forward(self, x: IntTensor) -> IntTensor:
        if self.training:
            return F.global_average(x)
        size = (x.shape[2], x.shape[3])
        m, shift = quant.average_pool_multiplier(size[0] * size[1])
        attributes = {
            "kernel": size,
            "stride": (1, 1),
            "padding": (0, 0, 0, 0),
            "shift": shift,
            "low": -quant.CODE_LIMIT,
            "high": quant.CODE_LIMIT,
        }
        tensors = {"multiplier": np.array([m], np.int16), "bias": np.zeros(1, np.int64)}
        return inference.graph_op("avg_pool", self.path, [x], x.exponent, attributes, tensors)


class Broadcast(IntLayer):
    """Repeat (N, C, 1, 1) over the pixels of another map."""

    def forward(self, x: IntTensor, size: Pair) -> IntTensor:
        if self.training:
            return F.broadcast(x, size)
        return inference.graph_op("broadcast", self.path, [x], x.exponent, {"size": size}, {})


class Add(IntLayer):
    """The sum of two maps, rounded once, int8 at ``exponent``."""

    def __init__(self, *, exponent: int, relu: bool = False) -> None:
        super().__init__()
        self.exponent, self.relu = exponent, relu

    def forward(self, a: IntTensor, b: IntTensor) -> IntTensor:
        if self.training:
            return F.add(a, b, exponent=self.exponent, relu=self.relu)
        attributes = F.add_attributes(a.exponent, b.exponent, self.exponent, self.relu)
        return inference.graph_op("add", self.path, [a, b], self.exponent, attributes, {})


class Concat(IntLayer):
    """Maps of one exponent, joined along the channels."""

    def forward(self, *inputs: IntTensor) -> IntTensor:
        if self.training:
            return F.concat(*inputs)
        return inference.graph_op("concat", self.path, inputs, inputs[0].exponent, {}, {})


class Resize(IntLayer):
    """Bilinear resize by an integer ratio.

    With ``last`` the training form is exact and wide, for the loss (ratios that are powers of two);
    inference rounds once to int8, as every other use does.
    """

    def __init__(
        self, ratio: int | Pair, *, corners: str = "half_pixel", last: bool = False
    ) -> None:
        super().__init__()
        self.ratio, self.corners, self.last = _pair(ratio), corners, last

    def forward(self, x: IntTensor) -> IntTensor:
        attributes: dict[str, Any] = {"ratio": self.ratio, "corners": self.corners}
        if not self.training:
            return inference.graph_op("resize", self.path, [x], x.exponent, attributes, {})
        return F.resize_wide(x, **attributes) if self.last else F.resize(x, **attributes)


class ArgMax(IntLayer):
    """The class map (N, 1, H, W): index of the largest code, the lowest of equals. No gradient."""

    def forward(self, x: IntTensor) -> IntTensor:
        return inference.graph_op("argmax", self.path, [x], 0, {}, {})
