"""Counter-based random bits against the published outputs of SplitMix64."""

import numpy as np
import pytest

from intaglio.spec.rng import GAMMA, derive, mix64, permutation, random_bits, uniform_below

# Outputs of splitmix64.c (S. Vigna, public domain): seed 1234567 as published by Rosetta Code,
# task "Pseudo-random numbers/Splitmix64"; seed 0 as the usual initial state of xoshiro256**.
PUBLISHED = {
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC],
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_stream_zero_is_splitmix64(seed):
    expected = PUBLISHED[seed]
    assert [random_bits(seed, 0, i) for i in range(len(expected))] == expected
    assert random_bits(seed, 0, np.arange(len(expected))).tolist() == expected


def test_sequential_generator_agrees():
    """The counter form equals the stateful form, also when the state wraps."""
    word = (1 << 64) - 1
    for seed in (0, 1, word, word - GAMMA + 1, 0x123456789ABCDEF0):
        state = seed
        for i in range(20):
            state = (state + GAMMA) & word
            assert random_bits(seed, 0, i) == mix64(state)


def test_array_and_integer_agree():
    index = np.array([[0, 1, 2], [1 << 31, (1 << 63) - 1, 12345]])
    bits = random_bits(99, 7, index)
    assert bits.dtype == np.uint64 and bits.shape == index.shape
    assert bits.ravel().tolist() == [random_bits(99, 7, int(i)) for i in index.ravel()]
    below = uniform_below(10, 99, 7, index)
    assert below.dtype == np.int64
    assert below.ravel().tolist() == [uniform_below(10, 99, 7, int(i)) for i in index.ravel()]
    assert random_bits(99, 7, np.array(5)).item() == random_bits(99, 7, 5)
    top = np.array([(1 << 64) - 1], np.uint64)
    assert random_bits(3, 0, top).tolist() == [random_bits(3, 0, (1 << 64) - 1)]


def test_streams_and_parts_differ():
    index = np.arange(1000)
    assert not np.intersect1d(random_bits(1, 2, index), random_bits(1, 3, index)).size
    parts = [(5,), (5, 0), (5, 0, 0), (5, 0, 1), (5, 1, 0), (0, 5)]
    assert len({derive(*p) for p in parts}) == len(parts) and derive(5) == 5


def test_bits_are_balanced():
    bits = random_bits(0, 11, np.arange(4096))
    for b in range(64):
        ones = int(((bits >> np.uint64(b)) & np.uint64(1)).sum())
        assert abs(ones - 2048) < 5 * 32  # five deviations of a binomial of 4096


def test_uniform_below_covers_its_range_evenly():
    counts = np.bincount(uniform_below(7, 3, 4, np.arange(7000)), minlength=7)
    assert counts.size == 7 and abs(counts - 1000).max() < 150
    assert not uniform_below(1, 3, 4, np.arange(100)).any()
    assert uniform_below((1 << 32) - 1, 3, 4, np.arange(100)).max() < (1 << 32) - 1


def test_permutation():
    order = permutation(1000, 1, 2)
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, permutation(1000, 1, 3))
    assert np.array_equal(order, permutation(1000, 1, 2))
    assert permutation(0, 1, 2).shape == (0,)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: random_bits(-1, 0, 0), ValueError, r"seed must be in \[0, 2\*\*64 - 1\], not -1"),
        (
            lambda: random_bits(0, 1 << 64, 0),
            ValueError,
            "stream must be in .* not 184467440737095516",
        ),
        (lambda: random_bits(0, 0, -2), ValueError, r"index must be in .* not -2"),
        (lambda: random_bits(0, 0, np.array([3, -4])), ValueError, "index must be >= 0, not -4"),
        (lambda: random_bits(0, 0, np.zeros(2)), TypeError, "integer array, not float64"),
        (lambda: random_bits(0.5, 0, 0), TypeError, "seed must be an integer, not float"),
        (lambda: uniform_below(0, 0, 0, 0), ValueError, "bound must be in .*, not 0"),
        (lambda: permutation(-1, 0, 0), ValueError, "count must be >= 0, not -1"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
