"""A memory of block RAMs with their output registers."""

from collections.abc import Callable, Mapping
from functools import partial

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import ecp5, gowin, nexus, xilinx
from intaglio_hw.primitives.blocks import blocks, fits_blocks
from intaglio_hw.primitives.family import check_family

__all__ = ["BlockRam"]

#: Family -> what adds one of its block RAMs; the portable description suits the others best.
_ADD: Mapping[str, Callable[..., None]] = {
    "ecp5": ecp5.add_block,
    "gowin": gowin.add_block,
    "nexus": nexus.add_block,
    "xc7": partial(xilinx.add_block, generation=1),
    "xcup": partial(xilinx.add_block, generation=2),
}


class BlockRam(wiring.Component):
    """A memory with one write port and one read port.

    Parameters
    ----------
    depth
        Rows, a power of two of at least 2.
    width
        Bits in a row.
    granularity
        Bits that one bit of ``write_en`` writes; the whole row by default.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    write_addr, write_data, write_en
        Written at the end of the cycle; a read that presents its address in the next cycle sees it.
    read_addr, read_data
        ``read_data`` is the row at the ``read_addr`` of LATENCY cycles ago. A row that is written
        in the very cycle in which its address is presented reads as anything.

    Rows are zero at power-up and survive a reset.
    """

    LATENCY = 2

    def __init__(
        self, *, depth: int, width: int, granularity: int | None = None, family: str = "generic"
    ) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, not {depth}")
        granularity = width if granularity is None else granularity
        if width % granularity:
            raise ValueError(f"granularity must divide the width {width}, not {granularity}")
        self.depth, self.width, self.granularity = depth, width, granularity
        self.family = check_family(family)
        address = (depth - 1).bit_length()
        super().__init__(
            {
                "write_addr": In(address),
                "write_data": In(width),
                "write_en": In(width // granularity),
                "read_addr": In(address),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if self.family in _ADD and fits_blocks(depth=self.depth):
            for block in blocks(
                m,
                depth=self.depth,
                granularity=self.granularity,
                write_data=self.write_data,
                write_en=self.write_en,
                read_data=self.read_data,
            ):
                _ADD[self.family](m, block, write_addr=self.write_addr, read_addr=self.read_addr)
            return m
        # Without the attribute, synthesis spends a row of flip-flops and a multiplexer on the case
        # that a row is read and written at once; it is heard only with a read in logic and a
        # register.
        m.submodules.memory = memory = Memory(
            shape=self.width, depth=self.depth, init=[], attrs={"no_rw_check": 1}
        )
        write = memory.write_port(granularity=self.granularity)
        read = memory.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data),
            write.en.eq(self.write_en),
            read.addr.eq(self.read_addr),
        ]
        # Stage 1: the block RAM. Stage 2: its output register.
        row = Signal(self.width, reset_less=True)
        output = Signal(self.width, reset_less=True)
        m.d.sync += [row.eq(read.data), output.eq(row)]
        m.d.comb += self.read_data.eq(output)
        return m
