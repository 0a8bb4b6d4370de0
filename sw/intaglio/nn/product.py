"""The product of a convolution, and both of its gradients."""

from collections.abc import Sequence
from typing import Any

import torch

from intaglio.nn import kernels
from intaglio.nn.int_tensor import IntTensor, Late
from intaglio.nn.operations import Window, nchw, nhwc
from intaglio.nn.views import take, weight_view

__all__ = ["Product"]


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


class Product:
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
            self._keep(*weight_view(self._master, self._taps))
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
        (x,) = take(self, "_x")
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
