"""From a position to checked addresses: padding, clamping, weights, errors."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
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

    ``vec_addr`` is valid 4 cycles after the position, ``beat`` LATENCY = 6, with the vector. A beat
    with an access outside of a buffer loses its ``valid``, and so do all after it up to the one
    with ``last``, which carries the error.

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

    LATENCY = 6
    #: Cycles from a position to ``vec_addr``.
    ADDRESS_LATENCY = 4

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
        drains_residual = Signal(reset_less=True)
        bottom, right = Signal(12, reset_less=True), Signal(12, reset_less=True)
        m.d.sync += [
            is_drain.eq(fields.function == Function.DRAIN),
            is_resize.eq(fields.function == Function.RESIZE),
            is_argmax.eq(fields.function == Function.ARGMAX),
            is_window.eq((fields.function == Function.MAX) | (fields.function == Function.SUM)),
            drains_residual.eq((fields.function == Function.DRAIN) & fields.residual[0]),
            bottom.eq(fields.src_rows[:12]),
            right.eq(fields.src_cols[:12] - 1),
        ]

        # Stage 1: where the position is; both factors that the weight may have in each direction.
        below_1, beyond_1, above_1, before_1 = (Signal(reset_less=True) for _ in range(4))
        block_1 = Signal(ADDRESS_BITS, reset_less=True)
        use_residual_1 = Signal(reset_less=True)
        near_h_1, near_w_1 = Signal(FRACTION_BITS, reset_less=True), Signal(8, reset_less=True)
        ofm_1 = Signal(ADDRESS_BITS, reset_less=True)
        reads_residual = Signal()
        m.d.comb += reads_residual.eq(drains_residual | at.is_residual)
        m.d.sync += [
            below_1.eq(~less(at.row, bottom)),
            beyond_1.eq(less(right, at.col)),
            above_1.eq(at.row[-1]),
            before_1.eq(at.col[-1]),
            block_1.eq(Mux(reads_residual, at.residual, at.block)),
            use_residual_1.eq(reads_residual),
            near_h_1.eq(fields.den_h - at.fraction_h),
            near_w_1.eq(fields.den_w - at.fraction_w),
            ofm_1.eq(at.ofm_base + at.ofm),
        ]
        at_1 = {
            name: delay(m, at[name], 1, name=f"{name}_1")
            for name in (
                "offset_low", "fraction_h", "fraction_w", "bottom", "right", "vertical", "still",
                "is_residual", "output_last",
            )
        }  # fmt: skip
        col_1 = delay(m, at.col[:12], 1, name="col_1")

        # Stage 2: clamped, and the factors of the weight. The last row has come a long way.
        last_row = delay(m, self.last_row, 1, name="last_row_1")
        row_offset_2 = Signal(OFFSET_BITS, reset_less=True)
        col_2 = Signal(12, reset_less=True)
        block_2 = delay(m, block_1, 1, name="block_2")
        factor_h_2 = Signal(FRACTION_BITS, reset_less=True)
        factor_w_2 = Signal(8, reset_less=True)
        use_residual_2, reads_2, padded_2, outside_2 = (Signal(reset_less=True) for _ in range(4))
        unused_2 = Signal(R, reset_less=True)
        # Lanes behind the last channel, in the last block of it.
        last_lane = Signal(range(R), reset_less=True)
        behind = Signal(R, reset_less=True)
        outside, padding = Signal(), Signal()
        m.d.comb += [
            outside.eq(below_1 | beyond_1 | above_1 | before_1),
            padding.eq(is_window & outside & ~use_residual_1),
        ]
        m.d.sync += [
            row_offset_2.eq(Cat(at_1["offset_low"], at.offset_high)),
            col_2.eq(col_1),
            factor_h_2.eq(~at_1["is_residual"]),
            factor_w_2.eq(1),
            use_residual_2.eq(use_residual_1),
            reads_2.eq(use_residual_1 | ~(is_drain | padding | (is_resize & at_1["still"]))),
            padded_2.eq(padding),
            outside_2.eq(is_argmax & outside),
            last_lane.eq(fields.channels - 1),
            behind.eq(Cat(Const(0, 1), (last_lane < j for j in range(1, R)))),
            unused_2.eq(Mux(at_1["output_last"], behind, 0)),
        ]
        with m.If(is_resize):
            m.d.sync += [
                factor_h_2.eq(Mux(at_1["bottom"], at_1["fraction_h"], near_h_1)),
                factor_w_2.eq(Mux(at_1["right"], at_1["fraction_w"], near_w_1)),
            ]
            with m.If(at_1["vertical"]):
                m.d.sync += factor_w_2.eq(1)
            with m.If(above_1):
                m.d.sync += row_offset_2.eq(0)
            with m.Elif(below_1):
                m.d.sync += row_offset_2.eq(last_row)
            with m.If(before_1):
                m.d.sync += col_2.eq(0)
            with m.Elif(beyond_1):
                m.d.sync += col_2.eq(right)

        # Stages 4 to 6: the weight.
        m.submodules.weight = weight = Multiplier(
            a_width=FRACTION_BITS + 1, b_width=9, family=self.family
        )
        assert weight.LATENCY == self.LATENCY - 3
        m.d.comb += [
            weight.a.eq(delay(m, factor_h_2, 1, name="factor_h_3")),
            weight.b.eq(delay(m, factor_w_2, 1, name="factor_w_3")),
            weight.enable.eq(1),
            weight.load.eq(1),
        ]

        # Stage 3: the offset in the channel block.
        offset_3 = Signal(OFFSET_BITS, reset_less=True)
        m.d.sync += offset_3.eq(Mux(use_residual_2, 0, row_offset_2 + col_2))
        block_3 = delay(m, block_2, 1, name="block_3")

        # Stages 2 to 4: what was found beside the address.
        ofm_2 = delay(m, ofm_1, 1, name="ofm_2")
        pixel_2 = delay(m, at.pixel, 2, name="pixel_2")
        found_3 = Signal(3, reset_less=True)
        error_3 = delay(m, self.error, 3, name="error_3")
        m.d.sync += found_3.eq(
            Cat(
                outside_2,
                is_drain & pixel_2[address_width(config.acc_depth) :].any(),
                ofm_2[address_width(config.ofm_depth) :].any(),
            )
        )
        found_4, was_error_4 = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [found_4.eq(found_3.any()), was_error_4.eq(error_3.any())]

        # Stage 4: the address. VEC ignores what its highest bits say; the beat does not.
        address_4 = Signal(OFFSET_BITS + 1, reset_less=True)
        m.d.sync += address_4.eq(block_3 + offset_3)
        m.d.comb += self.vec_addr.eq(address_4[: len(self.vec_addr)])
        reads_4 = delay(m, reads_2, 2, name="reads")
        at_4 = {
            name: delay(m, at[name], 4, name=name)
            for name in (
                "chunk", "group", "ofm_lane", "is_residual", "chunk_first", "output_first",
                "output_last", "vertical", "bottom", "still", "steps",
            )
        }  # fmt: skip
        at_4["pixel"] = delay(m, pixel_2, 2, name="pixel")
        at_4["ofm"] = delay(m, ofm_2, 2, name="ofm")

        # Stage 5: the checks.
        beyond_5, found_5 = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            beyond_5.eq(reads_4 & address_4[len(self.vec_addr) :].any()),
            found_5.eq(found_4 | was_error_4),
        ]
        at_5 = {name: delay(m, value, 1, name=f"{name}_5") for name, value in at_4.items()}
        error_5 = delay(m, error_3, 2, name="error_5")
        was_error_5 = delay(m, was_error_4, 1, name="was_error_5")
        valid_5 = delay(m, self.valid, 5, name="valid", reset_less=False)
        last_5 = delay(m, self.last, 5, name="last", reset_less=False)

        # Stage 6: their sum.
        bad, good = Signal(), Signal()
        m.d.comb += [
            bad.eq(beyond_5 | found_5),
            good.eq(valid_5 & ~bad & ~self.aborted),
        ]
        with m.If(last_5):
            m.d.sync += self.aborted.eq(0)
        with m.Elif(valid_5 & bad):
            m.d.sync += self.aborted.eq(1)
        beat = Signal(beat_layout(config), reset_less=True)
        valid_6, take_6, write_6, last_6 = (Signal() for _ in range(4))
        m.d.sync += [
            valid_6.eq(good),
            take_6.eq(good & at_5["chunk_first"]),
            write_6.eq(good & at_5["output_last"]),
            last_6.eq(last_5),
            beat.first.eq(at_5["output_first"]),
            beat.error.eq(
                Mux(
                    was_error_5,
                    error_5,
                    Mux(self.aborted | (valid_5 & bad), Error.BUFFER, Error.NONE),
                )
            ),
            beat.padded.eq(delay(m, padded_2, 3, name="padded")),
            beat.unused.eq(delay(m, unused_2, 3, name="unused")),
            beat.vertical.eq(at_5["vertical"]),
            beat.top.eq(at_5["vertical"] & ~at_5["bottom"]),
            beat.bottom.eq(at_5["vertical"] & at_5["bottom"] & ~at_5["still"]),
            beat.steps.eq(at_5["steps"]),
            beat.is_residual.eq(at_5["is_residual"]),
            beat.group.eq(at_5["group"]),
            beat.chunk.eq(at_5["chunk"]),
            beat.pixel.eq(at_5["pixel"]),
            beat.ofm.eq(at_5["ofm"]),
            beat.ofm_lane.eq(at_5["ofm_lane"]),
        ]
        m.d.comb += [
            self.beat.eq(beat),
            self.beat.weight.eq(weight.product[:WEIGHT_BITS]),
            self.beat.valid.eq(valid_6),
            self.beat.take.eq(take_6),
            self.beat.write.eq(write_6),
            self.beat.last.eq(last_6),
        ]
        return m
