"""Walks through chunks, output pixels and window taps with counters and adders alone."""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Function
from intaglio_hw.interfaces import instruction_layout
from intaglio_hw.vector.beats import (
    ADDRESS_BITS,
    FRACTION_BITS,
    INDEX_BITS,
    OFFSET_BITS,
    delay,
    position_layout,
)
from intaglio_hw.vector.loops import Loop, index_ahead, index_of, sticky_add

__all__ = ["Walker"]


#: What a step moves, a cycle later: ``begin`` a chunk; ``top`` of an output row (or of a chunk);
#: ``output``, the next one, at its ``first_col`` unless resize goes on; inside of an output, one
#: window row ``down`` or to the ``first_row``, one column ``right`` or ``back`` to the first one;
#: ``channels``, to the next block of them.
_MOVE = data.StructLayout(
    dict.fromkeys(
        (
            "begin", "top", "output", "down", "first_row", "right", "first_col", "back", "channels",
        ),
        1,
    )
)  # fmt: skip


class _Course(NamedTuple):
    """What the counters tell: ``move`` (_MOVE) and ``col_step``, the columns to the next output, of
    the last step; ``enters``, where a chunk begins or nothing is under way; ``group`` of lanes a
    cycle ago.
    """

    move: Signal
    enters: Signal
    col_step: Signal
    group: Signal
    group_last: Signal


class _Glide(NamedTuple):
    """How *resize* goes on after an output of a row: ``to_still`` between the same columns, or
    ``to_column``, the next one. ``beat`` counts those of a row's first output; else it is 0.
    """

    is_resize: Signal
    to_still: Signal
    to_column: Signal
    beat: Signal


class Walker(wiring.Component):
    """The loops of an instruction: chunk, output row, output column, window row, window column.

    ``fields`` must be stable from five cycles before the first step, during which the walker has to
    ``rest``. That step leads to the first beat, each further ``step`` to the next one; the beat
    with ``last`` is the instruction's last. Its ``position`` follows LATENCY cycles behind. A beat
    is a source vector: one per output for *drain*, one per window tap for *max* and *sum* (and one
    more for the residual of a sum, after the taps), one per R channels for *argmax*. From the first
    beat of a chunk to that of the next there must be at least MIN_CHUNK cycles.

    *resize* goes along an output row with two source columns, left and right of the output. Eight
    beats begin a row: the four neighbours with their weights, which are the first output, and the
    four once more with the vertical factor alone, from which the columns follow. Each other output
    is one beat, ``still``; or two, the top and the bottom of the next column, where that comes into
    sight. ``steps`` say by how many 1 / den_w of the way from left to right the output moves with
    the beat, before the next column (0 to 2).

    The counters, which decide how to go on, are a stage of their own. A cycle later follow the
    places where the output begins and the distances from there, and in the next cycle their sums.

    Members
    -------
    fields
        The instruction.
    row_start, row_step
        ``offset_h * src_cols`` and ``stride_h * src_cols``, modulo 2**24, from the first step on;
        ``row_step`` not for *resize*.
    rest, rest_ahead
        No instruction is under way: steps mean nothing. What it will be in the next cycle.
    step
        Go on.
    chunk_first, chunk_last, last
        The beat is the first, the last of its chunk, the last of the instruction. Before the first
        beat ``chunk_last`` is high, ``chunk_first`` low.
    position
        :func:`position_layout` of the beat of LATENCY cycles ago, from registers.
    """

    LATENCY = 2
    #: Fewest cycles of a chunk: where the next one begins in the buffers is known by then.
    MIN_CHUNK = 3

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "fields": In(instruction_layout(isa.VECTOR)),
                "row_start": In(OFFSET_BITS),
                "row_step": In(OFFSET_BITS),
                "rest": In(1),
                "rest_ahead": In(1),
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
        self._follow_source(m, course, is_resize, is_argmax)
        pixel = self._follow_output(m, course, is_argmax)
        self._follow_chunks(m, course, pixel, is_argmax)
        return m

    def _taps(self, m: Module, is_argmax: Signal) -> tuple[Signal, Signal]:
        """Return rows and columns of the window. The channels of *argmax* are rows."""
        fields = self.fields
        select_bits = self.config.R.bit_length() - 1
        is_window = Signal(reset_less=True)
        blocks = Signal(17 - select_bits, reset_less=True)
        taps_h = Signal(len(blocks), reset_less=True)
        taps_w = Signal(8, reset_less=True)
        m.d.sync += [
            is_window.eq((fields.function == Function.MAX) | (fields.function == Function.SUM)),
            blocks.eq((fields.channels + (self.config.R - 1))[select_bits:]),
            taps_h.eq(Mux(is_argmax, blocks, Mux(is_window, fields.kernel_h, 1))),
            taps_w.eq(Mux(is_window, fields.kernel_w, 1)),
        ]
        return taps_h, taps_w

    def _count(self, m: Module, is_resize: Signal, is_argmax: Signal) -> _Course:
        """Add the counters; return registers that tell how they went on."""
        config, fields, now, step = self.config, self.fields, self.position, self.step
        R, L = config.R, config.drain_lanes
        groups = R // L

        # What follows from the fields alone, from registers.
        has_residual = Signal(reset_less=True)  # a beat of its own
        chunk_count = Signal(16, reset_less=True)
        group_before = Signal(now.group.shape(), reset_less=True)  # the first one's predecessor
        taps_h, taps_w = self._taps(m, is_argmax)
        m.d.sync += [
            has_residual.eq((fields.function == Function.SUM) & fields.residual[0]),
            chunk_count.eq(Mux(is_argmax, 1, fields.chunks)),
            group_before.eq(
                Mux(is_argmax, 0, fields.lane >> (L.bit_length() - 1)) - 1 if groups > 1 else 0
            ),
        ]
        chunks = Loop(m, "chunk", chunk_count, bits=16, ahead=1)
        rows = Loop(m, "row", fields.out_rows, bits=12)
        cols = Loop(m, "col", fields.out_cols, bits=12)
        window_rows = Loop(m, "window_row", taps_h, bits=len(taps_h))
        window_cols = Loop(m, "window_col", taps_w, bits=8)

        # How to go on after an output, one-hot, and after which beat: formed a step ahead.
        to_col, to_row = Signal(reset_less=True), Signal(reset_less=True)
        # What rest sets is set from the start, as a register of the chip can do only one of both.
        to_chunk, in_last_chunk = Signal(init=1, reset_less=True), Signal(reset_less=True)
        output_end = Signal(init=1, reset_less=True)
        row_end = Signal(init=1, reset_less=True)  # the row's, too: output_end & ~to_col
        col_last, row_last = Signal(), Signal()  # of the next output
        m.d.comb += [
            col_last.eq(Mux(to_col, cols.near, cols.single)),
            row_last.eq(Mux(to_col, rows.last, Mux(to_row, rows.near, rows.single))),
            self.chunk_last.eq(output_end & to_chunk),
            self.last.eq(output_end & to_chunk & in_last_chunk),
        ]
        with m.If(self.rest):
            m.d.sync += [to_col.eq(0), to_row.eq(0), to_chunk.eq(1), self.chunk_first.eq(0)]
        with m.Elif(step & output_end):
            m.d.sync += [
                to_col.eq(~col_last),
                to_row.eq(col_last & ~row_last),
                to_chunk.eq(col_last & row_last),
                self.chunk_first.eq(to_chunk),
            ]
        with m.Elif(step):
            m.d.sync += self.chunk_first.eq(0)
        with m.If(step & output_end):
            m.d.sync += cols.move(~to_col)
        with m.If(step & row_end):
            m.d.sync += rows.move(to_chunk)
        with m.If(step & output_end & to_chunk):
            m.d.sync += in_last_chunk.eq(chunks.near)

        # The same once more for what goes on inside of an output: each has a table less to reach.
        inside = Signal(reset_less=True)
        glide = self._glide(m, is_resize, ~inside, to_col, col_last)
        move, ends = self._count_taps(
            m, glide, is_argmax, has_residual, window_rows, window_cols, output_end, inside
        )
        with m.If(self.rest):
            m.d.sync += row_end.eq(1)
        with m.Elif(step):
            m.d.sync += row_end.eq(ends & Mux(inside, ~to_col, col_last))
        col_step = Signal(8, reset_less=True)
        m.d.sync += [
            move.top.eq(step & row_end),
            move.output.eq(step & output_end),
            col_step.eq(Mux(is_resize, glide.to_column, fields.stride_w)),
        ]

        begins = step & output_end & to_chunk & ~self.rest
        enters = Signal(init=1)  # at rest, or ``begin``
        m.d.sync += [move.begin.eq(begins), enters.eq(self.rest_ahead | begins)]

        # Chunks have time: their counters follow a cycle later.
        chunk = Signal(now.chunk.shape(), reset_less=True)
        group, next_group = (
            Signal(now.group.shape(), name=name, reset_less=True)
            for name in ("group", "next_group")
        )
        group_last = Signal(reset_less=True)
        if groups > 1:
            m.d.comb += next_group.eq(Mux(self.rest, group_before, group + 1))
        with m.If(enters):
            m.d.sync += [
                chunks.move(self.rest),
                chunk.eq(Mux(self.rest, -1, chunk + 1)),
                group.eq(next_group),
                group_last.eq(next_group == groups - 1),
            ]
        for name, value in {"group": group, "chunk": chunk}.items():
            m.d.comb += now[name].eq(delay(m, value, self.LATENCY - 1, name=name))
        for name, value in {"chunk_first": self.chunk_first, "output_last": output_end}.items():
            m.d.comb += now[name].eq(delay(m, value, self.LATENCY, name=name))
        return _Course(move, enters, col_step, group, group_last)

    def _count_taps(
        self, m: Module, glide: _Glide, is_argmax, has_residual, rows, cols, output_end, inside
    ) -> tuple[Signal, Signal]:
        """Add the counters of the beats of an output; return ``move``, and whether the next beat is
        the output's last one.
        """
        now, step, beat = self.position, self.step, glide.beat
        # ``next_end`` is the next tap's: the last row has one column, or its last is the next.
        one_tap, one_beat = Signal(reset_less=True), Signal(reset_less=True)
        other_end, in_residual = Signal(reset_less=True), Signal(reset_less=True)
        output_first = Signal(reset_less=True)
        next_end, ends, over = Signal(), Signal(), ~inside
        m.d.sync += [
            one_tap.eq(rows.single & cols.single),
            one_beat.eq(rows.single & cols.single & ~has_residual & ~glide.is_resize),
        ]
        m.d.comb += next_end.eq(Mux(cols.single, rows.near, cols.near & rows.last))
        m.d.comb += ends.eq(
            Mux(over, one_beat | glide.to_still, other_end | (next_end & ~has_residual))
        )
        with m.If(self.rest):
            m.d.sync += [output_end.eq(1), inside.eq(0)]
        with m.Elif(step):
            m.d.sync += [output_end.eq(ends), inside.eq(~ends)]
        with m.If(step):
            m.d.sync += [
                # The residual comes after the last tap; resize ends after beat 6, with which an
                # output with a new column begins.
                other_end.eq(
                    Mux(
                        over,
                        (has_residual & one_tap) | glide.to_column,
                        (has_residual & next_end) | (beat == 5),
                    )
                ),
                in_residual.eq(~over & has_residual & other_end),
                output_first.eq(over & ~glide.to_still & ~glide.to_column),
                cols.move(over | cols.last),
            ]
        with m.If(step & (over | cols.last)):
            m.d.sync += rows.move(over)

        move = Signal(_MOVE, reset_less=True)
        inner = step & ~over
        m.d.sync += [
            move.down.eq(inner & ~is_argmax & cols.last & ~beat[0]),
            move.first_row.eq(step & (over | beat[0])),
            move.right.eq(inner & (~cols.last | (beat[0] & ~beat[1]))),
            move.first_col.eq(step & over & ~glide.to_still & ~glide.to_column),
            move.back.eq(inner & cols.last & (~glide.is_resize | (beat[0] & beat[1]))),
            move.channels.eq(inner),
        ]
        for name, value in {"is_residual": in_residual, "output_first": output_first}.items():
            m.d.comb += now[name].eq(delay(m, value, self.LATENCY, name=name))
        return move, ends

    def _glide(self, m: Module, is_resize, over, to_col, col_last) -> _Glide:
        """Add the steps of *resize* from column to column, and its beats in a row.

        Columns are known two outputs ahead: ``next_w`` is the fraction after the next step, and the
        sign of ``reduced``, a step on and less ``den_w``, whether the step after that stays in its
        column. If not, it is 0 or 1, the new fraction, as a step is 2 at most.
        """
        fields, now, step = self.fields, self.position, self.step
        step_w = fields.step_w[:2]
        backward, reduced, first, second = (
            Signal(signed(10), name=name, reset_less=True)
            for name in ("backward", "reduced", "first_reduced", "second_reduced")
        )
        fraction_w, next_w, first_next_w, first_forward = (
            Signal(8, name=name, reset_less=True)
            for name in ("fraction_w", "next_w", "first_next_w", "first_forward")
        )
        # ``reduced`` of the fractions 0 and 1 is known: only within a column there is a sum.
        backward_1 = Signal(signed(10), reset_less=True)
        to_still, to_column = Signal(reset_less=True), Signal(reset_less=True)
        new_column, still = Signal(reset_less=True), Signal(reset_less=True)
        beat, steps = Signal(3, reset_less=True), Signal(2, reset_less=True)
        m.d.sync += [
            backward.eq(step_w - fields.den_w),
            backward_1.eq(backward + 1),
            first.eq(fields.frac_w + backward),
            first_forward.eq(fields.frac_w + step_w),
            first_next_w.eq(Mux(first[-1], first_forward, first[:8])),
            second.eq(first_next_w + backward),
        ]
        stays = Mux(to_col, reduced[-1], first[-1])
        with m.If(self.rest):
            m.d.sync += [to_still.eq(0), to_column.eq(0)]
        with m.Elif(step & over & is_resize):
            m.d.sync += [to_still.eq(~col_last & stays), to_column.eq(~col_last & ~stays)]
        with m.If(step & over & is_resize):
            m.d.sync += [
                fraction_w.eq(Mux(to_col, next_w, fields.frac_w)),
                next_w.eq(Mux(to_col, Mux(reduced[-1], next_w + step_w, reduced[0]), first_next_w)),
                reduced.eq(
                    Mux(
                        to_col & reduced[-1],
                        reduced + step_w,
                        Mux(to_col, Mux(reduced[0], backward_1, backward), second),
                    )
                ),
                new_column.eq(to_column),
            ]
        with m.If(step & over):
            m.d.sync += still.eq(to_still)
        with m.If(step):
            m.d.sync += [
                # A step is 2 / den_w at most: behind the new column it is 0 or 1. After the steps
                # that led to the new column come those that led beyond it.
                steps.eq(
                    Mux(
                        over,
                        Mux(to_still | to_column, step_w - (to_column & next_w[0]), 0),
                        new_column & fraction_w[0],
                    )
                ),
                # A row's first output takes all beats, a new column the last two of them.
                beat.eq(
                    Mux(
                        over,
                        Cat(to_still, (to_still | to_column).replicate(2)),
                        beat + is_resize,
                    )
                ),
            ]
        for name, value in {
            "fraction_w": fraction_w,
            "bottom": beat[0],
            "right": beat[1],
            "vertical": beat[2],
            "still": still,
            "steps": steps,
        }.items():
            m.d.comb += now[name].eq(delay(m, value, self.LATENCY, name=name))
        return _Glide(is_resize, to_still, to_column, beat)

    def _follow_source(
        self, m: Module, course: _Course, is_resize: Signal, is_argmax: Signal
    ) -> None:
        """Add where the output begins in the source, and the way from there to the tap."""
        move, fields, now = course.move, self.fields, self.position
        row, col = (Signal(INDEX_BITS + 2, name=name, reset_less=True) for name in ("row", "col"))
        fraction_h = Signal(FRACTION_BITS, reset_less=True)

        # Steps from row to row. For resize they depend on the fraction, and are registered, twice:
        # a row lasts eight beats.
        backward_h, carry_h = (
            Signal(signed(FRACTION_BITS + 2), name=name, reset_less=True)
            for name in ("backward_h", "carry_h")
        )
        forward_h, next_h = (
            Signal(FRACTION_BITS, name=name, reset_less=True) for name in ("forward_h", "next_h")
        )
        step_h = Signal(8, reset_less=True)
        step_offset = Signal(OFFSET_BITS, reset_less=True)
        m.d.sync += [
            backward_h.eq(fields.step_h[:FRACTION_BITS] - fields.den_h),
            carry_h.eq(fraction_h + backward_h),
            forward_h.eq(fraction_h + fields.step_h),
            next_h.eq(Mux(carry_h[-1], forward_h, carry_h)),
            step_h.eq(Mux(is_resize, ~carry_h[-1], fields.stride_h)),
            step_offset.eq(
                Mux(is_resize, Mux(carry_h[-1], 0, fields.src_cols[:12]), self.row_step)
            ),
        ]
        with m.If(move.top):
            m.d.sync += [
                row.eq(Mux(move.begin, index_of(fields.offset_h), index_ahead(row, step_h))),
                fraction_h.eq(Mux(move.begin, fields.frac_h, next_h)),
            ]
        with m.If(move.output):
            m.d.sync += col.eq(
                Mux(move.top, index_of(fields.offset_w), index_ahead(col, course.col_step))
            )

        # The tap. resize stays at the right column when it goes on: there the last beat was.
        tap_row, tap_col = Signal(8, reset_less=True), Signal(8, reset_less=True)
        tap_offset = Signal(OFFSET_BITS, reset_less=True)
        with m.If(move.first_row):
            m.d.sync += [tap_row.eq(0), tap_offset.eq(0)]
        with m.Elif(move.down):
            m.d.sync += [
                tap_row.eq(tap_row + 1),
                tap_offset.eq(tap_offset + fields.src_cols[:12]),
            ]
        with m.If(move.first_col | move.back):
            m.d.sync += tap_col.eq(0)
        with m.Elif(move.right):
            m.d.sync += tap_col.eq(tap_col + 1)
        place = {
            name: Signal(INDEX_BITS + 2, name=f"{name}_sum", reset_less=True)
            for name in ("row", "col")
        }
        m.d.sync += [
            place["row"].eq(index_ahead(row, tap_row)),
            place["col"].eq(index_ahead(col, tap_col)),
        ]
        m.d.comb += [now[name].eq(signal) for name, signal in place.items()]
        m.d.comb += now.fraction_h.eq(delay(m, fraction_h, 1, name="fraction_h"))
        self._follow_offset(m, move, step_offset, tap_offset)

    def _follow_offset(
        self, m: Module, move: Signal, step_offset: Signal, tap_offset: Signal
    ) -> None:
        """Add ``row * src_cols``, in halves: the upper one is a cycle behind, the position has it a
        cycle later.
        """
        half = OFFSET_BITS // 2
        start, now = self.row_start, self.position
        low, high, high_tap = (
            Signal(half, name=f"row_offset_{name}", reset_less=True)
            for name in ("low", "high", "high_tap")
        )
        carry, low_sum = Signal(reset_less=True), Signal(half + 1, reset_less=True)
        top, begin = Signal(reset_less=True), Signal(reset_less=True)
        total = (low + step_offset[:half])[: half + 1]
        with m.If(move.top):
            m.d.sync += [
                low.eq(Mux(move.begin, start[:half], total[:half])),
                carry.eq(~move.begin & total[half]),
            ]
        m.d.sync += [
            top.eq(move.top),
            begin.eq(move.begin),
            low_sum.eq(low + tap_offset[:half]),
            high_tap.eq(tap_offset[half:]),
        ]

        def plus(a: Value, b: Value, carry: Value) -> Value:
            """Return the sum with a carry, which enters through a bit below."""
            return (Cat(Const(1, 1), a) + Cat(carry, b))[1 : half + 1]

        with m.If(top):
            m.d.sync += high.eq(Mux(begin, start[half:], plus(high, step_offset[half:], carry)))
        high_sum = Signal(half, reset_less=True)
        m.d.sync += high_sum.eq(plus(high, high_tap, low_sum[half]))
        m.d.comb += [now.offset_low.eq(low_sum[:half]), now.offset_high.eq(high_sum)]

    def _follow_output(self, m: Module, course: _Course, is_argmax: Signal) -> Signal:
        """Add where the output is behind the chunk's first vector in OFM; return its number."""
        move, fields, now = course.move, self.fields, self.position
        R, L = self.config.R, self.config.drain_lanes
        pixel, ofm_row, ofm_col, ofm = (
            Signal(ADDRESS_BITS, name=name, reset_less=True)
            for name in ("pixel", "ofm_row", "ofm_col", "ofm")
        )
        lane = Signal(now.ofm_lane.shape(), reset_less=True)
        lane_last = Signal(reset_less=True)
        col_step = Signal(8, reset_less=True)
        m.d.sync += col_step.eq(Mux(is_argmax, 0, fields.ofm_col_step))
        with m.If(move.output):
            m.d.sync += pixel.eq(Mux(move.begin, 0, pixel + 1))
        with m.If(move.top):
            m.d.sync += ofm_row.eq(Mux(move.begin, 0, ofm_row + fields.ofm_row_step))
        with m.If(move.output):
            m.d.sync += ofm_col.eq(
                Mux(move.top, 0, ofm_col + Cat(col_step[0] | lane_last, col_step[1:]))
            )
        with m.If(move.output):
            # The lanes of a vector are a power of two.
            m.d.sync += [
                lane.eq(Mux(move.top, 0, lane + 1)),
                lane_last.eq(is_argmax & ~move.top & (lane == R - 2)),
            ]
        ofm_lane = Signal.like(lane, name="ofm_lane", reset_less=True)
        m.d.sync += [
            ofm.eq(ofm_row + ofm_col),
            ofm_lane.eq(Mux(is_argmax, lane, course.group * L)),
        ]
        m.d.comb += [
            now.pixel.eq(delay(m, pixel, 1, name="pixel")),
            now.ofm.eq(ofm),
            now.ofm_lane.eq(ofm_lane),
        ]
        return pixel

    def _follow_chunks(self, m: Module, course: _Course, pixel: Signal, is_argmax: Signal) -> None:
        """Add where the chunk begins in the buffers. The next chunk's places are formed ahead."""
        move, fields, now = course.move, self.fields, self.position
        places = {}
        for name, base, plane in (
            ("source", fields.src_base, fields.src_plane),
            ("residual", fields.res_base, fields.res_plane),
            ("ofm", fields.ofm_base, fields.ofm_plane),
        ):
            place, following = (
                Signal(ADDRESS_BITS, name=f"{name}_{which}", reset_less=True)
                for which in ("base", "following")
            )
            step = Signal(16, name=f"{name}_step", reset_less=True)
            # What is beyond stays where it is.
            beyond = place[ADDRESS_BITS - 1]
            m.d.sync += [
                step.eq(Mux(course.group_last & ~beyond & ~self.rest, plane, 0)),
                following.eq(place + step),
            ]
            with m.If(course.enters):
                m.d.sync += place.eq(Mux(self.rest, base, following))
            places[name] = place

        # argmax walks through the channel blocks in each output.
        walk = Signal(ADDRESS_BITS, reset_less=True)
        with m.If(move.output | move.channels):
            m.d.sync += walk.eq(
                Mux(move.output, fields.src_base, sticky_add(walk, fields.src_plane))
            )
        block, residual = (
            Signal(ADDRESS_BITS, name=name, reset_less=True) for name in ("block", "residual")
        )
        m.d.sync += [
            block.eq(Mux(is_argmax, walk, places["source"])),
            residual.eq(places["residual"] + pixel),
        ]
        m.d.comb += [
            now.block.eq(block),
            now.residual.eq(residual),
            now.ofm_base.eq(delay(m, places["ofm"], 1, name="ofm_base")),
        ]
