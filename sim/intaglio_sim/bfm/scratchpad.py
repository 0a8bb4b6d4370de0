"""Models of the scratchpads behind a component's read and write ports."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from intaglio_hw.interfaces import READ_LATENCY
from intaglio_sim.bfm.packing import row_to_int

__all__ = ["ReadPort", "WritePort"]


class ReadPort:
    """The memory behind the read port ``name`` of ``dut``: ``addr`` in, ``data`` out.

    Parameters
    ----------
    memory
        Array of shape (rows, lanes) of any integer type, or a list of packed rows; may be changed
        while running.
    latency
        Cycles from address to data.

    ``reads`` counts cycles with a resolvable address. Rows outside ``memory`` read as all ones, as
    nobody may use them.
    """

    def __init__(self, dut, name: str, memory, *, latency: int = READ_LATENCY):
        if latency < 1:
            raise ValueError(f"latency must be at least 1, not {latency}")
        self.memory, self.latency, self.reads = memory, latency, 0
        self._clk = dut.clk
        self._addr, self._data = getattr(dut, f"{name}__addr"), getattr(dut, f"{name}__data")
        self._ones = (1 << len(self._data)) - 1
        self._data.value = self._ones
        cocotb.start_soon(self._run())

    def _row(self, addr: int) -> int:
        return row_to_int(self.memory[addr]) if addr < len(self.memory) else self._ones

    async def _run(self) -> None:
        edge = RisingEdge(self._clk)
        pipe = [self._ones] * (self.latency - 1)
        last = None
        while True:
            await edge
            value = self._addr.value
            if value.is_resolvable:
                self.reads += 1
                pipe.append(self._row(int(value)))
            else:
                pipe.append(self._ones)
            word = pipe.pop(0)
            if word != last:
                self._data.value = last = word


class WritePort:
    """The memory behind the write port ``name`` of ``dut``: ``addr``, ``data`` and ``en`` in.

    ``memory`` is an array of shape (rows, row bytes) of uint8, changed in place. ``log`` holds
    (address, packed row, en) of every write, in order. A write outside of ``memory``, or with an
    unknown signal, fails the test.
    """

    def __init__(self, dut, name: str, memory: np.ndarray):
        if memory.dtype != np.uint8 or memory.ndim != 2:
            raise TypeError(
                f"memory must be (rows, bytes) of uint8, not {memory.shape} of {memory.dtype}"
            )
        self.memory = memory
        self.log: list[tuple[int, int, int]] = []
        self._name, self._clk, self._rst = name, dut.clk, getattr(dut, "rst", None)
        self._addr, self._data, self._en = (
            getattr(dut, f"{name}__{part}") for part in ("addr", "data", "en")
        )
        if len(self._data) != 8 * memory.shape[1]:
            raise ValueError(
                f"{name} writes rows of {len(self._data)} bits, not {8 * memory.shape[1]}"
            )
        self._bytes = len(self._data) // (8 * len(self._en))
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        edge = RisingEdge(self._clk)
        row_bytes = self.memory.shape[1]
        full = (1 << len(self._en)) - 1
        while True:
            await edge
            if self._rst is not None and int(self._rst.value):
                continue
            if not self._en.value.is_resolvable:
                raise AssertionError(f"{self._name}: en is {self._en.value}")
            en = int(self._en.value)
            if not en:
                continue
            addr = int(self._addr.value)
            if addr >= len(self.memory):
                raise AssertionError(f"{self._name}: write to row {addr} of {len(self.memory)}")
            if en == full:
                word = int(self._data.value)
                self.memory[addr] = np.frombuffer(word.to_bytes(row_bytes, "little"), np.uint8)
            else:  # bytes that are not enabled may be unknown
                bits = str(self._data.value)[::-1]
                word = 0
                for i in range(len(self._en)):
                    if en >> i & 1:
                        step = 8 * self._bytes
                        part = int(bits[i * step : (i + 1) * step][::-1], 2)
                        word |= part << (i * step)
                        place = slice(i * self._bytes, (i + 1) * self._bytes)
                        self.memory[addr, place] = list(part.to_bytes(self._bytes, "little"))
            self.log.append((addr, word, en))
