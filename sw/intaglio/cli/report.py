"""``intaglio report``: what a run has shown, on one page."""

from pathlib import Path
from typing import Any

import click

from intaglio.cli.common import Outcome, progress, read_json, result_command
from intaglio.spec.errors import IntaglioError

__all__ = ["report_command"]


@result_command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(0, 50), default=4, show_default=True, help="Shown.")
@click.option("--out", type=click.Path(path_type=Path), help="RUN/report.html by default.")
def report_command(run: Path, images: int, out: Path | None) -> Outcome:
    """Write one HTML page from what lies in the run folder RUN.

    Training must have finished; what the later commands made is shown if it is there, and refused
    if it belongs to something else.
    """
    from intaglio.cli.artifacts import require_run
    from intaglio.report.page import Artifact, Training, render, write_report
    from intaglio.train import load_run

    require_run(run)
    metrics = read_json(run / "metrics.json", f"intaglio train --out {run}")
    model, config = load_run(run)
    from intaglio.cli.runs import run_digest

    digest = run_digest(run)
    if metrics["digest"] != digest:
        raise IntaglioError(
            f"{run / 'metrics.json'}: of checkpoint {metrics['digest'][:12]}, the run has "
            f"{digest[:12]} now; renew it with 'intaglio train --out {run}'"
        )
    from intaglio.data import open_dataset

    dataset = open_dataset(config.data, "val", height=config.height, width=config.width)
    training = Training(
        name=run.resolve().name,
        model=config.model,
        data=config.data.partition(":")[0],
        size=(config.height, config.width),
        steps=config.steps,
        batch=config.batch,
        seed=config.seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=dataset.classes,
        palette=dataset.palette,
        integers=_metrics(metrics, ""),
        floats=_metrics(metrics, "float_"),
        losses={
            name: _smooth(metrics["loss"][key])
            for name, key in (("integers", "int"), ("float32", "float"))
            if metrics["loss"].get(key)
        },
    )
    artifacts = [
        Artifact(name="checkpoint.npz", command="intaglio train", digest=digest),
    ]
    found = _artifacts(run, artifacts)
    progress(f"{images} pictures")
    page = render(
        training,
        artifacts=artifacts,
        pictures=_pictures(run, model, dataset, images),
        **found,
    )
    out = out or run / "report.html"
    write_report(out, page)
    return Outcome(
        data={"report": out, "bytes": len(page.encode()), "artifacts": [a.name for a in artifacts]},
        summary=f"{out}: {len(page.encode()):,} bytes, from {', '.join(a.name for a in artifacts)}",
    )


def _metrics(metrics: dict[str, Any], prefix: str) -> Any:
    from intaglio.spec.metrics import Metrics

    if f"{prefix}miou" not in metrics:
        return None
    return Metrics(
        miou=metrics[f"{prefix}miou"],
        pixel_accuracy=metrics[f"{prefix}pixel_accuracy"],
        iou=tuple(metrics[f"{prefix}iou"]),
        pixels=0,
    )


def _smooth(losses: list[float]) -> list[tuple[float, float]]:
    """Return at most 100 points: the mean over each of that many equal parts."""
    import numpy as np

    parts = np.array_split(np.arange(len(losses)), min(100, len(losses)))
    return [(float(part[-1] + 1), float(np.mean([losses[i] for i in part]))) for part in parts]


def _pictures(run: Path, model: Any, dataset: Any, count: int) -> list[Any]:
    """Return evenly spaced samples with the predictions of both networks."""
    import torch

    from intaglio.cli.runs import load_twin
    from intaglio.data import encode
    from intaglio.nn.models import predict
    from intaglio.report.page import Picture

    twin = load_twin(run)
    pictures = []
    for index in range(min(count, len(dataset))):
        sample = dataset[index * len(dataset) // count]
        codes = torch.from_numpy(encode(sample.image.transpose(2, 0, 1).copy()))[None]
        pictures.append(
            Picture(
                name=sample.name,
                image=sample.image,
                truth=sample.mask,
                integers=predict(model, codes).numpy()[0],
                floats=None if twin is None else predict(twin, codes).numpy()[0],
            )
        )
    return pictures


def _artifacts(run: Path, artifacts: list[Any]) -> dict[str, Any]:
    """Return what the later commands left for the page; append to ``artifacts``.

    Raises IntaglioError for what belongs to something else, naming the command that renews it.
    """
    from intaglio.cli.artifacts import open_frozen, open_program
    from intaglio.report.page import Artifact
    from intaglio.spec.files import bytes_digest

    found: dict[str, Any] = {}
    program = None
    if (run / "model.onnx").is_file():
        frozen = open_frozen(run)
        graph = frozen.graph.digest()
        artifacts.append(Artifact(name="model.onnx", command="intaglio freeze", digest=graph))
        if (run / "program.npz").is_file():
            program = open_program(run / "program.npz", frozen=frozen)
            artifacts.append(
                Artifact(name="program.npz", command="intaglio compile", digest=program.digest())
            )
        if (run / "verify.json").is_file():
            path = run / "verify.json"
            data = read_json(path, f"intaglio verify {run}")
            if data["graph_digest"] != graph:
                raise IntaglioError(
                    f"{path}: of graph {data['graph_digest'][:12]}, model.onnx is {graph[:12]}; "
                    f"renew it with 'intaglio verify {run}'"
                )
            if program is not None and "program_digest" in data:
                if data["layer_size"] == list(frozen.size) and (
                    data["program_digest"] != program.digest()
                ):
                    raise IntaglioError(
                        f"{path}: of another program than program.npz; renew it with "
                        f"'intaglio verify {run}'"
                    )
                found["spans"] = _spans(run, data)
            found["verification"] = data
            digest = bytes_digest(path.read_bytes())
            artifacts.append(Artifact(name=path.name, command="intaglio verify", digest=digest))
    verilog = run / "accelerator.v"
    if verilog.is_file():
        text = verilog.read_bytes()
        if program is not None and program.config.digest().encode() not in text[:1000]:
            raise IntaglioError(
                f"{verilog}: of another configuration than program.npz ({program.config.name}); "
                f"renew it with 'intaglio verilog --config {program.config.name} --out {verilog}'"
            )
        artifacts.append(
            Artifact(name=verilog.name, command="intaglio verilog", digest=bytes_digest(text))
        )
    path = run / "synth.json"
    if path.is_file():
        data = read_json(path, f"intaglio synth --board BOARD --out {run}")
        if program is not None and data["config_digest"] != program.config.digest():
            raise IntaglioError(
                f"{path}: of configuration {data['config']}, program.npz is for "
                f"{program.config.name}; renew it with 'intaglio synth --board {data['board']} "
                f"--config {program.config.name} --out {run}'"
            )
        found["synthesis"] = data
        digest = bytes_digest(path.read_bytes())
        artifacts.append(Artifact(name=path.name, command="intaglio synth", digest=digest))
    return found


def _spans(run: Path, verification: dict[str, Any]) -> dict[str, Any]:
    """Return the time line in trace.json, by executor; {} when it is of another program."""
    from intaglio.spec.isa import Unit
    from intaglio_sim.golden.cycles import Span

    path = run / "trace.json"
    if not path.is_file():
        return {}
    trace = read_json(path, f"intaglio verify {run}")
    if trace["otherData"].get("program_digest") != verification["program_digest"]:
        return {}
    names = {
        event["pid"]: event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "process_name"
    }
    spans: dict[str, list[Span]] = {name: [] for name in names.values()}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            begin, unit = event["ts"], Unit[event["cat"].upper()]
            index, layer = event["args"]["instruction"], event["name"]
            span = Span(index, unit, begin, begin + event["dur"], begin, layer)
            spans[names[event["pid"]]].append(span)
    return spans
