"""A memory as block RAMs side by side.

The block RAMs of the ECP5, Nexus, Gowin's GW2A and Xilinx' chips have the same shape: 18 Kbit, rows
of 36 to 1 bits, addresses of 14 bits of which the lower ones select a part of the widest row, and
enables for bytes of nine bits. What differs is how a cell is connected.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Signal, Value

__all__ = [
    "ADDRESS_BITS",
    "BLOCK_BITS",
    "BYTES",
    "BYTE_BITS",
    "IN_BLOCKS",
    "Block",
    "blocks",
    "fits_blocks",
]

#: Rows of a block -> bits of a row. The ninth bit of a byte is not used in narrow blocks.
_SHAPES = {512: 36, 1024: 18, 2048: 9, 4096: 4, 8192: 2, 16384: 1}
#: Bits of a block's addresses, and of its widest row.
ADDRESS_BITS = 14
BLOCK_BITS = 36
#: Bits under one byte enable, and how many of them a row has.
_BYTE = BYTE_BITS = 9
BYTES = BLOCK_BITS // BYTE_BITS
#: Attributes of a memory that synthesis shall put into block RAM, however small it is. What is read
#: of a row in the cycle in which it is written is of no use.
IN_BLOCKS = {"ram_style": "block", "no_rw_check": 1}
#: A memory of up to this many rows is better off in the logic's RAM.
_SMALL_ROWS = 64


@dataclass(frozen=True)
class Block:
    """One block RAM of a memory.

    ``name``: of its cell. ``bits``: of its rows, 36, 18, 9, 4, 2 or 1. ``step``: bits of an address
    below those that select the row. ``enables``: one for each byte of nine bits in a row, one in a
    narrow block. ``data`` and ``output``: 36 bits, of which the lower ``bits`` are a row.
    """

    name: str
    bits: int
    step: int
    enables: list[Value]
    data: Value
    output: Signal


def fits_blocks(*, depth: int) -> bool:
    """Return whether block RAM is right for a memory and it needs no multiplexer behind blocks."""
    return _SMALL_ROWS < depth <= max(_SHAPES)


def blocks(
    m: Module, *, depth: int, granularity: int, write_data: Value, write_en: Value, read_data: Value
) -> Iterator[Block]:
    """Cut a memory into blocks; connects their outputs to ``read_data``."""
    rows = min(shape for shape in _SHAPES if shape >= depth)
    bits = _SHAPES[rows]
    # Bits of a row that a block holds, and what one enable covers in it.
    if granularity >= len(write_data):
        used, byte = bits, bits
    else:
        byte = max(size for size in range(1, min(bits, _BYTE) + 1) if granularity % size == 0)
        used = byte * max(1, bits // _BYTE)
    # Where each byte of the piece stands in the block.
    stride = bits if byte == bits else _BYTE
    for index, start in enumerate(range(0, len(write_data), used)):
        piece = write_data[start : start + used]
        count = -(-len(piece) // byte)
        inputs = Cat(
            Cat(part, Const(0, stride - len(part)))
            for part in (piece[byte * i : byte * i + byte] for i in range(count))
        )
        enables = [write_en[(start + byte * i) // granularity] for i in range(count)]
        if bits > _BYTE:
            if byte == bits:
                enables = enables * (bits // _BYTE)
            enables += [Const(0)] * (bits // _BYTE - len(enables))
        output = Signal(BLOCK_BITS, name=f"outputs_{index}")
        for i in range(count):
            first = start + byte * i
            last = min(first + byte, start + len(piece))
            m.d.comb += read_data[first:last].eq(output[stride * i :][: last - first])
        yield Block(
            name=f"block{index}",
            bits=bits,
            step=ADDRESS_BITS - (rows - 1).bit_length(),
            enables=enables,
            data=Cat(inputs, Const(0, BLOCK_BITS - len(inputs))),
            output=output,
        )
