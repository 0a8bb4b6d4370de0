"""``intaglio bench``: the measurements in the README."""

from pathlib import Path
from typing import Any

import click

from intaglio.cli.bench_nn import infer_command, train_command
from intaglio.cli.bench_synth import bench_synth_command
from intaglio.cli.common import (
    Choices,
    Outcome,
    hardware_options,
    parse_size,
    progress,
    result_command,
    select_config,
    table,
)
from intaglio.cli.networks import (
    is_file,
    memory_interval,
    memory_options,
    network_options,
    random_network,
)

__all__ = ["bench_command"]


@click.group("bench")
def bench_command() -> None:
    """Measure: the tables in the README."""


def model_names() -> list[str]:
    """Return the names of the networks."""
    from intaglio.nn.models import MODELS

    return [*MODELS, "MODEL.onnx"]


@result_command("rtl")
@click.option(
    "--model",
    required=True,
    cls=Choices,
    choices=model_names,
    metavar="NAME|FILE",
    help="Network with random weights, or a frozen one.",
)
@network_options
@hardware_options
@memory_options
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Write the time line, for Perfetto, here."
)
def rtl_command(
    model: str,
    size: str,
    width: str,
    classes: int,
    board: str | None,
    config: str | None,
    latency: int,
    bandwidth: int | None,
    trace: Path | None,
) -> Outcome:
    """Cycles, array use and bytes moved of a network, by the cycle model."""
    from intaglio.cli.artifacts import open_frozen
    from intaglio.compile import compile_graph
    from intaglio.report.layers import layer_table
    from intaglio_sim.golden.cycles import CycleModel
    from intaglio_sim.golden.trace import write_trace

    machine = select_config(board, config, default="mini-8x8")
    interval = memory_interval(bandwidth, machine.bus_bytes)
    if is_file(model):
        graph = open_frozen(Path(model)).graph
    else:
        _, graph = random_network(model, parse_size(size) or (64, 64), width, classes)
    progress(f"compiling {len(graph.nodes)} layers for {machine.name}")
    program = compile_graph(graph, machine, latency=latency, interval=interval)
    progress(f"cycle model: {program.length} instructions")
    timeline = CycleModel(config=machine, memory_latency=latency, memory_interval=interval).run(
        program
    )
    if trace is not None:
        write_trace(trace, {"cycle model": timeline.spans})
    layers = layer_table(graph, program, timeline)
    moved = sum(row["read"] + row["written"] for row in layers)
    rows: list[list[Any]] = [["layer", "operation", "output", "MACs", "cycles", "use %", "bytes"]]
    for row in layers:
        shape = "x".join(str(n) for n in row["shape"])
        rows.append([row["name"], row["op"], shape, f"{row['macs']:,}"])
        rows[-1] += [f"{row['model_cycles']:,}", f"{100 * row['array_use']:.1f}"]
        rows[-1] += [f"{row['read'] + row['written']:,}"]
    height, columns = graph.values[graph.inputs[0]].shape[2:]
    return Outcome(
        data={
            "model": model,
            "size": [height, columns],
            "config": machine.name,
            "latency": latency,
            "bandwidth": machine.bus_bytes // interval,
            "cycles": timeline.cycles,
            "macs": timeline.macs,
            "utilization": timeline.utilization,
            "bytes_moved": moved,
            "counters": dict(timeline.counters),
            "layers": layers,
        },
        lines=table(rows, right=(3, 4, 5, 6)),
        summary=f"{model} at {height}x{columns} on {machine.name}, "
        f"{machine.bus_bytes // interval} bytes per cycle: {timeline.cycles:,} cycles, "
        f"{timeline.macs:,} multiplications, {100 * timeline.utilization:.1f} % of the array, "
        f"{moved:,} bytes",
    )


bench_command.add_command(rtl_command)
bench_command.add_command(bench_synth_command)
bench_command.add_command(train_command)
bench_command.add_command(infer_command)
