"""All executors on the same images, layer by layer, byte by byte."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from intaglio.spec.errors import IntaglioError
from intaglio_sim.diff import compare_layers, count_mismatches
from intaglio_sim.executors import Network, make_executor

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What :func:`verify` compared.

    ``bytes_compared`` counts each byte once for each executor after the first; ``mismatches`` the
    bytes that differ from the first executor; ``first_mismatch`` names the first of them, "" if
    there is none. ``mismatches_of`` has the mismatches of each executor after the first.
    ``class_maps`` holds the first executor's class map of each image.
    """

    executors: tuple[str, ...]
    images: int
    layers: int
    bytes_compared: int
    mismatches: int
    first_mismatch: str
    mismatches_of: Mapping[str, int]
    class_maps: tuple[np.ndarray, ...]


def verify(
    network: Network,
    images: Sequence[np.ndarray],
    executors: Sequence[str],
    *,
    progress: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Run each image, int8 (C, H, W), on each executor and compare every value with the first's.

    Raises
    ------
    IntaglioError
        Fewer than two executors, none of the images, or an executor that cannot run.
    """
    if len(executors) < 2:
        raise IntaglioError(f"verify compares at least two executors, not {len(executors)}")
    if len(set(executors)) != len(executors):
        raise IntaglioError(f"an executor is named twice: {', '.join(executors)}")
    if not images:
        raise IntaglioError("verify needs at least one image")
    runs = {name: make_executor(name, network) for name in executors}
    graph = network.require_graph()
    order = tuple(graph.values)
    compared = mismatches = 0
    mismatches_of = {name: 0 for name in executors[1:]}
    first_mismatch = ""
    class_maps = []
    for index, image in enumerate(images):
        expected = None
        for name, run in runs.items():
            progress(f"image {index + 1} of {len(images)}: {name}")
            layers = run(image)
            if layers.keys() != set(order):
                raise IntaglioError(f"{name} did not return every layer of the graph")
            if expected is None:
                expected = layers
                continue
            for layer in order:
                if layers[layer].dtype != expected[layer].dtype:
                    raise IntaglioError(
                        f"{name}: layer {layer} is {layers[layer].dtype}, "
                        f"not {expected[layer].dtype}"
                    )
            size, found = count_mismatches(expected, layers)
            compared += size
            if found and not first_mismatch:
                mismatch = compare_layers(expected, layers, order=order, names=(executors[0], name))
                first_mismatch = f"image {index}: {mismatch}"
            mismatches += found
            mismatches_of[name] += found
        assert expected is not None
        class_maps.append(expected[graph.outputs[0]])
    return Verification(
        executors=tuple(executors),
        images=len(images),
        layers=len(order) - len(graph.inputs),
        bytes_compared=compared,
        mismatches=mismatches,
        first_mismatch=first_mismatch,
        mismatches_of=mismatches_of,
        class_maps=tuple(class_maps),
    )
