"""Reads the parameter pairs of a chunk while the chunk before it is still at work."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.arith import SUM_BITS
from intaglio.spec.config import AcceleratorConfig
from intaglio_hw.interfaces import READ_LATENCY, ReadPortSignature
from intaglio_hw.vector.beats import ADDRESS_BITS, delay

__all__ = ["PAIR", "ParameterLoader"]

#: A pair as PRM holds it, little endian.
PAIR = data.StructLayout({"multiplier": signed(16), "bias": signed(SUM_BITS)})


class ParameterLoader(wiring.Component):
    """Read the pairs for L lanes from PRM.

    ``ready`` falls in the cycle after ``start`` or ``more`` and rises L + 4 cycles after it; the
    last pair is there one cycle later, the first pair in ``pairs`` changes CHANGE cycles after it.
    ``start`` may come at any time and ends what was under way; ``more`` needs ``ready``.

    Members
    -------
    start, base
        Read from pair ``base``.
    more
        Read the L pairs that follow.
    fixed
        With ``start``: read the pair ``base`` for all lanes.
    neutral
        Give multiplier 1 and bias 0 and do not look at PRM; stable from the cycle after ``start``
        on.
    pairs, ready
        What was read, for lane 0 first.
    soon
        ``ready`` of the next cycle, unless ``start`` or ``more`` come.
    outside
        With ``ready``: a pair lies beyond the buffer.
    prm
        Read port of PRM.
    """

    #: Cycles from ``start`` or ``more`` to the first change of ``pairs``.
    CHANGE = 6

    def __init__(self, *, config: AcceleratorConfig, lean: bool = False) -> None:
        self.config, self.lean = config, lean
        super().__init__(
            {
                "start": In(1),
                "base": In(16),
                "more": In(1),
                "fixed": In(1),
                "neutral": In(1),
                "pairs": Out(data.ArrayLayout(PAIR, config.drain_lanes)),
                "ready": Out(1),
                "soon": Out(1),
                "outside": Out(1),
                "prm": Out(
                    ReadPortSignature(
                        depth=config.prm_depth // config.params_per_vector, width=8 * config.R
                    )
                ),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        L, packed = self.config.drain_lanes, self.config.params_per_vector
        select_bits = packed.bit_length() - 1
        index = Signal(ADDRESS_BITS, reset_less=True)
        left = Signal(range(L + 1))
        reading = Signal()
        # Lean: the address waits for two cycles instead of the pair.
        asked = delay(m, index, 2, name="asked") if self.lean else index
        m.d.comb += self.prm.addr.eq(asked[select_bits:][: len(self.prm.addr)])
        with m.If(reading):
            m.d.sync += [left.eq(left - 1), reading.eq(left != 1)]
            with m.If(~self.fixed):
                m.d.sync += index.eq(index + 1)
        # The check takes a cycle less than the read.
        beyond, high, was_reading = Signal(), Signal(reset_less=True), Signal()
        index_bits = (self.config.prm_depth - 1).bit_length()
        restart = self.start
        m.d.sync += [
            high.eq(index[index_bits:].any() & ~self.neutral),
            was_reading.eq(~restart & reading),
            beyond.eq(~restart & was_reading & high),
        ]
        with m.If(beyond):
            m.d.sync += self.outside.eq(1)

        # The read, the selection of the pair in its row, the way to the lanes, the shift into them.
        stages = READ_LATENCY + 2
        assert self.CHANGE == stages + 2
        arriving = Signal(stages)
        ending = Signal(stages - 1)
        m.d.sync += [
            arriving.eq(Mux(restart, 0, Cat(reading, arriving))),
            ending.eq(Mux(restart, 0, Cat(reading & (left == 1), ending))),
        ]
        pair = Signal(PAIR, reset_less=True)
        domain = m.d.comb if self.lean else m.d.sync
        row = [self.prm.data[64 * n : 64 * n + 64] for n in range(packed)]
        if select_bits:
            which = delay(m, asked[:select_bits], READ_LATENCY, name="which")
            domain += pair.eq(Array(row)[which])
        else:
            domain += pair.eq(row[0])
        with m.If(self.neutral):
            domain += pair.eq(Const(1, 64))
        travelling = delay(m, pair.as_value(), 0 if self.lean else 1, name="travelling")
        with m.If(arriving[-1]):
            m.d.sync += self.pairs.eq(Cat(self.pairs.as_value()[64:], travelling))
        m.d.comb += self.soon.eq(self.ready | ending[-1])
        with m.If(ending[-1]):
            m.d.sync += self.ready.eq(1)

        with m.If(self.start | self.more):
            m.d.sync += [left.eq(L), reading.eq(1), self.ready.eq(0), self.outside.eq(0)]
        with m.If(self.start):
            m.d.sync += index.eq(self.base)
        return m
