"""The products of a convolution in C, as in ``plain_conv``: see ``convolve.c``, ``gradient.c``."""

import ctypes
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from intaglio.nn.kernels import loader
from intaglio.nn.kernels.loader import address, call, empty
from intaglio.nn.kernels.plain_conv import ROWS
from intaglio.spec.quant import CODE_LIMIT
from intaglio.spec.rng import mix64

__all__ = [
    "WHOLE_TAP",
    "ConvOperation",
    "ConvTransposeOperation",
    "Taps",
    "conv",
    "conv_input_gradient",
    "conv_weight_gradient",
    "ends",
    "forward_operands",
    "input_gradient",
    "product_array",
    "tap_indices",
    "tap_places",
    "weight_gradient_codes",
    "weight_gradients",
]

Pair = tuple[int, int]
Taps = tuple[slice, slice]

#: Below so many channels windows are gathered beforehand: their taps would fill no vector.
_FEW = 16
#: From so many input channels on a product leaves out taps that meet padding of code 0 only.
WHOLE_TAP = 256


class _Windows(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("outside", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("N", "H", "W", "C", "R", "S")),
        *((name, ctypes.c_int64) for name in ("stride_h", "stride_w", "top", "left")),
        *((name, ctypes.c_int64) for name in ("dil_h", "dil_w", "spread_h", "spread_w", "P", "Q")),
    ]


class _Weights(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("r", "s", "c", "k")),
    ]


class _Product(ctypes.Structure):
    _fields_ = [
        ("v", _Windows),
        ("w", _Weights),
        ("K", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("out_n", "out_p", "out_q")),
    ]


class Gradient(ctypes.Structure):
    """A weight gradient that is to be computed and quantised; :attr:`kept` are its maps."""

    _fields_ = [
        ("v", _Windows),
        *((name, ctypes.c_void_p) for name in ("e", "out", "at")),
        *((name, ctypes.c_int64) for name in ("K", "C", "taps", "living")),
        *((name, ctypes.c_int64) for name in ("whole", "shift", "limit")),
        *((name, ctypes.c_uint64) for name in ("key", "first")),
        ("largest", ctypes.c_int64),
    ]
    kept: Any


class _Requantizer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("m", "b", "split", "residual")),
        *((name, ctypes.c_int64) for name in ("shift", "residual_shift", "low", "high", "narrow")),
    ]


def _checked(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the buffers of a convolution")


@functools.lru_cache(64)
def _outside(C: int, code: int) -> torch.Tensor:
    """Return the codes of the padding, to be read only."""
    return torch.full((C,), code, dtype=torch.int8)


@functools.lru_cache(64)
def tap_indices(R: int, S: int, rows: Pair, columns: Pair) -> np.ndarray:
    """Return which taps of a kernel these are."""
    return np.arange(R * S).reshape(R, S)[slice(*rows), slice(*columns)].ravel()


@functools.lru_cache(64)
def tap_places(R: int, S: int, rows: Pair, columns: Pair) -> np.ndarray:
    """Return for each tap of a kernel which of these it is, or -1."""
    at = np.full(R * S, -1, np.int64)
    indices = tap_indices(R, S, rows, columns)
    at[indices] = np.arange(indices.size)
    return at


def ends(taps: Taps) -> tuple[Pair, Pair]:
    """Return the rows and the columns of a kernel that these are."""
    return (taps[0].start, taps[0].stop), (taps[1].start, taps[1].stop)


@functools.lru_cache(1024)
def _geometry(shape: tuple[int, ...], code: int, *numbers: Pair) -> _Windows:
    """Return windows of no map yet, to be copied: layers ask for the same ones in every step."""
    outside = _outside(shape[3], code)
    known = _Windows(None, outside.data_ptr(), *itertools.chain(shape, *numbers))
    known.alive = outside
    return known


def _windows(
    x: torch.Tensor,
    kernel: Pair,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    spread: Pair,
    size: Pair,
    code: int,
) -> _Windows:
    """Return the windows of the map x (N, H, W, C), which the caller keeps alive."""
    known = _geometry(x.shape, code, kernel, stride, origin, dilation, spread, size)
    windows = _Windows.from_buffer_copy(known)
    windows.x = x.data_ptr()
    return windows


def _gather(
    x: torch.Tensor,
    kernel: Pair,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    size: Pair,
    code: int,
) -> torch.Tensor:
    """Return the windows as a map (N, P, Q, R * S * C)."""
    N, H, W, C = x.shape
    width = kernel[0] * kernel[1] * C
    out = empty((N, *size, width), torch.int8)
    shape = (N, H, W, C, *kernel, *stride, *origin, *dilation, 1, 1, *size, code, width)
    call("im2col", x, out, *shape)
    return out


def _operands(
    x: torch.Tensor,
    weight: torch.Tensor,
    size: Pair,
    *,
    flip: bool = False,
    stride: Pair = (1, 1),
    origin: Pair = (0, 0),
    dilation: Pair = (1, 1),
    spread: Pair = (1, 1),
    code: int = 0,
) -> tuple[_Windows, _Weights]:
    """Return what C wants to know of a product of the windows of x with weight (R, S, C, K).

    The strides of weight are free; ``flip`` turns the taps around. Both tensors are kept alive by
    the caller.
    """
    R, S, _, _ = weight.shape
    windows = _windows(x, (R, S), stride, origin, dilation, spread, size, code)
    r, s, c, k = weight.stride()
    start = weight.data_ptr()
    if flip:
        start, r, s = start + (R - 1) * r + (S - 1) * s, -r, -s
    return windows, _Weights(start, r, s, c, k)


def _product(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, **options: Any) -> _Product:
    """Return the product, see :func:`_operands`, that writes out, int32 (N, P, Q, K) with any
    strides but the last.
    """
    windows, weights = _operands(x, weight, out.shape[1:3], **options)
    return _Product(windows, weights, weight.shape[3], out.data_ptr(), *out.stride()[:3])


def product_array(products: Sequence[_Product]) -> tuple[Any, int]:
    """Return products as C takes them: where they are and how many."""
    return ctypes.byref((_Product * len(products))(*products)), len(products)


def _run(products: Sequence[_Product]) -> None:
    _checked(call("convolve_all", *product_array(products)))


def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    stride: Pair = (1, 1),
    origin: Pair = (0, 0),
    dilation: Pair = (1, 1),
    size: Pair,
    code: int = 0,
) -> torch.Tensor:
    """Return the int32 accumulators (N, *size, K) of a convolution padded with ``code``."""
    x, taps, geometry = _forward(x, weight, size, stride, origin, dilation, code)
    out = empty((x.shape[0], *size, weight.shape[0]), torch.int32)
    _run([_product(x, taps, out, **geometry)])
    return out


def _forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    size: Pair,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    code: int,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Return map, weight (R, S, C, K) and geometry of the product that makes a convolution."""
    x, taps = x.contiguous(), weight.permute(2, 3, 1, 0)
    K, C, R, S = weight.shape
    if C < _FEW and R * S > 1:
        x = _gather(x, (R, S), stride, origin, dilation, size, code)
        return x, taps.reshape(1, 1, -1, K), {}
    return x, taps, {"stride": stride, "origin": origin, "dilation": dilation, "code": code}


def forward_operands(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    size: Pair,
) -> tuple[_Windows, _Weights, tuple[torch.Tensor, torch.Tensor]]:
    """Return what C wants to know of a convolution, and the tensors that are to be kept alive."""
    x, taps, geometry = _forward(x, weight, size, stride, origin, dilation, 0)
    return *_operands(x, taps, size, **geometry), (x, taps)


class ConvOperation:
    """A convolution with its requantisation, prepared: see :class:`plain_conv.ConvOperation`.

    The weights are packed as the products read them.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        multiplier: torch.Tensor,
        bias: torch.Tensor,
        *,
        shift: int,
        residual_shift: int,
        low: int,
        high: int,
        stride: Pair = (1, 1),
        origin: Pair = (0, 0),
        dilation: Pair = (1, 1),
        code: int = 0,
    ) -> None:
        K, C, R, S = weight.shape
        self._gather: Any = None
        taps = weight.permute(2, 3, 1, 0)
        if C < _FEW and R * S > 1:
            self._gather = (R, S), stride, origin, dilation, code
            taps = taps.reshape(1, 1, R * S * C, K)
            C, R, S = R * S * C, 1, 1
            stride, origin, dilation, code = (1, 1), (0, 0), (1, 1), 0
        self._packed = torch.empty(call("packed_bytes", R, S, C, K), dtype=torch.int8)
        weights = _Weights(taps.data_ptr(), *taps.stride())
        call("pack", ctypes.byref(weights), R, S, C, K, self._packed)
        self._outside = _outside(C, code)
        self._geometry = C, R, S, *stride, *origin, *dilation, 1, 1
        self._windows: dict[tuple[Any, Pair], tuple[Any, int, _Windows]] = {}
        self.channels = K

        m, b = (v.to(torch.int64).numpy() for v in (multiplier, bias))
        half = (1 << shift) >> 1
        split = np.zeros((2, -(-K // 16) * 16), np.int64)
        split[:, :K] = m, b + half
        # (m or b, 16 channels, pair, even or odd) to (16 channels, m or b, even or odd, pair).
        self._split = np.ascontiguousarray(split.reshape(2, -1, 8, 2).transpose(1, 0, 3, 2))
        self._vectors = np.ascontiguousarray(np.stack((m, b)))
        bound = 128 * weight.abs().sum((1, 2, 3), dtype=torch.int64).numpy()
        largest = int((bound * np.abs(m) + np.abs(b)).max()) + half
        pointers = *(v.ctypes.data for v in self._vectors), self._split.ctypes.data, None
        narrow = largest >> shift < 1 << 30
        self._requantizer = _Requantizer(*pointers, shift, residual_shift, low, high, narrow)
        self._pointers = self._packed.data_ptr(), ctypes.addressof(self._requantizer)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None, size: Pair) -> torch.Tensor:
        if self._gather is not None:
            kernel, stride, origin, dilation, code = self._gather
            x = _gather(x, kernel, stride, origin, dilation, size, code)
        key = x.shape, size
        found = self._windows.get(key)
        if found is None:
            C, R, S, *rest = self._geometry
            windows = _Windows(None, self._outside.data_ptr(), *x.shape, R, S, *rest, *size)
            shape = x.shape[0], *size, self.channels
            # The structure is kept with its address.
            found = self._windows[key] = shape, ctypes.addressof(windows), windows
        out = torch.empty(found[0], dtype=torch.int8)
        failed = loader.loaded().convolve_requantize(
            found[1],
            x.data_ptr(),
            self._pointers[0],
            self.channels,
            self._pointers[1],
            None if residual is None else residual.data_ptr(),
            out.data_ptr(),
        )
        _checked(failed)
        return out


class ConvTransposeOperation:
    """A transposed convolution, prepared: see :class:`plain_conv.ConvTransposeOperation`.

    Of each output, ``(i + top) // stride`` is a place and the rest a phase. A place of the grid
    meets the same few inputs in every phase: so all phases are the channels of one convolution.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        multiplier: torch.Tensor,
        bias: torch.Tensor,
        *,
        shift: int,
        low: int,
        high: int,
        stride: Pair,
        origin: Pair,
    ) -> None:
        C, K, R, S = weight.shape
        self._stride, self._origin, self.channels = stride, origin, K
        taps = -(-R // stride[0]), -(-S // stride[1])
        # Tap r = phase + stride * t meets the input t before the place.
        wide = weight.new_zeros((C, K, taps[0] * stride[0], taps[1] * stride[1]))
        wide[:, :, :R, :S] = weight
        wide = wide.reshape(C, K, taps[0], stride[0], taps[1], stride[1]).flip(2, 4)
        phases = stride[0] * stride[1]
        self._inner = ConvOperation(
            wide.permute(3, 5, 1, 0, 2, 4).reshape(phases * K, C, *taps),
            multiplier.repeat(phases),
            bias.repeat(phases),
            shift=shift,
            residual_shift=0,
            low=low,
            high=high,
            origin=(taps[0] - 1, taps[1] - 1),
        )

    def __call__(self, x: torch.Tensor, residual: None, size: Pair) -> torch.Tensor:
        (a, b), (top, left), N = self._stride, self._origin, x.shape[0]
        grid = (size[0] + top - 1) // a + 1, (size[1] + left - 1) // b + 1
        y = self._inner(x, None, grid).reshape(N, *grid, a, b, self.channels)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(N, grid[0] * a, grid[1] * b, self.channels)
        return y[:, top : top + size[0], left : left + size[1]].contiguous()


def conv_input_gradient(
    e: torch.Tensor,
    weight: torch.Tensor,
    *,
    stride: Pair = (1, 1),
    origin: Pair = (0, 0),
    dilation: Pair = (1, 1),
    size: Pair,
) -> torch.Tensor:
    """Return the adjoint of :func:`conv`: e (N, P, Q, K) to int32 (N, *size, C)."""
    e = e.contiguous()
    options = {"stride": stride, "origin": origin, "dilation": dilation}
    out, products = input_gradient(e, weight, size=size, **options)
    _run(products)
    return out


def input_gradient(
    e: torch.Tensor,
    weight: torch.Tensor,
    *,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    size: Pair,
) -> tuple[torch.Tensor, list[_Product]]:
    """Return the result of :func:`conv_input_gradient`, not computed yet, and the products that
    compute it; e is contiguous, and the caller keeps it and the weight alive.
    """
    _, C, R, S = weight.shape
    taps = weight.permute(2, 3, 0, 1)
    first = dilation[0] * (R - 1) - origin[0], dilation[1] * (S - 1) - origin[1]
    out = empty((e.shape[0], *size, C), torch.int32)
    if stride == (1, 1) or (dilation != (1, 1) and R * S > 1):
        options = {"origin": first, "dilation": dilation, "spread": stride}
        return out, [_product(e, taps, out, flip=True, **options)]
    # One convolution for each phase of the output: the others' taps meet only inserted zeros.
    if any(side < step for side, step in zip((R, S), stride, strict=True)):
        out.zero_()  # there are phases without taps
    products = []
    for a in range(min(stride[0], size[0])):
        for b in range(min(stride[1], size[1])):
            # Taps in reverse order that meet codes: r, r + stride, ... up to R - 1.
            r, s = (first[0] - a) % stride[0], (first[1] - b) % stride[1]
            if r >= R or s >= S:
                continue
            part = taps[(R - 1 - r) % stride[0] :: stride[0], (S - 1 - s) % stride[1] :: stride[1]]
            start = (first[0] - a - r) // stride[0], (first[1] - b - s) // stride[1]
            phase = out[:, a :: stride[0], b :: stride[1]]
            products.append(_product(e, part, phase, flip=True, origin=start))
    return out, products


def _gradient(
    x: torch.Tensor, e: torch.Tensor, kernel: Pair, stride: Pair, origin: Pair, dilation: Pair
) -> torch.Tensor:
    """Return the gradient (K, R, S, C) of at most ROWS pixels."""
    (_, P, Q, K), plain = e.shape, (1, 1)
    windows = _windows(x, kernel, stride, origin, dilation, plain, (P, Q), 0)
    out = empty((K, *kernel, x.shape[3]), torch.int32)
    _checked(call("weight_gradient", ctypes.byref(windows), e, K, out))
    return out


def weight_gradient_codes(
    x: torch.Tensor,
    e: torch.Tensor,
    kernel: Pair,
    shift: int,
    out: torch.Tensor,
    *,
    whole: bool,
    seed: int,
    stream: int,
    start: int,
    taps: Taps | None,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
) -> Gradient | None:
    """Return what writes the quantised :func:`conv_weight_gradient` to out, int8 (K, C, R, S), in
    :func:`weight_gradients`.

    The gradient is that of ``taps`` of the kernel in out, the others are zero; None: of all.
    ``shift`` is raised to the one that brings the largest magnitude into 8 bits, and where these
    are the ``whole`` rows of a kernel, lowered to it. Element i of out draws word start + i of the
    stream. None where a sum may be beyond 32 bits.
    """
    if e.shape[:3].numel() > ROWS:
        return None
    x, e = x.contiguous(), e.contiguous()
    C, living = x.shape[3], kernel[0] * kernel[1]
    at = None if taps is None else tap_places(*out.shape[2:], *ends(taps))
    if C < _FEW and living > 1:
        x = _gather(x, kernel, stride, origin, dilation, (e.shape[1], e.shape[2]), 0)
        kernel, stride, origin, dilation = (1, 1), (1, 1), (0, 0), (1, 1)
    (_, P, Q, K), plain = e.shape, (1, 1)
    windows = _windows(x, kernel, stride, origin, dilation, plain, (P, Q), 0)
    pointers = e.data_ptr(), out.data_ptr(), address(at)
    order = K, C, out.shape[2:].numel(), living
    rounding = shift, CODE_LIMIT, seed ^ mix64(stream), start
    found = Gradient(windows, *pointers, *order, whole, *rounding)
    found.kept = x, e, out, at
    return found


def weight_gradients(gradients: Sequence[Gradient]) -> list[int]:
    """Compute them in one call; return the largest magnitude of each before its shift."""
    array = (Gradient * len(gradients))(*gradients)
    _checked(call("weight_gradients", ctypes.byref(array), len(gradients)))
    return [g.largest for g in array]


def conv_weight_gradient(
    x: torch.Tensor,
    e: torch.Tensor,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    origin: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> torch.Tensor:
    """Return the sum over the pixels of errors e (N, P, Q, K) times windows of x, (K, C, R, S).

    int32, or int64 above :data:`ROWS` pixels; padding counts zero.
    """
    x, e = x.contiguous(), e.contiguous()
    N, P, Q, K = e.shape
    (R, S), C = kernel, x.shape[3]
    if C < _FEW and R * S > 1:
        x = _gather(x, kernel, stride, origin, dilation, (P, Q), 0)
        kernel, stride, origin, dilation = (1, 1), (1, 1), (0, 0), (1, 1)
    total: Any = None
    if N * P * Q <= ROWS:
        total = _gradient(x, e, kernel, stride, origin, dilation)
        return total.reshape(K, R, S, C).permute(0, 3, 1, 2)
    images, rows, columns = (max(1, ROWS // n) for n in (P * Q, Q, 1))
    for n, p, q in itertools.product(range(0, N, images), range(0, P, rows), range(0, Q, columns)):
        part = _gradient(
            x[n : n + images],
            e[n : n + images, p : p + rows, q : q + columns].contiguous(),
            kernel,
            stride,
            (origin[0] - p * stride[0], origin[1] - q * stride[1]),
            dilation,
        )
        total = part if total is None else total.to(torch.int64) + part
    return total.reshape(K, R, S, C).permute(0, 3, 1, 2)
