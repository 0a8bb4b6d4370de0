"""The sequencer: fetches a program, checks it, starts the units in the order that tokens allow.

::

    memory -> Fetch -> Decoder -+-> queue -> UnitStage -> load
                                +-> queue -> UnitStage -> array
                                +-> queue -> UnitStage -> vector
                                +-> queue -> UnitStage -> store

with a TokenCounter for each ordered pair of units. What an instruction means, and which errors
there are, stands in :mod:`intaglio.spec.isa`; the checks here are generated from its tables.
"""

import itertools

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import (
    ADDRESS_BITS,
    ERROR_BITS,
    IN_FLIGHT,
    AxiReadSignature,
    UnitSignature,
    instruction_layout,
)

__all__ = [
    "INDEX_BITS",
    "UNIT_INSTRUCTIONS",
    "Decoder",
    "Fetch",
    "Sequencer",
    "TokenCounter",
    "UnitStage",
    "queue_layout",
]

#: Width of the index of an instruction in its program.
INDEX_BITS = 32
#: Width of registers that hold lengths.
_LENGTH_BITS = 32
#: The instruction of each unit; every unit has exactly one.
UNIT_INSTRUCTIONS = {
    unit: next(item for item in isa.INSTRUCTIONS if item.unit == unit) for unit in isa.UNITS
}
#: Name of the port of each unit.
_NAMES = {unit: unit.name.lower() for unit in isa.UNITS}
_UNIT_COUNT = len(isa.UNITS)
#: Bits of the header after the opcode.
_HEADER = {field.name: field for field in isa.HEADER}
_HEADER_BITS = sum(field.width for field in isa.HEADER)


def _any(m: Module, value, *, name: str, group: int = 16) -> Signal:
    """Return a signal that tells, two cycles after ``value`` became stable, if a bit of it is set.

    Two registers, because an OR over a whole instruction is too deep for one cycle.
    """
    parts = [value[low : low + group] for low in range(0, len(value), group)]
    partial = Signal(max(len(parts), 1), name=f"{name}_partial", reset_less=True)
    result = Signal(name=name, reset_less=True)
    m.d.sync += partial.eq(Cat(part.any() for part in parts))
    m.d.sync += result.eq(partial.any())
    return result


def queue_layout(instruction: isa.Instruction) -> data.StructLayout:
    """Return the layout of an entry of a unit's queue."""
    return data.StructLayout(
        {
            "fields": instruction_layout(instruction),
            "wait": unsigned(_HEADER["wait"].width),
            "signal": unsigned(_HEADER["signal"].width),
            "index": unsigned(INDEX_BITS),
        }
    )


class Fetch(wiring.Component):
    """Reads instructions from memory, up to PREFETCH of them ahead.

    A pulse on ``start`` (while ``idle`` and ``stop``) latches ``address`` (bus address, a multiple
    of 64) and ``count`` (instructions) and forgets what was prefetched before. Each instruction
    then appears as ``64 / R`` beats on ``beats``, with ``error`` set on a beat that the bus
    answered with anything but OKAY. Whoever takes the last beat of an instruction pulses
    ``release``: it gives back the place for another one. While ``stop`` is high no new burst is
    requested; ``idle`` is high when none is outstanding. A burst never leaves its instruction.

    Members: ``bus`` (:class:`AxiReadSignature`), ``beats`` (stream of ``data``, ``error``),
    ``start``, ``address``, ``count``, ``release``, ``stop``, ``idle``.
    From ``start`` to the first address: 4 cycles; from a beat on the bus to ``beats``: 2.
    """

    #: Instructions that are requested before they are needed.
    PREFETCH = 4

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "bus": Out(AxiReadSignature(config)),
                "beats": Out(
                    stream.Signature(data.StructLayout({"data": 8 * config.bus_bytes, "error": 1}))
                ),
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "count": In(_LENGTH_BITS),
                "release": In(1),
                "stop": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        beats = isa.INSTRUCTION_BYTES // config.bus_bytes  # of an instruction
        burst = min(beats, config.burst_beats)
        bursts = beats // burst
        depth = self.PREFETCH * beats
        ar, r = self.bus.ar, self.bus.r

        address = Signal(ADDRESS_BITS)
        remaining = Signal(_LENGTH_BITS)
        # Late by one cycle, so that the comparison is a stage of its own; SETTLE waits for it.
        more = Signal()
        slots = Signal(range(self.PREFETCH + 1))
        part = Signal(range(max(bursts, 2)))
        outstanding = Signal(range(depth + 1))
        take = Signal()
        counted = Signal()  # one is taken from ``remaining`` in this cycle
        m.d.sync += more.eq(remaining[1:].any() | (remaining[0] & ~counted))
        with m.If(counted):
            m.d.sync += remaining.eq(remaining - 1)
        m.d.comb += [ar.payload.addr.eq(address), ar.payload.len.eq(burst - 1)]

        with m.FSM():
            with m.State("WAIT"):
                m.d.comb += self.idle.eq(outstanding == 0)
                with m.If(more & (slots != 0) & ~self.stop):
                    m.d.comb += take.eq(1)
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += ar.valid.eq(1)
                with m.If(ar.ready):
                    m.d.sync += address.eq(address + burst * config.bus_bytes)
                    with m.If((part == bursts - 1) | self.stop):
                        m.d.sync += part.eq(0)
                        m.next = "SETTLE"
                    with m.Else():
                        m.d.sync += part.eq(part + 1)
            with m.State("SETTLE"):
                m.d.comb += counted.eq(1)
                m.next = "WAIT"

        m.d.sync += slots.eq(slots + self.release - take)
        requested = ar.valid & ar.ready
        m.d.sync += outstanding.eq(outstanding + Mux(requested, burst, 0) - (r.valid & r.ready))

        # Every beat that was asked for has a place here, so the bus never waits.
        fifo = SyncFIFOBuffered(width=8 * config.bus_bytes + 1, depth=depth)
        m.submodules.fifo = ResetInserter(self.start)(fifo)
        m.d.comb += [
            r.ready.eq(1),
            fifo.w_en.eq(r.valid),
            fifo.w_data.eq(Cat(r.payload.data, r.payload.resp != 0)),
            Cat(self.beats.payload.data, self.beats.payload.error).eq(fifo.r_data),
            self.beats.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.beats.ready),
        ]

        with m.If(self.start):
            m.d.sync += [
                address.eq(self.address),
                remaining.eq(self.count),
                # Nothing is requested before the comparison above has seen the new count.
                more.eq(0),
                slots.eq(self.PREFETCH),
                part.eq(0),
            ]
        return m


class Decoder(wiring.Component):
    """Collects the beats of an instruction and checks it against the table.

    ``decoded``: ``word`` (the 512 bits), ``unit`` (one bit for each unit, none for ``end``) and
    ``error``: BUS if a beat was in error; OPCODE for an unknown opcode or a reserved bit that is
    set; FIELD for a field outside ``[low, high]`` of its table; TOKEN for a wait for or a signal to
    its own unit, and for either in ``end``; NONE otherwise. The first in this order. ``release``
    pulses with the last beat. While ``clear`` is high nothing is taken, and what was taken is
    forgotten.

    LATENCY cycles from the last beat to ``decoded``; an instruction takes ``64 / R + LATENCY``. The
    word stays for a cycle behind the transfer.
    """

    LATENCY = 5

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "beats": In(
                    stream.Signature(data.StructLayout({"data": 8 * config.bus_bytes, "error": 1}))
                ),
                "release": Out(1),
                "clear": In(1),
                "decoded": Out(
                    stream.Signature(
                        data.StructLayout(
                            {"word": isa.INSTRUCTION_BITS, "unit": _UNIT_COUNT, "error": ERROR_BITS}
                        )
                    )
                ),
            }
        )

    @staticmethod
    def _out_of_range(field: isa.Field, bits):
        """Return whether ``bits`` is outside the range of ``field``, or None if it cannot be."""
        value = bits.as_signed() if field.signed else bits
        natural = isa.Field(field.name, field.width, "", field.signed)
        checks = []
        if field.low > natural.low:
            checks.append(value < field.low)
        if field.high < natural.high:
            checks.append(value > field.high)
        return Cat(checks).any() if checks else None

    def elaborate(self, platform):
        m = Module()
        beats = isa.INSTRUCTION_BYTES // self._config.bus_bytes
        width = 8 * self._config.bus_bytes

        word = Signal(isa.INSTRUCTION_BITS, reset_less=True)
        bus_error = Signal()
        count = Signal(range(beats))

        # Checks: registered twice for every instruction of the table, while the word stands still.
        opcode = word[: _HEADER["opcode"].width]
        known = Signal(reset_less=True)
        bad_reserved = Signal(reset_less=True)
        bad_field = Signal(reset_less=True)
        bad_token = Signal(reset_less=True)
        unit = Signal(_UNIT_COUNT, reset_less=True)
        matches, reserved_flags, field_flags, token_flags = [], [], [], []
        for item in isa.INSTRUCTIONS:
            match = Signal(name=f"is_{item.name}", reset_less=True)
            m.d.sync += match.eq(opcode == item.opcode)
            matches.append(match)
            reserved_flags.append(
                match & _any(m, word[item.width :], name=f"{item.name}_reserved")
                if item.width < isa.INSTRUCTION_BITS
                else 0
            )
            ranges = []
            for field, offset in item.offsets().values():
                check = self._out_of_range(field, word[offset : offset + field.width])
                if check is not None:
                    flag = Signal(name=f"{item.name}_{field.name}_range", reset_less=True)
                    m.d.sync += flag.eq(check)
                    ranges.append(flag)
            bad = Signal(name=f"{item.name}_range", reset_less=True)
            m.d.sync += bad.eq(Cat(ranges).any() if ranges else 0)
            field_flags.append(match & bad)
            tokens = []
            for name in ("wait", "signal"):
                field, offset = item.offsets()[name]
                bits = word[offset : offset + field.width]
                tokens.append(bits.any() if item.unit is None else bits[item.unit])
            own = Signal(name=f"{item.name}_tokens", reset_less=True)
            m.d.sync += own.eq(Cat(tokens).any())
            token_flags.append(match & own)
        m.d.sync += [
            known.eq(Cat(matches).any()),
            bad_reserved.eq(Cat(reserved_flags).any()),
            bad_field.eq(Cat(field_flags).any()),
            bad_token.eq(Cat(token_flags).any()),
        ]
        for item, match in zip(isa.INSTRUCTIONS, matches, strict=True):
            if item.unit is not None:
                m.d.sync += unit[item.unit].eq(match)

        error = Signal(ERROR_BITS, reset_less=True)
        m.d.sync += error.eq(isa.Error.NONE)
        with m.If(bus_error):
            m.d.sync += error.eq(isa.Error.BUS)
        with m.Elif(~known | bad_reserved):
            m.d.sync += error.eq(isa.Error.OPCODE)
        with m.Elif(bad_field):
            m.d.sync += error.eq(isa.Error.FIELD)
        with m.Elif(bad_token):
            m.d.sync += error.eq(isa.Error.TOKEN)
        m.d.comb += [
            self.decoded.payload.word.eq(word),
            self.decoded.payload.unit.eq(unit),
            self.decoded.payload.error.eq(error),
        ]

        with m.FSM():
            with m.State("COLLECT"):
                m.d.comb += self.beats.ready.eq(~self.clear)
                with m.If(self.beats.valid & ~self.clear):
                    m.d.sync += [
                        word.eq(Cat(word[width:], self.beats.payload.data)),
                        bus_error.eq(self.beats.payload.error | (bus_error & (count != 0))),
                        count.eq(count + 1),  # beats is a power of two
                    ]
                    with m.If(count == beats - 1):
                        m.d.comb += self.release.eq(1)
                        m.next = "CHECK0"
            # match, partial ORs and ranges; ORs; their sum; the error: LATENCY - 1 registers.
            for stage in range(self.LATENCY - 1):
                with m.State(f"CHECK{stage}"):
                    m.next = f"CHECK{stage + 1}" if stage < self.LATENCY - 2 else "HOLD"
                    with m.If(self.clear):
                        m.next = "COLLECT"
            with m.State("HOLD"):
                m.d.comb += self.decoded.valid.eq(1)
                with m.If(self.decoded.ready | self.clear):
                    m.next = "COLLECT"
        with m.If(self.clear):
            m.d.sync += count.eq(0)
        return m


class TokenCounter(wiring.Component):
    """Tokens from one unit to another: at most TOKEN_MAX.

    ``give`` adds one, ``take`` (only while ``available``) removes one, both leave it as it is.
    ``overflow`` is high in the cycle of a ``give`` that the counter cannot hold. ``available``, a
    register, follows one cycle later. ``clear`` sets it to zero.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "give": In(1),
                "take": In(1),
                "clear": In(1),
                "available": Out(1),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        assert isa.TOKEN_MAX > 1
        count = Signal(range(isa.TOKEN_MAX + 1))
        full = Signal()  # like available, formed one step ahead
        m.d.comb += self.overflow.eq(self.give & ~self.take & full)
        with m.If(self.clear):
            m.d.sync += [count.eq(0), self.available.eq(0), full.eq(0)]
        with m.Elif(self.give & ~self.take & ~full):
            m.d.sync += [
                count.eq(count + 1),
                self.available.eq(1),
                full.eq(count == isa.TOKEN_MAX - 1),
            ]
        with m.Elif(self.take & ~self.give):
            m.d.sync += [count.eq(count - 1), self.available.eq(count != 1), full.eq(0)]
        return m


class UnitStage(wiring.Component):
    """The token stage of one unit, between its queue and the unit.

    Takes the tokens for the instruction at the head of the queue as soon as all of them are
    ``available`` (bit u: unit u -> own unit; ``take`` pulses), and then offers its fields to the
    unit while fewer than IN_FLIGHT are running. Remembers index and signals of those that run; one
    cycle after the unit's ``done`` it pulses ``give`` (bit u: own unit -> unit u). While ``stop``
    is high nothing is started: an offer is taken back. ``clear`` (while nothing is running) forgets
    that the head has its tokens.

    ``head`` (stream of :func:`queue_layout`) is the queue, ``unit`` the unit's
    :class:`UnitSignature` from the other side. ``running``: something was started and is not done.
    ``granted``: the head has its tokens. ``missing``: the tokens that the head needs and does not
    have (only while not granted). ``start``, ``start_index``, ``done``, ``done_index``, ``error``:
    what happens in this cycle.

    LATENCY cycles from ``done`` of one unit to the start of another that waited for it. The next
    head is looked at LEAVE cycles after a start at the earliest.
    """

    LATENCY = 4
    LEAVE = 2
    #: Cycles of them from ``done`` to ``available``.
    TOKEN = 2

    def __init__(self, *, instruction: isa.Instruction) -> None:
        super().__init__(
            {
                "head": In(stream.Signature(queue_layout(instruction))),
                "unit": In(UnitSignature(instruction)),
                "available": In(_UNIT_COUNT),
                "take": Out(_UNIT_COUNT),
                "give": Out(_UNIT_COUNT),
                "stop": In(1),
                "clear": In(1),
                "running": Out(1),
                "granted": Out(1),
                "missing": Out(_UNIT_COUNT),
                "start": Out(1),
                "start_index": Out(INDEX_BITS),
                "done": Out(1),
                "done_index": Out(INDEX_BITS),
                "error": Out(ERROR_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        head, unit = self.head, self.unit
        entry = data.StructLayout({"signal": _UNIT_COUNT, "index": INDEX_BITS})
        entries = [Signal(entry, name=f"entry{i}", reset_less=True) for i in range(IN_FLIGHT)]
        count = Signal(range(IN_FLIGHT + 1))
        room = Signal(init=1)  # fewer than IN_FLIGHT are running; formed one step ahead
        # The queue lets its head go one cycle after the start: it has many registers to move.
        leaving = Signal()
        m.d.sync += leaving.eq(self.start)
        undecided = Signal()
        m.d.comb += undecided.eq(head.valid & ~leaving & ~self.granted)

        # A token that is there stays until this stage takes it.
        satisfied = Signal()
        m.d.sync += satisfied.eq(undecided & ~self.missing.any() & ~self.clear)
        with m.If(undecided):
            m.d.comb += self.missing.eq(head.payload.wait & ~self.available)
        with m.If(undecided & satisfied & ~self.stop):
            m.d.comb += self.take.eq(head.payload.wait)
            m.d.sync += self.granted.eq(1)

        m.d.comb += [
            unit.instruction.payload.eq(head.payload.fields),
            unit.instruction.valid.eq(self.granted & room & ~self.stop),
            self.start.eq(unit.instruction.valid & unit.instruction.ready),
            self.start_index.eq(head.payload.index),
            head.ready.eq(leaving),
            unit.stop.eq(self.stop),
            self.running.eq(count != 0),
            self.done.eq(unit.done & self.running),
            self.done_index.eq(entries[0].index),
            self.error.eq(Mux(self.done, unit.error, isa.Error.NONE)),
        ]
        m.d.sync += self.give.eq(Mux(self.done, entries[0].signal, 0))
        with m.If(self.start | self.clear):
            m.d.sync += self.granted.eq(0)

        # A queue of IN_FLIGHT entries, oldest first.
        m.d.sync += [
            count.eq(count + self.start - self.done),
            room.eq(self.done | ~((count == IN_FLIGHT) | (self.start & (count == IN_FLIGHT - 1)))),
        ]
        with m.If(self.done):
            for this, following in itertools.pairwise(entries):
                m.d.sync += this.eq(following)
        # It has been counted already.
        for position, this in enumerate(entries):
            with m.If(leaving & (count - self.done == position + 1)):
                m.d.sync += [this.signal.eq(head.payload.signal), this.index.eq(head.payload.index)]
        return m


class Sequencer(wiring.Component):
    """Runs a program: fetch, check, dispatch, tokens, errors.

    A pulse on ``start`` while not ``busy`` clears tokens, queues and results and takes
    ``program_base`` ... ``cycle_limit`` (registers of the same names; stable while busy). The
    machine is ``busy`` until it has finished: then ``done`` (the program reached ``end`` and every
    unit is idle) or ``failed`` (because of ``error`` at ``error_instruction``) is high until the
    next start, and ``finished`` is high in the first cycle of it. The first error wins; within one
    cycle the unit with the lowest number, then the sequencer's own; a counter's overflow counts two
    cycles later. After an error every unit gets ``stop``, and the machine finishes when all have
    answered and no read is outstanding.

    The sequencer's own errors, and the index that each reports:

    ======== ====================================================================================
    PROGRAM  length zero, base not a multiple of 64, or program not within ``memory_bytes`` (0);
             no ``end`` (the length)
    MEMORY   ``memory_base`` not a multiple of 4096, ``memory_bytes`` not a multiple of R, or
             their sum beyond 2**32 (0)
    BUS      an instruction could not be read (its own)
    OPCODE   see :class:`Decoder` (its own); FIELD and TOKEN likewise
    TOKEN    a counter overflowed (of the instruction that signalled)
    DEADLOCK every unit is idle, a queue is not empty, no head has its tokens, and the next
             instruction is ``end`` or meets a full queue (of the head of the first such unit)
    TIMEOUT  ``cycle_limit`` cycles have passed (0)
    NONE     ``stop`` was pulsed (0)
    ======== ====================================================================================

    The checks of an instruction come when it is fetched: an error in it stops the machine even if
    instructions before it have not been started.

    Members besides: ``fetch`` (:class:`AxiReadSignature`); ``load``, ``array``, ``vector``,
    ``store`` (each unit's port, from the other side); ``running`` and ``waiting`` (bit u: unit u
    runs something; has nothing to run and waits for tokens), ``missing_<unit>`` (the tokens that
    its head misses); ``finished_count`` (instructions that finished in this cycle);
    ``trace_start``, ``trace_done`` (bit u) with ``trace_start_index_<unit>`` and
    ``trace_done_index_<unit>``.
    """

    #: Cycles that a deadlock must last: longer than any pulse takes from one stage to the next.
    DEADLOCK_CYCLES = 16
    #: Cycles from the acceptance of an instruction to the write into its queue; and from the pop of
    #: a queue to the acceptance that it makes room for.
    PUSH = 1
    PLACE = 2

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        members = {
            "start": In(1),
            "stop": In(1),
            "program_base": In(ADDRESS_BITS),
            "program_length": In(_LENGTH_BITS),
            "memory_base": In(ADDRESS_BITS),
            "memory_bytes": In(ADDRESS_BITS),
            "cycle_limit": In(32),
            "busy": Out(1),
            "done": Out(1),
            "failed": Out(1),
            "finished": Out(1),
            "error": Out(ERROR_BITS),
            "error_instruction": Out(INDEX_BITS),
            "fetch": Out(AxiReadSignature(config)),
            "running": Out(_UNIT_COUNT),
            "waiting": Out(_UNIT_COUNT),
            "finished_count": Out(range(_UNIT_COUNT + 1)),
            "trace_start": Out(_UNIT_COUNT),
            "trace_done": Out(_UNIT_COUNT),
        }
        for unit, name in _NAMES.items():
            members[name] = In(UnitSignature(UNIT_INSTRUCTIONS[unit]))
            members[f"missing_{name}"] = Out(_UNIT_COUNT)
            members[f"trace_start_index_{name}"] = Out(INDEX_BITS)
            members[f"trace_done_index_{name}"] = Out(INDEX_BITS)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.fetch = fetch = Fetch(config=config)
        m.submodules.decoder = decoder = Decoder(config=config)
        wiring.connect(m, wiring.flipped(self.fetch), fetch.bus)
        wiring.connect(m, fetch.beats, decoder.beats)
        m.d.comb += fetch.release.eq(decoder.release)

        begin = Signal()  # a new program is started
        clear = Signal()  # one cycle later: what the last one has left goes away
        halt = Signal(init=1)  # everything shall come to rest; until the program runs
        # Outside of these nothing is fetched, and what the last program has left is not decoded.
        fetching, decoding = Signal(), Signal()
        m.d.sync += clear.eq(begin)
        m.d.comb += [fetch.stop.eq(~fetching), decoder.clear.eq(~decoding)]

        # Queues and token stages.
        stages, queues = {}, {}
        for unit, name in _NAMES.items():
            instruction = UNIT_INSTRUCTIONS[unit]
            stage = UnitStage(instruction=instruction)
            m.submodules[f"stage_{name}"] = stages[unit] = stage
            queue = SyncFIFOBuffered(width=queue_layout(instruction).size, depth=config.queue_depth)
            m.submodules[f"queue_{name}"] = ResetInserter(clear)(queue)
            queues[unit] = queue
            wiring.connect(m, stage.unit, wiring.flipped(getattr(self, name)))
            m.d.comb += [
                stage.head.payload.as_value().eq(queue.r_data),
                stage.head.valid.eq(queue.r_rdy),
                queue.r_en.eq(stage.head.ready),
                stage.stop.eq(halt),
                stage.clear.eq(clear),
                self.running[unit].eq(stage.running),
                self.waiting[unit].eq(
                    queue.r_rdy & ~stage.granted & ~stage.running & stage.missing.any() & ~halt
                ),
                getattr(self, f"missing_{name}").eq(stage.missing),
                self.trace_start[unit].eq(stage.start),
                self.trace_done[unit].eq(stage.done),
                getattr(self, f"trace_start_index_{name}").eq(stage.start_index),
                getattr(self, f"trace_done_index_{name}").eq(stage.done_index),
            ]

        # Tokens.
        overflow = Signal(_UNIT_COUNT)
        for source in isa.UNITS:
            flags = []
            for target in isa.UNITS:
                if source == target:
                    m.d.comb += stages[target].available[source].eq(0)
                    continue
                counter = TokenCounter()
                m.submodules[f"tokens_{_NAMES[source]}_{_NAMES[target]}"] = counter
                m.d.comb += [
                    counter.give.eq(stages[source].give[target]),
                    counter.take.eq(stages[target].take[source]),
                    counter.clear.eq(clear),
                    stages[target].available[source].eq(counter.available),
                ]
                flags.append(counter.overflow)
            m.d.sync += overflow[source].eq(Cat(flags).any())

        # Dispatch: the decoded word to the queue of its unit, one cycle after it has been accepted.
        # A queue's place is known a cycle late, which is no harm: only a dispatch takes it, and
        # those are further apart.
        decoded = decoder.decoded
        index = Signal(INDEX_BITS)
        pushed_index = Signal(INDEX_BITS, reset_less=True)
        exhausted = Signal()
        dispatching, at_end = Signal(), Signal()
        accepted = Signal()
        places = Signal(_UNIT_COUNT)
        push = Signal(_UNIT_COUNT)
        assert isa.INSTRUCTION_BYTES // config.bus_bytes + Decoder.LATENCY > self.PUSH + 2
        m.d.comb += accepted.eq((decoded.payload.unit & places).any())
        m.d.sync += [
            exhausted.eq(index == self.program_length),
            pushed_index.eq(index),
            places.eq(Cat(queues[unit].w_rdy for unit in isa.UNITS)),
            push.eq(Mux(dispatching, decoded.payload.unit & places, 0)),
        ]
        for unit, queue in queues.items():
            instruction = UNIT_INSTRUCTIONS[unit]
            entry = Signal(queue_layout(instruction), name=f"entry_{_NAMES[unit]}")
            m.d.comb += [
                entry.fields.as_value().eq(decoded.payload.word[_HEADER_BITS : instruction.width]),
                entry.index.eq(pushed_index),
                queue.w_data.eq(entry),
                queue.w_en.eq(push[unit]),
            ]
            for name in ("wait", "signal"):
                field, offset = instruction.offsets()[name]
                m.d.comb += entry[name].eq(decoded.payload.word[offset : offset + field.width])

        running = Signal()
        m.d.comb += running.eq(Cat(stage.running for stage in stages.values()).any())
        empty = Signal()
        m.d.comb += empty.eq(~Cat(queue.level.any() for queue in queues.values()).any())

        # Deadlock: nothing runs, nothing can start, and nothing can be added. In two steps, so that
        # patience begins with its second cycle.
        stuck = Signal()
        startable = Signal(_UNIT_COUNT)
        at_rest = Signal()
        m.d.sync += [
            startable.eq(
                Cat(
                    stage.granted | (queues[unit].r_rdy & ~stage.missing.any())
                    for unit, stage in stages.items()
                )
            ),
            at_rest.eq((at_end | (dispatching & ~accepted)) & ~running & ~empty),
            stuck.eq(at_rest & ~startable.any()),
        ]
        patience = Signal(range(self.DEADLOCK_CYCLES))
        deadlock = Signal()
        with m.If(stuck):
            m.d.sync += patience.eq(patience + 1)
        with m.Else():
            m.d.sync += patience.eq(0)
        m.d.sync += deadlock.eq(stuck & (patience == self.DEADLOCK_CYCLES - 2))
        deadlock_index = Signal(INDEX_BITS, reset_less=True)
        for unit in reversed(isa.UNITS):
            with m.If(queues[unit].r_rdy):
                m.d.sync += deadlock_index.eq(stages[unit].start_index)

        expired = Signal()
        cycle = Signal(32)
        limited = Signal()
        stopping = Signal()
        at_limit = Signal()
        m.d.sync += [
            limited.eq(self.cycle_limit != 0),
            at_limit.eq(cycle == self.cycle_limit),
        ]
        with m.If(begin):
            m.d.sync += [cycle.eq(0), at_limit.eq(0), expired.eq(0), stopping.eq(0)]
        with m.Elif(self.busy):
            m.d.sync += cycle.eq(cycle + 1)
            with m.If(limited & at_limit):
                m.d.sync += expired.eq(1)
            with m.If(self.stop):
                m.d.sync += stopping.eq(1)

        # The first error, in three registers: those of each unit and the sequencer's own; which of
        # them counts, for each unit and the sequencer; the first. Later statements win over earlier
        # ones. Without an error codes and indices matter to nobody: they need no enable.
        raw, chosen = [], []

        def register(value, name, **options) -> Signal:
            result = Signal(len(value), name=name, **options)
            m.d.sync += result.eq(value)
            return result

        def choose(name, *sources) -> None:
            """Add the error of the last of ``sources`` (flag, code, index) that has its flag."""
            flag = Signal(name=f"{name}_raised")
            code = Signal(ERROR_BITS, name=f"{name}_code", reset_less=True)
            at = Signal(INDEX_BITS, name=f"{name}_index", reset_less=True)
            m.d.sync += flag.eq(0)
            for given, error, index_ in sources:
                with m.If(given):
                    m.d.sync += [flag.eq(1), code.eq(error), at.eq(index_)]
            raw.append(Cat(given for given, _, _ in sources).any())
            chosen.append((flag, code, at))

        bad_word = Mux(decoded.valid & ~at_end, decoded.payload.error, 0)
        word_error = register(bad_word, "word_error")
        own_index = register(index, "own_index", reset_less=True)
        choose(
            "own",
            (expired, isa.Error.TIMEOUT, 0),
            (stopping, isa.Error.NONE, 0),
            (deadlock, isa.Error.DEADLOCK, deadlock_index),
            (exhausted & ~at_end, isa.Error.PROGRAM, own_index),
            (word_error.any(), word_error, own_index),
        )
        for unit, name in _NAMES.items():
            error = register(stages[unit].error, f"{name}_error")
            at = register(stages[unit].done_index, f"{name}_done_index", reset_less=True)
            # A counter overflows two cycles after what was done.
            lost = register(overflow[unit], f"{name}_overflow")
            given_at = register(at, f"{name}_given_index", reset_less=True)
            lost_at = register(given_at, f"{name}_overflow_index", reset_less=True)
            choose(name, (lost, isa.Error.TOKEN, lost_at), (error.any(), error, at))
        raised = Signal()
        raised_error = Signal(ERROR_BITS)
        raised_index = Signal(INDEX_BITS, reset_less=True)
        m.d.sync += raised.eq(decoding & ~raised & Cat(flag for flag, _, _ in chosen).any())
        own, *of_units = chosen
        for flag, code, at in (own, *reversed(of_units)):
            with m.If(flag):
                m.d.sync += [raised_error.eq(code), raised_index.eq(at)]

        # Everything has been done well: not before the last tokens have been counted.
        at_peace, finished_all = Signal(), Signal()
        unclear = overflow.any() | Cat(raw).any() | Cat(flag for flag, _, _ in chosen).any()
        m.d.sync += [at_peace.eq(~running & empty), finished_all.eq(at_peace & ~unclear)]

        # Before the start: registers to sums, sums to flags, flags to a decision.
        stop_bits = ADDRESS_BITS + isa.INSTRUCTION_BYTES.bit_length()
        program_end = Signal(stop_bits, reset_less=True)
        memory_end = Signal(ADDRESS_BITS + 1, reset_less=True)
        bad_program, bad_memory = Signal(reset_less=True), Signal(reset_less=True)
        length_zero = Signal(reset_less=True)
        m.d.sync += [
            program_end.eq(
                self.program_base + (self.program_length << isa.INSTRUCTION_BYTES.bit_length() - 1)
            ),
            memory_end.eq(self.memory_base + self.memory_bytes),
            length_zero.eq(self.program_length == 0),
            bad_program.eq(
                length_zero
                | (self.program_base % isa.INSTRUCTION_BYTES).any()
                | (program_end > self.memory_bytes)
            ),
            bad_memory.eq(
                (self.memory_base % 4096).any()
                | (self.memory_bytes % config.bus_bytes).any()
                | (memory_end > (1 << ADDRESS_BITS))
            ),
        ]
        first = Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += first.eq(self.memory_base + self.program_base)
        m.d.comb += [fetch.address.eq(first), fetch.count.eq(self.program_length)]

        failing = Signal()
        m.d.sync += self.finished.eq(0)

        def fail(code, at) -> list:
            return [failing.eq(1), self.error.eq(code), self.error_instruction.eq(at)]

        # What the states tell the others comes from registers beside the state.
        rest = [halt.eq(1), fetching.eq(0), decoding.eq(0), at_end.eq(0)]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.comb += begin.eq(1)
                    m.d.sync += [
                        self.busy.eq(1),
                        self.done.eq(0),
                        self.failed.eq(0),
                        self.error.eq(isa.Error.NONE),
                        self.error_instruction.eq(0),
                        failing.eq(0),
                        index.eq(0),
                    ]
                    m.next = "SUM"
            with m.State("SUM"):
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(bad_memory):
                    m.d.sync += fail(isa.Error.MEMORY, 0)
                    m.next = "HALT"
                with m.Elif(bad_program):
                    m.d.sync += fail(isa.Error.PROGRAM, 0)
                    m.next = "HALT"
                with m.Else():
                    m.d.comb += fetch.start.eq(1)
                    m.d.sync += [halt.eq(0), fetching.eq(1), decoding.eq(1)]
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(decoded.valid & (decoded.payload.error == isa.Error.NONE) & ~raised):
                    with m.If(decoded.payload.unit.any()):
                        m.d.comb += [dispatching.eq(1), decoded.ready.eq(accepted)]
                        with m.If(accepted):
                            m.d.sync += index.eq(index + 1)
                    with m.Else():
                        m.d.sync += [fetching.eq(0), at_end.eq(1)]
                        m.next = "END"
                with m.If(raised):
                    m.d.sync += [*fail(raised_error, raised_index), *rest]
                    m.next = "HALT"
            with m.State("END"):
                with m.If(raised):
                    m.d.sync += [*fail(raised_error, raised_index), *rest]
                    m.next = "HALT"
                with m.Elif(finished_all):
                    m.d.sync += rest
                    m.next = "HALT"
            with m.State("HALT"):
                with m.If(~running & fetch.idle):
                    m.d.sync += [
                        self.busy.eq(0),
                        self.done.eq(~failing),
                        self.failed.eq(failing),
                        self.finished.eq(1),
                    ]
                    m.next = "IDLE"

        # Instructions that finished well; those that a stop cut short do not count.
        good = [stage.done & (stage.error == isa.Error.NONE) & ~halt for stage in stages.values()]
        # Their number as bits of a few inputs each: a chain of adders would be deep.
        pairs = list(itertools.combinations(good, 2))
        all_good = Cat(good).all()
        m.d.comb += self.finished_count.eq(
            Cat(Cat(good).xor(), Cat(a & b for a, b in pairs).any() & ~all_good, all_good)
        )
        assert len(good) == 4
        return m
