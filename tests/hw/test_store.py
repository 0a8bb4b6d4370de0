"""The store unit in both simulators."""

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.store import StoreUnit
from intaglio_sim.runner import run_bench


@pytest.mark.parametrize("config", ["mini-8x8", "wide-16x8"])
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_store(simulator: str, config: str) -> None:
    result = run_bench(
        StoreUnit(config=CONFIGS[config]),
        "bench_store",
        simulator=simulator,
        config=CONFIGS[config],
    )
    assert len(result.tests) == 8
