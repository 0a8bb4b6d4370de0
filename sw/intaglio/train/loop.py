"""The training run: integers, then, if wanted, the float32 twin on the same batches.

A run is a folder. ``config.json`` says what it is, ``checkpoint.npz`` (and ``twin.npz``) where it
is, ``metrics.json`` what came out, ``tb`` holds the TensorBoard logs. A run that was killed, at any
moment, goes on from its last checkpoint when it is started again, and ends in the same bytes.

Under torchrun the workers share each batch. They agree on every sum and maximum, so that the bytes
are those of one worker; worker 0 alone reads and writes the folder.
"""

import contextlib
import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from intaglio.data import Dataset, batches_per_epoch, epoch_batches, open_dataset, ordered_batches
from intaglio.nn import workers
from intaglio.nn.models import MODELS, build, framed, load_state_dict, predict, read_state
from intaglio.nn.recipe import apply_recipe, move
from intaglio.spec.errors import IntaglioError
from intaglio.spec.metrics import VOID, confusion_matrix, evaluate
from intaglio.train.checkpoint import (
    load_arrays,
    load_model,
    model_arrays,
    read_json,
    save_arrays,
    weights_digest,
    write_json,
)
from intaglio.train.config import TrainConfig
from intaglio.train.interrupt import Interrupt, interruptible
from intaglio.train.monitor import Monitor
from intaglio.train.trainees import Floats, Integers

__all__ = ["Diverged", "evaluate_model", "load_run", "open_datasets", "train"]

#: Most pixels of the images on which float weights are calibrated, beyond four images.
_CALIBRATION_PIXELS = 2 << 20


class Diverged(IntaglioError):
    """An exponent or a sum left its range."""


def evaluate_model(model: nn.Module, dataset: Dataset, *, batch: int = 8) -> dict[str, Any]:
    """Return the metrics of ``model``, integers or twin, in eval mode on a whole split.

    These are ``miou``, ``pixel_accuracy``, ``iou`` of each class, and ``main_miou`` where the data
    set has main classes. Workers share the images, and each has the metrics of all.
    """
    model.eval()
    classes, device = len(dataset.classes), next(model.parameters()).device
    matrix = np.zeros((classes, classes), np.int64)
    share = {"rank": workers.rank(), "world": workers.count()}
    for images, labels in ordered_batches(dataset, batch=batch, **share):
        found = predict(model, torch.from_numpy(images).to(device)).cpu().numpy()
        matrix += confusion_matrix(labels, found, classes)
    matrix = workers.total(torch.from_numpy(matrix)).numpy()
    found = evaluate(matrix)
    metrics = {
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "iou": list(found.iou),
    }
    if dataset.main_classes is not None:
        metrics["main_miou"] = evaluate(matrix, subset=dataset.main_classes).miou
    return metrics


def _batches(
    config: TrainConfig, dataset: Dataset, start: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield this worker's share of the batches of the steps from ``start`` on, in their frames."""
    each = batches_per_epoch(len(dataset), config.batch)
    step = start
    while step < config.steps:
        epoch, first = divmod(step, each)
        for images, labels in epoch_batches(
            dataset,
            batch=config.batch,
            seed=config.seed,
            epoch=epoch,
            height=config.height,
            width=config.width,
            augment=config.augment,
            rank=workers.rank(),
            world=workers.count(),
            start=first,
            prefetch=2,
        ):
            yield (
                framed(torch.from_numpy(images), config.frame, 0).to(device),
                framed(torch.from_numpy(labels), config.frame, VOID).to(device),
            )
            step += 1
            if step == config.steps:
                return


def _writer(out: Path, step: int) -> Any:
    # Imported late: it takes a second, and only runs need it.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tb"), purge_step=step)


class _Fit:
    """The steps of one trainee, from its last checkpoint on."""

    def __init__(
        self,
        trainee: Any,
        config: TrainConfig,
        out: Path,
        *,
        save_every: int,
        log: bool,
        log_every: int,
    ) -> None:
        self.trainee, self.config, self.out = trainee, config, out
        self.path, self.save_every = out / trainee.file, save_every
        self.log, self.log_every = log, log_every
        self.monitor: Monitor | None = None
        self.losses: list[float] = []
        self._restore()

    def _restore(self) -> None:
        arrays = workers.first(lambda: load_arrays(self.path) if self.path.exists() else None)
        if arrays is None:
            return
        try:
            self.trainee.load(arrays)
            self.losses = arrays["losses"].tolist()
        except (KeyError, ValueError) as error:
            raise IntaglioError(
                f"{self.path}: not a checkpoint of this network ({error})"
            ) from None

    def _save(self) -> None:
        digest = weights_digest(self.trainee.model)
        if workers.first(lambda: digest) != digest:
            raise IntaglioError(
                f"{self.out}: worker {workers.rank()} has other weights than worker 0 after step "
                f"{len(self.losses)}; nothing was saved since the last checkpoint"
            )
        if workers.rank() == 0:
            losses = np.array(self.losses, np.float64)
            save_arrays(self.path, self.trainee.arrays() | {"losses": losses})

    def run(self, dataset: Dataset, device: torch.device, *, progress: bool) -> list[float]:
        """Train to the end and return the loss of every step."""
        start, steps = len(self.losses), self.config.steps
        if start == steps:
            return self.losses
        writer = _writer(self.out, start) if self.log else None
        if writer is not None and isinstance(self.trainee, Integers):
            warn = functools.partial(tqdm.write, file=sys.stderr)
            self.monitor = Monitor(self.trainee, writer, warn)
        bar = tqdm(
            _batches(self.config, dataset, start, device),
            total=steps,
            initial=start,
            desc=f"train {self.config.model} ({self.trainee.label})",
            unit="step",
            disable=not progress,
            file=sys.stderr,
        )
        try:
            with interruptible() as interrupt:
                for images, labels in bar:
                    self._step(images, labels, interrupt, writer)
                    bar.set_postfix(loss=f"{np.mean(self.losses[-20:]):.3f}")
        finally:
            bar.close()
            if writer is not None:
                writer.close()
        return self.losses

    def _step(
        self, images: torch.Tensor, labels: torch.Tensor, interrupt: Interrupt, writer: Any
    ) -> None:
        step, steps, rates = len(self.losses), self.config.steps, self.config.learning_rates
        monitor = self.monitor if step % self.log_every == 0 else None
        try:
            with monitor.watching(step) if monitor else contextlib.nullcontext():
                self.losses.append(self.trainee.step(step, images, labels))
        except ValueError as error:  # an exponent or a sum that left its range
            raise Diverged(
                f"{self.out}: training diverged in step {step} ({error}); "
                f"choose a smaller learning rate than {rates.rate}"
            ) from None
        done = step + 1
        if writer is not None:
            writer.add_scalar(f"loss/{self.trainee.label}", self.losses[-1], step)
            writer.add_scalar("rate", float(rates.at(step)), step)
        asked = bool(workers.maximum(int(interrupt.asked)))  # all stop after the same step
        if done % self.save_every == 0 or done == steps or asked:
            self._save()
        if asked and done < steps:
            raise IntaglioError(
                f"{self.out}: interrupted after step {done} of {steps}; "
                f"the same command goes on from there"
            )


def _check_config(out: Path, config: TrainConfig) -> None:
    """Refuse a configuration that differs from the one of the run that ``out`` holds.

    A run may get a twin later: its integers stay what they are.
    """
    path = out / "config.json"
    if not path.exists():
        return
    found = dataclasses.asdict(_stored_config(path).resolved())
    for name, value in dataclasses.asdict(config.resolved()).items():
        if found[name] != value and (name, value) != ("twin", True):
            raise IntaglioError(
                f"{out}: holds another run, with {name} = {found[name]!r} instead of "
                f"{value!r}; choose another folder or delete it"
            )


def _stored_config(path: Path) -> TrainConfig:
    """Return the configuration of a run; values that are younger than the run are defaults."""
    values = read_json(path)
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    if not isinstance(values, dict) or not set(values) <= names:
        raise IntaglioError(f"{path}: not the configuration of a run")
    return TrainConfig.from_values(values, path)


def _prepare(out: Path, config: TrainConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _check_config(out, config)
    for unfinished in out.glob(".*.npz.*"):  # what a killed writer left; never read by anything
        unfinished.unlink(missing_ok=True)


def _begun(out: Path, config: TrainConfig) -> bool:
    """Return whether every network of the run has a checkpoint, so that no start is needed."""
    files = [Integers.file, *([Floats.file] if config.twin else [])]
    return all((out / file).exists() for file in files)


def _load_weights(
    model: nn.Module,
    state: dict[str, torch.Tensor],
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    *,
    progress: bool,
) -> None:
    """Start from ``state``, the float weights of the configuration, calibrated on the first
    batches.
    """
    batches = _batches(config, dataset, 0, torch.device("cpu"))
    images = torch.cat([x for x, _ in itertools.islice(batches, 4)])
    # What goes into every batch norm is kept, in float32: two gigabytes a megapixel at full width.
    images = images[: max(4, _CALIBRATION_PIXELS // (images.shape[2] * images.shape[3]))]
    try:
        report = load_state_dict(model, state, images=images)
    except IntaglioError as error:
        raise IntaglioError(f"{config.weights}: {error}") from None
    write_json(out / "weights.json", report)
    if progress:
        tqdm.write(
            f"{config.weights}: {report['loaded']} tensors, {len(report['fresh'])} fresh, "
            f"{sum(report['saturated'].values())} codes saturated, same class as float32 in "
            f"{100 * report['agreement']:.1f} % of the pixels",
            file=sys.stderr,
        )


def train(
    config: TrainConfig,
    *,
    out: Path,
    progress: bool = True,
    save_every: int = 100,
    log: bool = True,
    log_every: int = 50,
    device: str = "cpu",
    datasets: tuple[Dataset, Dataset] | None = None,
) -> dict[str, Any]:
    """Run ``config`` in the folder ``out``, or go on with it, and return its metrics.

    The metrics are also ``out/metrics.json``: ``steps``, ``miou``, ``pixel_accuracy``, ``iou`` of
    each of ``classes`` on the val split (by ``model.eval()``, the frozen integers), ``main_miou``
    where the data set has main classes, ``loss`` of every step of the integers ("int") and the twin
    ("float"), ``float_miou`` and so on when a twin ran, ``digest`` of the weights and ``seconds``
    of this call. A checkpoint is written every ``save_every`` steps, at the end, and on
    SIGINT, which finishes the step. ``progress`` shows bars on standard error, ``log`` writes
    TensorBoard files, with statistics of single layers every ``log_every`` steps (see
    :class:`intaglio.train.monitor.Monitor`). ``device`` is PyTorch's name of the device to train
    on. ``datasets``, from :func:`open_datasets`, saves several runs from reading them again.

    Under torchrun each worker calls this with the same arguments and gets the same metrics, but for
    those of the twin: floats do not split into equal bytes, so worker 0 trains it alone.

    Raises
    ------
    IntaglioError
        Wrong data, a folder that holds another run, a damaged checkpoint, an interruption, or a
        batch that the workers cannot share; :class:`Diverged` where integers left their range.
    """
    out, target = Path(out), torch.device(device)
    for name, value in (("save-every", save_every), ("log-every", log_every)):
        if value < 1:
            raise IntaglioError(f"{name} must be >= 1, not {value}")
    number, world = workers.launched()
    if config.batch % world:
        raise IntaglioError(f"batch {config.batch} is no multiple of the {world} workers")
    first = number == 0
    options = {"save_every": save_every, "log": log and first, "log_every": log_every}
    sets = datasets or open_datasets(config)
    return _train(config, sets, out, target, options, progress=progress and first)


def open_datasets(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """Return the split that ``config`` trains on and the val split, at its size."""
    sizes = {"height": config.height, "width": config.width}
    splits = config.split, "val"
    training, validation = (open_dataset(config.data, name, **sizes) for name in splits)
    return training, validation


def _train(
    config: TrainConfig,
    datasets: tuple[Dataset, Dataset],
    out: Path,
    device: torch.device,
    options: Any,
    *,
    progress: bool,
) -> dict[str, Any]:
    began = time.monotonic()
    training, validation = datasets
    batches_per_epoch(len(training), config.batch)
    first = workers.launched()[0] == 0
    state = None
    if first:
        _prepare(out, config)
        if config.weights and not _begun(out, config):
            state = read_state(config.weights)
    for dataset in datasets:  # a broken file of either is found before the first step
        dataset.preload(progress=progress)
    model = build(
        config.model,
        classes=len(training.classes),
        width=config.channels,
        seed=config.seed,
        norm=config.recipe.norm,
    )
    if first:
        if state is not None:
            _load_weights(model, state, config, training, out, progress=progress)
        # Only now is it a run: what failed before can be asked for otherwise in the same folder.
        write_json(out / "config.json", dataclasses.asdict(config.resolved()))
    with workers.joined(device):
        if config.weights:  # from floats: one worker's arithmetic counts
            load_model(model, workers.first(lambda: model_arrays(model)))
        move(model, device)
        # The twin starts from the same weights, so it is made before the integers move.
        floats = Floats(config, model) if config.twin and first else None
        integers = _Fit(Integers(config, model), config, out, **options)
        curves = {"int": integers.run(training, device, progress=progress)}
        found = evaluate_model(model, validation)
    metrics: dict[str, Any] = {
        "steps": config.steps,
        **found,
        "classes": list(training.classes),
        "digest": weights_digest(model),
    }
    if floats is not None:
        twin = _Fit(floats, config, out, **options)
        curves["float"] = twin.run(training, device, progress=progress)
        found = evaluate_model(floats.model, validation)
        metrics |= {f"float_{name}": value for name, value in found.items()}
    metrics |= {"loss": curves, "seconds": round(time.monotonic() - began, 1)}
    if first:
        write_json(out / "metrics.json", metrics)
    return metrics


def load_run(path: Path | str) -> tuple[nn.Module, TrainConfig]:
    """Return the integer network of a run, in eval mode, and its configuration.

    The weights are those of the last checkpoint, of a finished run or not.

    Raises
    ------
    IntaglioError
        No run there, or a damaged one.
    """
    path = Path(path)
    if not (path / "config.json").exists():
        raise IntaglioError(f"{path}: holds no run; intaglio train --out {path} makes one")
    config = _stored_config(path / "config.json")
    arrays = load_arrays(path / "checkpoint.npz")
    try:
        classes = int(arrays["parameter." + MODELS[config.model].CLASSIFIER].shape[0])
        model = build(config.model, classes=classes, width=config.channels, seed=config.seed)
        apply_recipe(model, config.recipe)
        load_model(model, arrays)
    except (KeyError, ValueError) as error:
        raise IntaglioError(
            f"{path / 'checkpoint.npz'}: not a checkpoint of {config.model} ({error})"
        ) from None
    return model.eval(), config
