"""Convolutions and transposed convolutions on the array.

Both are a set of *phases*: ordinary convolutions, each of which makes the output positions ``(up *
j + phase)``. A convolution has one phase, a transposed one ``stride`` x ``stride`` of them.
"""

import numpy as np

from intaglio.compile.emitter import LEAD_MAX, Emitter, parameter_pairs
from intaglio.compile.plan import Layer, Part, Phase, Plan, Search, Taps
from intaglio.compile.schedule import Place
from intaglio.compile.tile import Span, tiles
from intaglio.spec.graph import Node
from intaglio.spec.isa import Buffer, Function, Unit
from intaglio.spec.program import Placement

__all__ = ["ConvolutionLowering"]


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
            Layer(
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
                phases[r, s] = Taps(spread, (1, 1), (1, 1), before)
        self._layer(
            node,
            Layer(
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

    def _block_taps(self, node: Node, source: Placement, outputs: np.ndarray) -> Taps:
        attributes = node.attributes
        return Taps(
            self._spread(node.tensors["weight"], outputs, self._input_lanes(source)),
            attributes["stride"],
            attributes["dilation"],
            attributes["padding"][:2],
        )

    def _image_taps(self, node: Node, source: Placement, outputs: np.ndarray) -> Taps:
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
        return Taps(
            packed,
            attributes["stride"],
            (attributes["dilation"][0], attributes["dilation"][1] * pixels),
            attributes["padding"][:2],
            pixels,
        )

    # Emission.

    def _layer(self, node: Node, layer: Layer, outputs: np.ndarray) -> None:
        emit, config = self._emit, self._emit.config
        plan = Search(config, layer, emit.latency, emit.interval).best()
        if plan is None:
            raise emit.refuse(
                f"one output needs more than ifm_depth = {config.ifm_depth}, wgt_depth = "
                f"{config.wgt_depth}, vec_depth = {config.vec_depth}, ofm_depth = "
                f"{config.ofm_depth} or acc_depth = {config.acc_depth}"
            )
        weights = _Weights(emit, layer, plan)
        params = _Parameters(emit, layer, node, outputs)
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
        largest = planes * plan.rows * plan.cols
        current = None
        for tile, block in order:
            if tile != current:
                current = tile
                emit.rings[Buffer.IFM].open_slot(plan.resident or 1)
            blocks = min(planes, total - block)
            row, rows, col, cols = tile
            emit.ofm.open_slot(largest)
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
                    slot=largest,
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
                    pairs = params.load(array_block)
                    self._drain(
                        layer, phase, output, residual, pairs, bank, lane, blocks, rows, cols
                    )
            emit.store_tile(layer.target, output, block, blocks, row, rows, col, cols)

    def _array(
        self,
        layer: Layer,
        plan: Plan,
        key: tuple[int, int],
        phase: Phase,
        array_block: int,
        weights: "_Weights",
        bank: int,
    ) -> None:
        """Emit the array instructions that fill ``bank`` with one phase of a tile."""
        emit, taps = self._emit, layer.phases[key]
        _, height, width = layer.source.shape
        if layer.source.layout == "dense":
            col_span = self._image_columns(layer, taps, phase)
        else:
            col_span = taps.columns(width, phase.first[1], phase.count[1])
        for index, part in enumerate(plan.parts(taps)):
            row_span = taps.rows(height, phase.first[0], phase.count[0], part.row, part.rows)
            wgt = weights.load(key, array_block, part)
            if layer.source.layout == "dense":
                ifm = emit.load_image(
                    layer.source, row_span, col_span, taps.pixels, layer.pad_code, plan.slot
                )
            else:
                ifm = emit.load_tile(
                    Buffer.IFM,
                    layer.source,
                    part.block,
                    part.blocks,
                    row_span,
                    col_span,
                    slot=plan.slot,
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
                    "stride_h": taps.stride[0] // row_span.step,
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

    def _image_columns(self, layer: Layer, taps: Taps, phase: Phase) -> Span:
        """Return the columns of the dense image, padding included.

        A load pads a few columns on the left; what lies further out, or right of the image, is
        outside the tile, where the array pads by itself.
        """
        channels, _, width = layer.source.shape
        first = phase.first[1] * taps.stride[1] - taps.before[1]
        most_left = -(LEAD_MAX * self._emit.config.R // channels)
        start = max(min(first, width - 1), most_left)
        return Span(start, max(first + taps.extent(1, phase.count[1]), start + 1), first - start)

    def _drain(
        self,
        layer: Layer,
        phase: Phase,
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


class _Weights:
    """The weights of a layer in memory, in the order in which the array reads them."""

    def __init__(self, emit: Emitter, layer: Layer, plan: Plan) -> None:
        self._emit, self._plan = emit, plan
        #: (phase, first array block of the chunk, part) -> (address, bytes, bytes of a block).
        self._places: dict[tuple[tuple[int, int], int, Part], tuple[int, int, int]] = {}
        lanes = emit.config.K
        self._slot = max(plan.weight_vectors(taps, lanes) for taps in layer.phases.values())
        for key, taps in layer.phases.items():
            for start in range(0, layer.lanes // lanes, plan.chunk):
                chosen = taps.weight[start * lanes : (start + plan.chunk) * lanes]
                chosen = chosen.reshape(-1, lanes, *chosen.shape[1:])
                for part in plan.parts(taps):
                    # (array blocks, blocks, R, S, K, lanes)
                    weight = chosen[
                        :, :, part.block : part.block + part.blocks, part.row : part.row + part.rows
                    ].transpose(0, 2, 3, 4, 1, 5)
                    address = emit.image.put(weight)
                    self._places[key, start, part] = address, weight.size, weight[0].size

    def load(self, key: tuple[int, int], array_block: int, part: Part) -> Place:
        """Return where the weights of an array block lie, loading its chunk if necessary."""
        emit = self._emit
        start = array_block // self._plan.chunk * self._plan.chunk
        address, nbytes, size = self._places[key, start, part]
        chunk = emit.load_constant(
            Buffer.WGT, (emit.layer, key, start, part), address, nbytes, self._slot
        )
        vectors = size // emit.config.R
        first = chunk.start + (array_block - start) * vectors
        return Place("WGT", first, first + vectors)


class _Parameters:
    """The pairs of a layer in memory; each array block begins at a whole vector of pairs."""

    def __init__(self, emit: Emitter, layer: Layer, node: Node, outputs: np.ndarray) -> None:
        config = emit.config
        self._emit = emit
        multiplier = np.append(node.tensors["multiplier"].astype(np.int64), 0)[outputs]
        bias = np.append(node.tensors["bias"], 0)[outputs]
        per_vector = config.params_per_vector
        self._pairs = -(-config.K // per_vector) * per_vector
        #: Array blocks that one load brings: all, or as many as half of PRM holds.
        self._chunk = max(1, config.prm_depth // 2 // self._pairs)
        self._chunk = min(self._chunk, len(outputs) // config.K)
        blocks = [
            parameter_pairs(
                multiplier[start : start + config.K], bias[start : start + config.K], per_vector
            )
            for start in range(0, len(outputs), config.K)
        ]
        self._places = [
            (emit.image.put(data), data.size)
            for start in range(0, len(blocks), self._chunk)
            for data in [np.concatenate(blocks[start : start + self._chunk])]
        ]

    def load(self, array_block: int) -> Place:
        """Return where the pairs of an array block lie, loading its chunk if necessary."""
        chunk, index = divmod(array_block, self._chunk)
        key = (self._emit.layer, chunk)
        slot = self._chunk * self._pairs
        place = self._emit.load_constant(Buffer.PRM, key, *self._places[chunk], slot)
        first = place.start + index * self._pairs
        return Place("PRM", first, first + self._pairs)
