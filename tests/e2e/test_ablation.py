"""The table of variants: made by one command, resumed, and told where a variant fails."""

import json
import os
import re

import pytest
from chain import TINY, intaglio

from intaglio.spec.errors import IntaglioError
from intaglio.train import TrainConfig, ablate, choose_variants
from intaglio.train import ablation as module
from intaglio.train.loop import Diverged

STEPS = ("--steps", 2, "--lr", "1/16")
ONLY = ("--only", "norm-l2", "--only", "no-*", "--only", "e2-9-nearest")
NAMES = ["default", "e2-9-nearest", "norm-l2", "no-magnitude"]


@pytest.fixture(scope="module")
def table(tmp_path_factory, data):
    """The arguments of an ablation, and what it returned."""
    out = tmp_path_factory.mktemp("ablation")
    words = ("ablate", "--data", data, *TINY, *STEPS, *ONLY, "--twin", "--out", out, "--json")
    return out, words, intaglio(*words).data


def test_one_command_makes_the_table(table):
    out, _, data = table
    assert [row["name"] for row in data["rows"]] == NAMES
    digests = set()
    for row in data["rows"]:
        (run,) = row["runs"]
        assert run["seed"] == 3 and 0 <= row["miou"] <= 1
        digests.add(run["digest"])
        trained = json.loads((out / f"{row['name']}-3" / "metrics.json").read_text())
        assert trained["digest"] == run["digest"] and trained["miou"] == row["miou"]
        assert row["loss"] == trained["loss"]["int"][-1]
    assert len(digests) == len(NAMES)
    assert data["rows"][0]["rate"] == "1/16" and data["rows"][3]["rate"] == "1/256"
    twin = json.loads((out / "default-3" / "metrics.json").read_text())
    assert data["float"]["miou"] == twin["float_miou"]
    assert "float_miou" not in json.loads((out / "norm-l2-3" / "metrics.json").read_text())


def test_the_files_say_the_same(table):
    out, _, data = table
    assert json.loads((out / "ablation.json").read_text())["rows"] == data["rows"]
    lines = (out / "ablation.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + len(NAMES) + 1  # header, rule, variants, float32
    for row, line in zip(data["rows"], rows[2:], strict=False):
        assert row["runs"][0]["digest"][:12] in line and f"| {100 * row['miou']:.1f} |" in line
    page = (out / "ablation.html").read_text()
    assert re.findall(r"<tr><td>([^<]+)</td>", page) == [*NAMES, "float32"]
    assert "http" not in page.replace("http-equiv", "")


def test_finished_runs_are_not_repeated_and_lost_ones_are(table, monkeypatch):
    out, words, data = table
    os.remove(out / "norm-l2-3" / "metrics.json")
    trained = []

    def train(config, *, out, **options):
        trained.append(out.name)
        return original(config, out=out, **options)

    original = module.train
    monkeypatch.setattr(module, "train", train)
    again = intaglio(*words).data
    assert again["rows"] == data["rows"] and again["float"] == data["float"]
    assert trained == ["norm-l2-3"]


def test_a_variant_that_diverges_is_a_row(tmp_path, data, monkeypatch):
    original = module.train

    def train(config, **options):
        if config.norm == "l2":
            raise Diverged("training diverged in step 1")
        return original(config, **options)

    monkeypatch.setattr(module, "train", train)
    words = ("ablate", "--data", data, *TINY, *STEPS, "--only", "norm-l2", "--out", tmp_path)
    result = intaglio(*words)
    assert result.status == 0, result.err
    (line,) = [line for line in result.out.splitlines() if line.startswith("norm-l2")]
    assert "diverged" in line
    assert "training diverged in step 1" in (tmp_path / "ablation.html").read_text()


def test_several_seeds_are_averaged(tmp_path, data):
    config = TrainConfig(data=data, height=32, width=32, channels="1/8", batch=2, steps=1)
    options = dict(progress=lambda _: None, log=False)
    found = ablate(config, choose_variants(["default"]), out=tmp_path, seeds=2, **options)
    (row,) = found["rows"]
    assert [run["seed"] for run in row["runs"]] == [0, 1]
    assert row["loss"] == sum(run["loss"] for run in row["runs"]) / 2


@pytest.mark.parametrize(
    "values, seeds, world, text",
    [
        (dict(norm="l2"), 1, "1", "norm is for the variants to choose"),
        ({}, 0, "1", "seeds must be >= 1, not 0"),
        ({}, 1, "2", "ablate runs in one process"),
    ],
)
def test_what_an_ablation_refuses(tmp_path, monkeypatch, values, seeds, world, text):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(IntaglioError, match=text):
        ablate(TrainConfig(**values), choose_variants([]), out=tmp_path / "x", seeds=seeds)
    assert not (tmp_path / "x").exists()
