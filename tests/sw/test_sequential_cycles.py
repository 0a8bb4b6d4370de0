"""The cycle model of the sequential machine against the model of its engine, cycle by cycle."""

import random
from dataclasses import replace

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.spec import isa
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Unit, encode
from intaglio_sim.golden.cycle_sequential import in_order, sequential_flow
from intaglio_sim.golden.cycles import CycleModel
from intaglio_sim.random_graph import random_graph, random_input
from intaglio_sim.random_instruction import (
    instruction_work,
    random_array,
    random_load,
    random_store,
    random_vector,
)
from intaglio_sim.sequential import SequentialMachine

CONFIG = CONFIGS["sequential-8x1"]
MEMORY_BYTES = 16384
#: What a reading of the timer takes longer when its lower half runs out meanwhile.
CARRY_CYCLES = 12


@pytest.mark.parametrize(("latency", "interval"), [(20, 1), (5, 3)])
@pytest.mark.parametrize("kind", ["load", "store", "array", "MAX", "SUM", "RESIZE", "ARGMAX"])
def test_instructions(kind: str, latency: int, interval: int) -> None:
    """How long instructions run, alone and somewhere else than where the model has run them."""
    machine = SequentialMachine(CONFIG, latency=latency, interval=interval)
    flow = sequential_flow(CONFIG, latency, interval)
    compared = 0
    for seed in range(40):
        rng = random.Random(f"{kind} {seed}")
        if kind in ("load", "store"):
            name, fields = kind, (random_load if kind == "load" else random_store)(rng, CONFIG)
            if seed % 2:  # at the end of a page, or at its begin
                fields["address"] += 4096 - rng.choice([0, 8, 64, 128, 8 * rng.randint(0, 50)])
            fields["address"] -= fields["address"] % 8 if kind == "store" else 0
            if kind == "store":
                fields["row_step"] -= fields["row_step"] % 8
        elif kind == "array":
            name, fields = kind, random_array(rng, CONFIG)
            fields["blocks"] = rng.randint(1, 9)
        else:
            name, fields = "vector", random_vector(rng, CONFIG, kind)
        if instruction_work(name, fields) > 1000:
            continue
        values = {k: v for k, v in fields.items() if k not in ("opcode", "wait", "signal")}
        data = np.frombuffer(encode(name, values) + encode("end"), np.uint8)
        memory = np.zeros(MEMORY_BYTES, np.uint8)
        memory[-len(data) :] = data
        machine.start(memory, MEMORY_BYTES - len(data), 2)
        if not machine.finish().finished:
            continue
        start, done = (event[3] for event in machine.engine.trace)
        assert flow.cost(name, fields).run == done - start, f"seed {seed}: {name} {fields}"
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("seed", range(9))
def test_networks(seed: int) -> None:
    """All counters of compiled networks, and all starts and ends."""
    latency, interval = [(20, 1), (21, 2), (7, 3)][seed % 3]
    config = CONFIG if seed % 2 else replace(CONFIG, name="short", burst_beats=4)
    graph = random_graph(seed, layers=seed % 3, size=4 + seed % 5, channels=1 + seed, classes=9)
    program = compile_graph(graph, config)
    image = program.image(random_input(graph, seed)[0])
    timeline = CycleModel(config=config, memory_latency=latency, memory_interval=interval).run(
        program
    )
    machine = SequentialMachine(config, latency=latency, interval=interval)
    machine.start(image, program.program_base, program.length)
    run = machine.finish()
    assert run.finished
    carries = run.counters["cycles"] - timeline.cycles
    assert 0 <= carries <= CARRY_CYCLES * (run.counters["cycles"] >> 16)
    assert carries % CARRY_CYCLES == 0
    if not carries:
        assert dict(timeline.counters) == dict(run.counters)
        events = machine.engine.trace
        spans = [(span.index, span.end - span.start) for span in timeline.spans]
        assert spans == [
            (start[2], done[3] - start[3])
            for start, done in zip(events[::2], events[1::2], strict=True)
        ]
    assert sum(layer.share for layer in timeline.layers) <= timeline.cycles
    assert sum(layer.array_busy for layer in timeline.layers) == run.counters["array_busy"]


def test_an_instruction_that_waits_for_a_later_one() -> None:
    program = [
        encode("store", wait=1 << Unit.LOAD),
        encode("load", signal=1 << Unit.STORE),
        encode("end"),
    ]
    batches = isa.decode_all(np.frombuffer(b"".join(program), np.uint8))
    with pytest.raises(IntaglioError, match=r"instruction 0 \(store\) waits for an instruction be"):
        in_order(batches)
