"""Maximum, weighted sum and interpolation over the source vectors of an output."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.arith import less
from intaglio_hw.primitives import Multiplier
from intaglio_hw.vector.beats import WEIGHT_BITS, delay

__all__ = ["Reducer"]

# Windows of many instructions: as an accumulator of the array.
_SUM_BITS = 32
# Weights that sum to 2047, times -128; and a difference of two.
_COLUMN_BITS = 19
_SLOPE_BITS = 20


class Reducer(wiring.Component):
    """Reduce vectors, one per cycle: per lane the maximum, or the sum of ``weight * code``.

    ``values`` is the reduction of all vectors since the one with ``first``, LATENCY = 5 cycles
    after the last of them; a sum is int32 and wraps.

    With ``vertical`` a beat is not added to the sum. ``top`` and ``bottom`` give a column of the
    source, as the sum of their two products; it becomes the right one, and the one before it the
    left one. Before that, with ``top``, and after it, with ``bottom``, and in any other beat, the
    sum changes by ``steps * (right - left)``. A value interpolated between the columns, ``(den -
    g) * left + g * right``, is so brought from ``g`` to ``g + steps`` without a multiplication;
    and at ``g = den`` the right column is the left one of the next pair.

    Members
    -------
    codes, first, valid
        A source vector.
    codes_ahead, weight_ahead
        What ``codes`` will be in the next cycle, and its weight, for sums: below 2**17, and so is
        the sum of an interpolation's weights. The multipliers have a register for them.
    vertical, top, bottom, steps
        See above; ``steps`` is 0 to 2. ``bottom`` follows its ``top``; neither comes without
        ``vertical``.
    maximum
        1: maximum, 0: sum. Stable while an output is under way.
    values
        The result.
    """

    LATENCY = 5

    def __init__(self, *, lanes: int, family: str = "generic") -> None:
        self.lanes, self.family = lanes, family
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(8), lanes)),
                "codes_ahead": In(data.ArrayLayout(signed(8), lanes)),
                "weight_ahead": In(WEIGHT_BITS),
                "first": In(1),
                "valid": In(1),
                "vertical": In(1),
                "top": In(1),
                "bottom": In(1),
                "steps": In(2),
                "maximum": In(1),
                "values": Out(data.ArrayLayout(signed(_SUM_BITS), lanes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        first_4 = delay(m, self.first, 4, name="first")
        valid_2 = delay(m, self.valid, 2, name="valid", reset_less=False)
        valid_4 = delay(m, valid_2, 2, name="valid_4", reset_less=False)
        vertical_2 = delay(m, self.vertical, 2, name="vertical")
        top_2 = delay(m, self.top, 2, name="top")
        bottom_2 = delay(m, self.bottom, 2, name="bottom")
        steps_2 = delay(m, self.steps, 2, name="steps")
        # What is added to the sum.
        product, once, twice = (Signal(reset_less=True) for _ in range(3))
        m.d.sync += [
            product.eq(~vertical_2),
            once.eq(vertical_2 & steps_2[0]),
            twice.eq(vertical_2 & steps_2[1]),
        ]
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
            code_4 = delay(m, self.codes[j], 4, name=f"code_{j}")
            # Stage 3: the columns. Sum and difference side by side; each fits, so that it does not
            # matter what wraps on the way.
            product_3 = delay(m, product_2, 1, name=f"product_3_{j}")
            upper = Signal(signed(_COLUMN_BITS), name=f"upper_{j}", reset_less=True)
            upper_slope = Signal(signed(_SLOPE_BITS), name=f"upper_slope_{j}", reset_less=True)
            right = Signal(signed(_COLUMN_BITS), name=f"right_{j}", reset_less=True)
            slope = Signal(signed(_SLOPE_BITS), name=f"slope_{j}", reset_less=True)
            half = product_2[:_COLUMN_BITS].as_signed()
            with m.If(valid_2 & top_2):
                m.d.sync += [upper.eq(half), upper_slope.eq(half - right)]
            with m.If(valid_2 & bottom_2):
                m.d.sync += [right.eq(upper + half), slope.eq(upper_slope + half)]
            # Stage 4: what the sum changes by.
            change = Signal(signed(_SUM_BITS), name=f"change_{j}", reset_less=True)
            m.d.sync += change.eq(
                Mux(product, product_3, Mux(once, slope, Mux(twice, slope << 1, 0)))
            )
            # Stage 5: the reductions, one beside the other.
            total = Signal(signed(_SUM_BITS), name=f"total_{j}", reset_less=True)
            largest = Signal(signed(8), name=f"largest_{j}", reset_less=True)
            with m.If(valid_4):
                m.d.sync += total.eq(Mux(first_4, 0, total) + change)
                with m.If(first_4 | less(largest, code_4)):
                    m.d.sync += largest.eq(code_4)
            m.d.comb += self.values[j].eq(Mux(self.maximum, largest, total))
        return m
