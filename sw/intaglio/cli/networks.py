"""Networks by name, with random weights and calibrated exponents, for measuring and verifying."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from intaglio.spec.errors import IntaglioError
from intaglio.spec.memory import MEMORY_LATENCY

if TYPE_CHECKING:
    from intaglio.spec.graph import Graph

__all__ = ["is_file", "memory_interval", "memory_options", "network_options", "random_network"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def network_options(function: _Function) -> _Function:
    """Add ``--size``, ``--width`` and ``--classes``: of a network that is named."""
    for option in (
        click.option(
            "--classes", default=11, show_default=True, help="Classes of a named network."
        ),
        click.option("--width", default="1", show_default=True, help="Of a named network."),
        click.option(
            "--size",
            default="64x64",
            show_default=True,
            metavar="HxW",
            help="Image, for a named network.",
        ),
    ):
        function = option(function)
    return function


def memory_options(function: _Function) -> _Function:
    """Add ``--bandwidth`` and ``--latency``: of the memory behind the accelerator."""
    function = click.option(
        "--latency",
        type=click.IntRange(2),
        default=MEMORY_LATENCY,
        show_default=True,
        help="Of the memory, in cycles. Plans are chosen for it.",
    )(function)
    return click.option(
        "--bandwidth",
        type=click.IntRange(1),
        metavar="BYTES",
        help="Of the memory per cycle, in each direction; the width of the bus by default. Plans "
        "are chosen for it.",
    )(function)


def memory_interval(bandwidth: int | None, bus_bytes: int) -> int:
    """Return the cycles from beat to beat at ``bandwidth`` bytes per cycle.

    Raises
    ------
    IntaglioError
        ``bandwidth`` does not divide the width of the bus.
    """
    if bandwidth is None:
        return 1
    if bus_bytes % bandwidth:
        raise IntaglioError(
            f"--bandwidth must divide the width of the bus, {bus_bytes} bytes, not be {bandwidth}"
        )
    return bus_bytes // bandwidth


def is_file(model: str | Path) -> bool:
    """Return whether ``model`` is a frozen file or run folder, not the name of a network."""
    return Path(model).suffix == ".onnx" or Path(model).exists()


def random_network(
    name: str, size: tuple[int, int], width: str, classes: int
) -> "tuple[Any, Graph]":
    """Return the torch module called ``name`` in eval mode and its graph for images of ``size``.

    Weights are random, exponents and batch norm are calibrated on random images.

    Raises
    ------
    IntaglioError
        An unknown name, or a size that the network cannot take.
    """
    import torch

    from intaglio.nn.inference import to_graph
    from intaglio.nn.models import build, calibrate, check_size

    network = build(name, classes=classes, width=width, seed=1)
    check_size(network, *size)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    calibrate(network, images)
    network.eval()
    return network, to_graph(network, height=size[0], width=size[1])
