"""The frozen graph as an ONNX file: written, read back and run.

Each node of the graph is one node of the domain ``intaglio``, and each of its operations is a
*model-local function* whose body is standard ONNX integer operators. So the file shows layers in a
viewer, runs with the same bytes in an unmodified ONNX Runtime, and is read back without pattern
matching.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from intaglio.spec import ops
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import atomic_write
from intaglio.spec.graph import OPERATIONS, Graph, Node, Value

__all__ = ["DOMAIN", "OnnxExecutor", "read_onnx", "to_onnx", "write_onnx"]

DOMAIN = "intaglio"
_OPSET = 21
_DOMAIN_VERSION = 1
_IR_VERSION = 10

#: The bodies. ``round_shift`` and ``saturate`` are those of :mod:`intaglio.spec.arith`: ONNX
#: divides towards zero, so the remainder, never negative for a divisor > 0, is taken off first.
_BODIES = {
    "round_shift": """
        round_shift <shift> (x) => (y) {
            one = Constant <value = uint64 {1}> ()
            s = Constant <value_int: int = @shift> ()
            places = Cast <to = 13> (s)
            power = BitShift <direction = "LEFT"> (one, places)
            divisor = Cast <to = 7> (power)
            two = Constant <value = int64 {2}> ()
            half = Div (divisor, two)
            total = Add (x, half)
            remainder = Mod (total, divisor)
            floor = Sub (total, remainder)
            y = Div (floor, divisor)
        }""",
    "shift_left": """
        shift_left <shift> (x) => (y) {
            one = Constant <value = uint64 {1}> ()
            s = Constant <value_int: int = @shift> ()
            places = Cast <to = 13> (s)
            power = BitShift <direction = "LEFT"> (one, places)
            factor = Cast <to = 7> (power)
            wide = Cast <to = 7> (x)
            y = Mul (wide, factor)
        }""",
    "saturate": """
        saturate <low, high> (x) => (y) {
            least = Constant <value_int: int = @low> ()
            most = Constant <value_int: int = @high> ()
            limited = Clip (x, least, most)
            y = Cast <to = 3> (limited)
        }""",
    "scale": """
        scale (acc, multiplier, bias) => (y) {
            axes = Constant <value_ints = [1, 2]> ()
            narrow_m = Unsqueeze (multiplier, axes)
            m = Cast <to = 7> (narrow_m)
            b = Unsqueeze (bias, axes)
            wide = Cast <to = 7> (acc)
            product = Mul (wide, m)
            y = Add (product, b)
        }""",
    "pad": """
        pad <padding, code> (x) => (y) {
            pads = Constant <value_ints: ints = @padding> ()
            c = Constant <value_int: int = @code> ()
            value = Cast <to = 3> (c)
            axes = Constant <value_ints = [2, 3]> ()
            y = Pad (x, pads, value, axes)
        }""",
    "conv": """
        conv <stride, padding, dilation, pad_code, shift, residual_shift, low, high, exponent>
        (x, weight, multiplier, bias) => (y) {
            padded = intaglio.pad <padding: ints = @padding, code: int = @pad_code> (x)
            acc = ConvInteger <strides: ints = @stride, dilations: ints = @dilation>
                (padded, weight)
            total = intaglio.scale (acc, multiplier, bias)
            rounded = intaglio.round_shift <shift: int = @shift> (total)
            y = intaglio.saturate <low: int = @low, high: int = @high> (rounded)
        }""",
    "conv_residual": """
        conv_residual
        <stride, padding, dilation, pad_code, shift, residual_shift, low, high, exponent>
        (x, residual, weight, multiplier, bias) => (y) {
            padded = intaglio.pad <padding: ints = @padding, code: int = @pad_code> (x)
            acc = ConvInteger <strides: ints = @stride, dilations: ints = @dilation>
                (padded, weight)
            product = intaglio.scale (acc, multiplier, bias)
            shortcut = intaglio.shift_left <shift: int = @residual_shift> (residual)
            total = Add (product, shortcut)
            rounded = intaglio.round_shift <shift: int = @shift> (total)
            y = intaglio.saturate <low: int = @low, high: int = @high> (rounded)
        }""",
    # Zeros between the inputs, then an ordinary convolution with the kernel turned around.
    "conv_transpose": """
        conv_transpose <stride, padding, shift, low, high, exponent>
        (x, weight, multiplier, bias) => (y) {
            zero = Constant <value = int64[1] {0}> ()
            one = Constant <value = int64[1] {1}> ()
            two = Constant <value = int64[1] {2}> ()
            four = Constant <value = int64[1] {4}> ()
            steps = Constant <value_ints: ints = @stride> ()
            cut = Constant <value_ints: ints = @padding> ()
            fill = Sub (steps, one)
            step_h, step_w = Split <axis = 0, num_outputs = 2> (steps)
            axes = Constant <value_ints = [3, 5]> ()
            apart = Unsqueeze (x, axes)
            no = Constant <value_ints = [0, 0]> ()
            pads = Concat <axis = 0> (no, fill)
            spread = Pad (apart, pads, , axes)
            shape = Shape (x)
            batch = Slice (shape, zero, two)
            size = Slice (shape, two, four)
            wide_size = Mul (size, steps)
            wide_shape = Concat <axis = 0> (batch, wide_size)
            sparse = Reshape (spread, wide_shape)
            weight_shape = Shape (weight)
            kernel = Slice (weight_shape, two, four)
            last = Sub (kernel, one)
            cut_before = Slice (cut, zero, two)
            cut_after = Slice (cut, two, four)
            before = Sub (last, cut_before)
            rest = Sub (kernel, steps)
            after = Sub (rest, cut_after)
            borders = Concat <axis = 0> (before, after)
            spatial = Constant <value_ints = [2, 3]> ()
            framed = Pad (sparse, borders, , spatial)
            ends = Constant <value_ints = [-1, -1]> ()
            lowest = Constant <value_ints = [-1000000, -1000000]> ()
            turned = Slice (weight, ends, lowest, spatial, ends)
            swapped = Transpose <perm = [1, 0, 2, 3]> (turned)
            acc = ConvInteger (framed, swapped)
            total = intaglio.scale (acc, multiplier, bias)
            rounded = intaglio.round_shift <shift: int = @shift> (total)
            y = intaglio.saturate <low: int = @low, high: int = @high> (rounded)
        }""",
    "max_pool": """
        max_pool <kernel, stride, padding, exponent> (x) => (y) {
            y = MaxPool
                <kernel_shape: ints = @kernel, strides: ints = @stride, pads: ints = @padding> (x)
        }""",
    # Each channel is an image of its own, summed by a convolution with ones.
    "avg_pool": """
        avg_pool <kernel, stride, padding, shift, low, high, exponent>
        (x, multiplier, bias) => (y) {
            code = Constant <value = int8 {0}> ()
            pads = Constant <value_ints: ints = @padding> ()
            axes = Constant <value_ints = [2, 3]> ()
            padded = Pad (x, pads, code, axes)
            shape = Shape (padded)
            zero = Constant <value = int64[1] {0}> ()
            two = Constant <value = int64[1] {2}> ()
            four = Constant <value = int64[1] {4}> ()
            size = Slice (shape, two, four)
            batch = Slice (shape, zero, two)
            apart = Constant <value_ints = [-1, 1]> ()
            images = Concat <axis = 0> (apart, size)
            flat = Reshape (padded, images)
            sides = Constant <value_ints: ints = @kernel> ()
            single = Constant <value_ints = [1, 1]> ()
            window = Concat <axis = 0> (single, sides)
            ones = ConstantOfShape <value = int8[1] {1}> (window)
            sums = ConvInteger <strides: ints = @stride> (flat, ones)
            sums_shape = Shape (sums)
            out = Slice (sums_shape, two, four)
            full = Concat <axis = 0> (batch, out)
            acc = Reshape (sums, full)
            total = intaglio.scale (acc, multiplier, bias)
            rounded = intaglio.round_shift <shift: int = @shift> (total)
            y = intaglio.saturate <low: int = @low, high: int = @high> (rounded)
        }""",
    # Bilinear interpolation is a product with a matrix on each side; the sum t becomes
    # floor((scale * t + offset) / divisor).
    "resize": """
        resize <ratio, corners, scale, offset, divisor, exponent> (x, rows, cols) => (y) {
            wide = Cast <to = 7> (x)
            across = MatMul (wide, cols)
            sums = MatMul (rows, across)
            factor = Constant <value_int: int = @scale> ()
            scaled = Mul (sums, factor)
            start = Constant <value_int: int = @offset> ()
            total = Add (scaled, start)
            by = Constant <value_int: int = @divisor> ()
            remainder = Mod (total, by)
            floor = Sub (total, remainder)
            quotient = Div (floor, by)
            y = Cast <to = 3> (quotient)
        }""",
    "broadcast": """
        broadcast <size, exponent> (x) => (y) {
            sides = Constant <value_ints: ints = @size> ()
            single = Constant <value_ints = [1, 1]> ()
            shape = Concat <axis = 0> (single, sides)
            y = Expand (x, shape)
        }""",
    "add": """
        add <shift_a, shift_b, shift, low, high, exponent> (a, b) => (y) {
            left = intaglio.shift_left <shift: int = @shift_a> (a)
            right = intaglio.shift_left <shift: int = @shift_b> (b)
            total = Add (left, right)
            rounded = intaglio.round_shift <shift: int = @shift> (total)
            y = intaglio.saturate <low: int = @low, high: int = @high> (rounded)
        }""",
    "argmax": """
        argmax <exponent> (x) => (y) {
            index = ArgMax <axis = 1, keepdims = 1, select_last_index = 0> (x)
            y = Cast <to = 2> (index)
        }""",
    "argmax_wide": """
        argmax_wide <exponent> (x) => (y) {
            index = ArgMax <axis = 1, keepdims = 1, select_last_index = 0> (x)
            y = Cast <to = 4> (index)
        }""",
}
#: Functions that are variants of an operation.
_VARIANTS = {"argmax_wide": "argmax", "conv_residual": "conv"}

_TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16}


def _concat_body(count: int) -> str:
    names = ", ".join(f"x{index}" for index in range(count))
    return f"concat_{count} <exponent> ({names}) => (y) {{ y = Concat <axis = 1> ({names}) }}"


def _parse(body: str) -> onnx.FunctionProto:
    header = f'<opset_import: ["" : {_OPSET}, "{DOMAIN}" : {_DOMAIN_VERSION}], domain: "{DOMAIN}">'
    return onnx.parser.parse_function(header + body)


def _function_name(node: Node, dtype: str) -> str:
    """Return the ONNX function of ``node``, whose output is of ``dtype``: a function has a fixed
    number of inputs and one type of output, an operation may not.
    """
    if node.op == "concat":
        return f"concat_{len(node.inputs)}"
    if node.op == "conv" and len(node.inputs) == 2:
        return "conv_residual"
    if dtype == "uint16":
        return "argmax_wide"
    return node.op


def _functions(names: Iterable[str]) -> list[onnx.FunctionProto]:
    """Return the functions ``names`` and those that they call, callees first."""
    result: dict[str, onnx.FunctionProto] = {}

    def add(name: str) -> None:
        if name in result:
            return
        if name.startswith("concat_"):
            body = _concat_body(int(name.removeprefix("concat_")))
        else:
            body = _BODIES[name]
        function = _parse(body)
        for inner in function.node:
            if inner.domain == DOMAIN:
                add(inner.op_type)
        result[name] = function

    for name in names:
        add(name)
    return list(result.values())


def _interpolation(size: int, ratio: int, corners: str) -> np.ndarray:
    """Return the int64 matrix (outputs, ``size``) of the weights, each row summing to the
    denominator.
    """
    lower, upper, fraction, denominator = ops.resize_source(size, ratio, corners)
    matrix = np.zeros((len(lower), size), np.int64)
    index = np.arange(len(lower))
    np.add.at(matrix, (index, lower), denominator - fraction)
    np.add.at(matrix, (index, upper), fraction)
    return matrix


def _resize_tensors(
    node: Node, shape: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the matrices of a resize of ``shape`` (N, C, H, W), and the attributes that say how
    its sums are divided.
    """
    ratio, corners = node.attributes["ratio"], node.attributes["corners"]
    rows, cols = (
        _interpolation(size, f, corners) for size, f in zip(shape[2:], ratio, strict=True)
    )
    division = ops.resize_scale(tuple(ratio), corners).division
    return (
        {"rows": rows, "cols": np.ascontiguousarray(cols.T)},
        dict(zip(("scale", "offset", "divisor"), division, strict=True)),
    )


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, _TYPES[value.dtype], ["N", *value.shape[1:]])


def to_onnx(graph: Graph, *, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Return ``graph`` as an ONNX model with a free batch size ``N``.

    ``metadata`` is added to the model's properties, beside the graph's digest and the input's
    exponent.
    """
    nodes, initializers = [], []
    for node in graph.nodes:
        tensors, attributes = dict(node.tensors), dict(node.attributes)
        if node.op == "resize":
            tensors, division = _resize_tensors(node, graph.values[node.inputs[0]].shape)
            attributes |= division
        for name, tensor in tensors.items():
            initializers.append(numpy_helper.from_array(tensor, f"{node.name}.{name}"))
        nodes.append(
            helper.make_node(
                _function_name(node, graph.values[node.output].dtype),
                [*node.inputs, *(f"{node.name}.{name}" for name in tensors)],
                [node.output],
                name=node.name,
                domain=DOMAIN,
                exponent=graph.values[node.output].exponent,
                **{key: attributes[key] for key in attributes},
            )
        )
    boundary = {*graph.inputs, *graph.outputs}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "intaglio",
            [_value_info(graph.values[name]) for name in graph.inputs],
            [_value_info(graph.values[name]) for name in graph.outputs],
            initializers,
            value_info=[
                _value_info(value) for name, value in graph.values.items() if name not in boundary
            ],
        ),
        functions=_functions(
            dict.fromkeys(
                _function_name(node, graph.values[node.output].dtype) for node in graph.nodes
            )
        ),
        opset_imports=[
            helper.make_opsetid("", _OPSET),
            helper.make_opsetid(DOMAIN, _DOMAIN_VERSION),
        ],
        ir_version=_IR_VERSION,
        producer_name="intaglio",
    )
    helper.set_model_props(
        model,
        {
            "intaglio.graph_digest": graph.digest(),
            "intaglio.input_exponent": str(graph.values[graph.inputs[0]].exponent),
            **(metadata or {}),
        },
    )
    return model


def write_onnx(
    graph: Graph, path: str | Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``graph`` to ``path`` atomically, after ``onnx.checker`` has accepted it."""
    model = to_onnx(graph, metadata=metadata)
    onnx.checker.check_model(model)
    with atomic_write(path) as file:
        file.write(model.SerializeToString(deterministic=True))


def _load_model(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise IntaglioError(f"{path}: no such file; 'intaglio freeze' makes it")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # the class that a broken protobuf raises is not onnx's to export
        text = " ".join(str(error).split())
        raise IntaglioError(f"{path}: not a valid ONNX model: {text[:200]}") from error
    return model


def read_onnx(path: str | Path) -> Graph:
    """Read a graph written by :func:`write_onnx` and verify it.

    The bodies of the functions must be the ones this version writes, since they say what the file
    means.

    Raises
    ------
    IntaglioError
        Missing or truncated file, foreign operator, unknown attribute, changed function body,
        missing tensor, or what :meth:`~intaglio.spec.graph.Graph.verify` refuses; names the file
        and the node.
    """
    path = Path(path)
    model = _load_model(path)
    properties = {item.key: item.value for item in model.metadata_props}
    if "intaglio.input_exponent" not in properties:
        raise IntaglioError(f"{path}: no property intaglio.input_exponent: not a frozen graph")
    try:
        graph = _read_graph(model, int(properties["intaglio.input_exponent"]))
    except (IntaglioError, ValueError) as error:
        raise IntaglioError(f"{path}: {error}") from error
    if properties.get("intaglio.graph_digest") != graph.digest():
        raise IntaglioError(
            f"{path}: digest {graph.digest()[:12]} instead of "
            f"{properties.get('intaglio.graph_digest', 'none')[:12]}: the file was altered"
        )
    return graph


def _read_graph(model: onnx.ModelProto, input_exponent: int) -> Graph:
    tensors = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    shapes = {
        item.name: _shape(item)
        for item in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    values: dict[str, Value] = {}
    for item in model.graph.input:
        values[item.name] = Value(item.name, shapes[item.name], input_exponent)
    nodes = []
    for proto in model.graph.node:
        node = _read_node(proto, tensors, values)
        attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
        if node.output not in shapes:
            raise IntaglioError(f"node {node.name}: output {node.output!r} has no shape")
        dtype = _output_dtype(proto)
        values[node.output] = Value(node.output, shapes[node.output], attributes["exponent"], dtype)
        nodes.append(node)
    written = {function.name: function for function in model.functions}
    names = (_function_name(node, values[node.output].dtype) for node in nodes)
    for expected in _functions(dict.fromkeys(names)):
        found = written.get(expected.name)
        if found is None or found.SerializeToString(deterministic=True) != (
            expected.SerializeToString(deterministic=True)
        ):
            raise IntaglioError(f"function {expected.name}: not the body that this version defines")
    return Graph(
        inputs=[item.name for item in model.graph.input],
        outputs=[item.name for item in model.graph.output],
        values=values,
        nodes=nodes,
    )


def _shape(item: onnx.ValueInfoProto) -> tuple[int, int, int, int]:
    sizes = [dim.dim_value or 1 for dim in item.type.tensor_type.shape.dim]
    if len(sizes) != 4:
        raise IntaglioError(f"value {item.name!r} must have 4 dimensions, not {len(sizes)}")
    return sizes[0], sizes[1], sizes[2], sizes[3]


def _output_dtype(proto: onnx.NodeProto) -> str:
    return {"argmax": "uint8", "argmax_wide": "uint16"}.get(proto.op_type, "int8")


def _read_node(
    proto: onnx.NodeProto, tensors: Mapping[str, np.ndarray], values: Mapping[str, Value]
) -> Node:
    where = f"node {proto.name or proto.output[0]}"
    op = "concat" if proto.op_type.startswith("concat_") else proto.op_type
    op = _VARIANTS.get(op, op)
    if proto.domain != DOMAIN or op not in OPERATIONS:
        raise IntaglioError(
            f"{where}: unsupported operator {proto.domain or 'ai.onnx'}.{proto.op_type}; "
            f"supported: {', '.join(f'{DOMAIN}.{name}' for name in OPERATIONS)}"
        )
    attributes: dict[str, Any] = {}
    for item in proto.attribute:
        value = helper.get_attribute_value(item)
        if isinstance(value, bytes):
            value = value.decode()
        attributes[item.name] = tuple(value) if isinstance(value, list) else value
    if "exponent" not in attributes:
        raise IntaglioError(f"{where}: attribute 'exponent' is missing")
    del attributes["exponent"]
    count = len(proto.input) - len(OPERATIONS[op].tensors) - (2 if op == "resize" else 0)
    inputs, rest = proto.input[:count], list(proto.input[count:])
    for name in rest:
        if name not in tensors:
            raise IntaglioError(f"{where}: tensor {name!r} is missing")
    if proto.op_type != _function_name(
        Node(op, proto.name, tuple(inputs), proto.output[0], {}, {}), _output_dtype(proto)
    ):
        raise IntaglioError(f"{where}: {proto.op_type} cannot have {len(inputs)} inputs")
    if op != "resize":
        node_tensors = dict(
            zip(OPERATIONS[op].tensors, (tensors[name] for name in rest), strict=True)
        )
        return Node(op, proto.name, tuple(inputs), proto.output[0], attributes, node_tensors)
    # The matrices and the division follow from the attributes; they may not say anything else.
    division = {name: attributes.pop(name, None) for name in ("scale", "offset", "divisor")}
    node = Node(op, proto.name, tuple(inputs), proto.output[0], attributes, {})
    if inputs[0] not in values or not {"ratio", "corners"} <= attributes.keys():
        raise IntaglioError(
            f"{where}: needs an input made before it, and attributes ratio, corners"
        )
    expected, expected_division = _resize_tensors(node, values[inputs[0]].shape)
    found = [tensors[name] for name in rest]
    if division != expected_division or not all(
        np.array_equal(a, b) for a, b in zip(found, expected.values(), strict=True)
    ):
        raise IntaglioError(
            f"{where}: matrices or division are not those of a resize by {attributes['ratio']}"
        )
    return node


class OnnxExecutor:
    """Runs a frozen graph in ONNX Runtime and returns every value.

    Parameters
    ----------
    graph
        The graph; it is turned into ONNX here, or pass ``path`` to run a file as it is.
    threads
        Threads of ONNX Runtime, 0 for its default.
    """

    def __init__(self, graph: Graph, *, path: str | Path | None = None, threads: int = 0) -> None:
        import onnxruntime

        model = to_onnx(graph) if path is None else _load_model(Path(path))
        shown = {item.name for item in model.graph.output}
        model.graph.output.extend(
            _value_info(value)
            for name, value in graph.values.items()
            if name not in shown and name not in graph.inputs
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._graph = graph
        self._names = [item.name for item in model.graph.output]
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return every value by name for the input ``x`` (N, C, H, W) int8."""
        found = self._session.run(self._names, {self._graph.inputs[0]: x})
        return {self._graph.inputs[0]: x, **dict(zip(self._names, found, strict=True))}
