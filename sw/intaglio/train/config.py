"""What a training run is: its configuration, and the files that say it."""

import dataclasses
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio.nn.models import MODELS, frame_size, own_norm
from intaglio.spec.arith import exact_fraction
from intaglio.spec.errors import IntaglioError
from intaglio.spec.variants import Recipe
from intaglio.train.schedule import Schedule, parse_milestones

__all__ = ["RATES", "TrainConfig", "read_config", "to_toml"]

#: Peak learning rates that integers and floats both train well with.
RATES = {
    "deeplab-mini": "1/10",
    "fcn-mini": "1/20",
    "deeplabv3-resnet50": "1/20",
    "deeplabv3-resnet50-os8": "1/20",
    "fcn-vgg16": "1/50",
    "fcn16s-vgg16": "1/50",
    "fcn32s-vgg16": "1/50",
    "fcn-vgg16-bn": "1/20",
    "fcn16s-vgg16-bn": "1/20",
    "fcn32s-vgg16-bn": "1/20",
}
#: Peak without the magnitude of the gradients: their largest element moves its weight by this.
RATE_WITHOUT_MAGNITUDE = "1/256"


def _in_lowest_terms(text: str) -> str:
    """Return a number as a fraction, so that 0.1 is the run that 1/10 is; other text as it is."""
    try:
        return str(exact_fraction(text))
    except ValueError:
        return text


def _value(default: Any, text: str) -> Any:
    """Return a field with the line that explains it in a configuration file."""
    return field(default=default, metadata={"text": text})


@dataclass(frozen=True)
class TrainConfig:
    """What a run is. Two runs with equal configurations end in the same bytes.

    Each field is explained by the line beside it, which :func:`to_toml` writes too; ``rate`` and
    ``channels`` become fractions in their lowest terms. ``data`` is a
    specification for :func:`intaglio.data.open_dataset`, ``weights`` a file for
    :func:`intaglio.nn.models.read_state`. The last five are a
    :class:`intaglio.spec.variants.Recipe`.

    Raises
    ------
    IntaglioError
        A value of another type or out of its range.
    """

    model: str = _value("deeplab-mini", "network")
    data: str = _value("shapes", "shapes (built in), camvid:DIR, voc:DIR or ade20k:DIR")
    split: str = _value("train", "of the data set to train on, such as trainaug of voc")
    height: int = _value(120, "of the images, in pixels")
    width: int = _value(160, "of the images, in pixels")
    channels: str = _value("1", "width of the network, such as 1/4")
    steps: int = _value(1000, "updates")
    batch: int = _value(8, "images in each, of all workers together")
    seed: int = _value(0, "of weights, order, augmentation and rounding")
    rate: str = _value("", "peak learning rate, decimal or fraction; empty: the network's own")
    warmup: int = _value(-1, "steps up to the peak; below 0: a twentieth of the run")
    schedule: str = _value("poly", "after the warm-up: poly, constant or steps (powers of two)")
    power: int = _value(1, "of the polynomial decay, 1 or 2")
    milestones: str = _value("1/2,3/4", "where schedule steps drops: steps, or parts of the run")
    drop: int = _value(1, "it drops by 2**-drop")
    augment: bool = _value(True, "crop, flip and scale")
    twin: bool = _value(False, "train the float32 twin as well")
    weights: str = _value("", "file of float weights to start from")
    error_bits: int = _value(8, "of the error into a convolution's backward: 8, 9 (flag) or 16")
    error_rounding: str = _value("diffusion", "of that error: diffusion, nearest or stochastic")
    norm: str = _value("", "batch norm: l1, l1-std or l2; empty: the network's own")
    master_bits: int = _value(16, "of the master weights of convolutions, 8 to 24")
    magnitude: bool = _value(True, "quantised gradients keep their scale")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if type(value) is not type(item.default):
                kind = {str: "a string", int: "an integer", bool: "true or false"}
                raise IntaglioError(
                    f"{item.name} must be {kind[type(item.default)]}, not {value!r}"
                )
        for name in ("rate", "channels"):
            object.__setattr__(self, name, _in_lowest_terms(getattr(self, name)))
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
        _ = self.learning_rates, self.recipe

    @property
    def frame(self) -> tuple[int, int]:
        """Value of the size, rows and columns, that the network sees: images are in its middle.

        It is the least that holds ``height`` x ``width`` and that the network takes.
        """
        return frame_size(MODELS[self.model], self.height, self.width)

    @property
    def recipe(self) -> Recipe:
        """Value of the rules that the integers follow."""
        values = {name: getattr(self, name) for name in Recipe.names()}
        return Recipe(**values | {"norm": self.norm or own_norm(self.model)})

    @property
    def learning_rates(self) -> Schedule:
        """Value of the learning rates of the run."""
        resolved = self.resolved()
        # Milestones of another schedule are not read: a short run may be too short for them.
        stepwise = self.schedule == "steps"
        return Schedule(
            rate=resolved.rate,
            steps=self.steps,
            warmup=resolved.warmup,
            power=self.power,
            kind=self.schedule,
            milestones=parse_milestones(self.milestones, self.steps) if stepwise else (),
            drop=self.drop,
        )

    def resolved(self) -> "TrainConfig":
        """Return the same run with the values that empty or negative ones stand for."""
        own = RATES[self.model] if self.magnitude else RATE_WITHOUT_MAGNITUDE
        values: dict[str, Any] = {
            "rate": self.rate or own,
            "warmup": self.steps // 20 if self.warmup < 0 else self.warmup,
            "norm": self.norm or own_norm(self.model),
        }
        if all(getattr(self, name) == value for name, value in values.items()):
            return self
        return dataclasses.replace(self, **values)

    @classmethod
    def from_values(cls, values: Any, source: Path | str) -> "TrainConfig":
        """Return the configuration with ``values``, read from ``source``.

        Raises
        ------
        IntaglioError
            Not an object, a name that is none of the fields, or a wrong value; names ``source``.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        if not isinstance(values, dict):
            raise IntaglioError(f"{source}: not a table of values")
        for name in values:
            if name not in known:
                raise IntaglioError(f"{source}: unknown value {name!r}; known: {', '.join(known)}")
        try:
            return cls(**values)
        except IntaglioError as error:
            raise IntaglioError(f"{source}: {error}") from None


def read_config(path: Path) -> dict[str, Any]:
    """Return the values in ``path``: TOML, or JSON such as the config.json of a run.

    Raises
    ------
    IntaglioError
        Missing or broken file, or one that is not a table of values.
    """
    if not path.is_file():
        raise IntaglioError(f"{path}: no such file")
    kind = "TOML" if path.suffix == ".toml" else "JSON"
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except ValueError as error:
        raise IntaglioError(f"{path}: not {kind}: {error}") from error
    if not isinstance(values, dict):
        raise IntaglioError(f"{path}: not a {kind} object")
    return values


def to_toml(config: TrainConfig) -> str:
    """Return ``config`` as TOML, every value with the line that explains it.

    What :meth:`TrainConfig.resolved` fills in is a comment: read back, it is left open again, so
    that it follows another network or another number of steps.
    """
    resolved = config.resolved()
    lines = []
    for item in dataclasses.fields(config):
        # Strings, integers and booleans look the same in JSON and TOML, but for DEL.
        found = getattr(resolved, item.name)
        value = json.dumps(found).replace("\x7f", "\\u007f")
        mark = "" if found == getattr(config, item.name) else "# "
        lines.append(f"{f'{mark}{item.name} = {value}':32}# {item.metadata['text']}")
    return "\n".join(lines) + "\n"
