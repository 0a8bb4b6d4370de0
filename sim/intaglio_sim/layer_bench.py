"""Single convolutions: cycles of the RTL and of the cycle model, at one dilation after the other.

python -m intaglio_sim.layer_bench dilation
python -m intaglio_sim.layer_bench peer NNGEN.json
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.compile import compile_graph
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.graph import Graph, GraphBuilder
from intaglio_sim.diff import compare_memories
from intaglio_sim.golden import GoldenMachine
from intaglio_sim.golden.cycles import CycleModel
from intaglio_sim.random_graph import random_input
from intaglio_sim.system import run_program

__all__ = ["Measurement", "conv_graph", "measure"]

#: Of the memory, as in NNgen's own model: cycles to the first beat.
LATENCY = 10
#: Name of the layer that is measured.
LAYER = "layer"
#: Dilations of the table.
DILATIONS = (1, 2, 12, 36)


def conv_graph(
    *, kernel: int, inputs: int, outputs: int, size: int, dilation: int = 1, seed: int = 1
) -> Graph:
    """Return a convolution ``layer`` that keeps its ``size`` x ``size`` positions, random codes.

    Before it comes a 1x1 convolution of an image with three channels to ``inputs``. Bias,
    multiplier and shift for each channel, ReLU; padding ``dilation * (kernel - 1) / 2``.
    """
    rng = np.random.default_rng(seed)
    builder = GraphBuilder()

    def conv(name: str, source: str, k: int, c: int, outs: int, d: int, shift: int) -> str:
        attributes: dict[str, Any] = {
            "stride": (1, 1),
            "padding": (d * (k - 1) // 2,) * 4,
            "dilation": (d, d),
            "pad_code": 0,
            "residual_shift": 0,
            "shift": shift,
            "low": 0,
            "high": 127,
        }
        tensors: dict[str, Any] = {
            "weight": rng.integers(-127, 128, (outs, c, k, k)).astype(np.int8),
            "multiplier": rng.integers(1, 8000, outs).astype(np.int16),
            "bias": rng.integers(-(1 << 20), 1 << 20, outs),
        }
        return builder.node("conv", name, [source], -5, attributes, tensors)

    image = builder.input("image", (1, 3, size, size), -7)
    codes = conv("first", image, 1, 3, inputs, 1, 20)
    return builder.finish([conv(LAYER, codes, kernel, inputs, outputs, dilation, 24)])


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Of the layer: ``cycles`` of the RTL (0: not simulated), ``predicted`` by the cycle model.

    From the first instruction of the layer that is accepted (part of the layer before may still
    run) to the last that is done. ``macs``: with the taps that fall into the padding.
    """

    config: AcceleratorConfig
    macs: int
    predicted: int
    cycles: int = 0

    @property
    def use(self) -> float:
        """Value of macs / (cycles * multipliers)."""
        return self.macs / ((self.cycles or self.predicted) * self.config.macs_per_cycle)


def measure(
    graph: Graph, config: AcceleratorConfig, simulator: str | None, *, latency: int = LATENCY
) -> Measurement:
    """Compile ``graph`` (of :func:`conv_graph`), predict its cycles, count them in ``simulator``.

    Raises
    ------
    IntaglioError
        The RTL stops, or leaves another byte than the golden machine.
    """
    program = compile_graph(graph, config, latency=latency)
    timeline = CycleModel(config=config, memory_latency=latency).run(program)
    (predicted,) = (layer.cycles for layer in timeline.layers if layer.name == LAYER)
    cycles = 0
    if simulator:
        image = program.image(random_input(graph, 1)[0])
        expected = image.copy()
        golden = GoldenMachine(config).run_program(program, expected)
        if golden.error:
            raise IntaglioError(f"golden machine: {golden.error_text}")
        run = run_program(program, image, config, simulator, latency=latency, trace=True)
        if not run.finished:
            raise IntaglioError(f"{simulator} stopped with {run.error.name}")
        mismatch = compare_memories(expected, run.memory, names=("golden", simulator))
        if mismatch:
            raise IntaglioError(str(mismatch))
        spans = [e.cycle for e in run.trace if program.layers[e.index] == LAYER]
        cycles = max(spans) - min(spans) + 1
    node = graph.nodes[-1]
    taps = int(np.prod(node.tensors["weight"].shape))
    positions = int(np.prod(graph.values[node.output].shape[2:]))
    return Measurement(
        config=config,
        macs=taps * positions,
        predicted=predicted,
        cycles=cycles,
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(cycles: int) -> str:
    return f"{cycles:,}" if cycles else "-"


def _dilation(names: Sequence[str], size: int) -> str:
    """Return the table of one layer at several dilations."""
    rows = [["configuration", "dilation", "RTL", "cycle model", "beside dilation 1", "array use"]]
    for name in names:
        first = 0
        for dilation in DILATIONS:
            graph = conv_graph(kernel=3, inputs=64, outputs=64, size=size, dilation=dilation)
            m = measure(graph, CONFIGS[name], "verilator")
            first = first or m.predicted
            rows.append([f"`{name}`", str(dilation), _number(m.cycles), _number(m.predicted)])
            rows[-1] += [f"{100 * (m.predicted / first - 1):+.2f} %", f"{100 * m.use:.1f} %"]
    return _table(rows)


def _peer(path: Path) -> str:
    """Return the table of layers beside NNgen's, which ``path`` has as a list of JSON objects."""
    head = ["layer", "design", "multipliers", "bus, bytes", "cycles", "use of the multipliers"]
    rows = [head]
    measured: set[tuple[str, str]] = set()
    for entry in json.loads(path.read_text(encoding="utf-8")):
        layer = {
            key: entry["layer"][key] for key in ("kernel", "inputs", "outputs", "size", "dilation")
        }
        text = "{kernel}x{kernel}, {inputs} to {outputs}, {size}x{size}".format(**layer)
        if layer["dilation"] > 1:
            text += f", dilation {layer['dilation']}"
        name, seen = entry["beside"], entry["answer"]
        if "refused" in seen:
            rows.append([text, "NNgen 1.3", "", "", "", f"refused: `{seen['refused']}`"])
        else:
            if seen["wrong"]:
                raise IntaglioError(f"NNgen: {seen['wrong']} wrong outputs in {text}")
            use = seen["macs"] / (seen["cycles"] * seen["multipliers"])
            label = "NNgen 1.3" + (", memory sleeps" if entry["sleep"] else "")
            rows.append([text, label, str(seen["multipliers"]), str(seen["bus_bytes"])])
            rows[-1] += [_number(seen["cycles"]), f"{100 * use:.1f} %"]
        if (text, name) not in measured:
            measured.add((text, name))
            m = measure(conv_graph(**layer), CONFIGS[name], "verilator")
            config = m.config
            rows.append([text, f"`{name}`", str(config.macs_per_cycle), str(config.bus_bytes)])
            rows[-1] += [f"{m.cycles:,} (model {m.predicted:,})", f"{100 * m.use:.1f} %"]
    return _table(rows)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dilation = commands.add_parser("dilation", help="one layer at dilation 1, 2, 12 and 36")
    dilation.add_argument("--config", nargs="+", default=["mini-8x8", "wide-16x8"])
    dilation.add_argument("--size", type=int, default=56)
    peer = commands.add_parser("peer", help="three layers beside NNgen: see scripts/bench-nngen")
    peer.add_argument("nngen", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "dilation":
        print(_dilation(arguments.config, arguments.size), end="")
    else:
        print(_peer(arguments.nngen), end="")


if __name__ == "__main__":
    main()
