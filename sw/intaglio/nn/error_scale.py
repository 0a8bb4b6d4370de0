"""Errors back to 8 bits: the scale, guessed from the step before."""

from collections.abc import Callable

import torch

from intaglio.nn import kernels, variants, workers
from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.views import terms
from intaglio.spec import quant

__all__ = ["ErrorScale", "quantize_error"]


class ErrorScale:
    """A guess of the shift that quantises an error tensor: the scale of the step before.

    Quantising needs the tensor's maximum first, which is a pass over the data. With the guess both
    are done in one pass, which is repeated where the guess was wrong: the result never depends on
    the guess, and it is no part of a checkpoint.

    ``variant``, if any, replaces this quantiser by another one (see :mod:`intaglio.nn.recipe`).
    """

    def __init__(self) -> None:
        self.guess: int | None = None
        self.variant: variants.ErrorVariant | None = None

    def quantize(
        self, exponent: int, run: Callable[[int], tuple[torch.Tensor, int]]
    ) -> tuple[torch.Tensor, int]:
        """Return the codes and exponent of a wide error at ``exponent``.

        ``run(shift)`` returns the codes for a right shift and the largest magnitude before it.
        """
        shift = 0 if self.guess is None else max(self.guess - 7 - exponent, 0)
        codes, maximum = run(shift)
        maximum = workers.maximum(maximum)
        right = quant.scale_shift(maximum, 8)
        if right != shift:
            codes, _ = run(right)
        self.guess = exponent + quant.log2_ceil(maximum)
        return codes, exponent + right


def quantize_error(
    gradient: IntTensor, y: torch.Tensor, low: int, scale: ErrorScale
) -> tuple[torch.Tensor, int]:
    """Return the 8-bit codes (N, H, W, C) of a wide gradient and their exponent.

    It is the gradient of y (N, H, W, C), they are that of what was saturated to it.
    """
    run = kernels.active().quantize_error
    parts = [(workers.scanned(codes), e) for codes, e in terms(gradient)]
    y = workers.scanned(y)
    codes, exponent = scale.quantize(gradient.exponent, lambda shift: run(parts, y, low, shift))
    return workers.unscanned(codes), exponent
