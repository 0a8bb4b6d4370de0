"""Training runs: learning, resuming to the same bytes, damage and interruption."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intaglio.data import Shapes, epoch_batches
from intaglio.nn.models import build, predict
from intaglio.spec.errors import IntaglioError
from intaglio.spec.metrics import confusion_matrix, evaluate
from intaglio.train import TrainConfig, load_run, train, weights_digest
from intaglio.train.checkpoint import load_arrays
from intaglio.train.trainees import Integers

TINY = dict(model="fcn-mini", height=16, width=16, channels="1/4", batch=4)
QUIET = dict(progress=False, log=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Float sums depend on the number of threads: the twins here all run on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread):
    """A finished run of eight steps with its twin, in one go."""
    out = tmp_path_factory.mktemp("run")
    return out, train(TrainConfig(**TINY, steps=8, twin=True), out=out, **QUIET)


# --- runs -------------------------------------------------------------------------------------


def test_metrics_of_a_run(finished):
    out, metrics = finished
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert metrics["steps"] == 8
    assert len(metrics["loss"]["int"]) == len(metrics["loss"]["float"]) == 8
    for prefix in ("", "float_"):
        assert 0 <= metrics[f"{prefix}miou"] <= 1 and 0 <= metrics[f"{prefix}pixel_accuracy"] <= 1
        assert len(metrics[f"{prefix}iou"]) == len(metrics["classes"])
    # the same start on the same batch; then the curves stay close
    assert metrics["loss"]["int"][0] == pytest.approx(metrics["loss"]["float"][0], rel=0.05)
    model, config = load_run(out)
    assert config.steps == 8 and not model.training
    assert weights_digest(model) == metrics["digest"]


def test_any_size(tmp_path):
    """Images lie in the middle of the least frame that the network takes; the frame is void."""
    config = TrainConfig(**TINY | {"height": 13, "width": 21}, steps=2, twin=True)
    assert config.frame == (16, 24)
    metrics = train(config, out=tmp_path, **QUIET)
    model, _ = load_run(tmp_path)
    val = Shapes("val", height=13, width=21)
    matrix = np.zeros((len(val.classes),) * 2, np.int64)
    for sample in val:
        whole = np.full((16, 24, 3), 128, np.uint8)
        whole[1:14, 1:22] = sample.image
        found = predict(model, torch.from_numpy(whole.transpose(2, 0, 1)[None].copy()))
        cut = found[0, 1:14, 1:22].numpy()
        matrix += confusion_matrix(sample.mask, cut, len(val.classes))
    assert metrics["miou"] == evaluate(matrix).miou
    same = TrainConfig(**TINY | {"height": 16, "width": 24}, steps=2)
    assert same.frame == (16, 24)


def test_another_split_and_the_main_classes(tmp_path):
    """trainaug of voc has masks of its own; train has no list here and is not read."""
    root, rng = tmp_path / "VOC2012", np.random.default_rng(3)
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, folder, name in (
        ("trainaug", "SegmentationClassAug", "a"),
        ("val", "SegmentationClass", "b"),
    ):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", format="PNG")
        mask = np.array([0, 8, 3, 255], np.uint8)[rng.integers(0, 4, (16, 16))]
        Image.fromarray(mask).save(root / folder / f"{name}.png")
        (lists / f"{split}.txt").write_text(f"{name}\n")
    config = TrainConfig(**TINY | {"batch": 1}, data=f"voc:{root}", split="trainaug", steps=1)
    metrics = train(config, out=tmp_path / "run", **QUIET)
    assert len(metrics["loss"]["int"]) == 1
    present = {k: v for k, v in enumerate(metrics["iou"]) if v is not None}
    assert sorted(present) == [0, 3, 8]
    # background and cat are main classes, bird is none
    assert metrics["main_miou"] == pytest.approx((present[0] + present[8]) / 2)
    with pytest.raises(IntaglioError, match="train.txt"):
        train(dataclasses.replace(config, split="train"), out=tmp_path / "other", **QUIET)
    # A broken validation image is found before training, and there is no run then.
    (root / "JPEGImages" / "b.jpg").write_bytes(b"none")
    with pytest.raises(IntaglioError, match=r"b.jpg: broken image"):
        train(config, out=tmp_path / "third", **QUIET)
    assert list((tmp_path / "third").iterdir()) == []


@pytest.mark.parametrize(
    "name, digest",
    [
        ("deeplab-mini", "a886bbe287ef49be4bddd0680b6003399259a838395e38019deabd68808fc1f3"),
        ("fcn-mini", "45e3fc075ba1a203176ab371f1bdf04bffe227d5584d97dc116d0e634c44207b"),
    ],
)
def test_the_bytes_of_the_default_recipe_stay(name, digest):
    """Three steps end in these weights (since decision 0022): on every machine, with any
    executor. A change here changes every run that was ever recorded.
    """
    config = TrainConfig(model=name, height=32, width=32, channels="1/4", batch=4, steps=3)
    trainee = Integers(config, build(name, classes=7, width="1/4", seed=0))
    scenes = Shapes("train", height=32, width=32)
    batches = epoch_batches(scenes, batch=4, seed=0, epoch=0, height=32, width=32)
    for number, (images, labels) in zip(range(3), batches, strict=False):
        trainee.step(number, torch.from_numpy(images), torch.from_numpy(labels))
    assert weights_digest(trainee.model) == digest


def test_a_finished_run_is_not_trained_again(finished):
    out, metrics = finished
    before = (out / "checkpoint.npz").stat().st_mtime_ns
    again = train(TrainConfig(**TINY, steps=8, twin=True), out=out, **QUIET)
    assert (out / "checkpoint.npz").stat().st_mtime_ns == before
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in metrics.items() if k != "seconds"
    }


SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
import intaglio.train.loop as loop
from intaglio.train import TrainConfig, train
torch.set_num_threads(1)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
{patch}
config = TrainConfig(model="fcn-mini", height=16, width=16, channels="1/4", batch=4,
                     steps={steps}, twin=True)
train(config, out=Path(sys.argv[1]), progress=False, log=False, save_every={save_every})
"""

#: Where a run is killed: in a step of the integers, of the twin, or while it writes a checkpoint.
IN_STEP = """
step = loop.{trainee}.step
loop.{trainee}.step = lambda s, n, *a: die() if n == {number} else step(s, n, *a)
"""
IN_WRITE = """
import numpy as np
savez, count = np.savez, []
def write(file, **arrays):
    count.append(0)
    if len(count) == 3:
        file.write(b"half"); file.flush(); die()
    savez(file, **arrays)
np.savez = write
"""


def start(out, *, steps, patch="", save_every=2):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            SCRIPT.format(steps=steps, patch=patch, save_every=save_every),
            str(out),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    "patch",
    [
        IN_STEP.format(trainee="Integers", number=0),
        IN_STEP.format(trainee="Integers", number=5),
        IN_STEP.format(trainee="Floats", number=3),
        IN_WRITE,
    ],
    ids=["first-step", "step", "twin", "write"],
)
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, finished, patch):
    _, expected = finished
    process = start(tmp_path, steps=8, patch=patch)
    _, error = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, error
    assert not (tmp_path / "metrics.json").exists()
    metrics = train(TrainConfig(**TINY, steps=8, twin=True), out=tmp_path, **QUIET)
    assert metrics["digest"] == expected["digest"]
    assert metrics["loss"] == expected["loss"]
    assert metrics["miou"] == expected["miou"]
    assert metrics["float_miou"] == expected["float_miou"]
    assert not list(tmp_path.glob(".*"))


def wait_for(path, process):
    limit = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_sigint_finishes_the_step_and_saves(tmp_path):
    process = start(tmp_path, steps=100000, save_every=1)
    wait_for(tmp_path / "checkpoint.npz", process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "interrupted after step" in error and "the same command goes on" in error
    done = len(load_arrays(tmp_path / "checkpoint.npz")["losses"])
    assert f"after step {done} of 100000" in error


def test_another_configuration_is_refused(finished):
    out, _ = finished
    with pytest.raises(IntaglioError, match="holds another run, with batch = 4 instead of 5"):
        train(TrainConfig(**TINY | {"batch": 5}, steps=8, twin=True), out=out, **QUIET)


def test_a_twin_may_come_later(finished, tmp_path):
    _, together = finished
    first = train(TrainConfig(**TINY, steps=8), out=tmp_path, **QUIET)
    assert "float_miou" not in first
    later = train(TrainConfig(**TINY, steps=8, twin=True), out=tmp_path, **QUIET)
    assert {**later, "seconds": 0} == {**together, "seconds": 0}
    assert load_run(tmp_path)[1].twin
    with pytest.raises(IntaglioError, match="with twin = True instead of False"):
        train(TrainConfig(**TINY, steps=8), out=tmp_path, **QUIET)


def test_a_wrong_path_of_weights_is_told_before_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Shapes, "preload", lambda *_, **__: pytest.fail("read"))
    config = TrainConfig(**TINY, weights=str(tmp_path / "missing.pth"))
    with pytest.raises(IntaglioError, match=r"missing\.pth: no such file"):
        train(config, out=tmp_path / "run", **QUIET)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    else:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, finished, how):
    import shutil

    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    damage(out / "checkpoint.npz", how)
    for attempt in (
        lambda: load_run(out),
        lambda: train(TrainConfig(**TINY, steps=8, twin=True), out=out, **QUIET),
    ):
        with pytest.raises(IntaglioError, match=r"checkpoint.npz: the checkpoint is damaged") as e:
            attempt()
        assert "\n" not in str(e.value)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, finished):
    import shutil

    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"channels": "1/2"}))
    with pytest.raises(IntaglioError, match="not a checkpoint of fcn-mini"):
        load_run(out)
    (out / "config.json").write_text(json.dumps(config | {"colour": 1}))
    with pytest.raises(IntaglioError, match="not the configuration of a run"):
        load_run(out)
    (out / "config.json").write_text("{")
    with pytest.raises(IntaglioError, match="not readable as JSON"):
        load_run(out)
    with pytest.raises(IntaglioError, match="holds no run; intaglio train --out"):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "values, text",
    [
        (dict(model="unet"), "'unet' is unknown"),
        (dict(steps=0), r"steps must be in \[1, 10000000\], not 0"),
        (dict(height=7), r"height must be in \[8, 4088\], not 7"),
        (dict(rate="0"), r"learning rate must be in \(0, 16\], not 0"),
        (dict(warmup=2000), r"warmup must be in \[0, 999\], not 2000"),
        (dict(power=3), "power must be 1 or 2, not 3"),
    ],
)
def test_wrong_configurations_are_refused(values, text):
    with pytest.raises(IntaglioError, match=text):
        TrainConfig(**values)


def test_divergence_is_one_clear_line(tmp_path, monkeypatch):
    import intaglio.train.loop as loop

    def step(self, number, images, labels):
        if number == 2:
            raise ValueError("a sum of 2**60 steps is too large")
        return 1.0

    monkeypatch.setattr(loop.Integers, "step", step)
    text = r"diverged in step 2 \(a sum of 2\*\*60 steps is too large\).* smaller .* than 1/20"
    with pytest.raises(IntaglioError, match=text):
        train(TrainConfig(**TINY, steps=4), out=tmp_path, **QUIET)
    assert not (tmp_path / "metrics.json").exists()


def test_tensorboard_logs_and_learning(tmp_path):
    """Twenty steps on four scenes: the loss falls, and the logs say so."""
    config = TrainConfig(**TINY | {"channels": "1/2"}, steps=20, rate="1/10", augment=False)
    metrics = train(config, out=tmp_path, progress=False, log_every=8)
    curve = metrics["loss"]["int"]
    assert np.mean(curve[-5:]) < 0.8 * np.mean(curve[:3])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = EventAccumulator(str(tmp_path / "tb"))
    logs.Reload()
    assert len(logs.Scalars("loss/int")) == 20
    assert logs.Scalars("loss/int")[-1].value == pytest.approx(curve[-1], rel=1e-5)
    tags = set(logs.Tags()["scalars"])
    for name, _ in load_run(tmp_path)[0].named_parameters():
        assert {f"gradient/{name}", f"exponent/{name}"} <= tags
        assert len(logs.Scalars(f"gradient/{name}")) == 3  # steps 0, 8 and 16
    assert Path(tmp_path / "metrics.json").exists()
