"""Bench of the buffers between streams; the component under test is named by LATENCY and DEPTH."""

import os

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from intaglio_sim.bfm import StreamDriver, StreamMonitor, start_clock
from intaglio_sim.scoreboard import Scoreboard
from intaglio_sim.stimulus import bench_rng, integers

LATENCY = int(os.environ["LATENCY"])
DEPTH = int(os.environ["DEPTH"])
WIDTH = 12


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(feed=[1.0, 0.5, 0.1], drain=[1.0, 0.5, 0.1])
async def keeps_all_in_order(dut, feed, drain):
    """Nothing is lost, repeated or reordered, whoever stalls."""
    rng = bench_rng(f"order {feed} {drain}")
    items = integers(rng, 200, bits=WIDTH, signed=False)
    board = Scoreboard(items)
    driver = StreamDriver(dut, "i", rate=feed)
    StreamMonitor(dut, "o", rate=drain, on_item=board.check)
    await start_clock(dut)
    driver.extend(items)
    while not board.done:
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, 20)  # more would be too many
    board.assert_drained(len(items))


@cocotb.test(timeout_time=10, timeout_unit="us")
async def latency_and_rate(dut):
    """One payload per cycle, the first one LATENCY cycles after it went in."""
    seen = []
    driver = StreamDriver(dut, "i")
    StreamMonitor(dut, "o", on_item=seen.append)
    await start_clock(dut)
    driver.extend(range(100))
    entered, left = [], []
    for cycle in range(150):
        await RisingEdge(dut.clk)
        if int(dut.i__valid.value) and int(dut.i__ready.value):
            entered.append(cycle)
        if int(dut.o__valid.value) and int(dut.o__ready.value):
            left.append(cycle)
    assert seen == list(range(100))
    assert entered == list(range(entered[0], entered[0] + 100))
    assert left == [cycle + LATENCY for cycle in entered]


@cocotb.test(timeout_time=10, timeout_unit="us")
async def holds_its_depth(dut):
    """With a target that takes nothing it fills up to DEPTH, keeps them, and gives them all."""
    seen = []
    driver = StreamDriver(dut, "i")
    monitor = StreamMonitor(dut, "o", rate=0.0, on_item=seen.append)
    await start_clock(dut)
    driver.extend(range(10, 110))
    await ClockCycles(dut.clk, 200)
    assert driver.sent == DEPTH
    assert seen == []
    if hasattr(dut, "empty"):
        assert not int(dut.empty.value)
    monitor.rate = 1.0
    await ClockCycles(dut.clk, 110 + LATENCY)
    assert seen == list(range(10, 110))
    if hasattr(dut, "empty"):
        assert int(dut.empty.value)
