"""Training on another device than the CPU, as far as a machine without one can tell."""

import sys
from pathlib import Path

import pytest
import torch

from intaglio.nn import IntTensor
from intaglio.nn.models import build, predict
from intaglio.nn.recipe import move
from intaglio.spec.errors import IntaglioError
from intaglio.train import TrainConfig, weights_digest
from intaglio.train.trainees import Integers

sys.path.insert(0, str(Path(__file__).parent))

from remote_device import DEVICE, Remote, RemoteDevice


def batch(size, classes=3):
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-128, 128, (2, 3, size, size), dtype=torch.int8, generator=g)
    y = torch.randint(0, classes, (2, size, size), dtype=torch.uint8, generator=g)
    y[0, 0] = 255
    return x, y


def run(config, device, size):
    """Return loss, digest and class map after two steps on ``device``."""
    model = move(build(config.model, classes=3, width="1/8", seed=1), device)
    trainee = Integers(config, model)
    x, y = (t.to(device) for t in batch(size))
    losses = [trainee.step(number, x, y) for number in range(2)]
    found = predict(model.eval(), x)
    assert found.device == torch.device(device)
    return losses, weights_digest(model), found.cpu()


@pytest.mark.parametrize(
    "name, recipe",
    [
        ("deeplab-mini", {}),
        ("fcn-mini", {}),
        ("deeplab-mini", dict(norm="l2", error_bits=16, error_rounding="stochastic")),
        ("fcn-mini", dict(error_bits=9, master_bits=20, magnitude=False)),
    ],
    ids=["deeplab", "fcn", "l2-16-stochastic", "9-diffusion-20"],
)
def test_steps_on_a_device_have_the_bytes_of_the_cpu(name, recipe):
    """With the C kernels, where there are any: they have to hand over to the plain ones."""
    config = TrainConfig(model=name, height=32, width=32, channels="1/8", batch=2, **recipe)
    losses, digest, classes = run(config, "cpu", 32)
    with RemoteDevice() as remote:
        found = run(config, DEVICE, 32)
    assert found[:2] == (losses, digest) and torch.equal(found[2], classes)
    assert remote.seen["aten._int_mm.default"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3-resnet50", "fcn-vgg16", "fcn-vgg16-bn"])
def test_large_networks_too(name):
    config = TrainConfig(model=name, height=64, width=64, channels="1/8", batch=2)
    losses, digest, classes = run(config, "cpu", 64)
    with RemoteDevice():
        found = run(config, DEVICE, 64)
    assert found[:2] == (losses, digest) and torch.equal(found[2], classes)


def test_the_device_refuses_to_mix():
    with RemoteDevice():
        x = torch.arange(3, device=DEVICE)
        assert isinstance(x, Remote) and isinstance(x + 1, Remote)
        assert (x.cpu() == torch.arange(3)).all() and int(x.sum()) == 3
        with pytest.raises(AssertionError, match="add.* mixes tensors"):
            x + torch.arange(3)
        with pytest.raises(AssertionError, match="CUDA has no _int_mm of 3, 8, 8"):
            ones = torch.ones((8, 8), dtype=torch.int8, device=DEVICE)
            torch._int_mm(ones[:3], ones)


def test_moving_a_network_takes_all_of_it():
    model = build("deeplab-mini", classes=3, width="1/8", seed=1)
    names = [name for name, _ in model.named_parameters()]
    digest = weights_digest(model)
    with RemoteDevice():
        move(model, DEVICE)
        assert [name for name, _ in model.named_parameters()] == names
        for parameter in model.parameters():
            assert isinstance(parameter, IntTensor) and parameter.requires_grad
            assert isinstance(parameter.codes, Remote) and parameter.device == DEVICE
        assert all(isinstance(buffer, Remote) for buffer in model.buffers())
        assert weights_digest(model) == digest
        move(model, "cpu")
    assert weights_digest(model) == digest
    assert not any(isinstance(p.codes, Remote) for p in model.parameters())


@pytest.mark.parametrize(
    "device, text",
    [
        ("cuda", "device cuda: this PyTorch sees no CUDA device"),
        ("tpu", "device must be cpu or cuda, such as cuda:1, not 'tpu'"),
        ("meta", "device must be cpu or cuda, such as cuda:1, not 'meta'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, text):
    from intaglio.cli.train import prepare_device

    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(IntaglioError, match=text):
        prepare_device(device, None)
