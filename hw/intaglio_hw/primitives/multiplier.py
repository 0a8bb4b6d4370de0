"""A multiplier block with all of its registers."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import ecp5, gowin, ice40, nexus, xilinx
from intaglio_hw.primitives.family import check_family

__all__ = ["Multiplier"]


class Multiplier(wiring.Component):
    """Signed product with registers at the inputs, in the middle and at the output.

    Parameters
    ----------
    a_width, b_width
        Bits of the factors, at most 18 each.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    a, b
        The factors.
    enable
        High: the registers of ``a``, in the middle and at the output move.
    load
        High: the register of ``b`` moves.
    product
        With ``enable`` high: ``a`` of LATENCY cycles ago times the ``b`` that was last loaded in
        that cycle or before. Registers are not reset and undefined until they have moved.
    """

    LATENCY = 3
    MAX_WIDTH = 18

    def __init__(self, *, a_width: int, b_width: int, family: str = "generic") -> None:
        for name, width in (("a_width", a_width), ("b_width", b_width)):
            if not 1 <= width <= self.MAX_WIDTH:
                raise ValueError(f"{name} must be in [1, {self.MAX_WIDTH}], not {width}")
        self.family = check_family(family)
        super().__init__(
            {
                "a": In(signed(a_width)),
                "b": In(signed(b_width)),
                "enable": In(1, init=1),
                "load": In(1, init=1),
                "product": Out(signed(a_width + b_width)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        ports = {"a": self.a, "enable": self.enable, "product": self.product}
        if self.family == "ecp5":
            ecp5.multiplier(m, b=self.b, load=self.load, **ports)
            return m
        if self.family in ("xc7", "xcup"):
            generation = 1 if self.family == "xc7" else 2
            xilinx.multiplier(m, b=self.b, load=self.load, generation=generation, **ports)
            return m

        # Stage 1: the factors. Stages 2 and 3: behind the multiplier.
        b = Signal(self.b.shape(), reset_less=True)
        with m.If(self.load):
            m.d.sync += b.eq(self.b)
        if self.family == "gowin":
            gowin.multiplier(m, b=b, **ports)
            return m
        if self.family == "nexus":
            nexus.multiplier(m, b=b, **ports)
            return m
        if self.family == "ice40" and max(len(self.a), len(self.b)) <= ice40.MAX_WIDTH:
            ice40.multiplier(m, b=b, **ports)
            return m
        a = Signal(self.a.shape(), reset_less=True)
        inner = Signal(self.product.shape(), reset_less=True)
        product = Signal(self.product.shape(), reset_less=True)
        with m.If(self.enable):
            m.d.sync += [a.eq(self.a), inner.eq(a * b), product.eq(inner)]
        m.d.comb += self.product.eq(product)
        return m
