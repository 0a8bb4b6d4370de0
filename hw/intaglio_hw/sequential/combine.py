"""Vector instructions: drain, max, sum, resize, argmax; requantisation to a code."""

from intaglio.spec import isa
from intaglio.spec.isa import Error, Function
from intaglio_hw.sequential.assembler import Address, Register
from intaglio_hw.sequential.context import Context
from intaglio_hw.sequential.interface import Condition, Port, Source

__all__ = ["NOTHING_HELD", "Vector"]

#: What ``held`` is when no vector instruction may go on.
NOTHING_HELD = 0xFF
#: A source row or column that is beyond every tile.
_BEYOND = 4096
#: A place that is beyond every scratchpad, and stays it when a column is added.
_OUTSIDE = 0xF000
_POOLS = (Function.MAX, Function.SUM)
_R = 8
#: Bits of a bias, without its sign, that the drain datapath adds to every product.
_BIAS_BITS = 46


class Vector:
    """Emits the subroutine ``vector``.

    One chunk is one lane, as L is 1. For each lane, output row and output column a function leaves
    its value, an int32, in ``value``; then it is requantised (``max`` only limited) and written.

    ``held``: the function of the instruction before, if this one may go on with its value, which is
    ``kept``; NOTHING_HELD at the start of a program.
    """

    def __init__(
        self,
        x: Context,
        *,
        link: Register,
        held: Register,
        kept: tuple[Register, ...],
    ) -> None:
        self.x, self.link, self.held, self.kept = x, link, held, kept
        a = x.a
        self.value = a.wide("value")
        # Of the instruction.
        self.start_value = a.wide("start value")
        self.single, self.lowest = a.registers("single", "lowest")
        self.bound_high, self.bound_low = a.wide("bound high", 4), a.wide("bound low", 4)
        self.half = a.wide("half", 4)
        self.factor, self.residual_factor = a.registers("factor", "residual factor")
        self.by_function, self.by_row, self.by_shift, self.by_residual, self.by_pool = a.registers(
            "by function", "by row", "by shift", "by residual", "by pool"
        )
        self.row_step, self.col_step, self.pair_step = a.registers(
            "output row step", "output column step", "pair step"
        )
        # Of the chunk.
        self.lane, self.output, self.pair, self.residual = a.registers(
            "lane now", "output plane", "pair", "residual plane"
        )
        self.source = a.wide("source plane")
        self.multiplier = a.register("multiplier")
        self.bias = a.wide("bias", 4)
        self.source_words = a.register("source words")
        # Of the output row, and of the output.
        self.rows, self.cols, self.row_at, self.at, self.residual_at = a.registers(
            "rows", "columns", "output row", "output", "residual at"
        )
        self.total = a.wide("total", 4)
        self.y = a.register("code")
        # Source rows and columns.
        self.h, self.w, self.next_h, self.next_w = a.registers("h", "w", "next h", "next w")
        self.taps_h, self.taps_w, self.width = a.registers("taps h", "taps w", "width")
        self.place, self.place_link = a.registers("source row", "place link")
        # Resize: fractions; the row below; the columns; the link of ``sample``.
        self.part_h, self.part_w, self.now_h, self.rest_h, self.rest_w = a.registers(
            "part h", "part w", "now h", "rest h", "rest w"
        )
        self.place_below, self.sums, self.sample = a.registers("row below", "sums", "sample link")
        # Pools: rows and columns below which a window is all inside; that of columns in this row;
        # the word of its column 0; words from source row to source row. Of those of resize.
        self.bound_h, self.bound_w, self.bound_now = self.rest_h, self.rest_w, self.part_w
        self.row_words, self.pitch = self.place_below, self.sums

    def field(self, name: str) -> Register:
        """Return the register of a field."""
        return self.x.field(isa.VECTOR, name)

    def emit_inner(self) -> None:
        """Emit what runs for each output. It goes to the begin of the microprogram, where places
        are short numbers.
        """
        self._requantize()
        self._pools()
        self._chunks()
        self._resize()
        self._window()

    def emit(self) -> None:
        """Emit everything else."""
        x, a = self.x, self.x.a
        function = self.field("function")
        a.label("vector")
        self._check()
        self._corners()
        a.mov(self.lowest, self.field("low"))
        a.cmp(self.field("high"), self.lowest)
        a.jump("vector.bounds", Condition.LT, unless=True)
        a.mov(self.lowest, self.field("high"))
        a.label("vector.bounds")
        a.mov(self.row_step, self.field("ofm_row_step"))
        x.times(self.row_step, 4)
        a.mov(self.output, self.field("ofm_base"))
        a.mov(self.next_h, self.field("offset_h"))
        x.move(self.source, (self.field("src_base"), 0))
        a.cmp(function, Function.ARGMAX)
        a.jump("argmax", Condition.Z)
        a.mov(self.col_step, self.field("ofm_col_step"))
        x.times(self.col_step, 4)
        self._prepare_function()
        a.cmp(function, Function.MAX)
        a.jump("vector.chunks", Condition.Z)
        a.mov(self.pair, self.field("prm_base"))
        x.times(self.pair, 4)
        a.add(self.pair, x.words_at("prm"))
        self._drain()
        self._prepare_requantizer()
        a.label("vector.chunks")
        a.mov(self.lane, self.field("lane"))
        a.mov(self.residual, self.field("res_base"))
        a.jump("vector.chunk")
        # What the next instruction may go on with.
        a.label("vector.end")
        a.mov(self.held, function)
        a.cmp(self.single, 1)
        a.jump("vector.single", Condition.Z)
        a.mov(self.held, NOTHING_HELD)
        a.label("vector.single")
        a.ret(self.link)
        self._place()
        self._argmax()

    # -------------------------------------------------------------------------------- checks

    def _check(self) -> None:
        """Emit the checks of fields against each other."""
        x, a = self.x, self.x.a
        function = self.field("function")
        a.cmp(self.field("residual"), 0)
        a.jump("check.plain", Condition.Z)
        a.tst(function, 0xFF ^ Function.SUM)  # 0 and 2 have one
        x.fail(Error.FIELD, Condition.Z, unless=True)
        a.label("check.plain")
        a.cmp(function, Function.ARGMAX)
        a.jump("check.lane", Condition.Z)
        a.cmp(self.field("lane"), _R)
        x.fail(Error.FIELD, Condition.C)
        a.label("check.lane")
        a.cmp(function, Function.DRAIN)
        a.jump("check.chunks", Condition.Z, unless=True)
        a.cmp(self.field("chunks"), x.config.K)
        x.fail(Error.FIELD, Condition.HI)
        a.label("check.chunks")
        a.cmp(function, Function.RESIZE)
        a.jump("check.single", Condition.Z, unless=True)
        for axis in ("h", "w"):
            den = self.field(f"den_{axis}")
            a.cmp(den, self.field(f"step_{axis}"))
            x.fail(Error.FIELD, Condition.C, unless=True)
            a.cmp(self.field(f"frac_{axis}"), den)
            x.fail(Error.FIELD, Condition.C)
        most = x.t
        for bound, largest in isa.DEN_H_MAX:
            a.mov(most, largest)
            if bound != isa.DEN_H_MAX[-1][0]:
                a.cmp(self.field("den_w"), bound + 1)
                a.jump("check.den", Condition.C, unless=True)
        a.label("check.den")
        a.cmp(self.field("den_h"), most)
        x.fail(Error.FIELD, Condition.HI)
        a.label("check.single")
        # Three numbers, all at least 1.
        a.mov(self.single, self.field("chunks"))
        a.or_(self.single, self.field("out_rows"))
        a.or_(self.single, self.field("out_cols"))
        a.cmp(self.field("accumulate"), 0)
        a.jump("check.done", Condition.Z)
        a.cmp(self.held, function)
        x.fail(Error.FIELD, Condition.Z, unless=True)
        a.mov(x.t, function)
        a.sub(x.t, min(_POOLS))
        a.cmp(x.t, max(_POOLS) - min(_POOLS))
        x.fail(Error.FIELD, Condition.HI)
        a.cmp(self.single, 1)
        x.fail(Error.FIELD, Condition.Z, unless=True)
        a.label("check.done")

    def _corners(self) -> None:
        """Emit the checks of the last place of each scratchpad, as far as it is known before."""
        x, a = self.x, self.x.a
        function = self.field("function")
        last, block, total = self.taps_h, self.taps_w, (x.t, x.u)
        config = x.config
        # The channel block of the last chunk: 17 bits before the division.
        a.mov(block, self.field("chunks"))
        a.sub(block, 1)
        a.add(block, self.field("lane"))
        a.ror(block, block)
        a.shr(block, block)
        a.shr(block, block)
        x.move(total, (self.field("ofm_base"), 0))
        a.mov(last, self.field("out_rows"))
        a.sub(last, 1)
        x.add_product(total, last, self.field("ofm_row_step"))
        a.mov(last, self.field("out_cols"))
        a.sub(last, 1)
        a.cmp(function, Function.ARGMAX)
        a.jump("corner.argmax", Condition.Z)
        x.add_product(total, last, self.field("ofm_col_step"))
        x.add_product(total, block, self.field("ofm_plane"))
        x.below(total, config.ofm_depth)

        a.cmp(self.field("residual"), 0)
        a.jump("corner.residual", Condition.Z)
        x.move(total, (self.field("res_base"), 0))
        x.subtract_wide(total, (1, 0))
        x.add_product(total, self.field("out_rows"), self.field("out_cols"))
        x.add_product(total, block, self.field("res_plane"))
        x.below(total, config.vec_depth)
        a.label("corner.residual")

        a.cmp(function, Function.MAX)
        a.jump("corner.pairs", Condition.Z)
        x.move(total, (self.field("prm_base"), 0))
        a.mov(self.pair_step, 0)
        a.cmp(self.field("uniform"), 0)
        a.jump("corner.uniform", Condition.Z, unless=True)
        a.mov(self.pair_step, 4)
        x.add_wide(total, (self.field("chunks"), 0))
        x.subtract_wide(total, (1, 0))
        a.label("corner.uniform")
        x.below(total, config.prm_depth)
        a.label("corner.pairs")

        a.cmp(function, Function.DRAIN)
        a.jump("corner.done", Condition.Z, unless=True)
        a.mul(self.field("out_rows"), self.field("out_cols"))
        x.move(total, (Source.PL, Source.PHU))
        x.subtract_wide(total, (1, 0))
        x.below(total, config.acc_depth)
        a.jump("corner.done")
        a.label("corner.argmax")
        for _ in range(_R.bit_length() - 1):
            a.shr(last, last)
        x.add_wide(total, (last, 0))
        x.below(total, config.ofm_depth)
        a.label("corner.done")

    # --------------------------------------------------------------------------- preparations

    def _prepare_function(self) -> None:
        """Emit: where the value comes from, and what a window begins with."""
        x, a = self.x, self.x.a
        function = self.field("function")
        a.mov(self.by_function, Address("value.resize"))
        a.mov(self.by_row, Address("row.resize"))
        a.cmp(function, Function.RESIZE)
        a.jump("prepared.function", Condition.Z)
        a.mov(self.by_function, Address("value.drain"))
        a.mov(self.by_row, Address("vector.row"))
        a.mov(x.t, 0)
        a.cmp(self.field("acc_bank"), 0)
        a.jump("prepare.bank", Condition.Z)
        a.mov(x.t, x.config.acc_depth)
        a.label("prepare.bank")
        a.out(Port.ACCA, x.t)
        a.cmp(function, Function.DRAIN)
        a.jump("prepared.function", Condition.Z)
        a.mov(self.by_function, Address("value.pool"))
        a.mov(self.by_row, Address("row.pool"))
        x.move(self.start_value, (0x8000, 0xFFFF))
        a.mov(self.by_pool, Address("pool.max"))
        a.cmp(function, Function.MAX)
        a.jump("prepare.pool", Condition.Z)
        a.mov(self.by_pool, Address("pool.sum"))
        x.move(self.start_value, (0, 0))
        a.label("prepare.pool")
        a.cmp(self.field("accumulate"), 0)
        a.jump("prepare.anew", Condition.Z)
        x.move(self.start_value, self.kept)
        a.label("prepare.anew")
        # A sum adds code + 128 for each of its taps.
        self._prepare_window()
        a.cmp(function, Function.MAX)
        a.jump("prepared.function", Condition.Z)
        a.mul(self.field("kernel_h"), self.field("kernel_w"))
        a.mov(x.t, Source.PL)
        a.mul(x.t, 128)
        x.subtract_wide(self.start_value, (Source.PL, Source.PHU))
        a.label("prepared.function")

    def _prepare_window(self) -> None:
        """Emit: which windows are all inside. They are faster, if no tap can leave VEC."""
        x, a = self.x, self.x.a
        for bound, size, kernel in (
            (self.bound_h, "src_rows", "kernel_h"),
            (self.bound_w, "src_cols", "kernel_w"),
        ):
            done = a.fresh("bound")
            a.mov(bound, self.field(size))
            a.add(bound, 1)
            a.sub(bound, self.field(kernel))
            a.jump(done, Condition.C)
            a.mov(bound, 0)
            a.label(done)
        total, block = (x.t, x.u), self.taps_w  # of the last chunk, from _corners
        x.move(total, (self.field("src_base"), 0))
        x.subtract_wide(total, (1, 0))
        x.add_product(total, self.field("src_rows"), self.field("src_cols"))
        x.add_product(total, block, self.field("src_plane"))
        a.cmp(total[1], 0)
        a.jump("prepare.outside", Condition.Z, unless=True)
        a.cmp(total[0], x.config.vec_depth)
        a.jump("prepare.inside", Condition.C, unless=True)
        a.label("prepare.outside")
        a.mov(self.bound_h, 0)
        a.label("prepare.inside")
        a.mov(self.pitch, self.field("src_cols"))
        x.times(self.pitch, 4)

    def _prepare_requantizer(self) -> None:
        """Emit: bounds before the shift, half of what is shifted away, and the shift as a product.

        A total, with the half added, gives ``high`` if it is at least ``high << shift``, ``low`` if
        it is below ``(low + 1) << shift``; between, its lowest bits after the shift.
        """
        x, a = self.x, self.x.a
        shift = self.field("shift")
        high, low, half = self.bound_high, self.bound_low, self.half
        a.mov(high[0], self.field("high"))
        a.mov(low[0], self.lowest)
        a.add(low[0], 1)
        for bound in (high, low):
            x.sign(bound[1], bound[0])
            x.move(bound[2:], (bound[1], bound[1]))
        x.move(half, (1, 0, 0, 0))
        a.mov(x.t, shift)
        a.jump("prepare.shifted")
        a.label("prepare.shift")
        for wide in (high, low, half):
            x.add_wide(wide, wide)
        a.sub(x.t, 1)
        a.label("prepare.shifted")
        a.cmp(x.t, 0)
        a.jump("prepare.shift", Condition.Z, unless=True)
        a.shr(half[3], half[3])
        for word in reversed(half[:3]):
            a.ror(word, word)
        # Of the shift, 16 bits in words and 1 to 16 bits as a product.
        a.mov(self.factor, 1)
        a.mov(self.by_shift, Address("shift.0"))
        a.mov(x.t, shift)
        a.sub(x.t, 1)
        a.jump("prepared.shift", Condition.C, unless=True)
        for number, beyond in ((1, 16), (2, 32), (3, 48)):
            a.mov(self.by_shift, Address(f"shift.{number}"))
            if number < 3:
                a.cmp(x.t, beyond)
                a.jump("prepare.words", Condition.C, unless=True)
        a.label("prepare.words")
        a.xor(x.t, 15)
        a.and_(x.t, 15)
        self._power(self.factor, x.t)
        a.label("prepared.shift")
        a.mov(self.by_residual, Address("requantize.shift"))
        a.cmp(self.field("residual"), 0)
        a.jump("prepared.residual", Condition.Z)
        a.mov(x.t, self.field("res_shift"))
        for number, beyond in ((0, 16), (1, 32), (2, 48)):
            a.mov(self.by_residual, Address(f"residual.{number}"))
            if number < 2:
                a.cmp(x.t, beyond)
                a.jump("prepare.residual", Condition.C, unless=True)
        a.label("prepare.residual")
        a.and_(x.t, 15)
        self._power(self.residual_factor, x.t)
        a.label("prepared.residual")

    def _drain(self) -> None:
        """Emit a drain without residual for the datapath that does only that.

        It adds with 48 bits: a bias of at most 2**46 leaves room for every product.
        """
        x, a = self.x, self.x.a
        rows, cols = self.rows, self.cols
        a.cmp(self.field("function"), Function.DRAIN)
        a.jump("drain.not", Condition.Z, unless=True)
        a.cmp(self.field("residual"), 0)
        a.jump("drain.not", Condition.Z, unless=True)
        a.out(Port.SPA, self.pair)
        a.out(Port.QM, Source.SPWI)
        a.out(Port.QB0, Source.SPWI)
        a.out(Port.QB1, Source.SPWI)
        a.mov(x.t, Source.SPWI)
        a.out(Port.QB2, x.t)
        a.add(x.t, 1 << _BIAS_BITS - 32)
        a.jump("drain.not", Condition.N)
        a.out(Port.QS, self.field("shift"))
        a.out(Port.QLOW, self.field("low"))
        a.out(Port.QHIGH, self.field("high"))
        a.out(Port.QSTEP, self.field("ofm_col_step"))
        a.out(Port.BSEL, self.field("lane"))
        a.mov(self.row_at, self.output)
        x.times(self.row_at, 4)
        a.mov(x.t, self.field("lane"))
        a.shr(x.t, x.t)
        a.add(self.row_at, x.t)
        a.add(self.row_at, x.words_at("ofm"))
        # Rows that follow each other are one.
        a.mov(rows, self.field("out_rows"))
        a.mov(cols, self.field("out_cols"))
        a.mul(cols, self.field("ofm_col_step"))
        a.mov(x.t, Source.PL)
        a.cmp(x.t, self.field("ofm_row_step"))
        a.jump("drain.rows", Condition.Z, unless=True)
        a.mul(cols, rows)
        a.mov(cols, Source.PL)
        a.mov(rows, 1)
        a.label("drain.rows")
        a.sub(cols, 1)
        a.label("drain.row")
        a.out(Port.SPA, self.row_at)
        a.out(Port.QGO, cols)
        a.add(self.row_at, self.row_step)
        a.label("drain.wait")
        a.jump("drain.wait", Condition.DRAIN_BUSY)
        a.sub(rows, 1)
        a.jump("drain.row", Condition.Z, unless=True)
        a.mov(self.held, NOTHING_HELD)
        a.ret(self.link)
        a.label("drain.not")

    def _power(self, d: Register, exponent: Register) -> None:
        """Emit ``d = 2**exponent``; ``exponent`` becomes 0."""
        a = self.x.a
        loop, done = a.fresh("power"), a.fresh("power")
        a.mov(d, 1)
        a.label(loop)
        a.cmp(exponent, 0)
        a.jump(done, Condition.Z)
        a.add(d, d)
        a.sub(exponent, 1)
        a.jump(loop)
        a.label(done)

    # ------------------------------------------------------------------------------- the loops

    def _chunks(self) -> None:
        """Emit the loops over chunks, output rows and output columns."""
        x, a = self.x, self.x.a
        vec = x.words_at("vec")
        a.label("vector.chunk")
        a.out(Port.BSEL, self.lane)
        # The words of this lane: of the output, the residual, the source.
        a.mov(x.u, self.lane)
        a.shr(x.u, x.u)
        a.mov(self.row_at, self.output)
        x.times(self.row_at, 4)
        a.add(self.row_at, x.words_at("ofm"))
        a.add(self.row_at, x.u)
        a.mov(self.residual_at, self.residual)
        x.times(self.residual_at, 4)
        a.add(self.residual_at, vec)
        a.add(self.residual_at, x.u)
        a.mov(self.source_words, vec)
        a.add(self.source_words, x.u)
        a.cmp(self.field("function"), Function.MAX)
        a.jump("chunk.pair", Condition.Z)
        a.out(Port.SPA, self.pair)
        x.move((self.multiplier, *self.bias[:3]), (Source.SPWI,) * 4)
        x.sign(self.bias[3], self.bias[2])
        x.add_wide(self.bias, self.half)
        a.add(self.pair, self.pair_step)
        a.label("chunk.pair")
        a.mov(self.next_h, self.field("offset_h"))
        a.mov(self.part_h, self.field("frac_h"))
        a.mov(self.rows, self.field("out_rows"))
        a.label("vector.next_row")
        a.ret(self.by_row)
        a.label("vector.row")
        a.mov(self.at, self.row_at)
        a.mov(self.cols, self.field("out_cols"))
        a.label("vector.column")
        a.ret(self.by_function)
        a.label("value.drain")
        x.move(self.value, (Source.ACCL, Source.ACCHI))
        a.jump("requantize")
        a.label("vector.write")
        a.out(Port.SPA, self.at)
        a.out(Port.SPBYTE, self.y)
        a.add(self.at, self.col_step)
        a.sub(self.cols, 1)
        a.jump("vector.column", Condition.Z, unless=True)
        a.add(self.row_at, self.row_step)
        a.sub(self.rows, 1)
        a.jump("vector.next_row", Condition.Z, unless=True)
        a.add(self.lane, 1)
        a.cmp(self.lane, _R)
        a.jump("vector.same_block", Condition.Z, unless=True)
        a.mov(self.lane, 0)
        a.add(self.output, self.field("ofm_plane"))
        a.add(self.residual, self.field("res_plane"))
        x.add_wide(self.source, (self.field("src_plane"), 0))
        a.label("vector.same_block")
        a.sub(self.field("chunks"), 1)
        a.jump("vector.chunk", Condition.Z, unless=True)
        a.jump("vector.end")

    def _requantize(self) -> None:
        """Emit: ``value`` * multiplier + bias + residual, rounded, shifted, limited."""
        x, a = self.x, self.x.a
        total, value = self.total, self.value
        a.label("requantize")
        a.mul(value[0], self.multiplier)
        x.move(total[:2], (Source.PL, Source.PHM))
        x.sign(total[2], total[1])
        a.mul(value[1], self.multiplier)
        x.add_wide(total[1:3], (Source.PL, Source.PHS))
        x.sign(total[3], total[2])
        x.add_wide(total, self.bias)
        a.ret(self.by_residual)
        for number in range(3):
            a.label(f"residual.{number}")
            a.out(Port.SPA, self.residual_at)
            a.add(self.residual_at, 4)
            a.mov(x.t, Source.SBX)
            a.mul(self.residual_factor, x.t)
            x.sign(x.u, x.t)
            x.add_wide(total[number:], (Source.PL, Source.PHM, x.u, x.u)[: 4 - number])
            a.jump("requantize.shift")
        a.label("requantize.shift")
        a.ret(self.by_shift)
        a.label("shift.0")
        a.mov(self.y, total[0])
        a.jump("requantize.limit")
        for number in range(1, 4):
            a.label(f"shift.{number}")
            a.mul(self.factor, total[number - 1])
            a.mov(self.y, Source.PHU)
            a.mul(self.factor, total[number])
            a.or_(self.y, Source.PL)
            a.jump("requantize.limit")
        a.label("requantize.limit")
        x.compare_wide(total, self.bound_low)
        self._choose(self.lowest)
        x.compare_wide(total, self.bound_high)
        self._choose(self.field("high"), unless=True)
        a.jump("vector.write")

    def _choose(self, value: Register, *, unless: bool = False) -> None:
        """Emit: the code is ``value`` if the flags say LT (``unless``: if they do not), in the same
        time whether it is or not: what an instruction takes does not depend on data.
        """
        a = self.x.a
        it, done = a.fresh("choose"), a.fresh("chosen")
        a.jump(it, Condition.LT, unless=unless)
        a.jump(done)
        a.label(it)
        a.mov(self.y, value)
        a.label(done)

    def _advance(self, position: Register, step: Register) -> None:
        """Emit: a source row or column moves on, and stays at _BEYOND."""
        a = self.x.a
        done = a.fresh("inside")
        a.add(position, step)
        a.cmp(position, _BEYOND)
        a.jump(done, Condition.LT)
        a.mov(position, _BEYOND)
        a.label(done)

    def _pools(self) -> None:
        """Emit max and sum."""
        x, a = self.x, self.x.a
        value, h, w = self.value, self.h, self.w
        a.label("row.pool")
        a.mov(self.now_h, self.next_h)
        self._advance(self.next_h, self.field("stride_h"))
        a.mov(self.next_w, self.field("offset_w"))
        a.mov(self.bound_now, 0)
        a.cmp(self.now_h, self.bound_h)
        a.jump("vector.row", Condition.C)
        a.mov(self.bound_now, self.bound_w)
        a.mov(x.t, self.now_h)
        a.call(self.place_link, "source")
        a.mov(self.row_words, x.t)
        x.times(self.row_words, 4)
        a.add(self.row_words, self.source_words)
        a.jump("vector.row")

        a.label("value.pool")
        x.move(value, self.start_value)
        a.cmp(self.next_w, self.bound_now)
        a.jump("window", Condition.C, unless=True)
        a.mov(h, self.now_h)
        a.mov(self.taps_h, self.field("kernel_h"))
        a.label("pool.row")
        a.mov(w, self.next_w)
        a.mov(self.taps_w, self.field("kernel_w"))
        # Of a row outside no column is inside.
        a.mov(self.width, 0)
        a.cmp(h, self.field("src_rows"))
        a.jump("pool.tap", Condition.C)
        a.mov(self.width, self.field("src_cols"))
        a.mov(x.t, h)
        a.call(self.place_link, "source")
        a.mov(self.place, x.t)
        a.label("pool.tap")
        a.mov(x.t, self.field("pad_code"))
        a.cmp(w, self.width)
        a.jump("pool.combine", Condition.C)
        a.mov(x.t, self.place)
        a.add(x.t, w)
        a.call(self.sample, "sample")
        a.mov(x.t, Source.SBX)
        a.label("pool.combine")
        a.ret(self.by_pool)
        a.label("pool.sum")
        a.add(x.t, 128)
        x.add_wide(value, (x.t, 0))
        a.jump("pool.next")
        a.label("pool.max")
        a.cmp(value[0], x.t)
        a.jump("pool.more", Condition.LT)
        a.jump("pool.next")  # as long as the other way
        a.label("pool.more")
        a.mov(value[0], x.t)
        a.label("pool.next")
        a.add(w, 1)
        a.sub(self.taps_w, 1)
        a.jump("pool.tap", Condition.Z, unless=True)
        a.add(h, 1)
        a.sub(self.taps_h, 1)
        a.jump("pool.row", Condition.Z, unless=True)
        a.label("pool.done")
        self._advance(self.next_w, self.field("stride_w"))
        x.move(self.kept, value)
        a.cmp(self.field("function"), Function.SUM)
        a.jump("requantize", Condition.Z)
        # The maximum is only limited.
        a.mov(self.y, value[0])
        a.cmp(self.y, self.lowest)
        self._choose(self.lowest)
        a.cmp(self.y, self.field("high"))
        self._choose(self.field("high"), unless=True)
        a.jump("vector.write")

    def _window(self) -> None:
        """Emit max and sum of a window that is all inside."""
        x, a = self.x, self.x.a
        value, row, at = self.value, self.h, self.w
        a.label("window")
        a.mov(row, self.next_w)
        x.times(row, 4)
        a.add(row, self.row_words)
        a.mov(self.taps_h, self.field("kernel_h"))
        a.label("window.row")
        a.mov(at, row)
        a.mov(self.taps_w, self.field("kernel_w"))
        a.cmp(self.field("function"), Function.SUM)
        a.jump("window.sum", Condition.Z)
        a.label("window.max")
        a.out(Port.SPA, at)
        a.add(at, 4)
        a.cmp(value[0], Source.SBX)
        a.jump("window.more", Condition.LT)
        a.jump("window.next")  # as long as the other way
        a.label("window.more")
        a.mov(value[0], Source.SBX)
        a.label("window.next")
        a.sub(self.taps_w, 1)
        a.jump("window.max", Condition.Z, unless=True)
        a.jump("window.end")
        a.label("window.sum")
        a.out(Port.SPA, at)
        a.add(at, 4)
        a.mov(x.t, Source.SBX)
        a.add(x.t, 128)
        x.add_wide(value, (x.t, 0))
        a.sub(self.taps_w, 1)
        a.jump("window.sum", Condition.Z, unless=True)
        a.label("window.end")
        a.add(row, self.pitch)
        a.sub(self.taps_h, 1)
        a.jump("window.row", Condition.Z, unless=True)
        a.jump("pool.done")

    def _place(self) -> None:
        """Emit the subroutines ``source``: ``t`` becomes the place of the first column of source
        row ``t``, or _OUTSIDE; and ``sample``: the pointer is at place ``t`` of VEC, or BUFFER.
        """
        x, a = self.x, self.x.a
        a.label("source")
        a.mul(x.t, self.field("src_cols"))
        x.move((x.t, x.u), (Source.PL, Source.PHU))
        x.add_wide((x.t, x.u), self.source)
        a.cmp(x.u, 0)
        a.jump("source.outside", Condition.Z, unless=True)
        a.cmp(x.t, x.config.vec_depth)
        a.jump("source.inside", Condition.C, unless=True)
        a.label("source.outside")
        a.mov(x.t, _OUTSIDE)
        a.label("source.inside")
        a.ret(self.place_link)

        a.label("sample")
        a.cmp(x.t, x.config.vec_depth)
        x.fail(Error.BUFFER, Condition.C)
        x.times(x.t, 4)
        a.add(x.t, self.source_words)
        a.out(Port.SPA, x.t)
        a.ret(self.sample)

    def _limit(self, position: Register, size: Register) -> None:
        """Emit: ``position``, signed, is limited to [0, size)."""
        a = self.x.a
        low, done = a.fresh("limit"), a.fresh("limited")
        a.cmp(position, size)
        a.jump(low, Condition.LT)
        a.mov(position, size)
        a.sub(position, 1)
        a.label(low)
        a.tst(position, position)
        a.jump(done, Condition.N, unless=True)
        a.mov(position, 0)
        a.label(done)

    def _fraction(self, axis: str, part: Register, position: Register) -> None:
        """Emit the step to the next output: the fraction, and with a carry the position."""
        a = self.x.a
        done = a.fresh("fraction")
        a.add(part, self.field(f"step_{axis}"))
        a.cmp(part, self.field(f"den_{axis}"))
        a.jump(done, Condition.C, unless=True)
        a.sub(part, self.field(f"den_{axis}"))
        a.add(position, 1)
        a.label(done)

    def _resize(self) -> None:
        """Emit resize: two sums across, of 16 bits, and their sum."""
        x, a = self.x, self.x.a
        value = self.value
        a.label("row.resize")
        for lower, place in ((0, self.place), (1, self.place_below)):
            a.mov(x.t, self.next_h)
            if lower:
                a.add(x.t, 1)
            self._limit(x.t, self.field("src_rows"))
            a.call(self.place_link, "source")
            a.mov(place, x.t)
        a.mov(self.now_h, self.part_h)
        a.mov(self.rest_h, self.field("den_h"))
        a.sub(self.rest_h, self.part_h)
        self._fraction("h", self.part_h, self.next_h)
        a.mov(self.next_w, self.field("offset_w"))
        a.mov(self.part_w, self.field("frac_w"))
        a.jump("vector.row")

        a.label("value.resize")
        left, right = self.h, self.w
        for column, more in ((left, 0), (right, 1)):
            a.mov(column, self.next_w)
            if more:
                a.add(column, 1)
            self._limit(column, self.field("src_cols"))
        a.mov(self.rest_w, self.field("den_w"))
        a.sub(self.rest_w, self.part_w)
        for place, weight in ((self.place, self.rest_h), (self.place_below, self.now_h)):
            a.mov(x.t, place)
            a.add(x.t, left)
            a.call(self.sample, "sample")
            a.mul(self.rest_w, Source.SBX)
            a.mov(self.sums, Source.PL)
            a.mov(x.t, place)
            a.add(x.t, right)
            a.call(self.sample, "sample")
            a.mul(self.part_w, Source.SBX)
            a.add(self.sums, Source.PL)
            a.mul(self.sums, weight)
            if weight is self.rest_h:
                x.move(value, (Source.PL, Source.PHS))
            else:
                x.add_wide(value, (Source.PL, Source.PHS))
        self._fraction("w", self.part_w, self.next_w)
        a.jump("requantize")

    def _argmax(self) -> None:
        """Emit argmax: for each output the channels in order, word after word."""
        x, a = self.x, self.x.a
        best, found, index, words, at, column = (
            self.value[0], self.value[1], self.taps_h, self.taps_w, self.at, self.h,
        )  # fmt: skip
        code, word = self.y, self.sums
        a.label("argmax")
        a.mov(self.held, NOTHING_HELD)
        a.mov(self.source_words, x.words_at("vec"))
        a.mov(self.row_at, self.output)
        x.times(self.row_at, 4)
        a.add(self.row_at, x.words_at("ofm"))
        a.mov(self.rows, self.field("out_rows"))
        a.label("argmax.row")
        a.cmp(self.next_h, self.field("src_rows"))
        x.fail(Error.BUFFER, Condition.C)
        a.mov(x.t, self.next_h)
        a.call(self.place_link, "source")
        a.mov(self.place, x.t)
        self._advance(self.next_h, self.field("stride_h"))
        a.mov(self.next_w, self.field("offset_w"))
        a.mov(column, 0)
        a.label("argmax.column")
        a.cmp(self.next_w, self.field("src_cols"))
        x.fail(Error.BUFFER, Condition.C)
        a.mov(at, self.place)
        a.add(at, self.next_w)
        self._advance(self.next_w, self.field("stride_w"))
        a.mov(best, -(1 << 15))
        a.mov(index, 0)
        a.label("argmax.block")
        a.mov(x.t, at)
        a.call(self.sample, "sample")
        a.mov(words, _R // 2)
        a.label("argmax.word")
        a.mov(word, Source.SPWI)
        for byte in range(2):
            if byte:
                a.swp(word, word)
            a.sxt(code, word)
            a.cmp(best, code)
            more, less = a.fresh("more"), a.fresh("less")
            a.jump(more, Condition.LT)
            a.mov(code, best)  # as long as the other way
            a.jump(less)
            a.label(more)
            a.mov(best, code)
            a.mov(found, index)
            a.label(less)
            a.add(index, 1)
            a.cmp(index, self.field("channels"))
            a.jump("argmax.found", Condition.Z)
        a.sub(words, 1)
        a.jump("argmax.word", Condition.Z, unless=True)
        a.add(at, self.field("src_plane"))
        a.jump("argmax.block", Condition.C, unless=True)
        x.fail(Error.BUFFER)
        a.label("argmax.found")
        a.cmp(self.field("high_byte"), 0)
        a.jump("argmax.byte", Condition.Z)
        a.swp(found, found)
        a.label("argmax.byte")
        a.mov(x.t, column)
        a.shr(x.t, x.t)
        a.add(x.t, self.row_at)
        a.out(Port.SPA, x.t)
        a.out(Port.BSEL, column)
        a.out(Port.SPBYTE, found)
        a.add(column, 1)
        a.cmp(column, self.field("out_cols"))
        a.jump("argmax.column", Condition.Z, unless=True)
        a.add(self.row_at, self.row_step)
        a.sub(self.rows, 1)
        a.jump("argmax.row", Condition.Z, unless=True)
        a.ret(self.link)
