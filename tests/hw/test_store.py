"""The store unit in both simulators."""

import pytest

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio_hw.store import StoreUnit
from intaglio_sim.runner import run_bench

SHAPES = {name: CONFIGS[name] for name in ("mini-8x8", "wide-16x8")} | {
    "wide-32x4": AcceleratorConfig(name="wide-32x4", R=32, K=4, ofm_depth=512, burst_beats=16)
}


@pytest.mark.parametrize(
    "config", ["mini-8x8", "wide-16x8", pytest.param("wide-32x4", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_store(simulator: str, config: str) -> None:
    result = run_bench(
        StoreUnit(config=SHAPES[config]),
        "bench_store",
        simulator=simulator,
        config=SHAPES[config],
    )
    assert len(result.tests) == 8
