"""SGD with momentum on integer masters."""

import weakref
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from intaglio.nn import kernels, variants, workers
from intaglio.nn.int_tensor import IntTensor
from intaglio.spec import quant
from intaglio.spec.variants import Recipe, master_limit, normalized_exponent

__all__ = ["DECAY_SHIFT", "SGD", "VECTOR_BITS", "WEIGHT_BITS", "pixel_factor"]

#: Weight decay is 2**-DECAY_SHIFT, on the weights of convolutions.
DECAY_SHIFT = 11
#: Bits of the quantised gradient: of convolution weights, and of gamma, beta and biases.
WEIGHT_BITS, VECTOR_BITS = 8, 16
#: Elements of a gradient that are quantised at a time: their sums stay near the last cache, and the
#: product that makes them has enough rows for each window that it packs.
SLICE = 1 << 23
#: Weights whose gradients are computed in one call: Python between two calls finds nothing of its
#: own in the caches.
TOGETHER = 8


def pixel_factor(pixels: int) -> Fraction:
    """Return what the loss leaves of the division by ``pixels``: ``pixels / 2**floor(log2)``.

    Integer gradients are this factor, in [1, 2), larger than those of the mean loss.
    """
    return Fraction(pixels, 1 << (pixels.bit_length() - 1))


def _shared(codes: torch.Tensor) -> torch.Tensor:
    """Return the sum of the workers' gradients, in as few bytes as are sure to hold it."""
    if workers.count() == 1:
        return codes
    largest = workers.maximum(int(codes.abs().max()))
    narrow = largest * workers.count() < 1 << 31
    return workers.total(codes.to(torch.int32 if narrow else torch.int64))


def _ranges(shape: torch.Size) -> list[tuple[int, int]]:
    """Return the ranges of the first axis in which a gradient is quantised."""
    rows = max(SLICE // max(shape[1:].numel(), 1), 1)
    rows = rows - rows % 48 if rows >= 48 else rows  # whole register tiles of the products
    return [(a, min(a + rows, shape[0])) for a in range(0, shape[0], rows)]


class _Handle:
    """Removes a hook. A pickle of it is None: hooks belong to an optimiser of this process."""

    def __init__(self, handle: Any) -> None:
        self.remove = handle.remove

    def __reduce__(self) -> Any:
        return type(None), ()


def _hook(parameter: IntTensor, optimizer: "weakref.ref[SGD]", name: str) -> None:
    """Let ``optimizer``, and no older one, quantise the gradients of ``parameter``."""
    older = getattr(parameter, "_quantizer", None)
    if older is not None:
        older.remove()
        parameter._quantizer = None  # type: ignore[attr-defined]
    if not parameter.requires_grad:
        return  # what arrives later all the same is quantised in the step

    def arrived(_: torch.Tensor) -> None:
        owner = optimizer()
        if owner is not None:
            owner._arrived(name)

    handle = parameter.register_post_accumulate_grad_hook(arrived)
    parameter._quantizer = _Handle(handle)  # type: ignore[attr-defined]


class _State:
    """What the optimiser has of a parameter besides its momentum."""

    def __init__(self) -> None:
        #: The gradient of this step, whether it is quantised, and the exponent that the update
        #: reads it at.
        self.gradient: IntTensor | None = None
        self.quantized = False
        self.exponent = 0
        #: Guesses that never change a result: exponent of the quantised gradient, maxima.
        self.scale: int | None = None
        self.maxima: list[int] = []


class SGD:
    """SGD with momentum 7/8 and weight decay 2**-11 on integer parameters.

    Gradients become 8 bits (gamma, beta, biases: 16), momenta and masters are int16; every rounding
    of the update is stochastic and takes its bits from (seed, step, parameter, index).

    The gradients of convolutions' weights are quantised, a few at a time, as soon as the backward
    pass has them whole, workers' shares included, and ``grad`` is the quantised one from then on,
    at the end of the pass at the latest: one byte for each weight. Those of gamma, beta and biases,
    which take no memory, are quantised in the step, all at once. So one step takes one backward
    pass (of a sum of losses, if need be). A parameter belongs to the last SGD made for it.
    Momenta and masters are updated in place, so that arrays and state dicts change with them, as
    they do with the optimisers of PyTorch.

    Parameters
    ----------
    parameters
        ``model.named_parameters()``.
    seed
        Of the stochastic rounding, in [0, 2**64 - 1].
    recipe
        Bits of the masters, and whether gradients keep their magnitude.

    Raises
    ------
    RuntimeError
        From ``backward()``: a gradient comes on top of that of another pass.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        seed: int,
        recipe: Recipe = Recipe(),  # noqa: B008 - frozen
    ) -> None:
        self.parameters: dict[str, IntTensor] = {}
        self.momenta: dict[str, tuple[torch.Tensor, int]] = {}
        self.seed, self.steps, self.recipe = seed, 0, recipe
        #: Called with (name, gradient) before each is quantised, if set: to watch, not to change.
        self.watch: Callable[[str, IntTensor], None] | None = None
        self._states: dict[str, _State] = {}
        self._streams: dict[str, int] = {}
        #: Weights whose gradients have arrived and are not computed yet, in order.
        self._waiting: dict[str, None] = {}
        # The hooks would keep this optimiser alive as long as the parameters.
        me = weakref.ref(self)
        for name, parameter in parameters:
            if not isinstance(parameter, IntTensor):
                raise TypeError(f"parameter {name} is not an IntTensor")
            exponent = parameter.exponent
            self._streams[name] = len(self.parameters) << 2
            self.parameters[name] = parameter
            self.momenta[name] = torch.zeros_like(parameter.codes, dtype=torch.int16), exponent
            self._states[name] = _State()
            _hook(parameter, me, name)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._waiting = {}
        for name, parameter in self.parameters.items():
            parameter.grad = self._states[name].gradient = None

    def step(self, rate: Fraction) -> None:
        """Update every parameter that has a gradient with the learning rate ``rate``."""
        self._flush()  # what a pass has left that ended in an error
        fraction = quant.learning_rate(rate.numerator, rate.denominator)
        present = [name for name, p in self.parameters.items() if p.grad is not None]
        wide = [name for name in present if not self._is_quantized(name)]  # or it was set by hand
        for name in wide:
            if self._is_weight(name):
                self._quantize(name)
        self._quantize_vectors([name for name in wide if not self._is_weight(name)])
        self._update(present, fraction)
        self.steps += 1

    def _stream(self, name: str) -> int:
        return (self.steps << 16) | self._streams[name]

    def _is_weight(self, name: str) -> bool:
        return self.parameters[name].dim() == 4

    def _is_quantized(self, name: str) -> bool:
        state = self._states[name]
        return state.quantized and self.parameters[name].grad is state.gradient

    def _arrived(self, name: str) -> None:
        """Take the gradient that a backward pass has left; that of a weight waits for a few more,
        and then they are quantised.
        """
        parameter, state = self.parameters[name], self._states[name]
        gradient, before = parameter.grad, state.gradient
        if before is not None and gradient is not None and gradient.holds(before):
            raise RuntimeError(
                f"{name}: a backward pass on top of another one; make one step with each pass, "
                f"after zero_grad(), or add the losses"
            )
        state.gradient, state.quantized = gradient, False
        if parameter.dim() == 4:
            if not self._waiting:  # at the end of the pass at the latest
                torch.autograd.Variable._execution_engine.queue_callback(self._flush)
            self._waiting[name] = None
            if len(self._waiting) == TOGETHER:
                self._flush()

    def _quantized(self, name: str, codes: torch.Tensor, exponent: int, largest: int) -> None:
        """Replace a gradient, of the largest magnitude ``largest``, by its codes."""
        parameter, state = self.parameters[name], self._states[name]
        assert isinstance(parameter.grad, IntTensor)
        shift = exponent - parameter.grad.exponent
        state.exponent = exponent
        if not self.recipe.magnitude:
            state.exponent = normalized_exponent(largest) + shift
        if parameter.grad is state.gradient:  # the parameter's own, from a backward pass
            parameter.grad.replace(codes, exponent)
        else:
            state.gradient = parameter.grad = IntTensor(codes, exponent)
        state.quantized = True

    def _quantize_vectors(self, names: list[str]) -> None:
        """Replace the gradients of gamma, beta and biases by their codes."""
        if not names:
            return
        gradients = {name: self.parameters[name].grad for name in names}
        sums = [gradients[name].codes.reshape(-1) for name in names]
        sizes = [part.numel() for part in sums]
        whole = workers.total(torch.cat([part.to(torch.int64) for part in sums]))
        if self.watch is not None:
            for name, part in zip(names, whole.split(sizes), strict=True):
                gradient = gradients[name]
                self.watch(name, IntTensor(part.reshape(gradient.shape), gradient.exponent))
        codes, found = kernels.active().quantize_vectors(
            whole, sizes, seed=self.seed, streams=[self._stream(name) for name in names]
        )
        for name, part, (shift, largest) in zip(names, codes.split(sizes), found, strict=True):
            gradient = gradients[name]
            part = part.reshape(gradient.shape)
            self._quantized(name, part, gradient.exponent + shift, largest)

    def _flush(self) -> None:
        """Quantise the gradients of weights that have arrived."""
        names, self._waiting = self._waiting, {}
        together = {}
        for name in names:
            if self.parameters[name].grad is None or self._is_quantized(name):
                continue  # it waits since a pass that ended in an error
            found = self._whole_gradient(name)
            if found is None:
                self._quantize(name)
            else:
                together[name] = found
        if not together:
            return
        done = kernels.active().weight_gradients([last for _, last in together.values()])
        for (name, (codes, _)), largest in zip(together.items(), done, strict=True):
            self._scaled(name, codes, largest)

    def _guess(self, name: str, exponent: int) -> int:
        """Return the shift that a wide gradient at ``exponent`` may need."""
        scale = self._states[name].scale
        # No guess is beyond what sums of 32 bits can need.
        return 0 if scale is None else min(max(scale - exponent, 0), 24)

    def _whole_gradient(self, name: str) -> tuple[torch.Tensor, Any] | None:
        """Return codes that are not written yet, and what writes them, for
        ``kernels.weight_gradients``; None where the gradient of a weight is made in steps.
        """
        parameter = self.parameters[name]
        gradient = parameter.grad
        assert isinstance(gradient, IntTensor)
        late, ranges = gradient.late(), _ranges(parameter.shape)
        if late is None or len(ranges) > 1 or workers.count() > 1 or self.watch is not None:
            return None
        codes = torch.empty(parameter.shape, dtype=torch.int8, device=parameter.device)
        options = {"seed": self.seed, "stream": self._stream(name), "start": 0, "whole": True}
        shift = self._guess(name, gradient.exponent)
        last = late.quantizer(ranges[0], shift, codes, **options)
        return None if last is None else (codes, last)

    def _quantize(self, name: str) -> None:
        """Replace the gradient of a weight by its codes.

        It is computed, summed over the workers and quantised in slices of the first axis, so that
        the wide sums of a large layer never exist at once. The shift is a guess until all slices
        are known; those that were quantised with another one are done again.
        """
        parameter = self.parameters[name]
        gradient = parameter.grad
        assert isinstance(gradient, IntTensor)
        row = parameter.shape[1:].numel()
        codes = torch.empty(parameter.shape, dtype=torch.int8, device=parameter.device)
        ranges, shift = _ranges(parameter.shape), self._guess(name, gradient.exponent)
        used: dict[tuple[int, int], int] = {}
        largest, k = 0, kernels.active()
        parts: list[torch.Tensor] = []
        # Taps that met padding only are zero: they are neither computed nor shared.
        late = gradient.late()
        rows, taps = (gradient.rows, None) if late is None else (late.compute, late.taps)

        def run(a: int, b: int, shift: int) -> int:
            """Quantise a range with ``shift``, or a larger one that it needs; return the largest
            magnitude. A smaller one that it needs is right where there is no other range.
            """
            words = {"seed": self.seed, "stream": self._stream(name), "start": a * row}
            whole, out, last = len(ranges) == 1, codes[a:b], None
            if late is not None and workers.count() == 1 and self.watch is None:
                last = late.quantizer((a, b), shift, out, whole=whole, **words)
            part = None if last else _shared(rows(a, b))
            if part is None:
                (found,) = k.weight_gradients([last])
            else:
                found = int(k.quantize_gradient(part, shift, out, taps=taps, **words))
            right = quant.scale_shift(found, WEIGHT_BITS)
            right = right if whole else max(right, shift)
            if part is not None and right != shift:
                k.quantize_gradient(part, right, out, taps=taps, **words)
            if part is not None and self.watch is not None:
                parts.append(part if late is None else late.whole(part))
            used[a, b] = right
            return int(found)

        for a, b in ranges:
            largest = max(largest, run(a, b, shift))
            shift = max(shift, quant.scale_shift(largest, WEIGHT_BITS))
        if self.watch is not None:
            self.watch(name, IntTensor(torch.cat(parts), gradient.exponent))
        shift = quant.scale_shift(largest, WEIGHT_BITS)
        for (a, b), right in list(used.items()):
            if right != shift:
                run(a, b, shift)
        self._scaled(name, codes, largest)

    def _scaled(self, name: str, codes: torch.Tensor, largest: int) -> None:
        """Replace the gradient of a weight by its codes, which brought ``largest`` into 8 bits."""
        gradient = self.parameters[name].grad
        assert isinstance(gradient, IntTensor)
        exponent = gradient.exponent + quant.scale_shift(largest, WEIGHT_BITS)
        self._states[name].scale = exponent
        self._quantized(name, codes, exponent, largest)

    def _update(self, names: list[str], rate: tuple[int, int]) -> None:
        """Update momenta and masters with the quantised gradients."""
        other = self.recipe.master_bits != 16
        jobs: dict[str, kernels.plain.Update] = {}
        for name in names:
            parameter, state = self.parameters[name], self._states[name]
            assert state.gradient is not None
            decay = DECAY_SHIFT if parameter.dim() == 4 else None
            jobs[name] = kernels.plain.Update(
                *self.momenta[name],
                *(state.gradient.codes, state.exponent),
                *(parameter.codes, parameter.exponent),
                decay=decay,
                stream=self._stream(name),
                guess=state.maxima,
            )
        usual = [name for name in names if not (other and self._is_weight(name))]
        found = {}
        if usual:
            done = kernels.active().updates([jobs[n] for n in usual], rate, seed=self.seed)
            found = dict(zip(usual, done, strict=True))
        for name in names:
            if name not in found:
                job = jobs[name]
                options = {"decay": job.decay, "stream": job.stream, "guess": job.guess}
                limit = master_limit(self.recipe.master_bits)
                found[name] = variants.update(
                    *job[:6], rate, seed=self.seed, limit=limit, **options
                )
            momentum, exponent, *master = found[name]
            self.momenta[name] = momentum, exponent
            self.parameters[name].assign(*master)

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Return momenta and the number of steps as arrays."""
        arrays = {"steps": np.array(self.steps, np.int64)}
        for name, (codes, exponent) in self.momenta.items():
            arrays[f"momentum.{name}"] = codes.cpu().numpy()
            arrays[f"momentum_exponent.{name}"] = np.array(exponent, np.int64)
        return arrays

    def load_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what :meth:`state_arrays` returned; KeyError or ValueError where it misfits."""
        for name, parameter in self.parameters.items():
            codes = torch.from_numpy(arrays[f"momentum.{name}"].copy()).to(parameter.codes.device)
            if codes.shape != parameter.shape or codes.dtype != torch.int16:
                raise ValueError(f"momentum of {name} is {codes.dtype} {tuple(codes.shape)}")
            self.momenta[name] = codes, int(arrays[f"momentum_exponent.{name}"])
        self.steps = int(arrays["steps"])
