"""Statistics of single layers for TensorBoard, and warnings before a range runs out."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from intaglio.nn import workers
from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.layers import Add, BatchNorm2d, Conv2d, ConvTranspose2d
from intaglio.spec import quant
from intaglio.train.optimizer import VECTOR_BITS, WEIGHT_BITS
from intaglio.train.trainees import Integers

__all__ = ["Monitor"]

#: Share of saturated activations in a layer that is worth a warning.
SATURATED_SHARE = 0.02
#: Bits that accumulators and sums of statistics may have before the last ones are worth a warning:
#: they hold 31 and 61.
ACCUMULATOR_BITS, STATISTICS_BITS = 29, 57
#: Right shift of an update beyond which hardly a weight moves; at 49 none does.
UPDATE_SHIFT = 36


class Monitor:
    """Watches the steps of ``trainee``; every number is worker 0's share of the batch, but for
    gradients, which are those of the whole.

    In the logs, by name of parameter or layer:

    - ``gradient/``: log2 of the largest gradient; ``gradient_lost/``: the share of gradients below
      half a step of their 8 (16) bits, which rounding makes zero or a step by chance;
    - ``exponent/`` of the master, ``momentum_exponent/``, ``update_shift/``: the right shift from
      momentum times rate to a step of the master;
    - ``error/``: log2 of the largest error at a batch norm's output, and ``error_acc/`` at an
      accumulator;
    - ``saturated/``: the share of activations at +-127.

    ``warn`` gets one line for each layer whose range is about to run out, once.
    """

    def __init__(self, trainee: Integers, writer: Any, warn: Callable[[str], None]) -> None:
        self.trainee, self.writer, self.warn = trainee, writer, warn
        self._warned: set[tuple[str, str]] = set()
        self._step = 0

    @contextlib.contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Watch the step that is made inside the block, and log it."""
        self._step = step
        handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in self.trainee.model.named_modules()
            if isinstance(module, Add | BatchNorm2d | Conv2d | ConvTranspose2d)
        ]
        self.trainee.optimizer.watch = self._gradient
        try:
            yield
        finally:
            self.trainee.optimizer.watch = None
            for handle in handles:
                handle.remove()
        self._parameters()
        self._errors()

    def _log(self, name: str, value: float) -> None:
        self.writer.add_scalar(name, value, self._step)

    def _tell(self, name: str, kind: str, text: str) -> None:
        if (name, kind) not in self._warned:
            self._warned.add((name, kind))
            self.writer.add_text("warnings", f"{name}: {text}", self._step)
            self.warn(f"step {self._step}: {name}: {text}")

    def _hook(self, name: str) -> Callable[..., None]:
        def look(module: Any, _: Any, output: IntTensor) -> None:
            codes = output.codes
            if codes.dtype == torch.int8:
                self._activations(name, codes, output.exponent)
            else:
                bits = _bits(codes)
                if bits > ACCUMULATOR_BITS:
                    text = f"accumulators reach {bits} bits of 31: smaller weights are needed"
                    self._tell(name, "accumulator", text)
            if isinstance(module, BatchNorm2d):
                self._statistics(name, module, codes.numel() // codes.shape[1] * workers.count())

        return look

    def _activations(self, name: str, codes: torch.Tensor, exponent: int) -> None:
        limit = quant.CODE_LIMIT
        share = int(((codes >= limit) | (codes <= -limit)).sum()) / codes.numel()
        self._log(f"saturated/{name}", share)
        if share > SATURATED_SHARE:
            reach = limit * 2.0**exponent
            text = f"{100 * share:.1f} % of the activations are saturated at +-{reach:.3g}"
            self._tell(name, "activations", text)

    def _statistics(self, name: str, layer: BatchNorm2d, count: int) -> None:
        largest = max(int(v.abs().max()) for v in (layer.running_mean, layer.running_deviation))
        bits = (largest * count).bit_length()
        if bits > STATISTICS_BITS:
            text = f"batch statistics reach {bits} bits of 61: training is about to diverge"
            self._tell(name, "statistics", text)

    def _parameters(self) -> None:
        optimizer = self.trainee.optimizer
        rate = self.trainee.rate(self._step)
        _, rate_shift = quant.learning_rate(rate.numerator, rate.denominator)
        for name, parameter in optimizer.parameters.items():
            self._log(f"exponent/{name}", parameter.exponent)
            momentum = optimizer.momenta[name][1]
            self._log(f"momentum_exponent/{name}", momentum)
            shift = parameter.exponent - momentum + rate_shift
            self._log(f"update_shift/{name}", shift)
            if parameter.dim() == 4:
                if shift >= UPDATE_SHIFT:
                    text = f"updates are {shift} bits below a step of the weights: they stand still"
                    self._tell(name, "update", text)
            else:
                self._fixed(name, parameter)

    def _fixed(self, name: str, parameter: IntTensor) -> None:
        largest = int(parameter.codes.to(torch.int32).abs().max())
        if 8 * largest >= 7 * quant.MASTER_LIMIT:
            reach = quant.MASTER_LIMIT * 2.0**parameter.exponent
            text = f"values reach {largest * 2.0**parameter.exponent:.3g}; they saturate at "
            self._tell(name, "fixed", f"{text}+-{reach:.3g}")

    def _gradient(self, name: str, gradient: IntTensor) -> None:
        weight = gradient.dim() == 4
        codes = gradient.codes.to(torch.int64).abs()
        largest = int(codes.max())
        if largest == 0:
            return
        self._log(f"gradient/{name}", math.log2(largest) + gradient.exponent)
        half = 1 << quant.scale_shift(largest, WEIGHT_BITS if weight else VECTOR_BITS) >> 1
        self._log(f"gradient_lost/{name}", int((codes < half).sum()) / codes.numel())

    def _errors(self) -> None:
        for name, module in self.trainee.model.named_modules():
            for kind, attribute in (("error", "error_scale"), ("error_acc", "acc_error_scale")):
                scale = getattr(module, attribute, None)
                if scale is not None and scale.guess is not None:
                    self._log(f"{kind}/{name}", scale.guess)


def _bits(codes: torch.Tensor) -> int:
    """Return the bits of the largest magnitude."""
    return max(int(codes.max()), -int(codes.min())).bit_length()
