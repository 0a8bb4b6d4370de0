"""``intaglio train``: integer training, and its float32 twin."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from intaglio.cli.common import Choices, Outcome, progress, result_command
from intaglio.spec.errors import IntaglioError

__all__ = ["train_command"]


def model_names() -> list[str]:
    """Return the names of the networks."""
    from intaglio.nn.models import MODELS

    return list(MODELS)


@result_command("train")
@click.option(
    "--model", cls=Choices, choices=model_names, metavar="NAME", help="Network; deeplab-mini."
)
@click.option("--data", metavar="SPEC", help="shapes (built in), camvid:DIR, voc:DIR, ade20k:DIR.")
@click.option("--height", type=int, help="Of the images, in pixels.")
@click.option("--width", type=int, help="Of the images, in pixels.")
@click.option("--channels", metavar="FACTOR", help="Width of the network, such as 1/4; 1.")
@click.option("--steps", type=int, help="Updates; 1000.")
@click.option("--batch", type=int, help="Images in each; 8.")
@click.option("--seed", type=int, help="Of weights, order, augmentation and rounding; 0.")
@click.option("--lr", metavar="RATE", help="Peak learning rate, decimal or fraction.")
@click.option("--warmup", type=int, help="Steps up to the peak; a twentieth of the run.")
@click.option("--power", type=int, help="Of the polynomial decay, 1 or 2; 1.")
@click.option("--augment/--no-augment", default=None, help="Crop, flip and scale; yes.")
@click.option("--twin/--no-twin", default=None, help="Train the float32 twin as well; no.")
@click.option("--weights", metavar="FILE.pth", help="Float weights to start from.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="JSON with these values, such as the config.json of another run; options replace them.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of PyTorch.")
@click.option("--save-every", type=int, default=100, show_default=True, help="Steps.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/MODEL-DATA.")
def train_command(
    config_file: Path | None,
    threads: int | None,
    save_every: int,
    out: Path | None,
    lr: str | None,
    **options: Any,
) -> Outcome:
    """Train a network with integers; a run that was interrupted goes on.

    The run folder gets config.json, checkpoint.npz, metrics.json and TensorBoard logs (tb). The
    same configuration ends in the same bytes.
    """
    values = {} if config_file is None else _read_config(config_file)
    values |= {key: value for key, value in {**options, "rate": lr}.items() if value is not None}
    import torch

    from intaglio.train import TrainConfig, train

    known = [item.name for item in dataclasses.fields(TrainConfig)]
    for key in values:
        if key not in known:
            raise IntaglioError(f"{config_file}: unknown value {key!r}; known: {', '.join(known)}")
    if values.get("data", "shapes") == "shapes":
        values = {"height": 64, "width": 64, **values}
    try:
        config = TrainConfig(**values)
    except TypeError as error:
        raise IntaglioError(f"{config_file}: {error}") from error
    if threads is not None:
        torch.set_num_threads(threads)
    out = out or Path("runs") / f"{config.model}-{config.data.partition(':')[0]}"
    progress(f"{config.model} on {config.data}, {config.height}x{config.width}, into {out}")
    metrics = train(config, out=out, save_every=save_every)
    miou = f"mIoU {100 * metrics['miou']:.1f} %"
    if "float_miou" in metrics:
        miou += f", float32 {100 * metrics['float_miou']:.1f} %"
    data = {key: value for key, value in metrics.items() if key != "loss"}
    return Outcome(
        data={"run": out, **data},
        summary=f"{out}: {config.steps} steps, {miou}, pixel accuracy "
        f"{100 * metrics['pixel_accuracy']:.1f} %, digest {metrics['digest'][:12]}",
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise IntaglioError(f"{path}: no such file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntaglioError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise IntaglioError(f"{path}: not a JSON object")
    return values
