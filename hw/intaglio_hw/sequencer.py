"""The sequencer: fetches a program, checks it, starts the units in the order that tokens allow.

::

    memory -> Fetch -> Decoder -+-> queue -> UnitStage -> load
                                +-> queue -> UnitStage -> array
                                +-> queue -> UnitStage -> vector
                                +-> queue -> UnitStage -> store

with a TokenCounter for each ordered pair of units. What an instruction means, and which errors
there are, stands in :mod:`intaglio.spec.isa`.
"""

import collections
import functools
import itertools
import operator

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.fetch import LENGTH_BITS, Decoder, Fetch, any_group
from intaglio_hw.interfaces import ADDRESS_BITS, ERROR_BITS, AxiReadSignature, UnitSignature
from intaglio_hw.queues import HeadQueue
from intaglio_hw.stages import INDEX_BITS, TokenCounter, UnitStage, narrow_layout, queue_layout

__all__ = ["INDEX_BITS", "UNIT_INSTRUCTIONS", "Sequencer"]

#: The instruction of each unit; every unit has exactly one.
UNIT_INSTRUCTIONS = {
    unit: next(item for item in isa.INSTRUCTIONS if item.unit == unit) for unit in isa.UNITS
}
#: Name of the port of each unit.
_NAMES = {unit: unit.name.lower() for unit in isa.UNITS}
_UNIT_COUNT = len(isa.UNITS)
#: Bits of the header: the opcode and the tokens.
_HEADER_BITS = sum(field.width for field in isa.HEADER)
#: Bits of an index that are not zero in a program that lies in the memory.
_PROGRAM_BITS = ADDRESS_BITS - (isa.INSTRUCTION_BYTES - 1).bit_length()


def _equal(m: Module, a: Signal, b: Signal, *, name: str, forget, group: int = 4) -> Signal:
    """Return a signal that tells, two cycles later, if ``a == b``; not of before ``forget``, which
    a reset sets.
    """
    parts = Signal(len(a) // group, name=f"{name}_parts", reset_less=True)
    result = Signal(name=name, reset_less=True)
    with m.If(forget):
        m.d.sync += [parts.eq(0), result.eq(0)]
    with m.Else():
        places = range(0, len(a), group)
        m.d.sync += [
            parts.eq(Cat(a[low : low + group] == b[low : low + group] for low in places)),
            result.eq(parts.all()),
        ]
    return result


def _register(m: Module, value, name: str, **options) -> Signal:
    result = Signal(len(value), name=name, **options)
    m.d.sync += result.eq(value)
    return result


def _any(signals):
    return Cat(signals).any()


class _Reported:
    """An error on its way: that there is one, its code, its instruction. Without ``flag`` the
    others mean nothing, so that they need no enable.
    """

    def __init__(self, m: Module, name: str, flag, code, index) -> None:
        self.flag = _register(m, flag, f"{name}_raised")
        self.code = _register(m, code, f"{name}_code", reset_less=True)
        self.index = _register(m, index, f"{name}_index", reset_less=True)


def _first(m: Module, name: str, *reported: _Reported, when=1) -> _Reported:
    """Return the first of ``reported`` that has its flag, one cycle later, ``when`` that counts."""
    *others, last = reported
    code, index = last.code, last.index
    for item in reversed(others):
        code, index = Mux(item.flag, item.code, code), Mux(item.flag, item.index, index)
    return _Reported(m, name, _any(item.flag for item in reported) & when, code, index)


class Sequencer(wiring.Component):
    """Runs a program: fetch, check, dispatch, tokens, errors.

    A pulse on ``start`` while not ``busy`` clears tokens, queues and results and takes
    ``program_base`` ... ``cycle_limit`` (registers of the same names; stable while busy). The
    machine is ``busy`` until it has finished: then ``done`` (the program reached ``end`` and every
    unit is idle) or ``failed`` (because of ``error`` at ``error_instruction``) is high until the
    next start, and ``finished`` is high in the first cycle of it. The first error wins; within one
    cycle the unit with the lowest number, then the sequencer's own; a counter's overflow counts one
    cycle later. After an error every unit gets ``stop``, and the machine finishes when all have
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
    ``store`` (each unit's port, from the other side). What the following tell is one cycle old:
    ``running`` and ``waiting`` (bit u: unit u runs something; has nothing to run and waits for
    tokens), ``missing_<unit>`` (the tokens that its head misses); ``trace_start``, ``trace_done``
    (bit u) with ``trace_start_index_<unit>`` and ``trace_done_index_<unit>``. ``finished_count``
    (instructions that finished well) is two cycles old.
    """

    #: Cycles that a deadlock must last: longer than any pulse takes from one stage to the next.
    DEADLOCK_CYCLES = 16
    #: Cycles of rest before the end: longer than an error or a start takes to be seen.
    REST_CYCLES = 8
    #: Cycles from the first busy one to the start of the fetch unit.
    START = 5
    #: Cycles from the acceptance of an instruction to the write into its queue; and from a start,
    #: which makes room in a queue, to the acceptance that it makes room for.
    PUSH = 1
    PLACE = 4

    def __init__(self, *, config: AcceleratorConfig, lean: bool = False) -> None:
        self._config, self._lean = config, lean
        self._index_bits = _PROGRAM_BITS if lean else INDEX_BITS
        members = {
            "start": In(1),
            "stop": In(1),
            "program_base": In(ADDRESS_BITS),
            "program_length": In(LENGTH_BITS),
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
            members[name] = In(UnitSignature(UNIT_INSTRUCTIONS[unit], held=lean))
            members[f"missing_{name}"] = Out(_UNIT_COUNT)
            members[f"trace_start_index_{name}"] = Out(INDEX_BITS)
            members[f"trace_done_index_{name}"] = Out(INDEX_BITS)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.fetch = fetch = Fetch(config=config)
        m.submodules.decoder = decoder = Decoder(config=config, lean=self._lean)
        wiring.connect(m, wiring.flipped(self.fetch), fetch.bus)
        wiring.connect(m, fetch.beats, decoder.beats)
        m.d.comb += fetch.release.eq(decoder.release)

        # The state, a register for each thing that it tells the others.
        setup = Signal(self.START)  # the cycles between a start and the decision to run
        begin = setup[0]
        clear = Signal(init=1)  # what the last program has left goes away
        watching = Signal()  # errors count
        fetching, decoding = Signal(), Signal()
        halt = Signal(init=1)  # everything shall come to rest; until the program runs
        halting = Signal()  # after an error
        at_end = Signal()
        opening, finish = Signal(), Signal()
        m.d.comb += [opening.eq(self.start & ~self.busy), decoder.clear.eq(~decoding)]
        m.d.sync += [setup.eq(Cat(opening, setup[:-1])), clear.eq(begin)]

        stages, queues = self._stages(m, clear=clear, halt=halt)
        overflow = self._tokens(m, stages, clear=clear)
        index, accepted = self._dispatch(m, decoder, queues, clear=clear)
        ended = decoder.decoded.valid & decoder.decoded.payload.end & decoding

        # Registers again, as these are asked from all sides.
        running = _register(m, _any(stage.running for stage in stages.values()), "running_any")
        waiting = _register(m, _any(queue.valid for queue in queues.values()), "waiting_any")
        startable = _register(
            m, _any(stage.granted | stage.satisfied for stage in stages.values()), "startable_any"
        )
        # Nothing can be added: the decoder has the end, or what meets a full queue.
        blocked = _register(m, decoder.decoded.valid & ~accepted, "blocked")
        stuck = _register(m, blocked & waiting & ~running & ~startable, "stuck")

        bad_program, bad_memory = self._check_registers(m)
        refused = Signal()
        m.d.sync += refused.eq(setup[-1] & (bad_program | bad_memory))
        own = self._own_errors(
            m,
            *self._limits(m, begin=begin, clear=clear, watching=watching),
            (bad_program & refused, isa.Error.PROGRAM),
            (bad_memory & refused, isa.Error.MEMORY),
            clear=clear,
            watching=decoding,
            stuck=stuck,
            index=index,
            decoded=decoder.decoded,
            heads=[(queues[unit].valid, stages[unit].start_index) for unit in isa.UNITS],
        )
        first = self._first_error(m, stages, overflow, own, watching)
        raised = first.flag

        # Rest: nothing runs, no read is outstanding; after the end, the queues are empty.
        resting = _register(m, (halting | (at_end & ~waiting)) & ~running & fetch.idle, "resting")
        rested = Signal(range(self.REST_CYCLES + 1))
        assert self.REST_CYCLES & (self.REST_CYCLES - 1) == 0
        with m.If(~resting | finish):
            m.d.sync += rested.eq(0)
        with m.Elif(~rested[-1]):
            m.d.sync += rested.eq(rested + 1)
        m.d.comb += finish.eq(rested[-1])

        # Program and memory are as they were before the start: nothing here needs an enable.
        first_address = Signal(ADDRESS_BITS, reset_less=True)
        good = Signal(reset_less=True)
        m.d.sync += [
            first_address.eq(self.memory_base + self.program_base),
            good.eq(~(bad_program | bad_memory)),
            fetch.start.eq(setup[-1] & good),
        ]
        m.d.comb += [
            fetch.clear.eq(setup[2]),
            fetch.address.eq(first_address),
            fetch.count.eq(self.program_length),
            fetch.stop.eq(~fetching),
        ]
        with m.If(setup[-1]):
            m.d.sync += [watching.eq(1), halt.eq(~good)]
        with m.If(fetch.start):  # what it still held is gone
            m.d.sync += [fetching.eq(1), decoding.eq(1)]
        with m.If(ended):
            m.d.sync += [at_end.eq(1), fetching.eq(0)]
        with m.If(raised):
            m.d.sync += halting.eq(1)
        error = Signal(ERROR_BITS, reset_less=True)
        error_instruction = Signal.like(self.error_instruction, reset_less=True)
        m.d.comb += [self.error.eq(error), self.error_instruction.eq(error_instruction)]
        with m.If(clear):  # a reset sets it
            m.d.sync += [error.eq(isa.Error.NONE), error_instruction.eq(0)]
        with m.Elif(raised):
            m.d.sync += [error.eq(first.code), error_instruction.eq(first.index)]
        with m.If(raised | finish):
            m.d.sync += [watching.eq(0), fetching.eq(0), decoding.eq(0), halt.eq(1)]
        m.d.sync += self.finished.eq(finish)
        with m.If(finish):
            m.d.sync += [
                self.busy.eq(0),
                self.done.eq(~halting),
                self.failed.eq(halting),
                halting.eq(0),
                at_end.eq(0),
            ]
        with m.If(opening):
            m.d.sync += [self.busy.eq(1), self.done.eq(0), self.failed.eq(0)]
        self._count_finished(m, stages, halt)
        return m

    def _stages(self, m: Module, *, clear, halt) -> tuple[dict, dict]:
        """Return the token stage and the queue of each unit."""
        stages, queues = {}, {}
        for unit, name in _NAMES.items():
            instruction = UNIT_INSTRUCTIONS[unit]
            stages[unit] = stage = UnitStage(
                instruction=instruction, held=self._lean, index_bits=self._index_bits
            )
            m.submodules[f"stage_{name}"] = stage
            layout = self._entry_layout(instruction)
            queues[unit] = queue = HeadQueue(
                width=layout.size,
                depth=self._config.queue_depth,
                held=list(self._parts(instruction).values()) if self._lean else (),
            )
            m.submodules[f"queue_{name}"] = queue
            assert stage.LEAVE == 1 + queue.LATENCY
            wiring.connect(m, stage.unit, wiring.flipped(getattr(self, name)))
            if self._lean:
                assert layout["fields"].offset == 0
                head = data.View(layout, Cat(queue.held, queue.head))
                m.d.comb += queue.follow.eq(stage.unit.follow)
            else:
                head = data.View(layout, queue.head)
            payload = stage.head.payload
            for field in instruction.fields:
                m.d.comb += payload.fields[field.name].eq(head.fields[field.name])
            m.d.comb += [
                payload.wait.eq(head.wait),
                payload.signal.eq(head.signal),
                payload.index.eq(head.index),
                stage.head.valid.eq(queue.valid),
                queue.pop.eq(stage.head.ready),
                queue.clear.eq(clear),
                stage.stop.eq(halt),
                stage.clear.eq(clear),
                self.running[unit].eq(stage.running),
                self.waiting[unit].eq(stage.missing.any() & ~stage.running & ~halt),
                getattr(self, f"missing_{name}").eq(stage.missing),
                self.trace_start[unit].eq(stage.start),
                self.trace_done[unit].eq(stage.done),
                getattr(self, f"trace_start_index_{name}").eq(stage.start_index),
                getattr(self, f"trace_done_index_{name}").eq(stage.done_index),
            ]
        return stages, queues

    @staticmethod
    def _tokens(m: Module, stages: dict, *, clear) -> dict:
        """Connect the stages; return for each unit that a token of it was one too many."""
        overflow = {}
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
                name = f"overflow_{_NAMES[source]}_{_NAMES[target]}"
                flags.append(_register(m, counter.overflow, name))
            overflow[source] = _any(flags)
        return overflow

    def _dispatch(self, m: Module, decoder: Decoder, queues: dict, *, clear) -> tuple:
        """Put the decoded word into the queue of its unit, one cycle after it has been accepted.

        Return the index of the word, and that it is accepted.
        """
        decoded = decoder.decoded
        # A queue's room is known late, but dispatches are further apart.
        assert isa.INSTRUCTION_BYTES // self._config.bus_bytes + Decoder.LATENCY >= self.PUSH + 4
        count = Signal(self._index_bits, name="index", reset_less=True)
        index = count if len(count) == INDEX_BITS else Cat(count, Const(0, INDEX_BITS - len(count)))
        push = Signal(_UNIT_COUNT)
        accepted = Signal()
        m.d.comb += [
            decoder.room.eq(Cat(queues[unit].room for unit in isa.UNITS)),
            decoded.ready.eq(decoded.payload.go),
            accepted.eq(decoded.valid & decoded.ready),
        ]
        m.d.sync += push.eq(Mux(accepted, decoded.payload.unit, 0))
        with m.If(clear):
            m.d.sync += count.eq(0)
        with m.Elif(push.any()):
            m.d.sync += count.eq(count + 1)
        for unit, queue in queues.items():
            instruction = UNIT_INSTRUCTIONS[unit]
            entry = data.View(self._entry_layout(instruction), queue.entry)
            m.d.comb += [entry.index.eq(index), queue.push.eq(push[unit])]
            if self._lean:
                m.d.comb += queue.keep.eq(Cat(decoder.place[n] for n in self._parts(instruction)))
            for field, offset in instruction.offsets().values():
                bits = decoded.payload.word[offset : offset + field.width]
                if field.name in ("wait", "signal"):
                    m.d.comb += entry[field.name].eq(bits)
                elif field.name != "opcode":
                    m.d.comb += entry.fields[field.name].eq(bits)
        return index, accepted

    def _check_registers(self, m: Module) -> tuple[Signal, Signal]:
        """Return what is wrong with the registers: sums, flags, a decision."""
        shift = isa.INSTRUCTION_BYTES.bit_length() - 1
        stop_bits = ADDRESS_BITS + shift + 1
        program_end = Signal(stop_bits, reset_less=True)
        memory_end = Signal(ADDRESS_BITS + 1, reset_less=True)
        beyond = Signal(2, reset_less=True)
        bad_program, bad_memory = Signal(reset_less=True), Signal(reset_less=True)
        inside = any_group(m, memory_end[:ADDRESS_BITS], name="memory_end", group=8)
        some = any_group(m, self.program_length, name="length", group=8)
        aligned_program = ~(self.program_base % isa.INSTRUCTION_BYTES).any()
        misaligned = _register(m, ~aligned_program, "program_misaligned", reset_less=True)
        rough = _register(
            m,
            (self.memory_base % 4096).any() | (self.memory_bytes % self._config.bus_bytes).any(),
            "memory_misaligned",
            reset_less=True,
        )
        m.d.sync += [
            program_end.eq(self.program_base + (self.program_length << shift)),
            memory_end.eq(self.memory_base + self.memory_bytes),
            beyond.eq(
                Cat(
                    (self.memory_bytes - program_end[:ADDRESS_BITS])[ADDRESS_BITS],  # borrow
                    program_end[ADDRESS_BITS:].any(),
                )
            ),
            bad_program.eq(~some | misaligned | beyond.any()),
            bad_memory.eq(rough | (memory_end[ADDRESS_BITS] & inside)),
        ]
        return bad_program, bad_memory

    def _limits(self, m: Module, *, begin, clear, watching) -> tuple:
        """Return the errors of time: ``cycle_limit`` has passed, a stop was asked for."""
        cycle = Signal(32, reset_less=True)  # of the busy ones, 1 behind ``clear``
        limited = any_group(m, self.cycle_limit, name="limited", group=8)
        at_limit = _equal(m, cycle, self.cycle_limit, name="at_limit", forget=clear)
        expired, stopping = Signal(), Signal()
        with m.If(clear):
            m.d.sync += cycle.eq(1)
        with m.Elif(self.busy):
            m.d.sync += cycle.eq(cycle + 1)
        with m.If(begin):
            m.d.sync += [expired.eq(0), stopping.eq(0)]
        with m.Elif(self.busy):
            with m.If(limited & at_limit):
                m.d.sync += expired.eq(1)
            with m.If(self.stop):
                m.d.sync += stopping.eq(1)
        return ((expired & watching, isa.Error.TIMEOUT), (stopping & watching, isa.Error.NONE))

    def _own_errors(
        self, m: Module, *flagged, clear, watching, stuck, index, decoded, heads
    ) -> _Reported:
        """Return the sequencer's own error; ``flagged`` are of instruction 0, with their codes."""
        patience = Signal(range(self.DEADLOCK_CYCLES + 1))
        assert self.DEADLOCK_CYCLES & (self.DEADLOCK_CYCLES - 1) == 0
        with m.If(~stuck):
            m.d.sync += patience.eq(0)
        with m.Elif(~patience[-1]):
            m.d.sync += patience.eq(patience + 1)
        exhausted = _equal(m, index, self.program_length, name="exhausted", forget=clear)

        def flag(value, name: str) -> Signal:
            return _register(m, value, f"own_{name}")

        # Of those without an instruction later ones win.
        flags = [(flag(given, error.name.lower()), error) for given, error in flagged]
        code = Signal(ERROR_BITS)
        for given, error in flags:
            with m.If(given):
                m.d.comb += code.eq(error)
        general = _Reported(
            m, "general", _any(given for given, _ in flags), code, Const(0, INDEX_BITS)
        )
        deadlock = flag(patience[-1] & watching, "deadlock")
        program = flag(exhausted & watching, "exhausted")
        word = flag(decoded.valid & decoded.payload.bad & watching, "word")
        # The first head that waits, chosen long before it matters.
        masked, before = [], Const(0, 1)
        for number, (valid, at) in enumerate(heads):
            chooses = _register(m, valid & ~before, f"deadlock_{number}")
            masked.append(Mux(chooses, at, 0))
            before = before | valid
        pairs = [
            masked[low] | masked[low + 1]
            if self._lean
            else _register(m, masked[low] | masked[low + 1], f"deadlock_pair{low}", reset_less=True)
            for low in range(0, _UNIT_COUNT, 2)
        ]
        chosen = _register(
            m, functools.reduce(operator.or_, pairs), "deadlock_index", reset_less=True
        )
        # The decoder holds a bad word.
        code = Mux(word, decoded.payload.error, Mux(program, isa.Error.PROGRAM, isa.Error.DEADLOCK))
        at = Mux(program | word, index, chosen)
        special = _Reported(m, "special", deadlock | program | word, code, at)
        return _first(m, "own", special, general)

    def _first_error(
        self, m: Module, stages: dict, overflow: dict, own: _Reported, watching
    ) -> _Reported:
        """Return the first error: of the unit with the lowest number, then the sequencer's own."""
        of_units = []
        for unit, name in _NAMES.items():
            stage = stages[unit]
            failed = _register(m, stage.done & stage.error.any(), f"{name}_failed")
            code = _register(m, stage.error, f"{name}_error", reset_less=True)
            at = _register(m, stage.done_index, f"{name}_done_index", reset_less=True)
            # A counter overflows in the cycle after this.
            given_at = _register(m, at, f"{name}_given_index", reset_less=True)
            of_units.append(
                _Reported(
                    m,
                    name,
                    failed | overflow[unit],
                    Mux(failed, code, isa.Error.TOKEN),
                    Mux(failed, at, given_at),
                )
            )
        load, array, vector, store = of_units
        low = _first(m, "load_array", load, array)
        high = _first(m, "vector_store", vector, store)
        counts = Signal()  # one error alone
        first = _first(m, "first", low, high, own, when=counts)
        m.d.comb += counts.eq(watching & ~first.flag)
        return first

    def _count_finished(self, m: Module, stages: dict, halt) -> None:
        """Count what finished well; what a stop has cut short does not count."""
        good = [
            _register(m, stage.done & ~stage.error.any() & ~halt, f"{_NAMES[unit]}_good")
            for unit, stage in stages.items()
        ]
        # Their number as bits of a few inputs each: a chain of adders would be deep.
        pairs = list(itertools.combinations(good, 2))
        all_good = Cat(good).all()
        m.d.comb += self.finished_count.eq(
            Cat(Cat(good).xor(), _any(a & b for a, b in pairs) & ~all_good, all_good)
        )
        assert len(good) == 4

    def _parts(self, instruction: isa.Instruction) -> dict[int, int]:
        """Return the bits of the fields that come with each beat: its number -> how many."""
        layout = narrow_layout(instruction)
        return collections.Counter(
            (offset + bit) // (8 * self._config.bus_bytes)
            for field, offset in instruction.offsets().values()
            if field in instruction.fields
            for bit in range(layout[field.name].width)
        )

    def _entry_layout(self, instruction: isa.Instruction) -> data.StructLayout:
        """Return the layout of an entry of a unit's queue in its memory."""
        members = {**queue_layout(instruction).members, "fields": narrow_layout(instruction)}
        if self._lean:
            members["index"] = unsigned(self._index_bits)
        return data.StructLayout(members)
