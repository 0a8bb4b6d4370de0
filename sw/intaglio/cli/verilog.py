"""``intaglio verilog``: the accelerator as Verilog."""

from pathlib import Path

import click

from intaglio.cli.common import (
    Choices,
    Outcome,
    hardware_options,
    progress,
    result_command,
    select_config,
)

__all__ = ["verilog_command"]


def _families() -> list[str]:
    from intaglio_hw.primitives import FAMILIES

    return list(FAMILIES)


@result_command("verilog")
@hardware_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("accelerator.v"),
    show_default=True,
    help="The Verilog file.",
)
@click.option(
    "--family",
    cls=Choices,
    choices=_families,
    metavar="NAME",
    default="generic",
    show_default=True,
    help="Whose multipliers and memories it is made of. Those of generic are described: any tool "
    "and simulator takes them, and they are slower than a chip's own, with their registers.",
)
@click.option(
    "--ip",
    is_flag=True,
    help="Also write what other projects need beside it: a FuseSoC core file, the registers as a "
    "header for C, and a driver in C.",
)
def verilog_command(
    board: str | None, config: str | None, out: Path, family: str, ip: bool
) -> Outcome:
    """Write the accelerator as one Verilog file: module accelerator, AXI4, AXI4-Lite, interrupt."""
    from intaglio.report.ip import ip_files
    from intaglio.spec.files import atomic_write, bytes_digest
    from intaglio_hw.elaborate import TOP, write_verilog
    from intaglio_hw.primitives import check_family

    check_family(family)
    machine = select_config(board, config)
    progress(f"elaborating {machine.name}")
    write_verilog(machine, out, family)
    beside = ip_files(machine, verilog=out.name, top=TOP) if ip else {}
    for name, content in beside.items():
        with atomic_write(out.parent / name, "w") as file:
            file.write(content)
    text = out.read_bytes()
    modules = sum(line.startswith(b"module ") for line in text.splitlines())
    return Outcome(
        data={
            "verilog": out,
            "digest": bytes_digest(text),
            "config": machine.name,
            "config_digest": machine.digest(),
            "family": family,
            "top": TOP,
            "modules": modules,
            "bytes": len(text),
            "ip": [str(out.parent / name) for name in beside],
        },
        lines=[f"{out.parent / name}" for name in beside],
        summary=f"{out}: module {TOP}, {machine.R} x {machine.K} lanes, {modules} modules, "
        f"{len(text):,} bytes, configuration {machine.name} ({machine.digest()[:12]})",
    )
