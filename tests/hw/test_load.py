"""The load unit in both simulators."""

import pytest

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio_hw.load import LoadUnit
from intaglio_sim.runner import run_bench

SHAPES = {name: CONFIGS[name] for name in ("mini-8x8", "wide-16x8")} | {
    "wide-32x4": AcceleratorConfig(name="wide-32x4", R=32, K=4, ofm_depth=512, burst_beats=16)
}


@pytest.mark.parametrize(
    "config", ["mini-8x8", "wide-16x8", pytest.param("wide-32x4", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_load(simulator: str, config: str) -> None:
    result = run_bench(
        LoadUnit(config=SHAPES[config]),
        "bench_load",
        simulator=simulator,
        config=SHAPES[config],
    )
    assert len(result.tests) == 10
