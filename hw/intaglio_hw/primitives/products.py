"""Multipliers of bytes and of words in the registers of a chip's blocks."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import ice40
from intaglio_hw.primitives.family import check_family

__all__ = ["ByteProducts", "WordProduct"]


class ByteProducts(wiring.Component):
    """Signed products of bytes, lane by lane.

    Parameters
    ----------
    lanes
        Products; even.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    a, b
        A byte for each lane.
    load
        High: the register of ``b`` moves; that of ``a`` moves in every cycle.
    products
        16 bits for each lane: ``a`` of LATENCY cycles ago times the ``b`` that was last loaded in
        that cycle or before.
    """

    LATENCY = 2

    def __init__(self, *, lanes: int, family: str = "generic") -> None:
        self.lanes, self.family = lanes, check_family(family)
        super().__init__(
            {
                "a": In(8 * lanes),
                "b": In(8 * lanes),
                "load": In(1),
                "products": Out(16 * lanes),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if self.family == "ice40":
            ice40.byte_products(m, a=self.a, b=self.b, load=self.load, products=self.products)
            return m
        a, b = Signal(8 * self.lanes, reset_less=True), Signal(8 * self.lanes, reset_less=True)
        m.d.sync += a.eq(self.a)
        with m.If(self.load):
            m.d.sync += b.eq(self.b)
        for lane in range(self.lanes):
            product = Signal(16, name=f"product_{lane}", reset_less=True)
            m.d.sync += product.eq(
                a.word_select(lane, 8).as_signed() * b.word_select(lane, 8).as_signed()
            )
            m.d.comb += self.products.word_select(lane, 16).eq(product)
        return m


class WordProduct(wiring.Component):
    """Product of two words of 16 bits.

    Parameters
    ----------
    a_signed, b_signed
        Whether the factors are.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    a, b
        The factors.
    enable
        High: all registers move.
    product
        With ``enable`` high for LATENCY cycles: ``a * b`` of the first of them. It stays while
        ``enable`` is low.
    """

    LATENCY = 2

    def __init__(self, *, a_signed: bool, b_signed: bool, family: str = "generic") -> None:
        self.a_signed, self.b_signed, self.family = a_signed, b_signed, check_family(family)
        super().__init__({"a": In(16), "b": In(16), "enable": In(1), "product": Out(32)})

    def elaborate(self, platform) -> Module:
        m = Module()
        if self.family == "ice40":
            ice40.word_product(
                m,
                a=self.a,
                b=self.b,
                a_signed=self.a_signed,
                b_signed=self.b_signed,
                enable=self.enable,
                product=self.product,
            )
            return m
        a, b = Signal(16, reset_less=True), Signal(16, reset_less=True)
        product = Signal(32, reset_less=True)
        with m.If(self.enable):
            m.d.sync += [
                a.eq(self.a),
                b.eq(self.b),
                product.eq(
                    (a.as_signed() if self.a_signed else a)
                    * (b.as_signed() if self.b_signed else b)
                ),
            ]
        m.d.comb += self.product.eq(product)
        return m
