"""Walks through chunks, output pixels and window taps with counters and adders alone."""

from functools import reduce
from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Function
from intaglio_hw.interfaces import instruction_layout
from intaglio_hw.vector.beats import (
    ADDRESS_BITS,
    FRACTION_BITS,
    OFFSET_BITS,
    POSITION_BITS,
    delay,
    position_layout,
)

__all__ = ["Walker"]


class _Loop:
    """A loop counter: ``last`` is a register, so that nested loops do not chain comparisons."""

    def __init__(self, m: Module, name: str, count: Value, *, bits: int) -> None:
        self.count = count[:bits]
        self.left = Signal(bits, name=f"{name}_left", reset_less=True)
        self.last = Signal(name=f"{name}_last", reset_less=True)
        self.single = Signal(name=f"{name}_single", reset_less=True)
        m.d.sync += self.single.eq(self.count == 1)

    @property
    def near(self) -> Value:
        """Value of whether the next iteration is the last."""
        return self.left == 2

    def reload(self) -> list:
        """Return the statements that begin the loop; needs ``count`` stable for one cycle."""
        return [self.left.eq(self.count), self.last.eq(self.single)]

    def advance(self) -> list:
        """Return the statements that go on to the next iteration."""
        return [self.left.eq(self.left - 1), self.last.eq(self.near)]


def _sticky_add(address: Value, step: Value) -> Value:
    """Return ``address + step`` where the highest bit, once set, stays: beyond is beyond."""
    total = address[: ADDRESS_BITS - 1] + step
    return Cat(total[: ADDRESS_BITS - 1], total[ADDRESS_BITS - 1] | address[ADDRESS_BITS - 1])


#: How the walk goes on, and which registers that moves: to the first beat, the next window column,
#: window row, output column, output row, group of lanes, channel block; for *argmax* to the next
#: channel block of a pixel; for *resize* to the next output column, to the bottom of a column, from
#: there to the right or back to the left.
_MOVES = {
    "load": ("begin", "top", "output", "rows", "cols", "blocks"),
    "tap": ("ahead", "cols"),
    "tap_row": ("below", "back", "rows", "cols"),
    "col": ("output", "beside", "source", "rows", "cols", "blocks"),
    "glide": ("ahead", "output", "beside", "source", "rows", "cols", "blocks"),
    "row": ("top", "output", "beside", "source", "rows", "cols", "blocks"),
    "group": ("begin", "top", "output", "source", "rows", "cols", "blocks"),
    "block": ("begin", "top", "output", "rows", "cols", "blocks"),
    "channels": ("blocks",),
    "down": ("below", "rows"),
    "right": ("ahead", "up", "rows", "cols"),
    "left": ("back", "up", "rows", "cols"),
}
_MOVE = data.StructLayout(
    dict.fromkeys((*_MOVES, *(name for names in _MOVES.values() for name in names)), 1)
)


def _merge(*choices: tuple[Value, Value]) -> Value:
    """Return the value whose flag is high; at most one is."""
    terms = [Mux(flag, value, 0) for flag, value in choices]
    return reduce(lambda a, b: a | b, terms)


class _Course(NamedTuple):
    """What the counters tell: ``move`` (_MOVE), ``col_step``, the columns to the next output, and
    ``forward``, whether ``ahead`` is another column, of the last step; ``group`` of lanes now.
    """

    move: Signal
    col_step: Signal
    forward: Signal
    group: Signal


class Walker(wiring.Component):
    """The loops of an instruction: chunk, output row, output column, window row, window column.

    ``fields`` must be stable from four cycles before ``load``. From the cycle after ``load`` on
    there is a beat, and each ``step`` goes on to the next one; the beat with ``last`` is the
    instruction's last. Its ``position`` follows LATENCY cycles behind. A beat is a source vector:
    one per output for *drain*, one per window tap for *max* and *sum* (and one more for the
    residual of a sum, after the taps), one per R channels for *argmax*.

    *resize* goes along an output row with two source columns, left and right of the output. Eight
    beats begin a row: the four neighbours with their weights, which are the first output, and the
    four once more with the vertical factor alone, from which the columns follow. Each other output
    is one beat, ``still``; or two, the top and the bottom of the next column, where that comes into
    sight. ``steps`` say by how many 1 / den_w of the way from left to right the output moves with
    the beat, before the next column (0 to 2).

    The counters, which decide how to go on, are a stage of their own; rows, columns and addresses
    follow a cycle later, told by a register.

    Members
    -------
    fields
        The instruction.
    row_start, row_step
        ``offset_h * src_cols`` and ``stride_h * src_cols``, modulo 2**24; ``row_step`` not for
        *resize*.
    load, step
        Begin; go on.
    chunk_first, chunk_last, last
        The beat is the first, the last of its chunk, the last of the instruction.
    position
        :func:`position_layout` of the beat of LATENCY cycles ago, from registers.
    """

    LATENCY = 1

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "fields": In(instruction_layout(isa.VECTOR)),
                "row_start": In(OFFSET_BITS),
                "row_step": In(OFFSET_BITS),
                "load": In(1),
                "step": In(1),
                "chunk_first": Out(1),
                "chunk_last": Out(1),
                "last": Out(1),
                "position": Out(position_layout(config)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        fields = self.fields
        is_resize = Signal(reset_less=True)
        is_argmax = Signal(reset_less=True)
        m.d.sync += [
            is_resize.eq(fields.function == Function.RESIZE),
            is_argmax.eq(fields.function == Function.ARGMAX),
        ]
        course = self._count(m, is_resize, is_argmax)
        self._follow(m, course, is_resize, is_argmax)
        return m

    def _count(self, m: Module, is_resize: Signal, is_argmax: Signal) -> _Course:
        """Add the counters; return registers that tell how they went on."""
        config, fields, now = self.config, self.fields, self.position
        R, L = config.R, config.drain_lanes
        groups = R // L
        top_left, right_top, all_done = 0, 6, 7  # beats of a row that begins, for resize

        # What follows from the function alone, from registers.
        has_residual = Signal(reset_less=True)  # a beat of its own
        taps_h = Signal(8, reset_less=True)
        taps_w = Signal(8, reset_less=True)
        chunk_count = Signal(16, reset_less=True)
        group_start = Signal(now.group.shape(), reset_less=True)
        m.d.sync += [
            has_residual.eq((fields.function == Function.SUM) & fields.residual[0]),
            taps_h.eq(1),
            taps_w.eq(1),
            chunk_count.eq(fields.chunks),
            group_start.eq(fields.lane >> (L.bit_length() - 1) if groups > 1 else 0),
        ]
        with m.Switch(fields.function):
            with m.Case(Function.MAX, Function.SUM):
                m.d.sync += [taps_h.eq(fields.kernel_h), taps_w.eq(fields.kernel_w)]
            with m.Case(Function.ARGMAX):
                m.d.sync += [chunk_count.eq(1), group_start.eq(0)]

        chunks = _Loop(m, "chunk", chunk_count, bits=16)
        rows = _Loop(m, "row", fields.out_rows, bits=12)
        cols = _Loop(m, "col", fields.out_cols, bits=12)
        window_rows = _Loop(m, "window_row", taps_h, bits=8)
        window_cols = _Loop(m, "window_col", taps_w, bits=8)

        # argmax: the channels are the window.
        remaining = Signal(now.remaining.shape(), reset_less=True)
        few_channels = Signal(reset_less=True)
        m.d.sync += few_channels.eq(fields.channels <= R)

        # Steps between outputs of resize: those of columns are known an output ahead, the fraction
        # after the step, and whether it leaves the column.
        fraction_w = Signal(8, reset_less=True)
        next_w, first_next_w = Signal(8, reset_less=True), Signal(8, reset_less=True)
        leaves, first_leaves = Signal(reset_less=True), Signal(reset_less=True)
        backward = Signal(signed(10), reset_less=True)
        m.d.sync += backward.eq(fields.step_w[:2] - fields.den_w)

        def stepped(fraction):
            """Return the fraction a step on, and whether the column is another."""
            reduced = Signal(signed(10))
            m.d.comb += reduced.eq(fraction + backward)
            forward = (fraction + fields.step_w[:2])[:8]
            return Mux(reduced[-1], forward, reduced[:8]), ~reduced[-1]

        later_w, later_leaves = stepped(next_w)
        begin_w, begin_leaves = stepped(fields.frac_w)
        m.d.sync += [first_next_w.eq(begin_w), first_leaves.eq(begin_leaves)]

        # resize: the beat of a row's first output; the others begin near its end.
        beat = Signal(3, reset_less=True)
        new_column = Signal(reset_less=True)
        still = Signal(reset_less=True)
        steps = Signal(2, reset_less=True)

        in_residual = Signal(reset_less=True)
        output_first = Signal(reset_less=True)
        group = Signal(now.group.shape(), reset_less=True)
        chunk = Signal(now.chunk.shape(), reset_less=True)
        # The last beat of an output, formed one beat ahead.
        output_end = Signal(reset_less=True)
        one_beat = Signal(reset_less=True)
        last_output = Signal(reset_less=True)  # cols.last & rows.last
        window_end, tap_end = Signal(), Signal()
        m.d.sync += one_beat.eq(
            Mux(
                is_argmax,
                few_channels,
                ~is_resize & ~has_residual & window_rows.single & window_cols.single,
            )
        )
        m.d.comb += [
            window_end.eq(window_rows.last & window_cols.last),
            tap_end.eq(
                Mux(
                    window_cols.last,
                    window_cols.single & window_rows.near,
                    window_cols.near & window_rows.last,
                )
            ),
            self.chunk_last.eq(output_end & last_output),
            self.last.eq(self.chunk_last & chunks.last),
        ]

        begin_output = [
            remaining.eq(fields.channels),
            output_end.eq(one_beat),
            output_first.eq(1),
            in_residual.eq(0),
            window_rows.reload(),
            window_cols.reload(),
        ]
        begin_row = [
            begin_output,
            cols.reload(),
            fraction_w.eq(fields.frac_w),
            next_w.eq(first_next_w),
            beat.eq(top_left),
            new_column.eq(0),
            still.eq(0),
            steps.eq(0),
        ]
        begin_chunk = [
            begin_row,
            rows.reload(),
            last_output.eq(cols.single & rows.single),
            self.chunk_first.eq(1),
        ]

        went = Signal(_MOVE)
        m.d.sync += went.eq(0)

        def goes(name: str) -> list:
            return [went[part].eq(1) for part in (name, *_MOVES[name])]

        with m.If(self.load):
            m.d.sync += [
                goes("load"),
                begin_chunk,
                chunks.reload(),
                chunk.eq(0),
                group.eq(group_start),
                leaves.eq(first_leaves),
            ]
        with m.Elif(self.step):
            with m.If(output_end):
                m.d.sync += leaves.eq(Mux(cols.last, first_leaves, later_leaves))
            m.d.sync += [self.chunk_first.eq(0), output_first.eq(0)]
            with m.If(~output_end):
                m.d.sync += [
                    in_residual.eq(has_residual & window_end),
                    output_end.eq(Mux(has_residual, window_end, tap_end)),
                ]
                with m.If(is_argmax):
                    m.d.sync += [
                        goes("channels"),
                        remaining.eq(remaining - R),
                        output_end.eq(remaining <= 2 * R),
                    ]
                with m.Elif(is_resize):
                    with m.If(~beat[0]):
                        m.d.sync += goes("down")
                    with m.Elif(~beat[1]):
                        m.d.sync += goes("right")
                    with m.Else():
                        m.d.sync += goes("left")
                    m.d.sync += [
                        beat.eq(beat + 1),
                        output_end.eq(beat == all_done - 1),
                        # After the steps that led to the new column, those that led beyond it.
                        steps.eq(Mux(new_column, fraction_w[0], 0)),
                    ]
                with m.Elif(~window_cols.last):
                    m.d.sync += [goes("tap"), window_cols.advance()]
                with m.Else():
                    m.d.sync += [goes("tap_row"), window_cols.reload(), window_rows.advance()]
            with m.Elif(~cols.last):
                m.d.sync += [
                    begin_output,
                    cols.advance(),
                    last_output.eq(cols.near & rows.last),
                ]
                with m.If(~is_resize):
                    m.d.sync += goes("col")
                with m.Else():
                    m.d.sync += [
                        goes("glide"),
                        output_first.eq(0),
                        fraction_w.eq(next_w),
                        next_w.eq(later_w),
                        new_column.eq(leaves),
                        still.eq(~leaves),
                        beat.eq(Mux(leaves, right_top, all_done)),
                        output_end.eq(~leaves),
                        # A step is 2 / den_w at most: behind the new column it is 0 or 1.
                        steps.eq(fields.step_w[:2] - (leaves & next_w[0])),
                    ]
            with m.Elif(~last_output):
                m.d.sync += [
                    goes("row"),
                    begin_row,
                    rows.advance(),
                    last_output.eq(cols.single & rows.near),
                ]
            with m.Else():
                last_group = group == groups - 1
                with m.If(last_group):
                    m.d.sync += goes("block")
                with m.Else():
                    m.d.sync += goes("group")
                m.d.sync += [
                    begin_chunk,
                    chunks.advance(),
                    chunk.eq(chunk + 1),
                    group.eq(Mux(last_group, 0, group + 1)),
                ]

        for name, value in {
            "remaining": remaining,
            "fraction_w": fraction_w,
            "bottom": beat[0],
            "right": beat[1],
            "vertical": is_resize & beat[2],
            "still": still,
            "steps": steps,
            "group": group,
            "chunk": chunk,
            "is_residual": in_residual,
            "chunk_first": self.chunk_first,
            "output_first": output_first,
            "output_last": output_end,
        }.items():
            m.d.comb += now[name].eq(delay(m, value, self.LATENCY, name=name))
        col_step = Signal(8, reset_less=True)
        forward = Signal(reset_less=True)
        m.d.sync += [
            col_step.eq(Mux(is_resize, leaves, fields.stride_w)),
            forward.eq(~is_resize | ~output_end | leaves),
        ]
        return _Course(went, col_step, forward, group)

    def _follow(self, m: Module, course: _Course, is_resize: Signal, is_argmax: Signal) -> None:
        """Add what the counters lead through the source and the output."""
        move = course.move
        config, fields, now = self.config, self.fields, self.position
        R, L = config.R, config.drain_lanes
        # Where the output begins (tap 0), the first row and column, the chunk's first vectors.
        row = Signal(signed(POSITION_BITS), reset_less=True)
        col = Signal(signed(POSITION_BITS), reset_less=True)
        row_offset = Signal(OFFSET_BITS, reset_less=True)
        source = Signal(ADDRESS_BITS, reset_less=True)
        residual = Signal(ADDRESS_BITS, reset_less=True)
        ofm = Signal(ADDRESS_BITS, reset_less=True)
        ofm_row = Signal(ADDRESS_BITS, reset_less=True)
        state = {
            name: Signal(now[name].shape(), name=name, reset_less=True)
            for name in (
                "row", "col", "row_offset", "block", "residual", "pixel", "fraction_h", "ofm",
                "ofm_lane",
            )
        }  # fmt: skip
        m.d.comb += [now[name].eq(signal) for name, signal in state.items()]

        # Steps from row to row. For resize they depend on the fraction, and are registered, twice:
        # a row lasts eight beats.
        carry_h = Signal(signed(FRACTION_BITS + 2), reset_less=True)
        next_h = Signal(FRACTION_BITS, reset_less=True)
        step_h = Signal(8, reset_less=True)
        step_offset = Signal(OFFSET_BITS, reset_less=True)
        m.d.sync += [
            carry_h.eq(state["fraction_h"] + fields.step_h[:FRACTION_BITS] - fields.den_h),
            next_h.eq(Mux(carry_h[-1], carry_h + fields.den_h, carry_h)),
            step_h.eq(Mux(is_resize, ~carry_h[-1], fields.stride_h)),
            step_offset.eq(
                Mux(is_resize, Mux(carry_h[-1], 0, fields.src_cols[:12]), self.row_step)
            ),
        ]
        next_row = (row + step_h)[:POSITION_BITS].as_signed()
        next_offset = (row_offset + step_offset)[:OFFSET_BITS]
        next_col = (col + course.col_step)[:POSITION_BITS].as_signed()
        next_ofm = (ofm_row + fields.ofm_row_step)[:ADDRESS_BITS]

        # Rows.
        with m.If(move.top):
            m.d.sync += [
                row.eq(_merge((move.begin, fields.offset_h), (move.row, next_row))),
                row_offset.eq(_merge((move.begin, self.row_start), (move.row, next_offset))),
                state["fraction_h"].eq(_merge((move.begin, fields.frac_h), (move.row, next_h))),
            ]
        same_row = move.up | move.col | move.glide
        with m.If(move.rows):
            m.d.sync += [
                state["row"].eq(
                    _merge(
                        (move.begin, fields.offset_h),
                        (move.row, next_row),
                        (move.below, state["row"] + 1),
                        (same_row, row),
                    )
                ),
                state["row_offset"].eq(
                    _merge(
                        (move.begin, self.row_start),
                        (move.row, next_offset),
                        (move.below, state["row_offset"] + fields.src_cols[:12]),
                        (same_row, row_offset),
                    )
                ),
            ]

        # Columns. resize goes on from the right column, where the last beat was.
        with m.If(move.output):
            m.d.sync += col.eq(Mux(move.top, fields.offset_w, next_col))
        with m.If(move.cols):
            m.d.sync += state["col"].eq(
                _merge(
                    (move.top, fields.offset_w),
                    (move.col, next_col),
                    (move.ahead, state["col"] + course.forward),
                    (move.back, col),
                )
            )

        # Channel blocks of the source, and the residual.
        next_source = _sticky_add(source, fields.src_plane)
        with m.If(move.load | move.block):
            m.d.sync += source.eq(Mux(move.load, fields.src_base, next_source))
        with m.If(move.blocks):
            m.d.sync += state["block"].eq(
                _merge(
                    (move.load, fields.src_base),
                    (move.block, next_source),
                    (move.source, source),
                    (move.channels, _sticky_add(state["block"], fields.src_plane)),
                )
            )
        next_residual = _sticky_add(residual, fields.res_plane)
        with m.If(move.load | move.block):
            m.d.sync += residual.eq(Mux(move.load, fields.res_base, next_residual))
        with m.If(move.output):
            m.d.sync += state["residual"].eq(
                _merge(
                    (move.load, fields.res_base),
                    (move.block, next_residual),
                    (move.group, residual),
                    (move.beside, state["residual"] + 1),
                )
            )

        # The accumulator and the output.
        lane = state["ofm_lane"]
        lane_last = lane == R - 1
        ofm_step = Mux(is_argmax, lane_last, fields.ofm_col_step)
        next_block = _sticky_add(ofm, fields.ofm_plane)
        with m.If(move.load | move.block):
            m.d.sync += ofm.eq(Mux(move.load, fields.ofm_base, next_block))
        with m.If(move.top):
            m.d.sync += ofm_row.eq(
                _merge(
                    (move.load, fields.ofm_base),
                    (move.block, next_block),
                    (move.group, ofm),
                    (move.row, next_ofm),
                )
            )
        with m.If(move.output):
            m.d.sync += [
                state["pixel"].eq(Mux(move.beside, state["pixel"] + 1, 0)),
                state["ofm"].eq(
                    _merge(
                        (move.load, fields.ofm_base),
                        (move.block, next_block),
                        (move.group, ofm),
                        (move.row, next_ofm),
                        (move.col | move.glide, state["ofm"] + ofm_step),
                    )
                ),
            ]
        with m.If(~is_argmax):
            m.d.sync += lane.eq(course.group * L)
        with m.Elif(move.output):
            m.d.sync += lane.eq(Mux(move.top | lane_last, 0, lane + 1))
