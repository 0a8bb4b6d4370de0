"""The whole chain through the command line, from training to the report."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from chain import intaglio
from PIL import Image

from intaglio.data import CamVid
from intaglio.data.camvid import CAMVID_CLASSES
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import bytes_digest
from intaglio.spec.program import load_program


def values(run) -> int:
    """Return the bytes of all values of the frozen graph, the input included."""
    from intaglio.freeze import read_onnx

    graph = read_onnx(run / "model.onnx")
    return sum(int(np.prod(value.shape)) for value in graph.values.values())


def test_the_run_folder_holds_what_the_commands_made(run) -> None:
    names = {path.name for path in run.iterdir()}
    made = {"config.json", "checkpoint.npz", "twin.npz", "metrics.json", "tb"}
    made |= {"model.onnx", "program.npz", "accelerator.v"}
    assert made <= names
    assert not [name for name in names if name.startswith(".")], "a temporary file was left"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 3 and 0 <= metrics["miou"] <= 1 and 0 <= metrics["float_miou"] <= 1
    program = load_program(run / "program.npz")
    assert program.config == CONFIGS["mini-8x8"]
    assert CONFIGS["mini-8x8"].digest() in (run / "accelerator.v").read_text()[:1000]


def test_commands_again_give_the_same_bytes(copy) -> None:
    before = {name: (copy / name).read_bytes() for name in ("model.onnx", "program.npz")}
    assert intaglio("freeze", copy, "--json").data["layers"] == 23
    assert intaglio("compile", copy, "--config", "mini-8x8", "--json").data["instructions"] > 23
    assert before == {name: (copy / name).read_bytes() for name in before}


def test_software_executors_agree(run, tmp_path) -> None:
    result = intaglio(
        "verify", run, "--images", 2, "--on", "torch,spec,onnx,golden", "--out", tmp_path, "--json"
    )
    data = result.data
    assert result.status == 0
    assert data["mismatches"] == 0 and data["first_mismatch"] == ""
    assert data["images"] == 2 and data["layers"] == 23
    assert data["executors"] == ["torch", "spec", "onnx", "golden"]
    assert data["bytes_compared"] == 3 * 2 * values(run)
    assert json.loads((tmp_path / "verify.json").read_text()) == data


@pytest.mark.rtl
def test_hardware_agrees_and_the_report_shows_it(copy) -> None:
    result = intaglio("verify", copy, "--on", "torch,onnx,golden,verilator,icarus", "--json")
    data = result.data
    assert result.status == 0, result.err
    assert data["mismatches"] == 0
    assert data["bytes_compared"] == 4 * values(copy)
    # The counters count from start to stop, in both simulators the same cycles.
    assert data["counters"]["verilator"] == data["counters"]["icarus"]
    cycles = data["counters"]["verilator"]["cycles"]
    assert sum(row["cycles"] for row in data["layer_table"]) <= cycles
    assert abs(data["model_counters"]["cycles"] - cycles) <= 0.05 * cycles
    busy = data["counters"]["verilator"]["array_busy"]
    assert busy * 64 >= sum(row["macs"] for row in data["layer_table"])

    made = intaglio("report", copy, "--images", 2, "--json").data
    page = (copy / "report.html").read_text()
    assert made["artifacts"] == [
        "checkpoint.npz",
        "model.onnx",
        "program.npz",
        "verify.json",
        "accelerator.v",
    ]
    assert not re.search(r"""(src|href)=["'](?!data:)""", page), "the page needs a network"
    assert page.count("data:image/png;base64,") == 2 * 4
    for name in (
        "icarus",
        "aspp.convs.1",
        "cycle model",
        bytes_digest((copy / "accelerator.v").read_bytes()),
    ):
        assert name in page
    assert f"{data['bytes_compared']:,}" in page


@pytest.mark.rtl
def test_icarus_may_run_a_smaller_image(run, tmp_path) -> None:
    words = ("verify", run, "--images", 2, "--on", "torch,onnx,icarus", "--out", tmp_path)
    result = intaglio(*words, "--icarus-size", "8x16", "--json")
    data = result.data
    assert (result.status, data["mismatches"]) == (0, 0)
    found = {(row["name"], row["compared_with"], *row["size"]) for row in data["comparisons"]}
    assert found == {("onnx", "torch", 32, 32), ("icarus", "torch", 8, 16)}
    whole, small = (row["bytes_compared"] for row in data["comparisons"])
    assert whole == 2 * values(run) and 0 < small < whole / 4
    assert data["layer_size"] == [8, 16] and data["images"] == 2
    for size, text in (("64x64", "larger than the image"), ("12x16", "multiple of 8, not 12")):
        assert text in intaglio(*words, "--icarus-size", size).error
    text = intaglio("verify", run, "--on", "torch,onnx", "--icarus-size", "8x8").error
    assert "icarus is not among --on" in text


def test_run_writes_class_maps_and_overlays(run, tmp_path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    maps = {}
    for target, executor in ((run / "program.npz", "golden"), (run, "onnx"), (run, "torch")):
        folder = tmp_path / executor
        result = intaglio(
            "run", target, "--on", executor, "--input", tmp_path / "photo.png", "--out", folder,
            "--json",
        )  # fmt: skip
        found = result.data["images"][0]
        assert sum(found["pixels"].values()) == 32 * 32
        with Image.open(folder / "photo-classes.png") as picture:
            assert picture.mode == "P" and picture.size == (32, 32)
            maps[executor] = np.array(picture)
        with Image.open(folder / "photo-overlay.png") as picture:
            assert picture.mode == "RGB" and picture.size == (32, 32)
    assert maps["golden"].max() < 11
    np.testing.assert_array_equal(maps["golden"], maps["onnx"])
    np.testing.assert_array_equal(maps["golden"], maps["torch"])


def test_a_program_alone_runs(run, tmp_path) -> None:
    lonely = tmp_path / "program.npz"
    lonely.write_bytes((run / "program.npz").read_bytes())
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "black.png")
    words = ("run", lonely, "--input", tmp_path / "black.png", "--json")
    assert intaglio(*words).data["on"] == "golden"
    text = intaglio(*words, "--on", "onnx").error
    assert "name the model.onnx or the run folder" in text


def test_eval_gives_the_same_in_torch_and_in_onnx_runtime(run) -> None:
    in_torch = intaglio("eval", run, "--json").data
    in_onnx = intaglio("eval", run / "model.onnx", "--json").data
    for key in ("images", "miou", "pixel_accuracy", "iou", "classes"):
        assert in_torch[key] == in_onnx[key], key
    trained = json.loads((run / "metrics.json").read_text())
    assert in_torch["miou"] == trained["miou"] and in_torch["images"] == 3


def test_eval_draws_class_maps_and_overlays(run, tmp_path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in ("b.png", "a.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "folder.png").mkdir()
    found = []
    for target in (run, run / "model.onnx"):
        out = tmp_path / f"pictures-{len(found)}"
        data = intaglio("eval", target, "--input", folder, "--out", out, "--json").data
        assert [Path(entry["input"]).name for entry in data["images"]] == ["a.jpg", "b.png"]
        for entry in data["images"]:
            mask = np.array(Image.open(entry["classes"]))
            assert mask.shape == (32, 32) and sum(entry["pixels"].values()) == mask.size
            assert np.array(Image.open(entry["overlay"])).shape == (32, 32, 3)
        found.append([np.array(Image.open(entry["classes"])) for entry in data["images"]])
    assert all((a == b).all() for a, b in zip(*found, strict=True))
    result = intaglio("eval", run, "--images", 2, "--out", tmp_path / "val", "--json")
    assert result.data["images"] == 2 and len(list((tmp_path / "val").glob("*-overlay.png"))) == 2

    assert "leave out --data" in intaglio("eval", run, "--input", folder, "--split", "val").error
    (folder / "a.png").write_bytes(b"broken")
    out = tmp_path / "nothing"
    assert "a.jpg and" in intaglio("eval", run, "--input", folder, "--out", out).error
    (folder / "a.jpg").unlink()
    text = intaglio("eval", run, "--input", folder, "--out", out).error
    assert "a.png: broken image" in text and not out.exists()
    (tmp_path / "empty").mkdir()
    assert "no images (.png" in intaglio("eval", run, "--input", tmp_path / "empty").error


@pytest.mark.parametrize("finished", [True, False])
def test_eval_and_freeze_need_no_folder_that_is_gone(copy, data, tmp_path, finished: bool) -> None:
    expected = intaglio("eval", copy, "--json").data
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"data": "camvid:/gone/CamVid"}))
    if not finished:
        (copy / "metrics.json").unlink()
    assert intaglio("eval", copy, "--data", data, "--json").data == expected
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "black.png")
    result = intaglio("eval", copy, "--input", tmp_path / "black.png", "--json")
    assert result.status == 0, result.err
    entry = result.data["images"][0]
    assert set(entry["pixels"]) <= set(CAMVID_CLASSES)
    with Image.open(entry["classes"]) as picture:
        assert picture.getpalette()[: 3 * 11] == CamVid.palette.reshape(-1).tolist()
    assert "/gone/CamVid: no such folder" in intaglio("eval", copy).error
    result = intaglio("freeze", copy, "--out", tmp_path / "again.onnx", "--json")
    assert result.status == 0, result.err


def test_eval_names_classes_by_the_metrics_or_numbers(copy) -> None:
    from intaglio.cli.runs import class_names, load_model
    from intaglio.data import Ade20k

    model = load_model(copy)
    assert class_names(copy, model, Ade20k) == CAMVID_CLASSES
    (copy / "metrics.json").unlink()
    assert class_names(copy, model, CamVid) == CAMVID_CLASSES
    assert class_names(copy, model, Ade20k) == tuple(str(k) for k in range(11))
    (copy / "metrics.json").write_text("{")
    with pytest.raises(IntaglioError, match="metrics.json: not readable as JSON"):
        class_names(copy, model, CamVid)


def test_verify_needs_no_run_folder(run, tmp_path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes((run / "model.onnx").read_bytes())
    words = ("verify", model, "--on", "spec,torch,onnx,golden", "--config", "tiny-8x8")
    result = intaglio(*words, "--json")
    assert result.data["mismatches"] == 0
    assert result.data["bytes_compared"] == 3 * values(run)
    small = intaglio("verify", model, "--on", "torch,icarus", "--icarus-size", "8x16")
    assert "needs the run folder" in small.error


def test_a_difference_is_a_failure_that_names_the_place(copy, monkeypatch) -> None:
    from intaglio_sim import executors

    make = executors._MAKERS["golden"]

    def broken(network):
        run = make(network)

        def wrong(image):
            layers = run(image)
            layers["layer2.0.conv1"][1, 2, 3] ^= 1
            return layers

        return wrong

    monkeypatch.setitem(executors._MAKERS, "golden", broken)
    result = intaglio("verify", copy, "--on", "spec,onnx,golden")
    assert result.status == 1
    assert "1 MISMATCHES" in result.out.splitlines()[-1]
    assert "layer layer2.0.conv1: channel 1, row 2, column 3" in result.out
    comparisons = json.loads((copy / "verify.json").read_text())["comparisons"]
    assert [row["mismatches"] for row in comparisons] == [0, 1]
