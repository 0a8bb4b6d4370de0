"""The requantiser against ``spec.arith.requantize``, with and without gaps."""

import os
import random

import cocotb
from amaranth.hdl import signed
from amaranth.lib import data
from cocotb.triggers import RisingEdge

from intaglio.spec.arith import RESIDUAL_SHIFT_MAX, SHIFT_MAX, requantize
from intaglio_hw.requantizer import Requantizer, requantizer_layout
from intaglio_sim.bfm import pack, start_clock, unpack
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


async def check(dut, items: list[dict], rng: random.Random, *, rate: float) -> None:
    """Feed ``items``, garbage in between; each comes out LATENCY cycles later, and nothing else."""
    await start_clock(dut)
    # What is offered in each cycle: None for garbage.
    offers: list[dict | None] = []
    for item in items:
        while rng.random() >= rate:
            offers.append(None)
        offers.append(item)
    offers += [None] * (Requantizer.LATENCY + 1)
    for cycle, offer in enumerate(offers):
        dut.i_valid.value = offer is not None
        dut.i.value = rng.getrandbits(len(dut.i)) if offer is None else pack(INPUT, offer)
        await RisingEdge(dut.clk)
        if cycle < Requantizer.LATENCY:
            continue
        awaited = offers[cycle - Requantizer.LATENCY]
        assert int(dut.o_valid.value) == (awaited is not None), cycle
        if awaited is not None:
            assert unpack(OUTPUT, int(dut.o.value)) == expected(awaited), (cycle, awaited)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(rate=[1.0, 0.5, 0.1])
async def matches_spec(dut, rate):
    rng = bench_rng(f"{rate}")
    await check(dut, [random_item(rng) for _ in range(300)], rng, rate=rate)


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
    await check(dut, items, rng, rate=1.0)
