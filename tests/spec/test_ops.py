"""The operations against others: ONNX's own test data, torch in float64 (exact here), fractions."""

import functools
import itertools
import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from intaglio.spec import ops
from intaglio.spec.arith import exact_division, round_shift

torch = pytest.importorskip("torch")
functional = torch.nn.functional

RANDOM = dict(low=-128, high=128, dtype=np.int8)
#: A requantisation that changes nothing but the type, for sums that are codes already.
PLAIN = dict(shift=0, low=-128, high=127)


def double(x: np.ndarray) -> Any:
    """Return ``x`` as a float64 tensor: sums of its products stay exact below 2**53."""
    return torch.from_numpy(np.asarray(x).astype(np.float64))


def exact_integers(x: Any) -> np.ndarray:
    """Return a float64 tensor of integers as int64."""
    array = x.numpy()
    assert (array == np.rint(array)).all()
    return array.astype(np.int64)


# --------------------------------------------------------------------------------------- ONNX data


@functools.cache
def onnx_cases() -> dict[str, Any]:
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about casts in other operators' data
        from onnx.backend.test.case.node import collect_testcases

        return {case.name: case for case in collect_testcases(None)}


def onnx_data(name: str) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray]]:
    """Return attributes, inputs and outputs of one of ONNX's operator tests."""
    case = onnx_cases()[name]
    attributes = {}
    for attribute in case.model.graph.node[0].attribute:
        value = attribute.ints or attribute.i or attribute.s
        attributes[attribute.name] = tuple(value) if attribute.ints else value
    inputs, outputs = case.data_sets[0]
    return attributes, list(inputs), list(outputs)


def geometry(attributes: dict[str, Any]) -> dict[str, Any]:
    return dict(
        stride=attributes.get("strides", (1, 1)),
        padding=attributes.get("pads", (0, 0, 0, 0)),
        dilation=attributes.get("dilations", (1, 1)),
    )


@pytest.mark.parametrize(
    "name", ["test_convinteger_without_padding", "test_convinteger_with_padding"]
)
def test_onnx_conv_integer(name: str) -> None:
    """With a zero point folded as the design says: into the padding code and the bias."""
    attributes, inputs, (expected,) = onnx_data(name)
    x, weight, zero_point = (np.asarray(v).astype(np.int64) for v in inputs[:3])
    if len(inputs) == 4:
        weight = weight - inputs[3].astype(np.int64).reshape(-1, 1, 1, 1)
    assert zero_point != 0
    acc = ops.conv_accumulate(x, weight, pad_code=int(zero_point), **geometry(attributes))
    bias = -int(zero_point) * weight.sum((1, 2, 3))
    assert expected.dtype == np.int32
    np.testing.assert_array_equal(acc + bias.reshape(1, -1, 1, 1), expected)


def test_onnx_matmul_integer() -> None:
    """A product of matrices is a 1 x 1 convolution over the rows."""
    _, (a, b, a_zero, b_zero), (expected,) = onnx_data("test_matmulinteger")
    a = (a.astype(np.int64) - a_zero.astype(np.int64)).T[None, :, :, None]  # (1, C, rows, 1)
    weight = (b.astype(np.int64) - b_zero.astype(np.int64)).T[:, :, None, None]
    plain = dict(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1))
    acc = ops.conv_accumulate(a, weight, **plain)
    np.testing.assert_array_equal(acc[0, :, :, 0].T, expected)


@pytest.mark.parametrize(
    "name",
    [
        "test_basic_conv_with_padding",
        "test_basic_conv_without_padding",
        "test_conv_with_strides_padding",
        "test_conv_with_strides_no_padding",
        "test_conv_with_strides_and_asymmetric_padding",
    ],
)
def test_onnx_conv(name: str) -> None:
    attributes, (x, weight), (expected,) = onnx_data(name)
    acc = ops.conv_accumulate(x, weight, **geometry(attributes))
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("name", ["test_convtranspose", "test_convtranspose_pads"])
def test_onnx_conv_transpose(name: str) -> None:
    attributes, (x, weight), (expected,) = onnx_data(name)
    acc = ops.conv_transpose_accumulate(
        x,
        weight,
        stride=attributes.get("strides", (1, 1)),
        padding=attributes.get("pads", (0, 0, 0, 0)),
    )
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize(
    "name",
    [
        "test_maxpool_2d_uint8",
        "test_maxpool_2d_precomputed_pads",
        "test_maxpool_2d_precomputed_strides",
    ],
)
def test_onnx_max_pool(name: str) -> None:
    attributes, (x,), (expected,) = onnx_data(name)
    y = ops.max_pool(
        x,
        kernel=attributes["kernel_shape"],
        stride=attributes.get("strides", (1, 1)),
        padding=attributes.get("pads", (0, 0, 0, 0)),
    )
    np.testing.assert_array_equal(y, expected)


def test_onnx_average_pool() -> None:
    attributes, (x,), (expected,) = onnx_data("test_averagepool_2d_precomputed_strides")
    kernel = attributes["kernel_shape"]
    _, multiplier, bias, shift = exact_division(math.prod(kernel), 1000)
    y = ops.avg_pool(
        x,
        [multiplier],
        [bias],
        kernel=kernel,
        stride=attributes["strides"],
        padding=(0, 0, 0, 0),
        **(PLAIN | {"shift": shift}),
    )
    np.testing.assert_array_equal(y, expected)


def test_onnx_resize_half_pixel() -> None:
    _, (x, scales), (expected,) = onnx_data("test_resize_upsample_scales_linear")
    ratio = (int(scales[2]), int(scales[3]))
    # Sixteen times its values are codes, and all sixteenths of the result are exact.
    y = ops.resize(16 * x, ratio=ratio, corners="half_pixel")
    np.testing.assert_array_equal(y, 16 * expected)
    assert (16 * expected % 1 == 0).all()


def test_onnx_argmax() -> None:
    _, (x,), (expected,) = onnx_data("test_argmax_keepdims_example")
    np.testing.assert_array_equal(ops.argmax(x[:, :, None, None])[:, :, 0, 0], expected)


# ------------------------------------------------------------------------------- torch in float64


@pytest.mark.parametrize("seed", range(20))
def test_conv_is_that_of_torch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stride, dilation = rng.integers(1, 4, 2), rng.integers(1, 4, 2)
    kernel = rng.integers(1, 4, 2)
    top, left, bottom, right = (int(v) for v in rng.integers(0, 4, 4))
    size = (kernel - 1) * dilation + 1 + rng.integers(0, 6, 2)
    x = rng.integers(**RANDOM, size=(2, 5, *size))
    weight = rng.integers(**RANDOM, size=(6, 5, *kernel))
    pad_code = int(rng.integers(-128, 128))
    acc = ops.conv_accumulate(
        x,
        weight,
        stride=tuple(stride),
        padding=(top, left, bottom, right),
        dilation=tuple(dilation),
        pad_code=pad_code,
    )
    padded = functional.pad(double(x), (left, right, top, bottom), value=pad_code)
    expected = functional.conv2d(
        padded, double(weight), stride=stride.tolist(), dilation=dilation.tolist()
    )
    np.testing.assert_array_equal(acc, exact_integers(expected))


@pytest.mark.parametrize("seed", range(12))
def test_conv_transpose_is_that_of_torch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stride, kernel = rng.integers(1, 4, 2), rng.integers(1, 6, 2)
    x = rng.integers(**RANDOM, size=(2, 5, *rng.integers(2, 6, 2)))
    weight = rng.integers(**RANDOM, size=(5, 3, *kernel))
    # The full output has at least stride + kernel rows, so that something is left.
    top, left = (int(rng.integers(0, k)) for k in kernel)
    bottom, right = (int(rng.integers(0, s)) for s in stride)
    full = functional.conv_transpose2d(double(x), double(weight), stride=stride.tolist())
    expected = full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]
    acc = ops.conv_transpose_accumulate(
        x, weight, stride=tuple(stride), padding=(top, left, bottom, right)
    )
    np.testing.assert_array_equal(acc, exact_integers(expected))


@pytest.mark.parametrize("seed", range(12))
def test_pools_are_those_of_torch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    padding = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    x = rng.integers(**RANDOM, size=(2, 3, *(kernel + rng.integers(0, 6, 2))))
    both = dict(kernel=tuple(kernel), stride=tuple(stride), padding=(*padding, *padding))
    expected = functional.max_pool2d(double(x), kernel.tolist(), stride.tolist(), padding)
    np.testing.assert_array_equal(ops.max_pool(x, **both), exact_integers(expected))

    total = functional.avg_pool2d(
        double(x), kernel.tolist(), stride.tolist(), padding, divisor_override=1
    )
    area = int(np.prod(kernel))
    _, multiplier, bias, shift = exact_division(area, 128 * area)
    y = ops.avg_pool(x, [multiplier], [bias], **both, **(PLAIN | {"shift": shift}))
    np.testing.assert_array_equal(y, (2 * exact_integers(total) + area) // (2 * area))


@pytest.mark.parametrize("corners", ops.CORNERS)
@pytest.mark.parametrize("ratio", [(1, 1), (2, 2), (3, 2), (4, 5), (8, 1), (7, 3), (16, 16)])
def test_resize_is_that_of_torch(corners: str, ratio: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(**RANDOM, size=(2, 3, 5, 4))
    x[0, 0] = [[-128, 127, -128, 127]] * 5
    size = [ops.resize_size(n, f, corners) for n, f in zip((5, 4), ratio, strict=True)]
    exact = functional.interpolate(
        double(x), size=size, mode="bilinear", align_corners=corners == "align"
    )
    # The result is a multiple of 1 / area; float64 is far closer to it than to its neighbours.
    area = math.prod(2 * f if corners == "half_pixel" else f for f in ratio)
    numerator = np.rint(exact.numpy() * area)
    assert np.abs(exact.numpy() * area - numerator).max() < 1e-6
    numerator = numerator.astype(np.int64)
    y = ops.resize(x, ratio=ratio, corners=corners)
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, (2 * numerator + area) // (2 * area))


@pytest.mark.parametrize("corners", ops.CORNERS)
def test_equal_ratios_up_to_25_are_exact(corners: str) -> None:
    ratios = [(f, f) for f in range(1, 26)]
    for ratio in [*ratios, *itertools.product(range(1, 18), repeat=2)]:
        assert ops.resize_scale(ratio, corners).exact, ratio


@pytest.mark.parametrize("corners", ops.CORNERS)
def test_closest_ratios_are_close(corners: str) -> None:
    """What the largest sum is off by, in codes."""
    ratios = [(f, g) for f in range(1, 128, 3) for g in (f, 126, 127)]
    for ratio in ratios:
        scale = ops.resize_scale(ratio, corners)
        exact = Fraction(1, math.prod(scale.dens))
        error = abs(Fraction(scale.factor * scale.multiplier, 1 << scale.shift) - exact) / exact
        assert scale.exact or 128 * error < Fraction(1, 200), ratio


@pytest.mark.parametrize("corners", ops.CORNERS)
@pytest.mark.parametrize("ratio", [(30, 30), (53, 53), (28, 32), (127, 127), (31, 126)])
def test_resize_is_exact_or_the_closest(corners: str, ratio: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(**RANDOM, size=(1, 6, 3, 2))
    x[0, 0], x[0, 1] = -128, 127
    x[0, 2] = [[-128, 127]] * 3
    top, bottom, f, rows = ops.resize_source(3, ratio[0], corners)
    left, right, g, cols = ops.resize_source(2, ratio[1], corners)
    across = x[..., left] * (cols - g) + x[..., right] * g
    total = across[:, :, top] * (rows - f)[:, None] + across[:, :, bottom] * f[:, None]
    area = rows * cols
    exact = (2 * total + area) // (2 * area)
    y = ops.resize(x, ratio=ratio, corners=corners)
    scale = ops.resize_scale(ratio, corners)
    if not scale.exact:
        # Off by one, and only within a hundredth of a tie.
        near_tie = np.abs((2 * total + area) % (2 * area) - area) * 100 > 98 * area
        assert np.abs(y - exact).max() <= 1
        exact = np.where(near_tie, y, exact)
    np.testing.assert_array_equal(y, exact)
    # What the machine does: sums over the smaller denominators, one multiplier.
    common = area // (scale.dens[0] * scale.dens[1])
    assert not (total % common).any()
    sums = scale.factor * (total // common) * scale.multiplier + scale.bias
    np.testing.assert_array_equal(y, round_shift(sums, scale.shift))


# --------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("corners", ops.CORNERS)
@pytest.mark.parametrize(("size", "ratio"), [*itertools.product((1, 2, 5), (1, 2, 3, 7, 127))])
def test_resize_source_in_fractions(corners: str, size: int, ratio: int) -> None:
    lower, upper, fraction, denominator = ops.resize_source(size, ratio, corners)
    assert len(lower) == ops.resize_size(size, ratio, corners)
    assert len(lower) == (size * ratio if corners == "half_pixel" else (size - 1) * ratio + 1)
    for i, (low, high, part) in enumerate(zip(lower, upper, fraction, strict=True)):
        where = Fraction(2 * i + 1 - ratio, 2 * ratio)  # (i + 1/2) / ratio - 1/2
        if corners == "align":
            where = Fraction(i, ratio)
        assert 0 <= part < denominator
        below = math.floor(where)
        assert Fraction(int(part), denominator) == where - below
        assert low == min(max(below, 0), size - 1)
        assert high == min(max(below + 1, 0), size - 1)


def test_requantisation_of_a_convolution() -> None:
    x = np.array([[[[3, -3]], [[1, 1]]]], np.int8)  # (1, 2, 1, 2)
    weight = np.array([[1, 0], [0, 1], [127, 127]], np.int8)[:, :, None, None]
    residual = np.array([[[[1, 1]], [[-128, 127]], [[0, 0]]]], np.int8)
    y = ops.conv(
        x,
        weight,
        [1, -5, 1],
        [0, 1, 0],
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        pad_code=0,
        shift=1,
        low=-100,
        high=120,
        residual=residual,
        residual_shift=1,
    )
    assert y.dtype == np.int8
    # (3 + 2) / 2 = 2.5, (-3 + 2) / 2 = -0.5: up. (-5 + 1 - 256) / 2, (-5 + 1 + 254) / 2: limited.
    np.testing.assert_array_equal(y[0, :, 0], [[3, 0], [-100, 120], [120, -100]])


def test_without_a_residual() -> None:
    x = np.array([[[[5]]]], np.int8)
    y = ops.conv(
        x,
        np.array([[[[2]]]], np.int8),
        [3],
        [4],
        stride=(1, 1),
        padding=(1, 0, 0, 2),
        dilation=(1, 1),
        pad_code=-1,
        **PLAIN,
    )
    np.testing.assert_array_equal(y, [[[[-2, -2, -2], [34, -2, -2]]]])


def test_accumulators_do_not_wrap() -> None:
    x = np.full((1, 1, 1, 1), 1 << 30)
    plain = dict(stride=(1, 1), padding=(0, 0, 0, 0))
    weight = np.full((1, 1, 1, 1), 2)
    text = r"accumulator \[2147483648, 2147483648\] exceeds \[-2147483648, 2147483647\]"
    with pytest.raises(OverflowError, match=text):
        ops.conv_accumulate(x, weight, dilation=(1, 1), **plain)
    with pytest.raises(OverflowError, match=text):
        ops.conv_transpose_accumulate(x, weight, **plain)
    with pytest.raises(OverflowError, match=text):
        ops.avg_pool(2 * x, [1], [0], kernel=(1, 1), **plain, **PLAIN)
    assert ops.conv_accumulate(-x, weight, dilation=(1, 1), **plain)[0, 0, 0, 0] == -(1 << 31)


def test_max_pool_never_takes_the_padding() -> None:
    x = np.full((1, 1, 2, 2), -128, np.int8)
    y = ops.max_pool(x, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1))
    np.testing.assert_array_equal(y, x)


def test_average_pool_counts_padding_as_zero() -> None:
    x = np.full((1, 1, 2, 2), 8, np.int8)
    y = ops.avg_pool(
        x, [1], [0], kernel=(2, 2), stride=(1, 1), padding=(1, 1, 1, 1), shift=2, low=-128, high=127
    )
    np.testing.assert_array_equal(y[0, 0], [[2, 4, 2], [4, 8, 4], [2, 4, 2]])


@pytest.mark.parametrize(("shift_a", "shift_b", "shift"), [(0, 0, 0), (1, 0, 2), (3, 5, 4)])
def test_add(shift_a: int, shift_b: int, shift: int) -> None:
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    y = ops.add(a, b, shift_a=shift_a, shift_b=shift_b, shift=shift, low=-90, high=100)
    exact = a * 2**shift_a + b * 2**shift_b
    expected = np.minimum(np.maximum((2 * exact + 2**shift) // 2 ** (shift + 1), -90), 100)
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, expected)


def test_concat_broadcast_argmax() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(**RANDOM, size=(2, 3, 4, 5)), rng.integers(**RANDOM, size=(2, 1, 4, 5))
    joined = ops.concat(a, b, a)
    assert joined.dtype == np.int8
    assert joined.shape == (2, 7, 4, 5)
    np.testing.assert_array_equal(joined[:, 3], b[:, 0])
    np.testing.assert_array_equal(joined[:, 4:], a)

    small = rng.integers(**RANDOM, size=(2, 3, 1, 1))
    wide = ops.broadcast(small, size=(4, 6))
    assert wide.shape == (2, 3, 4, 6)
    assert (wide == small).all()

    classes = ops.argmax(a)
    assert (classes.dtype, classes.shape) == (np.uint8, (2, 1, 4, 5))
    for n, h, w in itertools.product(range(2), range(4), range(5)):
        column = a[n, :, h, w].tolist()
        assert classes[n, 0, h, w] == column.index(max(column))
    assert ops.argmax(np.zeros((1, 256, 1, 1), np.int8))[0, 0, 0, 0] == 0
    assert ops.argmax(np.zeros((1, 257, 1, 1), np.int8)).dtype == np.uint16
    last = np.zeros((1, 256, 1, 1), np.int8)
    last[0, 255] = 1
    assert ops.argmax(last)[0, 0, 0, 0] == 255


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after", "dilation", "expected"),
    [(5, 3, 1, 0, 0, 1, 3), (5, 3, 2, 1, 1, 1, 3), (5, 3, 1, 0, 0, 2, 1), (4, 3, 1, 0, 0, 2, 0)],
)
def test_output_size(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int, expected: int
) -> None:
    assert ops.output_size(size, kernel, stride, before, after, dilation) == expected
