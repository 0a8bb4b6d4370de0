"""Batch norm in one call of C beside its single steps on the plain kernels."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch

from intaglio.nn import IntTensor, conv_norm, kernels
from intaglio.nn.error_scale import ErrorScale
from intaglio.nn.kernels import loader, native, plain
from intaglio.nn.layers import BatchNorm2d, Conv2d
from intaglio.nn.operations import Window, nchw
from intaglio.nn.product import Product
from intaglio.spec import quant

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")

#: Options of libraries for other processors; they are built for the tests of the kernels anyway.
LIBRARIES = {"this processor": None, "wide": "-DINTAGLIO_WIDE", "scalar": "-march=x86-64"}
SHAPES = [(1, 5, 7, 150), (3, 4, 4, 16), (9, 1, 1, 70), (2, 20, 31, 17), (1, 520, 520, 2)]


@pytest.fixture(params=LIBRARIES)
def library(request, monkeypatch):
    if (options := LIBRARIES[request.param]) is not None:
        built = loader.build(options, "-O1")
        monkeypatch.setattr("intaglio.nn.kernels.loader.loaded", lambda: built)


@pytest.fixture
def g():
    return torch.Generator().manual_seed(20261129)


def rand(g, low, high, shape, dtype):
    return torch.randint(low, high + 1, shape, generator=g, dtype=dtype)


def new_layer(g, C, norm, relu):
    master = lambda: IntTensor(rand(g, -32767, 32767, (C,), torch.int16), -14)  # noqa: E731
    return SimpleNamespace(
        **dict(norm=norm, relu=relu, weight=master(), bias=master()),
        running_mean=rand(g, -(1 << 26), 1 << 26, (C,), torch.int64),
        running_deviation=rand(g, 1, 1 << 26, (C,), torch.int64),
        num_batches_tracked=torch.tensor(3),
        **dict(error_scale=ErrorScale(), acc_error_scale=ErrorScale()),
    )


def equal(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, (tuple, list)):
        for x, y in zip(a, b, strict=True):
            equal(x, y)
    else:
        assert a == b


def in_one_call(acc):
    return functools.partial(native.batch_norm_forward, acc, acc_exponent=-14)


def state(layer):
    scales = layer.error_scale.guess, layer.acc_error_scale.guess
    return layer.running_mean, layer.running_deviation, scales


@pytest.mark.parametrize("norm", ["l1", "l1-std"])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_call_has_the_bytes_of_the_steps(g, library, shape, norm):
    N, H, W, C = shape
    acc = rand(g, -(1 << 20), 1 << 20, shape, torch.int32)
    acc[..., 0] = 7  # no deviation
    wild = min(27, 43 - (N * H * W).bit_length())  # as far as a sum of deviations may go
    acc[..., -1] = rand(g, -(1 << wild), (1 << wild) - 1, (N, H, W), torch.int32)
    residual = rand(g, -127, 127, shape, torch.int8)
    terms = {
        "narrow": [(rand(g, -(1 << 24), 1 << 24, shape, torch.int32), -20)],
        "small": [(rand(g, -3, 3, shape, torch.int8), -9)],
        "sum": [(rand(g, -99, 99, shape, t), e) for t, e in ((torch.int8, -7), (torch.int32, -9))],
        "wide": [(rand(g, -(1 << 40), 1 << 40, shape, torch.int64), -30)],  # beyond 32 bits
        "zero": [(torch.zeros(shape, dtype=torch.int32), -20)],
    }
    for relu, z in ((True, None), (False, residual), (True, residual)):
        own = new_layer(g, C, norm, relu)
        other = copy.deepcopy(own)
        shifts = quant.batch_norm_shifts(-5, None if z is None else -4)
        with kernels.use(plain):
            xhat, y, vectors = conv_norm.shared_batch_norm(acc, -14, other, z, shifts)
        found = conv_norm.batch_norm(in_one_call(acc), own, z, shifts)
        equal(found[:2], (xhat, y))
        equal(found[2][:4], vectors[:4])
        if norm == "l1":
            equal(found[2][6], vectors[6])
        equal(state(own), state(other))
        for parts in terms.values():  # each after another one, so that guesses are wrong
            gradient = IntTensor.from_terms([(nchw(codes), e) for codes, e in parts])
            with kernels.use(plain):
                expected = conv_norm.batch_norm_error(gradient, y, xhat, vectors, -14, other)
            equal(conv_norm.batch_norm_error(gradient, y, xhat, found[2], -14, own), expected)
            equal(state(own), state(other))


def test_what_is_beyond_the_loops_is_left_to_the_steps(g):
    """Deviations of 2**28 and more."""
    acc = rand(g, -(1 << 31), (1 << 31) - 1, (1, 5, 8, 9), torch.int32)
    own = new_layer(g, 9, "l1", True)
    other, shifts = copy.deepcopy(own), quant.batch_norm_shifts(-5, None)
    assert conv_norm.batch_norm(in_one_call(acc), own, None, shifts) is None
    equal(state(own), state(other))
    found = conv_norm.shared_batch_norm(acc, -14, own, None, shifts)
    with kernels.use(plain):
        expected = conv_norm.shared_batch_norm(acc, -14, other, None, shifts)
    equal(found, expected)
    equal(state(own), state(other))


def codes_alone(x, master, *_, taps, guess, **__):
    """What ``conv_norm_forward`` returns where it gives up."""
    return *native.weight_codes(master, taps, guess), None


@pytest.mark.parametrize("gives_up", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_a_layer_where_sums_are_asked_for_or_the_call_gives_up(g, monkeypatch, gives_up, asked):
    x = IntTensor(nchw(rand(g, -127, 127, (2, 5, 6, 32), torch.int8)), -7)
    results = []
    for usual in (True, False):
        conv, norm = Conv2d(32, 40, 3, padding=1), BatchNorm2d(40)
        if gives_up and not usual:
            monkeypatch.setattr(native, "batch_norm_forward", lambda *_, **__: None)
            monkeypatch.setattr(native, "conv_norm_forward", codes_alone)
        acc = conv(x)
        if asked and not usual:
            assert acc.codes.dtype == torch.int32 and acc.codes.shape == (2, 40, 5, 6)
        y = norm(acc)
        results.append((y.codes, norm.running_mean, norm.running_deviation))
        with pytest.raises(RuntimeError, match="finished by one batch norm, once"):
            norm(acc)
    equal(*results)


#: Input channels, output channels, kernel, stride, dilation, and size of the map: one whose sums
#: are made in parts, one with few input channels, one with a map of one pixel, one with dead taps.
CONVOLUTIONS = [
    (20, 700, 1, 1, 1, (23, 24)),
    (3, 40, 7, 2, 1, (30, 34)),
    (64, 33, 1, 1, 1, (1, 1)),
    (32, 48, 3, 1, 12, (9, 11)),
]


@pytest.mark.parametrize("norm", ["l1", "l1-std"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_and_batch_norm_in_one_call(g, library, case, norm):
    """Forward with the codes of the weight, backward with the gradient of the map."""
    C, K, kernel, stride, dilation, size = case
    x = IntTensor(nchw(rand(g, -127, 127, (3, *size, C), torch.int8)), -7)
    weight = IntTensor(rand(g, -32767, 32767, (K, C, kernel, kernel), torch.int16), -14)
    pad = dilation * (kernel // 2)
    window = Window((kernel, kernel), (stride, stride), (pad,) * 4, (dilation, dilation))
    with kernels.use(plain):
        other_product = Product(x, weight, window, transposed=False)
        acc, exponent = other_product.accumulators(), other_product.exponent
    guess, weight.shift_guess = weight.shift_guess, None
    for z in (None, rand(g, -127, 127, acc.shape, torch.int8)):
        own = new_layer(g, K, norm, True)
        other = copy.deepcopy(own)
        shifts = quant.batch_norm_shifts(-5, None if z is None else -4)
        with kernels.use(plain):
            xhat, y, vectors = conv_norm.shared_batch_norm(acc, exponent, other, z, shifts)
        product = Product(x, weight, window, transposed=False)
        found = conv_norm.batch_norm(functools.partial(product.normalized, None), own, z, shifts)
        assert weight.shift_guess == guess and product.exponent == exponent
        equal(found[:2], (xhat, y))
        equal(found[2][:4], vectors[:4])
        if norm == "l1":
            equal(found[2][6], vectors[6])
        equal(state(own), state(other))

        wide = rand(g, -(1 << 20), 1 << 20, acc.shape, torch.int32)
        gradient = IntTensor(nchw(wide), -20)
        arguments = gradient, y, xhat, found[2], exponent
        assert product.backs
        *result, mapped = conv_norm.batch_norm_error(*arguments, own, product.back)
        with kernels.use(plain):
            arguments = gradient, y, xhat, vectors, exponent
            *expected, none = conv_norm.batch_norm_error(*arguments, other)
            xgrad, wgrad = other_product.gradients(expected[1], True)
            other_product = Product(x, weight, window, transposed=False)
            wgrad = wgrad.terms  # computed by these kernels
        equal(result, expected)
        assert none is None
        own_xgrad, own_wgrad = product.gradients(result[1], True, mapped)
        equal(own_xgrad.terms, xgrad.terms)
        equal(own_wgrad.terms, wgrad)
        weight.shift_guess = guess + 2  # wrong
