"""Integer networks in PyTorch: tensors, layers, loss and models."""

from intaglio.nn.executor import GraphExecutor
from intaglio.nn.inference import graph_op, record, to_graph
from intaglio.nn.int_tensor import IntTensor

__all__ = ["GraphExecutor", "IntTensor", "graph_op", "record", "to_graph"]
