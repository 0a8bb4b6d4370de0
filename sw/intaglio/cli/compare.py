"""``intaglio compare``: finished runs side by side, integers and their float32 twins."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intaglio.cli.common import Outcome, progress, read_json, result_command, table
from intaglio.spec.errors import IntaglioError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["compare_command"]

#: Of the last tenth of its steps a run's final loss is the mean.
_LAST = 10


@result_command("compare")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--curves", type=click.Path(path_type=Path), help="Write the losses here (.png, .svg)."
)
@click.option("--maps", type=click.Path(path_type=Path), help="Write class maps here (.png).")
@click.option(
    "--images",
    type=click.IntRange(1, 20),
    default=4,
    show_default=True,
    help="Of each run in --maps.",
)
def compare_command(
    runs: tuple[Path, ...], curves: Path | None, maps: Path | None, images: int
) -> Outcome:
    """Compare runs: mean IoU and loss of the integers and of their float32 twins.

    --curves draws the losses over the steps, one field for each run. --maps draws the class maps of
    validation images, a row for each run, and pairs of integers and float32 in it; the images
    themselves are not in it.
    """
    for path, endings in ((curves, (".png", ".svg")), (maps, (".png",))):
        if path is not None and path.suffix.lower() not in endings:
            raise IntaglioError(f"{path}: must end in {' or '.join(endings)}")
    metrics = {run: read_json(run / "metrics.json", f"intaglio train --out {run}") for run in runs}
    rows = [_row(run, found) for run, found in metrics.items()]
    if curves is not None:
        _draw_curves(curves, metrics)
    if maps is not None:
        _draw_maps(maps, runs, images)
    header = ["run", "steps", "mIoU %", "float32 %", "difference", "loss", "float32"]
    lines = [header] + [
        [
            row["run"],
            str(row["steps"]),
            f"{100 * row['miou']:.2f}",
            _text(row["float_miou"], 100, ".2f"),
            _text(row["difference"], 100, "+.2f"),
            f"{row['loss']:.4f}",
            _text(row["float_loss"], 1, ".4f"),
        ]
        for row in rows
    ]
    pictures = [str(path) for path in (curves, maps) if path is not None]
    drawn = f"; {', '.join(pictures)}" if pictures else ""
    return Outcome(
        data={"runs": rows, "pictures": pictures},
        lines=table(lines, right=range(1, len(header))),
        summary=f"{len(rows)} run{'s' if len(rows) > 1 else ''}{drawn}",
    )


def _text(value: float | None, factor: int, form: str) -> str:
    return "-" if value is None else f"{factor * value:{form}}"


def _final(losses: Sequence[float]) -> float:
    last = losses[-max(1, len(losses) // _LAST) :]
    return sum(last) / len(last)


def _row(run: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what the table says of a run; values of a twin that was not trained are None."""
    try:
        floats, curves = metrics.get("float_miou"), metrics["loss"]
        return {
            "run": str(run),
            "steps": metrics["steps"],
            "miou": metrics["miou"],
            "float_miou": floats,
            "difference": None if floats is None else metrics["miou"] - floats,
            "main_miou": metrics.get("main_miou"),
            "float_main_miou": metrics.get("float_main_miou"),
            "loss": _final(curves["int"]),
            "float_loss": _final(curves["float"]) if "float" in curves else None,
        }
    except (AttributeError, KeyError, TypeError, ZeroDivisionError):
        raise IntaglioError(
            f"{run / 'metrics.json'}: not the metrics of a run; 'intaglio train --out {run}' "
            "writes them"
        ) from None


def _draw_curves(path: Path, metrics: dict[Path, dict[str, Any]]) -> None:
    """Draw the losses, each point the mean of a hundredth of the steps."""
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from intaglio.spec.files import atomic_write

    columns = min(2, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.1 * lines), layout="constrained")
    fields = figure.subplots(lines, columns, squeeze=False).ravel()
    for field in fields[len(metrics) :]:
        field.set_axis_off()
    for field, (run, found) in zip(fields, metrics.items(), strict=False):
        for key, label, style in (("float", "float32", "0.55"), ("int", "integers", "#b3431f")):
            losses = found["loss"].get(key)
            if losses:
                parts = np.array_split(np.asarray(losses), min(100, len(losses)))
                ends = np.cumsum([len(part) for part in parts])
                field.plot(ends, [part.mean() for part in parts], color=style, label=label, lw=1.4)
        field.set_title(run.resolve().name, fontsize=10, loc="left")
        field.set_xlabel("step", fontsize=9)
        field.set_ylabel("training loss", fontsize=9)
        field.tick_params(labelsize=8)
        field.spines[["top", "right"]].set_visible(False)
        field.grid(axis="y", color="0.9", lw=0.6)
        field.set_ylim(bottom=0)
        field.legend(frameon=False, fontsize=9)
    kind = path.suffix[1:].lower()
    # Neither versions nor dates nor random names: the same runs give the same bytes.
    metadata = {"png": {"Software": None}, "svg": {"Creator": None, "Date": None}}[kind]
    with rc_context({"svg.hashsalt": "intaglio"}), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=110, metadata=metadata)


def _draw_maps(path: Path, runs: Sequence[Path], images: int) -> None:
    """Draw rows of (integers, float32) class maps, one row for each run."""
    import numpy as np
    from PIL import Image

    from intaglio.spec.files import atomic_write

    rows = [_map_row(run, images) for run in runs]
    width = max(row.shape[1] for row in rows)
    white = [np.full((row.shape[0], width - row.shape[1], 3), 255, np.uint8) for row in rows]
    whole = np.concatenate([np.hstack(pair) for pair in zip(rows, white, strict=True)])
    with atomic_write(path) as file:
        Image.fromarray(whole).save(file, format="PNG")


def _map_row(run: Path, images: int) -> "np.ndarray":
    """Return evenly spaced validation images as uint8 (H, W, 3) pairs of class maps."""
    import numpy as np
    import torch

    from intaglio.cli.runs import load_twin
    from intaglio.data import colorize, encode, open_dataset
    from intaglio.nn.models import predict
    from intaglio.train import load_run

    model, config = load_run(run)
    twin = load_twin(run)
    dataset = open_dataset(config.data, "val", height=config.height, width=config.width)
    found = []
    for index in range(min(images, len(dataset))):
        sample = dataset[index * len(dataset) // images]
        codes = torch.from_numpy(encode(sample.image.transpose(2, 0, 1).copy()))[None]
        for network in (model, twin):
            if network is not None:
                drawn = colorize(predict(network, codes).numpy()[0], dataset.palette)
                edge = 2 if network is model and twin is not None else 8
                found.append(np.pad(drawn, ((0, 8), (0, edge), (0, 0)), constant_values=255))
        progress(f"{run}: {sample.name}")
    return np.hstack(found)
