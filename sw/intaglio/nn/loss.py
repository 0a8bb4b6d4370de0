"""The training loss."""

import torch
from torch import nn

from intaglio.nn import functional as F
from intaglio.nn.int_tensor import IntTensor
from intaglio.spec.metrics import VOID

__all__ = ["SoftmaxCrossEntropy"]


class SoftmaxCrossEntropy(nn.Module):
    """Softmax cross-entropy over the classes, averaged over all pixels; ``void`` ones count zero.

    ``loss.backward()`` starts from 8-bit errors ``p - [k = y]``. They are scaled by a power of two
    near 1 / pixels; :func:`intaglio.train.optimizer.pixel_factor` is the rest, which belongs into
    the learning rate.
    """

    def __init__(self, *, void: int = VOID) -> None:
        super().__init__()
        self.void = void

    def forward(self, logits: IntTensor, labels: torch.Tensor) -> IntTensor:
        return F.softmax_cross_entropy(logits, labels, void=self.void)
