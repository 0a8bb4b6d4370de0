"""From instructions with read and write sets to a program with tokens.

Hazards are found, not declared: whoever emits an instruction says which places it reads and writes,
and :class:`Schedule` derives which instructions of other units it has to wait for. Every edge
points backwards in program order and the queues are in order, so a scheduled program cannot
deadlock.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from intaglio.spec.isa import UNITS, Unit, encode_all

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


#: Index of the last instruction of each unit, -1 for none.
_Latest = tuple[int, ...]
_NONE: _Latest = (-1,) * len(UNITS)


class _Space:
    """Who wrote and who read last, as consecutive ranges from zero on."""

    def __init__(self) -> None:
        self._starts = [0]
        self._written: list[_Latest] = [_NONE]
        self._read: list[_Latest] = [_NONE]

    def read(self, start: int, stop: int, unit: Unit, index: int) -> _Latest:
        """Enter instruction ``index`` of ``unit`` as a reader of ``[start, stop)``; return the
        last writers.

        The range is one from then on. That is exact where one unit writes a space and one other
        reads it: the reader has waited for the last writer of all of it, and a unit finishes in
        order. Elsewhere a later reader of a part may wait for more than it must.
        """
        first, last = self._find(start, stop)
        written = _latest(self._written[first:last])
        read = list(_latest(self._read[first:last]))
        read[unit] = index
        self._replace(first, last, start, stop, written, tuple(read))
        return written

    def write(self, start: int, stop: int, unit: Unit, index: int) -> _Latest:
        """Enter instruction ``index`` of ``unit`` as the writer of ``[start, stop)``; return the
        last writers and readers.
        """
        first, last = self._find(start, stop)
        before = _latest(self._written[first:last] + self._read[first:last])
        written = (*_NONE[:unit], index, *_NONE[unit + 1 :])
        self._replace(first, last, start, stop, written, _NONE)
        return before

    def _find(self, start: int, stop: int) -> tuple[int, int]:
        """Return the ranges that overlap ``[start, stop)``, as the bounds of a slice."""
        return bisect.bisect_right(self._starts, start) - 1, bisect.bisect_left(self._starts, stop)

    def _replace(
        self, first: int, last: int, start: int, stop: int, written: _Latest, read: _Latest
    ) -> None:
        """Put one range in place of those, but for what of them lies outside of it."""
        starts, writers, readers = [start], [written], [read]
        if self._starts[first] < start:
            starts.insert(0, self._starts[first])
            writers.insert(0, self._written[first])
            readers.insert(0, self._read[first])
        if last == len(self._starts) or self._starts[last] > stop:
            starts.append(stop)
            writers.append(self._written[last - 1])
            readers.append(self._read[last - 1])
        self._starts[first:last] = starts
        self._written[first:last] = writers
        self._read[first:last] = readers


def _latest(found: list[_Latest]) -> _Latest:
    """Return the last index of each unit in ``found``, which is not empty."""
    return found[0] if len(found) == 1 else tuple(map(max, *found))


@dataclass
class _Record:
    name: str
    unit: Unit
    fields: dict[str, int]
    layer: str
    waits: dict[Unit, int]


class Schedule:
    """Collects instructions in program order and encodes them with tokens."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._spaces: defaultdict[str, _Space] = defaultdict(_Space)

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
        before = [
            self._spaces[place.space].read(place.start, place.stop, unit, index) for place in reads
        ]
        before += [
            self._spaces[place.space].write(place.start, place.stop, unit, index)
            for place in writes
        ]
        waits = {}
        for producer, last in zip(UNITS, _latest([_NONE, *before]), strict=True):
            if producer != unit and last >= 0:
                waits[producer] = last
        self._records.append(_Record(unit.name.lower(), unit, dict(fields), layer, waits))

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
