"""``intaglio verify``: all executors on the same images, layer by layer, byte by byte."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intaglio.cli.common import (
    Outcome,
    hardware_options,
    parse_size,
    progress,
    result_command,
    select_config,
    table,
    write_json,
)
from intaglio.cli.freeze import freeze_run
from intaglio.cli.networks import (
    is_file,
    memory_interval,
    memory_options,
    network_options,
    random_network,
)
from intaglio.spec.errors import IntaglioError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["verify_command"]

_COMPILED = ("golden", "verilator", "icarus", "netlist")
_RTL = ("verilator", "icarus", "netlist")


@result_command("verify")
@click.argument("target", type=click.Path(path_type=Path))
@network_options
@click.option("--images", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option(
    "--on",
    "executors",
    default="torch,onnx,golden",
    show_default=True,
    metavar="A,B,...",
    help="Executors: spec, torch, onnx, golden, verilator, icarus, netlist (what yosys makes of "
    "the RTL, in Verilator); all are compared with the first.",
)
@click.option("--data", help="Data set of the images; that of the run by default.")
@click.option("--split", default="val", show_default=True, help="Split of the data set.")
@click.option(
    "--input",
    "inputs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="IMAGE",
    help="Image file instead of a data set; may be repeated.",
)
@click.option(
    "--icarus-size",
    metavar="HxW",
    help="Freeze the same weights at this smaller size for icarus, and crop the images to it.",
)
@hardware_options
@memory_options
@click.option("--stalls", type=click.IntRange(0, 90), default=0, help="Memory stalls, per cent.")
@click.option(
    "--keep-going", is_flag=True, help="Go on after the first executor and image with a difference."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for verify.json and trace.json; the run folder by default.",
)
def verify_command(
    target: Path,
    size: str,
    width: str,
    classes: int,
    images: int,
    executors: str,
    data: str | None,
    split: str,
    inputs: tuple[Path, ...],
    icarus_size: str | None,
    board: str | None,
    config: str | None,
    bandwidth: int | None,
    latency: int,
    stalls: int,
    keep_going: bool,
    out: Path | None,
) -> Outcome:
    """Run TARGET, a run folder or a model.onnx, on several executors and compare every byte.

    TARGET may also be the name of a network, such as deeplabv3-resnet50: it gets random weights. A
    run folder that was not frozen yet is frozen first. Without a run folder and without images,
    random ones are used. It stops at the first difference, with exit status 1.
    """
    from intaglio.cli.artifacts import Frozen, open_frozen
    from intaglio.data import encode
    from intaglio.nn.models import MODELS
    from intaglio_sim.executors import EXECUTORS, Network
    from intaglio_sim.verify import verify

    names = [name.strip() for name in executors.split(",") if name.strip()]
    for name in names:
        if name not in EXECUTORS:
            raise IntaglioError(f"executor {name!r} is unknown; choose from {', '.join(EXECUTORS)}")
    small = parse_size(icarus_size)
    if small is not None and "icarus" not in names:
        raise IntaglioError("--icarus-size is given, but icarus is not among --on")
    simulation = {"stalls": stalls, "trace": True, "latency": latency}
    if str(target) in MODELS and not is_file(target):
        model, graph = random_network(str(target), parse_size(size) or (64, 64), width, classes)
        frozen = Frozen(path=target, graph=graph, metadata={})
        network = Network(graph=graph, model=model, simulation=simulation, progress=progress)
    else:
        if (target / "checkpoint.npz").is_file() and not (target / "model.onnx").exists():
            progress(freeze_run(target).summary)
        frozen = open_frozen(target)
        network = Network(
            graph=frozen.graph, onnx_path=frozen.path, simulation=simulation, progress=progress
        )
        if small is not None or ("torch" in names and frozen.run is not None):
            network.model = _model(frozen)
    if any(name in _COMPILED for name in names):
        machine = _attach_program(network, frozen, board, config)
        interval = memory_interval(bandwidth, machine.bus_bytes)
        network.simulation = {**simulation, "interval": interval}
    pictures = _images(frozen, images, data, split, inputs)
    codes = [encode(image.transpose(2, 0, 1).copy()) for image in pictures]

    plans = [(network, names, codes)]
    if small is not None:
        others = [name for name in names if name != "icarus"]
        if not others:
            raise IntaglioError("--icarus-size needs another executor to compare icarus with")
        plans = [(network, others, codes)] if len(others) > 1 else []
        plans.append(_small_plan(network, others[0], small, codes))
    results = []
    for net, on, inputs_of in plans:
        height, width = inputs_of[0].shape[1:]
        progress(f"{len(inputs_of)} images of {height}x{width} on {', '.join(on)}")
        results.append((net, verify(net, inputs_of, on, keep_going=keep_going, progress=progress)))
        if results[-1][1].mismatches and not keep_going:
            break
    return _report(frozen, results, names, out)


def _model(frozen: Any) -> Any:
    """Return the torch module that ``frozen`` was recorded from."""
    from intaglio.cli.runs import load_model

    if frozen.run is None:
        raise IntaglioError(f"{frozen.path}: --icarus-size needs the run folder, name that")
    return load_model(frozen.run, expected=frozen.metadata.get("run_digest", ""))


def _attach_program(network: Any, frozen: Any, board: str | None, config: str | None) -> Any:
    """Give ``network`` the program beside the model, or a new one when there is none; return the
    configuration.
    """
    from intaglio.cli.artifacts import open_program

    path = frozen.path.with_name("program.npz")
    chosen = None if board is None and config is None else select_config(board, config)
    if network.onnx_path is not None and path.is_file():
        network.program = open_program(path, frozen=frozen, config=chosen)
    else:
        network.config = chosen or select_config(None, None, default="mini-8x8")
        progress(f"compiling for {network.config.name}")
    return network.config


def _images(
    frozen: Any, count: int, data: str | None, split: str, inputs: tuple[Path, ...]
) -> "list[np.ndarray]":
    """Return the images, uint8 (H, W, 3)."""
    import numpy as np

    from intaglio.cli.pictures import read_input
    from intaglio.data import open_dataset

    height, width = frozen.size
    if inputs:
        return [read_input(path, height, width) for path in inputs]
    spec = data or (frozen.metadata.get("data") if frozen.run is not None else None)
    if spec is None:
        generator = np.random.default_rng(1)
        return [generator.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]
    dataset = open_dataset(spec, split, height=height, width=width)
    if count > len(dataset):
        raise IntaglioError(f"{spec} has {len(dataset)} images in {split}, not {count}")
    return [dataset[index * len(dataset) // count].image for index in range(count)]


def _small_plan(
    network: Any, first: str, size: tuple[int, int], codes: "list[np.ndarray]"
) -> "tuple[Any, list[str], list[np.ndarray]]":
    """Return what icarus runs: the same weights at ``size``, the middle of the images."""
    import numpy as np

    from intaglio.nn.inference import to_graph
    from intaglio.nn.models import check_size
    from intaglio_sim.executors import Network

    height, width = size
    check_size(network.model, height, width)
    full = codes[0].shape
    if height > full[1] or width > full[2]:
        raise IntaglioError(
            f"--icarus-size {height}x{width} is larger than the image, {full[1]}x{full[2]}"
        )
    top, left = (full[1] - height) // 2, (full[2] - width) // 2
    crops = [np.ascontiguousarray(x[:, top : top + height, left : left + width]) for x in codes]
    network.model.eval()
    small = Network(
        graph=to_graph(network.model, height=height, width=width),
        model=network.model,
        config=network.config,
        simulation=network.simulation,
        progress=progress,
    )
    return small, [first, "icarus"], crops


def _report(frozen: Any, results: list[Any], names: list[str], out: Path | None) -> Outcome:
    """Sum the results up, write verify.json and trace.json."""
    from intaglio.report.layers import layer_table
    from intaglio_sim.golden.cycles import CycleModel
    from intaglio_sim.golden.trace import chrome_trace, spans_of_events

    network = results[0][0]
    mismatches = sum(result.mismatches for _, result in results)
    executors = []
    for net, result in results:
        shape = net.graph.values[net.graph.inputs[0]].shape
        for name, compared in result.compared_of.items():
            if not compared:
                continue  # stopped before
            executors.append(
                {
                    "name": name,
                    "compared_with": result.executors[0],
                    "size": list(shape[2:]),
                    "images": result.images,
                    "bytes_compared": compared,
                    "mismatches": result.mismatches_of[name],
                }
            )
    data: dict[str, Any] = {
        "images": max(result.images for _, result in results),
        "layers": results[0][1].layers,
        "bytes_compared": sum(result.bytes_compared for _, result in results),
        "mismatches": mismatches,
        "executors": names,
        "first_mismatch": next((r.first_mismatch for _, r in results if r.first_mismatch), ""),
        "comparisons": executors,
        "counters": {k: v for net, _ in results for k, v in net.counters.items()},
        "graph_digest": frozen.graph.digest(),
        "run_digest": frozen.metadata.get("run_digest", ""),
    }
    traced = next((name for name in _RTL if network.traces.get(name)), None)
    folder = out or frozen.run
    if any(name in _COMPILED for name in names):
        compiled = next(n for n, r in results if any(x in _COMPILED for x in r.executors))
        program = compiled.program
        events = compiled.traces.get(traced, ()) if compiled is network else ()
        measured = spans_of_events(events, program)
        timeline = CycleModel(
            config=program.config,
            memory_latency=compiled.simulation["latency"],
            memory_interval=compiled.simulation["interval"],
        ).run(program)
        data["program_digest"] = program.digest()
        data["config"], data["config_digest"] = program.config.name, program.config.digest()
        data["layer_size"] = list(compiled.graph.values[compiled.graph.inputs[0]].shape[2:])
        data["layer_table"] = layer_table(compiled.graph, program, timeline, measured=measured)
        data["model_counters"] = dict(timeline.counters)
        data["latency"] = compiled.simulation["latency"]
        data["bandwidth"] = program.config.bus_bytes // compiled.simulation["interval"]
        if folder is not None:
            runs = {str(traced): measured} if measured else {}
            trace = chrome_trace({**runs, "cycle model": timeline.spans}, program=program)
            trace["otherData"]["program_digest"] = program.digest()
            write_json(folder / "trace.json", trace)
    if folder is not None:
        write_json(folder / "verify.json", data)
    rows: list[list[Any]] = [["executor", "with", "size", "images", "bytes", "mismatches"]]
    for row in executors:
        size = "x".join(str(n) for n in row["size"])
        rows.append([row["name"], row["compared_with"], size, row["images"]])
        rows[-1] += [f"{row['bytes_compared']:,}", row["mismatches"]]
    verdict = "0 mismatches" if not mismatches else f"{mismatches:,} MISMATCHES"
    first = [data["first_mismatch"]] if mismatches else []
    return Outcome(
        data=data,
        lines=table(rows, right=(3, 4, 5)) + first,
        summary=f"{verdict} in {data['bytes_compared']:,} bytes: {data['images']} images, "
        f"{data['layers']} layers, {', '.join(names)}",
        status=1 if mismatches else 0,
    )
