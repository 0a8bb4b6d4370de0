"""Verilator's opinion of what is simulated and synthesised."""

import os
import subprocess

import pytest

from intaglio.spec.config import CONFIGS
from intaglio_sim import toolchain
from intaglio_sim.system import VERILOG, accelerator_verilog

#: What a generator cannot avoid: widths as Amaranth extends them, names, and parts of signals that
#: nobody uses. Latches, loops, several drivers, missing pins and the like stay errors.
WAIVED = (
    "ASCRANGE",  # wires of no width, [-1:0]
    "CASEINCOMPLETE",  # the value before the case is the default
    "DECLFILENAME",
    "INITIALDLY",  # what starts processes: intaglio_hw.elaborate.start_processes
    "PINCONNECTEMPTY",
    "PINMISSING",
    "PROCASSINIT",  # initial values of registers
    "SYMRSVDWORD",  # "interrupt" is a word of C++
    "UNDRIVEN",
    "UNUSEDPARAM",
    "UNUSEDSIGNAL",
    "VARHIDDEN",
    "WIDTHEXPAND",
    "WIDTHTRUNC",
)


def lint(*arguments) -> str:
    executable, root = toolchain.find_verilator()
    answer = subprocess.run(
        [
            "perl",
            executable,
            "--lint-only",
            "-Wall",
            *(f"-Wno-{name}" for name in WAIVED),
            *arguments,
        ],
        env=dict(os.environ, VERILATOR_ROOT=str(root)),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return answer.stderr


@pytest.mark.rtl
@pytest.mark.parametrize("config", ["narrow-8x4", "tiny-8x8"])
def test_the_accelerator_has_no_warnings(config):
    found = lint("--top-module", "accelerator", accelerator_verilog(CONFIGS[config]))
    assert "%Warning" not in found and "%Error" not in found, found[:2000]


@pytest.mark.rtl
def test_a_latch_would_be_found(tmp_path):
    bad = tmp_path / "bad.v"
    bad.write_text(
        "module bad(input wire a, input wire b, output reg q);\n"
        "  always @* if (a) q = b;\nendmodule\n"
    )
    assert "%Warning-LATCH" in lint(bad)


@pytest.mark.rtl
def test_the_memory_model_has_no_warnings():
    # Blocking assignments are for scratch values inside of the one process.
    found = lint(
        "--timing", "-Wno-BLKSEQ", "-Wno-SYNCASYNCNET", "--top-module", "memory_model",
        VERILOG / "memory_model.v",
    )  # fmt: skip
    assert "%Warning" not in found and "%Error" not in found, found[:2000]
