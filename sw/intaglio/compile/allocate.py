"""Places in memory and in the scratchpads."""

from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

from intaglio.compile.schedule import Place

__all__ = ["MemoryImage", "Ring", "align"]

#: Alignment of everything in memory, bytes: an instruction, and at least one vector.
ALIGNMENT = 64


def align(size: int, alignment: int = ALIGNMENT) -> int:
    """Return ``size`` rounded up to a multiple of ``alignment``."""
    return -(-size // alignment) * alignment


class MemoryImage:
    """The memory: regions are never reused, so that every value can be read after the run."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, np.ndarray]] = []
        self._size = 0

    def reserve(self, nbytes: int) -> int:
        """Return the address of ``nbytes`` new zero bytes."""
        address = self._size
        self._size += align(nbytes)
        return address

    def put(self, data: np.ndarray) -> int:
        """Return the address of a copy of ``data``."""
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        address = self.reserve(len(data))
        self._parts.append((address, data))
        return address

    def finish(self, granularity: int = 4096) -> np.ndarray:
        """Return all bytes, the size rounded up to ``granularity``."""
        memory = np.zeros(align(max(self._size, 1), granularity), np.uint8)
        for address, data in self._parts:
            memory[address : address + len(data)] = data
        return memory


class Ring:
    """A scratchpad that is filled in a circle and remembers what it still holds.

    Overwriting is safe at any time: the schedule makes the writer wait for the readers of what was
    there. So two allocations that fit together give double buffering, and an entry that was not
    overwritten need not be loaded again. A piece takes at least one place in ``PIECES`` of the
    depth, which bounds the tokens that wait for pieces to be overwritten.
    """

    #: Most pieces at a time.
    PIECES = 64

    def __init__(self, space: str, depth: int, granularity: int = 1) -> None:
        self.space = space
        self.depth = depth
        self._granularity = granularity
        self._next = 0
        self._entries: OrderedDict[Hashable, Place] = OrderedDict()

    def find(self, key: Hashable) -> Place | None:
        """Return where ``key`` lies, or None when it was overwritten or never there."""
        return self._entries.get(key)

    def open_slot(self, slot: int) -> None:
        """Go on where the next ``slot`` places begin, at a multiple of ``slot``.

        Pieces of different sizes that go into slots of one size alternate without overlapping, and
        what is put into one slot stays together.
        """
        start = align(self._next, slot)
        self._next = 0 if start + slot > self.depth else start

    def allocate(self, size: int, key: Hashable = None) -> Place:
        """Return ``size`` consecutive places, forgetting the entries that they overwrite."""
        if not 0 < size <= self.depth:
            raise ValueError(f"{self.space} has {self.depth} places, not {size}")
        start = align(self._next, self._granularity)
        if start + size > self.depth:
            start = 0
        place = Place(self.space, start, start + size)
        self._next = start + max(size, self.depth // self.PIECES)
        for other, taken in list(self._entries.items()):
            if taken.start < place.stop and place.start < taken.stop:
                del self._entries[other]
        if key is not None:
            self._entries[key] = place
        return place
