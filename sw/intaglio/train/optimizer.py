"""SGD with momentum on integer masters."""

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from intaglio.nn import kernels, workers
from intaglio.nn.int_tensor import IntTensor
from intaglio.spec import quant
from intaglio.spec.variants import Recipe, master_limit, normalized_exponent

__all__ = ["DECAY_SHIFT", "SGD", "VECTOR_BITS", "WEIGHT_BITS", "pixel_factor"]

#: Weight decay is 2**-DECAY_SHIFT, on the weights of convolutions.
DECAY_SHIFT = 11
#: Bits of the quantised gradient: of convolution weights, and of gamma, beta and biases.
WEIGHT_BITS, VECTOR_BITS = 8, 16


def pixel_factor(pixels: int) -> Fraction:
    """Return what the loss leaves of the division by ``pixels``: ``pixels / 2**floor(log2)``.

    Integer gradients are this factor, in [1, 2), larger than those of the mean loss.
    """
    return Fraction(pixels, 1 << (pixels.bit_length() - 1))


def _shared(gradient: IntTensor) -> IntTensor:
    """Return the sum of the workers' gradients, in as few bytes as are sure to hold it."""
    if workers.count() == 1:
        return gradient
    codes = gradient.codes
    largest = workers.maximum(int(codes.abs().max()))
    narrow = largest * workers.count() < 1 << 31
    total = workers.total(codes.to(torch.int32 if narrow else torch.int64))
    return IntTensor(total, gradient.exponent)


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
    recipe
        Bits of the masters, and whether gradients keep their magnitude.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        seed: int,
        recipe: Recipe = Recipe(),  # noqa: B008 - frozen
    ) -> None:
        self.parameters: dict[str, IntTensor] = {}
        self.momenta: dict[str, tuple[torch.Tensor, int]] = {}
        self.seed, self.steps, self.recipe = seed, 0, recipe
        for name, parameter in parameters:
            if not isinstance(parameter, IntTensor):
                raise TypeError(f"parameter {name} is not an IntTensor")
            exponent = parameter.exponent
            self.parameters[name] = parameter
            self.momenta[name] = torch.zeros_like(parameter.codes, dtype=torch.int16), exponent

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def step(self, rate: Fraction) -> None:
        """Update every parameter that has a gradient with the learning rate ``rate``.

        Gradients of several workers are added first; ``grad`` is their sum then.
        """
        fraction = quant.learning_rate(rate.numerator, rate.denominator)
        for index, (name, parameter) in enumerate(self.parameters.items()):
            if parameter.grad is not None:
                parameter.grad = _shared(parameter.grad)
                stream = (self.steps << 16) | (index << 2)
                self._update(name, parameter, parameter.grad, fraction, stream)
        self.steps += 1

    def _update(
        self,
        name: str,
        parameter: IntTensor,
        gradient: IntTensor,
        fraction: tuple[int, int],
        stream: int,
    ) -> None:
        weight, exponent = parameter.dim() == 4, gradient.exponent
        if not self.recipe.magnitude:
            exponent = normalized_exponent(int(gradient.codes.abs().max()))
        other = weight and self.recipe.master_bits != 16
        k = kernels.plain if other else kernels.active()
        momentum = k.momentum_update(
            *self.momenta[name],
            gradient.codes,
            exponent,
            parameter.codes if weight else None,
            parameter.exponent - DECAY_SHIFT,
            gradient_bits=WEIGHT_BITS if weight else VECTOR_BITS,
            seed=self.seed,
            streams=(stream, stream + 1),
        )
        self.momenta[name] = momentum
        limit = {"limit": master_limit(self.recipe.master_bits)} if other else {}
        master = k.weight_update(
            parameter.codes,
            parameter.exponent,
            *momentum,
            fraction,
            fixed=not weight,
            seed=self.seed,
            stream=stream + 2,
            **limit,
        )
        parameter.assign(*master)

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
