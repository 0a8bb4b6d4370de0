"""``intaglio_hw.arith`` in both simulators."""

import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw import arith
from intaglio_sim.runner import run_bench


class ArithmeticProbe(wiring.Component):
    """Every function of ``intaglio_hw.arith`` between ports."""

    x: In(signed(8))
    u: In(unsigned(8))
    wide: In(signed(10))
    shift: In(unsigned(4))
    low: In(signed(8))
    high: In(signed(8))
    acc: In(signed(32))
    multiplier: In(signed(16))
    bias: In(signed(48))
    shift_48: In(unsigned(6))
    residual: In(signed(8))
    residual_shift: In(unsigned(6))
    rounded: Out(signed(9))
    rounded_3: Out(signed(9))
    rounded_u: Out(signed(10))
    saturated: Out(signed(8))
    code: Out(signed(8))
    wrapped_5: Out(signed(5))
    wrapped_11: Out(signed(11))
    requantized: Out(signed(8))

    def elaborate(self, platform) -> Module:
        m = Module()
        results = {
            "rounded": arith.round_shift(self.x, self.shift),
            "rounded_3": arith.round_shift(self.x, 3),
            "rounded_u": arith.round_shift(self.u, self.shift),
            "saturated": arith.saturate(self.x, self.low, self.high),
            "code": arith.saturate(self.wide),
            "wrapped_5": arith.wrap(self.x, 5),
            "wrapped_11": arith.wrap(self.x, 11),
            "requantized": arith.requantize(
                self.acc,
                self.multiplier,
                self.bias,
                self.shift_48,
                residual=self.residual,
                residual_shift=self.residual_shift,
                low=self.low,
                high=self.high,
            ),
        }
        for name, value in results.items():
            port = getattr(self, name)
            assert value.shape() == port.shape(), name  # no implicit width change
            m.d.comb += port.eq(value)
        return m


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_arith(simulator: str) -> None:
    result = run_bench(ArithmeticProbe(), "bench_arith", simulator=simulator)
    assert len(result.tests) == 4


def test_shift_must_be_unsigned() -> None:
    with pytest.raises(TypeError, match="shift must be unsigned"):
        arith.round_shift(Signal(signed(8)), Signal(signed(3)))
    with pytest.raises(TypeError, match="residual_shift must be unsigned"):
        arith.requantize(1, 1, 1, 0, residual_shift=Signal(signed(3)))


def test_wrap_needs_a_bit() -> None:
    with pytest.raises(ValueError, match="bits must be at least 1, not 0"):
        arith.wrap(Signal(signed(8)), 0)
