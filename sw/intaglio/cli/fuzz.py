"""``intaglio fuzz``: random networks, and programs with flipped bits, on several executors."""

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

SIMULATORS = ("verilator", "icarus")


@result_command("fuzz")
@click.option("--count", type=click.IntRange(1), help="Random networks.  [20]")
@click.option("--programs", type=click.IntRange(1), help="Programs with flipped bits, instead.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first.")
@click.option(
    "--on",
    "executors",
    default=",".join(SIMULATORS),
    show_default=True,
    metavar="A,B,...",
    help="Simulators that share the count, against graph and golden machine. With spec, torch, "
    "onnx or golden among them: executors, which are compared with the first.",
)
@hardware_options
@click.option(
    "--stalls", type=click.IntRange(0, 90), default=0, help="Executors: pauses, per cent."
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, help="Simulations at a time.")
@click.option("--table", "page", type=click.Path(path_type=Path), help="Write the coverage here.")
@click.option(
    "--cases",
    type=click.Path(path_type=Path),
    default=Path("tests/rtl/cases"),
    show_default=True,
    help="Folder for the cases that fail, shrunk.",
)
def fuzz_command(
    count: int | None,
    programs: int | None,
    seed: int,
    executors: str,
    board: str | None,
    config: str | None,
    stalls: int,
    jobs: int,
    page: Path | None,
    cases: Path,
) -> Outcome:
    """Draw networks with random layers, shapes and parameters, and compare executors on them.

    In the simulators machine, delays and pauses of the memory are random too, every byte of the
    memory is compared with the golden machine's and the cycles with the cycle model's; what fails
    is shrunk and kept. With --programs, bits of good programs are flipped: no hang, no write
    outside of the program's regions, and the golden machine's error.

    Case number i depends on --seed + i alone, so it is repeated with --seed and --count 1. Exit
    status 1 when a byte differs.
    """
    names = [name.strip() for name in executors.split(",") if name.strip()]
    if names and set(names) <= set(SIMULATORS):
        configs = None
        if board is not None or config is not None:
            configs = [select_config(board, config).name]
        if programs:
            return _bad_programs(programs, seed, names, configs, jobs)
        return _networks(count or 20, seed, names, configs, jobs, page, cases)
    if programs or page:
        raise IntaglioError(f"--programs and --table need simulators, not {executors!r}")
    machine = select_config(board, config, default="tiny-8x8")
    return _executors(count or 20, seed, names, machine, stalls)


def _known(configs: list[str] | None) -> None:
    from intaglio_sim.fuzz import FUZZ_CONFIGS

    for name in configs or []:
        if name not in FUZZ_CONFIGS:
            raise IntaglioError(f"fuzz draws from {', '.join(FUZZ_CONFIGS)}, not {name!r}")


def _networks(
    count: int,
    seed: int,
    simulators: list[str],
    configs: list[str] | None,
    jobs: int,
    page: Path | None,
    cases: Path,
) -> Outcome:
    from intaglio.spec.files import atomic_write
    from intaglio_sim.fuzz import fuzz

    _known(configs)
    campaign = fuzz(
        count,
        seed=seed,
        simulators=simulators,
        configs=configs,
        cases_dir=cases,
        jobs=jobs,
        progress=progress,
    )
    if page is not None:
        with atomic_write(page, "w") as file:
            file.write(campaign.coverage.markdown())
    holes = campaign.coverage.holes()
    return Outcome(
        data={
            "cases": count,
            "mismatches": len(campaign.failures),
            "coverage": campaign.coverage.to_json(),
            "holes": holes,
            "bytes_compared": campaign.compared,
            "failures": campaign.failures,
            "simulators": dict(campaign.cases),
            "configs": dict(campaign.configs),
            "refused": campaign.refused,
            "cycle_model": {
                "cases": campaign.cycle_cases,
                "largest_error": round(campaign.worst_cycles, 5),
            },
        },
        lines=campaign.coverage.markdown().splitlines(),
        summary=f"{count} networks on {', '.join(simulators)}: {len(campaign.failures)} mismatches "
        f"in {campaign.compared:,} bytes; cycle model within "
        f"{100 * campaign.worst_cycles:.2f} % over {campaign.cycle_cases} runs; {len(holes)} holes",
        status=1 if campaign.failures else 0,
    )


def _bad_programs(
    count: int, seed: int, simulators: list[str], configs: list[str] | None, jobs: int
) -> Outcome:
    from intaglio_sim.bad_programs import bad_programs

    _known(configs)
    runs = bad_programs(
        count,
        seed=seed,
        simulators=simulators,
        configs=configs or ("tiny-8x8", "narrow-8x4"),
        jobs=jobs,
        progress=progress,
    )
    rows: list[list[Any]] = [["outcome", "programs"], *map(list, sorted(runs.outcomes.items()))]
    return Outcome(
        data={
            "programs": count,
            "mismatches": len(runs.failures),
            "outcomes": dict(sorted(runs.outcomes.items())),
            "compared": runs.compared,
            "failures": runs.failures,
        },
        lines=table(rows, right=(1,)),
        summary=f"{count} bad programs on {', '.join(simulators)}: {len(runs.failures)} failures; "
        f"{runs.compared} compared with the golden machine",
        status=1 if runs.failures else 0,
    )


def _executors(count: int, seed: int, names: list[str], machine: Any, stalls: int) -> Outcome:
    from intaglio_sim.executors import EXECUTORS, Network
    from intaglio_sim.random_graph import random_graph, random_input
    from intaglio_sim.verify import verify

    for name in names:
        if name not in EXECUTORS:
            raise IntaglioError(f"fuzz runs on {', '.join(EXECUTORS)}, not on {name!r}")
    covered: Counter[str] = Counter()
    mismatches = compared = 0
    failures = []
    for number in range(count):
        key = seed + number
        graph = random_graph(key)
        network = Network(
            graph=graph, config=machine, simulation={"stalls": stalls, "seed": key + 1}
        )
        result = verify(network, [random_input(graph, key)[0]], names)
        compared += result.bytes_compared
        covered.update(_features(graph))
        if result.mismatches:
            mismatches += result.mismatches
            failures.append({"seed": key, "first_mismatch": result.first_mismatch})
            progress(f"seed {key}: {result.first_mismatch}")
        progress(f"{number + 1} of {count}: {len(graph.nodes)} layers, {mismatches} mismatches")
    rows: list[list[Any]] = [["feature", "layers"]]
    rows += [[name, number] for name, number in sorted(covered.items())]
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


def _features(graph: Any) -> list[str]:
    """Return what each layer of ``graph`` exercises: operation, stride, dilation, remainders."""
    found = []
    for node in graph.nodes:
        found.append(node.op if len(node.inputs) == 1 or node.op != "conv" else "conv, residual")
        attributes = node.attributes
        if max(attributes.get("stride", (1, 1))) > 1:
            found.append(f"{node.op}, stride")
        if max(attributes.get("dilation", (1, 1))) > 1:
            found.append(f"{node.op}, dilation")
        if any(attributes.get("padding", ())):
            found.append(f"{node.op}, padding")
        if graph.values[node.output].shape[1] % 8:
            found.append(f"{node.op}, remainder of 8 channels")
    return found
