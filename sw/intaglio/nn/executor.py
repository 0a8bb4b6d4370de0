"""A frozen graph in PyTorch, without the modules that it was recorded from."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from intaglio.nn import kernels
from intaglio.nn.operations import OPERATIONS, PreparedConv, nchw, nhwc
from intaglio.spec.errors import IntaglioError
from intaglio.spec.graph import Graph, Node

__all__ = ["GraphExecutor"]


@dataclass(frozen=True)
class _Step:
    """One node: ``run`` takes the maps at places ``inputs`` and its result goes to ``output``;
    the places ``dead`` are not read again.
    """

    run: Callable[[list[torch.Tensor]], torch.Tensor]
    inputs: tuple[int, ...]
    output: int
    dead: tuple[int, ...]


def _operation(node: Node, device: torch.device) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    tensors = {
        key: torch.from_numpy(np.array(value)).to(device) for key, value in node.tensors.items()
    }
    if node.op in ("conv", "conv_transpose"):
        return PreparedConv(node.op, **tensors, **node.attributes)
    return functools.partial(OPERATIONS[node.op], **tensors, **node.attributes)


class GraphExecutor:
    """Runs a frozen graph with the kernels that are active when it is made.

    A model in eval mode computes the same, but walks its modules and compares its parameters with
    what was prepared from them; a graph does not change, so that all of that is done here, once.

    Parameters
    ----------
    graph
        The frozen graph; nothing of it is kept but the packed weights.
    outputs
        Names of the values that a call returns, the graph's outputs by default. What they do not
        depend on is not computed.
    device
        Where it runs.

    Raises
    ------
    IntaglioError
        The graph has no value of such a name.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        outputs: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device, self._kernels = torch.device(device), kernels.active()
        self.outputs = tuple(graph.outputs if outputs is None else outputs)
        for name in self.outputs:
            if name not in graph.values:
                raise IntaglioError(f"the graph has no value {name!r}")
        self._shape = graph.values[graph.inputs[0]].shape[1:]
        wanted, nodes = set(self.outputs), []
        for node in reversed(graph.nodes):
            if node.output in wanted:
                nodes.append(node)
                wanted.update(node.inputs)
        nodes.reverse()
        #: Value -> its place; the input has the first one.
        places = {graph.inputs[0]: 0} | {node.output: i for i, node in enumerate(nodes, 1)}
        last = {source: i for i, node in enumerate(nodes) for source in node.inputs}
        self._steps = [
            _Step(
                _operation(node, self.device),
                tuple(places[source] for source in node.inputs),
                places[node.output],
                tuple(
                    places[source]
                    for source in dict.fromkeys(node.inputs)
                    if last[source] == i and source not in self.outputs
                ),
            )
            for i, node in enumerate(nodes)
        ]
        self._returned = [
            (places[name], getattr(torch, graph.values[name].dtype)) for name in self.outputs
        ]

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the values named :attr:`outputs`, (N, C, H, W) each, in that order.

        ``images`` are uint8 pixels or int8 codes (N, C, H, W) of the graph's size; N is free.
        Class maps have the graph's type.

        Raises
        ------
        ValueError
            Images of another type or size.
        """
        kinds = torch.uint8, torch.int8
        if images.dim() != 4 or images.dtype not in kinds or images.shape[1:] != self._shape:
            raise ValueError(
                f"images must be uint8 or int8 (N, {', '.join(map(str, self._shape))}), "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        with kernels.use(self._kernels), torch.no_grad():
            maps: list[Any] = [None] * (len(self._steps) + 1)
            pixels = images.dtype == torch.uint8
            images = images.to(self.device)
            maps[0] = self._kernels.image_codes(images) if pixels else nhwc(images)
            for step in self._steps:
                maps[step.output] = step.run([maps[i] for i in step.inputs])
                for i in step.dead:
                    maps[i] = None
        return tuple(nchw(maps[i]).to(dtype) for i, dtype in self._returned)
