"""SGD with momentum on int16 masters, and learning rates as integers."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from intaglio.nn import kernels
from intaglio.nn.int_tensor import IntTensor
from intaglio.spec import quant
from intaglio.spec.errors import IntaglioError

__all__ = ["SGD", "Schedule", "pixel_factor"]

#: Weight decay is 2**-DECAY_SHIFT, on the weights of convolutions.
DECAY_SHIFT = 11
#: Bits of the quantised gradient: of convolution weights, and of gamma, beta and biases.
WEIGHT_BITS, VECTOR_BITS = 8, 16


def pixel_factor(pixels: int) -> Fraction:
    """Return what the loss leaves of the division by ``pixels``: ``pixels / 2**floor(log2)``.

    Integer gradients are this factor, in [1, 2), larger than those of the mean loss.
    """
    return Fraction(pixels, 1 << (pixels.bit_length() - 1))


@dataclass(frozen=True)
class Schedule:
    """A learning rate for each of ``steps``: linear warm-up, then polynomial decay to 0.

    ``rate`` is the peak, ``warmup`` the number of steps up to it, ``power`` (1 or 2) that of the
    decay ``((steps - step) / (steps - warmup))**power``. Rates are exact fractions, so that every
    machine computes the same.
    """

    rate: str
    steps: int
    warmup: int = 0
    power: int = 1

    def __post_init__(self) -> None:
        if not 0 < Fraction(self.rate) <= 16:
            raise IntaglioError(f"learning rate must be in (0, 16], not {self.rate}")
        if self.steps < 1:
            raise IntaglioError(f"steps must be >= 1, not {self.steps}")
        if not 0 <= self.warmup < self.steps:
            raise IntaglioError(f"warmup must be in [0, {self.steps - 1}], not {self.warmup}")
        if self.power not in (1, 2):
            raise IntaglioError(f"power must be 1 or 2, not {self.power}")

    def at(self, step: int) -> Fraction:
        """Return the rate of ``step``, counted from 0."""
        peak = Fraction(self.rate)
        if step < self.warmup:
            return peak * (step + 1) / (self.warmup + 1)
        return peak * Fraction(self.steps - step, self.steps - self.warmup) ** self.power


class SGD:
    """SGD with momentum 7/8 and weight decay 2**-11 on integer parameters.

    Gradients become 8 bits (gamma, beta, biases: 16), momenta and masters are int16; every rounding
    of the update is stochastic and takes its bits from (seed, step, parameter, index).

    Parameters
    ----------
    parameters
        ``model.named_parameters()``.
    seed
        Of the stochastic rounding, in [0, 2**64 - 1].
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], *, seed: int) -> None:
        self.parameters: dict[str, IntTensor] = {}
        self.momenta: dict[str, tuple[torch.Tensor, int]] = {}
        self.seed, self.steps = seed, 0
        for name, parameter in parameters:
            if not isinstance(parameter, IntTensor):
                raise TypeError(f"parameter {name} is not an IntTensor")
            self.parameters[name] = parameter
            self.momenta[name] = torch.zeros_like(parameter.codes), parameter.exponent

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, rate: Fraction) -> None:
        """Update every parameter that has a gradient with the learning rate ``rate``."""
        k = kernels.active()
        fraction = quant.learning_rate(rate.numerator, rate.denominator)
        for index, (name, parameter) in enumerate(self.parameters.items()):
            gradient = parameter.grad
            if gradient is None:
                continue
            stream = (self.steps << 16) | (index << 2)
            weight = parameter.dim() == 4
            momentum, exponent = k.momentum_update(
                *self.momenta[name],
                gradient.codes,
                gradient.exponent,
                parameter.codes if weight else None,
                parameter.exponent - DECAY_SHIFT,
                gradient_bits=WEIGHT_BITS if weight else VECTOR_BITS,
                seed=self.seed,
                streams=(stream, stream + 1),
            )
            self.momenta[name] = momentum, exponent
            master = k.weight_update(
                parameter.codes,
                parameter.exponent,
                momentum,
                exponent,
                fraction,
                fixed=not weight,
                seed=self.seed,
                stream=stream + 2,
            )
            parameter.assign(*master)
        self.steps += 1

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Return momenta and the number of steps as arrays."""
        arrays = {"steps": np.array(self.steps, np.int64)}
        for name, (codes, exponent) in self.momenta.items():
            arrays[f"momentum.{name}"] = codes.cpu().numpy()
            arrays[f"momentum_exponent.{name}"] = np.array(exponent, np.int64)
        return arrays

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what :meth:`state_arrays` returned; KeyError or ValueError where it misfits."""
        for name, parameter in self.parameters.items():
            codes = torch.from_numpy(arrays[f"momentum.{name}"].copy()).to(parameter.codes.device)
            if codes.shape != parameter.shape or codes.dtype != torch.int16:
                raise ValueError(f"momentum of {name} is {codes.dtype} {tuple(codes.shape)}")
            self.momenta[name] = codes, int(arrays[f"momentum_exponent.{name}"])
        self.steps = int(arrays["steps"])
