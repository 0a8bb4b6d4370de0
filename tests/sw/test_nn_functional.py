"""The torch operations, forward and backward, against the definitions, with both kernels."""

import numpy as np
import pytest
import torch

from intaglio.nn import IntTensor, kernels
from intaglio.nn import functional as F
from intaglio.nn.error_scale import ErrorScale
from intaglio.nn.kernels import native, plain
from intaglio.nn.layers import BatchNorm2d, Conv2d, ConvTranspose2d, MaxPool2d
from intaglio.spec import ops, quant

RNG = np.random.default_rng(5)


@pytest.fixture(params=["plain", "native"], autouse=True)
def chosen(request):
    if request.param == "native" and not native.available():
        pytest.skip("no C compiler")
    with kernels.use(plain if request.param == "plain" else native):
        yield


def tensor(codes, exponent, dtype=torch.int8, grad=True):
    out = IntTensor(torch.from_numpy(np.ascontiguousarray(codes)).to(dtype), exponent)
    return out.requires_grad_() if grad else out


def codes_of(t):
    return t.codes.numpy().astype(np.int64)


def master(shape):
    return tensor(RNG.integers(-20000, 20001, shape), -16, torch.int16)


def error_for(y, scale=127):
    return IntTensor(torch.from_numpy(RNG.integers(-scale, scale + 1, y.shape, np.int8)), -20)


@pytest.mark.parametrize(
    "kernel, options",
    [
        ((3, 3), dict(stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))),
        ((3, 3), dict(stride=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1))),
        ((3, 3), dict(stride=(1, 1), padding=(2, 2, 2, 2), dilation=(2, 2))),
        ((1, 1), dict(stride=(2, 2), padding=(0, 0, 0, 0), dilation=(1, 1))),
        ((1, 1), dict(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1))),
        ((2, 3), dict(stride=(3, 1), padding=(1, 0, 0, 2), dilation=(1, 1))),
        ((3, 3), dict(stride=(2, 2), padding=(2, 2, 2, 2), dilation=(2, 2))),
        # Taps that meet padding only.
        ((3, 3), dict(stride=(1, 1), padding=(8, 8, 8, 8), dilation=(8, 8))),
        ((3, 3), dict(stride=(1, 1), padding=(9, 9, 9, 9), dilation=(9, 9))),
        ((3, 2), dict(stride=(2, 1), padding=(12, 0, 4, 0), dilation=(7, 5))),
        ((2, 2), dict(stride=(1, 1), padding=(0, 0, 9, 0), dilation=(1, 1))),
    ],
)
@pytest.mark.parametrize("C, K", [(3, 5), (8, 16)])
def test_convolution(kernel, options, C, K):
    x, w = tensor(RNG.integers(-127, 128, (2, C, 8, 9)), -5), master((K, C, *kernel))
    view, shift = quant.weight_codes(codes_of(w))
    y = F.conv_acc(x, w, **options)
    assert (codes_of(y) == ops.conv_accumulate(codes_of(x), view, **options)).all()
    assert y.exponent == -5 - 16 + shift
    e = error_for(y)
    y.backward(e)
    expected = quant.conv_input_gradient(codes_of(e), view, (8, 9), **options)
    assert (codes_of(x.grad) == expected).all() and x.grad.exponent == -20 - 16 + shift
    expected = quant.conv_weight_gradient(codes_of(x), codes_of(e), kernel, **options)
    assert (codes_of(w.grad) == expected).all() and w.grad.exponent == -20 - 5


@pytest.mark.parametrize("kernel, stride, padding", [(4, 2, 1), (8, 4, 2), (3, 2, 0), (2, 3, 0)])
def test_transposed_convolution(kernel, stride, padding):
    options = dict(stride=(stride, stride), padding=(padding,) * 4)
    x, w = tensor(RNG.integers(-127, 128, (2, 3, 4, 5)), -5), master((3, 6, kernel, kernel))
    view, _ = quant.weight_codes(codes_of(w))
    y = F.conv_transpose_acc(x, w, **options)
    assert (codes_of(y) == ops.conv_transpose_accumulate(codes_of(x), view, **options)).all()
    e = error_for(y)
    y.backward(e)
    expected = quant.conv_transpose_input_gradient(codes_of(e), view, **options)
    assert (codes_of(x.grad) == expected).all()
    expected = quant.conv_transpose_weight_gradient(
        codes_of(x), codes_of(e), (kernel, kernel), **options
    )
    assert (codes_of(w.grad) == expected).all()


@pytest.mark.parametrize("relu", [False, True])
def test_bias_and_requantisation(relu):
    acc = tensor(RNG.integers(-90000, 90001, (2, 4, 3, 5)), -15, torch.int32)
    bias = tensor(RNG.integers(-30000, 30001, 4), quant.BIAS_EXPONENT, torch.int16)
    y = F.requantize_bias(acc, bias, exponent=-3, relu=relu, scale=ErrorScale())
    m, b, shift = quant.bias_multiplier(codes_of(bias), -15, -3)
    total = codes_of(acc) * m[:, None, None] + b[:, None, None]
    low = 0 if relu else -127
    assert (codes_of(y) == np.clip((total + (1 << shift >> 1)) >> shift, low, 127)).all()
    wide = IntTensor(torch.from_numpy(RNG.integers(-(10**6), 10**6, y.shape)), -31)
    y.backward(wide)
    values = quant.through_saturation(codes_of(wide), codes_of(y), low)
    expected, exponent = quant.error_codes(values, -31)
    assert (codes_of(acc.grad) == expected).all() and acc.grad.exponent == exponent
    assert (codes_of(bias.grad) == expected.sum((0, 2, 3))).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_batch_norm(relu, with_residual):
    K = 6
    layer = BatchNorm2d(K, exponent=-4, relu=relu)
    layer.weight.assign(torch.from_numpy(RNG.integers(-32767, 32768, K, np.int16)), -14)
    layer.bias.assign(torch.from_numpy(RNG.integers(-32767, 32768, K, np.int16)), -14)
    x, w = tensor(RNG.integers(-127, 128, (3, 5, 4, 5)), -5), master((K, 5, 3, 3))
    residual = tensor(RNG.integers(-127, 128, (3, K, 4, 5)), -5) if with_residual else None
    options = dict(stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))
    y = layer(F.conv(x, w, **options), residual)

    view, w_shift = quant.weight_codes(codes_of(w))
    acc, acc_exponent = ops.conv_accumulate(codes_of(x), view, **options), -5 - 16 + w_shift
    gamma = quant.affine_codes(codes_of(layer.weight))
    beta = quant.affine_codes(codes_of(layer.bias))
    mean, deviation, count = quant.batch_norm_statistics(acc)
    mantissa, shift = quant.batch_norm_reciprocal(deviation, count)
    xhat, expected = quant.batch_norm_forward(
        *(acc, mean, mantissa, shift, gamma, beta),
        exponent=-4,
        relu=relu,
        residual=codes_of(residual) if with_residual else None,
        residual_exponent=-5 if with_residual else None,
    )
    assert (codes_of(y) == expected).all()
    tracked = quant.track_statistics(np.zeros(K, np.int64), mean * count, count, acc_exponent, 0)
    assert (layer.running_mean.numpy() == tracked).all()

    wide = IntTensor(torch.from_numpy(RNG.integers(-(10**7), 10**7, y.shape)), -40)
    for _ in range(2):  # the second time with a guess of the scale
        y = layer(F.conv(x, w, **options), residual)
        for parameter in (x, w, residual, layer.weight, layer.bias):
            if parameter is not None:
                parameter.grad = None
        y.backward(wide)
        values = quant.through_saturation(codes_of(wide), expected, 0 if relu else -127)
        e, exponent = quant.error_codes(values, -40)
        sums = [v.sum((0, 2, 3)) for v in (e, e * xhat, np.sign(xhat))]
        factors, factor_exponent = quant.batch_norm_error_factors(gamma, mantissa, shift)
        inner = quant.batch_norm_gradient(
            e, xhat, *quant.batch_norm_error_means(*sums, count), factors
        )
        wide_exponent = exponent - 16 + factor_exponent - acc_exponent
        inner, inner_exponent = quant.error_codes(inner, wide_exponent)
        back = quant.conv_input_gradient(inner, view, (4, 5), **options)
        assert (codes_of(x.grad) == back).all()
        assert x.grad.exponent == inner_exponent - 16 + w_shift
        outer = quant.conv_weight_gradient(codes_of(x), inner, (3, 3), **options)
        assert (codes_of(w.grad) == outer).all() and w.grad.exponent == inner_exponent - 5
        assert (codes_of(layer.weight.grad) == sums[1]).all()
        assert layer.weight.grad.exponent == exponent - 12
        assert (codes_of(layer.bias.grad) == sums[0]).all()
        if residual is not None:
            assert (codes_of(residual.grad) == e).all() and residual.grad.exponent == exponent


def test_max_pool_and_average_and_broadcast():
    x = tensor(RNG.integers(-5, 6, (2, 3, 6, 8)), -5)
    options = dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
    y = F.max_pool(x, **options)
    assert (codes_of(y) == ops.max_pool(codes_of(x), **options)).all()
    e = error_for(y)
    y.backward(e)
    assert (codes_of(x.grad) == quant.max_pool_gradient(codes_of(x), codes_of(e), **options)).all()

    # Windows that share elements: the sum of the errors of four fits neither 8 nor 32 bits.
    options = dict(kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    peak = torch.zeros((1, 1, 5, 7), dtype=torch.int8)
    peak[0, 0, 1, 1] = 1
    top = (1 << 30) + 5
    for terms in (
        [(torch.full((1, 1, 3, 4), 127, dtype=torch.int8), -9)],
        [(torch.full((1, 1, 3, 4), n, dtype=torch.int32), e) for n, e in ((-top, -9), (700, -7))],
    ):
        x = IntTensor(peak, -5).requires_grad_()
        F.max_pool(x, **options).backward(IntTensor.from_terms(terms))
        error = np.full((1, 1, 3, 4), sum(int(c[0, 0, 0, 0]) << (e + 9) for c, e in terms))
        expected = quant.max_pool_gradient(peak.numpy(), error, **options)
        assert (codes_of(x.grad) == expected).all() and x.grad.exponent == -9
        assert abs(expected[0, 0, 1, 1]) == 4 * abs(error[0, 0, 0, 0])

    x = tensor(RNG.integers(-5, 6, (2, 3, 6, 8)), -5)
    y = F.global_average(x)
    m, shift = quant.average_pool_multiplier(48)
    total = codes_of(x).sum((2, 3), keepdims=True) * m
    assert (codes_of(y) == (total + (1 << shift >> 1)) >> shift).all()
    z = F.broadcast(y, (6, 8))
    e = error_for(z)
    z.backward(e)
    expected, exponent = quant.average_pool_gradient(quant.broadcast_gradient(codes_of(e)), (6, 8))
    assert (codes_of(x.grad) == expected).all() and x.grad.exponent == -20 + exponent


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (2, 2, 1), (3, 2, 1), (1, 3, 0)])
@pytest.mark.parametrize("size", [(3, 4), (5, 5), (6, 7)])
def test_every_window_begins_inside_the_map(kernel, stride, padding, size):
    """As in PyTorch: with ``ceil``, windows that meet padding only are none."""
    layer = MaxPool2d(kernel, stride=stride, padding=padding, ceil=True)
    floats = torch.nn.MaxPool2d(kernel, stride, padding, ceil_mode=True)
    x = tensor(RNG.integers(-128, 128, (2, 3, *size)), -4, grad=False)
    expected = floats(x.codes.to(torch.float32)).to(torch.int8)
    for mode in (True, False):
        assert torch.equal(layer.train(mode)(x).codes, expected)


@pytest.mark.parametrize("mode", [True, False])
def test_maps_of_other_shapes_are_refused(mode):
    """The kernels read the memory that shapes promise."""
    conv, norm, up = Conv2d(20, 8, 3), BatchNorm2d(8), ConvTranspose2d(20, 8, 4, stride=2)
    for layer in (conv, norm, up):
        layer.train(mode)
    x, other, z, small = (
        tensor(np.zeros(shape, np.int8), -5)
        for shape in ((2, 20, 6, 6), (2, 24, 6, 6), (2, 8, 4, 4), (2, 8, 1, 1))
    )
    assert norm(conv(x), z).shape == z.shape
    assert up(x).shape == (2, 8, 14, 14)
    for run in (lambda: norm(conv(other)), lambda: up(other)):
        with pytest.raises(ValueError, match="of 20 channels was given a map of 24"):
            run()
    with pytest.raises(ValueError, match=r"\(2, 8, 1, 1\) does not have the shape \(2, 8, 4, 4\)"):
        norm(conv(x), small)


def test_accumulators_are_finished_once_by_a_batch_norm_of_their_channels():
    x = tensor(np.ones((2, 3, 4, 4), np.int8), -5)
    acc = F.conv(x, master((6, 3, 1, 1)))
    assert acc.codes.shape == (2, 6, 4, 4) and acc.codes.dtype == torch.int32
    with pytest.raises(ValueError, match="of 5 channels was given 6"):
        BatchNorm2d(5)(acc)
    BatchNorm2d(6)(acc)
    with pytest.raises(RuntimeError, match="finished by one batch norm, once"):
        BatchNorm2d(6)(acc)


@pytest.mark.parametrize("relu", [False, True])
def test_add_concat_and_a_sum_of_gradients(relu):
    a = tensor(RNG.integers(-127, 128, (2, 3, 4, 5)), -5)
    b = tensor(RNG.integers(-127, 128, (2, 3, 4, 5)), -3)
    y, low = F.add(a, b, exponent=-4, relu=relu), 0 if relu else -127
    made = np.clip((codes_of(a) + 4 * codes_of(b) + 1) >> 1, low, 127)
    assert (codes_of(y) == made).all() and y.exponent == -4
    z = F.concat(a, a)
    assert (codes_of(z) == np.concatenate([codes_of(a)] * 2, 1)).all()
    first = error_for(y)
    second = IntTensor(torch.from_numpy(RNG.integers(-(10**6), 10**6, z.shape)), -33)
    torch.autograd.backward([y, z], [first, second])
    through = quant.through_saturation(codes_of(first), made, low)
    assert (through != codes_of(first)).any()
    expected = (through << 13) + codes_of(second)[:, :3] + codes_of(second)[:, 3:]
    assert (codes_of(a.grad) == expected).all() and a.grad.exponent == -33
    assert (codes_of(b.grad) == through).all() and b.grad.exponent == -20
    with pytest.raises(ValueError, match=r"must have one exponent, not \[-5, -3\]"):
        F.concat(a, b)


@pytest.mark.parametrize("corners", ["half_pixel", "align"])
def test_resize(corners):
    x = tensor(RNG.integers(-127, 128, (2, 3, 4, 5)), -3)
    y = F.resize_wide(x, ratio=(4, 2), corners=corners)
    expected = quant.resize_wide(codes_of(x), ratio=(4, 2), corners=corners)
    bits = 5 if corners == "half_pixel" else 3
    assert (codes_of(y) == expected).all() and y.exponent == -3 - bits
    e = error_for(y)
    y.backward(e)
    expected = quant.resize_gradient(codes_of(e), (4, 5), ratio=(4, 2), corners=corners)
    assert (codes_of(x.grad) == expected).all() and x.grad.exponent == -20 - bits
    y = F.resize(x, ratio=(3, 2), corners=corners)
    assert (codes_of(y) == ops.resize(codes_of(x), ratio=(3, 2), corners=corners)).all()
    with pytest.raises(ValueError, match=r"powers of two, not \(3, 2\)"):
        F.resize_wide(x, ratio=(3, 2), corners=corners)


def test_loss():
    wide = tensor(RNG.integers(-20000, 20000, (2, 5, 3, 4)), -11, torch.int32)
    labels = RNG.integers(0, 5, (2, 3, 4))
    labels[0, 1] = 255
    loss = F.softmax_cross_entropy(wide, torch.from_numpy(labels))
    z = quant.softmax_logits(codes_of(wide), -11)
    error, total, _ = quant.softmax_cross_entropy(z, labels, 255)
    assert int(loss.codes) == quant.round_divide(total, 24) and loss.exponent == -16
    loss.backward()
    assert (codes_of(wide.grad) == error).all() and wide.grad.exponent == -7 - 4
    with pytest.raises(ValueError, match="labels"):
        F.softmax_cross_entropy(wide, torch.zeros(2, 3, 3, dtype=torch.int64))


def test_image_codes():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert (codes_of(F.quantize_image(image)).ravel() == np.arange(256) - 128).all()
    codes = (image.to(torch.int16) - 128).to(torch.int8)
    assert torch.equal(F.quantize_image(codes).codes, codes)
    with pytest.raises(TypeError, match="float32"):
        F.quantize_image(image.float())


def test_a_gradient_is_replaced_by_one_of_its_shape():
    gradient = IntTensor(torch.zeros((2, 3), dtype=torch.int32), -9)
    gradient.replace(torch.ones((2, 3), dtype=torch.int8), -4)
    assert gradient.codes.dtype == torch.int8 and gradient.exponent == -4
    with pytest.raises(ValueError, match=r"codes must be \(2, 3\), not \(3,\)"):
        gradient.replace(torch.ones(3, dtype=torch.int8), -4)


def test_int_tensor_refuses_what_it_cannot_mean():
    a = tensor(RNG.integers(-9, 9, (1, 1, 2, 2)), 0)
    with pytest.raises(NotImplementedError, match=r"does not support aten.mul.Tensor"):
        _ = a * a
    with pytest.raises(NotImplementedError, match=r"does not support aten.add.Tensor"):
        _ = a + 1.0
    with pytest.raises(TypeError, match="not torch.float32"):
        IntTensor(torch.zeros(2), 0)
