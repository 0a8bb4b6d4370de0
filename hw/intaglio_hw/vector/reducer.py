"""Maximum and weighted sum over the source vectors of an output."""

from amaranth.hdl import Cat, Const, Module, Mux, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.arith import less
from intaglio_hw.primitives import Multiplier
from intaglio_hw.vector.beats import delay

__all__ = ["Reducer"]

# 255 * 255 taps, or weights that sum to 255 * 255, times -128.
_SUM_BITS = 24


class Reducer(wiring.Component):
    """Reduce vectors, one per cycle: per lane the maximum, or the sum of ``weight * code``.

    ``values`` is the reduction of all vectors since the one with ``first``, LATENCY = 3 cycles
    after the last of them.

    Members
    -------
    codes, first, valid
        A source vector.
    codes_ahead, weight_ahead
        What ``codes`` will be in the next cycle, and its weight, for sums: 0 to 65025; the weights
        of an output sum to 65025 at most. The multipliers have a register for them.
    maximum
        1: maximum, 0: sum. Stable while an output is under way.
    values
        The result.
    """

    LATENCY = 3

    def __init__(self, *, lanes: int, family: str = "generic") -> None:
        self.lanes, self.family = lanes, family
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(8), lanes)),
                "codes_ahead": In(data.ArrayLayout(signed(8), lanes)),
                "weight_ahead": In(16),
                "first": In(1),
                "valid": In(1),
                "maximum": In(1),
                "values": Out(data.ArrayLayout(signed(_SUM_BITS), lanes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        first_2 = delay(m, self.first, 2, name="first")
        valid_2 = delay(m, self.valid, 2, name="valid", reset_less=False)
        weight = Cat(self.weight_ahead, Const(0, 1))
        for j in range(self.lanes):
            # Stages 0 to 2: the product.
            m.submodules[f"product_{j}"] = block = Multiplier(
                a_width=8, b_width=len(weight), family=self.family
            )
            m.d.comb += [
                block.a.eq(self.codes_ahead[j]),
                block.b.eq(weight),
                block.enable.eq(1),
                block.load.eq(1),
            ]
            product_2 = block.product
            code_2 = delay(m, self.codes[j], 2, name=f"code_{j}")
            # Stage 3: the reduction.
            value = self.values[j]
            with m.If(valid_2):
                with m.If(self.maximum):
                    with m.If(first_2 | less(value[:8].as_signed(), code_2)):
                        m.d.sync += value.eq(code_2)
                with m.Else():
                    m.d.sync += value.eq(Mux(first_2, 0, value) + product_2)
        return m
