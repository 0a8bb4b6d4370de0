"""The variants in torch against their definitions, and whole steps that use them."""

import numpy as np
import pytest
import torch

from intaglio.nn import IntTensor, to_graph
from intaglio.nn import functional as F
from intaglio.nn.kernels import plain
from intaglio.nn.layers import BatchNorm2d
from intaglio.nn.models import build, predict
from intaglio.nn.recipe import apply_recipe
from intaglio.nn.variants import Draws, ErrorVariant, batch_norm_statistics
from intaglio.spec import ops, quant, variants
from intaglio.spec.rng import random_bits
from intaglio.spec.variants import Recipe, error_digits
from intaglio.train.checkpoint import weights_digest
from intaglio.train.optimizer import SGD
from intaglio.train.schedule import Schedule

RNG = np.random.default_rng(6)
SHAPES = [(2, 3, 5, 4), (3, 4, 1, 1)]


def torch_of(x):
    return torch.from_numpy(np.ascontiguousarray(x))


def codes_of(t):
    return t.codes.numpy().astype(np.int64)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "diffusion"])
@pytest.mark.parametrize("bits", [8, 9, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_error_digits(shape, bits, rounding):
    values = RNG.integers(-(1 << 40), 1 << 40, shape) >> RNG.integers(0, 40, shape)
    index = np.arange(values.size).reshape(shape)
    words = random_bits(11, (5 << 16) | (9 << 2) | 3, index)
    expected = error_digits(values, -50, bits=bits, rounding=rounding, words=words)
    recipe = Recipe(error_bits=bits, error_rounding=rounding)
    variant = ErrorVariant(recipe, Draws(11, step=5), layer=9)
    found = variant.digits(torch_of(values.transpose(0, 2, 3, 1)), -50)
    assert len(found) == len(expected)
    for (codes, exponent), (wanted, wanted_exponent) in zip(found, expected, strict=True):
        assert codes.dtype == torch.int8 and exponent == wanted_exponent
        assert (codes.permute(0, 3, 1, 2).numpy() == wanted).all()


def test_random_words_of_a_share_are_those_of_the_whole():
    whole = plain.random_bits(5, 6, 40, torch.device("cpu"))
    assert torch.equal(plain.random_bits(5, 6, 15, torch.device("cpu"), 25), whole[25:])


@pytest.mark.parametrize("scale", [3, 90000, (1 << 31) - 1])
def test_l2_statistics(scale):
    acc = RNG.integers(-scale, scale + 1, (2, 3, 5, 7))
    rows = torch_of(acc.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.int32))
    mean, deviation = batch_norm_statistics(rows, "l2")
    expected = variants.batch_norm_statistics_l2(acc)
    assert (mean.numpy() == expected[0]).all() and (deviation.numpy() == expected[1]).all()


@pytest.mark.parametrize("norm", ["l1", "l1-std", "l2"])
@pytest.mark.parametrize("bits, rounding", [(8, "diffusion"), (9, "nearest"), (16, "diffusion")])
def test_batch_norm(norm, bits, rounding):
    K = 4
    layer = BatchNorm2d(K, exponent=-4)
    apply_recipe(layer, Recipe(norm=norm, error_bits=bits, error_rounding=rounding))
    layer.weight.assign(torch_of(RNG.integers(-32767, 32768, K, np.int16)), -14)
    x = IntTensor(torch_of(RNG.integers(-127, 128, (3, 5, 4, 5), np.int8)), -5).requires_grad_()
    w = IntTensor(torch_of(RNG.integers(-20000, 20001, (K, 5, 3, 3), np.int16)), -16)
    w.requires_grad_()
    options = dict(stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))
    y = layer(F.conv(x, w, **options))
    view, w_shift = quant.weight_codes(codes_of(w))
    acc, acc_exponent = ops.conv_accumulate(codes_of(x), view, **options), -5 - 16 + w_shift
    gamma, beta = (quant.affine_codes(codes_of(v)) for v in (layer.weight, layer.bias))
    statistics = {
        "l1": quant.batch_norm_statistics,
        "l1-std": variants.batch_norm_statistics_std,
        "l2": variants.batch_norm_statistics_l2,
    }
    mean, deviation, count = statistics[norm](acc)
    mantissa, shift = quant.batch_norm_reciprocal(deviation, count)
    arguments = (acc, mean, mantissa, shift, gamma, beta)
    xhat, expected = quant.batch_norm_forward(*arguments, exponent=-4, relu=True)
    assert (codes_of(y) == expected).all()
    tracked = quant.track_statistics(
        np.full(K, 1 << -quant.STATISTICS_EXPONENT), deviation, count, acc_exponent, 0
    )
    assert (layer.running_deviation.numpy() == tracked).all()

    wide = RNG.integers(-(10**7), 10**7, y.shape)
    y.backward(IntTensor(torch_of(wide), -40))
    e, exponent = quant.error_codes(np.where(expected > 0, wide, 0), -40)
    sums = [v.sum((0, 2, 3)) for v in (e, e * xhat, np.sign(xhat))]
    m0, m1, m2 = quant.batch_norm_error_means(*sums, count)
    factors, factor_exponent = quant.batch_norm_error_factors(gamma, mantissa, shift)
    if norm == "l1":
        inner = quant.batch_norm_gradient(e, xhat, m0, m1, m2, factors)
    else:
        inner = variants.batch_norm_gradient_std(e, xhat, m0, m1, factors)
    wide_exponent = exponent - 16 + factor_exponent - acc_exponent
    digits = error_digits(inner, wide_exponent, bits=bits, rounding=rounding)
    terms = zip(x.grad.terms, w.grad.terms, digits, strict=True)
    for (back, back_exponent), (outer, outer_exponent), (digit, found) in terms:
        assert (back.numpy() == quant.conv_input_gradient(digit, view, (4, 5), **options)).all()
        assert back_exponent == found - 16 + w_shift
        expected = quant.conv_weight_gradient(codes_of(x), digit, (3, 3), **options)
        assert (outer.numpy() == expected).all() and outer_exponent == found - 5


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_add_the_products_of_the_digits(transposed):
    x = IntTensor(torch_of(RNG.integers(-127, 128, (2, 3, 6, 5), np.int8)), -5).requires_grad_()
    w = IntTensor(torch_of(RNG.integers(-20000, 20001, (3, 3, 3, 3), np.int16)), -16)
    w.requires_grad_()
    options = dict(stride=(2, 2), padding=(1, 1, 1, 1))
    y = (F.conv_transpose_acc if transposed else F.conv_acc)(x, w, **options)
    high, low = (torch_of(RNG.integers(-127, 128, y.shape, np.int8)) for _ in range(2))
    y.backward(IntTensor.from_terms([(high, -12), (low, -20)]))
    e = 256 * high.numpy().astype(np.int64) + low.numpy()
    view, shift = quant.weight_codes(codes_of(w))
    if transposed:
        inner = quant.conv_transpose_input_gradient(e, view, **options)
        outer = quant.conv_transpose_weight_gradient(codes_of(x), e, (3, 3), **options)
    else:
        inner = quant.conv_input_gradient(e, view, (6, 5), **options)
        outer = quant.conv_weight_gradient(codes_of(x), e, (3, 3), **options)
    assert (codes_of(x.grad) == inner).all() and x.grad.exponent == -20 - 16 + shift
    assert (codes_of(w.grad) == outer).all() and w.grad.exponent == -20 - 5


@pytest.mark.parametrize("bits", [10, 24])
def test_update_with_other_masters(bits):
    """One step of SGD against the definition, with and without magnitude."""
    for magnitude in (True, False):
        recipe = Recipe(master_bits=bits, magnitude=magnitude)
        master, exponent = variants.master_from_16(
            RNG.integers(-30000, 30001, (2, 3, 1, 1)), -15, bits
        )
        dtype = torch.int16 if bits < 16 else torch.int32
        weight = torch.nn.Parameter(IntTensor(torch_of(master).to(dtype), exponent))
        optimizer = SGD([("w", weight)], seed=4, recipe=recipe)
        gradient = RNG.integers(-5000, 5001, master.shape)
        weight.grad = IntTensor(torch_of(gradient), -20)
        optimizer.step(Schedule(rate="1/4", steps=1).at(0))
        index = np.arange(master.size).reshape(master.shape)
        random = [random_bits(4, stream, index) for stream in range(3)]
        at = -20 if magnitude else variants.normalized_exponent(int(np.abs(gradient).max()))
        momentum = quant.momentum_update(
            *(np.zeros_like(master), exponent, gradient, at, master, exponent - 11),
            gradient_bits=8,
            random=(random[0], random[1]),
        )
        expected = quant.weight_update(
            *(master, exponent, *momentum, quant.learning_rate(1, 4)),
            fixed=False,
            random=random[2],
            limit=variants.master_limit(bits),
        )
        assert (weight.codes.numpy() == expected[0]).all()
        assert (weight.codes.dtype, weight.exponent) == (dtype, expected[1])


def batch(N, height, width, classes):
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (N, 3, height, width), dtype=torch.uint8, generator=g)
    y = torch.randint(0, classes, (N, height, width), dtype=torch.uint8, generator=g)
    return x, y


def train_steps(name, recipe, count=2):
    from intaglio.nn.loss import SoftmaxCrossEntropy

    model = build(name, classes=3, width="1/8", seed=2)
    draws = apply_recipe(model, recipe, seed=3)
    optimizer = SGD(model.named_parameters(), seed=3, recipe=recipe)
    x, y = batch(2, 32, 32, 3)
    for number in range(count):
        draws.step = number
        optimizer.zero_grad()
        SoftmaxCrossEntropy()(model(x), y).backward()
        optimizer.step(Schedule(rate="1/64", steps=10).at(number))
    return model, weights_digest(model), x


def test_whole_steps_differ_by_recipe_alone():
    """Every rule changes the bytes, and nothing but the rules and the seed does."""
    recipes = [
        Recipe(),
        Recipe(error_rounding="nearest"),
        Recipe(error_rounding="stochastic"),
        Recipe(error_bits=9, error_rounding="stochastic"),
        Recipe(error_bits=16),
        Recipe(norm="l2"),
        Recipe(master_bits=24),
        Recipe(magnitude=False),
    ]
    digests = [train_steps("deeplab-mini", recipe)[1] for recipe in recipes]
    assert len(set(digests)) == len(recipes)
    again = train_steps("deeplab-mini", recipes[3])[1]
    assert again == digests[3]


@pytest.mark.parametrize("name", ["fcn-mini", "deeplab-mini"])
def test_networks_of_a_recipe_are_frozen_like_others(name):
    recipe = Recipe(error_bits=16, norm="l2", master_bits=20)
    model, _, x = train_steps(name, recipe)
    graph = to_graph(model.eval(), height=32, width=32)
    codes = (x[:1].to(torch.int16) - 128).to(torch.int8)
    values = graph.evaluate(codes.numpy())
    assert (predict(model, codes).numpy() == values[graph.outputs[0]][:, 0]).all()
