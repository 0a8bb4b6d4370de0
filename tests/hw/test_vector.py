"""The vector unit in both simulators, with K equal to, below and above the lanes of a vector."""

import dataclasses

import pytest

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio_hw.vector import VectorUnit
from intaglio_sim.runner import run_bench

# As many lanes as in a vector: a channel block is one chunk.
WIDEST = dataclasses.replace(CONFIGS["wide-16x8"], name="wide-16x16", K=16, drain_lanes=16)


@pytest.mark.parametrize(
    "config",
    [*(CONFIGS[name] for name in ("mini-8x8", "narrow-8x4", "wide-16x8")), WIDEST],
    ids=lambda config: config.name,
)
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_vector(simulator: str, config: AcceleratorConfig) -> None:
    result = run_bench(
        VectorUnit(config=config),
        "bench_vector",
        simulator=simulator,
        config=config,
        seed=3,
        timeout_s=840,
    )
    assert len(result.tests) == 10
