"""The race checker finds what is wrong with a program, and nothing in a good one."""

import numpy as np
import pytest

from intaglio.spec import isa
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.isa import Error, Unit
from intaglio_sim.golden.checker import Report, check_instructions
from intaglio_sim.golden.machine import GoldenMachine

#: Sizes that the numbers in the tests below stand for.
CONFIG = AcceleratorConfig(
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
MEMORY_BYTES = 1 << 16
OUTPUT = 1 << 14
TILES = 5

Step = tuple[str, dict[str, int], set[Unit], set[Unit]]


def pipeline() -> list[Step]:
    """Return a double-buffered program: each tile is loaded, multiplied, requantised and stored."""
    L, A, V, S = isa.UNITS
    vectors = dict(vector_step=8)
    steps: list[Step] = [
        ("load", dict(buffer=1, vectors=8, row_bytes=64, **vectors), set(), set()),
        # The vector unit needs no token for these: the array's brings the order along.
        ("load", dict(buffer=3, vectors=8, row_bytes=64, **vectors), set(), set()),
    ]
    for tile in range(TILES):
        half = tile % 2
        again = tile >= 2
        steps += [
            (
                "load",
                dict(address=1024 + 80 * tile, base=32 * half, vectors=10, row_bytes=80, **vectors),
                {A} if again else set(),
                {A},
            ),
            (
                "array",
                dict(ifm_base=32 * half, ifm_cols=10, out_cols=10, stride_w=1, acc_bank=half),
                {L, V} if again else {L},
                {L, V} if tile < TILES - 2 else {V},
            ),
            (
                "vector",
                dict(chunks=4, acc_bank=half, out_cols=10, ofm_base=16 * half, ofm_col_step=1)
                | dict(shift=20, low=-128, high=127),
                {A, S} if again else {A},
                {S} | ({A} if tile < TILES - 2 else set()),
            ),
            (
                "store",
                dict(address=OUTPUT + 80 * tile, base=16 * half, vectors=10),
                {V},
                {V} if tile < TILES - 2 else set(),
            ),
        ]
    return [*steps, ("end", {}, set(), set())]


def encoded(steps: list[Step]) -> np.ndarray:
    words = [
        isa.encode(name, fields, wait=sum(1 << u for u in wait), signal=sum(1 << u for u in signal))
        for name, fields, wait, signal in steps
    ]
    return np.frombuffer(b"".join(words), np.uint8)


def check(steps: list[Step], **options: int) -> Report:
    return check_instructions(CONFIG, encoded(steps), memory_bytes=MEMORY_BYTES, **options)


def names_of(report: Report) -> str:
    return "\n".join(report.problems)


def test_a_good_program_has_no_problem() -> None:
    report = check(pipeline())
    assert report.ok, str(report)
    assert report.instructions == 4 * TILES + 3
    # load 2, array 3, vector 3, store 2 for each tile; the two first loads.
    assert report.accesses == 10 * TILES + 4
    assert str(report) == f"{report.instructions} instructions, {report.accesses} accesses: " + (
        "no problem"
    )


def test_the_machine_agrees_that_it_runs() -> None:
    program = encoded(pipeline())
    memory = np.zeros(MEMORY_BYTES, np.uint8)
    memory[: len(program)] = program
    result = GoldenMachine(CONFIG).run(memory, 0, len(program) // 64)
    assert result.error == Error.NONE
    assert result.instructions_executed == 4 * TILES + 2


def pairs() -> list[tuple[Unit, Unit]]:
    return [
        (source, target)
        for source in isa.UNITS
        for target in isa.UNITS
        if any(step[0] == source.name.lower() and target in step[3] for step in pipeline())
    ]


@pytest.mark.parametrize(("source", "target"), pairs())
def test_every_kind_of_token_is_needed(source: Unit, target: Unit) -> None:
    """Without the tokens of one pair there is a race, for each of the pairs that it uses."""
    steps = [
        (
            name,
            fields,
            wait - {source} if name == target.name.lower() else wait,
            signal - {target} if name == source.name.lower() else signal,
        )
        for name, fields, wait, signal in pipeline()
    ]
    report = check(steps)
    assert any(problem.startswith("race: ") for problem in report.problems), str(report)


def test_a_race_names_place_and_both_instructions() -> None:
    steps: list[Step] = [
        ("load", dict(base=7, vectors=3, row_bytes=24, vector_step=8), set(), set()),
        ("load", dict(buffer=1, vectors=8, row_bytes=64, vector_step=8), set(), {Unit.ARRAY}),
        ("array", dict(ifm_base=8), {Unit.LOAD}, set()),
        ("load", dict(base=8, row_bytes=8, vector_step=8), set(), set()),
        ("end", {}, set(), set()),
    ]
    assert names_of(check(steps)) == (
        "race: the write of IFM[8] by instruction 3 (load) and the read by instruction 2 (array) "
        "are not ordered"
    )


def test_races_in_the_memory() -> None:
    steps: list[Step] = [
        ("load", dict(buffer=3, vectors=8, row_bytes=64, vector_step=8), set(), set()),
        ("load", dict(buffer=2, vectors=2, row_bytes=16, vector_step=8), set(), {Unit.VECTOR}),
        ("vector", dict(function=1, chunks=4), {Unit.LOAD}, {Unit.STORE}),
        ("store", dict(address=808), {Unit.VECTOR}, set()),
        ("load", dict(address=803, row_bytes=6, vector_step=8), set(), set()),
        ("end", {}, set(), set()),
    ]
    assert check(steps).problems == [
        "race: the read of memory[101] by instruction 4 (load) and the write by instruction 3 "
        "(store) are not ordered"
    ]
    # One byte less, and it touches the beat before only.
    steps[4] = ("load", dict(address=803, row_bytes=5, vector_step=8), set(), set())
    assert check(steps).ok


def test_deadlock_names_the_heads() -> None:
    steps: list[Step] = [
        ("array", {}, {Unit.VECTOR}, set()),
        ("vector", dict(function=1), {Unit.ARRAY, Unit.LOAD}, {Unit.ARRAY}),
        ("end", {}, set(), set()),
    ]
    report = check(steps)
    assert report.problems == [
        "deadlock: instruction 0 (array) waits for vector; instruction 1 (vector) waits for load, "
        "array"
    ]


def test_deadlock_behind_a_full_queue() -> None:
    weights: Step = ("load", dict(buffer=1, vectors=8, row_bytes=64, vector_step=8), set(), set())
    ifm: Step = ("load", dict(row_bytes=8, vector_step=8), set(), {Unit.ARRAY})
    steps: list[Step] = [weights, *[("array", {}, {Unit.LOAD}, set())] * 5, *[ifm] * 5]
    steps.append(("end", {}, set(), set()))
    report = check(steps)
    assert report.problems == [
        "deadlock: instruction 1 (array) waits for load; instruction 5 finds a full queue"
    ]


def test_tokens_that_nobody_takes() -> None:
    steps: list[Step] = [
        ("load", dict(row_bytes=8, vector_step=8), set(), {Unit.STORE}),
        ("end", {}, set(), set()),
    ]
    assert check(steps).problems == ["1 tokens from load to store are never taken"]


def test_token_overflow_under_the_worst_speed() -> None:
    """The takers could have kept up, but nothing makes them."""
    load: Step = ("load", dict(row_bytes=8, vector_step=8), set(), {Unit.ARRAY})
    steps: list[Step] = [load] * 256 + [("end", {}, set(), set())]
    report = check(steps)
    assert report.problems == [
        "instruction 255 can be number 256 of the tokens from load to array, at most 255"
    ]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (
            [("load", dict(base=511, vectors=2, row_bytes=8, vector_step=8), set(), set())],
            "instruction 0 (load): IFM [511, 512] is outside of [0, 512)",
        ),
        (
            [("store", dict(address=MEMORY_BYTES), set(), set())],
            "instruction 0 (store): memory [8192, 8192] is outside of [0, 8192)",
        ),
        (
            [("array", {}, set(), set())],
            "instruction 0 (array) reads IFM[0], which nothing has written",
        ),
    ],
)
def test_places(steps: list[Step], text: str) -> None:
    report = check([*steps, ("end", {}, set(), set())])
    assert report.problems[0] == text


def test_stores_into_the_program_are_found() -> None:
    report = check(pipeline(), program_base=OUTPUT + 80)
    assert report.problems[0] == (
        f"instruction 9 (store) writes into the program, at byte {OUTPUT + 80}"
    )


def test_programs_that_do_not_decode() -> None:
    def problems(data: bytes) -> list[str]:
        raw = np.frombuffer(data, np.uint8)
        return check_instructions(CONFIG, raw, memory_bytes=4096).problems

    end = isa.encode("end")
    assert problems(b"") == ["a program has a positive multiple of 64 bytes, not 0"]
    assert problems(end[:-1]) == ["a program has a positive multiple of 64 bytes, not 63"]
    assert problems(end + end) == ["instruction 0: 'end' before the last"]
    assert problems(bytes([7]) + bytes(63)) == ["instruction 0: unknown opcode 0x07"]
    store = isa.encode("store")
    assert problems(store) == ["instruction 0: the last is no 'end'"]
    zero_rows = bytearray(store)
    _, offset = isa.STORE.offsets()["rows"]
    zero_rows[offset // 8] = 0
    assert problems(bytes(zero_rows) + end) == [
        "instruction 0: FIELD: store.rows must be in [1, 65535], not 0"
    ]


def test_sums_without_a_beginning() -> None:
    steps: list[Step] = [
        ("load", dict(buffer=2, vectors=8, row_bytes=64, vector_step=8), set(), set()),
        ("load", dict(buffer=3, row_bytes=8, vector_step=8), set(), {Unit.VECTOR}),
        ("vector", dict(function=2, uniform=1), {Unit.LOAD}, set()),
        ("vector", dict(function=2, uniform=1, accumulate=1), set(), set()),
        ("end", {}, set(), set()),
    ]
    assert check(steps).ok, names_of(check(steps))
    for before in ({"function": 1}, {"function": 0}, {"function": 2, "chunks": 2}):
        changed = [*steps]
        changed[2] = ("vector", dict(uniform=1, **before), {Unit.LOAD}, set())
        assert "instruction 3 (vector) accumulates on nothing" in names_of(check(changed))
