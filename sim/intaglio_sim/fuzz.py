"""Random layers on the golden machine and the RTL: draw, run, compare, shrink, count what was met.

A case is a handful of numbers (:class:`Case`); everything else follows from them. The golden
machine and the graph itself say what every byte must be, the cycle model how many cycles it takes
when nothing pauses.
"""

import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.compile import compile_graph
from intaglio.spec.config import CONFIGS, AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import atomic_write
from intaglio.spec.graph import Graph, Node
from intaglio.spec.program import Program, read_value
from intaglio_sim.diff import Region, compare_layers, compare_memories
from intaglio_sim.golden import GoldenMachine
from intaglio_sim.golden.cycles import CycleModel
from intaglio_sim.random_graph import OPERATIONS, random_graph, random_input
from intaglio_sim.runner import BenchFailure
from intaglio_sim.system import RunResult, run_program

__all__ = [
    "CAUSES",
    "FUZZ_CONFIGS",
    "Campaign",
    "Case",
    "CaseResult",
    "Coverage",
    "draw_case",
    "fuzz",
    "load_case",
    "run_case",
    "save_case",
    "shrink",
]

#: The cycle model's error in a run without pauses, as a share of the total.
CYCLE_TOLERANCE = 0.01
#: Simulations that one shrinking may take.
SHRINK_RUNS = 60
#: Cycles after which a run counts as hanging, per predicted cycle, and at least.
_PATIENCE, _PATIENCE_LEAST = 60, 200_000


def _odd(**sizes: Any) -> AcceleratorConfig:
    return AcceleratorConfig(
        **{
            "ifm_depth": 512,
            "wgt_depth": 512,
            "vec_depth": 512,
            "ofm_depth": 128,
            "prm_depth": 64,
            "acc_depth": 64,
            **sizes,
        }
    )


#: Machines for Icarus alone, which compiles in seconds: one lane, more outputs than inputs, the
#: widest vector, the shortest queue and burst, multipliers of logic.
ODD_CONFIGS = {
    config.name: config
    for config in (
        _odd(name="odd-8x1", K=1, drain_lanes=1, queue_depth=2, burst_beats=1),
        _odd(name="odd-8x16", K=16, drain_lanes=8, burst_beats=4, multiplier="logic"),
        _odd(name="odd-16x2", R=16, K=2, drain_lanes=2, queue_depth=16, burst_beats=256),
        _odd(name="odd-32x4", R=32, K=4, drain_lanes=4, ofm_depth=256, burst_beats=128),
    )
}
#: The least room for outputs, so that the vector unit waits for the store unit.
SMALL_OUTPUT = _odd(name="odd-8x8", ofm_depth=16, drain_lanes=8)
#: One instruction after the other; by name alone, as it is slow.
SEQUENTIAL = _odd(
    name="odd-sequential",
    K=1,
    drain_lanes=1,
    queue_depth=2,
    burst_beats=8,
    organization="sequential",
)
#: The same with scratchpads of block RAM.
TIGHT = _odd(
    name="odd-tight",
    K=1,
    drain_lanes=1,
    ifm_depth=128,
    wgt_depth=256,
    vec_depth=64,
    ofm_depth=32,
    prm_depth=16,
    acc_depth=32,
    queue_depth=4,
    burst_beats=4,
    organization="sequential",
)
#: All machines that cases name.
FUZZ_CONFIGS = {
    **CONFIGS,
    **ODD_CONFIGS,
    **{config.name: config for config in (SMALL_OUTPUT, SEQUENTIAL, TIGHT)},
}


# ------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, a machine, a simulator and a memory, in numbers.

    ``seed`` to ``padded``: of :func:`random_graph` and its input. ``config``: a name in
    :data:`FUZZ_CONFIGS`. ``latency``, ``interval``, ``stalls``, ``memory_base``: of
    :func:`intaglio_sim.system.run_program`.
    """

    seed: int
    layers: int = 2
    size: int = 10
    channels: int = 12
    operations: tuple[str, ...] = OPERATIONS
    whole: bool = False
    padded: bool = True
    config: str = "tiny-8x8"
    simulator: str = "icarus"
    latency: int = 20
    interval: int = 1
    stalls: int = 0
    memory_base: int = 0

    def __post_init__(self) -> None:
        if self.config not in FUZZ_CONFIGS:
            raise ValueError(f"config must be one of {', '.join(FUZZ_CONFIGS)}, not {self.config}")
        unknown = set(self.operations) - set(OPERATIONS)
        if unknown or not self.operations:
            raise ValueError(f"operations must be among {', '.join(OPERATIONS)}, not {unknown}")

    def graph(self) -> Graph:
        """Return the network."""
        return random_graph(
            self.seed,
            layers=self.layers,
            size=self.size,
            channels=self.channels,
            operations=self.operations,
            whole=self.whole,
            padded=self.padded,
        )

    def __str__(self) -> str:
        return (
            f"seed {self.seed}, {self.layers} layers, size {self.size}, {self.channels} channels, "
            f"{self.config}, {self.simulator}, latency {self.latency}, interval {self.interval}, "
            f"{self.stalls} % pauses"
        )


def save_case(path: Path, case: Case, *, digest: str, found: str) -> None:
    """Write ``case`` as JSON: with the digest of its graph, and what it once showed."""
    data = {**dataclasses.asdict(case), "graph": digest, "found": found}
    with atomic_write(path, "w") as file:
        file.write(json.dumps(data, indent=1) + "\n")


def load_case(path: Path) -> tuple[Case, str]:
    """Return the case that :func:`save_case` wrote and the digest of its graph.

    Raises
    ------
    IntaglioError
        Missing or broken file, or a value that is not possible.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        digest = data.pop("graph")
        data.pop("found")
        return Case(**{**data, "operations": tuple(data["operations"])}), digest
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntaglioError(f"{path}: not a case of 'intaglio fuzz': {error!r}") from error


#: Layers of a case that looks for one row of the coverage, by the operation in that row.
_OPERATION = {
    "conv of the image": "conv",
    "conv 1x1": "conv",
    "conv with residual": "residual",
    "conv to few pixels": "conv",
    "global pool": "global_pool",
    "broadcast": "global_pool",
    "resize align": "resize",
    "resize half_pixel": "resize",
    "argmax": "conv",
}
#: Graphs that are drawn to meet a row, and the memory and the pauses of each round over all rows:
#: none; a memory so slow that outputs wait for it; pauses; a fast memory, so that the array waits
#: for the vector unit; anything.
_DRAWS = 600
_ROUNDS: tuple[dict[str, Sequence[int]], ...] = (
    {"stalls": (0,), "interval": (1, 2)},
    {"stalls": (0,), "interval": (5,), "latency": (60, 150)},
    {"stalls": (30, 60, 85), "interval": (2, 5)},
    {"stalls": (0,), "interval": (1,), "latency": (2, 3)},
    {"stalls": (10, 30, 60), "interval": (1,), "latency": (2, 3)},
)
_OUTPUT_ROUND = 1
#: Convolutions of so few pixels are a row of their own, whatever their window: the machine's units
#: then do less for an instruction than they need to set it up.
_FEW_PIXELS = 3


def draw_case(seed: int, *, simulator: str, configs: Sequence[str] | None = None) -> Case:
    """Return a random case, the same for the same arguments.

    Those for Icarus are small. Each seed looks for one row of the coverage: networks are drawn
    until one has a layer like that, and successive seeds go through all rows, at several speeds of
    the memory, so that rare combinations are met.
    """
    rng = random.Random(f"case {seed} {simulator}")
    slow = simulator == "icarus"
    names = list(configs or ())
    if not names:
        names = [name for name, item in CONFIGS.items() if item.organization == "pipelined"]
        names += ODD_CONFIGS if slow else ()
    rows = _expected_rows()
    row = rows[seed % len(rows)]
    op, _, _, edge, lanes = row
    turn = seed // len(rows) % len(_ROUNDS)
    wish = _OPERATION.get(op, op)
    memory = {
        "latency": (2, 3, 10, 20, 20, 60, 150),
        "interval": (1, 1, 1, 2, 5),
        "stalls": (0, 10, 30, 60, 85),
        **_ROUNDS[turn],
    }
    if turn == _OUTPUT_ROUND and not configs:
        names = [SMALL_OUTPUT.name]
    case = Case(
        seed=seed,
        config=rng.choice(names),
        simulator=simulator,
        latency=rng.choice(memory["latency"]),
        interval=rng.choice(memory["interval"]),
        stalls=rng.choice(memory["stalls"]),
        memory_base=4096 * rng.choice([0, 0, 1, rng.randrange(1 << 19)]),
    )
    for draw in range(_DRAWS):
        case = dataclasses.replace(
            case,
            seed=seed + draw * 10_000_019,
            layers=rng.randint(0, 2) if slow else rng.randint(1, 5),
            size=rng.choice([3, *[6, 8, 10] * 3] if slow else [3, *[8, 12, 20] * 3]),
            channels=rng.choice([4, 9, 12]) if slow else rng.choice([9, 20, 33]),
            operations=(wish,) if rng.random() < 0.7 else OPERATIONS,
            whole=lanes == "whole" or rng.random() < 0.1,
            padded=edge != "inside" or rng.random() < 0.3,
        )
        if row in features(case.graph(), FUZZ_CONFIGS[case.config]):
            break
    return case


# ---------------------------------------------------------------------------------------- coverage

#: What may make a unit wait, as columns of the table: the counters that tell, and pauses of the
#: memory itself.
CAUSES = {
    "no pause": None,
    "memory pauses": None,
    "array for load": "array_wait_load",
    "array for vector": "array_wait_vector",
    "vector for load": "vector_wait_load",
    "vector for array": "vector_wait_array",
    "vector for store": "vector_wait_store",
    "load": "load_wait",
    "store": "store_wait",
}


def _edge(rows: Sequence[int], extent: Sequence[int], padding: Sequence[int]) -> str:
    """Return how a window meets the border of its map."""
    if any(e > r for e, r in zip(extent, rows, strict=True)):
        return "beyond the map"
    return "padded" if any(padding) else "inside"


def _covers(node: Node, shape: Sequence[int]) -> bool:
    """Return whether a pooling window is the whole map and nothing else."""
    return tuple(node.attributes["kernel"]) == tuple(shape[2:]) and not any(
        node.attributes["padding"]
    )


def features(graph: Graph, config: AcceleratorConfig) -> list[tuple[str, str, str, str, str]]:
    """Return for each layer (operation, stride, dilation, edge, lanes), the rows of the table."""
    found = []
    for node in graph.nodes:
        a = node.attributes
        inputs = [graph.values[name].shape for name in node.inputs]
        shape = graph.values[node.output].shape
        op, stride, dilation, edge = node.op, "1", "1", "inside"
        if "stride" in a:
            stride = "1" if max(a["stride"]) == 1 else "more"
        if node.op == "conv":
            kernel = node.tensors["weight"].shape[2:]
            steps = a["dilation"]
            dilation = "1" if max(steps) == 1 or max(kernel) == 1 else "more"
            extent = [d * (k - 1) + 1 for d, k in zip(steps, kernel, strict=True)]
            edge = _edge(inputs[0][2:], extent, a["padding"])
            op = "conv 1x1" if max(kernel) == 1 else "conv"
            if node.inputs[0] in graph.inputs:
                op = "conv of the image"
            if len(node.inputs) == 2:
                op = "conv with residual"
            elif shape[2] * shape[3] <= _FEW_PIXELS:
                op, stride, dilation, edge = "conv to few pixels", "1", "1", "inside"
        elif node.op == "conv_transpose":
            edge = "padded" if any(a["padding"]) else "inside"
        elif node.op in ("max_pool", "avg_pool"):
            edge = _edge(inputs[0][2:], a["kernel"], a["padding"])
            if node.op == "avg_pool" and _covers(node, inputs[0]):
                op, stride = "global pool", "1"
        elif node.op == "resize":
            op = f"resize {a['corners']}"
            stride = "1" if max(a["ratio"]) == 1 else "more"
        whole = all(size[1] % config.R == 0 for size in inputs) and (
            op == "argmax" or shape[1] % max(config.R, config.K) == 0
        )
        found.append((op, stride, dilation, edge, "whole" if whole else "remainder"))
    return found


def _expected_rows() -> list[tuple[str, str, str, str, str]]:
    """Return every row that a network can have."""
    rows = []
    ones, both = ("1",), ("1", "more")
    shapes: dict[str, tuple[Iterable[str], Iterable[str], Iterable[str]]] = {
        # operation: strides, dilations, edges
        "conv of the image": (both, both, ("inside", "padded", "beyond the map")),
        "conv": (both, both, ("inside", "padded", "beyond the map")),
        "conv 1x1": (both, ones, ("inside", "padded")),
        "conv with residual": (ones, both, ("inside", "padded", "beyond the map")),
        "conv to few pixels": (ones, ones, ("inside",)),
        "conv_transpose": (("more",), ones, ("inside", "padded")),
        "max_pool": (both, ones, ("inside", "padded", "beyond the map")),
        "avg_pool": (both, ones, ("inside", "padded", "beyond the map")),
        "global pool": (ones, ones, ("inside",)),
        "broadcast": (ones, ones, ("inside",)),
        "resize align": (both, ones, ("inside",)),
        "resize half_pixel": (both, ones, ("inside",)),
        "add": (ones, ones, ("inside",)),
        "concat": (ones, ones, ("inside",)),
        "argmax": (ones, ones, ("inside",)),
    }
    for op, (strides, dilations, edges) in shapes.items():
        for stride in strides:
            for dilation in dilations:
                for edge in edges:
                    if edge == "inside" and op == "conv with residual" and dilation == "more":
                        continue  # padded to the same size, always
                    for lanes in ("whole", "remainder"):
                        if op == "conv of the image" and lanes == "whole":
                            continue  # three channels
                        rows.append((op, stride, dilation, edge, lanes))
    return rows


class Coverage:
    """Layers that were run, by what they are and by what waited in the run that they were part of.

    A run counts for a cause when the machine's counter for it was not zero; all of its layers count
    in that column.
    """

    def __init__(self) -> None:
        self.cells: Counter[tuple[tuple[str, ...], str]] = Counter()

    def add(
        self,
        graph: Graph,
        config: AcceleratorConfig,
        counters: Mapping[str, int],
        *,
        pauses: bool,
    ) -> None:
        """Count the layers of one run."""
        causes = ["memory pauses" if pauses else "no pause"]
        causes += [cause for cause, name in CAUSES.items() if name and counters.get(name)]
        for row in features(graph, config):
            for cause in causes:
                self.cells[row, cause] += 1

    def merge(self, other: "Coverage") -> None:
        """Add what ``other`` has counted."""
        self.cells.update(other.cells)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table: all that are possible, and all that were met."""
        rows: list[tuple[str, ...]] = list(_expected_rows())
        return rows + sorted({row for row, _ in self.cells} - set(rows))

    def holes(self) -> list[str]:
        """Return the cells that nothing has met, by name."""
        return [
            f"{_row_name(row)}: {cause}"
            for row in self.rows()
            for cause in CAUSES
            if not self.cells[row, cause]
        ]

    def markdown(self) -> str:
        """Return the table, and below it the holes."""
        names = ["operation", "stride", "dilation", "edge", "lanes", *CAUSES]
        lines = [names, ["---"] * 5 + ["---:"] * len(CAUSES)]
        for row in self.rows():
            lines.append([*row, *(str(self.cells[row, cause]) for cause in CAUSES)])
        text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        holes: dict[str, list[str]] = {}
        for hole in self.holes():
            name, _, cause = hole.rpartition(": ")
            holes.setdefault(name, []).append(cause)
        text += f"\n{sum(map(len, holes.values()))} holes"
        text += ":\n\n" if holes else ".\n"
        return text + "".join(f"- {name}: {', '.join(causes)}\n" for name, causes in holes.items())

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return row -> cause -> layers."""
        return {
            _row_name(row): {cause: self.cells[row, cause] for cause in CAUSES}
            for row in self.rows()
        }


def _row_name(row: Sequence[str]) -> str:
    op, stride, dilation, edge, lanes = row
    return f"{op}, stride {stride}, dilation {dilation}, {edge}, {lanes}"


# --------------------------------------------------------------------------------------------- run


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What one case showed.

    ``failure``: "" or the first difference, in one line. ``refused``: why the compiler refused it,
    "" otherwise; nothing was compared then. ``compared``: bytes. ``cycles``, ``predicted``: of the
    RTL and of the cycle model (0 where the memory pauses). ``digest``: of the graph.
    """

    case: Case
    digest: str
    failure: str = ""
    refused: str = ""
    compared: int = 0
    cycles: int = 0
    predicted: int = 0
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def cycle_error(self) -> float:
        """Value of the cycle model's error as a share of the RTL's cycles."""
        return abs(self.predicted - self.cycles) / self.cycles if self.predicted else 0.0


def _regions(program: Program) -> list[Region]:
    R = program.config.R
    regions = []
    for placement in program.values.values():
        blocks = placement.layout == "blocks"
        _, rows, columns = placement.shape
        regions.append(
            Region(
                name=placement.name,
                offset=placement.address,
                length=placement.nbytes(R),
                vector_bytes=R if blocks else 0,
                rows=rows if blocks else 0,
                columns=columns if blocks else 0,
            )
        )
    return regions


def one_line(error: BaseException) -> str:
    """Return the first line of an error, without what differs from machine to machine."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"\S*/(?=\S)", "", text)


def run_case(case: Case) -> CaseResult:
    """Run one case on graph, golden machine and RTL, and compare every byte of the memory.

    Raises
    ------
    IntaglioError
        No simulator. What the case itself does wrong is in the result.
    """
    config = FUZZ_CONFIGS[case.config]
    graph = case.graph()
    digest = graph.digest()
    x = random_input(graph, case.seed)
    try:
        program = compile_graph(graph, config, latency=case.latency, interval=case.interval)
    except IntaglioError as error:
        return CaseResult(case=case, digest=digest, refused=str(error))

    def result(failure: str = "", **fields: Any) -> CaseResult:
        return CaseResult(case=case, digest=digest, failure=failure, **fields)

    image = program.image(x[0])
    expected = image.copy()
    golden = GoldenMachine(config).run_program(program, expected)
    if golden.error:
        return result(f"golden: {golden.error_text} at instruction {golden.error_instruction}")
    reference = {name: value[0] for name, value in graph.evaluate(x).items()}
    found = {
        name: read_value(expected, placement, config.R)
        for name, placement in program.values.items()
    }
    mismatch = compare_layers(
        {name: reference[name] for name in found}, found, names=("graph", "golden")
    )
    if mismatch:
        return result(str(mismatch))
    model = CycleModel(config=config, memory_latency=case.latency, memory_interval=case.interval)
    predicted = model.run(program).cycles
    try:
        run = _simulate(case, program, image, predicted)
    except BenchFailure as error:
        return result(one_line(error))
    coverage = Coverage()
    coverage.add(graph, config, run.counters, pauses=case.stalls > 0)
    outcome: dict[str, Any] = {
        "compared": len(expected),
        "cycles": run.counters["cycles"],
        "predicted": 0 if case.stalls else predicted,
        "coverage": coverage,
    }
    if not run.finished:
        where = program.layers[min(run.error_instruction, program.length - 1)]
        return result(
            f"stopped with {run.error.name} at instruction {run.error_instruction} ({where})",
            **outcome,
        )
    mismatch = compare_memories(
        expected, run.memory, _regions(program), names=("golden", case.simulator)
    )
    if mismatch:
        return result(str(mismatch), **outcome)
    done = result(**outcome)
    if done.cycle_error > CYCLE_TOLERANCE:
        return result(
            f"cycles: {case.simulator} {done.cycles}, cycle model {done.predicted}", **outcome
        )
    return done


def _simulate(case: Case, program: Program, image: np.ndarray, predicted: int) -> RunResult:
    return run_program(
        program,
        image,
        program.config,
        case.simulator,
        latency=case.latency,
        interval=case.interval,
        stalls=case.stalls,
        seed=case.seed + 1,
        memory_base=case.memory_base,
        deadline=max(_PATIENCE * predicted, _PATIENCE_LEAST),
    )


# ------------------------------------------------------------------------------------------ shrink


def _smaller(case: Case) -> Iterable[Case]:
    """Return cases that are simpler than ``case``, the most promising first."""
    replace = dataclasses.replace
    if case.stalls:
        yield replace(case, stalls=0)
    if (case.latency, case.interval, case.memory_base) != (2, 1, 0):
        yield replace(case, latency=2, interval=1, memory_base=0)
    for layers in sorted({0, case.layers // 2, case.layers - 1}):
        if 0 <= layers < case.layers:
            yield replace(case, layers=layers)
    for size in sorted({1, case.size // 2, case.size - 1}):
        if 1 <= size < case.size:
            yield replace(case, size=size)
    for channels in sorted({1, case.channels // 2, case.channels - 1}):
        if 1 <= channels < case.channels:
            yield replace(case, channels=channels)
    if case.latency != 2:
        yield replace(case, latency=2)
    if case.interval != 1:
        yield replace(case, interval=1)
    if case.memory_base:
        yield replace(case, memory_base=0)


def shrink(
    case: Case, failure: Callable[[Case], str], *, runs: int = SHRINK_RUNS
) -> tuple[Case, str, int]:
    """Return the smallest case found that still fails, its failure, and how many were tried.

    Greedy: no pauses, a fast memory, fewer layers, a smaller image, fewer channels, until none of
    these fails any more or ``runs`` were tried. ``failure`` returns "" for a case that passes.
    """
    text = failure(case)
    if not text:
        raise ValueError(f"the case does not fail: {case}")
    tried = 0
    progress = True
    while progress:
        progress = False
        for candidate in _smaller(case):
            if tried == runs:
                return case, text, tried
            tried += 1
            found = failure(candidate)
            if found:
                case, text, progress = candidate, found, True
                break
    return case, text, tried


# ---------------------------------------------------------------------------------------- campaign


@dataclass
class Campaign:
    """What :func:`fuzz` did.

    ``cases``: compared, by simulator. ``failures``: one dictionary for each, with the shrunk case.
    ``worst_cycles``: largest error of the cycle model, over ``cycle_cases`` runs without pauses.
    """

    cases: Counter[str] = field(default_factory=Counter)
    configs: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    refused: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    cycle_cases: int = 0
    worst_cycles: float = 0.0

    def add(self, result: CaseResult) -> None:
        """Count one result that was not refused."""
        self.cases[result.case.simulator] += 1
        self.configs[result.case.config] += 1
        self.compared += result.compared
        self.coverage.merge(result.coverage)
        if result.predicted:
            self.cycle_cases += 1
            self.worst_cycles = max(self.worst_cycles, result.cycle_error)


def fuzz(
    count: int,
    *,
    seed: int = 0,
    simulators: Sequence[str] = ("verilator", "icarus"),
    configs: Sequence[str] | None = None,
    cases_dir: Path | None = None,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Campaign:
    """Run ``count`` random cases, shared between ``simulators``; shrink those that fail.

    Parameters
    ----------
    seed
        Case number i depends on ``seed + i`` alone (one that the compiler refuses is drawn again).
    configs
        Names in :data:`FUZZ_CONFIGS` to draw from; by default the named ones, and in Icarus the odd
        ones too.
    cases_dir
        Folder that receives a JSON file for each failure.
    jobs
        Simulations at a time.
    """
    campaign = Campaign()

    def one(number: int) -> tuple[CaseResult, int]:
        simulator = simulators[number % len(simulators)]
        for again in range(100):
            key = seed + number + again * 1_000_003
            result = run_case(draw_case(key, simulator=simulator, configs=configs))
            if not result.refused:
                return result, again
        raise IntaglioError(f"the compiler refuses every case: {result.refused}")

    with ThreadPoolExecutor(jobs) as pool:
        for number, (result, refused) in enumerate(pool.map(one, range(count))):
            campaign.refused += refused
            campaign.add(result)
            if result.failure:
                progress(f"{result.case}: {result.failure}")
                campaign.failures.append(_shrunk(result, cases_dir, progress))
            progress(
                f"{number + 1} of {count}: {result.case}: {result.cycles} cycles, "
                f"{len(campaign.failures)} failures"
            )
    return campaign


def _shrunk(
    result: CaseResult, cases_dir: Path | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Shrink a failure, and keep it as a file."""
    case, text, tried = result.case, result.failure, 0
    try:
        case, text, tried = shrink(case, lambda smaller: run_case(smaller).failure)
    except ValueError:  # not the same twice, which is worth knowing by itself
        text = f"not reproducible: {text}"
    entry: dict[str, Any] = {
        "case": dataclasses.asdict(case),
        "first_mismatch": text,
        "drawn": dataclasses.asdict(result.case),
        "shrinking_runs": tried,
    }
    progress(f"shrunk in {tried} runs: {case}: {text}")
    if cases_dir is not None:
        path = cases_dir / f"{case.config}-{case.simulator}-{case.seed}.json"
        save_case(path, case, digest=case.graph().digest(), found=text)
        entry["file"] = str(path)
    return entry
