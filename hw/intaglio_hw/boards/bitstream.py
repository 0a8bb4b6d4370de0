"""The bitstream of a board: yosys, nextpnr and a packer on its top, all from pip."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import atomic_write, bytes_digest
from intaglio_hw.boards import Board, icebreaker, ulx3s
from intaglio_hw.boards.top import BAUD, BoardPorts, board_top
from intaglio_hw.elaborate import component_rtlil
from intaglio_hw.families import FAMILY_TOOLS, Router, count_cells, too_large
from intaglio_hw.route import prepare_netlist
from intaglio_hw.tools import Progress, require_router, run_router, run_yosys

__all__ = ["BITSTREAMS", "BitstreamSettings", "bitstream_settings", "build_bitstream"]

_TOP = "top"


@dataclass(frozen=True, kw_only=True)
class BitstreamSettings:
    """What a board's bitstream has around the accelerator, unless told otherwise.

    ``ports``, ``constraints``: of the board's top, and the text about them for nextpnr.
    ``config``: the accelerator, which leaves ``memory_bytes`` of memory, where the chip has
    ``most_bytes`` of its kind. ``frequency_mhz``: of its clock. ``suffix``: of the file.
    ``loader``: command that loads it, for people.
    """

    ports: BoardPorts
    constraints: Callable[[], str]
    config: AcceleratorConfig
    memory_bytes: int
    most_bytes: int
    frequency_mhz: float
    suffix: str
    loader: str


#: Board -> settings.
BITSTREAMS = {
    "ulx3s-85f": BitstreamSettings(
        ports=ulx3s.ULX3S,
        constraints=ulx3s.constraints,
        config=CONFIGS["compact-8x8"],
        # 144 blocks of 2 KiB of the 208, beside the 31 of the accelerator and its bridge.
        memory_bytes=288 * 1024,
        most_bytes=208 * 2048,
        frequency_mhz=50.0,
        suffix=".bit",
        loader="openFPGALoader --board ulx3s {path}",
    ),
    "icebreaker": BitstreamSettings(
        ports=icebreaker.ICEBREAKER,
        constraints=icebreaker.constraints,
        config=CONFIGS["tight-8x1"],
        memory_bytes=128 * 1024,  # all of the single-port RAM
        most_bytes=128 * 1024,
        frequency_mhz=30.0,
        suffix=".bin",
        # The name of the iCEBreaker there; into the flash, from which the FPGA then starts.
        loader="openFPGALoader --board ice40_generic {path}",
    ),
}


def bitstream_settings(board: Board) -> BitstreamSettings:
    """Return what the bitstream of ``board`` has; IntaglioError if there is none for it."""
    if board.name not in BITSTREAMS:
        raise IntaglioError(
            f"there is no bitstream for {board.name}, only for {', '.join(BITSTREAMS)}"
        )
    return BITSTREAMS[board.name]


@dataclass(frozen=True, kw_only=True)
class _Packer:
    """How a family gets from nextpnr to a bitstream: all names are of files in the work folder.

    ``constraints``: of nextpnr, after the option ``pins``. ``options``: others of nextpnr.
    ``routed``: what it makes, after the option ``output``. ``name``, ``call``: of the packer in the
    router's package; ``pack``: its arguments, which make ``chip.bit``.
    """

    constraints: str
    pins: str
    options: Sequence[str]
    output: str
    routed: str
    name: str
    call: str
    pack: Sequence[str]


_PACKERS = {
    "ecp5": _Packer(
        constraints="pins.lpf",
        pins="--lpf",
        # Router 1, the default, stood still on this chip full of block RAM (docs/decisions/0023).
        options=("--router", "router2"),
        output="--textcfg",
        routed="chip.config",
        name="ecppack",
        call="_run_ecppack_argv",
        pack=("--compress", "chip.config", "--bit", "chip.bit"),
    ),
    "ice40": _Packer(
        constraints="pins.pcf",
        pins="--pcf",
        options=(),
        output="--asc",
        routed="chip.asc",
        name="icepack",
        call="_run_icepack_argv",
        pack=("chip.asc", "chip.bit"),
    ),
}


def _synthesize(
    text: str, board: Board, work: Path, progress: Progress | None, limit_s: float
) -> dict[str, int]:
    """Make ``netlist.json`` of the RTLIL ``text``; return cell -> number."""
    (work / "top.il").write_text(text, encoding="utf-8")
    tools = FAMILY_TOOLS[board.family]
    run_yosys(
        [
            f"read_verilog -lib {tools.libraries}",
            "read_rtlil top.il",
            f"hierarchy -check -top {_TOP}",
            *tools.synthesize(_TOP),
            "check -assert",
            "tee -q -o stat.json stat -json",
            "write_json netlist.json",
        ],
        work=work,
        results=["netlist.json", "stat.json"],
        progress=progress,
        limit_s=limit_s,
    )
    netlist = work / "netlist.json"
    netlist.write_bytes(prepare_netlist(netlist.read_bytes(), board.family, board.device))
    stat = json.loads((work / "stat.json").read_text(encoding="utf-8"))
    return dict(stat["design"]["num_cells_by_type"])


def _route(
    board: Board, router: Router, work: Path, seed: int, progress: Progress | None, limit_s: float
) -> dict[str, float]:
    """Make what the packer reads; return clock -> reached MHz."""
    packer = _PACKERS[board.family]
    arguments = [f"--{board.device}", "--package", board.package]
    arguments += [] if board.speed is None else ["--speed", str(board.speed)]
    arguments += ["--seed", str(seed), "--json", "netlist.json", packer.pins, packer.constraints]
    arguments += [*packer.options, packer.output, packer.routed]
    # A clock that is missed is told below, with its name.
    arguments += ["--report", "report.json", "--timing-allow-fail"]
    run_router(
        router,
        arguments,
        work=work,
        results=["report.json", packer.routed],
        progress=progress,
        limit_s=limit_s,
    )
    report = json.loads((work / "report.json").read_text(encoding="utf-8"))
    return {name: round(entry["achieved"], 2) for name, entry in report["fmax"].items()}


def _pack(family: str, router: Router, work: Path, limit_s: float) -> bytes:
    """Return the bitstream of what was routed; the packer comes in the router's package."""
    packer = _PACKERS[family]
    program = replace(router, name=packer.name, call=packer.call)
    run_router(program, packer.pack, work=work, results=["chip.bit"], limit_s=limit_s)
    return (work / "chip.bit").read_bytes()


def build_bitstream(
    board: Board,
    path: str | Path,
    *,
    config: AcceleratorConfig | None = None,
    memory_bytes: int | None = None,
    frequency_mhz: float | None = None,
    baud: int = BAUD,
    seeds: int = 4,
    progress: Progress | None = None,
    limit_s: float = 7200,
) -> dict:
    """Build the bitstream of ``board`` and write it to ``path``.

    Parameters
    ----------
    config, memory_bytes, frequency_mhz
        Accelerator, memory and clock; those of :data:`BITSTREAMS` by default.
    baud
        Bits per second of the serial line.
    seeds
        Placements to try until one reaches the clock.
    progress
        Called with the name of each step.
    limit_s
        Seconds after which a tool is given up.

    Returns
    -------
    dict
        ``bitstream`` (path), ``bytes``, ``digest``, ``board``, ``config``, ``memory_bytes``,
        ``baud``, ``frequency_mhz`` (of the PLL), ``fmax_mhz`` (reached, at least that), ``seed``,
        ``cells`` (name -> number), ``loader`` (the command that loads it), ``seconds``.

    Raises
    ------
    IntaglioError
        A board without a top; settings that cannot be; a tool failed; no placement reached the
        clock.
    """
    settings, tools = bitstream_settings(board), FAMILY_TOOLS[board.family]
    router, available = tools.router, tools.devices[board.device]
    assert router is not None, "a board with a bitstream has a router"
    require_router(router)
    say = progress or (lambda text: None)
    begin = time.monotonic()
    path, config = Path(path), config or settings.config
    memory_bytes = settings.memory_bytes if memory_bytes is None else memory_bytes
    if memory_bytes > settings.most_bytes:
        raise IntaglioError(
            f"{board.name} has {settings.most_bytes // 1024} KiB of memory in all, not "
            f"{memory_bytes // 1024}: ask for less with --memory"
        )
    try:
        top = board_top(
            settings.ports,
            config,
            memory_bytes=memory_bytes,
            frequency_mhz=frequency_mhz or settings.frequency_mhz,
            baud=baud,
        )
    except ValueError as error:
        raise IntaglioError(f"{board.name}: {error}") from error
    aim = top.settings.mhz
    with tempfile.TemporaryDirectory(prefix="intaglio-bitstream-") as folder:
        work = Path(folder)
        say(f"elaborating {config.name} with {memory_bytes // 1024} KiB of memory, {aim:g} MHz")
        constraints = settings.constraints()
        (work / _PACKERS[board.family].constraints).write_text(constraints, encoding="utf-8")
        text = component_rtlil(top, name=_TOP)
        say("yosys")
        cells = _synthesize(text, board, work, progress, limit_s)
        large = too_large(count_cells(board.family, cells), available)
        if large:
            raise IntaglioError(
                f"{config.name} with {memory_bytes // 1024} KiB of memory does not fit "
                f"{board.name}: {large}; --memory and --config ask for less"
            )
        reached: list[float] = []
        for seed in range(1, seeds + 1):
            say(f"nextpnr: seed {seed} of at most {seeds}")
            clocks = _route(board, router, work, seed, progress, limit_s)
            (fmax,) = (mhz for name, mhz in clocks.items() if not name.endswith("oscillator"))
            reached.append(fmax)
            if fmax >= aim:
                break
            say(f"seed {seed} reaches {fmax} MHz, {aim:g} are needed")
        else:
            raise IntaglioError(
                f"no placement of {seeds} reached {aim:g} MHz, the best {max(reached)}: ask for "
                f"less with --clock"
            )
        say(_PACKERS[board.family].name)
        data = _pack(board.family, router, work, limit_s)
    with atomic_write(path, "wb") as file:
        file.write(data)
    return {
        "bitstream": str(path),
        "bytes": len(data),
        "digest": bytes_digest(data),
        "board": board.name,
        "config": config.name,
        "memory_bytes": memory_bytes,
        "baud": baud,
        "frequency_mhz": aim,
        "fmax_mhz": fmax,
        "seed": seed,
        "cells": cells,
        "loader": settings.loader.format(path=path),
        "seconds": round(time.monotonic() - begin, 1),
    }
