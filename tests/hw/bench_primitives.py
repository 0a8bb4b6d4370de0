"""Two descriptions of a block beside each other: equal in every cycle in which it is defined."""

import os

import cocotb
from cocotb.triggers import RisingEdge

from intaglio_sim.bfm import start_clock
from intaglio_sim.stimulus import bench_rng

SIZES = [int(size) for size in os.environ["SIZES"].split(",")]


def edge_value(rng, width: int) -> int:
    """Return random bits, in a quarter of the cases an extreme."""
    ends = [0, (1 << width) - 1, 1 << (width - 1), (1 << (width - 1)) - 1]
    return rng.choice(ends) if rng.random() < 0.25 else rng.getrandbits(width)


@cocotb.test(timeout_time=2, timeout_unit="ms", skip=os.environ["BLOCK"] != "multiplier")
@cocotb.parametrize(moving=[1.0, 0.6])
async def multipliers_agree(dut, moving):
    """Random factors; ``moving``: how often a register may move."""
    rng = bench_rng(f"multiplier {moving}")
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    checked, filled = 0, 0
    for _ in range(4000):
        dut.a.value = edge_value(rng, SIZES[0])
        dut.b.value = edge_value(rng, SIZES[1])
        enable = rng.random() < moving or filled == 0
        dut.enable.value = int(enable)
        dut.load.value = int(rng.random() < moving or filled == 0)
        await edge
        if filled > 3:
            assert dut.portable.value.is_resolvable
            assert int(dut.portable.value) == int(dut.block.value)
            checked += 1
        filled += enable
    assert checked > 3000


@cocotb.test(timeout_time=2, timeout_unit="ms", skip=os.environ["BLOCK"] != "ram")
@cocotb.parametrize(near=[0.0, 0.8])
async def memories_agree(dut, near):
    """Random writes and reads; with ``near``, mostly reads of the row written last. The power-up
    contents are read in the first run.
    """
    depth, width, granularity = SIZES
    rng = bench_rng(f"ram {near}")
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    last, checked, different = 0, 0, set()
    usable: list[bool] = []
    rows = [0, 1, depth // 2, depth - 2, depth - 1, *(rng.randrange(depth) for _ in range(16))]
    for _ in range(4000):
        write, enable = rng.choice(rows), edge_value(rng, width // granularity)
        read = last if rng.random() < near else rng.choice(rows)
        dut.write_addr.value = write
        dut.write_data.value = edge_value(rng, width)
        dut.write_en.value = enable
        dut.read_addr.value = read
        usable.append(not (read == write and enable))
        last = write
        await edge
        if len(usable) > 2 and usable.pop(0):
            assert dut.block.value.is_resolvable
            assert int(dut.portable.value) == int(dut.block.value), read
            different.add(int(dut.block.value))
            checked += 1
    assert checked > 2000 and len(different) > min(200, 2**width // 2)
