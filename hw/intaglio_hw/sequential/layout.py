"""Where things lie in the scratchpad memory."""

from dataclasses import dataclass

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.primitives.single_port import SinglePortRam

__all__ = [
    "ENTRY_VECTORS",
    "STAGE_BEATS",
    "UNIT_COUNT",
    "UNIT_HEAD",
    "UNIT_PLACES",
    "UNIT_TOKENS",
    "WORDS",
    "Layout",
]

#: Words of an instruction, and of its entry in a queue (its index follows), in vectors.
WORDS = isa.INSTRUCTION_BYTES // 2
ENTRY_VECTORS = WORDS // 4 + 1
#: Beats that an unaligned load reads at a time.
STAGE_BEATS = 16
#: Words of a unit: see Layout.
UNIT_COUNT, UNIT_HEAD, UNIT_TOKENS = 0, 1, 2
UNIT_PLACES = UNIT_TOKENS + len(isa.UNITS)


@dataclass(frozen=True)
class Layout:
    """Where things lie in the scratchpad memory, as vectors; ``unit_words``: see ``units``.

    ``regions``: the first vector of each scratchpad; IFM is at 0, where the array reads it.
    ``units``: for each unit the words UNIT_COUNT (instructions in its queue), UNIT_HEAD (the place
    of the first of them), UNIT_TOKENS (tokens from each unit) and UNIT_PLACES (for each place the
    entry that it has). ``entries``: of instructions, one more than places. ``stage``: beats of a
    row that is not aligned, behind one place for the beat before them. ``vectors``: in the memory.
    """

    regions: dict[str, int]
    unit_words: int
    units: int
    entries: int
    stage: int
    vectors: int

    @staticmethod
    def of(config: AcceleratorConfig) -> "Layout":
        """Return the layout for ``config``; ValueError if its queues are too long."""
        regions, first = {}, 0
        for name in ("ifm", "wgt", "vec", "ofm", "prm"):
            regions[name] = first
            first += getattr(config, f"{name}_depth")
        units = len(isa.UNITS)
        unit_words = UNIT_PLACES + config.queue_depth
        assert units % 4 == 0
        entries = first + unit_words * units // 4
        stage = entries + (units * config.queue_depth + 1) * ENTRY_VECTORS
        try:
            vectors = SinglePortRam.depth_for(stage + 1 + STAGE_BEATS)
        except ValueError as error:
            raise ValueError(
                f"queue_depth is too large for the memory: {config.queue_depth}"
            ) from error
        return Layout(regions, unit_words, first, entries, stage, vectors)

    @property
    def address_bits(self) -> int:
        """Value of the bits of a vector's address."""
        return (self.vectors - 1).bit_length()
