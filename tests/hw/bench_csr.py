"""The registers over AXI4-Lite (cocotbext-axi), against the table and a model."""

import itertools
import logging

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from intaglio.spec import regs
from intaglio_hw.csr import events_layout
from intaglio_sim.bfm import pack, start_clock
from intaglio_sim.runner import bench_config
from intaglio_sim.stimulus import bench_rng

OKAY, SLVERR = AxiResp.OKAY, AxiResp.SLVERR
WRITABLE = [item for item in regs.REGISTERS if item.access == "rw"]
MACHINE_INPUTS = ("busy", "done", "failed", "finished", "error", "error_instruction", "events")


def address(name: str) -> int:
    return regs.register(name).address


def mask(register: regs.Register) -> int:
    """Return the bits that a register has."""
    return (1 << (sum(field.width for field in register.fields) or 32)) - 1


def gaps(rng, rate: float):
    """Return an endless pattern of pauses, or None."""
    return None if rate >= 1 else (rng.random() >= rate for _ in itertools.count())


class Bench:
    """The bus master and the inputs that the rest of the machine drives."""

    def __init__(self, dut, *, master: bool = True):
        self.dut, self.rng = dut, bench_rng()
        self.starts = self.stops = 0
        for name in MACHINE_INPUTS:
            getattr(dut, name).value = 0
        if not master:
            return
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.master.write_if.log.setLevel(logging.WARNING)
        self.master.read_if.log.setLevel(logging.WARNING)

    async def begin(self) -> None:
        await start_clock(self.dut)
        cocotb.start_soon(self._watch())
        await RisingEdge(self.dut.clk)

    async def _watch(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            self.starts += int(self.dut.start.value)
            self.stops += int(self.dut.stop.value)

    def stall(self, address_rate: float, data_rate: float, response_rate: float) -> None:
        write, read = self.master.write_if, self.master.read_if
        for channel, rate in (
            (write.aw_channel, address_rate),
            (read.ar_channel, address_rate),
            (write.w_channel, data_rate),
            (write.b_channel, response_rate),
            (read.r_channel, response_rate),
        ):
            pattern = gaps(self.rng, rate)
            if pattern is not None:
                channel.set_pause_generator(pattern)

    async def read(self, at: int) -> tuple[int, AxiResp]:
        answer = await self.master.read(at, 4)
        return int.from_bytes(answer.data, "little"), answer.resp

    async def value(self, name: str) -> int:
        value, resp = await self.read(address(name))
        assert resp == OKAY, f"{name}: {resp!r}"
        return value

    async def write(self, at: int, value: int) -> AxiResp:
        return (await self.master.write(at, value.to_bytes(4, "little"))).resp

    async def set(self, name: str, value: int) -> None:
        assert await self.write(address(name), value) == OKAY, name


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def constants_after_reset(dut):
    bench = Bench(dut)
    await bench.begin()
    config = bench_config()
    expected = {
        "identity": int.from_bytes(b"INTA", "little"),
        "version": 0x0001_0000,
        "lanes": config.R | config.K << 8 | config.drain_lanes << 16,
        "config": int(config.digest(), 16) & 0xFFFF_FFFF,
    }
    for register in regs.REGISTERS:
        value = await bench.value(register.name)
        assert value == expected.pop(register.name, 0), f"{register.name}: 0x{value:08x}"
    assert not expected
    assert not int(dut.interrupt.value)


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(address_rate=[1.0, 0.3], data_rate=[1.0, 0.3], response_rate=[1.0, 0.3])
async def access_rules(dut, address_rate, data_rate, response_rate):
    """Random reads and writes anywhere, whole words and single bytes, against a model."""
    bench = Bench(dut)
    await bench.begin()
    bench.stall(address_rate, data_rate, response_rate)
    rng = bench.rng
    known = {item.address: item for item in regs.REGISTERS}
    model = {item.name: 0 for item in WRITABLE}
    counts = {"ok": 0, "error": 0}
    for _ in range(100):
        busy = rng.random() < 0.3
        dut.busy.value = int(busy)
        item = rng.choice([*WRITABLE * 12, *regs.REGISTERS, *[None] * 5])
        at = item.address if item else rng.choice([0x3C, 0x7C, 0xC0, 0xFFC, 0x800, 0x410])
        assert (item is not None) == (at in known)
        if rng.random() < 0.6:
            first, size = rng.choice(
                [(0, 4), (0, 4), (0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (2, 2)]
            )
            value = rng.getrandbits(8 * size)
            if item is not None and item.name == "control":
                value = 0  # actions have their own test
            answer = await bench.master.write(at + first, value.to_bytes(size, "little"))
            may = item is not None and (
                item.access in ("w1", "w1c")
                or (item.access == "rw" and (not busy or item.name == "interrupt_enable"))
            )
            assert answer.resp == (OKAY if may else SLVERR), f"write 0x{at:x}: {answer.resp!r}"
            counts["ok" if may else "error"] += 1
            if may and item.access == "rw":
                bits = ((1 << (8 * size)) - 1) << (8 * first)
                merged = model[item.name] & ~bits | value << (8 * first)
                model[item.name] = merged & mask(item)
        for name, value in model.items():
            if name != "interrupt_enable":
                assert int(getattr(dut, name).value) == value, name
        value, resp = await bench.read(at)
        assert resp == (OKAY if item else SLVERR)
        if item is None:
            assert value == 0
        elif item.access == "rw":
            assert value == model[item.name], item.name
    assert min(counts.values()) > 10, counts
    assert bench.starts == bench.stops == 0


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(order=["address first", "data first", "together"])
async def address_and_data_in_any_order(dut, order):
    """By hand: one of the two comes many cycles before the other; the answer waits for both."""
    await Bench(dut, master=False).begin()
    edge = RisingEdge(dut.clk)
    wait = {"address first": (0, 9), "data first": (9, 0), "together": (0, 0)}[order]

    async def offer(channel: str, delay: int) -> None:
        if delay:
            await ClockCycles(dut.clk, delay)
            assert not int(dut.s_axil_bvalid.value), "answered too early"
        valid = getattr(dut, f"s_axil_{channel}valid")
        valid.value = 1
        while True:
            await edge
            if int(getattr(dut, f"s_axil_{channel}ready").value):
                break
        valid.value = 0

    dut.s_axil_bready.value = 0
    for number, name in enumerate(("program_base", "program_length", "cycle_limit")):
        dut.s_axil_awaddr.value = address(name)
        dut.s_axil_wdata.value = 0x1234_5678 + number
        dut.s_axil_wstrb.value = 15
        tasks = [
            cocotb.start_soon(offer("aw", wait[0])),
            cocotb.start_soon(offer("w", wait[1])),
        ]
        for task in tasks:
            await task
        await ClockCycles(dut.clk, 5)
        for _ in range(3):  # the answer stays until it is taken
            await edge
            assert int(dut.s_axil_bvalid.value) and int(dut.s_axil_bresp.value) == OKAY
        dut.s_axil_bready.value = 1
        await edge
        dut.s_axil_bready.value = 0
        await edge
        assert not int(dut.s_axil_bvalid.value)
        assert int(getattr(dut, name).value) == 0x1234_5678 + number


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def start_and_stop(dut):
    bench = Bench(dut)
    await bench.begin()
    start, stop = 1, 2
    await bench.set("control", 0)
    assert (bench.starts, bench.stops) == (0, 0)
    await bench.set("control", start)
    assert (bench.starts, bench.stops) == (1, 0)
    assert await bench.value("control") == 0
    await bench.set("control", stop)
    assert (bench.starts, bench.stops) == (1, 1)
    dut.busy.value = 1
    await bench.set("control", start | stop)
    await ClockCycles(dut.clk, 3)
    assert (bench.starts, bench.stops) == (1, 2), "start while busy"
    dut.busy.value = 0
    # A byte strobe that misses the bits does nothing.
    await bench.master.write(address("control") + 1, b"\xff")
    await ClockCycles(dut.clk, 3)
    assert (bench.starts, bench.stops) == (1, 2)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def state_of_the_machine(dut):
    bench = Bench(dut)
    await bench.begin()
    for _ in range(10):
        busy, done, failed = (bench.rng.getrandbits(1) for _ in range(3))
        error, index = bench.rng.getrandbits(4), bench.rng.getrandbits(32)
        dut.busy.value, dut.done.value, dut.failed.value = busy, done, failed
        dut.error.value, dut.error_instruction.value = error, index
        assert await bench.value("status") == busy | done << 1 | failed << 2
        assert await bench.value("error") == error
        assert await bench.value("error_instruction") == index


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def interrupts(dut):
    bench = Bench(dut)
    await bench.begin()
    edge = RisingEdge(dut.clk)

    async def finish(bit: int) -> None:
        dut.done.value, dut.failed.value = int(bit == 1), int(bit == 2)
        dut.finished.value = 1
        await edge
        dut.finished.value = 0
        await ClockCycles(dut.clk, 4)

    async def expect(status: int, enable: int) -> None:
        assert await bench.value("interrupt_status") == status
        assert await bench.value("interrupt_enable") == enable
        assert int(dut.interrupt.value) == bool(status & enable), (status, enable)

    status = 0
    for enable in (0, 1, 2, 3):
        await bench.set("interrupt_enable", enable)
        for bit in (1, 2):
            await finish(bit)
            status |= bit
            await expect(status, enable)
        for clear in (0, 1, 2):
            await bench.set("interrupt_status", clear)
            await ClockCycles(dut.clk, 2)
            status &= ~clear
            await expect(status, enable)
    # The levels of done and failed alone are no events.
    dut.done.value = 1
    await ClockCycles(dut.clk, 4)
    await expect(0, 3)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def an_event_beats_its_clear(dut):
    """``finished`` all the time: however the clear falls, the bit is set afterwards."""
    bench = Bench(dut)
    await bench.begin()
    dut.done.value = 1
    dut.finished.value = 1
    for _ in range(5):
        await bench.set("interrupt_status", 3)
        assert await bench.value("interrupt_status") == 1


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def counters(dut):
    """Each counts its own events while busy, starts at zero, and stays when the machine stops."""
    bench = Bench(dut)
    await bench.begin()
    edge, rng = RisingEdge(dut.clk), bench.rng
    layout = events_layout()
    names = [name for name, _ in regs.COUNTERS]
    for cycles in (0, 1, 50, 300):
        # Before the start, events do not count.
        dut.events.value = pack(layout, dict.fromkeys(names, 1))
        await ClockCycles(dut.clk, 5)
        await bench.set("control", 1)
        total = dict.fromkeys(names, 0)
        dut.busy.value = 1
        for _ in range(cycles):
            now = {name: int(rng.random() < 0.5) for name in names}
            now["instructions"] = rng.choice([0, 0, 1, 2, 3, 4])
            dut.events.value = pack(layout, now)
            await edge
            for name in names:
                total[name] += now[name]
        dut.busy.value = 0
        await ClockCycles(dut.clk, 5)
        for name in names:
            assert await bench.value(name) == total[name], name
        for name in names:
            assert await bench.write(address(name), 0) == SLVERR
            assert await bench.value(name) == total[name], name
