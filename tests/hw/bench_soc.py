"""Benches of what stands around the accelerator on a board, one group of tests per component."""

import random
from collections import deque

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.triggers import ClockCycles, RisingEdge, Timer
from cocotbext.axi import AxiLiteBus, AxiLiteRam

from intaglio.spec import link
from intaglio.spec.link import Command, Request, Response, Status
from intaglio_sim.bfm import MemoryReader, MemoryWriter, StreamDriver, StreamMonitor, start_clock
from intaglio_sim.bfm.clock import PERIOD_NS
from intaglio_sim.runner import bench_config
from intaglio_sim.scoreboard import Scoreboard
from intaglio_sim.stimulus import bench_rng

R = bench_config().R
ADDRESS = data.StructLayout({"addr": 32, "len": 8})
BEAT = data.StructLayout({"data": 8 * R, "resp": 2, "last": 1})
SENT = data.StructLayout({"data": 8 * R, "last": 1})
ANSWER = data.StructLayout({"resp": 2})
#: What test_soc.py builds.
DIVISOR, GAP_CYCLES, MEMORY_BYTES, CLOCK_HZ = 7, 200, 3 * 4096, 12_345_678


# The serial line


async def drive_bits(pin, byte: int, bit_ns: float, *, stop: int = 1) -> None:
    for level in (0, *(byte >> i & 1 for i in range(8)), stop):
        pin.value = level
        await Timer(round(1000 * bit_ns), "ps")
    pin.value = 1


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(error=[0.0, 0.02, -0.02])
async def receiver_takes_bytes(dut, error):
    """Bytes back to back, at the right rate and at both limits of the wrong one."""
    dut.rx.value = 1
    arrived = StreamMonitor(dut, "o")
    await start_clock(dut)
    await ClockCycles(dut.clk, 20)
    items = [0, 255, 0x55, 0xAA, *(1 << i for i in range(8)), *range(3, 256, 9)]
    for byte in items:
        await drive_bits(dut.rx, byte, DIVISOR * PERIOD_NS * (1 + error))
    await ClockCycles(dut.clk, 2 * DIVISOR)
    assert arrived.items == items


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def receiver_drops_a_byte_without_stop_bit(dut):
    dut.rx.value = 1
    arrived = StreamMonitor(dut, "o")
    await start_clock(dut)
    bit = DIVISOR * PERIOD_NS
    for byte, stop in ((0x55, 1), (0xFF, 0), (0x0F, 1)):
        await drive_bits(dut.rx, byte, bit, stop=stop)
        await Timer(20 * bit, "ns")
    assert arrived.items == [0x55, 0x0F]


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(feed=[1.0, 0.01])
async def transmitter_sends_bytes(dut, feed):
    """The line holds each bit for DIVISOR cycles, without gaps while bytes wait."""
    rng = bench_rng(f"transmitter {feed}")
    items = [0, 255, 0x55, *(rng.randrange(256) for _ in range(20))]
    driver = StreamDriver(dut, "i", rate=feed)
    driver.extend(items)
    await start_clock(dut)
    edge, found, cycles = RisingEdge(dut.clk), [], 0
    while len(found) < len(items):
        await edge
        cycles += 1
        if int(dut.tx.value):
            continue
        bits = []
        for _ in range(10):
            levels = []
            for _ in range(DIVISOR):
                levels.append(int(dut.tx.value))
                if len(bits) < 9 or len(levels) < DIVISOR:
                    await edge
                    cycles += 1
            assert len(set(levels)) == 1, levels
            bits.append(levels[0])
        assert bits[0] == 0 and bits[9] == 1
        found.append(sum(bit << i for i, bit in enumerate(bits[1:9])))
    assert found == items
    if feed == 1.0:
        assert cycles <= len(items) * 10 * DIVISOR + 10


# The arbiter of writers


def idle_reads(dut) -> None:
    """Let nobody read."""
    for name in ("first__read__ar__valid", "second__read__ar__valid", "memory__read__r__valid"):
        getattr(dut, name).value = 0


def infix(dut, name: str) -> str:
    """Return what stands between the manager ``name`` and its channels of writing."""
    return "__write__" if hasattr(dut, f"{name}__write__aw__valid") else "__"


class Writer:
    """Writes random bursts through the port ``name``; counts answers."""

    def __init__(self, dut, name: str, rng, pages: range, *, rate: float, take: float):
        port = name + infix(dut, name)
        if "write" in port:
            idle_reads(dut)
        self.aw = StreamDriver(dut, f"{port}aw", ADDRESS, rate=rate)
        self.w = StreamDriver(dut, f"{port}w", SENT, rate=rate)
        self.b = StreamMonitor(dut, f"{port}b", ANSWER, rate=take)
        self.rng, self.pages, self.asked = rng, pages, 0
        self.expected: dict[int, int] = {}

    def ask(self, count: int, most: int) -> None:
        for _ in range(count):
            beats = self.rng.randint(1, most)
            address = 4096 * self.rng.choice(self.pages) + R * self.rng.randrange(4096 // R - beats)
            self.aw.send({"addr": address, "len": beats - 1})
            for i in range(beats):
                word = self.rng.getrandbits(8 * R)
                self.expected[address + R * i] = word
                self.w.send({"data": word, "last": int(i == beats - 1)})
            self.asked += 1


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize((("rate", "take", "latency"), [(1.0, 1.0, 1), (1.0, 0.3, 20), (0.4, 1.0, 20)]))
async def arbiter_routes_writes(dut, rate, take, latency):
    """Both writers' bursts arrive whole, and each gets its own answers."""
    rng = bench_rng(f"writes {rate} {take} {latency}")
    memory = np.zeros(4 * 4096, np.uint8)
    outside = MemoryWriter(
        dut,
        memory,
        beat=R,
        prefix="memory" + infix(dut, "memory"),
        latency=latency,
        address_rate=rate,
        data_rate=take,
    )
    writers = [
        Writer(dut, name, rng, pages, rate=rate, take=take)
        for name, pages in (("first", range(0, 2)), ("second", range(2, 4)))
    ]
    for writer in writers:
        writer.ask(20, 9)
    await start_clock(dut)
    for writer in writers:
        await writer.b.wait_for(writer.asked)
    await ClockCycles(dut.clk, 10)
    assert outside.idle and len(outside.bursts) == 40
    for writer in writers:
        assert writer.b.count == writer.asked
        assert all(item["resp"] == 0 for item in writer.b.items)
        for address, word in writer.expected.items():
            found = int.from_bytes(memory[address : address + R].tobytes(), "little")
            assert found == word, hex(address)


@cocotb.test(timeout_time=100, timeout_unit="us")
async def arbiter_keeps_answers_apart(dut):
    """An error goes to the writer whose burst it was."""
    memory = np.zeros(4096, np.uint8)
    MemoryWriter(dut, memory, beat=R, prefix="memory" + infix(dut, "memory")).bad_addresses = {R}
    rng = bench_rng("answers")
    first, second = (
        Writer(dut, name, rng, range(1), rate=1.0, take=1.0) for name in ("first", "second")
    )
    for writer, address in ((first, 0), (second, R), (first, R), (second, 0)):
        writer.aw.send({"addr": address, "len": 0})
        writer.w.send({"data": 1, "last": 1})
    await start_clock(dut)
    for writer in (first, second):
        await writer.b.wait_for(2)
    assert [item["resp"] for item in first.b.items] == [0, 2]
    assert [item["resp"] for item in second.b.items] == [2, 0]


class Manager:
    """Reads and writes random bursts of its own pages through both directions of ``name``."""

    def __init__(self, dut, name: str, pages: range, rng, memory, *, rate: float, take: float):
        self.pages, self.rng, self.memory = pages, rng, memory
        self.order = StreamDriver(dut, f"{name}__read__ar", ADDRESS, rate=rate)
        self.beats = StreamMonitor(dut, f"{name}__read__r", BEAT, rate=take)
        self.aw = StreamDriver(dut, f"{name}__write__aw", ADDRESS, rate=rate)
        self.w = StreamDriver(dut, f"{name}__write__w", SENT, rate=rate)
        self.b = StreamMonitor(dut, f"{name}__write__b", ANSWER, rate=take)

    async def run(self, bursts: int) -> None:
        """Write, with a read of another page at the same time; then read what was written."""
        asked = 0
        for burst in range(bursts):
            beats = self.rng.randint(1, 9)
            target, other = self.rng.sample(self.pages, 2)
            address = 4096 * target + R * self.rng.randrange(4096 // R - beats)
            words = [self.rng.getrandbits(8 * R) for _ in range(beats)]
            elsewhere = 4096 * other + R * self.rng.randrange(4096 // R - beats)
            expected = self.words(elsewhere, beats)
            self.aw.send({"addr": address, "len": beats - 1})
            for i, word in enumerate(words):
                self.w.send({"data": word, "last": int(i == beats - 1)})
            self.order.send({"addr": elsewhere, "len": beats - 1})
            await self.b.wait_for(burst + 1)
            self.order.send({"addr": address, "len": beats - 1})
            asked += 2 * beats
            await self.beats.wait_for(asked)
            found, self.beats.items[:] = self.beats.items[:], []
            assert [item["data"] for item in found] == expected + words
            assert [item["last"] for item in found] == 2 * [*([0] * (beats - 1)), 1]
            assert not any(item["resp"] for item in found)
        assert self.b.count == bursts and not any(item["resp"] for item in self.b.items)

    def words(self, address: int, beats: int) -> list[int]:
        return [
            int.from_bytes(self.memory[place : place + R].tobytes(), "little")
            for place in range(address, address + R * beats, R)
        ]


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize((("rate", "take", "latency"), [(1.0, 1.0, 1), (0.5, 0.3, 9)]))
async def bursts_go_one_after_the_other(dut, rate, take, latency):
    """Both managers read and write at once; the memory sees a burst when the one before is over."""
    rng = bench_rng(f"bursts {rate} {take} {latency}")
    memory = np.array([rng.randrange(256) for _ in range(4 * 4096)], np.uint8)
    options = {"beat": R, "latency": latency, "address_rate": rate, "data_rate": take}
    reader = MemoryReader(dut, memory, prefix="memory__read__", **options)
    writer = MemoryWriter(dut, memory, prefix="memory__write__", **options)
    managers = [
        Manager(dut, name, pages, rng, memory, rate=rate, take=take)
        for name, pages in (("first", range(0, 2)), ("second", range(2, 4)))
    ]
    await start_clock(dut)
    running = [cocotb.start_soon(manager.run(15)) for manager in managers]
    edge, open_bursts, seen = RisingEdge(dut.clk), 0, 0
    channels = {
        "memory__read__ar": 1,
        "memory__write__aw": 1,
        "memory__read__r": -1,
        "memory__write__b": -1,
    }
    while not all(task.done() for task in running):
        await edge
        for name, change in channels.items():
            moves = getattr(dut, f"{name}__valid").value and getattr(dut, f"{name}__ready").value
            last = int(dut.memory__read__r__payload.value) >> 8 * R + 2
            if moves and (name[-3:] != "__r" or last):
                open_bursts += change
                seen += change > 0
        assert open_bursts in (0, 1)
    for task in running:
        await task
    assert seen == len(reader.bursts) + len(writer.bursts) == 2 * 15 * 3


# The memory


class MemoryUser:
    """Both ports of the memory, and a model of its bytes."""

    def __init__(self, dut, *, rate: float = 1.0, take: float = 1.0):
        self.aw = StreamDriver(dut, "write__aw", ADDRESS, rate=rate)
        self.w = StreamDriver(dut, "write__w", SENT, rate=rate)
        self.b = StreamMonitor(dut, "write__b", ANSWER, rate=take)
        self.ar = StreamDriver(dut, "read__ar", ADDRESS, rate=rate)
        self.board = Scoreboard()
        self.r = StreamMonitor(
            dut,
            "read__r",
            BEAT,
            rate=take,
            on_item=lambda item: self.board.check(
                (None if item["resp"] else item["data"], item["resp"], item["last"])
            ),
        )
        self.model: dict[int, int] = {}
        self.responses = 0

    async def write(self, address: int, words: list[int]) -> int:
        self.aw.send({"addr": address, "len": len(words) - 1})
        for i, word in enumerate(words):
            self.w.send({"data": word, "last": int(i == len(words) - 1)})
            if address < MEMORY_BYTES:
                self.model[address + R * i] = word
        self.responses += 1
        await self.b.wait_for(self.responses)
        return self.b.items.pop()["resp"]

    def read(self, address: int, beats: int) -> None:
        self.ar.send({"addr": address, "len": beats - 1})
        for i in range(beats):
            inside = address < MEMORY_BYTES
            word = self.model.get(address + R * i, 0) if inside else None
            self.board.expect((word, 0 if inside else 2, int(i == beats - 1)))

    async def settle(self) -> None:
        while not self.board.done:
            await RisingEdge(self.b._clk)
        self.board.assert_drained()


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize((("rate", "take"), [(1.0, 1.0), (0.5, 0.3)]))
async def memory_keeps_what_is_written(dut, rate, take):
    """All of it, in every bank, at once after the answer; nothing outside of it."""
    rng = bench_rng(f"memory {rate} {take}")
    user = MemoryUser(dut, rate=rate, take=take)
    await start_clock(dut)
    for page in range(MEMORY_BYTES // 4096):
        for part in range(0, 4096, 128 * R):
            words = [rng.getrandbits(8 * R) for _ in range(min(128, 4096 // R))]
            assert await user.write(4096 * page + part, words) == 0
    for _ in range(10):
        beats = rng.choice((1, 2, 3, 16, 64))
        page = rng.randrange(MEMORY_BYTES // 4096)
        address = 4096 * page + R * rng.randrange(4096 // R - beats + 1)
        if rng.random() < 0.5:
            words = [rng.getrandbits(8 * R) for _ in range(beats)]
            assert await user.write(address, words) == 0
        user.read(address, beats)
        await user.settle()
    for address in (MEMORY_BYTES, 1 << 20, (1 << 32) - 4096):
        assert await user.write(address, [1, 2]) == 2
        user.read(address, 3)
        await user.settle()
    for page in range(MEMORY_BYTES // 4096):
        user.read(4096 * page, min(256, 4096 // R))
    await user.settle()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def blocks_are_fast(dut):
    """One beat per cycle in both directions at once, LATENCY cycles to the first."""
    from intaglio_hw.soc import BlockMemory

    user = MemoryUser(dut)
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    assert await user.write(0, list(range(64))) == 0
    user.read(0, 64)
    cycle, taken, first = 0, None, None
    while first is None:
        await edge
        cycle += 1
        if taken is None and int(dut.read__ar__valid.value) and int(dut.read__ar__ready.value):
            taken = cycle
        if int(dut.read__r__valid.value):
            first = cycle
    assert first - taken == BlockMemory.LATENCY
    await user.settle()
    cycles = 0
    for _ in range(4):
        user.read(0, 64)
    write = cocotb.start_soon(user.write(4096, list(range(256 if R == 8 else 64))))
    while not user.board.done:
        await edge
        cycles += 1
    assert cycles <= 4 * 65 + BlockMemory.LATENCY + 4
    assert await write == 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def single_port_is_fast(dut):
    """A beat is written per cycle, and read in two, LATENCY cycles to the first."""
    from intaglio_hw.soc import SinglePortMemory

    user = MemoryUser(dut)
    await start_clock(dut)
    edge, words = RisingEdge(dut.clk), list(range(64))
    for write in (True, False):
        task = cocotb.start_soon(user.write(0, words)) if write else None
        if not write:
            user.read(0, 64)
        name, answer = ("write__aw", "write__b") if write else ("read__ar", "read__r")
        cycle, taken, first = 0, None, None
        while first is None:
            await edge
            cycle += 1
            if getattr(dut, f"{name}__valid").value and getattr(dut, f"{name}__ready").value:
                taken = cycle
            if getattr(dut, f"{answer}__valid").value:
                first = cycle
        assert first - taken <= 66 if write else first - taken == SinglePortMemory.LATENCY
        if task is not None:
            assert await task == 0
        else:
            while not user.board.done:
                await edge
                cycle += 1
            assert cycle - first <= 2 * 64 + 1


# The bridge


class Bridge:
    """The bridge between a host and models of registers and memory."""

    def __init__(self, dut, *, take: float = 1.0):
        self.dut, self.clk = dut, dut.clk
        self.rng = random.Random(7)
        self.line = StreamDriver(dut, "rx")
        self.out = StreamMonitor(dut, "tx", rate=take)
        self.memory = np.array([self.rng.randrange(256) for _ in range(4096)], np.uint8)
        self.reader = MemoryReader(dut, self.memory, beat=R, prefix="read__")
        self.writer = MemoryWriter(dut, self.memory, beat=R, prefix="write__")
        self.sequence = 0
        self.dut.interrupt.value = 0

    async def begin(self) -> None:
        await start_clock(self.dut)
        self.registers = AxiLiteRam(
            AxiLiteBus.from_prefix(self.dut, "m_axil"), self.dut.clk, self.dut.rst, size=64
        )

    def request(self, command, address, length, payload=b"", *, sequence=None) -> bytes:
        self.sequence = (self.sequence + 1) % 256 if sequence is None else sequence
        return Request(
            command=command,
            sequence=self.sequence,
            length=length,
            address=address,
            payload=payload,
        ).encode()

    async def response(self, payload_bytes: int) -> Response:
        size = Response.frame_bytes(payload_bytes)
        await self.out.wait_for(self.taken + size)
        frame = bytes(self.out.items[:size])
        del self.out.items[:size]
        self.taken += size
        return Response.decode(frame)

    taken = 0

    async def ask(self, command, address, length, payload=b"", *, answer=None, sequence=None):
        """Send a request; return its response, which has ``answer`` bytes of payload."""
        self.line.extend(self.request(command, address, length, payload, sequence=sequence))
        response = await self.response(answer or 0)
        assert response.sequence == self.sequence
        await ClockCycles(self.clk, 2)
        return response

    async def silent(self, cycles: int) -> None:
        """Check that nothing is sent for ``cycles`` cycles."""
        await self.line.drain()
        await ClockCycles(self.clk, cycles)
        assert not self.out.items and not int(self.dut.active.value)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(take=[1.0, 0.2])
async def bridge_reaches_registers(dut, take):
    bridge = Bridge(dut, take=take)
    await bridge.begin()
    for address, value in ((0, 0x0123_4567), (0x3C, 0xFFFF_FFFF), (4, 0), (8, 0x8000_0001)):
        word = value.to_bytes(4, "little")
        written = await bridge.ask(Command.WRITE_REGISTER, address, 4, word)
        assert written.status == Status.OK
        assert bridge.registers.read(address, 4) == word
        read = await bridge.ask(Command.READ_REGISTER, address, 4, answer=4)
        assert (read.status, read.payload) == (Status.OK, word)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bridge_has_registers_of_its_own(dut):
    bridge = Bridge(dut)
    await bridge.begin()
    values = {
        "session": link.LINK_VERSION,
        "memory_bytes": MEMORY_BYTES,
        "beat_bytes": R,
        "clock_hz": CLOCK_HZ,
        "interrupt": 0,
    }
    assert list(values) == [register.name for register in link.BRIDGE_REGISTERS]
    for name, value in values.items():
        address = link.bridge_register(name).address
        found = await bridge.ask(Command.READ_REGISTER, address, 4, answer=4)
        assert int.from_bytes(found.payload, "little") == value, name
    dut.interrupt.value = 1
    found = await bridge.ask(
        Command.READ_REGISTER, link.bridge_register("interrupt").address, 4, answer=4
    )
    assert found.payload == b"\x01\0\0\0"
    after = link.BRIDGE_REGISTERS[-1].address + 4
    for command, payload in ((Command.READ_REGISTER, b""), (Command.WRITE_REGISTER, bytes(4))):
        assert (await bridge.ask(command, after, 4, payload)).status == Status.REFUSED
    for name in ("memory_bytes", "interrupt"):
        address = link.bridge_register(name).address
        refused = await bridge.ask(Command.WRITE_REGISTER, address, 4, bytes(4))
        assert refused.status == Status.REFUSED


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(take=[1.0, 0.5])
async def bridge_reaches_memory(dut, take):
    """Every length, at the border of a transfer, too; one burst for each request."""
    bridge = Bridge(dut, take=take)
    await bridge.begin()
    rng = bench_rng("bridge memory")
    most = link.MAX_PAYLOAD
    for offset, length in ((0, R), (R, 5 * R), (most - R, R), (most, most), (3 * most, 17 * R)):
        payload = rng.randbytes(length)
        before = bridge.memory.copy()
        written = await bridge.ask(Command.WRITE_MEMORY, offset, length, payload)
        assert written.status == Status.OK
        before[offset : offset + length] = np.frombuffer(payload, np.uint8)
        assert (bridge.memory == before).all()
        read = await bridge.ask(Command.READ_MEMORY, offset, length, answer=length)
        assert (read.status, read.payload) == (Status.OK, payload)
    assert len(bridge.reader.bursts) == len(bridge.writer.bursts) == 5


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bridge_tells_errors(dut):
    """What memory and registers refuse, and what a request must not ask."""
    bridge = Bridge(dut)
    await bridge.begin()
    outside = len(bridge.memory)
    assert (await bridge.ask(Command.READ_MEMORY, outside, R)).status == Status.MEMORY
    refused = await bridge.ask(Command.WRITE_MEMORY, outside, R, bytes(R))
    assert refused.status == Status.MEMORY
    bridge.reader.bad_addresses.add(3 * R)
    assert (await bridge.ask(Command.READ_MEMORY, 0, 6 * R)).status == Status.MEMORY
    most = link.MAX_PAYLOAD
    bad = [
        (Command.READ_REGISTER, 0, 8),
        (Command.READ_REGISTER, 0, 0),
        (Command.READ_REGISTER, 2, 4),
        (Command.READ_REGISTER, 0x2000, 4),
        (Command.READ_REGISTER, 0x1_0000_0000 - 4, 4),
        (Command.READ_MEMORY, 0, 0),
        (Command.READ_MEMORY, 0, R - 1),
        (Command.READ_MEMORY, 1, R),
        (Command.READ_MEMORY, most - R, 2 * R),
        (Command.READ_MEMORY, 0, most + R),
        (Command.WRITE_REGISTER, 0, 3),
        (Command.WRITE_REGISTER, 0, 0),
        (Command.WRITE_MEMORY, 0, 0),
        (Command.WRITE_MEMORY, most - R, 2 * R),
        (Command.WRITE_MEMORY, 4, R),
        (0x00, 0, 4),
        (0x30, 0, 4),
        (0x41, 0, 4),
    ]
    bursts = len(bridge.reader.bursts), len(bridge.writer.bursts)
    for command, address, length in bad:
        payload = bytes(length) if command & 1 else b""
        answer = await bridge.ask(command, address, length, payload)
        assert answer.status == Status.FORMAT, (command, address, length)
    assert (len(bridge.reader.bursts), len(bridge.writer.bursts)) == bursts


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def bridge_drops_what_is_damaged(dut):
    """Any bit that flips: no response, nothing done; the repetition is carried out."""
    bridge = Bridge(dut)
    await bridge.begin()
    before = bridge.memory.copy()
    frame = bridge.request(Command.WRITE_MEMORY, 0, R, bytes(range(R)))
    for bit in range(0, 8 * len(frame), 9):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        bridge.line.extend(damaged)
        await bridge.silent(GAP_CYCLES + 20)
    assert (bridge.memory == before).all()
    # Half a request, then silence; then a length that cannot be, and noise.
    bridge.line.extend(frame[: len(frame) // 2])
    await bridge.silent(GAP_CYCLES + 20)
    bridge.line.extend(bridge.request(Command.WRITE_MEMORY, 0, link.MAX_PAYLOAD + R)[:-4])
    await bridge.silent(20)
    bridge.line.extend(b"\x00\xff\x5a")
    bridge.line.extend(bridge.request(Command.WRITE_MEMORY, 0, R, bytes(range(R))))
    assert (await bridge.response(0)).status == Status.OK
    assert bytes(bridge.memory[:R]) == bytes(range(R))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bridge_does_not_repeat_writes(dut):
    """The sequence number tells a repetition; a read in between or a new session forgets it."""
    bridge = Bridge(dut)
    await bridge.begin()
    session = link.bridge_register("session").address

    async def write(value: int, sequence: int) -> bytes:
        word = bytes([value] * 4)
        answer = await bridge.ask(Command.WRITE_REGISTER, 0, 4, word, sequence=sequence)
        assert answer.status == Status.OK
        return bytes(bridge.registers.read(0, 4))

    assert await write(1, 0) == bytes([1] * 4)  # after the reset nothing is a repetition
    assert await write(2, 0) == bytes([1] * 4)
    assert await write(3, 1) == bytes([3] * 4)
    assert await write(4, 1) == bytes([3] * 4)
    await bridge.ask(Command.READ_REGISTER, 0, 4, answer=4, sequence=2)
    assert await write(5, 1) == bytes([5] * 4)
    # A failure is told again.
    for _ in range(2):
        answer = await bridge.ask(Command.WRITE_MEMORY, len(bridge.memory), R, bytes(R), sequence=9)
        assert answer.status == Status.MEMORY
    assert len(bridge.writer.bursts) == 1
    await bridge.ask(Command.WRITE_REGISTER, session, 4, bytes(4), sequence=9)
    assert await write(6, 10) == bytes([6] * 4)
    assert await write(7, 10) == bytes([6] * 4)
    # Damage in between changes nothing.
    damaged = bytearray(bridge.request(Command.WRITE_REGISTER, 0, 4, bytes(4), sequence=77))
    damaged[-1] ^= 1
    bridge.line.extend(damaged)
    await bridge.silent(GAP_CYCLES + 20)
    assert await write(8, 10) == bytes([6] * 4)


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def bridge_lives_on_noise(dut):
    """Random bytes, among them beginnings of requests, and real requests after a gap."""
    bridge = Bridge(dut)
    await bridge.begin()
    rng = bench_rng("noise")
    expected: deque = deque()
    for turn in range(8):
        noise = rng.randbytes(rng.randrange(1, 40))
        if turn % 2:
            noise += bytes([link.REQUEST_SYNC]) + rng.randbytes(rng.randrange(12))
        bridge.line.extend(noise)
        await bridge.silent(GAP_CYCLES + 20)
        offset = R * rng.randrange(16)
        expected.append(bytes(bridge.memory[offset : offset + R]))
        answer = await bridge.ask(Command.READ_MEMORY, offset, R, answer=R)
        assert answer.payload == expected.popleft()
