"""The parts of the sequential accelerator, each against a few lines of Python."""

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from intaglio.spec.arith import requantize
from intaglio.spec.config import CONFIGS
from intaglio_hw.primitives.products import WordProduct
from intaglio_hw.sequential.array import ArrayPass
from intaglio_hw.sequential.drain import DrainPass
from intaglio_hw.sequential.engine import CONDITIONS, Engine
from intaglio_hw.sequential.interface import (
    INVERT,
    TRAP_PLACE,
    Condition,
    Control,
    Mode,
    Operation,
    Port,
    Source,
)

CONFIG = replace(CONFIGS["sequential-8x1"], ifm_depth=64, acc_depth=64)


def simulate(component, bench) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


# ------------------------------------------------------------------------------------------ engine


def word(op: int, d: int = 0, s: int = 0) -> int:
    return op << 16 | d << 8 | s


def jump(target: int, condition: Condition, invert: bool = False) -> int:
    place = INVERT * invert | condition
    return word(Control.JUMP << 4 | target >> 8, place, target & 255)


def signed(x: int, bits: int = 16) -> int:
    return x - (1 << bits) if x >> (bits - 1) & 1 else x


class Model:
    """The engine, instruction by instruction: registers, flags, products, OUTs."""

    def __init__(self, words, registers) -> None:
        self.words, self.pc = words, 0
        self.r = [registers.get(i, 0) for i in range(256)]
        self.C = self.Z = self.N = self.V = 0
        self.products = {source: 0 for source in (Source.PL, Source.PHS, Source.PHM, Source.PHU)}
        self.written: list[tuple[int, int]] = []

    def condition(self, number: int, outside: int) -> int:
        less = self.N ^ self.V
        inner = [1, self.Z, self.C, self.N, less, self.Z | less, self.C & (1 - self.Z)]
        if number < len(inner):
            return inner[number]
        return outside >> (number - len(inner)) & 1 if number <= CONDITIONS[-1] else 0

    def step(self, scratch: int, special: int, outside: int) -> None:
        bits = self.words[self.pc]
        op, d, s = bits >> 16, bits >> 8 & 255, bits & 255
        following = (self.pc + 1) & 0xFFF
        target = (op & 15) << 8 | s
        mode = op >> 6
        control = mode == Mode.CONTROL
        b_mode = op & 3 if control else mode
        b = {
            Mode.REGISTER: self.r[s],
            Mode.IMMEDIATE: s,
            Mode.SPECIAL: scratch if s <= Source.SBX else self.products.get(s, special),
        }.get(b_mode, self.r[s])
        if control:
            kind = op >> 4
            if kind == Control.CALL:
                self.r[d] = following
                following = target
            elif kind == Control.JUMP:
                if self.condition(d & 15, outside) ^ (d >> 4 & 1):
                    following = target
            elif kind == Control.JR:
                following = b & 0xFFF
            else:
                self.written.append((d & 63, b))
            self.pc = following
            return
        self.pc = following
        self.operate(Operation(op & 31), d, self.r[d], b)

    def operate(self, operation: Operation, d: int, a: int, b: int) -> None:
        if operation >= Operation.ADD:
            subtract, carries = operation & 2, operation & 1
            inverted = b ^ 0xFFFF if subtract else b
            carry = self.C if carries else int(bool(subtract))
            total = a + inverted + carry
            result = total & 0xFFFF
            self.C = total >> 16
            exact = signed(a) + signed(inverted) + carry
            self.V = int(signed(result) != exact)
            self.Z = int(result == 0 and (self.Z or not carries))
            self.N = result >> 15
            if operation not in (Operation.CMP, Operation.CPC):
                self.r[d] = result
            return
        if operation == Operation.MUL:
            self.products = {
                Source.PL: a * b & 0xFFFF,
                Source.PHS: signed(a) * signed(b) >> 16 & 0xFFFF,
                Source.PHM: a * signed(b) >> 16 & 0xFFFF,
                Source.PHU: a * b >> 16,
            }
            return
        result = {
            Operation.MOV: b,
            Operation.AND: a & b,
            Operation.OR: a | b,
            Operation.XOR: a ^ b,
            Operation.SWP: (b << 8 | b >> 8) & 0xFFFF,
            Operation.SXT: signed(b & 255, 8) & 0xFFFF,
            Operation.SHR: b >> 1,
            Operation.SAR: signed(b) >> 1 & 0xFFFF,
            Operation.ROR: self.C << 15 | b >> 1,
            Operation.TST: a & b,
        }[operation]
        if operation not in (Operation.MOV, Operation.SWP, Operation.SXT):
            self.Z, self.N = int(result == 0), result >> 15
        if operation in (Operation.SHR, Operation.SAR, Operation.ROR):
            self.C = b & 1
        if operation != Operation.TST:
            self.r[d] = result


def random_program(rng: random.Random, count: int) -> tuple[list[int], dict[int, int]]:
    """Return instructions on a few registers with jumps anywhere, and the registers."""
    numbers = [0, 1, 2, 3, 100, 191]
    extremes = [0, 1, 0x7FFF, 0x8000, 0xFFFF]
    registers = {
        number: rng.choice([rng.choice(extremes), rng.getrandbits(16)]) for number in numbers
    }
    words = []
    for place in range(count - 1):
        # Forwards, so that all of it is met again and again.
        target = min(place + rng.randrange(1, 9), count - 1)
        d, s = rng.choice(numbers), rng.choice(numbers)
        kind = rng.randrange(10)
        if kind < 7:
            mode = rng.randrange(3)
            s = [s, rng.getrandbits(8), rng.randrange(12)][mode]
            words.append(word(mode << 6 | rng.choice(list(Operation)), d, s))
        elif kind < 8:
            mode = rng.randrange(3)
            s = [s, rng.getrandbits(8), rng.randrange(12)][mode]
            words.append(word(Control.OUT << 4 | mode, rng.getrandbits(6), s))
        elif kind < 9:
            words.append(jump(target, rng.choice(list(Condition)), rng.random() < 0.5))
        elif rng.random() < 0.5:
            words.append(word(Control.CALL << 4 | target >> 8, 5, target & 255))
        else:
            words.append(word(Control.JR << 4 | Mode.IMMEDIATE, 0, target))
    words.append(jump(0, Condition.ALWAYS))
    return words, registers


@pytest.mark.parametrize("seed", range(4))
def test_engine(seed):
    rng = random.Random(seed)
    words, registers = random_program(rng, 250)
    engine = Engine(words=words, registers=registers)
    model = Model(words, registers)

    async def bench(ctx):
        written = []
        steps = 1500
        await ctx.tick()  # the first word is fetched
        for _ in range(steps):
            scratch, special = rng.getrandbits(16), rng.getrandbits(16)
            outside = rng.getrandbits(len(CONDITIONS))
            ctx.set(engine.conditions, rng.getrandbits(len(CONDITIONS)))  # not used yet
            wanted = ctx.get(engine.wants_scratch)
            await ctx.tick()
            assert ctx.get(engine.bus_turn)
            ctx.set(engine.conditions, outside)
            ctx.set(engine.scratch, scratch if wanted else 0)
            ctx.set(engine.special, special)
            await ctx.tick()
            ctx.set(engine.conditions, rng.getrandbits(len(CONDITIONS)))
            assert ctx.get(engine.step)
            if ctx.get(engine.write):
                written.append((ctx.get(engine.port), ctx.get(engine.value)))
            model.step(scratch, special, outside)
            await ctx.tick()
        assert written == model.written and len(written) > 50
        for number in (0, 1, 2, 3, 5, 100, 191):
            found = ctx.get(engine.register_file.data[number])
            assert found == model.r[number], number

    simulate(engine, bench)


def test_engine_traps():
    words = [jump(0, Condition.ALWAYS)] * 2 + [
        word(Control.OUT << 4 | Mode.IMMEDIATE, 7, 9),
        jump(3, Condition.ALWAYS),
    ]
    assert TRAP_PLACE == 2
    engine = Engine(words=words, registers={})

    async def bench(ctx):
        found = []
        for cycle in range(60):
            ctx.set(engine.trap, cycle == 30)
            assert cycle != 30 or ctx.get(engine.step)
            if ctx.get(engine.write):
                found.append((cycle, ctx.get(engine.port), ctx.get(engine.value)))
            await ctx.tick()
        assert found == [(33, 7, 9)]

    simulate(engine, bench)


# ------------------------------------------------------------------------------------------- array


@pytest.mark.parametrize("seed", range(6))
def test_array(seed):
    """Passes with random shapes, one after the other, into the same accumulators."""
    rng = np.random.default_rng(seed)
    array = ArrayPass(config=CONFIG)
    m = Module()
    m.submodules.array = array
    memory = rng.integers(-128, 128, (1 << 14, 8)).astype(np.int8)
    memory[:8] = -128
    acc = np.zeros(2 * CONFIG.acc_depth, np.int64)

    async def out(ctx, port: Port, value: int) -> None:
        ctx.set(array.port, port)
        ctx.set(array.value, value & 0xFFFF)
        ctx.set(array.write, 1)
        await ctx.tick()
        ctx.set(array.write, 0)

    async def feed(ctx):
        while True:
            address = ctx.get(array.address)
            await ctx.tick()
            ctx.set(array.data, int.from_bytes(memory[address].tobytes(), "little"))

    async def bench(ctx):
        weight = 0
        for number in range(12):
            P = int(rng.integers(1, 9))
            Q = int(rng.integers(1, CONFIG.acc_depth // P + 1))
            rows, cols = (int(x) for x in rng.integers(1, 8, 2))
            sh, sw = (int(x) for x in rng.integers(0, 4, 2))
            h0, w0 = (int(x) for x in rng.integers(-3, 4, 2))
            if number == 7:
                h0, sh, P, Q = 4096, 255, 64, 1
            base = int(rng.integers(0, 30))
            pad = int(rng.integers(-128, 128))
            bank, zero = int(rng.integers(0, 2)), int(number < 2 or rng.random() < 0.3)
            origin = base + h0 * cols + w0
            if number % 3 == 0:
                weight = int(rng.integers(64, 1 << 14))
                await out(ctx, Port.AWGT, weight)
            for port, value in (
                (Port.AA0L, origin),
                (Port.AA0H, origin >> 16),
                (Port.AH0, h0),
                (Port.AW0, w0),
                (Port.AROWS, rows),
                (Port.ACOLS, cols),
                (Port.ASH, sh),
                (Port.ASW, sw),
                (Port.ARSL, sh * cols),
                (Port.ARSH, sh * cols >> 16),
                (Port.AP, P - 1),
                (Port.AQ, Q - 1),
                (Port.APAD, pad),
                (Port.AACC, bank * CONFIG.acc_depth),
                (Port.AGO, zero),
            ):
                await out(ctx, port, value)
            # The next pass may be prepared already.
            await out(ctx, Port.AH0, -9)
            await out(ctx, Port.AW0, -9)
            await out(ctx, Port.AA0L, 0x5555)
            cycles = 0
            while ctx.get(array.busy):
                cycles += 1
                await ctx.tick()
            assert cycles <= P * Q + 8
            h = h0 + np.arange(P)[:, None] * sh
            w = w0 + np.arange(Q)[None] * sw
            inside = (h >= 0) & (h < rows) & (w >= 0) & (w < cols)
            place = base + h * cols + w
            error = bool((inside & (place >= CONFIG.ifm_depth)).any())
            x = memory[np.where(inside, place % CONFIG.ifm_depth, 0)].astype(np.int64)
            x[~inside] = pad
            sums = (x @ memory[weight].astype(np.int64)).reshape(-1)
            weight = (weight + 1) % (1 << 14)
            assert ctx.get(array.error) == error
            part = slice(bank * CONFIG.acc_depth, bank * CONFIG.acc_depth + P * Q)
            acc[part] = sums if zero else acc[part] + sums
            await out(ctx, Port.ACCA, bank * CONFIG.acc_depth)
            for value in acc[part]:
                await ctx.tick()
                got = ctx.get(array.high) << 16 | ctx.get(array.low)
                assert got == int(value) & 0xFFFF_FFFF
                ctx.set(array.take, 1)
                await ctx.tick()
                ctx.set(array.take, 0)
        assert number == 11

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.add_testbench(feed, background=True)
    simulator.run()


# ------------------------------------------------------------------------------------------- drain


@pytest.mark.parametrize("seed", range(3))
def test_drain(seed):
    """Random and extreme numbers whose sums fit, against the definition."""
    rng = random.Random(seed)
    m = Module()
    m.submodules.drain = drain = DrainPass()
    m.submodules.low = low = WordProduct(a_signed=False, b_signed=True)
    m.submodules.high = high = WordProduct(a_signed=True, b_signed=True)
    accumulator, row = Signal(32), Signal(32)
    m.d.sync += row.eq(accumulator)
    m.d.comb += [low.a.eq(row[:16]), high.a.eq(row[16:])]
    for cell, product in ((low, drain.low), (high, drain.high)):
        m.d.comb += [
            cell.b.eq(drain.factor),
            cell.enable.eq(drain.multiply),
            product.eq(cell.product),
        ]

    async def bench(ctx):
        seen = set()
        for _ in range(30):
            shift = rng.choice([0, 1, 7, 8, 9, 16, 47, rng.randrange(48)])
            factor = rng.choice([-(1 << 15), (1 << 15) - 1, rng.randrange(-9, 9)])
            bounds = [rng.randrange(-128, 128) for _ in range(2)]
            if rng.random() < 0.5:
                bounds = [-128, 127]
            if rng.random() < 0.8:
                bounds.sort()
            bias = rng.randrange(-(1 << 46), 1 << 46)
            if rng.random() < 0.6:
                bias = rng.randrange(-(1 << min(shift, 46)), 1 << min(shift, 46))
            count = rng.randrange(1, 9)
            values = [
                rng.choice(
                    [-(1 << 31), (1 << 31) - 1, 0x8000, -0x8001, rng.randrange(-99, 99)]
                    + [rng.randrange(-(1 << 31), 1 << 31)]
                    + [
                        max(
                            -(1 << 31),
                            min(
                                (1 << 31) - 1, (rng.randrange(-200, 200) << shift) // (factor or 1)
                            ),
                        )
                    ]
                )
                for _ in range(count)
            ]
            for port, value in (
                (Port.QB0, bias),
                (Port.QB1, bias >> 16),
                (Port.QB2, bias >> 32),
                (Port.QM, factor),
                (Port.QS, shift),
                (Port.QLOW, bounds[0]),
                (Port.QHIGH, bounds[1]),
                (Port.QGO, count - 1),
            ):
                ctx.set(drain.port, port)
                ctx.set(drain.value, value & 0xFFFF)
                ctx.set(drain.write, 1)
                ctx.set(accumulator, values[0] & 0xFFFF_FFFF)
                await ctx.tick()
                ctx.set(drain.write, 0)
            codes, taken = [], 0
            while ctx.get(drain.busy):
                taken += ctx.get(drain.take)
                if ctx.get(drain.write_code):
                    codes.append(ctx.get(drain.code))
                await ctx.tick()
                if taken < count:
                    ctx.set(accumulator, values[taken] & 0xFFFF_FFFF)
            assert taken == count
            expected = [
                requantize(value, factor, bias, shift=shift, low=bounds[0], high=bounds[1]) & 255
                for value in values
            ]
            assert codes == expected, (values, factor, bias, shift, bounds)
            seen |= set(codes)
        assert len(seen) > 20

    simulate(m, bench)
