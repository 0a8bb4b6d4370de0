"""The cycle model: when each unit runs each instruction, without simulating a gate.

Fetching, dispatching, tokens and bursts are followed one by one
(:mod:`intaglio_sim.golden.cycle_flow`), the beats of a burst in closed form
(:mod:`intaglio_sim.golden.cycle_bus`), with the latencies that the components in
:mod:`intaglio_hw` document; the durations of array and vector instructions come from
:mod:`intaglio.spec.timing` and :mod:`intaglio.spec.timing_vector`. It takes microseconds per burst
instead of milliseconds per cycle, and its error against the RTL is tested.

The sequential machine has a model of its own (:mod:`intaglio_sim.golden.cycle_sequential`).

Not modelled: pauses of the memory at random, errors, programs that do not reach ``end``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from intaglio.spec import isa, regs
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Unit
from intaglio.spec.memory import MEMORY_LATENCY
from intaglio.spec.program import Program
from intaglio.spec.timing import ArrayTiming
from intaglio_hw.sequencer import Sequencer
from intaglio_sim.golden import places
from intaglio_sim.golden.checker import check_program
from intaglio_sim.golden.cycle_flow import Flow
from intaglio_sim.golden.cycle_sequential import BUSY, in_order, sequential_flow

__all__ = ["CycleModel", "LayerCycles", "Span", "Timeline"]

#: From the end of the program to the last busy cycle; from the last finished instruction two more.
_FINISH = 2 + Sequencer.REST_CYCLES
#: The units whose tokens the counters of waiting tell apart.
_WAITS = {
    Unit.ARRAY: (Unit.LOAD, Unit.VECTOR),
    Unit.VECTOR: (Unit.LOAD, Unit.ARRAY, Unit.STORE),
}


@dataclass(frozen=True)
class Span:
    """An instruction: accepted by its unit in cycle ``start``, done in cycle ``end``.

    Cycles count from the first one in which the machine is busy. ``offered``: the first cycle in
    which it had its tokens and could have been accepted.
    """

    index: int
    unit: Unit
    start: int
    end: int
    offered: int
    layer: str = ""


@dataclass(frozen=True)
class LayerCycles:
    """What a layer costs.

    ``cycles``: from its first acceptance to its last done (layers overlap, so that these add up to
    more than the whole). ``share``: cycles that passed between the last done of the layers before
    and its own; these add up to the whole. ``array_busy``: vectors multiplied, padding included.
    ``utilization``: macs / (cycles * R * K). Bytes are of feature maps, weights and parameters, as
    moved on the bus.
    """

    name: str
    instructions: int
    cycles: int
    share: int
    macs: int
    array_busy: int
    utilization: float
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class Timeline:
    """The result: ``counters`` has the names of :data:`intaglio.spec.regs.COUNTERS`."""

    config: AcceleratorConfig
    cycles: int
    spans: tuple[Span, ...]
    layers: tuple[LayerCycles, ...]
    counters: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Value of the multiplications of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def utilization(self) -> float:
        """Value of macs / (cycles * R * K)."""
        return self.macs / (self.cycles * self.config.macs_per_cycle)


def _union(start: np.ndarray, end: np.ndarray) -> int:
    """Return the cycles in which one of the spans of a unit, in order, runs."""
    reached = np.concatenate([[-1], np.maximum.accumulate(end)[:-1]])
    return int(np.maximum(end - np.maximum(start, reached), 0).sum()) if len(end) else 0


@dataclass(frozen=True, kw_only=True)
class CycleModel:
    """Predicts the cycles of a program on ``config``.

    Parameters
    ----------
    config
        The machine.
    memory_latency
        Cycles from an accepted read address to its first beat, and from the last write beat to its
        response.
    memory_interval
        Least cycles between two beats, in each direction.
    """

    config: AcceleratorConfig
    memory_latency: int = MEMORY_LATENCY
    memory_interval: int = 1

    def __post_init__(self) -> None:
        for name, least in (("memory_latency", 2), ("memory_interval", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")

    def run(self, program: Program, *, check: bool = False) -> Timeline:
        """Return the timeline of ``program``.

        With ``check``, :func:`intaglio_sim.golden.checker.check_program` comes first.

        Raises
        ------
        IntaglioError
            Another configuration, a program that does not decode or does not reach ``end``.
        """
        program.check_config(self.config)
        if check:
            report = check_program(program)
            if not report.ok:
                raise IntaglioError(report.problems[0])
        try:
            batches = isa.decode_all(program.instructions)
        except ValueError as error:
            raise IntaglioError(str(error)) from error
        if self.config.organization == "sequential":
            return self._run_sequential(program, batches)
        flow = Flow(self.config, batches, self.memory_latency, self.memory_interval)
        flow.run()
        finished = sum(len(stage.done) for stage in flow.stages.values())
        if flow.end < 0 or finished != flow.length - 1:
            raise IntaglioError(
                f"the program stops after {finished} of {flow.length - 1} instructions"
            )
        return self._timeline(program, flow, batches)

    def _run_sequential(self, program: Program, batches: Sequence[isa.Batch]) -> Timeline:
        """Return the timeline of a sequential machine: one instruction after the other."""
        flow = sequential_flow(self.config, self.memory_latency, self.memory_interval)
        instructions = in_order(batches)
        count = len(instructions)
        unit, start, end = (np.zeros(count, np.int64) for _ in range(3))
        counters = dict.fromkeys((name for name, _ in regs.COUNTERS), 0)
        cycle = 0
        for index, (instruction, fields) in enumerate(instructions):
            cost = flow.cost(instruction.name, fields)
            assert instruction.unit is not None
            unit[index] = instruction.unit
            start[index] = cycle + cost.before
            end[index] = start[index] + cost.run
            cycle = int(end[index]) + cost.after
            if instruction.unit in BUSY:
                counters[f"{instruction.name}_busy"] += cost.busy
        busy, read, written = self._work(batches, count)
        counters |= {
            "cycles": cycle + flow.end + flow.fetches(program.program_base, count + 1),
            "array_busy": int(busy.sum()),
            "read_beats": int(read.sum()),
            "write_beats": int(written.sum()),
            "fetch_beats": (count + 1) * isa.INSTRUCTION_BYTES // self.config.R,
            "instructions": count,
        }
        names = [*program.layers[:count], *[""] * (count - len(program.layers))]
        spans = tuple(
            Span(index, isa.UNITS[number], first, last, first, names[index])
            for index, (number, first, last) in enumerate(
                zip(unit.tolist(), start.tolist(), end.tolist(), strict=True)
            )
        )
        layers = self._layers(program, names, start, end, busy, read, written)
        return Timeline(self.config, counters["cycles"], spans, layers, counters)

    def _timeline(self, program: Program, flow: Flow, batches: Sequence[isa.Batch]) -> Timeline:
        count = flow.length - 1
        unit, start, end, offered = (np.zeros(count, np.int64) for _ in range(4))
        counters: dict[str, int] = {}
        for owner, stage in flow.stages.items():
            index = flow.index[owner]
            unit[index] = owner
            start[index], end[index], offered[index] = stage.start, stage.done, stage.offered
        cycles = max(int(end.max(initial=-3)) + 2, flow.end) + 1 + _FINISH
        counters["cycles"] = cycles
        counters["array_busy"] = 0
        for owner, sources in _WAITS.items():
            for source in sources:
                name = f"{owner.name}_wait_{source.name}".lower()
                counters[name] = flow.stages[owner].missing[source]
        counters["load_wait"] = flow.stages[Unit.LOAD].waiting()
        counters["store_wait"] = flow.stages[Unit.STORE].waiting()
        busy, read, written = self._work(batches, count)
        counters["array_busy"] = int(busy.sum())
        counters["read_beats"] = int(read.sum())
        counters["write_beats"] = int(written.sum())
        counters["fetch_beats"] = flow.fetch_beats
        for owner in (Unit.LOAD, Unit.VECTOR, Unit.STORE):
            index = flow.index[owner]
            counters[f"{owner.name.lower()}_busy"] = _union(start[index], end[index])
        counters["instructions"] = count
        names = [*program.layers[:count], *[""] * (count - len(program.layers))]
        order = np.argsort(start, kind="stable").tolist()  # then by index
        columns = (unit.tolist(), start.tolist(), end.tolist(), offered.tolist())
        spans = tuple(
            Span(i, isa.UNITS[columns[0][i]], columns[1][i], columns[2][i], columns[3][i], names[i])
            for i in order
        )
        layers = self._layers(program, names, start, end, busy, read, written)
        return Timeline(self.config, cycles, spans, layers, counters)

    def _work(
        self, batches: Sequence[isa.Batch], count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each instruction the vectors multiplied and the beats read and written."""
        busy, read, written = (np.zeros(count, np.int64) for _ in range(3))
        for batch in batches:
            index = batch.index
            fields: Mapping[str, Any] = batch.fields  # columns
            if batch.instruction is isa.ARRAY:
                passes, pixels = ArrayTiming.work(fields)
                busy[index] = passes * pixels
            elif batch.instruction is isa.LOAD:
                read[index] = places.row_beats(
                    self.config, fields, places.used_bytes(self.config, fields)
                )
            elif batch.instruction is isa.STORE:
                written[index] = places.row_beats(
                    self.config, fields, fields["vectors"] * self.config.R
                )
        return busy, read, written

    def _layers(
        self,
        program: Program,
        names: Sequence[str],
        start: np.ndarray,
        end: np.ndarray,
        busy: np.ndarray,
        read: np.ndarray,
        written: np.ndarray,
    ) -> tuple[LayerCycles, ...]:
        """Return the layers in the order of their first instructions."""
        numbers: dict[str, int] = {}
        layer = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
        order = np.argsort(layer, kind="stable")
        bounds = np.searchsorted(layer[order], np.arange(len(numbers) + 1))
        result, reached = [], 0
        for name, first, stop in zip(numbers, bounds[:-1], bounds[1:], strict=True):
            members = order[first:stop]
            last = int(end[members].max())
            cycles, macs = last - int(start[members].min()) + 1, program.macs.get(name, 0)
            result.append(
                LayerCycles(
                    name=name,
                    instructions=len(members),
                    cycles=cycles,
                    share=max(last - reached, 0),
                    macs=macs,
                    array_busy=int(busy[members].sum()),
                    utilization=macs / (cycles * self.config.macs_per_cycle),
                    bytes_read=int(read[members].sum()) * self.config.R,
                    bytes_written=int(written[members].sum()) * self.config.R,
                )
            )
            reached = max(reached, last)
        return tuple(result)
