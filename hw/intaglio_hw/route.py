"""Place and route with nextpnr, from pip: the clock that a netlist reaches on a chip."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from intaglio.spec.errors import IntaglioError
from intaglio_hw.elaborate import TOP
from intaglio_hw.families import FAMILY_TOOLS
from intaglio_hw.floorplan import fix_multipliers
from intaglio_hw.tools import Progress, run_router

__all__ = ["place_and_route", "prepare_netlist"]

#: Family -> (file of the constraints, one line of it).
_CONSTRAINTS = {
    "ecp5": ("pins.lpf", 'LOCATE COMP "{port}" SITE "{pin}";'),
    "ice40": ("pins.pcf", "set_io {port} {pin}"),
    "gowin": ("pins.cst", 'IO_LOC "{port}" {pin};'),
    "nexus": ("pins.pdc", "ldc_set_location -site {{{pin}}} [get_ports {{{port}}}]"),
}
#: Name of the clock's net where it comes from an oscillator.
_CLOCK = "clock"
#: INIT0 and INIT1 of the Nexus cell that feeds a carry chain: its output does not depend on its
#: carry input (yosys, lattice/arith_map_nexus.v).
_CARRY_FEED = ("0xFFFF", "0x00AA")


def _arguments(family: str, device: str, package: str, speed: int | None, pins: bool) -> list[str]:
    """Return the arguments that name the chip and the files of the family's router."""
    constraints, _ = _CONSTRAINTS[family]
    if family == "ecp5":
        chip = [f"--{device}", "--package", package, "--speed", str(speed)]
        chip += ["--textcfg", "chip.config", "--lpf-allow-unconstrained"]
        # Six times the default: short critical paths rather than short wires (decision 0026).
        chip += ["--placer-heap-timingweight", "60"]
        return [*chip, *(["--lpf", constraints] if pins else [])]
    if family == "ice40":
        chip = [f"--{device}", "--package", package, "--asc", "chip.asc"]
        return [*chip, *(["--pcf", constraints, "--pcf-allow-unconstrained"] if pins else [])]
    if family == "gowin":
        chip = ["--device", device, "--vopt", f"family={package}", "--write", "routed.json"]
        return [*chip, *(["--vopt", f"cst={constraints}"] if pins else [])]
    return ["--device", device, "--fasm", "chip.fasm", "--pdc", constraints]


def _drop_open_carries(design: Mapping) -> None:
    """Remove the carry inputs that nothing drives from a netlist of Nexus.

    The cell that feeds a carry chain has no carry input. Synthesis ties it to zero, and nextpnr
    takes nothing but another carry cell there.
    """
    for module in design["modules"].values():
        for cell in module["cells"].values():
            init = (cell["parameters"].get("INIT0"), cell["parameters"].get("INIT1"))
            if cell["type"] == "CCU2" and init == _CARRY_FEED:
                del cell["connections"]["CIN"], cell["port_directions"]["CIN"]


def _name_the_clock(design: Mapping) -> None:
    """Give the net of the clock buffer the name _CLOCK alone; a constraint names it.

    Synthesis leaves it one of the names that it has in the components.
    """
    for module in design["modules"].values():
        for cell in module["cells"].values():
            if cell["type"] == "DCC":
                bits = cell["connections"]["CLKO"]
                others = {k: v for k, v in module["netnames"].items() if v["bits"] != bits}
                clock = {"hide_name": 0, "bits": bits, "attributes": {}}
                module["netnames"] = {_CLOCK: clock, **others}


def _use_fast_inputs(design: Mapping) -> None:
    """Give tables of one to three inputs the fastest inputs of the four that a table of Gowin has.

    Synthesis takes their last input for the fastest one, which is I3: 0.37 ns, I2 takes 0.46, I1
    0.57. nextpnr does not exchange inputs.
    """
    for module in design["modules"].values():
        for cell in module["cells"].values():
            if cell["type"] not in ("LUT1", "LUT2", "LUT3"):
                continue
            unused = 4 - int(cell["type"][-1])
            for inputs in (cell["connections"], cell["port_directions"]):
                moved = {f"I{n + unused}": inputs.pop(f"I{n}") for n in range(4 - unused)}
                inputs.update(moved)
            init = cell["parameters"]["INIT"]
            cell["parameters"]["INIT"] = "".join(bit * (1 << unused) for bit in init)
            cell["type"] = "LUT4"


def prepare_netlist(netlist: bytes, family: str, device: str) -> bytes:
    """Return the netlist, JSON of yosys, as the family's router takes it best."""
    if (family, device) != ("ecp5", "85k") and family not in ("gowin", "nexus"):
        return netlist
    design = json.loads(netlist)
    if family == "nexus":
        _drop_open_carries(design)
        _name_the_clock(design)
    elif family == "gowin":
        _use_fast_inputs(design)
    else:
        fix_multipliers(design)
    return json.dumps(design).encode()


def _critical_path(report: Mapping) -> list[dict]:
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
    family: str = "ecp5",
    device: str = "85k",
    package: str = "CABGA381",
    speed: int | None = 6,
    pins: Mapping[str, str] | None = None,
    seed: int = 1,
    frequency_mhz: float = 100,
    progress: Progress | None = None,
    limit_s: float = 3600,
) -> dict:
    """Place and route a netlist of :func:`~intaglio_hw.synth.synthesize`.

    Parameters
    ----------
    netlist
        The JSON file.
    family, device, package, speed
        The chip, as nextpnr names it; ``package`` is the name of the die's series for Gowin.
    pins
        Port of the harness (``clk``, ``rst``, ``serial_in``, ``shift``, ``serial_out``) -> pin.
        Other ports are placed by the tool, if it does that.
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
        No such netlist; no router for the family; nextpnr is not installed, failed or took too
        long; it reports no clock.
    """
    netlist = Path(netlist)
    router = FAMILY_TOOLS[family].router
    if router is None:
        raise IntaglioError(f"no open tool from pip routes {family} ({device}): resources only")
    if not netlist.is_file():
        raise IntaglioError(f"{netlist}: no such netlist; synthesize makes it")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="intaglio-route-") as folder:
        work = Path(folder)
        (work / "netlist.json").write_bytes(prepare_netlist(netlist.read_bytes(), family, device))
        constraints, line = _CONSTRAINTS[family]
        lines = [line.format(port=port, pin=pin) for port, pin in (pins or {}).items()]
        if FAMILY_TOOLS[family].oscillator:
            # Otherwise nextpnr aims at the rate of the oscillator.
            lines.append(f"create_clock -period {1000 / frequency_mhz:.3f} [get_nets {_CLOCK}]")
        (work / constraints).write_text("".join(f"{each}\n" for each in lines), encoding="utf-8")
        arguments = _arguments(family, device, package, speed, bool(pins))
        arguments += ["--seed", str(seed), "--freq", str(frequency_mhz), "--timing-allow-fail"]
        arguments += ["--json", "netlist.json", "--report", "report.json"]
        run_router(
            router,
            arguments,
            work=work,
            results=["report.json"],
            progress=progress,
            limit_s=limit_s,
        )
        report = json.loads((work / "report.json").read_text(encoding="utf-8"))
    clocks = {
        name.removeprefix("$glbnet$"): round(entry["achieved"], 2)
        for name, entry in report["fmax"].items()
    }
    if not clocks:
        raise IntaglioError(f"{router.name} reports no clock")
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
