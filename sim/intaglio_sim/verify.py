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

    ``images``: that were compared. ``compared_of``, ``mismatches_of``: bytes of each executor after
    the first, and those that differ from the first executor's. ``first_mismatch`` names the first
    of them, "" if there is none. ``class_maps`` holds the first executor's class map of each image.
    """

    executors: tuple[str, ...]
    images: int
    layers: int
    compared_of: Mapping[str, int]
    mismatches_of: Mapping[str, int]
    first_mismatch: str
    class_maps: tuple[np.ndarray, ...]

    @property
    def bytes_compared(self) -> int:
        """Bytes of all executors but the first."""
        return sum(self.compared_of.values())

    @property
    def mismatches(self) -> int:
        """Bytes that differ from the first executor's."""
        return sum(self.mismatches_of.values())


def verify(
    network: Network,
    images: Sequence[np.ndarray],
    executors: Sequence[str],
    *,
    keep_going: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Run each image, int8 (C, H, W), on each executor and compare every value with the first's.

    The first executor and image with a difference are the last ones, unless ``keep_going``.

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
    compared_of = {name: 0 for name in executors[1:]}
    mismatches_of = {name: 0 for name in executors[1:]}
    first_mismatch = ""
    class_maps: list[np.ndarray] = []
    for index, image in enumerate(images):
        progress(f"image {index + 1} of {len(images)}: {executors[0]}")
        expected = _layers(executors[0], runs[executors[0]](image), order)
        class_maps.append(expected[graph.outputs[0]])
        for name in executors[1:]:
            progress(f"image {index + 1} of {len(images)}: {name}")
            layers = _layers(name, runs[name](image), order)
            for layer in order:
                if layers[layer].dtype != expected[layer].dtype:
                    raise IntaglioError(
                        f"{name}: layer {layer} is {layers[layer].dtype}, "
                        f"not {expected[layer].dtype}"
                    )
            compared, found = count_mismatches(expected, layers)
            compared_of[name] += compared
            mismatches_of[name] += found
            if found and not first_mismatch:
                mismatch = compare_layers(expected, layers, order=order, names=(executors[0], name))
                first_mismatch = f"image {index}: {mismatch}"
                progress(first_mismatch)
            if found and not keep_going:
                break
        if first_mismatch and not keep_going:
            break
    return Verification(
        executors=tuple(executors),
        images=len(class_maps),
        layers=len(order) - len(graph.inputs),
        compared_of=compared_of,
        mismatches_of=mismatches_of,
        first_mismatch=first_mismatch,
        class_maps=tuple(class_maps),
    )


def _layers(
    name: str, layers: Mapping[str, np.ndarray], order: Sequence[str]
) -> Mapping[str, np.ndarray]:
    if layers.keys() != set(order):
        raise IntaglioError(f"{name} did not return every layer of the graph")
    return layers
