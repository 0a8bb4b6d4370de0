"""A large memory with one port."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import ice40
from intaglio_hw.primitives.family import check_family

__all__ = ["SinglePortRam"]


class SinglePortRam(wiring.Component):
    """A memory that is read or written in a cycle.

    Parameters
    ----------
    width
        Bits in a row, a multiple of 16. There are DEPTH rows.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    addr
        The row.
    write_data, write_mask, write
        With ``write``, the bytes of ``write_mask`` are written at the end of the cycle.
    read_data
        The row at the ``addr`` of the cycle before; anything after a cycle that wrote.

    Rows survive a reset; at power-up they are undefined.
    """

    DEPTH = 1 << 14

    def __init__(self, *, width: int, family: str = "generic") -> None:
        if width % 16:
            raise ValueError(f"width must be a multiple of 16, not {width}")
        self.width, self.family = width, check_family(family)
        super().__init__(
            {
                "addr": In(range(self.DEPTH)),
                "write_data": In(width),
                "write_mask": In(width // 8),
                "write": In(1),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if self.family == "ice40":
            ice40.single_port_ram(
                m,
                address=self.addr,
                write_data=self.write_data,
                write_mask=self.write_mask,
                write=self.write,
                read_data=self.read_data,
            )
            return m
        m.submodules.memory = memory = Memory(
            shape=self.width, depth=self.DEPTH, init=[], attrs={"no_rw_check": 1}
        )
        write, read = memory.write_port(granularity=8), memory.read_port(domain="comb")
        row = Signal(self.width, reset_less=True)
        m.d.comb += [
            write.addr.eq(self.addr),
            write.data.eq(self.write_data),
            write.en.eq(Mux(self.write, self.write_mask, 0)),
            read.addr.eq(self.addr),
            self.read_data.eq(row),
        ]
        m.d.sync += row.eq(read.data)
        return m
