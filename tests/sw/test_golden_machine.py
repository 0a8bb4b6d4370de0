"""The golden machine against the text of the instruction set, element by element in Python."""

import random

import numpy as np
import pytest

from intaglio.spec import isa, ops
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.isa import Error, Unit
from intaglio_sim.golden.machine import GoldenMachine, MachineError, Result
from intaglio_sim.random_instruction import (
    MEMORY_BYTES,
    fields_of,
    filled_machine,
    random_array,
    random_vector,
)

CONFIG_NAMES = ("tiny-8x8", "narrow-8x4", "wide-16x8", "wide-8x16")
#: Sizes that the numbers in the tests below stand for.
SMALL = AcceleratorConfig(
    name="small",
    drain_lanes=2,
    ifm_depth=512,
    wgt_depth=512,
    vec_depth=256,
    ofm_depth=128,
    prm_depth=64,
    acc_depth=64,
    queue_depth=4,
    burst_beats=16,
)


def bits(*units: Unit) -> int:
    return sum(1 << unit for unit in units)


def snapshot(machine: GoldenMachine) -> dict[str, np.ndarray]:
    names = ("ifm", "wgt", "vec", "ofm", "prm", "acc", "memory")
    return {name: getattr(machine, name).copy() for name in names}


def assert_state(machine: GoldenMachine, expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        np.testing.assert_array_equal(getattr(machine, name), array, err_msg=name)


def run(config: AcceleratorConfig, instructions: list[bytes], memory: np.ndarray) -> Result:
    """Run the program, placed at the end of ``memory``."""
    program = np.frombuffer(b"".join(instructions), np.uint8)
    base = len(memory) - len(program)
    memory[base:] = program
    return GoldenMachine(config, fill=0x5A).run(memory, base, len(instructions))


# ------------------------------------------------------------------------------------------ load


def load_slowly(machine: GoldenMachine, state: dict[str, np.ndarray], f: dict[str, int]) -> None:
    R = machine.config.R
    name = isa.Buffer(f["buffer"]).name.lower()
    flat = state[name].view(np.uint8).reshape(-1)
    place = f["base"] * (8 if name == "prm" else R)
    for plane in range(f["planes"]):
        for row in range(f["rows"]):
            start = f["address"] + plane * f["plane_step"] + row * f["row_step"]
            for i in range(f["vectors"]):
                for lane in range(R):
                    at = i * f["vector_step"] - f["lead"] + lane
                    inside = 0 <= at < f["row_bytes"]
                    flat[place] = state["memory"][start + at] if inside else f["pad_code"] & 0xFF
                    place += 1


@pytest.mark.parametrize("config_name", CONFIG_NAMES)
@pytest.mark.parametrize("seed", range(12))
def test_load(config_name: str, seed: int) -> None:
    config = CONFIGS[config_name]
    rng = random.Random(seed)
    buffer = rng.randrange(4)
    pairs = config.params_per_vector
    f = fields_of(
        "load",
        buffer=buffer,
        pad_code=rng.randint(-128, 127),
        address=rng.randint(0, 600),
        plane_step=rng.randint(0, 900),
        row_step=rng.randint(0, 200),
        base=rng.randint(0, 3) * pairs,
        planes=rng.randint(1, 3),
        rows=rng.randint(1, 3),
        vectors=rng.randint(1, 5 if buffer != 3 else 2),
        vector_step=rng.choice([1, 3, config.R - 1, config.R]),
        lead=rng.choice([0, 1, config.R, 7 * config.R, rng.randint(0, 7 * config.R)]),
        row_bytes=rng.choice([1, 2, 30, rng.randint(1, 60)]),
    )
    machine = filled_machine(config, seed)
    expected = snapshot(machine)
    load_slowly(machine, expected, f)
    machine.execute("load", f)
    assert_state(machine, expected)


def test_load_stops_at_the_end_of_the_buffer() -> None:
    config = SMALL
    machine = filled_machine(config, 1)
    base = config.ifm_depth - 3
    good = fields_of("load", rows=1, vectors=3, base=base, row_bytes=40, vector_step=8)
    expected = snapshot(machine)
    load_slowly(machine, expected, good)
    with pytest.raises(MachineError, match=r"BUFFER: vector 512 of IFM, which has 512") as caught:
        machine.execute("load", {**good, "vectors": 2, "rows": 2})
    assert caught.value.code == Error.BUFFER
    # Two vectors of row 0 and the first of row 1 (which is the same row of memory again).
    expected["ifm"][base + 2] = expected["ifm"][base]
    assert_state(machine, expected)


def test_load_stops_at_the_end_of_the_memory() -> None:
    machine = filled_machine(SMALL, 1)
    good = fields_of("load", vectors=2, row_bytes=9, vector_step=8, address=MEMORY_BYTES - 9)
    expected = snapshot(machine)
    load_slowly(machine, expected, good)
    machine.execute("load", good)
    assert_state(machine, expected)
    # The row is one byte too far, though no vector would use that byte; row 0 is written.
    f = {**good, "vectors": 1, "row_step": 1, "rows": 2}
    with pytest.raises(MachineError, match=r"MEMORY: 9 bytes at 8184 of 8192 bytes"):
        machine.execute("load", f)
    assert_state(machine, expected)
    with pytest.raises(MachineError, match=r"MEMORY") as caught:
        machine.execute("load", {**good, "address": (1 << 32) - 1})
    assert caught.value.code == Error.MEMORY


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"vector_step": 17}, "load.vector_step must be at most 16, not 17"),
        ({"lead": 113}, "load.lead must be at most 112, not 113"),
        ({"buffer": 3, "base": 3}, "load.base must be a multiple of 2, not 3"),
    ],
)
def test_load_field_errors(given: dict[str, int], text: str) -> None:
    machine = filled_machine(CONFIGS["wide-16x8"], 1)
    expected = snapshot(machine)
    with pytest.raises(MachineError, match=f"FIELD: {text}$"):
        machine.execute("load", fields_of("load", **given))
    assert_state(machine, expected)


# ----------------------------------------------------------------------------------------- array


def array_slowly(machine: GoldenMachine, state: dict[str, np.ndarray], f: dict[str, int]) -> None:
    config = machine.config
    for p in range(f["out_rows"]):
        for q in range(f["out_cols"]):
            for k in range(config.K):
                pixel = p * f["out_cols"] + q
                total = int(state["acc"][f["acc_bank"], pixel, k]) if f["accumulate"] else 0
                for b in range(f["blocks"]):
                    for r in range(f["kernel_h"]):
                        for s in range(f["kernel_w"]):
                            h = p * f["stride_h"] + r * f["dilation_h"] + f["offset_h"]
                            w = q * f["stride_w"] + s * f["dilation_w"] + f["offset_w"]
                            inside = 0 <= h < f["ifm_rows"] and 0 <= w < f["ifm_cols"]
                            place = f["ifm_base"] + b * f["ifm_plane"] + h * f["ifm_cols"] + w
                            tap = (b * f["kernel_h"] + r) * f["kernel_w"] + s
                            weights = state["wgt"][f["wgt_base"] + tap * config.K + k]
                            for i in range(config.R):
                                code = int(state["ifm"][place, i]) if inside else f["pad_code"]
                                total += code * int(weights[i])
                total &= 0xFFFF_FFFF
                state["acc"][f["acc_bank"], pixel, k] = total - ((total >> 31) << 32)


@pytest.mark.parametrize("config_name", CONFIG_NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_array(config_name: str, seed: int) -> None:
    config = CONFIGS[config_name]
    f = random_array(random.Random(seed), config)
    machine = filled_machine(config, seed)
    expected = snapshot(machine)
    array_slowly(machine, expected, f)
    machine.execute("array", f)
    assert_state(machine, expected)


def test_array_sums_wrap() -> None:
    machine = filled_machine(SMALL, 3)
    machine.ifm[:] = 127
    machine.wgt[:] = 127
    machine.acc[:] = (1 << 31) - 1
    machine.execute("array", fields_of("array", accumulate=1))
    assert (machine.acc[0, 0] == -(1 << 31) - 1 + 8 * 127 * 127).all()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"out_rows": 5, "out_cols": 13}, "65 pixels in an accumulator bank of 64"),
        ({"wgt_base": 505}, r"places \[505, 512\] of WGT, which has 512"),
        ({"ifm_base": 511, "ifm_cols": 2, "out_cols": 2, "stride_w": 1}, r"\[511, 512\] of IFM"),
        ({"ifm_base": 9, "ifm_plane": 252, "blocks": 3}, r"\[9, 513\] of IFM"),
    ],
)
def test_array_outside(given: dict[str, int], text: str) -> None:
    machine = filled_machine(SMALL, 1)
    expected = snapshot(machine)
    with pytest.raises(MachineError, match=text) as caught:
        machine.execute("array", fields_of("array", **given))
    assert caught.value.code == Error.BUFFER
    assert_state(machine, expected)


def test_array_padding_is_outside_of_no_buffer() -> None:
    machine = filled_machine(SMALL, 1)
    f = fields_of("array", ifm_base=511, out_cols=3, offset_w=-1, stride_w=1, pad_code=-7)
    expected = snapshot(machine)
    array_slowly(machine, expected, f)
    machine.execute("array", f)
    assert_state(machine, expected)


# ---------------------------------------------------------------------------------------- vector


def vector_slowly(machine: GoldenMachine, state: dict[str, np.ndarray], f: dict[str, int]) -> None:
    config = machine.config
    R, L = config.R, config.drain_lanes
    name = isa.Function(f["function"]).name

    def code(a: int, h: int, w: int) -> int:
        place = f["src_base"] + a // R * f["src_plane"] + h * f["src_cols"] + w
        return int(state["vec"][place, a % R])

    def pooled(a: int, p: int, q: int) -> list[int]:
        codes = []
        for r in range(f["kernel_h"]):
            for s in range(f["kernel_w"]):
                h = p * f["stride_h"] + r + f["offset_h"]
                w = q * f["stride_w"] + s + f["offset_w"]
                inside = 0 <= h < f["src_rows"] and 0 <= w < f["src_cols"]
                codes.append(code(a, h, w) if inside else f["pad_code"])
        return codes

    def resized(a: int, p: int, q: int) -> int:
        t, u = f["frac_h"] + p * f["step_h"], f["frac_w"] + q * f["step_w"]
        h, x = f["offset_h"] + t // f["den_h"], t % f["den_h"]
        w, y = f["offset_w"] + u // f["den_w"], u % f["den_w"]
        total = 0
        for dh, weight_h in ((0, f["den_h"] - x), (1, x)):
            for dw, weight_w in ((0, f["den_w"] - y), (1, y)):
                row = min(max(h + dh, 0), f["src_rows"] - 1)
                col = min(max(w + dw, 0), f["src_cols"] - 1)
                total += code(a, row, col) * weight_h * weight_w
        return total

    def pair(c: int, j: int) -> tuple[int, int]:
        at = f["prm_base"] + (0 if f["uniform"] else c * L + j)
        raw = bytes(state["prm"][at])
        return (
            int.from_bytes(raw[:2], "little", signed=True),
            int.from_bytes(raw[2:], "little", signed=True),
        )

    for p in range(f["out_rows"]):
        for q in range(f["out_cols"]):
            if name == "ARGMAX":
                h = p * f["stride_h"] + f["offset_h"]
                w = q * f["stride_w"] + f["offset_w"]
                codes = [code(a, h, w) for a in range(f["channels"])]
                best = codes.index(max(codes))
                place = f["ofm_base"] + p * f["ofm_row_step"] + q // R
                state["ofm"].view(np.uint8)[place, q % R] = best
                continue
            for c in range(f["chunks"]):
                for j in range(L):
                    a = f["lane"] + c * L + j
                    residual = 0
                    if f["residual"] and name in ("DRAIN", "SUM"):
                        at = f["res_base"] + a // R * f["res_plane"] + p * f["out_cols"] + q
                        residual = int(state["vec"][at, a % R])
                    if name == "MAX":
                        y = max(pooled(a, p, q))
                    else:
                        if name == "DRAIN":
                            pixel = p * f["out_cols"] + q
                            value = int(state["acc"][f["acc_bank"], pixel, c * L + j])
                        else:
                            value = sum(pooled(a, p, q)) if name == "SUM" else resized(a, p, q)
                        m, b = pair(c, j)
                        total = value * m + b + (residual << f["res_shift"])
                        y = (2 * total + (1 << f["shift"])) // (2 << f["shift"])
                    y = min(max(y, f["low"]), f["high"])
                    place = (
                        f["ofm_base"]
                        + a // R * f["ofm_plane"]
                        + p * f["ofm_row_step"]
                        + q * f["ofm_col_step"]
                    )
                    state["ofm"][place, a % R] = y


@pytest.mark.parametrize("config_name", CONFIG_NAMES)
@pytest.mark.parametrize("name", [function.name for function in isa.Function])
@pytest.mark.parametrize("seed", range(6))
def test_vector(config_name: str, name: str, seed: int) -> None:
    config = CONFIGS[config_name]
    f = random_vector(random.Random(f"{name} {seed}"), config, name)
    machine = filled_machine(config, seed)
    expected = snapshot(machine)
    vector_slowly(machine, expected, f)
    machine.execute("vector", f)
    assert_state(machine, expected)


ONE = {"chunks": 1, "out_rows": 1, "out_cols": 1, "src_rows": 4, "src_cols": 6, "uniform": 1}


@pytest.mark.parametrize("name", ["MAX", "SUM"])
def test_a_window_of_two_instructions_is_one_window(name: str) -> None:
    given = {**ONE, "function": isa.Function[name], "shift": 5, "low": -128, "high": 127}
    whole = fields_of("vector", **given, kernel_h=4, kernel_w=6)
    machine = filled_machine(SMALL, 2)
    expected = snapshot(machine)
    vector_slowly(machine, expected, whole)
    machine.execute("vector", fields_of("vector", **given, kernel_h=3, kernel_w=6))
    last = fields_of("vector", **given, kernel_h=1, kernel_w=6, offset_h=3, accumulate=1)
    machine.execute("vector", last)
    assert_state(machine, expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, {"function": 2}),
        ({"function": 1}, {"function": 2}),
        ({"function": 2}, {"function": 2, "out_rows": 2}),
        ({"function": 2, "chunks": 2}, {"function": 2}),
        ({"function": 0}, {"function": 0}),
        ({"function": 4}, {"function": 2}),
    ],
)
def test_nothing_to_accumulate_on(before: dict | None, after: dict) -> None:
    machine = filled_machine(SMALL, 2)
    if before is not None:
        machine.execute("vector", fields_of("vector", **{**ONE, **before}))
    with pytest.raises(MachineError, match="accumulate needs a max or sum of one output") as caught:
        machine.execute("vector", fields_of("vector", **{**ONE, **after}, accumulate=1))
    assert caught.value.code == Error.FIELD


def test_argmax_takes_the_lowest_of_equal_codes_and_counts_to_255() -> None:
    machine = filled_machine(CONFIGS["mini-8x8"], 1)
    machine.vec[:] = 0
    f = fields_of(
        "vector", function=4, channels=256, src_cols=9, src_plane=9, out_cols=9, stride_w=1
    )

    def put(channel: int, column: int) -> None:
        machine.vec[channel // 8 * 9 + column, channel % 8] = 9

    put(255, 0)
    put(254, 1)
    put(243, 1)
    put(247, 8)
    expected = snapshot(machine)
    vector_slowly(machine, expected, f)
    machine.execute("vector", f)
    assert_state(machine, expected)
    assert list(machine.ofm.view(np.uint8)[0]) == [255, 243, 0, 0, 0, 0, 0, 0]
    assert machine.ofm.view(np.uint8)[1, 0] == 247


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        ({"lane": 1}, Error.FIELD, "lane must be a multiple of 2 below 8"),
        ({"lane": 8}, Error.FIELD, "lane must be a multiple of 2 below 8"),
        ({"chunks": 5}, Error.FIELD, "chunks must be at most 4 to drain"),
        ({"function": 1, "residual": 1}, Error.FIELD, "residual must be 0 for max"),
        ({"function": 4, "residual": 1}, Error.FIELD, "residual must be 0 for argmax"),
        ({"function": 3, "den_h": 2, "frac_h": 2}, Error.FIELD, "frac_h is too large for den_h"),
        ({"function": 3, "den_w": 1, "step_w": 2}, Error.FIELD, "frac_w is too large for den_w"),
        ({"function": 3, "den_h": 1024, "den_w": 65}, Error.FIELD, "at most 1023 with den_w = 65"),
        ({"function": 3, "den_h": 512, "den_w": 129}, Error.FIELD, "at most 511 with den_w = 129"),
        ({"out_cols": 65}, Error.BUFFER, "65 pixels in an accumulator bank of 64"),
        ({"ofm_base": 120, "out_cols": 9, "ofm_col_step": 1}, Error.BUFFER, "128] of OFM"),
        ({"prm_base": 63}, Error.BUFFER, r"\[63, 64\] of PRM, which has 64"),
        ({"function": 1, "src_base": 256}, Error.BUFFER, r"\[256, 256\] of VEC, which has 256"),
        ({"residual": 1, "res_base": 256}, Error.BUFFER, r"\[256, 256\] of VEC, which has 256"),
        ({"function": 4, "offset_w": 1}, Error.BUFFER, "argmax outside of its source tile"),
    ],
)
def test_vector_errors(given: dict[str, int], code: Error, text: str) -> None:
    machine = filled_machine(SMALL, 1)
    expected = snapshot(machine)
    with pytest.raises(MachineError, match=text) as caught:
        machine.execute("vector", fields_of("vector", **given))
    assert caught.value.code == code
    assert_state(machine, expected)


# ----------------------------------------------------------------------------------------- store


@pytest.mark.parametrize("config_name", CONFIG_NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_store(config_name: str, seed: int) -> None:
    config = CONFIGS[config_name]
    R = config.R
    rng = random.Random(seed)
    f = fields_of(
        "store",
        address=rng.randint(0, 9) * R,
        plane_step=rng.randint(0, 40) * R,
        row_step=rng.randint(0, 9) * R,
        base=rng.randint(0, 9),
        planes=rng.randint(1, 3),
        rows=rng.randint(1, 3),
        vectors=rng.randint(1, 5),
    )
    machine = filled_machine(config, seed)
    expected = snapshot(machine)
    place = f["base"]
    for plane in range(f["planes"]):
        for row in range(f["rows"]):
            for i in range(f["vectors"]):
                at = f["address"] + plane * f["plane_step"] + row * f["row_step"] + i * R
                expected["memory"][at : at + R] = machine.ofm[place].view(np.uint8)
                place += 1
    machine.execute("store", f)
    assert_state(machine, expected)


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        ({"address": 4}, Error.MEMORY, "store.address must be a multiple of 8, not 4"),
        ({"row_step": 12}, Error.MEMORY, "store.row_step must be a multiple of 8, not 12"),
        ({"plane_step": 1}, Error.MEMORY, "store.plane_step must be a multiple of 8, not 1"),
        ({"address": MEMORY_BYTES}, Error.MEMORY, "8 bytes at 8192 of 8192 bytes"),
        ({"base": 128}, Error.BUFFER, "vectors up to 128 of OFM, which has 128"),
    ],
)
def test_store_errors(given: dict[str, int], code: Error, text: str) -> None:
    machine = filled_machine(SMALL, 1)
    expected = snapshot(machine)
    with pytest.raises(MachineError, match=text) as caught:
        machine.execute("store", fields_of("store", **given))
    assert caught.value.code == code
    assert_state(machine, expected)


def test_store_writes_the_rows_before_the_error() -> None:
    machine = filled_machine(SMALL, 1)
    expected = snapshot(machine)
    expected["memory"][:8] = machine.ofm[127].view(np.uint8)
    with pytest.raises(MachineError, match="BUFFER"):
        machine.execute("store", fields_of("store", base=127, rows=3, row_step=8))
    assert_state(machine, expected)


# --------------------------------------------------------------------------------------- program


def test_a_whole_convolution_is_that_of_the_spec() -> None:
    config = SMALL
    rng = np.random.default_rng(5)
    x = rng.integers(-128, 128, (1, 16, 6, 7), np.int8)
    weight = rng.integers(-128, 128, (8, 16, 3, 3), np.int8)
    multiplier = rng.integers(-300, 300, 8).astype(np.int16)
    bias = rng.integers(-(1 << 20), 1 << 20, 8)
    residual = rng.integers(-128, 128, (1, 8, 6, 7), np.int8)
    expected = ops.conv(
        x,
        weight,
        multiplier,
        bias,
        stride=(1, 1),
        padding=(2, 2, 2, 2),
        dilation=(2, 2),
        pad_code=-3,
        shift=15,
        low=-100,
        high=127,
        residual=residual,
        residual_shift=13,
    )
    memory = np.zeros(MEMORY_BYTES, np.uint8)

    def put(address: int, array: np.ndarray) -> None:
        raw = np.ascontiguousarray(array).view(np.uint8).ravel()
        memory[address : address + len(raw)] = raw

    put(0, x[0].reshape(2, 8, 6, 7).transpose(0, 2, 3, 1))  # blocks, H, W, lanes
    put(1024, weight.reshape(8, 2, 8, 3, 3).transpose(1, 3, 4, 0, 2))  # blocks, R, S, K, lanes
    pairs = (multiplier.astype(np.int64) & 0xFFFF) | bias.astype(np.int64) << 16
    put(3072, pairs.astype("<i8"))
    put(3584, residual[0].transpose(1, 2, 0))
    out = 4096
    L, A, V, S = Unit.LOAD, Unit.ARRAY, Unit.VECTOR, Unit.STORE
    window = dict(kernel_h=3, kernel_w=3, dilation_h=2, dilation_w=2, stride_h=1, stride_w=1)
    tile = dict(ifm_rows=6, ifm_cols=7, ifm_plane=42, out_rows=6, out_cols=7)
    dense = dict(vector_step=8)
    program = [
        isa.encode("load", dict(buffer=1, address=1024, vectors=144, row_bytes=1152, **dense)),
        isa.encode(
            "load", dict(buffer=0, address=0, vectors=84, row_bytes=672, **dense), signal=bits(A)
        ),
        isa.encode("load", dict(buffer=3, address=3072, vectors=8, row_bytes=64, **dense)),
        isa.encode(
            "load",
            dict(buffer=2, address=3584, vectors=42, row_bytes=336, **dense),
            signal=bits(V),
        ),
        # In two halves, the second one added to the first.
        isa.encode(
            "array",
            dict(**window, **tile, offset_h=-2, offset_w=-2, acc_bank=1, pad_code=-3),
            wait=bits(L),
        ),
        isa.encode(
            "array",
            dict(
                **window,
                **tile,
                ifm_base=42,
                wgt_base=72,
                offset_h=-2,
                offset_w=-2,
                acc_bank=1,
                pad_code=-3,
                accumulate=1,
            ),
            signal=bits(V),
        ),
        isa.encode(
            "vector",
            dict(
                function=0,
                residual=1,
                chunks=4,
                acc_bank=1,
                out_rows=6,
                out_cols=7,
                res_shift=13,
                shift=15,
                low=-100,
                high=127,
                ofm_row_step=7,
                ofm_col_step=1,
            ),
            wait=bits(L, A),
            signal=bits(S),
        ),
        isa.encode("store", dict(address=out, vectors=42), wait=bits(V)),
        isa.encode("end"),
    ]
    result = run(config, program, memory)
    assert (result.error, result.error_text) == (Error.NONE, "")
    assert result.instructions_executed == 8
    assert {event.index for event in result.events} == set(range(8))
    found = memory[out : out + 336].view(np.int8).reshape(6, 7, 8).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, expected[0])
    assert len(np.unique(expected)) > 100  # not all saturated


LOAD = dict(row_bytes=8, vector_step=8)


@pytest.mark.parametrize(
    ("instructions", "code", "index"),
    [
        ([isa.encode("load", LOAD)], Error.PROGRAM, 1),
        ([bytes([9]) + bytes(63), isa.encode("end")], Error.OPCODE, 0),
        ([bytes([0x0F]) + bytes(62) + b"\x01"], Error.OPCODE, 0),
        ([isa.encode("load", LOAD), bytes([1]) + bytes(63), isa.encode("end")], Error.FIELD, 1),
        ([isa.encode("array", wait=bits(Unit.ARRAY)), isa.encode("end")], Error.TOKEN, 0),
        ([isa.encode("store", signal=bits(Unit.STORE)), isa.encode("end")], Error.TOKEN, 0),
        ([isa.encode("end", wait=1)], Error.TOKEN, 0),
        ([isa.encode("load", LOAD | {"base": 512}), isa.encode("end")], Error.BUFFER, 0),
        ([isa.encode("store", {"address": 1 << 20}), isa.encode("end")], Error.MEMORY, 0),
        # Nobody gives what the array waits for.
        (
            [
                isa.encode("load", LOAD),
                isa.encode("array", wait=bits(Unit.LOAD)),
                isa.encode("end"),
            ],
            Error.DEADLOCK,
            1,
        ),
        # The token would come behind a full queue (4 places): the head of the array is stuck.
        (
            [isa.encode("array", wait=bits(Unit.LOAD))] * 5
            + [isa.encode("load", LOAD, signal=bits(Unit.ARRAY))] * 5
            + [isa.encode("end")],
            Error.DEADLOCK,
            0,
        ),
        # Nobody takes them: the 256th does not fit.
        (
            [isa.encode("load", LOAD, signal=bits(Unit.STORE))] * 256 + [isa.encode("end")],
            Error.TOKEN,
            255,
        ),
    ],
)
def test_errors_of_programs(instructions: list[bytes], code: Error, index: int) -> None:
    result = run(SMALL, instructions, np.zeros(1 << 15, np.uint8))
    assert (result.error, result.error_instruction) == (code, index)
    assert result.error_text


def test_255_tokens_fit() -> None:
    instructions = [isa.encode("load", LOAD, signal=bits(Unit.STORE))] * 255
    instructions += [isa.encode("store", wait=bits(Unit.LOAD))] * 255 + [isa.encode("end")]
    result = run(SMALL, instructions, np.zeros(1 << 16, np.uint8))
    assert result.error == Error.NONE
    assert result.instructions_executed == 510


@pytest.mark.parametrize(
    ("base", "length", "size", "code"),
    [
        (0, 0, 4096, Error.PROGRAM),
        (32, 1, 4096, Error.PROGRAM),
        (4032, 2, 4096, Error.PROGRAM),
        (0, 1, 4095, Error.MEMORY),
        (0, 1, 4096, Error.NONE),
    ],
)
def test_where_a_program_may_lie(base: int, length: int, size: int, code: Error) -> None:
    memory = np.zeros(8192, np.uint8)
    memory[base : base + 64] = np.frombuffer(isa.encode("end"), np.uint8)
    result = GoldenMachine(SMALL).run(memory, base, length, size)
    assert (result.error, result.error_instruction) == (code, 0)


def test_memory_must_be_bytes() -> None:
    machine = GoldenMachine(SMALL)
    with pytest.raises(ValueError, match=r"one row of uint8, not int8 \(64,\)"):
        machine.run(np.zeros(64, np.int8), 0, 1)
    with pytest.raises(ValueError, match=r"memory_bytes must be in \[0, 64\], not 65"):
        machine.run(np.zeros(64, np.uint8), 0, 1, 65)


def test_the_observer_sees_each_instruction_after_it_ran() -> None:
    memory = np.zeros(4096, np.uint8)
    program = [isa.encode("load", LOAD | {"base": i}) for i in range(3)] + [isa.encode("end")]
    memory[: 4 * 64] = np.frombuffer(b"".join(program), np.uint8)
    machine = GoldenMachine(SMALL, fill=0x33)
    seen = []

    def observer(index: int, instruction: isa.Instruction, fields: dict[str, int]) -> None:
        seen.append(
            (index, instruction.name, fields["base"], int((machine.ifm != 0x33).any(1).sum()))
        )

    machine.run(memory, 0, 4, observer=observer)
    assert seen == [(0, "load", 0, 1), (1, "load", 1, 2), (2, "load", 2, 3)]
