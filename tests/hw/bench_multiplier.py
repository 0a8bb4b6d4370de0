"""All products of two int8, and a weight that is kept while it must be."""

import cocotb
from cocotb.triggers import RisingEdge

from intaglio.spec.arith import CODE_MAX, CODE_MIN, wrap
from intaglio_hw.lane import Multiplier
from intaglio_sim.bfm import start_clock
from intaglio_sim.stimulus import bench_rng


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def all_products(dut):
    rng = bench_rng("multiplier")
    await start_clock(dut)
    edge = RisingEdge(dut.clk)
    due: list[int] = []
    checked = 0
    for weight in range(CODE_MIN, CODE_MAX + 1):
        dut.weight.value = weight & 0xFF
        dut.load.value = 1
        for pixel in range(CODE_MIN, CODE_MAX + 1):
            dut.pixel.value = pixel & 0xFF
            due.append(pixel * weight)
            await edge
            if len(due) > Multiplier.LATENCY:
                assert wrap(int(dut.product.value), 16) == due.pop(0), (pixel, weight)
                checked += 1
            if pixel == CODE_MIN:
                dut.load.value = 0
                dut.weight.value = rng.getrandbits(8)
    assert checked == 65536 - Multiplier.LATENCY
