"""Memories with the timing of a block RAM and its output register."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from intaglio_hw.interfaces import READ_LATENCY, ReadPortSignature, WritePortSignature

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

    Members
    -------
    write
        The row is written at the end of the cycle; a read that presents its address in the next
        cycle sees it.
    read
        ``data`` is the row at the ``addr`` of LATENCY cycles ago. A row that is written in the very
        cycle in which its address is presented reads as anything.

    Rows are zero at power-up and survive a reset. This portable description is the door behind
    which a family's own primitives may stand.
    """

    LATENCY = READ_LATENCY

    def __init__(self, *, depth: int, width: int, granularity: int | None = None) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, not {depth}")
        self.depth, self.width = depth, width
        self.granularity = width if granularity is None else granularity
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
        # Without the attribute, synthesis spends a row of flip-flops and a multiplexer on the case
        # that a row is read and written at once; it is heard only with a read in logic and a
        # register.
        m.submodules.memory = memory = Memory(
            shape=self.width, depth=self.depth, init=[], attrs={"no_rw_check": 1}
        )
        write = memory.write_port(granularity=self.granularity)
        read = memory.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.write.addr),
            write.data.eq(self.write.data),
            write.en.eq(self.write.en),
            read.addr.eq(self.read.addr),
        ]
        # Stage 1: the block RAM. Stage 2: its output register.
        row = Signal(self.width, reset_less=True)
        output = Signal(self.width, reset_less=True)
        m.d.sync += [row.eq(read.data), output.eq(row)]
        m.d.comb += self.read.data.eq(output)
        return m
