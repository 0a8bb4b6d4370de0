"""Counters of nested loops, and sums that keep what is beyond every buffer or source."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from intaglio_hw.vector.beats import ADDRESS_BITS, INDEX_BITS

__all__ = ["Loop", "index_ahead", "index_of", "sticky_add"]


class Loop:
    """A loop counter with terminal flags from registers, formed a step ahead.

    ``to_come`` iterations come when the loop begins: all but the first one, which begins with it
    (``ahead`` = 0), or all of them (``ahead`` = 1). ``last``: this is the last iteration; ``near``:
    the next one is. Begins and goes on inside the caller's enable. ``count`` must be stable for two
    cycles.
    """

    #: Low bits of the counter that are compared in one table.
    _LOW = 4

    def __init__(self, m: Module, name: str, count: Value, *, bits: int, ahead: int = 0) -> None:
        self.count, self.ahead = count[:bits], ahead
        self.left = Signal(bits, name=f"{name}_left", reset_less=True)
        self.last, self.near, self.high_zero, self.single, self.double, self.small = (
            Signal(name=f"{name}_{flag}", reset_less=True)
            for flag in ("last", "near", "high_zero", "single", "double", "small")
        )
        m.d.sync += [
            self.single.eq(self.count == 1),
            self.double.eq(self.count == 2),
            self.small.eq(~self.count[self._LOW :].any()),
        ]

    def move(self, begin: Value) -> list:
        """Return the statements that ``begin`` the loop or go on to the next iteration."""
        # The high bits are zero long before the low ones count, so that the flag may be late.
        near = (self.left[: self._LOW] == 3 - self.ahead) & self.high_zero
        first_last = 0 if self.ahead else self.single
        first_near = self.single if self.ahead else self.double
        return [
            self.left.eq(Mux(begin, self.count, self.left - 1)),
            self.high_zero.eq(Mux(begin, self.small, ~self.left[self._LOW :].any())),
            self.near.eq(Mux(begin, first_near, near)),
            self.last.eq(Mux(begin, first_last, self.near)),
        ]


def sticky_add(address: Value, step: Value) -> Value:
    """Return ``address + step`` where the highest bit, once set, stays: beyond is beyond."""
    total = address[: ADDRESS_BITS - 1] + step
    return Cat(total[: ADDRESS_BITS - 1], total[ADDRESS_BITS - 1] | address[ADDRESS_BITS - 1])


def index_of(value: Value) -> Value:
    """Return a field in [-4096, 4095] as a row or column (:func:`position_layout`)."""
    return Cat(value[:INDEX_BITS], Const(0, 1), value[-1])


def index_ahead(index: Value, step: Value) -> Value:
    """Return the row or column ``step`` behind ``index``; what is beyond stays beyond."""
    total = (index[:INDEX_BITS] + step)[: INDEX_BITS + 1]
    beyond, before, carry = index[INDEX_BITS], index[INDEX_BITS + 1], total[INDEX_BITS]
    return Cat(total[:INDEX_BITS], beyond | (carry & ~before), before & ~carry)
