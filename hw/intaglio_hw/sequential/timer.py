"""The timer: counts cycles down, and tells when they are used up."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.sequential.interface import Port

__all__ = ["Timer"]

_WORD = 16


class Timer(wiring.Component):
    """Counts down from what the engine has put there.

    Members
    -------
    port, value, write
        As the engine has them.
    clear
        A program starts: nothing is counted, nothing has expired.
    count
        What is left.
    expired
        It has counted beyond zero since it was cleared, and that matters.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "port": In(6),
                "value": In(_WORD),
                "write": In(1),
                "clear": In(1),
                "count": Out(2 * _WORD),
                "expired": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        count = Signal(2 * _WORD, reset_less=True)
        armed, endless = Signal(), Signal()
        m.d.comb += self.count.eq(count)
        following = Signal(2 * _WORD + 1)
        m.d.comb += following.eq(count - 1)
        with m.If(armed):
            m.d.sync += count.eq(following)
            with m.If(following[-1] & ~endless):
                m.d.sync += self.expired.eq(1)
        with m.If(self.write):
            with m.Switch(self.port):
                with m.Case(Port.TIMH):
                    m.d.sync += count[_WORD:].eq(self.value)
                with m.Case(Port.TIML):
                    m.d.sync += [count[:_WORD].eq(self.value), armed.eq(1)]
                with m.Case(Port.TIMX):
                    m.d.sync += [self.expired.eq(0), endless.eq(self.value[1])]
                    with m.If(self.value[0]):
                        m.d.sync += armed.eq(0)
        with m.If(self.clear):
            m.d.sync += [armed.eq(0), endless.eq(0), self.expired.eq(0)]
        return m
