"""The partial sums of one lane."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from intaglio.spec.timing import ArrayTiming
from intaglio_hw.interfaces import ReadPortSignature, address_width
from intaglio_hw.memory import Scratchpad

__all__ = ["ACCUMULATOR_BITS", "Accumulator", "access_layout"]

#: Width of a partial sum.
ACCUMULATOR_BITS = 32
_HALF = ACCUMULATOR_BITS // 2


def access_layout(depth: int) -> data.StructLayout:
    """Return the layout of an access to one of two banks of ``depth`` sums."""
    return data.StructLayout({"addr": address_width(depth), "bank": 1, "enable": 1})


class Accumulator(wiring.Component):
    """Two banks of ``depth`` int32 sums: one is added to, one each cycle, while the other one is
    read.

    Members
    -------
    read
        In cycle ``t``: the sum to add to. Not enabled: start from zero.
    sum
        In cycle ``t + SUM_CYCLE``: what to add, signed ``sum_width`` bits.
    write
        In cycle ``t + WRITE_CYCLE``: where the result goes, if enabled.
    drain
        ``addr`` is bank * depth + pixel; ``data`` follows SUM_CYCLE later. Free on the bank
        that ``read`` does not use; on the same bank ``read`` comes first and ``drain.data`` is then
        of no use.

    The result is readable by an address presented in cycle ``t + LATENCY``. Sums wrap modulo 2**32.
    """

    LATENCY = ArrayTiming.ACCUMULATE
    SUM_CYCLE = Scratchpad.LATENCY + 2
    WRITE_CYCLE = LATENCY - 1

    def __init__(self, *, depth: int, sum_width: int, family: str = "generic") -> None:
        if not _HALF < sum_width <= ACCUMULATOR_BITS:
            raise ValueError(
                f"sum_width must be in [{_HALF + 1}, {ACCUMULATOR_BITS}], not {sum_width}"
            )
        self.depth, self.family = depth, family
        super().__init__(
            {
                "read": In(access_layout(depth)),
                "sum": In(signed(sum_width)),
                "write": In(access_layout(depth)),
                "drain": In(ReadPortSignature(depth=2 * depth, width=ACCUMULATOR_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        banks = [
            Scratchpad(depth=self.depth, width=ACCUMULATOR_BITS, family=self.family)
            for _ in range(2)
        ]
        result = Signal(ACCUMULATOR_BITS)
        # Stage 1: the addresses. Stages 2, 3: the memories.
        write_addr = Signal(self.write.addr.shape(), reset_less=True)
        m.d.sync += write_addr.eq(self.write.addr)
        for index, bank in enumerate(banks):
            m.submodules[f"bank{index}"] = bank
            read_addr = Signal.like(write_addr, name=f"read_addr_{index}")
            write_en = Signal(name=f"write_en_{index}")
            m.d.sync += [
                read_addr.eq(
                    Mux(
                        self.read.enable & (self.read.bank == index),
                        self.read.addr,
                        self.drain.addr[: address_width(self.depth)],
                    )
                ),
                write_en.eq(self.write.enable & (self.write.bank == index)),
            ]
            m.d.comb += [
                bank.read.addr.eq(read_addr),
                bank.write.addr.eq(write_addr),
                bank.write.data.eq(result),
                bank.write.en.eq(write_en),
            ]

        # Which bank was asked travels beside them.
        enable, bank, drain_bank = self.read.enable, self.read.bank, self.drain.addr[-1]
        for stage in range(1, self.SUM_CYCLE):
            delayed = [
                Signal(1, name=f"{name}_{stage}", reset_less=True)
                for name in ("enable", "bank", "drain_bank")
            ]
            m.d.sync += [
                target.eq(source)
                for target, source in zip(delayed, (enable, bank, drain_bank), strict=True)
            ]
            enable, bank, drain_bank = delayed
        drained = Signal(ACCUMULATOR_BITS, reset_less=True)
        m.d.sync += drained.eq(Mux(drain_bank, banks[1].read.data, banks[0].read.data))
        m.d.comb += self.drain.data.eq(drained)

        # Stage 4: the operand.
        operand = Signal(ACCUMULATOR_BITS, reset_less=True)
        m.d.sync += operand.eq(Mux(enable, Mux(bank, banks[1].read.data, banks[0].read.data), 0))

        # Stage 5: the lower half. Two short carry chains instead of one of 32 bits.
        low = Signal(_HALF + 1, reset_less=True)
        high_operand = Signal(signed(_HALF), reset_less=True)
        high_sum = Signal(signed(len(self.sum) - _HALF), reset_less=True)
        m.d.sync += [
            low.eq(operand[:_HALF] + self.sum[:_HALF]),
            high_operand.eq(operand[_HALF:]),
            high_sum.eq(self.sum[_HALF:]),
        ]

        # Stage 6: the upper half.
        high = Signal(_HALF, reset_less=True)
        low_done = Signal(_HALF, reset_less=True)
        m.d.sync += [
            high.eq(high_operand + high_sum + low[_HALF]),
            low_done.eq(low[:_HALF]),
        ]
        m.d.comb += result.eq(Cat(low_done, high))
        return m
