"""The vector unit in both simulators, with K equal to, below and above the lanes of a vector."""

from collections.abc import Iterator
from typing import Any

import pytest

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio_hw.vector import VectorUnit
from intaglio_sim.runner import run_bench

# wide-16x16 has as many lanes as a vector: a channel block is one chunk. With few lanes, two in
# narrow-8x4 and one in small-8x4, the parameters are there before the set-up is over.
NAMES = ("mini-8x8", "narrow-8x4", "small-8x4", "wide-16x8", "wide-8x16", "wide-16x16")


def _cases() -> Iterator[Any]:
    slow = [pytest.mark.slow]
    for name in NAMES:
        yield pytest.param("verilator", CONFIGS[name], id=f"verilator-{name}")
        marks = [] if name == "mini-8x8" else slow
        yield pytest.param("icarus", CONFIGS[name], id=f"icarus-{name}", marks=marks)


@pytest.mark.parametrize(("simulator", "config"), list(_cases()))
def test_vector(simulator: str, config: AcceleratorConfig) -> None:
    result = run_bench(
        VectorUnit(config=config),
        "bench_vector",
        simulator=simulator,
        config=config,
        seed=3,
        timeout_s=840,
    )
    assert len(result.tests) == 11
