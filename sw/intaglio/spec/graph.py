"""The frozen graph: values, nodes, the table of operations, verification, digest, evaluation.

A graph is a list of nodes in execution order over int8 tensors with power-of-two exponents.
:meth:`Graph.verify` proves for each layer that no input can overflow an accumulator or the
requantiser's sum, and refuses what is not in :data:`OPERATIONS`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from intaglio.spec import ops
from intaglio.spec.arith import (
    ACC_MAX,
    ACC_MIN,
    BIAS_MAX,
    BIAS_MIN,
    CODE_MAX,
    CODE_MIN,
    MULTIPLIER_MAX,
    MULTIPLIER_MIN,
    RESIDUAL_SHIFT_MAX,
    SHIFT_MAX,
    SUM_MAX,
    SUM_MIN,
)
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import array_digest, bytes_digest

__all__ = [
    "EXPONENT_MAX",
    "EXPONENT_MIN",
    "OPERATIONS",
    "Graph",
    "GraphBuilder",
    "Node",
    "Operation",
    "Value",
]

#: Range of a value's exponent.
EXPONENT_MIN, EXPONENT_MAX = -64, 63
#: Classes that a class map can name.
CLASSES_MAX = 65535
#: Largest side of a window, stride, dilation, resize ratio and size that the graph accepts.
SIDE_MAX = 4095
RATIO_MAX = 127


@dataclass(frozen=True)
class Value:
    """A tensor: ``shape`` (N, C, H, W), ``exponent`` (value = code * 2**exponent), ``dtype`` "int8"
    or, of a class map, "uint8" or "uint16" (:func:`intaglio.spec.ops.class_dtype`).
    """

    name: str
    shape: tuple[int, int, int, int]
    exponent: int
    dtype: str = "int8"


@dataclass(frozen=True)
class Node:
    """One operation: see :data:`OPERATIONS` for ``attributes`` and ``tensors``. ``output`` names a
    value.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Operation:
    """An entry of the operation table.

    ``inputs``: least and most inputs. ``attributes``: name -> kind ("int", "pair", "padding",
    "corners"). ``tensors``: name -> dtype. ``shape(node, shapes)`` returns the output shape,
    ``evaluate(node, arrays)`` the output.
    """

    name: str
    inputs: tuple[int, int]
    attributes: Mapping[str, str]
    tensors: Mapping[str, str]
    shape: Callable[[Node, list[tuple[int, ...]]], tuple[int, int, int, int]]
    evaluate: Callable[[Node, list[np.ndarray]], np.ndarray]


class _Refused(Exception):
    """Why a node is refused, without its name."""


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise _Refused(text)


def _window_shape(
    shape: tuple[int, ...],
    outputs: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any = (1, 1),
) -> tuple[int, int, int, int]:
    sizes = []
    for axis in (0, 1):
        size = ops.output_size(
            shape[2 + axis],
            kernel[axis],
            stride[axis],
            padding[axis],
            padding[2 + axis],
            dilation[axis],
        )
        _require(
            size >= 1,
            f"the window {kernel[axis]} with dilation {dilation[axis]} does not fit into "
            f"{shape[2 + axis]} + {padding[axis]} + {padding[2 + axis]} rows or columns",
        )
        sizes.append(size)
    return shape[0], outputs, sizes[0], sizes[1]


def _conv_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    weight, attributes = node.tensors["weight"], node.attributes
    _require(weight.ndim == 4, f"weight must have 4 dimensions, not {weight.ndim}")
    _require(
        weight.shape[1] == shapes[0][1],
        f"weight is for {weight.shape[1]} channels, the input has {shapes[0][1]}",
    )
    result = _window_shape(
        shapes[0],
        weight.shape[0],
        weight.shape[2:],
        attributes["stride"],
        attributes["padding"],
        attributes["dilation"],
    )
    if len(shapes) == 2:
        _require(shapes[1] == result, f"the residual has shape {shapes[1]}, the output {result}")
    return result


def _conv_transpose_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    weight, padding = node.tensors["weight"], node.attributes["padding"]
    _require(weight.ndim == 4, f"weight must have 4 dimensions, not {weight.ndim}")
    _require(
        weight.shape[0] == shapes[0][1],
        f"weight is for {weight.shape[0]} channels, the input has {shapes[0][1]}",
    )
    rows, cols = (
        (shapes[0][2 + axis] - 1) * node.attributes["stride"][axis]
        + weight.shape[2 + axis]
        - padding[axis]
        - padding[2 + axis]
        for axis in (0, 1)
    )
    _require(min(rows, cols) >= 1, f"padding {padding} leaves {rows} x {cols} of the output")
    return shapes[0][0], weight.shape[1], rows, cols


def _pool_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    kernel, padding = node.attributes["kernel"], node.attributes["padding"]
    for axis in (0, 1):
        # Otherwise a window could lie in the padding alone, and its maximum would not exist.
        _require(
            max(padding[axis], padding[2 + axis]) < kernel[axis],
            f"padding {padding} must be smaller than the kernel {kernel}",
        )
    return _window_shape(shapes[0], shapes[0][1], kernel, node.attributes["stride"], padding)


def _resize_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    ratio, corners = node.attributes["ratio"], node.attributes["corners"]
    _require(max(ratio) <= RATIO_MAX, f"ratio must be at most {RATIO_MAX}, not {max(ratio)}")
    return (
        shapes[0][0],
        shapes[0][1],
        ops.resize_size(shapes[0][2], ratio[0], corners),
        ops.resize_size(shapes[0][3], ratio[1], corners),
    )


def _broadcast_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    _require(
        shapes[0][2:] == (1, 1), f"the input must be 1 x 1, not {shapes[0][2]} x {shapes[0][3]}"
    )
    return (*shapes[0][:2], *node.attributes["size"])


def _add_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    _require(shapes[0] == shapes[1], f"the inputs have shapes {shapes[0]} and {shapes[1]}")
    return shapes[0]  # type: ignore[return-value]


def _concat_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    for shape in shapes:
        _require(
            shape[0] == shapes[0][0] and shape[2:] == shapes[0][2:],
            f"the inputs have shapes {shapes[0]} and {shape}",
        )
    return shapes[0][0], sum(shape[1] for shape in shapes), shapes[0][2], shapes[0][3]


def _argmax_shape(node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, int, int, int]:
    _require(
        shapes[0][1] <= CLASSES_MAX,
        f"argmax takes at most {CLASSES_MAX} channels, not {shapes[0][1]}",
    )
    return shapes[0][0], 1, shapes[0][2], shapes[0][3]


def _dtype(op: str, source: Value) -> str:
    """Return the type of what ``op`` makes of ``source``."""
    return ops.class_dtype(source.shape[1]) if op == "argmax" else "int8"


def _call(function: Callable[..., np.ndarray]) -> Callable[[Node, list[np.ndarray]], np.ndarray]:
    def evaluate(node: Node, arrays: list[np.ndarray]) -> np.ndarray:
        return function(*arrays, *node.tensors.values(), **node.attributes)

    return evaluate


def _evaluate_conv(node: Node, arrays: list[np.ndarray]) -> np.ndarray:
    residual = arrays[1] if len(arrays) == 2 else None
    return ops.conv(arrays[0], *node.tensors.values(), **node.attributes, residual=residual)


_OUTPUT = {"shift": "int", "low": "int", "high": "int"}
_REQUANTIZE = {"multiplier": "int16", "bias": "int64"}
_WEIGHT = {"weight": "int8", **_REQUANTIZE}

#: The operations, by name; the functions of the same names in :mod:`intaglio.spec.ops` define them.
OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "conv",
            (1, 2),
            {
                "stride": "pair",
                "padding": "padding",
                "dilation": "pair",
                "pad_code": "int",
                "residual_shift": "int",
                **_OUTPUT,
            },
            _WEIGHT,
            _conv_shape,
            _evaluate_conv,
        ),
        Operation(
            "conv_transpose",
            (1, 1),
            {"stride": "pair", "padding": "padding", **_OUTPUT},
            _WEIGHT,
            _conv_transpose_shape,
            _call(ops.conv_transpose),
        ),
        Operation(
            "max_pool",
            (1, 1),
            {"kernel": "pair", "stride": "pair", "padding": "padding"},
            {},
            _pool_shape,
            _call(ops.max_pool),
        ),
        Operation(
            "avg_pool",
            (1, 1),
            {"kernel": "pair", "stride": "pair", "padding": "padding", **_OUTPUT},
            _REQUANTIZE,
            _pool_shape,
            _call(ops.avg_pool),
        ),
        Operation(
            "resize",
            (1, 1),
            {"ratio": "pair", "corners": "corners"},
            {},
            _resize_shape,
            _call(ops.resize),
        ),
        Operation(
            "broadcast", (1, 1), {"size": "pair"}, {}, _broadcast_shape, _call(ops.broadcast)
        ),
        Operation(
            "add",
            (2, 2),
            {"shift_a": "int", "shift_b": "int", **_OUTPUT},
            {},
            _add_shape,
            _call(ops.add),
        ),
        Operation("concat", (1, 64), {}, {}, _concat_shape, _call(ops.concat)),
        Operation("argmax", (1, 1), {}, {}, _argmax_shape, _call(ops.argmax)),
    )
}

#: Inclusive bounds of integer attributes.
_BOUNDS = {
    "pad_code": (CODE_MIN, CODE_MAX),
    "shift": (0, SHIFT_MAX),
    "residual_shift": (0, RESIDUAL_SHIFT_MAX),
    "shift_a": (0, 14),
    "shift_b": (0, RESIDUAL_SHIFT_MAX),
    "low": (CODE_MIN, CODE_MAX),
    "high": (CODE_MIN, CODE_MAX),
}


def _check_attribute(name: str, kind: str, value: Any) -> None:
    if kind == "corners":
        _require(
            value in ops.CORNERS, f"{name} must be one of {', '.join(ops.CORNERS)}, not {value!r}"
        )
        return
    length = {"int": 0, "pair": 2, "padding": 4}[kind]
    items = (value,) if length == 0 else value
    _require(
        isinstance(items, tuple)
        and len(items) == max(length, 1)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in items),
        f"{name} must be {'an integer' if length == 0 else f'a tuple of {length} integers'}, "
        f"not {value!r}",
    )
    low, high = _BOUNDS.get(name, (0 if kind == "padding" else 1, SIDE_MAX))
    for item in items:
        _require(low <= item <= high, f"{name} must be in [{low}, {high}], not {item}")


def _check_parts(node: Node, operation: Operation) -> None:
    """Refuse a node with other numbers of inputs, attributes or tensors than its operation has."""
    least, most = operation.inputs
    _require(
        least <= len(node.inputs) <= most,
        f"takes {least} to {most} inputs, not {len(node.inputs)}",
    )
    for name in node.attributes:
        _require(name in operation.attributes, f"unknown attribute {name!r}")
    for name, kind in operation.attributes.items():
        _require(name in node.attributes, f"attribute {name!r} is missing")
        _check_attribute(name, kind, node.attributes[name])
    _require(
        tuple(node.tensors) == tuple(operation.tensors),
        f"tensors must be {tuple(operation.tensors)}, not {tuple(node.tensors)}",
    )
    for name, dtype in operation.tensors.items():
        _require(
            node.tensors[name].dtype == np.dtype(dtype),
            f"{name} must be {dtype}, not {node.tensors[name].dtype}",
        )


class Graph:
    """A verified network in execution order.

    Parameters
    ----------
    inputs, outputs
        Names of values. Exactly one input.
    values
        Name -> :class:`Value`, for the input and each node's output.
    nodes
        In execution order; each uses only the input and outputs of earlier nodes.

    Raises
    ------
    IntaglioError
        From :meth:`verify`, which the constructor calls: names the node, the value and the bound.
    """

    def __init__(
        self,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        values: Mapping[str, Value],
        nodes: Sequence[Node],
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.values = dict(values)
        self.nodes = tuple(nodes)
        #: Name -> smallest and largest code that the value can hold, proved by :meth:`verify`.
        self.ranges: dict[str, tuple[int, int]] = {}
        self.verify()

    def node(self, name: str) -> Node:
        """Return the node ``name``; KeyError when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def verify(self) -> None:
        """Prove shapes, ranges and overflow bounds; see the class for what is raised."""
        if len(self.inputs) != 1:
            raise IntaglioError(f"a graph has exactly one input, not {len(self.inputs)}")
        self.ranges = {}
        for name in self.inputs:
            self._check_value(name)
            self.ranges[name] = (CODE_MIN, CODE_MAX)
        names: set[str] = set()
        for node in self.nodes:
            if node.name in names:
                raise IntaglioError(f"node {node.name}: the name is used twice")
            names.add(node.name)
            try:
                self._verify_node(node)
            except _Refused as refused:
                raise IntaglioError(f"node {node.name} ({node.op}): {refused}") from None
        if not self.outputs:
            raise IntaglioError("a graph needs at least one output")
        for name in self.outputs:
            if name not in self.ranges:
                raise IntaglioError(f"output {name!r} is made by no node")
        for name in self.values:
            if name not in self.ranges:
                raise IntaglioError(f"value {name!r} is made by no node")

    def _check_value(self, name: str) -> Value:
        if name not in self.values:
            raise IntaglioError(f"value {name!r} is not described")
        value = self.values[name]
        if len(value.shape) != 4 or min(value.shape) < 1 or max(value.shape[2:]) > SIDE_MAX:
            raise IntaglioError(
                f"value {name!r}: shape must be four positive sizes, rows and columns at most "
                f"{SIDE_MAX}, not {value.shape}"
            )
        if not EXPONENT_MIN <= value.exponent <= EXPONENT_MAX:
            raise IntaglioError(
                f"value {name!r}: exponent must be in [{EXPONENT_MIN}, {EXPONENT_MAX}], "
                f"not {value.exponent}"
            )
        return value

    def _verify_node(self, node: Node) -> None:
        operation = OPERATIONS.get(node.op)
        if operation is None:
            raise _Refused(f"unsupported operation; supported: {', '.join(OPERATIONS)}")
        _check_parts(node, operation)
        for name in node.inputs:
            _require(name in self.ranges, f"input {name!r} is not made by an earlier node")
            _require(self.values[name].dtype == "int8", f"input {name!r} is a class map")
        shape = operation.shape(node, [self.values[name].shape for name in node.inputs])
        _require(node.output not in self.ranges, f"output {node.output!r} is made twice")
        value = self._check_value(node.output)
        _require(
            value.shape == shape,
            f"output is described as {value.shape}, the operation makes {shape}",
        )
        dtype = _dtype(node.op, self.values[node.inputs[0]])
        _require(value.dtype == dtype, f"output must be {dtype}, not {value.dtype}")
        if node.op == "concat":
            exponents = {self.values[name].exponent for name in node.inputs}
            _require(
                len(exponents) == 1, f"the inputs have different exponents {sorted(exponents)}"
            )
        self.ranges[node.output] = self._range(node)

    def _range(self, node: Node) -> tuple[int, int]:
        """Prove that nothing overflows and return the range of the output codes."""
        ranges = [self.ranges[name] for name in node.inputs]
        if node.op in ("max_pool", "resize", "broadcast"):
            return ranges[0]
        if node.op == "concat":
            return min(low for low, _ in ranges), max(high for _, high in ranges)
        if node.op == "argmax":
            return 0, self.values[node.inputs[0]].shape[1] - 1
        low, high = node.attributes["low"], node.attributes["high"]
        _require(low <= high, f"low must be at most high = {high}, not {low}")
        if node.op == "add":
            _, b = ranges
            self._check_sum(
                node, ranges[0], 1 << node.attributes["shift_a"], 0, b, node.attributes["shift_b"]
            )
            return low, high
        multiplier, bias = node.tensors["multiplier"], node.tensors["bias"]
        outputs = 1 if node.op == "avg_pool" else self.values[node.output].shape[1]
        for name, tensor in (("multiplier", multiplier), ("bias", bias)):
            _require(
                tensor.shape == (outputs,),
                f"{name} must have shape ({outputs},), not {tensor.shape}",
            )
        residual = (0, 0)
        if node.op == "avg_pool":
            area = node.attributes["kernel"][0] * node.attributes["kernel"][1]
            bounds = [(area * min(ranges[0][0], 0), area * max(ranges[0][1], 0))]
        else:
            pad_code = node.attributes.get("pad_code", 0)
            bounds = _accumulator_bounds(
                node, min(ranges[0][0], pad_code), max(ranges[0][1], pad_code)
            )
            if len(ranges) == 2:
                residual = ranges[1]
        for channel, bound in enumerate(bounds):
            self._check_sum(
                node,
                bound,
                int(multiplier[channel]),
                int(bias[channel]),
                residual,
                node.attributes.get("residual_shift", 0),
                channel,
            )
        return low, high

    def _check_sum(
        self,
        node: Node,
        acc: tuple[int, int],
        multiplier: int,
        bias: int,
        residual: tuple[int, int],
        residual_shift: int,
        channel: int = 0,
    ) -> None:
        """Prove that the accumulator fits int32 and every partial sum of the requantiser fits
        SUM_BITS.
        """
        where = f"channel {channel}: "
        _require(
            acc[0] >= ACC_MIN and acc[1] <= ACC_MAX,
            f"{where}the accumulator can reach [{acc[0]}, {acc[1]}], beyond [{ACC_MIN}, {ACC_MAX}]",
        )
        _require(
            MULTIPLIER_MIN <= multiplier <= MULTIPLIER_MAX,
            f"{where}the multiplier must be in [{MULTIPLIER_MIN}, {MULTIPLIER_MAX}], "
            f"not {multiplier}",
        )
        _require(
            BIAS_MIN <= bias <= BIAS_MAX,
            f"{where}the bias must be in [{BIAS_MIN}, {BIAS_MAX}], not {bias}",
        )
        rounding = (1 << node.attributes["shift"]) >> 1
        products = sorted((acc[0] * multiplier, acc[1] * multiplier))
        low, high = products[0] + bias, products[1] + bias
        for text, add_low, add_high in (
            ("acc * m + b", 0, 0),
            (
                "acc * m + b + residual",
                residual[0] << residual_shift,
                residual[1] << residual_shift,
            ),
            ("the rounded sum", rounding, rounding),
        ):
            low, high = low + add_low, high + add_high
            _require(
                low >= SUM_MIN and high <= SUM_MAX,
                f"{where}{text} can reach [{low}, {high}], beyond [{SUM_MIN}, {SUM_MAX}]",
            )

    def digest(self) -> str:
        """Return the SHA-256 over structure, attributes and tensors; equal networks have equal
        digests.
        """
        structure = {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "values": [
                [v.name, list(v.shape), v.exponent, v.dtype]
                for v in sorted(self.values.values(), key=lambda v: v.name)
            ],
            "nodes": [
                [n.op, n.name, n.inputs, n.output, sorted(n.attributes.items())] for n in self.nodes
            ],
            "tensors": array_digest(
                {f"{n.name}.{key}": tensor for n in self.nodes for key, tensor in n.tensors.items()}
            ),
        }
        return bytes_digest(json.dumps(structure, sort_keys=True).encode())

    def evaluate(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return every value by name for the input ``x`` (N, C, H, W) int8; N may differ from the
        graph's.
        """
        name = self.inputs[0]
        x = np.asarray(x)
        if x.dtype != np.int8 or x.ndim != 4 or x.shape[1:] != self.values[name].shape[1:]:
            raise ValueError(
                f"input must be int8 (N, {', '.join(map(str, self.values[name].shape[1:]))}), "
                f"not {x.dtype} {x.shape}"
            )
        arrays = {name: x}
        for node in self.nodes:
            arrays[node.output] = OPERATIONS[node.op].evaluate(
                node, [arrays[source] for source in node.inputs]
            )
        return arrays

    def macs(self, node: Node) -> int:
        """Return the multiplications of a convolution for one image, positions in the padding
        included; else 0.
        """
        if node.op == "conv":
            _, outputs, rows, cols = self.values[node.output].shape
            return rows * cols * outputs * int(np.prod(node.tensors["weight"].shape[1:]))
        if node.op == "conv_transpose":
            _, _, rows, cols = self.values[node.inputs[0]].shape
            return rows * cols * node.tensors["weight"].size
        return 0


def _accumulator_bounds(node: Node, low: int, high: int) -> list[tuple[int, int]]:
    """Return for each output channel the range of any partial sum, for inputs in ``[low,
    high]``.
    """
    weight = node.tensors["weight"].astype(np.int64)
    smallest = np.minimum(np.minimum(weight * low, weight * high), 0)
    largest = np.maximum(np.maximum(weight * low, weight * high), 0)
    if node.op == "conv":
        lows, highs = smallest.sum((1, 2, 3)), largest.sum((1, 2, 3))
    else:
        # An output position meets the kernel positions of one phase only: rows r, r + stride, ...
        stride_h, stride_w = node.attributes["stride"]
        phases = [(r, s) for r in range(stride_h) for s in range(stride_w)]
        lows = np.min(
            [smallest[:, :, r::stride_h, s::stride_w].sum((0, 2, 3)) for r, s in phases], 0
        )
        highs = np.max(
            [largest[:, :, r::stride_h, s::stride_w].sum((0, 2, 3)) for r, s in phases], 0
        )
    return [(int(a), int(b)) for a, b in zip(lows, highs, strict=True)]


class GraphBuilder:
    """Collects values and nodes, infers shapes and makes a :class:`Graph`."""

    def __init__(self) -> None:
        self._inputs: list[str] = []
        self._values: dict[str, Value] = {}
        self._nodes: list[Node] = []

    def input(self, name: str, shape: Sequence[int], exponent: int) -> str:
        """Add the input ``name`` of ``shape`` (N, C, H, W) and return its name."""
        n, c, h, w = (int(size) for size in shape)
        self._inputs.append(name)
        self._values[name] = Value(name, (n, c, h, w), exponent)
        return name

    def node(
        self,
        op: str,
        name: str,
        inputs: Sequence[str],
        exponent: int,
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, np.ndarray] | None = None,
    ) -> str:
        """Append a node and return the name of its output, which is the node's name.

        Raises
        ------
        IntaglioError
            Unsupported operation, missing or unknown attributes or tensors, or shapes that do not
            fit.
        """
        if op not in OPERATIONS:
            raise IntaglioError(
                f"node {name} ({op}): unsupported operation; supported: {', '.join(OPERATIONS)}"
            )
        operation = OPERATIONS[op]
        tensors = dict(tensors or {})
        ordered = {key: np.asarray(tensors.pop(key)) for key in operation.tensors if key in tensors}
        node = Node(op, name, tuple(inputs), name, dict(attributes or {}), {**ordered, **tensors})
        for source in node.inputs:
            if source not in self._values:
                raise IntaglioError(
                    f"node {name} ({op}): input {source!r} is not made by an earlier node"
                )
        try:
            _check_parts(node, operation)
            shape = operation.shape(node, [self._values[source].shape for source in node.inputs])
        except _Refused as refused:
            raise IntaglioError(f"node {name} ({op}): {refused}") from None
        dtype = _dtype(op, self._values[node.inputs[0]])
        self._values[name] = Value(name, shape, 0 if op == "argmax" else exponent, dtype)
        self._nodes.append(node)
        return name

    def finish(self, outputs: Sequence[str]) -> Graph:
        """Return the verified graph."""
        return Graph(inputs=self._inputs, outputs=outputs, values=self._values, nodes=self._nodes)
