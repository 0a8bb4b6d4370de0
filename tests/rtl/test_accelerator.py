"""The accelerator on its two buses."""

from pathlib import Path

import pytest

from intaglio_sim.fuzz import FUZZ_CONFIGS, SEQUENTIAL
from intaglio_sim.runner import config_environment, run_verilog
from intaglio_sim.system import accelerator_verilog


@pytest.mark.parametrize(
    "config",
    [
        "narrow-8x4",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("wide-16x8", SEQUENTIAL.name)),
    ],
)
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_accelerator(simulator, config):
    run_verilog(
        sources=[accelerator_verilog(FUZZ_CONFIGS[config])],
        toplevel="accelerator",
        bench="bench_accelerator",
        bench_dir=Path(__file__).parent,
        simulator=simulator,
        label=f"accelerator-{config}",
        env=config_environment(FUZZ_CONFIGS[config]),
        timeout_s=800,
    )
