"""The array unit in both simulators, with different numbers of lanes on its two sides."""

import dataclasses

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.array import ArrayUnit
from intaglio_sim.runner import run_bench


def _config(base, /, **changes):
    return dataclasses.replace(CONFIGS[base], **changes)


# Simulators of the default tier, configuration. Icarus takes minutes for eight lanes.
CASES = [
    (["verilator"], CONFIGS["tiny-8x8"]),
    (["icarus", "verilator"], CONFIGS["narrow-8x4"]),
    ([], _config("narrow-8x4", multiplier="logic")),
    ([], _config("wide-16x8", acc_depth=64)),
    ([], _config("narrow-8x4", K=1, drain_lanes=1)),
    ([], _config("wide-16x8", name="wide-16x16", K=16, acc_depth=128)),
]


@pytest.mark.parametrize(
    ("config", "simulator"),
    [
        pytest.param(
            config,
            simulator,
            id=f"{config.name}-{config.R}x{config.K}-{config.multiplier}-{simulator}",
            marks=[] if simulator in default else pytest.mark.slow,
        )
        for default, config in CASES
        for simulator in ("icarus", "verilator")
    ],
)
def test_array(config, simulator):
    run_bench(ArrayUnit(config=config), "bench_array", simulator=simulator, config=config, seed=11)
