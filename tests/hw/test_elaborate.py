"""The Verilog of the accelerator: ports, header, determinism, every configuration."""

import dataclasses
import functools
import hashlib
import re
import subprocess
import sys

import pytest

from intaglio.spec import isa
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio_hw import elaborate

#: Corners besides the named configurations: widest bus, one output lane, everything small.
CORNERS = [
    AcceleratorConfig(name="wide-32x2", R=32, K=2, drain_lanes=1, burst_beats=128),
    AcceleratorConfig(
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
    ),
]

#: Elaboration takes seconds, and several tests look at the same text.
rtlil_of = functools.cache(elaborate.rtlil)


def expected_ports(config: AcceleratorConfig) -> dict[str, tuple[str, int]]:
    """Return name -> (direction, width), written out from the AXI4 and AXI4-Lite specifications."""
    beat = 8 * config.R
    ports = {"clk": ("input", 1), "rst": ("input", 1), "interrupt": ("output", 1)}
    for channel in ("aw", "ar"):
        widths = {"id": 1, "addr": 32, "len": 8, "size": 3, "burst": 2, "lock": 1, "cache": 4}
        widths |= {"prot": 3, "qos": 4, "valid": 1}
        for name, width in widths.items():
            ports[f"m_axi_{channel}{name}"] = ("output", width)
        ports[f"m_axi_{channel}ready"] = ("input", 1)
    for name, width in (("data", beat), ("strb", config.R), ("last", 1), ("valid", 1)):
        ports[f"m_axi_w{name}"] = ("output", width)
    for name, width in (("id", 1), ("data", beat), ("resp", 2), ("last", 1), ("valid", 1)):
        ports[f"m_axi_r{name}"] = ("input", width)
    for name, width in (("id", 1), ("resp", 2), ("valid", 1)):
        ports[f"m_axi_b{name}"] = ("input", width)
    ports |= {"m_axi_wready": ("input", 1)}
    ports |= {"m_axi_rready": ("output", 1), "m_axi_bready": ("output", 1)}
    for channel in ("aw", "ar"):
        for name, width in (("addr", 12), ("prot", 3), ("valid", 1)):
            ports[f"s_axil_{channel}{name}"] = ("input", width)
        ports[f"s_axil_{channel}ready"] = ("output", 1)
    for name, width in (("data", 32), ("strb", 4), ("valid", 1)):
        ports[f"s_axil_w{name}"] = ("input", width)
    for name, width in (("data", 32), ("resp", 2), ("valid", 1)):
        ports[f"s_axil_r{name}"] = ("output", width)
    for name, width in (("resp", 2), ("valid", 1)):
        ports[f"s_axil_b{name}"] = ("output", width)
    ports |= {"s_axil_wready": ("output", 1)}
    ports |= {"s_axil_rready": ("input", 1), "s_axil_bready": ("input", 1)}
    for event in ("start", "done"):
        ports[f"trace_{event}"] = ("output", 4)
        for unit in isa.UNITS:
            ports[f"trace_{event}_index_{unit.name.lower()}"] = ("output", 32)
    return ports


def ports_of(text: str) -> dict[str, tuple[str, int]]:
    body = text[text.index(f"module {elaborate.TOP}(") :]
    body = body[: body.index("endmodule")]
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", body, re.M)
    return {name: (direction, int(high or 0) + 1) for direction, high, name in found}


@pytest.mark.parametrize("name", ["tiny-8x8", "wide-16x8"])
def test_ports_and_header(name, monkeypatch):
    config = CONFIGS[name]
    monkeypatch.setattr(elaborate, "rtlil", rtlil_of)
    text = elaborate.verilog(config)
    assert ports_of(text) == expected_ports(config)
    header = text[: text.index("/*")]
    assert config.digest() in header and config.name in header
    assert "timescale" not in text
    assert not re.search(r"/(tmp|home|root|work)/", text)
    assert "reg \\$auto$verilog_backend" in text  # or there is nothing for start_processes to do
    for name in re.findall(r"reg (\\\$auto\$verilog_backend\S+ )", text):
        assert f"initial {name} <= 0;" in text


@pytest.mark.parametrize("config", [*CONFIGS.values(), *CORNERS], ids=lambda config: config.name)
def test_every_configuration_elaborates(config):
    text = rtlil_of(config)
    assert f"module \\{elaborate.TOP}\n" in text
    # No latch, and no process without a clock that keeps a value.
    assert "$dlatch" not in text and "$sr" not in text


def test_an_element_is_not_named_like_a_bit():
    """yosys would connect the two after technology mapping."""
    assert not re.search(r"\\\S+\[\d", rtlil_of(CONFIGS["tiny-8x8"]))


def test_the_name_changes_only_the_header():
    config = CONFIGS["tiny-8x8"]
    other = dataclasses.replace(config, name="other")
    assert rtlil_of(config) == rtlil_of(other)


def test_the_same_in_another_process():
    """No order of a set, no address, no time of day comes into the output."""
    code = (
        "import sys; from intaglio.spec.config import CONFIGS; from intaglio_hw import elaborate;"
        "sys.stdout.write(elaborate.rtlil(CONFIGS['tiny-8x8']))"
    )
    path = ":".join(filter(None, sys.path))
    text = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = rtlil_of(CONFIGS["tiny-8x8"])
    digests = [hashlib.sha256(item.encode()).hexdigest() for item in (text, here)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("family", "cells"), [("generic", set()), ("ecp5", {"MULT18X18D", "DP16KD"})]
)
def test_blocks_of_a_family(family, cells):
    text = elaborate.verilog(CONFIGS["least-8x1"], family)
    assert set(re.findall(r"^ *([A-Z]\w+) (?:#\(|\S+ \($)", text, re.M)) == cells
    assert ("of ecp5" in text[: text.index("/*")]) == bool(cells)


def test_write_is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(
        elaborate, "verilog", lambda config, family: f"// {config.name}, {family}\n"
    )
    path = tmp_path / "out" / "accelerator.v"
    elaborate.write_verilog(CONFIGS["tiny-8x8"], path)
    assert path.read_text(encoding="utf-8") == "// tiny-8x8, generic\n"

    def fail(config, family):
        raise RuntimeError("no Verilog")

    monkeypatch.setattr(elaborate, "verilog", fail)
    with pytest.raises(RuntimeError):
        elaborate.write_verilog(CONFIGS["mini-8x8"], path)
    assert path.read_text(encoding="utf-8") == "// tiny-8x8, generic\n"
    assert [item.name for item in path.parent.iterdir()] == ["accelerator.v"]


def test_start_processes():
    before = "module m;\n  reg \\$auto$verilog_backend.cc:12:dump_module$3  = 0;\nendmodule\n"
    after = (
        "module m;\n  reg \\$auto$verilog_backend.cc:12:dump_module$3  = 1;\n"
        "  initial \\$auto$verilog_backend.cc:12:dump_module$3  <= 0;\nendmodule\n"
    )
    assert elaborate.start_processes(before) == after
    assert elaborate.start_processes(after) == after
