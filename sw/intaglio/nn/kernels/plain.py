"""The kernels in torch operators: the oracle of the fused ones, and the path of other devices.

Feature maps lie as (N, H, W, C), contiguous; per-channel vectors are int64. The meaning of each
function is that of its namesake in :mod:`intaglio.spec.quant` or :mod:`intaglio.spec.ops`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from intaglio.nn.kernels.plain_conv import (
    WHOLE_TAP,
    ConvOperation,
    ConvTransposeOperation,
    conv,
    conv_input_gradient,
    conv_weight_gradient,
    requantize,
)
from intaglio.spec import quant
from intaglio.spec.arith import round_shift
from intaglio.spec.graph import CLASSES_MAX
from intaglio.spec.rng import GAMMA, mix64
from intaglio.spec.variants import std_deviation, tail_bound

__all__ = [
    "WHOLE_TAP",
    "ConvOperation",
    "ConvTransposeOperation",
    "Update",
    "Updated",
    "argmax",
    "average_sum",
    "batch_norm_backward",
    "batch_norm_error_vectors",
    "batch_norm_normalize",
    "batch_norm_prepare",
    "batch_norm_statistics",
    "batch_norm_sums",
    "conv",
    "conv_input_gradient",
    "conv_weight_gradient",
    "error_sums",
    "image_codes",
    "max_pool",
    "max_pool_gradient",
    "momentum_update",
    "quantize_error",
    "quantize_gradient",
    "quantize_vectors",
    "random_bits",
    "requantize",
    "resize_gradient",
    "resize_rounded",
    "resize_wide",
    "softmax_cross_entropy",
    "update",
    "updates",
    "weight_codes",
    "weight_update",
    "window_maxima",
]

Pair = tuple[int, int]
Terms = Sequence[tuple[torch.Tensor, int]]
#: From int64, right shift, seed and stream to what is rounded up with the chance of its fraction.
Stochastic = Callable[[torch.Tensor, int, int, int], torch.Tensor]
#: Momentum and master after a step, each with its exponent.
Updated = tuple[torch.Tensor, int, torch.Tensor, int]
L = quant.CODE_LIMIT


def weight_codes(
    master: torch.Tensor, taps: tuple[slice, slice] | None = None, guess: int | None = None
) -> tuple[torch.Tensor, int]:
    """Return the int8 view of an int16 master and the shift that it is coarser by.

    With ``taps`` the view has no other taps; the shift is that of the whole kernel. ``guess``, what
    the shift may be, saves a pass where it is right, and changes nothing.
    """
    wide = master.to(torch.int32)
    shift = quant.scale_shift(int(wide.abs().max()), 8)
    if taps is not None:
        wide = wide[:, :, taps[0], taps[1]]
    return round_shift(wide, shift).clamp_(-L, L).to(torch.int8), shift


def batch_norm_statistics(
    acc: torch.Tensor, *, std: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and sum of absolute deviations (not below the count) of acc int32 (M, C).

    With ``std`` the sum is that of :func:`intaglio.spec.variants.std_deviation`.
    """
    count = acc.shape[0]
    total = acc.sum(0, dtype=torch.int64)
    mean = torch.div(2 * total + count, 2 * count, rounding_mode="floor")
    distances = (acc.to(torch.int64) - mean).abs_()
    deviation = distances.sum(0).clamp_(min=count)
    if std:
        tail = (distances - tail_bound(deviation, count)).clamp_(min=0).sum(0)
        deviation = std_deviation(deviation, tail)
    return mean, deviation


def _numpy(x: torch.Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def batch_norm_prepare(
    mean: torch.Tensor,
    deviation: torch.Tensor,
    running: tuple[torch.Tensor, torch.Tensor],
    gamma: torch.Tensor,
    beta: torch.Tensor,
    *,
    count: int,
    acc_exponent: int,
    batches: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what normalising needs: mantissas and shifts of 1 / deviation, gamma and beta; int64.

    Move the running mean and deviation towards those of the batch, which
    :func:`batch_norm_statistics` has returned. gamma and beta are int16 masters.
    """
    m, d = _numpy(mean), _numpy(deviation)
    for buffer, total in zip(running, (m * count, d), strict=True):
        moved = quant.track_statistics(_numpy(buffer), total, count, acc_exponent, batches)
        buffer.copy_(torch.from_numpy(moved))
    codes = (quant.affine_codes(_numpy(v)) for v in (gamma, beta))
    found = (*quant.batch_norm_reciprocal(d, count), *codes)
    a, b, c, e = (torch.from_numpy(v).to(mean.device) for v in found)
    return a, b, c, e


def batch_norm_error_vectors(
    error_sum: torch.Tensor,
    product_sum: torch.Tensor,
    sign_sum: torch.Tensor,
    count: int,
    gamma: torch.Tensor,
    mantissa: torch.Tensor,
    shift: torch.Tensor,
) -> tuple[torch.Tensor, int]:
    """Return m0, m1, m2 and the factors of batch norm's backward, (4, C), and their exponent."""
    sums = [_numpy(v) for v in (error_sum, product_sum, sign_sum)]
    means = quant.batch_norm_error_means(sums[0], sums[1], sums[2], count)
    factors, exponent = quant.batch_norm_error_factors(*map(_numpy, (gamma, mantissa, shift)))
    return torch.from_numpy(np.stack((*means, factors))).to(error_sum.device), exponent


def batch_norm_normalize(
    acc: torch.Tensor,
    mean: torch.Tensor,
    mantissa: torch.Tensor,
    shift: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    out_shift: int,
    residual: torch.Tensor | None,
    residual_shift: int,
    low: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return xhat int16, y int8 and the sum of the signs of xhat, for acc int32 (M, C)."""
    xhat = (acc.to(torch.int64) - mean) * mantissa
    right = shift + quant.NORMAL_EXPONENT
    half = torch.ones_like(right) << right >> 1
    xhat = ((xhat + half) >> right).clamp_(-quant.NORMAL_LIMIT, quant.NORMAL_LIMIT)
    total = xhat * gamma + (beta << -quant.NORMAL_EXPONENT)
    if residual is not None:
        total += residual.to(torch.int64) << residual_shift
    y = round_shift(total, out_shift).clamp_(low, L).to(torch.int8)
    return xhat.to(torch.int16), y, xhat.sign().sum(0)


def _merge(terms: Terms) -> torch.Tensor:
    exponent = min(e for _, e in terms)
    total = terms[0][0].to(torch.int64) << (terms[0][1] - exponent)
    for codes, e in terms[1:]:
        total = total + (codes.to(torch.int64) << (e - exponent))
    return total


def _diffuse(values: torch.Tensor, shift: int) -> torch.Tensor:
    N, H, W, C = values.shape
    scan = values.reshape(N, H * W, C) if H * W > 1 else values.reshape(1, N, C)
    rounded = round_shift(scan.cumsum(1), shift)
    codes = torch.cat((rounded[:, :1], rounded[:, 1:] - rounded[:, :-1]), 1)
    return codes.clamp_(-L, L).to(torch.int8).reshape(N, H, W, C)


def quantize_error(
    terms: Terms, y: torch.Tensor | None, low: int, shift: int
) -> tuple[torch.Tensor, int]:
    """Return the diffused int8 codes of a wide error (N, H, W, C) and its largest magnitude.

    With ``y``, int8 (N, H, W, C), it is the error in front of the saturation to [low, 127] that
    made y; see :func:`intaglio.spec.quant.through_saturation`.
    """
    total = _merge(terms)
    if y is not None:
        total = quant.through_saturation(total, y, low)
    return _diffuse(total, shift), int(total.abs().max())


def error_sums(error: torch.Tensor) -> torch.Tensor:
    """Return the sums of int8 errors (M, C) over M, int64 (C,)."""
    return error.sum(0, dtype=torch.int64)


def batch_norm_sums(error: torch.Tensor, xhat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of dy and dy * xhat over the rows of (M, C)."""
    wide = error.to(torch.int64)
    return wide.sum(0), (wide * xhat).sum(0)


def batch_norm_backward(
    error: torch.Tensor,
    xhat: torch.Tensor,
    m0: torch.Tensor,
    m1: torch.Tensor,
    m2: torch.Tensor,
    factors: torch.Tensor,
    shift: int,
    *,
    signs: bool,
) -> tuple[torch.Tensor, int]:
    """Return the diffused int8 error of the accumulator (N, H, W, C) and its largest magnitude."""
    wide = batch_norm_gradient(error, xhat, m0, m1, m2, factors, signs=signs)
    return _diffuse(wide, shift), int(wide.abs().max())


def batch_norm_gradient(
    error: torch.Tensor,
    xhat: torch.Tensor,
    m0: torch.Tensor,
    m1: torch.Tensor,
    m2: torch.Tensor,
    factors: torch.Tensor,
    *,
    signs: bool,
) -> torch.Tensor:
    """Return the wide error of the accumulator, int64 (N, H, W, C).

    With ``signs`` that of :func:`intaglio.spec.quant.batch_norm_gradient`, else that of
    :func:`intaglio.spec.variants.batch_norm_gradient_std`, which has no use for ``m2``.
    """
    wide = (error.to(torch.int64) << quant.MEAN_BITS) - m0
    if signs:
        return (wide - xhat.sign().to(torch.int64) * m1 + m2) * factors
    return (wide - round_shift(xhat.to(torch.int64) * m1, -quant.NORMAL_EXPONENT)) * factors


def max_pool(
    x: torch.Tensor, kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], size: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima (N, P, Q, C) int8 and the tap that won, uint8, the first of equals."""
    N, H, W, C = x.shape
    top, left, _, _ = padding
    high = max((size[0] - 1) * stride[0] + kernel[0], top + H)
    wide = max((size[1] - 1) * stride[1] + kernel[1], left + W)
    padded = torch.full((N, high, wide, C), -129, dtype=torch.int16, device=x.device)
    padded[:, top : top + H, left : left + W] = x
    best = winner = None
    for tap in range(kernel[0] * kernel[1]):
        r, s = divmod(tap, kernel[1])
        window = padded[:, r:, s:][:, :: stride[0], :: stride[1]][:, : size[0], : size[1]]
        if best is None:
            best, winner = window, torch.zeros(window.shape, dtype=torch.uint8, device=x.device)
        else:
            winner = torch.where(window > best, tap, winner)
            best = torch.maximum(window, best)
    assert best is not None and winner is not None
    return best.to(torch.int8).contiguous(), winner.contiguous()


def window_maxima(
    x: torch.Tensor, kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], size: Pair
) -> torch.Tensor:
    """Return the maxima of :func:`max_pool` alone."""
    return max_pool(x, kernel, stride, padding, size)[0]


def image_codes(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 pixels (N, C, H, W) minus 128, int8 (N, H, W, C)."""
    return (images.permute(0, 2, 3, 1).contiguous() ^ 128).view(torch.int8)


def argmax(x: torch.Tensor) -> torch.Tensor:
    """Return the lowest index of the largest code, int64 (N, H, W, 1)."""
    # torch's arg max names no winner among equals; in this key the lowest index is the largest.
    index = torch.arange(x.shape[3], device=x.device)
    key = (x.to(torch.int32) << 16) + (CLASSES_MAX - index)
    return CLASSES_MAX - (key.amax(3, keepdim=True) & 0xFFFF)


def max_pool_gradient(
    error: torch.Tensor,
    winner: torch.Tensor,
    kernel: Pair,
    stride: Pair,
    padding: tuple[int, int, int, int],
    size: Pair,
) -> torch.Tensor:
    """Return the wide error (N, H, W, C) of the pool's input; ``error`` is wide (N, P, Q, C)."""
    N, P, Q, C = error.shape
    top, left, _, _ = padding
    high = max((P - 1) * stride[0] + kernel[0], top + size[0])
    wide = max((Q - 1) * stride[1] + kernel[1], left + size[1])
    out = error.new_zeros((N, high, wide, C))
    for tap in range(kernel[0] * kernel[1]):
        r, s = divmod(tap, kernel[1])
        window = out[:, r:, s:][:, :: stride[0], :: stride[1]][:, :P, :Q]
        window += torch.where(winner == tap, error, 0)
    return out[:, top : top + size[0], left : left + size[1]].contiguous()


def average_sum(x: torch.Tensor) -> torch.Tensor:
    """Return the sums over the pixels of x (N, H, W, C), int64 (N, 1, 1, C)."""
    return x.sum((1, 2), keepdim=True, dtype=torch.int64)


def _resize_axis(x: torch.Tensor, axis: int, table: Sequence) -> torch.Tensor:
    first, second, weight, unit = table
    device = x.device
    shape = [1] * x.dim()
    shape[axis] = -1
    w = torch.as_tensor(weight, device=device).to(x.dtype).reshape(shape)
    a = x.index_select(axis, torch.as_tensor(first, device=device))
    b = x.index_select(axis, torch.as_tensor(second, device=device))
    return a * (unit - w) + b * w


def resize_wide(x: torch.Tensor, rows: Sequence, columns: Sequence) -> torch.Tensor:
    """Return the exact interpolation of x (N, H, W, C) int8, int32, times both units."""
    return _resize_axis(_resize_axis(x.to(torch.int32), 1, rows), 2, columns)


def resize_rounded(
    x: torch.Tensor, rows: Sequence, columns: Sequence, division: tuple[int, int, int]
) -> torch.Tensor:
    """Return the interpolation, rounded once, int8; ``division`` as in
    :class:`intaglio.spec.ops.ResizeScale`.
    """
    scale, offset, divisor = division
    total = resize_wide(x, rows, columns).to(torch.int64) * scale + offset
    return torch.div(total, divisor, rounding_mode="floor").to(torch.int8)


def _resize_axis_gradient(e: torch.Tensor, axis: int, size: int, table: Sequence) -> torch.Tensor:
    first, second, weight, unit = table
    shape = [1] * e.dim()
    shape[axis] = -1
    w = torch.as_tensor(weight, device=e.device).to(e.dtype).reshape(shape)
    out_shape = list(e.shape)
    out_shape[axis] = size
    out = e.new_zeros(out_shape)
    out.index_add_(axis, torch.as_tensor(first, device=e.device), e * (unit - w))
    out.index_add_(axis, torch.as_tensor(second, device=e.device), e * w)
    return out


def resize_gradient(
    error: torch.Tensor, size: Pair, rows: Sequence, columns: Sequence
) -> torch.Tensor:
    """Return the adjoint of :func:`resize_wide`, int64 (N, H, W, C)."""
    wide = _resize_axis_gradient(error.to(torch.int64), 2, size[1], columns)
    return _resize_axis_gradient(wide, 1, size[0], rows)


def softmax_cross_entropy(
    logits: torch.Tensor, exponent: int, labels: torch.Tensor, void: int
) -> tuple[torch.Tensor, int, int]:
    """Return error codes int8 (N, H, W, K), loss sum and counted pixels; logits are wide."""
    shift = quant.LOGIT_EXPONENT - exponent
    wide = logits.to(torch.int64)
    z = round_shift(wide, shift) if shift >= 0 else wide << -shift
    d = z - z.amax(-1, keepdim=True)
    t = round_shift(d * 369, 9)
    table = torch.as_tensor(quant._EXP2, device=z.device)
    p = table[t & 31] >> (-(t >> 5)).clamp(max=16)
    total = p.sum(-1, keepdim=True)
    classes = torch.arange(z.shape[-1], device=z.device)
    truth = labels.to(torch.int64).unsqueeze(-1)
    hit = truth == classes
    counted = truth != void
    share = torch.div(256 * p + total, 2 * total, rounding_mode="floor")
    error = torch.where(counted, (share - (hit.to(torch.int64) << 7)).clamp_(-L, L), 0)
    powers = torch.as_tensor(quant._POWERS, device=z.device)
    whole = torch.bucketize(total, powers, right=True) - 1
    table = torch.as_tensor(quant._LOG2, device=z.device)
    log = ((whole - 12) << 8) + table[(total >> (whole - 8)) & 255]
    bits = int(torch.where(hit & counted, log - (t << 3), 0).sum())
    return error.to(torch.int8), bits * quant._LN2 >> 8, int(counted.sum())


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def random_bits(
    seed: int, stream: int, count: int, device: torch.device, first: int = 0
) -> torch.Tensor:
    """Return ``count`` words from ``first`` on of :func:`intaglio.spec.rng.random_bits`, int64."""
    z = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device)
    z = z * _signed(GAMMA) + _signed(seed ^ mix64(stream))
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _stochastic(
    x: torch.Tensor, shift: int, seed: int, stream: int, first: int = 0
) -> torch.Tensor:
    if shift == 0:
        return x
    bits = random_bits(seed, stream, x.numel(), x.device, first).reshape(x.shape)
    return (x + (bits & ((1 << shift) - 1))) >> shift


def quantize_gradient(
    gradient: torch.Tensor,
    shift: int,
    out: torch.Tensor,
    *,
    seed: int,
    stream: int,
    start: int = 0,
    taps: tuple[slice, slice] | None = None,
) -> int:
    """Write the codes of ``gradient`` for a right shift to ``out``, and return the largest
    magnitude before it.

    ``out``, contiguous, is int8 or int16, which says how many bits the codes have. The first
    element draws the word of index ``start``. ``taps`` says which taps of a kernel the gradient
    has; the others are zero.
    """
    if taps is not None:
        live, gradient = gradient, gradient.new_zeros(out.shape)
        gradient[:, :, taps[0], taps[1]] = live
    wide, limit = gradient.to(torch.int64), (1 << (8 * out.element_size() - 1)) - 1
    out.copy_(_stochastic(wide, shift, seed, stream, start).clamp(-limit, limit))
    return int(wide.abs().max())


def quantize_vectors(
    sums: torch.Tensor, sizes: Sequence[int], *, seed: int, streams: Sequence[int]
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Return the int16 codes of vectors of gradients, and of each (right shift, largest magnitude).

    ``sums``, int64, are the vectors one after the other, of ``sizes`` elements. Each has a shift of
    its own, the smallest that is enough, and draws the words of its own of the ``streams``.
    """
    codes = torch.empty(sums.shape, dtype=torch.int16, device=sums.device)
    found = []
    parts = zip(sums.split(list(sizes)), codes.split(list(sizes)), streams, strict=True)
    for part, out, stream in parts:
        largest = int(part.abs().max())
        shift = quant.scale_shift(largest, 16)
        quantize_gradient(part, shift, out, seed=seed, stream=stream)
        found.append((shift, largest))
    return codes, found


class Update(NamedTuple):
    """What :func:`update` is given for one of several parameters."""

    momentum: torch.Tensor
    momentum_exponent: int
    gradient: torch.Tensor
    gradient_exponent: int
    master: torch.Tensor
    master_exponent: int
    decay: int | None
    stream: int
    guess: list[int]


def updates(jobs: Sequence[Update], rate: Pair, *, seed: int) -> list[Updated]:
    """Return what :func:`update` does for each parameter."""
    return [
        update(*job[:6], rate, decay=job.decay, seed=seed, stream=job.stream, guess=job.guess)
        for job in jobs
    ]


def update(
    momentum: torch.Tensor,
    momentum_exponent: int,
    gradient: torch.Tensor,
    gradient_exponent: int,
    master: torch.Tensor,
    master_exponent: int,
    rate: Pair,
    *,
    decay: int | None,
    seed: int,
    stream: int,
    guess: list[int],
    limit: int = quant.MASTER_LIMIT,
    stochastic: Stochastic = _stochastic,
) -> Updated:
    """Return momentum and master, each with its exponent, after a step; a gradient is its codes.

    They may be the tensors that were given, changed. The master of a weight decays by 2**-decay;
    where ``decay`` is None it does not, and keeps its exponent. Random words are those of
    ``stream`` + 1 and + 2. ``guess`` is the executor's own: empty at first, it never changes the
    result. ``stochastic`` rounds; it may do so in place.
    """
    momentum, momentum_exponent = momentum_update(
        *(momentum, momentum_exponent, gradient, gradient_exponent),
        *(None if decay is None else master, master_exponent - (decay or 0)),
        seed=seed,
        stream=stream + 1,
        stochastic=stochastic,
    )
    stepped = weight_update(
        *(master, master_exponent, momentum, momentum_exponent, rate),
        fixed=decay is None,
        seed=seed,
        stream=stream + 2,
        limit=limit,
        stochastic=stochastic,
    )
    return momentum, momentum_exponent, *stepped


def momentum_update(
    momentum: torch.Tensor,
    momentum_exponent: int,
    gradient: torch.Tensor,
    gradient_exponent: int,
    master: torch.Tensor | None,
    decay_exponent: int,
    *,
    seed: int,
    stream: int,
    stochastic: Stochastic = _stochastic,
) -> tuple[torch.Tensor, int]:
    """Return the new momentum, int16, and its exponent; ``gradient`` are its codes."""
    g = gradient.to(torch.int64)
    terms = [
        (
            momentum.to(torch.int64) * ((1 << quant.MOMENTUM_SHIFT) - 1),
            momentum_exponent - quant.MOMENTUM_SHIFT,
        ),
        (g, gradient_exponent),
    ]
    if master is not None:
        terms.append((master.to(torch.int64), decay_exponent))
    alive = [(v, e, n) for v, e in terms if (n := int(v.abs().max()))]
    if not alive:
        return torch.zeros_like(momentum), momentum_exponent
    top = max(e + quant.log2_ceil(n) for _, e, n in alive)
    base = max(min(e for _, e, _ in alive), top - 40)
    total = torch.zeros_like(g)
    for v, e, _ in alive:
        total += v << (e - base) if e >= base else round_shift(v, min(base - e, 62))
    shift = quant.scale_shift(int(total.abs().max()), 16)
    codes = stochastic(total, shift, seed, stream)
    return codes.clamp_(-quant.MASTER_LIMIT, quant.MASTER_LIMIT).to(torch.int16), base + shift


def weight_update(
    master: torch.Tensor,
    master_exponent: int,
    momentum: torch.Tensor,
    momentum_exponent: int,
    rate: Pair,
    *,
    fixed: bool,
    seed: int,
    stream: int,
    limit: int = quant.MASTER_LIMIT,
    stochastic: Stochastic = _stochastic,
) -> tuple[torch.Tensor, int]:
    """Return the new master, in the type of the old one, and its exponent."""
    shift = master_exponent - momentum_exponent + rate[1]
    product = momentum.to(torch.int64) * rate[0]
    if shift > 48:
        delta = torch.zeros_like(product)
    elif shift >= 0:
        delta = stochastic(product, shift, seed, stream)
    else:
        delta = product << min(-shift, 32)
    out = master.to(torch.int64) - delta
    if not fixed:
        while int(out.abs().max()) > limit:
            out, master_exponent = round_shift(out, 1), master_exponent + 1
    return out.clamp_(-limit, limit).to(master.dtype), master_exponent
