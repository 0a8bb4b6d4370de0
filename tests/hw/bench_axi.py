"""Benches of the memory side of the units, one group of tests for each component."""

import random
from collections import Counter

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.triggers import ClockCycles, RisingEdge

from intaglio.spec.isa import Error
from intaglio_hw.axi import OFFSET_BITS, AxiReadArbiter, RowBursts, row_info_layout, row_layout
from intaglio_sim.bfm import MemoryReader, StreamDriver, StreamMonitor, start_clock
from intaglio_sim.runner import bench_config
from intaglio_sim.scoreboard import Scoreboard
from intaglio_sim.stimulus import bench_rng, integer

CONFIG = bench_config()
R = CONFIG.R
ADDRESS = data.StructLayout({"addr": 32, "len": 8})
BEAT = data.StructLayout({"data": 8 * R, "resp": 2, "last": 1})
BASE = 0x0012_3000
LIMIT = 3 << 20


# RowWalker


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(drain=[1.0, 0.4])
async def walker_lists_rows(dut, drain):
    """All rows of random transfers, in order, ``last`` at the end; one in two cycles."""
    rng = bench_rng(f"walker {drain}")
    board = Scoreboard()
    StreamMonitor(
        dut,
        "o",
        data.StructLayout({"offset": OFFSET_BITS, "last": 1}),
        rate=drain,
        on_item=lambda item: board.check((item["offset"], item["last"])),
    )
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    total = 0
    for turn in range(24):
        planes, rows = rng.choice((1, 1, 2, 5)), rng.choice((1, 2, 3, 9))
        address = rng.getrandbits(32)
        # Exact as long as no row but the last one reaches 2**32.
        most = max(1, ((1 << 32) - address) // (planes * rows))
        plane_step, row_step = (integer(rng, 0, most - 1) for _ in range(2))
        if turn == 0:
            planes, rows, address, row_step = 1, 2, (1 << 32) - 1, (1 << 32) - 1
        offsets = [
            address + p * plane_step + r * row_step for p in range(planes) for r in range(rows)
        ]
        for i, offset in enumerate(offsets):
            board.expect((offset, int(i == len(offsets) - 1)))
        total += len(offsets)
        fields = {
            "address": address, "plane_step": plane_step, "row_step": row_step,
            "planes": planes, "rows": rows,
        }  # fmt: skip
        for name, value in fields.items():
            getattr(dut, name).value = value
        await ClockCycles(dut.clk, 2)
        dut.start.value = 1
        await edge
        dut.start.value = 0
        for name in fields:
            getattr(dut, name).value = rng.getrandbits(16)  # they may change
        cycles = 0
        await edge
        while int(dut.busy.value):
            cycles += 1
            await edge
        if drain == 1.0:
            assert cycles == 2 * len(offsets) - 1
    board.assert_drained(total)


@cocotb.test(timeout_time=10, timeout_unit="us")
async def walker_halts(dut):
    """``halt`` drops the rest; the next transfer is complete."""
    seen = []
    StreamMonitor(
        dut,
        "o",
        data.StructLayout({"offset": OFFSET_BITS, "last": 1}),
        on_item=lambda item: seen.append(item["offset"]),
    )
    await start_clock(dut)
    for name in ("address", "plane_step", "row_step", "planes", "rows"):
        getattr(dut, name).value = 9
    await ClockCycles(dut.clk, 2)
    for halt_after in (3, 200):
        seen.clear()
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        await ClockCycles(dut.clk, halt_after)
        dut.halt.value = 1
        await ClockCycles(dut.clk, 2)
        assert not int(dut.busy.value)
        count = len(seen)
        await ClockCycles(dut.clk, 5)
        assert len(seen) == count
        dut.halt.value = 0
        await RisingEdge(dut.clk)
        if halt_after == 3:
            assert 0 < count < 81
        else:
            assert seen == [9 + 9 * p + 9 * r for p in range(9) for r in range(9)]


# RowBursts


def cut(row):
    """Return what ``info`` and ``burst`` say about a row, byte by byte."""
    start, used = row["offset"], row["used"]
    error = row["error"]
    if start + row["bytes"] > LIMIT:
        error = Error.MEMORY
    beats = sorted({byte // R for byte in range(start, start + used)}) if not error else []
    bursts = []
    for beat in beats:
        page = beat * R // 4096
        if bursts and bursts[-1][2] == page and bursts[-1][1] < CONFIG.burst_beats:
            bursts[-1][1] += 1
        else:
            bursts.append([beat * R, 1, page])
    info = {
        "head": start % R,
        "tail": (start + used) % R,
        "some": int(len(beats) > 0),
        "more": max(0, len(beats) - 1),
        "error": int(error),
        "last": row["last"],
    }
    return info, [(BASE + offset, count - 1) for offset, count, _ in bursts]


def random_row(rng: random.Random) -> dict[str, int]:
    """Return a row inside the memory."""
    size = rng.choice((1, R, integer(rng, 1, 40 * R), integer(rng, 4000, 9000, (4096, 8192))))
    near = (
        LIMIT - size,
        4096 * rng.randint(1, 9) - rng.randint(0, 3 * R),
        rng.randint(0, LIMIT - size),
    )
    return {
        "offset": rng.choice(near),
        "bytes": size,
        "used": integer(rng, 0, size),
        "error": 0,
        "last": rng.randrange(2),
    }


def check_info(board):
    """Return a checker for ``info``; what a row without beats says of bytes does not matter."""

    def check(item):
        if item["some"] == 0:
            item = item | {"head": 0, "tail": 0, "more": 0}
        if item["error"]:
            item = item | {"head": 0, "tail": 0, "some": 0, "more": 0}
        board.check(item)

    return check


@cocotb.test(timeout_time=300, timeout_unit="us")
@cocotb.parametrize(
    (("feed", "info", "burst"), [(1.0, 1.0, 1.0), (0.5, 0.3, 0.6), (1.0, 0.8, 0.2)])
)
async def bursts_cover_rows(dut, feed, info, burst):
    """Every beat of every row once, no burst too long or across a boundary."""
    rng = bench_rng(f"bursts {burst}")
    infos, bursts = Scoreboard(name="info"), Scoreboard(name="burst")
    rows = [random_row(rng) for _ in range(60)]
    for row in rows:
        about, parts = cut(row)
        infos.expect(about if about["some"] else about | {"head": 0, "tail": 0})
        for part in parts:
            bursts.expect(part)
    driver = StreamDriver(dut, "row", row_layout(), rate=feed)
    StreamMonitor(dut, "info", row_info_layout(CONFIG), rate=info, on_item=check_info(infos))
    StreamMonitor(
        dut, "burst", ADDRESS, rate=burst, on_item=lambda b: bursts.check((b["addr"], b["len"]))
    )
    dut.memory_base.value, dut.memory_bytes.value = BASE, LIMIT
    await start_clock(dut)
    driver.extend(rows)
    while not (infos.done and bursts.done):
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, 10)
    assert int(dut.idle.value)
    infos.assert_drained(len(rows))
    bursts.assert_drained()


@cocotb.test(timeout_time=200, timeout_unit="us")
async def bursts_refuse_rows(dut):
    """A row outside the memory, or one that carries an error, ends the rows until ``halt``."""
    rng = bench_rng("refuse")
    infos, bursts = [], []
    driver = StreamDriver(dut, "row", row_layout())
    StreamMonitor(dut, "info", row_info_layout(CONFIG), on_item=infos.append)
    StreamMonitor(dut, "burst", ADDRESS, on_item=lambda b: bursts.append((b["addr"], b["len"])))
    dut.memory_base.value, dut.memory_bytes.value = BASE, LIMIT
    await start_clock(dut)
    highest = (1 << OFFSET_BITS) - 1
    for offset, size, given in (
        (LIMIT - 5, 6, 0),
        (LIMIT, 1, 0),
        (LIMIT - 5, 5, Error.BUFFER),
        ((1 << 32) - 1, 2, 0),
        (1 << 32, 1, 0),
        (highest, (1 << 20), 0),
        (highest, 1, Error.BUFFER),
        (0, LIMIT + 1 if LIMIT < 1 << 21 else (1 << 21) - 1, Error.BUFFER),
    ):
        good = random_row(rng) | {"last": 0}
        bad = {"offset": offset, "bytes": size, "used": size, "error": int(given), "last": 1}
        infos.clear()
        bursts.clear()
        driver.extend([good, bad, good])
        await ClockCycles(dut.clk, 100)
        assert len(infos) == 2, offset
        assert infos[1]["error"] == cut(bad)[0]["error"] != 0
        assert bursts == cut(good)[1]
        assert not int(dut.idle.value)
        dut.halt.value = 1
        await RisingEdge(dut.clk)
        dut.halt.value = 0
        await ClockCycles(dut.clk, 60)
        assert len(infos) == 3 and infos[2]["error"] == 0
        assert bursts == 2 * cut(good)[1]
        assert int(dut.idle.value)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def bursts_halt(dut):
    """``halt`` at any time: an offered burst stays, nothing new comes, soon idle."""
    rng = bench_rng("halt")
    infos, bursts = [], []
    driver = StreamDriver(dut, "row", row_layout())
    StreamMonitor(dut, "info", row_info_layout(CONFIG), on_item=infos.append)
    StreamMonitor(
        dut, "burst", ADDRESS, rate=0.3, on_item=lambda b: bursts.append((b["addr"], b["len"]))
    )
    dut.memory_base.value, dut.memory_bytes.value = BASE, LIMIT
    await start_clock(dut)
    for turn in range(30):
        row = random_row(rng) | {"offset": 4096 - 3 * R, "bytes": 8200, "used": 8200, "last": 1}
        driver.send(row)
        await ClockCycles(dut.clk, 2 + turn)
        offered = int(dut.burst__valid.value)
        dut.halt.value = 1
        await RisingEdge(dut.clk)
        count = len(bursts)
        await ClockCycles(dut.clk, 40)
        assert int(dut.idle.value)
        assert len(bursts) - count <= 1 + offered
        assert bursts == cut(row)[1][: len(bursts)]
        bursts.clear()
        dut.halt.value = 0
        await driver.drain()
        dut.halt.value = 1
        await ClockCycles(dut.clk, 40)
        dut.halt.value = 0
        bursts.clear()
    assert infos


@cocotb.test(timeout_time=10, timeout_unit="us")
async def bursts_latency(dut):
    """The first burst comes LATENCY cycles after its row."""
    driver = StreamDriver(dut, "row", row_layout())
    dut.memory_base.value, dut.memory_bytes.value = BASE, LIMIT
    dut.info__ready.value = 1
    dut.burst__ready.value = 1
    await start_clock(dut)
    driver.send({"offset": 3, "bytes": 9, "used": 9, "error": 0, "last": 1})
    at = {}
    for cycle in range(20):
        await RisingEdge(dut.clk)
        if int(dut.row__valid.value) and int(dut.row__ready.value):
            at.setdefault("row", cycle)
        if int(dut.burst__valid.value):
            at.setdefault("burst", cycle)
    assert at["burst"] - at["row"] == RowBursts.LATENCY


# AxiReadArbiter


class Reader:
    """One of the two readers: asks for random bursts, checks that it gets exactly its beats."""

    def __init__(self, dut, name, memory, rng, *, ask=1.0, take=1.0):
        self.memory, self.rng = memory, rng
        self.board = Scoreboard(name=f"{name} beat")
        self.driver = StreamDriver(dut, f"{name}__ar", ADDRESS, rate=ask)
        self.monitor = StreamMonitor(dut, f"{name}__r", BEAT, rate=take, on_item=self._beat)

    def _beat(self, item):
        self.board.check((item["data"], item["last"]))

    def ask(self, count, most):
        for _ in range(count):
            beats = integer(self.rng, 1, most)
            first = self.rng.randrange(len(self.memory) // R - beats)
            first = first if first * R // 4096 == (first + beats - 1) * R // 4096 else 0
            for i in range(beats):
                place = (first + i) * R
                word = int.from_bytes(self.memory[place : place + R].tobytes(), "little")
                self.board.expect((word, int(i == beats - 1)))
            self.driver.send({"addr": BASE + first * R, "len": beats - 1})


@cocotb.test(timeout_time=300, timeout_unit="us")
@cocotb.parametrize(
    (
        ("latency", "ask", "data_rate", "take"),
        [(1, 1.0, 1.0, 1.0), (20, 1.0, 1.0, 1.0), (5, 0.6, 0.5, 0.4), (2, 0.1, 1.0, 0.9)],
    )
)
async def arbiter_routes(dut, latency, ask, data_rate, take):
    """Both get what they asked for, with at most ``max_outstanding`` bursts on their way."""
    rng = bench_rng(f"arbiter {latency}")
    memory = np.array([rng.randrange(256) for _ in range(16384)], dtype=np.uint8)
    outside = MemoryReader(
        dut, memory, beat=R, prefix="memory__", base=BASE, latency=latency, data_rate=data_rate
    )
    readers = [Reader(dut, name, memory, rng, ask=ask, take=take) for name in ("fetch", "load")]
    for reader in readers:
        reader.ask(60, 9)
    await start_clock(dut)
    most = 0
    ended = 0  # bursts whose last beat has left the memory
    while not all(reader.board.done for reader in readers):
        await RisingEdge(dut.clk)
        most = max(most, len(outside.bursts) - ended)
        taken = dut.memory__r__valid.value == 1 and dut.memory__r__ready.value == 1
        ended += taken and int(dut.memory__r__payload.value) >> (8 * R + 2)  # last
    await ClockCycles(dut.clk, 10)
    for reader in readers:
        reader.board.assert_drained()
    assert len(outside.bursts) == 120
    assert most <= 8
    if latency == 20:
        assert most >= 7  # it does run ahead


@cocotb.test(timeout_time=20, timeout_unit="us")
async def arbiter_prefers_fetch(dut):
    """Of two that wait, ``fetch`` goes first; beats go through at one per cycle."""
    rng = bench_rng("prefer")
    memory = np.arange(16384, dtype=np.uint16).astype(np.uint8)
    outside = MemoryReader(dut, memory, beat=R, prefix="memory__", base=BASE, latency=9)
    fetch, load = (Reader(dut, name, memory, rng) for name in ("fetch", "load"))
    await start_clock(dut)
    for reader in (fetch, load):
        reader.ask(6, 1)
    load.ask(40, 8)
    cycles = Counter()
    while not (fetch.board.done and load.board.done):
        await RisingEdge(dut.clk)
        cycles["all"] += 1
    assert outside.beats <= cycles["all"] <= outside.beats + 24, cycles
    expected = fetch.board.checked
    assert expected == 6
    # The first six bursts are those of fetch: one beat each.
    assert [beats for _, beats in outside.bursts[:12]] == [1] * 12
    assert cycles["all"] > 0 and AxiReadArbiter.LATENCY == 1
