"""deeplab-mini: a small DeepLabv3, residual blocks to output stride 8, dilation, ASPP."""

from typing import Any

from torch import nn

__all__ = ["BasicBlock", "DeepLabMini"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which has a 1x1 convolution where shapes differ."""

    def __init__(
        self, layers: Any, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        L, d = layers, dilation
        self.conv1 = L.Conv2d(inputs, outputs, 3, stride=stride, padding=d, dilation=d)
        self.bn1 = L.BatchNorm2d(outputs)
        self.conv2 = L.Conv2d(outputs, outputs, 3, padding=d, dilation=d)
        self.bn2 = L.BatchNorm2d(outputs, exponent=L.RESIDUAL_EXPONENT)
        self.downsample: Any = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.ModuleList(
                [
                    L.Conv2d(inputs, outputs, 1, stride=stride),
                    L.BatchNorm2d(outputs, exponent=L.RESIDUAL_EXPONENT, relu=False),
                ]
            )

    def forward(self, x: Any) -> Any:  # (N, C, H, W) -> (N, K, H / stride, W / stride)
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample[1](self.downsample[0](x))
        y = self.bn1(self.conv1(x))
        return self.bn2(self.conv2(y), shortcut)


class _Aspp(nn.Module):
    """1x1, three dilated 3x3 and image pooling, joined and projected."""

    def __init__(self, layers: Any, inputs: int, width: int, outputs: int, rates: Any) -> None:
        super().__init__()
        L = layers
        self.conv0 = L.Conv2d(inputs, width, 1)
        self.bn0 = L.BatchNorm2d(width)
        self.convs = nn.ModuleList(L.Conv2d(inputs, width, 3, padding=r, dilation=r) for r in rates)
        self.bns = nn.ModuleList(L.BatchNorm2d(width) for _ in rates)
        self.pool = L.GlobalAvgPool()
        # A map of one pixel has too few values for batch statistics.
        self.pool_conv = L.Conv2d(
            inputs, width, 1, bias=True, relu=True, exponent=L.ACTIVATION_EXPONENT
        )
        self.pool_broadcast = L.Broadcast()
        self.concat = L.Concat()
        self.project = L.Conv2d(width * (2 + len(rates)), outputs, 1)
        self.project_bn = L.BatchNorm2d(outputs)

    def forward(self, x: Any) -> Any:
        size = (x.shape[2], x.shape[3])
        branches = [self.bn0(self.conv0(x))]
        branches += [bn(conv(x)) for conv, bn in zip(self.convs, self.bns, strict=True)]
        branches.append(self.pool_broadcast(self.pool_conv(self.pool(x)), size))
        return self.project_bn(self.project(self.concat(*branches)))


class DeepLabMini(nn.Module):
    """Input (N, 3, H, W), H and W multiples of 8; logits (N, classes, H, W).

    ``layers`` is the namespace of layers, :mod:`intaglio.nn.layers` or :mod:`intaglio.nn.twin`;
    ``widths`` are the channels of stem, stages 1 to 3, ASPP branches and projection.
    """

    STRIDE = 8
    #: A parameter whose first dimension is the number of classes.
    CLASSIFIER = "classifier.weight"
    WIDTHS = (24, 32, 64, 64, 48, 64)

    def __init__(self, layers: Any, *, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        L = layers
        w0, w1, w2, w3, wa, wp = widths
        self.quantize = L.QuantizeImage()
        self.conv1 = L.Conv2d(3, w0, 3, stride=2, padding=1)
        self.bn1 = L.BatchNorm2d(w0)
        self.layer1 = nn.Sequential(BasicBlock(L, w0, w1, stride=2))
        self.layer2 = nn.Sequential(BasicBlock(L, w1, w2, stride=2), BasicBlock(L, w2, w2))
        self.layer3 = nn.Sequential(BasicBlock(L, w2, w3, dilation=2))
        self.aspp = _Aspp(L, w3, wa, wp, (2, 4, 6))
        self.classifier = L.Conv2d(wp, classes, 1, bias=True)
        self.resize = L.Resize(8, last=True)
        self.argmax = L.ArgMax()

    def forward(self, images: Any) -> Any:
        x = self.quantize(images)
        x = self.bn1(self.conv1(x))  # (N, w0, H/2, W/2)
        x = self.layer1(x)  # (N, w1, H/4, W/4)
        x = self.layer3(self.layer2(x))  # (N, w3, H/8, W/8)
        x = self.classifier(self.aspp(x))  # (N, classes, H/8, W/8)
        return self.resize(x)  # (N, classes, H, W)
