"""Integer operations on :class:`IntTensor`: differentiable for training, recorded for inference.

Training operations are autograd Functions whose forward and backward carry integers only.
Inference has one door, :func:`graph_op`: it runs an operation of the frozen graph and, inside
:func:`record`, appends it to the graph that is being built. So a model in eval mode *is* its frozen
graph.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from intaglio.nn import kernels, variants, workers
from intaglio.nn.int_tensor import IntTensor, Late, Stamp
from intaglio.nn.operations import (
    OPERATIONS,
    PreparedConv,
    Window,
    check_channels,
    check_residual,
    nchw,
    nhwc,
)
from intaglio.nn.operations import add as add_maps
from intaglio.spec import ops, quant
from intaglio.spec.graph import Graph, GraphBuilder

__all__ = [
    "INPUT_EXPONENT",
    "Accumulators",
    "ErrorScale",
    "PendingConv",
    "Recorder",
    "add",
    "broadcast",
    "concat",
    "conv",
    "conv_acc",
    "conv_transpose_acc",
    "global_average",
    "graph_op",
    "max_pool",
    "quantize_image",
    "record",
    "requantize_bias",
    "resize_wide",
    "softmax_cross_entropy",
    "to_graph",
]

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]

#: Exponent of a network's input: code = pixel - 128, so values are in [-1, 1).
INPUT_EXPONENT = -7

# --- layout and windows -----------------------------------------------------------------------


def _terms(gradient: IntTensor) -> list[tuple[torch.Tensor, int]]:
    return [(codes.permute(0, 2, 3, 1), e) for codes, e in gradient.terms]


def _wide_nhwc(gradient: IntTensor) -> tuple[torch.Tensor, int]:
    return nhwc(gradient.codes), gradient.exponent


def _weight_view(
    weight: IntTensor, taps: tuple[slice, slice] | None = None
) -> tuple[torch.Tensor, int]:
    """Return the int8 codes of a master, or of some of its taps, and their exponent."""
    # Masters of other than 16 bits are a variant, which the plain kernels alone know.
    k = kernels.active() if weight.codes.dtype == torch.int16 else kernels.plain
    codes, weight.shift_guess = k.weight_codes(weight.codes, taps, weight.shift_guess)
    return codes, weight.exponent + weight.shift_guess


def _affine_view(master: IntTensor) -> torch.Tensor:
    """Return gamma or beta as int64 codes at AFFINE_EXPONENT."""
    return torch.from_numpy(quant.affine_codes(_host(master.codes))).to(master.codes.device)


def _host(x: torch.Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def _device(x: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.int64)).to(like.device)


# --- error scales -----------------------------------------------------------------------------


class ErrorScale:
    """A guess of the shift that quantises an error tensor: the scale of the step before.

    Quantising needs the tensor's maximum first, which is a pass over the data. With the guess both
    are done in one pass, which is repeated where the guess was wrong: the result never depends on
    the guess, and it is no part of a checkpoint.

    ``variant``, if any, replaces this quantiser by another one (see :mod:`intaglio.nn.recipe`).
    """

    def __init__(self) -> None:
        self.guess: int | None = None
        self.variant: variants.ErrorVariant | None = None

    def quantize(
        self, exponent: int, run: Callable[[int], tuple[torch.Tensor, int]]
    ) -> tuple[torch.Tensor, int]:
        """Return the codes and exponent of a wide error at ``exponent``.

        ``run(shift)`` returns the codes for a right shift and the largest magnitude before it.
        """
        shift = 0 if self.guess is None else max(self.guess - 7 - exponent, 0)
        codes, maximum = run(shift)
        maximum = workers.maximum(maximum)
        right = quant.scale_shift(maximum, 8)
        if right != shift:
            codes, _ = run(right)
        self.guess = exponent + quant.log2_ceil(maximum)
        return codes, exponent + right


def _low(relu: bool) -> int:
    """Return the lower bound of the saturation that makes int8 codes."""
    return 0 if relu else -quant.CODE_LIMIT


def _quantize(
    gradient: IntTensor, y: torch.Tensor, low: int, scale: ErrorScale
) -> tuple[torch.Tensor, int]:
    """Return the 8-bit codes (N, H, W, C) of a wide gradient and their exponent.

    It is the gradient of y (N, H, W, C), they are that of what was saturated to it.
    """
    run = kernels.active().quantize_error
    terms = [(workers.scanned(codes), e) for codes, e in _terms(gradient)]
    y = workers.scanned(y)
    codes, exponent = scale.quantize(gradient.exponent, lambda shift: run(terms, y, low, shift))
    return workers.unscanned(codes), exponent


# --- training ---------------------------------------------------------------------------------


def _take(ctx: Any, *names: str) -> tuple[Any, ...]:
    """Return attributes of ``ctx`` and drop them: the graph lives on to the end of the pass."""
    try:
        values = tuple(getattr(ctx, name) for name in names)
    except AttributeError:
        raise RuntimeError("a graph is differentiated once: what it kept is freed") from None
    for name in names:
        delattr(ctx, name)
    return values


class _LateGradient(Late):
    """The gradient of a convolution's weight, as the two maps whose product it is."""

    def __init__(
        self,
        shape: tuple[int, ...],
        taps: tuple[slice, slice] | None,
        maps: tuple[torch.Tensor, torch.Tensor],
        window: Window,
    ) -> None:
        super().__init__(shape, maps[0].device, taps)
        self._maps, self._window = maps, window

    def compute(self, start: int, stop: int) -> torch.Tensor:
        first, second = self._operands((start, stop))
        w, k = self._window, kernels.active()
        part: torch.Tensor = k.conv_weight_gradient(first, second, w.kernel, **w.geometry)
        return part

    def quantizer(
        self, rows: tuple[int, int], shift: int, out: torch.Tensor, **options: Any
    ) -> Any:
        k, w = kernels.active(), self._window
        if not hasattr(k, "weight_gradient_codes") or not out.is_cpu:
            return None
        first, second = self._operands(rows)
        return k.weight_gradient_codes(
            first, second, w.kernel, shift, out, taps=self.taps, **options, **w.geometry
        )

    def _operands(self, rows: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = self._maps
        return first, second if rows == (0, second.shape[3]) else second[..., slice(*rows)]


class _Product:
    """The product of a convolution, transposed or not, with what its gradients need.

    Its accumulators are int32 (N, *size, K) at ``exponent``.
    """

    def __init__(
        self, x: IntTensor, weight: IntTensor, window: Window, *, transposed: bool
    ) -> None:
        size = (x.shape[2], x.shape[3])
        self._shape, self._transposed = tuple(weight.shape), transposed
        self._taps: tuple[slice, slice] | None = None
        self.size = window.transposed(size) if transposed else window.output(size)
        if not transposed:
            window, taps = window.live(size)
            self._taps = None if window.kernel == self._shape[2:] else taps
        self._x, self._window, self._x_exponent = nhwc(x.codes), window, x.exponent
        self._master: IntTensor | None = weight
        self._weight: torch.Tensor | None = None
        self._exponent = 0

    def _view(self) -> tuple[torch.Tensor, int]:
        """Return the codes of the weight, which are made once, and their exponent."""
        if self._weight is None:
            assert self._master is not None
            self._keep(*_weight_view(self._master, self._taps))
        assert self._weight is not None
        return self._weight, self._exponent

    def _keep(self, weight: torch.Tensor, exponent: int) -> None:
        self._weight, self._exponent, self._master = weight, exponent, None

    @property
    def exponent(self) -> int:
        """Value of the exponent of the accumulators."""
        return self._x_exponent + self._view()[1]

    def accumulators(self) -> torch.Tensor:
        """Compute them."""
        k = kernels.active()
        run = k.conv_input_gradient if self._transposed else k.conv
        weight, _ = self._view()
        acc: torch.Tensor = run(self._x, weight, size=self.size, **self._window.geometry)
        return acc

    def normalized(self, acc: torch.Tensor | None, *layer: Any, **options: Any) -> Any:
        """Return batch norm of the accumulators in one call, which makes them, and the codes of the
        weight, unless they are there; None where there is no such kernel, or it cannot.

        See :func:`intaglio.nn.kernels.native.conv_norm_forward`.
        """
        k, master = kernels.active(), self._master
        if not hasattr(k, "conv_norm_forward") or not self._x.is_cpu:
            return None
        # Masters of other than 16 bits are a variant, which the plain kernels alone know.
        if acc is None and (master is None or master.codes.dtype != torch.int16):
            acc = self.accumulators()
        if acc is not None:
            return k.batch_norm_forward(acc, *layer, acc_exponent=self.exponent, **options)
        assert master is not None
        weight, shift, found = k.conv_norm_forward(
            *(self._x, master.codes, *layer),
            **{"taps": self._taps, "guess": master.shift_guess},
            **{"geometry": self._window.geometry, "size": self.size},
            acc_exponent=self._x_exponent + master.exponent,
            **options,
        )
        master.shift_guess = shift
        self._keep(weight, master.exponent + shift)
        return found

    @property
    def backs(self) -> bool:
        """Value of whether the kernels in use have what :meth:`back` needs."""
        return hasattr(kernels.active(), "input_gradient") and self._x.is_cpu

    def back(self, e: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Return the gradient of x for an error (N, P, Q, K) that is not known yet, and what
        computes it; see :func:`intaglio.nn.kernels.native_conv.input_gradient`.
        """
        size = self._x.shape[1], self._x.shape[2]
        found: tuple[torch.Tensor, Any] = kernels.active().input_gradient(
            e, self._view()[0], size=size, **self._window.geometry
        )
        return found

    def gradients(
        self,
        digits: Sequence[tuple[torch.Tensor, int]],
        wanted: bool,
        wide: torch.Tensor | None = None,
    ) -> tuple[IntTensor | None, IntTensor]:
        """Return the gradients of x, if wanted, and of the weight, which is computed when it is
        read; ``digits`` are those of the error of the accumulators, int8 (N, P, Q, K), ``wide`` is
        what :meth:`back` returned for the only one.
        """
        k, window = kernels.active(), self._window
        weight, w_exponent = self._view()
        (x,) = _take(self, "_x")
        self._weight = None
        size = x.shape[1], x.shape[2]
        back = k.conv if self._transposed else k.conv_input_gradient
        xgrad: list[tuple[torch.Tensor, int]] = []
        wgrad: list[tuple[torch.Tensor | Late, int]] = []
        for e, exponent in digits:
            maps = (e, x) if self._transposed else (x, e)
            late = _LateGradient(self._shape, self._taps, maps, window)
            wgrad.append((late, exponent + self._x_exponent))
            if wanted:
                if wide is None:
                    wide = back(e, weight, size=size, **window.geometry)
                xgrad.append((nchw(wide), exponent + w_exponent))
                wide = None
        return (IntTensor.from_terms(xgrad) if wanted else None), IntTensor.from_terms(wgrad)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: IntTensor, weight: IntTensor, window: Window, transposed: bool
    ) -> IntTensor:
        ctx.product = _Product(x, weight, window, transposed=transposed)
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
        m, b, shift = quant.bias_multiplier(_host(bias.codes), acc.exponent, exponent)
        low = _low(relu)
        y = kernels.active().requantize(
            codes, _device(m, codes), _device(b, codes), shift, None, 0, low, quant.CODE_LIMIT
        )
        ctx.y, ctx.low, ctx.scale = y, low, scale
        return IntTensor(nchw(y), exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        (y,) = _take(ctx, "y")
        if ctx.scale.variant is None:
            digits = [_quantize(gradient, y, ctx.low, ctx.scale)]
        else:
            wide, exponent = _wide_nhwc(gradient)
            digits = ctx.scale.variant.digits(wide, exponent, y, ctx.low)
        error = [(nchw(e), exponent) for e, exponent in digits]
        sums = kernels.active().error_sums
        total = [(sums(e.reshape(-1, e.shape[3])), exponent) for e, exponent in digits]
        return IntTensor.from_terms(error), IntTensor.from_terms(total), None, None, None


class Accumulators:
    """What a convolution without bias returns in training mode: its sums, not requantised yet.

    A batch norm finishes them, and computes and differentiates both as one operation.
    """

    def __init__(self, x: IntTensor, weight: IntTensor, window: Window) -> None:
        self.x, self.weight = x, weight
        self.product = _Product(x, weight, window, transposed=False)
        self._acc: torch.Tensor | None = None
        self._finished = False

    @property
    def codes(self) -> torch.Tensor:
        """Value of the sums, int32 (N, C, H, W). Whoever does not ask saves their memory."""
        if self._acc is None:
            self._acc = self.product.accumulators()
        return nchw(self._acc)

    @property
    def exponent(self) -> int:
        """Value of the exponent of :attr:`codes`."""
        return self.product.exponent

    def finish(self, layer: Any, residual: IntTensor | None = None) -> IntTensor:
        """Return batch norm with the batch's statistics, int8; see
        :class:`intaglio.nn.layers.BatchNorm2d`.
        """
        if self._finished:
            raise RuntimeError("accumulators are finished by one batch norm, once")
        channels, C = layer.weight.shape[0], self.weight.shape[0]
        if channels != C:
            raise ValueError(f"a batch norm of {channels} channels was given {C}")
        if residual is not None:
            check_residual(residual.shape, (self.x.shape[0], C, *self.product.size))
        self._finished = True
        operands = self.x, self.weight, layer.weight, layer.bias, residual
        return _ConvNorm.apply(*operands, self.product, self._acc, layer)


class _ConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: IntTensor,
        weight: IntTensor,
        gamma: IntTensor,
        beta: IntTensor,
        residual: IntTensor | None,
        product: _Product,
        acc: torch.Tensor | None,
        layer: Any,
    ) -> IntTensor:
        z = None if residual is None else nhwc(residual.codes)
        shifts = quant.batch_norm_shifts(
            layer.exponent, None if residual is None else residual.exponent
        )
        run = functools.partial(product.normalized, acc)
        found = _batch_norm(run, layer, z, shifts)
        if found is None:
            acc = product.accumulators() if acc is None else acc
            found = _shared_batch_norm(acc, product.exponent, layer, z, shifts)
        ctx.xhat, ctx.y, ctx.vectors = found
        layer.num_batches_tracked.add_(1)  # not assigned: modules look at what is assigned
        ctx.product, ctx.layer = product, layer
        return IntTensor(nchw(ctx.y), layer.exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        product, layer = ctx.product, ctx.layer
        y, xhat = _take(ctx, "y", "xhat")
        alone = workers.count() == 1 and layer.acc_error_scale.variant is None
        run = _batch_norm_error if alone else _shared_batch_norm_error
        back = product.back if ctx.needs_input_grad[0] and product.backs else None
        (e, exponent), digits, sums, wide = run(
            gradient, y, xhat, ctx.vectors, product.exponent, layer, back
        )
        del y, xhat  # not needed while the products are made
        return (
            *product.gradients(digits, ctx.needs_input_grad[0], wide),
            IntTensor(sums[1], exponent + quant.NORMAL_EXPONENT),
            IntTensor(sums[0], exponent),
            IntTensor(nchw(e), exponent) if ctx.needs_input_grad[4] else None,
            *(None, None, None),
        )


def _batch_norm(
    run: Callable[..., Any],
    layer: Any,
    residual: torch.Tensor | None,
    shifts: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Return xhat and y (N, H, W, C), and what backward wants to know of each channel.

    The first seven rows of that are mantissa, shift, gamma, beta, two that backward does not read,
    and the sums of the signs of xhat. ``run`` does it in one call, see
    :meth:`_Product.normalized`; None where it cannot. ``shifts`` are of y and of the residual.
    """
    if workers.count() > 1 or layer.norm not in ("l1", "l1-std"):
        return None
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = run(
        (layer.running_mean, layer.running_deviation),
        *(layer.weight.codes, layer.bias.codes, layer.norm),
        batches=int(layer.num_batches_tracked),
        out_shift=shifts[0],
        residual=residual,
        residual_shift=shifts[1],
        low=_low(layer.relu),
    )
    return found


def _shared_batch_norm(
    acc: torch.Tensor,
    exponent: int,
    layer: Any,
    residual: torch.Tensor | None,
    shifts: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Step by step, with the sums of all workers; as :func:`_batch_norm`, of acc (N, H, W, C)."""
    k, shape = kernels.active(), acc.shape
    acc = acc.reshape(-1, shape[3])
    mean, deviation = variants.batch_norm_statistics(acc, layer.norm)
    mantissa, shift, g, b = k.batch_norm_prepare(
        *(mean, deviation, (layer.running_mean, layer.running_deviation)),
        *(layer.weight.codes, layer.bias.codes),
        count=acc.shape[0] * workers.count(),
        acc_exponent=exponent,
        batches=int(layer.num_batches_tracked),
    )
    z = None if residual is None else residual.reshape(acc.shape)
    xhat, y, signs = k.batch_norm_normalize(
        acc, mean, mantissa, shift, g, b, shifts[0], z, shifts[1], _low(layer.relu)
    )
    vectors = torch.stack((mantissa, shift, g, b, mean, deviation, workers.total(signs)))
    return xhat.reshape(shape), y.reshape(shape), vectors


_Quantized = tuple[torch.Tensor, int]


def _batch_norm_error(
    gradient: IntTensor,
    y: torch.Tensor,
    xhat: torch.Tensor,
    vectors: torch.Tensor,
    acc_exponent: int,
    layer: Any,
    back: Callable[[torch.Tensor], Any] | None = None,
) -> tuple[_Quantized, list[_Quantized], torch.Tensor, torch.Tensor | None]:
    """Return the error behind batch norm, quantised, that of the accumulators as its digits, the
    sums of the first and of its products with xhat (2, C), and what the only digit gives in
    ``back``, see :meth:`_Product.back`, or None; ``vectors`` are those of :func:`_batch_norm`.
    """
    fused = getattr(kernels.active(), "batch_norm_error", None)
    if fused is None or not xhat.is_cpu:
        return _shared_batch_norm_error(gradient, y, xhat, vectors, acc_exponent, layer)
    scales = layer.error_scale, layer.acc_error_scale
    e, out, sums, found, wide = fused(
        *(_terms(gradient), y, _low(layer.relu), xhat, vectors),
        signs=layer.norm == "l1",
        acc_exponent=acc_exponent,
        guesses=[scale.guess for scale in scales],
        back=back,
    )
    for scale, (exponent, _, largest) in zip(scales, found, strict=True):
        scale.guess = exponent + quant.log2_ceil(largest)
    (first, right, _), (second, more, _) = found
    return (e, first + right), [(out, second + more)], sums, wide


def _shared_batch_norm_error(
    gradient: IntTensor,
    y: torch.Tensor,
    xhat: torch.Tensor,
    vectors: torch.Tensor,
    acc_exponent: int,
    layer: Any,
    back: Any = None,
) -> tuple[_Quantized, list[_Quantized], torch.Tensor, None]:
    """Step by step, with the sums of all workers; as :func:`_batch_norm_error` without ``back``."""
    k = kernels.active()
    (mantissa, shift, gamma), signs = vectors[:3].unbind(), vectors[6]
    e, exponent = _quantize(gradient, y, _low(layer.relu), layer.error_scale)
    C = e.shape[3]
    sums = torch.stack(k.batch_norm_sums(e.reshape(-1, C), xhat.reshape(-1, C)))
    count = e.numel() // C * workers.count()
    m, factor_exponent = k.batch_norm_error_vectors(
        *workers.total(sums).unbind(), signs, count, gamma, mantissa, shift
    )
    wide_exponent = exponent - quant.MEAN_BITS + factor_exponent - acc_exponent
    digits = _accumulator_error(layer, e, xhat, m.unbind(), wide_exponent)
    return (e, exponent), digits, sums, None


def _accumulator_error(
    layer: Any, e: torch.Tensor, xhat: torch.Tensor, vectors: Sequence[torch.Tensor], exponent: int
) -> list[_Quantized]:
    """Return the quantised error of batch norm's accumulator as its digits (N, H, W, C).

    ``vectors`` are m0, m1, m2, factors; ``exponent`` is that of the wide error.
    """
    scale = layer.acc_error_scale
    if scale.variant is not None:
        digits: list[_Quantized] = scale.variant.batch_norm_digits(
            e, xhat, vectors, exponent, norm=layer.norm
        )
        return digits
    error, normal = workers.scanned(e), workers.scanned(xhat)
    backward, signs = kernels.active().batch_norm_backward, layer.norm == "l1"
    codes, found = scale.quantize(
        exponent, lambda right: backward(error, normal, *vectors, right, signs=signs)
    )
    return [(workers.unscanned(codes), found)]


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
        (winner,) = _take(ctx, "winner")
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
            **_add_attributes(a.exponent, b.exponent, exponent, relu),
        )
        ctx.y, ctx.low = y, _low(relu)
        return IntTensor(nchw(y), exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        (y,) = _take(ctx, "y")
        e, exponent = _wide_nhwc(gradient)
        gradient = IntTensor(nchw(quant.through_saturation(e, y, ctx.low)), exponent)
        return gradient, gradient, None, None


def _add_attributes(a: int, b: int, exponent: int, relu: bool) -> dict[str, int]:
    common = min(a, b, exponent)
    return {
        "shift_a": a - common,
        "shift_b": b - common,
        "shift": exponent - common,
        "low": _low(relu),
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
        e, exponent = _wide_nhwc(gradient)
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
        e, exponent = _wide_nhwc(gradient)
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
        wide, exponent = _wide_nhwc(logits)
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
        (error,) = _take(ctx, "error")
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


# --- inference --------------------------------------------------------------------------------


class Recorder:
    """Collects the operations that run inside :func:`record`."""

    def __init__(self) -> None:
        self.builder = GraphBuilder()
        #: Name -> codes (N, C, H, W) of every value that was recorded.
        self.codes: dict[str, torch.Tensor] = {}
        self._input: str | None = None

    def name_of(self, value: IntTensor) -> str:
        """Return the name of ``value`` in the graph; the first value without one is the input."""
        if value.value_name is None:
            if self._input is not None:
                raise ValueError("a recorded network has one input, and values do not leave it")
            self._input = self.builder.input("input", tuple(value.shape), value.exponent)
            value.value_name = self._input
            self.codes[self._input] = value.codes
        return value.value_name

    def finish(self, *outputs: IntTensor) -> Graph:
        """Return the verified graph."""
        return self.builder.finish([self.name_of(y) for y in outputs])


_recorder: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar(
    "intaglio_recorder", default=None
)


@contextlib.contextmanager
def record(model: nn.Module) -> Iterator[Recorder]:
    """Record the operations of ``model``, which must be in eval mode, named by module path."""
    if model.training:
        raise ValueError("only a model in eval mode can be recorded: call model.eval() first")
    for path, module in model.named_modules():
        module.path = path
    token = _recorder.set(Recorder())
    try:
        recorder = _recorder.get()
        assert recorder is not None
        yield recorder
    finally:
        _recorder.reset(token)


def to_graph(model: nn.Module, *, height: int, width: int, batch: int = 1) -> Graph:
    """Return the frozen graph of ``model`` in eval mode, from image codes to class map.

    Outputs are the class map and, before it, the logits that it was taken from.
    """
    image = torch.zeros((batch, 3, height, width), dtype=torch.uint8)
    parameter = next(model.parameters())
    with record(model) as recorder:
        logits = model(quantize_image(image.to(parameter.device)))
        return recorder.finish(model.argmax(logits), logits)


def graph_op(
    op: str,
    name: str,
    inputs: Sequence[IntTensor],
    exponent: int,
    attributes: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor | np.ndarray],
) -> IntTensor:
    """Run one operation of the frozen graph; see :data:`intaglio.spec.graph.OPERATIONS`."""
    arrays = {key: _tensor(value, inputs[0].codes) for key, value in tensors.items()}
    for x in inputs:
        _check_codes(op, name, x)
    codes = OPERATIONS[op]([nhwc(x.codes) for x in inputs], **arrays, **attributes)
    if op == "argmax":
        # Class maps are unsigned in the graph; IntTensor is signed, and wide enough here.
        out = IntTensor(nchw(codes), 0)
    else:
        out = IntTensor(nchw(codes), exponent)
    recorder = _recorder.get()
    if recorder is not None:
        host = {
            key: _host(value).astype({"weight": np.int8, "multiplier": np.int16}.get(key, np.int64))
            for key, value in arrays.items()
        }
        names = [recorder.name_of(x) for x in inputs]
        out.value_name = recorder.builder.node(op, name, names, exponent, attributes, host)
        recorder.codes[out.value_name] = out.codes
    return out


def _check_codes(op: str, name: str, x: IntTensor) -> None:
    if x.codes.dtype != torch.int8:
        raise TypeError(f"{op} {name}: inputs must be int8, not {x.codes.dtype}")


def _tensor(value: torch.Tensor | np.ndarray, like: torch.Tensor) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    return value.to(like.device)


class PendingConv:
    """A convolution in eval mode that waits for its batch norm: the two are one operation.

    ``layer`` holds the weights, and in ``prepared`` what was made of them.
    """

    def __init__(self, op: str, layer: Any, x: IntTensor, attributes: Mapping[str, Any]) -> None:
        self.op, self.layer, self.x, self.attributes = op, layer, x, attributes

    def finish(self, last: Any, residual: IntTensor | None = None) -> IntTensor:
        """Run the operation; the layer ``last`` says how it is requantised."""
        if residual is not None and self.op != "conv":
            raise ValueError(f"{self.layer.path}: a transposed convolution takes no residual")
        inputs = [self.x] if residual is None else [self.x, residual]
        if _recorder.get() is not None:
            tensors, attributes = self._fold(last, residual)
            return graph_op(self.op, self.layer.path, inputs, last.exponent, attributes, tensors)
        for x in inputs:
            _check_codes(self.op, self.layer.path, x)
        kept, sources = self.layer.prepared, (self.layer.weight, *last.sources())
        key = (
            last,
            last.exponent,
            last.relu,
            self.x.exponent,
            residual if residual is None else residual.exponent,
            kernels.active(),
            self.x.device,
            self.attributes,
        )
        if kept is None or kept.key != key or not kept.stamp.holds(sources):
            tensors, attributes = self._fold(last, residual)
            arrays = {name: _tensor(v, self.x.codes) for name, v in tensors.items()}
            kept = PreparedConv(self.op, **arrays, **attributes)
            kept.key, kept.stamp = key, Stamp(sources)
            self.layer.prepared = kept
        codes = kept([nhwc(x.codes) for x in inputs])
        return IntTensor(nchw(codes), last.exponent)

    def _fold(self, last: Any, residual: IntTensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the tensors and attributes of the operation in the graph."""
        weight, exponent = _weight_view(self.layer.weight)
        axes = (1, 2, 3) if self.op == "conv" else (0, 2, 3)
        m, b, shift, residual_shift = last.fold(
            acc_exponent=self.x.exponent + exponent,
            # The largest magnitude of each channel's accumulator.
            acc_bound=_host(weight.abs().sum(axes, dtype=torch.int64)) * 128,
            residual_exponent=None if residual is None else residual.exponent,
        )
        attributes = {
            **self.attributes,
            "shift": shift,
            "low": 0 if last.relu else -quant.CODE_LIMIT,
            "high": quant.CODE_LIMIT,
        }
        if self.op == "conv":
            attributes["residual_shift"] = residual_shift
        return {"weight": weight, "multiplier": m.astype(np.int16), "bias": b}, attributes
