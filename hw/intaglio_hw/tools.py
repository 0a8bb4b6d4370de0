"""Runs the tools of the FPGA flow, each in a process of its own, with progress and a time limit."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from intaglio.spec.errors import IntaglioError
from intaglio_hw.families import Router

__all__ = ["Progress", "require_router", "run_router", "run_yosys", "tool_failure"]

Progress = Callable[[str], None]
#: Seconds between two looks at the log.
_POLL_SECONDS = 0.2
#: Seconds of silence after which the last milestone is told again.
_SILENCE_SECONDS = 60


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM leave the block as an exception: a tool must not go on when nobody waits for it.

    In threads other than the main one, signals are not caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(
    command: Sequence[str],
    *,
    name: str,
    log: Path,
    milestone: re.Pattern[str],
    progress: Progress | None,
    limit_s: float,
) -> int:
    """Run ``command`` in the folder of ``log``; report the lines that ``milestone`` finds, and the
    last one again, with the seconds so far, while nothing else happens.
    """
    begin = told = time.monotonic()
    stage = name
    with _terminable(), open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT)
        try:
            with open(log, encoding="utf-8", errors="replace") as lines:
                while True:
                    ended = process.poll() is not None
                    for line in lines:
                        found = milestone.search(line)
                        if found and progress is not None:
                            stage, told = found.group(1).strip(), time.monotonic()
                            progress(stage)
                    if ended:
                        break
                    now = time.monotonic()
                    if progress is not None and now - told > _SILENCE_SECONDS:
                        progress(f"{stage} (after {now - begin:.0f} s of {name})")
                        told = now
                    if now - begin > limit_s:
                        raise IntaglioError(f"{name} took longer than {limit_s:.0f} s")
                    time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return process.returncode


def tool_failure(tool: str, status: int, log: Path) -> IntaglioError:
    """Return the error for a tool that ended badly, with its message; its log is kept."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in text if re.match(r"(ERROR|Assertion|.*\bassertion failure)", line)]
    errors = errors or [line for line in text if line.strip()][-1:]
    kept = Path(tempfile.mkdtemp(prefix="intaglio-synth-")) / log.name
    shutil.copy(log, kept)
    return IntaglioError(
        f"{tool} failed (status {status}): {errors[0].strip() if errors else 'no message'} "
        f"(all of it in {kept})"
    )


def run_yosys(
    steps: Sequence[str],
    *,
    work: Path,
    results: Sequence[str],
    progress: Progress | None = None,
    limit_s: float = 1800,
) -> None:
    """Run the commands ``steps`` of yosys in the folder ``work``.

    Parameters
    ----------
    results
        Files in ``work`` that must be there afterwards.
    progress
        Called with the name of each pass.

    Raises
    ------
    IntaglioError
        yosys is not installed, failed, left a result out, or took longer than ``limit_s`` seconds.
    """
    if find_spec("pyosys") is None:
        raise IntaglioError("yosys is not installed: pip install 'intaglio[fpga]'")
    (work / "synth.ys").write_text("\n".join(steps) + "\n", encoding="utf-8")
    code = "from pyosys import libyosys as ys; ys.run_pass('script synth.ys')"
    status = _run(
        [sys.executable, "-c", code],
        name="yosys",
        log=work / "yosys.log",
        milestone=re.compile(r"^\d+(?:\.\d+)?\. Executing (.*?)(?: \(.*)?\.?$"),
        progress=progress,
        limit_s=limit_s,
    )
    if status != 0 or not all((work / name).is_file() for name in results):
        raise tool_failure("yosys", status, work / "yosys.log")


def require_router(router: Router) -> None:
    """Raise IntaglioError with the package to install if ``router`` is missing."""
    if find_spec(router.module) is None:
        raise IntaglioError(f"{router.name} is not installed: pip install {router.package}")


def run_router(
    router: Router,
    arguments: Sequence[str],
    *,
    work: Path,
    results: Sequence[str],
    progress: Progress | None = None,
    limit_s: float = 3600,
) -> None:
    """Run ``router`` in the folder ``work``; ``results`` must be there afterwards.

    Raises
    ------
    IntaglioError
        It is not installed, failed, or took longer than ``limit_s`` seconds.
    """
    require_router(router)
    code = f"import {router.module} as tool; tool.{router.call}()"
    status = _run(
        [sys.executable, "-c", code, *arguments],
        name=router.name,
        log=work / "nextpnr.log",
        milestone=re.compile(
            r"^Info: +((?:Packing|Running|Routing|Creating|Promoting|iter=\d+ wires=).*?)\.*$"
        ),
        progress=progress,
        limit_s=limit_s,
    )
    if status != 0 or not all((work / name).is_file() for name in results):
        raise tool_failure(router.name, status, work / "nextpnr.log")
