"""Control of the array: what every pixel and every weight vector is, one each cycle.

:class:`ArraySetup` accepts an instruction and forms the products that addresses need,
:class:`WeightFetch` streams the weights of the next pass, :class:`PixelWalk` streams the pixels of
the current one. A *pass* is one (block, kernel row, kernel column).
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.timing import ArrayTiming
from intaglio_hw.arith import less
from intaglio_hw.interfaces import IN_FLIGHT, address_width, instruction_layout

__all__ = ["ArraySetup", "PixelWalk", "WeightFetch", "setup_layout", "slot_layout"]

#: Width of IFM addresses while they are formed. Inside a tile, h * ifm_cols + w < 2**24. All blocks
#: have the same positions inside the tile, so the first block that starts at or above 2**16, and
#: thus below 2**17, is the last: it has an error. Outside the tile addresses may wrap, unread.
_ADDRESS_BITS = 25
#: Width of tile rows and columns: at most 4095 + 254 * 255 + 4094 * 255 < 2**21, at least -4096.
_POSITION = signed(22)
#: Width of a row count, at most 4095.
_COUNT_BITS = 12
#: Bits of offset_h without its sign, and of the strides, that the products take in two at a time.
_OFFSET_BITS = 12


def setup_layout() -> data.StructLayout:
    """Return the layout of an instruction that is set up: fields, and products of its strides."""
    return data.StructLayout(
        {
            **instruction_layout(isa.ARRAY).members,
            "address": _ADDRESS_BITS,  # of output pixel 0, kernel position 0
            "next_row": _ADDRESS_BITS,  # of output row 1
            "row_step": _ADDRESS_BITS,  # stride_h * ifm_cols
            "tap_step": _ADDRESS_BITS,  # dilation_h * ifm_cols
            "single": 1,  # one pass only
            "one_col": 1,  # a pass has one output column, one output row
            "one_row": 1,
            "two_cols": 1,  # two of them
            "two_rows": 1,
            "cols_behind": _COUNT_BITS,  # output columns, output rows behind the first
            "rows_behind": _COUNT_BITS,
        }
    )


def slot_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the layout of what happens in one cycle: a pixel, or nothing.

    ``valid``: a pixel is multiplied and its sum written; ``inside``: it comes from IFM, else it is
    ``pad_code``; ``swap``: the first pixel of a pass; ``read``: add to the sum at ``addr`` of
    ``bank``, else start from zero; ``last``: the instruction ends with this cycle (which may have
    no pixel), with ``error``.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "inside": 1,
            "swap": 1,
            "read": 1,
            "bank": 1,
            "addr": address_width(config.acc_depth),
            "pad_code": signed(8),
            "last": 1,
            "error": 1,
        }
    )


class ArraySetup(wiring.Component):
    """Accept instructions, one at a time, and form the products that addresses need.

    Members
    -------
    instruction, stop, done
        The unit's port; ``done`` comes from the end of the pipeline. At most IN_FLIGHT are accepted
        and not done.
    upcoming
        The accepted instruction. ``present`` from the cycle after the transfer until the cycle of
        ``take``, valid one cycle longer; the products are valid with ``ready``, ArrayTiming.SETUP
        cycles after ``present`` has risen.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "instruction": In(stream.Signature(instruction_layout(isa.ARRAY))),
                "stop": In(1),
                "done": In(1),
                "upcoming": Out(setup_layout()),
                "present": Out(1),
                "ready": Out(1),
                "take": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        fields = Signal(instruction_layout(isa.ARRAY), reset_less=True)
        accept = Signal()
        in_flight = Signal(range(IN_FLIGHT + 1))
        open_ = Signal(init=1)  # formed one step ahead
        m.d.sync += open_.eq(
            ~accept & (self.take | ~self.present) & (self.done | (in_flight != IN_FLIGHT))
        )
        m.d.comb += [
            self.instruction.ready.eq(open_ & ~self.stop),
            accept.eq(self.instruction.ready & self.instruction.valid),
        ]
        with m.If(accept & ~self.done):
            m.d.sync += in_flight.eq(in_flight + 1)
        with m.Elif(self.done & ~accept):
            m.d.sync += in_flight.eq(in_flight - 1)

        # Horner's rule from the top, radix 4: product = 4 * product + digit * ifm_cols.
        step = Signal(ArrayTiming.SETUP)  # one-hot; goes on without an instruction
        multiplying = Signal()
        triple = Signal(_COUNT_BITS + 2, reset_less=True)
        column = Signal(signed(_ADDRESS_BITS), reset_less=True)
        names = ("offset", "stride", "dilation")
        digits = {name: Signal(_OFFSET_BITS, name=name, reset_less=True) for name in names}
        products = {
            name: Signal(_ADDRESS_BITS, name=f"{name}_product", reset_less=True) for name in names
        }
        next_row = Signal(_ADDRESS_BITS, reset_less=True)
        single = Signal(reset_less=True)
        one_col = Signal(reset_less=True)
        one_row = Signal(reset_less=True)
        two_cols = Signal(reset_less=True)
        two_rows = Signal(reset_less=True)
        cols_behind = Signal(_COUNT_BITS, reset_less=True)
        rows_behind = Signal(_COUNT_BITS, reset_less=True)
        cols = fields.ifm_cols[:_COUNT_BITS]

        # Whatever is offered: a transfer is told by ``present``.
        with m.If(~self.present):
            m.d.sync += fields.eq(self.instruction.payload)
        m.d.sync += [
            one_col.eq(fields.out_cols == 1),
            one_row.eq(fields.out_rows == 1),
            two_cols.eq(fields.out_cols == 2),
            two_rows.eq(fields.out_rows == 2),
            cols_behind.eq(fields.out_cols - 1),
            rows_behind.eq(fields.out_rows - 1),
        ]
        with m.If(accept):
            m.d.sync += [
                self.present.eq(1),
                self.ready.eq(0),
            ]
        with m.Elif(self.take):
            m.d.sync += [self.present.eq(0), self.ready.eq(0)]
        with m.Elif(step[-1]):
            m.d.sync += self.ready.eq(self.present)
        m.d.sync += step.eq(Mux(accept, 1, step << 1))
        m.d.sync += multiplying.eq(step[: _OFFSET_BITS // 2].any())
        with m.If(multiplying):
            for name in names:
                digit = Array([0, cols, cols << 1, triple])[digits[name][-2:]]
                m.d.sync += [
                    products[name].eq((products[name] << 2) + digit),
                    digits[name].eq(digits[name] << 2),
                ]
        with m.If(step[0]):
            m.d.sync += [
                triple.eq(cols + (cols << 1)),
                column.eq(fields.ifm_base + fields.offset_w),
                digits["offset"].eq(fields.offset_h[:_OFFSET_BITS]),
                digits["stride"].eq(fields.stride_h),
                digits["dilation"].eq(fields.dilation_h),
                # The sign of offset_h, which is in [-2**12, 2**12), has the weight -2**12.
                products["offset"].eq(Mux(fields.offset_h[_OFFSET_BITS], -cols, 0)),
                products["stride"].eq(0),
                products["dilation"].eq(0),
                single.eq((fields.blocks == 1) & (fields.kernel_h == 1) & (fields.kernel_w == 1)),
            ]
        with m.If(step[-2]):
            m.d.sync += products["offset"].eq(products["offset"] + column)
        with m.If(step[-1]):
            m.d.sync += next_row.eq(products["offset"] + products["stride"])
        assert ArrayTiming.SETUP == 1 + _OFFSET_BITS // 2 + 2

        for name in instruction_layout(isa.ARRAY).members:
            m.d.comb += self.upcoming[name].eq(fields[name])
        m.d.comb += [
            self.upcoming.address.eq(products["offset"]),
            self.upcoming.next_row.eq(next_row),
            self.upcoming.row_step.eq(products["stride"]),
            self.upcoming.tap_step.eq(products["dilation"]),
            self.upcoming.single.eq(single),
            self.upcoming.one_col.eq(one_col),
            self.upcoming.one_row.eq(one_row),
            self.upcoming.two_cols.eq(two_cols),
            self.upcoming.two_rows.eq(two_rows),
            self.upcoming.cols_behind.eq(cols_behind),
            self.upcoming.rows_behind.eq(rows_behind),
        ]
        return m


class WeightFetch(wiring.Component):
    """Stream the K weight vectors of the next pass into the shadow registers, while the current
    pass runs.

    Members
    -------
    present, base
        An instruction follows the current one, and the WGT address of its first block. Blocks
        follow densely.
    start
        A pass starts and takes the shadow weights.
    started, started_last
        It did so in the cycle before; it is the last one of its instruction.
    drop
        Forget the weights that are fetched or being fetched.
    ready
        A pass may start, as far as its weights are concerned: the last one is issued in the next
        cycle, and the pixels take a cycle more.
    fault, current
        The next weights lie outside WGT; they belong to the current instruction (else to the one
        that follows).
    addr, valid, index
        WGT address, and one cycle earlier its validity and the lane it is for.

    Timing: the first vector is issued in the cycle after ``started`` (or ``present``), then one
    each cycle.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "present": In(1),
                "base": In(16),
                "start": In(1),
                "started": In(1),
                "started_last": In(1),
                "drop": In(1),
                "ready": Out(1),
                "fault": Out(1),
                "current": Out(1),
                "addr": Out(address_width(config.wgt_depth)),
                "valid": Out(1),
                "index": Out(max(1, (config.K - 1).bit_length())),
            }
        )

    def elaborate(self, platform):
        m = Module()
        K = self.config.K
        bits = address_width(self.config.wgt_depth)

        fetching = Signal()
        full = Signal()
        address = Signal(17, reset_less=True)  # one bit more than a base: the first address outside
        index = Signal(self.index.shape(), reset_less=True)
        last = Signal(reset_less=True)
        outside = Signal(reset_less=True)  # formed one step ahead
        m.d.comb += [
            self.valid.eq(fetching & ~outside),
            self.index.eq(index),
        ]
        m.d.sync += self.addr.eq(address)

        begin = [fetching.eq(1), index.eq(0), last.eq(K == 1)]
        base_outside = self.base[bits:].any() if bits < len(self.base) else 0
        enter = [*begin, self.current.eq(0), address.eq(self.base), outside.eq(base_outside)]
        with m.If(fetching):
            m.d.sync += [
                address.eq(address + 1),
                outside.eq(outside | address[:bits].all()),
                index.eq(index + 1),
                last.eq(index == K - 2 if K > 1 else 1),
            ]
            with m.If(outside | last):
                m.d.sync += [fetching.eq(0), full.eq(1), self.fault.eq(outside)]
        # With few weights a pass is longer than their way.
        early = K >= ArrayTiming.ACCUMULATE
        follow = ~address[1:bits].all() if early else 1
        with m.If(fetching & ~outside & (index == K - 3 if early else last) & follow):
            m.d.sync += self.ready.eq(1)
        with m.If(self.started):
            m.d.sync += full.eq(0)
            with m.If(~self.started_last):
                m.d.sync += [*begin, self.current.eq(1)]
            with m.Elif(self.present):
                m.d.sync += enter
            with m.Else():
                m.d.sync += fetching.eq(0)
        with m.Elif(~fetching & ~full & self.present):
            m.d.sync += enter
        with m.If(self.start | self.drop):
            m.d.sync += self.ready.eq(0)
        with m.If(self.drop):
            m.d.sync += [fetching.eq(0), full.eq(0), self.fault.eq(0)]
        return m


class PixelWalk(wiring.Component):
    """Walk through the passes of an instruction and the pixels of a pass.

    The counters, which decide when a pass starts and which pixel follows, are a stage of their own;
    positions and addresses follow a cycle later, told by registers.

    Members
    -------
    upcoming, present, ready, take
        The next instruction, from :class:`ArraySetup`.
    weights_ready, weights_fault, weights_current, start, started, started_last, drop
        To and from :class:`WeightFetch`.
    stop
        End the current instruction, and the next one without starting it.
    ifm_addr
        IFM address of a pixel, ISSUE_CYCLES before its data.
    slot
        What happens in this cycle, one cycle after ``ifm_addr``; ends with ``last`` come in the
        order of the instructions.

    Errors: an in-tile position outside IFM, a pixel outside the bank, and weights outside WGT end
    the instruction within five cycles; the pixel itself is not multiplied.
    """

    #: Cycles from a pixel that is counted to its slot.
    LATENCY = 3

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "upcoming": In(setup_layout()),
                "present": In(1),
                "ready": In(1),
                "take": Out(1),
                "weights_ready": In(1),
                "weights_fault": In(1),
                "weights_current": In(1),
                "start": Out(1),
                "started": Out(1),
                "started_last": Out(1),
                "drop": Out(1),
                "stop": In(1),
                "ifm_addr": Out(address_width(config.ifm_depth)),
                "slot": Out(slot_layout(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        upcoming = self.upcoming

        # The current instruction: fields that stay, copied after its first pass has started; those
        # that the counters need, at once.
        current = Signal(setup_layout(), reset_less=True)
        own = {
            name: Signal(upcoming[name].shape(), name=f"own_{name}", reset_less=True)
            for name in (
                "cols_behind",
                "rows_behind",
                "one_col",
                "one_row",
                "two_cols",
                "two_rows",
            )
        }
        live = Signal()  # it has not counted its last cycle
        tag = Signal()  # tells the current instruction from the one before
        # The current cycle: a pixel, or the end of an instruction without a pixel.
        run = Signal()
        mark = Signal()
        mark_error = Signal(reset_less=True)
        last_col = Signal(reset_less=True)
        last_row = Signal(reset_less=True)
        near_col = Signal(reset_less=True)  # the next one is the last
        near_row = Signal(reset_less=True)
        last_pass = Signal(reset_less=True)
        # The next pass of the current instruction.
        following = Signal(
            data.StructLayout(
                {
                    "address": _ADDRESS_BITS,
                    "next_row": _ADDRESS_BITS,
                    "h": _POSITION,
                    "w": _POSITION,
                    "last": 1,
                }
            ),
            reset_less=True,
        )
        following_ready = Signal()
        # What came of the pixel counted LATENCY cycles ago.
        failed = Signal()
        failed_tag = Signal(reset_less=True)

        pass_end = Signal()  # the last pixel of a pass, formed one pixel ahead
        ending = Signal()
        stay = Signal()
        # Like stay where a pass may start: between passes, or with the last pixel of one.
        more = Signal()
        kill = Signal()
        abort = Signal()
        spaced = Signal(init=1)
        start_last = Signal()
        m.d.comb += [
            ending.eq(pass_end & last_pass),
            stay.eq(live & ~ending),
            more.eq(live & ~last_pass),
            kill.eq(
                stay
                & (
                    self.stop
                    | (failed & (failed_tag == tag))
                    | (self.weights_fault & self.weights_current)
                )
            ),
            abort.eq(
                ~live & self.present & (self.stop | (self.weights_fault & ~self.weights_current))
            ),
            # A pass that starts in spite of ``kill`` has no pixel.
            self.start.eq(
                (~run | pass_end)
                & spaced
                & self.weights_ready
                & Mux(more, following_ready, self.ready)
                & ~self.stop
                & ~mark
            ),
            start_last.eq(Mux(more, following.last, upcoming.single)),
            self.take.eq(abort | (self.start & ~more)),
        ]

        # One cycle later: which pass has started, and what becomes of the weights.
        taken, continued = Signal(), Signal(reset_less=True)
        killed, aborted = Signal(), Signal()
        m.d.sync += [
            self.started.eq(self.start),
            taken.eq(self.take),
            continued.eq(more),
            killed.eq(kill),
            aborted.eq(abort),
        ]
        m.d.comb += [
            self.started_last.eq(last_pass),
            self.drop.eq(aborted | (killed & self.weights_current)),
        ]

        # A sum must be written before the next pass reads it. After a kill, the weights must have
        # been dropped.
        gap = Signal(range(ArrayTiming.ACCUMULATE))
        with m.If(self.start | killed):
            m.d.sync += [gap.eq(ArrayTiming.ACCUMULATE - 1), spaced.eq(0)]
        with m.Elif(~spaced):
            m.d.sync += [gap.eq(gap - 1), spaced.eq(gap == 1)]

        # Which cycle comes next.
        m.d.sync += mark.eq(0)
        with m.If(kill):
            m.d.sync += [
                run.eq(0),
                live.eq(0),
                mark.eq(1),
                mark_error.eq(self.weights_fault & self.weights_current),
            ]
        with m.Elif(self.start):
            m.d.sync += [run.eq(1), live.eq(1)]
        with m.Else():
            m.d.sync += [run.eq(run & ~pass_end), live.eq(stay)]
            with m.If(abort):
                m.d.sync += [mark.eq(1), mark_error.eq(self.weights_fault)]
        with m.If(self.take):
            m.d.sync += tag.eq(~tag)
            m.d.sync += [own[name].eq(upcoming[name]) for name in own]
        with m.If(taken):
            m.d.sync += current.eq(upcoming)

        # The pixels of a pass. Flags of the last one are formed one pixel ahead. Without a pass the
        # registers move, too, and nobody looks.
        cols_left = Signal(_COUNT_BITS, reset_less=True)
        rows_left = Signal(_COUNT_BITS, reset_less=True)
        one_pixel = Signal()
        with m.If(self.start):
            m.d.sync += last_pass.eq(start_last)
            for source, chosen in ((own, more), (upcoming, ~more)):
                with m.If(chosen):
                    m.d.comb += one_pixel.eq(source["one_col"] & source["one_row"])
                    m.d.sync += [
                        cols_left.eq(source["cols_behind"]),
                        rows_left.eq(source["rows_behind"]),
                        last_col.eq(source["one_col"]),
                        last_row.eq(source["one_row"]),
                        near_col.eq(source["two_cols"]),
                        near_row.eq(source["two_rows"]),
                    ]
        with m.Elif(last_col):
            m.d.sync += [
                cols_left.eq(own["cols_behind"]),
                last_col.eq(own["one_col"]),
                near_col.eq(own["two_cols"]),
                rows_left.eq(rows_left - 1),
                last_row.eq(near_row),
                near_row.eq(rows_left == 2),
            ]
        with m.Else():
            m.d.sync += [
                cols_left.eq(cols_left - 1),
                last_col.eq(near_col),
                near_col.eq(cols_left == 2),
            ]

        with m.If(kill):
            m.d.sync += pass_end.eq(0)
        with m.Elif(self.start):
            m.d.sync += pass_end.eq(one_pixel)
        with m.Else():
            m.d.sync += pass_end.eq(
                run & ~pass_end & Mux(last_col, own["one_col"] & near_row, near_col & last_row)
            )

        self._next_pass(m, current, following, following_ready, taken, killed)

        # Where the pixel is, one cycle behind the counters.
        address = Signal(_ADDRESS_BITS, reset_less=True)
        next_row = Signal(_ADDRESS_BITS, reset_less=True)
        h = Signal(_POSITION, reset_less=True)
        w = Signal(_POSITION, reset_less=True)
        w_start = Signal(_POSITION, reset_less=True)
        pixel = Signal(address_width(self.config.acc_depth) + 1, reset_less=True)
        read = Signal(reset_less=True)
        first_pixel = Signal(reset_less=True)
        wraps = Signal(reset_less=True)
        tag0 = Signal(reset_less=True)
        error0 = Signal(reset_less=True)
        control0 = Signal(2)
        m.d.sync += [
            first_pixel.eq(self.started),
            wraps.eq(last_col),
            tag0.eq(tag),
            error0.eq(mark & mark_error),
            control0.eq(Cat(run, ending | mark)),
        ]
        with m.If(self.started):
            m.d.sync += pixel.eq(0)
            with m.If(continued):
                m.d.sync += [
                    address.eq(following.address),
                    next_row.eq(following.next_row),
                    h.eq(following.h),
                    w.eq(following.w),
                    w_start.eq(following.w),
                    read.eq(1),
                ]
            with m.Else():
                m.d.sync += [
                    address.eq(upcoming.address),
                    next_row.eq(upcoming.next_row),
                    h.eq(upcoming.offset_h),
                    w.eq(upcoming.offset_w),
                    w_start.eq(upcoming.offset_w),
                    read.eq(upcoming.accumulate[0]),
                ]
        with m.Else():
            m.d.sync += pixel.eq(pixel + 1)
            with m.If(wraps):
                m.d.sync += [
                    address.eq(next_row),
                    next_row.eq(next_row + current.row_step),
                    h.eq(h + current.stride_h),
                    w.eq(w_start),
                ]
            with m.Else():
                m.d.sync += [
                    address.eq(address + current.stride_w),
                    w.eq(w + current.stride_w),
                ]

        # Issue 1: the address goes out, the comparisons are registered.
        bits = address_width(self.config.ifm_depth)
        within = Signal(4, reset_less=True)
        outside_ifm = Signal(reset_less=True)
        outside_acc = Signal(reset_less=True)
        slot1 = Signal(slot_layout(self.config), reset_less=True)
        tag1 = Signal(reset_less=True)
        control1 = Signal(2)
        m.d.sync += [
            self.ifm_addr.eq(address),
            within.eq(
                Cat(
                    ~h[-1],
                    ~w[-1],
                    less(h, current.ifm_rows[:_COUNT_BITS]),
                    less(w, current.ifm_cols[:_COUNT_BITS]),
                )
            ),
            outside_ifm.eq(address[bits:].any()),
            outside_acc.eq(pixel[-1]),
            slot1.swap.eq(first_pixel & control0[0]),
            slot1.read.eq(read),
            slot1.bank.eq(current.acc_bank[0]),
            slot1.addr.eq(pixel),
            slot1.pad_code.eq(current.pad_code),
            slot1.error.eq(error0),
            tag1.eq(tag0),
            control1.eq(control0),
        ]

        # Issue 2: what lies outside a buffer is not performed.
        inside = Signal()
        outside = Signal()
        m.d.comb += [
            inside.eq(within.all()),
            outside.eq(control1[0] & (outside_acc | (inside & outside_ifm))),
        ]
        slot2 = Signal(slot_layout(self.config), reset_less=True)
        control2 = Signal(2)
        m.d.sync += [
            slot2.eq(slot1),
            slot2.inside.eq(inside),
            control2.eq(Cat(control1[0] & ~outside, control1[1])),
            failed.eq(outside | (control1[1] & slot1.error)),
            failed_tag.eq(tag1),
        ]
        # The error of an instruction is told in its last cycle.
        remembered = Signal()
        m.d.sync += remembered.eq((remembered | failed) & ~control2[1])
        m.d.comb += [
            self.slot.eq(slot2),
            self.slot.valid.eq(control2[0]),
            self.slot.last.eq(control2[1]),
            self.slot.error.eq(remembered | failed),
        ]
        return m

    def _next_pass(self, m, current, following, following_ready, taken, killed) -> None:
        """Form the next pass in four cycles after the start of a pass; every pass is longer."""
        assert ArrayTiming.ACCUMULATE > 5
        upcoming = self.upcoming
        # Addresses of pixel 0 at kernel column 0 of the kernel row, and at kernel position 0 of the
        # block.
        row_address = Signal(_ADDRESS_BITS, reset_less=True)
        block_address = Signal(_ADDRESS_BITS, reset_less=True)
        taps_w = Signal(8, reset_less=True)  # kernel columns that follow
        taps_h = Signal(8, reset_less=True)
        blocks = Signal(16, reset_less=True)
        no_taps_w = Signal(reset_less=True)
        no_taps_h = Signal(reset_less=True)
        source = Signal(_ADDRESS_BITS, reset_less=True)
        step = Signal(_ADDRESS_BITS, reset_less=True)
        new_row = Signal(reset_less=True)
        new_block = Signal(reset_less=True)
        phase = Signal(3)

        m.d.sync += phase.eq(phase << 1)
        with m.If(self.started):
            m.d.sync += [phase.eq(Mux(self.started_last, 0, 1)), following_ready.eq(0)]
        with m.If(killed):
            m.d.sync += [phase.eq(0), following_ready.eq(0)]
        with m.If(taken):
            m.d.sync += [
                following.address.eq(upcoming.address),
                row_address.eq(upcoming.address),
                block_address.eq(upcoming.address),
                following.h.eq(upcoming.offset_h),
                following.w.eq(upcoming.offset_w),
                taps_w.eq(upcoming.kernel_w - 1),
                taps_h.eq(upcoming.kernel_h - 1),
                no_taps_w.eq(upcoming.kernel_w == 1),
                no_taps_h.eq(upcoming.kernel_h == 1),
                blocks.eq(upcoming.blocks - 1),
            ]

        # Phase 0: kernel column, kernel row or block.
        with m.If(phase[0]):
            m.d.sync += [new_row.eq(no_taps_w), new_block.eq(no_taps_w & no_taps_h)]
            with m.If(~no_taps_w):
                m.d.sync += [
                    source.eq(following.address),
                    step.eq(current.dilation_w),
                    following.w.eq(following.w + current.dilation_w),
                    taps_w.eq(taps_w - 1),
                    no_taps_w.eq(taps_w == 1),
                ]
            with m.Else():
                m.d.sync += [
                    following.w.eq(current.offset_w),
                    taps_w.eq(current.kernel_w - 1),
                    no_taps_w.eq(current.kernel_w == 1),
                ]
                with m.If(~no_taps_h):
                    m.d.sync += [
                        source.eq(row_address),
                        step.eq(current.tap_step),
                        following.h.eq(following.h + current.dilation_h),
                        taps_h.eq(taps_h - 1),
                        no_taps_h.eq(taps_h == 1),
                    ]
                with m.Else():
                    m.d.sync += [
                        source.eq(block_address),
                        step.eq(current.ifm_plane),
                        following.h.eq(current.offset_h),
                        taps_h.eq(current.kernel_h - 1),
                        no_taps_h.eq(current.kernel_h == 1),
                        blocks.eq(blocks - 1),
                    ]
        # Phase 1: its address.
        with m.If(phase[1]):
            m.d.sync += following.address.eq(source + step)
        # Phase 2: its second row.
        with m.If(phase[2]):
            m.d.sync += [
                following.next_row.eq(following.address + current.row_step),
                following.last.eq(no_taps_w & no_taps_h & (blocks == 0)),
                following_ready.eq(1),
            ]
            with m.If(new_row):
                m.d.sync += row_address.eq(following.address)
            with m.If(new_block):
                m.d.sync += block_address.eq(following.address)
