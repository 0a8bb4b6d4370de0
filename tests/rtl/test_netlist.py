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
#: The smallest one: its netlist takes a minute to make and two to compile.
CONFIG = CONFIGS["least-8x1"]
#: Random networks that have every operation between them.
SEEDS = (2, 3, 5)
OPERATIONS = {
    "conv", "conv_transpose", "max_pool", "avg_pool", "broadcast", "resize", "add", "concat",
    "argmax",
}  # fmt: skip


def check(graph, x, **memory):
    program = compile_graph(graph, CONFIG)
    image = program.image(x)
    expected = image.copy()
    assert GoldenMachine(CONFIG).run_program(program, expected).error == Error.NONE
    result = check_memory(
        program,
        image,
        expected,
        CONFIG,
        "verilator",
        circuit=netlist.netlist_sources(CONFIG),
        optimize="-O1",
        **memory,
    )
    assert np.count_nonzero(image != result.memory)


def test_needs_yosys(monkeypatch):
    def missing(name):
        raise netlist.PackageNotFoundError(name)

    monkeypatch.setattr(netlist, "version", missing)
    with pytest.raises(IntaglioError, match="pyosys is not installed"):
        netlist.netlist_sources(CONFIG)


@pytest.mark.slow
def test_layers_of_every_kind():
    operations = set()
    for seed in SEEDS:
        graph = random_graph(seed, size=12)
        check(graph, random_input(graph, seed)[0], latency=7, stalls=20, seed=seed)
        operations |= {node.op for node in graph.nodes}
    assert operations == OPERATIONS


@pytest.mark.slow
def test_a_network():
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
    check(graph, random_input(graph, 1)[0])
