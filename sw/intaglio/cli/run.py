"""``intaglio run``: images in, class maps out, on any executor."""

from pathlib import Path
from typing import Any

import click

from intaglio.cli.common import Choices, Outcome, progress, result_command
from intaglio.spec.errors import IntaglioError

__all__ = ["run_command"]


def executor_names() -> list[str]:
    """Return the names of the executors."""
    from intaglio_sim.executors import EXECUTORS

    return [*EXECUTORS, "board"]


@result_command("run")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--on",
    "executor",
    cls=Choices,
    choices=executor_names,
    default="golden",
    show_default=True,
    metavar="EXECUTOR",
    help="What runs it.",
)
@click.option(
    "--input",
    "inputs",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="IMAGE",
    help="Image file; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the pictures; the target's folder by default.",
)
@click.option(
    "--port",
    metavar="PATH",
    help="Serial port of the board, such as /dev/ttyUSB0; with --on board.",
)
@click.option(
    "--baud",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Of the serial port, as the bitstream has it.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="For a response of the board; its whole program may take 30 times as long.",
)
@click.option("--waves", is_flag=True, help="Write a waveform (icarus and verilator).")
def run_command(
    target: Path,
    executor: str,
    inputs: tuple[Path, ...],
    out: Path | None,
    port: str | None,
    baud: int,
    timeout: float,
    waves: bool,
) -> Outcome:
    """Run TARGET on images: a program.npz, a run folder or a model.onnx.

    Writes for each IMAGE the class map (NAME-classes.png, a palette image whose pixels are class
    indices) and an overlay (NAME-overlay.png). The image is scaled to the network's input and
    padded.
    """
    from intaglio.cli.pictures import read_input, write_pictures
    from intaglio.data import color_map, encode

    if (executor == "board") != (port is not None):
        raise IntaglioError("--on board needs --port, and --port needs --on board")
    network, frozen, folder = _network(target, executor)
    folder = out or folder
    names = [path.stem for path in inputs]
    if len(set(names)) != len(names):
        raise IntaglioError("two input images have the same name: their pictures would overwrite")
    if waves:
        if executor not in ("icarus", "verilator"):
            raise IntaglioError(f"--waves needs icarus or verilator, not {executor}")
        network.simulation = {"waves": folder.absolute() / f"run-{executor}"}
    network.progress = progress
    source, class_map, (height, width), classes = _shape(network, frozen)
    from intaglio_sim.executors import BoardSettings, make_executor

    if port is not None:
        network.board = BoardSettings(
            port=port, baud=baud, timeout_s=timeout, run_s=30 * timeout, values=(class_map,)
        )
    palette = color_map(classes) if frozen is None else frozen.palette
    names_of = [str(k) for k in range(classes)] if frozen is None else list(frozen.classes)
    # All images are read before the first is run: a broken one is told at once.
    images = [read_input(path, height, width) for path in inputs]
    run = make_executor(executor, network)
    results: list[dict[str, Any]] = []
    for path, image in zip(inputs, images, strict=True):
        progress(f"{path}: {executor}")
        layers = run(encode(image.transpose(2, 0, 1).copy()))
        mask = layers[class_map][0]
        written = write_pictures(folder, path.stem, image, mask, palette)
        found = {names_of[k]: int((mask == k).sum()) for k in range(classes) if (mask == k).any()}
        results.append({"input": path, **written, "pixels": found})
    counters = network.counters.get(executor, {})
    lines = [f"{r['input']}: {r['classes']}, {r['overlay']}" for r in results]
    cycles = f", {counters['cycles']:,} cycles" if "cycles" in counters else ""
    return Outcome(
        data={"on": executor, "images": results, "counters": counters},
        lines=lines,
        summary=f"{len(results)} image{'s' if len(results) > 1 else ''} on {executor}{cycles}: "
        f"pictures in {folder}",
    )


def _network(target: Path, executor: str) -> Any:
    """Return (Network, Frozen or None, folder) for what ``target`` is."""
    from intaglio.cli.artifacts import find_frozen, open_frozen, open_program
    from intaglio_sim.executors import Network

    if executor not in executor_names():
        raise IntaglioError(
            f"executor {executor!r} is unknown; choose from {', '.join(executor_names())}"
        )
    compiled = executor in ("golden", "icarus", "verilator", "netlist", "board")
    if target.suffix == ".npz":
        program = open_program(target)
        frozen = find_frozen(program, target)
        if frozen is None and not compiled:
            raise IntaglioError(
                f"{executor} needs the graph that {target} was compiled from, and it is not beside "
                f"it as model.onnx: name the model.onnx or the run folder instead"
            )
        network = Network(graph=None if frozen is None else frozen.graph)
        network.program = program
        folder = target.parent
    else:
        frozen = open_frozen(target)
        network = Network(graph=frozen.graph)
        folder = frozen.path.parent
        if compiled:
            path = folder / "program.npz"
            network.program = open_program(path, frozen=frozen)
    if frozen is not None:
        network.onnx_path = frozen.path
        if executor == "torch" and frozen.run is not None:
            from intaglio.cli.runs import load_model

            network.model = load_model(frozen.run, expected=frozen.metadata.get("run_digest", ""))
    return network, frozen, folder


def _shape(network: Any, frozen: Any) -> tuple[str, str, tuple[int, int], int]:
    """Return the names of input and class map, the input's size and the number of classes."""
    if frozen is not None:
        graph = frozen.graph
        return graph.inputs[0], graph.outputs[0], frozen.size, frozen.logits[1]
    program = network.program
    values = program.values
    source = program.inputs[0]
    maps = [name for name in program.outputs if values[name].class_planes]
    if not maps:
        raise IntaglioError("the program has no class map among its outputs")
    others = [values[name].shape[0] for name in program.outputs if name not in maps]
    return source, maps[0], values[source].shape[1:], max(others, default=256)
