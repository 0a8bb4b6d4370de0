"""``intaglio fuzz``: random networks, on the RTL or on the software executors alone."""

from collections import Counter
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
)
from intaglio.spec.errors import IntaglioError

__all__ = ["fuzz_command"]

_SIMULATORS = ("verilator", "icarus")
_SOFTWARE = ("spec", "onnx", "golden")


@result_command("fuzz")
@click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="Cases.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first.")
@click.option(
    "--on",
    "executors",
    default="verilator,icarus",
    show_default=True,
    metavar="A,B,...",
    help="Simulators that share the cases, or spec, onnx, golden on the same ones without RTL.",
)
@hardware_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the shrunk failures and the table coverage.md.",
)
def fuzz_command(
    count: int,
    seed: int,
    executors: str,
    board: str | None,
    config: str | None,
    out: Path | None,
) -> Outcome:
    """Draw random networks, configurations and memories, and compare every byte.

    A case on a simulator is compared with the golden machine, and that with the definition; a
    failure is shrunk to the smallest case that still fails. Case number i depends on --seed + i
    alone. Exit status 1 when a byte differs.
    """
    names = [name.strip() for name in executors.split(",") if name.strip()]
    for name in names:
        if name not in (*_SIMULATORS, *_SOFTWARE):
            raise IntaglioError(
                f"fuzz runs on {', '.join((*_SIMULATORS, *_SOFTWARE))}, not on {name!r}"
            )
    chosen = None if board is None and config is None else select_config(board, config)
    simulators = [name for name in names if name in _SIMULATORS]
    if not simulators:
        return _software(count, seed, names, chosen or select_config(None, None, "tiny-8x8"))
    if len(simulators) < len(names):
        raise IntaglioError(
            "the graph and the golden machine take part in every case on a simulator: name "
            "simulators, or software executors, not both"
        )
    return _hardware(count, seed, simulators, chosen, out)


def _hardware(
    count: int, seed: int, simulators: list[str], machine: Any, out: Path | None
) -> Outcome:
    from intaglio.spec.files import atomic_write
    from intaglio_sim.fuzz import FUZZ_CONFIGS, fuzz

    if machine is not None and FUZZ_CONFIGS.get(machine.name) != machine:
        raise IntaglioError(f"fuzz draws from {', '.join(FUZZ_CONFIGS)}, not from a file")
    campaign = fuzz(
        count,
        seed=seed,
        simulators=simulators,
        configs=None if machine is None else [machine.name],
        cases_dir=out,
        progress=progress,
    )
    if out is not None:
        with atomic_write(out / "coverage.md", "w") as file:
            file.write(campaign.coverage.markdown())
    holes = campaign.coverage.holes()
    failed = len(campaign.failures)
    return Outcome(
        data={
            "cases": count,
            "mismatches": failed,
            "bytes_compared": campaign.compared,
            "coverage": campaign.coverage.to_json(),
            "holes": holes,
            "failures": campaign.failures,
            "executors": ["spec", "golden", *simulators],
            "configs": dict(campaign.configs),
            "refused": campaign.refused,
            "worst_cycle_error": campaign.worst_cycles,
        },
        lines=[f"{entry['case']}: {entry['first_mismatch']}" for entry in campaign.failures],
        summary=f"{count} cases on {', '.join(simulators)}: {failed} failures, "
        f"{campaign.compared:,} bytes compared, cycle model within "
        f"{100 * campaign.worst_cycles:.2f} %, {len(holes)} holes in the coverage",
        status=1 if failed else 0,
    )


def _software(count: int, seed: int, names: list[str], machine: Any) -> Outcome:
    from intaglio_sim.executors import Network
    from intaglio_sim.random_graph import random_graph, random_input
    from intaglio_sim.verify import verify

    covered: Counter[str] = Counter()
    mismatches = compared = 0
    failures = []
    for number in range(count):
        key = seed + number
        graph = random_graph(key)
        result = verify(Network(graph=graph, config=machine), [random_input(graph, key)[0]], names)
        compared += result.bytes_compared
        covered.update(node.op for node in graph.nodes)
        if result.mismatches:
            mismatches += result.mismatches
            failures.append({"seed": key, "first_mismatch": result.first_mismatch})
            progress(f"seed {key}: {result.first_mismatch}")
        progress(f"{number + 1} of {count}: {len(graph.nodes)} layers, {mismatches} mismatches")
    rows: list[list[Any]] = [["operation", "layers"]]
    rows += [[name, layers] for name, layers in sorted(covered.items())]
    return Outcome(
        data={
            "cases": count,
            "mismatches": mismatches,
            "bytes_compared": compared,
            "coverage": dict(sorted(covered.items())),
            "failures": failures,
            "executors": names,
            "config": machine.name,
        },
        lines=table(rows, right=(1,)),
        summary=f"{count} networks on {', '.join(names)} for {machine.name}: {mismatches:,} "
        f"mismatches in {compared:,} bytes",
        status=1 if mismatches else 0,
    )
