"""``intaglio eval``: a run or a frozen network on a data set, or on images without ground truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intaglio.cli.common import Outcome, progress, result_command, table
from intaglio.spec.errors import IntaglioError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["eval_command"]

#: What a folder of images is searched for.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


@result_command("eval")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--data", metavar="SPEC", help="Data set; that of the training by default.")
@click.option("--split", help="Split of the data set; val.")
@click.option("--images", type=click.IntRange(1), help="Only the first so many.")
@click.option(
    "--input",
    "inputs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Image, or folder of images, instead of a data set; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for class maps and overlays, as PNG; with --input TARGET's by default.",
)
def eval_command(
    target: Path,
    data: str | None,
    split: str | None,
    images: int | None,
    inputs: tuple[Path, ...],
    out: Path | None,
) -> Outcome:
    """Evaluate TARGET: a run folder (in PyTorch) or a model.onnx (in ONNX Runtime).

    On a data set it is measured. On images of your own (--input) it draws: NAME-classes.png is a
    palette image whose pixels are class indices, NAME-overlay.png shows them on the image, which is
    scaled to the network's input and padded.
    """
    network = _network(target)
    if not inputs:
        return _measure(network, target, data, split or "val", images, out)
    if data or split:
        raise IntaglioError("--input has no ground truth: leave out --data and --split")
    folder = out or (target if target.is_dir() else target.parent) / "eval"
    return _draw(network, target, _image_files(inputs)[:images], folder)


@dataclass(frozen=True, kw_only=True)
class _Network:
    """What is evaluated: image codes (3, H, W) -> class map uint8 (H, W), and what is known of it.

    ``data`` is the specification of its data set, if any; ``size`` (height, width); ``names`` of
    the classes; ``palette`` uint8 (classes, 3).
    """

    predict: Callable[["np.ndarray"], "np.ndarray"]
    data: str | None
    size: tuple[int, int]
    names: Sequence[str]
    palette: "np.ndarray"
    digest: str


def _measure(
    network: _Network,
    target: Path,
    data: str | None,
    split: str,
    images: int | None,
    out: Path | None,
) -> Outcome:
    import numpy as np

    from intaglio.cli.pictures import write_pictures
    from intaglio.data import encode, open_dataset
    from intaglio.spec.metrics import confusion_matrix, evaluate

    classes = len(network.names)
    spec = data or network.data
    if not spec:
        raise IntaglioError(f"{target}: the file names no data set, give --data")
    dataset = open_dataset(spec, split, height=network.size[0], width=network.size[1])
    if len(dataset.classes) != classes:
        raise IntaglioError(
            f"{spec} has {len(dataset.classes)} classes, the network {classes}: not its data set"
        )
    count = min(images or len(dataset), len(dataset))
    matrix = np.zeros((classes, classes), np.int64)
    for index in range(count):
        sample = dataset[index]
        mask = network.predict(encode(sample.image.transpose(2, 0, 1).copy()))
        matrix += confusion_matrix(sample.mask, mask, classes)
        if out is not None:
            write_pictures(out, sample.name, sample.image, mask, dataset.palette)
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
        "digest": network.digest,
    }
    text = f"{target} on {spec} {split}, {count} images: mIoU {100 * found.miou:.1f} %, "
    text += f"pixel accuracy {100 * found.pixel_accuracy:.1f} %"
    if main is not None:
        result["main_miou"] = main
        text += f", mIoU of the main classes {100 * main:.1f} %"
    if out is not None:
        text += f"; pictures in {out}"
    return Outcome(data=result, lines=table(rows, right=(1,)), summary=text)


def _image_files(inputs: Sequence[Path]) -> list[Path]:
    """Return the images that ``inputs``, files and folders, name, in order.

    Raises
    ------
    IntaglioError
        A folder without images, or two images whose pictures would have one name.
    """
    files: list[Path] = []
    for path in inputs:
        found = [path]
        if path.is_dir():
            found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()]
            found.sort()
            if not found:
                raise IntaglioError(f"{path}: no images ({', '.join(SUFFIXES)})")
        files += found
    seen: dict[str, Path] = {}
    for path in files:
        if path.stem in seen:
            raise IntaglioError(
                f"{seen[path.stem]} and {path} have the same name: their pictures would overwrite"
            )
        seen[path.stem] = path
    return files


def _draw(network: _Network, target: Path, files: Sequence[Path], folder: Path) -> Outcome:
    from intaglio.cli.pictures import read_input, write_pictures
    from intaglio.data import encode

    for path in files:  # a broken one is told before anything is written
        read_input(path, *network.size)
    results: list[dict[str, Any]] = []
    for path in files:
        image = read_input(path, *network.size)
        mask = network.predict(encode(image.transpose(2, 0, 1).copy()))
        written = write_pictures(folder, path.stem, image, mask, network.palette)
        pixels = {n: int((mask == k).sum()) for k, n in enumerate(network.names)}
        results.append({"input": path, **written, "pixels": {n: c for n, c in pixels.items() if c}})
        progress(f"{path}: {written['overlay']}")
    count = f"{len(results)} image{'s' if len(results) > 1 else ''}"
    return Outcome(
        data={"images": results, "digest": network.digest},
        lines=[f"{r['input']}: {r['classes']}, {r['overlay']}" for r in results],
        summary=f"{target} on {count}: pictures in {folder}",
    )


def _network(target: Path) -> _Network:
    if target.is_dir():
        import torch

        from intaglio.cli.runs import class_names, run_digest
        from intaglio.data import find_reader
        from intaglio.nn.models import predict
        from intaglio.train import load_run

        model, config = load_run(target)
        reader = find_reader(config.data)  # not its folder, which may be gone

        def in_torch(codes: "np.ndarray") -> "np.ndarray":
            found: np.ndarray = predict(model, torch.from_numpy(codes[None])).numpy()[0]
            return found

        return _Network(
            predict=in_torch,
            data=config.data,
            size=(config.height, config.width),
            names=class_names(target, model, reader),
            palette=reader.palette,
            digest=run_digest(target),
        )
    from intaglio.cli.artifacts import open_frozen
    from intaglio.freeze import OnnxExecutor

    frozen = open_frozen(target)
    executor = OnnxExecutor(frozen.graph, path=frozen.path)
    name = frozen.graph.outputs[0]

    def in_onnx(codes: "np.ndarray") -> "np.ndarray":
        return executor.run(codes[None])[name][0, 0]

    return _Network(
        predict=in_onnx,
        data=frozen.metadata.get("data"),
        size=frozen.size,
        names=frozen.classes,
        palette=frozen.palette,
        digest=frozen.graph.digest(),
    )
