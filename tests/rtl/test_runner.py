"""The runner and the models of the benches: what is wrong must not pass."""

from pathlib import Path

import pytest

from intaglio.spec.errors import IntaglioError
from intaglio_sim import toolchain
from intaglio_sim.runner import BenchFailure, run_verilog

HERE = Path(__file__).parent
SIMULATORS = pytest.mark.parametrize("simulator", ["icarus", "verilator"])


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(simulator, *, fault=0, **options):
        arguments = {
            "tests": "passes_items",
            "timeout_s": 60,
            "waves_on_failure": False,
            "bench_dir": HERE,
            **options,
        }
        arguments["env"] = {"TOY_FAULT": str(fault), **options.get("env", {})}
        return run_verilog(
            sources=[HERE / "toy.v"],
            toplevel="toy",
            bench="bench_toy",
            simulator=simulator,
            label="toy",
            **arguments,
        )

    return run


@SIMULATORS
def test_a_good_run(run, simulator):
    assert len(run(simulator).tests) == 4
    assert not Path("sim_build").exists()


@SIMULATORS
@pytest.mark.parametrize(("fault", "text"), [
    (1, "payload changed from"), (2, "valid fell before the transfer"), (3, "expected 7"),
])  # fmt: skip
def test_the_models_see_faults(run, simulator, fault, text):
    with pytest.raises(BenchFailure, match=text):
        run(simulator, fault=fault)


def test_the_driver_sees_unknown_values(run):
    with pytest.raises(BenchFailure, match="i__ready is"):
        run("icarus", fault=4)


@SIMULATORS
def test_a_failure_leaves_a_waveform(run, simulator, capfd):
    with pytest.raises(BenchFailure) as info:
        run(simulator, fault=3, waves_on_failure=True)
    suffix = {"icarus": "fst", "verilator": "vcd"}[simulator]
    path = Path("sim_build").absolute() / f"toy-bench_toy-{simulator}-1" / f"waves.{suffix}"
    assert path.stat().st_size > 0
    assert f"waveform: gtkwave {path}" in str(info.value)
    assert f"gtkwave {path}" in capfd.readouterr().err


def test_no_results_are_a_failure(run):
    with pytest.raises(BenchFailure, match="ended without results"):
        run("icarus", tests="dies", env={"TOY_DIE": "1"})


def test_no_tests_are_a_failure(run):
    with pytest.raises(BenchFailure, match="no test ran"):
        run("icarus", tests="there_is_none")


def test_a_missing_bench_is_a_failure(run):
    with pytest.raises(BenchFailure):
        run("icarus", tests=None, bench_dir=HERE.parent)


def test_a_hanging_run_ends_at_the_time_out(run):
    with pytest.raises(BenchFailure, match="time-out of 3 s"):
        run("icarus", tests="hangs", env={"TOY_HANG": "1"}, timeout_s=3)


@SIMULATORS
def test_verilog_that_does_not_compile(monkeypatch, tmp_path, simulator):
    monkeypatch.setenv("INTAGLIO_CACHE", str(tmp_path))
    bad = tmp_path / "bad.v"
    bad.write_text("module bad(input clk);\n  assign nothing = ;\nendmodule\n")
    with pytest.raises(IntaglioError, match=r"failed: .*bad\.v"):
        run_verilog(
            sources=[bad], toplevel="bad", bench="bench_toy", simulator=simulator, label="bad"
        )


def test_missing_simulators_are_named(monkeypatch):
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    for find in (toolchain.find_icarus, toolchain.find_verilator):
        monkeypatch.setattr(toolchain, find.__name__, find.__wrapped__)
    with pytest.raises(IntaglioError, match="iverilog.* is not on PATH: run scripts/setup"):
        toolchain.require("icarus")
    with pytest.raises(IntaglioError, match="needs perl, which is not on PATH"):
        toolchain.require("verilator")
    with pytest.raises(IntaglioError, match="simulator 'questa' is not one of icarus, verilator"):
        toolchain.require("questa")
