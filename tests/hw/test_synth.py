"""Synthesis: counts, errors; the whole accelerator and its placement are slow."""

import pytest

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio_hw import synth
from intaglio_hw.boards import BOARDS, load_board

SMALLEST = AcceleratorConfig(
    name="least-8x1",
    K=1,
    drain_lanes=1,
    ifm_depth=16,
    wgt_depth=16,
    vec_depth=16,
    ofm_depth=16,
    prm_depth=16,
    acc_depth=16,
    queue_depth=2,
    burst_beats=1,
)
PARTS = {
    "arbiter", "array", "csr", "ifm", "load", "ofm", "prm", "sequencer", "store", "vec", "vector",
    "wgt", "top",
}  # fmt: skip


def test_refuses_unknown_chips():
    config = CONFIGS["tiny-8x8"]
    with pytest.raises(ValueError, match="family must be one of ecp5, not 'ice40'"):
        synth.synthesize(config, family="ice40")
    with pytest.raises(ValueError, match="device must be one of 25k, 45k, 85k, not '12k'"):
        synth.synthesize(config, device="12k")


def test_refuses_a_missing_netlist(tmp_path):
    with pytest.raises(IntaglioError, match="none.json: no such netlist"):
        synth.place_and_route(tmp_path / "none.json")


def test_gives_up(tmp_path):
    with pytest.raises(IntaglioError, match="took longer than 0 s"):
        synth.synthesize(SMALLEST, netlist=tmp_path / "netlist.json", limit_s=0.0)
    assert not list(tmp_path.iterdir())


def test_counts():
    cells = {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "PFUMX": 9}
    assert synth._count(cells) == {
        "lut": 24, "carry": 6, "lutram": 8, "ff": 7, "dsp": 0, "bram": 0,
    }  # fmt: skip
    names = ["harness", "harness.accelerator", "harness.accelerator.csr", "harness.accelerator.a.b"]
    assert synth._components(names) == ["harness.accelerator.csr"]


def test_the_critical_path_is_that_of_the_slowest_clock():
    def step(kind, cell, delay):
        return {"type": kind, "delay": delay, "from": {"cell": "x"}, "to": {"cell": cell}}

    fast = {"from": "posedge fast", "to": "posedge fast", "path": [step("setup", "a", 0.1)]}
    slow = {
        "from": "posedge slow",
        "to": "posedge slow",
        "path": [step("clk-to-q", "accelerator.csr.b", 0.5), step("setup", "c", 1.25)],
    }
    between = {"from": "posedge slow", "to": "posedge fast", "path": [step("setup", "d", 9.0)]}
    report = {
        "fmax": {"fast": {"achieved": 400.0}, "slow": {"achieved": 100.0}},
        "critical_paths": [fast, between, slow],
    }
    assert synth._critical_path(report) == [
        {"kind": "clk-to-q", "cell": "csr.b", "delay_ns": 0.5},
        {"kind": "setup", "cell": "c", "delay_ns": 1.25},
    ]


def test_boards_name_devices_that_exist():
    for board in BOARDS.values():
        assert board.device in synth.DEVICES[board.family]
    assert load_board("ulx3s-85f").config == CONFIGS["mini-8x8"]
    with pytest.raises(IntaglioError, match="unknown board 'ulx4s'; known: ulx3s-85f"):
        load_board("ulx4s")


@pytest.mark.synth
@pytest.mark.slow
def test_the_smallest_accelerator_from_rtl_to_frequency(tmp_path):
    steps = []
    netlist = tmp_path / "netlist.json"
    result = synth.synthesize(SMALLEST, netlist=netlist, progress=steps.append)
    assert result["config"] == "least-8x1" and result["digest"] == SMALLEST.digest()
    assert set(result["components"]) == PARTS
    for kind, total in result["resources"].items():
        assert total == sum(part[kind] for part in result["components"].values())
        if kind in result["available"]:
            assert 0 <= total <= result["available"][kind]
    # One lane of eight products; scratchpads hold their bytes in some kind of memory.
    assert result["components"]["array"]["dsp"] == SMALLEST.R * SMALLEST.K
    for name in ("ifm", "wgt", "vec", "ofm"):
        part = result["components"][name]
        assert part["bram"] + part["lutram"] > 0 and part["dsp"] == 0
    assert "ABC9 pass" in steps

    steps.clear()
    routed = synth.place_and_route(netlist, frequency_mhz=50, progress=steps.append)
    assert routed["fmax_mhz"] > 20 and routed["clocks"]
    assert routed["utilization"]["MULT18X18D"]["used"] == result["resources"]["dsp"]
    assert routed["utilization"]["DP16KD"]["used"] == result["resources"]["bram"]
    assert any("outing" in step for step in steps)
    path = routed["critical_path"]
    assert path[0]["kind"] == "clk-to-q" and path[-1]["kind"] == "setup"
    total = sum(step["delay_ns"] for step in path)
    assert total == pytest.approx(1000 / routed["fmax_mhz"], rel=0.01)
