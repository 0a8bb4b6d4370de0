"""Executors of :mod:`intaglio.spec.variants` in torch operators, and of batch statistics.

Feature maps lie as (N, H, W, C), as in :mod:`intaglio.nn.kernels.plain`; a share of the batch is
completed by the other workers' (:mod:`intaglio.nn.workers`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from intaglio.nn import kernels, workers
from intaglio.nn.kernels import native_variants, plain
from intaglio.spec import quant, variants
from intaglio.spec.arith import round_shift
from intaglio.spec.variants import FLAG_SHIFT, WIDE_LIMIT, Recipe

__all__ = [
    "Draws",
    "ErrorVariant",
    "batch_norm_statistics",
    "update",
]

#: Rows of a batch that are widened to int64 at a time.
_ROWS = 1 << 16
#: Of a guess, so that a wrong one stays within int64.
_SHIFT_LIMIT = 48

Vectors = Sequence[torch.Tensor]


@dataclass
class Draws:
    """What the random words of a step depend on: the training loop sets ``step``."""

    seed: int
    step: int = 0


def _fused(x: torch.Tensor) -> bool:
    return kernels.active() is not plain and x.device.type == "cpu"


class ErrorVariant:
    """A quantiser of the error E2 that is not the default one; see ``error_digits`` of the spec.

    The words of stochastic rounding are those of stream ``(step, layer)`` at the element's index
    in the batch of all workers, (N, C, H, W) in this order. As in
    :class:`intaglio.nn.error_scale.ErrorScale`, the fused kernels start from the scale of the step
    before and are run again where it was another one.
    """

    def __init__(self, recipe: Recipe, draws: Draws, layer: int) -> None:
        self.bits, self.rounding = recipe.error_bits, recipe.error_rounding
        self.draws, self.layer = draws, layer
        self.guess: int | None = None

    def digits(
        self, wide: torch.Tensor, exponent: int, y: torch.Tensor | None = None, low: int = 0
    ) -> list[tuple[torch.Tensor, int]]:
        """Return the int8 digits (N, H, W, C) of a wide error and their exponents.

        ``y`` and ``low`` are those of :func:`intaglio.spec.quant.through_saturation`.
        """
        if not _fused(wide):
            wide = wide.to(torch.int64)
            wide = wide if y is None else quant.through_saturation(wide, y, low)
            return self._plain(wide, exponent)
        wide, y = self._scanned(wide), None if y is None else self._scanned(y)
        kind = self._kind(wide.numel())
        return self._guessed(
            exponent, lambda shift: native_variants.wide_digits(wide, y, low, shift, **kind)
        )

    def batch_norm_digits(
        self,
        error: torch.Tensor,
        xhat: torch.Tensor,
        vectors: Vectors,
        exponent: int,
        *,
        norm: str,
    ) -> list[tuple[torch.Tensor, int]]:
        """Return those of batch norm's accumulator; ``vectors`` are m0, m1, m2, factors."""
        signs = norm == "l1"
        if not _fused(error):
            wide = plain.batch_norm_gradient(error, xhat, *vectors, signs=signs)
            return self._plain(wide, exponent)
        error, xhat = self._scanned(error), self._scanned(xhat)
        kind = self._kind(error.numel()) | {"signs": signs}
        return self._guessed(
            exponent,
            lambda shift: native_variants.batch_norm_digits(error, xhat, vectors, shift, **kind),
        )

    def _plain(self, wide: torch.Tensor, exponent: int) -> list[tuple[torch.Tensor, int]]:
        maximum = workers.maximum(int(wide.abs().max()))
        words = self._words(wide) if self.rounding == "stochastic" else None
        shift, exponents = self._scale(maximum, exponent)
        if self.bits == 9:
            small = wide.abs() <= quant.CODE_LIMIT << shift
            digits = [
                self._round(torch.where(small, 0, wide), shift + FLAG_SHIFT, words),
                self._round(torch.where(small, wide, 0), shift, words),
            ]
        elif self.bits == 8:
            digits = [self._round(wide, shift, words)]
        else:
            digits = list(variants.digits_of_wide(self._round(wide, shift, words)))
        return [(d.to(torch.int8), e) for d, e in zip(digits, exponents, strict=True)]

    def _scale(self, maximum: int, exponent: int) -> tuple[int, list[int]]:
        """Return the right shift and the exponents of the digits."""
        shift = quant.scale_shift(maximum, 8 + FLAG_SHIFT if self.bits == 9 else self.bits)
        upper = {8: [], 9: [FLAG_SHIFT], 16: [8]}[self.bits]
        return shift, [exponent + shift + more for more in (*upper, 0)]

    def _guessed(
        self, exponent: int, run: Callable[[int], tuple[list[torch.Tensor], int]]
    ) -> list[tuple[torch.Tensor, int]]:
        top = 0 if self.guess is None else max(self.guess - exponent, 0)
        shift = min(self._scale(1 << top, 0)[0], _SHIFT_LIMIT)
        digits, maximum = run(shift)
        maximum = workers.maximum(maximum)
        right, exponents = self._scale(maximum, exponent)
        if right != shift:
            digits, _ = run(right)
        self.guess = exponent + quant.log2_ceil(maximum)
        if self.rounding == "diffusion":
            digits = [workers.unscanned(d) for d in digits]
        return list(zip(digits, exponents, strict=True))

    def _scanned(self, x: torch.Tensor) -> torch.Tensor:
        return workers.scanned(x) if self.rounding == "diffusion" else x

    def _kind(self, count: int) -> dict[str, Any]:
        words = self.draws.seed, self._stream(), workers.rank() * count
        return {"bits": self.bits, "rounding": self.rounding, "words": words}

    def _stream(self) -> int:
        return (self.draws.step << 16) | (self.layer << 2) | 3  # 0 to 2 are the optimiser's

    def _round(self, wide: torch.Tensor, shift: int, words: torch.Tensor | None) -> torch.Tensor:
        limit = WIDE_LIMIT if self.bits == 16 else quant.CODE_LIMIT
        if words is not None:
            codes = (wide + (words & ((1 << shift) - 1))) >> shift
        elif self.rounding == "nearest":
            codes = round_shift(wide, shift)
        else:
            codes = workers.unscanned(_diffused(workers.scanned(wide), shift))
        return codes.clamp_(-limit, limit)

    def _words(self, wide: torch.Tensor) -> torch.Tensor:
        N, H, W, C = wide.shape
        count = wide.numel()
        first = workers.rank() * count
        words = plain.random_bits(self.draws.seed, self._stream(), count, wide.device, first)
        return words.reshape(N, C, H, W).permute(0, 2, 3, 1)


def _diffused(values: torch.Tensor, shift: int) -> torch.Tensor:
    N, H, W, C = values.shape
    scan = values.reshape(N, H * W, C) if H * W > 1 else values.reshape(1, N, C)
    rounded = round_shift(scan.cumsum(1), shift)
    return torch.cat((rounded[:, :1], rounded[:, 1:] - rounded[:, :-1]), 1).reshape(N, H, W, C)


# --- batch norm -------------------------------------------------------------------------------


def batch_norm_statistics(acc: torch.Tensor, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per channel the mean of acc int32 (M, C) and the count times the deviation, int64.

    Both are those of the batch of all workers; ``norm`` is that of a
    :class:`intaglio.spec.variants.Recipe`.
    """
    std = norm == "l1-std"
    if norm != "l2" and workers.count() == 1:
        mean, deviation = kernels.active().batch_norm_statistics(acc, std=std)
        return mean, deviation
    count = acc.shape[0] * workers.count()
    total = workers.total(acc.sum(0, dtype=torch.int64))
    mean = torch.div(2 * total + count, 2 * count, rounding_mode="floor")
    if norm != "l2":
        distance = workers.total(_distance_sums(acc, mean, 0)).clamp_(min=count)
        if not std:
            return mean, distance
        tail = workers.total(_distance_sums(acc, mean, variants.tail_bound(distance, count)))
        return mean, variants.std_deviation(distance, tail)
    squares = _square_sums(acc, mean)
    deviation = [variants.square_deviation(s, count) for s in squares]
    return mean, torch.tensor(deviation, dtype=torch.int64).to(acc.device)


def _distance_sums(acc: torch.Tensor, mean: torch.Tensor, bound: Any) -> torch.Tensor:
    """Return the sums of what of the distances to ``mean`` is beyond ``bound`` (C,)."""
    total = torch.zeros_like(mean)
    for rows in acc.split(_ROWS):
        total += ((rows.to(torch.int64) - mean).abs_() - bound).clamp_(min=0).sum(0)
    return total


def _square_sums(acc: torch.Tensor, mean: torch.Tensor) -> list[int]:
    """Return the sums of the squared deviations, which need more than 64 bits."""
    if _fused(acc):
        sums = native_variants.square_sums(acc, mean)
    else:
        sums = torch.zeros((3, acc.shape[1]), dtype=torch.int64, device=acc.device)
        for rows in acc.split(_ROWS):
            centred = (rows.to(torch.int64) - mean).abs_()
            high, low = centred >> 16, centred & 0xFFFF
            sums += torch.stack(((high * high).sum(0), (high * low).sum(0), (low * low).sum(0)))
    a, b, c = workers.total(sums).cpu().tolist()
    return [(x << 32) + (y << 17) + z for x, y, z in zip(a, b, c, strict=True)]


# --- update -----------------------------------------------------------------------------------


def update(
    momentum: torch.Tensor, *arguments: Any, **options: Any
) -> tuple[torch.Tensor, int, torch.Tensor, int]:
    """Return what ``update`` of :mod:`intaglio.nn.kernels.plain` does, for masters of any width."""
    if _fused(momentum):
        options["stochastic"] = native_variants.stochastic
    return plain.update(momentum, *arguments, **options)
