"""The blocks of a chip behind one door: each has a portable description and one per family.

A family's version uses the registers inside the block, which synthesis does not find by itself.
All versions of a block are equal in every cycle, whatever the inputs, but for what the contract
leaves open.
"""

from intaglio_hw.primitives.block_ram import BlockRam
from intaglio_hw.primitives.blocks import BYTE_BITS, BYTES, IN_BLOCKS
from intaglio_hw.primitives.delay_line import DelayLine, delay_line
from intaglio_hw.primitives.family import FAMILIES, check_family, is_lean
from intaglio_hw.primitives.multiplier import Multiplier

__all__ = [
    "BYTES",
    "BYTE_BITS",
    "FAMILIES",
    "IN_BLOCKS",
    "BlockRam",
    "DelayLine",
    "Multiplier",
    "check_family",
    "delay_line",
    "is_lean",
]
