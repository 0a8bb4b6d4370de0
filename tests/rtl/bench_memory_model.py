"""The memory model against cocotbext-axi's manager, which was written elsewhere."""

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiMaster, AxiResp

R = 8
BYTES = 4096
BASE = 0x8000_0000


async def start(
    dut, *, latency: int, interval: int, stall: int, bad: int = 0xFFFF_FFFF
) -> AxiMaster:
    dut.base.value, dut.bytes.value, dut.bad.value = BASE, BYTES, bad
    dut.latency.value, dut.interval.value, dut.stall.value = latency, interval, stall
    dut.seed.value = cocotb.RANDOM_SEED % 2**32
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start(start_high=False)
    manager = AxiMaster(AxiBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
    for channel in (
        manager.write_if.aw_channel,
        manager.write_if.w_channel,
        manager.read_if.ar_channel,
    ):
        channel.log.setLevel("WARNING")
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    return manager


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(latency=[2, 30], interval=[1, 3], stall=[0, 60])
async def reads_what_was_written(dut, latency, interval, stall):
    rng = random.Random(cocotb.RANDOM_SEED)
    manager = await start(dut, latency=latency, interval=interval, stall=stall)
    content = bytearray(rng.randbytes(BYTES))
    manager.write_if.w_channel.set_pause_generator(rng.random() < 0.3 for _ in iter(int, 1))
    manager.write_if.b_channel.set_pause_generator(rng.random() < 0.3 for _ in iter(int, 1))
    manager.read_if.r_channel.set_pause_generator(rng.random() < 0.3 for _ in iter(int, 1))
    assert (await manager.write(BASE, bytes(content))).resp == AxiResp.OKAY
    for _ in range(20):
        beats = rng.randint(1, 40)
        place = R * rng.randint(0, BYTES // R - beats)
        patch = rng.randbytes(R * beats)
        content[place : place + len(patch)] = patch
        assert (await manager.write(BASE + place, patch)).resp == AxiResp.OKAY
    reads = []
    for _ in range(20):  # several on their way at once
        beats = rng.randint(1, 40)
        place = R * rng.randint(0, BYTES // R - beats)
        reads.append((place, R * beats, cocotb.start_soon(manager.read(BASE + place, R * beats))))
    for place, length, read in reads:
        answer = await read
        assert answer.resp == AxiResp.OKAY
        assert bytes(answer.data) == content[place : place + length]
    assert bytes((await manager.read(BASE, BYTES)).data) == content
    assert not int(dut.violation.value)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def answers_errors(dut):
    manager = await start(dut, latency=2, interval=1, stall=0, bad=64)
    await manager.write(BASE, bytes(128))
    for place, resp in (
        (BASE - R, AxiResp.DECERR),
        (BASE + BYTES, AxiResp.DECERR),
        (BASE + 64, AxiResp.SLVERR),
    ):
        assert (await manager.read(place, R)).resp == resp
        assert (await manager.write(place, b"\x55" * R)).resp == resp
    assert (
        await manager.write(BASE + 56, b"\x55" * 24)
    ).resp == AxiResp.SLVERR  # the worst of a burst
    around = await manager.read(BASE + 56, 24)
    assert around.resp == AxiResp.SLVERR
    assert bytes(around.data) == b"\x55" * 8 + b"\xff" * 8 + b"\x55" * 8
    assert not int(dut.violation.value)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(latency=[2, 3, 17])
async def has_the_latency(dut, latency):
    manager = await start(dut, latency=latency, interval=1, stall=0)
    read = cocotb.start_soon(manager.read(BASE, R))
    cycles = {}
    for cycle in range(200):
        await RisingEdge(dut.clk)
        if int(dut.s_axi_arvalid.value) and int(dut.s_axi_arready.value):
            cycles["ar"] = cycle
        if int(dut.s_axi_rvalid.value):
            cycles.setdefault("r", cycle)
    await read
    assert cycles["r"] - cycles["ar"] == latency


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(rule=["strobes", "boundary"])
async def notices_violations(dut, rule):
    manager = await start(dut, latency=2, interval=1, stall=0)
    assert not int(dut.violation.value)
    if rule == "strobes":
        await manager.write(BASE + 1, b"\x01")
    else:
        dut.s_axi_awaddr.value = BASE + 4096 - R
        dut.s_axi_awlen.value, dut.s_axi_awsize.value, dut.s_axi_awburst.value = 1, 3, 1
        dut.s_axi_awvalid.value = 1
        await ClockCycles(dut.clk, 4)
        dut.s_axi_awvalid.value = 0
    await ClockCycles(dut.clk, 4)
    assert int(dut.violation.value)
