"""The memory side of the units in both simulators."""

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.axi import AxiReadArbiter, RowBursts, RowWalker
from intaglio_sim.runner import run_bench

SIMULATORS = ["icarus", "verilator"]
NAMES = ["mini-8x8", "wide-16x8"]


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_row_walker(simulator: str) -> None:
    config = CONFIGS["mini-8x8"]
    result = run_bench(
        RowWalker(), "bench_axi", simulator=simulator, config=config, tests="walker_"
    )
    assert len(result.tests) == 3


@pytest.mark.parametrize("config", NAMES)
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_row_bursts(simulator: str, config: str) -> None:
    component = RowBursts(config=CONFIGS[config])
    result = run_bench(
        component, "bench_axi", simulator=simulator, config=CONFIGS[config], tests="bursts_"
    )
    assert len(result.tests) == 6


@pytest.mark.parametrize("config", NAMES)
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_read_arbiter(simulator: str, config: str) -> None:
    component = AxiReadArbiter(config=CONFIGS[config], max_outstanding=8)
    result = run_bench(
        component, "bench_axi", simulator=simulator, config=CONFIGS[config], tests="arbiter_"
    )
    assert len(result.tests) == 5
