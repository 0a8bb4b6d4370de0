"""The requantiser: the one way out of an accumulator, one vector of ``lanes`` values per cycle."""

import re
from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.arith import RESIDUAL_SHIFT_MAX, SHIFT_MAX, SUM_BITS
from intaglio_hw.arith import less, round_shift
from intaglio_hw.primitives import Multiplier, delay_line

__all__ = ["Requantizer", "requantizer_layout"]

# A product of 32 x 16 bits is the sum of two that an 18 x 18 multiplier holds: the low half has 17
# bits, unsigned.
_SPLIT = 17
# acc * m lies in +-2**46, b in +-2**47, residual << 39 in +-2**46: their sum in +-2**48.
_TOTAL_BITS = SUM_BITS + 1
# Sums are formed in two steps, of the bits below and above this one.
_HALF = 25
# Of the residual, shifted by at most RESIDUAL_SHIFT_MAX.
_RESIDUAL_BITS = 8 + RESIDUAL_SHIFT_MAX
# After the shift: a code, the bit that rounds, and a bit of headroom. What does not fit is beyond
# every bound.
_CODE_BITS = 10
# The shift is done in digits of base 4 and then 16: bits that can still matter after each.
_AFTER_COARSE = _CODE_BITS + 15
_AFTER_MIDDLE = _CODE_BITS + 3
# Registers of what all lanes need; each serves every fourth lane.
_COPIES = 4
# Stages without an adder that can be one with the next where registers are few; their cycles are
# spent on the codes.
_JOINED = (3, 7, 11, 12)


def requantizer_layout(lanes: int) -> data.StructLayout:
    """Return the layout of a vector of values with their parameters, lane by lane."""
    return data.StructLayout(
        {
            "value": data.ArrayLayout(signed(32), lanes),
            "multiplier": data.ArrayLayout(signed(16), lanes),
            "bias": data.ArrayLayout(signed(SUM_BITS), lanes),
            "residual": data.ArrayLayout(signed(8), lanes),
            "residual_shift": unsigned(6),
            "shift": unsigned(6),
            "low": signed(8),
            "high": signed(8),
        }
    )


def _choose(digit: Value, choices: Sequence[ValueLike]) -> Value:
    """Return the one of four choices that a digit of two bits selects."""
    return Mux(
        digit[1], Mux(digit[0], choices[3], choices[2]), Mux(digit[0], choices[1], choices[0])
    )


def _left(value: Value, digit: Value, step: int, width: int) -> Value:
    """Return ``value << digit * step``, signed, ``width`` bits.

    Zeros come from gates: a multiplexer with a constant becomes a reset, which is slow to reach.
    """
    bits = []
    for i in range(width):
        sources = [i - n * step for n in range(4)]
        chosen = _choose(digit, [value[min(max(source, 0), len(value) - 1)] for source in sources])
        # Which digits move nothing to this bit: all from some one on.
        zeros = [source < 0 for source in sources]
        if any(zeros):
            chosen &= ~_choose(digit, [Const(int(zero)) for zero in zeros])
        bits.append(chosen)
    return Cat(bits).as_signed()


def _right(value: Value, digit: Value, step: int, width: int) -> Value:
    """Return the lowest ``width`` bits of ``value >> digit * step``, signed.

    Digits that no shift up to SHIFT_MAX has give the same as the largest one.
    """
    top, last = len(value) - 1, min(3, SHIFT_MAX // step)
    return Cat(
        _choose(digit, [value[min(i + min(n, last) * step, top)] for n in range(4)])
        for i in range(width)
    ).as_signed()


def _add(a: Value, b: Value, carry: Value) -> Value:
    """Return ``a + b + carry``, signed, as one chain of carries."""
    total = Cat(Const(1, 1), a).as_signed() + Cat(carry, b).as_signed()
    return total[1:].as_signed()


def _differ(value: Value, sign: Value, low: int, high: int, size: int) -> Value:
    """Return, for each ``size`` bits from ``low`` below ``high``, whether one is not ``sign``."""
    groups = [value[at : min(at + size, high)] for at in range(low, high, size)]
    return Cat(group != sign.replicate(len(group)) for group in groups)


class Requantizer(wiring.Component):
    """Requantise vectors.

    Per lane ``saturate(round_shift(value * m + b + (residual << r), s), low, high)``.

    Exact for all inputs with ``residual_shift`` <= RESIDUAL_SHIFT_MAX and ``shift`` <= SHIFT_MAX:
    no sum inside wraps. Other shifts give an undefined code and do no harm.

    Latency LATENCY cycles, throughput one vector per cycle. The pipeline never stalls.

    Parameters
    ----------
    lanes
        Values in a vector, L.
    family
        Whose multiplier blocks (:mod:`intaglio_hw.primitives`).
    lean
        Fewer registers and more logic between them.

    Members
    -------
    i, i_valid
        A vector, :func:`requantizer_layout`.
    o, o_valid
        L codes, int8.
    """

    LATENCY = 13

    def __init__(self, *, lanes: int, family: str = "generic", lean: bool = False) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes}")
        self.lanes, self.family, self.lean = lanes, family, lean
        super().__init__(
            {
                "i": In(requantizer_layout(lanes)),
                "i_valid": In(1),
                "o": Out(data.ArrayLayout(signed(8), lanes)),
                "o_valid": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()

        joined = _JOINED if self.lean else ()

        def stage_of(name):
            return int(re.search(r"\d+", name)[0])  # the first number; a lane's may follow

        def register(value, shape, name, stage=None):
            """A register without reset, of the stage that its name has before the lane."""
            stage = stage_of(name) if stage is None else stage
            result = Signal(shape, name=name, reset_less=True)
            domain = m.d.comb if stage in joined else m.d.sync
            domain += result.eq(value)
            return result

        def copies(value, bits, name):
            """Registers with the same value. Synthesis would merge them, were it not for the state
            at power-up or the polarity in which they differ.
            """
            if stage_of(name) in joined:
                return [value] * _COPIES
            result = []
            for n in range(_COPIES):
                init = -(n & 1) & (1 << bits) - 1
                copy = Signal(bits, name=f"{name}_copy{n}", reset_less=True, init=init)
                m.d.sync += copy.eq(~value if n & 2 else value)
                result.append(~copy if n & 2 else copy)
            return result

        def delay(value, shape, stages, name):
            if self.lean and stages > 4:
                stages -= sum(stage < stages for stage in joined)
                line = delay_line(m, value, stages, name=name)
                return line.as_signed() if shape.signed else line
            for stage in range(stages):
                value = register(value, shape, f"{name}_{stage}", stage)
            return value

        payload = self.i
        valid = Signal(self.LATENCY)
        m.d.sync += valid.eq(Cat(self.i_valid, valid[:-1]))
        m.d.comb += self.o_valid.eq(valid[-1])

        # What is common to the lanes travels along, to the stage that uses it.
        residual_shift = payload.residual_shift
        fours_0 = register(residual_shift[2:], unsigned(4), "fours_0")
        sixteens_1 = register(fours_0[2:], unsigned(2), "sixteens_1")
        shift_5 = delay(payload.shift, unsigned(6), 6, "shift")
        shift_6 = register(shift_5[:4], unsigned(4), "shift_6")
        shift_7 = register(shift_6, unsigned(4), "shift_7")
        middle_8 = register(shift_7[2:], unsigned(2), "middle_8")
        # Digits, and a digit one-hot, that select among many bits.
        ones = copies(residual_shift[:2], 2, "ones_0")
        fours = copies(fours_0[:2], 2, "fours_1")
        sixteens = copies(Cat(sixteens_1 == n for n in range(3)), 3, "sixteens_2")
        coarse = copies(shift_5[4:], 2, "coarse_6")
        middle = copies(shift_6[2:], 2, "middle_7")
        fine = copies(shift_7[:2], 2, "fine_8")
        none_6 = register(shift_5[4:] == 0, 1, "none_6")  # nothing, or at most 16, is shifted out
        few_6 = register(~shift_5[5], 1, "few_6")
        none_7, few_7 = register(none_6, 1, "none_7"), register(few_6, 1, "few_7")
        low_10 = delay(payload.low, signed(8), 11, "low")
        high_10 = delay(payload.high, signed(8), 11, "high")
        low_11 = register(low_10, signed(8), "low_11")
        high_11 = register(high_10, signed(8), "high_11")
        inverted_11 = register(less(high_10, low_10), 1, "inverted_11")

        for j in range(self.lanes):
            ones_0, fours_1, sixteens_2, coarse_6, middle_7, fine_8 = (
                digit[j % _COPIES] for digit in (ones, fours, sixteens, coarse, middle, fine)
            )
            # Stages 0 to 2: two products; the operands are registered in the multipliers. Their
            # outputs are far away: stage 3.
            value = payload.value[j]
            products = []
            for name, part in (
                ("low", Cat(value[:_SPLIT], Const(0, 1))),
                ("high", value[_SPLIT:]),
            ):
                block = Multiplier(
                    a_width=len(part), b_width=len(payload.multiplier[j]), family=self.family
                )
                m.submodules[f"product_{name}_{j}"] = block
                m.d.comb += [
                    block.a.eq(part),
                    block.b.eq(payload.multiplier[j]),
                    block.enable.eq(1),
                    block.load.eq(1),
                ]
                products.append(
                    register(block.product, block.product.shape(), f"product_{name}_3_{j}")
                )
            low_3, high_3 = products

            # Beside them the residual is shifted by r % 4, r // 4 % 4 * 4, r // 16 * 16.
            residual_0 = register(payload.residual[j], signed(8), f"residual_0_{j}")
            residual_1 = register(_left(residual_0, ones_0, 1, 11), signed(11), f"residual_1_{j}")
            residual_2 = register(_left(residual_1, fours_1, 4, 23), signed(23), f"residual_2_{j}")
            sign = residual_2[-1].replicate(_RESIDUAL_BITS)
            places = [
                Cat(Const(0, 16 * n), residual_2, sign)[:_RESIDUAL_BITS]
                & sixteens_2[n].replicate(_RESIDUAL_BITS)
                for n in range(3)
            ]
            residual_3 = register(
                (places[0] | places[1] | places[2]).as_signed(),
                signed(_RESIDUAL_BITS),
                f"residual_3_{j}",
            )
            bias_3 = delay(payload.bias[j], signed(SUM_BITS), 4, f"bias_{j}")

            # Stage 4: the lower halves of the product and of bias + residual. Its lowest bits need
            # no adder.
            product_low = Signal(_HALF + 1, name=f"product_low_{j}")
            m.d.comb += product_low.eq(
                Cat(low_3[:_SPLIT], low_3[_SPLIT:_HALF] + high_3[: _HALF - _SPLIT])
            )
            product_low_4 = register(product_low, _HALF + 1, f"product_low_4_{j}")
            addend_low_4 = register(
                bias_3[:_HALF] + residual_3[:_HALF], _HALF + 1, f"addend_low_4_{j}"
            )
            rest = [
                register(part.as_signed(), signed(len(part)), f"{name}_4_{j}")
                for name, part in (
                    ("low", low_3[_HALF:]),
                    ("high", high_3[_HALF - _SPLIT :]),
                    ("bias", bias_3[_HALF:]),
                    ("residual", residual_3[_HALF:]),
                )
            ]
            # Stage 5: the upper ones, and the lower half of the sum.
            product_5 = register(
                _add(rest[0], rest[1], product_low_4[-1]),
                signed(SUM_BITS - _HALF),
                f"product_5_{j}",
            )
            addend_5 = register(
                _add(rest[2], rest[3], addend_low_4[-1]),
                signed(_TOTAL_BITS - _HALF),
                f"addend_5_{j}",
            )
            low_5 = register(product_low_4[:_HALF] + addend_low_4[:_HALF], _HALF + 1, f"low_5_{j}")
            # Stage 6: its upper half. A zero below it keeps the bit that rounds through the shifts.
            low_6 = register(low_5[:_HALF], _HALF, f"low_6_{j}")
            high_6 = register(
                _add(product_5, addend_5, low_5[-1]), signed(_TOTAL_BITS - _HALF), f"high_6_{j}"
            )
            total_6 = Signal(signed(_TOTAL_BITS), name=f"total_6_{j}")
            m.d.comb += total_6.eq(Cat(low_6, high_6))
            doubled = Cat(Const(0, 1), total_6)  # 50 bits

            # Stages 7 to 9: shift by s // 16 * 16, s // 4 % 4 * 4, s % 4; each drops bits that can
            # no longer be part of a code. Whether they differ from the sign is found a few bits at
            # a time, and whether that matters a stage later.
            top = len(doubled) - 1
            sign_7 = register(doubled[-1], 1, f"sign_7_{j}")
            value_7 = register(
                _right(doubled, coarse_6, 16, _AFTER_COARSE),
                signed(_AFTER_COARSE),
                f"value_7_{j}",
            )
            near = _differ(doubled, doubled[-1], _AFTER_COARSE - 1, _AFTER_COARSE + 15, 3)
            far = _differ(doubled, doubled[-1], _AFTER_COARSE + 15, top, 3)
            near_7 = register(near, len(near), f"near_7_{j}")
            far_7 = register(far, len(far), f"far_7_{j}")

            sign_8 = register(sign_7, 1, f"sign_8_{j}")
            value_8 = register(
                _right(value_7, middle_7, 4, _AFTER_MIDDLE), signed(_AFTER_MIDDLE), f"value_8_{j}"
            )
            beyond = Cat(near_7.any() & none_7, far_7.any() & few_7)
            beyond_8 = register(beyond, 2, f"beyond_8_{j}")
            near = _differ(value_7, sign_7, _AFTER_MIDDLE - 1, _AFTER_COARSE - 1, 4)
            near_8 = register(near, len(near), f"near_8_{j}")

            sign_9 = register(sign_8, 1, f"sign_9_{j}")
            value_9 = register(
                _right(value_8, fine_8, 1, _CODE_BITS), signed(_CODE_BITS), f"value_9_{j}"
            )
            close = Cat(
                near_8[0] & (middle_8 == 0), near_8[1] & ~middle_8[1], near_8[2] & ~middle_8.all()
            )
            rest = _differ(value_8, sign_8, _CODE_BITS - 1, _AFTER_MIDDLE - 1, 1)
            closest = Cat(rest[0] & (fine_8 == 0), rest[1] & ~fine_8[1], rest[2] & ~fine_8.all())
            beyond_9 = register(Cat(beyond_8.any(), close.any(), closest.any()), 3, f"beyond_9_{j}")

            # Stage 10: the rounding of the last bit.
            sign_10 = register(sign_9, 1, f"sign_10_{j}")
            beyond_10 = register(beyond_9.any(), 1, f"beyond_10_{j}")
            code_10 = register(round_shift(value_9, 1), signed(_CODE_BITS), f"code_10_{j}")
            # Stage 11: the bounds.
            sign_11 = register(sign_10, 1, f"sign_11_{j}")
            beyond_11 = register(beyond_10, 1, f"beyond_11_{j}")
            code_11 = register(code_10[:8], 8, f"code_11_{j}")
            above_11 = register(less(high_10, code_10), 1, f"above_11_{j}")
            below_11 = register(less(code_10, low_10), 1, f"below_11_{j}")
            # Stage 12: what is beyond every bound is at the end that its sign says.
            above = inverted_11 | Mux(beyond_11, ~sign_11, above_11)
            below = Mux(beyond_11, sign_11, below_11)
            code_12 = register(Mux(above, high_11, Mux(below, low_11, code_11)), 8, f"code_12_{j}")
            if joined:
                code_12 = delay_line(m, code_12, len(joined), name=f"codes_{j}")
            m.d.comb += self.o[j].eq(code_12)
        return m
