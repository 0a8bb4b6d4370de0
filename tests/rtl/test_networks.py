"""Compiled networks on the RTL: every byte of the memory as the golden machine leaves it."""

import itertools

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.spec.config import CONFIGS
from intaglio.spec.graph import Graph
from intaglio.spec.isa import Error, Unit, opcode_of
from intaglio.spec.program import Placement, read_value
from intaglio_sim.diff import Region, compare_layers
from intaglio_sim.golden import GoldenMachine
from intaglio_sim.random_graph import random_graph, random_input
from intaglio_sim.system import check_memory

#: Memory: none, little and much delay; pauses; not at zero.
FAST = {"latency": 2}
SLOW = {"latency": 60, "interval": 3, "stalls": 30, "seed": 9, "memory_base": 0x1000_0000}


def region(placement: Placement, vector_bytes: int) -> Region:
    channels, rows, columns = placement.shape
    blocks = placement.layout == "blocks"
    return Region(
        name=placement.name,
        offset=placement.address,
        length=placement.nbytes(vector_bytes),
        vector_bytes=vector_bytes if blocks else 0,
        rows=rows if blocks else 0,
        columns=columns if blocks else 0,
    )


def run_network(
    simulator: str, config_name: str, seed: int, options: dict, **drawn: int
) -> set[str]:
    """Check one random network; return its operations."""
    graph = random_graph(seed, **drawn)
    return check_network(simulator, config_name, graph, random_input(graph, seed), options)


def check_network(
    simulator: str, config_name: str, graph: Graph, x: np.ndarray, options: dict
) -> set[str]:
    """Run ``graph`` on the images ``x``, of which the first counts; return its operations."""
    config = CONFIGS[config_name]
    program = compile_graph(graph, config)
    memory = program.image(x[0])
    expected = memory.copy()
    assert GoldenMachine(config).run_program(program, expected).error == Error.NONE
    result = check_memory(
        program,
        memory,
        expected,
        config,
        simulator,
        regions=[region(program.values[node.output], config.R) for node in graph.nodes],
        trace=True,
        timeout_s=600,
        optimize="-O1",
        **options,
    )
    # The oracle that the hardware's tables are not part of: the graph itself.
    found = {
        name: read_value(result.memory, placement, config.R)
        for name, placement in program.values.items()
    }
    reference = {name: array[0] for name, array in graph.evaluate(x).items()}
    assert compare_layers({name: reference[name] for name in found}, found) is None

    # Every instruction starts once and ends once, each unit in the order of the program.
    units = {unit: [] for unit in Unit}
    for index in range(program.length - 1):
        units[opcode_of(program.instruction(index)).unit].append(index)
    for unit, kind in itertools.product(Unit, ("start", "done")):
        events = [e for e in result.trace if e.unit == unit and e.kind == kind]
        assert [e.index for e in events] == units[unit]
        assert all(a.cycle <= b.cycle for a, b in itertools.pairwise(events))
    assert result.counters["instructions"] == program.length - 1
    last = max(e.cycle for e in result.trace)
    assert last <= result.counters["cycles"] < last + 200
    stored = result.counters["write_beats"]
    assert stored > 0 and np.count_nonzero(memory != result.memory) <= stored * config.R
    return {node.op for node in graph.nodes}


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_networks(simulator):
    operations = run_network(simulator, "tiny-8x8", 1, FAST)
    operations |= run_network(simulator, "tiny-8x8", 4, SLOW)
    assert {"conv", "max_pool", "avg_pool", "resize", "broadcast", "argmax", "add"} <= operations


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_more_classes_than_a_byte_names(simulator):
    run_network(simulator, "tiny-8x8", 1, FAST, layers=0, size=8, classes=400)


@pytest.mark.parametrize("config", ["tiny-8x8", "narrow-8x4", "small-8x4"])
def test_a_convolution_of_one_pixel(config):
    """The pooled branch of DeepLab: chunks of one beat, whose parameters few lanes have early."""
    pytest.importorskip("torch")
    from intaglio.cli.networks import random_network

    _, graph = random_network("deeplab-mini", (16, 24), "1/8", 5)
    check_network("verilator", config, graph, random_input(graph, 1), FAST)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("config", ["tiny-8x8", "narrow-8x4", "wide-16x8"])
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_more_networks(simulator, config, seed):
    run_network(simulator, config, seed, [FAST, SLOW][seed % 2])


@pytest.mark.slow
@pytest.mark.parametrize("config", list(CONFIGS))
def test_many_networks(config):
    for seed in range(10, 22):
        run_network("verilator", config, seed, [FAST, {}, SLOW][seed % 3])
