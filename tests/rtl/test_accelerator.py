"""The accelerator on its two buses."""

from pathlib import Path

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_sim.runner import config_environment, run_verilog
from intaglio_sim.system import accelerator_verilog


@pytest.mark.parametrize(
    "config", ["narrow-8x4", pytest.param("wide-16x8", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_accelerator(simulator, config):
    run_verilog(
        sources=[accelerator_verilog(CONFIGS[config])],
        toplevel="accelerator",
        bench="bench_accelerator",
        bench_dir=Path(__file__).parent,
        simulator=simulator,
        label=f"accelerator-{config}",
        env=config_environment(CONFIGS[config]),
        timeout_s=800,
    )
