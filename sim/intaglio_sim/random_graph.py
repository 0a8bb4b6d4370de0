"""Random networks: every operation, odd shapes, extreme parameters; small enough to simulate."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from intaglio.spec import ops
from intaglio.spec.graph import Graph, GraphBuilder

__all__ = ["OPERATIONS", "random_graph", "random_input"]

#: What :func:`random_graph` draws from after the first convolution.
OPERATIONS = (
    "conv",
    "residual",
    "conv_transpose",
    "max_pool",
    "avg_pool",
    "global_pool",
    "resize",
    "add",
    "concat",
)

#: Feature maps stay below this, so that a network simulates in seconds.
_POSITIONS_MAX = 1200


def random_input(graph: Graph, seed: int) -> np.ndarray:
    """Return a random input (1, C, H, W) int8; a quarter of the codes are extremes."""
    generator = np.random.default_rng(seed)
    x = generator.integers(-128, 128, graph.values[graph.inputs[0]].shape)
    extreme = generator.choice([-128, 127, 0, 1, -1], x.shape)
    return np.where(generator.random(x.shape) < 0.25, extreme, x).astype(np.int8)


class _Maker:
    """Grows a graph and keeps the values of one random image, to scale each layer sensibly."""

    def __init__(self, seed: int, channels: int, whole: bool, padded: bool) -> None:
        self.whole, self.padded = whole, padded
        self.rng = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.channels = channels
        self.builder = GraphBuilder()
        self.arrays: dict[str, np.ndarray] = {}
        self.exponents: dict[str, int] = {}
        self.count = 0

    def name(self, op: str) -> str:
        self.count += 1
        return f"{op}{self.count}"

    def pick(self, *items: int) -> int:
        return self.rng.choice(items)

    def outputs(self) -> int:
        """Return a number of channels, with and without a remainder of the lanes."""
        if self.whole:
            return self.rng.choice([16, 32])
        return self.rng.choice([self.rng.randint(1, self.channels), 8, 16])

    def requantization(self, acc: np.ndarray, channels: int) -> tuple[dict, dict]:
        """Return attributes and tensors that bring ``acc`` to about the range of int8."""
        relu = self.rng.random() < 0.5
        largest = int(np.abs(acc).max()) or 1
        scale = self.rng.choice([1, 60, 5000, 32767])
        multiplier = self.numpy.integers(-scale, scale + 1, channels)
        multiplier[self.numpy.random(channels) < 0.1] = 0
        shift = max(0, (largest * scale).bit_length() - self.rng.choice([5, 7, 8]))
        bias = self.numpy.integers(-(32 << shift) - 1, (32 << shift) + 1, channels)
        return (
            {"shift": shift, "low": 0 if relu else self.pick(-128, -127), "high": 127},
            {"multiplier": multiplier.astype(np.int16), "bias": bias},
        )

    def node(self, op: str, inputs: Sequence[str], exponent: int, attributes=None, tensors=None):
        name = self.builder.node(op, self.name(op), inputs, exponent, attributes, tensors)
        self.exponents[name] = exponent
        arrays = [self.arrays[source] for source in inputs]
        attributes, values = attributes or {}, list((tensors or {}).values())
        if op == "conv" and len(arrays) == 2:
            self.arrays[name] = ops.conv(arrays[0], *values, **attributes, residual=arrays[1])
        else:
            self.arrays[name] = getattr(ops, op)(*arrays, *values, **attributes)
        return name

    def weight(self, *shape: int) -> np.ndarray:
        if self.rng.random() < 0.1:
            return self.numpy.choice([-127, 127], shape).astype(np.int8)
        return self.numpy.integers(-127, 128, shape).astype(np.int8)

    def conv(self, source: str, *, residual: bool = False) -> str:
        x = self.arrays[source]
        _, channels, rows, cols = x.shape
        kernel = (self.pick(1, 2, 3, 3, 5), self.pick(1, 2, 3, 3, 5))
        stride = (self.pick(1, 1, 2, 3), self.pick(1, 1, 2, 3))
        dilation = (self.pick(1, 1, 2, 6, 12), self.pick(1, 1, 2, 6, 12))
        if residual:
            kernel, stride = (self.pick(1, 3),) * 2, (1, 1)
        same = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
        padding: tuple[int, ...] = (same[0], same[1], same[0], same[1])
        if not residual and self.rng.random() < 0.3:
            padding = tuple(self.rng.randint(0, 4) for _ in range(4))
        if not self.padded and not residual:
            padding = (0, 0, 0, 0)
        outputs = channels if residual else self.outputs()
        for axis, size in enumerate((rows, cols)):
            if (
                ops.output_size(
                    size,
                    kernel[axis],
                    stride[axis],
                    padding[axis],
                    padding[2 + axis],
                    dilation[axis],
                )
                < 1
            ):
                return source
        attributes: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "pad_code": self.pick(0, 0, 0, -128, 5),
        }
        weight = self.weight(outputs, channels, *kernel)
        acc = ops.conv_accumulate(x, weight, **attributes)
        output, tensors = self.requantization(acc, outputs)
        shift = self.rng.randint(0, min(output["shift"], 30)) if residual else 0
        return self.node(
            "conv",
            [source, source] if residual else [source],
            -5,
            {**attributes, "residual_shift": shift, **output},
            {"weight": weight, **tensors},
        )

    def residual(self, source: str) -> str:
        return self.conv(source, residual=True)

    def conv_transpose(self, source: str) -> str:
        x = self.arrays[source]
        stride = (self.pick(1, 2, 3), self.pick(2, 4))
        kernel = (self.pick(1, 2, 3, 4), self.pick(2, 3, 4, 8))
        if x.shape[2] * x.shape[3] * stride[0] * stride[1] > _POSITIONS_MAX:
            return source
        cut = [min(k // 2, 1) for k in kernel]
        padding = (0, cut[1], cut[0], 0) if min(x.shape[2:]) > 1 else (0, 0, 0, 0)
        if not self.padded:
            padding = (0, 0, 0, 0)
        outputs = self.outputs()
        weight = self.weight(x.shape[1], outputs, *kernel)
        acc = ops.conv_transpose_accumulate(x, weight, stride=stride, padding=padding)
        output, tensors = self.requantization(acc, outputs)
        return self.node(
            "conv_transpose",
            [source],
            -5,
            {"stride": stride, "padding": padding, **output},
            {"weight": weight, **tensors},
        )

    def _window(self, source: str) -> dict | None:
        rows, cols = self.arrays[source].shape[2:]
        kernel = (self.pick(1, 2, 3), self.pick(2, 3))
        padding = tuple(self.rng.randint(0, kernel[axis % 2] - 1) for axis in range(4))
        if not self.padded:
            padding = (0, 0, 0, 0)
        if rows + padding[0] + padding[2] < kernel[0] or cols + padding[1] + padding[3] < kernel[1]:
            return None
        stride = (self.pick(1, 2), self.pick(1, 2, 3))
        return {"kernel": kernel, "stride": stride, "padding": padding}

    def max_pool(self, source: str) -> str:
        window = self._window(source)
        if window is None:
            return source
        return self.node("max_pool", [source], self.exponents[source], window)

    def _average(self, source: str, window: dict) -> str:
        area = window["kernel"][0] * window["kernel"][1]
        shift = 14 + area.bit_length()
        return self.node(
            "avg_pool",
            [source],
            self.exponents[source],
            {**window, "shift": shift, "low": -128, "high": 127},
            {
                "multiplier": np.array([min(((1 << shift) + area // 2) // area, 32767)], np.int16),
                "bias": np.array([self.rng.randint(-5, 5)], np.int64),
            },
        )

    def avg_pool(self, source: str) -> str:
        window = self._window(source)
        return source if window is None else self._average(source, window)

    def global_pool(self, source: str) -> str:
        rows, cols = self.arrays[source].shape[2:]
        pooled = self._average(
            source, {"kernel": (rows, cols), "stride": (1, 1), "padding": (0, 0, 0, 0)}
        )
        return self.node("broadcast", [pooled], self.exponents[source], {"size": (rows, cols)})

    def resize(self, source: str) -> str:
        x = self.arrays[source]
        ratio = (self.pick(1, 2, 3, 5, 6), self.pick(1, 2, 4, 7, 12))
        if x.shape[2] * x.shape[3] * ratio[0] * ratio[1] > _POSITIONS_MAX:
            return source
        corners = self.rng.choice(ops.CORNERS)
        return self.node(
            "resize", [source], self.exponents[source], {"ratio": ratio, "corners": corners}
        )

    def add(self, source: str) -> str:
        others = [
            name
            for name, x in self.arrays.items()
            if x.shape == self.arrays[source].shape and name != "image"
        ]
        other = self.rng.choice(others)
        attributes = {
            "shift_a": self.rng.randint(0, 6),
            "shift_b": self.rng.randint(0, 6),
            "shift": self.rng.randint(0, 8),
            "low": self.pick(-128, 0),
            "high": self.pick(127, 100),
        }
        # A concatenation has gaps between its channels; the machine adds like to like only.
        if self.concatenated(source) or self.concatenated(other):
            return source
        return self.node("add", [source, other], -5, attributes)

    def concatenated(self, name: str) -> bool:
        node = next((n for n in self.builder_nodes() if n.output == name), None)
        if node is None or node.op in ("conv", "conv_transpose"):
            return False
        return node.op == "concat" or any(self.concatenated(source) for source in node.inputs)

    def builder_nodes(self):
        return self.builder._nodes

    def concat(self, source: str) -> str:
        size = self.arrays[source].shape[2:]
        others = [
            name
            for name, x in self.arrays.items()
            if x.shape[2:] == size
            and name != "image"
            and self.exponents[name] == self.exponents[source]
        ]
        inputs = [source, *self.rng.sample(others, min(len(others), self.pick(0, 1, 2)))]
        if sum(self.arrays[name].shape[1] for name in inputs) > 64:
            return source
        return self.node("concat", inputs, self.exponents[source])


def random_graph(
    seed: int,
    *,
    layers: int = 6,
    size: int = 20,
    channels: int = 20,
    classes: int | None = None,
    operations: Sequence[str] = OPERATIONS,
    whole: bool = False,
    padded: bool = True,
) -> Graph:
    """Return a random graph, the same for the same arguments.

    An image of 3 channels and up to ``size`` rows and columns (fewer than four only where ``size``
    is below four) goes through a convolution, about
    ``layers`` of the ``operations`` with up to ``channels`` channels, a 1x1 convolution to
    ``classes`` (random by default) and arg max. Fewer ``layers`` give the same first ones. With
    ``whole`` every number of channels is a multiple of 16, without ``padded`` no layer but a
    residual one pads.
    """
    maker = _Maker(seed, channels, whole, padded)
    least = max(4, size // 3) if size >= 4 else 1
    rows, cols = (maker.rng.randint(least, size) for _ in range(2))
    shape = (1, 3, rows, cols)
    value = maker.builder.input("image", shape, -7)
    maker.arrays[value] = maker.numpy.integers(-128, 128, shape).astype(np.int8)
    maker.exponents[value] = -7
    first = "image"
    while first == "image":
        first = maker.conv("image")
    value = first
    for _ in range(layers):
        op = maker.rng.choice(operations)
        value = getattr(maker, op)(value)
    x = maker.arrays[value]
    outputs = classes or (16 if whole else maker.rng.randint(1, 40))
    weight = maker.weight(outputs, x.shape[1], 1, 1)
    geometry: dict[str, Any] = {
        "stride": (1, 1),
        "padding": (0, 0, 0, 0),
        "dilation": (1, 1),
        "pad_code": 0,
    }
    output, tensors = maker.requantization(ops.conv_accumulate(x, weight, **geometry), outputs)
    logits = maker.node(
        "conv",
        [value],
        -3,
        {**geometry, "residual_shift": 0, **output},
        {"weight": weight, **tensors},
    )
    return maker.builder.finish([maker.node("argmax", [logits], 0)])
