"""Queues of the control: wide entries whose registers need no enable."""

from collections.abc import Sequence

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import BYTE_BITS, BYTES, IN_BLOCKS

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
    held
        Bits in each of the first parts of an entry. They are not in ``head``: block RAM has them,
        and its output register ``held`` is what a register behind ``head`` with the enable
        ``follow`` would be. They come before ``push``: part i is taken with bit i of ``keep``.
    """

    #: Cycles from ``push`` to ``valid``, and from ``pop`` to the next head.
    LATENCY = 2

    def __init__(self, *, width: int, depth: int, held: Sequence[int] = ()) -> None:
        self._width, self.depth, self._parts = width, depth, held
        self._held = sum(held)
        members = {
            "entry": In(width),
            "push": In(1),
            "room": Out(1, init=1),
            "head": Out(width - self._held),
            "valid": Out(1),
            "pop": In(1),
            "clear": In(1),
        }
        if held:
            members |= {"held": Out(self._held), "follow": In(1), "keep": In(len(held))}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = 2 * self.depth
        level = Signal(range(self.depth + 1), reset_less=True)
        m.d.sync += [self.valid.eq(level.any()), self.room.eq(level != self.depth)]
        with m.If(self.clear):
            m.d.sync += level.eq(0)
        with m.Elif(self.push ^ self.pop):
            m.d.sync += level.eq(step(level, self.pop))
        held = self._held
        for number, low in enumerate(range(held, self._width, _SLICE)):
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
                self.head[low - held : part.stop - held].eq(read.data),
            ]
            with m.If(self.clear):
                m.d.sync += [newest.eq(first), oldest.eq(first)]
            with m.Else():
                with m.If(self.push):
                    m.d.sync += newest.eq(newest + 1)
                with m.If(self.pop):
                    m.d.sync += oldest.eq(oldest + 1)
            if held and not number:
                # The row that the head is of.
                row = Signal(range(rows), reset_less=True)
                m.d.sync += row.eq(oldest)
                self._hold(m, newest, row)
        return m

    def _hold(self, m: Module, newest: Value, row: Value) -> None:
        """Add the memory of the parts that are held. An entry is not read while it is written.

        A block has an enable for each byte; what is too little for one is in tables.
        """
        low, bytes_, rest = 0, [], []
        for part, width in enumerate(self._parts):
            for at in range(low, low + width, BYTE_BITS):
                piece = slice(at, min(at + BYTE_BITS, low + width))
                bytes_.append((part, piece))
            low += width
        # The smallest ones go, as long as they need a block of their own.
        while len(bytes_) > BYTES and len(bytes_) % BYTES in (1, 2):
            smallest = min(bytes_, key=lambda item: item[1].stop - item[1].start)
            bytes_.remove(smallest)
            rest.append(smallest)
        groups = [("held", bytes_, IN_BLOCKS)] if bytes_ else []
        groups += [(f"rest{n}", [item], {}) for n, item in enumerate(rest)]
        for name, items, attrs in groups:
            byte = max(piece.stop - piece.start for _, piece in items)
            memory = Memory(shape=byte * len(items), depth=2 * self.depth, init=[], attrs=attrs)
            m.submodules[name] = memory
            # The attributes are heard only with a read in logic and a register.
            write, read = memory.write_port(granularity=byte), memory.read_port(domain="comb")
            shown = Signal(byte * len(items), name=f"{name}_row", reset_less=True)
            m.d.comb += [write.addr.eq(newest), read.addr.eq(row)]
            with m.If(self.follow):
                m.d.sync += shown.eq(read.data)
            for n, (part, piece) in enumerate(items):
                m.d.comb += [
                    write.en[n].eq(self.keep[part]),
                    write.data[byte * n : byte * n + byte].eq(self.entry[piece]),
                    self.held[piece].eq(shown[byte * n : byte * n + byte]),
                ]
