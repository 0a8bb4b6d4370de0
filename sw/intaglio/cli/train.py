"""``intaglio train``: integer training, and its float32 twin."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from intaglio.cli.common import Choices, Outcome, progress, result_command
from intaglio.spec.errors import IntaglioError

__all__ = ["config_options", "make_config", "prepare_device", "train_command"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def model_names() -> list[str]:
    """Return the names of the networks."""
    from intaglio.nn.models import MODELS

    return list(MODELS)


_OPTIONS = (
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="TOML, such as train --show-config prints, or JSON, such as the config.json of a "
        "run; options replace its values.",
    ),
    click.option(
        "--model", cls=Choices, choices=model_names, metavar="NAME", help="Network; deeplab-mini."
    ),
    click.option(
        "--data", metavar="SPEC", help="shapes (built in), camvid:DIR, voc:DIR, ade20k:DIR."
    ),
    click.option("--split", metavar="NAME", help="To train on, such as trainaug of voc; train."),
    click.option("--height", type=int, help="Of the images, in pixels."),
    click.option("--width", type=int, help="Of the images, in pixels."),
    click.option("--channels", metavar="FACTOR", help="Width of the network, such as 1/4; 1."),
    click.option("--steps", type=int, help="Updates; 1000."),
    click.option("--batch", type=int, help="Images in each; 8."),
    click.option("--seed", type=int, help="Of weights, order, augmentation and rounding; 0."),
    click.option("--lr", "rate", metavar="RATE", help="Peak learning rate, decimal or fraction."),
    click.option("--warmup", type=int, help="Steps up to the peak; a twentieth of the run."),
    click.option(
        "--schedule", metavar="NAME", help="poly, constant or steps (powers of two); poly."
    ),
    click.option("--power", type=int, help="Of the polynomial decay, 1 or 2; 1."),
    click.option("--milestones", metavar="LIST", help="Where steps drops, such as 1/2,900."),
    click.option("--drop", type=int, help="By which power of two; 1."),
    click.option("--augment/--no-augment", default=None, help="Crop, flip and scale; yes."),
    click.option(
        "--twin/--no-twin",
        default=None,
        help="Train the float32 twin as well, also of a finished run; no.",
    ),
    click.option("--weights", metavar="FILE.pth", help="Float weights to start from."),
    click.option("--device", default="cpu", show_default=True, help="Of PyTorch, such as cuda."),
    click.option("--threads", type=click.IntRange(1), help="Threads of PyTorch."),
    click.option("--save-every", type=int, default=100, show_default=True, help="Steps."),
    click.option(
        "--log-every", type=int, default=50, show_default=True, help="Steps, of layer statistics."
    ),
)


def config_options(function: _Function) -> _Function:
    """Add the options that say what a run is and how it is run, but not where."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@result_command("train")
@config_options
@click.option("--show-config", is_flag=True, help="Print the configuration as TOML and stop.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/MODEL-DATA.")
def train_command(
    config_file: Path | None,
    threads: int | None,
    save_every: int,
    log_every: int,
    show_config: bool,
    device: str,
    out: Path | None,
    **options: Any,
) -> Outcome:
    """Train a network with integers; a run that was interrupted goes on.

    The run folder gets config.json, checkpoint.npz, metrics.json and TensorBoard logs (tb). The
    same configuration ends in the same bytes, on any device and on any number of workers:

    \b
    torchrun --nproc-per-node N --max-restarts 3 -m intaglio train ...
    """
    config = make_config(config_file, options)
    from intaglio.train import to_toml, train

    if show_config:
        text = to_toml(config)
        return Outcome(data=dataclasses.asdict(config.resolved()), summary=text.rstrip("\n"))
    from intaglio.nn import workers

    device = prepare_device(device, threads)
    first = workers.launched()[0] == 0
    out = out or Path("runs") / f"{config.model}-{config.data.partition(':')[0]}"
    if first:
        progress(f"{config.model} on {config.data}, {config.height}x{config.width}, into {out}")
    try:
        metrics = train(config, out=out, save_every=save_every, log_every=log_every, device=device)
    except IntaglioError:
        if first:
            raise
        click.get_current_context().exit(1)  # worker 0 says it
    if not first:
        click.get_current_context().exit(0)
    miou = f"mIoU {100 * metrics['miou']:.1f} %"
    if "float_miou" in metrics:
        miou += f", float32 {100 * metrics['float_miou']:.1f} %"
    if "main_miou" in metrics:
        miou += f", of the main classes {100 * metrics['main_miou']:.1f} %"
    if "float_main_miou" in metrics:
        miou += f", float32 {100 * metrics['float_main_miou']:.1f} %"
    data = {key: value for key, value in metrics.items() if key != "loss"}
    return Outcome(
        data={"run": out, **data},
        summary=f"{out}: {config.steps} steps, {miou}, pixel accuracy "
        f"{100 * metrics['pixel_accuracy']:.1f} %, digest {metrics['digest'][:12]}",
    )


def make_config(path: Path | None, options: dict[str, Any]) -> Any:
    """Return the TrainConfig of a file, if any, and of the options that are not None.

    The built-in data set has 64x64 pixels where neither says otherwise.

    Raises
    ------
    IntaglioError
        A broken file, or a wrong value.
    """
    from intaglio.train import TrainConfig, read_config

    values = {} if path is None else read_config(path)
    values |= {key: value for key, value in options.items() if value is not None}
    if values.get("data", "shapes") == "shapes":
        values = {"height": 64, "width": 64, **values}
    return TrainConfig(**values) if path is None else TrainConfig.from_values(values, path)


def prepare_device(device: str, threads: int | None) -> str:
    """Return the name of this worker's device, which there is; set threads, and load the kernels.

    Raises
    ------
    IntaglioError
        No such device.
    """
    import torch

    from intaglio.nn import kernels

    if threads is not None:
        torch.set_num_threads(threads)
    kernels.active()  # building them takes seconds, and may fail: before there are bars
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise IntaglioError(f"device must be cpu or cuda, such as cuda:1, not {device!r}")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise IntaglioError(f"device {device}: this PyTorch sees no CUDA device")
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    return device
