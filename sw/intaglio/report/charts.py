"""Drawings for the report as inline SVG: curves and time lines, coloured by the page's style."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from intaglio.spec.isa import Unit
from intaglio_sim.golden.cycles import Span

__all__ = ["curves", "timeline"]


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that span [low, high]."""
    raw = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.floor(low / step)
    ticks = []
    while first * step < high + step * 0.999:
        ticks.append(first * step)
        first += 1
    return ticks


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.3g}"


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    label: str,
    width: int = 540,
    height: int = 250,
    zero: bool = True,
) -> str:
    """Return an SVG of ``series``, name -> points (step, value), at most two of them.

    ``label`` says what the value is; ``zero`` begins the scale at 0. Each curve carries its name
    and last value at its end.
    """
    points = [point for found in series.values() for point in found]
    if not points:
        return ""
    left, right, top, bottom = 44, 92, 12, 30
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    ticks = _ticks(0 if zero else min(ys), max(ys))
    y_low, y_high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (width - left - right)
        up = (y - y_low) / (y_high - y_low) * (height - top - bottom)
        return left + across, height - bottom - up

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)} over steps">'
    ]
    for tick in ticks:
        _, y = place(x_low, tick)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{_number(tick)}</text>"
        )
    for tick in _ticks(x_low, x_high):
        if x_low <= tick <= x_high:
            x, _ = place(tick, y_low)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{height - bottom + 18}" '
                f'text-anchor="middle">{_number(tick)}</text>'
            )
    ends: list[tuple[float, str]] = []
    for index, (name, found) in enumerate(series.items()):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in found))
        x, y = place(*found[-1])
        # Two labels must not lie on each other.
        for other, _ in ends:
            if abs(other - y) < 28:
                y = other + (28 if y >= other else -28)
        ends.append((y, name))
        parts.append(f'<polyline class="line s{index}" points="{line}"/>')
        parts.append(
            f'<text class="end s{index}" x="{x + 8:.1f}" y="{y:.1f}">{escape(name)}'
            f'<tspan class="value" x="{x + 8:.1f}" dy="14">{found[-1][1]:.3g}</tspan></text>'
        )
        tips = found[:: max(1, len(found) // 60)]
        for point in tips:
            px, py = place(*point)
            parts.append(
                f'<circle class="tip" cx="{px:.1f}" cy="{py:.1f}" r="7"><title>{escape(name)}, '
                f"step {_number(point[0])}: {point[1]:.4g}</title></circle>"
            )
    parts.append("</svg>")
    return "".join(parts)


def timeline(rows: Mapping[str, Sequence[Span]], *, width: int = 1120) -> str:
    """Return an SVG with a lane for each unit: when it worked on which layer.

    ``rows`` names executors and has their spans; each gets four lanes. Neighbouring layers
    alternate in shade. Spans of one layer less than half a pixel apart are merged.
    """
    found = [span for spans in rows.values() for span in spans]
    if not found:
        return ""
    names = dict.fromkeys(span.layer for span in sorted(found, key=lambda s: s.index))
    order = {name: index for index, name in enumerate(names)}
    last = max(span.end for span in found)
    left, lane, gap, head = 64, 17, 4, 20
    scale = (width - left) / last
    block = head + 4 * (lane + gap)
    height = block * len(rows) + 22
    parts = [
        f'<svg class="chart timeline" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="time line of the units">'
    ]
    for number, (name, spans) in enumerate(rows.items()):
        top = number * block
        parts.append(f'<text class="who" x="0" y="{top + 13}">{escape(name)}</text>')
        for unit in Unit:
            y = top + head + int(unit) * (lane + gap)
            parts.append(
                f'<text class="tick" x="{left - 8}" y="{y + 12}" text-anchor="end">'
                f"{unit.name.lower()}</text>"
            )
            parts.append(
                f'<rect class="lane" x="{left}" y="{y}" width="{width - left}" height="{lane}"/>'
            )
            for start, end, layer in _merge(spans, unit, 0.5 / scale):
                shade = "ab"[order[layer] % 2]
                parts.append(
                    f'<rect class="u{int(unit)}{shade}" x="{left + start * scale:.1f}" y="{y}" '
                    f'width="{max((end - start) * scale, 0.4):.1f}" height="{lane}"><title>'
                    f"{escape(layer)}: {start:,} to {end:,}</title></rect>"
                )
    y = block * len(rows) + 12
    for tick in _ticks(0, last, 8):
        if tick <= last:
            x = left + tick * scale
            anchor = "start" if x < left + 10 else "end" if x > width - 40 else "middle"
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="{anchor}">'
                f"{_number(tick)}</text>"
            )
    parts.append("</svg>")
    return "".join(parts)


def _merge(spans: Sequence[Span], unit: Unit, least: float) -> list[tuple[int, int, str]]:
    """Return (start, end, layer) of ``unit``, joined where the pause is shorter than ``least``."""
    result: list[tuple[int, int, str]] = []
    for span in sorted((s for s in spans if s.unit == unit), key=lambda s: (s.start, s.end)):
        if result and result[-1][2] == span.layer and span.start - result[-1][1] <= least:
            result[-1] = (result[-1][0], max(span.end, result[-1][1]), span.layer)
        else:
            result.append((span.start, span.end, span.layer))
    return result
