"""The compiler against the graph, on the golden machine: every byte of every value."""

import dataclasses
import itertools

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.compile.allocate import Ring
from intaglio.compile.schedule import TOKENS, Place, Schedule
from intaglio.compile.tile import divisions, split, strided_span, window_span
from intaglio.spec import isa
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.graph import Graph, GraphBuilder
from intaglio.spec.isa import Unit
from intaglio.spec.program import Program, load_program, read_value, save_program
from intaglio_sim.golden.checker import check_program
from intaglio_sim.golden.machine import GoldenMachine
from intaglio_sim.random_graph import random_graph, random_input


def run_golden(program: Program, x: np.ndarray) -> np.ndarray:
    """Return the memory after ``program`` ran on the image ``x`` (C, H, W)."""
    result = GoldenMachine(program.config).run(
        program.image(x), program.program_base, program.length, program.memory_bytes
    )
    assert result.error == isa.Error.NONE, result.error_text
    assert result.instructions_executed == program.length - 1
    return result.memory


def assert_equal(graph: Graph, program: Program, x: np.ndarray) -> None:
    expected = graph.evaluate(x)
    memory = run_golden(program, x[0])
    for name in graph.values:
        found = read_value(memory, program.values[name], program.config.R)
        np.testing.assert_array_equal(found, expected[name][0], err_msg=name)


def convolution(
    *,
    channels: int = 3,
    outputs: int = 8,
    size: tuple[int, int] = (12, 12),
    kernel: tuple[int, int] = (3, 3),
    **attributes: object,
) -> Graph:
    """Return a graph of one convolution from the image."""
    generator = np.random.default_rng(1)
    builder = GraphBuilder()
    builder.input("image", (1, channels, *size), -7)
    builder.node(
        "conv",
        "conv",
        ["image"],
        -5,
        {
            "stride": (1, 1),
            "padding": (0, 0, 0, 0),
            "dilation": (1, 1),
            "pad_code": 0,
            "shift": 8,
            "residual_shift": 0,
            "low": -128,
            "high": 127,
            **attributes,
        },
        {
            "weight": generator.integers(-127, 128, (outputs, channels, *kernel)).astype(np.int8),
            "multiplier": np.ones(outputs, np.int16),
            "bias": generator.integers(-1000, 1000, outputs),
        },
    )
    return builder.finish(["conv"])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int, config: str) -> None:
    graph = random_graph(seed)
    program = compile_graph(graph, CONFIGS[config])
    assert_equal(graph, program, random_input(graph, seed))
    report = check_program(program)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_random_networks(seed: int, config: str) -> None:
    test_random_networks(seed, config)


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        # Wider than a load can pad, so that the array pads the rest.
        ((6, 9), {"padding": (2, 30, 2, 30)}),
        # A dilated kernel larger than the image: most taps lie outside.
        ((5, 7), {"padding": (36, 36, 36, 36), "dilation": (36, 36)}),
        ((9, 9), {"padding": (1, 1, 1, 1), "pad_code": -128}),
        ((40, 50), {"stride": (2, 2), "padding": (3, 3, 3, 3), "kernel": (7, 7)}),
        ((3, 3), {}),
    ],
)
@pytest.mark.parametrize("config", CONFIGS)
def test_first_layer(config: str, size: tuple[int, int], attributes: dict) -> None:
    graph = convolution(size=size, outputs=11, **attributes)
    assert_equal(graph, compile_graph(graph, CONFIGS[config]), random_input(graph, 3))


def after_convolution(
    size: tuple[int, int], op: str, exponent: int = -5, outputs: int = 11, **given: object
) -> Graph:
    """Return a graph of a 1x1 convolution to ``outputs`` channels and ``op`` behind it."""
    generator = np.random.default_rng(2)
    builder = GraphBuilder()
    builder.input("image", (1, 3, *size), -7)
    attributes = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "pad_code": 0}
    builder.node(
        "conv",
        "conv",
        ["image"],
        -5,
        {**attributes, "shift": 7, "residual_shift": 0, "low": -128, "high": 127},
        {
            "weight": generator.integers(-127, 128, (outputs, 3, 1, 1)).astype(np.int8),
            "multiplier": np.ones(outputs, np.int16),
            "bias": generator.integers(-1000, 1000, outputs),
        },
    )
    tensors = given.pop("tensors", None)
    return builder.finish([builder.node(op, "last", ["conv"], exponent, given, tensors)])


def average(size: tuple[int, int], kernel: tuple[int, int], **window: object) -> Graph:
    area = kernel[0] * kernel[1]
    shift = 13 + area.bit_length()
    return after_convolution(
        size,
        "avg_pool",
        kernel=kernel,
        **{"stride": (1, 1), "padding": (0, 0, 0, 0), **window},
        shift=shift - 3,
        low=-128,
        high=127,
        tensors={
            "multiplier": np.array([(1 << shift) // area], np.int16),
            "bias": np.array([-77]),
        },
    )


def assert_good(graph: Graph, config: str) -> None:
    program = compile_graph(graph, CONFIGS[config])
    assert_equal(graph, program, random_input(graph, 4))
    report = check_program(program)
    assert report.ok, str(report)


@pytest.mark.parametrize("config", ["tiny-8x8", "narrow-8x4", "wide-16x8", "wide-8x16"])
@pytest.mark.parametrize(
    ("size", "kernel", "window"),
    [
        ((40, 37), (40, 37), {}),  # global, of more vectors than VEC has
        ((3, 300), (3, 300), {}),  # wider than a field
        ((290, 3), (280, 2), {"stride": (300, 1)}),
        ((30, 40), (29, 38), {"padding": (20, 9, 0, 30), "stride": (9, 20)}),
        ((5, 270), (2, 260), {"padding": (1, 200, 1, 100), "stride": (3, 256)}),
    ],
)
def test_windows_larger_than_the_buffer(config: str, size, kernel, window) -> None:
    assert_good(average(size, kernel, **window), config)
    window = {"stride": (1, 1), "padding": (0, 0, 0, 0), **window}
    assert_good(after_convolution(size, "max_pool", kernel=kernel, **window), config)


RATIOS = [(1, 5), (5, 1), (2, 3), (3, 5), (5, 6), (6, 6), (7, 12), (12, 7), (16, 16), (15, 31),
          (2, 32), (32, 2), (32, 32), (31, 29), (24, 10), (28, 30), (53, 53),
          (127, 126)]  # fmt: skip


@pytest.mark.parametrize("corners", ["half_pixel", "align"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_resize_by_any_ratio(ratio: tuple[int, int], corners: str) -> None:
    graph = after_convolution((3, 4), "resize", outputs=9, ratio=ratio, corners=corners)
    assert_good(graph, "tiny-8x8")


@pytest.mark.parametrize("classes", [1, 2, 9, 150, 256, 257, 500])
def test_argmax_of_any_number_of_classes(classes: int) -> None:
    assert_good(after_convolution((5, 19), "argmax", outputs=classes), "tiny-8x8")


def test_argmax_of_more_classes_is_refused() -> None:
    with pytest.raises(IntaglioError, match="argmax takes at most 65535 channels, not 65536"):
        after_convolution((1, 1), "argmax", outputs=65536)


@pytest.mark.parametrize("size", [(1, 700), (700, 1), (41, 43)])
def test_maps_larger_than_the_buffers(size: tuple[int, int]) -> None:
    """A broadcast of a global average joined to its map, and a sum of different exponents."""
    graph = average(size, size)
    builder = GraphBuilder()
    builder.input("image", graph.values["image"].shape, -7)
    for node in graph.nodes:
        builder.node(node.op, node.name, node.inputs, -5, node.attributes, node.tensors)
    builder.node("broadcast", "wide", ["last"], -5, {"size": size})
    attributes = {"shift_a": 5, "shift_b": 3, "shift": 6, "low": -128, "high": 100}
    builder.node("add", "sum", ["wide", "conv"], -5, attributes)
    builder.node("concat", "all", ["conv", "wide", "sum", "conv"], -5)
    assert_good(builder.finish(["all"]), "tiny-8x8")


def test_same_bytes_twice() -> None:
    graph = random_graph(5)
    first, second = (compile_graph(graph, CONFIGS["mini-8x8"]) for _ in range(2))
    assert first.digest() == second.digest()


def test_weights_that_stay_are_loaded_once() -> None:
    graph = convolution(size=(64, 64), padding=(1, 1, 1, 1))
    program = compile_graph(graph, CONFIGS["tiny-8x8"])
    decoded = [isa.decode(program.instruction(i))[1] for i in range(program.length)]
    loads = [f for f in decoded if f["opcode"] == isa.LOAD.opcode]
    assert sum(f["opcode"] == isa.ARRAY.opcode for f in decoded) > 10
    assert sum(f["buffer"] == isa.Buffer.WGT for f in loads) == 1


def test_program_file(tmp_path) -> None:
    program = compile_graph(random_graph(3), CONFIGS["wide-16x8"])
    path = tmp_path / "program.npz"
    save_program(program, path)
    content = path.read_bytes()
    loaded = load_program(path)
    assert loaded.digest() == program.digest()
    assert loaded.values == program.values
    assert loaded.layers == program.layers
    save_program(loaded, path)
    assert path.read_bytes() == content


def test_program_for_another_configuration_is_refused() -> None:
    program = compile_graph(random_graph(3), CONFIGS["mini-8x8"])
    program.check_config(dataclasses.replace(CONFIGS["mini-8x8"], name="same"))
    with pytest.raises(IntaglioError, match="is for configuration mini-8x8 .* not tiny-8x8"):
        program.check_config(CONFIGS["tiny-8x8"])


def test_what_does_not_fit_is_refused() -> None:
    graph = convolution(channels=9)
    with pytest.raises(
        IntaglioError, match="layer conv, configuration mini-8x8: the image must have at most R = 8"
    ):
        compile_graph(graph, CONFIGS["mini-8x8"])
    graph = convolution(size=(300, 300), kernel=(256, 1))
    with pytest.raises(IntaglioError, match="kernel must be at most 255, not 256"):
        compile_graph(graph, CONFIGS["mini-8x8"])


def test_window_span() -> None:
    # Outputs 2..4 of a 3-wide kernel with stride 2 and padding 1 over 9 positions need 3..9.
    span = window_span(9, 2, 3, kernel=3, stride=2, dilation=1, before=1)
    assert (span.start, span.stop, span.offset) == (3, 9, 0)
    span = window_span(9, 0, 2, kernel=3, stride=2, dilation=1, before=1)
    assert (span.start, span.stop, span.offset) == (0, 4, -1)
    # Wholly in the padding: one position remains.
    span = window_span(4, 0, 1, kernel=1, stride=1, dilation=1, before=7)
    assert (span.start, span.stop, span.offset) == (0, 1, -7)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_strided_span(size: int, stride: int) -> None:
    for before, first, count in itertools.product(range(-12, 13), range(4), range(1, 6)):
        span = strided_span(size, first, count, stride=stride, before=before)
        loaded = list(range(size))[span.start : span.stop : span.step]
        assert len(loaded) == span.size >= 1
        for output in range(count):
            row, source = span.offset + output, (first + output) * stride - before
            if 0 <= source < size:
                assert loaded[row] == source
            else:
                assert not 0 <= row < span.size


def test_split() -> None:
    assert list(split(10, 4)) == [(0, 4), (4, 3), (7, 3)]
    assert list(split(21, 16, 8)) == [(0, 16), (16, 5)]
    assert divisions(20, 8) == [24, 16, 8]


def test_ring_forgets_what_it_overwrites() -> None:
    ring = Ring("IFM", 16)
    first = ring.allocate(6, "first")
    assert ring.find("first") == first
    ring.allocate(6, "second")
    third = ring.allocate(6, "third")
    assert third == Place("IFM", 0, 6)
    assert ring.find("first") is None
    assert ring.find("second") is not None
    with pytest.raises(ValueError, match="IFM has 16 places, not 17"):
        ring.allocate(17)


def test_ring_slots() -> None:
    ring = Ring("IFM", 20)
    starts = []
    for size in (9, 10, 8, 10, 9):
        ring.open_slot(10)
        starts.append(ring.allocate(size).start)
    assert starts == [0, 10, 0, 10, 0]
    # However small, pieces are few enough for the token counters.
    ring = Ring("IFM", 4096)
    assert ring.allocate(1).start == 0
    assert ring.allocate(1).start == 4096 // Ring.PIECES


def test_schedule_waits_for_readers_and_writers() -> None:
    schedule = Schedule()
    a, b = Place("IFM", 0, 8), Place("IFM", 8, 16)
    acc = Place("ACC", 0, 1)
    schedule.add(Unit.LOAD, {}, reads=[], writes=[a], layer="x")
    schedule.add(Unit.LOAD, {}, reads=[], writes=[b], layer="x")
    schedule.add(Unit.ARRAY, {}, reads=[b], writes=[acc], layer="x")
    schedule.add(Unit.ARRAY, {}, reads=[a], writes=[acc], layer="x")
    schedule.add(Unit.LOAD, {}, reads=[], writes=[a], layer="y")
    code, layers = schedule.encode()
    fields = [isa.decode(code[i * 64 : (i + 1) * 64])[1] for i in range(6)]
    load, array = 1 << Unit.LOAD, 1 << Unit.ARRAY
    # The first array instruction waits for the second load, which covers the wait of the second.
    assert [f["signal"] for f in fields] == [0, array, 0, load, 0, 0]
    assert [f["wait"] for f in fields] == [0, 0, load, 0, array, 0]
    assert layers == ("x", "x", "x", "x", "y", "")


def test_schedule_keeps_the_tokens_few() -> None:
    """More values than a token counter counts are stored before the first of them is loaded."""
    schedule, count = Schedule(), 1000
    places = [Place("MEM", 64 * i, 64 * i + 64) for i in range(count)]
    for place in places:
        schedule.add(Unit.STORE, {}, reads=[], writes=[place], layer="x")
    for place in places:
        schedule.add(Unit.LOAD, {}, reads=[place], writes=[], layer="x")
    code, _ = schedule.encode()
    fields = [isa.decode(code[64 * i : 64 * i + 64])[1] for i in range(2 * count)]
    signalled = [i for i in range(count) if fields[i]["signal"]]
    assert 0 < len(signalled) <= TOKENS
    newest = -1
    for index in range(count):
        if fields[count + index]["wait"]:
            newest = signalled.pop(0)
        assert newest >= index  # what it loads was stored by then
    assert not signalled
