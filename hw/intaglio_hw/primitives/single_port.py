"""A large memory with one port."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio_hw.primitives import ice40
from intaglio_hw.primitives.family import check_family

__all__ = ["SinglePortRam"]


#: Rows of the blocks that a small memory is made of: 256 x 16 bits, or 512 x 8.
_BLOCK_ROWS = 256
#: Rows of the largest small memory.
_MOST_SMALL_ROWS = 1024


class SinglePortRam(wiring.Component):
    """A memory that is read or written in a cycle.

    Parameters
    ----------
    width
        Bits in a row, a multiple of 16.
    depth
        Rows: LARGEST, which is single-port RAM where the family has it; or a multiple of 256 up to
        1,024, which is block RAM. Whole chips are full of either: the depth is what they hold.
    family
        One of :data:`~intaglio_hw.primitives.FAMILIES`.

    Members
    -------
    addr
        The row, below ``depth``.
    write_data, write_mask, write
        With ``write``, the bytes of ``write_mask`` are written at the end of the cycle.
    read_data
        The row at the ``addr`` of the cycle before; anything after a cycle that wrote.

    Rows survive a reset; at power-up they are undefined.
    """

    LARGEST = 1 << 14

    @classmethod
    def depth_for(cls, rows: int) -> int:
        """Return the least depth that holds ``rows``; ValueError if there is none."""
        if rows > cls.LARGEST:
            raise ValueError(f"rows must be at most {cls.LARGEST}, not {rows}")
        if rows > _MOST_SMALL_ROWS:
            return cls.LARGEST
        return -(-rows // _BLOCK_ROWS) * _BLOCK_ROWS

    def __init__(self, *, width: int, depth: int = LARGEST, family: str = "generic") -> None:
        if width % 16:
            raise ValueError(f"width must be a multiple of 16, not {width}")
        if depth < 1 or depth != self.depth_for(depth):
            raise ValueError(
                f"depth must be {self.LARGEST}, or a multiple of {_BLOCK_ROWS} up to "
                f"{_MOST_SMALL_ROWS}, not {depth}"
            )
        self.width, self.depth, self.family = width, depth, check_family(family)
        super().__init__(
            {
                "addr": In(range(depth)),
                "write_data": In(width),
                "write_mask": In(width // 8),
                "write": In(1),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if self.family == "ice40" and self.depth == self.LARGEST:
            ice40.single_port_ram(
                m,
                address=self.addr,
                write_data=self.write_data,
                write_mask=self.write_mask,
                write=self.write,
                read_data=self.read_data,
            )
            return m
        lower = 1 << (self.depth.bit_length() - 1)
        upper = self.depth - lower
        if not upper:
            m.d.comb += self.read_data.eq(self._bank(m, "memory", lower, self.write))
            return m
        # A row of block RAMs has a power of two of rows.
        assert upper & (upper - 1) == 0
        is_upper, was_upper = self.addr[-1], Signal(reset_less=True)
        rows = [
            self._bank(m, name, depth, self.write & mine)
            for name, depth, mine in (("lower", lower, ~is_upper), ("upper", upper, is_upper))
        ]
        m.d.sync += was_upper.eq(is_upper)
        m.d.comb += self.read_data.eq(Mux(was_upper, rows[1], rows[0]))
        return m

    def _bank(self, m: Module, name: str, depth: int, write_now: Value) -> Signal:
        """Add the memory of the rows below ``depth``; return the row of the cycle before."""
        m.submodules[name] = memory = Memory(
            shape=self.width, depth=depth, init=[], attrs={"no_rw_check": 1}
        )
        write, read = memory.write_port(granularity=8), memory.read_port(domain="comb")
        row = Signal(self.width, reset_less=True)
        m.d.comb += [
            write.addr.eq(self.addr),
            write.data.eq(self.write_data),
            write.en.eq(Mux(write_now, self.write_mask, 0)),
            read.addr.eq(self.addr),
        ]
        m.d.sync += row.eq(read.data)
        return row
