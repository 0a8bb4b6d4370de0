"""The engine: a processor of 16 bits that takes three cycles for every instruction.

::

    phase 0   registers, scratchpad and accumulators are read; the word is decoded
    phase 1   operand b is chosen
    phase 2   operands -> result -> register file, flags; port written; next word read

Nothing overlaps, so nothing has to be forwarded and nothing waits: instructions see all that those
before them did. In phase 1 the register file belongs to the bus
(:class:`~intaglio_hw.sequential.registers.RegisterPort`).
"""

from collections.abc import Mapping, Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import check_family
from intaglio_hw.primitives.late_mux import LateMux
from intaglio_hw.primitives.products import WordProduct
from intaglio_hw.sequential.interface import (
    INVERT,
    REGISTERS,
    TARGET_BITS,
    TRAP_PLACE,
    WORD_BITS,
    Condition,
    Control,
    Mode,
    Operation,
    Source,
)

__all__ = ["CONDITIONS", "Engine"]

#: Conditions that come from outside.
CONDITIONS = tuple(item for item in Condition if item >= Condition.BUSY)
_SCRATCH = (Source.SPW, Source.SPWI, Source.SBX)
_PRODUCTS = (Source.PL, Source.PHS, Source.PHM, Source.PHU)
#: Operations that do not write their result.
_UNWRITTEN = (Operation.TST, Operation.MUL, Operation.CMP, Operation.CPC)


class Engine(wiring.Component):
    """Runs a microprogram; its instructions stand in :mod:`intaglio_hw.sequential.interface`.

    Parameters
    ----------
    words
        The microprogram; it begins at 0 after a reset.
    registers
        Register -> value at power-up, 0 for others.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    bus_turn
        Phase 1: the bus may read and write a register.
    source, take
        Which special source operand b is, if it is one; ``take``: it has been, in phase 2.
    wants_scratch
        In phase 0: it is SPW, SPWI or SBX.
    scratch, special
        The value of ``source``, in phase 1: of those three, and zero if it is none of them; of all
        others that are no products.
    conditions
        Bit i: condition CONDITIONS[i] holds, in phase 1.
    trap
        In phase 2: the next instruction is the one at TRAP_PLACE.
    step
        Phase 2.
    port, value, write
        OUT: ``value`` to ``port`` in a cycle with ``write``, in phase 2; ``port`` is there in
        phase 1.
    multiply, multiplicand, multiplier, product_low, product_high
        For the drain datapath, while no MUL is executed: ``product_low`` is the low half of
        ``multiplicand``, unsigned, times ``multiplier``, ``product_high`` the high half, signed,
        of the first of two cycles with ``multiply``, from the cycle after them until the next one.
    bus_read
        Register that the bus reads in its turn; ``bus_data`` is its value in the cycle after.
    bus_write, bus_value, bus_enables
        Register of which the bus writes the bytes of ``bus_enables`` in its turn.
    """

    def __init__(
        self, *, words: Sequence[int], registers: Mapping[int, int], family: str = "generic"
    ) -> None:
        self.words, self.registers = list(words), dict(registers)
        if not 0 < len(self.words) <= 1 << TARGET_BITS:
            raise ValueError(f"a microprogram has 1 to {1 << TARGET_BITS} words, not {len(words)}")
        self.family = check_family(family)
        super().__init__(
            {
                "bus_turn": Out(1),
                "step": Out(1),
                "source": Out(4),
                "take": Out(1),
                "wants_scratch": Out(1),
                "scratch": In(16),
                "special": In(16),
                "conditions": In(len(CONDITIONS)),
                "trap": In(1),
                "port": Out(6),
                "value": Out(16),
                "write": Out(1),
                "multiply": In(1),
                "multiplicand": In(32),
                "multiplier": In(16),
                "product_low": Out(signed(32)),
                "product_high": Out(signed(32)),
                "bus_read": In(range(REGISTERS)),
                "bus_data": Out(16),
                "bus_write": In(range(REGISTERS)),
                "bus_value": In(16),
                "bus_enables": In(2),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        phases = Signal(3, init=0b100)
        execute = Signal()  # phase 2, but for the first cycle after a reset
        m.d.comb += [self.bus_turn.eq(phases[1]), self.step.eq(execute)]
        m.d.sync += [phases.eq(phases.rotate_left(1)), execute.eq(phases[1])]

        # The word, and where the next one is.
        place = Signal(TARGET_BITS, init=(1 << TARGET_BITS) - 1)
        next_place = Signal(TARGET_BITS)
        word = self._fetch(m, phases[2], next_place)
        s, d, op = word[:8], word[8:16], word[16:24]
        mode = op[6:8]
        target = Cat(s, op[:4])
        is_control = mode == Mode.CONTROL

        # Flags. Zero and negative are those of the last result that counts.
        carry_flag, overflow = Signal(), Signal()
        result, last = Signal(16), Signal(16)
        zero_before = Signal()  # of the lower words of a wide number
        # Known from phase 1 on.
        zero, less = Signal(), Signal()
        m.d.sync += [zero.eq(zero_before & (last == 0)), less.eq(last[15] ^ overflow)]
        conditions: dict[int, Value] = {
            Condition.ALWAYS: Const(1),
            Condition.Z: zero,
            Condition.C: carry_flag,
            Condition.N: last[15],
            Condition.LT: less,
            Condition.LE: zero | less,
            Condition.HI: carry_flag & ~zero,
            **dict(zip(CONDITIONS, self.conditions, strict=True)),
        }
        holds = Array(conditions.get(number, Const(0)) for number in range(16))[d[:4]]
        jumps, returns = Signal(), Signal()
        m.d.sync += [
            jumps.eq(
                (op[4:] == Control.CALL)
                | ((op[4:] == Control.JUMP) & (holds ^ d[INVERT.bit_length() - 1]))
            ),
            returns.eq(op[4:] == Control.JR),
        ]
        follower = Signal(TARGET_BITS)
        b = Signal(16)
        m.d.comb += [
            follower.eq(place + 1),
            next_place.eq(Mux(jumps, target, Mux(returns, b, follower))),
        ]
        with m.If(self.trap):
            m.d.comb += next_place.eq(TRAP_PLACE)
        with m.If(phases[2]):
            m.d.sync += place.eq(next_place)

        # Decoded in phase 0: a register for each thing that is asked later.
        operation = Signal(Operation)
        m.d.comb += operation.eq(op[:5])

        def decoded(name: str, value: Value) -> Signal:
            signal = Signal(len(value), name=name)
            m.d.sync += signal.eq(value)
            return signal

        def among(*members: Operation) -> Value:
            return ~is_control & Cat(operation == each for each in members).any()

        b_mode = Mux(is_control, op[:2], mode)
        special = decoded("special", b_mode == Mode.SPECIAL)
        call = decoded("call", op[4:] == Control.CALL)
        out = decoded("out", op[4:] == Control.OUT)
        writes = decoded("writes", (op[4:] == Control.CALL) | (~is_control & ~among(*_UNWRITTEN)))
        adds = decoded("adds", op[4] & ~is_control)
        subtracts = decoded("subtracts", op[1])
        continues = decoded("continues", op[0])
        shifts = decoded("shifts", among(Operation.SHR, Operation.SAR, Operation.ROR))
        arithmetic = decoded("arithmetic", operation == Operation.SAR)
        rotates = decoded("rotates", operation == Operation.ROR)
        logical = decoded(
            "logical", among(Operation.AND, Operation.OR, Operation.XOR, Operation.TST)
        )
        swaps = decoded("swaps", operation == Operation.SWP)
        extends = decoded("extends", operation == Operation.SXT)
        both = decoded("both", (operation == Operation.AND) | (operation == Operation.TST))
        either = decoded("either", operation == Operation.OR)
        multiplies = decoded("multiplies", among(Operation.MUL))

        # Operands. What comes out of the scratchpads comes late.
        a, register_b = self._registers(m, phases, execute & writes, d, s, result)
        product = self._products(m, a, b, execute & multiplies)

        def from_source(sources: Sequence[Source]) -> Value:
            return (b_mode == Mode.SPECIAL) & Cat(s[:4] == source for source in sources).any()

        m.d.comb += self.wants_scratch.eq(from_source(_SCRATCH))
        scratch = decoded("from_scratch", self.wants_scratch)
        multiplied = decoded("from_product", from_source(_PRODUCTS))
        immediate = decoded("immediate", b_mode == Mode.IMMEDIATE)
        early = Mux(special, Mux(multiplied, product, self.special), Mux(immediate, s, register_b))
        chosen = self.scratch | Mux(scratch, 0, early)
        # For the adder, too, as it wants it.
        inverted = Signal(16)
        m.d.sync += [b.eq(chosen), inverted.eq(chosen ^ subtracts.replicate(16))]
        m.d.comb += [self.source.eq(s), self.value.eq(b)]
        m.d.sync += [
            self.take.eq(phases[1] & special),
            self.port.eq(d),
            self.write.eq(phases[1] & out),
        ]

        # Results.
        # Two registers of the carry begin the chain: of one alone, synthesis would make a way into
        # it that begins with a table.
        carry, same_carry = Signal(), Signal()
        m.d.sync += carry.eq(Mux(continues, carry_flag, subtracts))
        with m.If(phases[1]):
            m.d.sync += same_carry.eq(Mux(continues, carry_flag, subtracts))
        total = Signal(18)
        m.d.comb += total.eq(Cat(same_carry, a) + Cat(carry, inverted))
        added = total[1:17]
        logic = Mux(both, a & b, Mux(either, a | b, a ^ b))
        shifted = Cat(b[1:], Mux(rotates, carry_flag, arithmetic & b[15]))
        moved = Cat(
            Mux(swaps, b[8:], b[:8]),
            Mux(swaps, b[:8], Mux(extends, b[7].replicate(8), b[8:])),
        )
        other = Mux(call, follower, Mux(logical, logic, Mux(shifts, shifted, moved)))
        # In its turn the bus writes in place of the engine.
        adds_now, bus_now = Signal(), Signal()
        m.d.sync += [adds_now.eq(adds & phases[1]), bus_now.eq(phases[0])]
        m.submodules.result = mux = LateMux(width=16, family=self.family)
        m.d.comb += [
            mux.select.eq(adds_now),
            mux.late.eq(added),
            mux.early.eq(Mux(bus_now, self.bus_value, other)),
            result.eq(mux.output),
        ]
        with m.If(execute & (adds | logical | shifts)):
            m.d.sync += [last.eq(result), zero_before.eq(~(adds & continues) | zero)]
        with m.If(execute & adds):
            m.d.sync += [
                carry_flag.eq(total[17]),
                overflow.eq((a[15] ^ added[15]) & (inverted[15] ^ added[15])),
            ]
        with m.If(execute & shifts):
            m.d.sync += carry_flag.eq(b[0])
        return m

    def _fetch(self, m: Module, enable: Value, place: Signal) -> Signal:
        """Return the word at the ``place`` of the last cycle with ``enable``."""
        depth = 1 << max(1, (len(self.words) - 1).bit_length())
        m.submodules.program = memory = Memory(shape=WORD_BITS, depth=depth, init=self.words)
        read = memory.read_port(domain="comb")
        word = Signal(WORD_BITS, reset_less=True)
        m.d.comb += read.addr.eq(place)
        with m.If(enable):
            m.d.sync += word.eq(read.data)
        return word

    def _registers(
        self, m: Module, phases: Signal, write_en: Value, d: Value, s: Value, result: Signal
    ) -> tuple[Signal, Signal]:
        """Return the registers d (in phases 1 and 2) and s (in phase 1); write ``result`` to d."""
        init = [self.registers.get(number, 0) for number in range(REGISTERS)]
        bus = phases[1]
        values = []
        for name, number in (("a", d), ("b", s)):
            memory = Memory(shape=16, depth=REGISTERS, init=init, attrs={"no_rw_check": 1})
            m.submodules[f"registers_{name}"] = memory
            write, read = memory.write_port(granularity=8), memory.read_port(domain="comb")
            self.register_file = memory  # of the last one; they are equal
            value = Signal(16, name=f"register_{name}", reset_less=True)
            m.d.comb += [
                write.addr.eq(Mux(bus, self.bus_write, d)),
                write.data.eq(result),
                write.en.eq(Mux(bus, self.bus_enables, write_en.replicate(2))),
                read.addr.eq(Mux(bus, self.bus_read, number) if name == "b" else number),
            ]
            m.d.sync += value.eq(read.data)
            values.append(value)
        m.d.comb += self.bus_data.eq(values[1])
        return values[0], values[1]

    def _products(self, m: Module, a: Signal, b: Signal, start: Value) -> Value:
        """Return the source among the products of the last ``start``."""
        again = Signal()
        m.d.sync += again.eq(start)
        # The kinds of factors, and what the drain datapath multiplies there.
        kinds = {
            "ss": (True, True, self.multiplicand[16:]),
            "us": (False, True, self.multiplicand[:16]),
            "uu": (False, False, None),
        }
        products = {}
        for name, (a_signed, b_signed, half) in kinds.items():
            cell = WordProduct(a_signed=a_signed, b_signed=b_signed, family=self.family)
            m.submodules[f"product_{name}"] = cell
            m.d.comb += [cell.a.eq(a), cell.b.eq(b), cell.enable.eq(start | again)]
            if half is not None:
                with m.If(self.multiply):
                    m.d.comb += [cell.a.eq(half), cell.b.eq(self.multiplier), cell.enable.eq(1)]
            products[name] = cell.product
        m.d.comb += [
            self.product_low.eq(products["us"]),
            self.product_high.eq(products["ss"]),
        ]
        values = {
            Source.PL: products["uu"][:16],
            Source.PHS: products["ss"][16:],
            Source.PHM: products["us"][16:],
            Source.PHU: products["uu"][16:],
        }
        # The sources are neighbours.
        assert [source % 4 for source in values] == [2, 3, 0, 1]
        ordered = sorted(values, key=lambda source: source % 4)
        return Array(values[source] for source in ordered)[self.source[:2]]
