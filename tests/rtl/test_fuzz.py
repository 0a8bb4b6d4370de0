"""Random cases on the RTL, programs with flipped bits, and that both notice what is wrong."""

import dataclasses
from pathlib import Path

import pytest

from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Error
from intaglio_sim import bad_programs, fuzz
from intaglio_sim.fuzz import Case, Coverage, draw_case, load_case, run_case, save_case, shrink
from intaglio_sim.golden import GoldenMachine
from intaglio_sim.runner import BenchFailure
from intaglio_sim.system import RunResult

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
SMALL = {"layers": 1, "size": 6, "channels": 9, "config": "tiny-8x8"}


# ------------------------------------------------------------------------------ without a simulator


@pytest.fixture
def perfect(monkeypatch):
    """The golden machine and the cycle model in place of the RTL; ``break_it`` changes the end."""

    def simulate(case, program, image, predicted):
        memory = image.copy()
        GoldenMachine(program.config).run_program(program, memory)
        counters = {"cycles": predicted, "load_wait": 3}
        result = RunResult(
            finished=True, error=Error.NONE, error_instruction=0, counters=counters, memory=memory
        )
        return simulate.break_it(case, program, result)

    simulate.break_it = lambda case, program, result: result
    monkeypatch.setattr(fuzz, "_simulate", simulate)
    return simulate


def test_a_case_is_the_same_every_time():
    assert draw_case(3, simulator="icarus") == draw_case(3, simulator="icarus")
    drawn = [draw_case(seed, simulator="icarus") for seed in range(0, 510, 23)]
    assert {case.stalls > 0 for case in drawn} == {False, True}
    assert max(case.layers for case in drawn) == 2
    assert fuzz.SMALL_OUTPUT.name in {case.config for case in drawn} <= set(fuzz.FUZZ_CONFIGS)
    assert draw_case(7, simulator="verilator").config in fuzz.CONFIGS
    assert {c.config for c in [draw_case(1, simulator="icarus", configs=["tiny-8x8"])]} == {
        "tiny-8x8"
    }


def test_each_seed_looks_for_its_row():
    rows = fuzz._expected_rows()
    for seed in range(0, len(rows), 9):
        case = draw_case(seed, simulator="icarus")
        assert rows[seed] in fuzz.features(case.graph(), fuzz.FUZZ_CONFIGS[case.config]), case


def test_fewer_layers_are_the_first_ones():
    long, short = (Case(seed=5, layers=layers).graph() for layers in (4, 2))
    assert [n.op for n in short.nodes[:-2]] == [n.op for n in long.nodes[: len(short.nodes) - 2]]


def test_wrong_cases_are_refused(tmp_path):
    with pytest.raises(ValueError, match="config must be one of mini-8x8"):
        Case(seed=1, config="huge")
    with pytest.raises(ValueError, match="operations must be among conv"):
        Case(seed=1, operations=("pool",))
    (tmp_path / "case.json").write_text('{"seed": 1}')
    with pytest.raises(IntaglioError, match="case.json: not a case of 'intaglio fuzz'"):
        load_case(tmp_path / "case.json")


def test_a_good_case_passes(perfect):
    result = run_case(Case(seed=1, **SMALL))
    assert result.failure == "" and result.refused == ""
    assert result.compared > 1000 and result.cycles == result.predicted > 100
    assert any(cause == "load" for _, cause in result.coverage.cells)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: {"memory": r.memory ^ 1}, "golden"),
        (lambda r: {"finished": False, "error": Error.BUFFER}, "stopped with BUFFER at instr"),
        (lambda r: {"counters": {**r.counters, "cycles": r.counters["cycles"] * 51 // 50}},
         "cycle model"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(perfect, change, text):
    perfect.break_it = lambda case, program, result: dataclasses.replace(result, **change(result))
    assert text in run_case(Case(seed=1, **SMALL)).failure
    # Where the memory pauses, cycles are not foretold.
    paused = run_case(Case(seed=1, stalls=10, **SMALL)).failure
    assert (paused == "") == (text == "cycle model")


def test_a_hang_is_found(perfect):
    def hang(case, program, result):
        raise BenchFailure("no interrupt in time\nlog: somewhere")

    perfect.break_it = hang
    assert run_case(Case(seed=1, **SMALL)).failure == "no interrupt in time"


def test_a_failure_is_shrunk_kept_and_replayed(perfect, tmp_path):
    """A fault in one operation alone: the smallest case still has it, and nothing else."""

    def break_pools(case, program, result):
        pools = [name for name in program.values if name.startswith("max_pool")]
        for name in pools:
            result.memory[program.values[name].address] ^= 0x40
        return result

    perfect.break_it = break_pools
    seed = next(
        seed
        for seed in range(100)
        if any(n.op == "max_pool" for n in Case(seed=seed, layers=4).graph().nodes)
    )
    case = Case(seed=seed, layers=4, stalls=30, latency=60, config="tiny-8x8")
    small, text, tried = shrink(case, lambda c: run_case(c).failure)
    assert "layer max_pool" in text and 0 < tried <= fuzz.SHRINK_RUNS
    assert small.stalls == 0 and small.latency == 2 and small.layers <= case.layers
    assert small.size < case.size or small.channels < case.channels
    graph = small.graph()
    assert run_case(dataclasses.replace(small, layers=max(small.layers - 1, 0))).failure == "" or (
        small.layers == 0
    )
    path = tmp_path / "found.json"
    save_case(path, small, digest=graph.digest(), found=text)
    assert load_case(path) == (small, graph.digest())
    with pytest.raises(ValueError, match="the case does not fail"):
        shrink(small, lambda c: "")


def test_a_campaign_counts_and_keeps(perfect, tmp_path):
    perfect.break_it = lambda case, program, result: (
        dataclasses.replace(result, memory=result.memory ^ 1)
        if case.seed % 10_000_019 == 2
        else result
    )
    campaign = fuzz.fuzz(4, configs=["tiny-8x8"], cases_dir=tmp_path)
    assert campaign.cases == {"verilator": 2, "icarus": 2} and campaign.compared > 0
    (failure,) = campaign.failures
    assert failure["case"]["seed"] % 10_000_019 == 2 and Path(failure["file"]).is_file()
    assert campaign.coverage.cells and campaign.worst_cycles == 0


def test_coverage_names_its_holes():
    case = Case(seed=1, **SMALL)
    coverage = Coverage()
    total = len(coverage.holes())
    assert total == len(coverage.rows()) * len(fuzz.CAUSES)
    coverage.add(
        case.graph(), fuzz.FUZZ_CONFIGS[case.config], {"load_wait": 1, "store_wait": 0}, pauses=True
    )
    met = {cause for _, cause in coverage.cells}
    assert met == {"memory pauses", "load"}
    assert len(coverage.holes()) == total - len(coverage.cells)
    page = coverage.markdown()
    assert f"{len(coverage.holes())} holes" in page
    assert page.count("\n| ") == 1 + len(coverage.rows())
    # Only rows that the table foresees.
    foreseen = set(fuzz._expected_rows())
    for seed in range(40):
        graph = Case(seed=seed, layers=4).graph()
        assert set(fuzz.features(graph, fuzz.FUZZ_CONFIGS["tiny-8x8"])) <= foreseen


# ------------------------------------------------------------------------------ with the simulators


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_random_cases(simulator):
    for seed, stalls in ((11, 0), (12, 40)):
        case = Case(seed=seed, stalls=stalls, simulator=simulator, **SMALL)
        result = run_case(case)
        assert result.failure == "" and result.compared > 0, str(case)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_kept_cases(path):
    case, digest = load_case(path)
    assert case.graph().digest() == digest, "random_graph draws another network than it did"
    result = run_case(case)
    assert result.failure == "" and result.refused == "" and result.compared > 0


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_bad_programs(simulator):
    runs = bad_programs.bad_programs(5, seed=3, simulators=[simulator], configs=["tiny-8x8"])
    assert runs.failures == [] and runs.programs == 5 and runs.compared > 0


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_many_cases(tmp_path):
    campaign = fuzz.fuzz(510, cases_dir=tmp_path, jobs=2)
    assert campaign.failures == []
    assert campaign.cases == {"verilator": 255, "icarus": 255}
    assert campaign.cycle_cases > 100


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_many_bad_programs():
    runs = bad_programs.bad_programs(1000, configs=["tiny-8x8", "narrow-8x4"], jobs=2)
    assert runs.failures == [] and runs.programs == 1000 and runs.compared > 500


# ---------------------------------------------------------- bad programs: what the checks would see


@pytest.fixture
def fake_run(monkeypatch):
    """The golden machine in place of the RTL for bad programs."""

    def run(program, memory, config, simulator, *, memory_bytes, program_length, **options):
        after = memory.copy()
        golden = GoldenMachine(config).run(
            after, program.program_base, program_length, memory_bytes
        )
        result = RunResult(
            finished=not golden.error,
            error=golden.error,
            error_instruction=golden.error_instruction,
            counters={},
            memory=after,
        )
        return run.break_it(result)

    run.break_it = lambda result: result
    monkeypatch.setattr(bad_programs, "run_program", run)
    return run


def bad(**changes) -> bad_programs.BadCase:
    """A program whose first instruction has an opcode that does not exist."""
    program, _, _ = bad_programs._good("tiny-8x8", 0)
    return bad_programs.BadCase(
        **{
            "seed": 1,
            "good": 0,
            "config": "tiny-8x8",
            "simulator": "icarus",
            "flips": ((program.program_base, 7),),
            **changes,
        }
    )


def test_bad_programs_pass_as_they_should(fake_run):
    result = bad_programs.run_bad(bad())
    assert (result.outcome, result.failure, result.compared) == ("OPCODE", "", True)
    result = bad_programs.run_bad(bad(flips=((0, 0),)))
    assert (result.outcome, result.failure, result.compared) == ("finished", "", True)
    result = bad_programs.run_bad(bad(flips=(), length=-1))
    assert (result.outcome, result.failure, result.compared) == ("PROGRAM", "", True)


@pytest.mark.parametrize(
    ("flips", "change", "text"),
    [
        (None, {"error_instruction": 1}, "golden OPCODE at 0"),
        (None, {"error": Error.FIELD}, "golden OPCODE at 0"),
        (None, {"error": Error.NONE}, "failed without an error code"),
        (None, {"error": Error.BUS}, "an access outside of the memory"),
        ((), {"memory": "guard"}, "a byte behind the memory has changed"),
        ((), {"memory": "program"}, "has changed, which no store names"),
        ((), {"memory": "output"}, "golden"),
    ],
)
def test_what_bad_programs_must_not_do(fake_run, flips, change, text):
    program, image, _ = bad_programs._good("tiny-8x8", 0)

    def break_it(result):
        changed = dict(change)
        if "memory" in changed:
            place = {
                "guard": len(image) + 5,
                "program": program.program_base + 70,
                "output": program.values[program.outputs[0]].address,
            }[changed["memory"]]
            changed["memory"] = result.memory.copy()
            changed["memory"][place] ^= 1
        return dataclasses.replace(result, **changed)

    fake_run.break_it = break_it
    case = bad() if flips is None else bad(flips=flips)
    assert text in bad_programs.run_bad(case).failure


def test_a_bad_program_that_hangs_is_a_failure(fake_run):
    def hang(result):
        raise BenchFailure("no interrupt")

    fake_run.break_it = hang
    result = bad_programs.run_bad(bad())
    assert (result.outcome, result.failure) == ("HANG", "no interrupt")


def test_drawn_flips_lie_where_they_should():
    kinds = set()
    for seed in range(200):
        case = bad_programs.draw_bad(seed, simulator="icarus", config="narrow-8x4")
        assert case == bad_programs.draw_bad(seed, simulator="icarus", config="narrow-8x4")
        good, data, _ = bad_programs._good(case.config, case.good)
        assert case.flips and all(0 <= byte < len(data) for byte, _ in case.flips)
        first = good.program_base
        inside = [first <= byte < first + len(good.instructions) for byte, _ in case.flips]
        kinds.add((all(inside), len(case.flips) > 1, case.length != 0))
    assert len(kinds) >= 6
