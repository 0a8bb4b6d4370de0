"""Counters against sums: each number is that of the cycle in which it was selected."""

import cocotb
from cocotb.triggers import RisingEdge

from intaglio.spec import regs
from intaglio_hw.counters import CounterBank, events_layout
from intaglio_sim.bfm import pack, start_clock
from intaglio_sim.stimulus import bench_rng


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(rate=[0.1, 1.0], rounds=[20, 1000])
async def counts(dut, rate, rounds):
    """Any counter in any cycle; cleared after about ``rounds`` cycles, also before a row is seen.

    With ``rate`` 1 carries follow each other as fast as they can.
    """
    rng = bench_rng(f"counters {rate} {rounds}")
    layout = events_layout()
    names = [name for name, _ in regs.COUNTERS]
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    totals = dict.fromkeys(names, 0)
    dut.clear.value = 1
    await edge
    due, checked, largest = [], 0, 0
    for _ in range(5000):
        events = {
            name: (1 << layout[name].width) - 1 if rng.random() < rate else 0 for name in names
        }
        clear = rng.random() < 1 / rounds
        select = rng.randrange(len(names))
        dut.events.value = pack(layout, events)
        dut.clear.value = int(clear)
        dut.select.value = select
        due.append((names[select], totals[names[select]]))
        totals = {name: 0 if clear else totals[name] + events[name] for name in names}
        await edge
        if len(due) > CounterBank.LATENCY:
            name, total = due.pop(0)
            assert int(dut.count.value) == total, name
            checked, largest = checked + 1, max(largest, total)
    assert checked > 4000 and largest > rate * rounds
