"""Integer weight gradients against the real ones, layer by layer, on real images.

The oracle is the same network in float64, differentiated by PyTorch.

Both gradients have to be taken at the same point, because they depend strongly on it: a hundredth
of all activations off by one code moves the gradient of a first layer by percents. So every layer
that quantises takes its forward value from the integer network; everything backward is real:
autograd through convolutions, L1 batch norm, softmax and resize, and no error is quantised.
"""

import copy
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from intaglio.data import epoch_batches, open_dataset
from intaglio.nn import IntTensor, twin
from intaglio.nn.loss import SoftmaxCrossEntropy
from intaglio.nn.models import _network, build
from intaglio.spec import quant
from intaglio.train import SGD, Schedule

ROOT = Path(__file__).resolve().parents[2]
CAMVID = Path(os.environ.get("INTAGLIO_DATA", ROOT.parent / "shared" / "data")) / "CamVid"


class _Given(torch.autograd.Function):
    """The value that the integers have; the gradient passes where the saturation lets it.

    ``relu`` is None where nothing saturates.
    """

    @staticmethod
    def forward(ctx, x, value, relu):
        codes, exponent = value
        ctx.codes, ctx.relu = codes, relu
        return codes * 2.0**exponent

    @staticmethod
    def backward(ctx, gradient):
        if ctx.relu is not None:
            low = 0 if ctx.relu else -quant.CODE_LIMIT
            gradient = quant.through_saturation(gradient, ctx.codes, low)
        return gradient, None, None


class QuantizeImage(torch.nn.Module):
    def forward(self, codes):
        return codes.to(torch.float64) / 128


class Conv2d(twin.Conv2d):
    def __init__(self, *args, exponent=0, relu=False, **options):
        super().__init__(*args, **options)
        self.rectified, self.value = relu, None

    def forward(self, x):
        y = super().forward(x)
        return y if self.bias is None else _Given.apply(y, self.value, self.rectified)


class ConvTranspose2d(twin.ConvTranspose2d):
    def __init__(self, *args, exponent=0, relu=False, **options):
        super().__init__(*args, **options)
        self.rectified, self.value = relu, None

    def forward(self, x):
        return _Given.apply(super().forward(x), self.value, self.rectified)


class BatchNorm2d(twin.L1BatchNorm2d):
    def __init__(self, channels, *, exponent=0, relu=True):
        super().__init__(channels, relu=False)
        self.rectified, self.value = relu, None

    def forward(self, x, residual=None):
        return _Given.apply(super().forward(x, residual), self.value, self.rectified)


class GlobalAvgPool(torch.nn.Module):
    value = None

    def forward(self, x):
        return _Given.apply(x.mean((2, 3), keepdim=True), self.value, None)


class Add(torch.nn.Module):
    def __init__(self, *, exponent=0, relu=False):
        super().__init__()
        self.rectified, self.value = relu, None

    def forward(self, a, b):
        return _Given.apply(a + b, self.value, self.rectified)


def real_network(model):
    """Return the float64 counterpart of an integer ``model`` in training mode."""
    namespace = SimpleNamespace(**vars(twin))
    for item in (QuantizeImage, Conv2d, ConvTranspose2d, BatchNorm2d, GlobalAvgPool, Add):
        setattr(namespace, item.__name__, item)
    real = _network(model.name, namespace, model.classes, model.width)
    twin.copy_parameters(model, real, seen=True)
    return real.double().train()


def gradient_cosines(model, loss, codes, labels):
    """Return for every weight of a convolution the cosine of integer and real gradient."""
    real, model = real_network(model), copy.deepcopy(model)  # no optimiser quantises the copy's
    layers = dict(real.named_modules())

    def keep(path):
        def hook(module, inputs, output):
            if isinstance(output, IntTensor) and hasattr(layers[path], "value"):
                layers[path].value = output.codes.double(), output.exponent

        return hook

    hooks = [m.register_forward_hook(keep(path)) for path, m in model.named_modules()]
    model.train()
    loss(model(codes), labels).backward()
    for hook in hooks:
        hook.remove()
    torch.nn.functional.cross_entropy(
        real(codes), labels.to(torch.int64), ignore_index=255, reduction="sum"
    ).backward()
    expected = dict(real.named_parameters())
    cosines = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 4:
            a, b = parameter.grad.to_float().ravel(), expected[name].grad.ravel()
            cosines[name] = float(a @ b / (a.norm() * b.norm()))
    return cosines


DATA = [
    pytest.param("shapes", 64, 64, id="shapes"),
    pytest.param(
        f"camvid:{CAMVID}",
        120,
        160,
        id="camvid",
        marks=[
            pytest.mark.data,
            pytest.mark.skipif(not CAMVID.is_dir(), reason="no CamVid where INTAGLIO_DATA names"),
        ],
    ),
]


@pytest.mark.parametrize("name, rate", [("deeplab-mini", "1/10"), ("fcn-mini", "1/20")])
@pytest.mark.parametrize("data, height, width", DATA)
def test_weight_gradients_point_where_the_real_ones_do(name, rate, data, height, width):
    """At the start, and after some steps: at least 0.98 in every layer and 0.995 on average."""
    dataset = open_dataset(data, "train", height=height, width=width)
    model = build(name, classes=len(dataset.classes), seed=1)
    loss, optimizer = SoftmaxCrossEntropy(), SGD(model.named_parameters(), seed=1)
    schedule = Schedule(rate=rate, steps=100, warmup=10)
    batches = epoch_batches(dataset, batch=8, seed=1, epoch=0, height=height, width=width)
    for step, pair in zip(range(17), batches, strict=False):
        images, labels = map(torch.from_numpy, pair)
        if step in (0, 16):
            cosines = gradient_cosines(model, loss, images, labels)
            worst = min(cosines, key=cosines.get)
            assert cosines[worst] >= 0.98, (step, worst)
            assert sum(cosines.values()) / len(cosines) >= 0.995, (step, cosines)
        optimizer.zero_grad()
        model.train()
        loss(model(images), labels).backward()
        optimizer.step(schedule.at(step))
