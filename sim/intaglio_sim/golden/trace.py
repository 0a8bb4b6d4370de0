"""Timelines in the Chrome trace format, for Perfetto: the model's and the RTL's, side by side.

Open the file at https://ui.perfetto.dev or in chrome://tracing. One microsecond there is one cycle
here. Each source is a process, each unit a thread with two lanes, because a unit may have two
instructions in flight.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.spec import isa
from intaglio.spec.files import atomic_write
from intaglio.spec.isa import Unit
from intaglio.spec.program import Program
from intaglio_sim.golden.cycles import Span

if TYPE_CHECKING:
    from intaglio_sim.system import TraceEvent

__all__ = ["chrome_trace", "spans_of_events", "write_trace"]

#: Lanes of a unit: instructions that may be in flight.
_LANES = 2


def spans_of_events(events: "Iterable[TraceEvent]", program: Program | None = None) -> list[Span]:
    """Return the spans that start and done events of the RTL describe, in the order of the starts.

    Cycles are shifted so that the first start keeps its number; ``offered`` is the start, for the
    RTL does not tell it. Instructions that were not done are left out.

    Raises
    ------
    ValueError
        An instruction is done that was not started.
    """
    layers: Sequence[str] = () if program is None else program.layers
    started: dict[tuple[Unit, int], int] = {}
    spans = []
    for event in sorted(events, key=lambda e: (e.cycle, e.kind == "start")):
        key = (event.unit, event.index)
        if event.kind == "start":
            started[key] = event.cycle
            continue
        if key not in started:
            raise ValueError(f"instruction {event.index} is done, but was not started")
        start = started.pop(key)
        layer = layers[event.index] if event.index < len(layers) else ""
        spans.append(Span(event.index, event.unit, start, event.cycle, start, layer))
    return sorted(spans, key=lambda s: (s.start, s.index))


def chrome_trace(
    sources: Mapping[str, Sequence[Span]], *, program: Program | None = None
) -> dict[str, Any]:
    """Return the trace as an object for JSON.

    Parameters
    ----------
    sources
        Name of a process ("model", "verilator") -> its spans.
    program
        Adds the fields of each instruction.
    """
    events: list[dict[str, Any]] = []
    fields: dict[int, dict[str, int]] = {}
    for pid, (name, spans) in enumerate(sources.items(), 1):
        events.append(
            {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
        )
        for unit in isa.UNITS:
            for lane in range(_LANES):
                tid = unit * _LANES + lane + 1
                label = unit.name.lower() + (" (next)" if lane else "")
                events += [
                    {
                        "ph": "M",
                        "name": "thread_name",
                        "pid": pid,
                        "tid": tid,
                        "args": {"name": label},
                    },
                    {
                        "ph": "M",
                        "name": "thread_sort_index",
                        "pid": pid,
                        "tid": tid,
                        "args": {"sort_index": tid},
                    },
                ]
        busy = {(unit, lane): -1 for unit in isa.UNITS for lane in range(_LANES)}
        for span in sorted(spans, key=lambda s: (s.start, s.index)):
            lane = next((n for n in range(_LANES) if busy[span.unit, n] <= span.start), _LANES - 1)
            busy[span.unit, lane] = span.end
            args: dict[str, Any] = {
                "instruction": span.index,
                "waited": span.start - span.offered,
            }
            if program is not None:
                if span.index not in fields:
                    fields[span.index] = isa.decode(program.instruction(span.index))[1]
                args |= fields[span.index]
            events.append(
                {
                    "ph": "X",
                    "name": span.layer or f"{span.unit.name.lower()} {span.index}",
                    "cat": span.unit.name.lower(),
                    "pid": pid,
                    "tid": span.unit * _LANES + lane + 1,
                    "ts": span.start,
                    "dur": span.end - span.start,
                    "args": args,
                }
            )
    return {"displayTimeUnit": "ns", "otherData": {"1 us": "1 cycle"}, "traceEvents": events}


def write_trace(
    path: str | Path, sources: Mapping[str, Sequence[Span]], *, program: Program | None = None
) -> None:
    """Write :func:`chrome_trace` to ``path``, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(chrome_trace(sources, program=program), file, separators=(",", ":"))
        file.write("\n")
