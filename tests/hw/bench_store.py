"""Bench of the store unit: random instructions against a model written from the ISA's table."""

import random

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from intaglio.spec import isa
from intaglio.spec.isa import Error
from intaglio_hw.store import StoreUnit
from intaglio_sim.bfm import MemoryWriter, ReadPort, UnitDriver, start_clock
from intaglio_sim.runner import bench_config
from intaglio_sim.stimulus import bench_rng, integer

CONFIG = bench_config()
R = CONFIG.R
BASE = 0x0001_3000
LIMIT = 5 * 4096 + 7 * R  # what the program may use; the bytes behind it exist and must not change
EDGE = (1 << 32) - R


def model(fields, ofm, memory, *, limit=LIMIT):
    """Write ``memory`` as one instruction does; return its error. A row is written whole or not."""
    f = fields
    if f["address"] % R or f["plane_step"] % R or f["row_step"] % R:
        return Error.MEMORY
    place, count = f["base"], f["vectors"]
    for plane in range(f["planes"]):
        for row in range(f["rows"]):
            start = f["address"] + plane * f["plane_step"] + row * f["row_step"]
            if start + count * R > limit:
                return Error.MEMORY
            if place + count > CONFIG.ofm_depth:
                return Error.BUFFER
            memory[start : start + count * R] = ofm[place : place + count].reshape(-1)
            place += count
    return Error.NONE


def instruction(rng: random.Random, kind: str) -> dict[str, int]:
    """Return the fields of a random instruction of one kind."""
    f = {
        "planes": rng.choice((1, 1, 2, 3)),
        "rows": rng.choice((1, 2, 3, 4)),
        "vectors": integer(rng, 1, 14),
    }
    if kind == "one":
        f.update(planes=1, rows=1, vectors=1)
    elif kind == "long":
        f.update(planes=1, rows=rng.choice((1, 2)), vectors=CONFIG.burst_beats + rng.randint(1, 40))
    width = f["vectors"] * R
    # Rows may overlap: the later one wins.
    f["row_step"] = rng.choice((width, width, 0, rng.randint(0, 2 * f["vectors"]) * R))
    f["plane_step"] = rng.choice((0, 4096, rng.randint(0, 900 // R) * R))
    span = (f["planes"] - 1) * f["plane_step"] + (f["rows"] - 1) * f["row_step"] + width
    top = (LIMIT - span) // R
    f["address"] = R * rng.choice(
        (top, rng.randint(0, top), min(top, 4096 // R - rng.randint(0, 3)))
    )
    total = f["planes"] * f["rows"] * f["vectors"]
    f["base"] = rng.choice((0, rng.randint(0, CONFIG.ofm_depth - total), CONFIG.ofm_depth - total))
    if kind == "memory":
        f["address"] += R * integer(rng, 1, 3)
        if rng.random() < 0.3:
            f["address"] = rng.choice((LIMIT, EDGE))
    elif kind == "far":  # offsets that would wrap
        f.update(rows=3, planes=2, address=rng.choice((EDGE, 0, 64)), base=0)
        f["row_step"] = rng.choice((EDGE, EDGE - 64, 1 << 31, 0))
        f["plane_step"] = rng.choice((EDGE, EDGE - 64, 1 << 31))
    elif kind == "buffer":
        f["base"] = rng.choice((CONFIG.ofm_depth - rng.randint(0, total - 1), 65535))
    elif kind == "align":
        f[rng.choice(("address", "plane_step", "row_step"))] += integer(rng, 1, R - 1, (4,))
    return f


class Bench:
    """The unit between a sequencer, OFM and a memory."""

    def __init__(self, dut, rng, *, latency=1, ask=1.0, data=1.0, answer=1.0, feed=1.0):
        self.dut = dut
        self.ofm = np.array(
            [[rng.randrange(256) for _ in range(R)] for _ in range(CONFIG.ofm_depth)],
            dtype=np.uint8,
        )
        self.memory = np.array([rng.randrange(256) for _ in range(LIMIT + 4096)], dtype=np.uint8)
        self.golden = self.memory.copy()
        ReadPort(dut, "ofm", self.ofm)
        self.writer = MemoryWriter(
            dut,
            self.memory,
            beat=R,
            prefix="memory__",
            base=BASE,
            latency=latency,
            address_rate=ask,
            data_rate=data,
            response_rate=answer,
        )
        self.unit = UnitDriver(dut, isa.STORE, prefix="unit__", rate=feed)
        dut.memory_base.value = BASE
        dut.memory_bytes.value = LIMIT

    async def run(self, items):
        """Run ``items``; check errors and memory after each of them: done means written."""
        count = len(self.unit.errors)
        for item in items:
            self.unit.send(item)
        for item in items:
            error = model(item, self.ofm, self.golden)
            count += 1
            got = await self.unit.wait_done(count)
            assert got == error, (got, error, item)
            self.check_memory(item)

    def check_memory(self, item):
        """Memory is the golden one, and no burst is too long or out of bounds."""
        wrong = np.flatnonzero(self.memory != self.golden)
        assert not len(wrong), f"{len(wrong)} bytes differ, the first at {wrong[0]}: {item}"
        for addr, beats in self.writer.bursts:
            assert beats <= CONFIG.burst_beats
            assert BASE <= addr and addr + beats * R <= BASE + LIMIT, (hex(addr), beats)


KINDS = ("plain", "plain", "plain", "one", "long")
BAD_KINDS = ("memory", "far", "buffer", "align")


@cocotb.test(timeout_time=300, timeout_unit="us")
@cocotb.parametrize(
    (
        ("latency", "ask", "data", "answer", "feed"),
        [
            (1, 1.0, 1.0, 1.0, 1.0),
            (3, 0.5, 0.5, 0.5, 1.0),
            (40, 1.0, 1.0, 1.0, 1.0),
            (9, 0.2, 0.9, 0.3, 0.2),
        ],
    )
)
async def matches_the_table(dut, latency, ask, data, answer, feed):
    """Good and bad instructions, back to back: memory and error after each."""
    rng = bench_rng(f"table {latency}")
    bench = Bench(dut, rng, latency=latency, ask=ask, data=data, answer=answer, feed=feed)
    kinds = list(KINDS * 4 + BAD_KINDS * 3)
    rng.shuffle(kinds)
    await start_clock(dut)
    await bench.run([instruction(rng, kind) for kind in kinds])
    assert {Error.NONE, Error.MEMORY, Error.BUFFER} <= set(bench.unit.errors)
    assert len(bench.unit.errors) == len(kinds)
    assert bench.writer.beats > 0 and bench.writer.idle


@cocotb.test(timeout_time=100, timeout_unit="us")
async def bus_error(dut):
    """A bad response is the error BUS, and every started burst is complete; then new work."""
    rng = bench_rng("bus")
    bench = Bench(dut, rng, latency=6, data=0.8)
    await start_clock(dut)
    for turn in range(6):
        item = instruction(rng, rng.choice(KINDS)) | {"row_step": 256, "plane_step": 4096}
        item |= {"address": 64 * R, "rows": 4, "planes": 1, "base": 5}
        item["vectors"] = rng.choice((1, 7, CONFIG.burst_beats + 3))
        row = rng.randrange(4)
        place = item["address"] + row * item["row_step"]
        bench.writer.bad_addresses = {BASE + place + R * rng.randrange(item["vectors"])}
        bench.unit.send(item)
        assert await bench.unit.wait_done(2 * turn + 1) == Error.BUS
        assert bench.writer.idle
        bench.writer.bad_addresses = set()
        bench.golden[:] = bench.memory
        await bench.run([instruction(rng, "plain")])
        assert bench.unit.errors[-1] == Error.NONE


@cocotb.test(timeout_time=300, timeout_unit="us")
async def stop(dut):
    """``stop`` at any time: done, all started bursts complete, a prefix written."""
    rng = bench_rng("stop")
    bench = Bench(dut, rng, latency=7, ask=0.6, data=0.7)
    await start_clock(dut)
    done = partial = 0
    for turn in range(16):
        item = instruction(rng, rng.choice(("plain", "long", "long")))
        item["row_step"] = item["vectors"] * R
        item["plane_step"] = item["rows"] * item["row_step"]
        total = item["planes"] * item["rows"] * item["vectors"]
        item["address"] = R * rng.randint(0, (LIMIT - total * R) // R)
        bench.unit.send(item)
        await ClockCycles(dut.clk, 3 + (turn if turn < 6 else rng.randrange(200)))
        dut.unit__stop.value = 1
        if done == bench.unit.driver.sent:
            await ClockCycles(dut.clk, 3)
        assert bench.unit.driver.sent == done + 1
        done += 1
        await bench.unit.wait_done(done)
        assert bench.unit.errors[-1] == Error.NONE
        assert bench.writer.idle
        beats = bench.writer.beats
        await ClockCycles(dut.clk, 30)
        assert bench.writer.beats == beats, "data after done"
        # The image is dense, so what is written is a prefix of it.
        whole = bench.golden.copy()
        model(item, bench.ofm, whole)
        start = item["address"]
        written = sum(n for _, n in bench.writer.bursts) * R
        bench.golden[start : start + written] = whole[start : start + written]
        bench.check_memory(item)
        partial += 0 < written < total * R
        bench.writer.bursts.clear()
        dut.unit__stop.value = 0
        await bench.run([instruction(rng, "plain")])
        bench.writer.bursts.clear()
        done += 1
    assert partial


@cocotb.test(timeout_time=50, timeout_unit="us")
async def no_gaps(dut):
    """Once it flows, a beat goes out in every cycle, across bursts and rows."""
    bench = Bench(dut, bench_rng("speed"), latency=30)
    item = {
        "address": 0, "plane_step": 9000 // R * R, "row_step": 40 * R, "base": 3,
        "planes": 2, "rows": 6, "vectors": 20,
    }  # fmt: skip
    await start_clock(dut)
    bench.unit.send(item)
    beats, first, last = 0, None, None
    for cycle in range(400):
        await RisingEdge(dut.clk)
        if int(dut.beat.value):
            beats += 1
            first = cycle if first is None else first
            last = cycle
    assert beats == 240 == bench.writer.beats
    assert last - first == 239
    assert model(item, bench.ofm, bench.golden) == Error.NONE
    bench.check_memory(item)


@cocotb.test(timeout_time=10, timeout_unit="us")
async def documented_cycles(dut):
    """First burst, first beat and ``done`` come when the contract says."""
    bench = Bench(dut, bench_rng("cycles"))
    await start_clock(dut)
    bench.unit.send(instruction(bench_rng("cycles"), "one"))
    at = {}
    for cycle in range(60):
        await RisingEdge(dut.clk)
        for name, seen in (
            (
                "accept",
                int(dut.unit__instruction__valid.value) & int(dut.unit__instruction__ready.value),
            ),
            ("ask", int(dut.memory__aw__valid.value) & int(dut.memory__aw__ready.value)),
            ("beat", int(dut.beat.value)),
            ("answer", int(dut.memory__b__valid.value)),
            ("done", int(dut.unit__done.value)),
        ):
            if seen:
                at.setdefault(name, cycle)
    assert at["ask"] - at["accept"] == StoreUnit.ISSUE_CYCLES, at
    assert at["beat"] - at["ask"] - 1 == StoreUnit.LATENCY, at  # ``beat`` comes a cycle later
    assert at["done"] - at["answer"] == StoreUnit.DONE_CYCLES, at
