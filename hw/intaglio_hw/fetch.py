"""The front of the sequencer: instructions from memory, collected and checked.

Which instructions and errors there are stands in :mod:`intaglio.spec.isa`; the checks are generated
from its tables.
"""

import itertools

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import ADDRESS_BITS, ERROR_BITS, AxiReadSignature
from intaglio_hw.queues import step

__all__ = ["LENGTH_BITS", "Decoder", "Fetch", "any_group"]

#: Width of registers that hold lengths.
LENGTH_BITS = 32
_UNIT_COUNT = len(isa.UNITS)
_HEADER = {field.name: field for field in isa.HEADER}
_HEADER_BITS = sum(field.width for field in isa.HEADER)


def any_group(m: Module, value, *, name: str, group: int = 16) -> Signal:
    """Return a signal that tells, two cycles after ``value`` became stable, if a bit of it is set.

    Two registers, because an OR over a whole instruction is too deep for one cycle.
    """
    parts = [value[low : low + group] for low in range(0, len(value), group)]
    partial = Signal(max(len(parts), 1), name=f"{name}_partial", reset_less=True)
    result = Signal(name=name, reset_less=True)
    m.d.sync += partial.eq(Cat(part.any() for part in parts))
    m.d.sync += result.eq(partial.any())
    return result


def _beats(config: AcceleratorConfig) -> stream.Signature:
    return stream.Signature(data.StructLayout({"data": 8 * config.bus_bytes, "error": 1}))


class Fetch(wiring.Component):
    """Reads instructions from memory, up to PREFETCH of them ahead.

    A pulse on ``clear`` (while ``idle`` and ``stop``) forgets what was prefetched before; one on
    ``start``, two cycles later or more, latches ``address`` (bus address, a multiple of 64) and
    ``count`` (instructions). Each instruction then appears as ``64 / R`` beats on ``beats``, with
    ``error`` set on a beat that the bus answered with anything but OKAY. Whoever has taken the last
    beat of an instruction pulses ``release``: it gives back the place for another one. While
    ``stop`` is high no new burst is requested; ``idle`` is high when none has been outstanding for
    a few cycles. A burst never leaves its instruction.

    Members: ``bus`` (:class:`AxiReadSignature`), ``beats`` (stream of ``data``, ``error``),
    ``clear``, ``start``, ``address``, ``count``, ``release``, ``stop``, ``idle``.
    From ``start`` to the first address: START cycles; from a beat on the bus to ``beats``: LATENCY.
    """

    #: Instructions that are requested before they are needed.
    PREFETCH = 4
    START = 4
    LATENCY = 2

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "bus": Out(AxiReadSignature(config)),
                "beats": Out(_beats(config)),
                "clear": In(1),
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "count": In(LENGTH_BITS),
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
        ar = self.bus.ar

        # What is left, and what it will be after the next: the adder is a stage of its own, and so
        # are the two of the comparison. There are three cycles between two instructions.
        remaining = Signal(LENGTH_BITS, reset_less=True)
        less = Signal(LENGTH_BITS, reset_less=True)
        take = Signal()
        m.d.sync += less.eq(remaining - 1)
        with m.If(self.start):
            m.d.sync += remaining.eq(self.count)
        with m.Elif(take):
            m.d.sync += remaining.eq(less)
        more = any_group(m, remaining, name="more", group=8)

        # A reset forgets, too, a cycle later: what follows from it needs no reset of its own.
        forget = Signal(init=1)
        m.d.sync += forget.eq(self.clear)

        # Free places, a bit for each.
        places = Signal(self.PREFETCH, reset_less=True)
        with m.If(forget):
            m.d.sync += places.eq(~0)
        with m.Elif(take & ~self.release):
            m.d.sync += places.eq(places >> 1)
        with m.Elif(self.release & ~take):
            m.d.sync += places.eq((places << 1) | 1)

        # After a start nothing is requested before the comparison has seen the new count.
        starting = Signal(self.START - 2)
        m.d.sync += starting.eq(Cat(self.start, starting)[: len(starting)])
        waiting, settling = Signal(reset_less=True), Signal()
        address = Signal(ADDRESS_BITS, reset_less=True)
        part = Signal(range(bursts), reset_less=True)
        m.d.comb += [
            take.eq(waiting & more & places[0] & ~self.stop),
            ar.payload.addr.eq(address),
            ar.payload.len.eq(burst - 1),
        ]
        requested = Signal()
        following = Signal(ADDRESS_BITS, reset_less=True)  # the next address, as ``less``
        again = Signal()  # the instruction has another burst
        m.d.comb += [
            requested.eq(ar.valid & ar.ready),
            again.eq((part != 0) & ~self.stop if bursts > 1 else 0),
        ]
        m.d.sync += [
            waiting.eq(starting[-1] | (settling & ~again) | (waiting & ~take)),
            ar.valid.eq(take | (settling & again) | (ar.valid & ~ar.ready)),
            settling.eq(requested),
            following.eq(address + burst * config.bus_bytes),
        ]
        with m.If(forget):
            m.d.sync += [part.eq(0), waiting.eq(0)]
        with m.Elif(requested):
            m.d.sync += part.eq(part + 1)  # a power of two of them
        # The next address is asked for two cycles later at the earliest.
        with m.If(self.start):
            m.d.sync += address.eq(self.address)
        with m.Elif(settling):
            m.d.sync += address.eq(following)

        # Bursts on their way; a cycle late, which stop outlasts.
        outstanding = Signal(range(self.PREFETCH * bursts + 1))
        asked, answered = Signal(), Signal()
        m.d.sync += [
            asked.eq(requested),
            answered.eq(self.bus.r.valid & self.bus.r.payload.last),
            self.idle.eq(~(outstanding.any() | asked | ar.valid)),
        ]
        with m.If(asked ^ answered):
            m.d.sync += outstanding.eq(step(outstanding, answered))

        self._buffer(m, forget, depth=self.PREFETCH * beats)
        return m

    def _buffer(self, m: Module, forget: Signal, *, depth: int) -> None:
        """Every beat that was asked for has a place here, so the bus never waits."""
        r, beats = self.bus.r, self.beats
        memory = Memory(shape=len(beats.payload.as_value()), depth=depth, init=[])
        m.submodules.buffer = memory
        write, read = memory.write_port(), memory.read_port()
        newest, oldest = (
            Signal(range(depth), name=name, reset_less=True) for name in ("newest", "oldest")
        )
        level = Signal(range(depth + 1), reset_less=True)
        some = Signal(reset_less=True)  # of them, in the memory; formed one step ahead
        valid = Signal(reset_less=True)
        move = Signal()  # one goes to the output register
        # As ``valid``, for the many enables of the data; who takes nothing before a start is ready.
        shown = Signal()
        m.d.sync += shown.eq(some | (shown & ~beats.ready))
        m.d.comb += [
            beats.valid.eq(valid),
            r.ready.eq(1),
            write.addr.eq(newest),
            write.data.eq(Cat(r.payload.data, r.payload.resp.any())),
            write.en.eq(r.valid),
            read.addr.eq(oldest),
            read.en.eq(beats.ready | ~shown),
            move.eq(some & (beats.ready | ~valid)),
            beats.payload.as_value().eq(read.data),
        ]
        with m.If(forget):
            m.d.sync += [newest.eq(0), oldest.eq(0), level.eq(0), some.eq(0), valid.eq(0)]
        with m.Else():
            m.d.sync += [
                newest.eq(newest + r.valid),  # depth is a power of two
                some.eq(r.valid | level[1:].any() | (level[0] & ~move)),
                valid.eq(some | (valid & ~beats.ready)),
            ]
            with m.If(move):
                m.d.sync += oldest.eq(oldest + 1)
            with m.If(r.valid ^ move):
                m.d.sync += level.eq(step(level, move))


class Decoder(wiring.Component):
    """Collects the beats of an instruction and checks it against the table.

    ``decoded``: ``word`` (the 512 bits), ``error``: BUS if a beat was in error; OPCODE for an
    unknown opcode or a reserved bit that is set; FIELD for a field outside ``[low, high]`` of its
    table; TOKEN for a wait for or a signal to its own unit, and for either in ``end``; NONE
    otherwise. The first in this order. Without an error ``unit`` has the bit of its unit set, or
    ``end`` is; with one ``bad`` is set. ``go``: it has a unit, whose bit of ``room`` was set in the
    cycle before. ``release`` pulses after the last beat. While ``clear`` is high, as it is after a
    reset, beats are dropped, and what was taken is forgotten.

    LATENCY cycles from the last beat to ``decoded``; an instruction takes ``64 / R + LATENCY``. The
    word stays for a cycle behind the transfer.

    A lean one keeps the header alone. The other bits of ``word`` are there while they pass: those
    of beat i in the last cycle with bit i of ``place`` before ``decoded``; ``place`` is zero from
    then on, until the cycle behind the transfer. The checks keep what they have found.
    """

    LATENCY = 6

    def __init__(self, *, config: AcceleratorConfig, lean: bool = False) -> None:
        self._config, self._lean = config, lean
        decoded = {
            "word": isa.INSTRUCTION_BITS,
            "unit": _UNIT_COUNT,
            "end": 1,
            "bad": 1,
            "error": ERROR_BITS,
            "go": 1,
        }
        super().__init__(
            {
                "beats": In(_beats(config)),
                "release": Out(1),
                "clear": In(1),
                "room": In(_UNIT_COUNT),
                "decoded": Out(stream.Signature(data.StructLayout(decoded))),
                **({"place": Out(isa.INSTRUCTION_BYTES // config.bus_bytes)} if lean else {}),
            }
        )

    def _found(self, m: Module, condition, name: str, offset: int, width: int) -> Signal:
        """Return a register for a condition on ``width`` bits of the word at ``offset``."""
        flag = Signal(len(condition), name=name, reset_less=True)
        if self._lean:
            part = 8 * self._config.bus_bytes
            assert offset // part == (offset + width - 1) // part
            with m.If(self.place[offset // part]):
                m.d.sync += flag.eq(condition)
        else:
            m.d.sync += flag.eq(condition)
        return flag

    def _out_of_range(
        self, m: Module, name: str, field: isa.Field, offset: int, bits, nonzero: list
    ):
        """Return, two cycles late, if ``bits``, at ``offset``, is outside the range of ``field``.

        ``nonzero``: registers that tell which of its bytes are not zero. The first register follows
        functions of about eight bits, the second one puts them together.
        """
        natural = isa.Field(field.name, field.width, "", field.signed)
        value = bits.as_signed() if field.signed else bits
        top = field.high.bit_length()
        low, high = field.low > natural.low, field.high < natural.high
        terms = []

        def register(condition, suffix: str, first: int = 0, end: int = field.width) -> Signal:
            width = max(end - first, 1)
            return self._found(m, condition, f"{name}_{suffix}", offset + first, width)

        if low and high and field.low == ~field.high and not field.high & (field.high + 1):
            terms.append(
                register(bits[top:].any() & ~bits[top:].all(), "top", top)
            )  # not all the sign
            low = high = False
        if low:
            if field.low == 1 and not field.signed:
                terms.append(~Cat(nonzero).any())
            else:
                terms.append(register(value < field.low, "low"))
        byte = -(-top // 8)
        above = [register(bits[top : 8 * byte].any(), "high", top, 8 * byte), *nonzero[byte:]]
        if high and not field.signed and not field.high & (field.high + 1):
            terms += above
        elif high and field.width > 16 and not field.high & (field.high - 1):
            whole = (top - 1) // 8
            rest = register(bits[8 * whole : top - 1].any(), "rest", 8 * whole, top - 1)
            equal = register(bits[top - 1], "equal", top - 1, top)
            terms += above
            terms.append(equal & Cat(rest, nonzero[:whole]).any())
        elif high:
            terms.append(register(value > field.high, "high"))
        if not terms:
            return None
        result = Signal(name=f"{name}_range", reset_less=True)
        m.d.sync += result.eq(Cat(terms).any())
        return result

    def elaborate(self, platform):
        m = Module()
        beats = isa.INSTRUCTION_BYTES // self._config.bus_bytes
        width = 8 * self._config.bus_bytes
        assert self.LATENCY == 6  # the word, and five registers of the checks

        # Collecting: a part of the word follows the input while it is open, whatever is there.
        if self._lean:
            word = self._passing(m, open_ := Signal(beats, init=1, reset_less=True))
        else:
            word = Signal(isa.INSTRUCTION_BITS, reset_less=True)
        bus_errors = Signal(beats, reset_less=True)
        if not self._lean:
            open_ = Signal(beats, init=1, reset_less=True)
        ready = Signal(init=1, reset_less=True)
        valid = Signal(reset_less=True)
        checking = Signal(self.LATENCY - 1, reset_less=True)
        last, done = Signal(), Signal()
        payload = self.decoded.payload
        m.d.comb += [
            self.decoded.valid.eq(valid),
            self.beats.ready.eq(ready),
            last.eq(self.beats.valid & open_[-1]),
            self.release.eq(checking[0]),
            done.eq(valid & self.decoded.ready),
            payload.word.eq(word),
        ]
        for beat in range(beats):
            with m.If(open_[beat]):
                if not self._lean:
                    m.d.sync += word.word_select(beat, width).eq(self.beats.payload.data)
                m.d.sync += bus_errors[beat].eq(self.beats.payload.error)
        with m.If(self.clear):
            m.d.sync += [open_.eq(1), ready.eq(1), checking.eq(0), valid.eq(0)]
        with m.Else():
            with m.If(self.beats.valid | ~ready):
                m.d.sync += open_.eq(Cat(done, open_[:-1]) if beats > 1 else done)
            m.d.sync += [
                ready.eq(done | (ready & ~last)),
                checking.eq(Cat(last, checking[:-1])),
                valid.eq(checking[-1] | (valid & ~done)),
            ]
        self._check(m, word, bus_errors)
        return m

    def _passing(self, m: Module, open_: Signal) -> Value:
        """Return the word: its header, and each of its other bits while that passes."""
        width = 8 * self._config.bus_bytes
        part = Signal(width, reset_less=True)
        place = Signal(len(open_), reset_less=True)
        header = Signal(_HEADER_BITS, reset_less=True)
        m.d.sync += [part.eq(self.beats.payload.data), place.eq(open_)]
        assert len(open_) > 1  # the header has a cycle more than the last part
        with m.If(place[0]):
            m.d.sync += header.eq(part[:_HEADER_BITS])
        m.d.comb += self.place.eq(place)
        return Cat(header, part[_HEADER_BITS:], part.replicate(len(open_) - 1))

    def _check(self, m: Module, word: Value, bus_errors: Signal) -> None:
        """Check every instruction of the table, while the word stands still or passes."""
        opcode = word[: _HEADER["opcode"].width]

        def register(value, name: str) -> Signal:
            result = Signal(len(value), name=name, reset_less=True)
            m.d.sync += result.eq(value)
            return result

        # Every field but those of the header is a few whole bytes.
        nonzero = [
            self._found(m, word.word_select(byte, 8).any(), f"nonzero{byte}", 8 * byte, 8)
            for byte in range(isa.INSTRUCTION_BYTES)
        ]
        # The word in parts, cut where an instruction ends, and more often than that.
        ends = {item.width for item in isa.INSTRUCTIONS}
        cuts = sorted({*ends, *range(128, isa.INSTRUCTION_BITS + 1, 128)})
        parts = {
            low: register(Cat(nonzero[low // 8 : high // 8]).any(), f"reserved{low}")
            for low, high in itertools.pairwise(cuts)
        }
        matches, reserved_flags, field_flags, token_flags = {}, [], [], []
        for item in isa.INSTRUCTIONS:
            matches[item] = match = register(opcode == item.opcode, f"is_{item.name}")
            behind = [part for low, part in parts.items() if low >= item.width]
            if behind:
                reserved = register(Cat(behind).any(), f"{item.name}_reserved")
                reserved_flags.append(match & reserved)
            tokens, ranges = [], []
            for field, offset in item.offsets().values():
                bits = word[offset : offset + field.width]
                if field.name in ("wait", "signal"):
                    tokens.append(bits.any() if item.unit is None else bits[item.unit])
                elif field.name != "opcode":
                    flags = nonzero[offset // 8 : (offset + field.width) // 8]
                    name = f"{item.name}_{field.name}"
                    ranges.append(self._out_of_range(m, name, field, offset, bits, flags))
            ranges = [flag for flag in ranges if flag is not None]
            if ranges:
                field_flags.append(match & register(Cat(ranges).any(), f"{item.name}_range"))
            token_flags.append(match & register(Cat(tokens).any(), f"{item.name}_tokens"))
        unknown = register(~Cat(matches.values()).any(), "unknown")
        bad_bus = register(bus_errors.any(), "bad_bus")
        bad_reserved = register(Cat(reserved_flags).any(), "bad_reserved")
        bad_token = register(Cat(token_flags).any(), "bad_token")
        bad_field = register(Cat(field_flags).any(), "bad_field")
        # Reserved bits and ranges come last.
        other = register(bad_bus | unknown | bad_token, "bad_other")
        bad = other | bad_reserved | bad_field

        payload = self.decoded.payload
        of_units = {item: match for item, match in matches.items() if item.unit is not None}
        m.d.sync += [
            payload.bad.eq(bad),
            payload.go.eq(
                Cat(match & self.room[item.unit] for item, match in of_units.items()).any() & ~bad
            ),
            payload.error.eq(isa.Error.NONE),
        ]
        for item, match in matches.items():
            place = payload.end if item.unit is None else payload.unit[item.unit]
            m.d.sync += place.eq(match & ~bad)
        with m.If(bad_bus):
            m.d.sync += payload.error.eq(isa.Error.BUS)
        with m.Elif(unknown | bad_reserved):
            m.d.sync += payload.error.eq(isa.Error.OPCODE)
        with m.Elif(bad_field):
            m.d.sync += payload.error.eq(isa.Error.FIELD)
        with m.Elif(bad_token):
            m.d.sync += payload.error.eq(isa.Error.TOKEN)
