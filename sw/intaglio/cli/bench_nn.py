"""``intaglio bench train`` and ``bench infer``: integers beside float32 and ONNX Runtime."""

import contextlib
import gc
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click

from intaglio.cli.bench_peers import PEERS, STATISTICS_STEPS, brevitas_twin
from intaglio.cli.common import Choices, Outcome, progress, result_command, table
from intaglio.spec.errors import IntaglioError

__all__ = ["infer_command", "train_command"]

#: Seconds before a turn, and the calls of a turn that are measured.
_PAUSE, _TURN = 0.05, 3
#: Kernel -> the part of a step that it belongs to; the rest is "other".
_PARTS = {
    "conv": "products, forward",
    "conv_norm_forward": "products and batch norm, forward",
    "conv_input_gradient": "products, input gradient",
    "conv_weight_gradient": "products, weight gradient",
    "batch_norm_statistics": "batch norm, forward",
    "batch_norm_prepare": "batch norm, forward",
    "batch_norm_normalize": "batch norm, forward",
    "batch_norm_error": "batch norm, backward",  # with its two quantisers
    "batch_norm_sums": "batch norm, backward",
    "batch_norm_error_vectors": "batch norm, backward",
    "batch_norm_backward": "batch norm, backward",
    "requantize": "quantise, diffuse",
    "quantize_error": "quantise, diffuse",
    "error_sums": "quantise, diffuse",
    "weight_codes": "quantise, diffuse",
    "weight_gradient_codes": "products, weight gradient",
    "weight_gradients": "products, weight gradient",  # with their quantisers
    "quantize_gradient": "update",
    "quantize_vectors": "update",
    "updates": "update",
    "max_pool": "pool, resize, loss",
    "max_pool_gradient": "pool, resize, loss",
    "resize_wide": "pool, resize, loss",
    "resize_gradient": "pool, resize, loss",
    "softmax_cross_entropy": "pool, resize, loss",
    "average_sum": "pool, resize, loss",
    "resize_rounded": "pool, resize, loss",
    "image_codes": "pool, resize, loss",
}


def model_names() -> list[str]:
    """Return the names of the networks."""
    from intaglio.nn.models import MODELS

    return list(MODELS)


def _options(function: Any) -> Any:
    for option in (
        click.option("--threads", type=click.IntRange(1), default=2, show_default=True),
        click.option("--classes", default=11, show_default=True),
        click.option("--channels", default="1", show_default=True, help="Width of the network."),
        click.option("--width", default=240, show_default=True, help="Of the images, in pixels."),
        click.option("--height", default=176, show_default=True, help="Of the images, in pixels."),
        click.option(
            "--model",
            required=True,
            cls=Choices,
            choices=model_names,
            metavar="NAME",
            help="Network, with random weights.",
        ),
    ):
        function = option(function)
    return function


def _sample(batch: int, height: int, width: int, classes: int) -> tuple[Any, Any]:
    import torch

    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=g)
    labels = torch.randint(0, classes, (batch, height, width), dtype=torch.uint8, generator=g)
    return images, labels


def _integer_step(model: Any, images: Any, labels: Any) -> Callable[[], float]:
    from fractions import Fraction

    from intaglio.nn.loss import SoftmaxCrossEntropy
    from intaglio.train import SGD

    loss, optimizer = SoftmaxCrossEntropy(), SGD(model.named_parameters(), seed=1)
    model.train()

    def step() -> float:
        optimizer.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimizer.step(Fraction(1, 1000))
        return value.item()

    return step


def _float_step(twin: Any, images: Any, labels: Any) -> Callable[[], float]:
    import torch

    optimizer = torch.optim.SGD(twin.parameters(), lr=0.001, momentum=7 / 8, weight_decay=2.0**-11)
    labels = labels.to(torch.int64)
    twin.train()

    def step() -> float:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(twin(images), labels)
        value.backward()
        optimizer.step()
        return float(value.item())

    return step


def _peer_step(network: Any, images: Any, labels: Any) -> Callable[[], float]:
    """Return a step of Brevitas' network; its first steps, which collect statistics, are over."""
    step = _float_step(brevitas_twin(network), images, labels)
    for _ in range(STATISTICS_STEPS + 1):
        step()
    return step


def _resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise IntaglioError(f"/proc/self/status has no {field}")


def _peak(kind: str, settings: dict[str, Any], queue: Any) -> None:
    """Put the peak of resident memory above the start, of the second of two steps, in ``queue``."""
    import ctypes

    import torch

    from intaglio.nn.models import build, build_twin

    torch.set_num_threads(settings["threads"])
    start = _resident("VmRSS")
    images, labels = _sample(*(settings[k] for k in ("batch", "height", "width", "classes")))
    model = build(settings["model"], classes=settings["classes"], width=settings["channels"])
    if kind == "int":
        step = _integer_step(model, images, labels)
    elif kind == "float":
        step = _float_step(build_twin(model), images, labels)
    else:
        step = _peer_step(model, images, labels)
    del model
    gc.collect()
    # What building took on the way is given back: the peak is that of training.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        step()
    queue.put(_resident("VmHWM") - start)


def _memory(settings: dict[str, Any], kinds: Iterable[str]) -> dict[str, int]:
    context, found = multiprocessing.get_context("spawn"), {}
    for kind in kinds:
        queue = context.Queue()
        child = context.Process(target=_peak, args=(kind, settings, queue))
        child.start()
        child.join()
        if child.exitcode:
            raise IntaglioError(f"measuring the memory of {kind} ended with {child.exitcode}")
        found[kind] = queue.get()
    return found


@contextlib.contextmanager
def _watch(seconds: defaultdict[str, float]) -> Iterator[None]:
    """Add what the kernels take inside the block to ``seconds``, by part.

    Batch norm's error and the products that follow it, one call otherwise, are two.
    """
    from intaglio.nn import kernels

    inner = kernels.active()

    def timed(function: Any, part: str) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            seconds[part] += time.perf_counter() - began
            return result

        return run

    class Timed:
        def __getattr__(self, name: str) -> Any:
            if name == "input_gradient":
                raise AttributeError(name)
            return timed(getattr(inner, name), _PARTS[name])

    with kernels.use(Timed()):
        yield


def _alternate(runs: dict[str, Callable[[], Any]], times: int) -> dict[str, dict[str, list[float]]]:
    """Run each of ``runs`` ``times`` times, a few at a turn: wall and CPU seconds.

    A turn begins with a call that is not measured, as it finds the caches full of what the one
    before has left: training goes on from step to step. Before it there is a pause: the threads of
    the one before wait for work in a loop, for a while, and would take a processor from the next.
    """
    found: dict[str, dict[str, list[float]]] = {k: {"wall": [], "cpu": []} for k in runs}
    for first in range(0, times, _TURN):
        for name, run in runs.items():
            time.sleep(_PAUSE)
            run()
            for _ in range(min(_TURN, times - first)):
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                found[name]["wall"].append(time.perf_counter() - wall)
                found[name]["cpu"].append(time.process_time() - cpu)
    return found


def _ratio(found: Any, clock: str, over: str) -> float:
    return median(found[over][clock]) / median(found["int"][clock])


@result_command("train")
@_options
@click.option("--batch", default=4, show_default=True, help="Images in each step.")
@click.option(
    "--steps", type=click.IntRange(1), default=9, show_default=True, help="Measured steps of each."
)
@click.option("--memory/--no-memory", default=True, help="Measure memory as well; yes.")
@click.option(
    "--peer",
    type=click.Choice(PEERS),
    help="Measure this as well, if it is installed: quantisation-aware training of the twin.",
)
def train_command(
    model: str,
    height: int,
    width: int,
    channels: str,
    classes: int,
    threads: int,
    batch: int,
    steps: int,
    memory: bool,
    peer: str | None,
) -> Outcome:
    """A whole training step, integers beside the float32 twin, alternating in one process.

    Forward, loss, backward and update; the twin is channels-last PyTorch with autograd and SGD.
    Each takes a few steps at a turn.
    step_ratio is float time / integer time of the median steps, cpu_ratio that of processor time,
    which other processes disturb less; parts are shares of one integer step. With a peer,
    PEER_step_ratio is the peer's time / integer time.
    """
    import torch

    from intaglio.nn.models import MODELS, build, build_twin, check_size

    settings: dict[str, Any] = {
        "model": model,
        "height": height,
        "width": width,
        "channels": channels,
        "classes": classes,
        "threads": threads,
        "batch": batch,
    }
    if model in MODELS:
        check_size(MODELS[model], height, width)
    torch.set_num_threads(threads)
    network = build(model, classes=classes, width=channels, seed=1)
    images, labels = _sample(batch, height, width, classes)
    twin = build_twin(network)
    integers = _integer_step(network, images, labels)
    runs = {"int": integers, "float": _float_step(twin, images, labels)}
    if peer:
        runs[peer] = _peer_step(network, images, labels)
    names = ", ".join(["integers", "float32", *([peer] if peer else [])])
    progress(f"{model}: {steps} steps of {names}, {batch} x {height} x {width}")
    found = _alternate(runs, steps)
    seconds: defaultdict[str, float] = defaultdict(float)
    began = time.perf_counter()
    with _watch(seconds):
        integers()
    total = time.perf_counter() - began
    seconds["other"] = total - sum(seconds.values())
    parts = {
        part: taken / total for part, taken in sorted(seconds.items(), key=lambda item: -item[1])
    }
    data: dict[str, Any] = {
        **settings,
        "step_ratio": _ratio(found, "wall", "float"),
        "cpu_ratio": _ratio(found, "cpu", "float"),
        "seconds": {k: v["wall"] for k, v in found.items()},
        "cpu_seconds": {k: v["cpu"] for k, v in found.items()},
        "parts": parts,
    }
    summary = f"{model}: a step is {data['step_ratio']:.2f} times as fast as float32"
    if peer:
        data[f"{peer}_step_ratio"] = _ratio(found, "wall", peer)
        data[f"{peer}_cpu_ratio"] = _ratio(found, "cpu", peer)
        data[f"{peer}_seconds"] = median(found[peer]["wall"])
        summary += f", {data[f'{peer}_step_ratio']:.2f} times as {peer}"
    del network, twin, integers, runs
    gc.collect()
    if memory:
        progress("peak memory, each in a process of its own")
        peaks = _memory(settings, found)
        data |= {"peak_memory_ratio": peaks["int"] / peaks["float"], "peak_bytes": peaks}
        summary += f" and takes {data['peak_memory_ratio']:.2f} of the memory of float32"
        if peer:
            data[f"{peer}_peak_memory_ratio"] = peaks["int"] / peaks[peer]
            summary += f", {data[f'{peer}_peak_memory_ratio']:.2f} of that of {peer}"
    rows: list[list[Any]] = [["part of an integer step", "%"]]
    rows += [[part, f"{100 * share:.1f}"] for part, share in parts.items()]
    return Outcome(data=data, lines=table(rows, right=(1,)), summary=summary)


def _onnxruntime(twin: Any, images: Any, threads: int, folder: Path) -> Callable[[], Any]:
    """Return a call of ONNX Runtime on the twin, statically quantised to u8s8."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    class Pixels(torch.nn.Module):
        """The twin behind its input: float32 in [-1, 1)."""

        def __init__(self) -> None:
            super().__init__()
            self.twin = twin
            self.twin.quantize = torch.nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.twin(x)

    x = (images.to(torch.float32) - 128) / 128
    kept, plain, small = twin.quantize, folder / "float.onnx", folder / "int8.onnx"
    try:
        torch.onnx.export(
            Pixels().eval(),
            (x,),
            str(plain),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
        )
    finally:
        twin.quantize = kept

    class Reader:
        """One batch for the calibration."""

        def __init__(self) -> None:
            self.items = iter([{"x": x.numpy()}])

        def get_next(self) -> Any:
            return next(self.items, None)

    quantize_static(
        str(plain),
        str(small),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(small), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)


@result_command("infer")
@_options
@click.option("--batch", default=1, show_default=True, help="Images in each call.")
@click.option(
    "--runs", type=click.IntRange(1), default=10, show_default=True, help="Measured calls of each."
)
def infer_command(
    model: str,
    height: int,
    width: int,
    channels: str,
    classes: int,
    threads: int,
    batch: int,
    runs: int,
) -> Outcome:
    """Inference: the frozen network in PyTorch, float32 PyTorch, ONNX Runtime's int8 of the twin.

    From pixels to logits. float_ratio and onnxruntime_int8_ratio say how many times as fast as each
    the integers are.
    """
    import torch

    from intaglio.nn import GraphExecutor, to_graph
    from intaglio.nn.models import MODELS, build, build_twin, calibrate, check_size

    if model in MODELS:
        check_size(MODELS[model], height, width)
    torch.set_num_threads(threads)
    network = build(model, classes=classes, width=channels, seed=1)
    images, _ = _sample(batch, height, width, classes)
    calibrate(network, images)
    graph = to_graph(network.eval(), height=height, width=width)
    frozen = GraphExecutor(graph, outputs=graph.outputs[1:])  # the logits, as the others
    twin = build_twin(network)
    twin.train()
    with torch.no_grad():
        twin(images)  # running statistics that fit the weights
    twin.eval()
    progress(f"{model}: quantising the twin for ONNX Runtime")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        peer = _onnxruntime(twin, images, threads, Path(folder))
        progress(f"{model}: {runs} calls of each, {batch} x {height} x {width}")
        found = _alternate(
            {
                "int": lambda: frozen(images),
                "float": lambda: twin(images),
                "onnxruntime_int8": peer,
            },
            runs,
        )
    data = {
        "model": model,
        "height": height,
        "width": width,
        "channels": channels,
        "classes": classes,
        "threads": threads,
        "batch": batch,
        "float_ratio": _ratio(found, "wall", "float"),
        "onnxruntime_int8_ratio": _ratio(found, "wall", "onnxruntime_int8"),
        "float_cpu_ratio": _ratio(found, "cpu", "float"),
        "onnxruntime_int8_cpu_ratio": _ratio(found, "cpu", "onnxruntime_int8"),
        "seconds": {k: v["wall"] for k, v in found.items()},
        "cpu_seconds": {k: v["cpu"] for k, v in found.items()},
    }
    return Outcome(
        data=data,
        summary=f"{model}: {data['float_ratio']:.2f} times as fast as float32, "
        f"{data['onnxruntime_int8_ratio']:.2f} times as ONNX Runtime int8",
    )
