"""Seeded random values, a quarter of them edge values."""

import os
import random
from collections.abc import Sequence

import numpy as np

__all__ = ["EDGE_RATE", "bench_rng", "edges", "integer", "integers", "matrix", "near_ties"]

#: Share of edge values in what is generated.
EDGE_RATE = 0.25


def bench_rng(name: str = "") -> random.Random:
    """Return a generator for the seed of the running bench, one stream for each ``name``."""
    return random.Random(f"{os.environ.get('COCOTB_RANDOM_SEED', '1')} {name}")


def edges(bits: int, *, signed: bool = True) -> list[int]:
    """Return the values of ``bits`` bits at which arithmetic breaks, in order, without repeats.

    The extremes and their neighbours, zero and its neighbours, powers of two and alternating bits.
    """
    if bits < 1:
        raise ValueError(f"bits must be at least 1, not {bits}")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    half, third = 1 << (bits // 2), (1 << bits) // 3
    values = {low, low + 1, -1, 0, 1, 2, half - 1, half, -half, high - 1, high, third, ~third}
    return sorted(value for value in values if low <= value <= high)


def integer(rng: random.Random, low: int, high: int, special: Sequence[int] = ()) -> int:
    """Return an integer of [low, high]; a quarter are edges or values of ``special``."""
    if low > high:
        raise ValueError(f"low must be at most high = {high}, not {low}")
    if rng.random() < EDGE_RATE:
        choices = [low, low + 1, high - 1, high, -1, 0, 1, *special]
        return rng.choice([value for value in choices if low <= value <= high])
    return rng.randint(low, high)


def integers(
    rng: random.Random, count: int, *, bits: int, signed: bool = True, special: Sequence[int] = ()
) -> list[int]:
    """Return ``count`` integers of ``bits`` bits."""
    known = edges(bits, signed=signed) + list(special)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return [
        rng.choice(known) if rng.random() < EDGE_RATE else rng.randint(low, high)
        for _ in range(count)
    ]


def matrix(
    rng: random.Random,
    shape: tuple[int, ...],
    *,
    bits: int = 8,
    signed: bool = True,
    dtype: type | None = None,
) -> np.ndarray:
    """Return an array of ``shape``.

    A quarter of it are edge values. The default type is the smallest that fits.
    """
    if dtype is None:
        dtype = np.dtype(
            f"{'i' if signed else 'u'}{next(n for n in (1, 2, 4, 8) if 8 * n >= bits)}"
        ).type
    values = integers(rng, int(np.prod(shape)), bits=bits, signed=signed)
    return np.array(values, dtype=dtype).reshape(shape)


def near_ties(rng: random.Random, count: int, *, shift: int, bits: int) -> list[int]:
    """Return ``count`` signed integers of ``bits`` bits at, beside ties of ``/ 2**shift``."""
    half = (1 << shift) >> 1
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    result = []
    for _ in range(count):
        quotient = rng.randint(low >> shift, high >> shift)
        value = (quotient << shift) + half + rng.choice((-1, 0, 0, 1))
        result.append(max(low, min(high, value)))
    return result
