"""The system test bench with a stand-in for the accelerator: it must also notice failures."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Error, Unit
from intaglio_sim import system
from intaglio_sim.driver import MachineError
from intaglio_sim.runner import BenchFailure

CONFIG = CONFIGS["mini-8x8"]
SIMULATORS = pytest.mark.parametrize("simulator", ["icarus", "verilator"])
BYTES = 2048
OPTIONS = {"check": False, "optimize": "-O1", "timeout_s": 60, "deadline": 20_000}


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(
        system, "accelerator_verilog", lambda config: Path(__file__).parent / "standin.v"
    )
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    memory = rng.integers(0, 256, BYTES, dtype=np.uint8)

    def run(simulator, length, instructions=1000, **options):
        # No waveforms for long programs: they would be too large.
        program = SimpleNamespace(instructions=bytes(64 * instructions), program_base=0)
        result = system.run_program(
            program, memory, CONFIG, simulator, program_length=length, **{**OPTIONS, **options}
        )
        expected = np.concatenate([memory[: BYTES // 2], memory[: BYTES // 2]])
        return result, expected

    return run


@SIMULATORS
def test_progress_is_told(run, simulator, monkeypatch):
    monkeypatch.setitem(system.PROGRESS_MASK, simulator, 63)
    told = []
    result, _ = run(simulator, 1, trace=True, progress=lambda *place: told.append(place))
    cycle, index = told[-1]
    assert cycle > 0 and cycle % 64 == 0
    assert 0 <= index <= max(event.index for event in result.trace)


@SIMULATORS
@pytest.mark.parametrize("options", [
    {}, {"latency": 2}, {"stalls": 70, "seed": 5}, {"interval": 4, "memory_base": 0x4000_1000},
])  # fmt: skip
def test_memory_goes_in_and_out(run, simulator, options):
    result, expected = run(simulator, 1, trace=True, **options)
    assert result.finished and result.error == Error.NONE
    assert result.counters["cycles"] == 1234
    assert np.array_equal(result.memory, expected)
    bursts = BYTES // 2 // 64
    assert [e.index for e in result.trace if e.kind == "done"] == list(range(bursts))
    assert all(e.unit == Unit.LOAD and e.cycle >= 0 for e in result.trace)
    assert len(result.trace) == 2 * bursts
    first = [e.cycle for e in result.trace if e.index == 0]
    assert first[1] - first[0] >= 2 * options.get("latency", 20) + 2 * 7 * options.get(
        "interval", 1
    )


@SIMULATORS
def test_an_error_of_the_machine_is_a_result(run, simulator):
    result, _ = run(simulator, 2)
    assert not result.finished and result.error == Error.BUFFER and result.error_instruction == 77
    with pytest.raises(MachineError, match=r"BUFFER \(error 3\) at instruction 77$"):
        result.check()


@SIMULATORS
def test_no_interrupt_is_a_failure(run, simulator):
    with pytest.raises(BenchFailure, match="did not finish in time") as info:
        run(simulator, 3)
    assert "gtkwave" not in str(info.value)


@SIMULATORS
def test_a_withdrawn_address_is_a_failure(run, simulator):
    with pytest.raises(BenchFailure, match="a write address was withdrawn"):
        run(simulator, 5, stalls=90)


def test_unknown_data_is_a_failure(run):
    with pytest.raises(BenchFailure, match="unknown data written") as info:
        run("icarus", 4, instructions=1)
    command = next(
        line for line in str(info.value).splitlines() if line.startswith("waveform: gtkwave")
    )
    assert Path(command.split()[-1]).stat().st_size > 0


def test_a_bad_register_access_is_a_failure(run, monkeypatch):
    monkeypatch.setattr(system, "JOB_VARIABLE", "INTAGLIO_NO_JOB")
    with pytest.raises(BenchFailure, match="KeyError"):
        run("icarus", 1)


def test_memory_must_be_whole_beats():
    program = SimpleNamespace(instructions=bytes(64), program_base=0)
    with pytest.raises(IntaglioError, match="a multiple of 8, not"):
        system.run_program(program, np.zeros(12, np.uint8), CONFIG, "icarus")
