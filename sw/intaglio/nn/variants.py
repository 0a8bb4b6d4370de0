"""Executors of :mod:`intaglio.spec.variants` in torch operators, and of batch statistics.

Feature maps lie as (N, H, W, C), as in :mod:`intaglio.nn.kernels.plain`; a share of the batch is
completed by the other workers' (:mod:`intaglio.nn.workers`).
"""

from dataclasses import dataclass

import torch

from intaglio.nn import kernels, workers
from intaglio.nn.kernels import plain
from intaglio.spec import quant, variants
from intaglio.spec.arith import round_shift
from intaglio.spec.variants import FLAG_SHIFT, WIDE_LIMIT, Recipe

__all__ = ["Draws", "ErrorVariant", "batch_norm_gradient", "batch_norm_statistics", "masked"]

#: Rows of a batch that are widened to int64 at a time.
_ROWS = 1 << 16


@dataclass
class Draws:
    """What the random words of a step depend on: the training loop sets ``step``."""

    seed: int
    step: int = 0


def masked(wide: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return ``wide`` with zeros where ``mask``, if any, is not positive."""
    return wide if mask is None else torch.where(mask > 0, wide, 0)


class ErrorVariant:
    """A quantiser of the error E2 that is not the default one; see ``error_digits`` of the spec.

    The words of stochastic rounding are those of stream ``(step, layer)`` at the element's index
    in the batch of all workers, (N, C, H, W) in this order.
    """

    def __init__(self, recipe: Recipe, draws: Draws, layer: int) -> None:
        self.bits, self.rounding = recipe.error_bits, recipe.error_rounding
        self.draws, self.layer = draws, layer

    def digits(self, wide: torch.Tensor, exponent: int) -> list[tuple[torch.Tensor, int]]:
        """Return the int8 digits (N, H, W, C) of a wide error and their exponents."""
        wide = wide.to(torch.int64)
        maximum = workers.maximum(int(wide.abs().max()))
        words = self._words(wide) if self.rounding == "stochastic" else None
        if self.bits == 9:
            shift = quant.scale_shift(maximum, 8 + FLAG_SHIFT)
            small = wide.abs() <= quant.CODE_LIMIT << shift
            parts = (
                (torch.where(small, 0, wide), shift + FLAG_SHIFT),
                (torch.where(small, wide, 0), shift),
            )
            return [
                (self._round(v, right, quant.CODE_LIMIT, words).to(torch.int8), exponent + right)
                for v, right in parts
            ]
        shift = quant.scale_shift(maximum, self.bits)
        if self.bits == 8:
            codes = self._round(wide, shift, quant.CODE_LIMIT, words)
            return [(codes.to(torch.int8), exponent + shift)]
        high, low = variants.digits_of_wide(self._round(wide, shift, WIDE_LIMIT, words))
        return [(high.to(torch.int8), exponent + shift + 8), (low.to(torch.int8), exponent + shift)]

    def _round(
        self, wide: torch.Tensor, shift: int, limit: int, words: torch.Tensor | None
    ) -> torch.Tensor:
        if words is not None:
            codes = (wide + (words & ((1 << shift) - 1))) >> shift
        elif self.rounding == "nearest":
            codes = round_shift(wide, shift)
        else:
            codes = workers.unscanned(_diffused(workers.scanned(wide), shift))
        return codes.clamp_(-limit, limit)

    def _words(self, wide: torch.Tensor) -> torch.Tensor:
        N, H, W, C = wide.shape
        stream = (self.draws.step << 16) | (self.layer << 2) | 3  # 0 to 2 are the optimiser's
        words = plain.random_bits(
            self.draws.seed, stream, wide.numel(), wide.device, workers.rank() * wide.numel()
        )
        return words.reshape(N, C, H, W).permute(0, 2, 3, 1)


def _diffused(values: torch.Tensor, shift: int) -> torch.Tensor:
    N, H, W, C = values.shape
    scan = values.reshape(N, H * W, C) if H * W > 1 else values.reshape(1, N, C)
    rounded = round_shift(scan.cumsum(1), shift)
    return torch.cat((rounded[:, :1], rounded[:, 1:] - rounded[:, :-1]), 1).reshape(N, H, W, C)


# --- batch norm -------------------------------------------------------------------------------


def batch_norm_statistics(acc: torch.Tensor, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per channel the mean of acc int32 (M, C) and the count times the deviation, int64.

    Both are those of the batch of all workers; ``norm`` is "l1" or "l2".
    """
    if norm == "l1" and workers.count() == 1:
        mean, deviation = kernels.active().batch_norm_statistics(acc)
        return mean, deviation
    count = acc.shape[0] * workers.count()
    total = workers.total(acc.sum(0, dtype=torch.int64))
    mean = torch.div(2 * total + count, 2 * count, rounding_mode="floor")
    if norm == "l1":
        parts = ((rows.to(torch.int64) - mean).abs_().sum(0) for rows in acc.split(_ROWS))
        return mean, workers.total(sum(parts, torch.zeros_like(mean))).clamp_(min=count)
    squares = _square_sums(acc, mean)
    deviation = [variants.square_deviation(s, count) for s in squares]
    return mean, torch.tensor(deviation, dtype=torch.int64).to(acc.device)


def _square_sums(acc: torch.Tensor, mean: torch.Tensor) -> list[int]:
    """Return the sums of the squared deviations, which need more than 64 bits."""
    sums = torch.zeros((3, acc.shape[1]), dtype=torch.int64, device=acc.device)
    for rows in acc.split(_ROWS):
        centred = (rows.to(torch.int64) - mean).abs_()
        high, low = centred >> 16, centred & 0xFFFF
        sums += torch.stack(((high * high).sum(0), (high * low).sum(0), (low * low).sum(0)))
    a, b, c = workers.total(sums).cpu().tolist()
    return [(x << 32) + (y << 17) + z for x, y, z in zip(a, b, c, strict=True)]


def batch_norm_gradient(
    error: torch.Tensor,
    xhat: torch.Tensor,
    m0: torch.Tensor,
    m1: torch.Tensor,
    m2: torch.Tensor,
    factors: torch.Tensor,
    *,
    norm: str,
) -> torch.Tensor:
    """Return the wide error of the accumulator, int64 (N, H, W, C), under "l1" or "l2"."""
    wide = (error.to(torch.int64) << quant.MEAN_BITS) - m0
    if norm == "l1":
        return (wide - xhat.sign().to(torch.int64) * m1 + m2) * factors
    return (wide - round_shift(xhat.to(torch.int64) * m1, -quant.NORMAL_EXPONENT)) * factors
