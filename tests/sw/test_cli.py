"""The command line: help without weight, one JSON object, one line for each error."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from intaglio.cli import COMMANDS, common, main
from intaglio.spec.errors import IntaglioError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "amaranth", "cocotb", "PIL", "matplotlib")


def call(*words: object) -> tuple[int, str, str]:
    """Return status, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    return status, out.getvalue(), err.getvalue()


def python(code: str) -> str:
    """Return what ``code`` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from intaglio.cli import main; status = main(['--help']);"
        f"print(status, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = python(code)
    assert out.splitlines()[-1] == "0 []"
    for name in COMMANDS:
        assert f"  {name} " in out, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    words = [name, "rtl"] if name == "bench" else [name]
    status, out, err = call(*words, "--help")
    assert (status, err) == (0, "")
    assert "--json" in out


def test_half_an_installation_names_the_extra(tmp_path) -> None:
    code = f"""
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY[1:]!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
from intaglio.cli import main
sys.stderr = sys.stdout
for words in (
    ["train", "--out", {str(tmp_path)!r}],
    ["train", "--help"],
    ["compile", "model.onnx", "--config", "mini-8x8"],
    ["verilog", "--config", "mini-8x8", "--out", {str(tmp_path / "a.v")!r}],
):
    print(main(words))
"""
    out = python(code)
    assert "error: torch is not installed: pip install 'intaglio[train]'" in out
    assert "error: onnx is not installed: pip install 'intaglio[train]'" in out
    assert "error: amaranth is not installed: pip install 'intaglio[hw]'" in out
    assert "Traceback" not in out
    assert [line for line in out.splitlines() if line.isdigit()] == ["1", "0", "1", "1"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (ZeroDivisionError("oops\nline two"), "ZeroDivisionError: oops line two ('intaglio"),
        (ValueError("R must be 8"), "R must be 8"),
    ],
)
def test_any_error_is_one_line(monkeypatch, tmp_path, error: Exception, text: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("intaglio_hw.elaborate.write_verilog", fail)
    words = ("verilog", "--config", "mini-8x8", "--out", tmp_path / "a.v")
    status, out, err = call(*words)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"intaglio: error: {text}")
    assert "Traceback" not in err
    if isinstance(error, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            main(["--traceback", *map(str, words)])


def test_a_compiler_that_fails_is_said(tmp_path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'cc: no space left' >&2\nexit 4\n")
    compiler.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "intaglio", "train", "--steps", "1", "--batch", "2"]
        + ["--out", str(tmp_path / "run")],
        env={**os.environ, "CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [x for x in done.stderr.splitlines() if "warning" in x]
    assert said == [
        f"intaglio: warning: {compiler}: exit status 4, cc: no space left: no C kernels; "
        "torch operators give the same bytes, several times slower"
    ]


def test_unknown_kernels_are_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("INTAGLIO_KERNELS", "plian")
    monkeypatch.setattr("intaglio.nn.kernels._active", None)
    status, out, err = call("train", "--steps", "1", "--out", tmp_path)
    assert (status, out) == (1, "")
    assert err == "intaglio: error: INTAGLIO_KERNELS must be native or plain, not 'plian'\n"


def test_an_interrupt_is_130(monkeypatch, tmp_path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("intaglio_hw.elaborate.write_verilog", interrupt)
    status, out, err = call("verilog", "--config", "mini-8x8", "--out", tmp_path / "a.v")
    assert (status, out) == (130, "")
    assert err.endswith("intaglio: interrupted\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("verilog",), "give --board (ulx3s-85f"),
        (("verilog", "--board", "nexys"), "unknown board 'nexys'; known: ulx3s-85f"),
        (("verilog", "--config", "huge"), "configuration 'huge' is neither a file nor one of"),
        (("synth",), "synth needs --board"),
        (("bench", "train", "--model", "resnet"), "model 'resnet' is unknown"),
        (("bench", "rtl", "--model", "resnet"), "model 'resnet' is unknown"),
        (("bench", "rtl", "--model", "fcn-mini", "--size", "big"), "a size is HEIGHTxWIDTH"),
        (("bench", "rtl", "--model", "fcn-mini", "--size", "60"), "multiple of 8, not 60"),
        (("fuzz", "--on", "spec,jax"), "fuzz runs on spec, torch, onnx"),
        (
            ("fuzz", "--on", "spec,golden", "--programs", "3"),
            "--programs and --table need simulators",
        ),
        (("train", "--model", "unet"), "model 'unet' is unknown"),
        (("train", "--data", "kitti:x"), "unknown data set 'kitti:x'"),
    ],
)
def test_wrong_requests_are_named(words: tuple[str, ...], text: str) -> None:
    status, out, err = call(*words)
    assert (status, out) == (1, "")
    assert text in err.splitlines()[-1]


def test_bench_rtl_writes_the_time_line(tmp_path) -> None:
    words = ("bench", "rtl", "--model", "fcn-mini", "--size", "32", "--width", "1/4", "--json")
    status, out, _ = call(*words, "--trace", tmp_path / "trace.json")
    cycles = json.loads(out)["cycles"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    ends = [event["ts"] + event["dur"] for event in events if event["ph"] == "X"]
    assert status == 0
    assert cycles * 0.99 < max(ends) <= cycles


def test_verify_stops_at_the_first_executor_that_differs(monkeypatch) -> None:
    from intaglio_sim import executors

    def broken(network):
        correct = executors.make_executor("spec", network)

        def run(image):
            layers = {name: array.copy() for name, array in correct(image).items()}
            layers[network.graph.outputs[0]].flat[-1] += 1
            return layers

        return run

    monkeypatch.setitem(executors._MAKERS, "golden", broken)
    words = ("verify", "fcn-mini", "--size", "32x32", "--width", "1/4", "--on", "spec,golden,onnx")
    status, out, _ = call(*words, "--json")
    data = json.loads(out)
    assert (status, data["mismatches"]) == (1, 1)
    assert [row["name"] for row in data["comparisons"]] == ["golden"]
    status, out, _ = call(*words, "--keep-going", "--json")
    data = json.loads(out)
    assert (status, data["mismatches"]) == (1, 1)
    assert [(row["name"], row["mismatches"]) for row in data["comparisons"]] == [
        ("golden", 1),
        ("onnx", 0),
    ]


def test_a_wrong_option_is_2() -> None:
    status, _, err = call("verify", "runs/x", "--imges", "3")
    assert status == 2 and "--images" in err


def test_training_configuration_file(tmp_path) -> None:
    path = tmp_path / "config.json"
    for text, found in (
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"stepz": 3}', "unknown value 'stepz'; known: model"),
        ('{"steps": 0}', "steps must be in [1, 10000000], not 0"),
    ):
        path.write_text(text)
        status, out, err = call("train", "--config", path, "--out", tmp_path / "run")
        assert (status, out) == (1, "") and found in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_bench_rtl() -> None:
    words = ("bench", "rtl", "--model", "fcn-mini", "--size", "16x24", "--width", "1/4")
    status, out, _ = call(*words, "--json")
    data = json.loads(out)
    assert status == 0
    assert {"cycles", "macs", "utilization", "bytes_moved"} <= data.keys()
    assert data["macs"] == sum(row["macs"] for row in data["layers"])
    assert data["utilization"] == pytest.approx(data["macs"] / (64 * data["cycles"]))
    assert sum(row["model_cycles"] for row in data["layers"]) <= data["cycles"]
    slow = json.loads(call(*words, "--bandwidth", "2", "--json")[1])
    assert slow["cycles"] > data["cycles"]
    assert (slow["bandwidth"], data["bandwidth"]) == (2, 8)
    far = json.loads(call(*words, "--latency", "300", "--json")[1])
    assert (far["latency"], data["latency"]) == (300, 20) and far["cycles"] > data["cycles"]
    status, _, error = call(*words, "--bandwidth", "3")
    assert status == 1 and "must divide the width of the bus, 8 bytes, not be 3" in error
    text = call(*words)[1].splitlines()
    assert len(text) == len(data["layers"]) + 2 and f"{data['cycles']:,} cycles" in text[-1]


def test_verify_of_a_named_network() -> None:
    words = ("verify", "fcn-mini", "--size", "16x24", "--width", "1/4", "--on", "torch,onnx,golden")
    status, out, _ = call(*words, "--bandwidth", "4", "--json")
    data = json.loads(out)
    assert status == 0 and data["mismatches"] == 0 and data["bytes_compared"] > 0
    assert (data["bandwidth"], data["latency"]) == (4, 20)


def test_bench_train() -> None:
    words = ("bench", "train", "--model", "fcn-mini", "--height", "16", "--width", "24")
    words += ("--channels", "1/4", "--batch", "2", "--steps", "2", "--threads", "1", "--json")
    status, out, _ = call(*words, "--no-memory")
    data = json.loads(out)
    assert status == 0 and data["step_ratio"] > 0 and data["cpu_ratio"] > 0
    assert len(data["seconds"]["int"]) == len(data["seconds"]["float"]) == 2
    parts = {"products and batch norm, forward", "products, weight gradient", "update"}
    parts |= {"products, input gradient", "batch norm, backward"}
    assert parts <= set(data["parts"])
    assert sum(data["parts"].values()) == pytest.approx(1)


def test_bench_train_beside_brevitas() -> None:
    pytest.importorskip("brevitas")
    words = ("bench", "train", "--model", "fcn-mini", "--height", "16", "--width", "24", "--json")
    words += ("--channels", "1/4", "--batch", "2", "--steps", "2", "--threads", "1")
    status, out, _ = call(*words, "--peer", "brevitas")
    data = json.loads(out)
    assert status == 0 and data["brevitas_step_ratio"] > 0
    assert data["brevitas_peak_memory_ratio"] > 0
    assert len(data["seconds"]["brevitas"]) == 2 and data["brevitas_seconds"] > 0
    assert data["peak_bytes"]["brevitas"] > 0


@pytest.mark.parametrize("name", ["deeplab-mini", "fcn-vgg16"])
def test_the_peer_is_the_twin_in_eight_bits(name: str) -> None:
    quant = pytest.importorskip("brevitas.nn")
    import torch

    from intaglio.cli.bench_peers import brevitas_twin
    from intaglio.nn import twin
    from intaglio.nn.models import build, build_twin

    network = build(name, classes=5, width="1/8", seed=3)
    floats, peer = build_twin(network), brevitas_twin(network)
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    convolutions = [m for m in peer.modules() if isinstance(m, kinds)]
    count = sum(isinstance(m, twin.Conv2d | twin.ConvTranspose2d) for m in floats.modules())
    assert len(convolutions) == count > 0
    assert all(isinstance(m, quant.QuantConv2d | quant.QuantConvTranspose2d) for m in convolutions)
    relus = sum(getattr(m, "relu", False) is True for m in floats.modules())
    assert sum(isinstance(m, quant.QuantReLU) for m in peer.modules()) == relus > 0
    known = dict(peer.named_parameters())
    assert all(torch.equal(known[n], p) for n, p in floats.named_parameters())
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    a, b = floats.train()(images), peer.train()(images)
    assert a.shape == b.shape and not torch.equal(a, b)
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.9


def test_bench_train_without_brevitas(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "brevitas", None)
    monkeypatch.setitem(sys.modules, "brevitas.nn", None)
    words = ("bench", "train", "--model", "fcn-mini", "--height", "16", "--width", "24")
    status, _, err = call(*words, "--channels", "1/8", "--batch", "1", "--peer", "brevitas")
    assert status == 1 and "pip install brevitas==" in err and err.strip().count("\n") == 0


def test_bench_infer() -> None:
    words = ("bench", "infer", "--model", "fcn-mini", "--height", "16", "--width", "24")
    status, out, _ = call(*words, "--channels", "1/4", "--runs", "2", "--threads", "1", "--json")
    data = json.loads(out)
    assert status == 0 and data["float_ratio"] > 0 and data["onnxruntime_int8_ratio"] > 0
    assert {len(seconds) for seconds in data["seconds"].values()} == {2}


def test_fuzz() -> None:
    status, out, _ = call(
        "fuzz", "--count", "3", "--seed", "5", "--on", "spec,onnx,golden", "--json"
    )
    data = json.loads(out)
    assert (status, data["cases"], data["mismatches"], data["failures"]) == (0, 3, 0, [])
    assert data["coverage"]["conv"] >= 3 and data["coverage"]["argmax"] == 3
    assert data["bytes_compared"] > 0


@pytest.mark.parametrize("failures", [0, 1])
def test_fuzz_on_simulators(monkeypatch, tmp_path, failures: int) -> None:
    fuzz = pytest.importorskip("intaglio_sim.fuzz")

    def campaign(count, *, seed, simulators, configs, cases_dir, jobs, progress):
        assert (count, seed, simulators) == (4, 9, ["verilator", "icarus"])
        assert (configs, cases_dir, jobs) == (["mini-8x8"], tmp_path, 1)
        found = fuzz.Campaign(compared=123, worst_cycles=0.004)
        found.failures = [{"case": {"seed": 9}, "first_mismatch": "layer conv1"}] * failures
        return found

    monkeypatch.setattr(fuzz, "fuzz", campaign)
    words = ("fuzz", "--count", "4", "--seed", "9", "--config", "mini-8x8", "--cases", tmp_path)
    status, out, _ = call(*words, "--table", tmp_path / "coverage.md", "--json")
    data = json.loads(out)
    assert (status, data["cases"], data["mismatches"]) == (failures, 4, failures)
    assert data["bytes_compared"] == 123 and data["coverage"] and data["holes"]
    assert (tmp_path / "coverage.md").read_text().startswith("| operation |")
    assert f"{failures} mismatches" in call(*words)[1].splitlines()[-1]


def test_fuzz_shows_how_to_repeat_a_failure(monkeypatch) -> None:
    from intaglio_sim import executors

    monkeypatch.setitem(
        executors._MAKERS,
        "golden",
        lambda network: (
            lambda x: {
                name: value[0] ^ (name != network.graph.inputs[0])
                for name, value in network.graph.evaluate(x[None]).items()
            }
        ),
    )
    status, out, err = call("fuzz", "--count", "1", "--seed", "7", "--on", "spec,golden", "--json")
    assert status == 1
    assert json.loads(out)["failures"][0]["seed"] == 7 and "seed 7: image 0: layer" in err


COUNTS = {"lut": 10, "carry": 0, "lutram": 0, "ff": 20, "dsp": 3, "bram": 4, "spram": 0}
PATH = [
    {"kind": "clk-to-q", "cell": "array.lane0.x", "delay_ns": 0.5},
    {"kind": "logic", "cell": "array.y", "delay_ns": 0.25},
    {"kind": "setup", "cell": "vector.z", "delay_ns": 1.0},
]


@pytest.fixture
def tools(monkeypatch):
    """Replace yosys and nextpnr: seed -> MHz, or the message of a failure."""
    pytest.importorskip("amaranth")
    pytest.importorskip("amaranth_boards")
    speeds: dict[int, float | str] = {1: 90.0, 2: 110.0, 3: 95.0}

    def synthesize(config, *, family, device, part, netlist, progress):
        Path(netlist).write_text("{}")
        return {
            "resources": COUNTS,
            "available": {"lut": 100 if device == "85k" else 9, "dsp": 3},
            "components": {part or "array": COUNTS},
            "family": family,
            "device": device,
            "seconds": 1.0,
        }

    def place_and_route(netlist, *, family, seed, pins, **_):
        assert Path(netlist).is_file() and pins["clk"]
        if isinstance(speeds[seed], str):
            raise IntaglioError(speeds[seed])
        return {"fmax_mhz": speeds[seed], "seed": seed, "seconds": 1.0, "critical_path": PATH}

    monkeypatch.setattr("intaglio_hw.synth.synthesize", synthesize)
    monkeypatch.setattr("intaglio_hw.synth.place_and_route", place_and_route)
    return speeds


def test_synth_is_the_median_of_the_seeds(monkeypatch, tools, tmp_path) -> None:
    def network_rates(config, *, fmax_mhz, memory_mb_s, progress):
        assert (config.name, fmax_mhz, memory_mb_s) == ("wide-8x16", 95.0, 286)
        return {"fcn-mini": {"size": [8, 8], "error": "too large"}}

    monkeypatch.setattr("intaglio.cli.throughput.network_rates", network_rates)
    status, out, _ = call(
        "synth", "--board", "ulx3s-85f", "--seeds", "3", "--out", tmp_path / "s.json", "--json"
    )
    data = json.loads(out)
    assert status == 0
    assert (data["fmax_mhz"], data["mac_per_cycle"], data["resources"]) == (95.0, 128, COUNTS)
    assert data["peak_gops"] == pytest.approx(2 * 128 * 0.095)
    assert data["critical_path"] == [
        {"component": "array.lane0", "delay_ns": 0.5},
        {"component": "array", "delay_ns": 0.25},
        {"component": "vector", "delay_ns": 1.0},
    ]
    assert json.loads((tmp_path / "s.json").read_text()) == data
    (tmp_path / "file").write_text("")
    for option in ("--out", "--netlist"):
        words = ("synth", "--board", "ulx3s-85f", option, tmp_path / "file" / "s.json")
        status, _, err = call(*words)
        assert status == 1 and "yosys:" not in err, "told before the tools run"
    status, _, err = call("synth", "--board", "ulx3s-85f", "--frequency", "0")
    assert status == 2 and "--frequency" in err
    for words, told in (
        (("--clock", "50"), "--clock needs --bitstream"),
        (("--frequency", "nan"), "'nan' is no frequency in MHz"),
        (("--bitstream", "--part", "csr"), "--part does not go with --bitstream"),
    ):
        status, _, err = call("synth", "--board", "ulx3s-85f", *words)
        assert status == 2 and told in err
    data = json.loads(call("synth", "--board", "ulx3s-85f", "--json")[1])
    assert data["fmax_mhz"] is None and data["peak_gops"] is None and data["seeds"] == []


def test_synth_shows_what_a_tool_said(tools) -> None:
    tools[2] = "nextpnr-ecp5 failed: no route"
    status, out, err = call("synth", "--board", "ulx3s-85f", "--part", "csr", "--seeds", "2")
    assert status == 0 and "90.00 MHz (median of 1)" in out
    assert "seed 2: nextpnr-ecp5 failed: no route" in err
    tools[1] = tools[2]
    status, out, _ = call("synth", "--board", "ulx3s-85f", "--part", "csr", "--seeds", "2")
    assert status == 1 and out.splitlines()[-1].endswith("nextpnr-ecp5 failed: no route")


def test_synth_says_what_does_not_fit(tools) -> None:
    status, out, _ = call("synth", "--board", "ulx3s-25f", "--seeds", "1")
    assert status == 1 and "does not fit 25k: 10 LUT of 9" in out
    assert call("synth", "--board", "ulx3s-25f")[0] == 0
    status, _, err = call("synth", "--board", "arty-a7-100t", "--seeds", "1")
    assert status == 1 and "no open tool from pip places and routes for arty-a7-100t" in err


def test_bench_synth_appends_to_the_record(tools, tmp_path) -> None:
    from intaglio_hw.record import read_record

    record = tmp_path / "resources.csv"
    arguments = ("bench", "synth", "--board", "ulx3s-25f", "--board", "arty-a7-100t")
    for count in (1, 2):
        assert call(*arguments, "--seeds", "1", "--record", record)[0] == 0
        entries = read_record(record)
        assert len(entries) == 4 * count
    assert [entry.component for entry in entries[:4]] == ["all", "array"] * 2
    assert entries[-1].counts == COUNTS and entries[-1].board == "arty-a7-100t"
    arguments = ("bench", "synth", "--board", "ulx3s-85f", "--seeds", "2", "--record", record)
    for option, clock in (((), None), (("--parts",), 100.0)):
        assert call(*arguments, *option)[0] == 0
        whole, array = read_record(record)[-2:]
        assert (whole.component, whole.fmax_mhz) == ("all", 100.0)
        assert (array.component, array.fmax_mhz) == ("array", clock)
    status, _, err = call("bench", "synth", "--record", tmp_path / "none" / "r.csv")
    assert status == 1 and "no folder" in err


def test_network_rates_follow_clock_and_memory() -> None:
    pytest.importorskip("torch")
    from intaglio.cli.throughput import network_rates
    from intaglio.spec.config import CONFIGS

    config = CONFIGS["mini-8x8"]
    networks = {"deeplab-mini": ((32, 32), 11), "fcn-mini": ((32, 32), 3)}
    fast = network_rates(config, fmax_mhz=100, memory_mb_s=800, networks=networks)
    slow = network_rates(config, fmax_mhz=100, memory_mb_s=799, networks=networks)
    assert list(fast) == list(slow) == list(networks)
    for name in networks:
        assert fast[name]["memory_interval"] == 1 and slow[name]["memory_interval"] == 2
        assert fast[name]["cycles"] < slow[name]["cycles"]
        assert fast[name]["images_per_s"] == pytest.approx(1e8 / fast[name]["cycles"])
        peak = 2 * config.macs_per_cycle * 0.1
        assert fast[name]["sustained_gops"] == pytest.approx(peak * fast[name]["array_use"])


def test_pages_made_from_tables_are_up_to_date() -> None:
    status, out, _ = call("docs", "--check", "--out", ROOT / "docs" / "guide")
    assert status == 0, f"{out}: run 'intaglio docs'"


def test_pages_show_every_field_and_register(tmp_path) -> None:
    from intaglio.spec import isa, regs

    assert call("docs", "--out", tmp_path, "--check")[0] == 1
    assert call("docs", "--out", tmp_path)[0] == 0
    assert call("docs", "--out", tmp_path, "--check")[0] == 0
    instructions = (tmp_path / "instructions.md").read_text()
    registers = (tmp_path / "registers.md").read_text()
    for instruction in isa.INSTRUCTIONS:
        for field, offset in instruction.offsets().values():
            end = offset + field.width - 1
            assert f"| {end}:{offset} | `{field.name}` |" in instructions
    for register in regs.REGISTERS:
        assert f"| {register.address:#04x} | `{register.name}` | {register.access} |" in registers


def test_size() -> None:
    assert common.parse_size("64x80") == (64, 80)
    assert common.parse_size("33") == (33, 33)
    assert common.parse_size(None) is None
    for text in ("0x8", "8x", "x8", "8x8x8", "-8x8", "8.5"):
        with pytest.raises(common.IntaglioError, match="a size is HEIGHTxWIDTH"):
            common.parse_size(text)
