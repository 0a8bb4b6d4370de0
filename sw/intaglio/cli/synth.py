"""``intaglio synth``: resources, clock and speed of the accelerator on a board."""

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from intaglio.cli.bitstream import bitstream_options, bitstream_outcome
from intaglio.cli.common import (
    Megahertz,
    Outcome,
    describe_error,
    hardware_options,
    progress,
    result_command,
    select_config,
    table,
    write_json,
)
from intaglio.spec.errors import IntaglioError

if TYPE_CHECKING:
    from intaglio.spec.config import AcceleratorConfig

__all__ = ["measure_board", "synth_command"]


def _route(board: Any, netlist: Path, seeds: int, frequency: float) -> list[dict[str, Any]]:
    """Place and route with each seed; a run that fails is {seed, error}."""
    from intaglio_hw.synth import place_and_route

    runs: list[dict[str, Any]] = []
    for seed in range(1, seeds + 1):
        progress(f"nextpnr: seed {seed} of {seeds}")
        try:
            run = place_and_route(
                netlist,
                family=board.family,
                device=board.device,
                package=board.package,
                speed=board.speed,
                pins=board.harness_pins(),
                seed=seed,
                frequency_mhz=frequency,
                progress=progress,
            )
        except IntaglioError as error:
            run = {"seed": seed, "fmax_mhz": None, "seconds": None, "error": str(error)}
        told = run.get("error") or f"{run['fmax_mhz']} MHz in {run['seconds']:.0f} s"
        progress(f"seed {seed}: {told}")
        runs.append(run)
    return runs


def _by_component(path: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a critical path as the components it goes through, with their delays; a component is
    named by up to two names, such as ``array.lane3``.
    """
    result: list[dict[str, Any]] = []
    for step in path:
        component = ".".join(step["cell"].split(".")[:-1][:2]) or "top"
        if not result or result[-1]["component"] != component:
            result.append({"component": component, "delay_ns": 0.0})
        result[-1]["delay_ns"] = round(result[-1]["delay_ns"] + step["delay_ns"], 3)
    return result


def _rates(config: "AcceleratorConfig", fmax_mhz: float, memory_mb_s: float) -> dict[str, Any]:
    """Return the speed of the networks, or nothing where half an installation cannot tell."""
    from intaglio.cli.throughput import network_rates

    try:
        return network_rates(config, fmax_mhz=fmax_mhz, memory_mb_s=memory_mb_s, progress=progress)
    except ModuleNotFoundError as error:
        progress(f"no images per second: {describe_error(error)}")
        return {}


def measure_board(
    name: str,
    config: "AcceleratorConfig",
    *,
    part: str | None = None,
    seeds: int = 0,
    frequency: float | None = None,
    netlist: Path | None = None,
) -> dict[str, Any]:
    """Synthesise for the board ``name``, place and route with ``seeds`` seeds.

    ``frequency``: what they aim at in MHz, the board's aim by default.

    Returns
    -------
    dict
        The JSON object of ``intaglio synth``. ``fmax_mhz`` and all that follows from it are None
        without a placement; ``error`` says why there is none although one was asked for.

    Raises
    ------
    IntaglioError
        Unknown board or part, no router for its chip, yosys failed.
    """
    from intaglio_hw.boards import load_board
    from intaglio_hw.families import FAMILY_TOOLS, too_large
    from intaglio_hw.synth import synthesize
    from intaglio_hw.tools import require_router

    board = load_board(name)
    router = FAMILY_TOOLS[board.family].router
    if seeds and router is None:
        raise IntaglioError(
            f"no open tool from pip places and routes for {name}: --seeds 0 gives its resources"
        )
    if seeds and router is not None:
        require_router(router)
    with tempfile.TemporaryDirectory(prefix="intaglio-synth-") as folder:
        path = netlist or Path(folder) / "netlist.json"
        what = f"{part} of {config.name}" if part else config.name
        progress(f"yosys: {what} for {board.description}")
        result = synthesize(
            config,
            family=board.family,
            device=board.device,
            part=part,
            netlist=path,
            progress=progress,
        )
        large = too_large(result["resources"], result["available"])
        error = f"does not fit {board.device}: {large}" if large else None
        runs = [] if large else _route(board, path, seeds, frequency or board.aim_mhz)
    routed = [run for run in runs if run["fmax_mhz"] is not None]
    if runs and not routed:
        error = runs[0]["error"]
    fmax = statistics.median(run["fmax_mhz"] for run in routed) if routed else None
    worst = min(routed, key=lambda run: abs(run["fmax_mhz"] - fmax)) if routed else None
    path_steps = worst["critical_path"] if worst else []
    rates = _rates(config, fmax, board.memory_mb_s) if fmax is not None and part is None else {}
    keys = ("seed", "fmax_mhz", "seconds", "error")
    # The products are the array's.
    products = config.macs_per_cycle if part in (None, "array") else None
    peak = None if fmax is None or products is None else 2 * products * fmax / 1000
    return {
        "board": name,
        "device": result["device"],
        "family": result["family"],
        "config": config.name,
        "config_digest": config.digest(),
        "part": part,
        "fmax_mhz": fmax,
        "seeds": [{key: run[key] for key in keys if key in run} for run in runs],
        "critical_path": _by_component(path_steps),
        "critical_cells": path_steps,
        "mac_per_cycle": products,
        "peak_gops": peak,
        "resources": result["resources"],
        "available": result["available"],
        "components": result["components"],
        "memory_mb_s": board.memory_mb_s,
        "networks": rates,
        "error": error,
        "seconds": result["seconds"],
    }


def _lines(data: dict[str, Any]) -> list[str]:
    """Return the measurement as text."""
    from intaglio_hw.families import KIND_NAMES

    kinds = [kind for kind in KIND_NAMES if kind in data["available"]]
    rows = [["component", *(KIND_NAMES[kind] for kind in kinds)]]
    rows += [
        [name, *(str(counts[kind]) for kind in kinds)]
        for name, counts in sorted(data["components"].items())
    ]
    rows.append(["all", *(str(data["resources"][kind]) for kind in kinds)])
    rows.append([f"of {data['device']}", *(str(data["available"].get(k, "")) for k in kinds)])
    lines = table(rows, right=range(1, len(kinds) + 1))
    if data["critical_path"]:
        steps = (f"{step['component']} {step['delay_ns']} ns" for step in data["critical_path"])
        lines.append(f"critical path: {', '.join(steps)}")
    for name, rate in data["networks"].items():
        size = "x".join(map(str, rate["size"]))
        if "error" in rate:
            lines.append(f"{name} at {size}: {rate['error']}")
        else:
            lines.append(
                f"{name} at {size}: {rate['images_per_s']:.4g} images per second, "
                f"{rate['sustained_gops']:.2f} GOPS, {100 * rate['array_use']:.1f} % of the array, "
                f"a beat of the memory every {rate['memory_interval']} cycles"
            )
    return lines


def _refuse_others(bitstream: bool) -> None:
    """Raise UsageError for an option that is given and would not be looked at."""
    context = click.get_current_context()
    names = ("part", "netlist", "out", "frequency") if bitstream else ("clock", "memory", "baud")
    for name in names:
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            rule = "does not go with --bitstream" if bitstream else "needs --bitstream"
            raise click.UsageError(f"--{name} {rule}")


@result_command("synth")
@hardware_options
@click.option("--part", metavar="NAME", help="One part of the accelerator alone, such as array.")
@bitstream_options
@click.option(
    "--seeds",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Placements to try; 0 synthesises only, Fmax is the median of the seeds.",
)
@click.option(
    "--frequency",
    type=Megahertz(),
    help="Aim in MHz; the board's by default.",
)
@click.option("--netlist", type=click.Path(path_type=Path), help="Keep the netlist as JSON here.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the result as JSON: a file, or a folder for synth.json (report reads it there).",
)
def synth_command(
    board: str | None,
    config: str | None,
    part: str | None,
    seeds: int,
    frequency: float | None,
    netlist: Path | None,
    out: Path | None,
    bitstream: str | None,
    clock: float | None,
    memory: int | None,
    baud: int,
) -> Outcome:
    """Synthesise the accelerator with yosys, place and route it with nextpnr.

    The board says which chip; --config replaces the board's configuration.
    """
    from intaglio_hw.boards import BOARDS, load_board
    from intaglio_hw.families import KIND_NAMES

    _refuse_others(bitstream is not None)

    if board is None:
        raise IntaglioError(f"synth needs --board; known: {', '.join(BOARDS)}")
    machine = select_config(board, config)
    if bitstream is not None:
        return bitstream_outcome(
            load_board(board),
            None if config is None else machine,
            bitstream=bitstream,
            clock=clock,
            memory=memory,
            baud=baud,
            seeds=seeds,
        )
    # What cannot be written is told before the tools run, which may take hours.
    if out is not None and (out.is_dir() or not out.suffix):
        out = out / "synth.json"
    for path in (out, netlist):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    data = measure_board(
        board, machine, part=part, seeds=seeds, frequency=frequency, netlist=netlist
    )
    if out is not None:
        write_json(out, data)
    used = ", ".join(
        f"{data['resources'][kind]} {name}"
        for kind, name in KIND_NAMES.items()
        if kind in data["available"]
    )
    fmax, failed = data["fmax_mhz"], sum("error" in run for run in data["seeds"])
    if fmax is None:
        speed = data["error"] or "no placement"
    else:
        speed = f"{fmax:.2f} MHz (median of {seeds - failed})"
    if data["peak_gops"] is not None:
        speed += f", {data['peak_gops']:.1f} GOPS peak"
    if data["mac_per_cycle"] is not None:
        used += f"; {data['mac_per_cycle']} MAC per cycle"
    what = f"{part} of {machine.name}" if part else machine.name
    return Outcome(
        data=data,
        lines=_lines(data),
        summary=f"{what} on {board}: {used}; {speed}",
        status=1 if seeds and fmax is None else 0,
    )
