"""What a user can do wrong: status 1, one line that names file and remedy, nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from chain import TINY, intaglio
from onnx import helper, numpy_helper


def listing(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def edited(copy, edit) -> None:
    """Alter model.onnx in ``copy``."""
    model = onnx.load(copy / "model.onnx")
    edit(model)
    (copy / "model.onnx").write_bytes(model.SerializeToString())


def first(model, op):
    return next(node for node in model.graph.node if node.op_type == op)


def test_truncated_onnx(copy) -> None:
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[: len(data) // 2])
    before = listing(copy)
    for words in (("compile", copy, "--config", "mini-8x8"), ("verify", copy), ("report", copy)):
        assert "model.onnx: not a valid ONNX model" in intaglio(*words).error
    assert listing(copy) == before


def test_unknown_attribute(copy) -> None:
    edited(copy, lambda m: first(m, "conv").attribute.append(helper.make_attribute("groups", 2)))
    before = listing(copy)
    text = intaglio("compile", copy, "--config", "mini-8x8").error
    assert "model.onnx: " in text and "unknown attribute 'groups'" in text
    assert listing(copy) == before


def test_unsupported_operator(copy) -> None:
    def edit(model):
        node = first(model, "conv")
        node.op_type, node.domain = "Relu", ""
        del node.input[1:], node.attribute[:]

    edited(copy, edit)
    text = intaglio("compile", copy, "--config", "mini-8x8").error
    assert "Relu" in text and "model.onnx: " in text


def test_overflow_bound(copy) -> None:
    """A first layer of 65,536 weights of -128 could reach 2**31: refused, whatever the images."""

    def edit(model):
        node = first(model, "conv")
        name = node.input[1]
        weight = next(item for item in model.graph.initializer if item.name == name)
        outputs = numpy_helper.to_array(weight).shape[0]
        side = 210
        large = np.full((outputs, 3, side, side), -128, np.int8)
        weight.CopyFrom(numpy_helper.from_array(large, name))
        padding = next(item for item in node.attribute if item.name == "padding")
        padding.ints[:] = [side - 1] * 4

    edited(copy, edit)
    text = intaglio("compile", copy, "--config", "mini-8x8").error
    assert "model.onnx: " in text and "overflow" in text


def test_program_for_another_configuration(copy) -> None:
    text = intaglio("verify", copy, "--on", "onnx,golden", "--config", "tiny-8x8").error
    assert "program.npz: " in text and "mini-8x8" in text and "intaglio compile" in text


def test_program_from_another_graph(copy) -> None:
    intaglio("freeze", copy, "--size", "40x32")
    text = intaglio("verify", copy, "--on", "onnx,golden").error
    assert f"renew it with 'intaglio compile {copy / 'model.onnx'}'" in text
    text = intaglio("report", copy).error
    assert "program.npz: compiled from graph" in text


def test_truncated_program(copy, tmp_path) -> None:
    data = (copy / "program.npz").read_bytes()
    (copy / "program.npz").write_bytes(data[: len(data) - 100])
    text = intaglio("verify", copy, "--on", "onnx,golden").error
    assert "program.npz: not a program file" in text


def test_model_older_than_the_checkpoint(copy, data) -> None:
    for name in ("checkpoint.npz", "twin.npz", "config.json", "metrics.json"):
        (copy / name).unlink()
    result = intaglio("train", "--data", data, *TINY, "--steps", 1, "--out", copy)
    assert result.status == 0, result.err
    for command in ("verify", "report", "compile"):
        words = ("--config", "mini-8x8") if command == "compile" else ()
        text = intaglio(command, copy, *words).error
        assert "model.onnx: frozen from checkpoint" in text
        assert f"renew it with 'intaglio freeze {copy}'" in text


def test_verification_of_another_model(copy) -> None:
    assert intaglio("verify", copy, "--on", "spec,onnx").status == 0
    path = copy / "verify.json"
    text = path.read_text().replace('"graph_digest": "', '"graph_digest": "0')
    path.write_text(text)
    assert f"renew it with 'intaglio verify {copy}'" in intaglio("report", copy).error


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_corrupt_checkpoint(copy, data, damage) -> None:
    path = copy / "checkpoint.npz"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        content[len(content) // 2] ^= 0x55
        path.write_bytes(content)
    else:
        path.unlink()
    before = listing(copy)
    for words in (("freeze", copy), ("report", copy)):
        text = intaglio(*words).error
        assert "checkpoint.npz: " in text and "train" in text
    assert listing(copy) == before


def test_interrupted_training_resumes_to_the_same_bytes(tmp_path, data) -> None:
    """SIGKILL after the first checkpoint, then the same command again."""
    options = ("--data", data, *TINY, "--steps", 40, "--save-every", 1)
    words = [sys.executable, "-m", "intaglio", "train", *options, "--out", tmp_path / "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    checkpoint = tmp_path / "killed" / "checkpoint.npz"
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the training ended before it was killed"
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert "metrics.json: no such file" in intaglio("report", tmp_path / "killed").error

    resumed = intaglio("train", *options, "--out", tmp_path / "killed", "--json")
    whole = intaglio("train", *options, "--out", tmp_path / "whole", "--json")
    assert resumed.status == whole.status == 0, resumed.err
    assert resumed.data["digest"] == whole.data["digest"]
    assert resumed.data["miou"] == whole.data["miou"]


def test_a_run_folder_of_another_run(copy, data) -> None:
    before = listing(copy)
    text = intaglio("train", "--data", data, *TINY, "--steps", 4, "--out", copy).error
    assert "holds another run, with steps = 3 instead of 4" in text
    assert listing(copy) == before


def test_missing_things_name_the_command_that_makes_them(tmp_path) -> None:
    for words, remedy in (
        (("freeze", tmp_path / "no"), "intaglio train --out"),
        (("compile", tmp_path / "no.onnx", "--config", "mini-8x8"), "intaglio freeze"),
        (("run", tmp_path / "no.npz", "--input", "x.png"), "intaglio compile"),
        (("verify", tmp_path / "no.onnx"), "intaglio freeze"),
        (("eval", tmp_path / "no.onnx"), "intaglio freeze"),
        (("eval", tmp_path / "no"), f"'intaglio train --out {tmp_path}/no' makes it"),
    ):
        assert remedy in intaglio(*words).error
    assert list(tmp_path.iterdir()) == []
