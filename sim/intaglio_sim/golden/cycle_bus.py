"""The read bus in the cycle model: beats from the memory to the fetch and the load unit.

Beat j of the bus, of whichever burst, obeys

    shown[j] = max(due, left[j-1] + 1, shown[j-1] + interval)    the memory shows one at a time
    left[j]  = max(shown[j], taken[j-2] + 1)                     the arbiter has two places
    taken[j] = max(wish[j], max(left[j], taken[j-1]) + 1)        when the reader takes it

where ``due`` belongs to the burst and ``wish`` to the reader. A reader that takes a beat whenever
one is there has no wish, and its beats have a closed form. Call a state *flowing* when ``left ==
shown`` and ``taken == left + 1``. As ``taken[j-1] <= taken[j] - 1 = shown[j]`` and ``interval >=
1``, the next beat has ``shown' = max(due, shown + interval)``, ``left' = shown'`` and ``taken' =
shown' + 1``: it is flowing again, and ``interval`` cycles later once ``due`` has passed. Beats that
do not flow yet, a few after a pause, are computed one by one.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.memory import OUTSTANDING
from intaglio_hw.axi import BOUNDARY_BYTES, AxiReadArbiter
from intaglio_sim.golden import places

__all__ = ["ReadBus", "RowShape", "bursts", "row_shape"]


class ReadBus:
    """Arbiter and memory: one grant in a cycle, beats in the order of the grants."""

    __slots__ = ("before", "granted", "interval", "latency", "left", "releases", "shown", "taken")

    def __init__(self, latency: int, interval: int) -> None:
        #: Cycles from a grant to the earliest first beat.
        self.latency = AxiReadArbiter.LATENCY + latency
        self.interval = interval
        self.granted = -1  # cycle of the last grant
        # Cycles from which the last bursts are no longer on their way.
        self.releases = deque([0] * OUTSTANDING, OUTSTANDING)
        # Of the last beat: when it was shown, left, was taken; and when the one before was taken.
        self.shown = self.left = self.taken = self.before = -1

    def earliest(self) -> int:
        """Return the first cycle in which another grant is possible."""
        return max(self.granted + 1, self.releases[0])

    def grant(self, cycle: int) -> int:
        """Grant a burst in ``cycle``; return from when on its first beat may be shown."""
        self.granted = cycle
        return cycle + self.latency

    def stream(self, beats: int, due: int, wish: int = 0) -> int:
        """Deliver a burst to a reader that takes every beat that is there, the first not before
        ``wish``; return when the last one is taken.
        """
        interval = self.interval
        shown, left, taken, before = self.shown, self.left, self.taken, self.before
        while beats and not (left == shown and taken == left + 1 and wish <= taken + 1):
            shown = max(due, left + 1, shown + interval)
            left = max(shown, before + 1)
            before, taken = taken, max(wish, left + 1, taken + 1)
            beats -= 1
        if beats:
            if beats > 1:
                shown = max(due, shown + interval) + (beats - 1) * interval
                before = shown + 1 - interval
            else:
                shown, before = max(due, shown + interval), taken
            left, taken = shown, shown + 1
        self.shown, self.left, self.taken, self.before = shown, left, taken, before
        self.releases.append(left + 1)
        return taken

    def pace(self, due: int, first: Sequence[int], last: Sequence[int], cycle: int, at: int) -> int:
        """Deliver a burst to a reader that goes from step to step, one in a cycle, and reached step
        ``at`` in ``cycle``: beat j is needed from step ``first[j]`` on and taken in step
        ``last[j]``. Return when the last one is taken.
        """
        interval = self.interval
        shown, left, taken, before = self.shown, self.left, self.taken, self.before
        for begin, end in zip(first, last, strict=True):
            shown = max(due, left + 1, shown + interval)
            left = max(shown, before + 1)
            cycle = max(cycle + begin - at, left + 1, taken + 1) + end - begin
            before, taken, at = taken, cycle, end
        self.shown, self.left, self.taken, self.before = shown, left, taken, before
        self.releases.append(left + 1)
        return taken


class RowShape(NamedTuple):
    """A row of ``load``: its beats and the steps in which the writing side uses them.

    ``dense``: after the first, each beat is taken in a step of its own. ``plain``: there are no
    other steps.
    """

    beats: int
    steps: int
    first: Sequence[int]  # step that first needs beat j
    last: Sequence[int]  # step that takes it
    dense: bool
    plain: bool


@lru_cache(maxsize=4096)
def _row_shape(R: int, vectors: int, step: int, lead: int, used: int, head: int) -> RowShape:
    beats = -(-(head + used) // R) if used else 0
    ahead = lead - head
    skip = ahead < 0
    before = max(ahead, 0) // R
    shift = R - 1 - ahead % R
    # Beats passed before vector i; a skipped beat is a step of its own.
    passed = (shift + np.arange(vectors, dtype=np.int64) * step) // R + skip
    needs = passed - before
    if skip:
        needs = np.concatenate([[0], needs])
    first = np.searchsorted(needs, np.arange(beats))
    last = np.minimum(np.searchsorted(needs, np.arange(beats), "right") - 1, len(needs) - 1)
    last = np.maximum(last, first)
    dense = bool((first == last).all() and (np.diff(first) <= 1).all())
    plain = dense and beats == len(needs) and first[0] == 0 and last[-1] == beats - 1
    return RowShape(beats, len(needs), tuple(first.tolist()), tuple(last.tolist()), dense, plain)


def row_shape(config: AcceleratorConfig, fields: Mapping[str, int], head: int) -> RowShape:
    """Return the shape of a row of ``load`` whose first byte is byte ``head`` of its first beat."""
    used = places.used_bytes(config, fields)
    return _row_shape(
        config.R, fields["vectors"], fields["vector_step"], fields["lead"], used, head
    )


def bursts(config: AcceleratorConfig, address: int, beats: int) -> list[int]:
    """Return the beats of each burst of a row that starts at byte ``address``."""
    page = BOUNDARY_BYTES // config.R
    at, sizes = address // config.R, []
    while beats:
        size = min(beats, config.burst_beats, page - at % page)
        sizes.append(size)
        at, beats = at + size, beats - size
    return sizes
