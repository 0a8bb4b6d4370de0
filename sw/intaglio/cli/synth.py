"""``intaglio synth``: resources and clock of the accelerator on a chip."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import click

from intaglio.cli.common import (
    Outcome,
    hardware_options,
    progress,
    result_command,
    select_config,
    table,
    write_json,
)
from intaglio.spec.errors import IntaglioError

__all__ = ["synth_command"]

#: Resources as people call them.
_NAMES = {"lut": "LUT4", "ff": "flip-flops", "dsp": "DSP", "bram": "block RAM"}


@result_command("synth")
@hardware_options
@click.option(
    "--seeds",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Placements to try; 0 synthesises only, Fmax is the median of the seeds.",
)
@click.option("--frequency", type=float, default=100.0, show_default=True, help="Aim in MHz.")
@click.option("--netlist", type=click.Path(path_type=Path), help="Keep the netlist as JSON here.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the result as JSON: a file, or a folder for synth.json (report reads it there).",
)
def synth_command(
    board: str | None,
    config: str | None,
    seeds: int,
    frequency: float,
    netlist: Path | None,
    out: Path | None,
) -> Outcome:
    """Synthesise the accelerator with yosys, place and route it with nextpnr.

    The board says which chip; --config replaces the board's configuration.
    """
    from intaglio_hw.boards import BOARDS, load_board

    if board is None:
        raise IntaglioError(f"synth needs --board; known: {', '.join(BOARDS)}")
    chip = load_board(board)
    machine = select_config(board, config)
    from intaglio_hw.synth import place_and_route, synthesize

    with tempfile.TemporaryDirectory(prefix="intaglio-synth-") as folder:
        path = netlist or Path(folder) / "netlist.json"
        progress(f"yosys: {machine.name} for {chip.description}")
        result = synthesize(
            machine, family=chip.family, device=chip.device, netlist=path, progress=progress
        )
        runs = []
        for seed in range(1, seeds + 1):
            progress(f"nextpnr: seed {seed} of {seeds}")
            runs.append(
                place_and_route(
                    path,
                    device=chip.device,
                    package=chip.package,
                    speed=chip.speed,
                    seed=seed,
                    frequency_mhz=frequency,
                    progress=progress,
                )
            )
    fmax = statistics.median(run["fmax_mhz"] for run in runs) if runs else None
    data: dict[str, Any] = {
        "board": board,
        "device": result["device"],
        "family": result["family"],
        "config": machine.name,
        "config_digest": machine.digest(),
        "fmax_mhz": fmax,
        "seeds": [{key: run[key] for key in ("seed", "fmax_mhz", "seconds")} for run in runs],
        "mac_per_cycle": machine.macs_per_cycle,
        "peak_gops": None if fmax is None else 2 * machine.macs_per_cycle * fmax / 1000,
        "resources": result["resources"],
        "available": result["available"],
        "components": result["components"],
        "seconds": result["seconds"],
    }
    if out is not None:
        write_json(out / "synth.json" if out.is_dir() or not out.suffix else out, data)
    kinds = [kind for kind in _NAMES if kind in result["resources"]]
    rows = [["component", *(_NAMES[kind] for kind in kinds)]]
    rows += [
        [name, *(str(counts[kind]) for kind in kinds)]
        for name, counts in sorted(result["components"].items())
    ]
    rows.append(["all", *(str(result["resources"][kind]) for kind in kinds)])
    rows.append([f"of {chip.device}", *(str(result["available"].get(k, "")) for k in kinds)])
    used = ", ".join(f"{result['resources'][kind]} {_NAMES[kind]}" for kind in kinds)
    speed = "no placement" if fmax is None else f"{fmax:.1f} MHz (median of {seeds})"
    peak = "" if fmax is None else f", {data['peak_gops']:.1f} GOPS peak"
    return Outcome(
        data=data,
        lines=table(rows, right=range(1, len(kinds) + 1)),
        summary=f"{machine.name} on {board}: {used}; {speed}, "
        f"{machine.macs_per_cycle} MAC per cycle{peak}",
    )
