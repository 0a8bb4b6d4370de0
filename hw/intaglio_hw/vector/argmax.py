"""The index of the largest code among the channels of a pixel."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.vector.beats import delay

__all__ = ["ArgmaxScanner"]


class ArgmaxScanner(wiring.Component):
    """Scan the channels of a pixel, L per cycle; the lowest index wins a tie.

    ``index`` is that of the largest code since ``first``, LATENCY = 3 cycles after the last vector.
    Channel numbers begin with 0 at ``first``; 256 channels at most.

    Members
    -------
    codes, first, valid
        A source vector.
    index
        The result.
    """

    LATENCY = 3

    def __init__(self, *, lanes: int) -> None:
        if lanes & (lanes - 1) or not 1 <= lanes <= 32:
            raise ValueError(f"lanes must be a power of two from 1 to 32, not {lanes}")
        self.lanes = lanes
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(8), lanes)),
                "first": In(1),
                "valid": In(1),
                "index": Out(8),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        levels = self.lanes.bit_length() - 1
        # A tournament of two levels per stage (the fifth before stage 3); the left one, with the
        # lower index, wins ties.
        entries = [(self.codes[j], Const(0, 0)) for j in range(self.lanes)]
        stage = 0
        for level in range(levels):
            winners = []
            for (code_a, lane_a), (code_b, lane_b) in zip(entries[::2], entries[1::2], strict=True):
                right = Signal()
                m.d.comb += right.eq(code_b > code_a)
                winners.append((Mux(right, code_b, code_a), Cat(Mux(right, lane_b, lane_a), right)))
            entries = winners
            if level % 2 == 1 and stage < 2:
                stage += 1
                entries = [
                    tuple(delay(m, part, 1, name=f"winner_{level}_{n}") for part in entry)
                    for n, entry in enumerate(entries)
                ]
        ((code, lane),) = entries
        code_2 = delay(m, code, 2 - stage, name="code")
        lane_2 = delay(m, lane, 2 - stage, name="lane")
        first_2 = delay(m, self.first, 2, name="first")
        valid_2 = delay(m, self.valid, 2, name="valid", reset_less=False)

        # Stage 3: against the best so far, whose index is lower.
        best = Signal(signed(8), reset_less=True)
        group = Signal(8 - levels, reset_less=True)
        with m.If(valid_2):
            m.d.sync += group.eq(Mux(first_2, 1, group + 1))
            with m.If(first_2 | (code_2 > best)):
                m.d.sync += [best.eq(code_2), self.index.eq(Cat(lane_2, Mux(first_2, 0, group)))]
        return m
