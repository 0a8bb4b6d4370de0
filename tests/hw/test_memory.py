"""Scratchpads, accumulators and multipliers in both simulators."""

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_hw.accumulator import Accumulator
from intaglio_hw.lane import Lane, Multiplier
from intaglio_hw.memory import Scratchpad
from intaglio_sim.runner import run_bench

SIMULATORS = ["icarus", "verilator"]


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize(("depth", "width", "granularity"), [(16, 64, 8), (64, 32, 32)])
def test_scratchpad(depth, width, granularity, simulator):
    run_bench(
        Scratchpad(depth=depth, width=width, granularity=granularity),
        "bench_memory",
        simulator=simulator,
        env={"DEPTH": depth, "WIDTH": width, "GRANULARITY": granularity},
    )


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("sum_width", [19, 32])
def test_accumulator(sum_width, simulator):
    run_bench(
        Accumulator(depth=16, sum_width=sum_width),
        "bench_accumulator",
        simulator=simulator,
        env={"DEPTH": 16, "SUM_WIDTH": sum_width},
    )


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("kind", ["dsp", "logic"])
def test_multiplier(kind, simulator):
    run_bench(Multiplier(kind=kind), "bench_multiplier", simulator=simulator)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="depth must be a power of two of at least 2, not 24"):
        Scratchpad(depth=24, width=8)
    with pytest.raises(ValueError, match="granularity must divide the width 12, not 8"):
        Scratchpad(depth=16, width=12, granularity=8)
    with pytest.raises(ValueError, match=r"sum_width must be in \[17, 32\], not 33"):
        Accumulator(depth=16, sum_width=33)
    with pytest.raises(ValueError, match="kind must be 'dsp' or 'logic', not 'lut'"):
        Multiplier(kind="lut")
    with pytest.raises(ValueError, match=r"index must be in \[0, 3\], not 4"):
        Lane(config=CONFIGS["narrow-8x4"], index=4)
