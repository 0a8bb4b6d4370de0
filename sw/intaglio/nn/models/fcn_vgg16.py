"""FCN-32s, 16s and 8s on VGG16 (arXiv 1605.06211), with and without batch norm."""

from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = [
    "Fcn16sVgg16",
    "Fcn16sVgg16Bn",
    "Fcn32sVgg16",
    "Fcn32sVgg16Bn",
    "FcnVgg16",
    "FcnVgg16Bn",
    "Vgg16",
]

#: Channels of the convolutions as indices into the widths, 0 for a pool.
_PLAN = (1, 1, 0, 2, 2, 0, 3, 3, 3, 0, 4, 4, 4, 0, 4, 4, 4, 0)


class Vgg16(nn.ModuleDict):
    """The thirteen convolutions and five pools; keys are torchvision's indices in ``features``."""

    def __init__(self, layers: Any, *, widths: tuple[int, ...], batch_norm: bool) -> None:
        super().__init__()
        L, inputs, index = layers, 3, 0
        for place in _PLAN:
            if place == 0:
                self[str(index)] = L.MaxPool2d(2, ceil=True)
                index += 1
                continue
            outputs = widths[place - 1]
            if batch_norm:
                self[str(index)] = L.Conv2d(inputs, outputs, 3, padding=1)
                self[str(index + 1)] = L.BatchNorm2d(outputs)
                index += 3  # convolution, batch norm, ReLU
            else:
                self[str(index)] = L.Conv2d(
                    inputs,
                    outputs,
                    3,
                    padding=1,
                    bias=True,
                    relu=True,
                    exponent=L.ACTIVATION_EXPONENT,
                )
                index += 2  # convolution, ReLU
            inputs = outputs
        self._pool_type = L.MaxPool2d

    def forward(self, x: Any) -> list[Any]:  # -> the results of the five pools
        pools = []
        for layer in self._layers():
            x = layer(x)
            if isinstance(layer, self._pool_type):
                pools.append(x)
        return pools

    def _layers(self) -> Iterator[Any]:
        return iter(self.values())


class FcnVgg16(nn.Module):
    """Input (N, 3, H, W), at least 32 x 32; logits (N, classes, H, W).

    ``layers`` is the namespace of layers, :mod:`intaglio.nn.layers` or :mod:`intaglio.nn.twin`;
    ``widths`` are the channels of the stages 1, 2, 3 and of 4 and 5, and of fc6 and fc7. The class
    attribute ``HEAD`` is the stride of the finest prediction: 32, 16 or 8. Pools round sizes up, as
    those of the paper do, so that the maps cover images of any size.
    """

    STRIDE = 1
    SMALLEST = 32
    #: A parameter whose first dimension is the number of classes.
    CLASSIFIER = "score_fr.weight"
    WIDTHS = (64, 128, 256, 512, 4096)
    HEAD = 8
    BATCH_NORM = False

    def __init__(self, layers: Any, *, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        L = layers
        *stages, wide = widths
        self.quantize = L.QuantizeImage()
        self.features = Vgg16(L, widths=tuple(stages), batch_norm=self.BATCH_NORM)
        # fc6 and fc7 under torchvision's indices.
        self.classifier = nn.ModuleDict(
            {"0": self._fully(L, stages[-1], wide, 7), "3": self._fully(L, wide, wide, 1)}
        )
        self.score_fr = L.Conv2d(wide, classes, 1, bias=True)
        if self.HEAD <= 16:
            self.score_pool4 = L.Conv2d(stages[-1], classes, 1, bias=True)
            self.upscore2 = L.ConvTranspose2d(classes, classes, 4, stride=2, padding=1)
            self.add_pool4 = L.Add(exponent=L.LOGITS_EXPONENT)
        if self.HEAD == 8:
            self.score_pool3 = L.Conv2d(stages[2], classes, 1, bias=True)
            self.upscore_pool4 = L.ConvTranspose2d(classes, classes, 4, stride=2, padding=1)
            self.add_pool3 = L.Add(exponent=L.LOGITS_EXPONENT)
        head = self.HEAD
        self.upscore = L.ConvTranspose2d(classes, classes, 2 * head, stride=head, padding=head // 2)
        self.argmax = L.ArgMax()

    def _fully(self, layers: Any, inputs: int, outputs: int, kernel: int) -> nn.Module:
        L, padding = layers, kernel // 2
        if self.BATCH_NORM:
            return nn.Sequential(
                L.Conv2d(inputs, outputs, kernel, padding=padding), L.BatchNorm2d(outputs)
            )
        return L.Conv2d(
            inputs,
            outputs,
            kernel,
            padding=padding,
            bias=True,
            relu=True,
            exponent=L.ACTIVATION_EXPONENT,
        )

    def forward(self, images: Any) -> Any:
        x = self.quantize(images)
        size = (x.shape[2], x.shape[3])
        _, _, pool3, pool4, pool5 = self.features(x)
        x = self.score_fr(
            self.classifier["3"](self.classifier["0"](pool5))
        )  # (N, classes, H/32, W/32)
        if self.HEAD <= 16:
            x = self.upscore2(x, (pool4.shape[2], pool4.shape[3]))
            x = self.add_pool4(x, self.score_pool4(pool4))  # (N, classes, H/16, W/16)
        if self.HEAD == 8:
            x = self.upscore_pool4(x, (pool3.shape[2], pool3.shape[3]))
            x = self.add_pool3(x, self.score_pool3(pool3))  # (N, classes, H/8, W/8)
        return self.upscore(x, size)  # (N, classes, H, W)


class FcnVgg16Bn(FcnVgg16):
    """FCN-8s with batch norm."""

    BATCH_NORM = True


class Fcn16sVgg16(FcnVgg16):
    """FCN-16s."""

    HEAD = 16


class Fcn32sVgg16(FcnVgg16):
    """FCN-32s."""

    HEAD = 32


class Fcn16sVgg16Bn(Fcn16sVgg16):
    """FCN-16s with batch norm."""

    BATCH_NORM = True


class Fcn32sVgg16Bn(Fcn32sVgg16):
    """FCN-32s with batch norm."""

    BATCH_NORM = True
