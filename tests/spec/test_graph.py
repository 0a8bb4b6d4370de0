"""The frozen graph: what it refuses, what it proves, how it evaluates."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from intaglio.spec import ops
from intaglio.spec.arith import exact_division
from intaglio.spec.errors import IntaglioError
from intaglio.spec.graph import OPERATIONS, Graph, GraphBuilder, Node, Value

CODES = {"low": -128, "high": 127}
#: Attributes and tensors of a node of each operation, for an input of 4 channels of 6 x 6.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "conv": {
        "stride": (1, 1),
        "padding": (1, 1, 1, 1),
        "dilation": (1, 1),
        "pad_code": 0,
        "residual_shift": 0,
        "shift": 10,
        **CODES,
    },
    "conv_transpose": {"stride": (2, 2), "padding": (1, 1, 1, 1), "shift": 10, **CODES},
    "max_pool": {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)},
    "avg_pool": {
        "kernel": (2, 2),
        "stride": (2, 2),
        "padding": (0, 0, 0, 0),
        "shift": 2,
        **CODES,
    },
    "resize": {"ratio": (2, 3), "corners": "half_pixel"},
    "broadcast": {"size": (5, 7)},
    "add": {"shift_a": 0, "shift_b": 1, "shift": 1, **CODES},
    "concat": {},
    "argmax": {},
}


def tensors(op: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    pair = {"multiplier": np.full(3, 5, np.int16), "bias": np.arange(3, dtype=np.int64)}
    if op == "conv":
        return {"weight": rng.integers(-128, 128, (3, 4, 3, 3), np.int8), **pair}
    if op == "conv_transpose":
        return {"weight": rng.integers(-128, 128, (4, 3, 4, 4), np.int8), **pair}
    if op == "avg_pool":
        return {"multiplier": np.ones(1, np.int16), "bias": np.zeros(1, np.int64)}
    return {}


def node(op: str, inputs: tuple[str, ...] = ("x",), **changes: Any) -> Node:
    """Return a good node of ``op`` with some attributes, tensors or fields changed."""
    attributes, given = dict(ATTRIBUTES[op]), tensors(op)
    for name in [name for name in changes if name in attributes]:
        attributes[name] = changes.pop(name)
    for name in [name for name in changes if name in given]:
        given[name] = changes.pop(name)
    fields: dict[str, Any] = dict(
        op=op, name="n", inputs=inputs, output="n", attributes=attributes, tensors=given
    )
    return Node(**(fields | changes))


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


def graph(*nodes: Node, shape: tuple[int, ...] = (1, 4, 6, 6), **values: Value) -> Graph:
    """Return the graph of ``nodes`` on an input "x"; values not given have the inferred shape."""
    known = {"x": Value("x", shape, -7)}  # type: ignore[arg-type]
    for item in nodes:
        if item.output not in values:
            try:
                inferred = OPERATIONS[item.op].shape(
                    item, [known[name].shape for name in item.inputs]
                )
            except Exception:
                # What is refused before its shape is asked for; any shape will do.
                inferred = (1, 1, 1, 1)
            dtype = (
                ops.class_dtype(known[item.inputs[0]].shape[1]) if item.op == "argmax" else "int8"
            )
            known[item.output] = Value(item.output, inferred, 0, dtype)
    return Graph(inputs=("x",), outputs=(nodes[-1].output,), values=known | values, nodes=nodes)


def refused(text: str, *nodes: Node, **options: Any) -> None:
    with pytest.raises(IntaglioError) as caught:
        graph(*nodes, **options)
    assert str(caught.value) == text


def pooled() -> Node:
    """Return a node that makes 4 channels of 1 x 1."""
    return dataclasses.replace(
        node("max_pool", kernel=(6, 6), stride=(1, 1)), name="small", output="small"
    )


# ---------------------------------------------------------------------------------- every operation


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_good_node(op: str) -> None:
    nodes = [pooled(), node(op, ("small",))] if op == "broadcast" else [node(op)]
    if op in ("add", "concat"):
        nodes = [node(op, ("x", "x"))]
    built = graph(*nodes)
    x = np.random.default_rng(1).integers(-128, 128, (2, 4, 6, 6), np.int8)
    arrays = built.evaluate(x)
    assert list(arrays) == ["x", *(item.output for item in nodes)]
    for name, array in arrays.items():
        value = built.values[name]
        assert array.shape == (2, *value.shape[1:])
        assert array.dtype == value.dtype
        low, high = built.ranges[name]
        assert low <= array.min() and array.max() <= high
    # It is the operation of the definition.
    if op == "conv":
        expected = ops.conv(x, **tensors(op), **ATTRIBUTES[op])
        np.testing.assert_array_equal(arrays["n"], expected)


@pytest.mark.parametrize(
    ("op", "name"), [(op, name) for op, item in OPERATIONS.items() for name in item.attributes]
)
def test_every_attribute_is_needed(op: str, name: str) -> None:
    inputs = ("x", "x") if op == "add" else ("x",)
    bad = dataclasses.replace(node(op, inputs), attributes=without(ATTRIBUTES[op], name))
    refused(f"node n ({op}): attribute {name!r} is missing", bad)


@pytest.mark.parametrize("op", OPERATIONS)
def test_unknown_attributes_are_refused(op: str) -> None:
    inputs = ("x", "x") if op == "add" else ("x",)
    bad = dataclasses.replace(node(op, inputs), attributes=ATTRIBUTES[op] | {"groups": 2})
    refused(f"node n ({op}): unknown attribute 'groups'", bad)


@pytest.mark.parametrize("op", OPERATIONS)
def test_number_of_inputs(op: str) -> None:
    least, most = OPERATIONS[op].inputs
    for count in {least - 1, most + 1}:
        refused(
            f"node n ({op}): takes {least} to {most} inputs, not {count}",
            node(op, ("x",) * count),
            n=Value("n", (1, 1, 1, 1), 0),
        )


@pytest.mark.parametrize("op", ["conv", "conv_transpose", "avg_pool"])
def test_tensors(op: str) -> None:
    good = tensors(op)
    for name, tensor in good.items():
        missing = dataclasses.replace(node(op), tensors=without(good, name))
        refused(
            f"node n ({op}): tensors must be {tuple(good)}, not {tuple(without(good, name))}",
            missing,
            n=Value("n", (1, 1, 1, 1), 0),
        )
        wrong = tensor.astype(np.float32)
        refused(
            f"node n ({op}): {name} must be {tensor.dtype}, not float32",
            node(op, **{name: wrong}),
        )
    refused(
        f"node n ({op}): tensors must be {tuple(good)}, not {(*good, 'scale')}",
        dataclasses.replace(node(op), tensors=good | {"scale": np.ones(1)}),
    )
    outputs = 1 if op == "avg_pool" else 3
    refused(
        f"node n ({op}): bias must have shape ({outputs},), not (2,)",
        node(op, bias=np.zeros(2, np.int64)),
    )


@pytest.mark.parametrize(
    ("op", "name", "value", "text"),
    [
        ("conv", "stride", (0, 1), "stride must be in [1, 4095], not 0"),
        ("conv", "stride", 1, "stride must be a tuple of 2 integers, not 1"),
        ("conv", "stride", [1, 1], "stride must be a tuple of 2 integers, not [1, 1]"),
        ("conv", "stride", (1, 1, 1), "stride must be a tuple of 2 integers, not (1, 1, 1)"),
        ("conv", "stride", (1, True), "stride must be a tuple of 2 integers, not (1, True)"),
        ("conv", "dilation", (1, 4096), "dilation must be in [1, 4095], not 4096"),
        ("conv", "padding", (0, 0, -1, 0), "padding must be in [0, 4095], not -1"),
        ("conv", "padding", (0, 0), "padding must be a tuple of 4 integers, not (0, 0)"),
        ("conv", "pad_code", 128, "pad_code must be in [-128, 127], not 128"),
        ("conv", "pad_code", 0.5, "pad_code must be an integer, not 0.5"),
        ("conv", "shift", 48, "shift must be in [0, 47], not 48"),
        ("conv", "residual_shift", 40, "residual_shift must be in [0, 39], not 40"),
        ("conv", "low", -129, "low must be in [-128, 127], not -129"),
        ("add", "shift_a", 15, "shift_a must be in [0, 14], not 15"),
        ("add", "high", 128, "high must be in [-128, 127], not 128"),
        ("resize", "ratio", (1, 128), "ratio must be at most 127, not 128"),
        ("resize", "corners", "asymmetric", "corners must be one of half_pixel, align, not "
         "'asymmetric'"),
        ("max_pool", "padding", (2, 0, 0, 0), "padding (2, 0, 0, 0) must be smaller than the "
         "kernel (2, 2)"),
        ("avg_pool", "padding", (0, 0, 0, 2), "padding (0, 0, 0, 2) must be smaller than the "
         "kernel (2, 2)"),
        ("max_pool", "kernel", (7, 2), "the window 7 with dilation 1 does not fit into 6 + 0 + 0 "
         "rows or columns"),
        ("conv", "dilation", (4, 1), "the window 3 with dilation 4 does not fit into 6 + 1 + 1 "
         "rows or columns"),
        ("conv_transpose", "padding", (9, 1, 9, 1), "padding (9, 1, 9, 1) leaves -4 x 12 of the "
         "output"),
        ("broadcast", "size", (2, 2), "the input must be 1 x 1, not 6 x 6"),
    ],
)  # fmt: skip
def test_values_of_attributes(op: str, name: str, value: Any, text: str) -> None:
    inputs = ("x", "x") if op == "add" else ("x",)
    refused(f"node n ({op}): {text}", node(op, inputs, **{name: value}))


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([node("conv", weight=np.zeros((3, 5, 3, 3), np.int8))],
         "node n (conv): weight is for 5 channels, the input has 4"),
        ([node("conv_transpose", weight=np.zeros((5, 3, 2, 2), np.int8))],
         "node n (conv_transpose): weight is for 5 channels, the input has 4"),
        ([node("conv", weight=np.zeros((3, 4), np.int8))],
         "node n (conv): weight must have 4 dimensions, not 2"),
        ([node("conv_transpose", weight=np.zeros((3, 4), np.int8))],
         "node n (conv_transpose): weight must have 4 dimensions, not 2"),
        ([node("conv", ("x", "x"))],
         "node n (conv): the residual has shape (1, 4, 6, 6), the output (1, 3, 6, 6)"),
        ([pooled(), node("add", ("x", "small"))],
         "node n (add): the inputs have shapes (1, 4, 6, 6) and (1, 4, 1, 1)"),
        ([pooled(), node("concat", ("x", "small"))],
         "node n (concat): the inputs have shapes (1, 4, 6, 6) and (1, 4, 1, 1)"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(nodes: list[Node], text: str) -> None:
    refused(text, *nodes)


def test_argmax_of_too_many_channels() -> None:
    built = graph(node("argmax"), shape=(1, 256, 2, 2))
    assert (built.ranges["n"], built.values["n"].dtype) == ((0, 255), "uint8")
    built = graph(node("argmax"), shape=(1, 257, 2, 2))
    assert (built.ranges["n"], built.values["n"].dtype) == ((0, 256), "uint16")
    text = "node n (argmax): argmax takes at most 65535 channels, not 65536"
    refused(text, node("argmax"), shape=(1, 65536, 2, 2))


def test_concat_of_different_exponents() -> None:
    refused(
        "node n (concat): the inputs have different exponents [-7, 0]",
        dataclasses.replace(node("resize", ratio=(1, 1)), name="r", output="r"),
        node("concat", ("x", "r")),
    )


# -------------------------------------------------------------------------------------- structure


def test_an_unsupported_operation() -> None:
    known = ", ".join(OPERATIONS)
    bad = dataclasses.replace(node("argmax"), op="softmax")
    refused(f"node n (softmax): unsupported operation; supported: {known}", bad)


def test_structure() -> None:
    relu = node("concat")
    refused("node n (concat): input 'y' is not made by an earlier node", node("concat", ("y",)))
    refused("node n: the name is used twice", relu, dataclasses.replace(relu, output="m"))
    refused("node m (concat): output 'n' is made twice", relu, dataclasses.replace(relu, name="m"))
    refused("node n (concat): output 'x' is made twice", dataclasses.replace(relu, output="x"))
    refused("value 'y' is made by no node", relu, y=Value("y", (1, 1, 1, 1), 0))
    classes = dataclasses.replace(node("argmax"), name="c", output="c")
    refused("node n (concat): input 'c' is a class map", classes, node("concat", ("c",)))


def make(**changes: Any) -> Graph:
    fields: dict[str, Any] = dict(
        inputs=("x",), outputs=("x",), values={"x": Value("x", (1, 4, 6, 6), -7)}, nodes=()
    )
    return Graph(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inputs": ()}, "a graph has exactly one input, not 0"),
        ({"inputs": ("x", "y")}, "a graph has exactly one input, not 2"),
        ({"outputs": ()}, "a graph needs at least one output"),
        ({"outputs": ("y",)}, "output 'y' is made by no node"),
        ({"values": {}}, "value 'x' is not described"),
        (
            {"values": {"x": Value("x", (1, 4, 6), 0)}},  # type: ignore[arg-type]
            "value 'x': shape must be four positive sizes, rows and columns at most 4095, "
            "not (1, 4, 6)",
        ),
        (
            {"values": {"x": Value("x", (1, 4, 4096, 1), 0)}},
            "value 'x': shape must be four positive sizes, rows and columns at most 4095, "
            "not (1, 4, 4096, 1)",
        ),
        (
            {"values": {"x": Value("x", (1, 4, 0, 1), 0)}},
            "value 'x': shape must be four positive sizes, rows and columns at most 4095, "
            "not (1, 4, 0, 1)",
        ),
        (
            {"values": {"x": Value("x", (1, 1, 1, 1), 64)}},
            "value 'x': exponent must be in [-64, 63], not 64",
        ),
    ],
)
def test_ends_and_values(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(IntaglioError) as caught:
        make(**changes)
    assert str(caught.value) == text


def test_the_description_of_an_output_is_checked() -> None:
    refused(
        "node n (argmax): output is described as (1, 1, 6, 5), the operation makes (1, 1, 6, 6)",
        node("argmax"),
        n=Value("n", (1, 1, 6, 5), 0, "uint8"),
    )
    refused(
        "node n (argmax): output must be uint8, not int8",
        node("argmax"),
        n=Value("n", (1, 1, 6, 6), 0),
    )
    refused(
        "node n (concat): output must be int8, not uint8",
        node("concat"),
        n=Value("n", (1, 4, 6, 6), 0, "uint8"),
    )


# ----------------------------------------------------------------------------------------- bounds


def wide_conv(channels: int, code: int = -128, **changes: Any) -> tuple[Node, tuple[int, ...]]:
    """Return a 1 x 1 convolution with one output, whose weights are all ``code``."""
    given: dict[str, Any] = dict(
        weight=np.full((1, channels, 1, 1), code, np.int8),
        multiplier=np.ones(1, np.int16),
        bias=np.zeros(1, np.int64),
        padding=(0, 0, 0, 0),
    )
    return node("conv", **(given | changes)), (1, channels, 1, 1)


def test_accumulator_bound() -> None:
    """2**17 products of (-128)**2 are 2**31: one too many. All but one, and it fits."""
    item, shape = wide_conv(1 << 17)
    low = -127 * 128 << 17
    refused(
        "node n (conv): channel 0: the accumulator can reach "
        f"[{low}, 2147483648], beyond [-2147483648, 2147483647]",
        item,
        shape=shape,
    )
    weight = np.full((1, 1 << 17, 1, 1), -128, np.int8)
    weight[0, 0] = -127
    item, shape = wide_conv(1 << 17, weight=weight)
    built = graph(item, shape=shape)
    # The bound is reached: the proof is not too strict.
    x = np.full(shape, -128, np.int8)
    acc = ops.conv_accumulate(
        x, weight, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), pad_code=0
    )
    assert acc.max() == (1 << 31) - 128
    assert built.evaluate(x)["n"].item() == 127


def test_the_bound_names_the_channel() -> None:
    weight = np.zeros((3, 1 << 17, 1, 1), np.int8)
    weight[1] = -128
    item = node("conv", weight=weight, padding=(0, 0, 0, 0))
    with pytest.raises(IntaglioError, match="node n .conv.: channel 1: the accumulator can reach"):
        graph(item, shape=(1, 1 << 17, 1, 1))


def test_partial_sums_count_too() -> None:
    """The order of the sum is free, so positive and negative parts must fit on their own."""
    weight = np.full((1, 1 << 18, 1, 1), -128, np.int8)
    weight[0, ::2] = 127
    item, shape = wide_conv(1 << 18, weight=weight)
    with pytest.raises(IntaglioError, match="the accumulator can reach"):
        graph(item, shape=shape)


def test_the_range_of_the_input_is_used() -> None:
    """After a ReLU the same weights fit."""
    item, shape = wide_conv(1 << 17)
    relu = Node(
        "add",
        "relu",
        ("x", "x"),
        "relu",
        ATTRIBUTES["add"] | {"shift_b": 0, "low": 0},
        {},
    )
    built = graph(relu, dataclasses.replace(item, inputs=("relu",)), shape=shape)
    assert built.ranges["relu"] == (0, 127)
    # Padding with a negative code widens the range again.
    padded = dataclasses.replace(
        item, inputs=("relu",), attributes=dict(item.attributes) | {"pad_code": -128}
    )
    with pytest.raises(IntaglioError, match="the accumulator can reach"):
        graph(relu, padded, shape=shape)


@pytest.mark.parametrize(
    ("bias", "shift", "fits", "text"),
    [
        # acc is in [-127 * 128, 128 * 128] and m is 2: the product in [-32512, 32768].
        ((1 << 47) - 1 - 32768, 0, True, ""),
        ((1 << 47) - 32768, 0, False, "acc * m + b can reach"),
        (-(1 << 47) + 32512, 0, True, ""),
        (-(1 << 47) + 32511, 0, False, "acc * m + b can reach"),
        ((1 << 47) - 1 - 32768 - 8, 4, True, ""),
        ((1 << 47) - 32768 - 8, 4, False, "the rounded sum can reach"),
        ((1 << 47), 0, False, f"the bias must be in [{-(1 << 47)}, {(1 << 47) - 1}], not "),
    ],
)
def test_sum_bound(bias: int, shift: int, fits: bool, text: str) -> None:
    item, shape = wide_conv(
        1, multiplier=np.array([2], np.int16), bias=np.array([bias]), shift=shift
    )
    if fits:
        graph(item, shape=shape)
        return
    with pytest.raises(IntaglioError) as caught:
        graph(item, shape=shape)
    assert str(caught.value).startswith(f"node n (conv): channel 0: {text}")


def test_residual_bound() -> None:
    # 127 << 39 is below 2**46, and the product at most 32768.
    def residual(bias: int) -> None:
        item, shape = wide_conv(1, bias=np.array([bias]), residual_shift=39, shift=47)
        graph(dataclasses.replace(item, inputs=("x", "x")), shape=shape)

    largest = (1 << 47) - 1 - (1 << 14) - (127 << 39) - (1 << 46)
    residual(largest)
    with pytest.raises(IntaglioError, match="channel 0: the rounded sum can reach"):
        residual(largest + 1)
    with pytest.raises(IntaglioError, match="acc . m . b . residual can reach"):
        residual(largest + (1 << 46) + 1)


def test_transposed_convolution_counts_one_phase() -> None:
    """At stride 2 a position meets every other kernel row and column only."""
    weight = np.full((1 << 15, 1, 4, 4), -128, np.int8)
    given: dict[str, Any] = dict(
        weight=weight, multiplier=np.ones(1, np.int16), bias=np.zeros(1, np.int64)
    )
    shape = (1, 1 << 15, 1, 1)
    with pytest.raises(IntaglioError, match=r"the accumulator can reach \[.*, 2147483648\]"):
        graph(node("conv_transpose", **given), shape=shape)
    weight = weight.copy()
    weight[0, 0, :2, :2] = -127  # one position of each phase
    graph(node("conv_transpose", **(given | {"weight": weight})), shape=shape)


def test_low_above_high() -> None:
    for op in ("conv", "conv_transpose", "avg_pool"):
        refused(f"node n ({op}): low must be at most high = 3, not 4", node(op, low=4, high=3))


@pytest.mark.parametrize("op", ["max_pool", "resize"])
def test_ranges_pass_through(op: str) -> None:
    relu = Node("add", "r", ("x", "x"), "r", ATTRIBUTES["add"] | {"low": -3, "high": 9}, {})
    assert graph(relu, node(op, ("r",))).ranges["n"] == (-3, 9)


# ------------------------------------------------------------------------------- digest, evaluation


def test_digest_sees_everything() -> None:
    weight = tensors("conv")["weight"].copy()
    weight[0, 0, 0, 0] ^= 1
    variants = [
        graph(node("conv")),
        graph(node("conv", shift=11)),
        graph(node("conv", weight=weight)),
        graph(node("conv"), n=Value("n", (1, 3, 6, 6), -1)),
        graph(node("conv", name="other")),
        graph(node("conv"), shape=(2, 4, 6, 6)),
    ]
    assert len({variant.digest() for variant in variants}) == len(variants)
    assert graph(node("conv")).digest() == variants[0].digest()
    # The order of attributes is no difference.
    item = node("conv")
    turned = dataclasses.replace(item, attributes=dict(reversed(item.attributes.items())))
    assert graph(turned).digest() == variants[0].digest()


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 4, 6, 6), np.uint8),
        np.zeros((4, 6, 6), np.int8),
        np.zeros((1, 4, 6, 5), np.int8),
    ],
)
def test_evaluate_refuses_other_inputs(x: np.ndarray) -> None:
    text = r"input must be int8 \(N, 4, 6, 6\), not u?int8 \("
    with pytest.raises(ValueError, match=text):
        graph(node("conv")).evaluate(x)


def test_macs_and_node() -> None:
    built = graph(node("conv"))
    assert built.macs(built.node("n")) == 6 * 6 * 3 * 4 * 9
    built = graph(node("conv_transpose"))
    assert built.macs(built.node("n")) == 6 * 6 * 3 * 4 * 16
    built = graph(node("max_pool"))
    assert built.macs(built.node("n")) == 0
    with pytest.raises(KeyError, match="other"):
        built.node("other")


# ---------------------------------------------------------------------------------------- builder


def test_builder() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (1, 4, 6, 6), -7)
    y = builder.node("conv", "conv", [x], -3, ATTRIBUTES["conv"], tensors("conv"))
    _, multiplier, bias, shift = exact_division(36, 36 * 128)
    builder.node(
        "avg_pool",
        "pool",
        [y],
        -3,
        {"kernel": (6, 6), "stride": (1, 1), "padding": (0, 0, 0, 0), "shift": shift, **CODES},
        # In another order than the table's.
        {"bias": np.array([bias]), "multiplier": np.array([multiplier], np.int16)},
    )
    builder.node("argmax", "classes", [y], 5)
    built = builder.finish(["pool", "classes"])
    assert built.values["conv"] == Value("conv", (1, 3, 6, 6), -3)
    assert built.values["pool"] == Value("pool", (1, 3, 1, 1), -3)
    assert built.values["classes"] == Value("classes", (1, 1, 6, 6), 0, "uint8")
    image = np.random.default_rng(3).integers(-128, 128, (1, 4, 6, 6), np.int8)
    arrays = built.evaluate(image)
    mean = arrays["conv"].astype(np.int64).sum((2, 3), keepdims=True)
    np.testing.assert_array_equal(arrays["pool"], (2 * mean + 36) // 72)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "text"),
    [
        ("softmax", ["x"], {}, "node n (softmax): unsupported operation; supported: conv, conv_"),
        ("concat", ["y"], {}, "node n (concat): input 'y' is not made by an earlier node"),
        ("concat", [], {}, "node n (concat): takes 1 to 64 inputs, not 0"),
        ("broadcast", ["x"], {"size": (2, 2)}, "node n (broadcast): the input must be 1 x 1, not"),
        ("broadcast", ["x"], {}, "node n (broadcast): attribute 'size' is missing"),
        ("broadcast", ["x"], {"size": 2}, "node n (broadcast): size must be a tuple of 2 integers"),
        ("argmax", ["x"], {"axis": 1}, "node n (argmax): unknown attribute 'axis'"),
        ("conv", ["x"], ATTRIBUTES["conv"], "node n (conv): tensors must be ('weight', 'multi"),
    ],
)
def test_builder_refuses(op: str, inputs: list[str], attributes: dict[str, Any], text: str) -> None:
    builder = GraphBuilder()
    builder.input("x", (1, 4, 6, 6), -7)
    with pytest.raises(IntaglioError) as caught:
        builder.node(op, "n", inputs, 0, attributes)
    assert str(caught.value).startswith(text)
