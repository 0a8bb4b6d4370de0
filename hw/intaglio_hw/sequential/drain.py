"""The drain datapath: requantises accumulators, one after the other, and writes their codes."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.arith import SUM_BITS
from intaglio_hw.sequential.interface import Port

__all__ = ["DrainPass"]

_WORD = 16
_CODE = 8
#: Bits that a step of the shifter takes, if that many are left.
_STRIDE = 8


class DrainPass(wiring.Component):
    """Requantises accumulators without a residual: ``saturate(round_shift(acc * m + b, s))``.

    The ports of the engine say what is done (:class:`~intaglio_hw.sequential.interface.Port`);
    ``QGO`` starts it. For each accumulator it takes 9 cycles and those of the shift, which is done
    in steps of 8 bits and of one; the next product is formed meanwhile.

    Members
    -------
    port, value, write
        As the engine has them.
    busy
        From the cycle after the start until the last code is written.
    multiply
        The products of the accumulator and ``factor`` shall be formed.
    factor
        The multiplier.
    low, high
        Products, from the second cycle after the first ``multiply`` on: of the accumulator's low
        half, unsigned, and of its high half, signed.
    take
        The accumulator has been used.
    code, write_code
        A result to be written.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "port": In(6),
                "value": In(_WORD),
                "write": In(1),
                "busy": Out(1),
                "multiply": Out(1),
                "factor": Out(_WORD),
                "low": In(signed(2 * _WORD)),
                "high": In(signed(2 * _WORD)),
                "take": Out(1),
                "code": Out(_CODE),
                "write_code": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()

        def given(port: Port):
            return self.write & (self.port == port)

        def parameter(width: int, *ports: Port) -> Signal:
            result = Signal(width, name=ports[0].name.lower(), reset_less=True)
            for index, port in enumerate(ports):
                with m.If(given(port)):
                    m.d.sync += result[_WORD * index :][:_WORD].eq(self.value)
            return result

        bias = parameter(SUM_BITS, Port.QB0, Port.QB1, Port.QB2)
        shift = parameter(6, Port.QS)
        low, high = parameter(_CODE, Port.QLOW), parameter(_CODE, Port.QHIGH)
        m.d.comb += self.factor.eq(parameter(_WORD, Port.QM))
        left = Signal(_CODE, reset_less=True)  # accumulators after this one
        last = Signal()
        m.d.sync += last.eq(left == 0)

        # The sum in three steps: the lowest word of the bias and the low product; their upper
        # words; those and the high product.
        upper_bits = SUM_BITS - _WORD
        lowest, carry = Signal(_WORD, reset_less=True), Signal(reset_less=True)
        upper = Signal(signed(upper_bits), reset_less=True)
        highest = Signal(upper_bits, reset_less=True)
        m.d.sync += [
            upper.eq(bias[_WORD:].as_signed() + (self.low >> _WORD) + carry),
            highest.eq(upper + self.high),
        ]
        total = Signal(signed(SUM_BITS), reset_less=True)
        # What is shifted out last rounds.
        to_shift = Signal(6, reset_less=True)
        half = Signal(reset_less=True)
        # Two bits more than a code: as far as a sum that is not too large can be rounded.
        rounded = Signal(signed(_CODE + 2), reset_less=True)
        # Of the sum of the cycle before: it does not change when the shift is done.
        fits = Signal(reset_less=True)
        near = Signal.like(rounded)
        m.d.sync += [
            fits.eq(total[_CODE:].all() | ~total[_CODE:].any()),
            near.eq(total[: _CODE + 1].as_signed() + half),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(given(Port.QGO)):
                    m.d.sync += [left.eq(self.value), self.busy.eq(1)]
                    m.next = "FACTORS"
            with m.State("FACTORS"):
                m.d.comb += [self.multiply.eq(1), self.take.eq(1)]
                m.next = "PRODUCTS"
            with m.State("PRODUCTS"):
                m.d.comb += self.multiply.eq(1)
                m.next = "LOWEST"
            with m.State("LOWEST"):
                m.d.sync += Cat(lowest, carry).eq(bias[:_WORD] + self.low[:_WORD])
                m.next = "LOW"
            with m.State("LOW"):
                m.next = "HIGH"
            with m.State("HIGH"):
                m.next = "SUM"
            with m.State("SUM"):
                m.d.sync += [total.eq(Cat(lowest, highest)), to_shift.eq(shift), half.eq(0)]
                m.next = "SHIFT"
            with m.State("SHIFT"):
                with m.If(to_shift >= _STRIDE):
                    m.d.sync += [
                        total.eq(total >> _STRIDE),
                        half.eq(total[_STRIDE - 1]),
                        to_shift.eq(to_shift - _STRIDE),
                    ]
                with m.Elif(to_shift != 0):
                    m.d.sync += [total.eq(total >> 1), half.eq(total[0]), to_shift.eq(to_shift - 1)]
                with m.Else():
                    m.next = "ROUND"
            with m.State("ROUND"):
                # The next accumulator meets its multiplier.
                m.d.comb += self.multiply.eq(1)
                m.d.sync += rounded.eq(Mux(fits, near, Mux(total[-1], -512, 511)))
                m.next = "LIMIT"
            with m.State("LIMIT"):
                m.d.comb += self.multiply.eq(1)
                with m.If(rounded < low.as_signed()):
                    m.d.sync += rounded.eq(low.as_signed())
                m.next = "CODE"
            with m.State("CODE"):
                m.d.sync += [
                    self.code.eq(Mux(rounded > high.as_signed(), high, rounded[:_CODE])),
                    self.write_code.eq(1),
                ]
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.sync += [self.write_code.eq(0), left.eq(left - 1)]
                m.next = "LOWEST"
                with m.If(last):
                    m.d.sync += self.busy.eq(0)
                    m.next = "IDLE"
                with m.Else():
                    m.d.comb += self.take.eq(1)
        return m
