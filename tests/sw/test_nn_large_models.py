"""The paper's networks, at an eighth of their width: names, sizes, steps, and the frozen graph."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from intaglio.compile import compile_graph
from intaglio.nn import IntTensor, to_graph
from intaglio.nn.loss import SoftmaxCrossEntropy
from intaglio.nn.models import (
    CLASSIFIERS,
    MODELS,
    build,
    build_twin,
    calibrate,
    check_size,
    frame_size,
    predict,
)
from intaglio.spec.config import CONFIGS
from intaglio.spec.errors import IntaglioError
from intaglio.spec.isa import Error
from intaglio.spec.program import read_value
from intaglio.train import SGD
from intaglio_sim.golden import GoldenMachine

RNG = np.random.default_rng(11)
#: Sizes that divide by no stride where the network allows it, and one pixel more where it does.
SIZES = {
    "deeplabv3-resnet50": (32, 48),
    "deeplabv3-resnet50-os8": (33, 25),
    "fcn-vgg16": (37, 45),
    "fcn16s-vgg16": (47, 32),
    "fcn32s-vgg16": (32, 63),
    "fcn-vgg16-bn": (39, 33),
    "fcn16s-vgg16-bn": (32, 50),
    "fcn32s-vgg16-bn": (41, 32),
    "resnet50": (37, 50),
}
VECTORS = ("weight", "bias")
RUNNING = ("running_mean", "running_deviation", "num_batches_tracked")


def images(n, height, width):
    return torch.from_numpy(RNG.integers(0, 256, (n, 3, height, width), np.uint8))


class NoFloats(TorchDispatchMode):
    """Refuses every operator with a floating tensor among its arguments or results."""

    def check(self, func, value):
        if isinstance(value, IntTensor):
            self.check(func, [codes for codes, _ in value.terms])
        elif isinstance(value, torch.Tensor):
            assert not value.dtype.is_floating_point, f"{func} has a tensor of {value.dtype}"
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.check(func, item)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.check(func, (args, tuple((kwargs or {}).values())))
        result = func(*args, **(kwargs or {}))
        self.check(func, result)
        return result


@pytest.mark.parametrize("name", SIZES)
def test_a_step_without_floats_then_the_frozen_graph(name):
    height, width = SIZES[name]
    model = build(name, classes=5, width="1/8", seed=3)
    check_size(model, height, width)
    x = images(2, height, width)
    rows, columns = (1, 1) if name in CLASSIFIERS else (height, width)
    y = torch.from_numpy(RNG.integers(0, 5, (2, rows, columns), np.uint8))
    y[:, : rows // 8] = 255
    before = {n: p.codes.clone() for n, p in model.named_parameters()}
    optimizer = SGD(model.named_parameters(), seed=1)
    with NoFloats():
        SoftmaxCrossEntropy()(model(x), y).backward()
        optimizer.step(Fraction(1, 10))
        predict(model.eval(), x)
    for n, p in model.named_parameters():
        # The scores of the last map begin at zero, and so does what comes up from them.
        assert p.grad is not None and (p.grad.codes.any() or n == "upscore2.weight"), n
    # Not each bias: on maps of a few pixels its step may be less than half a unit.
    still = {n for n, p in model.named_parameters() if torch.equal(p.codes, before[n])}
    weights = {n for n in before if n.endswith("weight")}
    assert len(still & weights) < 0.1 * len(weights), still

    assert build_twin(model).eval()(x[:1]).shape == (1, 5, rows, columns)
    graph = to_graph(model, height=height, width=width)
    codes = (x[:1].to(torch.int16) - 128).to(torch.int8)
    values = graph.evaluate(codes.numpy())
    with torch.no_grad():
        logits = model(codes)
    assert (logits.codes.numpy() == values[graph.outputs[1]]).all()
    assert (predict(model, codes).numpy() == values[graph.outputs[0]][:, 0]).all()


@pytest.mark.parametrize("name", ["deeplabv3-resnet50", "fcn-vgg16", "resnet50"])
def test_golden_machine_has_the_same_bytes(name):
    height, width = {"deeplabv3-resnet50": (32, 32)}.get(name, (37, 33))
    model = build(name, classes=3, width="1/8", seed=3)
    x = images(2, height, width)
    calibrate(model, x)
    graph = to_graph(model.eval(), height=height, width=width)
    config = CONFIGS["wide-16x8"]
    program = compile_graph(graph, config)
    codes = (x[:1].to(torch.int16) - 128).to(torch.int8)
    memory = program.image(codes[0].numpy())
    result = GoldenMachine(config).run_program(program, memory)
    assert result.error == Error.NONE, result.error_text
    with torch.no_grad():
        logits = model(codes)
    for output, expected in zip(
        graph.outputs, (predict(model, codes)[:, None], logits.codes), strict=True
    ):
        found = read_value(memory, program.values[output], config.R)
        assert (found == expected[0].numpy()).all(), output


def test_as_many_classes_as_ade20k_has():
    model = build("fcn-vgg16", classes=150, width="1/8", seed=3).eval()
    model.upscore.bias.codes[140] = 1 << 12
    x = images(1, 32, 32)
    with torch.no_grad():
        logits = model(x)
    found = predict(model, x)
    assert found.dtype == torch.uint8 and int(found.max()) > 127
    assert torch.equal(found[0].to(torch.int64), logits.codes[0].argmax(0))
    with pytest.raises(IntaglioError, match=r"classes must be in \[2, 150\], not 151"):
        build("fcn-vgg16", classes=151)


def convolution(name):
    return [f"{name}.weight"]


def norm(name):
    return [f"{name}.{v}" for v in (*VECTORS, *RUNNING)]


def backbone():
    names = [*convolution("conv1"), *norm("bn1")]
    for layer, blocks in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            for i in (1, 2, 3):
                names += convolution(f"{at}.conv{i}") + norm(f"{at}.bn{i}")
            if block == 0:
                names += convolution(f"{at}.downsample.0") + norm(f"{at}.downsample.1")
    return names


@pytest.mark.parametrize("name", ["deeplabv3-resnet50", "deeplabv3-resnet50-os8"])
def test_deeplab_has_the_names_of_torchvision(name):
    expected = [f"backbone.{name}" for name in backbone()]
    for branch in range(4):
        at = f"classifier.0.convs.{branch}"
        expected += convolution(f"{at}.0") + norm(f"{at}.1")
    expected += ["classifier.0.convs.4.1.weight", "classifier.0.convs.4.1.bias"]
    expected += convolution("classifier.0.project.0") + norm("classifier.0.project.1")
    expected += convolution("classifier.1") + norm("classifier.2")
    expected += ["classifier.4.weight", "classifier.4.bias"]
    assert sorted(build(name, classes=4, width="1/8").state_dict()) == sorted(expected)


def test_resnet_has_the_names_of_torchvision():
    expected = [*backbone(), "fc.weight", "fc.bias"]
    model = build("resnet50", classes=1000, width="1/8")
    assert sorted(model.state_dict()) == sorted(expected)
    assert all(m.dilation == (1, 1) for m in model.modules() if hasattr(m, "dilation"))
    assert "resnet50" not in MODELS  # the commands are of segmentation


def test_more_classes_than_a_byte_names():
    model = build("resnet50", classes=1000, width="1/8", seed=3).eval()
    model.fc.weight.codes.zero_()
    model.fc.bias.codes[777] = 1 << 12
    found = predict(model, images(2, 32, 32))
    assert found.dtype == torch.int64 and found.shape == (2, 1, 1) and (found == 777).all()
    with pytest.raises(IntaglioError, match=r"classes must be in \[2, 1000\], not 1001"):
        build("resnet50", classes=1001)


def test_vgg_has_the_names_of_torchvision():
    numbers = {
        "fcn-vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        "fcn-vgg16-bn": (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
    }
    for name, convolutions in numbers.items():
        found = {n for n in build(name, classes=4, width="1/8").state_dict() if "features" in n}
        expected = {f"features.{n}.weight" for n in convolutions}
        if name == "fcn-vgg16":
            expected |= {f"features.{n}.bias" for n in convolutions}
        else:
            expected |= {
                f"features.{n + 1}.{v}" for n in convolutions for v in (*VECTORS, *RUNNING)
            }
        assert found == expected
    model = build("fcn-vgg16", classes=4, width="1/8")
    rest = {n for n, _ in model.named_parameters() if "features" not in n and "score" not in n}
    assert rest == {f"classifier.{n}.{v}" for n in (0, 3) for v in VECTORS}
    assert model.classifier["0"].weight.shape[2:] == (7, 7)


def test_output_strides():
    for name, stride in (("deeplabv3-resnet50", 16), ("deeplabv3-resnet50-os8", 8)):
        model = build(name, classes=4, width="1/8")
        dilations = [
            [module.dilation[0] for module in layer.modules() if hasattr(module, "dilation")]
            for layer in (model.backbone.layer3, model.backbone.layer4)
        ]
        rates = [branch[0].dilation[0] for branch in list(model.classifier["0"].convs)[1:4]]
        assert rates == ([6, 12, 18] if stride == 16 else [12, 24, 36])
        assert max(dilations[0]) == (1 if stride == 16 else 2)
        assert max(dilations[1]) == (2 if stride == 16 else 4)


def test_sizes_that_are_refused():
    assert set(SIZES) <= {*MODELS, *CLASSIFIERS}
    deeplab, fcn = MODELS["deeplabv3-resnet50"], MODELS["fcn-vgg16"]
    check_size(deeplab, 33, 49)
    check_size(fcn, 32, 101)
    for model, size, text in (
        (deeplab, (34, 32), "height must be a positive multiple of 16 or one more, not 34"),
        (deeplab, (1, 16), "height must be a positive multiple of 16 or one more, not 1"),
        (deeplab, (32, 33), "both be multiples of 16 or both one more, not 32 and 33"),
        (fcn, (64, 31), "width must be at least 32, not 31"),
    ):
        with pytest.raises(IntaglioError, match=text):
            check_size(model, *size)


def test_frames_of_any_size():
    deeplab, fcn, mini = MODELS["deeplabv3-resnet50"], MODELS["fcn-vgg16"], MODELS["fcn-mini"]
    for model, size, frame in (
        (deeplab, (32, 48), (32, 48)),
        (deeplab, (33, 49), (33, 49)),
        (deeplab, (33, 48), (48, 48)),
        (deeplab, (1, 179), (16, 192)),
        (fcn, (32, 101), (32, 101)),
        (fcn, (31, 101), (32, 101)),
        (mini, (9, 16), (16, 16)),
    ):
        assert frame_size(model, *size) == frame
        check_size(model, *frame)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_prediction_in_a_frame(dtype):
    model = build("deeplabv3-resnet50", classes=5, width="1/8", seed=3)
    images = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    calibrate(model, images)
    small = images[:, :, 4:43, 7:56]  # 39 x 49, nine rows and fifteen columns less than its frame
    whole = torch.full_like(images, 128)
    whole[:, :, 4:43, 7:56] = small
    shift = 128 if dtype == torch.int8 else 0
    whole, small = ((x.to(torch.int16) - shift).to(dtype) for x in (whole, small))
    found = predict(model.eval(), small)
    assert found.shape == (2, 39, 49)
    assert torch.equal(found, predict(model, whole)[:, 4:43, 7:56])


def test_cut_of_a_transposed_convolution():
    from intaglio.nn.layers import ConvTranspose2d

    layer = ConvTranspose2d(2, 2, 4, stride=2, padding=1).eval()
    x = IntTensor(torch.ones(1, 2, 3, 4, dtype=torch.int8), -3)
    whole = layer(x)
    assert whole.shape == (1, 2, 6, 8)
    assert torch.equal(layer(x, (5, 7)).codes, whole.codes[:, :, :5, :7])
    assert layer(x, (7, 9)).shape == (1, 2, 7, 9)
    with pytest.raises(
        ValueError, match=r"output_size \(8, 8\) is larger than what a map of 3 x 4"
    ):
        layer(x, (8, 8))
