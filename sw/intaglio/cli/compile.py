"""``intaglio compile``: a frozen network becomes a program."""

from pathlib import Path

import click

from intaglio.cli.common import Outcome, hardware_options, progress, result_command, select_config
from intaglio.cli.networks import memory_interval, memory_options

__all__ = ["compile_command"]


@result_command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@hardware_options
@memory_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The program; program.npz beside the model by default.",
)
def compile_command(
    model: Path,
    board: str | None,
    config: str | None,
    latency: int,
    bandwidth: int | None,
    out: Path | None,
) -> Outcome:
    """Compile MODEL, a model.onnx or a run folder, into a program for one accelerator."""
    from intaglio.cli.artifacts import open_frozen
    from intaglio.compile import compile_graph
    from intaglio.spec.program import save_program

    machine = select_config(board, config)
    frozen = open_frozen(model)
    out = out or frozen.path.with_name("program.npz")
    program = compile_graph(
        frozen.graph,
        machine,
        latency=latency,
        interval=memory_interval(bandwidth, machine.bus_bytes),
        progress=lambda name: progress(f"layer {name}"),
    )
    save_program(program, out)
    macs = sum(program.macs.values())
    return Outcome(
        data={
            "program": out,
            "digest": program.digest(),
            "graph_digest": program.graph_digest,
            "config": machine.name,
            "config_digest": machine.digest(),
            "instructions": program.length,
            "memory_bytes": program.memory_bytes,
            "macs": macs,
        },
        summary=f"{out}: {program.length} instructions for {machine.name}, "
        f"{program.memory_bytes:,} bytes of memory, {macs:,} multiplications, "
        f"digest {program.digest()[:12]}",
    )
