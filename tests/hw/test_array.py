"""The array unit in both simulators, with different numbers of lanes on its two sides."""

import dataclasses

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.array import ArrayUnit
from intaglio_sim.runner import run_bench

SIMULATORS = ["icarus", "verilator"]


def _config(base, /, **changes):
    return dataclasses.replace(CONFIGS[base], **changes)


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize(
    "config",
    [
        CONFIGS["tiny-8x8"],
        CONFIGS["narrow-8x4"],
        pytest.param(_config("narrow-8x4", multiplier="logic"), marks=pytest.mark.slow),
        pytest.param(_config("wide-16x8", acc_depth=64), marks=pytest.mark.slow),
        pytest.param(_config("narrow-8x4", K=1, drain_lanes=1), marks=pytest.mark.slow),
        pytest.param(
            _config("wide-16x8", name="wide-16x16", K=16, acc_depth=128), marks=pytest.mark.slow
        ),
    ],
    ids=lambda config: f"{config.name}-{config.R}x{config.K}-{config.multiplier}",
)
def test_array(config, simulator):
    run_bench(ArrayUnit(config=config), "bench_array", simulator=simulator, config=config, seed=11)
