"""What goes with the Verilog into other projects."""

import re
import shutil
import subprocess

import pytest

from intaglio.cli import main
from intaglio.report.ip import CORE_FILE, ip_files
from intaglio.report.tables import register_header
from intaglio.spec.config import CONFIGS

TINY = CONFIGS["tiny-8x8"]


def test_the_core_file_names_what_is_there():
    files = ip_files(TINY, verilog="chip.v", top="accelerator")
    text = files[CORE_FILE]
    assert text.startswith("CAPI=2:\n")
    assert TINY.digest()[:12] in text
    named = set(re.findall(r"^ {6}- ([\w.]+)", text, re.M))
    assert named == {"chip.v", *files} - {CORE_FILE}
    assert set(re.findall(r"toplevel: (\w+)", text)) == {"accelerator"}
    assert files["intaglio_regs.h"] == register_header()


def test_the_command_writes_all_of_it(tmp_path, monkeypatch):
    from intaglio_hw import elaborate

    monkeypatch.setattr(
        elaborate, "verilog", lambda config, family: "module accelerator;\nendmodule\n"
    )
    out = tmp_path / "ip" / "accelerator.v"
    assert main(["verilog", "--config", "tiny-8x8", "--out", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["accelerator.v"]
    assert main(["verilog", "--config", "tiny-8x8", "--ip", "--out", str(out)]) == 0
    files = ip_files(TINY, verilog="accelerator.v", top="accelerator")
    assert {path.name for path in out.parent.iterdir()} == {"accelerator.v", *files}
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    words = [compiler, "-std=c99", "-Wall", "-Werror", "-c", "intaglio_driver.c"]
    subprocess.run([*words, "-o", str(tmp_path / "driver.o")], cwd=out.parent, check=True)
