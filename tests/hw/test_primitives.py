"""Each family's version of a block against the portable one, with a model of the chip's cell.

The models are those that come with yosys where it has any: SB_MAC16, SB_RAM40_4K, MULT9X9 and
MULT18X18 of Nexus, DSP48E1. Of the other cells yosys knows ports and parameters alone; their
behaviour is written down in intaglio_sim/verilog/cells_*.v.
"""

import json
import re
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, Out

from intaglio_hw.elaborate import component_rtlil
from intaglio_hw.families import FAMILY_TOOLS, count_cells
from intaglio_hw.primitives import FAMILIES, BlockRam, Multiplier
from intaglio_hw.primitives.late_mux import LateMux
from intaglio_hw.primitives.products import ByteProducts, WordProduct
from intaglio_hw.primitives.single_port import SinglePortRam
from intaglio_sim.netlist import CELLS as CELL_FOLDER
from intaglio_sim.runner import run_verilog, to_verilog

HERE = Path(__file__).resolve().parent
#: Family -> files of CELL_FOLDER with the behaviour of cells, {file of yosys: cells taken from it}.
CELLS = {
    "ecp5": (["cells_ecp5.v"], {}),
    "ice40": ([], {"ice40/cells_sim.v": ["SB_LUT4", "SB_MAC16", "SB_SPRAM256KA"]}),
    "gowin": (["cells_blocks.v", "cells_multipliers.v"], {}),
    "nexus": (
        ["cells_blocks.v"],
        {"nexus/cells_sim.v": ["OXIDE_DSP_REG", "OXIDE_DSP_SIM", "MULT9X9", "MULT18X18"]},
    ),
    "xc7": (["cells_blocks.v"], {"xilinx/cells_sim.v": ["DSP48E1"]}),
    "xcup": (["cells_blocks.v", "cells_dsp48e2.v"], {"xilinx/cells_sim.v": ["DSP48E1"]}),
}
#: Family -> cells of a multiplier (up to 9 x 9 bits, larger) and of a memory.
BLOCKS = {
    "ecp5": ("MULT18X18D", "MULT18X18D", "DP16KD"),
    "ice40": ("SB_MAC16", None, None),
    "gowin": ("MULT9X9", "MULT18X18", "SDPX9B"),
    "nexus": ("MULT9X9", "MULT18X18", "PDPSC16K"),
    "xc7": ("DSP48E1", "DSP48E1", "RAMB18E1"),
    "xcup": ("DSP48E2", "DSP48E2", "RAMB18E2"),
}
MULTIPLIERS = [(8, 8), (18, 16), (5, 18), (14, 13)]
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
#: Signs of the factors of words.
SIGNS = ((1, 1), (0, 1), (0, 0))
#: Memories whose shape SB_RAM40_4K has.
ICE40_RAMS = [(256, 32, 32), (256, 16, 8), (512, 24, 8), (2048, 4, 4)]
#: Small memories with one port: width, depth.
SMALL_RAMS = [(64, 256), (64, 512), (32, 768)]


def multiplier(family, a_width, b_width):
    return Multiplier(a_width=a_width, b_width=b_width, family=family)


def ram(family, depth, width, granularity):
    return BlockRam(depth=depth, width=width, granularity=granularity, family=family)


def single(family, width, depth):
    return SinglePortRam(width=width, depth=depth, family=family)


class Netlist(wiring.Component):
    """A component that is described elsewhere, in the module ``name``."""

    def __init__(self, component, name):
        self.name = name
        super().__init__(dict(component.signature.members))

    def elaborate(self, platform):
        ports = {
            f"{'o' if member.flow == Flow.Out else 'i'}_{name}": getattr(self, name)
            for name, member in self.signature.members.items()
        }
        m = Module()
        m.submodules.netlist = Instance(self.name, i_clk=ClockSignal(), **ports)
        return m


class Pairs(wiring.Component):
    """Pairs of a portable block and another one, each with common inputs."""

    def __init__(self, pairs):
        self.pairs = pairs
        members = {}
        for index, (portable, _) in enumerate(pairs):
            for name, member in portable.signature.members.items():
                if member.flow == Flow.Out:
                    members[f"pair{index}_portable"] = Out(member.shape)
                    members[f"pair{index}_block"] = Out(member.shape)
                else:
                    members[f"pair{index}_{name}"] = member
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        for index, pair in enumerate(self.pairs):
            for kind, block in zip(("portable", "block"), pair, strict=True):
                m.submodules[f"{kind}_{index}"] = block
                for name, member in block.signature.members.items():
                    if member.flow == Flow.Out:
                        m.d.comb += getattr(self, f"pair{index}_{kind}").eq(getattr(block, name))
                    else:
                        m.d.comb += getattr(block, name).eq(getattr(self, f"pair{index}_{name}"))
        return m


def share():
    return Path(pytest.importorskip("pyosys").__file__).parent / "share"


def cells(family, tmp_path):
    """Return the files with the behaviour of the family's cells."""
    files, taken = CELLS[family]
    sources = [CELL_FOLDER / name for name in files]
    for path, names in taken.items():
        text = (share() / path).read_text(encoding="utf-8")
        modules = [
            re.search(rf"^module {name}\b.*?^endmodule", text, re.M | re.S).group()
            for name in names
        ]
        sources.append(tmp_path / "yosys_cells.v")
        sources[-1].write_text("\n".join(modules) + "\n", encoding="utf-8")
    return sources


def run_pairs(pairs, kinds, sources, label, tmp_path):
    """``kinds``: for each pair, its kind and sizes."""
    source = tmp_path / "pairs.v"
    source.write_text(to_verilog(Pairs(pairs)), encoding="utf-8")
    run_verilog(
        sources=[source, *sources],
        toplevel="dut",
        bench="bench_primitives",
        simulator="icarus",
        label=label,
        env={"PAIRS": json.dumps(kinds)},
        bench_dir=HERE,
    )


@pytest.mark.rtl
@pytest.mark.parametrize("family", CELLS)
def test_every_version_is_equal_to_the_portable_one(family, tmp_path):
    rams = [] if family == "ice40" else RAMS
    kinds = [("multiplier", sizes) for sizes in MULTIPLIERS] + [("ram", sizes) for sizes in rams]
    make = {"multiplier": multiplier, "ram": ram}
    pairs = [(make[kind]("generic", *sizes), make[kind](family, *sizes)) for kind, sizes in kinds]
    run_pairs(pairs, kinds, cells(family, tmp_path), f"primitives-{family}", tmp_path)


@pytest.mark.rtl
def test_the_blocks_of_the_sequential_machine_are_equal_to_the_portable_ones(tmp_path):
    kinds = [("bytes", [8])] + [("words", [*signs]) for signs in SIGNS]
    kinds += [("single", [64, 1 << 14]), ("late", [16])]
    make = {
        "bytes": lambda family, lanes: ByteProducts(lanes=lanes, family=family),
        "words": lambda family, a, b: WordProduct(
            a_signed=bool(a), b_signed=bool(b), family=family
        ),
        "late": lambda family, width: LateMux(width=width, family=family),
        "single": single,
    }
    pairs = [(make[kind]("generic", *sizes), make[kind]("ice40", *sizes)) for kind, sizes in kinds]
    run_pairs(pairs, kinds, cells("ice40", tmp_path), "primitives-sequential", tmp_path)


@pytest.mark.parametrize("family", CELLS)
def test_the_blocks_are_used(family):
    small, large, memory = BLOCKS[family]
    for cell, component in (
        (small, multiplier(family, 8, 8)),
        (large, multiplier(family, 18, 16)),
        (memory, ram(family, 512, 32, 32)),
    ):
        found = re.findall(r"^ *cell \\(\w+)", rtlil.convert(component, name="top"), re.M)
        assert [name for name in found if name.isupper()] == ([cell] if cell else [])


def ice40_library(tmp_path):
    """Write yosys' models of the cells for Icarus, which knows no default values of ports; the
    primitives and yosys connect what they need.
    """
    library = tmp_path / "cells.v"
    text = (share() / "ice40" / "cells_sim.v").read_text(encoding="utf-8")
    text = "`define NO_ICE40_DEFAULT_ASSIGNMENTS\n" + re.sub("^`timescale.*", "", text)
    library.write_text(text, encoding="utf-8")
    return library


def mapped(component, name, tmp_path):
    """Write ``name``.v, the netlist of ``component`` for the iCE40; return its path and counts."""
    ys = pytest.importorskip("pyosys.libyosys")
    netlist = tmp_path / f"{name}.v"
    (tmp_path / "ram.il").write_text(component_rtlil(component, name=name))
    design = ys.Design()
    ys.run_pass(f"read_rtlil {tmp_path / 'ram.il'}", design)
    for command in FAMILY_TOOLS["ice40"].synthesize(name):
        ys.run_pass(command, design)
    ys.run_pass(f"tee -q -o {tmp_path / 'stat.json'} stat -json", design)
    ys.run_pass(f"write_verilog -noattr {netlist}", design)
    found = json.loads((tmp_path / "stat.json").read_text())["design"]["num_cells_by_type"]
    return netlist, count_cells("ice40", found)


@pytest.mark.synth
@pytest.mark.rtl
def test_the_portable_memory_maps_to_the_block_ram_of_the_ice40(tmp_path):
    """After synthesis: counts, then the netlist against the description, with yosys' models."""
    pairs, sources = [], []
    for index, sizes in enumerate(ICE40_RAMS):
        depth, width, _ = sizes
        netlist, counts = mapped(ram("ice40", *sizes), f"ram{index}", tmp_path)
        # The first register is in the block, the second one is not. A flip-flop more remembers that
        # the first one has not moved yet since power-up.
        assert counts["bram"] == depth * width // 4096 and counts["ff"] == width + 1
        assert counts["lut"] <= 4
        pairs.append((ram("generic", *sizes), Netlist(ram("ice40", *sizes), f"ram{index}")))
        sources.append(netlist)
    sources.insert(0, ice40_library(tmp_path))
    run_pairs(pairs, [("ram", sizes) for sizes in ICE40_RAMS], sources, "ram-ice40", tmp_path)


@pytest.mark.synth
@pytest.mark.rtl
def test_a_small_memory_with_one_port_maps_to_the_block_ram_of_the_ice40(tmp_path):
    """As above. A table for each bit: nothing has been read since power-up, or the choice between
    rows of blocks; the others are the enables of the bytes.
    """
    pairs, kinds, sources = [], [], [ice40_library(tmp_path)]
    for index, (width, depth) in enumerate(SMALL_RAMS):
        name = f"single{index}"
        netlist, counts = mapped(single("ice40", width, depth), name, tmp_path)
        assert counts["bram"] == depth * width // 4096, (width, depth)
        assert counts["lut"] <= width + 3 * width // 8 + 4 and counts["ff"] <= 3, counts
        pairs.append(
            (single("generic", width, depth), Netlist(single("ice40", width, depth), name))
        )
        kinds.append(("single", [width, depth]))
        sources.append(netlist)
    run_pairs(pairs, kinds, sources, "single-ice40", tmp_path)


@pytest.mark.parametrize("family", CELLS)
def test_every_port_and_parameter_exists(family, tmp_path):
    """The cells as yosys knows them have what the primitives connect and set."""
    ys = pytest.importorskip("pyosys.libyosys")
    blocks = [multiplier(family, 8, 8), multiplier(family, 18, 16)]
    blocks += [ram(family, *sizes) for sizes in RAMS]
    design = ys.Design()
    ys.run_pass(f"read_verilog -lib {FAMILY_TOOLS[family].libraries.split(';')[0]}", design)
    if family in ("xc7", "xcup"):
        ys.run_pass("read_verilog -lib +/xilinx/cells_xtra.v", design)
    for number, block in enumerate(blocks):
        path = tmp_path / f"block{number}.il"
        path.write_text(rtlil.convert(block, name=f"block{number}"), encoding="utf-8")
        ys.run_pass(f"read_rtlil {path}", design)
        ys.run_pass(f"hierarchy -check -top block{number}", design)


def test_families():
    assert set(CELLS) | {"generic"} == set(FAMILIES)
    assert set(FAMILY_TOOLS) | {"generic"} == set(FAMILIES)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_arguments_out_of_range():
    names = "generic, ecp5, ice40, gowin, nexus, xc7, xcup"
    with pytest.raises(ValueError, match=f"family must be one of {names}, not 'max10'"):
        Multiplier(a_width=8, b_width=8, family="max10")
    with pytest.raises(ValueError, match=r"b_width must be in \[1, 18\], not 19"):
        Multiplier(a_width=8, b_width=19)
    with pytest.raises(ValueError, match="depth must be a power of two of at least 2, not 24"):
        BlockRam(depth=24, width=8)
    with pytest.raises(ValueError, match="granularity must divide the width 12, not 8"):
        BlockRam(depth=16, width=12, granularity=8)
    for depth in (0, 100, 1280, 1 << 15):
        with pytest.raises(
            ValueError, match="(depth must be 16384, or a mul|rows must be at most)"
        ):
            SinglePortRam(width=16, depth=depth)
    assert [SinglePortRam.depth_for(rows) for rows in (1, 256, 257, 1024, 1025)] == [
        256,
        256,
        512,
        1024,
        1 << 14,
    ]
