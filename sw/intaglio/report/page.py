"""The report: one HTML page without network access, from what lies in a run folder."""

import base64
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import intaglio
from intaglio.report.charts import curves, timeline
from intaglio.spec.files import atomic_write
from intaglio.spec.metrics import VOID, Metrics
from intaglio_sim.golden.cycles import Span

__all__ = ["Artifact", "Picture", "Training", "render", "render_template", "write_report"]

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What training left behind.

    ``losses`` are curves by name ("integers", "float32"); ``integers`` and ``floats`` the metrics
    on the validation split (None without a twin); ``palette`` is uint8 (classes, 3).
    """

    name: str
    model: str
    data: str
    size: tuple[int, int]
    steps: int
    batch: int
    seed: int
    parameters: int
    classes: Sequence[str]
    palette: np.ndarray
    integers: Metrics | None = None
    floats: Metrics | None = None
    losses: Mapping[str, Points] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with its class maps; ``image`` uint8 (H, W, 3), the others uint8 (H, W) or None."""

    name: str
    image: np.ndarray
    truth: np.ndarray | None = None
    floats: np.ndarray | None = None
    integers: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file of the run, the command that makes it, and its digest."""

    name: str
    command: str
    digest: str


def render(
    training: Training,
    *,
    artifacts: Sequence[Artifact],
    pictures: Sequence[Picture] = (),
    verification: Mapping[str, Any] | None = None,
    synthesis: Mapping[str, Any] | None = None,
    spans: Mapping[str, Sequence[Span]] | None = None,
) -> str:
    """Return the page.

    ``verification`` and ``synthesis`` are the JSON objects of ``verify`` and ``synth``; ``spans``
    is the time line by executor. What is missing is left out.
    """
    height, width = training.size
    columns = ["Input"]
    columns += ["Ground truth"] if any(p.truth is not None for p in pictures) else []
    columns += ["float32"] if any(p.floats is not None for p in pictures) else []
    columns += ["Integers"] if any(p.integers is not None for p in pictures) else []
    return render_template(
        "report.html",
        title=training.name,
        subtitle=f"{training.model} on {training.data}, {height} x {width} pixels, "
        f"{len(training.classes)} classes, {training.parameters:,} parameters",
        tiles=_tiles(training, verification, synthesis),
        pictures=[_picture_row(p, training.palette, columns) for p in pictures],
        picture_columns=columns,
        picture_note="Images of the validation split. The right column is the integer network in "
        "PyTorch; what the other executors make of it stands under Verification.",
        classes=[
            {"name": name, "color": _color(training.palette[k])}
            for k, name in enumerate(training.classes)
        ],
        training=_training(training),
        verification=_verification(verification),
        layers=_layers(verification),
        timeline=_timeline(spans or {}),
        chip=_chip(synthesis),
        artifacts=artifacts,
    )


def render_template(name: str, **values: Any) -> str:
    """Return the template ``name`` of this package, filled in; ``version`` is Intaglio's."""
    import jinja2

    folder = importlib.resources.files("intaglio.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda part: (folder / part).read_text(encoding="utf-8")),
    )
    return environment.get_template(name).render(version=intaglio.__version__, **values)


def write_report(path: str | Path, text: str) -> None:
    """Write the page to ``path``, atomically."""
    with atomic_write(path, "w") as file:
        file.write(text)


def _color(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{int(v):02x}" for v in rgb)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _width(value: float | None) -> str | None:
    return None if value is None else f"{min(100.0, 100 * value):.1f}"


def _image(pixels: np.ndarray, alt: str) -> dict[str, str]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"src": f"data:image/png;base64,{data}", "alt": alt}


def _picture_row(picture: Picture, palette: np.ndarray, columns: list[str]) -> list[dict[str, str]]:
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    maps = {
        "Ground truth": picture.truth,
        "float32": picture.floats,
        "Integers": picture.integers,
    }
    row = [_image(picture.image, f"{picture.name}, input")]
    for column in columns[1:]:
        mask = maps[column]
        pixels = table[np.full(picture.image.shape[:2], VOID) if mask is None else mask]
        row.append(_image(pixels, f"{picture.name}, {column}"))
    return row


def _tiles(
    training: Training,
    verification: Mapping[str, Any] | None,
    synthesis: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    tiles = []

    def tile(name: str, value: str, more: str, state: str = "") -> None:
        tiles.append({"name": name, "value": value, "more": more, "state": state})

    if training.integers is not None:
        more = "validation split"
        if training.floats is not None:
            more = f"float32 twin {_percent(training.floats.miou)} %"
        tile("Mean IoU, integers", f"{_percent(training.integers.miou)} %", more)
    if verification is not None:
        count = verification["mismatches"]
        tile(
            "Mismatches",
            f"{count:,}",
            f"in {verification['bytes_compared']:,} bytes, "
            f"{len(verification['executors'])} executors",
            "bad" if count else "good",
        )
        rows = verification.get("layer_table")
        if rows:
            measured = rows[0]["cycles"] is not None
            cycles = sum(row["cycles" if measured else "model_cycles"] for row in rows)
            tile("Cycles per image", f"{cycles:,}", "RTL" if measured else "cycle model")
            macs = sum(row["macs"] for row in rows)
            lanes = _lanes(rows)
            if lanes:
                tile("Array use", f"{100 * macs / (cycles * lanes):.1f} %", f"{macs:,} MACs")
    if synthesis is not None:
        fmax = synthesis["fmax_mhz"]
        lut = synthesis["resources"].get("lut", 0)
        if fmax is not None:
            tile("Clock", f"{fmax:.0f} MHz", _peak(synthesis))
        tile("Logic", f"{lut:,}", f"LUT on {synthesis['board']}")
    return tiles


def _lanes(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return R * K, from the row with the most multiplications."""
    best = max(rows, key=lambda row: row["macs"])
    took = best["cycles"] if best["cycles"] is not None else best["model_cycles"]
    return round(best["macs"] / (took * best["array_use"])) if best["array_use"] else 0


def _training(training: Training) -> dict[str, Any] | None:
    if training.integers is None:
        return None
    twin = training.floats
    rows = []
    for k, name in enumerate(training.classes):
        mine = training.integers.iou[k]
        other = None if twin is None else twin.iou[k]
        rows.append(_iou_row(name, mine, other, color=_color(training.palette[k])))
    total = _iou_row("mean", training.integers.miou, None if twin is None else twin.miou)
    total["total"] = True
    accuracy = f"{_percent(training.integers.pixel_accuracy)} %"
    if twin is not None:
        accuracy += f" (float32: {_percent(twin.pixel_accuracy)} %)"
    return {
        "note": f"{training.steps:,} steps with a batch of {training.batch}, seed {training.seed}. "
        f"Forward, backward and update are integers; the float32 twin has the same layers, seed "
        f"and schedule. Pixel accuracy {accuracy}.",
        "curves": curves(training.losses, label="loss"),
        "twin": twin is not None,
        "iou": [*rows, total],
    }


def _iou_row(
    name: str, mine: float | None, other: float | None, *, color: str | None = None
) -> dict[str, Any]:
    both = mine is not None and other is not None
    return {
        "name": name,
        "color": color,
        "integers": _percent(mine),
        "width": _width(mine),
        "floats": _percent(other),
        "difference": f"{100 * (mine - other):+.1f}" if both else "-",  # type: ignore[operator]
        "total": False,
    }


def _verification(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None:
        return None
    text = (
        f"{data['layers']} layers, every byte of every one, on the same images. No tolerance: "
        f"{data['bytes_compared']:,} bytes compared, {data['mismatches']:,} differ."
    )
    if data["first_mismatch"]:
        text += f" First: {data['first_mismatch']}."
    return {
        "note": text,
        "rows": [
            {
                "name": row["name"],
                "compared_with": row["compared_with"],
                "size": " x ".join(str(n) for n in row["size"]),
                "images": row["images"],
                "bytes": f"{row['bytes_compared']:,}",
                "mismatches": f"{row['mismatches']:,}",
            }
            for row in data["comparisons"]
        ],
    }


def _layers(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None or not data.get("layer_table"):
        return None
    table = data["layer_table"]
    measured = table[0]["cycles"] is not None
    rows = [_layer_row(row) for row in table]
    sums: dict[str, Any] = {
        key: sum(row[key] or 0 for row in table)
        for key in ("macs", "cycles", "model_cycles", "read", "written")
    }
    lanes = _lanes(table)
    took = sums["cycles"] if measured else sums["model_cycles"]
    use = sums["macs"] / (took * lanes) if took and lanes else 0.0
    total = _layer_row({"name": "all", "op": "", "shape": [], "array_use": use, **sums})
    total["total"] = True
    text = (
        f"Configuration {data['config']}, images of "
        f"{' x '.join(str(n) for n in data['layer_size'])}. Layers overlap; each is charged the "
        "cycles by which it moves the end. Array use is multiplications per multiplier and cycle."
    )
    if measured and sums["cycles"]:
        error = abs(sums["model_cycles"] - sums["cycles"]) / sums["cycles"]
        text += f" The cycle model is {100 * error:.2f} % off the RTL."
    return {"note": text, "measured": measured, "rows": [*rows, total]}


def _layer_row(row: Mapping[str, Any]) -> dict[str, Any]:
    def number(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    multiplies = bool(row["macs"])
    return {
        "name": row["name"],
        "op": row["op"],
        "shape": " x ".join(str(n) for n in row["shape"]),
        "macs": number(row["macs"]),
        "cycles": number(row["cycles"]),
        "model_cycles": number(row["model_cycles"]),
        "use": f"{100 * row['array_use']:.1f} %" if multiplies else "",
        "width": _width(row["array_use"]) if multiplies else None,
        "read": number(row["read"]),
        "written": number(row["written"]),
        "total": False,
    }


def _timeline(spans: Mapping[str, Sequence[Span]]) -> dict[str, Any] | None:
    svg = timeline(spans)
    if not svg:
        return None
    return {
        "note": "When each unit worked on which layer, in cycles; neighbouring layers alternate in "
        "shade, the pointer names them. trace.json holds the same for Perfetto.",
        "svg": svg,
    }


_KINDS = {
    "lut": "LUT",
    "ff": "flip-flops",
    "dsp": "DSP",
    "bram": "block RAM",
    "spram": "single-port RAM",
}


def _peak(data: Mapping[str, Any]) -> str:
    """Return what the products of ``synth.json`` come to; a part may have none."""
    if data["peak_gops"] is None:
        return f"{data['part']} alone"
    return f"{data['mac_per_cycle']} MAC per cycle, {data['peak_gops']:.1f} GOPS peak"


def _chip(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if data is None:
        return None
    available = data["available"]
    kinds = [kind for kind in _KINDS if kind in available]

    def row(name: str, counts: Mapping[str, int], *, bars: bool, total: bool) -> dict[str, Any]:
        cells = []
        for kind in kinds:
            share = counts.get(kind, 0) / available[kind] if bars and available.get(kind) else None
            text = f"{counts.get(kind, 0):,}"
            if share is not None:
                text += f"  ({100 * share:.0f} %)"
            cells.append({"text": text, "width": _width(share)})
        return {"name": name, "cells": cells, "total": total}

    parts = sorted(data["components"].items(), key=lambda item: -item[1].get("lut", 0))
    rows = [row(name, counts, bars=False, total=False) for name, counts in parts]
    part = data.get("part")
    whole = f"{part}, the only part" if part else "whole accelerator"
    rows.append(row(whole, data["resources"], bars=True, total=True))
    rows.append(row(f"{data['family']} {data['device']} has", available, bars=False, total=True))
    what = f"{part} of configuration {data['config']} alone" if part else data["config"]
    text = f"Synthesised by yosys for {data['board']}: {what}."
    if data["fmax_mhz"] is not None:
        seeds = [f"{run['fmax_mhz']:.1f}" for run in data["seeds"] if run["fmax_mhz"] is not None]
        text += (
            f" Placed and routed by nextpnr: {data['fmax_mhz']:.1f} MHz (median of "
            f"{', '.join(seeds)}), {_peak(data)}."
        )
        if data.get("critical_path"):
            steps = (f"{each['component']} {each['delay_ns']} ns" for each in data["critical_path"])
            text += f" Critical path: {', '.join(steps)}."
        for name, rate in data.get("networks", {}).items():
            if "images_per_s" in rate:
                text += (
                    f" {name} at {rate['size'][0]}x{rate['size'][1]}: "
                    f"{rate['images_per_s']:.4g} images per second, "
                    f"{rate['sustained_gops']:.2f} GOPS, by the cycle model and the board's memory."
                )
    elif data.get("error"):
        text += f" Not placed: {data['error']}."
    else:
        text += " Not placed: no clock yet."
    return {"note": text, "kinds": [_KINDS[kind] for kind in kinds], "rows": rows}
