"""From instructions with read and write sets to a program with tokens.

Hazards are found, not declared: whoever emits an instruction says which places it reads and writes,
and :class:`Schedule` derives which instructions of other units it has to wait for. Every edge
points backwards in program order and the queues are in order, so a scheduled program cannot
deadlock.
"""

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from intaglio.spec.isa import Unit, encode_all

__all__ = ["TOKENS", "Place", "Schedule"]

#: Signals from one unit to another that may be ahead of their waits in program order: half of what
#: a token counter holds, since units run ahead of it.
TOKENS = 128


@dataclass(frozen=True)
class Place:
    """The half-open range ``[start, stop)`` of ``space``: "MEM" (bytes), "ACC" (banks) or a
    scratchpad (its addresses).
    """

    space: str
    start: int
    stop: int


@dataclass
class _Segment:
    """A range whose last writer and readers since are the same throughout."""

    start: int
    stop: int
    writers: tuple[int, ...] = ()
    readers: tuple[int, ...] = ()


@dataclass
class _Space:
    """Who touched what, as sorted disjoint segments."""

    segments: list[_Segment] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of the segments

    def overlapping(self, start: int, stop: int) -> list[_Segment]:
        """Split at the borders, fill the gaps, and return the segments of ``[start, stop)``."""
        self._split(start)
        self._split(stop)
        first = bisect.bisect_left(self.starts, start)
        result, at, cursor = [], first, start
        while cursor < stop:
            if at == len(self.segments) or self.segments[at].start > cursor:
                end = stop if at == len(self.segments) else min(stop, self.segments[at].start)
                self.segments.insert(at, _Segment(cursor, end))
                self.starts.insert(at, cursor)
            result.append(self.segments[at])
            cursor = self.segments[at].stop
            at += 1
        return result

    def replace(self, start: int, stop: int, segment: _Segment) -> None:
        """Put ``segment`` in place of all that lies in ``[start, stop)``; the borders exist
        already.
        """
        first = bisect.bisect_left(self.starts, start)
        last = bisect.bisect_left(self.starts, stop)
        self.segments[first:last] = [segment]
        self.starts[first:last] = [start]

    def _split(self, position: int) -> None:
        at = bisect.bisect_right(self.starts, position) - 1
        if at >= 0 and self.segments[at].start < position < self.segments[at].stop:
            old = self.segments[at]
            self.segments[at : at + 1] = [
                _Segment(old.start, position, old.writers, old.readers),
                _Segment(position, old.stop, old.writers, old.readers),
            ]
            self.starts.insert(at + 1, position)


@dataclass
class _Record:
    name: str
    unit: Unit
    fields: dict[str, int]
    layer: str
    waits: dict[Unit, int] = field(default_factory=dict)


class Schedule:
    """Collects instructions in program order and encodes them with tokens."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._spaces: dict[str, _Space] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(
        self,
        unit: Unit,
        fields: Mapping[str, int],
        *,
        reads: Iterable[Place],
        writes: Iterable[Place],
        layer: str,
    ) -> None:
        """Append an instruction of ``unit`` that reads and writes the given places."""
        index = len(self._records)
        record = _Record(unit.name.lower(), unit, dict(fields), layer)
        for place in reads:
            for segment in self._space(place).overlapping(place.start, place.stop):
                self._depend(record, segment.writers)
                # A later reader of the same unit covers the earlier one: a unit finishes in order.
                others = tuple(r for r in segment.readers if self._records[r].unit != unit)
                segment.readers = (*others, index)
        for place in writes:
            space = self._space(place)
            for segment in space.overlapping(place.start, place.stop):
                self._depend(record, segment.writers)
                self._depend(record, segment.readers)
            space.replace(place.start, place.stop, _Segment(place.start, place.stop, (index,)))
        self._records.append(record)

    def _space(self, place: Place) -> _Space:
        return self._spaces.setdefault(place.space, _Space())

    def _depend(self, record: _Record, producers: tuple[int, ...]) -> None:
        for producer in producers:
            if producer == len(self._records):
                continue  # its own read of what it now writes
            unit = self._records[producer].unit
            if unit != record.unit:
                record.waits[unit] = max(record.waits.get(unit, -1), producer)

    def encode(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the instructions, ``end`` included, as uint8, and the layer of each.

        A wait that an earlier wait of the same unit covers is dropped; what remains pairs the n-th
        signal with the n-th wait.
        """
        pairs: dict[tuple[Unit, Unit], list[tuple[int, int]]] = {}
        for index, record in enumerate(self._records):
            for unit, producer in record.waits.items():
                taken = pairs.setdefault((unit, record.unit), [])
                if not taken or producer > taken[-1][0]:
                    taken.append((producer, index))
                    _merge(taken)
        signals = [0] * len(self._records)
        waits = [0] * len(self._records)
        for (unit, consumer), taken in pairs.items():
            for producer, index in taken:
                signals[producer] |= 1 << consumer
                waits[index] |= 1 << unit
        code = encode_all(
            [*(record.name for record in self._records), "end"],
            [*(record.fields for record in self._records), {}],
            [*waits, 0],
            [*signals, 0],
        )
        return code, (*(record.layer for record in self._records), "")


def _merge(pairs: list[tuple[int, int]]) -> None:
    """Keep fewer than ``TOKENS`` signals ahead of their waits, by halving those that are.

    ``pairs``: (producer, consumer) in order. Two neighbours become one, in which the first consumer
    waits for the second producer: when so many are pending, that one lies before it.
    """
    if len(pairs) <= TOKENS or pairs[-TOKENS][1] < pairs[-1][0]:
        return
    pending = pairs[-TOKENS:]
    pairs[-TOKENS:] = [
        (second[0], first[1]) for first, second in zip(pending[::2], pending[1::2], strict=True)
    ]
