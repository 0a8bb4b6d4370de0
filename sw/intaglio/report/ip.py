"""What goes with the accelerator's Verilog into another project: FuseSoC core, C header, driver."""

from pathlib import Path

import intaglio
from intaglio.report.tables import register_header
from intaglio.spec import regs
from intaglio.spec.config import AcceleratorConfig

__all__ = ["CORE_FILE", "core_file", "ip_files"]

CORE_FILE = "accelerator.core"
_DRIVER = ("intaglio_driver.h", "intaglio_driver.c")
_SOURCES = Path(intaglio.__file__).parent / "c"


def core_file(config: AcceleratorConfig, *, verilog: str, top: str) -> str:
    """Return the FuseSoC core file (CAPI2) of the accelerator.

    Parameters
    ----------
    config
        What was written as ``verilog``, the name of a file in the same folder, with the module
        ``top``.
    """
    return f"""CAPI=2:

name: intaglio:ip:accelerator-{config.name}:{intaglio.__version__}
description: >-
  Integer segmentation accelerator, configuration {config.name} ({config.digest()[:12]}),
  {config.R} x {config.K} lanes, AXI4 with {8 * config.bus_bytes} bits, AXI4-Lite, register map
  {regs.VERSION >> 16}.{regs.VERSION & 0xFFFF}

filesets:
  rtl:
    files:
      - {verilog}
    file_type: verilogSource
  software:
    files:
      - intaglio_regs.h: {{is_include_file: true}}
      - intaglio_driver.h: {{is_include_file: true}}
      - intaglio_driver.c
    file_type: cSource

targets:
  default:
    description: The Verilog
    filesets: [rtl]
    toplevel: {top}
  lint:
    description: Look at the Verilog with Verilator
    filesets: [rtl]
    toplevel: {top}
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: [-Wno-fatal]
  software:
    description: The C driver
    filesets: [software]
    toplevel: {top}
"""


def ip_files(config: AcceleratorConfig, *, verilog: str, top: str) -> dict[str, str]:
    """Return file name -> text of everything that goes beside the Verilog file ``verilog``."""
    texts = {name: (_SOURCES / name).read_text(encoding="utf-8") for name in _DRIVER}
    return {
        CORE_FILE: core_file(config, verilog=verilog, top=top),
        "intaglio_regs.h": register_header(),
        **texts,
    }
