"""Peers of ``intaglio bench train``: what others do for training that ends in 8 bits."""

import importlib
from types import SimpleNamespace
from typing import Any

from intaglio.spec.errors import IntaglioError

__all__ = ["BREVITAS", "PEERS", "brevitas_twin"]

#: The version that was measured; it goes with the pinned torch, and is needed for nothing else.
BREVITAS = "brevitas==0.13.4"
#: Names of ``--peer``.
PEERS = ("brevitas",)
#: Calls that take the scales from percentiles of the activations; after that they are learned.
STATISTICS_STEPS = 1


def _brevitas() -> Any:
    try:
        return importlib.import_module("brevitas.nn")
    except ImportError as error:
        raise IntaglioError(
            f"bench train: the peer brevitas is not installed ({error}); pip install {BREVITAS}"
        ) from None


def _layers(quant: Any) -> SimpleNamespace:
    """Return the layers of the peer: those of the twin, but for what Brevitas quantises."""
    import torch

    from intaglio.nn import twin

    options = {"collect_stats_steps": STATISTICS_STEPS}

    class Activation(torch.nn.Module):
        """ReLU and its quantiser, or nothing."""

        def __init__(self, *, relu: bool) -> None:
            super().__init__()
            self.inner = quant.QuantReLU(bit_width=8, **options) if relu else torch.nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner(x)
            return y

    class QuantizeImage(twin.QuantizeImage):
        def __init__(self) -> None:
            super().__init__()
            self.inner = quant.QuantIdentity(bit_width=8, **options)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner(super().forward(images))
            return y

    class Conv2d(quant.QuantConv2d):  # type: ignore[misc]
        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            kernel_size: Any,
            *,
            relu: bool = False,
            exponent: int = 0,
            bias: bool = False,
            **settings: Any,
        ) -> None:
            super().__init__(
                in_channels, out_channels, kernel_size, bias=bias, weight_bit_width=8, **settings
            )
            self.activation = Activation(relu=relu)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.activation(super().forward(x))

    class ConvTranspose2d(quant.QuantConvTranspose2d):  # type: ignore[misc]
        def __init__(
            self,
            in_channels: int,
            out_channels: int,
            kernel_size: Any,
            *,
            relu: bool = False,
            exponent: int = 0,
            **settings: Any,
        ) -> None:
            super().__init__(in_channels, out_channels, kernel_size, weight_bit_width=8, **settings)
            self.activation = Activation(relu=relu)

        def forward(self, x: torch.Tensor, output_size: Any = None) -> torch.Tensor:
            y = super().forward(x)
            if output_size is not None:
                y = y[:, :, : output_size[0], : output_size[1]]
            return self.activation(y)

    class BatchNorm2d(torch.nn.BatchNorm2d):
        def __init__(self, channels: int, *, exponent: int = 0, relu: bool = True) -> None:
            super().__init__(channels)
            self.activation = Activation(relu=relu)

        def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
            y = super().forward(x)
            return self.activation(y if residual is None else y + residual)

    class Add(torch.nn.Module):
        def __init__(self, *, exponent: int = 0, relu: bool = False) -> None:
            super().__init__()
            self.activation = Activation(relu=relu)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.activation(a + b)

    replaced = (QuantizeImage, Conv2d, ConvTranspose2d, BatchNorm2d, Add)
    return SimpleNamespace(**{**vars(twin), **{c.__name__: c for c in replaced}})


def brevitas_twin(model: Any) -> Any:
    """Return ``model``, from :func:`intaglio.nn.models.build`, for training with Brevitas.

    The float32 twin with simulated quantisation: weights of all convolutions in 8 bits with one
    scale per tensor, ReLU and the input in 8 bits with learned scales; batch norm, residual sums
    and logits stay in float32. Its first :data:`STATISTICS_STEPS` calls set the scales.

    Raises
    ------
    IntaglioError
        Brevitas is not installed.
    """
    quant = _brevitas()
    from intaglio.nn.models import build_twin

    return build_twin(model, namespace=_layers(quant))
