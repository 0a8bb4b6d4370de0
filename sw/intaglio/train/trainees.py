"""What is trained: the integer network, and its float32 twin; each with loss and optimiser."""

import math
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from intaglio.nn.loss import SoftmaxCrossEntropy
from intaglio.nn.models import build_twin
from intaglio.nn.recipe import apply_recipe
from intaglio.spec.metrics import VOID
from intaglio.train.checkpoint import load_model, model_arrays
from intaglio.train.config import TrainConfig
from intaglio.train.optimizer import DECAY_SHIFT, SGD, pixel_factor

__all__ = ["Floats", "Integers"]


class Integers:
    """The integer network with its loss and optimiser, by the recipe of the configuration."""

    label, file = "int", "checkpoint.npz"

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        self.model, self.schedule = model, config.learning_rates
        self.draws = apply_recipe(model, config.recipe, seed=config.seed)
        self.loss = SoftmaxCrossEntropy()
        self.optimizer = SGD(model.named_parameters(), seed=config.seed, recipe=config.recipe)
        pixels = config.batch * math.prod(config.frame)
        self.factor = pixel_factor(pixels) if config.magnitude else Fraction(1)

    def step(self, number: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Make the step ``number`` with this worker's share of a batch; return the loss of all."""
        self.model.train()
        self.draws.step = number
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), labels)
        loss.backward()
        self.optimizer.step(self.rate(number))
        return loss.item()

    def rate(self, number: int) -> Fraction:
        """Return the learning rate of the step ``number`` for integer gradients."""
        return self.schedule.for_gradients(number, self.factor)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that the next steps depend on."""
        state = {f"optimizer.{k}": v for k, v in self.optimizer.state_arrays().items()}
        return model_arrays(self.model) | state

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what :meth:`arrays` returned."""
        load_model(self.model, arrays)
        prefix = "optimizer."
        self.optimizer.load_arrays(
            {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        )


class Floats:
    """The float32 twin with PyTorch's loss and SGD; same start, batches, rates and decay."""

    label, file = "float", "twin.npz"

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        self.model, self.schedule = build_twin(model), config.learning_rates
        pixels = config.batch * math.prod(config.frame)
        weights = [p for p in self.model.parameters() if p.dim() == 4]
        vectors = [p for p in self.model.parameters() if p.dim() != 4]
        # The integers' decay acts on gradients that are pixel_factor too large.
        decay = 2.0**-DECAY_SHIFT / float(pixel_factor(pixels))
        groups = [{"params": weights, "weight_decay": decay}, {"params": vectors}]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=7 / 8)
        self.pixels = pixels

    def step(self, number: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Make the step ``number`` with the whole batch; return its loss."""
        self.model.train()
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.schedule.at(number))
        total = nn.functional.cross_entropy(
            self.model(images), labels.to(torch.int64), ignore_index=VOID, reduction="sum"
        )
        loss = total / self.pixels
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that the next steps depend on."""
        arrays = model_arrays(self.model)
        for name, parameter in self.model.named_parameters():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                arrays[f"momentum.{name}"] = buffer.cpu().numpy()
        return arrays

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what :meth:`arrays` returned."""
        load_model(self.model, arrays)
        for name, parameter in self.model.named_parameters():
            key = f"momentum.{name}"
            if key in arrays:
                buffer = torch.empty_like(parameter)
                buffer.copy_(torch.from_numpy(arrays[key].copy()))
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
