"""Each family's version of a block against the portable one, with a model of the chip's cell."""

import hashlib
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, Out

from intaglio_hw.primitives import FAMILIES, BlockRam, Multiplier
from intaglio_sim.runner import run_verilog, to_verilog

HERE = Path(__file__).resolve().parent
#: Behaviour of the cells, and the files in which yosys describes their ports and parameters.
CELLS = {"ecp5": HERE / "cells_ecp5.v"}
PORTS = {"ecp5": ("+/ecp5/cells_sim.v", "+/ecp5/cells_bb.v")}

MULTIPLIERS = [(8, 8), (18, 16), (5, 18)]
RAMS = [
    (512, 32, 32),
    (256, 64, 8),
    (1024, 64, 8),
    (1024, 40, 40),
    (2048, 64, 64),
    (2048, 16, 8),
    (4096, 16, 8),
    (8192, 4, 4),
    (16384, 2, 2),
    (128, 80, 16),
]


class Pair(wiring.Component):
    """A portable block and that of a family, with common inputs."""

    def __init__(self, make, family):
        self.blocks = {"portable": make(family="generic"), "block": make(family=family)}
        members = dict(self.blocks["portable"].signature.members)
        [self.output] = [name for name, member in members.items() if member.flow == Flow.Out]
        self.inputs = [name for name in members if name != self.output]
        shape = members.pop(self.output).shape
        super().__init__({**members, "portable": Out(shape), "block": Out(shape)})

    def elaborate(self, platform):
        m = Module()
        for name, block in self.blocks.items():
            m.submodules[f"{name}_instance"] = block
            m.d.comb += [getattr(block, port).eq(getattr(self, port)) for port in self.inputs]
            m.d.comb += getattr(self, name).eq(getattr(block, self.output))
        return m


def run_pair(pair, family, *, block, sizes, tmp_path):
    text = to_verilog(pair)
    source = tmp_path / f"pair-{hashlib.sha256(text.encode()).hexdigest()[:16]}.v"
    source.write_text(text, encoding="utf-8")
    for cell in ("MULT18X18D", "DP16KD"):
        assert (cell in text) == (cell == {"multiplier": "MULT18X18D", "ram": "DP16KD"}[block])
    run_verilog(
        sources=[source, CELLS[family]],
        toplevel="dut",
        bench="bench_primitives",
        simulator="icarus",
        label=f"{block}-{family}",
        env={"BLOCK": block, "SIZES": ",".join(map(str, sizes))},
        bench_dir=HERE,
    )


@pytest.mark.parametrize("family", CELLS)
@pytest.mark.parametrize(("a_width", "b_width"), MULTIPLIERS)
def test_multipliers_are_equal(a_width, b_width, family, tmp_path):
    pair = Pair(lambda family: Multiplier(a_width=a_width, b_width=b_width, family=family), family)
    run_pair(pair, family, block="multiplier", sizes=(a_width, b_width), tmp_path=tmp_path)


@pytest.mark.parametrize("family", CELLS)
@pytest.mark.parametrize(("depth", "width", "granularity"), RAMS)
def test_memories_are_equal(depth, width, granularity, family, tmp_path):
    pair = Pair(
        lambda family: BlockRam(depth=depth, width=width, granularity=granularity, family=family),
        family,
    )
    run_pair(pair, family, block="ram", sizes=(depth, width, granularity), tmp_path=tmp_path)


@pytest.mark.parametrize("family", CELLS)
def test_every_port_and_parameter_exists(family, tmp_path):
    """The cells as yosys knows them have what the primitives connect and set."""
    ys = pytest.importorskip("pyosys.libyosys")
    blocks = [Multiplier(a_width=8, b_width=8, family=family)]
    blocks += [
        BlockRam(depth=depth, width=width, granularity=granularity, family=family)
        for depth, width, granularity in RAMS
    ]
    design = ys.Design()
    ys.run_pass(f"read_verilog -lib {' '.join(PORTS[family])}", design)
    for number, block in enumerate(blocks):
        path = tmp_path / f"block{number}.il"
        path.write_text(rtlil.convert(block, name=f"block{number}"), encoding="utf-8")
        ys.run_pass(f"read_rtlil {path}", design)
        ys.run_pass(f"hierarchy -check -top block{number}", design)


def test_families():
    assert set(CELLS) | {"generic"} == set(FAMILIES)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="family must be one of generic, ecp5, not 'ice40'"):
        Multiplier(a_width=8, b_width=8, family="ice40")
    with pytest.raises(ValueError, match=r"b_width must be in \[1, 18\], not 19"):
        Multiplier(a_width=8, b_width=19)
    with pytest.raises(ValueError, match="depth must be a power of two of at least 2, not 24"):
        BlockRam(depth=24, width=8)
    with pytest.raises(ValueError, match="granularity must divide the width 12, not 8"):
        BlockRam(depth=16, width=12, granularity=8)
