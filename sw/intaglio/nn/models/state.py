"""Float state dicts, such as torchvision's, as weights of the integer networks."""

import argparse
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intaglio.nn import layers, twin
from intaglio.nn.int_tensor import IntTensor
from intaglio.spec import quant
from intaglio.spec.errors import IntaglioError
from intaglio.spec.variants import std_deviation

__all__ = ["load_state_dict", "read_state"]

#: What torchvision subtracts from and divides pixels / 255 by.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Activations of ReLU layers without batch norm are scaled so that this quantile has this value.
_QUANTILE, _TARGET = 0.9995, 3.5
_IGNORED = ("aux_classifier.", "num_batches_tracked")
#: Keys under which files have their state dict.
_NESTED = ("state_dict", "model", "model_state_dict", "net")
#: What DataParallel puts in front of names.
_PARALLEL = "module."


def read_state(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a ``.pth`` file: a state dict, or a dictionary that has one under one of the usual names
    ("state_dict", "model", "model_state_dict", "net").

    Raises
    ------
    IntaglioError
        Missing file, or one that holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise IntaglioError(f"{path}: no such file")
    try:
        # torchvision's training script keeps its command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # zipfile, pickle and torch each have their own, in paragraphs
        raise IntaglioError(
            f"{path}: not a file of PyTorch weights, or with objects besides tensors; what "
            "torch.save(model.state_dict(), ...) writes is read"
        ) from None
    for key in _NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise IntaglioError(f"{path}: holds no state dict")
    return state


def _rename(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return ``state`` under the names of ``model``, in float64, without what it has no use for."""
    found = {}
    for key, value in state.items():
        name = str(key).removeprefix(_PARALLEL)
        if name.startswith(_IGNORED[0]) or name.endswith(_IGNORED[1]):
            continue
        if value.layout != torch.strided or value.is_complex() or value.is_meta:
            raise IntaglioError(f"weights: {name} is no dense tensor of real numbers")
        found[name] = value.to(torch.float64)
    if "fc.weight" in found and found["fc.weight"].dim() == 2:  # here a 1x1 convolution
        found["fc.weight"] = found["fc.weight"][..., None, None]
    if hasattr(model, "backbone"):
        if not any(n.startswith("backbone.") for n in found):
            # The classification network, whose last layer has no place here.
            found = {f"backbone.{n}": v for n, v in found.items() if not n.startswith("fc.")}
        elif "classifier.0.weight" in found:  # torchvision's fcn_resnet50: its head is another one
            found = {n: v for n, v in found.items() if not n.startswith("classifier.")}
    if hasattr(model, "features"):
        bn = getattr(model, "BATCH_NORM", False)
        for index in ("0", "3"):
            weight = found.pop(f"classifier.{index}.weight", None)
            bias = found.pop(f"classifier.{index}.bias", None)
            at = f"classifier.{index}.0" if bn else f"classifier.{index}"
            if weight is not None:
                if weight.dim() == 2:  # fully connected over C, H, W
                    side = 7 if index == "0" else 1
                    if weight.shape[1] % side**2:
                        raise IntaglioError(
                            f"weights: classifier.{index}.weight has shape {tuple(weight.shape)}, "
                            f"which is no window of {side} x {side}"
                        )
                    weight = weight.reshape(weight.shape[0], -1, side, side)
                found[f"{at}.weight"] = weight
            if bias is not None and not bn:
                found[f"{at}.bias"] = bias
        found = {n: v for n, v in found.items() if not n.startswith("classifier.6.")}
    return found


def _fold_pooling(found: dict[str, torch.Tensor]) -> None:
    """Fold the batch norm of the image pooling, which has a bias here, into its convolution."""
    at = "classifier.0.convs.4"
    norm = [found.pop(f"{at}.2.{v}", None) for v in ("weight", "bias", "running_mean")]
    variance = found.pop(f"{at}.2.running_var", None)
    weight = found.get(f"{at}.1.weight")
    if weight is None or variance is None or any(v is None for v in norm):
        return
    gamma, beta, mean = norm
    assert gamma is not None and beta is not None and mean is not None
    for name, value in (("weight", gamma), ("bias", beta), ("running_mean", mean)):
        _check_shape(f"{at}.2.{name}", value, weight.shape[:1])
    _check_shape(f"{at}.2.running_var", variance, weight.shape[:1])
    _check_numbers(f"{at}.2.running_var", variance)
    gain = gamma / (variance + 1e-5).sqrt()
    found[f"{at}.1.weight"] = weight * gain.reshape(-1, 1, 1, 1)
    found[f"{at}.1.bias"] = beta - mean * gain


def _move_biases(model: nn.Module, found: dict[str, torch.Tensor], *, normalized: bool) -> None:
    """Fold the normalisation of images into the first convolution; batch norm takes biases."""
    order: list[tuple[str, nn.Module]] = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, layers.Conv2d | layers.BatchNorm2d)
    ]
    for place, (name, module) in enumerate(order):
        weight = found.get(f"{name}.weight")
        if not isinstance(module, layers.Conv2d) or weight is None:
            continue
        bias = found.get(f"{name}.bias", torch.zeros(weight.shape[0], dtype=torch.float64))
        _check_shape(f"{name}.bias", bias, weight.shape[:1])
        if place == 0 and normalized and weight.dim() == 4 and weight.shape[1] == 3:
            mean, std = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, DEVIATION))
            offset = ((128 / 255 - mean) / std).reshape(1, 3, 1, 1)
            bias = bias + (weight * offset).sum((1, 2, 3))
            found[f"{name}.weight"] = weight * (128 / 255 / std).reshape(1, 3, 1, 1)
        if module.bias is not None:
            found[f"{name}.bias"] = bias
            continue
        found.pop(f"{name}.bias", None)
        after = f"{order[place + 1][0]}.running_mean"
        if after in found and found[after].shape == bias.shape:
            found[after] = found[after] - bias


def _check_shape(name: str, value: torch.Tensor, shape: Sequence[int]) -> None:
    if tuple(value.shape) != tuple(shape):
        raise IntaglioError(f"weights: {name} has shape {tuple(value.shape)}, not {tuple(shape)}")


def _check_numbers(name: str, value: torch.Tensor) -> None:
    if not bool(torch.isfinite(value.to(torch.float32)).all()):
        raise IntaglioError(f"weights: {name} has numbers that are not finite")
    if name.endswith("running_var") and value.numel() and float(value.min()) < 0:
        raise IntaglioError(f"weights: {name} has a variance of {float(value.min()):g}, below 0")


def _check_values(floats: nn.Module, found: dict[str, torch.Tensor]) -> None:
    """Refuse what has another shape than in ``floats``, and what no float32 network can have."""
    known = floats.state_dict()
    for name, value in found.items():
        if name in known:
            _check_shape(name, value, known[name].shape)
        _check_numbers(name, value)


def _check_names(floats: nn.Module, found: dict[str, torch.Tensor]) -> list[str]:
    """Return the names that ``found`` lacks where it may; IntaglioError for all others."""
    known = {n: v for n, v in floats.state_dict().items() if not n.endswith(_IGNORED[1])}
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise IntaglioError(
            f"weights: {len(unknown)} unknown names, such as {unknown[0]}: another network?"
        )
    missing = [n for n in known if n not in found]
    # Heads may be missing, but only as a whole: those of a classification network are.
    heads = _last_layers(floats)
    if not hasattr(floats, "features"):
        heads = ("classifier.", *heads)
    classifier = ("classifier.",) if not any(n.startswith("classifier.") for n in found) else ()
    if getattr(floats, "BATCH_NORM", False):
        classifier = ("classifier.",)  # torchvision has no batch norm there
    allowed = (*(h for h in heads if not any(n.startswith(h) for n in found)), *classifier)
    wrong = [n for n in missing if not (allowed and n.startswith(allowed))]
    if wrong:
        raise IntaglioError(f"weights: {len(wrong)} names are missing, such as {wrong[0]}")
    return missing


def _outputs(floats: nn.Module, kind: Any, images: torch.Tensor, *, inputs: bool) -> dict[str, Any]:
    """Return what goes into (or comes out of) the layers of ``kind``, by name, in eval mode."""
    seen: dict[str, Any] = {}
    hooks = []
    for name, module in floats.named_modules():
        if isinstance(module, kind):

            def keep(_: Any, given: Any, result: Any, name: str = name) -> None:
                seen[name] = given[0] if inputs else result

            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        floats.eval()(images)
    for hook in hooks:
        hook.remove()
    return seen


def _rescale(floats: nn.Module, images: torch.Tensor, found: dict[str, torch.Tensor]) -> None:
    """Bring the activations of ReLU layers without batch norm into the range of the codes.

    ReLU is homogeneous: a layer times s and the next one's weights through s is the same network.
    Only for networks whose scores are not loaded, so that nothing else depends on the scale.
    """
    if not hasattr(floats, "features") or any("score" in n for n in found):
        return
    before = 1.0
    parameters = dict(floats.named_parameters())
    for name, y in _outputs(floats, twin.Conv2d, images, inputs=False).items():
        if f"{name}.bias" not in found:
            break
        flat = y.flatten()[:: max(1, y.numel() // 1_000_000)]
        scale = _TARGET / max(float(flat.quantile(_QUANTILE)), 1e-12)
        with torch.no_grad():
            parameters[f"{name}.weight"].mul_(scale / before)
            parameters[f"{name}.bias"].mul_(scale)
        before = scale


def _master(value: torch.Tensor, exponent: int, name: str, saturated: dict[str, int]) -> Any:
    codes = torch.floor(value.to(torch.float64) * 2.0**-exponent + 0.5)
    limit = quant.MASTER_LIMIT
    count = int((codes.abs() > limit).sum())
    if count:
        saturated[name] = count
    return codes.clamp(-limit, limit).to(torch.int16), exponent


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute inside the block with one thread: float sums depend on how they are shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _last_layers(model: Any) -> tuple[str, ...]:
    """Return how the names begin of the layers that have one channel for each class."""
    if "score" in model.CLASSIFIER:
        return "score", "upscore"
    return (model.CLASSIFIER.removesuffix("weight"),)


def _drop_other_classes(model: Any, found: dict[str, torch.Tensor]) -> None:
    """Leave out the last layers where they are for another number of classes."""
    weight = found.get(model.CLASSIFIER)
    if weight is None or weight.dim() == 0 or weight.shape[0] == model.classes:
        return
    for name in [n for n in found if n.startswith(_last_layers(model))]:
        del found[name]


def _deviation(
    x: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, norm: str
) -> torch.Tensor:
    """Return the deviation of x as a layer with ``norm`` measures it, int64 (C,) at
    STATISTICS_EXPONENT.

    ``spread`` is the standard deviation. A channel that is dead in x counts as a normal one.
    """

    def codes(values: torch.Tensor) -> torch.Tensor:
        return (values * 2.0**-quant.STATISTICS_EXPONENT).round().to(torch.int64)

    if norm == "l2":
        return codes(spread).clamp(min=1)
    distances = (x - mean.reshape(1, -1, 1, 1)).abs()
    distance = distances.mean((0, 2, 3))
    deviation, normal = codes(distance), codes(spread * math.sqrt(2 / math.pi))
    if norm == "l1-std":
        tail = (distances - 2 * distance.reshape(1, -1, 1, 1)).clamp(min=0).mean((0, 2, 3))
        deviation, normal = std_deviation(deviation, codes(tail)), codes(spread)
    return torch.where(distance > 0, deviation, normal).clamp(min=1)


@_one_thread()
def load_state_dict(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    images: torch.Tensor,
    normalized: bool = True,
) -> dict[str, Any]:
    """Give an integer network the float weights ``state``, with torchvision's names.

    Weights become int16 masters. Batch norm keeps its running means; its gains and deviations are
    turned from L2 to its own norm by what goes into it for ``images`` (uint8 (N, 3, H, W), a few
    dozen). ``resnet50`` loads whole into the classifier. For segmentation a classification network
    (``resnet50``, ``vgg16``, ``vgg16_bn``) loads without its last layer, fc6 and fc7 of VGG as
    convolutions, and of ``fcn_resnet50`` the backbone; heads that ``state`` lacks keep their random
    start, and so do the last layers where ``state`` has another number of classes. With
    ``normalized`` the weights are for images normalised as torchvision does, which goes into the
    first convolution.

    One thread computes, so that the result does not depend on their number; floats of another kind
    of processor may still round otherwise.

    Returns
    -------
    dict
        ``loaded`` (number of tensors), ``fresh`` (names that keep their start), ``saturated``
        (parameter -> codes that did not fit) and ``agreement``: the share of the pixels of
        ``images`` with the same class as in float32. Both pad images with pixel 128, as the
        integers' code 0 is; what that changes against torchvision, which pads with its mean
        colour, is not in it.

    Raises
    ------
    IntaglioError
        Unknown or missing names, wrong shapes, numbers that are not finite.
    """
    from intaglio.nn.models import build_twin, check_size, predict

    check_size(model, images.shape[2], images.shape[3])
    floats = build_twin(model)
    found = _rename(model, state)
    _drop_other_classes(model, found)
    _check_values(floats, found)
    _fold_pooling(found)
    _move_biases(model, found, normalized=normalized)
    fresh = _check_names(floats, found)
    floats.load_state_dict({n: v.to(torch.float32) for n, v in found.items()}, strict=False)
    _rescale(floats, images, found)

    saturated: dict[str, int] = {}
    values = dict(floats.named_parameters())
    modules, targets = dict(floats.named_modules()), dict(model.named_modules())
    for path, x in _outputs(floats, nn.BatchNorm2d, images, inputs=True).items():
        norm, target = modules[path], targets[path]
        if f"{path}.running_var" not in found:  # a fresh one: statistics of these images
            norm.running_mean.copy_(x.mean((0, 2, 3)))
            norm.running_var.copy_(x.var((0, 2, 3)))
        mean = norm.running_mean.to(torch.float64)
        spread = (norm.running_var.to(torch.float64) + norm.eps).sqrt()
        codes = _deviation(x.to(torch.float64), mean, spread, target.norm)
        scale = 2.0**-quant.STATISTICS_EXPONENT
        gain = codes.to(torch.float64) / (scale * spread)
        values[f"{path}.weight"] = norm.weight.detach().to(torch.float64) * gain
        target.running_mean.copy_((mean * scale).round().to(torch.int64))
        target.running_deviation.copy_(codes)
        target.num_batches_tracked.fill_(quant.STATISTICS_WINDOW)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, IntTensor)
        value = values[name].detach()
        exponent = parameter.exponent
        if parameter.dim() == 4 and float(value.abs().max()) > 0:
            exponent = math.ceil(math.log2(float(value.abs().max()))) - 14
        parameter.assign(*_master(value, exponent, name, saturated))

    training = model.training
    same = predict(model.eval(), images) == predict(floats.eval(), images)
    model.train(training)
    return {
        "loaded": len(found),
        "fresh": fresh,
        "saturated": saturated,
        "agreement": float(same.to(torch.float64).mean()),
    }
