"""From a frozen graph to a program: placement, tiles, schedule."""

import dataclasses
from collections.abc import Callable, Mapping

from intaglio.compile.allocate import MemoryImage
from intaglio.compile.convolution import ConvolutionLowering
from intaglio.compile.emitter import Emitter
from intaglio.compile.schedule import Schedule
from intaglio.compile.vector import VectorLowering
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.graph import Graph, Node, Value
from intaglio.spec.memory import MEMORY_LATENCY
from intaglio.spec.program import Placement, Program

__all__ = ["compile_graph"]


def compile_graph(
    graph: Graph,
    config: AcceleratorConfig,
    *,
    latency: int = MEMORY_LATENCY,
    interval: int = 1,
    progress: Callable[[str], None] = lambda layer: None,
) -> Program:
    """Compile ``graph`` for ``config``; the same inputs give the same bytes.

    ``latency``, ``interval``: cycles from a request to its first beat and from beat to beat of the
    memory that the plans are made for; the program runs with any memory.
    ``progress`` is called with the name of each layer before it is compiled.

    Raises
    ------
    IntaglioError
        A layer does not fit the machine, or the batch is not 1; names the layer, the size and the
        bound.
    """
    if graph.values[graph.inputs[0]].shape[0] != 1:
        raise IntaglioError(
            f"the accelerator takes one image at a time, the graph has a batch of "
            f"{graph.values[graph.inputs[0]].shape[0]}"
        )
    image = MemoryImage()
    values = _place(graph, config, image)
    schedule = Schedule()
    emit = Emitter(
        config=config,
        image=image,
        values=values,
        schedule=schedule,
        latency=latency,
        interval=interval,
    )
    convolution, vector = ConvolutionLowering(emit), VectorLowering(emit)
    lowerings: Mapping[str, Callable[[Node], None]] = {
        "conv": convolution.conv,
        "conv_transpose": convolution.conv_transpose,
        "max_pool": vector.pool,
        "avg_pool": vector.pool,
        "resize": vector.resize,
        "broadcast": vector.broadcast,
        "add": vector.add,
        "concat": vector.concat,
        "argmax": vector.argmax,
    }
    for node in graph.nodes:
        progress(node.name)
        emit.layer = node.name
        lowerings[node.op](node)
    instructions, layers = schedule.encode()
    program_base = image.put(instructions)
    return Program(
        config=config,
        graph_digest=graph.digest(),
        instructions=instructions,
        program_base=program_base,
        memory=image.finish(),
        values=values,
        inputs=graph.inputs,
        outputs=graph.outputs,
        layers=layers,
        macs={node.name: graph.macs(node) for node in graph.nodes},
    )


def _place(graph: Graph, config: AcceleratorConfig, image: MemoryImage) -> dict[str, Placement]:
    """Give every value a place; the inputs of a concatenation lie inside of its output."""
    vector = config.R
    result: dict[str, Placement] = {}

    def in_blocks(value: Value, address: int, lanes: tuple[int, ...]) -> Placement:
        return Placement(
            name=value.name,
            shape=value.shape[1:],
            exponent=value.exponent,
            address=address,
            layout="blocks",
            lanes=lanes,
        )

    # Last first, so that an output of concat is placed before its inputs.
    lanes_of = _lanes(graph, vector)
    for node in reversed(graph.nodes):
        value = graph.values[node.output]
        _, _, rows, cols = value.shape
        if node.op == "argmax":
            place = Placement(
                name=value.name,
                shape=value.shape[1:],
                exponent=0,
                address=0,
                layout="classes" if value.dtype == "uint8" else "wide_classes",
            )
            address = image.reserve(place.nbytes(vector))
            result[value.name] = dataclasses.replace(place, address=address)
            continue
        if value.name not in result:
            lanes = lanes_of[value.name]
            blocks = max(lanes) // vector + 1
            result[value.name] = in_blocks(
                value, image.reserve(blocks * rows * cols * vector), lanes
            )
        if node.op == "concat":
            address = result[value.name].address
            for name in node.inputs:
                # A value that has a place already (used twice), or the image itself, is copied.
                if name not in result and name not in graph.inputs:
                    result[name] = in_blocks(graph.values[name], address, lanes_of[name])
                blocks = max(lanes_of[name]) // vector + 1
                address += blocks * rows * cols * vector
    source = graph.values[graph.inputs[0]]
    channels, rows, cols = source.shape[1:]
    result[source.name] = Placement(
        name=source.name,
        shape=(channels, rows, cols),
        exponent=source.exponent,
        address=image.reserve(channels * rows * cols),
        layout="dense",
    )
    return {name: result[name] for name in graph.values}


def _lanes(graph: Graph, vector: int) -> dict[str, tuple[int, ...]]:
    """Return the lane of each channel: consecutive, but each input of a concatenation begins a new
    block.
    """
    result: dict[str, tuple[int, ...]] = {}
    for name in graph.inputs:
        result[name] = tuple(range(graph.values[name].shape[1]))
    for node in graph.nodes:
        if node.op == "concat":
            lanes: list[int] = []
            for name in node.inputs:
                first = -(-(max(lanes, default=-1) + 1) // vector) * vector
                lanes.extend(first + lane for lane in result[name])
            result[node.output] = tuple(lanes)
        elif node.op == "conv" and len(node.inputs) == 2:
            # The residual is added lane by lane.
            result[node.output] = result[node.inputs[1]]
        elif node.op in ("max_pool", "avg_pool", "resize", "broadcast", "add"):
            result[node.output] = result[node.inputs[0]]
        else:
            result[node.output] = tuple(range(graph.values[node.output].shape[1]))
    return result
