"""``intaglio fuzz``: random networks on several executors."""

from collections import Counter
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


@result_command("fuzz")
@click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="Networks.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first.")
@click.option(
    "--on",
    "executors",
    default="spec,onnx,golden",
    show_default=True,
    metavar="A,B,...",
    help="Executors: spec, onnx, golden, verilator, icarus; all are compared with the first.",
)
@hardware_options
@click.option("--stalls", type=click.IntRange(0, 90), default=0, help="Memory stalls, per cent.")
def fuzz_command(
    count: int, seed: int, executors: str, board: str | None, config: str | None, stalls: int
) -> Outcome:
    """Draw networks with random layers, shapes and parameters, and compare executors on them.

    Network number i depends on --seed + i alone, so a case is repeated with --seed and --count 1.
    Exit status 1 when a byte differs.
    """
    from intaglio_sim.executors import EXECUTORS, Network
    from intaglio_sim.random_graph import random_graph, random_input
    from intaglio_sim.verify import verify

    names = [name.strip() for name in executors.split(",") if name.strip()]
    for name in names:
        if name not in EXECUTORS or name == "torch":
            choices = ", ".join(known for known in EXECUTORS if known != "torch")
            raise IntaglioError(f"fuzz runs on {choices}, not on {name!r}")
    machine = select_config(board, config, default="tiny-8x8")
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
