"""What each layer costs on the accelerator: multiplications, cycles, array use, bytes moved."""

from collections.abc import Sequence
from typing import Any

from intaglio.spec.graph import Graph
from intaglio.spec.program import Program
from intaglio_sim.golden.cycles import Span, Timeline

__all__ = ["layer_cycles", "layer_table"]


def layer_cycles(program: Program, spans: Sequence[Span]) -> dict[str, int]:
    """Return layer -> cycles between the end of what came before it and its own end.

    Layers overlap; a layer is charged the cycles by which it moves the end of the program, so the
    sum is the time at which the last instruction ends.
    """
    ends: dict[str, int] = {}
    for span in spans:
        name = program.layers[span.index]
        ends[name] = max(span.end, ends.get(name, 0))
    result, reached = {}, 0
    for name in dict.fromkeys(name for name in program.layers if name):
        result[name] = max(0, ends.get(name, 0) - reached)
        reached = max(reached, ends.get(name, 0))
    return result


def layer_table(
    graph: Graph, program: Program, timeline: Timeline, *, measured: Sequence[Span] = ()
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
