"""Schedules, configurations and their files."""

import dataclasses
import tomllib
from fractions import Fraction

import pytest

from intaglio.spec import quant
from intaglio.spec.errors import IntaglioError
from intaglio.spec.variants import Recipe
from intaglio.train import TrainConfig, choose_variants, read_config, to_toml
from intaglio.train.ablation import VARIANTS
from intaglio.train.optimizer import pixel_factor
from intaglio.train.schedule import Schedule, nearest_power_of_two, parse_milestones


def is_power_of_two(rate):
    return rate.numerator & (rate.numerator - 1) == 0 == rate.denominator & (rate.denominator - 1)


# --- schedules --------------------------------------------------------------------------------


def test_schedule_rises_and_falls_to_almost_nothing():
    schedule = Schedule(rate="0.2", steps=10, warmup=3)
    rates = [schedule.at(i) for i in range(10)]
    assert rates[:4] == [Fraction(1, 20), Fraction(1, 10), Fraction(3, 20), Fraction(1, 5)]
    assert rates[3:] == [Fraction(10 - i, 35) for i in range(3, 10)]
    assert Schedule(rate="1", steps=10, power=2).at(5) == Fraction(1, 4)


def test_a_constant_rate_rises_and_stays():
    schedule = Schedule(rate="1/5", steps=10, warmup=1, kind="constant")
    assert [schedule.at(i) for i in range(10)] == [Fraction(1, 10)] + [Fraction(1, 5)] * 9


def test_steps_are_powers_of_two_and_so_are_the_rates_of_gradients():
    milestones = parse_milestones("1/2,3/4", 20)
    schedule = Schedule(
        rate="1/20", steps=20, warmup=4, kind="steps", milestones=milestones, drop=2
    )
    rates = [schedule.at(i) for i in range(20)]
    assert rates[:5] == [Fraction(1, n) for n in (128, 64, 32, 32, 16)]
    assert rates[4:] == [Fraction(1, n) for n in [16] * 6 + [64] * 5 + [256] * 5]
    factor = pixel_factor(8 * 120 * 160)
    for i in range(20):
        rate = schedule.for_gradients(i, factor)
        assert is_power_of_two(rate)
        assert quant.learning_rate(rate.numerator, rate.denominator)[0] == 128  # a shift
    assert Schedule(rate="1/20", steps=20).for_gradients(0, factor) == Fraction(1, 20) / factor


@pytest.mark.parametrize("numerator", range(1, 40))
def test_nearest_power_of_two(numerator):
    rate = Fraction(numerator, 37)
    found = nearest_power_of_two(rate)
    assert is_power_of_two(found)
    assert all(abs(rate - found) <= abs(rate - other) for other in (found * 2, found / 2))


def test_integer_rates_follow_the_schedule():
    schedule = Schedule(rate="1/10", steps=1000, warmup=50)
    for step in range(0, 1000, 37):
        exact = schedule.at(step)
        mantissa, shift = quant.learning_rate(exact.numerator, exact.denominator)
        assert abs(mantissa / 2**shift / exact - 1) <= 1 / 256


def test_pixel_factor():
    assert pixel_factor(1 << 17) == 1
    assert pixel_factor(8 * 120 * 160) == Fraction(8 * 120 * 160, 1 << 17)


@pytest.mark.parametrize(
    "text, message",
    [
        ("half", "milestones must be numbers such as 1/2,900, not 'half'"),
        ("-3", "not '-3'"),
        ("1/0", "not '1/0'"),
        ("600,500", r"milestones must rise within \(0, 1000\), not be 600,500"),
        ("1000", "must rise within"),
        ("0", "must rise within"),
    ],
)
def test_wrong_milestones_are_refused(text, message):
    with pytest.raises(IntaglioError, match=message):
        parse_milestones(text, 1000)
    with pytest.raises(IntaglioError, match=message):
        TrainConfig(schedule="steps", milestones=text)


# --- configurations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, text",
    [
        (dict(rate="fast"), "learning rate must be a decimal or a fraction such as 1/20"),
        (dict(rate="1e-99999999"), "must be a decimal or a fraction such as 1/20, not '1e-99"),
        (dict(schedule="cosine"), "schedule must be one of poly, constant, steps, not cosine"),
        (dict(drop=0), r"drop must be in \[1, 8\], not 0"),
        (dict(steps=1.5), "steps must be an integer, not 1.5"),
        (dict(steps=True), "steps must be an integer, not True"),
        (dict(augment="no"), "augment must be true or false, not 'no'"),
        (dict(channels=2), "channels must be a string, not 2"),
        (dict(norm="l3"), "norm must be one of l1, l1-std, l2"),
    ],
)
def test_wrong_configurations_are_refused(values, text):
    with pytest.raises(IntaglioError, match=text):
        TrainConfig(**values)


@pytest.mark.parametrize("values", [dict(rate="0.05", channels="0.25"), dict(rate="5e-2")])
def test_fractions_are_in_their_lowest_terms(values):
    fractions = {"rate": "1/20", **({"channels": "1/4"} if "channels" in values else {})}
    assert TrainConfig(**values) == TrainConfig(**fractions)


def test_the_resolved_configuration_is_the_same_run():
    config = TrainConfig(model="fcn-mini", steps=400)
    resolved = config.resolved()
    assert (resolved.rate, resolved.warmup) == ("1/20", 20)
    assert resolved.resolved() is resolved
    assert [resolved.learning_rates.at(i) for i in range(400)] == [
        config.learning_rates.at(i) for i in range(400)
    ]
    assert TrainConfig(magnitude=False).resolved().rate == "1/256"


def test_toml_has_every_value_with_its_meaning_and_is_read_back(tmp_path):
    config = TrainConfig(
        data='camvid:/a "b"\\c\u00e9\x7f', norm="l2", augment=False, seed=(1 << 63) - 1
    ).resolved()
    path = tmp_path / "config.toml"
    text = to_toml(config)
    path.write_text(text, encoding="utf-8")
    assert TrainConfig.from_values(read_config(path), path) == config
    assert tomllib.loads(text) == dataclasses.asdict(config)
    lines = text.splitlines()
    assert len(lines) == len(dataclasses.fields(TrainConfig))
    assert all(line.partition("# ")[2] for line in lines)


def test_toml_leaves_open_what_follows_the_network(tmp_path):
    config = TrainConfig(model="deeplab-mini", steps=400)
    path = tmp_path / "config.toml"
    text = to_toml(config)
    path.write_text(text)
    for value in ('rate = "1/10"', "warmup = 20", 'norm = "l1"'):
        assert f"\n# {value} " in text
    values = read_config(path)
    assert TrainConfig.from_values(values, path) == config
    deep = TrainConfig.from_values(values | {"model": "deeplabv3-resnet50"}, path).resolved()
    assert (deep.norm, deep.rate) == ("l1-std", "1/20")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.toml", "steps = ", "a.toml: not TOML: "),
        ("a.toml", "stepz = 3", "a.toml: unknown value 'stepz'; known: model"),
        ("a.toml", "steps = 0", r"a.toml: steps must be in \[1, 10000000\], not 0"),
        ("a.toml", "steps = 1.0", "a.toml: steps must be an integer, not 1.0"),
        ("a.json", "{", "a.json: not JSON: "),
        ("a.json", "[1]", "a.json: not a JSON object"),
        ("b.toml", None, "b.toml: no such file"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(IntaglioError, match=message):
        TrainConfig.from_values(read_config(path), path)


# --- variants ---------------------------------------------------------------------------------


def test_variants_cover_the_recipe():
    recipes = [TrainConfig(**variant.values).recipe for variant in VARIANTS.values()]
    assert recipes[0] == Recipe() and len(set(recipes)) == len(recipes) - 1  # its own norm twice
    pairs = {(r.error_bits, r.error_rounding) for r in recipes}
    assert len(pairs) == 9
    assert {r.norm for r in recipes} == {"l1", "l1-std", "l2"}
    assert {r.master_bits for r in recipes} >= {10, 16, 24}
    assert {r.magnitude for r in recipes} == {True, False}


def test_variants_are_chosen_by_pattern():
    names = [v.name for v in choose_variants(["e2-16-*", "norm-l2"])]
    assert names == ["default", "e2-16-nearest", "e2-16-stochastic", "e2-16-diffusion", "norm-l2"]
    assert [v.name for v in choose_variants([])] == list(VARIANTS)
    with pytest.raises(IntaglioError, match="no variant matches 'e3-\\*'; there are default, e2"):
        choose_variants(["e3-*"])
