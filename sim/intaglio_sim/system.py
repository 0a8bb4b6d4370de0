"""Runs whole programs on the simulated accelerator: registers, memory, interrupt, counters."""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import intaglio.spec
import intaglio_hw
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import INSTRUCTION_BYTES, Error, Unit
from intaglio.spec.memory import MEMORY_LATENCY
from intaglio_sim import runner, toolchain
from intaglio_sim.bench_system import JOB_VARIABLE
from intaglio_sim.diff import Region, compare_memories
from intaglio_sim.driver import Outcome

__all__ = ["RunResult", "TraceEvent", "accelerator_verilog", "check_memory", "run_program"]

VERILOG = Path(__file__).parent / "verilog"
#: Beats of the smallest memory array; larger ones are powers of two. One build serves many
#: programs.
SMALLEST_BEATS = {"icarus": 1 << 15, "verilator": 1 << 20}
#: Cycles from line to line of the progress, minus one; seconds between two looks at them.
PROGRESS_MASK = {"icarus": (1 << 10) - 1, "verilator": (1 << 16) - 1}
PROGRESS_SECONDS = 10.0
#: A memory larger than this has 32-bit offsets no more.
LARGEST_BYTES = 1 << 31


@dataclass(frozen=True)
class TraceEvent:
    """A unit began or finished an instruction.

    ``cycle`` counts from the answer to the write that started the machine; ``kind`` is ``"start"``
    or ``"done"``; ``index`` is the instruction's place in the program.
    """

    cycle: int
    kind: str
    unit: Unit
    index: int


@dataclass(frozen=True, kw_only=True)
class RunResult(Outcome):
    """How a program ended, and what it left: ``memory`` (uint8) and ``trace`` (if asked for)."""

    memory: np.ndarray
    trace: tuple[TraceEvent, ...] = ()


def _sources_digest() -> str:
    """Return a digest of everything that the Verilog of a configuration depends on."""
    total = hashlib.sha256()
    for package in (intaglio_hw, intaglio.spec):
        root = Path(next(iter(package.__path__)))
        for path in sorted(root.rglob("*.py")):
            total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def accelerator_verilog(config: AcceleratorConfig) -> Path:
    """Return the path of ``accelerator.v`` for ``config``, elaborated when something changed."""
    from intaglio_hw.elaborate import write_verilog

    key = hashlib.sha256(f"{config.to_json()} {_sources_digest()}".encode()).hexdigest()[:24]
    path = toolchain.cache_dir() / "rtl" / f"accelerator-{key}" / "accelerator.v"
    if not path.is_file():
        write_verilog(config, path)
    return path


def _write_image(path: Path, memory: np.ndarray, beat: int) -> None:
    """Write ``memory`` for $readmemh: one beat in a line, its highest byte first."""
    beats = memory.reshape(-1, beat)[:, ::-1]
    digits = np.frombuffer(beats.tobytes().hex().encode(), np.uint8).reshape(len(beats), 2 * beat)
    lines = np.concatenate([digits, np.full((len(beats), 1), ord("\n"), np.uint8)], axis=1)
    path.write_bytes(lines.tobytes())


def _read_image(path: Path, length: int, beat: int) -> np.ndarray:
    """Return the ``length`` bytes that $writememh wrote.

    Raises
    ------
    IntaglioError
        A byte is unknown (x), or the file is too short.
    """
    text = path.read_text(encoding="ascii")
    lines = [line for line in text.split() if not line.startswith(("//", "@", "0x"))]
    if len(lines) != length // beat:
        raise IntaglioError(f"the simulation left {len(lines)} beats instead of {length // beat}")
    digits = "".join(lines)
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        bad = next(i for i, line in enumerate(lines) if set(line.lower()) & set("xz"))
        raise IntaglioError(
            f"memory at offset {bad * beat:#x} is unknown after the run: {lines[bad]}"
        ) from None
    return np.frombuffer(data, np.uint8).reshape(-1, beat)[:, ::-1].reshape(-1).copy()


def _read_trace(path: Path) -> tuple[TraceEvent, ...]:
    """Return the events in a trace file, relative to the start of the program."""
    origin, events = 0, []
    for line in path.read_text(encoding="ascii").splitlines():
        cycle, kind, *rest = line.split()
        if kind == "control":
            origin = int(cycle)
        else:
            events.append((int(cycle), kind, Unit(int(rest[0])), int(rest[1])))
    return tuple(
        TraceEvent(cycle - origin, kind, unit, index) for cycle, kind, unit, index in events
    )


@contextlib.contextmanager
def _watched(path: Path, report: Callable[[int, int], None]) -> Iterator[None]:
    """Report the last cycle and instruction in a growing progress file: now and then, and at the
    end.
    """
    ended = threading.Event()

    def watch() -> None:
        over = False
        while not over:
            over = ended.wait(PROGRESS_SECONDS)
            lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
            # The last line may be half written.
            if len(lines) > 1:
                cycle, index = map(int, lines[-2].split())
                report(cycle, index)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_program(
    program,
    memory: np.ndarray,
    config: AcceleratorConfig,
    simulator: str,
    *,
    circuit: Sequence[Path] | None = None,
    latency: int = MEMORY_LATENCY,
    interval: int = 1,
    stalls: int = 0,
    seed: int = 1,
    memory_base: int = 0,
    memory_bytes: int | None = None,
    bad_offset: int | None = None,
    cycle_limit: int = 0,
    deadline: int = 200_000_000,
    program_length: int | None = None,
    trace: bool = False,
    waves: Path | None = None,
    check: bool = True,
    timeout_s: float = 1800,
    optimize: str = "-O3",
    progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Run a program on the accelerator of ``config`` in a simulator.

    Parameters
    ----------
    program
        With ``instructions`` (bytes or uint8) and ``program_base``, as
        ``intaglio.spec.program.Program``.
    memory
        uint8, the image with input and program; not changed. A multiple of R bytes.
    simulator
        ``"icarus"`` or ``"verilator"``.
    circuit
        Verilog files with the module ``accelerator``, such as a netlist; the RTL by default.
    latency, interval, stalls, seed
        Of the memory: cycles to the first beat, least cycles between beats, per cent of cycles in
        which each channel pauses, and the seed of the pauses.
    memory_base
        Bus address of the memory.
    memory_bytes
        What the register says; the length of ``memory`` by default.
    bad_offset
        Offset of a beat that answers with SLVERR.
    cycle_limit
        Register of that name.
    deadline
        Cycles after which the simulation ends as a failure.
    program_length
        What the register says, by default the number of instructions.
    trace
        Record when each instruction starts and ends.
    waves
        Write a waveform to this path (``.fst`` in Icarus, ``.vcd`` in Verilator, added to the
        name).
    check
        Read identity, version and configuration first.
    timeout_s
        Seconds of wall time for the simulation.
    optimize
        Level of the C++ compiler for Verilator.
    progress
        Called every ten seconds and at the end, with the cycle and the instruction that was done
        last.

    Returns
    -------
    RunResult
        Also when the machine stopped with an error: see ``check()`` of the result.

    Raises
    ------
    IntaglioError
        No simulator, memory that does not fit, no interrupt, or unknown bytes in the memory.
    BenchFailure
        The simulation failed: time-out, or a violation of a bus protocol.
    """
    memory = np.ascontiguousarray(memory, np.uint8)
    if memory.ndim != 1 or len(memory) % config.R or not 0 < len(memory) <= LARGEST_BYTES:
        raise IntaglioError(
            f"memory must be a vector of 1 to {LARGEST_BYTES} bytes, a multiple of {config.R}, not "
            f"{memory.shape}"
        )
    toolchain.require(simulator)
    instructions = np.frombuffer(bytes(program.instructions), np.uint8)
    beats = max(SMALLEST_BEATS[simulator], 1 << (len(memory) // config.R - 1).bit_length())
    with tempfile.TemporaryDirectory(prefix="intaglio-run-") as folder:
        job_path, image = Path(folder) / "job.json", Path(folder) / "image.hex"
        dump, trace_path = Path(folder) / "dump.hex", Path(folder) / "trace.txt"
        _write_image(image, memory, config.R)
        job = {
            "config": dataclasses.asdict(config),
            "program_base": program.program_base,
            "program_length": len(instructions) // INSTRUCTION_BYTES
            if program_length is None
            else program_length,
            "memory_base": memory_base,
            "memory_bytes": len(memory) if memory_bytes is None else memory_bytes,
            "cycle_limit": cycle_limit,
            "deadline": deadline,
            "check": check,
        }
        job_path.write_text(json.dumps(job), encoding="utf-8")
        settings = {
            "image": image,
            "image_bytes": len(memory),
            "memory_base": memory_base,
            "latency": latency,
            "interval": interval,
            "stall": stalls,
            "seed": seed,
            "dump": dump,
        }
        if bad_offset is not None:
            settings["bad"] = bad_offset
        if trace:
            settings["trace"] = trace_path
        watched: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if progress is not None:
            path = Path(folder) / "progress.txt"
            settings |= {"progress": path, "progress_mask": PROGRESS_MASK[simulator]}
            watched = _watched(path, progress)
        with watched:
            runner.run_verilog(
                sources=[
                    VERILOG / "testbench.v",
                    VERILOG / "memory_model.v",
                    *(circuit or [accelerator_verilog(config)]),
                ],
                toplevel="testbench",
                parameters={"R": config.R, "BEATS": beats},
                bench="intaglio_sim.bench_system",
                simulator=simulator,
                label=f"system-{config.name}",
                seed=seed,
                env={JOB_VARIABLE: str(job_path)},
                plusargs=[f"+{key}={value}" for key, value in settings.items()],
                timeout_s=timeout_s,
                timing=True,
                optimize=optimize,
                waves=waves,
                waves_on_failure=len(instructions) <= 256 * INSTRUCTION_BYTES,
            )
        answer = json.loads(job_path.with_suffix(".answer.json").read_text(encoding="utf-8"))
        return RunResult(
            finished=answer["finished"],
            error=Error(answer["error"]),
            error_instruction=answer["error_instruction"],
            counters=answer["counters"],
            memory=_read_image(dump, len(memory), config.R),
            trace=_read_trace(trace_path) if trace else (),
        )


def check_memory(
    program,
    memory: np.ndarray,
    expected: np.ndarray,
    config: AcceleratorConfig,
    simulator: str,
    *,
    regions: Sequence[Region] = (),
    **options,
) -> RunResult:
    """Run a program that must reach ``end`` and leave the memory ``expected``.

    ``options`` as for :func:`run_program`. On a difference the run is repeated with a waveform.

    Raises
    ------
    BenchFailure
        It stopped with an error, or a byte differs: the text names the first one, and the command
        that opens the waveform.
    """
    result = run_program(program, memory, config, simulator, **options)
    mismatch = compare_memories(expected, result.memory, regions, names=("expected", simulator))
    if result.finished and mismatch is None:
        return result
    text = (
        str(mismatch)
        if result.finished
        else f"stopped with {result.error.name} at instruction {result.error_instruction}"
    )
    waves = Path("sim_build").absolute() / f"system-{config.name}-{simulator}-mismatch"
    run_program(program, memory, config, simulator, **{**options, "waves": waves})
    suffix = {"icarus": ".fst", "verilator": ".vcd"}[simulator]
    command = f"gtkwave {waves.with_suffix(suffix)}"
    raise runner.BenchFailure(f"{config.name} in {simulator}: {text}\nwaveform: {command}")
