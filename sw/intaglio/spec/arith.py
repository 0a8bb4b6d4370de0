"""The arithmetic that every executor shares: rounding shift, saturation, requantisation.

The functions are polymorphic: they use only operators, so that they run on Python ``int`` (exact,
unbounded), on numpy int64 and on torch int64. ``intaglio_hw.arith`` has functions of the same names
for hardware values.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = [
    "ACC_MAX",
    "ACC_MIN",
    "BIAS_MAX",
    "BIAS_MIN",
    "CODE_MAX",
    "CODE_MIN",
    "MULTIPLIER_MAX",
    "MULTIPLIER_MIN",
    "RESIDUAL_SHIFT_MAX",
    "SHIFT_MAX",
    "SUM_BITS",
    "SUM_MAX",
    "SUM_MIN",
    "ceil_log2",
    "closest_division",
    "exact_division",
    "exact_fraction",
    "requantize",
    "round_shift",
    "saturate",
    "wrap",
]

#: Range of an int8 code.
CODE_MIN, CODE_MAX = -(1 << 7), (1 << 7) - 1
#: Range of an accumulator, int32.
ACC_MIN, ACC_MAX = -(1 << 31), (1 << 31) - 1
#: Range of a requantisation multiplier, int16.
MULTIPLIER_MIN, MULTIPLIER_MAX = -(1 << 15), (1 << 15) - 1
#: Width of the sum ``acc * m + b + (residual << r)`` in bits; a bias has the same range.
SUM_BITS = 48
SUM_MIN, SUM_MAX = -(1 << (SUM_BITS - 1)), (1 << (SUM_BITS - 1)) - 1
BIAS_MIN, BIAS_MAX = SUM_MIN, SUM_MAX
#: Largest shift of a requantisation and of its residual.
SHIFT_MAX = SUM_BITS - 1
RESIDUAL_SHIFT_MAX = SUM_BITS - 9


def round_shift(x: Any, shift: Any) -> Any:
    """Divide by ``2**shift``, to nearest, ties towards +inf: ``floor(x / 2**shift + 1/2)``.

    ``shift`` >= 0 and broadcasts against ``x``; 0 is the identity. Needs ``|x| < 2**62`` (``int``
    has no bound).

    >>> [round_shift(x, 1) for x in (-3, -1, 1, 3)]
    [-1, 0, 1, 2]
    """
    return (x + ((1 << shift) >> 1)) >> shift


def saturate(x: Any, low: int = CODE_MIN, high: int = CODE_MAX) -> Any:
    """Limit ``x`` to ``[low, high]``; never wraps.

    >>> [saturate(x) for x in (-200, 5, 200)]
    [-128, 5, 127]
    """
    if isinstance(x, int):
        return min(max(x, low), high)
    return x.clip(low, high)


def wrap(x: Any, bits: int) -> Any:
    """Return the signed value of the lowest ``bits`` bits of ``x``, as a register of that width
    holds it.

    >>> wrap(200, 8)
    -56
    """
    half = 1 << (bits - 1)
    return ((x + half) & ((1 << bits) - 1)) - half


def requantize(
    acc: Any,
    multiplier: Any,
    bias: Any,
    shift: Any,
    *,
    residual: Any = 0,
    residual_shift: int = 0,
    low: int = CODE_MIN,
    high: int = CODE_MAX,
) -> Any:
    """Return ``saturate(round_shift(acc * m + b + (residual << r), s), low, high)``.

    The one way out of an accumulator. ``acc`` is int32, ``multiplier`` int16, ``bias`` int48,
    ``residual`` int8, ``residual_shift`` in [0, RESIDUAL_SHIFT_MAX], ``shift`` in [0, SHIFT_MAX].
    The sum must fit SUM_BITS bits; :meth:`intaglio.spec.graph.Graph.verify` proves it for each
    layer. Arrays must be int64.
    """
    total = acc * multiplier + bias + (residual << residual_shift)
    return saturate(round_shift(total, shift), low, high)


def ceil_log2(x: Any) -> Any:
    """Return the smallest ``n`` >= 0 with ``2**n >= x``, for integers ``x`` >= 0 (0 and 1 give 0).

    >>> [ceil_log2(x) for x in (0, 1, 2, 3, 4, 5)]
    [0, 0, 1, 2, 2, 3]
    """
    if isinstance(x, np.ndarray):
        return np.array([ceil_log2(int(v)) for v in x.ravel()], np.int64).reshape(x.shape)
    return max(int(x) - 1, 0).bit_length()


def _multipliers(divisor: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Return the (factor, multiplier, shift) that come closest to ``1 / divisor`` from both sides,
    for each factor in [1, most]; the smallest factors and the largest multipliers first.
    """
    for factor in range(1, most + 1):
        scaled = factor * divisor
        # Smaller multipliers are coarser, unless the larger ones are even.
        top = min((MULTIPLIER_MAX * scaled).bit_length(), SHIFT_MAX)
        for shift in range(top, max(top - 3, 0), -1):
            for multiplier in ((1 << shift) // scaled, -(-(1 << shift) // scaled)):
                if 1 <= multiplier <= MULTIPLIER_MAX:
                    yield factor, multiplier, shift


def exact_fraction(value: Any) -> Fraction:
    """Return a number as it was written: "1/20", "0.05", "5e-2", an integer or a float.

    Raises ValueError, also for an exponent of more than two digits: what 10**9999999 is takes
    minutes.
    """
    if isinstance(value, str) and re.search(r"e[+-]?[0-9_]{3}", value, re.IGNORECASE):
        raise ValueError(f"the exponent of {value} is too large")
    try:
        return Fraction(value)
    except (ZeroDivisionError, OverflowError, TypeError):
        raise ValueError(f"{value!r} is no number") from None


def closest_division(divisor: int, most: int = 1) -> tuple[int, int, int]:
    """Return (factor, multiplier, shift) with ``factor * multiplier / 2**shift`` closest to ``1 /
    divisor``.

    ``factor`` in [1, most], ``multiplier`` positive of 16 bits; the smallest factor of those that
    are equally close.

    Raises
    ------
    ValueError
        ``divisor`` or ``most`` is below 1.
    """
    if divisor < 1 or most < 1:
        raise ValueError(f"divisor and most must be >= 1, not {divisor} and {most}")
    return min(
        _multipliers(divisor, most),
        key=lambda c: (abs(Fraction(c[0] * c[1], 1 << c[2]) - Fraction(1, divisor)), c[0]),
    )


def exact_division(divisor: int, bound: int, most: int = 1) -> tuple[int, int, int, int]:
    """Return (factor, multiplier, bias, shift) that divide exactly with one rounding.

    For all integers ``|x| <= bound``: ``round_shift(factor * x * m + b, s) == floor(x / divisor +
    1/2)``, with the smallest ``factor`` in [1, most] for which a 16-bit ``m`` does it. Powers of
    two give (1, 1, 0, log2). Otherwise ``factor * m`` is ``2**s / divisor``, but for ``e = factor *
    m * divisor - 2**s``, so that ``x * factor * m + b = (2**s * x + e * x) / divisor + b``. The
    fraction of ``x / divisor + 1/2`` is a multiple of 1 / divisor, for odd divisors shifted by half
    of that: the error has to lie in [0, 2**s / divisor) or, with an odd divisor and b = 0, in half
    of that to both sides. As ``|e| <= divisor / 2`` and some 2**s / divisor lies above 2**14, every
    bound below 2**13 is possible with factor 1.

    Raises
    ------
    ValueError
        No 16-bit multiplier is exact for this divisor and bound, with factors up to ``most``.
    """
    if divisor < 1 or bound < 0 or most < 1:
        raise ValueError(
            f"divisor and most must be >= 1 and bound >= 0, not {divisor}, {most} and {bound}"
        )
    if divisor & (divisor - 1) == 0:
        return 1, 1, 0, divisor.bit_length() - 1
    for factor, multiplier, shift in _multipliers(divisor, most):
        error = abs(factor * multiplier * divisor - (1 << shift)) * bound
        bias = 0 if divisor & 1 else -(-error // divisor)
        spread = 2 * error if divisor & 1 else error + bias * divisor
        if spread < (1 << shift):
            return factor, multiplier, bias, shift
    raise ValueError(
        f"no multiplier of 16 bits and factor up to {most} divide by {divisor} exactly for "
        f"|x| <= {bound}; bounds below 2**13 are always possible"
    )
