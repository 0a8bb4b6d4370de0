"""Places codes in the lanes of an OFM vector."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import WritePortSignature
from intaglio_hw.vector.beats import bits_for

__all__ = ["OutputWriter"]


class OutputWriter(wiring.Component):
    """Write L codes, or one, to lanes of OFM; the other lanes keep their bytes. LATENCY = 1.

    Members
    -------
    codes, valid, addr
        What to write, when, where.
    lane
        First lane, a multiple of L unless ``single``.
    single
        Write the code of lane 0 alone.
    ofm
        Write port of OFM, with byte enables, from registers.
    """

    LATENCY = 1

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        port = WritePortSignature(depth=config.ofm_depth, width=8 * config.R, granularity=8)
        super().__init__(
            {
                "codes": In(data.ArrayLayout(signed(8), config.drain_lanes)),
                "valid": In(1),
                "addr": In(port.members["addr"].shape),
                "lane": In(bits_for(config.R)),
                "single": In(1),
                "ofm": Out(port),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        R, L = self.config.R, self.config.drain_lanes
        low = L.bit_length() - 1  # bits of a lane inside a group
        enable = Signal(R)
        for n in range(R):
            in_group = (self.lane[low:] == n >> low) if L < R else 1
            in_lane = (~self.single | (self.lane[:low] == n % L)) if L > 1 else 1
            m.d.comb += enable[n].eq(self.valid & in_group & in_lane)
            code = Mux(self.single, self.codes[0], self.codes[n % L])
            m.d.sync += self.ofm.data[8 * n : 8 * n + 8].eq(code)
        m.d.sync += [self.ofm.addr.eq(self.addr), self.ofm.en.eq(enable)]
        return m
