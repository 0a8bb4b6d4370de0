"""The vector unit against the text of ``isa.VECTOR``: every byte of OFM, errors, and the cycles."""

import random

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, Event, RisingEdge

from intaglio.spec import isa
from intaglio.spec.arith import requantize
from intaglio.spec.isa import Error, Function
from intaglio.spec.timing_vector import vector_beats, vector_cycles, vector_interval
from intaglio_hw.interfaces import DRAIN_LATENCY, IN_FLIGHT
from intaglio_sim.bfm import ReadPort, UnitDriver, WritePort, start_clock
from intaglio_sim.runner import bench_config
from intaglio_sim.stimulus import bench_rng, integer, integers, matrix

CONFIG = bench_config()
R, K, L = CONFIG.R, CONFIG.K, CONFIG.drain_lanes


class Memories:
    """What the unit reads, and the OFM that it writes."""

    def __init__(self, rng: random.Random):
        depth = CONFIG.vec_depth
        # A quarter has few different codes, so that maxima tie.
        self.vec = matrix(rng, (depth, R)).astype(np.int64)
        few = rng.sample(range(depth), depth // 4)
        self.vec[few] = np.array([rng.choice((-128, 0, 1, 127)) for _ in few])[:, None]
        self.vec[few, 0] -= self.vec[few, 0] > 0
        self.acc = matrix(rng, (2 * CONFIG.acc_depth, K), bits=32).astype(np.int64)
        small = self.acc[::2]
        small >>= rng.randint(8, 20)
        self.multiplier = np.array(integers(rng, CONFIG.prm_depth, bits=16), np.int64)
        self.bias = np.array(integers(rng, CONFIG.prm_depth, bits=48), np.int64)
        # Biases that do not drown the products.
        for i in range(0, CONFIG.prm_depth, 2):
            self.bias[i] = integer(rng, -(1 << 34), 1 << 34)
        self.ofm = np.array(rng.choices(range(256), k=CONFIG.ofm_depth * R), np.uint8)
        self.ofm = self.ofm.reshape(CONFIG.ofm_depth, R)
        # Function and values that an instruction may go on with.
        self.held: tuple[int, np.ndarray] | None = None


def packed(rows: np.ndarray, bits: int) -> list[int]:
    """Return each row as one number, lane 0 in the lowest bits."""
    mask = (1 << bits) - 1
    return [sum((int(v) & mask) << (bits * i) for i, v in enumerate(row)) for row in rows]


def packed_parameters(memories: Memories) -> list[int]:
    pairs = zip(memories.multiplier.tolist(), memories.bias.tolist(), strict=True)
    words = [(m & 0xFFFF) | (b & ((1 << 48) - 1)) << 16 for m, b in pairs]
    per_row = R // 8
    return [
        sum(word << (64 * i) for i, word in enumerate(words[row : row + per_row]))
        for row in range(0, len(words), per_row)
    ]


class Outside(Exception):
    """An access outside of a buffer."""


def contradiction(f: dict[str, int]) -> bool:
    """Return whether the fields contradict each other."""
    function = f["function"]
    if function != Function.ARGMAX and (f["lane"] % L or f["lane"] >= R):
        return True
    if function == Function.DRAIN and f["chunks"] * L > K:
        return True
    if f["residual"] and function not in (Function.DRAIN, Function.SUM):
        return True
    return function == Function.RESIZE and (
        f["den_h"] > isa.den_h_max(f["den_w"])
        or f["frac_h"] >= f["den_h"]
        or f["frac_w"] >= f["den_w"]
        or f["step_h"] > f["den_h"]
        or f["step_w"] > f["den_w"]
    )


def single(f: dict[str, int]) -> bool:
    return f["chunks"] == f["out_rows"] == f["out_cols"] == 1


def golden(memories: Memories, f: dict[str, int]) -> Error:
    """Run one instruction on ``memories.ofm``, output by output, and return its error."""
    function, ofm = f["function"], memories.ofm
    held, memories.held = memories.held, None
    if contradiction(f):
        return Error.FIELD
    if f["accumulate"] and not (held and held[0] == function and single(f)):
        return Error.FIELD

    def vector(address: int) -> np.ndarray:
        if address >= CONFIG.vec_depth:
            raise Outside
        return memories.vec[address]

    def row(base: int) -> np.ndarray:
        if base >= CONFIG.ofm_depth:
            raise Outside
        return ofm[base]

    def inside(h: int, w: int) -> bool:
        return 0 <= h < f["src_rows"] and 0 <= w < f["src_cols"]

    try:
        for c in range(1 if function == Function.ARGMAX else f["chunks"]):
            first = f["lane"] + c * L
            block, lanes = first // R, np.arange(first, first + L) % R
            if function not in (Function.MAX, Function.ARGMAX):
                index = f["prm_base"] + (np.zeros(L, int) if f["uniform"] else c * L + np.arange(L))
                if index.max() >= CONFIG.prm_depth:
                    raise Outside
                multiplier, bias = memories.multiplier[index], memories.bias[index]
            for p in range(f["out_rows"]):
                for q in range(f["out_cols"]):
                    target = (
                        f["ofm_base"] + block * f["ofm_plane"] + p * f["ofm_row_step"]
                        + q * f["ofm_col_step"]
                    )  # fmt: skip
                    h0 = p * f["stride_h"] + f["offset_h"]
                    w0 = q * f["stride_w"] + f["offset_w"]
                    if function == Function.ARGMAX:
                        if not inside(h0, w0):
                            raise Outside
                        codes: list[int] = []
                        for b in range(-(-f["channels"] // R)):
                            place = f["src_base"] + b * f["src_plane"] + h0 * f["src_cols"] + w0
                            codes += vector(place).tolist()
                        codes = codes[: f["channels"]]
                        target = f["ofm_base"] + p * f["ofm_row_step"] + q // R
                        index = codes.index(max(codes))
                        row(target)[q % R] = index >> 8 * f["high_byte"] & 255
                        continue
                    source = f["src_base"] + block * f["src_plane"]
                    if function == Function.DRAIN:
                        pixel = p * f["out_cols"] + q
                        if pixel >= CONFIG.acc_depth:
                            raise Outside
                        value = memories.acc[
                            f["acc_bank"] * CONFIG.acc_depth + pixel, c * L : c * L + L
                        ]
                    elif function == Function.RESIZE:
                        th = f["frac_h"] + p * f["step_h"]
                        tw = f["frac_w"] + q * f["step_w"]
                        value = np.zeros(L, np.int64)
                        for r in range(2):
                            for s in range(2):
                                h = f["offset_h"] + th // f["den_h"] + r
                                w = f["offset_w"] + tw // f["den_w"] + s
                                h = min(max(h, 0), f["src_rows"] - 1)
                                w = min(max(w, 0), f["src_cols"] - 1)
                                y = th % f["den_h"] if r else f["den_h"] - th % f["den_h"]
                                x = tw % f["den_w"] if s else f["den_w"] - tw % f["den_w"]
                                value += y * x * vector(source + h * f["src_cols"] + w)[lanes]
                    else:
                        window = []
                        for r in range(f["kernel_h"]):
                            for s in range(f["kernel_w"]):
                                if inside(h0 + r, w0 + s):
                                    place = source + (h0 + r) * f["src_cols"] + w0 + s
                                    window.append(vector(place)[lanes])
                                else:
                                    window.append(np.full(L, f["pad_code"]))
                        if f["accumulate"]:
                            window.append(held[1])
                        value = (np.max if function == Function.MAX else np.sum)(window, axis=0)
                        if single(f):
                            memories.held = function, value
                    if function == Function.MAX:
                        y = np.minimum(np.maximum(value, f["low"]), f["high"])
                    else:
                        residual = np.zeros(L, np.int64)
                        if f["residual"]:
                            place = f["res_base"] + block * f["res_plane"] + p * f["out_cols"] + q
                            residual = vector(place)[lanes]
                        y = requantize(
                            value, multiplier, bias, f["shift"], residual=residual,
                            residual_shift=f["res_shift"], low=f["low"], high=f["high"],
                        )  # fmt: skip
                    row(target)[lanes] = y.astype(np.int8).view(np.uint8)
    except Outside:
        return Error.BUFFER
    return Error.NONE


def complete(**fields: int) -> dict[str, int]:
    """Return all fields of an instruction."""
    _, values = isa.decode(isa.encode("vector", fields))
    return {field.name: values[field.name] for field in isa.VECTOR.fields}


def resize_fractions(rng: random.Random, f: dict[str, int]) -> None:
    """Set where a resize begins and how it goes on, along both axes."""
    for axis in "hw":
        kind = rng.choice(("half_pixel", "align", "any", "any"))
        factor = rng.choice((1, 2, 3, 4, 8, 16))
        if kind == "half_pixel":  # source = (2 * i + 1 - factor) / (2 * factor)
            start = 1 - factor
            f["den_" + axis], f["step_" + axis] = 2 * factor, 2
            f["offset_" + axis] = start // (2 * factor)
            f["frac_" + axis] = start % (2 * factor)
        elif kind == "align":  # source = i / factor
            f["den_" + axis], f["step_" + axis] = factor, 1
            f["offset_" + axis] = f["frac_" + axis] = 0
        else:
            den = rng.choice((1, 2, 3, 4, 5, integer(rng, 1, 255)))
            f["den_" + axis], f["frac_" + axis] = den, rng.randrange(den)
            f["step_" + axis] = rng.randint(0, min(2, den))
            f["offset_" + axis] = rng.randint(-4, 4)
    # Finer vertical fractions.
    factor = rng.choice((1, rng.randint(1, isa.den_h_max(f["den_w"]) // f["den_h"])))
    for name in ("den_h", "step_h", "frac_h"):
        f[name] *= factor


def random_fields(rng: random.Random, function: Function, budget: int) -> dict[str, int]:
    """Return fields that are valid in most cases, of at most ``budget`` beats."""
    f: dict[str, int] = {"function": function}
    while True:
        f["out_rows"], f["out_cols"] = rng.randint(1, 6), rng.choice((1, 2, 3, R - 1, R, R + 3))
        f["chunks"] = rng.randint(1, K // L if function == Function.DRAIN else 2 * R // L)
        f["kernel_h"], f["kernel_w"] = rng.choice(((1, 1), (2, 2), (3, 3), (1, 4), (3, 1)))
        f["residual"] = int(function in (Function.DRAIN, Function.SUM) and rng.random() < 0.5)
        f["channels"] = rng.choice((1, 2, L, L + 1, R - 1, R, R + 1, 3 * R, 21, 256, 257, 600))
        f["high_byte"] = rng.randint(0, 1)
        if function == Function.RESIZE:
            resize_fractions(rng, f)
        chunks, beats = vector_beats(CONFIG, f)
        if chunks * beats <= budget:
            break
    f["src_rows"], f["src_cols"] = rng.randint(1, 7), rng.randint(1, 7)
    f["lane"] = rng.randrange(0, R, L)
    f["uniform"] = rng.randint(0, 1)
    f["src_base"] = rng.randrange(CONFIG.vec_depth // 4)
    f["src_plane"] = rng.choice((f["src_rows"] * f["src_cols"], rng.randrange(90)))
    f["stride_h"], f["stride_w"] = rng.randint(0, 3), rng.randint(0, 3)
    if function != Function.RESIZE:
        f["offset_h"], f["offset_w"] = rng.randint(-3, 2), rng.randint(-3, 2)
    f["pad_code"] = integer(rng, -128, 127)
    f["acc_bank"] = rng.randint(0, 1)
    f["res_base"] = rng.randrange(CONFIG.vec_depth // 4)
    f["res_plane"] = rng.randrange(CONFIG.vec_depth // 8)
    f["res_shift"] = integer(rng, 0, 39)
    f["prm_base"] = rng.randrange(CONFIG.prm_depth - f["chunks"] * L + 1)
    f["shift"] = integer(rng, 0, 47)
    if rng.random() < 0.5:  # so that codes are not all at the bounds
        f["shift"] = rng.randint(18, 42) if function == Function.DRAIN else rng.randint(8, 30)
    f["low"], f["high"] = sorted(rng.choices((-128, -127, -60, -1, 0, 100, 127), k=2))
    if rng.random() < 0.1:
        f["low"], f["high"] = f["high"], f["low"]
    elif rng.random() < 0.5:
        f["low"], f["high"] = -128, 127
    f["ofm_base"] = rng.randrange(CONFIG.ofm_depth // 8)
    f["ofm_plane"] = rng.randrange(CONFIG.ofm_depth // 4)
    f["ofm_col_step"] = rng.choice((0, 1, 1, 2, 3))
    f["ofm_row_step"] = rng.choice((0, 1, f["out_cols"], 3 * f["out_cols"]))
    if function == Function.ARGMAX:
        f["offset_h"], f["offset_w"] = rng.randint(0, 2), rng.randint(0, 2)
        f["src_rows"] = f["stride_h"] * (f["out_rows"] - 1) + f["offset_h"] + rng.randint(1, 2)
        f["src_cols"] = f["stride_w"] * (f["out_cols"] - 1) + f["offset_w"] + rng.randint(1, 2)
        f["src_plane"] = rng.choice((0, 1, rng.randrange(90)))
        # What argmax does not use.
        f["lane"], f["chunks"] = rng.randrange(256), rng.randint(1, 65535)
    return complete(**f)


class Bench:
    """The unit between memories, and what it did, instruction by instruction."""

    def __init__(self, dut, *, rate: float = 1.0):
        self.dut, self.rng = dut, bench_rng(dut._name)
        self.memories = Memories(self.rng)
        self.vec = ReadPort(dut, "vec", packed(self.memories.vec, 8))
        ReadPort(dut, "acc", packed(self.memories.acc, 32), latency=DRAIN_LATENCY)
        ReadPort(dut, "prm", packed_parameters(self.memories))
        self.ofm = self.memories.ofm.copy()
        self.port = WritePort(dut, "ofm", self.ofm)
        self.unit = UnitDriver(dut, isa.VECTOR, prefix="unit__", rate=rate)
        self.accepted: list[int] = []
        self.done: list[int] = []
        self.images: list[np.ndarray] = []
        self.most_in_flight = 0
        self.finished = Event()
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        dut, edge, cycle = self.dut, RisingEdge(self.dut.clk), 0
        valid, ready = dut.unit__instruction__valid, dut.unit__instruction__ready
        while True:
            await edge
            cycle += 1
            if int(dut.rst.value):
                continue
            assert int(dut.busy.value) == (len(self.accepted) > len(self.done))
            if int(dut.unit__done.value):
                self.done.append(cycle)
                self.images.append(self.ofm.copy())
                self.finished.set()
            if int(valid.value) and int(ready.value):
                self.accepted.append(cycle)
            self.most_in_flight = max(self.most_in_flight, len(self.accepted) - len(self.done))

    async def run(self, program: list[dict[str, int]]) -> list[Error]:
        """Run instructions back to back, and compare OFM after each; return the errors."""
        start = len(self.done)
        for fields in program:
            self.unit.send(fields)
        await self.unit.wait_done(start + len(program))
        await ClockCycles(self.dut.clk, 3)
        errors = []
        for n, fields in enumerate(program, start):
            error = golden(self.memories, fields)
            errors.append(error)
            assert self.unit.errors[n] == error, (n, fields, self.unit.errors[n], error)
            different = np.argwhere(self.images[n] != self.memories.ofm)
            assert not len(different), (
                f"instruction {n}: {len(different)} bytes of OFM differ, first "
                f"{different[0].tolist()}: {self.images[n][tuple(different[0])]} for "
                f"{self.memories.ofm[tuple(different[0])]}; {fields}"
            )
            if error == Error.NONE:
                cycles = self.done[n] - self.accepted[n]
                assert cycles == vector_cycles(CONFIG, fields), (cycles, fields)
                if self.unit.driver.rate >= 1.0 and n > start:
                    before = program[n - 1 - start]
                    if errors[-2] == Error.NONE:
                        interval = self.accepted[n] - self.accepted[n - 1]
                        assert interval == vector_interval(CONFIG, before), (interval, before)
        assert np.array_equal(self.ofm, self.memories.ofm)  # nothing after the last done
        assert self.most_in_flight <= IN_FLIGHT
        return errors


async def make(dut, **options) -> Bench:
    await start_clock(dut)
    bench = Bench(dut, **options)
    await ClockCycles(dut.clk, 4)
    return bench


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(rate=[1.0, 0.03])
async def matches_the_instruction_table(dut, rate):
    bench = await make(dut, rate=rate)
    program = [
        random_fields(bench.rng, function, 220)
        for _ in range(14 if rate == 1.0 else 3)
        for function in Function
    ]
    bench.rng.shuffle(program)
    errors = await bench.run(program)
    assert errors.count(Error.NONE) > len(program) // 2
    assert bench.most_in_flight == 2


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def every_shift(dut):
    bench = await make(dut)
    program = []
    for shift in range(48):
        fields = random_fields(bench.rng, Function.DRAIN, 30)
        program.append(
            fields | {"shift": shift, "residual": 1, "res_shift": min(shift, 39), "prm_base": 0}
        )
    await bench.run(program)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def large_windows_and_extreme_sums(dut):
    bench = await make(dut)
    bench.memories.vec[:8] = -128
    bench.vec.memory = packed(bench.memories.vec, 8)
    base = {"src_rows": 1, "src_cols": 1, "kernel_h": 3, "kernel_w": 255, "shift": 18}
    program = [
        # The widest window, all padding but one.
        complete(function=Function.SUM, **base, pad_code=-128),
        complete(function=Function.MAX, **base, pad_code=-128, offset_h=-2, offset_w=-254),
        # The largest weights, all on one corner, and between four.
        complete(function=Function.RESIZE, src_rows=2, src_cols=2, den_h=255, den_w=255, shift=16),
        complete(function=Function.RESIZE, src_rows=4095, src_cols=1, den_h=255, den_w=255,
                 frac_h=127, frac_w=128, step_w=2, out_cols=4, shift=18),
        # Far away from the source: clamped; all padding but the last output.
        complete(function=Function.RESIZE, src_rows=3, src_cols=2, offset_h=4095, offset_w=-4096,
                 den_h=2, den_w=2, frac_h=1, step_h=2, out_rows=3, out_cols=3, ofm_col_step=1,
                 ofm_row_step=3, prm_base=0, shift=20),
        complete(function=Function.MAX, src_rows=3, src_cols=3, stride_h=255, stride_w=255,
                 offset_h=-4080, offset_w=-3570, out_rows=17, out_cols=15, low=-128, high=127,
                 ofm_row_step=15, ofm_col_step=1, pad_code=-5),
    ]  # fmt: skip
    errors = await bench.run(program)
    assert errors[:3] + errors[4:] == [Error.NONE] * 5


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def chunks_of_few_beats(dut):
    """As many chunks as there can be, of one to three beats each, from every group of lanes on."""
    bench = await make(dut)
    program = []
    for function in (Function.DRAIN, Function.MAX, Function.SUM):
        for cols in (1, 2, 3):
            for lane in range(0, R, L):
                if function == Function.DRAIN:
                    chunks = K // L
                else:
                    chunks = 2 * (R // L)
                fields = random_fields(bench.rng, function, 10_000) | {
                    "chunks": chunks, "lane": lane, "out_rows": 1, "out_cols": cols,
                    "kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "offset_h": 0,
                    "offset_w": 0, "residual": 0, "uniform": 0, "prm_base": 0, "src_base": 0,
                    "src_rows": 1, "src_cols": cols, "src_plane": cols, "ofm_base": 0,
                    "ofm_plane": cols, "ofm_row_step": cols, "ofm_col_step": 1,
                }  # fmt: skip
                program.append(fields)
    assert not any(await bench.run(program))


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def elementwise_add(dut):
    """A sum over one tap with a residual: two beats per output."""
    bench = await make(dut)
    program = []
    for _ in range(3):
        fields = random_fields(bench.rng, Function.SUM, 200) | {
            "kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "offset_h": 0,
            "offset_w": 0, "residual": 1, "res_shift": bench.rng.randint(0, 3), "shift": 2,
        }  # fmt: skip
        chunks, beats = vector_beats(CONFIG, fields)
        assert beats == 2 * fields["out_rows"] * fields["out_cols"]
        program.append(fields)
    await bench.run(program)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def windows_of_several_instructions(dut):
    """Sums and maxima that go on, chunk by chunk; what must not go on is refused."""
    bench = await make(dut)
    rng, program = bench.rng, []
    for function in (Function.SUM, Function.MAX, Function.SUM, Function.MAX):
        parts = rng.randint(2, 5)
        for n in range(parts):
            fields = random_fields(rng, function, 220) | {
                "chunks": 1, "out_rows": 1, "out_cols": 1, "kernel_h": rng.randint(1, 6),
                "kernel_w": rng.randint(1, 9), "accumulate": int(n > 0), "low": -128, "high": 127,
            }  # fmt: skip
            program.append(fields)
    assert await bench.run(program) == [Error.NONE] * len(program)
    # Sums of more than 24 bits, of which one code is left; Icarus has time for 20.
    parts, bits = (2, 20) if cocotb.SIM_NAME.startswith("Icarus") else (27, 24)
    base = {"function": Function.SUM, "src_rows": 1, "src_cols": 1, "kernel_h": 20,
            "kernel_w": 255, "offset_h": -1, "uniform": 1, "low": -128, "high": 127}  # fmt: skip
    sums = [complete(**base, pad_code=-128, accumulate=int(n > 0), shift=bits)
            for n in range(parts)]  # fmt: skip
    assert await bench.run(sums) == [Error.NONE] * len(sums)
    assert bench.memories.held[1].max() < -(1 << bits)

    one, more = program[0] | {"residual": 0}, {"accumulate": 1}
    two = one | {"out_cols": 2}
    drain = complete(function=Function.DRAIN)
    for before, after in (
        (drain, one | more), (two, one | more), (one, two | more), (one, drain | more),
        (one, one | more | {"function": Function.MAX}), (one, one | more | {"chunks": 2}),
        (complete(function=Function.ARGMAX), one | more), (drain, drain | more),
    ):  # fmt: skip
        assert await bench.run([before, after]) == [Error.NONE, Error.FIELD], (before, after)
    # Nor after a pause, in which other fields may be there already; but what fits goes on.
    for after, error in (
        (one | more | {"function": Function.MAX}, Error.FIELD), (one | more, Error.NONE),
    ):  # fmt: skip
        assert await bench.run([one]) == [Error.NONE]
        await ClockCycles(dut.clk, 5)
        assert await bench.run([after]) == [error]
    # And not across a stop.
    await bench.run([one])
    bench.unit.stop.value = 1
    await ClockCycles(dut.clk, 3)
    bench.unit.stop.value = 0
    bench.memories.held = None
    assert await bench.run([one | more]) == [Error.FIELD]


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def argmax_of_every_width(dut):
    """Ties, the extremes, 1 to 512 channels; the lowest index wins. Both bytes of the index."""
    bench = await make(dut)
    vec = bench.memories.vec
    blocks = 512 // R
    for block in range(blocks):  # pixel n of 8: rows n + 8 * block
        vec[8 * block] = -128
        vec[8 * block + 1] = 127
        vec[8 * block + 2] = 0
        vec[8 * block + 3] = np.minimum(np.arange(R) + R * block - 128, 127)
        vec[8 * block + 4] = np.maximum(127 - np.arange(R) - R * block, -128)
    vec[8 * (blocks - 1) + 2, R - 1] = 1
    bench.vec.memory = packed(vec, 8)
    widths = [*range(1, 2 * R + 2), 21, 59, 150, 254, 255, 256, 257, 300, 511, 512]
    program = [
        complete(
            function=Function.ARGMAX, channels=n, src_rows=2, src_cols=4, src_plane=8, stride_h=1,
            stride_w=1, out_rows=2, out_cols=4, ofm_row_step=1, ofm_base=n % CONFIG.ofm_depth // 2,
            lane=255, chunks=3, low=5, high=4, shift=7,
            high_byte=byte,
        )
        for n in widths
        for byte in (0, 1)[: 1 + (n > 256)]
    ]  # fmt: skip
    assert await bench.run(program) == [Error.NONE] * len(program)
    # From outside of golden(): of all equal the first, of rising codes the last.
    base = program[-1]["ofm_base"]
    for image, last, rising in ((bench.images[-2], 255, 255), (bench.images[-1], 1, 0)):
        first, second = image[base], image[base + 1]
        assert first[:4].tolist() == [0, 0, last, rising]
        assert second[0] == 0


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def errors_suppress_and_end(dut):
    bench = await make(dut)
    vec, ofm, prm, acc = CONFIG.vec_depth, CONFIG.ofm_depth, CONFIG.prm_depth, CONFIG.acc_depth
    drain = {
        "function": Function.DRAIN, "out_rows": 2, "out_cols": 5, "ofm_row_step": 5,
        "ofm_col_step": 1, "low": -128, "high": 127, "shift": 30,
    }  # fmt: skip
    window = drain | {
        "function": Function.SUM, "src_rows": 4, "src_cols": 5, "kernel_h": 2, "kernel_w": 2,
        "stride_h": 1, "stride_w": 1, "shift": 8,
    }  # fmt: skip
    resize = window | {
        "function": Function.RESIZE, "den_h": 4, "den_w": 4, "step_h": 2, "step_w": 2,
        "kernel_h": 1, "kernel_w": 1,
    }  # fmt: skip
    argmax = window | {"function": Function.ARGMAX, "channels": 20, "src_plane": 20}
    buffer = [
        drain | {"ofm_base": ofm - 9},
        drain | {"ofm_base": ofm},
        drain | {"ofm_base": 65535, "ofm_row_step": 65535},
        drain | {"ofm_base": ofm - 5, "ofm_row_step": 65535},
        drain | {"prm_base": prm - L + 1},
        drain | {"prm_base": prm, "uniform": 1},
        drain | {"prm_base": 65535},
        drain | {"out_rows": 4095, "out_cols": acc + 1, "ofm_col_step": 0, "ofm_row_step": 0},
        drain | {"residual": 1, "res_base": vec - 9},
        drain | {"residual": 1, "res_base": 65535},
        window | {"src_base": vec - 10},
        window | {"src_base": 65535},
        window | {"residual": 1, "res_base": vec - 3},
        window | {"src_rows": 4095, "src_cols": 4095, "offset_h": 4094, "kernel_h": 1},
        # Channel blocks run out; all of it in the padding except for one corner at the very end.
        window | {"chunks": 3 * R // L, "src_plane": vec // 2},
        window | {"chunks": 3 * R // L, "res_plane": vec // 2, "residual": 1},
        window | {"chunks": 2 * R // L, "ofm_plane": ofm},
        window | {"function": Function.MAX, "chunks": 3 * R // L, "ofm_plane": 65535},
        resize | {"src_base": vec - 8},
        argmax | {"src_base": vec - 20 * (-(-20 // R) - 1) - 9},
        argmax | {"src_base": vec - 4},
        argmax | {"stride_h": 4},
        argmax | {"offset_h": -1},
        argmax | {"offset_w": 1},
        argmax | {"ofm_base": ofm - 1},
        argmax | {"channels": 65535, "src_plane": 65535},
    ]
    field = [
        drain | {"lane": R},
        drain | {"lane": 255},
        drain | {"chunks": K // L + 1},
        drain | {"chunks": 65535},
        window | {"chunks": 65535, "lane": R + L},
        resize | {"residual": 1},
        argmax | {"residual": 1},
        window | {"function": Function.MAX, "residual": 1},
        resize | {"frac_h": 4},
        resize | {"frac_w": 255},
        resize | {"den_h": 1},
        resize | {"den_w": 1, "frac_w": 0},
        resize | {"den_h": 1024, "den_w": 65},
        resize | {"den_h": 512, "den_w": 129},
        window | {"accumulate": 1},
    ]
    if L > 1:
        field.append(drain | {"lane": 1})
        field.append(window | {"lane": R - 1})
    fine = [
        drain | {"ofm_base": ofm - 10},
        drain | {"prm_base": prm - L},
        drain | {"prm_base": prm - 1, "uniform": 1},
        drain | {"residual": 1, "res_base": vec - 10},
        window | {"src_base": vec - 20},
        window | {"residual": 1, "res_base": vec - 10},
        resize | {"src_base": vec - 20},
        resize | {"prm_base": prm - L},
        resize | {"den_h": 2047, "den_w": 64, "step_h": 2047, "frac_h": 2046},
        resize | {"den_h": 1023, "den_w": 128},
        resize | {"den_h": 511, "den_w": 255},
        window | {"function": Function.MAX, "prm_base": 65535},
        argmax | {"src_base": vec - 20 * -(-20 // R), "prm_base": 65535},
        argmax | {"ofm_base": ofm - 6},
    ]
    cases = (
        [(Error.BUFFER, complete(**item)) for item in buffer]
        + [(Error.FIELD, complete(**item)) for item in field]
        + [(Error.NONE, complete(**item)) for item in fine]
    )
    bench.rng.shuffle(cases)
    errors = await bench.run([fields for _, fields in cases])
    for (expected, fields), error in zip(cases, errors, strict=True):
        assert error == expected, (expected, error, fields)
    # An error ends the instruction soon, however much would be left: where channel blocks run out,
    # after two of them, of ten pixels with four places and a residual each.
    blocks = 2 * R // L * 10 * 5
    for (expected, fields), begin, end in zip(cases, bench.accepted, bench.done, strict=True):
        if expected == Error.FIELD:
            assert end - begin <= 40, fields
        elif expected == Error.BUFFER:
            assert end - begin <= max(blocks + 150, acc + 100), fields


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def addresses_beyond_stay_beyond(dut):
    """Channel blocks whose address overflows are refused, however far they are beyond."""
    bench = await make(dut)
    blocks = 5
    fields = complete(
        function=Function.MAX, chunks=blocks * R // L, src_rows=1, src_cols=1, src_plane=32768,
        offset_h=-1, offset_w=0, kernel_h=1, kernel_w=1, low=-128, high=127, ofm_plane=1,
    )  # fmt: skip
    # In the padding nothing is read; the base may go where it wants.
    assert await bench.run([fields]) == [Error.NONE]
    # 2 * 32768 would be vector 0 again.
    assert await bench.run([fields | {"offset_h": 0}]) == [Error.BUFFER]
    assert await bench.run([fields | {"offset_h": 0, "src_plane": 65535}]) == [Error.BUFFER]


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def stop_ends_it(dut):
    bench = await make(dut)
    long = [
        complete(function=Function.SUM, chunks=65535, out_rows=4095, out_cols=4095, kernel_h=255,
                 kernel_w=255, uniform=1),
        complete(function=Function.MAX, chunks=65535, out_rows=4095, out_cols=4095),
        complete(function=Function.RESIZE, chunks=65535, out_rows=4095, out_cols=4095, den_h=9),
        complete(function=Function.ARGMAX, out_rows=4095, out_cols=R, channels=65535),
        complete(function=Function.SUM, chunks=65535),
    ]  # fmt: skip
    for fields in long:
        for wait in (0, 5, 9, 40):
            count = len(bench.done)
            bench.unit.send(fields)
            while len(bench.accepted) == count:
                await RisingEdge(dut.clk)
            await ClockCycles(dut.clk, wait + 1)
            bench.unit.stop.value = 1
            bench.unit.send(complete(function=Function.ARGMAX))  # must wait
            await ClockCycles(dut.clk, 45)
            assert len(bench.done) == count + 1 == len(bench.accepted), (wait, fields)
            assert bench.unit.errors[-1] == Error.NONE
            assert not int(dut.busy.value)
            writes = len(bench.port.log)
            await ClockCycles(dut.clk, 30)
            assert len(bench.port.log) == writes
            bench.unit.stop.value = 0
            await bench.unit.wait_done(count + 2)
            bench.memories.ofm[:] = bench.ofm  # what was written before the stop stays
    # And the unit is as new.
    await bench.run([random_fields(bench.rng, function, 100) for function in Function])
