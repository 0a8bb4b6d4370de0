"""``intaglio eval``: metrics of a run or of a frozen network on a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intaglio.cli.common import Outcome, progress, result_command, table
from intaglio.spec.errors import IntaglioError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["eval_command"]


@result_command("eval")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--data", metavar="SPEC", help="Data set; that of the training by default.")
@click.option("--split", default="val", show_default=True, help="Split of the data set.")
@click.option("--images", type=click.IntRange(1), help="Only the first so many.")
def eval_command(target: Path, data: str | None, split: str, images: int | None) -> Outcome:
    """Measure TARGET: a run folder (in PyTorch) or a model.onnx (in ONNX Runtime)."""
    import numpy as np

    from intaglio.data import encode, open_dataset
    from intaglio.spec.metrics import confusion_matrix, evaluate

    predict, spec, (height, width), classes, digest = _predictor(target)
    spec = data or spec
    if not spec:
        raise IntaglioError(f"{target}: the file names no data set, give --data")
    dataset = open_dataset(spec, split, height=height, width=width)
    if len(dataset.classes) != classes:
        raise IntaglioError(
            f"{spec} has {len(dataset.classes)} classes, the network {classes}: not its data set"
        )
    count = min(images or len(dataset), len(dataset))
    matrix = np.zeros((classes, classes), np.int64)
    for index in range(count):
        sample = dataset[index]
        codes = encode(sample.image.transpose(2, 0, 1).copy())
        matrix += confusion_matrix(sample.mask, predict(codes), classes)
        if (index + 1) % 20 == 0:
            progress(f"{index + 1} of {count} images")
    found = evaluate(matrix)
    subset = dataset.main_classes
    main = None if subset is None else evaluate(matrix, subset=subset).miou
    rows: list[list[Any]] = [["class", "IoU %"]]
    for name, iou in zip(dataset.classes, found.iou, strict=True):
        rows.append([name, "-" if iou is None else f"{100 * iou:.1f}"])
    result = {
        "images": count,
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "iou": list(found.iou),
        "classes": list(dataset.classes),
        "digest": digest,
    }
    text = f"{target} on {spec} {split}, {count} images: mIoU {100 * found.miou:.1f} %, "
    text += f"pixel accuracy {100 * found.pixel_accuracy:.1f} %"
    if main is not None:
        result["main_miou"] = main
        text += f", mIoU of the main classes {100 * main:.1f} %"
    return Outcome(data=result, lines=table(rows, right=(1,)), summary=text)


def _predictor(target: Path) -> Any:
    """Return (image codes -> class map, data set, (height, width), classes, digest)."""
    if target.is_dir():
        import torch

        from intaglio.cli.runs import run_digest
        from intaglio.data import open_dataset
        from intaglio.nn.models import predict
        from intaglio.train import load_run

        model, config = load_run(target)
        size = config.height, config.width
        classes = len(open_dataset(config.data, "val").classes)

        def in_torch(codes: "np.ndarray") -> "np.ndarray":
            found: np.ndarray = predict(model, torch.from_numpy(codes[None])).numpy()[0]
            return found

        return in_torch, config.data, size, classes, run_digest(target)
    from intaglio.cli.artifacts import open_frozen
    from intaglio.freeze import OnnxExecutor

    frozen = open_frozen(target)
    executor = OnnxExecutor(frozen.graph, path=frozen.path)
    name = frozen.graph.outputs[0]

    def in_onnx(codes: "np.ndarray") -> "np.ndarray":
        return executor.run(codes[None])[name][0, 0]

    size = frozen.size
    return in_onnx, frozen.metadata.get("data"), size, frozen.logits[1], frozen.graph.digest()
