"""The sequencer in both simulators, for wide and narrow buses."""

import pytest

from intaglio.spec import isa
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio_hw.fetch import Decoder, Fetch
from intaglio_hw.sequencer import UNIT_INSTRUCTIONS, Sequencer
from intaglio_sim.runner import run_bench

SIMULATORS = ["icarus", "verilator"]
#: An instruction in eight beats of one burst; in two beats and bursts, with the shortest queues.
SEQUENCER_CONFIGS = [
    CONFIGS["mini-8x8"],
    AcceleratorConfig(name="short-32x4", R=32, K=4, queue_depth=2, burst_beats=1),
]


@pytest.mark.rtl
@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("config", SEQUENCER_CONFIGS, ids=lambda config: config.name)
def test_sequencer(config, simulator):
    result = run_bench(
        Sequencer(config=config), bench="bench_sequencer", simulator=simulator, config=config
    )
    assert len(result.tests) == 14


def test_every_unit_has_its_instruction():
    assert {unit: item.unit for unit, item in UNIT_INSTRUCTIONS.items()} == {
        unit: unit for unit in isa.UNITS
    }
    assert len(UNIT_INSTRUCTIONS) + 1 == len(isa.INSTRUCTIONS)  # and `end`


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda config: config.name)
def test_prefetch_is_whole_instructions(config):
    assert isa.INSTRUCTION_BYTES % config.bus_bytes == 0
    assert Fetch.PREFETCH >= 2 and Decoder.LATENCY >= 1
