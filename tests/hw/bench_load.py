"""Bench of the load unit: random instructions against a model written from the table of the ISA."""

import random

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from intaglio.spec import isa
from intaglio.spec.isa import Buffer, Error
from intaglio_hw.load import LoadUnit
from intaglio_sim.bfm import MemoryReader, UnitDriver, WritePort, start_clock
from intaglio_sim.runner import bench_config
from intaglio_sim.stimulus import bench_rng, integer

CONFIG = bench_config()
R = CONFIG.R
PAIRS = R // 8
DEPTHS = {
    Buffer.IFM: CONFIG.ifm_depth,
    Buffer.WGT: CONFIG.wgt_depth,
    Buffer.VEC: CONFIG.vec_depth,
    Buffer.PRM: CONFIG.prm_depth // PAIRS,
}
BASE = 0x0001_3000
LIMIT = 5 * 4096 + 7 * R  # what the program may use; the bytes behind it exist and must not be read
EDGE = (1 << 32) - 1


def model(fields, memory, *, limit=LIMIT, bad=frozenset()):
    """Return the error and the writes (buffer, row address, packed row) of one instruction.

    ``bad``: offsets of beats that the bus answers with an error.
    """
    f = fields
    if f["vector_step"] > R or f["lead"] > 7 * R:
        return Error.FIELD, []
    buffer = Buffer(f["buffer"])
    place = f["base"]
    if buffer == Buffer.PRM:
        if place % PAIRS:
            return Error.FIELD, []
        place //= PAIRS
    writes = []
    for plane in range(f["planes"]):
        for row in range(f["rows"]):
            start = f["address"] + plane * f["plane_step"] + row * f["row_step"]
            if start + f["row_bytes"] > limit:
                return Error.MEMORY, writes
            line = memory[start : start + f["row_bytes"]].view(np.int8)
            for i in range(f["vectors"]):
                index = i * f["vector_step"] - f["lead"] + np.arange(R)
                inside = (index >= 0) & (index < f["row_bytes"])
                needed = index[inside] + start
                if any(int(byte) // R * R in bad for byte in needed):
                    return Error.BUS, writes
                if place >= DEPTHS[buffer]:
                    return Error.BUFFER, writes
                vector = np.full(R, f["pad_code"], dtype=np.int8)
                vector[inside] = line[index[inside]]
                writes.append((buffer, place, int.from_bytes(vector.tobytes(), "little")))
                place += 1
    return Error.NONE, writes


def instruction(rng: random.Random, kind: str) -> dict[str, int]:
    """Return the fields of a random instruction of one kind."""
    buffer = rng.choice(list(Buffer))
    depth = DEPTHS[buffer]
    f = {
        "buffer": buffer,
        "pad_code": integer(rng, -128, 127),
        "planes": rng.choice((1, 1, 2, 3)),
        "rows": rng.choice((1, 2, 3, 4)),
        "vectors": integer(rng, 1, 12),
        "vector_step": R,
        "lead": rng.choice((0, 0, R, 3 * R)),
    }
    f["row_bytes"] = max(1, f["vectors"] * R - f["lead"])
    if kind == "window":
        f["vector_step"] = integer(rng, 1, R, (3, R - 1))
        f["lead"] = integer(rng, 0, 7 * R, (R, R - 1, R + 1, 7 * R - 1))
        f["row_bytes"] = integer(rng, 1, 9 * R, (R, R - 1))
    elif kind == "one":
        f.update(planes=1, rows=1, vectors=1, lead=0, row_bytes=integer(rng, 1, R))
    elif kind == "pad":  # no vector sees a byte, though the row has some
        f.update(vectors=rng.randint(1, 6), lead=7 * R, row_bytes=R)
    elif kind == "long":  # several bursts in a row
        f.update(planes=1, rows=rng.choice((1, 2)), vectors=CONFIG.burst_beats + 5, lead=0)
        f["row_bytes"] = f["vectors"] * R - rng.randrange(R)
        if buffer == Buffer.PRM:
            f["buffer"], depth = Buffer.IFM, DEPTHS[Buffer.IFM]
    elif kind == "excess":  # the row has more bytes than the vectors use
        f["row_bytes"] = f["vectors"] * R + integer(rng, 1, 600)
    f["row_step"] = integer(rng, 0, 2 * f["row_bytes"], (f["row_bytes"],))
    f["plane_step"] = integer(rng, 0, 900, (0, 4096))
    span = (f["planes"] - 1) * f["plane_step"] + (f["rows"] - 1) * f["row_step"] + f["row_bytes"]
    # At a boundary of bursts, at the end of the memory, anywhere.
    top = LIMIT - span
    f["address"] = rng.choice(
        (
            top,
            rng.randint(0, top),
            min(top, 4096 - rng.randint(0, 2 * R)),
            rng.randint(0, top // R) * R,
        )
    )
    total = f["planes"] * f["rows"] * f["vectors"]
    f["base"] = integer(rng, 0, max(0, depth - total), (depth - total,))
    if kind == "memory":
        f["address"] += integer(rng, 1, 3 * R)
    elif kind == "far":  # offsets that would wrap
        f.update(rows=3, planes=2)
        f["address"] = rng.choice((EDGE, EDGE - R, 0, 64))
        f["row_step"] = rng.choice((EDGE, EDGE - 63, 1 << 31, 0))
        f["plane_step"] = rng.choice((EDGE, EDGE - 63, 1 << 31))
    elif kind == "buffer":
        f["base"] = rng.choice((depth - 1, depth - rng.randint(1, total), min(depth, 65535)))
    if f["buffer"] == Buffer.PRM:
        f["base"] *= PAIRS
    if kind == "field":
        which = rng.choice(("step", "lead", "base") if PAIRS > 1 else ("step", "lead"))
        if which == "step":
            f["vector_step"] = integer(rng, R + 1, 255)
        elif which == "lead":
            f["lead"] = min(224, integer(rng, 7 * R + 1, 255))
        else:
            f["buffer"] = Buffer.PRM
            f["base"] = PAIRS * rng.randrange(4) + 1
    return f


class Bench:
    """The unit between a sequencer, a memory and four scratchpads."""

    def __init__(self, dut, rng, *, latency=1, ask=1.0, data=1.0, feed=1.0):
        self.dut, self.rng = dut, rng
        self.memory = np.array([rng.randrange(256) for _ in range(LIMIT + 4096)], dtype=np.uint8)
        self.reader = MemoryReader(
            dut,
            self.memory,
            beat=R,
            prefix="memory__",
            base=BASE,
            latency=latency,
            address_rate=ask,
            data_rate=data,
        )
        self.unit = UnitDriver(dut, isa.LOAD, prefix="unit__", rate=feed)
        self.ports = {
            buffer: WritePort(dut, buffer.name.lower(), np.zeros((depth, R), dtype=np.uint8))
            for buffer, depth in DEPTHS.items()
        }
        dut.memory_base.value = BASE
        dut.memory_bytes.value = LIMIT

    def expect(self, items):
        """Compare the writes so far with ``items``, a list of results of :func:`model`."""
        for buffer, port in self.ports.items():
            expected = [(a, w, 1) for _, writes in items for b, a, w in writes if b == buffer]
            assert len(port.log) == len(expected), (buffer.name, len(port.log), len(expected))
            for i, (got, want) in enumerate(zip(port.log, expected, strict=True)):
                assert got == want, f"{buffer.name} write {i}: {got} instead of {want}"

    def check_bursts(self):
        """No burst is too long or touches what the program may not use."""
        for addr, beats in self.reader.bursts:
            assert beats <= CONFIG.burst_beats
            assert BASE <= addr and addr + beats * R <= BASE + LIMIT, (hex(addr), beats)


KINDS = ("dense", "window", "window", "one", "pad", "long", "excess")
BAD_KINDS = ("memory", "far", "buffer", "field")


@cocotb.test(timeout_time=300, timeout_unit="us")
@cocotb.parametrize(
    (
        ("latency", "ask", "data", "feed"),
        [(1, 1.0, 1.0, 1.0), (3, 0.5, 0.5, 1.0), (30, 1.0, 1.0, 1.0), (12, 0.3, 0.9, 0.2)],
    )
)
async def matches_the_table(dut, latency, ask, data, feed):
    """Good and bad instructions, back to back: every write in order, every error code."""
    rng = bench_rng(f"table {latency}")
    bench = Bench(dut, rng, latency=latency, ask=ask, data=data, feed=feed)
    kinds = list(KINDS * 4 + BAD_KINDS * 2)
    rng.shuffle(kinds)
    items = [instruction(rng, kind) for kind in kinds]
    expected = [model(item, bench.memory) for item in items]
    await start_clock(dut)
    for item in items:
        bench.unit.send(item)
    await bench.unit.wait_done(len(items))
    assert bench.unit.errors == [error for error, _ in expected]
    assert {Error.NONE, Error.MEMORY, Error.FIELD} <= set(bench.unit.errors)
    bench.expect(expected)
    bench.check_bursts()
    assert bench.reader.beats > 0


@cocotb.test(timeout_time=300, timeout_unit="us")
async def each_error_in_place(dut):
    """One instruction of each bad kind many times, so that each error is certain to occur."""
    rng = bench_rng("errors")
    bench = Bench(dut, rng, latency=9, data=0.8)
    items = [instruction(rng, kind) for kind in BAD_KINDS * 6]
    expected = [model(item, bench.memory) for item in items]
    await start_clock(dut)
    for item in items:
        bench.unit.send(item)
    await bench.unit.wait_done(len(items))
    assert bench.unit.errors == [error for error, _ in expected]
    assert {Error.BUFFER, Error.MEMORY, Error.FIELD} <= set(bench.unit.errors)
    bench.expect(expected)
    bench.check_bursts()


@cocotb.test(timeout_time=300, timeout_unit="us")
async def bus_error(dut):
    """A bad beat ends its instruction at the first vector that needs it; the next is complete."""
    rng = bench_rng("bus")
    bench = Bench(dut, rng, latency=7, data=0.7)
    await start_clock(dut)
    expected = []
    seen = set()
    for turn in range(8):
        items = [instruction(rng, rng.choice(("dense", "window", "long"))) for _ in range(2)]
        start = items[0]["address"]
        bad = {(start + rng.randrange(items[0]["row_bytes"])) // R * R}
        bench.reader.bad_addresses = {BASE + offset for offset in bad}
        expected += [model(item, bench.memory, bad=bad) for item in items]
        for item in items:
            bench.unit.send(item)
        await bench.unit.wait_done(2 * turn + 2)
        seen.add(bench.unit.errors[-2])
        assert bench.unit.errors == [error for error, _ in expected]
    bench.expect(expected)
    assert Error.BUS in seen


@cocotb.test(timeout_time=300, timeout_unit="us")
async def stop(dut):
    """``stop`` at any time: done for what was accepted, a prefix of the writes, then new work."""
    rng = bench_rng("stop")
    bench = Bench(dut, rng, latency=8, data=0.8)
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    log = bench.ports[Buffer.IFM].log
    partial = 0
    for turn in range(20):
        # Two instructions, stopped; then one that must be complete.
        items = [instruction(rng, rng.choice(("dense", "window", "long"))) for _ in range(3)]
        for item in items:
            item.update(buffer=Buffer.IFM, base=0)
        done = len(bench.unit.errors)
        before = bench.unit.driver.sent
        log.clear()
        for item in items[:2]:
            bench.unit.send(item)
        await ClockCycles(dut.clk, 1 + (turn if turn < 5 else rng.randrange(120)))
        dut.unit__stop.value = 1
        frozen = None
        if turn % 2:
            await edge
            dut.unit__stop.value = 0
            await ClockCycles(dut.clk, 2 + LoadUnit.LATENCY)
            if bench.unit.driver.sent == before + 2:  # a pulse ends both, though it is over
                frozen = len(log)
        else:
            await ClockCycles(dut.clk, 3)  # what was offered before stop is taken by now, or waits
            accepted = bench.unit.driver.sent
            await ClockCycles(dut.clk, 400)
            assert len(bench.unit.errors) == accepted
            assert bench.unit.driver.sent == accepted
            dut.unit__stop.value = 0
        await bench.unit.wait_done(done + 2)
        assert bench.unit.errors[done:] == [Error.NONE] * 2
        assert bench.unit.driver.sent == before + 2
        assert frozen is None or len(log) == frozen, f"turn {turn}: writes after stop"
        both = [model(item, bench.memory)[1] for item in items]
        got = [(a, w) for a, w, _ in log]
        first, second = ([(a, w) for _, a, w in writes] for writes in both[:2])
        # Whole or stopped first, then whole or stopped second.
        cuts = [
            n
            for n in range(len(first) + 1)
            if got[:n] == first[:n] and got[n:] == second[: len(got) - n]
        ]
        assert cuts, (
            f"turn {turn}: {len(got)} writes are no prefixes of {len(first)} and {len(second)}"
        )
        partial += len(got) < len(first) + len(second)
        log.clear()
        bench.unit.send(items[2])
        await bench.unit.wait_done(done + 3)
        assert [(Buffer.IFM, a, w) for a, w, _ in log] == both[2]
        assert bench.unit.errors[-1] == Error.NONE
    assert partial
    bench.check_bursts()


@cocotb.test(timeout_time=50, timeout_unit="us")
@cocotb.parametrize(unaligned=[0, 1])
async def hides_the_latency(dut, unaligned):
    """Rows of 20 vectors and a latency of 24: one vector per cycle, one beat more if unaligned."""
    bench = Bench(dut, bench_rng("speed"), latency=24)
    item = instruction(bench.rng, "dense") | {
        "buffer": Buffer.IFM, "base": 0, "address": 128 + 3 * unaligned, "lead": 0, "planes": 2,
        "rows": 8, "vectors": 20, "row_bytes": 20 * R, "row_step": 24 * R, "plane_step": 200 * R,
    }  # fmt: skip
    await start_clock(dut)
    bench.unit.send(item)
    bench.unit.send(item)
    await bench.unit.wait_done(2)
    cost = bench.unit.cycles[1] - bench.unit.cycles[0]
    beats = 2 * 8 * (20 + unaligned)
    assert beats <= cost <= beats + 4, cost
    bench.expect([model(item, bench.memory)] * 2)
    assert bench.reader.beats == 2 * beats


@cocotb.test(timeout_time=50, timeout_unit="us")
async def documented_cycles(dut):
    """First burst, first write and ``done`` come when the contract says."""
    bench = Bench(dut, bench_rng("cycles"))
    item = instruction(bench.rng, "one") | {
        "buffer": Buffer.VEC, "address": 0, "row_bytes": R
    }  # fmt: skip
    await start_clock(dut)
    bench.unit.send(item)
    at = {}
    for cycle in range(60):
        await RisingEdge(dut.clk)
        for name, seen in (
            (
                "accept",
                int(dut.unit__instruction__valid.value) & int(dut.unit__instruction__ready.value),
            ),
            ("ask", int(dut.memory__ar__valid.value)),
            ("beat", int(dut.beat.value)),
            ("write", int(dut.vec__en.value)),
            ("done", int(dut.unit__done.value)),
        ):
            if seen:
                at.setdefault(name, cycle)
    assert at["ask"] - at["accept"] == LoadUnit.ISSUE_CYCLES[R], at
    assert at["write"] - at["beat"] + 1 == LoadUnit.LATENCY, at  # ``beat`` comes a cycle later
    assert at["done"] - at["write"] == 1, at
