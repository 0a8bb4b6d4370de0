"""The variants of :mod:`intaglio.nn.variants` as fused loops in C, for tensors on the CPU."""

from collections.abc import Sequence

import torch

from intaglio.nn.kernels.loader import call as _call
from intaglio.spec.rng import mix64

__all__ = ["batch_norm_digits", "square_sums", "stochastic", "wide_digits"]

_ROUNDINGS = {"nearest": 0, "stochastic": 1, "diffusion": 2}


def _digits(
    source: Sequence[torch.Tensor | int | None],
    shape: Sequence[int],
    shift: int,
    bits: int,
    rounding: str,
    words: tuple[int, int, int],
) -> tuple[list[torch.Tensor], int]:
    N, H, W, C = shape
    seed, stream, first = words
    out = [torch.empty((N, H, W, C), dtype=torch.int8) for _ in range(1 if bits == 8 else 2)]
    high, low = (None, *out) if bits == 8 else out
    # In 1x1 maps diffusion runs along the batch.
    scans, pixels = (1, N) if H * W == 1 and rounding == "diffusion" else (N, H * W)
    key = seed ^ mix64(stream)
    kind = bits, _ROUNDINGS[rounding], shift, key, first
    maximum = _call("error_digits", *source, *kind, high, low, scans, pixels, C)
    if maximum < 0:
        raise MemoryError("no memory for a row of errors")
    return out, maximum


def wide_digits(
    wide: torch.Tensor,
    y: torch.Tensor | None,
    low: int,
    shift: int,
    *,
    bits: int,
    rounding: str,
    words: tuple[int, int, int] = (0, 0, 0),
) -> tuple[list[torch.Tensor], int]:
    """Return the digits of a wide error (N, H, W, C) for a right shift, and its largest magnitude.

    Digits are those of :func:`intaglio.spec.variants.error_digits`. ``y`` and ``low`` are those of
    :func:`intaglio.spec.quant.through_saturation`, if a saturation is in front. ``words`` are seed,
    stream and index of the first of the random words.
    """
    wide = wide.to(torch.int64).contiguous()
    made = None if y is None else y.contiguous()
    source = (wide, made, low, *([None] * 6), 0)
    return _digits(source, wide.shape, shift, bits, rounding, words)


def batch_norm_digits(
    error: torch.Tensor,
    xhat: torch.Tensor,
    vectors: Sequence[torch.Tensor],
    shift: int,
    *,
    signs: bool,
    bits: int,
    rounding: str,
    words: tuple[int, int, int] = (0, 0, 0),
) -> tuple[list[torch.Tensor], int]:
    """Return the same for the wide error of batch norm's accumulator.

    ``error`` int8 and ``xhat`` int16 are (N, H, W, C), ``vectors`` m0, m1, m2 and factors; see
    :func:`intaglio.nn.kernels.plain.batch_norm_gradient`.
    """
    error, xhat = error.contiguous(), xhat.contiguous()
    held = [v.to(torch.int64).contiguous() for v in vectors]
    source = (None, None, 0, error, xhat, *held, int(signs))
    return _digits(source, error.shape, shift, bits, rounding, words)


def square_sums(acc: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return the sums (3, C) of h * h, h * l and l * l, ``|acc - mean| = 65536 h + l``.

    ``acc`` is int32 (M, C).
    """
    acc = acc.contiguous()
    sums = torch.empty((3, acc.shape[1]), dtype=torch.int64)
    if _call("square_sums", acc, mean.contiguous(), sums, *acc.shape) < 0:
        raise MemoryError("no memory for the sums of squares")
    return sums


def stochastic(x: torch.Tensor, shift: int, seed: int, stream: int) -> torch.Tensor:
    """Return x int64, contiguous, after a right shift in place that rounds by random words."""
    if shift:
        _call("stochastic_shift", x, shift, seed ^ mix64(stream), x.numel())
    return x
