"""Variants of integer training, as the seed paper and WAGEUBN compare them.

What :mod:`intaglio.spec.quant` defines is the default recipe. Each field of :class:`Recipe`
replaces one of its rules by another one, whose meaning stands here. As there, everything is exact
integer arithmetic on numpy int64, and feature maps are (N, C, H, W).

Bits of the seed paper (arXiv 2011.14504): E2 is the error that enters a convolution's backward, 8,
9 or 16 bits; its batch norm is L1 (arXiv 1802.09769), here in two forms, or L2; master weights have
24 bits; and without batch norm, gradients lose their magnitude.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from intaglio.spec.arith import round_shift, saturate
from intaglio.spec.errors import IntaglioError
from intaglio.spec.quant import (
    CODE_LIMIT,
    MEAN_BITS,
    NORMAL_EXPONENT,
    batch_norm_statistics,
    diffuse,
    log2_ceil,
    round_divide,
    scale_shift,
    stochastic_shift,
)

__all__ = [
    "WIDE_LIMIT",
    "Recipe",
    "batch_norm_gradient_std",
    "batch_norm_statistics_l2",
    "batch_norm_statistics_std",
    "digits_of_wide",
    "error_digits",
    "master_from_16",
    "master_limit",
    "normalized_exponent",
    "square_deviation",
    "std_deviation",
    "tail_bound",
]

#: Range of 16-bit errors: two digits of +-CODE_LIMIT, the upper one worth 2**8.
WIDE_LIMIT = (CODE_LIMIT << 8) + CODE_LIMIT
#: A flag of WAGEUBN multiplies the step of 7 bits of magnitude by this power of two.
FLAG_SHIFT = 7


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which rules a training run follows; the defaults are those of :mod:`intaglio.spec.quant`.

    ``error_bits`` of E2: 8, 9 (with flag) or 16. ``error_rounding`` of E2: "diffusion", "nearest"
    or "stochastic". ``norm``: "l1" or "l2" batch norm, or "l1-std", an L1 deviation that becomes
    a standard deviation by its tail (:func:`std_deviation`). ``master_bits`` of the masters of
    convolution weights, in [8, 24]. ``magnitude``: whether a quantised gradient keeps its scale;
    without, its largest element counts as a number in (1/2, 1], as in the paper's FCN.

    Raises
    ------
    IntaglioError
        A value that is none of these.
    """

    error_bits: int = 8
    error_rounding: str = "diffusion"
    norm: str = "l1"
    master_bits: int = 16
    magnitude: bool = True

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "error_bits": (8, 9, 16),
            "error_rounding": ("diffusion", "nearest", "stochastic"),
            "norm": ("l1", "l1-std", "l2"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                names = ", ".join(map(str, allowed))
                raise IntaglioError(f"{name} must be one of {names}, not {getattr(self, name)!r}")
        if isinstance(self.master_bits, bool) or self.master_bits not in range(8, 25):
            raise IntaglioError(f"master_bits must be in [8, 24], not {self.master_bits!r}")
        if not isinstance(self.magnitude, bool):
            raise IntaglioError(f"magnitude must be true or false, not {self.magnitude!r}")

    @property
    def plain_errors(self) -> bool:
        """Value of whether E2 is that of :func:`intaglio.spec.quant.error_codes`."""
        return self.error_bits == 8 and self.error_rounding == "diffusion"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the fields."""
        return tuple(field.name for field in fields(cls))


# --- errors -----------------------------------------------------------------------------------


def _round(
    values: np.ndarray, shift: int, limit: int, rounding: str, words: np.ndarray | None
) -> np.ndarray:
    if rounding == "diffusion":
        return diffuse(values, shift, limit=limit)
    if rounding == "nearest":
        return saturate(round_shift(values, shift), -limit, limit)
    assert words is not None, "stochastic rounding needs random words"
    return saturate(stochastic_shift(values, shift, words), -limit, limit)


def digits_of_wide(codes: Any) -> tuple[Any, Any]:
    """Return 16-bit codes, numpy or torch, as (high, low) with ``codes = 256 * high + low``.

    ``|codes| <= WIDE_LIMIT``; high in +-127, low in [-128, 127]: both multiply as int8.
    """
    high = round_shift(codes, 8)
    return high, codes - (high << 8)


def error_digits(
    values: np.ndarray,
    exponent: int,
    *,
    bits: int,
    rounding: str,
    words: np.ndarray | None = None,
) -> list[tuple[np.ndarray, int]]:
    """Quantise a wide error (N, C, H, W): digits of 8 bits with their exponents, the largest first.

    The value is the sum of the digits, so that products with int8 remain products of int8.

    - 8 bits: the one digit of :func:`intaglio.spec.quant.error_codes`, but for the rounding.
    - 16 bits: the same rule with 16 bits and +-WIDE_LIMIT, taken apart by :func:`digits_of_wide`.
    - 9 bits (WAGEUBN's flag): with the step that 15 bits have, what is within +-127 steps is a code
      of fine steps, the rest one of coarse steps, 2**7 times as large. Each of the two digits is
      zero where the other is in use; diffusion runs along each by itself.

    ``words`` are the random words of stochastic rounding, uint64 (N, C, H, W).
    """
    maximum = int(np.abs(values).max(initial=0))
    if bits == 9:
        shift = scale_shift(maximum, 8 + FLAG_SHIFT)
        small = np.abs(values) <= CODE_LIMIT << shift
        coarse, fine = np.where(small, 0, values), np.where(small, values, 0)
        return [
            (
                _round(coarse, shift + FLAG_SHIFT, CODE_LIMIT, rounding, words),
                exponent + shift + FLAG_SHIFT,
            ),
            (_round(fine, shift, CODE_LIMIT, rounding, words), exponent + shift),
        ]
    shift = scale_shift(maximum, bits)
    if bits == 8:
        return [(_round(values, shift, CODE_LIMIT, rounding, words), exponent + shift)]
    high, low = digits_of_wide(_round(values, shift, WIDE_LIMIT, rounding, words))
    return [(high, exponent + shift + 8), (low, exponent + shift)]


# --- batch norm -------------------------------------------------------------------------------


def tail_bound(distance: Any, count: int) -> Any:
    """Return twice the mean of ``|acc - mean|``, an integer, from the sum of them."""
    return round_divide(2 * distance, count)


def std_deviation(distance: Any, tail: Any) -> Any:
    """Return ``count`` times the deviation of "l1-std": ``9/8 * (distance + 2 * tail)``.

    ``distance`` is the sum of ``|acc - mean|``, ``tail`` that of what of them is beyond
    :func:`tail_bound`. Without a square or a root this is the standard deviation: 1.003 of it for
    normal values, 1.011 for the long tails of a Laplace distribution, 0.974 for uniform ones. (The
    standard deviation is 1.25, 1.41 and 1.15 times the mean distance of these.)
    """
    return 9 * (distance + 2 * tail) >> 3


def batch_norm_statistics_std(acc: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return per channel the mean of ``acc`` (N, C, H, W), :func:`std_deviation`, the count."""
    mean, distance, count = batch_norm_statistics(acc)
    distances = np.abs(acc.astype(np.int64) - mean[:, None, None])
    bound = tail_bound(distance, count)[:, None, None]
    tail = np.maximum(distances - bound, 0).sum((0, 2, 3))
    return mean, std_deviation(distance, tail), count


def square_deviation(squares: int, count: int) -> int:
    """Return ``count`` times the standard deviation, from the sum of the squared deviations.

    ``floor(sqrt(squares * count))``, at least ``count``: it takes the place of L1's sum of
    deviations in :func:`intaglio.spec.quant.batch_norm_reciprocal` and all that follows.
    """
    return max(math.isqrt(squares * count), count)


def batch_norm_statistics_l2(acc: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return per channel the mean of ``acc`` (N, C, H, W), :func:`square_deviation`, the count."""
    values = acc.astype(np.int64)
    count = values.size // values.shape[1]
    mean = round_divide(values.sum((0, 2, 3)), count)
    centred = np.abs(values - mean[:, None, None])
    # A square may have 66 bits: the sums are put together as Python integers.
    high, low = centred >> 16, centred & 0xFFFF
    sums = [
        part.sum((0, 2, 3)).astype(object) << shift
        for part, shift in ((high * high, 32), (high * low, 17), (low * low, 0))
    ]
    squares = sums[0] + sums[1] + sums[2]
    return mean, np.array([square_deviation(int(s), count) for s in squares], np.int64), count


def batch_norm_gradient_std(
    error: np.ndarray, xhat: np.ndarray, m0: np.ndarray, m1: np.ndarray, factors: np.ndarray
) -> np.ndarray:
    """Return the wide error of the accumulator under "l1-std" and "l2".

    ``((dy << 16) - m0 - round_shift(xhat * m1, 12)) * factor``; arguments and exponent are those of
    :func:`intaglio.spec.quant.batch_norm_gradient`.
    """
    a, b, f = (v[:, None, None] for v in (m0, m1, factors))
    product = round_shift(xhat.astype(np.int64) * b, -NORMAL_EXPONENT)
    return ((error.astype(np.int64) << MEAN_BITS) - a - product) * f


# --- update -----------------------------------------------------------------------------------


def master_limit(bits: int) -> int:
    """Return the symmetric range of a master weight of ``bits`` bits."""
    return (1 << (bits - 1)) - 1


def master_from_16(codes: Any, exponent: int, bits: int) -> tuple[Any, int]:
    """Return an int16 master, as int64 codes (numpy or torch), with ``bits`` bits instead."""
    if bits >= 16:
        return codes << (bits - 16), exponent - (bits - 16)
    limit = master_limit(bits)
    return saturate(round_shift(codes, 16 - bits), -limit, limit), exponent + (16 - bits)


def normalized_exponent(maximum: int) -> int:
    """Return the exponent that brings codes up to ``maximum`` to (1/2, 1]: no magnitude is left."""
    return -log2_ceil(maximum)
