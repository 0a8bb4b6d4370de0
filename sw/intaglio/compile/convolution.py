"""Convolutions and transposed convolutions on the array.

Both are a set of *phases*: ordinary convolutions, each of which makes the output positions ``(up *
j + phase)``. A convolution has one phase, a transposed one ``stride`` x ``stride`` of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from intaglio.compile.emitter import LEAD_MAX, Emitter, parameter_pairs
from intaglio.compile.schedule import Place
from intaglio.compile.tile import Span, divisions, split, tiles, window_span
from intaglio.spec.graph import Node
from intaglio.spec.isa import Buffer, Function, Unit
from intaglio.spec.program import Placement

__all__ = ["ConvolutionLowering"]

#: Cycles that an array instruction costs beside its passes, for the search only.
_INSTRUCTION_CYCLES = 40


@dataclass(frozen=True)
class _Taps:
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

    def extent(self, axis: int, count: int) -> int:
        """Return the source positions that ``count`` outputs span."""
        return (count - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1


@dataclass(frozen=True)
class _Part:
    """A part of the reduction: (first, count) of channel blocks and of kernel rows."""

    block: int
    blocks: int
    row: int
    rows: int


@dataclass(frozen=True)
class _Phase:
    """The outputs of one phase in a tile: for rows and columns, the first output of the phase's own
    convolution, how
    many there are, and where the first lies in the tile.
    """

    first: tuple[int, int]
    count: tuple[int, int]
    at: tuple[int, int]


@dataclass(frozen=True)
class _Layer:
    """What is the same for all tiles of a layer."""

    source: Placement
    target: Placement
    residual: Placement | None
    phases: Mapping[tuple[int, int], _Taps]
    up: tuple[int, int]
    crop: tuple[int, int]
    lanes: int
    fields: Mapping[str, int]
    pad_code: int

    def phase(self, key: tuple[int, int], tile: tuple[int, int, int, int]) -> _Phase | None:
        """Return the outputs of phase ``key`` in ``tile`` (row, rows, column, columns), None if
        there are none.
        """
        first, count, at = [], [], []
        for axis in (0, 1):
            start, size = tile[2 * axis], tile[2 * axis + 1]
            # Positions of the full output before cropping.
            begin = start + self.crop[axis]
            offset = (key[axis] - begin) % self.up[axis]
            if offset >= size:
                return None
            first.append((begin + offset) // self.up[axis])
            count.append((size - offset - 1) // self.up[axis] + 1)
            at.append(offset)
        return _Phase((first[0], first[1]), (count[0], count[1]), (at[0], at[1]))


@dataclass(frozen=True)
class _Plan:
    """How a layer is cut."""

    rows: int
    cols: int
    blocks: int
    kernel_rows: int
    weights_outer: bool


class ConvolutionLowering:
    """Emits convolutions: :meth:`conv` and :meth:`conv_transpose`."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit

    def conv(self, node: Node) -> None:
        """Emit a convolution, with its residual if it has one."""
        emit, attributes = self._emit, node.attributes
        source, target = emit.values[node.inputs[0]], emit.values[node.output]
        emit.check_sides(
            kernel=max(node.tensors["weight"].shape[2:]),
            stride=max(attributes["stride"]),
            dilation=max(attributes["dilation"]),
        )
        residual = None
        if len(node.inputs) == 2:
            residual = emit.values[node.inputs[1]]
            if residual.layout != "blocks" or residual.lanes != target.lanes:
                raise emit.refuse(
                    f"the residual {residual.name!r} must have the same channels as the output"
                )
        outputs = self._output_lanes(target)
        make = self._image_taps if source.layout == "dense" else self._block_taps
        self._layer(
            node,
            _Layer(
                source=source,
                target=target,
                residual=residual,
                phases={(0, 0): make(node, source, outputs)},
                up=(1, 1),
                crop=(0, 0),
                lanes=len(outputs),
                fields={key: attributes[key] for key in ("shift", "low", "high")}
                | {"res_shift": attributes["residual_shift"]},
                pad_code=attributes["pad_code"],
            ),
            outputs,
        )

    def conv_transpose(self, node: Node) -> None:
        """Emit a transposed convolution, phase by phase."""
        emit, attributes = self._emit, node.attributes
        source, target = emit.values[node.inputs[0]], emit.values[node.output]
        if source.layout != "blocks":
            raise emit.refuse("a transposed convolution of the image itself is not supported")
        stride = attributes["stride"]
        emit.check_sides(kernel=max(node.tensors["weight"].shape[2:]), stride=max(stride))
        outputs = self._output_lanes(target)
        weight = node.tensors["weight"].transpose(1, 0, 2, 3)  # (K, C, R, S)
        phases = {}
        for r in range(stride[0]):
            for s in range(stride[1]):
                # Output stride * j + phase sums input j - a over the taps phase + stride * a: with
                # the taps reversed, a convolution that starts kernel - 1 positions before j.
                part = weight[:, :, r :: stride[0], s :: stride[1]][:, :, ::-1, ::-1]
                if 0 in part.shape:
                    part = np.zeros((*weight.shape[:2], 1, 1), np.int8)  # no tap: only the bias
                spread = self._spread(part, outputs, self._input_lanes(source))
                before = (part.shape[2] - 1, part.shape[3] - 1)
                phases[r, s] = _Taps(spread, (1, 1), (1, 1), before)
        self._layer(
            node,
            _Layer(
                source=source,
                target=target,
                residual=None,
                phases=phases,
                up=stride,
                crop=attributes["padding"][:2],
                lanes=len(outputs),
                fields={key: attributes[key] for key in ("shift", "low", "high")},
                pad_code=0,
            ),
            outputs,
        )

    # Weights.

    def _input_lanes(self, value: Placement) -> np.ndarray:
        """Return for each lane of each block the channel it holds, -1 for none: (blocks, R)."""
        vector = self._emit.config.R
        lanes = np.full(value.blocks(vector) * vector, -1)
        lanes[list(value.lanes)] = np.arange(len(value.lanes))
        return lanes.reshape(-1, vector)

    def _output_lanes(self, value: Placement) -> np.ndarray:
        """Return the channel of each output lane, padded to whole array blocks, -1 for none."""
        lanes = self._input_lanes(value).reshape(-1)
        return np.pad(lanes, (0, -len(lanes) % self._emit.config.K), constant_values=-1)

    @staticmethod
    def _spread(weight: np.ndarray, outputs: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Return ``weight`` (K, C, R, S) as (output lanes, blocks, R, S, lanes), zero where no
        channel is.
        """
        padded = np.pad(weight, ((0, 1), (0, 1), (0, 0), (0, 0)))  # index -1 is the zero row
        return padded[outputs][:, inputs].transpose(0, 1, 3, 4, 2)

    def _block_taps(self, node: Node, source: Placement, outputs: np.ndarray) -> _Taps:
        attributes = node.attributes
        return _Taps(
            self._spread(node.tensors["weight"], outputs, self._input_lanes(source)),
            attributes["stride"],
            attributes["dilation"],
            attributes["padding"][:2],
        )

    def _image_taps(self, node: Node, source: Placement, outputs: np.ndarray) -> _Taps:
        """Return the first layer packed by taps: a vector holds as many neighbouring pixels as fit.

        The load unit makes the overlapping vectors; kernel columns s, s + 1, ... share one vector,
        and the array's kernel has ``ceil(S / pixels)`` columns that lie ``pixels`` apart.
        """
        attributes, vector = node.attributes, self._emit.config.R
        channels = source.shape[0]
        if channels > vector:
            raise self._emit.refuse(
                f"the image must have at most R = {vector} channels, not {channels}"
            )
        weight = np.pad(node.tensors["weight"], ((0, 1), (0, 0), (0, 0), (0, 0)))[outputs]
        lanes, _, kernel_h, kernel_w = weight.shape
        pixels = min(vector // channels, kernel_w) if attributes["dilation"][1] == 1 else 1
        packed = np.zeros((lanes, 1, kernel_h, -(-kernel_w // pixels), vector), np.int8)
        for s in range(kernel_w):
            at = s % pixels * channels
            packed[:, 0, :, s // pixels, at : at + channels] = weight[:, :, :, s].transpose(0, 2, 1)
        return _Taps(
            packed,
            attributes["stride"],
            (attributes["dilation"][0], attributes["dilation"][1] * pixels),
            attributes["padding"][:2],
            pixels,
        )

    # The search for a plan.

    def _plans(self, layer: _Layer) -> Iterator[_Plan]:
        """Yield the largest plan for each tile shape that fits the machine."""
        config = self._emit.config
        planes = max(1, config.K // config.R)
        _, height, width = layer.target.shape
        for divisor in (2, 1):
            found = False
            for cols in divisions(width):
                for rows in divisions(height):
                    part = self._part(layer, rows, cols, divisor)
                    if part is None or planes * rows * cols > config.ofm_depth // divisor:
                        continue
                    if layer.residual and planes * rows * cols > config.vec_depth // divisor:
                        continue
                    found = True
                    for weights_outer in (False, True):
                        yield _Plan(rows, cols, *part, weights_outer)
                    break  # fewer rows only add halo
            if found:
                return

    def _part(self, layer: _Layer, rows: int, cols: int, divisor: int) -> tuple[int, int] | None:
        """Return the most channel blocks and kernel rows that fit a tile; None if nothing does."""
        config = self._emit.config
        ifm, wgt = config.ifm_depth // divisor, config.wgt_depth // divisor
        _, height, width = layer.source.shape
        counts = -(-rows // layer.up[0]), -(-cols // layer.up[1])
        if counts[0] * counts[1] > config.acc_depth:
            return None
        best = None
        for taps in layer.phases.values():
            source_cols = taps.extent(1, counts[1])
            if taps.pixels == 1 and layer.source.layout == "blocks":
                source_cols = min(source_cols, width)
            for kernel_rows in range(taps.kernel[0], 0, -1):
                span = (counts[0] - 1) * taps.stride[0] + (kernel_rows - 1) * taps.dilation[0] + 1
                source = min(span, height) * source_cols
                weights = kernel_rows * taps.kernel[1] * config.K
                if source <= ifm and weights <= wgt:
                    blocks = min(taps.blocks, ifm // source, wgt // weights)
                    part = (blocks, kernel_rows)
                    best = part if best is None else min(best, part)
                    break
            else:
                return None
        return best

    def _cost(self, layer: _Layer, plan: _Plan) -> int:
        """Return an estimate of the cycles: the busier of array and load."""
        config = self._emit.config
        _, height, width = layer.target.shape
        array_blocks = layer.lanes // config.K
        array = loads = 0
        tile_list = list(tiles(height, width, plan.rows, plan.cols))
        weights = sum(taps.weight.size for taps in layer.phases.values()) // config.R
        group_weights = weights // array_blocks * max(1, config.R // config.K)
        ifm_tiles = 0
        parts = 1
        for tile in tile_list:
            for key, taps in layer.phases.items():
                phase = layer.phase(key, tile)
                if phase is None:
                    continue
                passes = taps.blocks * taps.kernel[0] * taps.kernel[1]
                pixels = max(phase.count[0] * phase.count[1], config.K + 8)
                parts = -(-taps.blocks // plan.blocks) * -(-taps.kernel[0] // plan.kernel_rows)
                array += array_blocks * (passes * pixels + parts * _INSTRUCTION_CYCLES)
                ifm_tiles += (
                    taps.blocks * taps.extent(0, phase.count[0]) * taps.extent(1, phase.count[1])
                )
        groups = -(-array_blocks // max(1, config.R // config.K))
        if plan.weights_outer:
            loads += ifm_tiles * (1 if ifm_tiles <= config.ifm_depth else groups)
            loads += weights * (1 if group_weights <= config.wgt_depth else len(tile_list))
        else:
            loads += ifm_tiles * (1 if parts == 1 else array_blocks)
            loads += weights * (1 if weights <= config.wgt_depth else len(tile_list))
        return max(array, loads) + loads // 8

    # Emission.

    def _layer(self, node: Node, layer: _Layer, outputs: np.ndarray) -> None:
        emit, config = self._emit, self._emit.config
        plans = list(self._plans(layer))
        if not plans:
            raise emit.refuse(
                f"one output needs more than ifm_depth = {config.ifm_depth}, wgt_depth = "
                f"{config.wgt_depth}, vec_depth = {config.vec_depth}, ofm_depth = "
                f"{config.ofm_depth} or acc_depth = {config.acc_depth}"
            )
        plan = min(plans, key=lambda candidate: self._cost(layer, candidate))
        weights = self._put_weights(layer, plan)
        multiplier = np.append(node.tensors["multiplier"].astype(np.int64), 0)[outputs]
        bias = np.append(node.tensors["bias"], 0)[outputs]
        per_vector = config.params_per_vector
        # Array blocks begin at whole vectors of pairs.
        params = [
            emit.image.put(
                parameter_pairs(
                    multiplier[start : start + config.K], bias[start : start + config.K], per_vector
                )
            )
            for start in range(0, len(outputs), config.K)
        ]
        pairs = -(-config.K // per_vector) * per_vector

        _, height, width = layer.target.shape
        tile_list = list(tiles(height, width, plan.rows, plan.cols))
        planes = max(1, config.K // config.R)
        total = layer.target.blocks(config.R)
        groups = list(range(0, total, planes))
        order = (
            [(tile, group) for group in groups for tile in tile_list]
            if plan.weights_outer
            else [(tile, group) for tile in tile_list for group in groups]
        )
        for tile, block in order:
            blocks = min(planes, total - block)
            row, rows, col, cols = tile
            output = emit.ofm.allocate(blocks * rows * cols)
            residual = None
            if layer.residual is not None:
                residual = emit.load_tile(
                    Buffer.VEC,
                    layer.residual,
                    block,
                    blocks,
                    Span(row, row + rows, 0),
                    Span(col, col + cols, 0),
                )
            first = block * config.R // config.K
            for array_block in range(first, first + max(1, config.R // config.K)):
                lane = array_block * config.K % config.R
                for key in layer.phases:
                    phase = layer.phase(key, tile)
                    if phase is None:
                        continue
                    bank = emit.next_bank()
                    self._array(layer, plan, key, phase, array_block, weights, bank)
                    pair = emit.load_constant(
                        Buffer.PRM, (emit.layer, array_block), params[array_block], 8 * pairs
                    )
                    self._drain(
                        layer, phase, output, residual, pair, bank, lane, blocks, rows, cols
                    )
            emit.store_tile(layer.target, output, block, blocks, row, rows, col, cols)

    def _parts(self, taps: _Taps, plan: _Plan) -> list[_Part]:
        return [
            _Part(block, blocks, row, rows)
            for block, blocks in split(taps.blocks, plan.blocks)
            for row, rows in split(taps.kernel[0], min(plan.kernel_rows, taps.kernel[0]))
        ]

    def _put_weights(
        self, layer: _Layer, plan: _Plan
    ) -> dict[tuple[tuple[int, int], int, _Part], tuple[int, int]]:
        """Return (phase, array block, part) -> (address, bytes) of the weights in the order the
        array reads them.
        """
        config, result = self._emit.config, {}
        for key, taps in layer.phases.items():
            for array_block in range(layer.lanes // config.K):
                lanes = taps.weight[array_block * config.K : (array_block + 1) * config.K]
                for part in self._parts(taps, plan):
                    weight = lanes[
                        :, part.block : part.block + part.blocks, part.row : part.row + part.rows
                    ].transpose(1, 2, 3, 0, 4)  # (blocks, R, S, K, lanes)
                    address = self._emit.image.put(weight)
                    result[key, array_block, part] = address, weight.size
        return result

    def _array(
        self,
        layer: _Layer,
        plan: _Plan,
        key: tuple[int, int],
        phase: _Phase,
        array_block: int,
        weights: Mapping[tuple[tuple[int, int], int, _Part], tuple[int, int]],
        bank: int,
    ) -> None:
        """Emit the array instructions that fill ``bank`` with one phase of a tile."""
        emit, config, taps = self._emit, self._emit.config, layer.phases[key]
        for index, part in enumerate(self._parts(taps, plan)):
            address, nbytes = weights[key, array_block, part]
            wgt = emit.load_constant(
                Buffer.WGT, (emit.layer, key, array_block, part), address, nbytes
            )
            row_span = window_span(
                layer.source.shape[1],
                phase.first[0],
                phase.count[0],
                kernel=part.rows,
                stride=taps.stride[0],
                dilation=taps.dilation[0],
                before=taps.before[0] - part.row * taps.dilation[0],
            )
            if layer.source.layout == "dense":
                first_col = phase.first[1] * taps.stride[1] - taps.before[1]
                # A load pads a few columns on the left; what lies further out, or right of the
                # image, is outside the tile, where the array pads by itself.
                most_left = -(LEAD_MAX * config.R // layer.source.shape[0])
                start = max(min(first_col, layer.source.shape[2] - 1), most_left)
                offset = first_col - start
                stop = max(first_col + taps.extent(1, phase.count[1]), start + 1)
                col_span = Span(start, stop, offset)
                ifm = emit.load_image(layer.source, row_span, col_span, taps.pixels, layer.pad_code)
            else:
                col_span = window_span(
                    layer.source.shape[2],
                    phase.first[1],
                    phase.count[1],
                    kernel=taps.kernel[1],
                    stride=taps.stride[1],
                    dilation=taps.dilation[1],
                    before=taps.before[1],
                )
                ifm = emit.load_tile(
                    Buffer.IFM, layer.source, part.block, part.blocks, row_span, col_span
                )
            acc = Place("ACC", bank, bank + 1)
            emit.add(
                Unit.ARRAY,
                {
                    "ifm_base": ifm.start,
                    "ifm_rows": row_span.size,
                    "ifm_cols": col_span.size,
                    "ifm_plane": row_span.size * col_span.size,
                    "blocks": part.blocks,
                    "kernel_h": part.rows,
                    "kernel_w": taps.kernel[1],
                    "stride_h": taps.stride[0],
                    "stride_w": taps.stride[1],
                    "dilation_h": taps.dilation[0],
                    "dilation_w": taps.dilation[1],
                    "offset_h": row_span.offset,
                    "offset_w": col_span.offset,
                    "out_rows": phase.count[0],
                    "out_cols": phase.count[1],
                    "wgt_base": wgt.start,
                    "acc_bank": bank,
                    "accumulate": int(index > 0),
                    "pad_code": layer.pad_code,
                },
                [ifm, wgt, *([acc] if index else [])],
                [acc],
            )

    def _drain(
        self,
        layer: _Layer,
        phase: _Phase,
        output: Place,
        residual: Place | None,
        params: Place,
        bank: int,
        lane: int,
        blocks: int,
        rows: int,
        cols: int,
    ) -> None:
        """Emit the instruction that requantises ``bank`` into its places of the OFM tile."""
        config = self._emit.config
        fields = dict(layer.fields)
        if residual is not None:
            fields |= {"residual": 1, "res_base": residual.start, "res_plane": rows * cols}
        self._emit.add(
            Unit.VECTOR,
            {
                "function": Function.DRAIN,
                "lane": lane,
                "chunks": min(config.K, blocks * config.R) // config.drain_lanes,
                "acc_bank": bank,
                "out_rows": phase.count[0],
                "out_cols": phase.count[1],
                "prm_base": params.start,
                "ofm_base": output.start + phase.at[0] * cols + phase.at[1],
                "ofm_plane": rows * cols,
                "ofm_row_step": layer.up[0] * cols,
                "ofm_col_step": layer.up[1],
                **fields,
            },
            [Place("ACC", bank, bank + 1), params, *([residual] if residual else [])],
            [output],
        )
