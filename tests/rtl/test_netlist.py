"""The accelerator after synthesis: every kind of layer and a network, to the byte as the golden
machine leaves the memory.
"""

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Error
from intaglio_sim import netlist
from intaglio_sim.golden import GoldenMachine
from intaglio_sim.random_graph import random_graph, random_input
from intaglio_sim.system import check_memory

pytestmark = [pytest.mark.synth, pytest.mark.rtl]
#: Family -> the smallest machine; a netlist of units takes a minute to make and two to compile.
MACHINES = {
    "ecp5": CONFIGS["least-8x1"],
    "gowin": CONFIGS["least-8x1"],
    "ice40": CONFIGS["sequential-8x1"],
}
#: Random networks that have every operation between them.
SEEDS = (2, 3, 5)
OPERATIONS = {
    "conv", "conv_transpose", "max_pool", "avg_pool", "broadcast", "resize", "add", "concat",
    "argmax",
}  # fmt: skip


def check(family, graph, x, **memory):
    config = MACHINES[family]
    program = compile_graph(graph, config)
    image = program.image(x)
    expected = image.copy()
    assert GoldenMachine(config).run_program(program, expected).error == Error.NONE
    result = check_memory(
        program,
        image,
        expected,
        config,
        "verilator",
        circuit=netlist.netlist_sources(config, family=family),
        optimize="-O1",
        **memory,
    )
    assert np.count_nonzero(image != result.memory)


def test_needs_yosys(monkeypatch):
    def missing(name):
        raise netlist.PackageNotFoundError(name)

    monkeypatch.setattr(netlist, "version", missing)
    with pytest.raises(IntaglioError, match="pyosys is not installed"):
        netlist.netlist_sources(MACHINES["ecp5"])


def test_other_families_are_refused():
    with pytest.raises(ValueError, match="family must be one of ecp5, ice40, gowin, not 'xc7'"):
        netlist.netlist_sources(MACHINES["ecp5"], family="xc7")


def test_layers_on_the_smallest_chip():
    """The netlist that takes seconds; the others are slow."""
    graph = random_graph(SEEDS[0], size=12)
    check("ice40", graph, random_input(graph, SEEDS[0])[0], latency=7, stalls=20, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", MACHINES)
def test_layers_of_every_kind(family):
    operations = set()
    for seed in SEEDS:
        graph = random_graph(seed, size=12)
        check(family, graph, random_input(graph, seed)[0], latency=7, stalls=20, seed=seed)
        operations |= {node.op for node in graph.nodes}
    assert operations == OPERATIONS


@pytest.mark.slow
@pytest.mark.parametrize("family", MACHINES)
def test_a_network(family):
    torch = pytest.importorskip("torch")
    from intaglio.nn.inference import to_graph
    from intaglio.nn.models import build, calibrate

    model = build("deeplab-mini", classes=11, width="1/2", seed=1)
    images = torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    calibrate(model, images)
    model.eval()
    graph = to_graph(model, height=16, width=16)
    check(family, graph, random_input(graph, 1)[0])
