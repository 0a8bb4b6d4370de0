"""``intaglio compare``: the table, and the pictures, of runs with and without a twin."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intaglio.cli import main
from intaglio.train import TrainConfig, train

TINY = dict(model="fcn-mini", height=16, width=24, channels="1/4", batch=4, steps=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, twin in (("both", True), ("alone", False)):
        train(TrainConfig(**TINY, twin=twin), out=folder / name, progress=False, log=False)
    return [str(folder / "both"), str(folder / "alone")]


def draw(*words):
    """Run the command in a process of its own and return what it prints.

    Matplotlib's fonts and the synthesis tools that other tests load bring two versions of the same
    binding library, which one process does not bear.
    """
    command = [sys.executable, "-m", "intaglio", "compare", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_table_and_both_pictures(runs, tmp_path):
    curves, maps = tmp_path / "curves.png", tmp_path / "new" / "maps.png"
    words = [*runs, "--curves", str(curves), "--maps", str(maps), "--images", "2"]
    both, alone = json.loads(draw(*words, "--json"))["runs"]
    metrics = json.loads((Path(runs[0]) / "metrics.json").read_text())
    assert both["miou"] == alone["miou"] == metrics["miou"]  # the twin changes no integer
    assert both["difference"] == metrics["miou"] - metrics["float_miou"]
    assert both["loss"] == metrics["loss"]["int"][-1]
    assert both["float_loss"] == metrics["loss"]["float"][-1]
    assert alone["float_miou"] is alone["difference"] is alone["float_loss"] is None
    assert np.asarray(Image.open(curves).convert("L")).std() > 0
    # two rows of 16 pixels with 8 below; pairs of 24 with 2 and 8 at their right
    assert Image.open(maps).size == (2 * (24 + 2 + 24 + 8), 2 * (16 + 8))
    first = curves.read_bytes()
    lines = draw(*words).splitlines()
    assert curves.read_bytes() == first  # the same runs, the same bytes
    assert lines[0].split()[:3] == ["run", "steps", "mIoU"]
    assert lines[2].split()[3:5] == ["-", "-"]


def test_curves_can_be_svg(runs, tmp_path):
    pictures = [tmp_path / "a.svg", tmp_path / "b.SVG"]
    for path in pictures:
        draw(runs[0], "--curves", str(path))
    first, second = (path.read_bytes() for path in pictures)
    assert first == second and b"</svg>" in first


def test_what_is_no_run_is_named(runs, tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 1
    assert f"intaglio train --out {tmp_path}" in capsys.readouterr().err
    without_losses = '{"steps": 0, "miou": 0.1, "loss": {"int": []}}'
    for text in ('{"steps": 3}', "[]", without_losses):
        (tmp_path / "metrics.json").write_text(text)
        assert main(["compare", str(tmp_path)]) == 1
        assert "not the metrics of a run" in capsys.readouterr().err
    assert main(["compare", runs[0], "--curves", str(tmp_path / "curves.pdf")]) == 1
    assert "curves.pdf: must end in .png or .svg" in capsys.readouterr().err
    assert not (tmp_path / "curves.pdf").exists()
