"""Counter-based random bits: a function of (seed, stream, index) and of nothing that came before.

The generator is SplitMix64 (G. Steele, D. Lea, C. Flood: *Fast splittable pseudorandom number
generators*, OOPSLA 2014; constants of S. Vigna's ``splitmix64.c``). Its state only counts, so
output ``i`` is computed directly as ``mix64(key + (i + 1) * GAMMA)``. That is why batches,
augmentation and stochastic rounding give the same bits for any number of workers, any order of
evaluation, and after a resume.

Everything is arithmetic modulo 2**64. An executor on signed 64-bit words (torch) has to take the
right shifts as logical ones.
"""

from typing import overload

import numpy as np

__all__ = [
    "GAMMA",
    "derive",
    "mix64",
    "permutation",
    "random_bits",
    "uniform_below",
]

_WORD = (1 << 64) - 1
#: Increment of the counter: the odd integer nearest to 2**64 divided by the golden ratio.
GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def _check_word(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if not 0 <= value <= _WORD:
        raise ValueError(f"{name} must be in [0, 2**64 - 1], not {value}")
    return int(value)


def mix64(z: int) -> int:
    """Return SplitMix64's finaliser of the 64-bit word ``z``: a bijection that keeps 0."""
    z = _check_word("z", z)
    z = ((z ^ (z >> 30)) * _MULTIPLIER_1) & _WORD
    z = ((z ^ (z >> 27)) * _MULTIPLIER_2) & _WORD
    return z ^ (z >> 31)


def derive(seed: int, *parts: int) -> int:
    """Return a 64-bit seed that depends on ``seed`` and on all ``parts`` in their order.

    One step per part is ``key = mix64((key ^ mix64(part)) + GAMMA)``. ``seed`` and parts are in [0,
    2**64 - 1]; ``derive(seed)`` is ``seed``. Use it to turn a tuple such as (purpose, epoch, image)
    into a seed or stream.
    """
    key = _check_word("seed", seed)
    for part in parts:
        key = mix64(((key ^ mix64(_check_word("part", part))) + GAMMA) & _WORD)
    return key


@overload
def random_bits(seed: int, stream: int, index: int) -> int: ...
@overload
def random_bits(seed: int, stream: int, index: np.ndarray) -> np.ndarray: ...


def random_bits(seed: int, stream: int, index: int | np.ndarray) -> int | np.ndarray:
    """Return 64 random bits: ``mix64((seed ^ mix64(stream)) + (index + 1) * GAMMA)``.

    Stream 0 is the published generator: ``random_bits(s, 0, i)`` is output ``i`` (from 0) of
    SplitMix64 seeded with ``s``. ``seed``, ``stream`` and ``index`` are in [0, 2**64 - 1]. An
    ``int`` index gives an ``int``; an integer array gives a uint64 array of its shape.

    >>> hex(random_bits(0, 0, 0))
    '0xe220a8397b1dcdaf'
    """
    key = _check_word("seed", seed) ^ mix64(_check_word("stream", stream))
    if not isinstance(index, np.ndarray):
        return mix64((key + (_check_word("index", index) + 1) * GAMMA) & _WORD)
    if index.dtype.kind not in "iu":
        raise TypeError(f"index must be an integer array, not {index.dtype}")
    if index.dtype.kind == "i" and index.size and index.min() < 0:
        raise ValueError(f"index must be >= 0, not {index.min()}")
    # numpy's unsigned array arithmetic wraps silently, which is the arithmetic wanted here. The
    # operand is kept one-dimensional because numpy warns about the overflow of scalars.
    z = index.ravel().astype(np.uint64)
    z += np.uint64(1)
    z *= np.uint64(GAMMA)
    z += np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MULTIPLIER_1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MULTIPLIER_2)
    z ^= z >> np.uint64(31)
    return z.reshape(index.shape)


@overload
def uniform_below(bound: int, seed: int, stream: int, index: int) -> int: ...
@overload
def uniform_below(bound: int, seed: int, stream: int, index: np.ndarray) -> np.ndarray: ...


def uniform_below(bound: int, seed: int, stream: int, index: int | np.ndarray) -> int | np.ndarray:
    """Return integers in [0, bound): ``(high 32 bits of random_bits * bound) >> 32``.

    ``bound`` is in [1, 2**32 - 1]. No value's probability differs from 1 / bound by more than
    2**-32. The other parameters are those of :func:`random_bits`; an array index gives an int64
    array.
    """
    if not 1 <= bound < 1 << 32:
        raise ValueError(f"bound must be in [1, 2**32 - 1], not {bound}")
    bits = random_bits(seed, stream, index)
    if isinstance(bits, int):
        return ((bits >> 32) * bound) >> 32
    return (((bits >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """Return a permutation of ``range(count)``, int64: the stable order of the random bits."""
    if count < 0:
        raise ValueError(f"count must be >= 0, not {count}")
    return np.argsort(random_bits(seed, stream, np.arange(count)), kind="stable").astype(np.int64)
