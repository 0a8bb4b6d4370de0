"""The fused kernels against the plain ones: equal bytes for every function and odd sizes."""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from intaglio.nn.kernels import native, plain, plain_conv
from intaglio.nn.kernels.loader import build
from intaglio.nn.kernels.plain_conv import ROWS
from intaglio.spec import ops, quant
from intaglio.spec.rng import random_bits

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")


def rand(generator, low, high, shape, dtype=torch.int8):
    return torch.randint(low, high + 1, shape, generator=generator, dtype=dtype)


def codes_at_bounds(generator, shape):
    """Return codes of which two fifths are at a bound and one fifth is 0."""
    codes = rand(generator, -2, 2, shape, torch.int16) * 64  # 128 is no int8
    return codes.clamp_(-127, 127).to(torch.int8)


@pytest.fixture
def g():
    return torch.Generator().manual_seed(20261124)


def same(a, b):
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape and torch.equal(a.to(torch.int64), b.to(torch.int64))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


def both(name, *arguments, **options):
    result = getattr(native, name)(*arguments, **options)
    same(result, getattr(plain, name)(*arguments, **options))
    return result


#: kernel, stride, origin, dilation, C, K.
CONVOLUTIONS = [
    ((1, 1), (1, 1), (0, 0), (1, 1), 64, 48),
    ((1, 1), (2, 2), (0, 0), (1, 1), 19, 33),
    ((3, 3), (1, 1), (1, 1), (1, 1), 3, 7),  # few channels
    ((3, 3), (1, 1), (1, 1), (1, 1), 66, 70),  # sums of more than one block
    ((3, 3), (2, 2), (1, 1), (1, 1), 17, 12),
    ((3, 3), (1, 1), (4, 2), (4, 2), 40, 1),
    ((3, 2), (2, 1), (0, 1), (2, 3), 16, 31),
    ((4, 4), (2, 2), (1, 2), (1, 1), 11, 11),
    ((2, 3), (3, 2), (0, 0), (1, 1), 18, 5),
    ((3, 3), (1, 1), (6, 6), (6, 6), 261, 33),  # taps that meet padding only
    ((1, 1), (2, 2), (0, 0), (1, 1), 1201, 40),  # a tap of more than one block
]


def has(*features):
    text = Path("/proc/cpuinfo").read_text()
    flags = next((x for x in text.splitlines() if x.startswith("flags")), "").split()
    return set(features) <= set(flags)


#: Options of the libraries: with AVX2 alone, with the layout for VNNI, without vector instructions.
LIBRARIES = {"AVX2": "-march=haswell", "wide": "-DINTAGLIO_WIDE", "scalar": "-march=x86-64"}


@pytest.fixture(params=["this processor", *LIBRARIES])
def library(request, monkeypatch):
    """The library for this processor, or one of :data:`LIBRARIES`."""
    if request.param == "AVX2" and not has("avx2", "bmi2", "fma"):
        pytest.skip("no AVX2")
    if request.param != "this processor":
        built = build(LIBRARIES[request.param], "-O1")
        monkeypatch.setattr("intaglio.nn.kernels.loader.loaded", lambda: built)
    return request.param


@pytest.mark.parametrize("geometry", CONVOLUTIONS)
@pytest.mark.parametrize("N, H, W", [(1, 7, 9), (2, 16, 23), (5, 6, 7)])
def test_convolution(g, library, geometry, N, H, W):
    kernel, stride, origin, dilation, C, K = geometry
    options = dict(stride=stride, origin=origin, dilation=dilation)
    sizes = zip((H, W), kernel, stride, origin, dilation, strict=True)
    size = tuple(ops.output_size(n, r, t, p, p, d) for n, r, t, p, d in sizes)
    x = rand(g, -128, 127, (N, H, W, C))
    weight = rand(g, -127, 127, (K, C, *kernel))
    x[0, 0], weight[0] = -128, -127  # the extremes meet
    for code in (0, -7):
        both("conv", x, weight, **options, size=size, code=code)
    packed = weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    both("conv", x, packed, **options, size=size)
    e = rand(g, -127, 127, (N, *size, K))
    both("conv_input_gradient", e, weight, **options, size=(H, W))
    both("conv_input_gradient", e, packed, **options, size=(H, W))
    both("conv_weight_gradient", x, e, kernel, **options)


@pytest.mark.parametrize("kernel", [(1, 3), (3, 1), (2, 1), (3, 3), (7, 7)])
@pytest.mark.parametrize("N, H, W", [(1, 9, 1), (1, 1, 9), (1, 1, 1), (2, 9, 1), (1, 5, 2)])
def test_convolution_of_narrow_maps(g, kernel, N, H, W):
    """Their windows overlap in memory, without a step between them."""
    for stride, C, K in (((1, 1), 8, 32), ((3, 1), 5, 7)):
        origin = kernel[0] // 2, kernel[1] // 2
        options = dict(stride=stride, origin=origin)
        sizes = zip((H, W), kernel, stride, origin, strict=True)
        size = tuple(ops.output_size(n, r, t, p, p, 1) for n, r, t, p in sizes)
        x, weight = rand(g, -128, 127, (N, H, W, C)), rand(g, -127, 127, (K, C, *kernel))
        y = both("conv", x, weight, **options, size=size)
        maps = x.permute(0, 3, 1, 2).numpy(), weight.numpy()
        found = ops.conv_accumulate(*maps, stride=stride, padding=2 * origin, dilation=(1, 1))
        assert (y.permute(0, 3, 1, 2).numpy() == found).all()
        e = rand(g, -127, 127, (N, *size, K))
        both("conv_input_gradient", e, weight, **options, size=(H, W))
        both("conv_weight_gradient", x, e, kernel, **options)


@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_a_weight_gradient_ends_quantised(g, library, geometry):
    """Whatever the shift is guessed to be; as all of a kernel, and as taps of a larger one."""
    kernel, stride, origin, dilation, C, K = geometry
    sizes = zip((6, 7), kernel, stride, origin, dilation, strict=True)
    size = tuple(ops.output_size(n, r, t, p, p, d) for n, r, t, p, d in sizes)
    x, e = rand(g, -128, 127, (3, 6, 7, C)), rand(g, -127, 127, (3, *size, K))
    options = dict(stride=stride, origin=origin, dilation=dilation)
    wide = plain.conv_weight_gradient(x, e, kernel, **options)
    within = slice(1, 1 + kernel[0]), slice(0, kernel[1])
    right = quant.scale_shift(int(wide.abs().max()), 8)
    for taps, shape in ((None, kernel), (within, (kernel[0] + 2, kernel[1] + 1))):
        for shift, whole in itertools.product((0, right, right + 3), (False, True)):
            found, wanted = torch.ones((2, K, C, *shape), dtype=torch.int8)
            words = dict(seed=(1 << 63) + 5, stream=8, start=12345, taps=taps)
            one = native.weight_gradient_codes(
                x, e, kernel, shift, found, whole=whole, **words, **options
            )
            (largest,) = native.weight_gradients([one])
            used = right if whole else max(right, shift)
            assert largest == plain.quantize_gradient(wide, used, wanted, **words)
            assert torch.equal(found, wanted)


def test_a_weight_gradient_of_too_many_pixels_is_made_in_steps():
    x = torch.ones((1, 1, ROWS + 1, 2), dtype=torch.int8)
    out = torch.empty((2, 2, 1, 1), dtype=torch.int8)
    same_place = dict(stride=(1, 1), origin=(0, 0), dilation=(1, 1))
    words = dict(seed=1, stream=8, start=0, taps=None)
    assert (
        native.weight_gradient_codes(x, x, (1, 1), 0, out, whole=True, **words, **same_place)
        is None
    )


def both_operations(name, weight, m, b, x, residual, size, **options):
    results = []
    for module in (native, plain):
        operation = getattr(module, name)(weight.clone(), m.clone(), b.clone(), **options)
        results += [operation(x, residual, size), operation(x, residual, size)]
    for found in results[1:]:
        same(found, results[0])
    return results[0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_a_convolution_ends_requantised(g, library, geometry, threads):
    kernel, stride, origin, dilation, C, K = geometry
    N, H, W = 2, 7, 9
    sizes = zip((H, W), kernel, stride, origin, dilation, strict=True)
    size = tuple(ops.output_size(n, r, t, p, p, d) for n, r, t, p, d in sizes)
    x, weight = rand(g, -128, 127, (N, H, W, C)), rand(g, -127, 127, (K, C, *kernel))
    z = rand(g, -128, 127, (N, *size, K))
    m, b = (
        rand(g, -32767, 32767, (K,), torch.int64),
        rand(g, -(1 << 30), 1 << 30, (K,), torch.int64),
    )
    options = dict(stride=stride, origin=origin, dilation=dilation)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for residual, right, code in ((None, 0, 0), (z, 24, 0), (z, 26, -7), (z, 11, 0)):
            rest = dict(shift=24, residual_shift=right, low=-127, high=127, code=code)
            found = both_operations(
                "ConvOperation", weight, m, b, x, residual, size, **options, **rest
            )
        assert len(found.unique()) > 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("C, K", [(20, 8), (1400, 1400)])  # weights inside the second cache, beyond
def test_no_images_are_no_work(library, C, K):
    weight = torch.ones((K, C, 1, 1), dtype=torch.int8)
    x = torch.empty((0, 4, 5, C), dtype=torch.int8)
    assert both("conv", x, weight, size=(4, 5)).shape == (0, 4, 5, K)
    vectors = torch.ones((2, K), dtype=torch.int64)
    options = dict(shift=3, residual_shift=0, low=-127, high=127)
    found = both_operations("ConvOperation", weight, *vectors, x, None, (4, 5), **options)
    assert found.shape == (0, 4, 5, K)


#: Shift, residual shift or None.
SHIFTS = [(0, None), (1, None), (1, 1), (2, 9), (7, 30), (16, 16), (20, 38), (31, 31), (32, None)]
SHIFTS += [(32, 33), (33, 20), (33, 33), (38, 38), (46, None), (47, None)]


@pytest.mark.parametrize("shift, right", SHIFTS)
@pytest.mark.parametrize("big", [False, True])
def test_requantisation_is_exact_at_ties_and_extremes(g, library, shift, right, big):
    """One product for each output: accumulators are what the inputs say."""
    C, K = 2, 39
    weight = torch.zeros((K, C, 1, 1), dtype=torch.int8)
    weight[:, 0], weight[:, 1] = 1, 127
    if big:  # sums of 2**28, multipliers of 15 bits, biases that bring them back to a tie
        C = 1 << 14
        weight = torch.full((K, C, 1, 1), 127, dtype=torch.int8)
    x = rand(g, -128, 127, (1, 1, 61, C))
    x[0, 0, :4] = torch.tensor([-128, 127, 0, 1], dtype=torch.int8).reshape(4, 1)
    acc = x.to(torch.int64).sum(3).flatten() * 127 if big else None
    m = rand(g, -3, 3, (K,), torch.int64) if not big else rand(g, -32767, 32767, (K,), torch.int64)
    half = (1 << shift) >> 1
    b = rand(g, -5, 5, (K,), torch.int64) * half + rand(g, -1, 1, (K,), torch.int64)
    if big:
        b[: K // 2] -= acc[: K // 2] * m[: K // 2]
    m[-1], b[-1] = -32767, (1 << 46) - 1
    z = None if right is None else rand(g, -128, 127, (1, 1, 61, K))
    options = dict(shift=shift, residual_shift=right or 0)
    for low, high in ((-128, 127), (0, 127), (-3, 2)):
        both_operations("ConvOperation", weight, m, b, x, z, (1, 61), low=low, high=high, **options)


@pytest.mark.parametrize("kernel, stride", [((4, 4), (2, 2)), ((16, 16), (8, 8)), ((3, 2), (2, 3))])
def test_a_transposed_convolution_ends_requantised(g, library, kernel, stride):
    C, K = 5, 7
    x, weight = rand(g, -128, 127, (2, 4, 5, C)), rand(g, -127, 127, (C, K, *kernel))
    m, b = (
        rand(g, -32767, 32767, (K,), torch.int64),
        rand(g, -(1 << 30), 1 << 30, (K,), torch.int64),
    )
    full = tuple((n - 1) * s + k for n, s, k in zip((4, 5), stride, kernel, strict=True))
    for origin, after in (((0, 0), (0, 0)), ((1, 0), (0, 1)), ((2, 1), (1, 1))):
        size = tuple(f - o - a for f, o, a in zip(full, origin, after, strict=True))
        options = dict(shift=27, low=-127, high=127, stride=stride, origin=origin)
        both_operations("ConvTransposeOperation", weight, m, b, x, None, size, **options)


@pytest.mark.parametrize("shape", [(3, 1, 60_000), (3, 300, 200), (1, 1, 180_000)])
def test_a_long_sum_of_products_is_exact(library, shape):
    """The bound of one int32 sum lies between images, between rows, between columns."""
    x = torch.full((*shape, 2), -128, dtype=torch.int8)
    e = torch.full((*shape, 1), 127, dtype=torch.int8)
    found = native.conv_weight_gradient(x, e, (1, 1))
    assert found.dtype == torch.int64 and (found == -128 * 127 * 180_000).all()


def test_a_long_sum_of_products_is_exact_in_plain_operators():
    x = torch.full((1, 1, plain_conv.ROWS + 8, 2), -128, dtype=torch.int8)
    e = torch.full((1, 1, plain_conv.ROWS + 8, 1), 127, dtype=torch.int8)
    found = plain.conv_weight_gradient(x, e, (1, 1))
    assert (found == -128 * 127 * (plain_conv.ROWS + 8)).all()


@pytest.mark.parametrize("shift", [0, 1, 20, 40])
@pytest.mark.parametrize("with_residual", [False, True])
def test_requantize(g, shift, with_residual):
    C = 13
    acc = rand(g, -(1 << 24), 1 << 24, (2, 3, 5, C), torch.int32)
    m = rand(g, -32767, 32767, (C,), torch.int64)
    b = rand(g, -(1 << 44), 1 << 44, (C,), torch.int64)
    z = rand(g, -128, 127, acc.shape) if with_residual else None
    both("requantize", acc, m, b, shift, z, 11, -127, 127)


@pytest.mark.parametrize("rows, C", [(1, 3), (600, 17), (35, 64)])
def test_batch_norm_forward_and_backward(g, rows, C):
    acc = rand(g, -(1 << 20), 1 << 20, (rows, C), torch.int32)
    mean, _ = both("batch_norm_statistics", acc)
    both("batch_norm_statistics", acc, std=True)
    mantissa = rand(g, 1 << 15, 1 << 16, (C,), torch.int64)
    shift = rand(g, 15, 34, (C,), torch.int64)
    gamma, beta = rand(g, -127, 127, (2, C), torch.int64)
    z = rand(g, -127, 127, (rows, C))
    arguments = (acc, mean, mantissa, shift, gamma, beta)
    xhat, _, _ = both("batch_norm_normalize", *arguments, 14, z, 13, 0)
    both("batch_norm_normalize", *arguments, 13, None, 0, -127)

    error = rand(g, -127, 127, (rows, C))
    both("batch_norm_sums", error, xhat)
    vectors = rand(g, -(1 << 25), 1 << 25, (3, C), torch.int64)
    factors = rand(g, -(1 << 15), 1 << 15, (C,), torch.int64)
    shapes = [(1, 1, rows, C), (rows, 1, 1, C)]
    if rows % 5 == 0:
        shapes.append((5, rows // 5, 1, C))
    for shape in shapes:
        for signs in (False, True):
            both(
                "batch_norm_backward",
                *(error.reshape(shape), xhat.reshape(shape), *vectors, factors, 33),
                signs=signs,
            )


@pytest.mark.parametrize("exponent", [-50, -44, -30, -24, -9, 0])
@pytest.mark.parametrize("batches, count", [(0, 1), (3, 600), (40, 1 << 20)])
def test_batch_norm_vectors(g, exponent, batches, count):
    C = 23
    bound = min(1 << 20, (1 << 60 - max(exponent + 24, 0)) // count - 2)
    mean = rand(g, -bound, bound, (C,), torch.int64)
    deviation = rand(g, count, count * (bound + 1), (C,), torch.int64)
    gamma, beta = rand(g, -32768, 32767, (2, C), torch.int16)
    gamma[:2], deviation[0] = 0, count
    running = rand(g, -(1 << 40), 1 << 40, (2, C), torch.int64)
    options = {"count": count, "acc_exponent": exponent, "batches": batches}
    found = []
    for kernels in (native, plain):
        buffers = tuple(running.clone().unbind())
        found.append(
            (kernels.batch_norm_prepare(mean, deviation, buffers, gamma, beta, **options), buffers)
        )
    same(*found)
    mantissa, shift, scale, _ = found[0][0]
    sums = rand(g, -(count << 7), count << 7, (2, C), torch.int64)
    products = sums[1] * rand(g, -(1 << 12), 1 << 12, (C,), torch.int64)
    signs = rand(g, -count, count, (C,), torch.int64)
    both("batch_norm_error_vectors", sums[0], products, signs, count, scale, mantissa, shift)
    zero = torch.zeros_like(scale)
    both("batch_norm_error_vectors", sums[0], products, signs, count, zero, mantissa, shift)


def test_batch_norm_refuses_sums_that_are_too_large():
    one = torch.ones(2, dtype=torch.int64)
    master = torch.ones(2, dtype=torch.int16)
    for mean, deviation in ((one, one << 45), (one << 50, one)):
        for kernels in (native, plain):
            with pytest.raises(ValueError, match="sum of"):
                kernels.batch_norm_prepare(
                    *(mean, deviation, (one.clone(), one.clone()), master, master),
                    **{"count": 1 << 12, "acc_exponent": -20, "batches": 0},
                )


@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (6, 1, 1, 9)])
def test_quantize_error(g, shape):
    N, H, W, C = shape
    wide = torch.cat([rand(g, -(1 << 18), 1 << 18, shape, torch.int32)] * 2, 3)
    terms = [
        (rand(g, -127, 127, shape), -20),
        (wide[..., C : 2 * C], -22),  # a slice of a concatenation
        (rand(g, -(1 << 30), 1 << 30, (N, 1, 1, C), torch.int64).expand(shape), -30),
    ]
    y = codes_at_bounds(g, shape)
    for shift in (0, 5, 17, 25):
        for low in (0, -127):
            both("quantize_error", terms, y.clamp(min=low), low, shift)
        both("quantize_error", terms[1:2], None, 0, shift)


@pytest.mark.parametrize("low", [0, -127])
def test_quantize_error_goes_through_the_saturation(g, low):
    y, values = codes_at_bounds(g, (2, 3, 5, 9)).clamp(min=low), rand(g, -9, 9, (2, 3, 5, 9))
    inside = quant.through_saturation(values.numpy().astype(int), y.numpy(), low)
    for kernels in (native, plain):
        codes, largest = kernels.quantize_error([(values, 0)], y, low, 0)
        assert (codes.numpy() == inside).all() and largest == abs(inside).max()
    assert 0 < (inside != 0).sum() < inside.size
    assert {0 if low == 0 else -127, 127} <= set(y.unique().tolist())


@pytest.mark.parametrize("rows, C", [(1, 3), (253, 17), (1100, 70)])
def test_error_sums(g, rows, C):
    both("error_sums", rand(g, -128, 127, (rows, C)))
    both("error_sums", torch.full((rows, C), -128, dtype=torch.int8))


def test_errors_beyond_32_bits_are_quantised_in_64(g):
    shape = (2, 3, 5, 9)
    wide = rand(g, -(1 << 31), (1 << 31) - 1, shape, torch.int32)
    small = rand(g, -127, 127, shape)
    for terms in ([(wide, -20)], [(wide, -20), (wide, -20), (small, -30)], [(small, 0)] * 5):
        for shift in (0, 24, 33):
            both("quantize_error", terms, None, 0, shift)


def test_batch_norm_of_extreme_accumulators(g):
    acc = rand(g, -(1 << 31), (1 << 31) - 1, (50, 7), torch.int32)
    acc[0], acc[1] = -(1 << 31), (1 << 31) - 1
    mean = rand(g, -(1 << 31), (1 << 31) - 1, (7,), torch.int64)
    mantissa = rand(g, 1 << 15, 1 << 16, (7,), torch.int64)
    one = torch.ones(7, dtype=torch.int64)
    for shift in (15, 30, 42, 45):
        both("batch_norm_normalize", acc, mean, mantissa, shift * one, one, one, 14, None, 0, -127)
    # Sums of 16 bits are put together before they leave 32: the second map has more rows.
    many = rand(g, -(1 << 31), (1 << 31) - 1, (70_000, 3), torch.int32)
    many[:, 0], many[::2, 1], many[1::2, 1] = (1 << 31) - 1, -(1 << 31), (1 << 31) - 1
    for std in (False, True):
        both("batch_norm_statistics", acc, std=std)
        both("batch_norm_statistics", many, std=std)


@pytest.mark.parametrize("N, H, W, C", [(1, 5, 7, 150), (3, 4, 4, 16), (9, 1, 1, 70)])
def test_scans_of_whole_and_partial_strips(g, library, N, H, W, C):
    """Channels of several parts and vectors, pixels of several blocks; both widths of sums."""
    shape = (N, H, W, C)
    error, y = rand(g, -127, 127, shape), codes_at_bounds(g, shape)
    xhat = rand(g, -32767, 32767, shape, torch.int16)
    xhat[..., ::3] = 0
    xhat[:, ::2, :, 0] = -32767
    wide = rand(g, -(1 << 27), 1 << 27, shape, torch.int32)
    for shift in (0, 13, 29, 30):
        for low in (0, -127):
            terms = [(wide, -20), (error, 0), (wide.to(torch.int16), -20)]
            both("quantize_error", terms, y.clamp(min=low), low, shift)
    # Up to the bounds of 32 bits, m0 + m2 + m1 and m0 + 8 m1, and above.
    for size in (1 << 20, (1 << 27) - (1 << 22), ((1 << 29) - (1 << 23) - 2) // 9):
        vectors = rand(g, -size, size, (3, C), torch.int64)
        vectors[:, 0] = torch.tensor([-size, size, size])
        factors = rand(g, -(1 << 15), 1 << 15, (C,), torch.int64)
        factors[0] = -(1 << 15)
        for top in (1, 2):
            for shift in (0, 13, 14, 15, 31, 43, 44):
                for signs in (False, True):
                    arguments = (error, xhat, *(top * vectors), factors, shift)
                    both("batch_norm_backward", *arguments, signs=signs)


@pytest.mark.parametrize("rows, C", [(37, 70), (16, 16), (1, 1)])
@pytest.mark.parametrize("mantissa", [1 << 15, 54321, 1 << 16])
def test_normalising_at_the_bounds(g, library, rows, C, mantissa):
    """Every shift, differences at the saturation and around ties, for each of 32 bits."""
    gamma, beta = rand(g, -127, 127, (2, C), torch.int64)
    for shift in range(12, 43):
        limit = (32768 << (shift - 12)) // mantissa + 1
        mean = rand(g, -(1 << 31), (1 << 31) - 1, (C,), torch.int64)
        away = rand(g, -2, 2, (rows, C), torch.int64)
        places = torch.tensor([-limit, -limit // 2, 0, limit // 3, limit])
        away += places[rand(g, 0, 4, (rows, C), torch.int64)]
        acc = (mean + away).clamp(-(1 << 31), (1 << 31) - 1).to(torch.int32)
        one = torch.ones(C, dtype=torch.int64)
        vectors = (mean, mantissa * one, shift * one, gamma, beta)
        both("batch_norm_normalize", acc, *vectors, 14, rand(g, -127, 127, (rows, C)), 13, 0)


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_max_pool(g, kernel, stride, padding, dtype):
    x = rand(g, -3, 3, (2, 7, 9, 5))  # many ties
    p = (padding,) * 4
    size = tuple(ops.output_size(n, kernel, stride, padding, padding) for n in (7, 9))
    y, winner = both("max_pool", x, (kernel,) * 2, (stride,) * 2, p, size)
    same(both("window_maxima", x, (kernel,) * 2, (stride,) * 2, p, size), y)
    error = rand(g, -100, 100, y.shape, dtype) if dtype == torch.int8 else None
    if error is None:
        error = rand(g, -(1 << 20), 1 << 20, y.shape, dtype)
    if dtype == torch.int8:
        error = error // 16  # up to nine windows meet at an element
    both("max_pool_gradient", error, winner, (kernel,) * 2, (stride,) * 2, p, (7, 9))


@pytest.mark.parametrize("C", [1, 2, 11, 300])
def test_small_operations_of_inference(g, C):
    x = rand(g, -2, 2, (2, 3, 17, C))  # many ties
    both("argmax", x)
    both("average_sum", x)
    x[0], x[1] = -128, 127
    both("average_sum", x)
    both("argmax", x)
    both("argmax", rand(g, -1, 1, (1, 1, 2, (1 << 16) + C)))
    pixels = rand(g, 0, 255, (2, C, 5, 7), torch.uint8)
    both("image_codes", pixels)
    both("image_codes", pixels.permute(0, 1, 3, 2)[:, :, ::2])


@pytest.mark.parametrize(
    "ratio, corners", [(8, "half_pixel"), (3, "half_pixel"), (30, "half_pixel"), (4, "align")]
)
def test_resize(g, ratio, corners):
    x = rand(g, -128, 127, (2, 4, 5, 3))
    tables = [ops.resize_source(n, ratio, corners) for n in (4, 5)]
    wide = both("resize_wide", x, *tables)
    both("resize_rounded", x, *tables, ops.resize_scale((ratio, ratio), corners).division)
    for dtype in (torch.int8, torch.int32, torch.int64):
        both("resize_gradient", rand(g, -100, 100, wide.shape, dtype), (4, 5), *tables)


@pytest.mark.parametrize("dtype, exponent", [(torch.int8, -3), (torch.int32, -11)])
@pytest.mark.parametrize("classes", [2, 11, 21])
def test_softmax_cross_entropy(g, dtype, exponent, classes):
    high = 127 if dtype == torch.int8 else 127 << 8
    logits = rand(g, -high, high, (2, 3, 5, classes), dtype)
    labels = rand(g, 0, classes - 1, (2, 3, 5), torch.uint8)
    labels[0, 0] = 255
    both("softmax_cross_entropy", logits, exponent, labels, 255)


#: Magnitudes of vectors of gradients.
HEIGHTS = (0, 9, 32768, 40000, 1 << 40, 1 << 61)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("bits", [torch.int8, torch.int16])
@pytest.mark.parametrize(
    "shape", [(1,), (1030,), (3, 5, 1, 1), (4, 7, 3, 2), (2, 600, 3, 3), (2, 70, 4, 4)]
)
def test_quantize_gradient(g, library, dtype, bits, shape):
    """Sums as the products leave them, at every kind of shift, from an index in the middle."""
    extreme = torch.iinfo(dtype).max if dtype == torch.int32 else 1 << 61
    for high, shifts in ((200, (0, 1, 3)), (1 << 20, (13, 5, 30)), (extreme, (24, 31))):
        x = rand(g, -high, high, shape, dtype)
        x.view(-1)[0] = -high - (high == (1 << 31) - 1)
        if len(shape) == 4:
            x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        for shift in (*shifts, *((54, 62) if high >> 60 else ())):
            found, wanted = torch.empty((2, *shape), dtype=bits)
            options = dict(seed=(1 << 63) + 5, stream=8, start=12345)
            largest = native.quantize_gradient(x, shift, found, **options)
            assert largest == plain.quantize_gradient(x, shift, wanted, **options)
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("taps", [(slice(1, 2), slice(1, 2)), (slice(0, 2), slice(1, 3))])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_gradients_of_some_taps(g, library, dtype, taps):
    """The others are zero, whether the sums lie as the products leave them or not."""
    live = np.empty((3, 3))[taps].shape
    rows = rand(g, -5000, 5000, (4, *live, 530), dtype)
    for x in (rows.permute(0, 3, 1, 2), rows.permute(0, 3, 1, 2).contiguous()):
        found, wanted = torch.ones((2, 4, 530, 3, 3), dtype=torch.int8)
        options = dict(seed=3, stream=8, start=77, taps=taps)
        largest = native.quantize_gradient(x, 6, found, **options)
        assert largest == plain.quantize_gradient(x, 6, wanted, **options)
        assert torch.equal(found, wanted)


def test_quantize_vectors(g, library):
    """Each with its shift and its words, from zeros to the largest sums."""
    sizes = (1, 512, 70, 1030, 64, 9)
    parts = [rand(g, -h, h, (n,), torch.int64) for n, h in zip(sizes, HEIGHTS, strict=True)]
    parts[2][0] = 32768  # a shift of 0 leaves it, and it is saturated
    options = dict(seed=(1 << 63) + 5, streams=[4, 1 << 40, 12, 0, 16, 8])
    codes, found = both("quantize_vectors", torch.cat(parts), sizes, **options)
    assert codes.abs().max() == 32767 and found[0] == (0, 0) and found[-1][0] > 44


def updates(options, momentum, gradient, master, *rest):
    """Return what both kernels make of copies, which the native one changes."""
    (m, me), (g, ge), (w, we) = momentum, gradient, master
    results = [
        k.update(m.clone(), me, g, ge, w.clone(), we, *rest, **options) for k in (native, plain)
    ]
    same(*results)
    return results[0]


@pytest.mark.parametrize("bits", [torch.int8, torch.int16])
@pytest.mark.parametrize(
    "exponents", [(-40, -42, -34), (-10, -60, -34), (-90, -42, -200), (-30, -29, -15)]
)
@pytest.mark.parametrize("n", [1, 513, 3000])
def test_update(g, library, bits, exponents, n):
    """Every kind of sum and step, with right, wrong and missing guesses, in place or not."""
    limit = torch.iinfo(bits).max
    momentum, master = rand(g, -32767, 32767, (2, n), torch.int16)
    gradient = rand(g, -limit, limit, (n,), bits)
    small = master // 4  # no step leaves 16 bits
    for decay in (11, None):
        for w in (master, small):
            for rate in ((200, 3), (131, 12), (255, 40), (128, 300), (255, -20), (255, -300)):
                for guess in ([], [1, 1, 1], [32767, limit, 32767], [0, 0, 0]):
                    updates(
                        dict(decay=decay, seed=(1 << 63) + 5, stream=8, guess=guess),
                        *((momentum, exponents[0]), (gradient, exponents[1]), (w, exponents[2])),
                        rate,
                    )


@pytest.mark.parametrize("threads", [1, 2])
def test_updates_of_several_parameters(g, library, threads):
    """Small and large ones, weights and vectors, in one call: each as if it were alone."""
    found, before = [], torch.get_num_threads()
    jobs = [
        (
            *(rand(g, -9000, 9000, (n,), torch.int16), -30 - n % 5),
            *(rand(g, -127, 127, (n,), torch.int8 if weight else torch.int16), -35 + n % 7),
            *(rand(g, -high, high, (n,), torch.int16), -15),
            *(11 if weight else None, 4 * i, []),
        )
        for i, (n, weight, high) in enumerate(
            [(20000, True, 9000), (64, False, 9000), (40, True, 32767), (16384, False, 32767)]
        )
    ]
    try:
        torch.set_num_threads(threads)
        for k in (native, plain):
            copies = [plain.Update(*(copy.deepcopy(x) for x in job)) for job in jobs]
            found.append(tuple(k.updates(copies, (200, 3), seed=7)))
    finally:
        torch.set_num_threads(before)
    same(*found)


def test_update_of_zeros(g):
    """Terms that are zero have no exponent; without any the momentum keeps its own."""
    zero = torch.zeros(100, dtype=torch.int16)
    some = rand(g, -100, 100, (100,), torch.int16)
    for m in (zero, some):
        for e in (zero.to(torch.int8), some.to(torch.int8)):
            for w in (zero, some):
                for decay in (11, None):
                    for guess in ([], [100, 100, 100]):
                        options = dict(decay=decay, seed=1, stream=4, guess=guess)
                        updates(options, (m, -3), (e, -900), (w, 70), (200, 3))


@pytest.mark.parametrize("target", [-15, -60, 20, -28, -30, -2000, 2000])
@pytest.mark.parametrize("decay", [11, None])
def test_steps_that_leave_the_range_halve_the_master(g, library, target, decay):
    momentum, master = rand(g, -32767, 32767, (2, 1000), torch.int16)
    gradient = torch.zeros(1000, dtype=torch.int8)
    options = dict(decay=decay, seed=1, stream=8, guess=[])
    for rate in range(-6, 60, 3):
        updates(options, (momentum, target), (gradient, 0), (master, -15), (200, rate))


def test_update_is_made_in_place_and_remembers_the_maxima(g):
    momentum, master = rand(g, -9000, 9000, (2, 1000), torch.int16)
    gradient, guess = rand(g, -127, 127, (1000,), torch.int8), []
    options = dict(decay=11, seed=1, stream=8, guess=guess)
    before = int(momentum.abs().max()), int(gradient.abs().max()), int(master.abs().max())
    m, _, w, _ = native.update(momentum, -30, gradient, -24, master, -15, (200, 12), **options)
    assert m is momentum and w is master and tuple(guess) == before


@pytest.mark.parametrize("top", [0, 100, 128, 129, 20000, 32767])
def test_weight_codes(g, library, top):
    for shape in ((5, 3, 3, 7), (2, 330, 3, 3), (2, 64, 4, 4), (3, 70, 1, 1), (2, 40, 2, 2)):
        both("weight_codes", rand(g, -top, top, shape, torch.int16))
    master = rand(g, -top // 9, top // 9, (5, 40, 3, 3), torch.int16)
    master[0, 0, 0, 0] = top  # a tap that is left out counts for the shift
    for taps in ((slice(1, 2), slice(0, 3)), (slice(1, 3), slice(1, 2)), (slice(2, 3),) * 2):
        both("weight_codes", master, taps)
        both("weight_codes", master, taps, 3)
    for guess in (0, 6, 7, 8):  # too small, right, or too large
        for shape in ((2, 330, 3, 3), (3, 70, 1, 1)):
            both("weight_codes", rand(g, -top, top, shape, torch.int16), None, guess)
    both("weight_codes", torch.tensor([-top, 0, top // 2], dtype=torch.int16).reshape(3, 1, 1, 1))


def test_weight_gradient_of_no_images_is_zero():
    x, e = (torch.empty((0, 5, 6, C), dtype=torch.int8) for C in (20, 7))
    found = native.conv_weight_gradient(x, e, (3, 3), origin=(1, 1))
    assert found.shape == (7, 20, 3, 3) and not found.any()


def test_random_bits_are_those_of_the_specification():
    seed, stream, n = (1 << 64) - 3, 12345, 1000
    found = plain.random_bits(seed, stream, n, torch.device("cpu")).numpy().view(np.uint64)
    assert (found == random_bits(seed, stream, np.arange(n))).all()
