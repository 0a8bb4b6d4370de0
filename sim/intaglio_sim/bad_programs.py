"""Programs with flipped bits on the RTL: never a hang, never a write where there must be none.

A good program is compiled, bits in its instructions or in the rest of its memory image are flipped,
and the RTL runs it with a guard behind its memory. Where the outcome is defined (one instruction
changed, no race, no error of which two could come first), it must be the golden machine's.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from intaglio.compile import compile_graph
from intaglio.spec import isa
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import INSTRUCTION_BYTES, Error
from intaglio.spec.program import Program
from intaglio_sim.fuzz import FUZZ_CONFIGS, one_line
from intaglio_sim.golden import GoldenMachine, places
from intaglio_sim.golden.checker import check_instructions
from intaglio_sim.golden.cycles import CycleModel
from intaglio_sim.golden.machine import MachineError, check_fields
from intaglio_sim.random_graph import random_graph, random_input
from intaglio_sim.runner import BenchFailure
from intaglio_sim.system import run_program

__all__ = ["BadCase", "BadResult", "BadRuns", "bad_programs", "draw_bad", "run_bad"]

#: Bytes behind the program's memory that nothing may touch.
GUARD_BYTES = 4096
#: Different good programs for each configuration.
_GOOD_PROGRAMS = 6
#: Work of one instruction, in vectors, beyond which the golden machine is not asked.
_WORK_MAX = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BadCase:
    """``flips``: (byte, bit) of the memory image, input included. ``length``: what the register
    says beyond the program's own length (negative: shorter).
    """

    seed: int
    good: int
    config: str
    simulator: str
    flips: tuple[tuple[int, int], ...]
    length: int = 0

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: program {self.good} for {self.config} in {self.simulator}, "
            f"flips {list(self.flips)}, length {self.length:+d}"
        )


@dataclass(frozen=True, kw_only=True)
class BadResult:
    """``failure``: "" or what is wrong, in one line. ``compared``: with the golden machine too."""

    case: BadCase
    outcome: str
    failure: str = ""
    compared: bool = False


@cache
def _good(config: str, number: int) -> tuple[Program, bytes, int]:
    """Return a compiled program, its memory image with input, and its cycles."""
    machine = FUZZ_CONFIGS[config]
    seed = 7_000 + number
    while True:
        graph = random_graph(seed, layers=number % 3, size=8, channels=9, classes=9)
        try:
            program = compile_graph(graph, machine)
        except IntaglioError:
            seed += 1000
            continue
        image = program.image(random_input(graph, seed)[0])
        return program, image.tobytes(), CycleModel(config=machine).run(program).cycles


def draw_bad(seed: int, *, simulator: str, config: str) -> BadCase:
    """Return a random case, the same for the same arguments.

    Half of them flip one bit of one instruction, a quarter up to eight bits of several, the others
    bits of the data; one in sixteen has a wrong length besides.
    """
    rng = random.Random(f"bad {seed} {simulator}")
    good = rng.randrange(_GOOD_PROGRAMS)
    program, image, _ = _good(config, good)
    start = program.program_base
    kind = rng.choice(["one", "one", "several", "data"])
    flips = []
    for _ in range(1 if kind == "one" else rng.randint(1, 8)):
        if kind == "data":
            byte = rng.randrange(len(image))
        else:
            instruction = rng.randrange(program.length)
            entry = isa.opcode_of(program.instruction(instruction))
            assert entry is not None
            # Reserved bits are many; most flips go to the others.
            bits = entry.width if rng.random() < 0.9 else isa.INSTRUCTION_BITS
            byte = start + instruction * INSTRUCTION_BYTES + rng.randrange(bits) // 8
        flips.append((byte, rng.randrange(8)))
    length = rng.choice([-1, 1, 7, -program.length]) if rng.random() < 1 / 16 else 0
    return BadCase(
        seed=seed,
        good=good,
        config=config,
        simulator=simulator,
        flips=tuple(flips),
        length=length,
    )


def _work(fields: Mapping[str, int], name: str) -> int:
    """Return about how many vectors an instruction touches."""
    if name in ("load", "store"):
        return fields["planes"] * fields["rows"] * fields["vectors"]
    if name == "array":
        return (
            fields["out_rows"]
            * fields["out_cols"]
            * fields["kernel_h"]
            * fields["kernel_w"]
            * fields["blocks"]
        )
    if name == "vector":
        taps = fields["kernel_h"] * fields["kernel_w"]
        return fields["chunks"] * fields["out_rows"] * fields["out_cols"] * taps
    return 0


@dataclass(frozen=True)
class _Decoded:
    """``error``: of the first instruction that the decoder refuses, and its index."""

    instructions: tuple[tuple[isa.Instruction, Mapping[str, int]], ...]
    error: Error
    index: int


def _decode(memory: np.ndarray, base: int, length: int) -> _Decoded:
    found: list[tuple[isa.Instruction, Mapping[str, int]]] = []
    for index in range(length):
        start = base + index * INSTRUCTION_BYTES
        try:
            instruction, fields = isa.decode(memory[start : start + INSTRUCTION_BYTES])
            check_fields(instruction, fields)
        except ValueError:
            return _Decoded(tuple(found), Error.OPCODE, index)
        except MachineError as error:
            return _Decoded(tuple(found), error.code, index)
        found.append((instruction, fields))
        if instruction.unit is None:
            break
    return _Decoded(tuple(found), Error.NONE, 0)


def _may_store(decoded: _Decoded, R: int, size: int) -> np.ndarray:
    """Return for each byte of the memory whether a ``store`` of the program may write it."""
    allowed = np.zeros(size, bool)
    for instruction, fields in decoded.instructions:
        if instruction.name != "store":
            continue
        if fields["planes"] * fields["rows"] > _WORK_MAX:
            allowed[:] = True
            continue
        for address in places.row_addresses(fields).tolist():
            if address + fields["vectors"] * R <= size:  # others stop before they write
                allowed[address : address + fields["vectors"] * R] = True
    return allowed


def run_bad(case: BadCase) -> BadResult:
    """Run one bad program and check what must hold.

    1. The interrupt comes, within ``cycle_limit`` and a little; a completed run or an error code.
    2. No bus error: an access that leaves the memory would get one.
    3. The guard is as it was, and so is every byte that no ``store`` of the program names.
    4. Where the golden machine defines it: error, instruction, and without an error every byte.

    Raises
    ------
    IntaglioError
        No simulator.
    """
    config = FUZZ_CONFIGS[case.config]
    program, good_image, cycles = _good(case.config, case.good)
    image = np.frombuffer(good_image, np.uint8).copy()
    for byte, bit in case.flips:
        image[byte] ^= 1 << bit
    start, length = program.program_base, program.length + case.length
    size = len(image)
    guard = np.random.default_rng(case.seed).integers(0, 256, GUARD_BYTES, np.uint8)
    memory = np.concatenate([image, guard])
    limit = 6 * cycles + 2_000

    def result(outcome: str, failure: str = "", *, compared: bool = False) -> BadResult:
        return BadResult(case=case, outcome=outcome, failure=failure, compared=compared)

    instructions = memory[start : start + program.length * INSTRUCTION_BYTES]
    try:
        run = run_program(
            _Words(instructions.tobytes(), start),
            memory,
            config,
            case.simulator,
            seed=case.seed + 1,
            stalls=case.seed % 3 * 20,
            latency=2 + case.seed % 40,
            memory_bytes=size,
            memory_base=4096 * (case.seed % 7),
            program_length=length,
            cycle_limit=limit,
            deadline=limit + 100_000,
        )
    except BenchFailure as error:
        return result("HANG", one_line(error))
    outcome = "finished" if run.finished else run.error.name
    if not run.finished and run.error == Error.NONE:
        return result(outcome, "failed without an error code")
    if run.error == Error.BUS:
        return result(outcome, f"an access outside of the memory, instruction {_at(run)}")
    if not np.array_equal(run.memory[size:], guard):
        return result(outcome, "a byte behind the memory has changed")

    usable = length > 0 and start + length * INSTRUCTION_BYTES <= size
    decoded = _decode(image, start, length) if usable else _Decoded((), Error.PROGRAM, 0)
    allowed = _may_store(decoded, config.R, size)
    changed = run.memory[:size] != image
    if allowed[start : start + program.length * INSTRUCTION_BYTES].any():
        return result(outcome)  # it may rewrite itself: nothing more is defined
    if (changed & ~allowed).any():
        byte = int(np.flatnonzero(changed & ~allowed)[0])
        return result(outcome, f"byte {byte:#x} has changed, which no store names")
    failure, compared = _against_golden(case, decoded, image, start, length, run, config)
    return result(outcome, failure, compared=compared)


def _at(run: Any) -> int:
    return run.error_instruction


def _against_golden(
    case: BadCase,
    decoded: _Decoded,
    image: np.ndarray,
    start: int,
    length: int,
    run: Any,
    config: Any,
) -> tuple[str, bool]:
    """Return what differs from the golden machine, and whether it could be asked."""
    touched = {
        (byte - start) // INSTRUCTION_BYTES
        for byte, _ in case.flips
        if start <= byte < start + len(decoded.instructions) * INSTRUCTION_BYTES + INSTRUCTION_BYTES
    }
    # Of two faults, the machine reports the one that it meets first in time. A program that is cut
    # off is one; a length of zero is met before all others.
    cut = case.length < 0 < length
    if len(touched) + cut > 1 or run.error == Error.TIMEOUT:
        return "", False
    if any(_work(fields, item.name) > _WORK_MAX for item, fields in decoded.instructions):
        return "", False
    expected = image.copy()
    golden = GoldenMachine(config).run(expected, start, length)
    text = (
        f"golden {golden.error.name} at {golden.error_instruction} ({golden.error_text}), "
        f"{case.simulator} {run.error.name} at {_at(run)}"
    )
    if golden.error == Error.TOKEN and decoded.error != Error.TOKEN:
        return "", False  # how far the units are apart decides
    if golden.error != run.error or (golden.error and golden.error_instruction != _at(run)):
        return text, True
    if golden.error:
        return "", True
    report = check_instructions(
        config,
        image[start : start + length * INSTRUCTION_BYTES],
        memory_bytes=len(image),
        program_base=start,
    )
    if not report.ok:
        return (
            "",
            True,
        )  # a race, or buffers that nobody has written: the end is all that is defined
    different = expected != run.memory[: len(image)]
    if different.any():
        byte = int(np.flatnonzero(different)[0])
        return f"byte {byte:#x}: golden {expected[byte]}, RTL {run.memory[byte]}", True
    return "", True


@dataclass(frozen=True)
class _Words:
    """What :func:`run_program` needs of a program."""

    instructions: bytes
    program_base: int


@dataclass
class BadRuns:
    """What :func:`bad_programs` did: ``outcomes`` by name, ``compared`` with the golden machine."""

    programs: int = 0
    compared: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, str]] = field(default_factory=list)


def bad_programs(
    count: int,
    *,
    seed: int = 0,
    simulators: Sequence[str] = ("verilator", "icarus"),
    configs: Sequence[str] = ("tiny-8x8",),
    jobs: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> BadRuns:
    """Run ``count`` bad programs; number i depends on ``seed + i`` alone."""
    runs = BadRuns()

    def one(number: int) -> BadResult:
        key = seed + number
        case = draw_bad(
            key,
            simulator=simulators[number % len(simulators)],
            config=configs[number // len(simulators) % len(configs)],
        )
        return run_bad(case)

    with ThreadPoolExecutor(jobs) as pool:
        for number, result in enumerate(pool.map(one, range(count))):
            runs.programs += 1
            runs.compared += result.compared
            runs.outcomes[result.outcome] += 1
            if result.failure:
                runs.failures.append({"case": str(result.case), "failure": result.failure})
                progress(f"{result.case}: {result.failure}")
            if (number + 1) % 10 == 0:
                progress(f"{number + 1} of {count}: {len(runs.failures)} failures")
    return runs
