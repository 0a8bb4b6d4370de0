"""The memory model of the system test bench."""

from pathlib import Path

import pytest

import intaglio_sim
from intaglio_sim.runner import run_verilog

VERILOG = Path(intaglio_sim.__file__).parent / "verilog"


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_memory_model(simulator):
    result = run_verilog(
        sources=[VERILOG / "memory_model.v"],
        toplevel="memory_model",
        parameters={"R": 8, "BEATS": 512},
        bench="bench_memory_model",
        bench_dir=Path(__file__).parent,
        simulator=simulator,
        label="memory_model",
        timeout_s=120,
    )
    assert len(result.tests) == 8 + 1 + 3 + 2
