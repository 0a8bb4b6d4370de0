"""Single layers: dilation costs nothing; the cycle model against the RTL over random ones."""

from functools import partial

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.spec.config import CONFIGS
from intaglio_sim import layer_bench
from intaglio_sim.fuzz import FUZZ_CONFIGS, draw_case
from intaglio_sim.golden.cycles import CycleModel
from intaglio_sim.layer_bench import conv_graph, measure
from intaglio_sim.random_graph import random_input
from intaglio_sim.system import run_program

#: Bounds of the cycle model's error: of a whole run, and of a layer that takes LONG cycles.
TOTAL, LAYER, LONG = 0.01, 0.03, 10_000


def test_a_layer_keeps_its_size():
    for dilation in (1, 2, 12, 36):
        graph = conv_graph(kernel=3, inputs=9, outputs=5, size=7, dilation=dilation)
        assert graph.values[graph.nodes[-1].output].shape == (1, 5, 7, 7)


@pytest.mark.parametrize("config", ["mini-8x8", "wide-16x8", "wide-8x16"])
def test_dilation_costs_nothing(config):
    """Within 2 % in the cycle model, although most taps lie in the padding at the end."""
    cycles = [
        measure(
            conv_graph(kernel=3, inputs=64, outputs=64, size=56, dilation=dilation),
            CONFIGS[config],
            None,
        ).predicted
        for dilation in (1, 2, 12, 36)
    ]
    assert max(cycles) <= 1.02 * min(cycles), cycles


def test_a_layer_in_the_rtl():
    graph = conv_graph(kernel=3, inputs=16, outputs=16, size=10, dilation=6)
    m = measure(graph, CONFIGS["tiny-8x8"], "icarus")
    assert m.macs == 9 * 16 * 16 * 100 and m.predicted == pytest.approx(m.cycles, rel=TOTAL)


def test_the_peers_table(tmp_path, monkeypatch):
    monkeypatch.setattr(
        layer_bench, "measure", lambda graph, config, simulator: measure(graph, config, None)
    )
    layer = {"kernel": 1, "inputs": 16, "outputs": 16, "size": 8, "dilation": 1}
    answer = {"multipliers": 64, "bus_bytes": 8, "macs": 16_384, "cycles": 512, "wrong": 0}
    path = tmp_path / "all.json"
    entry = '[{{"layer": {}, "beside": "mini-8x8", "sleep": 0, "answer": {}}}]'
    path.write_text(entry.format(layer, answer).replace("'", '"'))
    page = layer_bench._peer(path)
    assert "| NNgen 1.3 | 64 | 8 | 512 | 50.0 % |" in page and page.count("mini-8x8") == 1
    path.write_text(entry.format(layer, {**answer, "wrong": 3}).replace("'", '"'))
    with pytest.raises(Exception, match="NNgen: 3 wrong outputs in 1x1"):
        layer_bench._peer(path)
    path.write_text(entry.format(layer, {"refused": "TypeError: no"}).replace("'", '"'))
    assert "refused: `TypeError: no`" in layer_bench._peer(path)


def layer_errors(seed: int, simulator: str, configs: list[str] | None) -> tuple[float, float]:
    """Return the model's error of the total, and the largest of a long layer, of a random case."""
    case = draw_case(seed, simulator=simulator, configs=configs)
    config, graph = FUZZ_CONFIGS[case.config], case.graph()
    program = compile_graph(graph, config)
    timeline = CycleModel(
        config=config, memory_latency=case.latency, memory_interval=case.interval
    ).run(program)
    run = run_program(
        program,
        program.image(random_input(graph, case.seed)[0]),
        config,
        simulator,
        latency=case.latency,
        interval=case.interval,
        memory_base=case.memory_base,
        trace=True,
    )
    assert run.finished, case
    layers = np.array([list(program.layers).index(name) for name in program.layers])
    worst = 0.0
    for layer in timeline.layers:
        first = list(program.layers).index(layer.name)
        cycles = [e.cycle for e in run.trace if layers[e.index] == first]
        taken = max(cycles) - min(cycles) + 1
        if taken > LONG:
            worst = max(worst, abs(layer.cycles - taken) / taken)
    measured = run.counters["cycles"]
    return abs(timeline.cycles - measured) / measured, worst


@pytest.mark.parametrize("seed", [4, 33, 61])
def test_the_cycle_model_on_random_layers(seed):
    total, layer = layer_errors(seed, "icarus", ["tiny-8x8"])
    assert total <= TOTAL and layer <= LAYER


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_the_cycle_model_on_many_random_layers():
    errors = list(map(partial(layer_errors, simulator="verilator", configs=None), range(200)))
    assert max(total for total, _ in errors) <= TOTAL
    assert max(layer for _, layer in errors) <= LAYER
