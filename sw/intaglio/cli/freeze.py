"""``intaglio freeze``: a checkpoint becomes an ONNX file of integers."""

from pathlib import Path

import click

from intaglio.cli.common import Outcome, parse_size, result_command

__all__ = ["freeze_command", "freeze_run"]


@result_command("freeze")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--size", metavar="HxW", help="Of the images; that of the training by default.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The ONNX file; RUN/model.onnx by default.",
)
def freeze_command(run: Path, size: str | None, out: Path | None) -> Outcome:
    """Freeze the network of the run folder RUN: constants only, exponents fixed, bounds proved."""
    return freeze_run(run, size=parse_size(size), out=out)


def freeze_run(
    run: Path, *, size: tuple[int, int] | None = None, out: Path | None = None
) -> Outcome:
    """Freeze ``run`` at ``size`` (rows, columns), by default that of its frames, into ``out``."""
    from intaglio.cli.artifacts import metadata_of, require_run
    from intaglio.cli.runs import class_names, run_digest
    from intaglio.data import find_reader
    from intaglio.freeze import write_onnx
    from intaglio.nn.inference import to_graph
    from intaglio.nn.models import check_size
    from intaglio.train import load_run

    require_run(run)
    model, config = load_run(run)
    height, width = size or config.frame
    check_size(model, height, width)
    graph = to_graph(model, height=height, width=width)
    reader = find_reader(config.data)  # not its folder, which may be gone
    digest = run_digest(run)
    out = out or run / "model.onnx"
    write_onnx(
        graph,
        out,
        metadata=metadata_of(
            run_digest=digest,
            model=config.model,
            width=config.channels,
            data=config.data,
            classes=class_names(run, model, reader),
            palette=reader.palette,
        ),
    )
    macs = sum(graph.macs(node) for node in graph.nodes)
    return Outcome(
        data={
            "model": out,
            "graph_digest": graph.digest(),
            "run_digest": digest,
            "size": [height, width],
            "layers": len(graph.nodes),
            "macs": macs,
            "bytes": out.stat().st_size,
        },
        summary=f"{out}: {len(graph.nodes)} layers at {height}x{width}, {macs:,} multiplications, "
        f"digest {graph.digest()[:12]}",
    )
