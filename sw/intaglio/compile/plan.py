"""The search for a convolution's plan: tile shape, parts of the reduction, loop order, what stays.

Every plan that fits the scratchpads is costed by the cycles that each unit and each direction of
the bus would need if nothing else stood in the way; they overlap, so the busiest one is what the
plan takes. Durations of instructions come from :mod:`intaglio.spec.timing` and
:mod:`intaglio.spec.timing_vector`, as in the cycle model.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np

from intaglio.compile.allocate import Ring
from intaglio.compile.tile import Span, divisions, split, strided_span, window_span
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import INSTRUCTION_BYTES, Function
from intaglio.spec.memory import OUTSTANDING
from intaglio.spec.program import Placement
from intaglio.spec.timing import ArrayTiming
from intaglio.spec.timing_vector import vector_interval

__all__ = ["Layer", "Part", "Phase", "Plan", "Search", "Taps"]

#: Cycles of the bus that a row of a transfer costs beside its beats, and a load beside its rows.
_ROW_CYCLES, _LOAD_CYCLES = 2, 6
#: Cycles from a load to its first beat, beside the latency of the memory.
_BUS_CYCLES = 16
#: Loads that ask for their bursts at the same time.
_LOADS_AHEAD = 2
#: Vectors of weights that one load brings for several array blocks, at most: few enough that the
#: first of them do not keep the array waiting for long.
_CHUNK_VECTORS = 512


@dataclass(frozen=True)
class Taps:
    """One phase as the array sees it.

    ``weight`` is int8 (output lanes, channel blocks, rows, columns, R); ``before`` is the padding
    before the first row and column. ``pixels`` neighbouring pixels share one vector of a dense
    image.
    """

    weight: np.ndarray
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    pixels: int = 1

    @property
    def blocks(self) -> int:
        """Value of the channel blocks."""
        return self.weight.shape[1]

    @property
    def kernel(self) -> tuple[int, int]:
        """Value of the kernel's rows and columns."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def passes(self) -> int:
        """Value of the passes over the pixels of a tile."""
        return self.blocks * self.kernel[0] * self.kernel[1]

    def extent(self, axis: int, count: int) -> int:
        """Return the source positions that ``count`` outputs span."""
        return (count - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def rows(self, size: int, first: int, count: int, row: int, rows: int) -> Span:
        """Return the source rows that ``count`` output rows need for ``rows`` kernel rows.

        A single kernel row needs one source row for each output row: the others stay in memory.
        """
        before = self.before[0] - row * self.dilation[0]
        if rows == 1:
            return strided_span(size, first, count, stride=self.stride[0], before=before)
        return window_span(
            size,
            first,
            count,
            kernel=rows,
            stride=self.stride[0],
            dilation=self.dilation[0],
            before=before,
        )

    def columns(self, size: int, first: int, count: int) -> Span:
        """Return the source columns that ``count`` output columns need."""
        return window_span(
            size,
            first,
            count,
            kernel=self.kernel[1],
            stride=self.stride[1],
            dilation=self.dilation[1],
            before=self.before[1],
        )


@dataclass(frozen=True)
class Part:
    """A part of the reduction: (first, count) of channel blocks and of kernel rows."""

    block: int
    blocks: int
    row: int
    rows: int


@dataclass(frozen=True)
class Phase:
    """The outputs of one phase in a tile: for rows and columns, the first output of the phase's own
    convolution, how many there are, and where the first lies in the tile.
    """

    first: tuple[int, int]
    count: tuple[int, int]
    at: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """What is the same for all tiles of a layer.

    Output position ``up * j + key - crop`` is output ``j`` of phase ``key``. ``lanes``: output
    lanes, whole array blocks. ``fields``: of the drain.
    """

    source: Placement
    target: Placement
    residual: Placement | None
    phases: Mapping[tuple[int, int], Taps]
    up: tuple[int, int]
    crop: tuple[int, int]
    lanes: int
    fields: Mapping[str, int]
    pad_code: int

    def axis_phase(self, axis: int, key: int, start: int, size: int) -> tuple[int, int, int] | None:
        """Return (first, count, at) of phase ``key`` along one axis of a tile, None if there are
        none.
        """
        begin = start + self.crop[axis]  # positions of the full output before cropping
        at = (key - begin) % self.up[axis]
        if at >= size:
            return None
        return (begin + at) // self.up[axis], (size - at - 1) // self.up[axis] + 1, at

    def phase(self, key: tuple[int, int], tile: tuple[int, int, int, int]) -> Phase | None:
        """Return the outputs of phase ``key`` in ``tile`` (row, rows, column, columns)."""
        axes = [self.axis_phase(a, key[a], tile[2 * a], tile[2 * a + 1]) for a in (0, 1)]
        if axes[0] is None or axes[1] is None:
            return None
        return Phase(*zip(*axes, strict=True))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Plan:
    """How a layer is cut.

    Parameters
    ----------
    rows, cols
        Of an output tile.
    blocks, kernel_rows
        Most channel blocks and kernel rows in one array instruction.
    slot
        Vectors of IFM that the source of one instruction takes at most.
    weights_outer
        Whether the tiles are the inner loop and the output channels the outer one.
    resident
        Vectors of IFM in which all of a tile's source stays while the output channels go by, 0 when
        it does not.
    chunk
        Array blocks whose weights one load brings; 1 when the reduction has several parts.
    """

    rows: int
    cols: int
    blocks: int
    kernel_rows: int
    slot: int
    weights_outer: bool
    resident: int
    chunk: int

    def weight_vectors(self, taps: Taps, lanes: int) -> int:
        """Return the vectors of WGT that one load of weights takes at most, ``lanes`` = K."""
        return (
            self.chunk
            * max(part.blocks * part.rows for part in self.parts(taps))
            * (taps.kernel[1] * lanes)
        )

    def parts(self, taps: Taps) -> list[Part]:
        """Return the parts of the reduction of one phase."""
        return [
            Part(block, blocks, row, rows)
            for block, blocks in split(taps.blocks, self.blocks)
            for row, rows in split(taps.kernel[0], min(self.kernel_rows, taps.kernel[0]))
        ]


@dataclass(frozen=True)
class _Axis:
    """One axis of an output cut into tiles: how often each phase has which count, how many tiles
    there are, the source positions that all tiles load (each span once, although several phases
    need it), those of the tile that loads the most, and of the largest span.
    """

    counts: Mapping[int, Counter[int]]
    tiles: int
    source: int
    tile: int
    span: int


class Search:
    """Finds the plan of ``layer`` on ``config``.

    ``latency``, ``interval``: cycles of the memory from a request to its first beat, and from beat
    to beat in each direction.
    """

    def __init__(
        self, config: AcceleratorConfig, layer: Layer, latency: int, interval: int
    ) -> None:
        self._config, self._layer, self._interval = config, layer, interval
        self._round_trip = latency + _BUS_CYCLES
        self._timing = ArrayTiming(config)
        self._axis = cache(self._find_axis)
        # Output vectors of R lanes that an array block fills.
        self._planes = max(1, config.K // config.R)
        self._array_blocks = layer.lanes // config.K
        self._groups = -(-layer.target.blocks(config.R) // self._planes)

    def best(self) -> Plan | None:
        """Return the plan of the least cost, None when nothing fits; double buffering first."""
        for divisor in (2, 1):
            plans = list(self._plans(divisor))
            if plans:
                return min(plans, key=self.cost)
        return None

    # What fits.

    def _plans(self, divisor: int) -> Iterator[Plan]:
        """Yield the plans whose tiles take at most one part in ``divisor`` of each scratchpad."""
        config, layer = self._config, self._layer
        _, height, width = layer.target.shape
        most = config.ofm_depth // self._planes
        if layer.residual:
            most = min(most, config.vec_depth // self._planes)
        for cols in divisions(width):
            for rows in divisions(height):
                counts = -(-rows // layer.up[0]) * -(-cols // layer.up[1])
                if counts > config.acc_depth or rows * cols > most // divisor:
                    continue
                for kernel_rows in sorted({self._kernel[0], 1}, reverse=True):
                    blocks, slot, resident = self._blocks(rows, cols, kernel_rows, divisor)
                    if not blocks:
                        continue
                    chunk = self._chunk(blocks, kernel_rows)
                    for weights_outer in (False, True)[: self._groups]:
                        yield Plan(
                            rows, cols, blocks, kernel_rows, slot, weights_outer, resident, chunk
                        )

    @cached_property
    def _kernel(self) -> tuple[int, int]:
        """Value of the largest kernel of a phase."""
        sides = [taps.kernel for taps in self._layer.phases.values()]
        return max(side[0] for side in sides), max(side[1] for side in sides)

    @cached_property
    def _blocks_in(self) -> int:
        return next(iter(self._layer.phases.values())).blocks

    def _blocks(self, rows: int, cols: int, kernel_rows: int, divisor: int) -> tuple[int, int, int]:
        """Return the most channel blocks that fit, 0 for none, the vectors that their source takes,
        and those of a tile's whole source, 0 when they cannot stay.
        """
        config = self._config
        row_axis, col_axis = self._axis(0, rows, kernel_rows), self._axis(1, cols, 0)
        plane = row_axis.span * col_axis.span
        weights = kernel_rows * self._kernel[1] * config.K
        blocks = min(
            self._blocks_in,
            config.ifm_depth // divisor // plane,
            config.wgt_depth // divisor // weights,
        )
        if blocks == 0:
            return 0, 0, 0
        # Nearly equal parts, as Plan.parts makes them.
        parts = -(-self._blocks_in // blocks)
        blocks = -(-self._blocks_in // parts)
        slot = blocks * plane
        spans = -(-row_axis.tile // row_axis.span) * -(-col_axis.tile // col_axis.span)
        if spans == 1:
            source = parts * max(slot, config.ifm_depth // Ring.PIECES)
        else:
            # Parts of different sizes lie in one slot together.
            smallest = spans * parts * config.ifm_depth // Ring.PIECES
            source = max(self._blocks_in * row_axis.tile * col_axis.tile, smallest)
            slot = 1 if source <= config.ifm_depth else slot
        return blocks, slot, source if source <= config.ifm_depth else 0

    def _chunk(self, blocks: int, kernel_rows: int) -> int:
        """Return the array blocks whose weights one load can bring."""
        if blocks < self._blocks_in or kernel_rows < self._kernel[0]:
            return 1
        phases = self._layer.phases.values()
        vectors = sum(taps.passes for taps in phases) * self._config.K
        return max(1, min(self._config.wgt_depth // 4, _CHUNK_VECTORS) // vectors)

    # What it costs.

    def _find_axis(self, axis: int, tile: int, kernel_rows: int) -> _Axis:
        """Return one axis of the output cut into tiles of at most ``tile``."""
        layer = self._layer
        size, length = layer.source.shape[1 + axis], layer.target.shape[1 + axis]
        counts: dict[int, Counter[int]] = {key[axis]: Counter() for key in layer.phases}
        source = most = largest = number = 0
        representative = {key[axis]: taps for key, taps in layer.phases.items()}
        for start, extent in split(length, tile):
            number += 1
            spans: set[range] = set()
            for key, taps in representative.items():
                found = layer.axis_phase(axis, key, start, extent)
                if found is None:
                    continue
                first, count, _ = found
                counts[key][count] += 1
                if axis == 0:
                    spans |= {
                        taps.rows(size, first, count, row, rows).positions
                        for row, rows in split(taps.kernel[0], min(kernel_rows, taps.kernel[0]))
                    }
                elif layer.source.layout == "dense":
                    spans.add(range(taps.extent(1, count)))
                else:
                    spans.add(taps.columns(size, first, count).positions)
            sizes = [len(span) for span in spans]
            source += sum(sizes)
            most = max(most, sum(sizes))
            largest = max(largest, *sizes)
        return _Axis(counts, number, source, most, largest)

    def cost(self, plan: Plan) -> int:
        """Return the cycles of the layer: of the busiest unit, and what nothing hides."""
        config = self._config
        array, vector, instructions = self._computing(plan)
        loads, load_count, exposed = self._loading(plan, array)
        stores, store_count = self._storing(plan)
        instructions += load_count + store_count
        # The program comes over the same bus.
        loads += instructions * (INSTRUCTION_BYTES // config.R) * self._interval
        busiest = max(array + exposed, vector, stores, loads)
        # Among equals, fewer bytes and instructions.
        return busiest + loads // 32 + instructions // 8

    def _axes(self, plan: Plan) -> tuple[_Axis, _Axis]:
        return self._axis(0, plan.rows, plan.kernel_rows), self._axis(1, plan.cols, 0)

    def _computing(self, plan: Plan) -> tuple[int, int, int]:
        """Return the cycles of the array, those of the vector unit, and their instructions."""
        config, layer = self._config, self._layer
        rows, cols = self._axes(plan)
        array = vector = instructions = 0
        chunks = min(config.K, layer.target.blocks(config.R) * config.R) // config.drain_lanes
        for key, taps in layer.phases.items():
            parts = len(plan.parts(taps))
            passes = -(-taps.passes // parts)
            for (p, times_p), (q, times_q) in product(
                rows.counts[key[0]].items(), cols.counts[key[1]].items()
            ):
                times = times_p * times_q * self._array_blocks
                array += times * parts * self._array_cycles(passes, p * q)
                fields = {"function": Function.DRAIN, "chunks": chunks, "uniform": 0}
                fields |= {"out_rows": p, "out_cols": q}
                vector += times * vector_interval(config, fields)
                instructions += times * (1 + parts)
        return array, vector, instructions

    def _loading(self, plan: Plan, array: int) -> tuple[int, int, int]:
        """Return the cycles of the load unit, its instructions, and the cycles in which the array
        waits for it although it has time enough, when the array itself takes ``array``.
        """
        config, layer, interval = self._config, self._layer, self._interval
        trip = self._round_trip
        rows, cols = self._axes(plan)
        tile_count = rows.tiles * cols.tiles
        parts = max(len(plan.parts(taps)) for taps in layer.phases.values())
        # The source, once for each ...
        if not plan.resident:
            visits = self._array_blocks
        elif plan.weights_outer and tile_count * plan.resident > config.ifm_depth:
            visits = self._groups
        else:
            visits = 1
        source = rows.source * cols.source * self._blocks_in
        contiguous = self._whole_rows(plan) and layer.source.layout == "blocks"
        source_rows = self._blocks_in * (rows.tiles if contiguous else rows.source) * cols.tiles
        cycles, loads = self._transfer(source * visits, source_rows * visits), tile_count * parts
        loads *= visits
        # The weights, for each tile unless they stay.
        weights = self._array_blocks * config.K
        weights *= sum(taps.passes for taps in layer.phases.values())
        together = weights // self._groups if plan.weights_outer else weights
        times = 1 if together <= config.wgt_depth else tile_count
        weight_loads = times * -(-self._array_blocks // plan.chunk) * parts * len(layer.phases)
        cycles, loads = cycles + self._transfer(times * weights, weight_loads), loads + weight_loads
        # Multipliers and biases, and the residual.
        pairs = layer.lanes // config.params_per_vector
        cycles += pairs * (1 if layer.lanes <= config.prm_depth else tile_count) * interval
        if layer.residual:
            vectors, residual_rows, tiles = self._output(plan)
            cycles, loads = cycles + self._transfer(vectors, residual_rows), loads + tiles
        cycles += loads * _LOAD_CYCLES
        # Small loads wait for the memory rather than for the bus.
        cycles = max(cycles, (cycles + loads * trip) // _LOADS_AHEAD)
        # At first there is nothing to compute with.
        exposed = trip + source // (tile_count * parts) * interval
        if plan.resident > config.ifm_depth // 2:
            # A new tile takes the place of the one before, part by part, while the last output
            # channels go by.
            last = array // (tile_count * self._array_blocks)
            tile = source // tile_count * interval
            late = max(tile // parts, tile - last * (parts - 1) // parts)
            exposed += tile_count * visits * (trip + late)
        if plan.weights_outer and config.wgt_depth // 2 < together <= config.wgt_depth:
            exposed += self._groups * trip + weights * interval
        return cycles, loads, exposed

    def _storing(self, plan: Plan) -> tuple[int, int]:
        """Return the cycles of the store unit and its instructions."""
        vectors, row_count, tiles = self._output(plan)
        return self._transfer(vectors, row_count), tiles

    def _transfer(self, beats: int, row_count: int) -> int:
        """Return the cycles in which ``beats`` go over the bus in rows of one size: so many bursts
        are on their way that the memory's latency is hidden, unless the rows are short.
        """
        if not row_count:
            return 0
        transferring = beats * self._interval
        bursts = row_count * -(-beats // (row_count * self._config.burst_beats))
        waiting = (transferring + bursts * self._round_trip) // OUTSTANDING
        return max(transferring + row_count * _ROW_CYCLES, waiting)

    def _output(self, plan: Plan) -> tuple[int, int, int]:
        """Return the vectors, the rows and the tiles of the output, all channels."""
        rows, cols = self._axes(plan)
        _, height, width = self._layer.target.shape
        tiles = rows.tiles * cols.tiles * self._groups
        tile_rows = 1 if self._whole_rows(plan) else plan.rows
        vectors = self._groups * self._planes * height * width
        return vectors, tiles * self._planes * tile_rows, tiles

    def _whole_rows(self, plan: Plan) -> bool:
        """Return whether a tile's rows follow each other in memory."""
        return plan.cols == self._layer.target.shape[2]

    def _array_cycles(self, passes: int, pixels: int) -> int:
        """Return the cycles of an instruction among its like: two are in flight."""
        timing = self._timing
        work = passes * max(pixels, timing.min_pass)
        return max(work, (timing.startup + work + timing.drain + 2) // 2)
