"""Maximum and weighted sum over the source vectors of an output."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.arith import less
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
    codes, weight, first, valid
        A source vector. ``weight`` is for sums, 0 to 65025; the weights of an output sum to 65025
        at most.
    maximum
        1: maximum, 0: sum. Stable while an output is under way.
    values
        The result.
    """

    LATENCY = 3

    def __init__(self, *, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(8), lanes)),
                "weight": In(16),
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
        weight = Cat(self.weight, Const(0, 1)).as_signed()
        for j in range(self.lanes):
            # Stages 1, 2: the product, and a register behind it.
            product_1 = Signal(signed(25), name=f"product_1_{j}", reset_less=True)
            m.d.sync += product_1.eq(self.codes[j] * weight)
            product_2 = delay(m, product_1, 1, name=f"product_2_{j}")
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
