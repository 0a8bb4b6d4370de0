"""The requantiser against ``spec.arith.requantize``, with stalls on both sides."""

import os
import random

import cocotb
from amaranth.hdl import signed
from amaranth.lib import data
from cocotb.triggers import ClockCycles, RisingEdge

from intaglio.spec.arith import RESIDUAL_SHIFT_MAX, SHIFT_MAX, requantize
from intaglio_hw.requantizer import Requantizer, requantizer_layout
from intaglio_sim.bfm import StreamDriver, StreamMonitor, start_clock
from intaglio_sim.scoreboard import Scoreboard
from intaglio_sim.stimulus import bench_rng, integer, integers

LANES = int(os.environ["LANES"])
INPUT = requantizer_layout(LANES)
OUTPUT = data.ArrayLayout(signed(8), LANES)


def random_item(rng: random.Random) -> dict:
    item = {
        "value": integers(rng, LANES, bits=32),
        "multiplier": integers(rng, LANES, bits=16),
        "bias": integers(rng, LANES, bits=48),
        "residual": integers(rng, LANES, bits=8),
        "residual_shift": integer(rng, 0, RESIDUAL_SHIFT_MAX),
        "shift": integer(rng, 0, SHIFT_MAX),
        "low": integer(rng, -128, 127),
        "high": integer(rng, -128, 127),
    }
    kind = rng.randrange(4)
    if kind == 0:
        item |= {"low": -128, "high": 127}
        item["shift"] = rng.randint(38, SHIFT_MAX)
    if kind == 1:
        tie(rng, item)
    return item


def tie(rng: random.Random, item: dict, distances=(-1, 0, 0, 1)) -> None:
    """Choose the biases so that the sums are at, or one beside, a tie between two codes."""
    shift = item["shift"]
    item |= {"low": -128, "high": 127, "residual_shift": min(item["residual_shift"], 36)}
    for j in range(LANES):
        item["value"][j] >>= 3
        rest = item["value"][j] * item["multiplier"][j]
        rest += item["residual"][j] << item["residual_shift"]
        half = (1 << shift) >> 1
        # One code beyond the range on both sides, as far as 48 bits hold the bias.
        target = (rng.randint(-130, 129) << shift) + half + rng.choice(distances)
        item["bias"][j] = max(-(1 << 47), min((1 << 47) - 1, target - rest))


def expected(item: dict) -> list[int]:
    return [
        requantize(
            item["value"][j], item["multiplier"][j], item["bias"][j], item["shift"],
            residual=item["residual"][j], residual_shift=item["residual_shift"],
            low=item["low"], high=item["high"],
        )
        for j in range(LANES)
    ]  # fmt: skip


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(feed=[1.0, 0.5], drain=[1.0, 0.3])
async def matches_spec(dut, feed, drain):
    rng = bench_rng(f"{feed} {drain}")
    items = [random_item(rng) for _ in range(300)]
    board = Scoreboard(map(expected, items), name="vector")
    await start_clock(dut)
    driver = StreamDriver(dut, "i", INPUT, rate=feed)
    monitor = StreamMonitor(dut, "o", OUTPUT, rate=drain, on_item=board.check)
    driver.extend(items)
    await monitor.wait_for(len(items))
    await ClockCycles(dut.clk, 2 * Requantizer.LATENCY)
    board.assert_drained(len(items))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_shift(dut):
    """Ties and extreme sums for each shift, and each residual shift."""
    rng = bench_rng("shifts")
    items = []
    for shift in range(SHIFT_MAX + 1):
        for distance in (-1, 0, 1):
            item = random_item(rng) | {"shift": shift}
            tie(rng, item, (distance,))
            items.append(item)
        for sign in (-1, 1):  # the largest sums that there are
            full = {"low": -128, "high": 127, "shift": shift}
            full |= {"residual_shift": RESIDUAL_SHIFT_MAX}
            full["value"] = [-(1 << 31)] * LANES
            full["multiplier"] = [-(1 << 15) if sign > 0 else (1 << 15) - 1] * LANES
            full["bias"] = [(1 << 47) - 1 if sign > 0 else -(1 << 47)] * LANES
            full["residual"] = [127 if sign > 0 else -128] * LANES
            items.append(full)
    for shift in range(RESIDUAL_SHIFT_MAX + 1):
        items.append(
            random_item(rng)
            | {"residual_shift": shift, "shift": shift, "low": -128, "high": 127}
            | {"value": integers(rng, LANES, bits=8), "multiplier": [1] * LANES}
            | {"bias": integers(rng, LANES, bits=min(shift + 5, 48))}
        )
    board = Scoreboard(map(expected, items), name="vector")
    await start_clock(dut)
    driver = StreamDriver(dut, "i", INPUT)
    monitor = StreamMonitor(dut, "o", OUTPUT, on_item=board.check)
    driver.extend(items)
    await monitor.wait_for(len(items))
    board.assert_drained(len(items))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def latency_and_throughput(dut):
    """One vector per cycle, LATENCY cycles after it was taken; a held output stays."""
    rng = bench_rng("latency")
    await start_clock(dut)
    board = Scoreboard(name="vector")
    driver = StreamDriver(dut, "i", INPUT)
    monitor = StreamMonitor(dut, "o", OUTPUT, on_item=board.check)
    await ClockCycles(dut.clk, 3)
    taken, given = [], []
    items = [random_item(rng) for _ in range(40)]
    for item in items:
        board.expect(expected(item))
    driver.extend(items)
    cycle = 0
    while len(given) < len(items):
        await RisingEdge(dut.clk)
        cycle += 1
        if int(dut.i__valid.value) and int(dut.i__ready.value):
            taken.append(cycle)
        if int(dut.o__valid.value) and int(dut.o__ready.value):
            given.append(cycle)
    assert [after - before for before, after in zip(taken, given, strict=True)] == [
        Requantizer.LATENCY
    ] * len(items)
    assert taken == list(range(taken[0], taken[0] + len(items)))
    # Stall for a long time: what is inside comes out in order, and what is outside stays there.
    monitor.rate = 0.0
    more = [random_item(rng) for _ in range(2 * Requantizer.LATENCY)]
    for item in more:
        board.expect(expected(item))
    driver.extend(more)
    await ClockCycles(dut.clk, 5 * Requantizer.LATENCY)
    assert driver.sent == len(items) + Requantizer.LATENCY
    monitor.rate = 1.0
    await monitor.wait_for(len(items) + len(more))
    board.assert_drained(len(items) + len(more))
