"""A multiplexer of which one input comes late."""

from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import ice40
from intaglio_hw.primitives.family import check_family

__all__ = ["LateMux"]


class LateMux(wiring.Component):
    """``output`` is ``late`` where ``select`` is set, otherwise ``early``.

    Where synthesis does not know what comes out of a carry chain late (iCE40), it may put tables
    behind this one; there the cell stands as it is.

    Parameters
    ----------
    width
        Of the words.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.
    """

    def __init__(self, *, width: int, family: str = "generic") -> None:
        self.width, self.family = width, check_family(family)
        super().__init__(
            {"select": In(1), "late": In(width), "early": In(width), "output": Out(width)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if self.family == "ice40":
            ice40.late_mux(
                m, select=self.select, late=self.late, early=self.early, output=self.output
            )
        else:
            m.d.comb += self.output.eq(Mux(self.select, self.late, self.early))
        return m
