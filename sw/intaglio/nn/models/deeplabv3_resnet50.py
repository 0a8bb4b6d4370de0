"""ResNet50 (arXiv 1512.03385) and DeepLabv3 on it (1706.05587), with torchvision's names."""

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = [
    "Bottleneck",
    "DeepLabV3ResNet50",
    "DeepLabV3ResNet50Stride8",
    "ResNet50",
    "ResNet50Classifier",
]

#: Channels that leave a bottleneck, in multiples of its width.
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (which has the stride), 1x1, and a shortcut."""

    def __init__(
        self,
        layers: Any,
        inputs: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        downsample: bool = False,
    ) -> None:
        super().__init__()
        L, outputs = layers, EXPANSION * width
        self.conv1 = L.Conv2d(inputs, width, 1)
        self.bn1 = L.BatchNorm2d(width)
        self.conv2 = L.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation)
        self.bn2 = L.BatchNorm2d(width)
        self.conv3 = L.Conv2d(width, outputs, 1)
        self.bn3 = L.BatchNorm2d(outputs, exponent=L.RESIDUAL_EXPONENT)
        self.downsample: Any = None
        if downsample:
            self.downsample = nn.Sequential(
                L.Conv2d(inputs, outputs, 1, stride=stride),
                L.BatchNorm2d(outputs, exponent=L.RESIDUAL_EXPONENT, relu=False),
            )

    def forward(self, x: Any) -> Any:  # (N, C, H, W) -> (N, 4 width, H / stride, W / stride)
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn1(self.conv1(x))
        y = self.bn2(self.conv2(y))
        return self.bn3(self.conv3(y), shortcut)


class ResNet50(nn.Module):
    """The feature extractor; with an ``output_stride`` below 32 dilation replaces later strides."""

    BLOCKS = (3, 4, 6, 3)

    def __init__(self, layers: Any, *, widths: tuple[int, ...], output_stride: int) -> None:
        super().__init__()
        L = layers
        stem, *planes = widths
        self.conv1 = L.Conv2d(3, stem, 7, stride=2, padding=3)
        self.bn1 = L.BatchNorm2d(stem)
        self.maxpool = L.MaxPool2d(3, stride=2, padding=1)
        inputs, stride, dilation = stem, 4, 1
        for index, (width, blocks) in enumerate(zip(planes, self.BLOCKS, strict=True)):
            before = dilation
            step = 1 if index == 0 else 2
            if step == 2 and stride == output_stride:
                # Instead of the stride the taps of this stage and the later ones move apart; the
                # first block still sees the finer grid of its input.
                step, dilation = 1, 2 * dilation
            stride *= step
            stage: list[Bottleneck] = []
            for block in range(blocks):
                stage.append(
                    Bottleneck(
                        L,
                        inputs,
                        width,
                        stride=step if block == 0 else 1,
                        dilation=before if block == 0 else dilation,
                        downsample=block == 0,
                    )
                )
                inputs = EXPANSION * width
            setattr(self, f"layer{index + 1}", nn.Sequential(*stage))

    def forward(self, x: Any) -> Any:  # (N, 3, H, W) -> (N, C, H / stride, W / stride)
        x = self.maxpool(self.bn1(self.conv1(x)))  # (N, 64, H/4, W/4)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNet50Classifier(ResNet50):
    """Input (N, 3, H, W), at least 32 x 32; logits (N, classes, 1, 1): one class for an image.

    ``widths`` are the channels of the stem and the widths of the four stages. The names are those
    of torchvision's ``resnet50``; its ``fc`` is a 1x1 convolution of the averages.
    """

    STRIDE = 1
    SMALLEST = 32
    #: A parameter whose first dimension is the number of classes, and how many there may be.
    CLASSIFIER = "fc.weight"
    CLASSES_MOST = 1000
    WIDTHS = (64, 64, 128, 256, 512)
    NORM = "l1-std"

    def __init__(self, layers: Any, *, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__(layers, widths=widths, output_stride=32)
        self.quantize = layers.QuantizeImage()
        self.avgpool = layers.GlobalAvgPool()
        self.fc = layers.Conv2d(EXPANSION * widths[-1], classes, 1, bias=True)
        self.argmax = layers.ArgMax()

    def forward(self, images: Any) -> Any:
        return self.fc(self.avgpool(super().forward(self.quantize(images))))


class _ImagePooling(nn.Sequential):
    """Global average, 1x1 convolution, broadcast; the index of the convolution is torchvision's.

    The convolution has a bias instead of batch norm: a map of one pixel has too few values for
    statistics.
    """

    def __init__(self, layers: Any, inputs: int, outputs: int) -> None:
        L = layers
        super().__init__(
            L.GlobalAvgPool(),
            L.Conv2d(inputs, outputs, 1, bias=True, relu=True, exponent=L.ACTIVATION_EXPONENT),
        )
        self.broadcast = L.Broadcast()

    def forward(self, x: Any) -> Any:
        size = (x.shape[2], x.shape[3])
        return self.broadcast(self[1](self[0](x)), size)


class _Aspp(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, image pooling, joined, projected."""

    def __init__(self, layers: Any, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        L = layers
        self.convs = nn.ModuleList(
            [
                nn.Sequential(L.Conv2d(inputs, outputs, 1), L.BatchNorm2d(outputs)),
                *(
                    nn.Sequential(
                        L.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate),
                        L.BatchNorm2d(outputs),
                    )
                    for rate in rates
                ),
                _ImagePooling(L, inputs, outputs),
            ]
        )
        self.concat = L.Concat()
        self.project = nn.Sequential(
            L.Conv2d((2 + len(rates)) * outputs, outputs, 1), L.BatchNorm2d(outputs)
        )

    def forward(self, x: Any) -> Any:
        return self.project(self.concat(*(branch(x) for branch in self.convs)))


class DeepLabV3ResNet50(nn.Module):
    """Input (N, 3, H, W); logits (N, classes, H, W).

    H and W are multiples of the output stride (half-pixel corners) or one more (aligned corners).
    ``layers`` is the namespace of layers, :mod:`intaglio.nn.layers` or :mod:`intaglio.nn.twin`;
    ``widths`` are the channels of the stem, the widths of the four stages and of the ASPP. The ASPP
    rates follow the output stride: 6, 12, 18 at 16 and twice that at 8.
    """

    STRIDE = 16
    ONE_MORE = True
    #: A parameter whose first dimension is the number of classes.
    CLASSIFIER = "classifier.4.weight"
    WIDTHS = (64, 64, 128, 256, 512, 256)
    OUTPUT_STRIDE = 16
    #: The exact derivative of an L1 deviation grows over 59 layers (docs/decisions/0019).
    NORM = "l1-std"

    def __init__(self, layers: Any, *, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        L, stride = layers, self.OUTPUT_STRIDE
        *backbone, aspp = widths
        self.quantize = L.QuantizeImage()
        self.backbone = ResNet50(L, widths=tuple(backbone), output_stride=stride)
        rates = tuple(rate * 16 // stride for rate in (6, 12, 18))
        self.classifier = nn.ModuleDict(
            {
                "0": _Aspp(L, EXPANSION * backbone[-1], aspp, rates),
                "1": L.Conv2d(aspp, aspp, 3, padding=1),
                "2": L.BatchNorm2d(aspp),
                "4": L.Conv2d(aspp, classes, 1, bias=True),
            }
        )
        self.resize = L.Resize(stride, last=True)
        self.resize_aligned = L.Resize(stride, last=True, corners="align")
        self.argmax = L.ArgMax()

    def forward(self, images: Any) -> Any:
        x = self.quantize(images)
        height = x.shape[2]
        head = self.classifier
        x = head["0"](self.backbone(x))  # (N, 256, H/16, W/16)
        x = head["4"](head["2"](head["1"](x)))  # (N, classes, H/16, W/16)
        resize: Callable[[Any], Any] = self.resize
        if height % self.OUTPUT_STRIDE == 1:
            resize = self.resize_aligned
        return resize(x)  # (N, classes, H, W)


class DeepLabV3ResNet50Stride8(DeepLabV3ResNet50):
    """The same at output stride 8."""

    STRIDE = 8
    OUTPUT_STRIDE = 8
