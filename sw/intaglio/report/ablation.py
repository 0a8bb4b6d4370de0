"""The table of ``intaglio ablate``, as text, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.report.page import render_template

__all__ = ["HEADER", "RIGHT", "ablation_html", "ablation_markdown", "ablation_rows"]

HEADER = (
    *("variant", "E2", "rounding", "norm", "master", "magnitude", "rate"),
    *("mIoU %", "to default", "accuracy %", "loss", "digest"),
)
#: Columns of numbers.
RIGHT = (1, 4, 6, 7, 8, 9, 10)
_NOTE = (
    "Each row changes one rule of the default recipe. E2 is the error that enters a convolution's "
    "backward, in bits; 9 is WAGEUBN's flag. mIoU and accuracy are those of the validation split, "
    "by the frozen integers; the loss is the mean of the last tenth of the steps; the digest is "
    "that of all weights and statistics."
)


def ablation_rows(data: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of the table under HEADER; ``data`` is what ``ablate`` returns."""
    base = next((row["miou"] for row in data["rows"] if row["name"] == "default"), None)
    rows = []
    for row in data["rows"]:
        values = {**data["config"], **row["values"]}
        rows.append(
            [
                row["name"],
                str(values["error_bits"]),
                values["error_rounding"],
                values["norm"].upper(),
                str(values["master_bits"]),
                "kept" if values["magnitude"] else "dropped",
                row["rate"],
                *_scores(row, base),
                ", ".join(run["digest"][:12] for run in row["runs"] if "digest" in run) or "-",
            ]
        )
    if data["float"] is not None:
        rate = data["config"]["rate"]
        rows.append(["float32", *["-"] * 5, rate, *_scores(data["float"], base), "-"])
    return rows


def _scores(row: Mapping[str, Any], base: float | None) -> list[str]:
    if row["miou"] is None:
        return ["diverged", "-", "-", "-"]
    gap = "-" if base is None else f"{100 * (row['miou'] - base):+.1f}"
    found = [f"{run['miou'] * 100:.1f}" for run in row.get("runs", ())]
    spread = f" ({', '.join(found)})" if len(found) > 1 else ""
    accuracy = f"{100 * row['pixel_accuracy']:.1f}"
    return [f"{100 * row['miou']:.1f}{spread}", gap, accuracy, f"{row['loss']:.4f}"]


def _subtitle(config: Mapping[str, Any], seeds: int) -> str:
    text = f"{config['model']} on {config['data']}, width {config['channels']}, "
    text += f"{config['height']} x {config['width']} pixels, {config['steps']} steps of "
    return text + f"{config['batch']} images, {seeds} seed{'s' if seeds > 1 else ''}"


def ablation_markdown(data: Mapping[str, Any]) -> str:
    """Return the table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = ["---:" if i in RIGHT else "---" for i in range(len(HEADER))]
    rows = map(line, [HEADER, rule, *ablation_rows(data)])
    title = f"# Ablation: {_subtitle(data['config'], data['seeds'])}"
    return "\n\n".join([title, _NOTE, "\n".join(rows)]) + "\n"


def ablation_html(data: Mapping[str, Any]) -> str:
    """Return the table as a page."""
    runs = [run for row in data["rows"] for run in row["runs"]]
    return render_template(
        "ablation.html",
        title=f"Ablation of {data['config']['model']}",
        subtitle=_subtitle(data["config"], data["seeds"]),
        note=_NOTE,
        header=HEADER,
        right=RIGHT,
        rows=ablation_rows(data),
        reasons=[run["diverged"] for run in runs if "diverged" in run],
    )
