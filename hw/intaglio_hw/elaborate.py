"""The accelerator as Verilog or RTLIL."""

import re
from pathlib import Path

from amaranth.back import rtlil as amaranth_rtlil
from amaranth.back import verilog as amaranth_verilog

from intaglio.spec import regs
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.files import atomic_write

__all__ = ["TOP", "component_rtlil", "rtlil", "start_processes", "verilog", "write_verilog"]

#: Name of the top module.
TOP = "accelerator"

# Amaranth writes in each module a variable that every `always @*` reads, so that it runs at time 0.
_TRIGGER = re.compile(r"^( *)reg (\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ) = 0;$", re.M)

# A public name with an index in it; a selection of bits is set off by a space.
_ELEMENT = re.compile(r"\\\S+\[\d+\]\S*")


def start_processes(text: str) -> str:
    """Return the Verilog ``text`` with every ``always @*`` block of Amaranth's run at time 0.

    A block waits for a change of what it reads, and an initial value is none: in a four-state
    simulator its outputs stay unknown until then. The back end's remedy is an initial value, too,
    and does not help if it is set before the block begins to wait. A nonblocking assignment at time
    0 takes effect after all blocks have begun.
    """
    return _TRIGGER.sub(r"\1reg \2 = 1;\n\1initial \2 <= 0;", text)


def component_rtlil(component, *, name: str) -> str:
    """Return ``component`` as RTLIL with the top module ``name``; equal text for equal components.

    An element of an array has the name ``x.3`` there, not ``x[3]`` as Amaranth would have it: yosys
    takes that for bit 3 of ``x`` when it reads the result of technology mapping, and connects the
    two.
    """
    text = amaranth_rtlil.convert(component, name=name, emit_src=False)
    return _ELEMENT.sub(lambda found: found.group().replace("[", ".").replace("]", ""), text)


def rtlil(config: AcceleratorConfig, family: str = "generic") -> str:
    """Return the accelerator as RTLIL, top module TOP, made of the blocks of ``family``
    (:mod:`intaglio_hw.primitives`); the same text for equal configurations.
    """
    from intaglio_hw.accelerator import make_accelerator

    return component_rtlil(make_accelerator(config=config, family=family), name=TOP)


def verilog(config: AcceleratorConfig, family: str = "generic") -> str:
    """Return the accelerator as Verilog, top module TOP; ``family`` as for :func:`rtlil`.

    Equal configurations give the same text but for the name in the header, which also has the
    digest of the configuration and the version of the register map.
    """
    text = start_processes(
        amaranth_verilog._convert_rtlil_text(rtlil(config, family), strip_internal_attrs=True)
    )
    header = [
        f"Intaglio accelerator, configuration {config.name}",
        f"configuration digest {config.digest()}",
        f"register map and instruction set {regs.VERSION >> 16}.{regs.VERSION & 0xFFFF}",
        f"R = {config.R}, K = {config.K}, drain_lanes = {config.drain_lanes}",
    ]
    if family != "generic":
        header.append(f"multipliers and memories of {family}")
    return "".join(f"// {line}\n" for line in header) + text


def write_verilog(config: AcceleratorConfig, path: str | Path, family: str = "generic") -> None:
    """Write :func:`verilog` to ``path``; the file is either whole or absent."""
    text = verilog(config, family)
    with atomic_write(path, "w") as file:
        file.write(text)
