"""Accumulator at its full rate: wrapping sums, shortest distances, a reader of the other bank."""

import os

import cocotb
from cocotb.triggers import RisingEdge

from intaglio.spec.arith import wrap
from intaglio_hw.accumulator import ACCUMULATOR_BITS, Accumulator, access_layout
from intaglio_sim.bfm import pack, start_clock
from intaglio_sim.stimulus import bench_rng, edges

DEPTH, SUM_WIDTH = int(os.environ["DEPTH"]), int(os.environ["SUM_WIDTH"])
LAYOUT = access_layout(DEPTH)
IDLE = {"addr": 0, "bank": 0, "enable": 0}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def matches_sums(dut):
    """An update in nearly every cycle, the drain port always on a bank that is not being read."""
    rng = bench_rng("accumulator")
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    model = {(bank, addr): 0 for bank in range(2) for addr in range(DEPTH)}
    fresh = set(model)  # not written yet: start from zero
    last_used: dict[tuple[int, int], int] = {}
    due: dict[int, int] = {}
    sums, writes = {}, {}
    wrapped = checked = 0
    low, high = -(1 << (SUM_WIDTH - 1)), (1 << (SUM_WIDTH - 1)) - 1
    cycles = 3000
    for cycle in range(cycles):
        bank = cycle // 97 % 2
        place = (bank, rng.randrange(min(DEPTH, 8)))
        read = IDLE | {"bank": bank}
        if cycle - last_used.get(place, -100) >= Accumulator.LATENCY and rng.random() < 0.9:
            last_used[place] = cycle
            add = place not in fresh and rng.random() < 0.97
            fresh.discard(place)
            value = rng.choice([*edges(SUM_WIDTH), rng.randint(low, high), high, high, low])
            total = (model[place] if add else 0) + value
            model[place] = wrap(total, ACCUMULATOR_BITS)
            wrapped += model[place] != total
            read = {"addr": place[1], "bank": bank, "enable": int(add)}
            sums[cycle + Accumulator.SUM_CYCLE] = value
            writes[cycle + Accumulator.WRITE_CYCLE] = read | {"enable": 1}
        other = (1 - bank, rng.randrange(min(DEPTH, 8)))
        settled = cycle - last_used.get(other, -100) >= Accumulator.LATENCY
        if settled and other not in fresh:
            due[cycle + Accumulator.SUM_CYCLE] = model[other]
        dut.read.value = pack(LAYOUT, read)
        junk = rng.randint(low, high)
        dut.sum.value = sums.pop(cycle, junk) & ((1 << SUM_WIDTH) - 1)
        dut.write.value = pack(LAYOUT, writes.pop(cycle, IDLE))
        dut.drain__addr.value = other[0] * DEPTH + other[1]
        await edge
        if cycle in due:
            assert wrap(int(dut.drain__data.value), ACCUMULATOR_BITS) == due.pop(cycle), cycle
            checked += 1
    assert checked > cycles // 2
    assert wrapped > 10 or SUM_WIDTH < ACCUMULATOR_BITS
