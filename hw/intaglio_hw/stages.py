"""What stands between a unit's queue and the unit: tokens, offers, and what runs."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio_hw.interfaces import ERROR_BITS, IN_FLIGHT, UnitSignature, instruction_layout
from intaglio_hw.queues import step

__all__ = ["INDEX_BITS", "TokenCounter", "UnitStage", "narrow_layout", "queue_layout"]

#: Width of the index of an instruction in its program.
INDEX_BITS = 32
_UNIT_COUNT = len(isa.UNITS)
_HEADER = {field.name: field for field in isa.HEADER}


def queue_layout(instruction: isa.Instruction) -> data.StructLayout:
    """Return the layout of what a unit's queue offers."""
    return data.StructLayout(
        {
            "fields": instruction_layout(instruction),
            "wait": unsigned(_HEADER["wait"].width),
            "signal": unsigned(_HEADER["signal"].width),
            "index": unsigned(INDEX_BITS),
        }
    )


def narrow_layout(instruction: isa.Instruction) -> data.StructLayout:
    """Return the layout of the fields in which each has the bits that its range needs."""

    def shape(field: isa.Field):
        bits = max(field.high.bit_length(), (~field.low).bit_length() if field.low < 0 else 0)
        return signed(bits + 1) if field.signed else unsigned(max(bits, 1))

    return data.StructLayout({field.name: shape(field) for field in instruction.fields})


class TokenCounter(wiring.Component):
    """Tokens from one unit to another: at most TOKEN_MAX.

    ``give`` adds one, ``take`` (only while ``available``) removes one, both leave it as it is.
    ``overflow`` is high in the cycle of a ``give`` that the counter cannot hold. ``available``
    follows one cycle later. ``clear`` sets it to zero, which a reset does not need to do.
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
        bits = (isa.TOKEN_MAX - 1).bit_length() + 1
        # One less than there are: the sign says that there are none.
        above = Signal(signed(bits), init=-1, reset_less=True)
        full = Signal(reset_less=True)  # formed one step ahead
        m.d.comb += [
            self.available.eq(~above[-1]),
            self.overflow.eq(self.give & ~self.take & full),
        ]
        with m.If(self.clear):
            m.d.sync += [above.eq(-1), full.eq(0)]
        with m.Elif(Mux(self.give, ~self.take & ~full, self.take)):
            m.d.sync += [
                above.eq(step(above, self.take)),
                full.eq(~self.take & (above == isa.TOKEN_MAX - 2)),
            ]
        return m


class UnitStage(wiring.Component):
    """The token stage of one unit, between its queue and the unit.

    Takes the tokens for the instruction at the head of the queue as soon as all of them are
    ``available`` (bit u: unit u -> own unit; ``take`` pulses), and then offers its fields to the
    unit while fewer than IN_FLIGHT are running. Remembers index and signals of those that run; two
    cycles after the unit's ``done`` it pulses ``give`` (bit u: own unit -> unit u). After a cycle
    of ``stop`` nothing is started: an offer is taken back. ``clear`` (after cycles of ``stop``,
    while nothing is running) forgets that the head has its tokens.

    ``head`` (stream of :func:`queue_layout`) is the queue. Its transfer is in the cycle after the
    unit's: it keeps its payload until then, and whatever ``valid`` in the cycle after it. ``unit``
    is the unit's :class:`UnitSignature` from the other side, with its ``held``. ``satisfied``: the
    head's tokens were all there in the cycle before; ``granted``: it has them.

    What follows is one cycle old: ``running``: something was started and is not done; ``missing``:
    the tokens that the head needs and does not have; ``start``, ``start_index``, ``done``,
    ``done_index``, ``error``: what happened.

    ``index_bits``: of an index, those that may not be zero.

    LATENCY cycles from ``done`` of one unit to the start of another that waited for it. The next
    head is looked at LEAVE cycles after a start at the earliest.
    """

    LATENCY = 5
    LEAVE = 3
    #: Cycles of them from ``done`` to ``available``.
    TOKEN = 3

    def __init__(
        self, *, instruction: isa.Instruction, held: bool = False, index_bits: int = INDEX_BITS
    ) -> None:
        self._index_bits = index_bits
        super().__init__(
            {
                "head": In(stream.Signature(queue_layout(instruction))),
                "unit": In(UnitSignature(instruction, held=held)),
                "available": In(_UNIT_COUNT),
                "take": Out(_UNIT_COUNT),
                "give": Out(_UNIT_COUNT),
                "stop": In(1),
                "clear": In(1),
                "satisfied": Out(1),
                "granted": Out(1),
                "running": Out(1),
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
        undecided, missing, grant = Signal(), Signal(_UNIT_COUNT), Signal()
        starting, leaving, left = Signal(), Signal(), Signal()
        second = Signal()  # two are running
        finished = Signal()

        # A token that is there stays until this stage takes it.
        m.d.comb += [
            undecided.eq(head.valid & ~self.granted),
            missing.eq(head.payload.wait & ~self.available),
            grant.eq(self.satisfied & ~self.granted),
        ]
        m.d.sync += [
            self.satisfied.eq(undecided & ~missing.any() & ~self.stop),
            self.missing.eq(Mux(undecided, missing, 0)),
            self.take.eq(Mux(grant, head.payload.wait, 0)),
        ]
        with m.If(left | self.clear):
            m.d.sync += self.granted.eq(0)
        with m.Elif(grant):
            m.d.sync += self.granted.eq(1)

        # An offer is a register, and so is what tells the queue, which reaches far. Between two
        # offers everything that started has been counted.
        assert IN_FLIGHT == 2
        m.d.comb += [
            starting.eq(unit.instruction.valid & unit.instruction.ready),
            head.ready.eq(leaving),
            unit.instruction.payload.eq(head.payload.fields),
        ]
        m.d.sync += [
            leaving.eq(starting),
            left.eq(leaving),
            unit.instruction.valid.eq(
                (self.granted | self.satisfied)
                & ~(starting | leaving | left | self.stop)
                & (~second | finished)
            ),
            unit.stop.eq(self.stop),
        ]

        # The unit's answer comes from far away: it takes a register.
        m.d.sync += [finished.eq(unit.done), self.error.eq(unit.error)]
        m.d.comb += self.done.eq(finished & self.running)
        runs = leaving | second | (self.running & ~finished)
        follows = Signal(init=1)  # nothing is running, or something has finished
        m.d.sync += [
            self.running.eq(runs),
            follows.eq(~runs | unit.done),
            second.eq(((self.running & leaving) | second) & ~finished),
        ]

        # Index and signals of those that run: the oldest one, and the next. Each follows the head
        # of the queue until it is there; that the oldest one does is formed one step ahead.
        entry = data.StructLayout({"signal": _UNIT_COUNT, "index": self._index_bits})
        oldest, next_, given = (
            Signal(entry, name=name, reset_less=True) for name in ("oldest", "next", "given")
        )
        m.d.comb += [
            given.signal.eq(head.payload.signal),
            given.index.eq(head.payload.index),
        ]
        with m.If(follows):
            m.d.sync += oldest.eq(Mux(second, next_, given))
        with m.If(~second):
            m.d.sync += next_.eq(given)
        m.d.sync += self.give.eq(Mux(self.done, oldest.signal, 0))
        m.d.comb += [
            self.start.eq(leaving),
            self.start_index.eq(head.payload.index),
            self.done_index.eq(oldest.index),
        ]
        return m
