"""Integer operations on :class:`IntTensor`, differentiable, for training.

They are autograd Functions whose forward and backward carry integers only. Those of inference are
in :mod:`intaglio.nn.inference`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from intaglio.nn import kernels, workers
from intaglio.nn.conv_norm import Accumulators
from intaglio.nn.error_scale import ErrorScale, quantize_error
from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.operations import Window, check_channels, nchw, nhwc
from intaglio.nn.operations import add as add_maps
from intaglio.nn.product import Product
from intaglio.nn.views import Pair, device_like, host, lower_bound, take, wide_nhwc
from intaglio.spec import ops, quant

__all__ = [
    "INPUT_EXPONENT",
    "add",
    "add_attributes",
    "broadcast",
    "concat",
    "conv",
    "conv_acc",
    "conv_transpose_acc",
    "global_average",
    "max_pool",
    "quantize_image",
    "requantize_bias",
    "resize",
    "resize_wide",
    "softmax_cross_entropy",
]

Padding = tuple[int, int, int, int]

#: Exponent of a network's input: code = pixel - 128, so values are in [-1, 1).
INPUT_EXPONENT = -7


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: IntTensor, weight: IntTensor, window: Window, transposed: bool
    ) -> IntTensor:
        ctx.product = Product(x, weight, window, transposed=transposed)
        return IntTensor(nchw(ctx.product.accumulators()), ctx.product.exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        digits = [(nhwc(codes), e) for codes, e in gradient.terms]
        assert all(codes.dtype == torch.int8 for codes, _ in digits), "a digit has 8 bits"
        return *ctx.product.gradients(digits, ctx.needs_input_grad[0]), None, None


class _RequantizeBias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, acc: IntTensor, bias: IntTensor, exponent: int, relu: bool, scale: ErrorScale
    ) -> IntTensor:
        codes = nhwc(acc.codes)
        *pair, shift = quant.bias_multiplier(host(bias.codes), acc.exponent, exponent)
        low = lower_bound(relu)
        m, b = (device_like(x, codes) for x in pair)
        y = kernels.active().requantize(codes, m, b, shift, None, 0, low, quant.CODE_LIMIT)
        ctx.y, ctx.low, ctx.scale = y, low, scale
        return IntTensor(nchw(y), exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        (y,) = take(ctx, "y")
        if ctx.scale.variant is None:
            digits = [quantize_error(gradient, y, ctx.low, ctx.scale)]
        else:
            wide, exponent = wide_nhwc(gradient)
            digits = ctx.scale.variant.digits(wide, exponent, y, ctx.low)
        error = [(nchw(e), exponent) for e, exponent in digits]
        sums = kernels.active().error_sums
        total = [(sums(e.reshape(-1, e.shape[3])), exponent) for e, exponent in digits]
        return IntTensor.from_terms(error), IntTensor.from_terms(total), None, None, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: IntTensor, window: Window) -> IntTensor:
        inside = nhwc(x.codes)
        size = window.output((x.shape[2], x.shape[3]))
        y, winner = kernels.active().max_pool(
            inside, window.kernel, window.stride, window.padding, size
        )
        ctx.winner, ctx.window, ctx.size = winner, window, (x.shape[2], x.shape[3])
        return IntTensor(nchw(y), x.exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        w = ctx.window
        (winner,) = take(ctx, "winner")
        terms = []
        # Each term on its own: their sum would take 64 bits.
        for codes, exponent in gradient.terms:
            e = _widened(nhwc(codes), w)
            wide = kernels.active().max_pool_gradient(
                e, winner, w.kernel, w.stride, w.padding, ctx.size
            )
            terms.append((nchw(wide), exponent))
        return IntTensor.from_terms(terms), None


def _widened(e: torch.Tensor, window: Window) -> torch.Tensor:
    """Return errors in a type that holds the sum of those of all windows that share an element."""
    shared = math.prod(-(-window.kernel[i] // window.stride[i]) for i in (0, 1))
    if shared == 1 or e.dtype == torch.int64:
        return e
    low, high = e.aminmax()
    fits = max(-int(low), int(high)) * shared < 1 << 31
    return e.to(torch.int32 if fits else torch.int64)


class _GlobalAverage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: IntTensor) -> IntTensor:
        ctx.size = x.shape[2], x.shape[3]
        m, shift = quant.average_pool_multiplier(x.shape[2] * x.shape[3])
        return IntTensor(_average(x, m, shift), x.exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        m, shift = quant.average_pool_multiplier(ctx.size[0] * ctx.size[1])
        wide = gradient.codes.to(torch.int64) * m
        return IntTensor(wide.expand(-1, -1, *ctx.size), gradient.exponent - shift)


def _average(x: IntTensor, m: int, shift: int) -> torch.Tensor:
    total = kernels.active().average_sum(nhwc(x.codes))
    y = ((total * m + ((1 << shift) >> 1)) >> shift).clamp_(-quant.CODE_LIMIT, quant.CODE_LIMIT)
    return nchw(y.to(torch.int8))


class _Broadcast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: IntTensor, size: Pair) -> IntTensor:
        return IntTensor(nchw(nhwc(x.codes.expand(-1, -1, *size))), x.exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        total = gradient.codes.sum((2, 3), keepdim=True, dtype=torch.int64)
        return IntTensor(total, gradient.exponent), None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: IntTensor, b: IntTensor, exponent: int, relu: bool) -> IntTensor:
        y = add_maps(
            [nhwc(a.codes), nhwc(b.codes)],
            **add_attributes(a.exponent, b.exponent, exponent, relu),
        )
        ctx.y, ctx.low = y, lower_bound(relu)
        return IntTensor(nchw(y), exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        (y,) = take(ctx, "y")
        e, exponent = wide_nhwc(gradient)
        gradient = IntTensor(nchw(quant.through_saturation(e, y, ctx.low)), exponent)
        return gradient, gradient, None, None


def add_attributes(a: int, b: int, exponent: int, relu: bool) -> dict[str, int]:
    common = min(a, b, exponent)
    return {
        "shift_a": a - common,
        "shift_b": b - common,
        "shift": exponent - common,
        "low": lower_bound(relu),
        "high": quant.CODE_LIMIT,
    }


class _Concat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: IntTensor) -> IntTensor:
        ctx.channels = [x.shape[1] for x in inputs]
        return IntTensor(_concat_codes(inputs), inputs[0].exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        parts, start = [], 0
        for channels in ctx.channels:
            terms = [(c[:, start : start + channels], e) for c, e in gradient.terms]
            parts.append(IntTensor.from_terms(terms))
            start += channels
        return tuple(parts)


def _concat_codes(inputs: Sequence[IntTensor]) -> torch.Tensor:
    exponents = [x.exponent for x in inputs]
    if len(set(exponents)) != 1:
        raise ValueError(f"concatenated maps must have one exponent, not {exponents}")
    return nchw(torch.cat([nhwc(x.codes) for x in inputs], 3))


class _ResizeWide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: IntTensor, ratio: Pair, corners: str) -> IntTensor:
        rows = ops.resize_source(x.shape[2], ratio[0], corners)
        columns = ops.resize_source(x.shape[3], ratio[1], corners)
        area = rows[3] * columns[3]
        if area & (area - 1):
            raise ValueError(
                f"while training a resize is exact only for ratios that are powers of two, "
                f"not {ratio}"
            )
        ctx.tables, ctx.size, ctx.bits = (
            (rows, columns),
            (x.shape[2], x.shape[3]),
            quant.log2_ceil(area),
        )
        wide = kernels.active().resize_wide(nhwc(x.codes), rows, columns)
        return IntTensor(nchw(wide), x.exponent - ctx.bits)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        e, exponent = wide_nhwc(gradient)
        wide = kernels.active().resize_gradient(e, ctx.size, *ctx.tables)
        return IntTensor(nchw(wide), exponent - ctx.bits), None, None


class _ResizeRounded(torch.autograd.Function):
    """The resize of inference inside a network; the gradient is that of the exact resize."""

    @staticmethod
    def forward(ctx: Any, x: IntTensor, ratio: Pair, corners: str) -> IntTensor:
        rows = ops.resize_source(x.shape[2], ratio[0], corners)
        columns = ops.resize_source(x.shape[3], ratio[1], corners)
        ctx.tables, ctx.size = (rows, columns), (x.shape[2], x.shape[3])
        ctx.area = rows[3] * columns[3]
        division = ops.resize_scale(ratio, corners).division
        y = kernels.active().resize_rounded(nhwc(x.codes), rows, columns, division)
        return IntTensor(nchw(y), x.exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        e, exponent = wide_nhwc(gradient)
        wide = kernels.active().resize_gradient(e, ctx.size, *ctx.tables)
        # The weights of the adjoint add up to the area, which need not be a power of two here.
        bits = quant.log2_ceil(ctx.area)
        if ctx.area != 1 << bits:
            m, shift = quant.average_pool_multiplier(ctx.area)
            return IntTensor(nchw(wide.to(torch.int64) * m), exponent - shift), None, None
        return IntTensor(nchw(wide), exponent - bits), None, None


class _SoftmaxCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: IntTensor, labels: torch.Tensor, void: int) -> IntTensor:
        wide, exponent = wide_nhwc(logits)
        error, loss, _ = kernels.active().softmax_cross_entropy(wide, exponent, labels, void)
        ctx.error, ctx.pixels = error, labels.numel() * workers.count()
        parts = workers.gather(torch.tensor([loss], dtype=torch.int64))
        mean = quant.round_divide(quant.merge_losses(parts.tolist()), ctx.pixels)
        code = torch.tensor(mean, dtype=torch.int64).to(labels.device)
        return IntTensor(code, quant.LOG_EXPONENT)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        if int(gradient.codes) != 1 or gradient.exponent != 0:
            raise ValueError("a loss is differentiated alone: scale the learning rate instead")
        (error,) = take(ctx, "error")
        return IntTensor(nchw(error), -7 - (ctx.pixels.bit_length() - 1)), None, None


def quantize_image(images: torch.Tensor) -> IntTensor:
    """Return images (N, C, H, W) at INPUT_EXPONENT: uint8 pixels minus 128, or int8 codes as is."""
    if images.dim() != 4 or images.dtype not in (torch.uint8, torch.int8):
        raise TypeError(
            f"images must be uint8 or int8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}"
        )
    if images.dtype == torch.int8:
        return IntTensor(nchw(nhwc(images)), INPUT_EXPONENT)
    return IntTensor(nchw(kernels.active().image_codes(images)), INPUT_EXPONENT)


#: The windows of the layers, which ask for them in every step.
_shared_window = functools.lru_cache(256)(Window)


def _window(
    x: IntTensor, weight: IntTensor, stride: Pair, padding: Padding, dilation: Pair
) -> Window:
    """Return the window of a convolution of a map of the right channels."""
    check_channels(x.shape[1], weight.shape[1])
    return _shared_window((weight.shape[2], weight.shape[3]), stride, padding, dilation)


def conv(
    x: IntTensor,
    weight: IntTensor,
    *,
    stride: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
) -> Accumulators:
    """Return the accumulators of a convolution for a batch norm; weight is an int16 master
    (K, C, R, S).
    """
    window = _window(x, weight, stride, padding, dilation)
    return Accumulators(x, weight, window)


def conv_acc(
    x: IntTensor,
    weight: IntTensor,
    *,
    stride: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
) -> IntTensor:
    """Return the int32 accumulators of a convolution, with a gradient; as :func:`conv`."""
    window = _window(x, weight, stride, padding, dilation)
    return _Conv.apply(x, weight, window, False)


def conv_transpose_acc(
    x: IntTensor, weight: IntTensor, *, stride: Pair, padding: Padding = (0, 0, 0, 0)
) -> IntTensor:
    """Return the int32 accumulators of a transposed convolution, master (C, K, R, S)."""
    check_channels(x.shape[1], weight.shape[0])
    window = Window((weight.shape[2], weight.shape[3]), stride, padding, (1, 1))
    return _Conv.apply(x, weight, window, True)


def requantize_bias(
    acc: IntTensor, bias: IntTensor, *, exponent: int, relu: bool, scale: ErrorScale
) -> IntTensor:
    """Return ``acc + bias`` as int8 at ``exponent``."""
    return _RequantizeBias.apply(acc, bias, exponent, relu, scale)


def max_pool(x: IntTensor, *, kernel: Pair, stride: Pair, padding: Padding) -> IntTensor:
    """Return the maxima of the windows."""
    return _MaxPool.apply(x, Window(kernel, stride, padding, (1, 1)))


def global_average(x: IntTensor) -> IntTensor:
    """Return the mean over the pixels, int8 (N, C, 1, 1), at the exponent of ``x``."""
    return _GlobalAverage.apply(x)


def broadcast(x: IntTensor, size: Pair) -> IntTensor:
    """Return (N, C, 1, 1) repeated to ``size``."""
    return _Broadcast.apply(x, size)


def add(a: IntTensor, b: IntTensor, *, exponent: int, relu: bool = False) -> IntTensor:
    """Return the sum, rounded once, int8 at ``exponent``."""
    return _Add.apply(a, b, exponent, relu)


def concat(*inputs: IntTensor) -> IntTensor:
    """Return maps of one exponent joined along the channels."""
    return _Concat.apply(*inputs)


def resize_wide(x: IntTensor, *, ratio: Pair, corners: str) -> IntTensor:
    """Return the exact bilinear resize, int32, for the loss; ratios are powers of two."""
    return _ResizeWide.apply(x, ratio, corners)


def resize(x: IntTensor, *, ratio: Pair, corners: str) -> IntTensor:
    """Return the bilinear resize as inference does it, rounded once, int8."""
    return _ResizeRounded.apply(x, ratio, corners)


def softmax_cross_entropy(logits: IntTensor, labels: torch.Tensor, *, void: int = 255) -> IntTensor:
    """Return the mean loss over all pixels, void ones counting zero; labels (N, H, W) integers.

    The error that goes backward is ``p - [k = y]`` times 2**-floor(log2 pixels): what is left of
    the division by the number of pixels belongs into the learning rate.
    """
    if labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    return _SoftmaxCrossEntropy.apply(logits, labels, void)
