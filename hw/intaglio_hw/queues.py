"""Queues of the control: wide entries whose registers need no enable."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["HeadQueue", "step"]

#: Bits of an entry that share a pair of pointers: what a register reaches well.
_SLICE = 128


def step(counter: Value, down: Value) -> Value:
    """Return ``counter`` plus one, minus one if ``down``: one carry chain, no multiplexer."""
    return counter + (down.as_signed() | 1)


class HeadQueue(wiring.Component):
    """A queue whose ``head`` mirrors the oldest entry, for entries that come and go seldom.

    ``push`` takes ``entry``; ``pop`` removes the oldest one. ``head`` is a register that follows
    the memory in each cycle: in the cycle after ``pop`` it still is the entry that left, two cycles
    after it the next one. ``valid`` and ``room`` are registers, two cycles behind ``push`` and
    ``pop``: in the cycle after ``pop`` ``valid`` does not mean the next entry yet, and ``push``
    needs ``room`` of at least three cycles after the last one. ``clear`` empties the queue, which a
    reset does not need to do.

    The memory has more rows than entries, so that the row at the write pointer is always free: it
    is written in each cycle, and ``push`` moves the pointer alone.

    Parameters
    ----------
    width
        Bits of an entry.
    depth
        Entries, a power of two.
    """

    #: Cycles from ``push`` to ``valid``, and from ``pop`` to the next head.
    LATENCY = 2

    def __init__(self, *, width: int, depth: int) -> None:
        self._width, self.depth = width, depth
        super().__init__(
            {
                "entry": In(width),
                "push": In(1),
                "room": Out(1, init=1),
                "head": Out(width),
                "valid": Out(1),
                "pop": In(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = 2 * self.depth
        level = Signal(range(self.depth + 1), reset_less=True)
        m.d.sync += [self.valid.eq(level.any()), self.room.eq(level != self.depth)]
        with m.If(self.clear):
            m.d.sync += level.eq(0)
        with m.Elif(self.push ^ self.pop):
            m.d.sync += level.eq(step(level, self.pop))
        for number, low in enumerate(range(0, self._width, _SLICE)):
            part = slice(low, min(low + _SLICE, self._width))
            memory = Memory(shape=part.stop - low, depth=rows, init=[])
            m.submodules[f"slice{number}"] = memory
            write, read = memory.write_port(), memory.read_port()
            # Each slice begins at a row of its own: equal pointers would be merged into one.
            first = number % rows
            newest = Signal(range(rows), init=first, name=f"newest{number}", reset_less=True)
            oldest = Signal(range(rows), init=first, name=f"oldest{number}", reset_less=True)
            m.d.comb += [
                write.addr.eq(newest),
                write.data.eq(self.entry[part]),
                write.en.eq(1),
                read.addr.eq(oldest),
                read.en.eq(1),
                self.head[part].eq(read.data),
            ]
            with m.If(self.clear):
                m.d.sync += [newest.eq(first), oldest.eq(first)]
            with m.Else():
                with m.If(self.push):
                    m.d.sync += newest.eq(newest + 1)
                with m.If(self.pop):
                    m.d.sync += oldest.eq(oldest + 1)
        return m
