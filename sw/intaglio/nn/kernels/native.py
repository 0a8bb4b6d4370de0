"""The kernels as fused loops in C, see :mod:`intaglio.nn.kernels.loader`.

Where there is no compiler, :func:`available` is False and :mod:`intaglio.nn.kernels.plain` is used.
Functions have the names, arguments and bytes of those in ``plain``; tensors on other devices are
handed to it.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from intaglio.nn.kernels import loader, native_conv, plain
from intaglio.nn.kernels.loader import call as _call
from intaglio.nn.kernels.loader import empty
from intaglio.spec import quant
from intaglio.spec.rng import mix64

__all__ = [
    "WHOLE_TAP",
    "ConvOperation",
    "ConvTransposeOperation",
    "argmax",
    "available",
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
    "quantize_error",
    "quantize_gradient",
    "requantize",
    "resize_gradient",
    "resize_rounded",
    "resize_wide",
    "softmax_cross_entropy",
    "update",
    "weight_codes",
    "window_maxima",
]

_NAMES = {torch.int8: "int8_t", torch.int16: "int16_t", torch.int32: "int32_t"}

Pair = tuple[int, int]
Taps = tuple[slice, slice]
Terms = Sequence[tuple[torch.Tensor, int]]


class _Term(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("shift", ctypes.c_int64),
        ("stride_n", ctypes.c_int64),
        ("stride_h", ctypes.c_int64),
        ("stride_w", ctypes.c_int64),
    ]


def available() -> bool:
    """Return whether the library could be built and loaded."""
    return loader.loaded() is not None


def _kind(x: torch.Tensor) -> str:
    return _NAMES.get(x.dtype, "int64_t")


def _on_cpu(function: Any) -> Any:
    """Hand the call to :mod:`plain` where the first tensor is not on the CPU."""
    fallback = getattr(plain, function.__name__)

    @functools.wraps(function)
    def wrapper(first: Any, *arguments: Any, **options: Any) -> Any:
        tensor = first if isinstance(first, torch.Tensor) else first[0][0]
        chosen = function if tensor.device.type == "cpu" else fallback
        return chosen(first, *arguments, **options)

    return wrapper


WHOLE_TAP = native_conv.WHOLE_TAP
ConvOperation = _on_cpu(native_conv.ConvOperation)
ConvTransposeOperation = _on_cpu(native_conv.ConvTransposeOperation)
conv = _on_cpu(native_conv.conv)
conv_input_gradient = _on_cpu(native_conv.conv_input_gradient)
conv_weight_gradient = _on_cpu(native_conv.conv_weight_gradient)


@_on_cpu
def weight_codes(master: torch.Tensor) -> tuple[torch.Tensor, int]:
    master = master.contiguous()
    shift = quant.scale_shift(_call("maximum_int16_t", master, master.numel()), 8)
    K, C, R, S = master.shape
    out = empty((K, R, S, C), torch.int8)
    _call("weight_codes", master, out, shift, K, C, R * S)
    return out.permute(0, 3, 1, 2), shift


@_on_cpu
def requantize(
    acc: torch.Tensor,
    multiplier: torch.Tensor,
    bias: torch.Tensor,
    shift: int,
    residual: torch.Tensor | None,
    residual_shift: int,
    low: int,
    high: int,
) -> torch.Tensor:
    acc = acc.contiguous()
    out = torch.empty(acc.shape, dtype=torch.int8)
    C = acc.shape[-1]
    z = None if residual is None else residual.contiguous()
    m, b = multiplier.to(torch.int64).contiguous(), bias.to(torch.int64).contiguous()
    rows = acc.numel() // C
    _call("requantize", acc, m, b, shift, z, residual_shift, low, high, out, rows, C)
    return out


@_on_cpu
def batch_norm_statistics(acc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    acc = acc.contiguous()
    M, C = acc.shape
    mean, deviation = torch.empty((2, C), dtype=torch.int64).unbind()
    _call("batch_norm_statistics", acc, mean, deviation, M, C)
    return mean, deviation


@_on_cpu
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
    C = mean.shape[0]
    out = torch.empty((6, C), dtype=torch.int64)
    vectors = [v.contiguous() for v in (mean, deviation, *running, gamma, beta)]
    left = acc_exponent - quant.STATISTICS_EXPONENT
    weight = min(batches + 1, quant.STATISTICS_WINDOW)
    if _call("batch_norm_prepare", *vectors, count, left, weight, out, C):
        options = {"count": count, "acc_exponent": acc_exponent, "batches": batches}
        return plain.batch_norm_prepare(mean, deviation, running, gamma, beta, **options)
    mantissa, shift, g, b, *new = out.unbind()
    for buffer, moved in zip(running, new, strict=True):
        buffer.copy_(moved)
    return mantissa, shift, g, b


@_on_cpu
def batch_norm_error_vectors(
    error_sum: torch.Tensor,
    product_sum: torch.Tensor,
    count: int,
    gamma: torch.Tensor,
    mantissa: torch.Tensor,
    shift: torch.Tensor,
) -> tuple[torch.Tensor, int]:
    C = error_sum.shape[0]
    out = torch.empty((3, C), dtype=torch.int64)
    sums = [v.contiguous() for v in (error_sum, product_sum)]
    vectors = [v.contiguous() for v in (gamma, mantissa, shift)]
    exponent = _call("batch_norm_error_vectors", *sums, count, *vectors, out, C)
    return out, exponent + quant.AFFINE_EXPONENT


@_on_cpu
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
) -> tuple[torch.Tensor, torch.Tensor]:
    acc = acc.contiguous()
    M, C = acc.shape
    xhat = empty((M, C), torch.int16)
    y = torch.empty((M, C), dtype=torch.int8)
    z = None if residual is None else residual.contiguous()
    vectors = [v.contiguous() for v in (mean, mantissa, shift, gamma, beta)]
    rest = (out_shift, z, residual_shift, low, xhat, y, M, C)
    failed = _call("batch_norm_normalize", acc, *vectors, *rest)
    if failed == 2:  # beyond the range of the loops
        return plain.batch_norm_normalize(
            *(acc, mean, mantissa, shift, gamma, beta),
            *(out_shift, residual, residual_shift, low),
        )
    _checked(failed)
    return xhat, y


def _checked(failed: int) -> int:
    if failed:
        raise MemoryError("no memory for the buffers of a kernel")
    return failed


def _term_array(terms: Terms) -> tuple[Any, list[torch.Tensor]]:
    exponent = min(e for _, e in terms)
    kept = [c if c.stride(3) == 1 or c.shape[3] == 1 else c.contiguous() for c, _ in terms]
    array = (_Term * len(kept))()
    for slot, codes, (_, e) in zip(array, kept, terms, strict=True):
        n, h, w, _ = codes.stride()
        slot.codes, slot.bytes = codes.data_ptr(), codes.element_size()
        slot.shift, slot.stride_n, slot.stride_h, slot.stride_w = e - exponent, n, h, w
    return array, kept


@_on_cpu
def quantize_error(terms: Terms, mask: torch.Tensor | None, shift: int) -> tuple[torch.Tensor, int]:
    shape = terms[0][0].shape
    array, kept = _term_array(terms)
    out = torch.empty(shape, dtype=torch.int8)
    pointer = ctypes.byref(array)
    zero = None if mask is None else mask.contiguous()
    maximum = _call("quantize_error", pointer, len(kept), zero, shift, out, *shape)
    return out, maximum


@_on_cpu
def error_sums(error: torch.Tensor) -> torch.Tensor:
    M, C = error.shape
    total = torch.empty(C, dtype=torch.int64)
    _call("error_sums", error.contiguous(), total, M, C)
    return total


@_on_cpu
def batch_norm_sums(error: torch.Tensor, xhat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    M, C = error.shape
    totals = torch.empty((2, C), dtype=torch.int64)
    _call("batch_norm_sums", error.contiguous(), xhat.contiguous(), totals[0], totals[1], M, C)
    return totals[0], totals[1]


@_on_cpu
def batch_norm_backward(
    error: torch.Tensor,
    xhat: torch.Tensor,
    m0: torch.Tensor,
    m1: torch.Tensor,
    factors: torch.Tensor,
    shift: int,
) -> tuple[torch.Tensor, int]:
    error, xhat = error.contiguous(), xhat.contiguous()
    N, H, W, C = error.shape
    out = torch.empty(error.shape, dtype=torch.int8)
    vectors = [v.contiguous() for v in (m0, m1, factors)]
    maximum = _call("batch_norm_backward", error, xhat, *vectors, shift, out, N, H * W, C)
    return out, maximum


@_on_cpu
def max_pool(
    x: torch.Tensor, kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], size: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.contiguous()
    N, H, W, C = x.shape
    out = torch.empty((N, *size, C), dtype=torch.int8)
    winner = torch.empty((N, *size, C), dtype=torch.uint8)
    _call("max_pool", x, out, winner, N, H, W, C, *kernel, *stride, *padding[:2], *size)
    return out, winner


@_on_cpu
def window_maxima(
    x: torch.Tensor, kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], size: Pair
) -> torch.Tensor:
    x = x.contiguous()
    N, H, W, C = x.shape
    out = torch.empty((N, *size, C), dtype=torch.int8)
    _call("window_maxima", x, out, N, H, W, C, *kernel, *stride, *padding[:2], *size)
    return out


@_on_cpu
def image_codes(images: torch.Tensor) -> torch.Tensor:
    N, C, H, W = images.shape
    out = torch.empty((N, H, W, C), dtype=torch.int8)
    _call("image_codes", images, *images.stride(), out, N, H, W, C)
    return out


@_on_cpu
def average_sum(x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous()
    N, H, W, C = x.shape
    if H * W >= 1 << 24:  # beyond sums of 32 bits
        return plain.average_sum(x)
    out = torch.empty((N, 1, 1, C), dtype=torch.int32)
    _call("pixel_sums", x, out, N, H * W, C)
    return out.to(torch.int64)


@_on_cpu
def argmax(x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous()
    N, H, W, C = x.shape
    if C > 1 << 16:  # beyond the keys that are compared
        return plain.argmax(x)
    out = torch.empty((N, H, W, 1), dtype=torch.int64)
    _call("argmax", x, out, N * H * W, C)
    return out


@_on_cpu
def max_pool_gradient(
    error: torch.Tensor,
    winner: torch.Tensor,
    kernel: Pair,
    stride: Pair,
    padding: tuple[int, int, int, int],
    size: Pair,
) -> torch.Tensor:
    error = error.contiguous()
    N, P, Q, C = error.shape
    out = empty((N, *size, C), error.dtype)
    shape = (N, *size, C, *kernel, *stride, *padding[:2], P, Q)
    _call(f"max_pool_gradient_{_kind(error)}", error, winner, out, *shape)
    return out


def _tables(rows: Sequence, columns: Sequence) -> list[Any]:
    out: list[Any] = []
    for first, second, weight, unit in (rows, columns):
        arrays = [np.ascontiguousarray(v, np.int64) for v in (first, second, weight)]
        out += [*arrays, int(unit), len(arrays[0])]
    return out


@_on_cpu
def resize_wide(x: torch.Tensor, rows: Sequence, columns: Sequence) -> torch.Tensor:
    x = x.contiguous()
    N, H, W, C = x.shape
    out = torch.empty((N, len(rows[0]), len(columns[0]), C), dtype=torch.int32)
    _call("resize_wide", x, out, N, H, W, C, *_tables(rows, columns))
    return out


@_on_cpu
def resize_rounded(
    x: torch.Tensor, rows: Sequence, columns: Sequence, division: tuple[int, int, int]
) -> torch.Tensor:
    scale, offset, divisor = division
    if scale == 2 and divisor & (divisor - 1) == 0 and 2 * offset == divisor:
        # Floor division by a power of two is a shift.
        x = x.contiguous()
        N, H, W, C = x.shape
        out = torch.empty((N, len(rows[0]), len(columns[0]), C), dtype=torch.int8)
        shift = divisor.bit_length() - 2
        _call("resize_shifted", x, out, N, H, W, C, *_tables(rows, columns), shift)
        return out
    wide = resize_wide(x, rows, columns)
    if scale > 2:  # not exact: the product takes more than 32 bits
        wide = wide.to(torch.int64)
    return torch.div(wide * scale + offset, divisor, rounding_mode="floor").to(torch.int8)


@_on_cpu
def resize_gradient(
    error: torch.Tensor, size: Pair, rows: Sequence, columns: Sequence
) -> torch.Tensor:
    error = error.contiguous()
    N, C = error.shape[0], error.shape[3]
    out = torch.empty((N, *size, C), dtype=torch.int64)
    _call(f"resize_gradient_{_kind(error)}", error, out, N, *size, C, *_tables(rows, columns))
    return out


@_on_cpu
def softmax_cross_entropy(
    logits: torch.Tensor, exponent: int, labels: torch.Tensor, void: int
) -> tuple[torch.Tensor, int, int]:
    K = logits.shape[-1]
    if K > 256:
        return plain.softmax_cross_entropy(logits, exponent, labels, void)
    logits = logits.contiguous()
    error = torch.empty(logits.shape, dtype=torch.int8)
    totals = torch.empty(2, dtype=torch.int64)
    _call(
        f"softmax_cross_entropy_{_kind(logits)}",
        logits,
        quant.LOGIT_EXPONENT - exponent,
        labels.to(torch.uint8).contiguous(),
        void,
        quant._EXP2,
        quant._LOG2,
        error,
        totals,
        labels.numel(),
        K,
    )
    bits, counted = totals.tolist()
    return error, bits * quant._LN2 >> 8, counted


@_on_cpu
def quantize_gradient(
    gradient: torch.Tensor,
    shift: int,
    out: torch.Tensor,
    *,
    seed: int,
    stream: int,
    start: int = 0,
    taps: Taps | None = None,
) -> int:
    if gradient.dtype not in (torch.int32, torch.int64):
        gradient = gradient.to(torch.int32)
    at: np.ndarray | None = None
    if taps is not None:
        gradient = gradient.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        _, _, R, S = gradient.shape
        at = np.full(out.shape[2:], -1, np.int64)
        at[taps] = np.arange(R * S).reshape(R, S)
    if gradient.dim() == 4 and gradient.permute(0, 2, 3, 1).is_contiguous():
        K, C, R, S = gradient.shape
        order = K, C, out.shape[2:].numel(), R * S
    else:
        gradient = gradient.contiguous()
        order = 1, gradient.numel(), 1, 1
    limit, key = (1 << (8 * out.element_size() - 1)) - 1, seed ^ mix64(stream)
    name = f"quantize_gradient_{_kind(gradient)}_{_kind(out)}"
    return _call(name, gradient, out, shift, limit, key, start, *order, at)


class _Places(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("m", "g", "w")]


class _Stride(ctypes.Structure):
    _fields_ = [("rate", ctypes.c_int64), ("shift", ctypes.c_int64), ("key", ctypes.c_uint64)]


def _places(
    largest: Sequence[int], exponents: Sequence[int]
) -> tuple[int, bool, tuple[int, ...]] | None:
    """Return the exponent of a momentum's sum, whether 32 bits hold it, and the terms' shifts.

    None where all terms are zero. ``largest`` are the magnitudes of the terms.
    """
    alive = [(n, e) for n, e in zip(largest, exponents, strict=True) if n]
    if not alive:
        return None
    top = max(e + quant.log2_ceil(n) for n, e in alive)
    base = max(min(e for _, e in alive), top - 40)
    left = [max(e - base, -62) if n else 0 for n, e in zip(largest, exponents, strict=True)]
    # Half the memory where no term, rounded up, and no sum of them reaches 2**31.
    terms = [
        (n << x) + 1 if x >= 0 else n + (1 << min(-x, 62))
        for n, x in zip(largest, left, strict=True)
    ]
    return base, sum(terms) < 1 << 31, (*left, *[0] * (3 - len(left)))


@_on_cpu
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
) -> tuple[torch.Tensor, int, torch.Tensor, int]:
    """In place, in two passes; ``guess`` holds the largest momentum, gradient and master."""
    momentum, master, gradient = (v.contiguous() for v in (momentum, master, gradient))
    scale, count = (1 << quant.MOMENTUM_SHIFT) - 1, momentum.numel()
    exponents = [momentum_exponent - quant.MOMENTUM_SHIFT, gradient_exponent]
    if decay is not None:
        exponents.append(master_exponent - decay)
    kind = _kind(gradient)

    def places(largest: list[int]) -> tuple[int, bool, tuple[int, ...]] | None:
        return _places([scale * largest[0], *largest[1:]][: len(exponents)], exponents)

    found = (ctypes.c_int64 * 4)()
    # The pass that finds the sum's maximum needs those of the terms; they say if it was right.
    chosen, tried = places(guess or [quant.MASTER_LIMIT, 127, quant.MASTER_LIMIT]), False
    while True:
        base, narrow, left = chosen or (momentum_exponent, True, (0, 0, 0))
        wide, shifts = ("int32_t" if narrow else "int64_t"), ctypes.byref(_Places(*left))
        terms = momentum, gradient, master, int(decay is not None), shifts
        _call(f"update_maxima_{wide}_{kind}", *terms, ctypes.byref(found), count)
        right = places(list(found[:3]))
        if right == chosen:
            break
        assert not tried, "the maxima of the terms do not depend on the guess"
        chosen, tried = right, True
    shift = quant.scale_shift(found[3], 16)
    momentum_exponent, key = base + shift, seed ^ mix64(stream + 1)
    right_shift = master_exponent - momentum_exponent + rate[1]
    step = _Stride(rate[0], right_shift, seed ^ mix64(stream + 2))
    # No step is larger than this; the usual one leaves the master's exponent as it is.
    reach = found[2] + (quant.MASTER_LIMIT * rate[0] >> max(right_shift, 0)) + 1
    usual = 0 <= right_shift <= 48 and (decay is None or reach <= quant.MASTER_LIMIT)
    behind = ctypes.byref(step) if usual else None
    _call(f"update_{wide}_{kind}", *terms, shift, key, behind, count)
    guess[:] = found[:3]
    if usual:
        return momentum, momentum_exponent, master, master_exponent
    if right_shift < -14:  # beyond the range of the loops: a step of 2**22 << 14 or more
        stepped = plain.weight_update(
            *(master, master_exponent, momentum, momentum_exponent, rate),
            fixed=decay is None,
            seed=seed,
            stream=stream + 2,
        )
        return momentum, momentum_exponent, *stepped
    ends, halvings = (ctypes.c_int64 * 2)(), 0
    if decay is not None:
        _call("step_range", master, momentum, ctypes.byref(step), ctypes.byref(ends), count)
        low, high = ends
        while max(-low, high) > quant.MASTER_LIMIT:
            low, high, halvings = (low + 1) >> 1, (high + 1) >> 1, halvings + 1
    _call("step_halved", master, momentum, ctypes.byref(step), halvings, count)
    return momentum, momentum_exponent, master, master_exponent + halvings
