"""The products of a convolution as im2col and ``torch._int_mm``: the oracle of the C ones.

Feature maps lie as (N, H, W, C); weights are int8 (K, C, R, S) in any memory layout. ``origin`` is
the padding above and left; rows and columns beyond the input are padding as well.
"""

from typing import Any

import torch

from intaglio.spec.arith import round_shift

__all__ = [
    "ROWS",
    "WHOLE_TAP",
    "ConvOperation",
    "ConvTransposeOperation",
    "conv",
    "conv_input_gradient",
    "conv_weight_gradient",
    "im2col",
    "requantize",
]

Pair = tuple[int, int]

#: From so many input channels on taps that meet padding only are left out: never, here.
WHOLE_TAP = 1 << 62

#: Rows that one product may sum: times 128 * 128 this is below 2**31. A multiple of _LANES.
ROWS = (1 << 17) - 8


def im2col(
    x: torch.Tensor,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    origin: Pair = (0, 0),
    dilation: Pair = (1, 1),
    spread: Pair = (1, 1),
    size: Pair,
    code: int = 0,
    pitch: int | None = None,
) -> torch.Tensor:
    """Return the windows of x (N, H, W, C) int8 as rows (N * P * Q, pitch), columns (R, S, C).

    Output (p, q) and tap (r, s) meet row ``(p * stride - origin + r * dilation) / spread`` of x,
    where that is a row of x, else ``code`` (the same for columns). ``spread`` above 1 is a
    transposed convolution. Columns up to ``pitch`` are zero.
    """
    if spread != (1, 1):
        wide = x.new_zeros(
            (
                x.shape[0],
                (x.shape[1] - 1) * spread[0] + 1,
                (x.shape[2] - 1) * spread[1] + 1,
                x.shape[3],
            )
        )
        wide[:, :: spread[0], :: spread[1]] = x
        x = wide
    # Rows before the first window are met by none.
    x = x[:, max(-origin[0], 0) :, max(-origin[1], 0) :]
    top, left = max(origin[0], 0), max(origin[1], 0)
    N, H, W, C = x.shape
    (R, S), (P, Q) = kernel, size
    need = [(size[i] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    padded = x.new_full((N, max(need[0], top + H), max(need[1], left + W), C), code)
    padded[:, top : top + H, left : left + W] = x
    n, h, w, c = padded.stride()
    view = padded.as_strided(
        (N, P, Q, R, S, C),
        (n, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c),
    )
    # Windows of narrow maps are a view whose rows overlap, which _int_mm multiplies wrongly.
    out = view.reshape(N * P * Q, R * S * C).contiguous()
    if pitch is not None and pitch != R * S * C:
        wide = out.new_zeros((N * P * Q, pitch))
        wide[:, : R * S * C] = out
        out = wide
    return out


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _pad_rows(matrix: torch.Tensor, rows: int) -> torch.Tensor:
    if matrix.shape[0] == rows:
        return matrix
    out = matrix.new_zeros((rows, matrix.shape[1]))
    out[: matrix.shape[0]] = matrix
    return out


def _pad_columns(matrix: torch.Tensor, multiple: int) -> torch.Tensor:
    columns = _round_up(matrix.shape[1], multiple)
    if matrix.shape[1] == columns:
        return matrix
    out = matrix.new_zeros((matrix.shape[0], columns))
    out[:, : matrix.shape[1]] = matrix
    return out


#: ``_int_mm`` leaves its fast path for sizes that are no multiple of 4; on CUDA it takes inner and
#: outer sizes that are multiples of 8, and at least so many rows.
_LANES, _CUDA_ROWS = 8, 24


def _int_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the int32 product of int8 matrices of any size."""
    if a.device.type == "cpu":
        return torch._int_mm(a, b)
    rows, columns = a.shape[0], b.shape[1]
    a = _pad_columns(_pad_rows(a, max(rows, _CUDA_ROWS)), _LANES)
    b = _pad_columns(_pad_rows(b, a.shape[1]), _LANES)
    return torch._int_mm(a, b)[:rows, :columns]


def _product(a: torch.Tensor, b: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the exact int32 product of a (M, K) and b (K, columns), int8; K is a pitch of 8."""
    b = _pad_columns(_pad_rows(b, a.shape[1]), _LANES)
    out = _int_mm(a, b)
    return out if out.shape[1] == columns else out[:, :columns].contiguous()


def _pointwise(kernel: Pair, origin: Pair) -> bool:
    return kernel == (1, 1) and origin == (0, 0)


def _gather(
    x: torch.Tensor,
    kernel: Pair,
    stride: Pair,
    origin: Pair,
    dilation: Pair,
    size: Pair,
    code: int,
) -> torch.Tensor:
    """Return the windows of a forward convolution, (N * P * Q, pitch)."""
    if _pointwise(kernel, origin):
        x = x[:, : size[0] * stride[0] : stride[0], : size[1] * stride[1] : stride[1]]
        if tuple(x.shape[1:3]) == tuple(size):
            return _pad_columns(x.reshape(-1, x.shape[3]), _LANES)
    return im2col(
        x,
        kernel,
        stride=stride,
        origin=origin,
        dilation=dilation,
        size=size,
        code=code,
        pitch=_round_up(kernel[0] * kernel[1] * x.shape[3], _LANES),
    )


def _forward_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return (K, C, R, S) as (R * S * C, K), which lies in memory as its transpose."""
    K, C, R, S = weight.shape
    return weight.permute(0, 2, 3, 1).reshape(K, R * S * C).t()


def _backward_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return (K, C, R, S) as (R * S * K, C) with the taps in reverse order."""
    K, C, R, S = weight.shape
    if R * S == 1:
        return weight.reshape(K, C)
    taps = weight.permute(0, 2, 3, 1).contiguous()  # first: then whole rows of C are moved
    return taps.flip(1, 2).permute(1, 2, 0, 3).reshape(R * S * K, C)


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
    K, _, R, S = weight.shape
    rows = _gather(x, (R, S), stride, origin, dilation, size, code)
    return _product(rows, _forward_matrix(weight), K).reshape(x.shape[0], *size, K)


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
    (R, S), C, K = kernel, x.shape[3], e.shape[3]
    columns = _gather(x, kernel, stride, origin, dilation, (e.shape[1], e.shape[2]), 0)
    # The error first: what is left of the transposition stays inside an output channel.
    out = _outer(e.reshape(-1, K), columns, K, R * S * C)
    return out.reshape(K, R, S, C).permute(0, 3, 1, 2)


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
    (N, _, _, K), (_, C, R, S) = e.shape, weight.shape
    matrix = _backward_matrix(weight)
    if _pointwise((R, S), origin):
        out = _product(_pad_columns(e.reshape(-1, K), _LANES), matrix, C).reshape(*e.shape[:3], C)
        if stride == (1, 1) and tuple(out.shape[1:3]) == tuple(size):
            return out
        wide = out.new_zeros((N, *size, C))
        wide[:, : e.shape[1] * stride[0] : stride[0], : e.shape[2] * stride[1] : stride[1]] = out
        return wide
    columns = im2col(
        e,
        (R, S),
        origin=(dilation[0] * (R - 1) - origin[0], dilation[1] * (S - 1) - origin[1]),
        dilation=dilation,
        spread=stride,
        size=size,
        pitch=_round_up(R * S * K, _LANES),
    )
    return _product(columns, matrix, C).reshape(N, *size, C)


def _outer(a: torch.Tensor, b: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return the sum over the rows m of ``a[m, i] * b[m, j]``, (rows, columns), exact int64."""
    a, b = _pad_columns(a, _LANES), _pad_columns(b, _LANES)
    total: Any = None
    for start in range(0, a.shape[0], ROWS):
        part = _int_mm(a[start : start + ROWS].t(), b[start : start + ROWS])
        total = part if total is None else total.to(torch.int64) + part
    return total[:rows, :columns]


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
    """Return the int8 requantisation of acc int32 (..., C)."""
    total = acc.to(torch.int64) * multiplier + bias
    if residual is not None:
        total += residual.to(torch.int64) << residual_shift
    return round_shift(total, shift).clamp_(low, high).to(torch.int8)


class ConvOperation:
    """A convolution with its requantisation, prepared once and called many times.

    ``multiplier`` and ``bias`` are int64 (K,), the other arguments those of :func:`conv` and
    :func:`requantize`. Called with x (N, H, W, C), a residual (N, *size, K) or None, and the size
    of the result, it returns int8 (N, *size, K). It keeps nothing of the tensors that it was made
    from which may change later.
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
        self._weight, self._vectors = weight.clone(), (multiplier.clone(), bias.clone())
        self._geometry: dict[str, Any] = dict(
            stride=stride, origin=origin, dilation=dilation, code=code
        )
        self._shift, self._rest = shift, (residual_shift, low, high)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None, size: Pair) -> torch.Tensor:
        acc = conv(x, self._weight, size=size, **self._geometry)
        return requantize(acc, *self._vectors, self._shift, residual, *self._rest)


class ConvTransposeOperation:
    """The same for a transposed convolution, weight (C, K, R, S), which takes no residual.

    ``origin`` is what is cut off above and left.
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
        self._weight, self._vectors = weight.clone(), (multiplier.clone(), bias.clone())
        self._geometry: dict[str, Any] = dict(stride=stride, origin=origin)
        self._shift, self._bounds = shift, (low, high)

    def __call__(self, x: torch.Tensor, residual: None, size: Pair) -> torch.Tensor:
        acc = conv_input_gradient(x, self._weight, size=size, **self._geometry)
        return requantize(acc, *self._vectors, self._shift, None, 0, *self._bounds)
