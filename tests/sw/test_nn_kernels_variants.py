"""The fused kernels of the variants against the plain ones: equal bytes."""

import pytest
import torch

from intaglio.nn import kernels, variants
from intaglio.nn.kernels import loader, native, native_variants, plain
from intaglio.nn.variants import Draws, ErrorVariant
from intaglio.spec.variants import Recipe

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")

SHAPES = [(2, 3, 5, 7), (1, 9, 4, 64), (5, 1, 1, 33), (1, 1, 1, 1), (3, 17, 2, 1)]
ROUNDINGS = ["nearest", "stochastic", "diffusion"]


@pytest.fixture
def g():
    return torch.Generator().manual_seed(20270105)


@pytest.fixture(params=["this processor", "scalar"])
def library(request, monkeypatch):
    if request.param == "scalar":
        built = loader.build("-march=x86-64", "-O1")
        monkeypatch.setattr("intaglio.nn.kernels.loader.loaded", lambda: built)
    return request.param


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def equal(found, expected):
    assert len(found) == len(expected)
    for (a, x), (b, y) in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == torch.int8 and a.shape == b.shape
        assert torch.equal(a, b) and x == y


def both(bits, rounding, run):
    """Compare ``run(variant)`` thrice: without a guess, with the right one, with a wrong one."""
    recipe = Recipe(error_bits=bits, error_rounding=rounding)
    variant = ErrorVariant(recipe, Draws(3, step=7), layer=5)
    with kernels.use(plain):
        expected = run(variant)
    with kernels.use(native):
        equal(run(variant), expected)
        equal(run(variant), expected)
        for guess in (-100, 0, 100):
            variant.guess = guess
            equal(run(variant), expected)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", [8, 9, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_digits_of_wide_errors(g, library, threads, shape, bits, rounding):
    small = torch.randint(-3, 4, shape, generator=g)
    right = torch.randint(0, 50, shape, generator=g)
    large = torch.randint(-(1 << 56), (1 << 56) + 1, shape, generator=g)
    y = torch.randint(-2, 3, shape, generator=g) * 64
    y = y.clamp_(-127, 127).to(torch.int8)  # inside, and at both bounds
    half = torch.full(shape, 3 << 19)  # ties for shifts up to 20
    half[..., ::2] = -half[..., ::2]
    limit = torch.full(shape, -(1 << 56))
    for wide in (small, large >> right, half, limit, torch.zeros(shape, dtype=torch.int64)):
        for made, low in ((None, 0), (y, -127), (y.clamp(min=0), 0)):
            both(bits, rounding, lambda v, w=wide, y=made, low=low: v.digits(w, -30, y, low))
    narrow = torch.randint(-(1 << 31), 1 << 31, shape, generator=g).to(torch.int32)
    view = narrow.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    both(bits, rounding, lambda v: v.digits(view, -30, y, -127))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", [8, 9, 16])
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("shape", SHAPES)
def test_digits_of_batch_norm(g, library, threads, shape, norm, bits, rounding):
    C = shape[3]
    e = torch.randint(-127, 128, shape, generator=g, dtype=torch.int8)
    xhat = torch.randint(-32767, 32768, shape, generator=g, dtype=torch.int16)
    xhat[..., 0] = 0
    m0, m1, m2 = torch.randint(-(127 << 16), (127 << 16) + 1, (3, C), generator=g)
    factors = torch.randint(-(1 << 28), (1 << 28) + 1, (C,), generator=g)
    vectors = [m0, m1, m2, factors]
    both(bits, rounding, lambda v: v.batch_norm_digits(e, xhat, vectors, -40, norm=norm))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("shift", [0, 5, 41])
def test_backward(g, library, threads, shape, signs, shift):
    C = shape[3]
    e = torch.randint(-127, 128, shape, generator=g, dtype=torch.int8)
    xhat = torch.randint(-32767, 32768, shape, generator=g, dtype=torch.int16)
    m0, m1, m2 = torch.randint(-(60 << 16), (60 << 16) + 1, (3, C), generator=g)
    factors = torch.randint(-(1 << 28), (1 << 28) + 1, (C,), generator=g)
    found = []
    for executor in (plain, native):
        with kernels.use(executor):
            backward = executor.batch_norm_backward
            found.append(backward(e, xhat, m0, m1, m2, factors, shift, signs=signs))
    (a, x), (b, y) = found
    assert torch.equal(a, b) and a.dtype == b.dtype == torch.int8 and x == y


@pytest.mark.parametrize("M, C", [(1, 1), (7, 3), (300, 64), (1000, 17)])
def test_square_sums(g, library, threads, M, C):
    acc = torch.randint(-(1 << 31), 1 << 31, (M, C), generator=g).to(torch.int32)
    acc[0], acc[-1] = (1 << 31) - 1, -(1 << 31)
    with kernels.use(plain):
        mean, expected = variants.batch_norm_statistics(acc, "l2")
    with kernels.use(native):
        other, found = variants.batch_norm_statistics(acc, "l2")
    assert torch.equal(mean, other) and torch.equal(expected, found)
    sums = native_variants.square_sums(acc, mean)
    exact = (acc.to(torch.int64) - mean).abs()
    for c in (0, C - 1):
        h, low, l2 = sums[:, c].tolist()
        squares = sum(int(v) ** 2 for v in exact[:, c])
        assert (h << 32) + (low << 17) + l2 == squares


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 3, 3), (16, 40, 1, 1)])
@pytest.mark.parametrize("limit, dtype", [(511, torch.int16), ((1 << 23) - 1, torch.int32)])
@pytest.mark.parametrize("exponent", [-60, -40, -20, 20])
def test_update_of_other_masters(g, library, threads, shape, limit, dtype, exponent):
    """Shifts from none at all to such as leave nothing; masters that overflow."""
    momentum = torch.randint(-32767, 32768, shape, generator=g).to(torch.int16)
    master = torch.randint(-limit, limit + 1, shape, generator=g).to(dtype)
    gradient = torch.randint(-127, 128, shape, generator=g).to(torch.int8)
    master[0, 0], momentum[0, 0] = limit, -32767
    found = []
    for executor in (plain, native):
        with kernels.use(executor):
            arguments = (momentum.clone(), exponent, gradient, exponent + 3, master.clone(), -24)
            options = dict(decay=11, seed=9, stream=1 << 40, guess=[], limit=limit)
            found.append(variants.update(*arguments, (3, 12), **options))
    for a, b in zip(*found, strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b)
        else:
            assert a == b
