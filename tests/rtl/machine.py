"""The accelerator in a cocotb bench: registers and memory by cocotbext-axi, and a bus checker."""

import itertools
import logging

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave, MemoryRegion

from intaglio.spec import isa, regs
from intaglio.spec.config import AcceleratorConfig
from intaglio_sim.bfm import start_clock
from intaglio_sim.runner import bench_config
from intaglio_sim.stimulus import bench_rng

__all__ = ["BASE", "BYTES", "PATIENCE", "Machine"]

#: Where the memory lies on the bus: not at zero, so that a forgotten base is seen.
BASE = 0x2000_3000
BYTES = 32768
#: How many times longer than units that run side by side the machine may take.
PATIENCE = 20 if bench_config().organization == "sequential" else 1


class Memory(MemoryRegion):
    """Bytes at BASE. Outside, and at the offsets in ``bad``, an access fails: SLVERR on the bus."""

    def __init__(self) -> None:
        super().__init__(BASE + BYTES, mem=None)
        self.bytes = np.zeros(BYTES, np.uint8)
        self.bad: set[int] = set()
        self.reads: list[int] = []
        self.writes: list[int] = []

    def _offset(self, address: int, length: int) -> int:
        offset = address - BASE
        if offset < 0 or offset + length > BYTES:
            raise ValueError("outside of the memory")
        if offset in self.bad:
            raise ValueError("a bad place")
        return offset

    async def _read(self, address, length, **kwargs):
        self.reads.append(address - BASE)
        offset = self._offset(address, length)
        return self.bytes[offset : offset + length].tobytes()

    async def _write(self, address, data, **kwargs):
        self.writes.append(address - BASE)
        offset = self._offset(address, len(data))
        self.bytes[offset : offset + len(data)] = list(data)


class Machine:
    """Drives the accelerator; every program is checked for the rules of AXI4 while it runs."""

    def __init__(self, dut, config: AcceleratorConfig) -> None:
        self.dut, self.config, self.rng = dut, config, bench_rng()
        self.memory = Memory()
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.slave = AxiSlave(
            AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, target=self.memory
        )
        for part in (self.registers, self.slave):
            for interface in (part.write_if, part.read_if):
                interface.log.setLevel(logging.ERROR)
                for name in ("aw_channel", "w_channel", "b_channel", "ar_channel", "r_channel"):
                    if hasattr(interface, name):
                        getattr(interface, name).log.setLevel(logging.ERROR)
        self.bursts: list[tuple[str, int, int]] = []

    async def begin(self) -> None:
        """Start clock, reset and the checks."""
        await start_clock(self.dut)
        for channel in ("ar", "aw", "w"):
            cocotb.start_soon(self._check(channel))
        await RisingEdge(self.dut.clk)

    def stall(self, address: float, data: float, response: float) -> None:
        """Let the memory's channels answer in these shares of the cycles."""
        write, read = self.slave.write_if, self.slave.read_if
        for channel, rate in (
            (write.aw_channel, address),
            (read.ar_channel, address),
            (write.w_channel, data),
            (read.r_channel, data),
            (write.b_channel, response),
        ):
            if rate < 1:
                channel.set_pause_generator(
                    self.rng.random() >= share for share in itertools.repeat(rate)
                )

    async def _check(self, channel: str) -> None:
        """Check one channel of the manager: offers stay, are known, and bursts are allowed ones."""
        dut, config = self.dut, self.config
        names = {"w": ("data", "strb", "last")}.get(channel, ("addr", "len", "size", "burst", "id"))
        valid = getattr(dut, f"m_axi_{channel}valid")
        ready = getattr(dut, f"m_axi_{channel}ready")
        signals = [getattr(dut, f"m_axi_{channel}{name}") for name in names]
        held = None
        while True:
            await RisingEdge(dut.clk)
            if not int(valid.value):
                assert held is None, f"{channel}valid fell before the transfer"
                continue
            values = [int(signal.value) for signal in signals]  # raises where a bit is unknown
            assert held in (None, values), f"{channel} changed from {held} to {values}"
            held = None if int(ready.value) else values
            if held is not None:
                continue
            if channel == "w":
                assert values[1] == (1 << config.R) - 1, f"byte strobes {values[1]:#x}"
                continue
            address, length, size, burst, _ = values
            beats = length + 1
            assert 1 << size == config.R and burst == 1 and address % config.R == 0
            assert beats <= config.burst_beats
            assert address >= BASE and address + beats * config.R <= BASE + BYTES
            assert address // 4096 == (address + beats * config.R - 1) // 4096
            self.bursts.append((channel, address - BASE, beats))

    # ------------------------------------------------------------------------------- registers

    async def read32(self, address: int) -> tuple[int, AxiResp]:
        """Return the register at ``address`` and the response."""
        answer = await self.registers.read(address, 4)
        return int.from_bytes(answer.data, "little"), answer.resp

    async def write32(self, address: int, value: int) -> AxiResp:
        """Write the register at ``address`` and return the response."""
        return (await self.registers.write(address, value.to_bytes(4, "little"))).resp

    async def get(self, name: str) -> int:
        """Return the register ``name``, which must be readable."""
        value, resp = await self.read32(regs.register(name).address)
        assert resp == AxiResp.OKAY, f"read of {name}: {resp!r}"
        return value

    async def put(self, name: str, value: int) -> None:
        """Write the register ``name``, which must be writable."""
        resp = await self.write32(regs.register(name).address, value)
        assert resp == AxiResp.OKAY, f"write of {name}: {resp!r}"

    # -------------------------------------------------------------------------------- programs

    async def start(
        self,
        instructions: list[bytes],
        *,
        base: int = 0,
        length: int | None = None,
        memory_bytes: int = BYTES,
        cycle_limit: int = 0,
    ) -> None:
        """Write the program into the memory and start it."""
        program = b"".join(instructions)
        self.memory.bytes[base : base + len(program)] = list(program)
        self.bursts.clear()
        self.memory.reads.clear()
        self.memory.writes.clear()
        await self.put("memory_base", BASE)
        await self.put("memory_bytes", memory_bytes)
        await self.put("program_base", base)
        await self.put("program_length", len(instructions) if length is None else length)
        await self.put("cycle_limit", cycle_limit)
        await self.put("interrupt_status", 0b11)
        await self.put("interrupt_enable", 0b11)
        await self.put("control", 1)

    async def finish(self, *, timeout_us: int = 200) -> tuple[bool, isa.Error, int]:
        """Wait for the interrupt; return (reached end, error, instruction that caused it)."""
        if not int(self.dut.interrupt.value):
            await First(RisingEdge(self.dut.interrupt), Timer(timeout_us * PATIENCE, "us"))
            await RisingEdge(self.dut.clk)
        assert int(self.dut.interrupt.value), "no interrupt"
        status = await self.get("status")
        events = await self.get("interrupt_status")
        assert (status, events) in ((0b010, 0b01), (0b100, 0b10)), f"{status:03b} {events:02b}"
        await self.put("interrupt_status", events)
        await ClockCycles(self.dut.clk, 3)
        assert not int(self.dut.interrupt.value), "the interrupt stays"
        error = isa.Error(await self.get("error"))
        return status == 0b010, error, await self.get("error_instruction")

    async def run(self, instructions: list[bytes], **options) -> tuple[bool, isa.Error, int]:
        """Start a program and wait for its end."""
        await self.start(instructions, **options)
        return await self.finish()
