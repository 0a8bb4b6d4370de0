"""The blocks of a chip behind one door: each has a portable description and one per family.

A family's version uses the registers inside the block, which synthesis does not find by itself.
All versions of a block are equal in every cycle, whatever the inputs, but for what the contract
leaves open.
"""

from intaglio_hw.primitives.block_ram import BlockRam
from intaglio_hw.primitives.family import FAMILIES, check_family
from intaglio_hw.primitives.multiplier import Multiplier

__all__ = ["FAMILIES", "BlockRam", "Multiplier", "check_family"]
