"""The kernels as fused loops in C, see :mod:`intaglio.nn.kernels.loader`.

Where there is no compiler, :func:`available` is False and :mod:`intaglio.nn.kernels.plain` is used.
Functions have the names, arguments and bytes of those in ``plain``; tensors on other devices are
handed to it.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
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
    "batch_norm_error",
    "batch_norm_error_vectors",
    "batch_norm_forward",
    "batch_norm_normalize",
    "batch_norm_prepare",
    "batch_norm_statistics",
    "batch_norm_sums",
    "conv",
    "conv_input_gradient",
    "conv_norm_forward",
    "conv_weight_gradient",
    "error_sums",
    "image_codes",
    "input_gradient",
    "max_pool",
    "max_pool_gradient",
    "quantize_error",
    "quantize_gradient",
    "quantize_vectors",
    "requantize",
    "resize_gradient",
    "resize_rounded",
    "resize_wide",
    "softmax_cross_entropy",
    "update",
    "updates",
    "weight_codes",
    "weight_gradient_codes",
    "weight_gradients",
    "window_maxima",
]

_NAMES = {torch.int8: "int8_t", torch.int16: "int16_t", torch.int32: "int32_t"}

Pair = tuple[int, int]
Taps = native_conv.Taps
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


_TwoInts, _FiveInts = ctypes.c_int64 * 2, ctypes.c_int64 * 5


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
        chosen = function if tensor.is_cpu else fallback
        return chosen(first, *arguments, **options)

    return wrapper


WHOLE_TAP = native_conv.WHOLE_TAP
ConvOperation = _on_cpu(native_conv.ConvOperation)
ConvTransposeOperation = _on_cpu(native_conv.ConvTransposeOperation)
conv = _on_cpu(native_conv.conv)
conv_input_gradient = _on_cpu(native_conv.conv_input_gradient)
conv_weight_gradient = _on_cpu(native_conv.conv_weight_gradient)
input_gradient = native_conv.input_gradient
weight_gradient_codes = native_conv.weight_gradient_codes
weight_gradients = native_conv.weight_gradients


def _code_operands(
    master: torch.Tensor, taps: Taps | None, guess: int | None
) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """Return codes (K, R, S, C) that are not written yet, and what C wants to know to do so."""
    K, C, R, S = master.shape
    at, size = None, (R, S)
    if taps is not None:
        rows, columns = native_conv.ends(taps)
        at = native_conv.tap_indices(R, S, rows, columns)
        size = rows[1] - rows[0], columns[1] - columns[0]
    out = empty((K, *size, C), torch.int8)
    guess = -1 if guess is None else guess
    return out, (master, out, at, K, C, R * S, size[0] * size[1], guess)


@_on_cpu
def weight_codes(
    master: torch.Tensor, taps: Taps | None = None, guess: int | None = None
) -> tuple[torch.Tensor, int]:
    out, (master, _, at, K, C, count, *rest) = _code_operands(master.contiguous(), taps, guess)
    shift = _call("weight_codes", master, out, K, C, count, at, *rest)
    _checked(shift < 0)
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
def batch_norm_statistics(
    acc: torch.Tensor, *, std: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    acc = acc.contiguous()
    M, C = acc.shape
    mean, deviation = torch.empty((2, C), dtype=torch.int64).unbind()
    _checked(_call("batch_norm_statistics", acc, mean, deviation, int(std), M, C))
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
    if _call("batch_norm_prepare", *vectors, count, left, weight, out, C, C):
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
    sign_sum: torch.Tensor,
    count: int,
    gamma: torch.Tensor,
    mantissa: torch.Tensor,
    shift: torch.Tensor,
) -> tuple[torch.Tensor, int]:
    C = error_sum.shape[0]
    out = torch.empty((4, C), dtype=torch.int64)
    sums = [v.contiguous() for v in (error_sum, product_sum, sign_sum)]
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    acc = acc.contiguous()
    M, C = acc.shape
    xhat = empty((M, C), torch.int16)
    y = torch.empty((M, C), dtype=torch.int8)
    signs = torch.empty(C, dtype=torch.int64)
    z = None if residual is None else residual.contiguous()
    vectors = [v.contiguous() for v in (mean, mantissa, shift, gamma, beta)]
    rest = (out_shift, z, residual_shift, low, xhat, y, signs, M, C)
    failed = _call("batch_norm_normalize", acc, *vectors, *rest)
    if failed == 2:  # beyond the range of the loops
        return plain.batch_norm_normalize(
            *(acc, mean, mantissa, shift, gamma, beta),
            *(out_shift, residual, residual_shift, low),
        )
    _checked(failed)
    return xhat, y, signs


class _LayerWeight(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("master", "codes", "at")),
        *((name, ctypes.c_int64) for name in ("K", "C", "taps", "living", "shift")),
    ]


class _BatchNorm(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_deviation")),
        *((name, ctypes.c_void_p) for name in ("gamma", "beta", "residual")),
        *((name, ctypes.c_void_p) for name in ("xhat", "out", "vectors")),
        *((name, ctypes.c_int64) for name in ("left", "weight", "std", "out_shift")),
        *((name, ctypes.c_int64) for name in ("residual_shift", "low", "M", "C")),
    ]


Normalized = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _normalized(
    run: Callable[[Any], int],
    shape: Sequence[int],
    running: tuple[torch.Tensor, torch.Tensor],
    gamma: torch.Tensor,
    beta: torch.Tensor,
    norm: str,
    *,
    acc_exponent: int,
    batches: int,
    out_shift: int,
    residual: torch.Tensor | None,
    residual_shift: int,
    low: int,
) -> Normalized | None:
    C = shape[-1]
    xhat, y = empty(shape, torch.int16), torch.empty(shape, dtype=torch.int8)
    vectors = torch.empty((9, C), dtype=torch.int64)  # two rows are the loops' own
    kept = *running, gamma.contiguous(), beta.contiguous()
    layer = _BatchNorm(
        *(v.data_ptr() for v in kept),
        None if residual is None else residual.data_ptr(),
        *(xhat.data_ptr(), y.data_ptr(), vectors.data_ptr()),
        *(acc_exponent - quant.STATISTICS_EXPONENT, min(batches + 1, quant.STATISTICS_WINDOW)),
        *(norm == "l1-std", out_shift, residual_shift, low, y.numel() // C, C),
    )
    failed = run(ctypes.byref(layer))
    if failed == 2:
        return None
    _checked(failed)
    return xhat, y, vectors


def batch_norm_forward(acc: torch.Tensor, *layer: Any, **options: Any) -> Normalized | None:
    """Statistics, preparation and normalising of acc (..., C) in one call, on the CPU.

    ``layer`` are the running statistics, contiguous, which are brought up to date, gamma, beta, and
    the norm, "l1" or "l1-std". The options are acc_exponent, batches (how many there were before),
    out_shift, residual, residual_shift and low.

    Returns xhat and y (..., C) and the vectors (9, C), of which the first seven are mantissa,
    shift, gamma, beta, the new running statistics and the sums of the signs of xhat, the last for
    "l1" alone. None, with nothing changed, where a number is beyond the range of the loops: those
    of single steps then take over.
    """
    return _normalized(
        lambda norm: _call("batch_norm_forward", norm, acc), acc.shape, *layer, **options
    )


def conv_norm_forward(
    x: torch.Tensor,
    master: torch.Tensor,
    *layer: Any,
    taps: Taps | None,
    guess: int | None,
    geometry: Any,
    size: Pair,
    **options: Any,
) -> tuple[torch.Tensor, int, Normalized | None]:
    """:func:`weight_codes`, and :func:`batch_norm_forward` of the accumulators of the convolution
    with them, which never exist whole.

    ``x`` (N, H, W, C) and ``master`` are on the CPU, ``geometry`` is stride, origin and dilation of
    those taps, ``size`` that of the result (N, *size, K); ``acc_exponent`` is without the shift of
    the codes. Returns codes and shift in front of what batch norm returns.
    """
    codes, (master, *rest) = _code_operands(master.contiguous(), taps, guess)
    weight = codes.permute(0, 3, 1, 2)
    own = _LayerWeight(*[loader.address(v) for v in (master, *rest)])
    windows, weights, kept = native_conv.forward_operands(x, weight, size=size, **geometry)
    pointers = [ctypes.byref(v) for v in (windows, weights, own)]
    shape = x.shape[0], *size, weight.shape[0]
    found = _normalized(
        lambda norm: _call("conv_norm_forward", *pointers, norm), shape, *layer, **options
    )
    del kept, master  # until here
    return weight, own.shift, found


#: From an error to a result that is not computed yet, and the products that compute it.
Back = Callable[[torch.Tensor], tuple[torch.Tensor, Sequence[Any]]]
#: A guess that gives no shift.
_NO_GUESS = -(1 << 40)


def batch_norm_error(
    terms: Terms,
    y: torch.Tensor | None,
    low: int,
    xhat: torch.Tensor,
    vectors: torch.Tensor,
    *,
    signs: bool,
    acc_exponent: int,
    guesses: Sequence[int | None],
    back: Back | None = None,
) -> tuple[
    torch.Tensor, torch.Tensor, torch.Tensor, list[tuple[int, int, int]], torch.Tensor | None
]:
    """The two quantisers behind batch norm and what lies between them, in one call.

    On the CPU; ``vectors`` are those of :func:`batch_norm_forward`, ``guesses`` the exponents of
    the largest wide error and the largest wide error of the accumulator one step before. ``back``
    returns products of the error of the accumulator, see :func:`native_conv.input_gradient`.
    Returns the codes of both (N, H, W, C), the sums of the first and of its products with xhat
    (2, C), for both (exponent of the wide error, right shift, largest magnitude), and the result
    of the products.
    """
    N, H, W, C = xhat.shape
    array, kept = _term_array(terms)
    e, out = (torch.empty(xhat.shape, dtype=torch.int8) for _ in range(2))
    work, found = torch.empty((6, C), dtype=torch.int64), _FiveInts()
    exponent = min(e for _, e in terms)
    base = quant.AFFINE_EXPONENT - quant.MEAN_BITS - acc_exponent
    guess = _TwoInts(*[_NO_GUESS if g is None else g for g in guesses])
    wide, products = (None, []) if back is None else back(out)
    failed = _call(
        "batch_norm_error",
        *(ctypes.byref(array), len(kept), y, low, xhat, vectors, int(signs), guess),
        *(exponent, base, e, out, work, found, N, H, W, C),
        *native_conv.product_array(products),
    )
    _checked(failed)
    right, largest, at, more, second = found
    return e, out, work[:2], [(exponent, right, largest), (at, more, second)], wide


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
def quantize_error(
    terms: Terms, y: torch.Tensor | None, low: int, shift: int
) -> tuple[torch.Tensor, int]:
    shape = terms[0][0].shape
    array, kept = _term_array(terms)
    out = torch.empty(shape, dtype=torch.int8)
    pointer = ctypes.byref(array)
    made = None if y is None else y.contiguous()
    maximum = _call("quantize_error", pointer, len(kept), made, low, shift, out, *shape)
    _checked(maximum < 0)
    return out, maximum


@_on_cpu
def error_sums(error: torch.Tensor) -> torch.Tensor:
    M, C = error.shape
    total = torch.empty(C, dtype=torch.int64)
    _checked(_call("error_sums", error.contiguous(), total, M, C))
    return total


@_on_cpu
def batch_norm_sums(error: torch.Tensor, xhat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    M, C = error.shape
    totals = torch.empty((2, C), dtype=torch.int64)
    maps = error.contiguous(), xhat.contiguous()
    _checked(_call("batch_norm_sums", *maps, totals[0], totals[1], M, C))
    return totals[0], totals[1]


@_on_cpu
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
    error, xhat = error.contiguous(), xhat.contiguous()
    N, H, W, C = error.shape
    out = torch.empty(error.shape, dtype=torch.int8)
    vectors = [v.contiguous() for v in (m0, m1, m2, factors)]
    rest = shift, out, N, H * W, C
    maximum = _call("batch_norm_backward", error, xhat, *vectors, int(signs), *rest)
    _checked(maximum < 0)
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
    shape = (N, H, W, C, *kernel, *stride, *padding[:2], *size)
    _checked(_call("window_maxima", x, out, *shape))
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
    _checked(_call("resize_wide", x, out, N, H, W, C, *_tables(rows, columns)))
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
        _checked(_call("resize_shifted", x, out, N, H, W, C, *_tables(rows, columns), shift))
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
    tables = _tables(rows, columns)
    _checked(_call(f"resize_gradient_{_kind(error)}", error, out, N, *size, C, *tables))
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
    at = None
    if taps is not None:
        gradient = gradient.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        at = native_conv.tap_places(*out.shape[2:], *native_conv.ends(taps))
    if gradient.dim() == 4 and gradient.permute(0, 2, 3, 1).is_contiguous():
        K, C, R, S = gradient.shape
        order = K, C, out.shape[2:].numel(), R * S
    else:
        gradient = gradient.contiguous()
        order = 1, gradient.numel(), 1, 1
    limit, key = (1 << (8 * out.element_size() - 1)) - 1, seed ^ mix64(stream)
    name = f"quantize_gradient_{_kind(gradient)}_{_kind(out)}"
    largest = _call(name, gradient, out, shift, limit, key, start, *order, at)
    _checked(largest < 0)
    return largest


@_on_cpu
def quantize_vectors(
    sums: torch.Tensor, sizes: Sequence[int], *, seed: int, streams: Sequence[int]
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    sums = sums.contiguous()
    codes = torch.empty(sums.shape, dtype=torch.int16)
    start, at, rows = sums.data_ptr(), codes.data_ptr(), []
    for size, stream in zip(sizes, streams, strict=True):
        rows.append((start, at, size, stream, 0, 0))
        start, at = start + 8 * size, at + 2 * size
    table = np.array(rows, np.int64)
    _call("quantize_vectors", table, len(rows), seed)
    return codes, [(shift, largest) for *_, shift, largest in table.tolist()]


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
) -> plain.Updated:
    """In place; ``guess`` holds the largest momentum, gradient and master."""
    job = plain.Update(
        *(momentum, momentum_exponent, gradient, gradient_exponent, master, master_exponent),
        *(decay, stream, guess),
    )
    return updates([job], rate, seed=seed)[0]


def updates(jobs: Sequence[plain.Update], rate: Pair, *, seed: int) -> list[plain.Updated]:
    """In place, in two passes for each."""
    if not all(job.momentum.is_cpu for job in jobs):
        return plain.updates(jobs, rate, seed=seed)
    kept, rows = [], []
    largest = quant.MASTER_LIMIT, 127, quant.MASTER_LIMIT
    for m, m_exponent, g, g_exponent, w, w_exponent, decay, stream, guess in jobs:
        m, g, w = m.contiguous(), g.contiguous(), w.contiguous()
        kept.append((m, g, w))
        rows.append(
            (
                *(m.data_ptr(), g.data_ptr(), w.data_ptr(), m.numel(), g.element_size()),
                *(m_exponent, g_exponent, w_exponent, -1 if decay is None else decay, stream),
                *(guess or largest),
            )
        )
    table = np.array(rows, np.int64)
    _call("update", table, len(rows), *rate, seed)
    out = []
    for job, (m, _, w), row in zip(jobs, kept, table.tolist(), strict=True):
        job.guess[:] = row[10:]
        out.append((m, row[5], w, row[7]))
    return out
