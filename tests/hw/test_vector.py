"""The vector unit in both simulators, with K equal to, below and above the lanes of a vector."""

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.vector import VectorUnit
from intaglio_sim.runner import run_bench


@pytest.mark.parametrize("config", ["mini-8x8", "narrow-8x4", "wide-16x8"])
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_vector(simulator: str, config: str) -> None:
    result = run_bench(
        VectorUnit(config=CONFIGS[config]),
        "bench_vector",
        simulator=simulator,
        config=CONFIGS[config],
        seed=3,
        timeout_s=840,
    )
    assert len(result.tests) == 9
