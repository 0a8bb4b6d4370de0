"""Inference has one door, :func:`graph_op`: it runs an operation of the frozen graph and, inside
:func:`record`, appends it to the graph that is being built. So a model in eval mode *is* its frozen
graph.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from intaglio.nn import kernels
from intaglio.nn.functional import quantize_image
from intaglio.nn.int_tensor import IntTensor, Stamp
from intaglio.nn.operations import OPERATIONS, PreparedConv, nchw, nhwc
from intaglio.nn.views import host, weight_view
from intaglio.spec import quant
from intaglio.spec.graph import Graph, GraphBuilder

__all__ = ["PendingConv", "Recorder", "graph_op", "record", "to_graph"]


class Recorder:
    """Collects the operations that run inside :func:`record`."""

    def __init__(self) -> None:
        self.builder = GraphBuilder()
        #: Name -> codes (N, C, H, W) of every value that was recorded.
        self.codes: dict[str, torch.Tensor] = {}
        self._input: str | None = None

    def name_of(self, value: IntTensor) -> str:
        """Return the name of ``value`` in the graph; the first value without one is the input."""
        if value.value_name is None:
            if self._input is not None:
                raise ValueError("a recorded network has one input, and values do not leave it")
            self._input = self.builder.input("input", tuple(value.shape), value.exponent)
            value.value_name = self._input
            self.codes[self._input] = value.codes
        return value.value_name

    def finish(self, *outputs: IntTensor) -> Graph:
        """Return the verified graph."""
        return self.builder.finish([self.name_of(y) for y in outputs])


_recorder: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar(
    "intaglio_recorder", default=None
)


@contextlib.contextmanager
def record(model: nn.Module) -> Iterator[Recorder]:
    """Record the operations of ``model``, which must be in eval mode, named by module path."""
    if model.training:
        raise ValueError("only a model in eval mode can be recorded: call model.eval() first")
    for path, module in model.named_modules():
        module.path = path
    token = _recorder.set(Recorder())
    try:
        recorder = _recorder.get()
        assert recorder is not None
        yield recorder
    finally:
        _recorder.reset(token)


def to_graph(model: nn.Module, *, height: int, width: int, batch: int = 1) -> Graph:
    """Return the frozen graph of ``model`` in eval mode, from image codes to class map.

    Outputs are the class map and, before it, the logits that it was taken from.
    """
    image = torch.zeros((batch, 3, height, width), dtype=torch.uint8)
    parameter = next(model.parameters())
    with record(model) as recorder:
        logits = model(quantize_image(image.to(parameter.device)))
        return recorder.finish(model.argmax(logits), logits)


def graph_op(
    op: str,
    name: str,
    inputs: Sequence[IntTensor],
    exponent: int,
    attributes: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor | np.ndarray],
) -> IntTensor:
    """Run one operation of the frozen graph; see :data:`intaglio.spec.graph.OPERATIONS`."""
    arrays = {key: _tensor(value, inputs[0].codes) for key, value in tensors.items()}
    for x in inputs:
        _check_codes(op, name, x)
    codes = OPERATIONS[op]([nhwc(x.codes) for x in inputs], **arrays, **attributes)
    if op == "argmax":
        # Class maps are unsigned in the graph; IntTensor is signed, and wide enough here.
        out = IntTensor(nchw(codes), 0)
    else:
        out = IntTensor(nchw(codes), exponent)
    recorder = _recorder.get()
    if recorder is not None:
        stored = {
            key: host(value).astype({"weight": np.int8, "multiplier": np.int16}.get(key, np.int64))
            for key, value in arrays.items()
        }
        names = [recorder.name_of(x) for x in inputs]
        out.value_name = recorder.builder.node(op, name, names, exponent, attributes, stored)
        recorder.codes[out.value_name] = out.codes
    return out


def _check_codes(op: str, name: str, x: IntTensor) -> None:
    if x.codes.dtype != torch.int8:
        raise TypeError(f"{op} {name}: inputs must be int8, not {x.codes.dtype}")


def _tensor(value: torch.Tensor | np.ndarray, like: torch.Tensor) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    return value.to(like.device)


class PendingConv:
    """A convolution in eval mode that waits for its batch norm: the two are one operation.

    ``layer`` holds the weights, and in ``prepared`` what was made of them.
    """

    def __init__(self, op: str, layer: Any, x: IntTensor, attributes: Mapping[str, Any]) -> None:
        self.op, self.layer, self.x, self.attributes = op, layer, x, attributes

    def finish(self, last: Any, residual: IntTensor | None = None) -> IntTensor:
        """Run the operation; the layer ``last`` says how it is requantised."""
        if residual is not None and self.op != "conv":
            raise ValueError(f"{self.layer.path}: a transposed convolution takes no residual")
        inputs = [self.x] if residual is None else [self.x, residual]
        if _recorder.get() is not None:
            tensors, attributes = self._fold(last, residual)
            return graph_op(self.op, self.layer.path, inputs, last.exponent, attributes, tensors)
        for x in inputs:
            _check_codes(self.op, self.layer.path, x)
        kept, sources = self.layer.prepared, (self.layer.weight, *last.sources())
        key = (
            last,
            last.exponent,
            last.relu,
            self.x.exponent,
            residual if residual is None else residual.exponent,
            kernels.active(),
            self.x.device,
            self.attributes,
        )
        if kept is None or kept.key != key or not kept.stamp.holds(sources):
            tensors, attributes = self._fold(last, residual)
            arrays = {name: _tensor(v, self.x.codes) for name, v in tensors.items()}
            kept = PreparedConv(self.op, **arrays, **attributes)
            kept.key, kept.stamp = key, Stamp(sources)
            self.layer.prepared = kept
        codes = kept([nhwc(x.codes) for x in inputs])
        return IntTensor(nchw(codes), last.exponent)

    def _fold(self, last: Any, residual: IntTensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the tensors and attributes of the operation in the graph."""
        weight, exponent = weight_view(self.layer.weight)
        axes = (1, 2, 3) if self.op == "conv" else (0, 2, 3)
        m, b, shift, residual_shift = last.fold(
            acc_exponent=self.x.exponent + exponent,
            # The largest magnitude of each channel's accumulator.
            acc_bound=host(weight.abs().sum(axes, dtype=torch.int64)) * 128,
            residual_exponent=None if residual is None else residual.exponent,
        )
        attributes = {
            **self.attributes,
            "shift": shift,
            "low": 0 if last.relu else -quant.CODE_LIMIT,
            "high": quant.CODE_LIMIT,
        }
        if self.op == "conv":
            attributes["residual_shift"] = residual_shift
        return {"weight": weight, "multiplier": m.astype(np.int16), "bias": b}, attributes
