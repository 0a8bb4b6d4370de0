"""The networks, by name, as integers and as their float32 twins."""

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from intaglio.nn import layers, twin
from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.models.deeplab_mini import DeepLabMini
from intaglio.nn.models.deeplabv3_resnet50 import (
    DeepLabV3ResNet50,
    DeepLabV3ResNet50Stride8,
    ResNet50Classifier,
)
from intaglio.nn.models.fcn_mini import FcnMini
from intaglio.nn.models.fcn_vgg16 import (
    Fcn16sVgg16,
    Fcn16sVgg16Bn,
    Fcn32sVgg16,
    Fcn32sVgg16Bn,
    FcnVgg16,
    FcnVgg16Bn,
)
from intaglio.nn.models.state import load_state_dict, read_state
from intaglio.spec.arith import exact_fraction
from intaglio.spec.errors import IntaglioError

__all__ = [
    "CLASSIFIERS",
    "MODELS",
    "build",
    "build_twin",
    "calibrate",
    "check_size",
    "frame_size",
    "framed",
    "load_state_dict",
    "predict",
    "read_state",
]

#: Name of a network on the command line -> its class.
MODELS: dict[str, Any] = {
    "deeplab-mini": DeepLabMini,
    "fcn-mini": FcnMini,
    "deeplabv3-resnet50": DeepLabV3ResNet50,
    "deeplabv3-resnet50-os8": DeepLabV3ResNet50Stride8,
    "fcn-vgg16": FcnVgg16,
    "fcn16s-vgg16": Fcn16sVgg16,
    "fcn32s-vgg16": Fcn32sVgg16,
    "fcn-vgg16-bn": FcnVgg16Bn,
    "fcn16s-vgg16-bn": Fcn16sVgg16Bn,
    "fcn32s-vgg16-bn": Fcn32sVgg16Bn,
}
#: Networks of one class for a whole image, which the commands, all of segmentation, do not know.
CLASSIFIERS: dict[str, Any] = {"resnet50": ResNet50Classifier}
_NETWORKS = MODELS | CLASSIFIERS
#: Most classes of a network, if it does not say otherwise: those of ADE20K.
CLASSES_MOST = 150


def _network(name: str, namespace: Any, classes: int, width: Any) -> nn.Module:
    if name not in _NETWORKS:
        raise IntaglioError(f"model {name!r} is unknown; choose from {', '.join(_NETWORKS)}")
    most = getattr(_NETWORKS[name], "CLASSES_MOST", CLASSES_MOST)
    if not 2 <= classes <= most:
        raise IntaglioError(f"classes must be in [2, {most}], not {classes}")
    try:
        factor = exact_fraction(width).limit_denominator(64)
    except ValueError:
        factor = Fraction(0)
    if not Fraction(1, 8) <= factor <= 8:
        raise IntaglioError(
            f"the factor of the channels must be in [1/8, 8], such as 1/4, not {width}"
        )
    widths = tuple(max(8, int(w * factor + 4) // 8 * 8) for w in _NETWORKS[name].WIDTHS)
    model = _NETWORKS[name](namespace, classes=classes, widths=widths)
    model.name, model.classes, model.width = name, classes, str(factor)
    return model


def own_norm(name: str) -> str:
    """Return which batch norm of :class:`intaglio.spec.variants.Recipe` the network ``name`` has.

    ``NORM`` of its class, else "l1".
    """
    norm: str = getattr(_NETWORKS[name], "NORM", "l1")
    return norm


def build(
    name: str, *, classes: int, width: Any = 1, seed: int = 0, norm: str | None = None
) -> nn.Module:
    """Return the integer network ``name`` with random weights that depend on ``seed`` alone.

    Channels are multiples of 8, the network's own times ``width`` (a number or a string such as
    "1/4"). ``norm`` replaces the network's own batch norm, see :func:`own_norm`. Its eval mode
    needs statistics: train it, or call :func:`calibrate`.

    Raises
    ------
    IntaglioError
        Unknown name, classes or width out of range.
    """
    model = _network(name, layers, classes, width)
    for stream, (_, module) in enumerate(model.named_modules(), start=1):
        if hasattr(module, "reset"):
            module.reset(seed, stream)
        if isinstance(module, layers.BatchNorm2d):
            module.norm = norm or own_norm(name)
    return model


def build_twin(model: nn.Module, *, statistics: str = "l2", namespace: Any = twin) -> nn.Module:
    """Return the float32 twin of an integer network from :func:`build`, with its present weights.

    ``statistics`` is "l2" for ordinary batch norm, or "l1" for the real-valued counterpart of the
    integers' batch norm, which has a training mode only. ``namespace`` has the layers, those of
    :mod:`intaglio.nn.twin` or others with their names, signatures and parameters.
    """
    if statistics not in ("l1", "l2"):
        raise ValueError(f"statistics must be 'l1' or 'l2', not {statistics!r}")
    namespace = SimpleNamespace(**vars(namespace))
    if statistics == "l1":
        namespace.BatchNorm2d = twin.L1BatchNorm2d
    floats = _network(model.name, namespace, model.classes, model.width)
    twin.copy_parameters(model, floats)
    return floats.to(memory_format=torch.channels_last)


def check_size(model: Any, height: int, width: int) -> None:
    """Raise IntaglioError unless the network takes images of this size.

    ``STRIDE`` of its class divides both sides; with ``ONE_MORE`` both may have one pixel more.
    ``SMALLEST`` is the least side, where it is not the stride.
    """
    stride, more = model.STRIDE, getattr(model, "ONE_MORE", False)
    smallest = getattr(model, "SMALLEST", stride)
    for name, value in (("height", height), ("width", width)):
        if value < smallest and smallest > stride:
            raise IntaglioError(f"{name} must be at least {smallest}, not {value}")
        if value < stride or value % stride > int(more):
            rule = f"multiple of {stride}" + (" or one more" if more else "")
            raise IntaglioError(f"{name} must be a positive {rule}, not {value}")
    if more and height % stride != width % stride:
        raise IntaglioError(
            f"height and width must both be multiples of {stride} or both one more, "
            f"not {height} and {width}"
        )


def frame_size(model: Any, height: int, width: int) -> tuple[int, int]:
    """Return the least size that holds ``height`` x ``width`` and that :func:`check_size` accepts.

    ``model`` is a network or its class.
    """
    least = getattr(model, "SMALLEST", model.STRIDE)
    for more in (0, 1) if getattr(model, "ONE_MORE", False) else (0,):
        if all(n >= least and n % model.STRIDE == more for n in (height, width)):
            return height, width
    rows, columns = (max(-(-n // model.STRIDE) * model.STRIDE, least) for n in (height, width))
    return rows, columns


def framed(maps: torch.Tensor, size: tuple[int, int], fill: int) -> torch.Tensor:
    """Return ``maps`` (..., H, W) in the middle of a frame of ``size`` (rows, columns)."""
    rows, columns = (total - n for total, n in zip(size, maps.shape[-2:], strict=True))
    if (rows, columns) == (0, 0):
        return maps
    top, left = rows // 2, columns // 2
    sides = (left, columns - left, top, rows - top)
    return nn.functional.pad(maps, sides, value=fill)


def calibrate(model: nn.Module, images: torch.Tensor) -> None:
    """Set the running statistics from ``images`` (N, 3, H, W); weights stay as they are."""
    check_size(model, images.shape[2], images.shape[3])
    training = model.training
    for module in model.modules():
        if isinstance(module, layers.BatchNorm2d):
            module.num_batches_tracked.zero_()
    model.train()
    with torch.no_grad():
        model(images)
    model.train(training)


def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the class map uint8 (N, H, W) of ``images``, uint8 pixels or int8 codes; of a network
    in :data:`CLASSIFIERS` int64 (N, 1, 1).

    The model, integers or twin, is in eval mode. Images of a size that it does not take lie in the
    middle of a frame of code 0 (pixel 128), which is cut off the class map again.
    """
    height, width = images.shape[2:]
    size = frame_size(model, height, width)
    whole = framed(images, size, 128 if images.dtype == torch.uint8 else 0)
    with torch.no_grad():
        classes = model.argmax(model(whole))
    codes = classes.codes if isinstance(classes, IntTensor) else classes
    if model.name in CLASSIFIERS:
        return codes[:, 0].to(torch.int64)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return codes[:, 0, top : top + height, left : left + width].to(torch.uint8)
