"""Several workers under torchrun: the bytes of one, restarts, interruption."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from intaglio.nn import workers
from intaglio.spec.errors import IntaglioError
from intaglio.train import TrainConfig, train
from intaglio.train.checkpoint import load_arrays

#: With image pooling, whose 1x1 maps are diffused along the batch.
TINY = dict(model="deeplab-mini", height=16, width=16, channels="1/8", batch=4)
STEPS = 4

#: Worker 1 dies in a step of its first life; the checkpoint is older than that.
SCRIPT = """
import os, signal, sys
import intaglio.train.loop as loop
from intaglio.cli import main
step = loop.Integers.step
def dying(self, number, *batch):
    if os.environ["RANK"] == "1" and number == int(sys.argv[1]):
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number, *batch)
loop.Integers.step = dying
sys.exit(main(sys.argv[2:]))
"""


def words(data, out, **more):
    values = {**TINY, "data": data, "steps": STEPS, "out": out, **more}
    return [x for k, v in values.items() for x in (f"--{k.replace('_', '-')}", str(v))]


def torchrun(count, *arguments, restarts=0):
    """Start ``count`` workers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "--max-restarts", str(restarts)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process):
    out, error = process.communicate(timeout=800)
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data):
    """The run of one worker: its metrics and its last checkpoint."""
    out = tmp_path_factory.mktemp("alone")
    config = TrainConfig(**TINY, data=data, steps=STEPS)
    metrics = train(config, out=out, progress=False, log=False)
    return metrics, load_arrays(out / "checkpoint.npz")


def check(out: Path, alone):
    """Compare metrics and checkpoint, every array of it: weights, statistics, momenta, losses."""
    metrics, arrays = alone
    found = json.loads((out / "metrics.json").read_text())
    assert {k: v for k, v in found.items() if k != "seconds"} == {
        k: v for k, v in metrics.items() if k != "seconds"
    }
    other = load_arrays(out / "checkpoint.npz")
    assert other.keys() == arrays.keys()
    for name, array in arrays.items():
        assert other[name].dtype == array.dtype and (other[name] == array).all(), name


def test_four_workers_end_in_the_bytes_of_one(tmp_path, data, alone):
    process = torchrun(4, "-m", "intaglio", "train", *words(data, tmp_path), "--json")
    lines = finish(process).splitlines()
    assert len(lines) == 1  # one result, of worker 0
    assert json.loads(lines[0])["digest"] == alone[0]["digest"]
    check(tmp_path, alone)


def test_two_workers_one_of_which_dies_and_is_restarted(tmp_path, data, alone):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    step = random.Random(time.time_ns()).randrange(STEPS)
    run = tmp_path / "run"
    process = torchrun(2, script, step, "train", *words(data, run, save_every=1), restarts=1)
    finish(process)
    check(run, alone)


def test_a_batch_that_does_not_divide_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(IntaglioError, match="batch 4 is no multiple of the 3 workers"):
        train(TrainConfig(**TINY), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_alone_every_collective_returns_what_it_is_given():
    x = torch.arange(6, dtype=torch.int32).reshape(3, 1, 1, 2)
    with workers.joined():
        assert (workers.count(), workers.rank(), workers.maximum(7)) == (1, 0, 7)
        for function in (workers.total, workers.gather, workers.own, workers.scanned):
            assert function(x) is x
        assert workers.first(lambda: "made") == "made"


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        dict(error_bits=16, error_rounding="stochastic", norm="l2"),
        dict(error_bits=9, master_bits=20, magnitude=False),
    ],
    ids=["16-stochastic-l2", "9-diffusion-20-dropped"],
)
def test_recipes_end_in_the_same_bytes_too(tmp_path, data, recipe):
    values = TINY | recipe | {"steps": STEPS, "data": data}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    out = tmp_path / "alone"
    metrics = train(TrainConfig(**values), out=out, progress=False, log=False)
    expected = metrics, load_arrays(out / "checkpoint.npz")
    run = tmp_path / "run"
    finish(torchrun(2, "-m", "intaglio", "train", "--config", path, "--out", run))
    check(run, expected)


@pytest.mark.slow
def test_sigint_stops_all_workers_after_the_same_step(tmp_path, data):
    values = words(data, tmp_path, steps=100000, save_every=1)
    process = torchrun(2, "-m", "intaglio", "train", *values)
    limit = time.monotonic() + 600
    while not (tmp_path / "checkpoint.npz").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
    done = len(load_arrays(tmp_path / "checkpoint.npz")["losses"])
    assert error.count(f"interrupted after step {done} of 100000") == 1


@pytest.mark.slow
def test_the_twin_is_that_of_one_worker(tmp_path, data):
    config = TrainConfig(**TINY, data=data, steps=2, twin=True)
    metrics = train(config, out=tmp_path / "alone", progress=False, log=False)
    run = tmp_path / "run"
    finish(torchrun(2, "-m", "intaglio", "train", *words(data, run, steps=2), "--twin"))
    found = json.loads((run / "metrics.json").read_text())
    assert found["loss"] == metrics["loss"] and found["float_miou"] == metrics["float_miou"]
