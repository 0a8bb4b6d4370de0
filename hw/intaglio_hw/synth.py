"""Synthesis with yosys: what the accelerator, or one part of it, takes on a chip.

What is synthesised is the :class:`Harness`: the circuit with few pins, so that it can be placed and
routed on any chip without a board around it.
"""

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from amaranth.hdl import Cat, ClockDomain, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import atomic_write
from intaglio_hw.accelerator import make_accelerator
from intaglio_hw.array import ArrayUnit
from intaglio_hw.axi import AxiReadArbiter
from intaglio_hw.csr import CsrBank
from intaglio_hw.elaborate import TOP, component_rtlil
from intaglio_hw.families import FAMILY_TOOLS, KINDS, count_cells
from intaglio_hw.load import LoadUnit
from intaglio_hw.primitives import is_lean, nexus
from intaglio_hw.route import place_and_route
from intaglio_hw.sequencer import Sequencer
from intaglio_hw.sequential.array import ArrayPass
from intaglio_hw.sequential.dma import Dma
from intaglio_hw.sequential.drain import DrainPass
from intaglio_hw.sequential.layout import Layout
from intaglio_hw.sequential.registers import RegisterPort
from intaglio_hw.sequential.scratchpad import WordMemory
from intaglio_hw.sequential.timer import Timer
from intaglio_hw.sequential.top import make_engine
from intaglio_hw.store import StoreUnit
from intaglio_hw.tools import Progress, run_yosys
from intaglio_hw.vector import VectorUnit

__all__ = ["PARTS", "SEQUENTIAL_PARTS", "Harness", "parts_of", "place_and_route", "synthesize"]

#: Parts of the accelerator that can be synthesised alone: name there -> what makes them.
PARTS: Mapping[str, Callable[[AcceleratorConfig, str], wiring.Component]] = {
    "arbiter": lambda config, family: AxiReadArbiter(config=config),
    "array": lambda config, family: ArrayUnit(config=config, family=family, lean=is_lean(family)),
    "csr": lambda config, family: CsrBank(config=config, lean=is_lean(family)),
    "load": lambda config, family: LoadUnit(config=config, lean=is_lean(family)),
    "sequencer": lambda config, family: Sequencer(config=config, lean=is_lean(family)),
    "store": lambda config, family: StoreUnit(config=config, lean=is_lean(family)),
    "vector": lambda config, family: VectorUnit(config=config, family=family, lean=is_lean(family)),
}
#: Those of the sequential accelerator.
SEQUENTIAL_PARTS: Mapping[str, Callable[[AcceleratorConfig, str], wiring.Component]] = {
    "array": lambda config, family: ArrayPass(config=config, family=family),
    "dma": lambda config, family: Dma(config=config),
    "drain": lambda config, family: DrainPass(),
    "engine": make_engine,
    "memory": lambda config, family: WordMemory(vectors=Layout.of(config).vectors, family=family),
    "registers": lambda config, family: RegisterPort(),
    "timer": lambda config, family: Timer(),
}


class Harness(wiring.Component):
    """A component behind a scan chain: as few pins as possible, and nothing is optimised away.

    While ``shift`` is high, ``serial_in`` moves through a chain with a bit for each input and a
    chain of the outputs moves out of ``serial_out``; in each cycle with ``shift`` low the inputs
    take what the first chain holds and the second takes the outputs. Traces are left open: they are
    for simulation.

    A lean one has fewer registers: the inputs are the first chain, the second takes the parities of
    _FOLD outputs each. With ``oscillator`` (Nexus) the clock is the chip's own and not a pin.
    """

    #: Outputs that share a bit of the chain of a lean harness.
    _FOLD = 8

    def __init__(
        self,
        *,
        component: wiring.Component,
        name: str,
        lean: bool = False,
        oscillator: bool = False,
    ) -> None:
        self.component, self.name = component, name
        self.lean, self.oscillator = lean, oscillator
        ports = {"serial_in": In(1), "shift": In(1), "serial_out": Out(1)}
        super().__init__(ports | ({"rst": In(1)} if oscillator else {}))

    def elaborate(self, platform):
        m = Module()
        if self.oscillator:
            m.domains.sync = domain = ClockDomain("sync")
            nexus.oscillator(m, clock=domain.clk)
            m.d.comb += domain.rst.eq(self.rst)
        m.submodules[self.name] = self.component
        inputs, outputs = [], []
        for path, member, value in self.component.signature.flatten(self.component):
            if not str(path[0]).startswith("trace_"):
                (inputs if member.flow == In else outputs).append(value)
        inputs, outputs = Cat(inputs), Cat(outputs)
        if self.lean:
            places = range(0, len(outputs), self._FOLD)
            outputs = Cat(outputs[low : low + self._FOLD].xor() for low in places)
        chain_in, held = Signal(len(inputs)), Signal(len(inputs))
        chain_out = Signal(len(outputs))
        m.d.comb += [inputs.eq(chain_in if self.lean else held), self.serial_out.eq(chain_out[-1])]
        with m.If(self.shift):
            m.d.sync += [
                chain_in.eq(Cat(self.serial_in, chain_in)),
                chain_out.eq(Cat(chain_in[-1], chain_out)),
            ]
        with m.Else():
            m.d.sync += [held.eq(chain_in), chain_out.eq(outputs)]
        return m


def _components(modules: list[str]) -> list[str]:
    """Return the modules that are direct parts of the accelerator."""
    return [name for name in modules if re.fullmatch(rf"\w+\.{TOP}\.\w+", name)]


def parts_of(
    config: AcceleratorConfig,
) -> Mapping[str, Callable[[AcceleratorConfig, str], wiring.Component]]:
    """Return the parts of a machine like ``config``: PARTS or SEQUENTIAL_PARTS."""
    return SEQUENTIAL_PARTS if config.organization == "sequential" else PARTS


def _circuit(config: AcceleratorConfig, family: str, part: str | None) -> tuple[str, str]:
    """Return the name of what is inside the harness, and the RTLIL of both."""
    parts = parts_of(config)
    if part is None:
        name, component = TOP, make_accelerator(config=config, family=family)
    elif part in parts:
        name, component = part, parts[part](config, family)
    else:
        raise IntaglioError(f"part must be one of {', '.join(parts)}, not {part!r}")
    harness = Harness(
        component=component,
        name=name,
        lean=is_lean(family),
        oscillator=FAMILY_TOOLS[family].oscillator,
    )
    return name, component_rtlil(harness, name="harness")


def _check_device(family: str, device: str) -> None:
    if family not in FAMILY_TOOLS:
        raise ValueError(f"family must be one of {', '.join(FAMILY_TOOLS)}, not {family!r}")
    devices = FAMILY_TOOLS[family].devices
    if device not in devices:
        raise ValueError(f"device must be one of {', '.join(devices)}, not {device!r}")


def synthesize(
    config: AcceleratorConfig,
    *,
    family: str = "ecp5",
    device: str = "85k",
    part: str | None = None,
    netlist: str | Path | None = None,
    progress: Progress | None = None,
    limit_s: float = 1800,
) -> dict:
    """Synthesise the accelerator and count what it needs.

    Parameters
    ----------
    family, device
        A key of FAMILY_TOOLS, and one of its devices.
    part
        One of PARTS, or of SEQUENTIAL_PARTS: that alone, not the whole accelerator.
    netlist
        Where to put the netlist of the :class:`Harness` as JSON, for :func:`place_and_route`.
    progress
        Called with the name of each step of yosys.
    limit_s
        Seconds after which it is given up.

    Returns
    -------
    dict
        ``config``, ``digest``, ``family``, ``device``, ``part``; ``resources`` (kind -> number, for
        each of KINDS) without the harness; ``available`` (kind -> number that the device has);
        ``components`` (name -> resources) for each part of the accelerator, and ``top`` for what
        lies between them; ``seconds``. A part takes what it takes in the whole: its border is kept
        there, too.

    Raises
    ------
    ValueError
        Unknown family or device.
    IntaglioError
        Unknown part; yosys failed or took too long.
    """
    _check_device(family, device)
    tools = FAMILY_TOOLS[family]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="intaglio-synth-") as folder:
        work = Path(folder)
        inside, text = _circuit(config, family, part)
        (work / "harness.il").write_text(text, encoding="utf-8")
        names = re.findall(r"^module \\(\S+)$", text, re.M)
        # Each part is flattened and optimised as a whole, but its border stays, for the count.
        kept = [f"harness.{inside}", *_components(names)]
        run_yosys(
            [
                f"read_verilog -lib {tools.libraries}",
                "read_rtlil harness.il",
                "hierarchy -check -top harness",
                *(f"setattr -mod -set keep_hierarchy 1 \\{name}" for name in kept),
                *tools.synthesize("harness"),
                "tee -q -o stat.json stat -json",
                "setattr -mod -unset keep_hierarchy *",
                "flatten",
                *([tools.pads] if tools.pads else []),
                "opt_clean -purge",
                "check -assert",
                "write_json netlist.json",
            ],
            work=work,
            results=["netlist.json", "stat.json"],
            progress=progress,
            limit_s=limit_s,
        )
        stat = json.loads((work / "stat.json").read_text(encoding="utf-8"))
        counts = {
            name.removeprefix("\\"): count_cells(family, module["num_cells_by_type"])
            for name, module in stat["modules"].items()
        }
        components = {name.rpartition(".")[2]: counts[name] for name in _components(list(counts))}
        components["top" if part is None else part] = counts[f"harness.{inside}"]
        if netlist is not None:
            with atomic_write(netlist, "wb") as file:
                file.write((work / "netlist.json").read_bytes())
    return {
        "config": config.name,
        "digest": config.digest(),
        "family": family,
        "device": device,
        "part": part,
        "resources": {kind: sum(each[kind] for each in components.values()) for kind in KINDS},
        "available": dict(tools.devices[device]),
        "components": components,
        "seconds": round(time.monotonic() - begin, 1),
    }
