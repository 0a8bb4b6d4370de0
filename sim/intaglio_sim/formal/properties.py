"""What is proved, as components around those of the hardware; tests/hw/test_formal.py asks.

Each takes what it is about as an argument, so that a faulty copy can be put in its place.
"""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import IN_FLIGHT

__all__ = [
    "BurstProperties",
    "FunctionProbe",
    "StreamProperties",
    "TokenProperties",
    "UnitStageProperties",
]

#: Bits of the numbers that stand for payloads: more than a buffer can hold apart.
NUMBER_BITS = 3
#: What AXI4 lets no burst cross.
BOUNDARY_BYTES = 4096


class FunctionProbe(wiring.Component):
    """``o = function(**inputs)`` between ports, nothing else.

    Parameters
    ----------
    function
        From values to a value.
    inputs
        Name -> shape.
    """

    def __init__(self, function: Callable[..., Any], inputs: dict[str, Any]) -> None:
        self._function, self._inputs = function, inputs
        shape = function(**{name: Signal(shape) for name, shape in inputs.items()}).shape()
        super().__init__({**{name: In(shape) for name, shape in inputs.items()}, "o": Out(shape)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.o.eq(
            self._function(**{name: getattr(self, name) for name in self._inputs})
        )
        return m


class StreamProperties(wiring.Component):
    """A buffer between two streams keeps order, loses, repeats and withdraws nothing.

    The payloads are numbered in the order in which they enter, modulo 2**NUMBER_BITS, so that the
    payload that leaves tells everything: a lost, repeated or exchanged one has a wrong number. The
    buffer's control does not look at payloads, hence this says it of all of them.

    1. A payload that leaves has the next number.
    2. ``o.valid`` stays, with the same payload, until it is taken.
    3. The buffer takes a payload exactly while it holds fewer than ``capacity``.
    4. It offers one at the latest ``latency`` cycles after it began to hold any.

    Parameters
    ----------
    buffer
        With streams ``i`` and ``o`` of NUMBER_BITS.
    capacity
        Payloads that it can hold.
    latency
        Cycles from input to output of an empty buffer.
    """

    def __init__(self, buffer: Any, *, capacity: int, latency: int) -> None:
        self._buffer, self._capacity, self._latency = buffer, capacity, latency
        super().__init__({"valid": In(1), "ready": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self._buffer
        entered, left = Signal(NUMBER_BITS), Signal(NUMBER_BITS)
        held = Signal(NUMBER_BITS)
        m.d.comb += [
            dut.i.valid.eq(self.valid),
            dut.i.payload.eq(entered),
            dut.o.ready.eq(self.ready),
            held.eq(entered - left),
        ]
        with m.If(dut.i.valid & dut.i.ready):
            m.d.sync += entered.eq(entered + 1)
        with m.If(dut.o.valid & dut.o.ready):
            m.d.sync += left.eq(left + 1)
        waited = Signal(range(self._latency + 1))
        with m.If((held == 0) | dut.o.valid):
            m.d.sync += waited.eq(0)
        with m.Else():
            m.d.sync += waited.eq(waited + 1)
        offered, before = Signal(), Signal(NUMBER_BITS)
        m.d.sync += [offered.eq(dut.o.valid & ~dut.o.ready), before.eq(dut.o.payload)]
        m.d.comb += [
            Assert(~dut.o.valid | (dut.o.payload == left)),
            Assert(~dut.o.valid | (held != 0)),
            Assert(~offered | (dut.o.valid & (dut.o.payload == before))),
            Assert(dut.i.ready == (held < self._capacity)),
            Assert(held <= self._capacity),
            Assert((held == 0) | dut.o.valid | (waited < self._latency - 1)),
        ]
        return m


class TokenProperties(wiring.Component):
    """A token counter is the number of tokens given and not taken, or says that it is not.

    While tokens are taken only when ``available`` says that there is one (which
    :class:`UnitStageProperties` shows): never below zero, never beyond TOKEN_MAX, and a token is
    refused exactly when ``overflow`` is high. The counter beside it is two bits wider.

    ``counter``: the component, a :class:`intaglio_hw.stages.TokenCounter`.
    """

    def __init__(self, counter: Any) -> None:
        self._counter = counter
        super().__init__({"give": In(1), "take": In(1), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self._counter
        tokens = Signal(signed(isa.TOKEN_MAX.bit_length() + 2), reset_less=True)
        m.d.comb += [
            dut.give.eq(self.give),
            dut.take.eq(self.take),
            dut.clear.eq(self.clear),
            Assume(~self.take | dut.available),
        ]
        with m.If(self.clear):
            m.d.sync += tokens.eq(0)
        with m.Elif(~dut.overflow):
            m.d.sync += tokens.eq(tokens + self.give - self.take)
        m.d.comb += [
            Assert(tokens >= 0),
            Assert(tokens <= isa.TOKEN_MAX),
            Assert(dut.available == (tokens > 0)),
            Assert(dut.overflow == (tokens + self.give - self.take > isa.TOKEN_MAX)),
        ]
        return m

    #: That both count the same, and what is formed ahead, for the induction.
    _BITS = isa.TOKEN_MAX.bit_length() + 2
    INVARIANTS = (
        f"(= (bvadd ((_ sign_extend 1) [dut.above]) (_ bv1 {_BITS})) [tokens])",
        f"(= [dut.full] (= [tokens] (_ bv{isa.TOKEN_MAX} {_BITS})))",
    )


class UnitStageProperties(wiring.Component):
    """A token stage takes only tokens that there are, and knows what runs.

    1. ``take`` is never set where ``available`` is not, and only for what the head waits for.
    2. An instruction starts only after it has had its tokens: one grant for each start.
    3. Between 0 and IN_FLIGHT instructions run, and ``running`` says whether any do; a ``done``
       gives tokens only if one does.
    4. From the second cycle of ``stop`` on nothing is offered, from the third on nothing is taken.

    ``stage``: a :class:`intaglio_hw.stages.UnitStage` of ``load``.
    """

    INVARIANTS = (
        "(= [flying] (ite [dut.second] #x2 (ite [dut.running] #x1 #x0)))",
        "(=> [dut.second] [dut.running])",
        "(= [went] (concat (ite [dut.left] #b1 #b0) (ite [dut.head__ready] #b1 #b0)))",
        "(= [dut.finished] [finished])",
        "(= [dut.satisfied] [satisfied])",
        "(= [dut.granted] [taken])",
        "(=> [dut.head__ready] (and [taken] (not [dut.second]) (not [dut.left])))",
        "(=> [dut.left] [taken])",
        "(=> [dut.unit__instruction__valid] (and [taken] (not [dut.second])))",
        "(=> [dut.unit__instruction__valid] (and (not [dut.head__ready]) (not [dut.left])))",
    )

    def __init__(self, stage: Any) -> None:
        self._stage = stage
        super().__init__(
            {
                "head_valid": In(1),
                "wait": In(4),
                "signal": In(4),
                "available": In(4),
                "unit_ready": In(1),
                "unit_done": In(1),
                "stop": In(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self._stage
        # The queue: an offer stays as it is until it is taken, or the queue is cleared. In the
        # cycle after that it may say anything.
        waiting, wait_before = Signal(), Signal(4)
        went = Signal(2)  # one signal: it has a name of its own, although the stage has the same
        leaving, left = went
        stopped, stopped_before, finished = Signal(), Signal(), Signal()
        m.d.sync += [
            waiting.eq(self.head_valid & ~dut.head.ready & ~left & ~self.clear),
            wait_before.eq(self.wait),
            went.eq(Cat(dut.unit.instruction.valid & self.unit_ready, dut.head.ready)),
            stopped.eq(self.stop),
            stopped_before.eq(stopped),
            finished.eq(self.unit_done),
        ]
        m.d.comb += [
            dut.head.valid.eq(self.head_valid),
            dut.head.payload.wait.eq(self.wait),
            dut.head.payload.signal.eq(self.signal),
            dut.available.eq(self.available),
            dut.unit.instruction.ready.eq(self.unit_ready),
            dut.unit.done.eq(self.unit_done),
            dut.stop.eq(self.stop),
            dut.clear.eq(self.clear),
            Assume(~waiting | (self.head_valid & (self.wait == wait_before))),
            # The sequencer clears while nothing runs, and everything is stopped then.
            Assume(~self.clear | (self.stop & stopped & ~dut.running & ~leaving & ~left)),
        ]
        # A token stays until it is taken; a clear takes them all.
        kept = Signal(4)
        m.d.sync += kept.eq(Mux(self.clear, 0, self.available & ~dut.take))
        m.d.comb += Assume((kept & ~self.available) == 0)
        flying = Signal(signed(4))
        m.d.sync += flying.eq(flying + leaving - dut.done)
        taken = Signal()  # the head has its tokens
        satisfied = Signal()  # they were all there
        undecided, took, took_before = Signal(), Signal(), Signal()
        m.d.comb += [
            undecided.eq(self.head_valid & ~taken),
            took.eq(satisfied & ~taken),
        ]
        gives = Signal()
        m.d.sync += [
            satisfied.eq(undecided & ~self.stop & ((self.wait & ~self.available) == 0)),
            took_before.eq(took),
            gives.eq(finished & (flying > 0)),
        ]
        with m.If(left | self.clear):
            m.d.sync += taken.eq(0)
        with m.Elif(took):
            m.d.sync += taken.eq(1)
        offer = dut.unit.instruction.valid
        m.d.comb += [
            Assert((dut.take & ~self.available) == 0),
            Assert(dut.take == Mux(took_before, wait_before, 0)),
            Assert(dut.granted == taken),
            Assert(~taken | self.head_valid | left),
            Assert(~offer | (taken & ~leaving & ~left & (flying < IN_FLIGHT))),
            Assert(dut.head.ready == leaving),
            Assert(dut.start == leaving),
            Assert((flying >= 0) & (flying <= IN_FLIGHT)),
            Assert(dut.running == (flying > 0)),
            Assert(dut.done == (finished & (flying > 0))),
            Assert(~dut.give.any() | gives),
            Assert(~stopped | ~offer),
            Assert(~(stopped & stopped_before) | ~dut.take.any()),
            Assert(~took | undecided),
        ]
        return m


class BurstProperties(wiring.Component):
    """Bursts on the bus never leave the memory, never cross 4096 bytes, are never too long.

    Whatever rows there are, with ``memory_base`` and ``memory_bytes`` as the sequencer lets them
    through: multiples of 4096 and of the beat, together at most 2**32.

    ``splitter``: a :class:`intaglio_hw.axi.RowBursts` of ``config``.
    """

    def __init__(self, splitter: Any, *, config: AcceleratorConfig) -> None:
        self._splitter, self._config = splitter, config
        row = splitter.row.payload.shape()
        super().__init__(
            {
                "base": In(32),
                "bytes": In(32),
                "row_valid": In(1),
                "row": In(row),
                "info_ready": In(1),
                "burst_ready": In(1),
                "halt": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        R = self._config.R
        m.submodules.dut = dut = self._splitter
        begun, base, length = Signal(), Signal(32), Signal(32)
        m.d.sync += [begun.eq(1), base.eq(self.base), length.eq(self.bytes)]
        m.d.comb += [
            dut.memory_base.eq(self.base),
            dut.memory_bytes.eq(self.bytes),
            dut.row.valid.eq(self.row_valid),
            dut.row.payload.eq(self.row),
            dut.info.ready.eq(self.info_ready),
            dut.burst.ready.eq(self.burst_ready),
            dut.halt.eq(self.halt),
            Assume(~begun | ((self.base == base) & (self.bytes == length))),
            Assume((self.base % BOUNDARY_BYTES == 0) & (self.bytes % R == 0)),
            Assume(self.base + self.bytes <= 1 << 32),
            # Whoever makes the rows: no more is used than must lie in the memory.
            Assume(self.row.used <= self.row.bytes),
        ]
        burst = dut.burst.payload
        size = Signal(unsigned(32))
        held, addr, beats = Signal(), Signal(32), Signal(8)
        m.d.comb += size.eq((burst.len + 1) * R)
        m.d.sync += [
            held.eq(dut.burst.valid & ~self.burst_ready),
            addr.eq(burst.addr),
            beats.eq(burst.len),
        ]
        last = Signal(33)
        m.d.comb += last.eq(burst.addr + size - 1)
        allowed = Cat(
            burst.addr >= self.base,
            burst.addr + size <= self.base + self.bytes,
            burst.len < self._config.burst_beats,
            burst.addr[12:] == last[12:32],
            burst.addr % R == 0,
        )
        m.d.comb += [
            *(Assert(~dut.burst.valid | condition) for condition in allowed),
            Assert(~held | (dut.burst.valid & (burst.addr == addr) & (burst.len == beats))),
        ]
        return m
