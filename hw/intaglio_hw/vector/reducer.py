"""Maximum, weighted sum and interpolation over the source vectors of an output."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.arith import less
from intaglio_hw.primitives import Multiplier, delay_line
from intaglio_hw.vector.beats import WEIGHT_BITS, delay

__all__ = ["Reducer"]

# Windows of many instructions: as an accumulator of the array.
_SUM_BITS = 32
_HALF = _SUM_BITS // 2
# Weights that sum to 2047, times -128; and a difference of two.
_COLUMN_BITS = 19
_SLOPE_BITS = 20


class Reducer(wiring.Component):
    """Reduce vectors, one per cycle: per lane the maximum, or the sum of ``weight * code``.

    ``values`` is the reduction of all vectors since the one with ``first``, LATENCY = 7 cycles
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

    LATENCY = 7

    def __init__(self, *, lanes: int, family: str = "generic", lean: bool = False) -> None:
        self.lanes, self.family, self.lean = lanes, family, lean
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
        first_5 = delay(m, first_4, 1, name="first_5")
        valid_3 = delay(m, self.valid, 3, name="valid", reset_less=False)
        valid_4 = delay(m, valid_3, 1, name="valid_4", reset_less=False)
        valid_5 = delay(m, valid_4, 1, name="valid_5", reset_less=False)
        valid_6 = delay(m, valid_5, 1, name="valid_6", reset_less=False)
        vertical_3 = delay(m, self.vertical, 3, name="vertical")
        top_3 = delay(m, self.top, 3, name="top")
        bottom_3 = delay(m, self.bottom, 3, name="bottom")
        steps_3 = delay(m, self.steps, 3, name="steps")
        # What is added to the sum.
        product, once, twice = (Signal(reset_less=True) for _ in range(3))
        m.d.sync += [
            product.eq(~vertical_3),
            once.eq(vertical_3 & steps_3[0]),
            twice.eq(vertical_3 & steps_3[1]),
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
            if self.lean:
                code_5 = delay_line(m, self.codes[j], 5, name=f"code_{j}").as_signed()
            else:
                code_5 = delay(m, self.codes[j], 5, name=f"code_{j}")
            # Stage 3: the way from the multiplier.
            product_3 = delay(m, block.product, 1, name=f"product_3_{j}")
            # Stage 4: the columns. Sum and difference side by side; each fits, so that it does not
            # matter what wraps on the way.
            product_4 = delay(m, product_3, 1, name=f"product_4_{j}")
            upper = Signal(signed(_COLUMN_BITS), name=f"upper_{j}", reset_less=True)
            upper_slope = Signal(signed(_SLOPE_BITS), name=f"upper_slope_{j}", reset_less=True)
            right = Signal(signed(_COLUMN_BITS), name=f"right_{j}", reset_less=True)
            slope = Signal(signed(_SLOPE_BITS), name=f"slope_{j}", reset_less=True)
            half = product_3[:_COLUMN_BITS].as_signed()
            with m.If(valid_3 & top_3):
                m.d.sync += [upper.eq(half), upper_slope.eq(half - right)]
            with m.If(valid_3 & bottom_3):
                m.d.sync += [right.eq(upper + half), slope.eq(upper_slope + half)]
            # Stage 5: what the sum changes by.
            change = Signal(signed(_SUM_BITS), name=f"change_{j}", reset_less=True)
            m.d.sync += change.eq(
                Mux(product, product_4, Mux(once, slope, Mux(twice, slope << 1, 0)))
            )
            # Stages 6 and 7: the reductions, one beside the other; the sum in two halves. What is
            # added to stands beside each: the half, or zero before the first vector of an output.
            low = Signal(_HALF + 1, name=f"low_{j}", reset_less=True)
            high = Signal(_SUM_BITS - _HALF, name=f"high_{j}", reset_less=True)
            low_before = Signal(_HALF, name=f"low_before_{j}", reset_less=True)
            high_before = Signal(_SUM_BITS - _HALF, name=f"high_before_{j}", reset_less=True)
            largest = Signal(signed(8), name=f"largest_{j}", reset_less=True)
            low_sum = (low_before + change[:_HALF])[: _HALF + 1]
            with m.If(valid_5):
                m.d.sync += [low.eq(low_sum), low_before.eq(low_sum)]
                with m.If(first_5 | less(largest, code_5)):
                    m.d.sync += largest.eq(code_5)
            with m.If(valid_4 & first_4):
                m.d.sync += low_before.eq(0)
            high_change = delay(m, change[_HALF:], 1, name=f"high_change_{j}")
            high_sum = (Cat(Const(1, 1), high_before) + Cat(low[_HALF], high_change))[
                1 : 1 + _SUM_BITS - _HALF
            ]
            with m.If(valid_6):
                m.d.sync += [high.eq(high_sum), high_before.eq(high_sum)]
            with m.If(valid_5 & first_5):
                m.d.sync += high_before.eq(0)
            total = Cat(delay(m, low[:_HALF], 1, name=f"low_7_{j}"), high).as_signed()
            largest_7 = delay(m, largest, 1, name=f"largest_7_{j}")
            m.d.comb += self.values[j].eq(Mux(self.maximum, largest_7, total))
        return m
