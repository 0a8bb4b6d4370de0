"""A delay of several cycles in a memory of tables, for families with few flip-flops."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["DelayLine", "delay_line"]


class DelayLine(wiring.Component):
    """``o`` is ``i``, ``width`` bits, of ``stages`` cycles ago.

    Nothing is reset: ``o`` is undefined until ``i`` has come through.

    Raises
    ------
    ValueError
        ``stages`` below 2.
    """

    def __init__(self, *, width: int, stages: int) -> None:
        if stages < 2:
            raise ValueError(f"stages must be at least 2, not {stages}")
        self.stages = stages
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # One cycle is that of the read port's register; the others lie between write and read.
        rows = 1 << (self.stages - 1).bit_length()
        m.submodules.memory = memory = Memory(shape=len(self.i), depth=rows, init=[])
        write, read = memory.write_port(), memory.read_port()
        newest = Signal(range(rows))
        m.d.sync += newest.eq(newest + 1)
        m.d.comb += [
            write.addr.eq(newest),
            write.data.eq(self.i),
            write.en.eq(1),
            read.addr.eq(newest - (self.stages - 1)),
            self.o.eq(read.data),
        ]
        return m


def delay_line(m: Module, value: Value, stages: int, *, name: str) -> Value:
    """Return the bits of ``value`` of ``stages`` cycles ago, by the :class:`DelayLine` ``name``."""
    m.submodules[name] = line = DelayLine(width=len(value), stages=stages)
    m.d.comb += line.i.eq(value)
    return line.o
