"""Images per second of the networks on a board, by the cycle model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from intaglio.cli.networks import random_network
from intaglio.spec.config import AcceleratorConfig
from intaglio.spec.errors import IntaglioError

__all__ = ["NETWORKS", "network_rates"]

#: The networks: name -> (size of the images (height, width), classes), small enough for a model of
#: every cycle to take seconds.
NETWORKS = {
    "deeplabv3-resnet50": ((176, 240), 21),
    "fcn-vgg16": ((176, 240), 21),
    "deeplab-mini": ((120, 160), 11),
    "fcn-mini": ((120, 160), 11),
}


def network_rates(
    config: AcceleratorConfig,
    *,
    fmax_mhz: float,
    memory_mb_s: float,
    networks: Mapping[str, tuple[tuple[int, int], int]] = NETWORKS,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Return for each of ``networks`` what ``config`` does at ``fmax_mhz`` with the board's memory.

    The memory gives one beat in as many cycles as its rate asks for, in each direction, and answers
    after :data:`intaglio.spec.memory.MEMORY_LATENCY` cycles; plans are chosen for that.

    Returns
    -------
    dict
        name -> ``size``, ``memory_interval`` (cycles per beat), ``cycles``, ``array_use``,
        ``images_per_s``, ``sustained_gops`` (two operations per multiplication); or ``error``,
        where the network does not fit the configuration.
    """
    from intaglio.compile import compile_graph
    from intaglio_sim.golden.cycles import CycleModel

    interval = max(1, math.ceil(config.bus_bytes * fmax_mhz / memory_mb_s))
    rates: dict[str, Any] = {}
    for name, (size, classes) in networks.items():
        progress(f"cycle model: {name} at {size[0]}x{size[1]}")
        _, graph = random_network(name, size, "1", classes)
        try:
            program = compile_graph(graph, config, interval=interval)
        except IntaglioError as error:
            rates[name] = {"size": list(size), "error": str(error)}
            continue
        model = CycleModel(config=config, memory_interval=interval)
        timeline = model.run(program)
        seconds = timeline.cycles / (fmax_mhz * 1e6)
        rates[name] = {
            "size": list(size),
            "memory_interval": interval,
            "cycles": timeline.cycles,
            "array_use": timeline.utilization,
            "images_per_s": 1 / seconds,
            "sustained_gops": 2 * timeline.macs / seconds / 1e9,
        }
    return rates
