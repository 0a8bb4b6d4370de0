"""Drives toy.v; what the models and the runner must notice is selected by the environment."""

import os

import cocotb
from cocotb.triggers import RisingEdge, Timer

from intaglio_sim.bfm import StreamDriver, StreamMonitor, start_clock
from intaglio_sim.scoreboard import Scoreboard


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(feed=[1.0, 0.5], drain=[1.0, 0.3])
async def passes_items(dut, feed, drain):
    dut.fault.value = int(os.environ.get("TOY_FAULT", "0"))
    items = [i % 256 for i in range(400)]
    board = Scoreboard(items)
    driver = StreamDriver(dut, "i", rate=feed)
    driver.extend(items)
    monitor = StreamMonitor(dut, "o", rate=drain, on_item=board.check)
    await start_clock(dut)
    while not board.done:
        await RisingEdge(dut.clk)
    board.assert_drained(len(items))
    assert driver.sent == monitor.count == len(items)
    assert driver.pending == 0


@cocotb.test(skip=os.environ.get("TOY_HANG") is None)
async def hangs(dut):
    while True:
        await Timer(1, "ns")


@cocotb.test(skip=os.environ.get("TOY_DIE") is None)
async def dies(dut):
    os._exit(3)
