"""The requantiser in both simulators."""

import pytest

from intaglio_hw.requantizer import Requantizer
from intaglio_sim.runner import run_bench


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_requantizer(simulator: str, lanes: int) -> None:
    result = run_bench(
        Requantizer(lanes=lanes), "bench_requantizer", simulator=simulator, env={"LANES": lanes}
    )
    assert len(result.tests) == 4


def test_lanes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="lanes must be at least 1, not 0"):
        Requantizer(lanes=0)
