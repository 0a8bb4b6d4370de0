"""Cycles of the array unit: plain integers that the RTL asserts and the cycle model uses."""

from collections.abc import Mapping
from dataclasses import dataclass

from intaglio.spec.arith import ceil_log2
from intaglio.spec.config import AcceleratorConfig

__all__ = ["ArrayCycles", "ArraySchedule", "ArrayTiming"]


@dataclass(frozen=True)
class ArrayTiming:
    """Timing of the array unit of ``config``; all values in cycles.

    A *pass* is one (block, kernel row, kernel column) of an instruction: ``P * Q`` pixels, one each
    cycle. An instruction that meets an idle unit and is accepted in cycle ``t`` issues its first
    pixel in cycle ``t + startup``, starts a pass every ``max(P * Q, min_pass)`` cycles, and pulses
    ``done`` ``drain`` cycles after it issued its last pixel: :meth:`latency` in all.
    :class:`ArraySchedule` covers instructions that overlap.
    """

    config: AcceleratorConfig

    #: Cycles in which the products of the strides and the tile width are formed, two bits a cycle.
    SETUP = 10
    #: From accepting an instruction to the first cycle in which set-up has finished.
    ACCEPT = 2
    #: From issuing a pixel to the vector in the first lane: position, address, scratchpad (2),
    #: pixel register. The weights need one less.
    FETCH = 5
    #: From a vector in a lane to its products.
    MULTIPLY = 3
    #: From an accumulator's address to the same address showing the new sum: address, read (2),
    #: operand, add (2).
    ACCUMULATE = 6

    @property
    def tree(self) -> int:
        """Value of the cycles from R products to their sum at the accumulator.

        One for each level of the adder tree, and one for the way: the tree lies at the multipliers,
        the accumulator at its memory.
        """
        return int(ceil_log2(self.config.R)) + 1

    @property
    def startup(self) -> int:
        """Value of the cycles from accepting an instruction, unit idle, to its first pixel."""
        return self.ACCEPT + max(self.config.K - 1, self.SETUP)

    @property
    def min_pass(self) -> int:
        """Value of the shortest pass: K weight vectors must arrive, and a sum be written."""
        return max(self.config.K, self.ACCUMULATE)

    @property
    def drain(self) -> int:
        """Value of the cycles from issuing a pixel to ``done``: the last lane's sum is readable."""
        # An accumulator is read when four of the multiplier's and tree's cycles are left.
        return self.FETCH + (self.MULTIPLY + self.tree - 4) + self.ACCUMULATE + self.config.K - 1

    def latency(self, fields: Mapping[str, int]) -> int:
        """Return the cycles from accepting an instruction to its ``done``, both units idle before
        it.

        ``startup + (passes - 1) * max(P * Q, min_pass) + (P * Q - 1) + drain``.
        """
        passes, pixels = self.work(fields)
        return self.startup + (passes - 1) * max(pixels, self.min_pass) + pixels - 1 + self.drain

    @staticmethod
    def work(fields: Mapping[str, int]) -> tuple[int, int]:
        """Return the passes of an ``array`` instruction and the pixels in each."""
        passes = fields["blocks"] * fields["kernel_h"] * fields["kernel_w"]
        return passes, fields["out_rows"] * fields["out_cols"]


@dataclass(frozen=True)
class ArrayCycles:
    """Cycles in which an instruction was accepted, issued its first and last pixel, was done."""

    accepted: int
    first: int
    last: int
    done: int


class ArraySchedule:
    """Exact cycles of a sequence of ``array`` instructions without errors.

    The unit sets up and fetches the first weights of the next instruction while it works on the
    current one; at most two instructions are accepted and not done (``IN_FLIGHT``).
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.timing = ArrayTiming(config)
        self._dones = [-1, -1]  # of the last two instructions
        self._first = 0  # cycle in which the previous one started
        self._last_pass = 0  # cycle in which it started its last pass
        self._free = 0  # first cycle in which another pass may start

    def issue(self, available: int, fields: Mapping[str, int]) -> ArrayCycles:
        """Return the cycles of the next instruction, offered from cycle ``available`` on."""
        timing = self.timing
        passes, pixels = timing.work(fields)
        accepted = max(available, self._first, self._dones[0] + 1)
        weights = max(accepted + timing.ACCEPT - 1, self._last_pass)
        first = max(weights + timing.config.K, accepted + timing.ACCEPT + timing.SETUP, self._free)
        last_pass = first + (passes - 1) * max(pixels, timing.min_pass)
        last = last_pass + pixels - 1
        self._first, self._last_pass = first, last_pass
        self._free = last_pass + max(pixels, timing.ACCUMULATE)
        self._dones = [self._dones[1], last + timing.drain]
        return ArrayCycles(accepted, first, last, last + timing.drain)
