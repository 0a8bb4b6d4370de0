"""Walks through chunks, output pixels and window taps with counters and adders alone."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
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

    def reload(self) -> list:
        """Return the statements that begin the loop; needs ``count`` stable for one cycle."""
        return [self.left.eq(self.count), self.last.eq(self.single)]

    def advance(self) -> list:
        """Return the statements that go on to the next iteration."""
        return [self.left.eq(self.left - 1), self.last.eq(self.left == 2)]


def _sticky_add(address: Value, step: Value) -> Value:
    """Return ``address + step`` where the highest bit, once set, stays: beyond is beyond."""
    total = address[: ADDRESS_BITS - 1] + step
    return Cat(total[: ADDRESS_BITS - 1], total[ADDRESS_BITS - 1] | address[ADDRESS_BITS - 1])


class Walker(wiring.Component):
    """The loops of an instruction: chunk, output row, output column, window row, window column.

    ``fields`` must be stable from four cycles before ``load``. In the cycle after ``load``,
    ``position`` is the first beat; each ``step`` goes on by one, and the beat with
    ``position.last`` is the instruction's last. A beat is a source vector: one per output for
    *drain*, one per window tap for *max* and *sum* (and one more for the residual of a sum, after
    the taps), one per R channels for *argmax*.

    *resize* goes along an output row with two source columns, left and right of the output. Eight
    beats begin a row: the four neighbours with their weights, which are the first output, and the
    four once more with the vertical factor alone, from which the columns follow. Each other output
    is one beat, ``still``; or two, the top and the bottom of the next column, where that comes into
    sight. ``steps`` say by how many 1 / den_w of the way from left to right the output moves with
    the beat, before the next column (0 to 2).

    Members
    -------
    fields
        The instruction.
    row_start, row_step
        ``offset_h * src_cols`` and ``stride_h * src_cols``, modulo 2**24; ``row_step`` not for
        *resize*.
    load, step
        Begin; go on.
    position
        :func:`position_layout`, from registers.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "fields": In(instruction_layout(isa.VECTOR)),
                "row_start": In(OFFSET_BITS),
                "row_step": In(OFFSET_BITS),
                "load": In(1),
                "step": In(1),
                "position": Out(position_layout(config)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, fields, now = self.config, self.fields, self.position
        R, L = config.R, config.drain_lanes
        groups = R // L
        top_left, right_top, all_done = 0, 6, 7  # beats of a row that begins, for resize

        # What follows from the function alone, from registers.
        is_resize = Signal(reset_less=True)
        is_argmax = Signal(reset_less=True)
        has_residual = Signal(reset_less=True)  # a beat of its own
        taps_h = Signal(8, reset_less=True)
        taps_w = Signal(8, reset_less=True)
        chunk_count = Signal(16, reset_less=True)
        group_start = Signal(now.group.shape(), reset_less=True)
        m.d.sync += [
            is_resize.eq(fields.function == Function.RESIZE),
            is_argmax.eq(fields.function == Function.ARGMAX),
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
        few_channels = Signal(reset_less=True)
        channels_end = Signal(reset_less=True)
        remaining_next = Signal(signed(17))
        m.d.sync += few_channels.eq(fields.channels <= R)
        m.d.comb += remaining_next.eq(now.remaining - R)

        # Where the output begins (tap 0), the first row and column, the chunk's first vectors.
        row = Signal(signed(POSITION_BITS), reset_less=True)
        col = Signal(signed(POSITION_BITS), reset_less=True)
        row_offset = Signal(OFFSET_BITS, reset_less=True)
        source = Signal(ADDRESS_BITS, reset_less=True)
        residual = Signal(ADDRESS_BITS, reset_less=True)
        ofm = Signal(ADDRESS_BITS, reset_less=True)
        ofm_row = Signal(ADDRESS_BITS, reset_less=True)
        group = Signal(now.group.shape(), reset_less=True)
        state = Signal(position_layout(config), reset_less=True)

        # Steps from output to output. For resize they depend on the fraction. Those of rows are
        # registered, twice: a row lasts eight beats.
        carry_h = Signal(signed(FRACTION_BITS + 2), reset_less=True)
        next_h = Signal(FRACTION_BITS, reset_less=True)
        step_h, step_w = Signal(8, reset_less=True), Signal(8, reset_less=True)
        step_offset = Signal(OFFSET_BITS, reset_less=True)
        m.d.sync += [
            carry_h.eq(state.fraction_h + fields.step_h[:FRACTION_BITS] - fields.den_h),
            next_h.eq(Mux(carry_h[-1], carry_h + fields.den_h, carry_h)),
            step_h.eq(Mux(is_resize, ~carry_h[-1], fields.stride_h)),
            step_offset.eq(
                Mux(is_resize, Mux(carry_h[-1], 0, fields.src_cols[:12]), self.row_step)
            ),
        ]

        # Those of columns are known an output ahead: the fraction after the step, and in ``step_w``
        # whether it leaves the column.
        next_w, first_next_w = Signal(8, reset_less=True), Signal(8, reset_less=True)
        first_step_w = Signal(reset_less=True)
        backward = Signal(signed(10), reset_less=True)
        m.d.sync += backward.eq(fields.step_w[:2] - fields.den_w)

        def stepped(fraction):
            """Return the fraction a step on, and whether the column is another."""
            reduced = Signal(signed(10))
            m.d.comb += reduced.eq(fraction + backward)
            forward = (fraction + fields.step_w[:2])[:8]
            return Mux(reduced[-1], forward, reduced[:8]), ~reduced[-1]

        later_w, later_step_w = stepped(next_w)
        begin_w, begin_step_w = stepped(fields.frac_w)
        m.d.sync += [first_next_w.eq(begin_w), first_step_w.eq(begin_step_w)]
        with m.If(~is_resize):
            m.d.sync += step_w.eq(fields.stride_w)

        # resize: the beat of a row's first output; the others begin near its end.
        beat = Signal(3, reset_less=True)
        new_column = Signal(reset_less=True)

        in_residual = Signal(reset_less=True)
        window_end, output_end = Signal(), Signal()
        m.d.comb += [
            window_end.eq(window_rows.last & window_cols.last),
            output_end.eq(Mux(has_residual, in_residual, window_end)),
            now.eq(state),
            now.is_residual.eq(in_residual),
            now.bottom.eq(beat[0]),
            now.right.eq(beat[1]),
            now.vertical.eq(is_resize & beat[2]),
            now.output_last.eq(output_end),
            now.last.eq(output_end & cols.last & rows.last & chunks.last),
        ]

        with m.If(is_argmax):
            m.d.comb += output_end.eq(channels_end)
        with m.Elif(is_resize):
            m.d.comb += output_end.eq(beat == all_done)

        def begin_output(row, col, row_offset, source, group):
            return [
                state.row.eq(row),
                state.col.eq(col),
                state.row_offset.eq(row_offset),
                state.block.eq(source),
                state.group.eq(group),
                state.remaining.eq(fields.channels),
                channels_end.eq(few_channels),
                state.output_first.eq(1),
                in_residual.eq(0),
                window_rows.reload(),
                window_cols.reload(),
            ]

        def begin_row():
            return [
                cols.reload(),
                state.fraction_w.eq(fields.frac_w),
                next_w.eq(first_next_w),
                beat.eq(top_left),
                new_column.eq(0),
                state.still.eq(0),
                state.steps.eq(0),
            ]

        def begin_chunk(group_value, source_value, residual_value, ofm_value):
            return [
                begin_output(
                    fields.offset_h, fields.offset_w, self.row_start, source_value, group_value
                ),
                begin_row(),
                rows.reload(),
                row.eq(fields.offset_h),
                col.eq(fields.offset_w),
                row_offset.eq(self.row_start),
                state.fraction_h.eq(fields.frac_h),
                state.pixel.eq(0),
                group.eq(group_value),
                source.eq(source_value),
                residual.eq(residual_value),
                state.residual.eq(residual_value),
                ofm.eq(ofm_value),
                ofm_row.eq(ofm_value),
                state.ofm.eq(ofm_value),
                state.ofm_lane.eq(Mux(is_argmax, 0, group_value * L)),
                state.chunk_first.eq(1),
            ]

        with m.If(self.load):
            m.d.sync += [
                begin_chunk(group_start, fields.src_base, fields.res_base, fields.ofm_base),
                chunks.reload(),
                state.chunk.eq(0),
            ]
            with m.If(is_resize):
                m.d.sync += step_w.eq(first_step_w)
        with m.Elif(self.step):
            with m.If(is_resize & output_end):
                m.d.sync += step_w.eq(Mux(cols.last, first_step_w, later_step_w))
            m.d.sync += [state.chunk_first.eq(0), state.output_first.eq(0)]
            with m.If(~output_end):
                m.d.sync += in_residual.eq(has_residual & window_end)
                below = [
                    state.row.eq(state.row + 1),
                    state.row_offset.eq(state.row_offset + fields.src_cols[:12]),
                ]
                with m.If(is_argmax):
                    m.d.sync += [
                        state.remaining.eq(remaining_next),
                        channels_end.eq(remaining_next <= R),
                        state.block.eq(_sticky_add(state.block, fields.src_plane)),
                    ]
                with m.Elif(is_resize):
                    m.d.sync += [
                        beat.eq(beat + 1),
                        # After the steps that led to the new column, those that led beyond it.
                        state.steps.eq(Mux(new_column, state.fraction_w[0], 0)),
                    ]
                    with m.If(~beat[0]):
                        m.d.sync += below
                    with m.Else():
                        m.d.sync += [
                            state.row.eq(row),
                            state.row_offset.eq(row_offset),
                            state.col.eq(Mux(beat[1], col, state.col + 1)),
                        ]
                with m.Elif(~window_cols.last):
                    m.d.sync += [window_cols.advance(), state.col.eq(state.col + 1)]
                with m.Else():
                    m.d.sync += [window_cols.reload(), window_rows.advance(), state.col.eq(col)]
                    m.d.sync += below
            with m.Elif(~cols.last):
                next_col = (col + step_w)[:POSITION_BITS].as_signed()
                m.d.sync += [
                    begin_output(row, next_col, row_offset, source, group),
                    cols.advance(),
                    col.eq(next_col),
                    state.pixel.eq(state.pixel + 1),
                    state.residual.eq(state.residual + 1),
                ]
                with m.If(is_resize):
                    m.d.sync += [
                        state.output_first.eq(0),
                        state.fraction_w.eq(next_w),
                        next_w.eq(later_w),
                        new_column.eq(step_w[0]),
                        state.still.eq(~step_w[0]),
                        # From the right column, where the last beat was.
                        state.col.eq(state.col + step_w[0]),
                        beat.eq(Mux(step_w[0], right_top, all_done)),
                        # A step is 2 / den_w at most: behind the new column it is 0 or 1.
                        state.steps.eq(fields.step_w[:2] - (step_w[0] & next_w[0])),
                    ]
                with m.If(~is_argmax):
                    m.d.sync += state.ofm.eq(state.ofm + fields.ofm_col_step)
                with m.Elif(state.ofm_lane == R - 1):
                    m.d.sync += [state.ofm_lane.eq(0), state.ofm.eq(state.ofm + 1)]
                with m.Else():
                    m.d.sync += state.ofm_lane.eq(state.ofm_lane + 1)
            with m.Elif(~rows.last):
                next_row = (row + step_h)[:POSITION_BITS].as_signed()
                next_offset = (row_offset + step_offset)[:OFFSET_BITS]
                next_ofm = (ofm_row + fields.ofm_row_step)[:ADDRESS_BITS]
                m.d.sync += [
                    begin_output(next_row, fields.offset_w, next_offset, source, group),
                    begin_row(),
                    rows.advance(),
                    row.eq(next_row),
                    row_offset.eq(next_offset),
                    col.eq(fields.offset_w),
                    state.fraction_h.eq(next_h),
                    state.pixel.eq(state.pixel + 1),
                    state.residual.eq(state.residual + 1),
                    ofm_row.eq(next_ofm),
                    state.ofm.eq(next_ofm),
                ]
                with m.If(is_argmax):
                    m.d.sync += state.ofm_lane.eq(0)
            with m.Else():
                m.d.sync += [chunks.advance(), state.chunk.eq(state.chunk + 1)]
                with m.If(group == groups - 1):
                    m.d.sync += begin_chunk(
                        0,
                        _sticky_add(source, fields.src_plane),
                        _sticky_add(residual, fields.res_plane),
                        _sticky_add(ofm, fields.ofm_plane),
                    )
                with m.Else():
                    m.d.sync += begin_chunk((group + 1)[: len(group)], source, residual, ofm)
        return m
