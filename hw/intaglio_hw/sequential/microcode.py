"""The microprogram of the sequential accelerator.

One program of the host after the other: fetch and check an instruction, put it into the queue of
its unit, then let each unit run one instruction whose tokens are there, and again. This is the
order of the golden machine, so that every error comes where it comes there.

======================= ==========================================================================
:mod:`.context`         registers and macros that all parts share, places in the scratchpad memory
:mod:`.decode`          fields and their checks, from the tables of the instruction set
:mod:`.rows`            load, store and the bursts of everything
:mod:`.convolve`        array
:mod:`.combine`         vector
======================= ==========================================================================
"""

from functools import cache

from intaglio.spec import isa, regs
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error, Unit
from intaglio_hw.sequential import rows
from intaglio_hw.sequential.assembler import Microprogram
from intaglio_hw.sequential.combine import NOTHING_HELD, Vector
from intaglio_hw.sequential.context import TABLE, Context, fail_label
from intaglio_hw.sequential.convolve import array
from intaglio_hw.sequential.decode import checks, unpack_label, unpackers
from intaglio_hw.sequential.interface import (
    INSTRUCTION_CYCLES,
    TRAP_PLACE,
    Condition,
    Port,
    Source,
)
from intaglio_hw.sequential.layout import ENTRY_VECTORS, UNIT_PLACES, UNIT_TOKENS, WORDS

__all__ = ["WORDS_MAX", "assemble", "registers", "words"]

#: Words of the microprogram memory.
WORDS_MAX = 2048
#: Cycles from the first busy one to when the idle loop is left, about.
_NOTICE_CYCLES = 3
_PAGE_BITS = 12
_NAMES = {unit: unit.name.lower() for unit in isa.UNITS}
#: Counters of the cycles of a unit (the array's is one of passes), and of those in which a unit
#: waits for a token from another, or from any.
_BUSY = {Unit.LOAD: "load_busy", Unit.VECTOR: "vector_busy", Unit.STORE: "store_busy"}
_WAITS = (
    (Unit.LOAD, None, "load_wait"),
    (Unit.ARRAY, Unit.LOAD, "array_wait_load"),
    (Unit.ARRAY, Unit.VECTOR, "array_wait_vector"),
    (Unit.VECTOR, Unit.LOAD, "vector_wait_load"),
    (Unit.VECTOR, Unit.ARRAY, "vector_wait_array"),
    (Unit.VECTOR, Unit.STORE, "vector_wait_store"),
    (Unit.STORE, None, "store_wait"),
)


class _Main:
    """Emits the main loop, and everything around it."""

    def __init__(self, x: Context) -> None:
        self.x = x
        a = x.a
        # The program: the next instruction, its address on the bus, where its words go; what waits
        # for a place in a queue (its opcode, or 0); instructions in queues; ``end`` was met.
        self.index, self.address = a.wide("index"), a.wide("address")
        self.entry, self.pending, self.queued, self.ended = a.registers(
            "entry", "pending", "queued", "ended"
        )
        # A round: something happened; the words of the first instruction that waits, or 0.
        self.progress, self.blocked = a.registers("progress", "blocked")
        # The words of the instruction of which the fields are in their registers, or 0.
        self.unpacked = a.register("unpacked")
        # A unit: its number and bit, its words, what these say; bits of units, and the one looked
        # at.
        self.unit, self.bit, self.words_of_unit, self.count, self.head = a.registers(
            "unit", "bit", "words of unit", "queue count", "queue head"
        )
        self.bits, self.other = a.registers("bits", "other")
        # The timer: what it began with; now, when the round began, how long the one before took,
        # when the instruction began.
        self.loaded, self.now, self.before = a.wide("timer"), a.wide("now"), a.wide("before")
        self.round, self.since = a.wide("round"), a.wide("since")
        self.link, self.words, self.unpack, self.unit_link, self.now_link = a.registers(
            "link", "words link", "unpack link", "unit link", "now link"
        )
        # Of vector instructions, from one to the next.
        self.held, self.kept = a.register("held"), a.wide("kept")

    def emit(self) -> None:
        """Emit the microprogram: a reset begins at 0, a trap at TRAP_PLACE."""
        x, a = self.x, self.x.a
        while a.here < TRAP_PLACE:
            a.jump("reset")
        self._attention()
        with a.scope():  # only one unit runs at a time: they share registers
            vector = Vector(x, link=self.unit_link, held=self.held, kept=self.kept)
        vector.emit_inner()
        self._begin()
        self._sequencer()
        self._units()
        self._end()
        self._subroutines()
        checks(x, link=self.link, unpack=self.unpack, opcode=self.pending)
        unpackers(x, self.unpack)
        rows.transfer(x)
        with a.scope():
            shared = rows.Shared(x)
            rows.load(x, shared, self.unit_link)
            rows.store(x, shared, self.unit_link)
        with a.scope():
            array(x, self.unit_link)
        vector.emit()

    # --------------------------------------------------------------------------- begin and end

    def _attention(self) -> None:
        """Emit what a trap does: a stop, or the end of the time, whatever was going on."""
        x = self.x
        x.move(x.at, (0, 0))
        x.fail(Error.NONE, Condition.STOP)
        x.fail(Error.TIMEOUT)

    def _begin(self) -> None:
        """Emit the way from a reset to the idle loop, and from there into a program."""
        x, a = self.x, self.x.a
        writable = [item.name for item in regs.REGISTERS if item.access == "rw"]
        writable.remove("interrupt_enable")
        a.label("reset")
        for name in writable:
            for half in a.mapped(name):
                a.mov(half, 0)
        a.call(self.link, "clear")
        a.out(Port.RDY, 0)
        a.label("idle")
        a.jump("idle", Condition.BUSY, unless=True)
        begin = a.here
        limit = a.mapped("cycle_limit")
        x.move(self.loaded, limit)
        x.compare_wide(limit, (0, 0))
        a.jump("start.unlimited", Condition.Z)
        # What has passed when the timer is armed: these instructions, and five more.
        self.passed = _NOTICE_CYCLES + INSTRUCTION_CYCLES * (a.here + 5 - begin)
        x.subtract_wide(self.loaded, (self.passed, 0))
        a.jump("start.timer", Condition.C)
        x.move(self.loaded, (0, 0))
        a.jump("start.timer")
        a.label("start.unlimited")
        x.move(self.loaded, (0xFFFF, 0xFFFF))
        a.out(Port.TIMX, 2)  # it only counts
        a.label("start.timer")
        a.out(Port.TIMH, self.loaded[1])
        a.out(Port.TIML, self.loaded[0])
        a.call(self.link, "clear")
        x.move(self.before, self.loaded)
        x.move(x.at, (0, 0))
        a.out(Port.TRAP, 1)
        self._check_registers()
        x.move(self.index, (0, 0))
        for register in (self.pending, self.queued, self.ended, self.unpacked):
            a.mov(register, 0)
        a.mov(self.held, NOTHING_HELD)

        # Empty queues without tokens. Each of their places has an entry of its own; one more is for
        # what comes next.
        layout, depth = x.layout, x.config.queue_depth
        a.out(Port.SPA, 4 * layout.units)
        a.mov(self.entry, layout.entries)
        a.mov(self.unit, len(isa.UNITS))
        a.label("start.unit")
        a.mov(x.t, UNIT_PLACES)
        a.label("start.word")
        a.out(Port.SPWI, 0)
        a.sub(x.t, 1)
        a.jump("start.word", Condition.Z, unless=True)
        a.mov(x.t, depth)
        a.label("start.place")
        a.out(Port.SPWI, self.entry)
        a.add(self.entry, ENTRY_VECTORS)
        a.sub(x.t, 1)
        a.jump("start.place", Condition.Z, unless=True)
        a.sub(self.unit, 1)
        a.jump("start.unit", Condition.Z, unless=True)
        a.jump("next")

    def _check_registers(self) -> None:
        """Emit: MEMORY, then PROGRAM, of what the host has set; ``address`` is the program's."""
        x, a = self.x, self.x.a
        length, base = a.mapped("program_length"), a.mapped("program_base")
        memory_base, memory_bytes = a.mapped("memory_base"), a.mapped("memory_bytes")
        a.tst(memory_base[0], (1 << _PAGE_BITS) - 1)
        x.fail(Error.MEMORY, Condition.Z, unless=True)
        a.tst(memory_bytes[0], x.config.R - 1)
        x.fail(Error.MEMORY, Condition.Z, unless=True)
        words = (x.t, x.u)
        x.move(words, memory_base)
        x.add_wide(words, memory_bytes)
        a.jump("start.memory", Condition.C, unless=True)
        x.fail(Error.MEMORY, Condition.Z, unless=True)  # 2**32 itself is no error
        a.label("start.memory")
        x.compare_wide(length, (0, 0))
        x.fail(Error.PROGRAM, Condition.Z)
        a.tst(base[0], isa.INSTRUCTION_BYTES - 1)
        x.fail(Error.PROGRAM, Condition.Z, unless=True)
        a.cmp(length[1], (1 << 32) // isa.INSTRUCTION_BYTES >> 16)
        x.fail(Error.PROGRAM, Condition.C)
        x.move(words, base)
        a.mul(length[0], isa.INSTRUCTION_BYTES)
        x.add_wide(words, (Source.PL, Source.PHU))
        x.fail(Error.PROGRAM, Condition.C)
        a.mul(length[1], isa.INSTRUCTION_BYTES)
        a.add(x.u, Source.PL)
        x.fail(Error.PROGRAM, Condition.C)
        x.compare_wide(words, memory_bytes)
        x.fail(Error.PROGRAM, Condition.HI)
        x.move(self.address, memory_base)
        x.add_wide(self.address, base)

    def _end(self) -> None:
        """Emit the ways to the idle loop."""
        x, a = self.x, self.x.a
        for error in isa.Error:
            a.label(fail_label(error))
            a.mov(x.t, int(error))
            a.jump("failed")
        a.label("failed")
        a.out(Port.TRAP, 0)
        a.mov(a.mapped("error")[0], x.t)
        x.move(a.mapped("error_instruction"), x.at)
        a.mov(x.u, 2)
        a.jump("finish")
        a.label("done")
        a.out(Port.TRAP, 0)
        a.mov(x.u, 1)
        a.label("finish")
        a.jump("finish", Condition.DMA_BUSY)
        a.jump("finish", Condition.ARR_BUSY)
        a.jump("finish", Condition.DRAIN_BUSY)
        a.out(Port.TIMX, 1)
        # From here on it is a known number of cycles.
        rest = INSTRUCTION_CYCLES * 7
        end = a.here + 7
        cycles = a.mapped("cycles")
        x.move(cycles, self.loaded)
        x.subtract_wide(cycles, (Source.TIML, Source.TIMH))
        x.add_wide(cycles, (self.passed + rest, 0))
        a.out(Port.FIN, x.u)
        assert a.here == end
        a.jump("idle")

    # ----------------------------------------------------------------------------- the two steps

    def _sequencer(self) -> None:
        """Emit: one instruction into its queue, if there is one and a place for it."""
        x, a = self.x, self.x.a
        layout, depth = x.layout, x.config.queue_depth
        a.label("next")
        a.call(self.now_link, "now")
        x.move(self.round, self.before)
        x.subtract_wide(self.round, self.now)
        x.move(self.before, self.now)
        a.mov(self.progress, 0)
        a.mov(self.blocked, 0)
        a.cmp(self.ended, 0)
        a.jump("units", Condition.Z, unless=True)
        a.cmp(self.pending, 0)
        a.jump("place", Condition.Z, unless=True)
        x.move(x.at, self.index)
        x.compare_wide(self.index, a.mapped("program_length"))
        x.fail(Error.PROGRAM, Condition.Z)
        x.move(x.bus, self.address)
        beats = isa.INSTRUCTION_BYTES // x.config.R
        a.mov(x.beats, beats)
        a.mov(x.place, self.entry)
        a.mov(x.direction, 0)
        a.call(x.transfer, "transfer")
        x.add_wide(self.address, (isa.INSTRUCTION_BYTES, 0))
        x.add_wide(a.mapped("fetch_beats"), (beats, 0))
        a.mov(x.pointer, self.entry)
        x.times(x.pointer, 4)
        a.call(self.words, "words")
        for half in self.index:  # behind the words
            a.out(Port.SPWI, half)
        a.call(self.link, "check")
        a.mov(self.unpacked, x.pointer)
        x.add_wide(self.index, (1, 0))

        a.label("place")
        a.mov(self.ended, 1)
        a.cmp(self.pending, isa.END.opcode)
        a.jump("placed", Condition.Z)
        a.mov(self.ended, 0)
        # The opcode of unit u is u + 1.
        assert all(item.opcode == unit + 1 for unit, item in TABLE.items())
        a.mul(self.pending, layout.unit_words)
        a.mov(self.words_of_unit, Source.PL)
        a.add(self.words_of_unit, 4 * layout.units - layout.unit_words)
        a.out(Port.SPA, self.words_of_unit)
        x.move((self.count, self.head), (Source.SPWI, Source.SPWI))
        a.cmp(self.count, depth)
        a.jump("units", Condition.Z)
        a.add(self.head, self.count)
        a.and_(self.head, depth - 1)
        a.add(self.head, self.words_of_unit)
        a.add(self.head, UNIT_PLACES)
        a.add(self.count, 1)
        a.out(Port.SPA, self.words_of_unit)
        a.out(Port.SPW, self.count)
        a.add(self.queued, 1)
        a.out(Port.SPA, self.head)
        a.mov(x.t, Source.SPW)
        a.out(Port.SPW, self.entry)
        a.mov(self.entry, x.t)
        a.label("placed")
        a.mov(self.pending, 0)
        a.mov(self.progress, 1)

    def _units(self) -> None:
        """Emit: each unit in turn runs one instruction whose tokens are there."""
        x, a = self.x, self.x.a
        layout, depth, units = x.layout, x.config.queue_depth, len(isa.UNITS)
        a.label("units")
        a.mov(self.unit, 0)
        a.mov(self.bit, 1)
        a.mov(self.words_of_unit, 4 * layout.units)
        a.label("unit")
        a.out(Port.SPA, self.words_of_unit)
        x.move((self.count, self.head), (Source.SPWI, Source.SPWI))
        a.cmp(self.count, 0)
        a.jump("unit.after", Condition.Z)
        a.mov(x.pointer, self.words_of_unit)
        a.add(x.pointer, UNIT_PLACES)
        a.add(x.pointer, self.head)
        a.out(Port.SPA, x.pointer)
        a.mov(x.pointer, Source.SPW)
        x.times(x.pointer, 4)
        a.out(Port.SPA, x.pointer)
        a.swp(x.u, Source.SPW)
        a.and_(x.u, (1 << units) - 1)
        a.jump("unit.ready", Condition.Z)
        # Twice over the tokens that it waits for: are they there, and take them.
        for take in (False, True):
            kind, following = ("take", "unit.ready") if take else ("ask", "unit.asked")
            a.mov(self.bits, x.u)
            a.mov(self.other, 0)
            a.mov(x.t, self.words_of_unit)
            a.add(x.t, UNIT_TOKENS)
            a.out(Port.SPA, x.t)
            a.label(f"unit.{kind}")
            a.mov(x.t, Source.SPW)
            a.shr(self.bits, self.bits)
            a.jump(f"unit.{kind}_next", Condition.C, unless=True)
            if take:
                a.sub(x.t, 1)
            else:
                a.cmp(x.t, 0)
                a.jump("unit.waits", Condition.Z)
            a.label(f"unit.{kind}_next")
            a.out(Port.SPWI, x.t)
            a.add(self.other, 1)
            a.cmp(self.bits, 0)
            a.jump(f"unit.{kind}", Condition.Z, unless=True)
            a.label(following)
        a.out(Port.SPA, self.words_of_unit)
        a.sub(self.count, 1)
        a.out(Port.SPWI, self.count)
        a.add(self.head, 1)
        a.and_(self.head, depth - 1)
        a.out(Port.SPWI, self.head)
        a.sub(self.queued, 1)
        a.cmp(self.unpacked, x.pointer)
        a.jump("unit.unpacked", Condition.Z)
        a.call(self.words, "words")
        a.call(self.unpack, "unit.unpack")
        a.label("unit.unpacked")
        a.mov(self.unpacked, 0)
        a.add(x.pointer, WORDS)
        a.out(Port.SPA, x.pointer)
        x.move(x.at, (Source.SPWI, Source.SPWI))
        a.out(Port.TRXL, x.at[0])
        a.out(Port.TRXH, x.at[1])
        a.call(self.now_link, "now")
        x.move(self.since, self.now)
        a.out(Port.TRACE, self.bit)
        a.call(self.unit_link, "unit.run")
        a.call(self.now_link, "now")
        x.subtract_wide(self.since, self.now)
        a.mov(x.t, self.bit)
        x.times(x.t, 16)
        a.out(Port.TRACE, x.t)
        for unit, counter in _BUSY.items():
            other = a.fresh("busy")
            a.cmp(self.unit, int(unit))
            a.jump(other, Condition.Z, unless=True)
            x.add_wide(a.mapped(counter), self.since)
            a.label(other)
        # Tokens for others: each unit has its word of those from this one.
        a.swp(self.bits, x.f[0])
        a.and_(self.bits, 0xF0)
        for _ in range(units):
            a.shr(self.bits, self.bits)
        a.mov(self.other, 4 * layout.units + UNIT_TOKENS)
        a.add(self.other, self.unit)
        a.cmp(self.bits, 0)
        a.jump("unit.gave", Condition.Z)
        a.jump("unit.give")
        a.label("unit.given")
        a.add(self.other, layout.unit_words)
        a.label("unit.give")
        a.shr(self.bits, self.bits)
        a.jump("unit.none", Condition.C, unless=True)
        a.out(Port.SPA, self.other)
        a.mov(x.t, Source.SPW)
        a.cmp(x.t, isa.TOKEN_MAX)
        x.fail(Error.TOKEN, Condition.Z)
        a.add(x.t, 1)
        a.out(Port.SPW, x.t)
        a.label("unit.none")
        a.cmp(self.bits, 0)
        a.jump("unit.given", Condition.Z, unless=True)
        a.label("unit.gave")
        x.add_wide(a.mapped("instructions"), (1, 0))
        a.mov(self.progress, 1)
        a.label("unit.after")
        a.add(self.words_of_unit, layout.unit_words)
        a.add(self.bit, self.bit)
        a.add(self.unit, 1)
        a.cmp(self.unit, units)
        a.jump("unit", Condition.Z, unless=True)

        a.cmp(self.progress, 0)
        a.jump("units.progress", Condition.Z, unless=True)
        a.cmp(self.blocked, 0)
        a.jump("done", Condition.Z)
        # Nobody can go on: the first one that waits tells.
        a.add(self.blocked, WORDS)
        a.out(Port.SPA, self.blocked)
        x.move(x.at, (Source.SPWI, Source.SPWI))
        x.fail(Error.DEADLOCK)
        a.label("units.progress")
        a.cmp(self.ended, 0)
        a.jump("next", Condition.Z)
        a.cmp(self.queued, 0)
        a.jump("next", Condition.Z, unless=True)
        a.jump("done")

        a.label("unit.run")
        for unit, name in _NAMES.items():
            if unit != isa.UNITS[-1]:
                a.cmp(self.unit, int(unit))
            a.jump(name, Condition.Z if unit != isa.UNITS[-1] else Condition.ALWAYS)
        a.label("unit.unpack")
        for unit, item in TABLE.items():
            if unit != isa.UNITS[-1]:
                a.cmp(self.unit, int(unit))
            a.jump(unpack_label(item), Condition.Z if unit != isa.UNITS[-1] else Condition.ALWAYS)
        self._waiting()

    def _waiting(self) -> None:
        """Emit: ``unit`` misses a token of ``other``; count the cycles of a round."""
        x, a = self.x, self.x.a
        a.label("unit.waits")
        a.cmp(self.blocked, 0)
        a.jump("unit.counts", Condition.Z, unless=True)
        a.mov(self.blocked, x.pointer)
        a.label("unit.counts")
        a.mov(x.t, self.unit)
        x.times(x.t, len(isa.UNITS))
        a.add(x.t, self.other)
        for unit, source, counter in _WAITS:
            other = a.fresh("waits")
            if source is None:
                a.cmp(self.unit, int(unit))
            else:
                a.cmp(x.t, len(isa.UNITS) * unit + source)
            a.jump(other, Condition.Z, unless=True)
            x.add_wide(a.mapped(counter), self.round)
            a.label(other)
        a.jump("unit.after")

    def _subroutines(self) -> None:
        x, a = self.x, self.x.a
        # The words of the instruction at ``pointer``.
        a.label("words")
        a.out(Port.SPA, x.pointer)
        for word in x.f:
            a.mov(word, Source.SPWI)
        a.ret(self.words)

        # The timer, as one number.
        a.label("now")
        a.mov(self.now[1], Source.TIMH)
        a.mov(self.now[0], Source.TIML)
        a.cmp(self.now[1], Source.TIMH)
        a.jump("now", Condition.Z, unless=True)
        a.ret(self.now_link)

        # What a program leaves its results in.
        a.label("clear")
        for name in ("error", "error_instruction", *(name for name, _ in regs.COUNTERS)):
            for half in a.mapped(name):
                a.mov(half, 0)
        a.ret(self.link)


@cache
def assemble(config: AcceleratorConfig) -> Microprogram:
    """Return the microprogram for ``config``.

    Raises
    ------
    ValueError
        A configuration that the sequential accelerator does not have.
    AssemblyError
        It does not fit.
    """
    x = Context(config)
    _Main(x).emit()
    return x.a.assemble(words=WORDS_MAX)


def words(config: AcceleratorConfig) -> list[int]:
    """Return the words of the microprogram; see :func:`assemble`."""
    return list(assemble(config).words)


def registers(config: AcceleratorConfig) -> dict[int, int]:
    """Return register number -> initial value, of those that are constants."""
    return dict(assemble(config).registers)
