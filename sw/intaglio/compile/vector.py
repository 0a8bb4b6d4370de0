"""Operations of the vector unit: pooling, resize, broadcast, add, arg max, copies."""

from collections.abc import Callable, Iterator

import numpy as np

from intaglio.compile.emitter import SIDE_MAX, Emitter, parameter_pairs
from intaglio.compile.schedule import Place
from intaglio.compile.tile import Span, divisions, split, tiles, window_span
from intaglio.spec import ops
from intaglio.spec.arith import CODE_MAX, CODE_MIN
from intaglio.spec.graph import Node
from intaglio.spec.isa import Buffer, Function, Unit
from intaglio.spec.program import Placement

__all__ = ["VectorLowering"]

#: (block, blocks, row, rows, column, columns) of an output tile.
Tile = tuple[int, int, int, int, int, int]


class VectorLowering:
    """Emits the operations that run in the vector unit alone: one public method for each.

    Each cuts the output into tiles whose source fits VEC and whose result fits OFM.
    """

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit

    def _tiles(
        self, target: Placement, source_vectors: Callable[[int, int], int], col_step: int = 1
    ) -> Iterator[Tile]:
        """Yield (block, blocks, row, rows, column, columns) such that source and output tiles fit.

        ``source_vectors(rows, cols)`` is the largest source tile of one block. Tiles take half of a
        scratchpad where that is possible, so that loading and computing overlap.
        """
        _, height, width = target.shape
        blocks = target.blocks(self._emit.config.R) if target.layout == "blocks" else 1
        planes = max(1, target.class_planes)
        for divisor in (2, 1):
            vec, ofm = (
                self._emit.config.vec_depth // divisor,
                self._emit.config.ofm_depth // divisor,
            )
            fits = [
                (rows, cols)
                for cols in divisions(width, col_step)
                for rows in divisions(height)
                if source_vectors(rows, cols) <= vec and planes * rows * -(-cols // col_step) <= ofm
            ]
            if fits:
                break
        else:
            raise self._emit.refuse(
                f"one output needs {source_vectors(1, col_step)} vectors of the source, "
                f"vec_depth is {self._emit.config.vec_depth}"
            )
        # The largest tile, wide ones first: their rows are contiguous in memory.
        rows, cols = max(fits, key=lambda fit: (fit[0] * fit[1], fit[1]))
        most = max(
            1, min(vec // source_vectors(rows, cols), ofm // (rows * -(-cols // col_step)), blocks)
        )
        for row, tile_rows, col, tile_cols in tiles(height, width, rows, cols, col_step):
            for block, tile_blocks in split(blocks, most):
                yield block, tile_blocks, row, tile_rows, col, tile_cols

    def _run(
        self,
        function: Function,
        fields: dict[str, int],
        source: Place,
        target: Placement,
        tile: Tile,
        *,
        params: Place | None = None,
        residual: Place | None = None,
    ) -> None:
        """Emit a vector instruction from VEC, and the store of its output."""
        block, blocks, row, rows, col, cols = tile
        config = self._emit.config
        place = self._emit.ofm.allocate(blocks * rows * cols)
        reads = [source, *(place for place in (params, residual) if place is not None)]
        self._emit.add(
            Unit.VECTOR,
            {
                "function": function,
                "lane": 0,
                "chunks": blocks * config.chunks_per_vector,
                "src_base": source.start,
                "out_rows": rows,
                "out_cols": cols,
                "ofm_base": place.start,
                "ofm_plane": rows * cols,
                "ofm_row_step": cols,
                "ofm_col_step": 1,
                "low": CODE_MIN,
                "high": CODE_MAX,
                **({} if params is None else {"prm_base": params.start, "uniform": 1}),
                **fields,
            },
            reads,
            [place],
        )
        self._emit.store_tile(target, place, block, blocks, row, rows, col, cols)

    def _uniform_params(self, multiplier: int, bias: int) -> Callable[[], Place]:
        """Return a function that loads one pair for all lanes."""
        pairs = parameter_pairs(
            np.array([multiplier]), np.array([bias]), self._emit.config.params_per_vector
        )
        address = self._emit.image.put(pairs)
        key = (self._emit.layer, "uniform")
        return lambda: self._emit.load_constant(Buffer.PRM, key, address, pairs.nbytes)

    def _blocks_source(self, name: str) -> Placement:
        source = self._emit.values[name]
        if source.layout != "blocks":
            raise self._emit.refuse(
                f"the input {name!r} must be made by a convolution, not be the image"
            )
        return source

    def pool(self, node: Node) -> None:
        source, target = self._blocks_source(node.inputs[0]), self._emit.values[node.output]
        kernel, stride, padding = (node.attributes[key] for key in ("kernel", "stride", "padding"))
        _, height, width = source.shape
        fields: dict[str, int] = {
            "kernel_h": kernel[0],
            "kernel_w": kernel[1],
            "stride_h": stride[0],
            "stride_w": stride[1],
        }
        params = None
        if node.op == "max_pool":
            function = Function.MAX
            # Loses against every code, or ties with the same value.
            fields["pad_code"] = CODE_MIN
        else:
            function = Function.SUM
            fields |= {key: node.attributes[key] for key in ("shift", "low", "high")}
            params = self._uniform_params(
                int(node.tensors["multiplier"][0]), int(node.tensors["bias"][0])
            )

        def spans(row: int, rows: int, col: int, cols: int) -> tuple[Span, Span]:
            return (
                window_span(
                    height,
                    row,
                    rows,
                    kernel=kernel[0],
                    stride=stride[0],
                    dilation=1,
                    before=padding[0],
                ),
                window_span(
                    width,
                    col,
                    cols,
                    kernel=kernel[1],
                    stride=stride[1],
                    dilation=1,
                    before=padding[1],
                ),
            )

        def source_vectors(rows: int, cols: int) -> int:
            tile_rows = min(height, (rows - 1) * stride[0] + kernel[0])
            return tile_rows * min(width, (cols - 1) * stride[1] + kernel[1])

        if max(*kernel, *stride) > SIDE_MAX or source_vectors(1, 1) > self._emit.config.vec_depth:
            fields = {key: value for key, value in fields.items() if "stride" not in key}
            self._pool_in_parts(function, fields, source, target, spans, params)
            return
        for tile in self._tiles(target, source_vectors):
            block, blocks, row, rows, col, cols = tile
            row_span, col_span = spans(row, rows, col, cols)
            place = self._emit.load_tile(Buffer.VEC, source, block, blocks, row_span, col_span)
            self._run(
                function,
                fields
                | {
                    "src_rows": row_span.size,
                    "src_cols": col_span.size,
                    "src_plane": row_span.size * col_span.size,
                    "offset_h": row_span.offset,
                    "offset_w": col_span.offset,
                },
                place,
                target,
                tile,
                params=None if params is None else params(),
            )

    def _pool_in_parts(
        self,
        function: Function,
        fields: dict[str, int],
        source: Placement,
        target: Placement,
        spans: Callable[[int, int, int, int], tuple[Span, Span]],
        params: Callable[[], Place] | None,
    ) -> None:
        """Pool windows that an instruction or VEC cannot hold: output by output and chunk by
        chunk, in parts that the unit adds up. The padding changes neither sum nor maximum.
        """
        config = self._emit.config
        half = config.vec_depth // 2
        _, height, width = target.shape
        for row in range(height):
            for col in range(width):
                row_span, col_span = spans(row, 1, col, 1)
                most_cols = min(col_span.size, SIDE_MAX, half)
                most_rows = min(SIDE_MAX, half // most_cols)
                parts = [
                    (Span(top, top + rows, 0), Span(left, left + cols, 0))
                    for first, rows, begin, cols in tiles(
                        row_span.size, col_span.size, most_rows, most_cols
                    )
                    for top, left in [(row_span.start + first, col_span.start + begin)]
                ]
                for block in range(target.blocks(config.R)):
                    output = self._emit.ofm.allocate(1)
                    for chunk in range(config.chunks_per_vector):
                        for n, (rows_of, cols_of) in enumerate(parts):
                            self._pool_part(
                                function,
                                fields
                                | {
                                    "lane": chunk * config.drain_lanes,
                                    "accumulate": int(n > 0),
                                    "kernel_h": rows_of.size,
                                    "kernel_w": cols_of.size,
                                },
                                self._emit.load_tile(
                                    Buffer.VEC, source, block, 1, rows_of, cols_of
                                ),
                                output,
                                None if params is None else params(),
                            )
                    self._emit.store_tile(target, output, block, 1, row, 1, col, 1)

    def _pool_part(
        self,
        function: Function,
        fields: dict[str, int],
        source: Place,
        output: Place,
        params: Place | None,
    ) -> None:
        """Emit the part of a window that is all of a tile; what it writes is final after the last
        part.
        """
        self._emit.add(
            Unit.VECTOR,
            {
                "function": function,
                "src_base": source.start,
                "src_rows": fields["kernel_h"],
                "src_cols": fields["kernel_w"],
                "ofm_base": output.start,
                "low": CODE_MIN,
                "high": CODE_MAX,
                **({} if params is None else {"prm_base": params.start, "uniform": 1}),
                **fields,
            },
            [source, *([] if params is None else [params])],
            [output],
        )

    def resize(self, node: Node) -> None:
        source, target = self._blocks_source(node.inputs[0]), self._emit.values[node.output]
        ratio, corners = node.attributes["ratio"], node.attributes["corners"]
        half = corners == "half_pixel"
        scale = ops.resize_scale(tuple(ratio), corners)
        steps, dens, factor = scale.steps, scale.dens, scale.factor
        params = self._uniform_params(scale.multiplier, scale.bias)
        sizes = source.shape[1:]

        def axis(index: int, first: int, count: int) -> tuple[Span, int]:
            """Return the source span of the outputs and the fraction of the first."""
            step, den = steps[index], dens[index]
            begin = first * step + ((1 - ratio[index]) * step // 2 if half else 0)
            low, fraction = divmod(begin, den)
            high = (begin + (count - 1) * step) // den + 1
            start = max(low, 0)
            stop = min(high + 1, sizes[index])
            return Span(start, max(stop, start + 1), low - start), fraction

        def source_vectors(rows: int, cols: int) -> int:
            need = [
                min(size, (count - 1) // f + 3)
                for size, count, f in zip(sizes, (rows, cols), ratio, strict=True)
            ]
            return need[0] * need[1]

        for tile in self._tiles(target, source_vectors):
            block, blocks, row, rows, col, cols = tile
            (row_span, frac_h), (col_span, frac_w) = axis(0, row, rows), axis(1, col, cols)
            place = self._emit.load_tile(Buffer.VEC, source, block, blocks, row_span, col_span)
            self._run(
                Function.RESIZE,
                {
                    "src_rows": row_span.size,
                    "src_cols": col_span.size,
                    "src_plane": row_span.size * col_span.size,
                    "offset_h": row_span.offset,
                    "offset_w": col_span.offset,
                    "den_h": factor * dens[0],
                    "den_w": dens[1],
                    "step_h": factor * steps[0],
                    "step_w": steps[1],
                    "frac_h": factor * frac_h,
                    "frac_w": frac_w,
                    "shift": scale.shift,
                },
                place,
                target,
                tile,
                params=params(),
            )

    def broadcast(self, node: Node) -> None:
        source, target = self._blocks_source(node.inputs[0]), self._emit.values[node.output]
        params = self._uniform_params(1, 0)
        for tile in self._tiles(target, lambda rows, cols: 1):
            place = self._emit.load_tile(
                Buffer.VEC, source, tile[0], tile[1], Span(0, 1, 0), Span(0, 1, 0)
            )
            # A stride of zero reads the one position for every output.
            fields = {"src_rows": 1, "src_cols": 1, "src_plane": 1}
            self._run(Function.SUM, fields, place, target, tile, params=params())

    def add(self, node: Node) -> None:
        a, b = (self._blocks_source(name) for name in node.inputs)
        target = self._emit.values[node.output]
        for source in (a, b):
            if source.lanes != target.lanes:
                raise self._emit.refuse(
                    f"the input {source.name!r} must have the channels of the output"
                )
        attributes = node.attributes
        params = self._uniform_params(1 << attributes["shift_a"], 0)
        self._elementwise(
            a,
            target,
            {key: attributes[key] for key in ("shift", "low", "high")}
            | {"res_shift": attributes["shift_b"]},
            params,
            b,
        )

    def _copy(self, source: Placement, target: Placement) -> None:
        self._elementwise(source, target, {}, self._uniform_params(1, 0), None)

    def _elementwise(
        self,
        source: Placement,
        target: Placement,
        fields: dict[str, int],
        params: Callable[[], Place],
        residual: Placement | None,
    ) -> None:
        """Requantise ``source`` position by position, plus ``residual`` if there is one."""
        inputs = 1 if residual is None else 2
        for tile in self._tiles(target, lambda rows, cols: inputs * rows * cols):
            block, blocks, row, rows, col, cols = tile
            spans = Span(row, row + rows, 0), Span(col, col + cols, 0)
            # One allocation for both, so that the second cannot overwrite the first.
            size = blocks * rows * cols
            both = self._emit.rings[Buffer.VEC].allocate(inputs * size)
            place = Place("VEC", both.start, both.start + size)
            self._emit.load_tile(Buffer.VEC, source, block, blocks, *spans, place)
            extra, residual_place = {}, None
            if residual is not None:
                residual_place = Place("VEC", place.stop, both.stop)
                self._emit.load_tile(Buffer.VEC, residual, block, blocks, *spans, residual_place)
                extra = {
                    "residual": 1,
                    "res_base": residual_place.start,
                    "res_plane": rows * cols,
                }
            self._run(
                Function.SUM,
                fields
                | extra
                | {
                    "src_rows": rows,
                    "src_cols": cols,
                    "src_plane": rows * cols,
                    "stride_h": 1,
                    "stride_w": 1,
                },
                place,
                target,
                tile,
                params=params(),
                residual=residual_place,
            )

    def concat(self, node: Node) -> None:
        """Copy the inputs that do not already lie in the output: addressing does the rest."""
        target = self._emit.values[node.output]
        channel = 0
        for name in node.inputs:
            source = self._blocks_source(name)
            channels = source.shape[0]
            lanes = target.lanes[channel : channel + channels]
            base = lanes[0] // self._emit.config.R
            _, rows, cols = target.shape
            address = target.address + base * rows * cols * self._emit.config.R
            if source.address != address:
                part = Placement(
                    name=f"{node.output}:{channel}",
                    shape=source.shape,
                    exponent=target.exponent,
                    address=address,
                    layout="blocks",
                    lanes=tuple(lane - base * self._emit.config.R for lane in lanes),
                )
                self._copy(source, part)
            channel += channels

    def argmax(self, node: Node) -> None:
        source, target = self._blocks_source(node.inputs[0]), self._emit.values[node.output]
        if source.lanes != tuple(range(source.shape[0])):
            raise self._emit.refuse(
                "argmax needs consecutive channels, not a concatenation with gaps"
            )
        vector, planes = self._emit.config.R, target.class_planes
        blocks = source.blocks(vector)
        for tile in self._tiles(target, lambda rows, cols: blocks * rows * cols, vector):
            _, _, row, rows, col, cols = tile
            place = self._emit.load_tile(
                Buffer.VEC, source, 0, blocks, Span(row, row + rows, 0), Span(col, col + cols, 0)
            )
            vectors = -(-cols // vector)
            output = self._emit.ofm.allocate(planes * rows * vectors)
            fields = {
                "function": Function.ARGMAX,
                "src_base": place.start,
                "src_rows": rows,
                "src_cols": cols,
                "src_plane": rows * cols,
                "stride_h": 1,
                "stride_w": 1,
                "out_rows": rows,
                "out_cols": cols,
                "ofm_row_step": vectors,
                "channels": source.shape[0],
            }
            for plane in range(planes):
                fields |= {"high_byte": plane, "ofm_base": output.start + plane * rows * vectors}
                self._emit.add(Unit.VECTOR, fields, [place], [output])
            self._emit.store_tile(target, output, 0, planes, row, rows, col // vector, vectors)
