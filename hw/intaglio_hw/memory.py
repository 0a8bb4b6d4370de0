"""Memories with the timing of a block RAM and its output register."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from intaglio_hw.interfaces import READ_LATENCY, ReadPortSignature, WritePortSignature
from intaglio_hw.primitives import BlockRam, check_family

__all__ = ["Scratchpad"]


class Scratchpad(wiring.Component):
    """A memory with one write port and one read port.

    Parameters
    ----------
    depth
        Rows, a power of two.
    width
        Bits in a row.
    granularity
        Bits that one bit of ``write.en`` writes; the whole row by default.
    family
        Whose block RAM (:mod:`intaglio_hw.primitives`).

    Members
    -------
    write
        The row is written at the end of the cycle; a read that presents its address in the next
        cycle sees it.
    read
        ``data`` is the row at the ``addr`` of LATENCY cycles ago. A row that is written in the very
        cycle in which its address is presented reads as anything.

    Rows are zero at power-up and survive a reset.
    """

    LATENCY = READ_LATENCY

    def __init__(
        self, *, depth: int, width: int, granularity: int | None = None, family: str = "generic"
    ) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, not {depth}")
        self.depth, self.width = depth, width
        self.granularity = width if granularity is None else granularity
        self.family = check_family(family)
        super().__init__(
            {
                "write": In(
                    WritePortSignature(depth=depth, width=width, granularity=self.granularity)
                ),
                "read": In(ReadPortSignature(depth=depth, width=width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = BlockRam(
            depth=self.depth, width=self.width, granularity=self.granularity, family=self.family
        )
        assert ram.LATENCY == self.LATENCY
        m.d.comb += [
            ram.write_addr.eq(self.write.addr),
            ram.write_data.eq(self.write.data),
            ram.write_en.eq(self.write.en),
            ram.read_addr.eq(self.read.addr),
            self.read.data.eq(ram.read_data),
        ]
        return m
