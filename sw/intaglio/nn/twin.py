"""The float32 twin's layers: the names and signatures of :mod:`intaglio.nn.layers` on floats.

A network that is written against a namespace of layers runs as integers with one and as ordinary
float32 PyTorch with the other, which is what integers are compared with. ``statistics="l1"`` gives
the exact real-valued counterpart of integer batch norm, the oracle of the gradient tests.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as TF

from intaglio.nn.int_tensor import IntTensor

__all__ = [
    "Add",
    "ArgMax",
    "BatchNorm2d",
    "Broadcast",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "GlobalAvgPool",
    "L1BatchNorm2d",
    "MaxPool2d",
    "QuantizeImage",
    "Resize",
    "copy_parameters",
]

ACTIVATION_EXPONENT, RESIDUAL_EXPONENT, LOGITS_EXPONENT = -5, -4, -3


class QuantizeImage(nn.Module):
    """uint8 pixels or int8 codes (N, 3, H, W) to float32 in [-1, 1)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        zero = 128 if images.dtype == torch.uint8 else 0
        x = (images.to(torch.float32) - zero) / 128
        return x.contiguous(memory_format=torch.channels_last)


class Conv2d(nn.Conv2d):
    """A float convolution; ``exponent`` has no meaning here, ``relu`` applies after the bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = False,
        exponent: int = 0,
        relu: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias
        )
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return TF.relu(y) if self.relu else y


class ConvTranspose2d(nn.ConvTranspose2d):
    """A float transposed convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any,
        padding: Any = 0,
        exponent: int = 0,
        relu: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.relu = relu

    def forward(self, x: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        y = super().forward(x)
        if output_size is not None:
            y = y[:, :, : output_size[0], : output_size[1]]
        return TF.relu(y) if self.relu else y


class BatchNorm2d(nn.BatchNorm2d):
    """Ordinary (L2) batch norm, with residual sum and ReLU behind it."""

    def __init__(self, channels: int, *, exponent: int = 0, relu: bool = True) -> None:
        super().__init__(channels)
        self.relu = relu

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        y = super().forward(x)
        if residual is not None:
            y = y + residual
        return TF.relu(y) if self.relu else y


class L1BatchNorm2d(nn.Module):
    """L1 batch norm in real numbers, for training mode only."""

    def __init__(self, channels: int, *, exponent: int = 0, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        centred = x - x.mean((0, 2, 3), keepdim=True)
        xhat = centred / centred.abs().mean((0, 2, 3), keepdim=True)
        y = xhat * self.weight[:, None, None] + self.bias[:, None, None]
        if residual is not None:
            y = y + residual
        return TF.relu(y) if self.relu else y


class MaxPool2d(nn.MaxPool2d):
    """Max pooling."""

    def __init__(
        self, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil: bool = False
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode=ceil)


class GlobalAvgPool(nn.Module):
    """The mean over the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3), keepdim=True)


class Broadcast(nn.Module):
    """Repeat (N, C, 1, 1)."""

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return x.expand(-1, -1, *size)


class Add(nn.Module):
    """The sum of two maps."""

    def __init__(self, *, exponent: int = 0, relu: bool = False) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return TF.relu(a + b) if self.relu else a + b


class Concat(nn.Module):
    """Maps joined along the channels."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat(inputs, 1)


class Resize(nn.Module):
    """Bilinear resize by an integer ratio."""

    def __init__(self, ratio: Any, *, corners: str = "half_pixel", last: bool = False) -> None:
        super().__init__()
        self.ratio = (ratio, ratio) if isinstance(ratio, int) else tuple(ratio)
        self.corners = corners

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = zip(x.shape[2:], self.ratio, strict=True)
        if self.corners == "half_pixel":
            size = [n * f for n, f in sizes]
        else:
            size = [(n - 1) * f + 1 for n, f in sizes]
        return TF.interpolate(x, size=size, mode="bilinear", align_corners=self.corners == "align")


class ArgMax(nn.Module):
    """The class map (N, 1, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(1, keepdim=True)


def copy_parameters(integers: nn.Module, floats: nn.Module, *, seen: bool = False) -> None:
    """Give ``floats`` the values of the masters of ``integers``, parameter by parameter.

    With ``seen`` the values that the int8 views have instead: those that the layers compute with.
    """
    # Imported here because the layers need torch modules only.
    from intaglio.nn import views
    from intaglio.nn.layers import BatchNorm2d as IntBatchNorm2d
    from intaglio.spec import quant

    norms = {
        f"{path}.{name}"
        for path, module in integers.named_modules()
        if isinstance(module, IntBatchNorm2d)
        for name in ("weight", "bias")
    }
    target = dict(floats.named_parameters())
    with torch.no_grad():
        for name, parameter in integers.named_parameters():
            assert isinstance(parameter, IntTensor)
            codes, exponent = parameter.codes.to(torch.float64), parameter.exponent
            if seen and name in norms:
                view, exponent = views.affine_view(parameter), quant.AFFINE_EXPONENT
                codes = view.to(torch.float64)
            elif seen and parameter.dim() == 4:
                view, exponent = views.weight_view(parameter)
                codes = view.to(torch.float64)
            target[name].copy_(codes * math.ldexp(1.0, exponent))
