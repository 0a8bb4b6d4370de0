"""``intaglio verilog``: the accelerator as Verilog."""

from pathlib import Path

import click

from intaglio.cli.common import Outcome, hardware_options, progress, result_command, select_config

__all__ = ["verilog_command"]


@result_command("verilog")
@hardware_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("accelerator.v"),
    show_default=True,
    help="The Verilog file.",
)
def verilog_command(board: str | None, config: str | None, out: Path) -> Outcome:
    """Write the accelerator as one Verilog file: module accelerator, AXI4, AXI4-Lite, interrupt."""
    from intaglio.spec.files import bytes_digest
    from intaglio_hw.elaborate import TOP, write_verilog

    machine = select_config(board, config)
    progress(f"elaborating {machine.name}")
    write_verilog(machine, out)
    text = out.read_bytes()
    modules = sum(line.startswith(b"module ") for line in text.splitlines())
    return Outcome(
        data={
            "verilog": out,
            "digest": bytes_digest(text),
            "config": machine.name,
            "config_digest": machine.digest(),
            "top": TOP,
            "modules": modules,
            "bytes": len(text),
        },
        summary=f"{out}: module {TOP}, {machine.R} x {machine.K} lanes, {modules} modules, "
        f"{len(text):,} bytes, configuration {machine.name} ({machine.digest()[:12]})",
    )
