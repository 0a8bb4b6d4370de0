"""Learning rates as exact fractions, so that every machine computes the same."""

import re
from dataclasses import dataclass
from fractions import Fraction

from intaglio.spec.arith import exact_fraction
from intaglio.spec.errors import IntaglioError

__all__ = ["SCHEDULES", "Schedule", "nearest_power_of_two", "parse_milestones", "parse_rate"]

SCHEDULES = ("poly", "constant", "steps")


def parse_rate(text: str) -> Fraction:
    """Return the learning rate that ``text`` says, a decimal or a fraction.

    Raises
    ------
    IntaglioError
        Not a number in (0, 16].
    """
    try:
        rate = exact_fraction(text)
    except ValueError:
        raise IntaglioError(
            f"learning rate must be a decimal or a fraction such as 1/20, not {text!r}"
        ) from None
    if not 0 < rate <= 16:
        raise IntaglioError(f"learning rate must be in (0, 16], not {text}")
    return rate


def nearest_power_of_two(rate: Fraction) -> Fraction:
    """Return the power of two nearest to ``rate`` > 0, the larger one of two.

    >>> [str(nearest_power_of_two(Fraction(1, n))) for n in (10, 6, 20)]
    ['1/8', '1/4', '1/16']
    """
    power = Fraction(2) ** (rate.numerator.bit_length() - rate.denominator.bit_length())
    while power > rate:
        power /= 2
    return power * 2 if rate - power >= 2 * power - rate else power


def parse_milestones(text: str, steps: int) -> tuple[int, ...]:
    """Return the steps that ``text`` names: comma separated numbers, below 1 as parts of the run.

    >>> parse_milestones("1/2, 0.75, 900", 1000)
    (500, 750, 900)

    Raises
    ------
    IntaglioError
        Something else, or steps that do not rise within the run.
    """
    found: list[int] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if not re.fullmatch(r"\d+(/[1-9]\d*|\.\d+)?", word):
            raise IntaglioError(f"milestones must be numbers such as 1/2,900, not {word!r}")
        value = Fraction(word)
        found.append(int(value * steps) if value < 1 else int(value))
    if any(not 0 < m < steps for m in found) or sorted(set(found)) != found:
        raise IntaglioError(f"milestones must rise within (0, {steps}), not be {text}")
    return tuple(found)


@dataclass(frozen=True)
class Schedule:
    """A learning rate for each of ``steps``: linear warm-up to ``rate``, then one of these.

    - "poly": ``((steps - step) / (steps - warmup))**power`` of it, ``power`` 1 or 2;
    - "constant": all of it;
    - "steps": ``2**-drop`` of it after each of the ``milestones``. All rates, also those of the
      warm-up, are the nearest powers of two, as in the seed paper: the update is a shift.

    ``warmup`` is the number of steps up to the peak.
    """

    rate: str
    steps: int
    warmup: int = 0
    power: int = 1
    kind: str = "poly"
    milestones: tuple[int, ...] = ()
    drop: int = 1

    def __post_init__(self) -> None:
        parse_rate(self.rate)
        if self.kind not in SCHEDULES:
            raise IntaglioError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.kind}")
        if self.steps < 1:
            raise IntaglioError(f"steps must be >= 1, not {self.steps}")
        if not 0 <= self.warmup < self.steps:
            raise IntaglioError(f"warmup must be in [0, {self.steps - 1}], not {self.warmup}")
        if self.power not in (1, 2):
            raise IntaglioError(f"power must be 1 or 2, not {self.power}")
        if not 1 <= self.drop <= 8:
            raise IntaglioError(f"drop must be in [1, 8], not {self.drop}")

    def at(self, step: int) -> Fraction:
        """Return the rate of ``step``, counted from 0."""
        rate = parse_rate(self.rate)
        if step < self.warmup:
            rate = rate * (step + 1) / (self.warmup + 1)
        elif self.kind == "poly":
            rate *= Fraction(self.steps - step, self.steps - self.warmup) ** self.power
        elif self.kind == "steps":
            rate /= 1 << self.drop * sum(step >= m for m in self.milestones)
        return nearest_power_of_two(rate) if self.kind == "steps" else rate

    def for_gradients(self, step: int, factor: Fraction) -> Fraction:
        """Return the rate of ``step`` for gradients that are ``factor`` too large."""
        rate = self.at(step) / factor
        return nearest_power_of_two(rate) if self.kind == "steps" else rate
