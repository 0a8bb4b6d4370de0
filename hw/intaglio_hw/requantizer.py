"""The requantiser: the one way out of an accumulator, one vector of ``lanes`` values per cycle."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.arith import RESIDUAL_SHIFT_MAX, SHIFT_MAX, SUM_BITS
from intaglio_hw.arith import round_shift, saturate
from intaglio_hw.primitives import Multiplier

__all__ = ["Requantizer", "requantizer_layout"]

# A product of 32 x 16 bits is the sum of two that an 18 x 18 multiplier holds: the low half has 17
# bits, unsigned.
_SPLIT = 17
# acc * m lies in +-2**46, b in +-2**47, residual << 39 in +-2**46: their sum in +-2**48.
_TOTAL_BITS = SUM_BITS + 1
# After the shift: a code, the bit that rounds, and a bit of headroom. What does not fit is beyond
# every bound.
_CODE_BITS = 10
# The shift is done in digits of base 4 and then 16: bits that can still matter after each.
_AFTER_COARSE = _CODE_BITS + 15
_AFTER_MIDDLE = _CODE_BITS + 3
# Bits that are compared with the sign in one table or two.
_GROUP = 8


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


class Requantizer(wiring.Component):
    """Requantise vectors.

    Per lane ``saturate(round_shift(value * m + b + (residual << r), s), low, high)``.

    Exact for all inputs with ``residual_shift`` <= RESIDUAL_SHIFT_MAX and ``shift`` <= SHIFT_MAX:
    no sum inside wraps. Other shifts give an undefined code and do no harm.

    Latency LATENCY cycles from transfer to ``o.valid``, throughput one vector per cycle. The whole
    pipeline moves when ``o.ready | ~o.valid``: while the output waits, everything is held and
    ``i.ready`` is low. ``i.ready`` follows ``o.ready`` in the same cycle.

    Parameters
    ----------
    lanes
        Values in a vector, L.
    family
        Whose multiplier blocks (:mod:`intaglio_hw.primitives`).

    Members
    -------
    i
        Stream of :func:`requantizer_layout`.
    o
        Stream of L codes, int8.
    """

    LATENCY = 10

    def __init__(self, *, lanes: int, family: str = "generic") -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes}")
        self.lanes, self.family = lanes, family
        super().__init__(
            {
                "i": In(stream.Signature(requantizer_layout(lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(signed(8), lanes))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        move = Signal()
        m.d.comb += [move.eq(self.o.ready | ~self.o.valid), self.i.ready.eq(move)]

        def register(value, shape, name):
            """A register without reset that moves with the pipeline."""
            result = Signal(shape, name=name, reset_less=True)
            moves.append(result.eq(value))
            return result

        def delay(value, shape, stages, name):
            for stage in range(stages):
                value = register(value, shape, f"{name}_{stage}")
            return value

        moves: list = []
        payload = self.i.payload
        valid = Signal(self.LATENCY)
        moves.append(valid.eq(Cat(self.i.valid, valid[:-1])))
        m.d.comb += self.o.valid.eq(valid[-1])

        # What is common to the lanes travels along, to the stage that uses it.
        residual_shift_0 = register(payload.residual_shift, unsigned(6), "residual_shift_0")
        residual_shift_1 = register(residual_shift_0[3:], unsigned(3), "residual_shift_1")
        shift_4 = delay(payload.shift, unsigned(6), 5, "shift")
        shift_5 = register(shift_4[:4], unsigned(4), "shift_5")
        shift_6 = register(shift_5[:2], unsigned(2), "shift_6")
        low_8 = delay(payload.low, signed(8), 9, "low")
        high_8 = delay(payload.high, signed(8), 9, "high")

        for j in range(self.lanes):
            # Stage 0: the operands; those of the multipliers are registered in them.
            residual_0 = register(payload.residual[j], signed(8), f"residual_{j}")
            bias_2 = delay(payload.bias[j], signed(SUM_BITS), 3, f"bias_{j}")

            # Stages 0 to 2: two products; beside them the residual is shifted by r % 8, then r // 8
            # * 8.
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
                    block.enable.eq(move),
                    block.load.eq(move),
                ]
                products.append(block.product)
            low_2, high_2 = products
            residual_1 = register(residual_0 << residual_shift_0[:3], signed(15), f"residual_1_{j}")
            places = Array(residual_1 << 8 * n for n in range(RESIDUAL_SHIFT_MAX // 8 + 1))
            residual_2 = register(places[residual_shift_1], signed(47), f"residual_2_{j}")

            # Stage 3: the product, and bias + residual beside it. The low bits of the product need
            # no adder.
            upper = Signal(signed(31), name=f"upper_{j}")
            m.d.comb += upper.eq(low_2[_SPLIT:].as_signed() + high_2)
            product_3 = register(
                Cat(low_2[:_SPLIT], upper).as_signed(), signed(48), f"product_3_{j}"
            )
            addend_3 = register(bias_2 + residual_2, signed(_TOTAL_BITS), f"addend_3_{j}")

            # Stage 4: the sum. A zero below it keeps the bit that rounds through the shifts.
            total_4 = register(product_3 + addend_3, signed(_TOTAL_BITS), f"total_4_{j}")
            doubled = Cat(Const(0, 1), total_4).as_signed()  # 50 bits

            # Stages 5 to 7: shift by s // 16 * 16, s // 4 % 4 * 4, s % 4; each drops bits that can
            # no longer be part of a code, after noting whether they differ from the sign.
            value, beyond, sign = doubled, Const(0, 0), doubled[-1]
            for stage, step, digit, width in (
                (5, 16, shift_4[4:], _AFTER_COARSE),
                (6, 4, shift_5[2:], _AFTER_MIDDLE),
                (7, 1, shift_6, _CODE_BITS),
            ):
                counts = range(min(3, SHIFT_MAX // step) + 1)
                shifted = Signal(signed(len(value)), name=f"shifted_{stage}_{j}")
                m.d.comb += shifted.eq(Array(value >> n * step for n in counts)[digit])
                # For each shift beside it, not behind it, and a few bits at a time.
                differ = [beyond.any()]
                for n in counts:
                    for low in range(n * step + width - 1, len(value) - 1, _GROUP):
                        rest = value[low : min(low + _GROUP, len(value) - 1)]
                        differ.append((digit == n) & (rest != sign.replicate(len(rest))))
                beyond = register(Cat(differ), len(differ), f"beyond_{stage}_{j}")
                sign = register(sign, 1, f"sign_{stage}_{j}")
                value = register(shifted[:width].as_signed(), signed(width), f"value_{stage}_{j}")

            # Stage 8: what is beyond goes to the end of the range, then the rounding of the last
            # bit.
            end = Cat(~sign.replicate(_CODE_BITS - 1), sign).as_signed()
            code_8 = register(
                round_shift(Mux(beyond.any(), end, value), 1), signed(_CODE_BITS), f"code_8_{j}"
            )
            # Stage 9: the bounds.
            code_9 = register(saturate(code_8, low_8, high_8), signed(8), f"code_9_{j}")
            m.d.comb += self.o.payload[j].eq(code_9)

        with m.If(move):
            m.d.sync += moves
        return m
