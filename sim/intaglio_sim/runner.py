"""Runs cocotb test benches on components: elaborate, compile (cached), simulate, check the results.

A run fails when a test fails, when the results file is missing, when no test ran, or at the
time-out. A failing run is repeated with a waveform; its path and the command that opens it stand
in the error.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import atomic_write
from intaglio_sim import toolchain
from intaglio_sim.toolchain import cache_dir

__all__ = [
    "BenchFailure",
    "BenchResult",
    "bench_config",
    "config_environment",
    "run_bench",
    "run_verilog",
    "to_verilog",
]

#: Variables through which :func:`run_bench` talks to the bench.
CONFIG_VARIABLE = "INTAGLIO_BENCH_CONFIG"
#: Lines of the log that an error shows.
LOG_TAIL = 60


class BenchFailure(AssertionError):
    """A bench failed.

    The text has the failing tests, the command that opens the waveform, and the end of the log.
    """


@dataclass(frozen=True)
class BenchResult:
    """What a passing run reports: ``tests`` that ran, by name, and the simulator's ``log``."""

    tests: tuple[str, ...]
    log: str


def bench_config() -> AcceleratorConfig:
    """Return the configuration that was given to :func:`run_bench`; for use inside a bench."""
    return AcceleratorConfig(**json.loads(os.environ[CONFIG_VARIABLE]))


def config_environment(config: AcceleratorConfig) -> dict[str, str]:
    """Return the variables with which :func:`bench_config` finds ``config`` in the bench."""
    return {CONFIG_VARIABLE: json.dumps(dataclasses.asdict(config))}


def to_verilog(component, *, name: str = "dut") -> str:
    """Return ``component`` as Verilog with the top module ``name``.

    Ports follow the component's signature, ``a.b.c`` becoming ``a__b__c``; a structured payload is
    one vector. ``clk`` and ``rst`` are added when the component has registers. Conversions are
    cached by the digest of the RTLIL.
    """
    from amaranth.back import verilog

    from intaglio_hw.elaborate import component_rtlil, start_processes

    text = component_rtlil(component, name=name)
    target = cache_dir() / "rtl" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}-1.v"
    if target.is_file():
        return target.read_text(encoding="utf-8")
    result = start_processes(verilog._convert_rtlil_text(text, strip_internal_attrs=True))
    with atomic_write(target, "w") as file:
        file.write(f"`timescale {toolchain.TIMESCALE}\n{result}")
    return target.read_text(encoding="utf-8")


def run_bench(
    component,
    bench: str,
    *,
    simulator: str,
    config: AcceleratorConfig | None = None,
    seed: int = 1,
    env: Mapping[str, object] | None = None,
    timeout_s: float = 600,
    tests: str | None = None,
    bench_dir: Path | str | None = None,
    optimize: str = "-O1",
) -> BenchResult:
    """Run the cocotb tests of the module ``bench`` on an Amaranth ``component``.

    Parameters
    ----------
    component
        A ``wiring.Component``; the bench sees it as ``dut``, with the ports that
        :func:`to_verilog` describes.
    bench
        Module name; looked for in ``bench_dir``, by default the folder of the calling file.
    simulator
        ``"icarus"`` or ``"verilator"``.
    config
        For :func:`bench_config` in the bench.
    seed
        ``cocotb.RANDOM_SEED`` in the bench.
    env
        More variables for the bench; values are written with ``str``.
    timeout_s
        Seconds of wall time, compilation not counted.
    tests
        Regular expression: only the tests whose name it matches.

    Raises
    ------
    BenchFailure
        A test failed, none ran, there are no results, or the time is up.
    IntaglioError
        The simulator is missing, or the Verilog does not compile.
    """
    toolchain.require(simulator)
    if bench_dir is None:
        bench_dir = Path(sys._getframe(1).f_globals["__file__"]).parent
    text = to_verilog(component)
    source = cache_dir() / "rtl" / f"dut-{hashlib.sha256(text.encode()).hexdigest()[:24]}" / "dut.v"
    if not source.is_file():
        with atomic_write(source, "w") as file:
            file.write(text)
    variables = {key: str(value) for key, value in (env or {}).items()}
    if config is not None:
        variables |= config_environment(config)
    label = type(component).__name__ + (f"-{config.name}" if config is not None else "")
    return run_verilog(
        sources=[source],
        toplevel="dut",
        bench=bench,
        simulator=simulator,
        label=label,
        seed=seed,
        env=variables,
        timeout_s=timeout_s,
        tests=tests,
        bench_dir=bench_dir,
        optimize=optimize,
    )


def run_verilog(
    *,
    sources: Sequence[Path],
    toplevel: str,
    bench: str,
    simulator: str,
    label: str,
    seed: int = 1,
    env: Mapping[str, str] | None = None,
    plusargs: Sequence[str] = (),
    parameters: Mapping[str, int] | None = None,
    timeout_s: float = 600,
    tests: str | None = None,
    bench_dir: Path | str | None = None,
    optimize: str = "-O1",
    timing: bool = False,
    waves: Path | None = None,
    waves_on_failure: bool = True,
) -> BenchResult:
    """Run the cocotb tests of ``bench`` on Verilog files; :func:`run_bench` describes the rest.

    ``label`` names the folder ``sim_build/LABEL-BENCH-SIMULATOR-SEED`` that a failing run leaves in
    the current folder, with the log, the results and the waveform. A passing run leaves nothing but
    the waveform at ``waves``, if given, with the suffix ``.fst`` (Icarus) or ``.vcd`` (Verilator).
    """
    toolchain.require(simulator)
    arguments = {
        "sources": [Path(source).absolute() for source in sources],
        "toplevel": toplevel,
        "parameters": parameters,
        "simulator": simulator,
        "bench": bench,
        "bench_dir": None if bench_dir is None else Path(bench_dir).absolute(),
        "seed": seed,
        "env": dict(env or {}),
        "plusargs": list(plusargs),
        "tests": tests,
        "optimize": optimize,
        "timing": timing,
        "timeout_s": timeout_s,
    }
    with tempfile.TemporaryDirectory(prefix="intaglio-sim-") as folder:
        run = Path(folder)
        names, failures = _simulate(**arguments, run=run, waves=waves is not None)
        log = (run / "sim.log").read_text(encoding="utf-8", errors="replace")
        if waves is not None:
            for recorded in (run / "waves.fst", run / "waves.vcd"):
                if recorded.is_file():
                    waves.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(recorded, waves.with_suffix(recorded.suffix))
        if not failures:
            return BenchResult(tuple(names), log)
    kept = Path("sim_build").absolute() / re.sub(
        r"[^\w.-]", "_", f"{label}-{bench}-{simulator}-{seed}"
    )
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    (kept / "first.log").write_text(log, encoding="utf-8")
    text = [f"{bench} on {label} in {simulator}, seed {seed}: {failures[0]}", *failures[1:5]]
    if len(failures) > 5:
        text.append(f"and {len(failures) - 5} more failures")
    text.append(f"log: {kept / 'first.log'}")
    if waves_on_failure:
        try:
            # Only the first test that failed: a test does not depend on the others.
            first = re.match(rf"{re.escape(bench)}\S*(?=: )", failures[0])
            if first:
                arguments["tests"] = f"^{re.escape(first[0])}$"
            _, again = _simulate(**arguments, run=kept, waves=True)
        except IntaglioError as error:
            again = [str(error)]
        found = [path for path in (kept / "waves.fst", kept / "waves.vcd") if path.is_file()]
        text.append(
            f"waveform: gtkwave {found[0]}"
            if found
            else f"no waveform: {again[0] if again else '?'}"
        )
        if not again:
            text.append("the run that recorded the waveform PASSED: the bench is not reproducible")
    text += ["--- end of the log", *log.splitlines()[-LOG_TAIL:]]
    print("\n".join(text[: text.index("--- end of the log")]), file=sys.stderr)
    raise BenchFailure("\n".join(text))


def _simulate(
    *,
    sources,
    toplevel,
    parameters,
    simulator,
    bench,
    bench_dir,
    seed,
    env,
    plusargs,
    tests,
    optimize,
    timing,
    timeout_s,
    run: Path,
    waves: bool,
) -> tuple[list[str], list[str]]:
    """Compile and run once in the folder ``run``; return the names of the tests and what failed."""
    import cocotb_tools.config
    import find_libpython

    if simulator == "icarus":
        image = toolchain.compile_icarus(
            sources=sources, toplevel=toplevel, parameters=parameters, waves=waves
        )
        vpi = cocotb_tools.config.lib_entry("vpi", "icarus")
        command = [toolchain.find_icarus()[1], "-n", "-m", vpi, image, "-fst" if waves else "-none"]
        command += [f"+waves={run / 'waves.fst'}"] if waves else []
    else:
        image = toolchain.compile_verilator(
            sources=sources,
            toplevel=toplevel,
            parameters=parameters,
            waves=waves,
            timing=timing,
            optimize=optimize,
        )
        command = [image, *(["--trace", "--trace-file", run / "waves.vcd"] if waves else [])]
    command += plusargs
    libpython = find_libpython.find_libpython()
    if libpython is None:
        raise IntaglioError("cocotb needs the shared libpython of this Python, which was not found")
    results = run / "results.xml"
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [*([str(bench_dir)] if bench_dir else []), *filter(None, sys.path)]
        ),
        "PYGPI_PYTHON_BIN": sys.executable,
        "GPI_USERS": ";".join([libpython, cocotb_tools.config.pygpi_entry_point()]),
        "PATH": os.pathsep.join([os.environ.get("PATH", ""), str(cocotb_tools.config.libs_dir)]),
        "COCOTB_TOPLEVEL": toplevel,
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_TEST_MODULES": bench,
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_RESULTS_FILE": str(results),
        "COCOTB_ANSI_OUTPUT": "0",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **env,
    }
    if simulator == "verilator":
        variables.setdefault("COCOTB_TRUST_INERTIAL_WRITES", "1")
    if tests is not None:
        variables["COCOTB_TEST_FILTER"] = tests
    for name in ("PYTEST_CURRENT_TEST", "COCOTB_TEST_FILTER" if tests is None else ""):
        variables.pop(name, None)
    status = toolchain.run_process(
        command, cwd=run, log=run / "sim.log", env=variables, timeout_s=timeout_s
    )
    names, failures = _read_results(results)
    if status is None:
        failures.insert(0, f"stopped at the time-out of {timeout_s} s")
    elif status != 0 and not failures:
        failures.append(f"the simulator ended with status {status}")
    return names, failures


def _read_results(path: Path) -> tuple[list[str], list[str]]:
    """Return the tests in cocotb's results file and the failures; no file, no test are failures."""
    if not path.is_file():
        return [], ["the simulation ended without results"]
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        return [], [f"broken results: {error}"]
    names: list[str] = []
    failures: list[str] = []
    for case in root.iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("skipped") is not None:
            continue
        names.append(name)
        for kind in ("failure", "error"):
            bad = case.find(kind)
            if bad is not None:
                message = (
                    bad.get("error_msg")
                    or bad.get("message")
                    or (bad.text or "").strip()
                    or "no message"
                )
                failures.append(f"{name}: {message[:1000]}")
    if not names:
        failures.append("no test ran")
    return names, failures
