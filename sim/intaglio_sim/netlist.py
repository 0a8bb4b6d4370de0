"""The accelerator after synthesis, as Verilog that a simulator reads: netlists for the ECP5, the
iCE40 and Gowin's GW2A.

Behaviour of the cells is that of the models which come with yosys. Of some yosys has ports and
parameters alone, such as MULT18X18D and SDPX9B: verilog/cells_*.v have their behaviour.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio_sim import toolchain

__all__ = ["CELLS", "FAMILIES", "family_of", "netlist_sources"]

#: Folder of the behaviours that are written down here.
CELLS = Path(__file__).parent / "verilog"


@dataclass(frozen=True, kw_only=True)
class _Models:
    """Where the behaviour of a family's cells comes from.

    ``yosys``: file in yosys' share folder -> cells that are taken from it, with what stands before
    the first module of the file if ``header``. ``own``: files in CELLS. ``defines``: macros.
    """

    yosys: Mapping[str, Sequence[str]]
    own: Sequence[str] = ()
    defines: Sequence[str] = ()
    header: bool = False


_MODELS = {
    "ecp5": _Models(
        yosys={
            "ecp5/common_sim.vh": (
                "LUT2", "LUT4", "PFUMX", "L6MUX21", "TRELLIS_DPR16X4", "TRELLIS_FF",
            ),
            "ecp5/ccu2c_sim.vh": ("CCU2C",),
        },
        own=["cells_ecp5.v"],
    ),
    "ice40": _Models(
        yosys={
            "ice40/cells_sim.v": (
                "SB_LUT4", "SB_CARRY", "SB_DFF", "SB_DFFE", "SB_DFFSR", "SB_DFFSS", "SB_DFFESR",
                "SB_DFFESS", "SB_MAC16", "SB_RAM40_4K", "SB_SPRAM256KA",
            ),
        },
        # Not every simulator knows default values of ports; what is needed is connected.
        defines=["NO_ICE40_DEFAULT_ASSIGNMENTS"],
        header=True,
    ),
    "gowin": _Models(
        yosys={
            "gowin/cells_sim.v": (
                "LUT1", "LUT2", "LUT3", "LUT4", "ALU", "DFF", "DFFE", "DFFR", "DFFRE", "DFFS",
                "DFFSE", "RAM16SDP1", "RAM16SDP2", "RAM16SDP4", "VCC", "GND",
            ),
        },
        own=["cells_blocks.v", "cells_multipliers.v"],
    ),
}  # fmt: skip
#: The families whose netlists can be simulated.
FAMILIES = tuple(_MODELS)
#: Inputs that a cell does not use are left open; delays are no part of this simulation.
_WAIVERS = "/* verilator lint_off PINMISSING */\n/* verilator lint_off SPECIFYIGN */\n"
#: Memories are zero at first; the models do not know the parameters of one that is not.
_ZEROS = re.compile(r"^ *\.INIT_RAM_..\(\d+'h0+\),\n", re.M)


def family_of(config: AcceleratorConfig) -> str:
    """Return the family on whose chips a machine like ``config`` is built first of all."""
    return "ice40" if config.organization == "sequential" else "ecp5"


def _models(models: _Models) -> str:
    """Return the models of the cells that come with yosys."""
    import pyosys

    share = Path(pyosys.__file__).parent / "share"
    parts = [f"`define {name}\n" for name in models.defines]
    for path, names in models.yosys.items():
        text = re.sub("^`timescale.*", "", (share / path).read_text(encoding="utf-8"), flags=re.M)
        if models.header:
            parts.append(text[: text.index("module ")])
        for name in names:
            found = re.search(rf"^module {name}\b.*?^endmodule", text, re.M | re.S)
            if found is None:
                raise IntaglioError(f"{share / path}: no model of {name}")
            parts.append(found.group() + "\n")
    return "".join(parts)


def netlist_sources(
    config: AcceleratorConfig,
    *,
    family: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Return Verilog files with the module ``accelerator`` made of cells of ``family``, one of
    FAMILIES (:func:`family_of` by default).

    The netlist is kept in the cache and made again when something that it depends on has changed.

    Raises
    ------
    IntaglioError
        yosys is not installed, or failed.
    """
    from intaglio_hw.accelerator import make_accelerator
    from intaglio_hw.elaborate import TOP, component_rtlil
    from intaglio_hw.families import FAMILY_TOOLS
    from intaglio_hw.tools import run_yosys

    try:
        yosys = version("pyosys")
    except PackageNotFoundError as error:
        raise IntaglioError("pyosys is not installed: pip install 'intaglio[fpga]'") from error
    family = family or family_of(config)
    if family not in _MODELS:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")
    tools, models = FAMILY_TOOLS[family], _MODELS[family]
    commands = tools.synthesize(TOP)
    cells = _WAIVERS + _models(models)
    text = component_rtlil(make_accelerator(config=config, family=family), name=TOP)
    key = hashlib.sha256(f"{text} {yosys} {commands} {cells}".encode()).hexdigest()[:24]
    folder = toolchain.cache_dir() / "rtl" / f"netlist-{family}-{key}"
    made = [folder / "accelerator.v", folder / "cells.v"]
    sources = [*made, *(CELLS / name for name in models.own)]
    if all(path.is_file() for path in sources):
        return sources
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="intaglio-netlist-", dir=folder.parent) as name:
        work = Path(name)
        (work / "accelerator.il").write_text(text, encoding="utf-8")
        run_yosys(
            [
                f"read_verilog -lib {tools.libraries}",
                "read_rtlil accelerator.il",
                *commands,
                "check -assert",
                "write_verilog -noattr accelerator.v",
            ],
            work=work,
            results=["accelerator.v"],
            progress=progress,
        )
        netlist = (work / "accelerator.v").read_text(encoding="utf-8")
        (work / "accelerator.v").write_text(_WAIVERS + _ZEROS.sub("", netlist), encoding="utf-8")
        (work / "cells.v").write_text(cells, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in made:
            (work / path.name).rename(path)
    return sources
