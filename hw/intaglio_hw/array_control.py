"""Control of the array: what every pixel and every weight vector is, one each cycle.

:class:`ArraySetup` accepts an instruction and forms the products that addresses need,
:class:`WeightFetch` streams the weights of the next pass, :class:`PixelWalk` streams the pixels of
the current one. A *pass* is one (block, kernel row, kernel column).
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.timing import ArrayTiming
from intaglio_hw.arith import less
from intaglio_hw.interfaces import IN_FLIGHT, address_width, follow_offer, instruction_layout

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
            "one_pixel": 1,
            "two_cols": 1,  # two of them
            "two_rows": 1,
            "cols_behind": _COUNT_BITS,  # output columns, output rows behind the first
            "rows_behind": _COUNT_BITS,
            "one_tap_w": 1,  # one kernel column, kernel row
            "one_tap_h": 1,
            "taps_w": 8,  # kernel columns, kernel rows, blocks behind the first
            "taps_h": 8,
            "blocks_behind": 16,
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
    instruction, follow, stop, done
        The unit's port, with its ``held``; ``done`` comes from the end of the pipeline. At most
        IN_FLIGHT are accepted and not done, none from the second cycle of ``stop`` on.
    upcoming
        The accepted instruction. ``present`` from the cycle after the transfer until the cycle of
        ``take``, valid one cycle longer; the products are valid with ``ready``, ArrayTiming.SETUP
        cycles after ``present`` has risen.
    """

    def __init__(self, *, held: bool = False) -> None:
        super().__init__(
            {
                "instruction": In(stream.Signature(instruction_layout(isa.ARRAY))),
                **({"follow": Out(1)} if held else {}),
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
            ~accept
            & (self.take | ~self.present)
            & (self.done | (in_flight != IN_FLIGHT))
            & ~self.stop
        )
        m.d.comb += [
            self.instruction.ready.eq(open_),
            accept.eq(self.instruction.ready & self.instruction.valid),
        ]
        with m.If(accept & ~self.done):
            m.d.sync += in_flight.eq(in_flight + 1)
        with m.Elif(self.done & ~accept):
            m.d.sync += in_flight.eq(in_flight - 1)

        # What decides later is formed as soon as the fields are there.
        upcoming = self.upcoming
        for name in instruction_layout(isa.ARRAY).members:
            m.d.comb += upcoming[name].eq(fields[name])
        formed = {
            "single": (fields.blocks == 1) & (fields.kernel_h == 1) & (fields.kernel_w == 1),
            "one_col": fields.out_cols == 1,
            "one_row": fields.out_rows == 1,
            "one_pixel": (fields.out_cols == 1) & (fields.out_rows == 1),
            "two_cols": fields.out_cols == 2,
            "two_rows": fields.out_rows == 2,
            "cols_behind": fields.out_cols - 1,
            "rows_behind": fields.out_rows - 1,
            "one_tap_w": fields.kernel_w == 1,
            "one_tap_h": fields.kernel_h == 1,
            "taps_w": fields.kernel_w - 1,
            "taps_h": fields.kernel_h - 1,
            "blocks_behind": fields.blocks - 1,
        }
        for name, value in formed.items():
            register = Signal(upcoming[name].shape(), name=name, reset_less=True)
            m.d.sync += register.eq(value)
            m.d.comb += upcoming[name].eq(register)

        # Whatever is offered: a transfer is told by ``present``.
        follow_offer(m, self, ~self.present, fields.eq(self.instruction.payload))
        step = Signal(ArrayTiming.SETUP)  # one-hot; goes on without an instruction
        m.d.sync += step.eq(Mux(accept, 1, step << 1))
        with m.If(accept):
            m.d.sync += [self.present.eq(1), self.ready.eq(0)]
        with m.Elif(self.take):
            m.d.sync += [self.present.eq(0), self.ready.eq(0)]
        # Two cycles before it is all there: that is how long it takes to start.
        with m.Elif(step[-3]):
            m.d.sync += self.ready.eq(self.present)

        # Horner's rule from the top, radix 4: product = 4 * product + digit * ifm_cols, the latter
        # formed a step ahead.
        multiplying = Signal()
        m.d.sync += multiplying.eq(step[1:-3].any())
        cols = fields.ifm_cols[:_COUNT_BITS]
        triple = Signal(_COUNT_BITS + 2, reset_less=True)
        m.d.sync += triple.eq(cols + (cols << 1))
        products = {}
        for name, factor in (
            ("offset", fields.offset_h),
            ("stride", fields.stride_h),
            ("dilation", fields.dilation_h),
        ):
            digits = Signal(_OFFSET_BITS, name=f"{name}_digits", reset_less=True)
            partial = Signal(_COUNT_BITS + 2, name=f"{name}_partial", reset_less=True)
            product = Signal(_ADDRESS_BITS, name=f"{name}_product", reset_less=True)
            m.d.sync += [
                digits.eq(Mux(step[0], factor[:_OFFSET_BITS], digits << 2)),
                partial.eq(Array([0, cols, cols << 1, triple])[digits[-2:]]),
            ]
            with m.If(step[0]):
                m.d.sync += product.eq(0)
            with m.Elif(multiplying):
                m.d.sync += product.eq((product << 2) + partial)
            products[name] = product
        # The sign of offset_h, which is in [-2**12, 2**12), has the weight -2**12. Registers that
        # follow from others move always.
        column = Signal(signed(_ADDRESS_BITS), reset_less=True)
        signed_cols = Signal(_COUNT_BITS, reset_less=True)
        origin = Signal(_ADDRESS_BITS, reset_less=True)
        address = Signal(_ADDRESS_BITS, reset_less=True)
        next_row = Signal(_ADDRESS_BITS, reset_less=True)
        m.d.sync += [
            column.eq(fields.ifm_base + fields.offset_w),
            signed_cols.eq(Mux(fields.offset_h[_OFFSET_BITS], cols, 0)),
            origin.eq(column - (signed_cols << _OFFSET_BITS)),
            address.eq(products["offset"] + origin),
            next_row.eq(address + products["stride"]),
        ]
        assert ArrayTiming.SETUP == 2 + _OFFSET_BITS // 2 + 2
        m.d.comb += [
            upcoming.address.eq(address),
            upcoming.next_row.eq(next_row),
            upcoming.row_step.eq(products["stride"]),
            upcoming.tap_step.eq(products["dilation"]),
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
    start, start_last
        A pass starts and takes the shadow weights; it is the last one of its instruction.
    drop
        Forget the weights that are fetched or being fetched.
    ready
        A pass may start three cycles later, as far as its weights are concerned: the last one is
        then issued in the cycle after ``start``, and the pixels take a cycle more.
    fault, current
        The next weights lie outside WGT; they belong to the current instruction (else to the one
        that follows).
    addr, valid, index
        WGT address, and one cycle earlier its validity and the lane it is for.

    Timing: the first vector is issued two cycles after ``start`` (or one after ``present``), then
    one each cycle.
    """

    #: Vectors that are still to be issued when ``ready`` is formed.
    _AHEAD = 4

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "present": In(1),
                "base": In(16),
                "start": In(1),
                "start_last": In(1),
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
        depth = self.config.wgt_depth
        bits = address_width(depth)

        # Weights are fetched, are there, or are not wanted yet.
        fetching, full, empty = Signal(), Signal(), Signal(init=1)
        address = Signal(bits, reset_less=True)
        index = Signal(self.index.shape(), reset_less=True)
        last = Signal(reset_less=True)
        outside = Signal(reset_less=True)  # formed one step ahead
        m.d.comb += [self.valid.eq(fetching & ~outside), self.index.eq(index)]

        # One cycle later: whose weights follow those that the pass has taken.
        again, renew = Signal(), Signal()
        m.d.sync += [
            again.eq(self.start & ~self.start_last),
            renew.eq(self.start & self.start_last),
        ]
        enter, finish = Signal(), Signal()
        m.d.comb += [
            enter.eq((renew | empty) & self.present),
            finish.eq(fetching & (outside | last)),
        ]
        m.d.sync += [
            fetching.eq(~self.drop & (again | enter | (fetching & ~finish))),
            full.eq(~self.drop & ~again & ~renew & (full | finish)),
            empty.eq(self.drop | ((renew | empty) & ~self.present)),
            self.current.eq(~(renew | empty) & (again | self.current)),
            self.fault.eq(~self.drop & Mux(finish, outside, self.fault)),
            index.eq(Mux(fetching & ~last, index + 1, 0)),
            last.eq((fetching & (index == K - 2)) if K > 1 else 1),
            self.addr.eq(address),
        ]
        # With few weights a pass is longer than their way.
        ahead = min(self._AHEAD, K - 1)

        def near_end(address: Value, vectors: int) -> Value:
            """Return whether ``vectors`` or fewer of the scratchpad are left, this one included."""
            low = 3
            assert vectors <= 1 << low <= depth
            return address[low:bits].all() & (address[:low] >= (1 << low) - vectors)

        # Without a wish for weights the address follows the base, whoever it belongs to.
        short = Signal(reset_less=True)  # the last ``ahead`` vectors would lie outside
        with m.If(renew | empty):
            m.d.sync += [
                address.eq(self.base),
                outside.eq(self.base[bits:].any() if bits < len(self.base) else 0),
                short.eq(near_end(self.base, ahead)),
            ]
        with m.Else():
            m.d.sync += [
                address.eq(address + fetching),
                outside.eq(outside | (fetching & address.all())),
            ]
            with m.If(fetching):
                m.d.sync += short.eq(near_end(address, ahead + 1))
        with m.If(self.start | self.drop):
            m.d.sync += self.ready.eq(0)
        with m.Elif(fetching & ~outside & (index == K - 1 - ahead) & ~short):
            m.d.sync += self.ready.eq(1)
        return m


class PixelWalk(wiring.Component):
    """Walk through the passes of an instruction and the pixels of a pass.

    The counters, which decide when a pass starts and which pixel follows, are a stage of their own;
    positions and addresses follow a cycle later, told by registers.

    Members
    -------
    upcoming, present, ready, take
        The next instruction, from :class:`ArraySetup`.
    weights_ready, weights_fault, weights_current, start, start_last, drop
        To and from :class:`WeightFetch`.
    stop
        End the current instruction, and the next one without starting it.
    ifm_addr
        IFM address of a pixel, ISSUE_CYCLES before its data.
    slot
        What happens in this cycle, one cycle after ``ifm_addr``; ends with ``last`` come in the
        order of the instructions.

    Errors: an in-tile position outside IFM, a pixel outside the bank, and weights outside WGT end
    the instruction within six cycles; the pixel itself is not multiplied.
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
                "start_last": Out(1),
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
        counted = ("one_col", "one_row", "one_pixel", "two_cols", "two_rows")
        own = {
            name: Signal(upcoming[name].shape(), name=f"own_{name}", reset_less=True)
            for name in (*counted, "cols_behind", "rows_behind")
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

        # A pass is a further one of the instruction, else the first one of the next. Long before it
        # starts it is known which, and what it needs.
        continues = Signal(reset_less=True)
        m.d.sync += continues.eq(live & ~last_pass)
        new = {
            name: Signal(upcoming[name].shape(), name=f"new_{name}", reset_less=True)
            for name in own
        }
        m.d.sync += [new[name].eq(Mux(continues, own[name], upcoming[name])) for name in own]
        new_last = Signal(reset_less=True)
        m.d.sync += new_last.eq(Mux(continues, following.last, upcoming.single))

        # Whether a pass starts is decided a cycle before, in the cycle before the last pixel of
        # the one that runs; what does not depend on pixels, a further cycle before. The copy, which
        # stands upside down so that synthesis keeps it, is for the positions.
        start = Signal()
        start_copy = Signal(init=1)
        armed = Signal()
        spaced = Signal(init=1)
        near_end = Signal()  # the next pixel is the last one of its pass
        pass_end = Signal()  # this is it
        ending = Signal()
        go = Signal()
        kill_next = Signal()
        unwanted = Signal()
        abort = Signal()
        abort_next = Signal()
        kill = Signal()
        taken = Signal()
        m.d.comb += [
            near_end.eq((last_row & near_col) | (near_row & last_col & own["one_col"])),
            ending.eq(live & last_pass & pass_end),
            go.eq(armed & ~start & ~kill_next & (~run | pass_end | near_end)),
            # Of what has ended by itself nothing is left to be killed. A pass that starts in spite
            # of it has no pixel.
            kill.eq(kill_next & live & ~(last_pass & pass_end)),
            abort_next.eq(unwanted & ~live & ~self.take & ~taken),
        ]
        m.d.sync += [
            unwanted.eq(self.present & (self.stop | (self.weights_fault & ~self.weights_current))),
            kill_next.eq(
                self.stop
                | (failed & (failed_tag == tag) & ~self.take)
                | (self.weights_fault & self.weights_current)
            ),
            armed.eq(
                spaced
                & self.weights_ready
                & Mux(continues, following_ready, self.ready)
                & ~(start | self.take | mark | kill_next)
            ),
            start.eq(go),
            start_copy.eq(~go),
            abort.eq(abort_next),
            self.take.eq((go & ~continues) | abort_next),
        ]

        # One cycle later: which pass has started, and what becomes of the weights.
        started, continued = Signal(), Signal(reset_less=True)
        started_copy = Signal(init=1)
        killed, aborted = Signal(), Signal()
        m.d.sync += [
            started.eq(start),
            started_copy.eq(start_copy),
            taken.eq(self.take),
            continued.eq(continues),
            killed.eq(kill),
            aborted.eq(abort),
        ]
        m.d.comb += [
            self.start.eq(start),
            self.start_last.eq(new_last),
            self.drop.eq(aborted | (killed & self.weights_current)),
        ]

        # A sum must be written before the next pass reads it. After a kill, the weights must have
        # been dropped. Deciding takes two of these cycles.
        gap = Signal(range(ArrayTiming.ACCUMULATE))
        with m.If(start | killed):
            m.d.sync += [gap.eq(ArrayTiming.ACCUMULATE - 3), spaced.eq(0)]
        with m.Elif(~spaced):
            m.d.sync += [gap.eq(gap - 1), spaced.eq(gap == 1)]

        # Which cycle comes next.
        m.d.sync += [
            run.eq(~kill & (start | (run & ~pass_end))),
            live.eq(~kill & (start | (live & ~(last_pass & pass_end)))),
            mark.eq(kill | abort),
            mark_error.eq(self.weights_fault & (self.weights_current | abort)),
        ]
        with m.If(self.take):
            m.d.sync += tag.eq(~tag)
            m.d.sync += [own[name].eq(upcoming[name]) for name in own]
        with m.If(taken):
            m.d.sync += current.eq(upcoming)

        # The pixels of a pass. Flags of the last one are formed one pixel ahead. Without a pass the
        # registers move, too, and nobody looks.
        cols_left = Signal(_COUNT_BITS, reset_less=True)
        rows_left = Signal(_COUNT_BITS, reset_less=True)
        with m.If(start):
            m.d.sync += [
                last_pass.eq(new_last),
                cols_left.eq(new["cols_behind"]),
                rows_left.eq(new["rows_behind"]),
                last_col.eq(new["one_col"]),
                last_row.eq(new["one_row"]),
                near_col.eq(new["two_cols"]),
                near_row.eq(new["two_rows"]),
                pass_end.eq(new["one_pixel"]),
            ]
        with m.Else():
            m.d.sync += pass_end.eq(run & ~pass_end & near_end)
            with m.If(last_col):
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

        self._next_pass(
            m,
            current,
            following,
            following_ready,
            taken=taken,
            started=started,
            last_pass=last_pass,
        )

        # Where the pixel is, one cycle behind the counters. The address at which the next row
        # begins comes first with the address of the pass, then with that of its second row.
        enter = Signal(_ADDRESS_BITS, reset_less=True)
        address = Signal(_ADDRESS_BITS, reset_less=True)
        next_row = Signal(_ADDRESS_BITS, reset_less=True)
        h = Signal(_POSITION, reset_less=True)
        w = Signal(_POSITION, reset_less=True)
        h_start = Signal(_POSITION, reset_less=True)
        w_start = Signal(_POSITION, reset_less=True)
        pixel = Signal(address_width(self.config.acc_depth) + 1, reset_less=True)
        read = Signal(reset_less=True)
        first_pixel = Signal(reset_less=True)
        wraps = Signal(reset_less=True)
        tag0 = Signal(reset_less=True)
        error0 = Signal(reset_less=True)
        control0 = Signal(2)
        m.d.sync += [
            first_pixel.eq(started),
            wraps.eq(last_col),
            tag0.eq(tag),
            error0.eq(mark & mark_error),
            control0.eq(Cat(run, ending | mark)),
            h_start.eq(Mux(continues, following.h, upcoming.offset_h)),
            enter.eq(
                Mux(
                    start_copy,
                    Mux(continues, following.address, upcoming.address),
                    Mux(continues, following.next_row, upcoming.next_row),
                )
            ),
            address.eq(Mux(~started_copy | wraps, next_row, address + current.stride_w)),
            w.eq(Mux(~started_copy | wraps, w_start, w + current.stride_w)),
            pixel.eq(pixel + 1),
        ]
        with m.If(~start_copy):
            m.d.sync += w_start.eq(Mux(continues, following.w, upcoming.offset_w))
        with m.If(~start_copy | ~started_copy):
            m.d.sync += next_row.eq(enter)
        with m.Elif(wraps):
            m.d.sync += next_row.eq(next_row + current.row_step)
        with m.If(started):
            m.d.sync += [
                pixel.eq(0),
                h.eq(h_start),
                read.eq(continued | upcoming.accumulate[0]),
            ]
        with m.Elif(wraps):
            m.d.sync += h.eq(h + current.stride_h)

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

    def _next_pass(
        self, m, current, following, following_ready, *, taken, started, last_pass
    ) -> None:
        """Form the next pass in six cycles after the start of a pass; every pass is as long."""
        assert ArrayTiming.ACCUMULATE >= 6
        # Addresses of pixel 0: of the pass, at kernel column 0 of its kernel row, and at kernel
        # position 0 of its block.
        col_address = Signal(_ADDRESS_BITS, reset_less=True)
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
        # The first pass of an instruction begins at its fields. What follows a pass is a kernel
        # column, a kernel row or a block, one-hot; then its address, then its second row.
        fresh, begun = Signal(), Signal()
        to_col, to_row, to_block = Signal(), Signal(), Signal()
        phase = Signal(3)
        load_w, load_h = Signal(), Signal()
        at_col_end = Mux(fresh, current.one_tap_w, no_taps_w)
        at_row_end = Mux(fresh, current.one_tap_h, no_taps_h)
        m.d.sync += [
            fresh.eq(taken),
            begun.eq(started & ~last_pass),
            load_w.eq(taken | begun),
            load_h.eq(taken | (begun & at_col_end)),
            to_col.eq(begun & ~at_col_end),
            to_row.eq(begun & at_col_end & ~at_row_end),
            to_block.eq(begun & at_col_end & at_row_end),
            phase.eq(Cat(begun, phase)),
            # It will be there when a pass that is decided by this starts. What a killed instruction
            # leaves behind is forgotten when the next one starts.
            following_ready.eq(~started & (following_ready | phase[0])),
        ]

        with m.If(load_w):
            m.d.sync += [
                following.w.eq(Mux(to_col, following.w + current.dilation_w, current.offset_w)),
                taps_w.eq(Mux(to_col, taps_w - 1, current.taps_w)),
                no_taps_w.eq(Mux(to_col, taps_w == 1, current.one_tap_w)),
            ]
        with m.If(load_h):
            m.d.sync += [
                following.h.eq(Mux(to_row, following.h + current.dilation_h, current.offset_h)),
                taps_h.eq(Mux(to_row, taps_h - 1, current.taps_h)),
                no_taps_h.eq(Mux(to_row, taps_h == 1, current.one_tap_h)),
            ]
        with m.If(fresh | to_block):
            m.d.sync += blocks.eq(Mux(to_block, blocks - 1, current.blocks_behind))
        with m.If(phase[0]):
            m.d.sync += [
                new_row.eq(~to_col),
                new_block.eq(to_block),
                source.eq(Mux(to_col, col_address, Mux(to_row, row_address, block_address))),
                step.eq(
                    Mux(
                        to_col,
                        current.dilation_w,
                        Mux(to_row, current.tap_step, current.ifm_plane),
                    )
                ),
            ]
        # Until the next pass but one is formed, both stay.
        m.d.sync += [
            following.address.eq(source + step),
            following.next_row.eq(following.address + current.row_step),
        ]
        with m.If(phase[1]):
            m.d.sync += following.last.eq(no_taps_w & no_taps_h & (blocks == 0))
        for register, changes in (
            (col_address, 1),
            (row_address, new_row),
            (block_address, new_block),
        ):
            with m.If(fresh | (phase[2] & changes)):
                m.d.sync += register.eq(Mux(fresh, current.address, following.address))
