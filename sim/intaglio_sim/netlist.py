"""The accelerator after synthesis for the ECP5, as Verilog that a simulator reads.

Behaviour of logic cells is that of the models which come with yosys; of MULT18X18D and DP16KD yosys
has ports and parameters alone: verilog/cells_ecp5.v has their behaviour.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio_sim import toolchain

__all__ = ["FAMILY", "netlist_sources"]

#: The family whose cells the netlist is made of.
FAMILY = "ecp5"
CELLS = Path(__file__).parent / "verilog" / "cells_ecp5.v"
#: Files of yosys, in its share folder -> logic cells whose models are taken from them.
_MODELS = {
    "ecp5/common_sim.vh": ("LUT2", "LUT4", "PFUMX", "L6MUX21", "TRELLIS_DPR16X4", "TRELLIS_FF"),
    "ecp5/ccu2c_sim.vh": ("CCU2C",),
}
#: Inputs that a cell does not use are left open; delays are no part of this simulation.
_WAIVERS = "/* verilator lint_off PINMISSING */\n/* verilator lint_off SPECIFYIGN */\n"


def _models() -> str:
    """Return the models of the logic cells."""
    import pyosys

    share = Path(pyosys.__file__).parent / "share"
    modules = []
    for path, names in _MODELS.items():
        text = (share / path).read_text(encoding="utf-8")
        for name in names:
            found = re.search(rf"^module {name}\b.*?^endmodule$", text, re.M | re.S)
            if found is None:
                raise IntaglioError(f"{share / path}: no model of {name}")
            modules.append(found.group() + "\n")
    return "".join(modules)


def netlist_sources(
    config: AcceleratorConfig, *, progress: Callable[[str], None] | None = None
) -> list[Path]:
    """Return Verilog files with the module ``accelerator`` made of cells of the ECP5.

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
    tools = FAMILY_TOOLS[FAMILY]
    text = component_rtlil(make_accelerator(config=config, family=FAMILY), name=TOP)
    key = hashlib.sha256(f"{text} {yosys} {tools.synthesis}".encode()).hexdigest()[:24]
    folder = toolchain.cache_dir() / "rtl" / f"netlist-{FAMILY}-{key}"
    sources = [folder / "accelerator.v", folder / "cells.v", CELLS]
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
                f"{tools.synthesis} -top {TOP}",
                "check -assert",
                "write_verilog -noattr accelerator.v",
            ],
            work=work,
            results=["accelerator.v"],
            progress=progress,
        )
        netlist = (work / "accelerator.v").read_text(encoding="utf-8")
        (work / "accelerator.v").write_text(_WAIVERS + netlist, encoding="utf-8")
        (work / "cells.v").write_text(_WAIVERS + _models(), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in sources[:2]:
            (work / path.name).rename(path)
    return sources
