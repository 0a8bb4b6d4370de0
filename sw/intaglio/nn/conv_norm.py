"""Convolution and batch norm, which training computes and differentiates as one operation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from intaglio.nn import kernels, variants, workers
from intaglio.nn.error_scale import quantize_error
from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.operations import Window, check_residual, nchw, nhwc
from intaglio.nn.product import Product
from intaglio.nn.views import lower_bound, take, terms
from intaglio.spec import quant

__all__ = [
    "Accumulators",
    "batch_norm",
    "batch_norm_error",
    "shared_batch_norm",
    "shared_batch_norm_error",
]


class Accumulators:
    """What a convolution without bias returns in training mode: its sums, not requantised yet.

    A batch norm finishes them, and computes and differentiates both as one operation.
    """

    def __init__(self, x: IntTensor, weight: IntTensor, window: Window) -> None:
        self.x, self.weight = x, weight
        self.product = Product(x, weight, window, transposed=False)
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
        if 0 in (self.x.shape[0], *self.product.size):
            raise ValueError("a batch norm needs at least one pixel of one image")
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
        product: Product,
        acc: torch.Tensor | None,
        layer: Any,
    ) -> IntTensor:
        z = None if residual is None else nhwc(residual.codes)
        shifts = quant.batch_norm_shifts(
            layer.exponent, None if residual is None else residual.exponent
        )
        run = functools.partial(product.normalized, acc)
        found = batch_norm(run, layer, z, shifts)
        if found is None:
            acc = product.accumulators() if acc is None else acc
            found = shared_batch_norm(acc, product.exponent, layer, z, shifts)
        ctx.xhat, ctx.y, ctx.vectors = found
        layer.num_batches_tracked.add_(1)  # not assigned: modules look at what is assigned
        ctx.product, ctx.layer = product, layer
        return IntTensor(nchw(ctx.y), layer.exponent)

    @staticmethod
    def backward(ctx: Any, gradient: IntTensor) -> Any:
        product, layer = ctx.product, ctx.layer
        y, xhat = take(ctx, "y", "xhat")
        alone = workers.count() == 1 and layer.acc_error_scale.variant is None
        run = batch_norm_error if alone else shared_batch_norm_error
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


def batch_norm(
    run: Callable[..., Any],
    layer: Any,
    residual: torch.Tensor | None,
    shifts: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Return xhat and y (N, H, W, C), and what backward wants to know of each channel.

    The first seven rows of that are mantissa, shift, gamma, beta, two that backward does not read,
    and the sums of the signs of xhat. ``run`` does it in one call, see
    :meth:`Product.normalized`; None where it cannot. ``shifts`` are of y and of the residual.
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
        low=lower_bound(layer.relu),
    )
    return found


def shared_batch_norm(
    acc: torch.Tensor,
    exponent: int,
    layer: Any,
    residual: torch.Tensor | None,
    shifts: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Step by step, with the sums of all workers; as :func:`batch_norm`, of acc (N, H, W, C)."""
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
        acc, mean, mantissa, shift, g, b, shifts[0], z, shifts[1], lower_bound(layer.relu)
    )
    vectors = torch.stack((mantissa, shift, g, b, mean, deviation, workers.total(signs)))
    return xhat.reshape(shape), y.reshape(shape), vectors


_Quantized = tuple[torch.Tensor, int]


def batch_norm_error(
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
    ``back``, see :meth:`Product.back`, or None; ``vectors`` are those of :func:`batch_norm`.
    """
    fused = getattr(kernels.active(), "batch_norm_error", None)
    if fused is None or not xhat.is_cpu:
        return shared_batch_norm_error(gradient, y, xhat, vectors, acc_exponent, layer)
    scales = layer.error_scale, layer.acc_error_scale
    e, out, sums, found, wide = fused(
        *(terms(gradient), y, lower_bound(layer.relu), xhat, vectors),
        signs=layer.norm == "l1",
        acc_exponent=acc_exponent,
        guesses=[scale.guess for scale in scales],
        back=back,
    )
    for scale, (exponent, _, largest) in zip(scales, found, strict=True):
        scale.guess = exponent + quant.log2_ceil(largest)
    (first, right, _), (second, more, _) = found
    return (e, first + right), [(out, second + more)], sums, wide


def shared_batch_norm_error(
    gradient: IntTensor,
    y: torch.Tensor,
    xhat: torch.Tensor,
    vectors: torch.Tensor,
    acc_exponent: int,
    layer: Any,
    back: Any = None,
) -> tuple[_Quantized, list[_Quantized], torch.Tensor, None]:
    """Step by step, with the sums of all workers; as :func:`batch_norm_error` without ``back``."""
    k = kernels.active()
    (mantissa, shift, gamma), signs = vectors[:3].unbind(), vectors[6]
    e, exponent = quantize_error(gradient, y, lower_bound(layer.relu), layer.error_scale)
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
