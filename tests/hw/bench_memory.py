"""Scratchpad against an array: byte enables, latency, the first cycle that sees a write."""

import os

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from intaglio_hw.interfaces import READ_LATENCY
from intaglio_sim.bfm import start_clock
from intaglio_sim.stimulus import bench_rng

DEPTH, WIDTH, GRANULARITY = (int(os.environ[name]) for name in ("DEPTH", "WIDTH", "GRANULARITY"))


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(near=[0.0, 0.8])
async def matches_array(dut, near):
    """Random writes and reads every cycle; with ``near``, mostly reads of the row written last."""
    rng = bench_rng(f"memory {near}")
    parts = WIDTH // GRANULARITY
    ones = (1 << GRANULARITY) - 1
    rows = np.zeros((DEPTH, parts), object)
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    # Power-up contents in the first run, those of the run before in the second.
    due: list[tuple[int, int] | None] = []
    checked, last = 0, 0
    known = near == 0.0
    fill = [] if known else list(range(DEPTH))
    for _ in range(2000):
        write = fill.pop() if fill else rng.choice([0, DEPTH - 1, rng.randrange(DEPTH)])
        enable = (1 << parts) - 1 if fill or not known else rng.getrandbits(parts)
        known |= not fill
        value = rng.getrandbits(WIDTH)
        read = last if rng.random() < near else rng.randrange(DEPTH)
        dut.write__addr.value = write
        dut.write__data.value = value
        dut.write__en.value = enable
        dut.read__addr.value = read
        expected = sum(int(rows[read, i]) << (i * GRANULARITY) for i in range(parts))
        usable = known and not (read == write and enable)
        due.append((read, expected) if usable else None)
        for i in range(parts):
            if enable >> i & 1:
                rows[write, i] = value >> (i * GRANULARITY) & ones
        last = write
        await edge
        if len(due) > READ_LATENCY:
            item = due.pop(0)
            if item is not None:
                assert int(dut.read__data.value) == item[1], item
                checked += 1
    assert checked > 1000
