"""fcn-mini: a small VGG-like FCN with pools, skip additions and learned transposed convolutions."""

from typing import Any

from torch import nn

__all__ = ["FcnMini"]


class FcnMini(nn.Module):
    """Input (N, 3, H, W), H and W multiples of 8; logits (N, classes, H, W).

    ``layers`` is the namespace of layers, :mod:`intaglio.nn.layers` or :mod:`intaglio.nn.twin`;
    ``widths`` are the channels of conv1 to conv4 and of the two classifier layers.
    """

    STRIDE = 8
    #: A parameter whose first dimension is the number of classes.
    CLASSIFIER = "score.weight"
    WIDTHS = (16, 32, 64, 96, 128, 128)

    def __init__(self, layers: Any, *, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        L = layers
        w1, w2, w3, w4, w6, w7 = widths
        self.quantize = L.QuantizeImage()
        self.conv1 = L.Conv2d(3, w1, 3, padding=1)
        self.bn1 = L.BatchNorm2d(w1)
        self.pool1 = L.MaxPool2d(2)
        self.conv2 = L.Conv2d(w1, w2, 3, padding=1)
        self.bn2 = L.BatchNorm2d(w2)
        self.pool2 = L.MaxPool2d(2)
        self.conv3 = L.Conv2d(w2, w3, 3, padding=1)
        self.bn3 = L.BatchNorm2d(w3)
        self.pool3 = L.MaxPool2d(2)
        self.conv4 = L.Conv2d(w3, w4, 3, padding=1)
        self.bn4 = L.BatchNorm2d(w4)
        self.fc6 = L.Conv2d(w4, w6, 3, padding=2, dilation=2)
        self.bn6 = L.BatchNorm2d(w6)
        self.fc7 = L.Conv2d(w6, w7, 1)
        self.bn7 = L.BatchNorm2d(w7)
        self.score = L.Conv2d(w7, classes, 1, bias=True)
        self.score_pool2 = L.Conv2d(w2, classes, 1, bias=True)
        self.score_pool1 = L.Conv2d(w1, classes, 1, bias=True)
        self.upscore2 = L.ConvTranspose2d(classes, classes, 4, stride=2, padding=1)
        self.upscore_pool2 = L.ConvTranspose2d(classes, classes, 4, stride=2, padding=1)
        self.upscore = L.ConvTranspose2d(classes, classes, 4, stride=2, padding=1)
        self.add_pool2 = L.Add(exponent=L.LOGITS_EXPONENT)
        self.add_pool1 = L.Add(exponent=L.LOGITS_EXPONENT)
        self.argmax = L.ArgMax()

    def forward(self, images: Any) -> Any:
        x = self.quantize(images)
        pool1 = self.pool1(self.bn1(self.conv1(x)))  # (N, w1, H/2, W/2)
        pool2 = self.pool2(self.bn2(self.conv2(pool1)))  # (N, w2, H/4, W/4)
        x = self.pool3(self.bn3(self.conv3(pool2)))  # (N, w3, H/8, W/8)
        x = self.bn4(self.conv4(x))
        x = self.bn7(self.fc7(self.bn6(self.fc6(x))))
        x = self.upscore2(self.score(x))  # (N, classes, H/4, W/4)
        x = self.upscore_pool2(self.add_pool2(x, self.score_pool2(pool2)))  # (N, classes, H/2, W/2)
        return self.upscore(self.add_pool1(x, self.score_pool1(pool1)))  # (N, classes, H, W)
