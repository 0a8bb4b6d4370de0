"""Statistics of single layers, and warnings before a range runs out."""

import math

import pytest
import torch

from intaglio.nn import IntTensor
from intaglio.nn.models import build
from intaglio.train import TrainConfig, weights_digest
from intaglio.train.monitor import Monitor
from intaglio.train.trainees import Integers

CONFIG = TrainConfig(model="deeplab-mini", height=32, width=32, channels="1/8", batch=2)


class Log:
    """A writer that keeps what it gets."""

    def __init__(self):
        self.scalars, self.texts = {}, []

    def add_scalar(self, name, value, step):
        self.scalars[name] = value, step

    def add_text(self, name, text, step):
        self.texts.append((name, text, step))


def batch():
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-128, 128, (2, 3, 32, 32), dtype=torch.int8, generator=g)
    return x, torch.randint(0, 5, (2, 32, 32), dtype=torch.uint8, generator=g)


@pytest.fixture
def watched():
    """A trainee, its monitor, the log and the warnings."""
    trainee = Integers(CONFIG, build(CONFIG.model, classes=5, width="1/8", seed=1))
    log, warnings = Log(), []
    return trainee, Monitor(trainee, log, warnings.append), log, warnings


def test_every_layer_is_logged_and_nothing_changes(watched):
    trainee, monitor, log, warnings = watched
    with monitor.watching(7):
        trainee.step(7, *batch())
    other = Integers(CONFIG, build(CONFIG.model, classes=5, width="1/8", seed=1))
    other.step(7, *batch())
    assert weights_digest(trainee.model) == weights_digest(other.model)
    wide = build(CONFIG.model, classes=5, width="1/8", seed=1)  # its gradients stay as they are
    other.loss(wide(batch()[0]), batch()[1]).backward()
    gradients = {name: parameter.grad for name, parameter in wide.named_parameters()}
    assert not any(m._forward_hooks for m in trainee.model.modules())
    assert {step for _, step in log.scalars.values()} == {7}
    for name, parameter in trainee.optimizer.parameters.items():
        assert log.scalars[f"exponent/{name}"][0] == parameter.exponent
        gradient = gradients[name]
        largest = int(gradient.codes.abs().max())
        assert (largest > 0) == (f"gradient/{name}" in log.scalars)
        if largest > 0:  # errors of two images may cancel in a bias
            expected = math.log2(largest) + gradient.exponent
            assert log.scalars[f"gradient/{name}"][0] == pytest.approx(expected)
            assert 0 <= log.scalars[f"gradient_lost/{name}"][0] < 1
    norms = [n for n, m in trainee.model.named_modules() if hasattr(m, "acc_error_scale")]
    assert norms
    for name in norms:
        assert {f"error/{name}", f"error_acc/{name}", f"saturated/{name}"} <= log.scalars.keys()
        assert 0 <= log.scalars[f"saturated/{name}"][0] < 0.02
    assert warnings == [] == log.texts


def norm(trainee):
    return next(m for m in trainee.model.modules() if hasattr(m, "acc_error_scale"))


def saturate_activations(trainee):
    norm(trainee).bias.codes.fill_(28000)
    norm(trainee).exponent = -7


def near_the_end(trainee):
    norm(trainee).weight.codes[0] = 30000


def large_statistics(trainee):
    norm(trainee).running_deviation.fill_(1 << 50)
    norm(trainee).num_batches_tracked.fill_(100)  # the next batch weighs a sixteenth


@pytest.mark.parametrize(
    "change, text",
    [
        (saturate_activations, "of the activations are saturated at +-0.992"),
        (near_the_end, "values reach 1.83; they saturate at +-2"),
        (large_statistics, "batch statistics reach 59 bits of 61"),
    ],
)
def test_warnings_come_early_and_once(watched, change, text):
    trainee, monitor, log, warnings = watched
    change(trainee)
    for step in range(2):
        with monitor.watching(step):
            trainee.step(step, *batch())
    found = [w for w in warnings if text in w]
    assert len(found) == 1 and found[0].startswith("step 0: "), warnings
    assert ("warnings", found[0].removeprefix("step 0: "), 0) in log.texts


def test_large_accumulators_and_small_updates_are_told(watched):
    trainee, monitor, _, warnings = watched
    hook = monitor._hook("conv")
    codes = torch.full((1, 2, 2, 2), -(1 << 29), dtype=torch.int32)
    hook(None, None, IntTensor(codes, -15))
    assert warnings == [
        "step 0: conv: accumulators reach 30 bits of 31: smaller weights are needed"
    ]
    hook(None, None, IntTensor(codes >> 1, -15))
    assert len(warnings) == 1
    name, parameter = next(iter(trainee.optimizer.parameters.items()))
    momentum, _ = trainee.optimizer.momenta[name]
    trainee.optimizer.momenta[name] = momentum, parameter.exponent - 40
    monitor._parameters()
    assert len(warnings) == 2 and "bits below a step of the weights" in warnings[1]
