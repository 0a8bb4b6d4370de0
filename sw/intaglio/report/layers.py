"""What each layer costs on the accelerator: multiplications, cycles, array use, bytes moved."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from intaglio.spec.graph import Graph
from intaglio.spec.isa import Unit
from intaglio.spec.program import Program

__all__ = ["chrome_trace", "layer_cycles", "layer_table", "model_spans", "spans"]

Span = tuple[int, int, Unit, int]


def spans(events: Iterable[Any]) -> list[Span]:
    """Return (start, end, unit, instruction) of every instruction in a trace, in order of the end.

    ``events`` have ``cycle``, ``kind`` ("start", "done"), ``unit`` and ``index``. Raises ValueError
    for an instruction that ends before it starts.
    """
    begun: dict[tuple[Unit, int], int] = {}
    result = []
    for event in events:
        key = (event.unit, event.index)
        if event.kind == "start":
            begun[key] = event.cycle
        else:
            if key not in begun:
                raise ValueError(f"instruction {event.index} ends before it starts")
            result.append((begun.pop(key), event.cycle, event.unit, event.index))
    return result


def layer_cycles(program: Program, found: Sequence[Span]) -> dict[str, int]:
    """Return layer -> cycles between the end of what came before it and its own end.

    Layers overlap; a layer is charged the cycles by which it moves the end of the program, so the
    sum is the time at which the last instruction ends.
    """
    ends: dict[str, int] = {}
    for _, end, _, index in found:
        name = program.layers[index]
        ends[name] = max(end, ends.get(name, 0))
    result, reached = {}, 0
    for name in dict.fromkeys(name for name in program.layers if name):
        result[name] = max(0, ends.get(name, 0) - reached)
        reached = max(reached, ends.get(name, 0))
    return result


def model_spans(timeline: Any) -> list[Span]:
    """Return the spans of a Timeline of the cycle model as those of a trace."""
    return sorted(
        ((s.start, s.end, s.unit, s.index) for s in timeline.spans), key=lambda span: span[1]
    )


def layer_table(
    graph: Graph, program: Program, timeline: Any, *, measured: Sequence[Span] = ()
) -> list[dict[str, Any]]:
    """Return one row for each node of the graph; ``timeline`` is that of the cycle model.

    Keys: ``name``, ``op``, ``shape`` (K, P, Q), ``macs``, ``cycles`` (from the spans ``measured``
    in the hardware, None without), ``model_cycles``, ``array_use`` (multiplications per multiplier
    and cycle, in [0, 1], by the hardware if measured), ``read`` and ``written`` in bytes on the
    bus.
    """
    cycles = layer_cycles(program, measured)
    modelled = {layer.name: layer for layer in timeline.layers}
    lanes = program.config.macs_per_cycle
    rows = []
    for node in graph.nodes:
        layer = modelled.get(node.name)
        model = layer.share if layer else 0
        took = cycles.get(node.name, 0) if measured else model
        macs = program.macs[node.name]
        rows.append(
            {
                "name": node.name,
                "op": node.op,
                "shape": list(graph.values[node.output].shape[1:]),
                "macs": macs,
                "cycles": took if measured else None,
                "model_cycles": model,
                "array_use": macs / (took * lanes) if took else 0.0,
                "read": layer.bytes_read if layer else 0,
                "written": layer.bytes_written if layer else 0,
            }
        )
    return rows


def chrome_trace(program: Program, runs: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """Return the Chrome trace (for Perfetto) of ``runs``: name of an executor -> its spans.

    One process for each executor, one thread for each unit; a microsecond on the time line is
    a cycle.
    """
    events: list[dict[str, Any]] = []
    for pid, (name, found) in enumerate(runs.items()):
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}})
        for unit in Unit:
            events.append(
                {
                    "ph": "M",
                    "name": "thread_name",
                    "pid": pid,
                    "tid": int(unit),
                    "args": {"name": unit.name.lower()},
                }
            )
        for start, end, unit, index in found:
            events.append(
                {
                    "ph": "X",
                    "name": program.layers[index],
                    "cat": unit.name.lower(),
                    "pid": pid,
                    "tid": int(unit),
                    "ts": start,
                    "dur": end - start,
                    "args": {"instruction": index},
                }
            )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "program_digest": program.digest(),
    }
