"""From a position to checked addresses: padding, clamping, weights, errors."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error, Function
from intaglio_hw.arith import less
from intaglio_hw.interfaces import ERROR_BITS, address_width, instruction_layout
from intaglio_hw.primitives import Multiplier
from intaglio_hw.vector.beats import (
    ADDRESS_BITS,
    FRACTION_BITS,
    OFFSET_BITS,
    WEIGHT_BITS,
    beat_layout,
    delay,
    position_layout,
)

__all__ = ["AddressPipeline"]


class AddressPipeline(wiring.Component):
    """Turn each position into the address of its VEC vector and a checked beat.

    ``vec_addr`` is valid 3 cycles after the position, ``beat`` LATENCY = 4. A beat with an access
    outside of a buffer loses its ``valid``, and so do all after it up to the one with ``last``,
    which carries the error.

    Members
    -------
    fields
        The instruction, stable from two cycles before its first position to LATENCY after its last.
    last_row
        ``(src_rows - 1) * src_cols``, for *resize*.
    position, valid
        A beat of the walker.
    last
        The instruction ends here, with or without a valid beat.
    error
        With ``last``: an error that was found before; with ``valid``: BUFFER for an access that the
        caller knows to be outside.
    vec_addr, beat
        See above.
    aborted
        An error was found, and its ``last`` has not come by.
    """

    LATENCY = 4
    #: Cycles from a position to ``vec_addr``.
    ADDRESS_LATENCY = 3

    def __init__(self, *, config: AcceleratorConfig, family: str = "generic") -> None:
        self.config, self.family = config, family
        super().__init__(
            {
                "fields": In(instruction_layout(isa.VECTOR)),
                "last_row": In(OFFSET_BITS),
                "position": In(position_layout(config)),
                "valid": In(1),
                "last": In(1),
                "error": In(ERROR_BITS),
                "vec_addr": Out(address_width(config.vec_depth)),
                "beat": Out(beat_layout(config)),
                "aborted": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, fields, at = self.config, self.fields, self.position
        R = config.R

        is_drain, is_resize = Signal(reset_less=True), Signal(reset_less=True)
        is_argmax, is_window = Signal(reset_less=True), Signal(reset_less=True)
        bottom, right = Signal(12, reset_less=True), Signal(12, reset_less=True)
        m.d.sync += [
            is_drain.eq(fields.function == Function.DRAIN),
            is_resize.eq(fields.function == Function.RESIZE),
            is_argmax.eq(fields.function == Function.ARGMAX),
            is_window.eq((fields.function == Function.MAX) | (fields.function == Function.SUM)),
            bottom.eq(fields.src_rows[:12]),
            right.eq(fields.src_cols[:12] - 1),
        ]

        # Stage 1: inside or outside, clamped, the factors of the weight.
        below, beyond = Signal(), Signal()
        m.d.comb += [
            below.eq(~less(at.row, bottom)),
            beyond.eq(less(right, at.col)),
        ]
        row_offset_1 = Signal(OFFSET_BITS, reset_less=True)
        col_1 = Signal(12, reset_less=True)
        outside_1 = Signal(reset_less=True)
        block_1 = Signal(ADDRESS_BITS, reset_less=True)
        reads_residual = Signal()
        use_residual_1 = Signal(reset_less=True)
        factor_h_1 = Signal(FRACTION_BITS, reset_less=True)
        factor_w_1 = Signal(8, reset_less=True)
        lanes_left = Signal(R, reset_less=True)
        m.d.comb += reads_residual.eq((is_drain & fields.residual[0]) | at.is_residual)
        m.d.sync += [
            row_offset_1.eq(at.row_offset),
            col_1.eq(at.col[:12]),
            outside_1.eq(below | beyond | at.row[-1] | at.col[-1]),
            block_1.eq(Mux(reads_residual, at.residual, at.block)),
            use_residual_1.eq(reads_residual),
            lanes_left.eq(Cat(at.remaining > j for j in range(R))),
            factor_h_1.eq(~at.is_residual),
            factor_w_1.eq(1),
        ]
        with m.If(is_resize):
            m.d.sync += [
                factor_h_1.eq(Mux(at.bottom, at.fraction_h, fields.den_h - at.fraction_h)),
                factor_w_1.eq(Mux(at.right, at.fraction_w, fields.den_w - at.fraction_w)),
            ]
            with m.If(at.vertical):
                m.d.sync += factor_w_1.eq(1)
            with m.If(at.row[-1]):
                m.d.sync += row_offset_1.eq(0)
            with m.Elif(below):
                m.d.sync += row_offset_1.eq(self.last_row)
            with m.If(at.col[-1]):
                m.d.sync += col_1.eq(0)
            with m.Elif(beyond):
                m.d.sync += col_1.eq(right)

        # Stages 2 to 4: the weight.
        m.submodules.weight = weight = Multiplier(
            a_width=FRACTION_BITS + 1, b_width=9, family=self.family
        )
        assert weight.LATENCY == 4 - 1
        m.d.comb += [
            weight.a.eq(factor_h_1),
            weight.b.eq(factor_w_1),
            weight.enable.eq(1),
            weight.load.eq(1),
        ]

        # Stage 2: the offset in the channel block.
        offset_2 = Signal(OFFSET_BITS, reset_less=True)
        block_2 = Signal(ADDRESS_BITS, reset_less=True)
        reads_2, padded_2, outside_2 = (Signal(reset_less=True) for _ in range(3))
        unused_2 = Signal(R, reset_less=True)
        still_1 = delay(m, is_resize & at.still, 1, name="still")
        padding = Signal()
        m.d.comb += padding.eq(is_window & outside_1 & ~use_residual_1)
        m.d.sync += [
            offset_2.eq(Mux(use_residual_1, 0, row_offset_1 + col_1)),
            block_2.eq(block_1),
            reads_2.eq(use_residual_1 | ~(is_drain | padding | still_1)),
            padded_2.eq(padding),
            outside_2.eq(is_argmax & outside_1),
            unused_2.eq(~lanes_left),
        ]

        # Stage 3: the address. VEC ignores what its highest bits say; the beat does not.
        address_3 = Signal(OFFSET_BITS + 1, reset_less=True)
        reads_3, outside_3 = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            address_3.eq(block_2 + offset_2),
            reads_3.eq(reads_2),
            outside_3.eq(outside_2),
        ]
        m.d.comb += self.vec_addr.eq(address_3[: len(self.vec_addr)])

        # Stage 4: the checks.
        valid_3 = delay(m, self.valid, 3, name="valid", reset_less=False)
        last_3 = delay(m, self.last, 3, name="last", reset_less=False)
        error_3 = delay(m, self.error, 3, name="error")
        at_3 = {
            name: delay(m, at[name], 3, name=name)
            for name in (
                "pixel", "chunk", "group", "ofm", "ofm_lane", "is_residual", "chunk_first",
                "output_first", "output_last", "vertical", "bottom", "still", "steps",
            )
        }  # fmt: skip
        bad, good = Signal(), Signal()
        m.d.comb += [
            bad.eq(
                (reads_3 & address_3[len(self.vec_addr) :].any())
                | outside_3
                | (is_drain & at_3["pixel"][address_width(config.acc_depth) :].any())
                | at_3["ofm"][address_width(config.ofm_depth) :].any()
                | error_3.any()
            ),
            good.eq(valid_3 & ~bad & ~self.aborted),
        ]
        with m.If(last_3):
            m.d.sync += self.aborted.eq(0)
        with m.Elif(valid_3 & bad):
            m.d.sync += self.aborted.eq(1)
        beat = Signal(beat_layout(config), reset_less=True)
        valid_4, take_4, write_4, last_4 = (Signal() for _ in range(4))
        m.d.sync += [
            valid_4.eq(good),
            take_4.eq(good & at_3["chunk_first"]),
            write_4.eq(good & at_3["output_last"]),
            last_4.eq(last_3),
            beat.first.eq(at_3["output_first"]),
            beat.error.eq(
                Mux(
                    error_3.any(),
                    error_3,
                    Mux(self.aborted | (valid_3 & bad), Error.BUFFER, Error.NONE),
                )
            ),
            beat.padded.eq(delay(m, padded_2, 1, name="padded_3")),
            beat.unused.eq(delay(m, unused_2, 1, name="unused_3")),
            beat.vertical.eq(at_3["vertical"]),
            beat.top.eq(at_3["vertical"] & ~at_3["bottom"]),
            beat.bottom.eq(at_3["vertical"] & at_3["bottom"] & ~at_3["still"]),
            beat.steps.eq(at_3["steps"]),
            beat.is_residual.eq(at_3["is_residual"]),
            beat.group.eq(at_3["group"]),
            beat.chunk.eq(at_3["chunk"]),
            beat.pixel.eq(at_3["pixel"]),
            beat.ofm.eq(at_3["ofm"]),
            beat.ofm_lane.eq(at_3["ofm_lane"]),
        ]
        m.d.comb += [
            self.beat.eq(beat),
            self.beat.weight.eq(weight.product[:WEIGHT_BITS]),
            self.beat.valid.eq(valid_4),
            self.beat.take.eq(take_4),
            self.beat.write.eq(write_4),
            self.beat.last.eq(last_4),
        ]
        return m
