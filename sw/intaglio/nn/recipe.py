"""What is done to a network before it is trained: its recipe, and its device."""

import torch
from torch import nn

from intaglio.nn.int_tensor import IntTensor
from intaglio.nn.layers import BatchNorm2d
from intaglio.nn.variants import Draws, ErrorVariant
from intaglio.spec.variants import Recipe, master_from_16

__all__ = ["apply_recipe", "move"]


def move(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Move parameters and buffers of an integer network to ``device``; return ``model``.

    It takes the place of ``model.to``, which would move what IntTensor says it is, not its codes.
    """
    device = torch.device(device)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device != device:
                codes = parameter.codes.to(device)
                setattr(module, name, nn.Parameter(IntTensor(codes, parameter.exponent)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
    return model


def apply_recipe(model: nn.Module, recipe: Recipe, *, seed: int = 0) -> Draws:
    """Let ``model``, as :func:`intaglio.nn.models.build` made it, train by ``recipe``.

    Returns what the random words of its layers depend on, with the step to be set before each
    step; ``seed`` is theirs. Masters of convolutions become int32 beyond 16 bits. The default
    recipe changes nothing.
    """
    draws = Draws(seed)
    for layer, module in enumerate(model.modules()):
        scale = getattr(module, "error_scale", None)
        if isinstance(module, BatchNorm2d):
            module.norm, scale = recipe.norm, module.acc_error_scale
        if scale is not None and not recipe.plain_errors:
            scale.variant = ErrorVariant(recipe, draws, layer)
        weight = getattr(module, "weight", None)
        if recipe.master_bits != 16 and isinstance(weight, IntTensor) and weight.dim() == 4:
            codes, exponent = master_from_16(
                weight.codes.to(torch.int64), weight.exponent, recipe.master_bits
            )
            dtype = torch.int16 if recipe.master_bits < 16 else torch.int32
            module.weight = nn.Parameter(IntTensor(codes.to(dtype), exponent))
    return draws
