"""The whole accelerator behind its two buses: register map, protocol, small programs, errors."""

from dataclasses import dataclass, field

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiResp
from machine import BYTES, PATIENCE, Machine
from programs import (
    END,
    LOAD,
    STORE,
    VECTOR,
    convolution,
    copy,
    load,
    patched,
    store,
    vector_copy,
)

from intaglio.spec import isa, ops, regs
from intaglio.spec.isa import Buffer, Error, Function, encode
from intaglio_sim.golden import GoldenMachine
from intaglio_sim.runner import bench_config
from intaglio_sim.stimulus import integer, matrix

CONFIG = bench_config()
R, K = CONFIG.R, CONFIG.K
OKAY, SLVERR = AxiResp.OKAY, AxiResp.SLVERR
STALLS = {"address": [1.0, 0.4], "data": [1.0, 0.3], "response": [1.0, 0.3]}


async def machine(dut) -> Machine:
    found = Machine(dut, CONFIG)
    await found.begin()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    found.memory.bytes[:] = rng.integers(0, 256, BYTES, dtype=np.uint8)
    return found


# ------------------------------------------------------------------------------------- registers


@cocotb.test(timeout_time=1 * PATIENCE, timeout_unit="ms")
async def identifies_itself(dut):
    m = await machine(dut)
    assert (await m.get("identity")).to_bytes(4, "little") == b"INTA"
    assert await m.get("version") == regs.VERSION
    assert await m.get("lanes") == R | K << 8 | CONFIG.drain_lanes << 16
    assert await m.get("config") == int(CONFIG.digest()[-8:], 16)


@cocotb.test(timeout_time=1 * PATIENCE, timeout_unit="ms")
async def follows_the_register_map(dut):
    m = await machine(dut)
    fixed = ("identity", "version", "lanes", "config")
    for item in regs.REGISTERS:  # after reset
        value, resp = await m.read32(item.address)
        assert resp == OKAY and (item.name in fixed or value == 0), item.name
    known = {item.address for item in regs.REGISTERS}
    for item in regs.REGISTERS:
        before = await m.get(item.name)
        bits = sum(part.width for part in item.fields) or 32
        patterns = [(1 << bits) - 1, 0, integer(m.rng, 0, (1 << bits) - 1)]
        if item.access == "ro":
            for pattern in patterns:
                assert await m.write32(item.address, pattern ^ before) == SLVERR, item.name
            assert await m.get(item.name) == before
        elif item.access == "rw":
            for pattern in patterns:
                assert await m.write32(item.address, pattern) == OKAY
                assert await m.get(item.name) == pattern, item.name
                assert await m.write32(item.address, pattern ^ 0xFFFF_FFFF) == OKAY
                assert await m.get(item.name) == pattern ^ (1 << bits) - 1, item.name
        elif item.access == "w1c":
            assert await m.write32(item.address, (1 << bits) - 1) == OKAY
            assert await m.get(item.name) == 0
        else:
            assert item.name == "control"  # writing ones acts: see the tests of programs
            assert await m.write32(item.address, 0) == OKAY
            assert await m.get(item.name) == 0
    others = [address for address in range(0, 0x100, 4) if address not in known]
    for address in [*others, 0x100, 0x800, 0xFFC]:
        assert (await m.read32(address))[1] == SLVERR, hex(address)
        assert await m.write32(address, 0) == SLVERR, hex(address)


@cocotb.test(timeout_time=1 * PATIENCE, timeout_unit="ms")
async def guards_registers_while_busy(dut):
    m = await machine(dut)
    program = copy(CONFIG, 4096, 8192, 8)
    expected = m.memory.bytes[4096 : 4096 + 8 * R].copy()
    m.slave.read_if.r_channel.pause = True  # nothing comes back: the machine stays busy
    await m.start(program)
    assert await m.get("status") == 1
    for item in regs.REGISTERS:
        if item.access == "rw" and item.name != "interrupt_enable":
            before = await m.get(item.name)
            assert await m.write32(item.address, before ^ 0x1000) == SLVERR, item.name
            assert await m.get(item.name) == before
    await m.put("interrupt_enable", 0b11)
    await m.put("control", 1)  # ignored
    assert await m.get("status") == 1
    m.slave.read_if.r_channel.pause = False
    assert await m.finish() == (True, Error.NONE, 0)
    assert np.array_equal(m.memory.bytes[8192 : 8192 + 8 * R], expected)
    await ClockCycles(dut.clk, 100)
    assert await m.get("status") == 0b010  # it did not start again
    assert await m.get("instructions") == 3


@cocotb.test(timeout_time=1 * PATIENCE, timeout_unit="ms")
async def interrupts_when_enabled(dut):
    m = await machine(dut)
    await m.start(copy(CONFIG, 4096, 8192, 4))
    await m.put("interrupt_enable", 0b10)  # only failures
    for _ in range(2000 * PATIENCE):
        await RisingEdge(dut.clk)
        assert not int(dut.interrupt.value)
    assert await m.get("status") == 0b010
    assert await m.get("interrupt_status") == 0b01
    await m.put("interrupt_status", 0b10)  # the other bit: nothing happens
    assert await m.get("interrupt_status") == 0b01
    await m.put("interrupt_enable", 0b01)
    await ClockCycles(dut.clk, 3)
    assert int(dut.interrupt.value)
    await m.put("interrupt_status", 0b01)
    await ClockCycles(dut.clk, 3)
    assert not int(dut.interrupt.value)


# ------------------------------------------------------------------------------------- programs


@cocotb.test(timeout_time=5 * PATIENCE, timeout_unit="ms")
@cocotb.parametrize(**STALLS)
async def copies(dut, address, data, response):
    m = await machine(dut)
    m.stall(address, data, response)
    vectors = min(CONFIG.ofm_depth, 100)
    source = 4096 - 5 * R + 3  # unaligned, and across a boundary of 4096 bytes
    target = 8192 - 7 * R
    expected = m.memory.bytes.copy()
    expected[target : target + vectors * R] = expected[source : source + vectors * R]
    program = copy(CONFIG, source, target, vectors)
    expected[: 64 * len(program)] = list(b"".join(program))
    assert await m.run(program) == (True, Error.NONE, 0)
    assert np.array_equal(m.memory.bytes, expected)
    assert len(m.memory.writes) == await m.get("write_beats") == vectors
    beats = vectors + 1  # unaligned: one more
    assert await m.get("read_beats") == beats
    fetched = await m.get("fetch_beats")
    assert fetched >= 4 * 64 // R and len(m.memory.reads) == beats + fetched
    assert sum(n for channel, _, n in m.bursts if channel == "aw") == vectors
    assert await m.get("instructions") == 3


@cocotb.test(timeout_time=20 * PATIENCE, timeout_unit="ms")
@cocotb.parametrize(padding=[0, 1], rate=[1.0, 0.4])
async def convolves(dut, padding, rate):
    m = await machine(dut)
    m.stall(rate, rate, rate)
    C, channels, H, W = R - 3, R, 4, 5
    x = matrix(m.rng, (C, H, W))
    weight = matrix(m.rng, (channels, C, 3, 3))
    multiplier = matrix(m.rng, (channels,), bits=16)
    bias = matrix(m.rng, (channels,), bits=30).astype(np.int64)
    settings = {"pad_code": -5, "shift": 22, "low": -100, "high": 127}
    program, result = convolution(
        CONFIG, m.memory.bytes, x, weight, multiplier, bias, padding=padding, free=4096, **settings
    )
    expected = ops.conv(
        x[None],
        weight,
        multiplier,
        bias,
        stride=(1, 1),
        padding=(padding,) * 4,
        dilation=(1, 1),
        **settings,
    )[0]
    assert len(np.unique(expected)) > 20  # not all saturated
    assert await m.run(program) == (True, Error.NONE, 0)
    P, Q = expected.shape[1:]
    found = m.memory.bytes[result : result + P * Q * R].view(np.int8).reshape(P, Q, R)
    assert np.array_equal(found.transpose(2, 0, 1), expected)
    groups = -(-channels // K)
    assert await m.get("array_busy") == groups * 9 * P * Q


# --------------------------------------------------------------------------------------- errors


@dataclass(frozen=True)
class Case:
    """A program that must fail with ``error`` at instruction ``index``; ``bad``: a faulty place."""

    name: str
    program: list[bytes]
    error: Error
    index: int = 0
    bad: int | None = None
    options: dict = field(default_factory=dict)


def error_cases() -> list[Case]:
    """Return cases for every error of the machine but TIMEOUT."""
    head, move, tail, _ = copy(CONFIG, 4096, 8192, 4)
    plain = load(CONFIG, Buffer.VEC, 4096, 4)

    def array(**options) -> bytes:
        ones = {"kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1}
        return encode("array", ones | {"ifm_rows": 2, "ifm_cols": 2} | options)

    def drain(**options) -> bytes:
        shape = {"chunks": K // CONFIG.drain_lanes, "out_rows": 1, "out_cols": 4}
        return encode("vector", shape | {"ofm_row_step": 4, "ofm_col_step": 1} | options)

    beyond_bank = CONFIG.acc_depth + 1
    end_reserved = (int.from_bytes(END, "little") | 1 << 511).to_bytes(64, "little")
    cases = [
        Case("opcode", [plain, bytes([0xEE]) + bytes(63), END], Error.OPCODE, 1),
        Case("reserved bit of end", [plain, end_reserved], Error.OPCODE, 1),
        Case("reserved bit of load", [plain[:63] + b"\x80", END], Error.OPCODE),
        # A field out of its range.
        Case("buffer", [patched(plain, "buffer", 4), END], Error.FIELD),
        Case("rows", [plain, patched(plain, "rows", 0), END], Error.FIELD, 1),
        Case("shift", [patched(drain(), "shift", 48), END], Error.FIELD),
        Case("offset", [patched(array(), "offset_h", 4096), END], Error.FIELD),
        # Outside of a buffer.
        Case("load IFM", [plain, load(CONFIG, Buffer.IFM, 4096, 4, base=CONFIG.ifm_depth - 3), END],
             Error.BUFFER, 1),
        Case("load WGT", [load(CONFIG, Buffer.WGT, 0, 2, base=CONFIG.wgt_depth - 1), END],
             Error.BUFFER),
        Case("load VEC", [load(CONFIG, Buffer.VEC, 0, 2, base=CONFIG.vec_depth - 1), END],
             Error.BUFFER),
        Case("load PRM", [load(CONFIG, Buffer.PRM, 0, 2, base=CONFIG.prm_depth - R // 8), END],
             Error.BUFFER),
        Case("array bank", [array(out_rows=1, out_cols=beyond_bank), END], Error.BUFFER),
        Case("array IFM", [array(ifm_base=CONFIG.ifm_depth - 1, out_cols=2), END], Error.BUFFER),
        Case("array WGT", [array(wgt_base=CONFIG.wgt_depth - 1, kernel_w=2), END], Error.BUFFER),
        Case("drain bank", [drain(out_cols=beyond_bank, ofm_row_step=0, ofm_col_step=0), END],
             Error.BUFFER),
        Case("drain OFM", [drain(ofm_base=CONFIG.ofm_depth - 1), END], Error.BUFFER),
        Case("drain PRM", [drain(prm_base=CONFIG.prm_depth), END], Error.BUFFER),
        Case("vector VEC", [vector_copy(CONFIG, 4, src_base=CONFIG.vec_depth - 1), END],
             Error.BUFFER),
        Case("store OFM", [store(CONFIG, 8192, 4, base=CONFIG.ofm_depth - 2), END], Error.BUFFER),
        # Outside of the memory, or misaligned.
        Case("load", [load(CONFIG, Buffer.IFM, BYTES - R, 2), END], Error.MEMORY),
        Case("load far away", [load(CONFIG, Buffer.IFM, 0xFFFF_FFF0, 4), END], Error.MEMORY),
        Case("load beyond the limit", [load(CONFIG, Buffer.IFM, 4096, 4), END], Error.MEMORY,
             options={"memory_bytes": 4096}),
        Case("store", [plain, store(CONFIG, BYTES - R, 2), END], Error.MEMORY, 1),
        Case("store second plane", [
            store(CONFIG, 8192, 2, planes=2, plane_step=BYTES - 8192), END,
        ], Error.MEMORY),
        Case("store unaligned", [store(CONFIG, 8192 + R // 2, 4), END], Error.MEMORY),
        # The bus answers with an error.
        Case("read refused", [head, move, END], Error.BUS, 0, bad=4096 + 2 * R),
        Case("write refused", copy(CONFIG, 4096, 8192, 4), Error.BUS, 2, bad=8192 + R),
        Case("fetch refused", [plain, plain, END], Error.BUS, 1, bad=64),
        # Tokens.
        Case("no token comes", [plain, tail, END], Error.DEADLOCK, 1),
        Case("a ring", [
            load(CONFIG, Buffer.VEC, 4096, 4, wait=VECTOR, signal=VECTOR),
            vector_copy(CONFIG, 4, wait=LOAD, signal=LOAD),
            END,
        ], Error.DEADLOCK),
        Case("waits for itself", [patched(plain, "wait", LOAD), END], Error.TOKEN),
        Case("signals itself", [plain, patched(store(CONFIG, 8192, 1), "signal", STORE), END],
             Error.TOKEN, 1),
        # The program as a whole.
        Case("no end", [plain, plain], Error.PROGRAM, 2),
        Case("length zero", [END], Error.PROGRAM, options={"length": 0}),
        Case("base unaligned", [END], Error.PROGRAM, options={"base": 32}),
        Case("beyond memory", [END], Error.PROGRAM, options={"base": BYTES - 64, "length": 2}),
    ]  # fmt: skip
    assert {case.error for case in cases} == set(Error) - {Error.NONE, Error.TIMEOUT}
    return cases


CASES = error_cases()


@cocotb.test(timeout_time=2 * PATIENCE, timeout_unit="ms")
@cocotb.parametrize(number=range(len(CASES)))
async def stops_with_error(dut, number):
    """The machine reports the error, writes nothing that it should not, and can start again."""
    case = CASES[number]
    name, options = case.name, case.options
    m = await machine(dut)
    if case.bad is not None:
        m.memory.bad.add(case.bad)
    await m.start(case.program, **options)
    expected = m.memory.bytes.copy()
    assert await m.finish() == (False, case.error, case.index), name
    allowed = np.zeros(BYTES, bool)
    allowed[8192 : 8192 + 4 * R] = True  # where a program stores, if it comes that far
    assert np.array_equal(m.memory.bytes[~allowed], expected[~allowed]), name
    if case.bad is None:  # the golden machine knows no bus
        golden = GoldenMachine(CONFIG).run(
            expected.copy(),
            options.get("base", 0),
            options.get("length", len(case.program)),
            options.get("memory_bytes", BYTES),
        )
        assert (golden.error, golden.error_instruction) == (case.error, case.index), name
    m.memory.bad.clear()
    source = m.memory.bytes[4096 : 4096 + 6 * R].copy()
    assert await m.run(copy(CONFIG, 4096, 12288, 6)) == (True, Error.NONE, 0), name
    assert np.array_equal(m.memory.bytes[12288 : 12288 + 6 * R], source), name


@cocotb.test(timeout_time=2 * PATIENCE, timeout_unit="ms")
@cocotb.parametrize(ending=["end", "error"])
async def accumulates_within_a_program(dut, ending):
    """Nothing is left to accumulate on when a program starts, however the one before ended."""
    m = await machine(dut)
    first = vector_copy(CONFIG, 1, chunks=1)
    more = vector_copy(CONFIG, 1, chunks=1, accumulate=1)
    if ending == "end":
        assert await m.run([first, more, END]) == (True, Error.NONE, 0)
    else:
        bad = patched(load(CONFIG, Buffer.VEC, 0, 1), "buffer", 4)
        # The load waits until the vector unit has something to go on with.
        first = vector_copy(CONFIG, 1, chunks=1, signal=LOAD)
        program = [first, load(CONFIG, Buffer.VEC, 0, 1, wait=VECTOR), bad, END]
        assert await m.run(program) == (False, Error.FIELD, 2)
    for program in ([more, END], [patched(more, "function", Function.SUM), END]):
        memory = m.memory.bytes.copy()
        await m.start(program)
        assert await m.finish() == (False, Error.FIELD, 0)
        golden = GoldenMachine(CONFIG).run(m.memory.bytes.copy(), 0, len(program), BYTES)
        assert (golden.error, golden.error_instruction) == (Error.FIELD, 0)
        assert np.array_equal(m.memory.bytes[4096:], memory[4096:])


@cocotb.test(timeout_time=2 * PATIENCE, timeout_unit="ms")
async def counts_tokens(dut):
    """As many tokens as a counter holds are no error; one more is."""
    m = await machine(dut)
    give = load(CONFIG, Buffer.VEC, 24576, 1, signal=STORE)
    assert await m.run([give] * isa.TOKEN_MAX + [END], base=4096) == (True, Error.NONE, 0)
    found = await m.run([give] * (isa.TOKEN_MAX + 1) + [END], base=4096)
    assert found == (False, Error.TOKEN, isa.TOKEN_MAX)
    take = store(CONFIG, 8192, 1, wait=LOAD)
    assert await m.run([give] * 3 + [take] * 3 + [END]) == (True, Error.NONE, 0)
    assert await m.run([give] * 3 + [take] * 4 + [END]) == (False, Error.DEADLOCK, 6)


@cocotb.test(timeout_time=2 * PATIENCE, timeout_unit="ms")
async def stops_in_time(dut):
    m = await machine(dut)
    program = [load(CONFIG, Buffer.VEC, 4096, 64)] * 20 + [END]
    finished, error, _ = await m.run(program, cycle_limit=300)
    assert (finished, error) == (False, Error.TIMEOUT)
    cycles = await m.get("cycles")
    assert 300 <= cycles < 300 + 2 * 64 * R
    assert await m.run(program, cycle_limit=1_000_000) == (True, Error.NONE, 0)


@cocotb.test(timeout_time=2 * PATIENCE, timeout_unit="ms")
@cocotb.parametrize(delay=[1, 40, 77, 150])
async def stops_when_told(dut, delay):
    m = await machine(dut)
    m.stall(0.5, 0.5, 0.5)
    await m.start(copy(CONFIG, 4096, 8192, 64))
    await ClockCycles(dut.clk, delay)
    await m.put("control", 2)
    assert await m.finish() == (False, Error.NONE, 0)
    quiet = len(m.bursts)
    await ClockCycles(dut.clk, 300)
    assert len(m.bursts) == quiet and await m.get("status") == 0b100
    assert await m.run(copy(CONFIG, 4096, 12288, 6)) == (True, Error.NONE, 0)
    assert np.array_equal(
        m.memory.bytes[12288 : 12288 + 6 * R], m.memory.bytes[4096 : 4096 + 6 * R]
    )
