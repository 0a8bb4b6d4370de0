"""A board in the simulator: its top with every pin, and a pseudo-terminal for its serial port."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio_sim import bench_board, runner

__all__ = ["simulated_board"]

#: Cycles of a bit: as few as the receiver allows, for the simulation's sake.
DIVISOR = 4
#: Cycles of silence after which the bridge forgets half a request: many bytes' worth.
GAP_CYCLES = 20_000
_POLL_SECONDS = 0.02


@contextlib.contextmanager
def simulated_board(
    config: AcceleratorConfig,
    *,
    memory_bytes: int,
    board: str = "ulx3s-85f",
    simulator: str = "verilator",
    timeout_s: float = 1800,
    optimize: str = "-O3",
    waves: Path | None = None,
) -> Iterator[str]:
    """Simulate the top of a board in a thread of its own; the value is the path of its port.

    Parameters
    ----------
    config
        The accelerator.
    memory_bytes
        Of the board's memory.
    board
        Name of one of :data:`~intaglio_hw.boards.bitstream.BITSTREAMS`.
    simulator
        ``"icarus"`` or ``"verilator"``.
    timeout_s
        Seconds of wall time for the whole simulation, compilation not counted.
    optimize
        Level of the C++ compiler for Verilator.

    Raises
    ------
    BenchFailure
        The simulation failed; raised at the end of the block.
    """
    from intaglio_hw.boards.bitstream import BITSTREAMS
    from intaglio_hw.boards.pll import PllSettings
    from intaglio_hw.boards.top import BoardTop

    ports = BITSTREAMS[board].ports
    top = BoardTop(
        ports=ports,
        config=config,
        memory_bytes=ports.check_memory_bytes(memory_bytes, config),
        settings=PllSettings(ports.oscillator[1], reference=1, feedback=1, output=24),
        divisor=DIVISOR,
        gap_cycles=GAP_CYCLES,
    )
    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="intaglio-board-") as name:
        folder = Path(name)

        def simulate() -> None:
            try:
                runner.run_bench(
                    top,
                    "intaglio_sim.bench_board",
                    simulator=simulator,
                    config=config,
                    env={
                        bench_board.FOLDER_VARIABLE: folder,
                        bench_board.DIVISOR_VARIABLE: DIVISOR,
                        bench_board.RELEASED_VARIABLE: ports.level("button", 0),
                    },
                    timeout_s=timeout_s,
                    optimize=optimize,
                )
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=simulate, daemon=True)
        thread.start()
        port = folder / "port"
        try:
            while not port.is_file():
                if not thread.is_alive():
                    raise failures[0] if failures else IntaglioError("the board did not start")
                time.sleep(_POLL_SECONDS)
            yield port.read_text(encoding="utf-8")
        finally:
            (folder / "stop").touch()
            thread.join()
        if failures:
            raise failures[0]
