"""The index of the largest code among the channels of a pixel."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.arith import less
from intaglio_hw.vector.beats import delay

__all__ = ["ArgmaxScanner"]


class ArgmaxScanner(wiring.Component):
    """Scan the channels of a pixel, ``lanes`` per cycle; the lowest index wins a tie.

    ``index`` is a byte of that of the largest code since ``first``, ``latency`` cycles after the
    last vector. Channel numbers begin with 0 at ``first``; 65,536 channels at most.

    Members
    -------
    codes, first, valid
        A source vector.
    high_byte
        Which byte is wanted; constant from ``first`` on.
    index
        The byte.
    """

    def __init__(self, *, lanes: int) -> None:
        if lanes & (lanes - 1) or not 1 <= lanes <= 32:
            raise ValueError(f"lanes must be a power of two from 1 to 32, not {lanes}")
        self.lanes = lanes
        #: Cycles from a vector to ``index``.
        self.latency = lanes.bit_length() + 1
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(8), lanes)),
                "first": In(1),
                "valid": In(1),
                "high_byte": In(1),
                "index": Out(8),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        levels = self.lanes.bit_length() - 1
        # A tournament, a level per stage; the left one, with the lower index, wins ties.
        entries = [(self.codes[j], Const(0, 0)) for j in range(self.lanes)]
        for level in range(levels):
            winners: list[tuple[Any, Any]] = []
            for code_a, code_b in zip(entries[::2], entries[1::2], strict=True):
                n = len(winners)
                right = Signal(name=f"right_{level}_{n}")
                m.d.comb += right.eq(less(code_a[0], code_b[0]))
                lane = Cat(Mux(right, code_b[1], code_a[1]), right)
                code = Mux(right, code_b[0], code_a[0])
                winners.append(
                    (
                        delay(m, code, 1, name=f"code_{level}_{n}"),
                        delay(m, lane, 1, name=f"lane_{level}_{n}"),
                    )
                )
            entries = winners
        ((next_code, next_lane),) = entries
        next_first = delay(m, self.first, levels, name="next_first")
        next_valid = delay(m, self.valid, levels, name="next_valid", reset_less=False)
        code, lane = delay(m, next_code, 1, name="code"), delay(m, next_lane, 1, name="lane")
        first = delay(m, next_first, 1, name="first")
        valid = delay(m, next_valid, 1, name="valid", reset_less=False)

        # Then against the best so far, whose index is lower. Whether the next one is better is
        # found against both that the best may be by then.
        best = Signal(signed(8), reset_less=True)
        better = Signal(reset_less=True)
        larger = Mux(better, less(code, next_code), less(best, next_code))
        m.d.sync += better.eq(next_valid & (next_first | larger))
        group = Signal(16 - levels, reset_less=True)
        index = Signal(16)
        m.d.comb += index.eq(Cat(lane, Mux(first, 0, group)))
        with m.If(valid):
            m.d.sync += group.eq(Mux(first, 1, group + 1))
        with m.If(better):
            m.d.sync += [best.eq(code), self.index.eq(index.word_select(self.high_byte, 8))]
        return m
