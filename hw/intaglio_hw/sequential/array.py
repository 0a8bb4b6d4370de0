"""The array datapath: one weight vector against all pixels of a tile, one pixel per cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import address_width
from intaglio_hw.primitives import check_family
from intaglio_hw.primitives.products import ByteProducts
from intaglio_hw.sequential.interface import Port
from intaglio_hw.sequential.layout import Layout

__all__ = ["ArrayPass"]

_WORD = 16
#: Bits of a place in IFM: exact for every place inside of a tile.
_PLACE_BITS = 25
_SIZE_BITS = 12
_STEP_BITS = 8
_ROW_STEP_BITS = 20
#: Bits of a row or column: 4096 + 255 * 255, and a sign.
_POSITION_BITS = 18


class ArrayPass(wiring.Component):
    """Multiplies, adds and accumulates: a kernel position and a channel block of a tile.

    The ports of the engine say what is done (:class:`~intaglio_hw.sequential.interface.Port`);
    ``AGO`` starts it. Stages, a cycle each, of a pixel: its place is found; IFM is read; the vector
    stands in front of the multipliers; products; sums of two; their sum; the accumulator.

    Members
    -------
    port, value, write
        As the engine has them.
    busy
        From the cycle after the start until the last accumulator is written.
    error
        A pixel of the pass lay inside the tile but beyond IFM.
    address, data
        Of the scratchpad memory, while ``busy``; ``data`` in the cycle after ``address``.
    low, high
        Halves of the accumulator at ``ACCA``, from the second cycle after that was written on.
    take
        Moves ``ACCA`` to the next accumulator.
    """

    def __init__(self, *, config: AcceleratorConfig, family: str = "generic") -> None:
        self.config, self.family = config, check_family(family)
        self._address_bits = Layout.of(config).address_bits
        super().__init__(
            {
                "port": In(6),
                "value": In(_WORD),
                "write": In(1),
                "busy": Out(1),
                "error": Out(1),
                "address": Out(self._address_bits),
                "data": In(8 * config.R),
                "low": Out(_WORD),
                "high": Out(_WORD),
                "take": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        lanes = config.R
        pixel_bits = address_width(config.acc_depth)
        row_bits = address_width(2 * config.acc_depth)

        def given(port: Port) -> Value:
            return self.write & (self.port == port)

        def parameter(width: int, *ports: Port, is_signed: bool = False) -> Signal:
            name = ports[0].name.lower()
            result = Signal(signed(width) if is_signed else width, name=name, reset_less=True)
            for index, port in enumerate(ports):
                low = _WORD * index
                with m.If(given(port)):
                    m.d.sync += result[low : low + _WORD].eq(self.value)
            return result

        origin = parameter(_PLACE_BITS, Port.AA0L, Port.AA0H)
        first_h = parameter(_WORD, Port.AH0, is_signed=True)
        first_w = parameter(_WORD, Port.AW0, is_signed=True)
        rows, cols = parameter(_SIZE_BITS, Port.AROWS), parameter(_SIZE_BITS, Port.ACOLS)
        step_h, step_w = parameter(_STEP_BITS, Port.ASH), parameter(_STEP_BITS, Port.ASW)
        row_step = parameter(_ROW_STEP_BITS, Port.ARSL, Port.ARSH)
        last_p, last_q = parameter(pixel_bits, Port.AP), parameter(pixel_bits, Port.AQ)
        pad_code = parameter(8, Port.APAD)
        bank = parameter(row_bits, Port.AACC)
        start = given(Port.AGO)
        from_zero = Signal(reset_less=True)
        with m.If(start):
            m.d.sync += from_zero.eq(self.value[0])

        # Stage 0: the weights, then the pixels.
        weight = Signal(self._address_bits, reset_less=True)
        loading, running = Signal(), Signal()
        place, row_place = (
            Signal(_PLACE_BITS, reset_less=True, name=name) for name in ("place", "row_place")
        )
        h, w = (Signal(signed(_POSITION_BITS), reset_less=True, name=name) for name in "hw")
        row_w = Signal(signed(_WORD), reset_less=True)
        rows_left, left = (
            Signal(pixel_bits, reset_less=True, name=name) for name in ("rows_left", "left")
        )
        # The pixel is the last of its row, of all: known a cycle ahead.
        row_ends, last_row = Signal(reset_less=True), Signal(reset_less=True)
        ends = row_ends & last_row
        next_place = Signal(_PLACE_BITS)
        m.d.comb += [
            next_place.eq(Mux(row_ends, row_place, place) + Mux(row_ends, row_step, step_w)),
            self.address.eq(Mux(loading, weight, place[: address_width(config.ifm_depth)])),
        ]
        m.d.sync += [loading.eq(start), running.eq(loading | (running & ~ends))]
        with m.If(given(Port.AWGT)):
            m.d.sync += weight.eq(self.value)
        with m.Elif(loading):
            m.d.sync += weight.eq(weight + 1)
        with m.If(start):
            m.d.sync += [
                place.eq(origin),
                row_place.eq(origin),
                h.eq(first_h),
                w.eq(first_w),
                row_w.eq(first_w),
                rows_left.eq(last_p),
                last_row.eq(last_p == 0),
                left.eq(last_q),
                row_ends.eq(last_q == 0),
            ]
        with m.Elif(running):
            m.d.sync += [
                place.eq(next_place),
                w.eq(w + step_w),
                left.eq(left - 1),
                row_ends.eq(left == 1),
            ]
            with m.If(row_ends):
                m.d.sync += [
                    row_place.eq(next_place),
                    w.eq(row_w),
                    left.eq(last_q),
                    row_ends.eq(last_q == 0),
                    h.eq(h + step_h),
                    rows_left.eq(rows_left - 1),
                    last_row.eq(rows_left == 1),
                ]

        def within(position: Signal, size: Signal) -> Value:
            return (position[:_SIZE_BITS] < size) & ~position[_SIZE_BITS:].any()

        # Stage 1: what the memory reads.
        inside, beyond = Signal(reset_less=True), Signal(reset_less=True)
        stages = Signal(5)  # running, 1 to 5 stages later
        loaded = Signal()
        m.d.sync += [
            inside.eq(within(h, rows) & within(w, cols)),
            beyond.eq(place[address_width(config.ifm_depth) :].any()),
            stages.eq(Cat(running, stages[:-1])),
            loaded.eq(loading),
        ]
        with m.If(start):
            m.d.sync += self.error.eq(0)
        with m.Elif(stages[0] & inside & beyond):
            m.d.sync += self.error.eq(1)

        # Stages 2 and 3: the multipliers.
        m.submodules.products = cells = ByteProducts(lanes=lanes, family=self.family)
        assert cells.LATENCY == 2
        m.d.comb += [
            cells.a.eq(Mux(inside, self.data, pad_code.replicate(lanes))),
            cells.b.eq(self.data),
            cells.load.eq(loaded),
        ]
        # Stages 4 and 5: sums of pairs, and of all.
        sums = []
        for lane in range(0, lanes, 2):
            low, high = (cells.products.word_select(lane + i, _WORD).as_signed() for i in (0, 1))
            pair = Signal(signed(_WORD + 1), name=f"pair_{lane}", reset_less=True)
            m.d.sync += pair.eq(low + high)
            sums.append(pair)
        while len(sums) > 1:
            sums = [low + high for low, high in zip(sums[::2], sums[1::2], strict=True)]
        total = Signal.like(sums[0], name="total", reset_less=True)
        m.d.sync += total.eq(sums[0])

        # Stage 6: the accumulators, read two cycles before.
        memory = Memory(
            shape=2 * _WORD, depth=2 * config.acc_depth, init=[], attrs={"no_rw_check": 1}
        )
        m.submodules.accumulators = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        row, before = Signal(2 * _WORD, reset_less=True), Signal(2 * _WORD, reset_less=True)
        looked_at, looked_at_before, accumulated, engine_row = (
            Signal(row_bits, reset_less=True, name=name)
            for name in ("looked_at", "looked_at_before", "accumulated", "engine_row")
        )
        with m.If(given(Port.ACCA)):
            m.d.sync += engine_row.eq(self.value)
        with m.Elif(self.take):
            m.d.sync += engine_row.eq(engine_row + 1)
        with m.If(start):
            m.d.sync += looked_at.eq(bank)
        with m.Elif(stages[2]):
            m.d.sync += looked_at.eq(looked_at + 1)
        m.d.comb += read.addr.eq(Mux(self.busy, looked_at, engine_row))
        m.d.sync += [
            row.eq(read.data),
            before.eq(Mux(from_zero, 0, row)),
            looked_at_before.eq(looked_at),
            accumulated.eq(looked_at_before),
        ]
        m.d.comb += [
            write.addr.eq(accumulated),
            write.data.eq(before + total),
            write.en.eq(stages[4]),
            self.low.eq(row[:_WORD]),
            self.high.eq(row[_WORD:]),
        ]
        with m.If(start):
            m.d.sync += self.busy.eq(1)
        with m.Elif(~loading & ~running & (stages == 0)):
            m.d.sync += self.busy.eq(0)
        return m
