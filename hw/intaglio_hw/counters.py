"""The performance counters: registers for what counts fast, a memory for the rest."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio.spec import regs

__all__ = ["CounterBank", "events_layout"]

#: Bits of the largest number that a counter may count in a cycle.
_EVENT_BITS = {"instructions": 3}


def events_layout() -> data.StructLayout:
    """Return the layout of what each counter counts in a cycle."""
    return data.StructLayout({name: _EVENT_BITS.get(name, 1) for name, _ in regs.COUNTERS})


class CounterBank(wiring.Component):
    """A counter of 32 bits for each of :data:`intaglio.spec.regs.COUNTERS`; they wrap.

    The lowest bits of a counter are a register. Its carry waits until the row of the upper ones
    comes by in a memory of which one row is read and the one before it written in each cycle.

    Members
    -------
    events
        :func:`events_layout`: what each counter adds in this cycle.
    clear
        Counters are zero in the next cycle; what happens in this one does not count.
    select, count
        ``count`` is counter number ``select`` of LATENCY cycles ago, as it was then.
    """

    LATENCY = 2
    _BITS = 32
    #: Bits of a counter that are a register.
    _LOW = 7

    def __init__(self) -> None:
        self._rows = len(regs.COUNTERS)
        assert self._rows & (self._rows - 1) == 0
        super().__init__(
            {
                "events": In(events_layout()),
                "clear": In(1),
                "select": In(range(self._rows)),
                "count": Out(self._BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self._rows
        m.submodules.upper = memory = Memory(shape=self._BITS - self._LOW, depth=rows, init=[])
        write = memory.write_port()
        visited, shown = memory.read_port(), memory.read_port()

        # Stage 1: a row is read, with the carry into it. Stage 2: it is written.
        carries = Signal(rows, reset_less=True)
        carry, going = Signal(reset_less=True), Signal()
        first_round = Signal(reset_less=True)  # from ``written`` on rows are those before ``clear``
        row, written = (Signal(range(rows), name=name) for name in ("row", "written"))
        m.d.comb += [
            visited.addr.eq(row),
            write.addr.eq(written),
            write.data.eq(Mux(first_round, 0, visited.data) + carry),
            write.en.eq(going),
        ]
        m.d.sync += [carry.eq(Array(carries)[row]), going.eq(~self.clear)]
        with m.If(self.clear):
            m.d.sync += [row.eq(0), written.eq(0), first_round.eq(1)]
        with m.Else():
            m.d.sync += [row.eq(row + 1), written.eq(row)]
            with m.If(going & (written == rows - 1)):
                m.d.sync += first_round.eq(0)

        # A carry has gone before the next one comes.
        lows = []
        for number, (name, _) in enumerate(regs.COUNTERS):
            event = self.events[name]
            assert (1 << self._LOW) // ((1 << len(event)) - 1) >= rows + 2
            low = Signal(self._LOW, name=f"{name}_low", reset_less=True)
            total = low + event
            gone = carry & going & (written == number)
            with m.If(self.clear):
                m.d.sync += [low.eq(0), carries[number].eq(0)]
            with m.Else():
                m.d.sync += [
                    low.eq(total),
                    carries[number].eq(total[self._LOW] | (carries[number] & ~gone)),
                ]
            lows.append(low)

        # Reading, stage 1: the memory, the carry, the registers by fours. Stage 2: the sum.
        cleared, waiting = Signal(reset_less=True), Signal(reset_less=True)
        fours = [Signal(self._LOW, name=f"low_{n}", reset_less=True) for n in range(rows // 4)]
        four = Signal(range(rows // 4), reset_less=True)
        count = Signal(self._BITS, reset_less=True)
        m.d.comb += [shown.addr.eq(self.select), self.count.eq(count)]
        m.d.sync += [
            cleared.eq(first_round & (self.select >= written)),
            waiting.eq(Array(carries)[self.select]),
            four.eq(self.select[2:]),
            count.eq(Cat(Array(fours)[four], Mux(cleared, 0, shown.data) + waiting)),
        ]
        for number, chosen in enumerate(fours):
            m.d.sync += chosen.eq(Array(lows[4 * number : 4 * number + 4])[self.select[:2]])
        return m
