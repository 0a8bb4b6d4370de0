"""``intaglio ablate``: the seed paper's ablations in one table."""

from pathlib import Path
from typing import Any

import click

from intaglio.cli.common import Choices, Outcome, progress, result_command, table
from intaglio.cli.train import config_options, make_config

__all__ = ["ablate_command"]


def variant_names() -> list[str]:
    """Return the names of the variants."""
    from intaglio.train import VARIANTS

    return list(VARIANTS)


@result_command("ablate")
@config_options
@click.option(
    "--only",
    cls=Choices,
    choices=variant_names,
    multiple=True,
    metavar="PATTERN",
    help="Only the variants of such names, and the default; may be repeated.",
)
@click.option("--seeds", type=int, default=1, show_default=True, help="Runs of each variant.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/ablation-MODEL-DATA.")
def ablate_command(
    config_file: Path | None,
    only: tuple[str, ...],
    seeds: int,
    out: Path | None,
    threads: int | None,
    save_every: int,
    log_every: int,
    device: str,
    **options: Any,
) -> Outcome:
    """Train a network under each variant of the recipe and compare them.

    Variants: bits of the error E2 (8, 9 with flag, 16) and its rounding, L1 or L2 batch norm, bits
    of the master weights, gradients with or without magnitude. Runs that are finished are not
    repeated, one that was interrupted goes on. Writes ablation.json, ablation.md and ablation.html.
    """
    from intaglio.cli.train import prepare_device
    from intaglio.report.ablation import (
        HEADER,
        RIGHT,
        ablation_html,
        ablation_markdown,
        ablation_rows,
    )
    from intaglio.report.page import write_report
    from intaglio.train import ablate, choose_variants

    config = make_config(config_file, options)
    out = out or Path("runs") / f"ablation-{config.model}-{config.data.partition(':')[0]}"
    data = ablate(
        config,
        choose_variants(only),
        out=out,
        seeds=seeds,
        progress=progress,
        save_every=save_every,
        log_every=log_every,
        device=prepare_device(device, threads),
    )
    write_report(out / "ablation.md", ablation_markdown(data))
    write_report(out / "ablation.html", ablation_html(data))
    rows = [row for row in data["rows"] if row["miou"] is not None]
    best = max(rows, key=lambda row: row["miou"], default=None)
    found = f"best {best['name']} with mIoU {100 * best['miou']:.1f} %" if best else "all diverged"
    return Outcome(
        data={"out": out, **data},
        lines=table([HEADER, *ablation_rows(data)], right=RIGHT),
        summary=f"{out}: {len(data['rows'])} variants, {found}; ablation.html, ablation.md, "
        "ablation.json",
    )
