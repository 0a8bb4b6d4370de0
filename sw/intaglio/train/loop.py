"""The training run: integers, then, if wanted, the float32 twin on the same batches.

A run is a folder. ``config.json`` says what it is, ``checkpoint.npz`` (and ``twin.npz``) where it
is, ``metrics.json`` what came out, ``tb`` holds the TensorBoard logs. A run that was killed, at any
moment, goes on from its last checkpoint when it is started again, and ends in the same bytes.
"""

import contextlib
import dataclasses
import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from intaglio.data import Dataset, batches_per_epoch, epoch_batches, open_dataset, ordered_batches
from intaglio.nn.loss import SoftmaxCrossEntropy
from intaglio.nn.models import (
    MODELS,
    build,
    build_twin,
    check_size,
    load_state_dict,
    predict,
    read_state,
)
from intaglio.spec.errors import IntaglioError
from intaglio.spec.metrics import VOID, Metrics, confusion_matrix, evaluate
from intaglio.train.checkpoint import (
    load_arrays,
    load_model,
    model_arrays,
    read_json,
    save_arrays,
    weights_digest,
    write_json,
)
from intaglio.train.optimizer import DECAY_SHIFT, SGD, Schedule, pixel_factor

__all__ = ["RATES", "TrainConfig", "evaluate_model", "load_run", "train"]

#: Peak learning rates that integers and floats both train well with.
RATES = {
    "deeplab-mini": "1/10",
    "fcn-mini": "1/20",
    "deeplabv3-resnet50": "1/20",
    "deeplabv3-resnet50-os8": "1/20",
    "fcn-vgg16": "1/100",
    "fcn16s-vgg16": "1/100",
    "fcn32s-vgg16": "1/100",
    "fcn-vgg16-bn": "1/20",
}


@dataclass(frozen=True)
class TrainConfig:
    """What a run is. Two runs with equal configurations end in the same bytes.

    ``data`` is a specification for :func:`intaglio.data.open_dataset`; ``height`` and ``width`` in
    pixels; ``channels`` the network's width multiplier, such as "1" or "1/4"; ``rate`` the peak
    learning rate as a decimal or fraction (empty: the model's entry in RATES); ``warmup`` in steps
    (below 0: a twentieth of the run); ``twin`` also trains the float32 twin; ``weights`` is a file
    of float weights to start from (see :func:`intaglio.nn.models.load_state_dict`).
    """

    model: str = "deeplab-mini"
    data: str = "shapes"
    height: int = 120
    width: int = 160
    channels: str = "1"
    steps: int = 1000
    batch: int = 8
    seed: int = 0
    rate: str = ""
    warmup: int = -1
    power: int = 1
    augment: bool = True
    twin: bool = False
    weights: str = ""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise IntaglioError(f"model {self.model!r} is unknown; choose from {', '.join(MODELS)}")
        for name, low, high in (
            ("steps", 1, 10**7),
            ("batch", 1, 4096),
            ("seed", 0, (1 << 63) - 1),
            ("height", 8, 4088),
            ("width", 8, 4088),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise IntaglioError(f"{name} must be in [{low}, {high}], not {value}")
        check_size(MODELS[self.model], self.height, self.width)
        _ = self.schedule

    @property
    def schedule(self) -> Schedule:
        """Value of the learning rates of the run."""
        warmup = self.steps // 20 if self.warmup < 0 else self.warmup
        return Schedule(
            rate=self.rate or RATES[self.model], steps=self.steps, warmup=warmup, power=self.power
        )


class _Integers:
    """The integer network with its loss and optimiser."""

    label, file = "int", "checkpoint.npz"

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        self.model, self.schedule = model, config.schedule
        self.loss = SoftmaxCrossEntropy()
        self.optimizer = SGD(model.named_parameters(), seed=config.seed)
        self.factor = pixel_factor(config.batch * config.height * config.width)

    def step(self, number: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), labels)
        loss.backward()
        self.optimizer.step(self.schedule.at(number) / self.factor)
        return loss.item()

    def arrays(self) -> dict[str, np.ndarray]:
        state = {f"optimizer.{k}": v for k, v in self.optimizer.state_arrays().items()}
        return model_arrays(self.model) | state

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        load_model(self.model, arrays)
        prefix = "optimizer."
        self.optimizer.load_arrays(
            {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        )


class _Floats:
    """The float32 twin with PyTorch's loss and SGD; same start, batches, rates and decay."""

    label, file = "float", "twin.npz"

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        self.model, self.schedule = build_twin(model), config.schedule
        pixels = config.batch * config.height * config.width
        weights = [p for p in self.model.parameters() if p.dim() == 4]
        vectors = [p for p in self.model.parameters() if p.dim() != 4]
        # The integers' decay acts on gradients that are pixel_factor too large.
        decay = 2.0**-DECAY_SHIFT / float(pixel_factor(pixels))
        groups = [{"params": weights, "weight_decay": decay}, {"params": vectors}]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=7 / 8)
        self.pixels = pixels

    def step(self, number: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.model.train()
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.schedule.at(number))
        total = nn.functional.cross_entropy(
            self.model(images), labels.to(torch.int64), ignore_index=VOID, reduction="sum"
        )
        loss = total / self.pixels
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = model_arrays(self.model)
        for name, parameter in self.model.named_parameters():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                arrays[f"momentum.{name}"] = buffer.cpu().numpy()
        return arrays

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        load_model(self.model, arrays)
        for name, parameter in self.model.named_parameters():
            key = f"momentum.{name}"
            if key in arrays:
                buffer = torch.empty_like(parameter)
                buffer.copy_(torch.from_numpy(arrays[key].copy()))
                self.optimizer.state[parameter]["momentum_buffer"] = buffer


def evaluate_model(model: nn.Module, dataset: Dataset, *, batch: int = 8) -> Metrics:
    """Return the metrics of ``model``, integers or twin, in eval mode on a whole split."""
    model.eval()
    classes = len(dataset.classes)
    matrix = np.zeros((classes, classes), np.int64)
    for images, labels in ordered_batches(dataset, batch=batch):
        found = predict(model, torch.from_numpy(images)).numpy()
        matrix += confusion_matrix(labels, found, classes)
    return evaluate(matrix)


def _batches(
    config: TrainConfig, dataset: Dataset, start: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of the steps from ``start`` on."""
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
            start=first,
            prefetch=2,
        ):
            yield torch.from_numpy(images), torch.from_numpy(labels)
            step += 1
            if step == config.steps:
                return


class _Interrupt:
    """SIGINT finishes the step: ``asked`` becomes True. A second one acts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    flag = _Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.signal(signal.SIGINT, flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def _writer(out: Path, step: int) -> Any:
    # Imported late: it takes a second, and only runs need it.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tb"), purge_step=step)


def _fit(
    trainee: Any,
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    *,
    save_every: int,
    progress: bool,
    log: bool,
) -> list[float]:
    """Train to the end, from the last checkpoint on, and return the loss of every step."""
    path = out / trainee.file
    losses: list[float] = []
    if path.exists():
        arrays = load_arrays(path)
        try:
            trainee.load(arrays)
            losses = arrays["losses"].tolist()
        except (KeyError, ValueError) as error:
            raise IntaglioError(f"{path}: not a checkpoint of this network ({error})") from None

    def save() -> None:
        save_arrays(path, trainee.arrays() | {"losses": np.array(losses, np.float64)})

    start = len(losses)
    if start == config.steps:
        return losses
    writer = _writer(out, start) if log else None
    bar = tqdm(
        _batches(config, dataset, start),
        total=config.steps,
        initial=start,
        desc=f"train {config.model} ({trainee.label})",
        unit="step",
        disable=not progress,
        file=sys.stderr,
    )
    try:
        with _interruptible() as interrupt:
            for images, labels in bar:
                step = len(losses)
                try:
                    losses.append(trainee.step(step, images, labels))
                except ValueError as error:  # an exponent or a sum that left its range
                    raise IntaglioError(
                        f"{out}: training diverged in step {step} ({error}); "
                        f"choose a smaller learning rate than {config.schedule.rate}"
                    ) from None
                done = step + 1
                bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
                if writer is not None:
                    writer.add_scalar(f"loss/{trainee.label}", losses[-1], step)
                    writer.add_scalar("rate", float(config.schedule.at(step)), step)
                if done % save_every == 0 or done == config.steps or interrupt.asked:
                    save()
                if interrupt.asked and done < config.steps:
                    raise IntaglioError(
                        f"{out}: interrupted after step {done} of {config.steps}; "
                        f"the same command goes on from there"
                    )
    finally:
        bar.close()
        if writer is not None:
            writer.close()
    return losses


def _check_config(out: Path, config: TrainConfig) -> None:
    """Write the configuration of a new run, or refuse one that differs from what ``out`` holds."""
    path = out / "config.json"
    wanted = dataclasses.asdict(config)
    if not path.exists():
        write_json(path, wanted)
        return
    found = read_json(path)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise IntaglioError(
                f"{out}: holds another run, with {name} = {found.get(name)!r} instead of "
                f"{value!r}; choose another folder or delete it"
            )


def train(
    config: TrainConfig,
    *,
    out: Path,
    progress: bool = True,
    save_every: int = 100,
    log: bool = True,
) -> dict[str, Any]:
    """Run ``config`` in the folder ``out``, or go on with it, and return its metrics.

    The metrics are also ``out/metrics.json``: ``steps``, ``miou``, ``pixel_accuracy``, ``iou`` of
    each of ``classes`` on the val split (by ``model.eval()``, the frozen integers), ``loss`` of
    every step of the integers ("int") and the twin ("float"), ``float_miou``,
    ``float_pixel_accuracy`` and ``float_iou`` when a twin ran, ``digest`` of the weights and
    ``seconds`` of this call. A checkpoint is written every ``save_every`` steps, at the end, and on
    SIGINT, which finishes the step. ``progress`` shows bars on standard error, ``log`` writes
    TensorBoard files.

    Raises
    ------
    IntaglioError
        Wrong data, a folder that holds another run, a damaged checkpoint, or an interruption.
    """
    began = time.monotonic()
    out = Path(out)
    if save_every < 1:
        raise IntaglioError(f"save-every must be >= 1, not {save_every}")
    sizes = {"height": config.height, "width": config.width}
    training = open_dataset(config.data, "train", **sizes)
    validation = open_dataset(config.data, "val", **sizes)
    batches_per_epoch(len(training), config.batch)
    out.mkdir(parents=True, exist_ok=True)
    _check_config(out, config)
    for unfinished in out.glob(".*.npz.*"):  # what a killed writer left; never read by anything
        unfinished.unlink(missing_ok=True)
    options: Any = {"save_every": save_every, "progress": progress, "log": log}
    training.preload(progress=progress)

    model = build(
        config.model,
        classes=len(training.classes),
        width=config.channels,
        seed=config.seed,
    )
    if config.weights:
        state = read_state(config.weights)
        images = torch.cat([x for x, _ in itertools.islice(_batches(config, training, 0), 4)])
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
    # The twin starts from the same weights, so it is made before the integers move.
    floats = _Floats(config, model) if config.twin else None
    curves = {"int": _fit(_Integers(config, model), config, training, out, **options)}
    found = evaluate_model(model, validation)
    metrics: dict[str, Any] = {
        "steps": config.steps,
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "iou": list(found.iou),
        "classes": list(training.classes),
        "digest": weights_digest(model),
    }
    if floats is not None:
        curves["float"] = _fit(floats, config, training, out, **options)
        found = evaluate_model(floats.model, validation)
        metrics |= {
            "float_miou": found.miou,
            "float_pixel_accuracy": found.pixel_accuracy,
            "float_iou": list(found.iou),
        }
    metrics |= {"loss": curves, "seconds": round(time.monotonic() - began, 1)}
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
    values = read_json(path / "config.json")
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    if not isinstance(values, dict) or not set(values) <= names:
        raise IntaglioError(f"{path / 'config.json'}: not the configuration of a run")
    config = TrainConfig(**values)
    arrays = load_arrays(path / "checkpoint.npz")
    try:
        classes = int(arrays["parameter." + MODELS[config.model].CLASSIFIER].shape[0])
        model = build(config.model, classes=classes, width=config.channels, seed=config.seed)
        load_model(model, arrays)
    except (KeyError, ValueError) as error:
        raise IntaglioError(
            f"{path / 'checkpoint.npz'}: not a checkpoint of {config.model} ({error})"
        ) from None
    return model.eval(), config
