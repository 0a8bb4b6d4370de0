"""Everything that can run a frozen network, behind one call: an image in, every layer out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from intaglio.compile import compile_graph
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.graph import Graph
from intaglio.spec.program import Program, read_value

__all__ = ["EXECUTORS", "BoardSettings", "Executor", "Network", "make_executor"]

#: Executors by name, in the order of the chain; besides them ``board``, which needs one.
EXECUTORS = ("spec", "torch", "onnx", "golden", "verilator", "icarus", "netlist")

Layers = dict[str, np.ndarray]


class Executor(Protocol):
    """Runs the network on one image."""

    def __call__(self, image: np.ndarray) -> Layers:
        """Return name -> (C, H, W) of every value for ``image`` int8 (C, H, W)."""
        ...


@dataclass(frozen=True, kw_only=True)
class BoardSettings:
    """Where a board is and what is wanted from it.

    ``port`` is the path of its serial port, ``baud`` its rate; ``timeout_s`` is how long a response
    may take, ``run_s`` a whole program. ``values`` are read back after a run, all of the program's
    by default.
    """

    port: str
    baud: int
    timeout_s: float = 2.0
    run_s: float = 60.0
    values: tuple[str, ...] | None = None


@dataclass(kw_only=True)
class Network:
    """A frozen network and what its executors need.

    Parameters
    ----------
    graph
        The frozen graph; None when only a program is at hand, which golden machine and hardware
        need no graph for.
    model
        The torch module in eval mode that it was recorded from: the executor ``torch`` runs that,
        or the graph where there is none.
    onnx_path
        The ONNX file, run as it is; without it, the graph is converted in memory.
    config
        The accelerator for ``golden``, ``icarus``, ``verilator`` and ``netlist``.
    simulation
        Options for :func:`intaglio_sim.system.run_program` (latency, stalls, ...).
    board
        For the executor ``board``.
    progress
        Receives a line every ten seconds of a simulation, and of what a board is doing.
    """

    graph: Graph | None
    model: Any = None
    onnx_path: Path | None = None
    config: AcceleratorConfig | None = None
    simulation: Mapping[str, Any] = field(default_factory=dict)
    board: BoardSettings | None = None
    progress: Callable[[str], None] = lambda text: None
    #: Executor name -> what its last run reported (counters of the simulators).
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Executor name -> the trace of its last run, with ``trace`` among the options.
    traces: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    _program: Program | None = None

    @property
    def program(self) -> Program:
        """Value of the compiled program, made at first use."""
        if self._program is None:
            if self.config is None:
                raise IntaglioError("golden, icarus, verilator and netlist need a configuration")
            memory = {
                key: self.simulation[key]
                for key in ("latency", "interval")
                if key in self.simulation
            }
            self._program = compile_graph(self.require_graph(), self.config, **memory)
        return self._program

    @program.setter
    def program(self, program: Program) -> None:
        if self.graph is not None and program.graph_digest != self.graph.digest():
            raise IntaglioError(
                f"the program was compiled from graph {program.graph_digest[:12]}, not "
                f"{self.graph.digest()[:12]}: compile it again with 'intaglio compile'"
            )
        self._program, self.config = program, program.config

    def require_graph(self) -> Graph:
        """Return the graph; IntaglioError when there is only a program."""
        if self.graph is None:
            raise IntaglioError("there is only a program here, not the graph it was compiled from")
        return self.graph


def _values(program: Program, memory: np.ndarray, names: Iterable[str] | None = None) -> Layers:
    return {
        name: read_value(memory, program.values[name], program.config.R)
        for name in (program.values if names is None else names)
    }


def _spec(network: Network) -> Executor:
    graph = network.require_graph()

    def run(image: np.ndarray) -> Layers:
        return {name: x[0] for name, x in graph.evaluate(image[None]).items()}

    return run


def _torch(network: Network) -> Executor:
    import torch

    from intaglio.nn import GraphExecutor, record
    from intaglio.nn.int_tensor import IntTensor

    model, graph = network.model, network.require_graph()
    if model is None:
        executor = GraphExecutor(graph, outputs=tuple(graph.values))

        def run_graph(image: np.ndarray) -> Layers:
            found = executor(torch.from_numpy(np.ascontiguousarray(image[None])))
            return {k: x[0].numpy() for k, x in zip(executor.outputs, found, strict=True)}

        return run_graph
    model.eval()
    exponent = graph.values[graph.inputs[0]].exponent

    def run(image: np.ndarray) -> Layers:
        codes = torch.from_numpy(np.ascontiguousarray(image[None]))
        with torch.no_grad(), record(model) as recorder:
            model.argmax(model(IntTensor(codes, exponent)))
        layers = {name: x[0].numpy() for name, x in recorder.codes.items()}
        if layers.keys() != graph.values.keys():
            raise IntaglioError("the model has other layers than the frozen graph: freeze it again")
        return {name: layers[name].astype(value.dtype) for name, value in graph.values.items()}

    return run


def _onnx(network: Network) -> Executor:
    from intaglio.freeze import OnnxExecutor

    executor = OnnxExecutor(network.require_graph(), path=network.onnx_path)
    return lambda image: {name: x[0] for name, x in executor.run(image[None]).items()}


def _golden(network: Network) -> Executor:
    from intaglio_sim.golden.machine import GoldenMachine

    def run(image: np.ndarray) -> Layers:
        program = network.program
        result = GoldenMachine(program.config).run(
            program.image(image), program.program_base, program.length, program.memory_bytes
        )
        if result.error:
            raise IntaglioError(
                f"golden: {result.error.name} at instruction {result.error_instruction} "
                f"({program.layers[result.error_instruction]}): {result.error_text}"
            )
        return _values(program, result.memory)

    return run


def _simulated(name: str, simulator: str) -> Callable[[Network], Executor]:
    """Make the executor ``name``: the RTL in ``simulator``, or the netlist in it."""

    def make(network: Network) -> Executor:
        from intaglio_sim.netlist import family_of, netlist_sources
        from intaglio_sim.system import run_program

        def run(image: np.ndarray) -> Layers:
            program = network.program
            circuit = None
            if name == "netlist":
                family = family_of(program.config)
                network.progress(f"netlist: synthesis for {family}, unless it is in the cache")
                circuit = netlist_sources(program.config, family=family, progress=network.progress)

            def report(cycle: int, index: int) -> None:
                network.progress(
                    f"{name}: cycle {cycle:,}, instruction {index:,} of {program.length:,}, "
                    f"layer {program.layers[min(index, program.length - 1)] or 'end'}"
                )

            result = run_program(
                program,
                program.image(image),
                program.config,
                simulator,
                circuit=circuit,
                progress=report,
                **network.simulation,
            )
            if not result.finished:
                raise IntaglioError(
                    f"{name}: {result.error.name} at instruction {result.error_instruction} "
                    f"({program.layers[result.error_instruction]})"
                )
            network.counters[name] = dict(result.counters)
            network.traces[name] = result.trace
            return _values(program, result.memory)

        return run

    return make


def _board(network: Network) -> Executor:
    from intaglio_sim.board import Board, BoardBackend, SerialLink, open_port

    settings = network.board
    if settings is None:
        raise IntaglioError("the executor board needs the path of its serial port")
    program = network.program
    port = open_port(settings.port, baud=settings.baud, timeout_s=settings.timeout_s)
    backend = BoardBackend(SerialLink(port, name=settings.port), timeout_s=settings.run_s)
    network.progress(
        f"{settings.port}: {backend.memory_bytes // 1024} KiB of memory, "
        f"{backend.clock_hz / 1e6:g} MHz"
    )
    board = Board(backend, program)
    names = tuple(program.values) if settings.values is None else settings.values

    def run(image: np.ndarray) -> Layers:
        outcome = board.run(image)
        network.counters["board"] = dict(outcome.counters)
        return _values(program, board.read(names), names)

    return run


_MAKERS: dict[str, Callable[[Network], Executor]] = {
    "spec": _spec,
    "torch": _torch,
    "onnx": _onnx,
    "golden": _golden,
    "verilator": _simulated("verilator", "verilator"),
    "icarus": _simulated("icarus", "icarus"),
    "netlist": _simulated("netlist", "verilator"),
    "board": _board,
}


def make_executor(name: str, network: Network) -> Executor:
    """Return the executor ``name`` of ``network``.

    Raises
    ------
    IntaglioError
        Unknown executor, or ``network`` lacks what it needs.
    """
    if name not in _MAKERS:
        raise IntaglioError(f"executor {name!r} is unknown; choose from {', '.join(_MAKERS)}")
    return _MAKERS[name](network)
