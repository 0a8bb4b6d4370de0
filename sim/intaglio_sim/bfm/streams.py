"""Driver and monitor for streams, with stalls on either side."""

import random
from collections import deque
from collections.abc import Callable, Iterable

import cocotb
from cocotb.triggers import Event, RisingEdge

from intaglio_sim.bfm.packing import pack, unpack

__all__ = ["ProtocolError", "StreamDriver", "StreamMonitor"]


class ProtocolError(AssertionError):
    """A signal broke a rule of its protocol; the text names stream, cycle and rule."""


def _is_one(handle) -> bool:
    """Return whether a one-bit signal is one; an unknown value is an error, not a zero."""
    value = handle.value
    if not value.is_resolvable:
        raise ProtocolError(f"{handle._name} is {value}")
    return bool(value)


class StreamDriver:
    """Sends items into the stream ``name`` of ``dut`` (an input stream).

    Parameters
    ----------
    layout
        Shape of the payload for :func:`pack`; None: items are packed integers already.
    rate
        Probability that an idle driver offers the next item in a cycle. 1.0: without gaps. May be
        changed during the run.
    rng
        Source of the gaps; None: one seeded from the bench's seed and the name.

    ``sent`` counts transfers. While nothing is offered the payload is random, so that a target that
    takes it is seen.
    """

    def __init__(
        self, dut, name: str, layout=None, *, rate: float = 1.0, rng: random.Random | None = None
    ):
        self.name, self.layout, self.rate = name, layout, rate
        self.rng = rng or random.Random(f"{cocotb.RANDOM_SEED} {name}")
        self.sent = 0
        self._clk, self._rst = dut.clk, getattr(dut, "rst", None)
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload", None)
        self._queue: deque[int] = deque()
        self._idle = Event()
        self._offered = False
        self._valid.value = 0
        if self._payload is not None:
            self._payload.value = 0
        self._task = cocotb.start_soon(self._run())

    def send(self, item) -> None:
        """Queue one item."""
        self._queue.append(pack(self.layout, item) if self.layout is not None else int(item))
        self._idle.clear()

    def extend(self, items: Iterable) -> None:
        """Queue all ``items``."""
        for item in items:
            self.send(item)

    async def drain(self) -> None:
        """Wait until everything queued has been transferred."""
        if self._queue or self._offered:
            await self._idle.wait()

    @property
    def pending(self) -> int:
        """Value of the items queued or offered, not transferred."""
        return len(self._queue) + self._offered

    def stop(self) -> None:
        """Stop driving; what is queued is dropped and ``valid`` is low from the next cycle on."""
        self._task.cancel()
        self._queue.clear()
        self._offered = False
        self._valid.value = 0

    async def _run(self) -> None:
        edge = RisingEdge(self._clk)
        while True:
            await edge
            if self._rst is not None and _is_one(self._rst):
                continue  # a target in reset takes nothing, whatever its ready says
            if self._offered:
                if not _is_one(self._ready):
                    continue
                self.sent += 1
                self._offered = False
            if self._queue and (self.rate >= 1.0 or self.rng.random() < self.rate):
                self._offered = True
                self._valid.value = 1
                if self._payload is not None:
                    self._payload.value = self._queue.popleft()
                else:
                    self._queue.popleft()
            else:
                self._valid.value = 0
                if self._payload is not None:
                    self._payload.value = self.rng.getrandbits(len(self._payload))
                if not self._queue:
                    self._idle.set()


class StreamMonitor:
    """Takes items out of the stream ``name`` of ``dut`` (an output stream) and checks the protocol.

    Once ``valid`` is high it must stay high, with the same payload, until the transfer; neither may
    be unknown.

    Parameters
    ----------
    rate
        Probability of ``ready`` in a cycle.
    on_item
        Called with each item, unpacked by ``layout``; an exception in it fails the test.

    ``items`` holds what arrived when no ``on_item`` was given; ``count`` counts transfers.
    """

    def __init__(
        self,
        dut,
        name: str,
        layout=None,
        *,
        rate: float = 1.0,
        rng: random.Random | None = None,
        on_item: Callable | None = None,
    ):
        self.name, self.layout, self.rate = name, layout, rate
        self.rng = rng or random.Random(f"{cocotb.RANDOM_SEED} {name}")
        self.items: list = []
        self.count = 0
        self._on_item = self.items.append if on_item is None else on_item
        self._clk, self._rst = dut.clk, getattr(dut, "rst", None)
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload", None)
        self._arrived = Event()
        self._ready.value = 0
        self._task = cocotb.start_soon(self._run())

    async def wait_for(self, count: int) -> None:
        """Wait until ``count`` items have arrived in all."""
        while self.count < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def get(self):
        """Return the next item of ``items``, waiting for it."""
        while not self.items:
            self._arrived.clear()
            await self._arrived.wait()
        return self.items.pop(0)

    async def _run(self) -> None:
        edge = RisingEdge(self._clk)
        cycle, ready, held = 0, False, None
        while True:
            await edge
            cycle += 1
            if self._rst is not None and _is_one(self._rst):
                held = None
                continue
            if _is_one(self._valid):
                word = 0
                if self._payload is not None:
                    value = self._payload.value
                    if not value.is_resolvable:
                        raise ProtocolError(f"{self.name}: payload {value} in cycle {cycle}")
                    word = int(value)
                if held is not None and word != held:
                    raise ProtocolError(
                        f"{self.name}: payload changed from 0x{held:x} to 0x{word:x} while it "
                        f"waited, cycle {cycle}"
                    )
                held = word
                if ready:
                    held = None
                    self.count += 1
                    self._on_item(unpack(self.layout, word) if self.layout is not None else word)
                    self._arrived.set()
            elif held is not None:
                raise ProtocolError(f"{self.name}: valid fell before the transfer, cycle {cycle}")
            ready = self.rate >= 1.0 or self.rng.random() < self.rate
            self._ready.value = int(ready)
