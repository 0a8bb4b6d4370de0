"""The microprogram on the model of the engine, against the golden machine."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.spec import isa
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.isa import Buffer, Error, Function, Unit, encode
from intaglio_hw.sequential import microcode
from intaglio_sim.random_graph import random_graph, random_input
from intaglio_sim.random_instruction import (
    MEMORY_BYTES,
    fields_of,
    filled_machine,
    instruction_work,
    random_array,
    random_load,
    random_store,
    random_vector,
    shaken,
)
from intaglio_sim.sequential import SequentialMachine

FULL = CONFIGS["sequential-8x1"]
#: Sizes that random places often leave.
SMALL = replace(
    FULL,
    name="small",
    ifm_depth=512,
    wgt_depth=512,
    vec_depth=256,
    ofm_depth=128,
    prm_depth=64,
    acc_depth=64,
)
#: A memory of which the scratchpads and the work need most.
TIGHT = CONFIGS["tight-8x1"]
#: Vectors that an instruction may touch here.
WORK_MAX = 3000
KINDS = ("load", "store", "array", *(function.name for function in isa.Function))
END = encode("end")


@pytest.fixture(scope="module")
def small() -> SequentialMachine:
    return SequentialMachine(SMALL)


@pytest.fixture(scope="module")
def tight() -> SequentialMachine:
    return SequentialMachine(TIGHT)


def draw(rng: random.Random, kind: str, config: AcceleratorConfig) -> tuple[str, dict[str, int]]:
    if kind == "load":
        return kind, random_load(rng, config)
    if kind == "store":
        return kind, random_store(rng, config)
    if kind == "array":
        return kind, random_array(rng, config)
    fields = random_vector(rng, config, kind)
    if rng.random() < 0.7:
        fields["shift"] = rng.randint(0, 47)
    if rng.random() < 0.5:
        fields["res_shift"] = rng.randint(0, 39)
    if rng.random() < 0.2:
        fields["low"], fields["high"] = rng.randint(-128, 127), rng.randint(-128, 127)
    return "vector", fields


# ------------------------------------------------------------------------------ single instructions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name_of_machine", ["small", "tight"])
def test_instructions(
    request: pytest.FixtureRequest, name_of_machine: str, kind: str, part: int
) -> None:
    """Buffers and memory after an instruction; every second one has fields of any value."""
    machine: SequentialMachine = request.getfixturevalue(name_of_machine)
    config = machine.config
    outcomes: Counter[Error] = Counter()
    for seed in range(1000 * part, 1000 * part + (40, 1000)[part]):
        rng = random.Random(f"{kind} {seed}")
        name, fields = draw(rng, kind, config)
        if seed % 2:
            fields = shaken(rng, name, fields)
        if instruction_work(name, fields) > WORK_MAX:
            continue
        golden = filled_machine(config, seed, extremes=seed % 3 == 2)
        assert machine.execute(golden, name, fields) == [], f"seed {seed}: {name} {fields}"
        outcomes[Error(machine.engine.get("error"))] += 1
    assert outcomes[Error.NONE] >= 10, outcomes


@pytest.mark.parametrize("residual", [0, 1])
def test_every_shift(small: SequentialMachine, residual: int) -> None:
    """Each shift of the sum and of the residual, with all signs."""
    for shift in range(48):
        fields = fields_of(
            "vector",
            residual=residual,
            res_shift=min(shift, 39),
            shift=shift,
            out_rows=8,
            out_cols=8,
            low=-128,
            high=127,
            ofm_row_step=8,
            ofm_col_step=1,
        )
        golden = filled_machine(SMALL, shift, extremes=shift % 2 == 1)
        # A bias that leaves something between the bounds.
        scale = max(1, 1 << shift)
        rng = np.random.default_rng(shift)
        multiplier, bias = int(rng.integers(-3, 4)), int(rng.integers(-40, 40)) * scale
        golden.prm[0] = np.frombuffer(
            ((multiplier & 0xFFFF) | (bias & (1 << 48) - 1) << 16).to_bytes(8, "little"), np.uint8
        )
        golden.acc[0, :, 0] = rng.integers(-(1 << min(31, shift + 7)), 1 << min(31, shift + 7), 64)
        assert small.execute(golden, "vector", fields) == [], f"shift {shift}"


# ----------------------------------------------------------------------------------------- decoder


def poked(data: bytes, offset: int, width: int, value: int) -> bytes:
    mask = ((1 << width) - 1) << offset
    word = int.from_bytes(data, "little") & ~mask | (value << offset) & mask
    return word.to_bytes(isa.INSTRUCTION_BYTES, "little")


def check_program(machine: SequentialMachine, program: list[bytes], **options) -> None:
    memory = np.random.default_rng(len(program)).integers(0, 256, 3 * MEMORY_BYTES, np.uint8)
    data = np.frombuffer(b"".join(program), np.uint8)
    base = len(memory) - len(data)
    base -= base % isa.INSTRUCTION_BYTES
    memory[base : base + len(data)] = data
    assert machine.compare(memory, base, len(program), **options) == []


def error(machine: SequentialMachine) -> tuple[Error, int]:
    return Error(machine.engine.get("error")), machine.engine.get("error_instruction")


def test_every_bound_of_every_field(small: SequentialMachine) -> None:
    """A token comes last in the order of the checks: it ends what a good instruction would run."""
    for instruction in isa.INSTRUCTIONS:
        if instruction.unit is None:
            continue
        good = encode(instruction.name, wait=1 << instruction.unit)
        for field, offset in instruction.offsets().values():
            if field.name in ("opcode", "wait", "signal"):
                continue
            for value in {field.low, field.high, field.low - 1, field.high + 1}:
                natural = isa.Field(field.name, field.width, "", field.signed)
                if not natural.low <= value <= natural.high:
                    continue
                check_program(small, [poked(good, offset, field.width, value), END])
                inside = field.low <= value <= field.high
                assert error(small) == (Error.TOKEN if inside else Error.FIELD, 0)


def test_every_bit_behind_an_instruction(small: SequentialMachine) -> None:
    for instruction in isa.INSTRUCTIONS:
        for bit in range(instruction.width, isa.INSTRUCTION_BITS):
            check_program(small, [poked(encode(instruction.name), bit, 1, 1), END])
            assert error(small) == (Error.OPCODE, 0)


def test_opcodes_and_tokens_of_the_own_unit(small: SequentialMachine) -> None:
    for opcode in range(256):
        if opcode not in {item.opcode for item in isa.INSTRUCTIONS}:
            check_program(small, [encode("store"), poked(END, 0, 8, opcode)])
            assert error(small) == (Error.OPCODE, 1)
    for instruction in isa.INSTRUCTIONS:
        for bit in range(8, 16):
            program = [poked(encode(instruction.name), bit, 1, 1), END]
            check_program(small, program)
            own = instruction.unit is None or bit % 4 == instruction.unit
            assert (error(small) == (Error.TOKEN, 0)) == own


# ---------------------------------------------------------------------------------------- programs


def random_program(rng: random.Random, config: AcceleratorConfig, count: int) -> list[bytes]:
    """Return random instructions that mostly wait only for tokens given before them, and end."""
    tokens: Counter[tuple[Unit, Unit]] = Counter()
    program = []
    for _ in range(count):
        name, fields = draw(rng, rng.choice(KINDS), config)
        if rng.random() < 0.03:
            fields = shaken(rng, name, fields)
        if instruction_work(name, fields) > WORK_MAX:
            continue
        unit = next(item.unit for item in isa.INSTRUCTIONS if item.name == name)
        assert unit is not None
        header = {"wait": 0, "signal": 0}
        for other in isa.UNITS:
            if other == unit:
                continue
            if (tokens[other, unit] and rng.random() < 0.7) or rng.random() < 0.01:
                tokens[other, unit] -= 1
                header["wait"] |= 1 << other
            if rng.random() < 0.4:
                tokens[unit, other] += 1
                header["signal"] |= 1 << other
        values = {k: v for k, v in fields.items() if k not in ("opcode", "wait", "signal")}
        program.append(encode(name, values, **header))
    return [*program, END]


@pytest.mark.parametrize("depth", [2, 4])
def test_programs(depth: int) -> None:
    """Sequences with tokens, some of which deadlock or end with another error."""
    machine = SequentialMachine(replace(SMALL, queue_depth=depth, burst_beats=8 // depth))
    outcomes: Counter[Error] = Counter()
    for seed in range(30):
        rng = random.Random(f"program {seed}")
        check_program(machine, random_program(rng, SMALL, rng.randrange(1, 40)))
        outcomes[error(machine)[0]] += 1
    assert outcomes[Error.NONE] >= 5 and outcomes[Error.DEADLOCK] >= 3, outcomes


def test_a_deadlock_is_of_the_first_head(small: SequentialMachine) -> None:
    plain = encode("load", {"address": 64})
    waiting = {
        unit: encode(item.name, wait=1 << (unit + 1) % 4)
        for item in isa.INSTRUCTIONS
        if (unit := item.unit) is not None
    }
    for program, index in (
        ([plain, waiting[Unit.STORE], waiting[Unit.VECTOR], END], 2),
        ([waiting[Unit.ARRAY], plain, waiting[Unit.LOAD]], 2),
        ([plain, *[waiting[Unit.STORE]] * 4, poked(END, 0, 8, 0x77)], 1),
    ):
        check_program(small, program)
        expected = (Error.PROGRAM, 3) if program[-1] != END and len(program) == 3 else None
        assert error(small) == (expected or (Error.DEADLOCK, index))


def test_tokens_to_the_last(small: SequentialMachine) -> None:
    give = encode("load", {"address": 64}, signal=1 << Unit.STORE)
    take = encode("store", {"address": 512}, wait=1 << Unit.LOAD)
    check_program(small, [give] * isa.TOKEN_MAX + [END])
    check_program(small, [give] * (isa.TOKEN_MAX + 1) + [END])
    assert error(small) == (Error.TOKEN, isa.TOKEN_MAX)
    check_program(small, [give] * 3 + [take] * 3 + [END])
    check_program(small, [give] * 3 + [take] * 4 + [END])
    assert error(small) == (Error.DEADLOCK, 6)


def test_what_goes_on_ends_with_the_program(small: SequentialMachine) -> None:
    one = {"src_rows": 1, "src_cols": 1, "stride_h": 1, "stride_w": 1, "high": 127}
    for function in (Function.MAX, Function.SUM):
        first = encode("vector", {**one, "function": function})
        more = encode("vector", {**one, "function": function, "accumulate": 1})
        check_program(small, [first, more, more, END])
        assert error(small)[0] == Error.NONE
        check_program(small, [more, END])
        assert error(small) == (Error.FIELD, 0)


def test_the_registers_of_a_program(small: SequentialMachine) -> None:
    """Sizes and places of program and memory, and which error goes first."""
    memory = np.zeros(4096, np.uint8)
    memory[:] = np.frombuffer(END * 64, np.uint8)
    for base, length, size in (
        (0, 0, 4096),
        (0, 1 << 26, 4096),
        (0, (1 << 32) - 1, 4096),
        (0, 65, 4096),
        (64, 64, 4096),
        (64, 63, 4096),
        (4096, 1, 4096),
        (32, 1, 4096),
        (0, 64, 4088),
        (0, 0, 4092),
    ):
        differences = small.compare(memory, base, length, memory_bytes=size)
        assert differences == [], f"{length} at {base} of {size}"

    def run(**registers: int) -> tuple[Error, int]:
        small.start(memory, 0, 1, **registers)
        small.finish()
        return error(small)

    assert run(memory_base=0x1000) == (Error.NONE, 0)
    assert run(memory_base=0x1800) == (Error.MEMORY, 0)
    assert run(memory_base=0xFFFF_F000, memory_bytes=4096) == (Error.NONE, 0)
    assert run(memory_base=0xFFFF_F000, memory_bytes=4104) == (Error.MEMORY, 0)


# ------------------------------------------------------------------------------ time, stop and bus


def some_loads(count: int) -> np.ndarray:
    memory = np.zeros(MEMORY_BYTES, np.uint8)
    load = encode(
        "load", {"address": 4096, "vectors": 64, "vector_step": 8, "row_bytes": 512, "rows": 4}
    )
    data = np.frombuffer(load * count + END, np.uint8)
    memory[: len(data)] = data
    return memory


def test_time(small: SequentialMachine) -> None:
    engine = small.engine
    for limit in (1, 100, 500, 1000, 10_000):
        begin = engine.cycle
        small.start(some_loads(20), 0, 21, cycle_limit=limit)
        while engine.busy:
            engine.step()
        assert engine.failed and error(small) == (Error.TIMEOUT, 0)
        cycles = engine.get("cycles")
        assert limit <= cycles < limit + 300 and abs(engine.cycle - begin - cycles) <= 12
    for limit in (0, 1_000_000, (1 << 32) - 1):
        begin = engine.cycle
        small.start(some_loads(20), 0, 21, cycle_limit=limit)
        while engine.busy:
            engine.step()
        assert engine.done and abs(engine.cycle - begin - engine.get("cycles")) <= 12


def test_stop(small: SequentialMachine) -> None:
    engine = small.engine
    for delay in (1, 50, 70, 150, 700, 3000):
        small.start(some_loads(20), 0, 21)
        for _ in range(delay):
            engine.step()
        engine.put("control", 2)
        after = engine.instructions
        while engine.busy:
            engine.step()
        assert engine.failed and error(small) == (Error.NONE, 0)
        assert engine.instructions - after < 120


@pytest.mark.parametrize(
    ("bad", "index"), [(0, 0), (64 + 56, 1), (4096, 0), (4096 + 99 * 8, 0), (6144 + 8, 2)]
)
def test_errors_of_the_bus(bad: int, index: int) -> None:
    machine = SequentialMachine(SMALL)
    memory = np.zeros(MEMORY_BYTES, np.uint8)
    memory[4096:] = np.random.default_rng(1).integers(0, 256, MEMORY_BYTES - 4096)
    program = [
        encode("load", {"address": 4099, "vectors": 100, "vector_step": 8, "row_bytes": 800}),
        encode("vector", {"function": 1, "out_cols": 4, "src_cols": 4, "ofm_col_step": 1}),
        encode("store", {"address": 6144, "vectors": 4}),
        END,
    ]
    data = np.frombuffer(b"".join(program), np.uint8)
    memory[: len(data)] = data
    machine.engine.bad = {bad}
    machine.start(memory, 0, len(program))
    assert not machine.finish().finished
    assert error(machine) == (Error.BUS, index)


def test_traces_and_waits(small: SequentialMachine) -> None:
    """Each instruction begins and ends; a unit that waits is counted."""
    long_load = {"address": 1, "vectors": 200, "vector_step": 1, "row_bytes": 300, "buffer": 2}
    program = [
        encode("store", {"address": 4096}, wait=1 << Unit.LOAD),
        encode("load", long_load, signal=1 << Unit.STORE),
        encode("load", {"address": 64, "buffer": Buffer.WGT}),
        END,
    ]
    memory = np.zeros(MEMORY_BYTES, np.uint8)
    data = np.frombuffer(b"".join(program), np.uint8)
    memory[: len(data)] = data
    small.start(memory, 0, len(program))
    run = small.finish()
    assert run.finished and run.counters["store_wait"] > 0
    assert run.counters["load_busy"] > 10_000 > run.counters["store_busy"] > 0
    assert sum(run.counters[f"{name}_busy"] for name in ("load", "store")) < run.counters["cycles"]
    assert [event[:3] for event in small.engine.trace] == [
        (1, 0, 1), (0, 1, 1), (8, 0, 0), (0, 8, 0), (1, 0, 2), (0, 1, 2),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 40))]
)
def test_networks(seed: int) -> None:
    config = SMALL if seed % 2 else FULL
    graph = random_graph(
        seed, layers=seed % 3, size=4 + seed % 5, channels=1 + seed % 10, classes=9
    )
    program = compile_graph(graph, config)
    image = program.image(random_input(graph, seed)[0])
    machine = SequentialMachine(config)
    assert machine.compare(image, program.program_base, program.length) == []
    assert machine.engine.get("error") == 0


def test_flipped_bits(small: SequentialMachine) -> None:
    """A bit of one instruction: what comes of it, and which error."""
    graph = random_graph(7, layers=1, size=5, channels=5, classes=5)
    program = compile_graph(graph, SMALL)
    image = program.image(random_input(graph, 7)[0])
    outcomes: Counter[Error] = Counter()
    for seed in range(60):
        rng = random.Random(seed)
        number = rng.randrange(program.length)
        item = isa.opcode_of(program.instruction(number))
        assert item is not None
        flipped = image.copy()
        bit = rng.randrange(item.width)
        flipped[program.program_base + isa.INSTRUCTION_BYTES * number + bit // 8] ^= 1 << bit % 8
        try:
            _, fields = isa.decode(
                flipped[program.program_base :][isa.INSTRUCTION_BYTES * number :][
                    : isa.INSTRUCTION_BYTES
                ]
            )
        except ValueError:
            pass
        else:
            if instruction_work(item.name, fields) > WORK_MAX:
                continue
        assert small.compare(flipped, program.program_base, program.length) == [], f"seed {seed}"
        outcomes[error(small)[0]] += 1
    assert len(outcomes) >= 4, outcomes


# ------------------------------------------------------------------------------------------- sizes


def test_the_microprogram_fits() -> None:
    made = microcode.assemble(FULL)
    assert len(made.words) <= microcode.WORDS_MAX
    assert max(made.names) < 0xC0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"drain_lanes": 1, "K": 2}, "R, K and drain_lanes must be 8, 1 and 1, not 8, 2 and 1"),
        ({"ofm_depth": 8192}, "ofm_depth must be at most 4096, not 8192"),
        ({"queue_depth": 64}, "queue_depth is too large for the memory: 64"),
    ],
)
def test_configurations_that_it_does_not_have(options: dict, text: str) -> None:
    config = replace(FULL, organization="pipelined", **options)
    with pytest.raises(ValueError, match=text):
        microcode.assemble(config)
