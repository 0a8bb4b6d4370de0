"""The load unit in both simulators."""

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.load import LoadUnit
from intaglio_sim.runner import run_bench


@pytest.mark.parametrize("config", ["mini-8x8", "wide-16x8"])
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_load(simulator: str, config: str) -> None:
    result = run_bench(
        LoadUnit(config=CONFIGS[config]),
        "bench_load",
        simulator=simulator,
        config=CONFIGS[config],
    )
    assert len(result.tests) == 10
