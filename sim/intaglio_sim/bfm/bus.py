"""Memory behind the ``ar r`` and ``aw w b`` streams of intaglio_hw.interfaces."""

import random
from collections import deque

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.triggers import RisingEdge

from intaglio_hw.interfaces import ADDRESS_BITS
from intaglio_sim.bfm.streams import ProtocolError, StreamDriver, StreamMonitor

__all__ = ["MemoryReader", "MemoryWriter"]

OKAY, SLVERR, DECERR = 0, 2, 3
BOUNDARY = 4096


def _address_layout() -> data.StructLayout:
    return data.StructLayout({"addr": ADDRESS_BITS, "len": 8})


class _Memory:
    """What reads and writes have in common: the bytes, their base, and the check of a burst."""

    def __init__(self, dut, prefix: str, memory: np.ndarray, base: int, beat: int):
        if memory.dtype != np.uint8 or memory.ndim != 1:
            raise TypeError(
                f"memory must be a vector of uint8, not {memory.shape} of {memory.dtype}"
            )
        self.memory, self.base, self.beat = memory, base, beat
        self.prefix, self.clk = prefix, dut.clk
        #: Bus addresses (of beats) that answer with SLVERR.
        self.bad_addresses: set[int] = set()
        self.beats = 0
        self.bursts: list[tuple[int, int]] = []

    def check(self, what: str, addr: int, beats: int) -> None:
        if addr % self.beat:
            raise ProtocolError(f"{what}: address 0x{addr:x} is not a multiple of {self.beat}")
        if addr // BOUNDARY != (addr + beats * self.beat - 1) // BOUNDARY:
            raise ProtocolError(
                f"{what}: 0x{addr:x} + {beats} beats crosses a {BOUNDARY}-byte boundary"
            )
        self.bursts.append((addr, beats))

    def response(self, addr: int) -> int:
        if not self.base <= addr <= self.base + len(self.memory) - self.beat:
            return DECERR
        return SLVERR if addr in self.bad_addresses else OKAY


class MemoryReader(_Memory):
    """Answers the streams ``PREFIXar`` and ``PREFIXr`` from ``memory``, in order.

    Parameters
    ----------
    memory
        Bytes; bus address ``base`` is index 0. Outside of it the answer is DECERR with data of all
        ones.
    beat
        Bytes in a beat.
    latency
        Cycles from the address to the first beat, at least 1.
    address_rate, data_rate
        Probability of ``ar.ready``, and of offering a beat, in a cycle.

    ``bursts`` lists (address, beats); ``beats`` counts beats delivered. ``bad_addresses`` answer
    with SLVERR.
    """

    def __init__(
        self,
        dut,
        memory: np.ndarray,
        *,
        beat: int,
        prefix: str = "",
        base: int = 0,
        latency: int = 4,
        address_rate: float = 1.0,
        data_rate: float = 1.0,
        rng: random.Random | None = None,
    ):
        super().__init__(dut, prefix, memory, base, beat)
        self.latency, self._now = latency, 0
        self._due: deque[tuple[int, int, int]] = deque()
        self._ar = StreamMonitor(
            dut, f"{prefix}ar", _address_layout(), rate=address_rate, rng=rng, on_item=self._request
        )
        self._r = StreamDriver(
            dut,
            f"{prefix}r",
            data.StructLayout({"data": 8 * beat, "resp": 2, "last": 1}),
            rate=data_rate,
            rng=rng,
        )
        cocotb.start_soon(self._run())

    def _request(self, item) -> None:
        addr, beats = item["addr"], item["len"] + 1
        self.check(f"{self.prefix}ar", addr, beats)
        self._due.append((self._now + self.latency, addr, beats))

    async def _run(self) -> None:
        edge = RisingEdge(self.clk)
        while True:
            await edge
            self._now += 1
            while self._due and self._due[0][0] <= self._now:
                _, addr, beats = self._due.popleft()
                for i in range(beats):
                    place = addr + i * self.beat
                    resp = self.response(place)
                    offset = place - self.base
                    word = (
                        (1 << (8 * self.beat)) - 1
                        if resp == DECERR
                        else int.from_bytes(
                            self.memory[offset : offset + self.beat].tobytes(), "little"
                        )
                    )
                    self._r.send({"data": word, "resp": resp, "last": int(i == beats - 1)})
                    self.beats += 1


class MemoryWriter(_Memory):
    """Takes the streams ``PREFIXaw`` and ``PREFIXw`` into ``memory`` and answers on ``PREFIXb``.

    The parameters are those of :class:`MemoryReader`; ``latency`` runs from the last beat to the
    response. Nothing is written where the answer is an error. A beat may come before its address.
    """

    def __init__(
        self,
        dut,
        memory: np.ndarray,
        *,
        beat: int,
        prefix: str = "",
        base: int = 0,
        latency: int = 4,
        address_rate: float = 1.0,
        data_rate: float = 1.0,
        response_rate: float = 1.0,
        rng: random.Random | None = None,
    ):
        super().__init__(dut, prefix, memory, base, beat)
        self.latency, self._now = latency, 0
        self._addresses: deque[tuple[int, int]] = deque()
        self._words: deque[tuple[int, int]] = deque()
        self._due: deque[tuple[int, int]] = deque()
        self._progress = 0
        self._worst = OKAY
        StreamMonitor(
            dut, f"{prefix}aw", _address_layout(), rate=address_rate, rng=rng, on_item=self._request
        )
        StreamMonitor(
            dut,
            f"{prefix}w",
            data.StructLayout({"data": 8 * beat, "last": 1}),
            rate=data_rate,
            rng=rng,
            on_item=lambda item: self._words.append((item["data"], item["last"])),
        )
        self._b = StreamDriver(
            dut, f"{prefix}b", data.StructLayout({"resp": 2}), rate=response_rate, rng=rng
        )
        cocotb.start_soon(self._run())

    @property
    def idle(self) -> bool:
        """Value of whether every burst is complete and answered."""
        return not (self._addresses or self._words or self._due or self._b.pending)

    def _request(self, item) -> None:
        self.check(f"{self.prefix}aw", item["addr"], item["len"] + 1)
        self._addresses.append((item["addr"], item["len"] + 1))

    def _beat(self) -> None:
        addr, beats = self._addresses[0]
        word, last = self._words.popleft()
        place = addr + self._progress * self.beat
        response = self.response(place)
        self._worst = max(self._worst, response)
        if response == OKAY:
            offset = place - self.base
            self.memory[offset : offset + self.beat] = list(word.to_bytes(self.beat, "little"))
        self._progress += 1
        self.beats += 1
        if last != (self._progress == beats):
            raise ProtocolError(
                f"{self.prefix}w: last is {last} at beat {self._progress} of {beats}"
            )
        if last:
            self._due.append((self._now + self.latency, self._worst))
            self._addresses.popleft()
            self._progress, self._worst = 0, OKAY

    async def _run(self) -> None:
        edge = RisingEdge(self.clk)
        while True:
            await edge
            self._now += 1
            while self._addresses and self._words:
                self._beat()
            while self._due and self._due[0][0] <= self._now:
                self._b.send({"resp": self._due.popleft()[1]})
