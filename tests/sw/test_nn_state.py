"""Float weights with torchvision's names, loaded into the integer networks."""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as TF

from intaglio.nn.models import build, build_twin, load_state_dict, read_state
from intaglio.spec.errors import IntaglioError
from intaglio.train import TrainConfig, train
from intaglio.train.checkpoint import weights_digest

RNG = np.random.default_rng(13)
IMAGES = torch.from_numpy(RNG.integers(0, 256, (4, 3, 32, 32), np.uint8))


def twin_state(name, seed=1, norm=None):
    """Return an integer network and the state of a float one, with statistics that fit it."""
    twin = build_twin(build(name, classes=4, width="1/8", seed=seed)).train()
    with torch.no_grad():
        for _ in range(30):
            twin(IMAGES)
    return build(name, classes=4, width="1/8", seed=seed + 1, norm=norm), twin


def torchvision_vgg(twin, *, batch_norm=False):
    """Return a state as ``torchvision.models.vgg16`` has it, for normalised images."""
    state = {n: v.clone() for n, v in twin.state_dict().items() if n.startswith("features")}
    for index in ("0", "3"):
        at = f"classifier.{index}.0" if batch_norm else f"classifier.{index}"
        weight = twin.state_dict()[f"{at}.weight"]
        state[f"classifier.{index}.weight"] = weight.flatten(1).clone()
        state[f"classifier.{index}.bias"] = torch.zeros(weight.shape[0])
    state["classifier.6.weight"], state["classifier.6.bias"] = torch.zeros(10, 8), torch.zeros(10)
    return state


def cosine(a, b):
    a, b = a.to(torch.float64).ravel(), b.to(torch.float64).ravel()
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("norm", ["l1", "l1-std", "l2"])
def test_deeplab_loads_and_agrees(norm):
    model, twin = twin_state("deeplabv3-resnet50", norm=norm)
    state = {n: v.clone() for n, v in twin.state_dict().items()}
    # torchvision has batch norm in the image pooling, and a second head.
    at = "classifier.0.convs.4"
    bias = state.pop(f"{at}.1.bias")
    state |= {f"{at}.2.weight": torch.full_like(bias, 2.0), f"{at}.2.bias": bias}
    state |= {f"{at}.2.running_mean": torch.zeros_like(bias)}
    state |= {f"{at}.2.running_var": torch.full_like(bias, 4.0 - 1e-5)}
    state["aux_classifier.0.weight"] = torch.zeros(2, 2)
    report = load_state_dict(model, state, images=IMAGES, normalized=False)
    assert report["fresh"] == []
    # On maps of 2 x 2 pixels a running variance may be far from that of these images.
    assert all(n.startswith(("backbone.layer4", "classifier")) for n in report["saturated"])
    assert sum(report["saturated"].values()) < 5
    assert 0.25 < report["agreement"] <= 1
    # Random layers on maps of a few pixels amplify every rounding, so the early ones are compared.
    names, found = ("layer1", "layer2"), {}
    for kind, network in (("int", model), ("float", twin)):
        for name in names:
            network.backbone.get_submodule(name).register_forward_hook(
                lambda _, x, y, key=(kind, name): found.__setitem__(key, y)
            )
        with torch.no_grad():
            network.eval()(IMAGES)
    for name, bound in zip(names, (0.99, 0.95), strict=True):
        assert cosine(found["int", name].to_float(), found["float", name]) > bound
    weight = model.classifier["0"].convs[4][1].weight.to_float()
    assert torch.allclose(weight, state[f"{at}.1.weight"].to(torch.float64), atol=1e-4)
    # What training goes on from is what it will measure: the stem has many pixels.
    stem = model.backbone.bn1
    loaded = stem.running_deviation.clone()
    stem.num_batches_tracked.zero_()  # the next batch counts alone
    model.train()(IMAGES)
    assert ((stem.running_deviation / loaded - 1).abs() < 0.05).all()


def test_a_classification_network_without_its_last_layer():
    model, twin = twin_state("deeplabv3-resnet50")
    prefix = "backbone."
    state = {n.removeprefix(prefix): v for n, v in twin.state_dict().items() if prefix in n}
    state |= {"fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}
    report = load_state_dict(model, state, images=IMAGES)
    assert report["fresh"] and all(n.startswith("classifier.") for n in report["fresh"])
    del state["layer3.2.bn2.running_var"]
    with pytest.raises(IntaglioError, match=r"1 names are missing, such as backbone.layer3.2.bn2"):
        load_state_dict(model, state, images=IMAGES)


def test_a_classification_network_with_its_last_layer():
    model, twin = twin_state("resnet50")
    state = {n: v.clone() for n, v in twin.state_dict().items()}
    state["fc.weight"] = state["fc.weight"].normal_(std=0.1).flatten(1)  # as torchvision has it
    report = load_state_dict(model, state, images=IMAGES)
    assert report["fresh"] == [] and "fc.weight" not in report["saturated"]
    weight = model.fc.weight.to_float()[:, :, 0, 0]
    assert torch.allclose(weight, state["fc.weight"].to(torch.float64), atol=1e-4)
    fewer = build("resnet50", classes=3, width="1/8")
    assert load_state_dict(fewer, state, images=IMAGES)["fresh"] == ["fc.weight", "fc.bias"]


def test_vgg_with_reshaped_fc6_and_normalised_images():
    model, twin = twin_state("fcn-vgg16")
    state = torchvision_vgg(twin)
    state["features.0.bias"] += 0.1
    state["features.10.weight"] *= 300  # as large as the activations of trained ones are
    report = load_state_dict(model, state, images=IMAGES)
    assert {n.split(".")[0].removeprefix("up") for n in report["fresh"]} >= {"score_fr"}
    assert report["saturated"] == {}
    # The features are those of the float network on normalised images, up to a factor.
    mean, std = (
        torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    known = dict(twin.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            if name in known and name.startswith("features"):
                known[name].copy_(value)
        pools = twin.features((IMAGES / 255 - mean) / std)
        found = model.eval().features(model.quantize(IMAGES))
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    for place in (0, 1, 2):
        assert cosine(found[place].to_float()[inner], pools[place][inner]) > 0.97


def test_vgg_of_convolutions_alone():
    """fc6 and fc7 keep their start, and the pools, rescaled or not, are those of the floats."""
    model, twin = twin_state("fcn-vgg16")
    known = dict(model.named_parameters())
    start = {n: v.codes.clone() for n, v in known.items() if n.startswith("classifier")}
    state = {n: v for n, v in torchvision_vgg(twin).items() if n.startswith("features")}
    state["features.10.weight"] *= 300
    report = load_state_dict(model, state, images=IMAGES)
    assert report["loaded"] == 26 and report["saturated"] == {}
    assert {n for n in report["fresh"] if n.startswith("classifier")} == set(start) and start
    assert all(torch.equal(known[n].codes, v) for n, v in start.items())
    mean, std = (
        torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        for name, value in state.items():
            twin.get_parameter(name).copy_(value)
        pools = twin.features((IMAGES / 255 - mean) / std)
        found = model.eval().features(model.quantize(IMAGES))
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    for place in (0, 1, 2):
        assert cosine(found[place].to_float()[inner], pools[place][inner]) > 0.97
        assert found[place].codes.max() > 64  # the codes are used
    del state["features.7.weight"]
    with pytest.raises(IntaglioError, match="1 names are missing, such as features.7.weight"):
        load_state_dict(model, state, images=IMAGES)


@pytest.mark.parametrize(
    "name, last", [("deeplabv3-resnet50", ("classifier.4.",)), ("fcn-vgg16", ("score", "upscore"))]
)
def test_the_last_layers_of_another_number_of_classes_are_fresh(name, last):
    _, twin = twin_state(name)
    state, model = twin.state_dict(), build(name, classes=7, width="1/8", seed=5)
    start = {n: p.to_float() for n, p in model.named_parameters() if n.startswith(last)}
    report = load_state_dict(model, state, images=IMAGES, normalized=False)
    assert set(report["fresh"]) == set(start) and start
    known = dict(model.named_parameters())
    assert all(torch.equal(known[n].to_float(), v) for n, v in start.items())
    state.pop(next(n for n in state if n.startswith(last)))
    model = build(name, classes=4, width="1/8", seed=5)
    with pytest.raises(IntaglioError, match="1 names are missing"):
        load_state_dict(model, state, images=IMAGES, normalized=False)


@pytest.mark.parametrize("name", ["deeplabv3-resnet50", "fcn-vgg16-bn"])
def test_the_number_of_threads_does_not_matter(name):
    """Though the statistics of batch norm are turned with float sums."""
    _, twin = twin_state(name)
    images = torch.from_numpy(RNG.integers(0, 256, (4, 3, 64, 96), np.uint8))
    before, digests = torch.get_num_threads(), set()
    state = {n: v for n, v in twin.state_dict().items() if n.startswith(("backbone", "features"))}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = build(name, classes=4, width="1/8", seed=5)
            load_state_dict(model, state, images=images)
            assert torch.get_num_threads() == threads
            digests.add(weights_digest(model))
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_hed_weights_are_the_same_function_of_the_pixels():
    """Away from the border HED's first convolution on BGR minus its mean, in torchvision's form."""
    path = Path(__file__).resolve().parents[2] / "scripts" / "hed_weights.py"
    spec = importlib.util.spec_from_file_location("hed_weights", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    layers = {
        name: (RNG.normal(size=(3, 3, 3 if index == 0 else 2, 5)), RNG.normal(size=5))
        for index, name in script.PLAN.items()
    }
    state = script.convert(layers)
    assert len(state) == 26
    weight, bias = (torch.from_numpy(v) for v in layers["block1_conv1"])
    pixels = IMAGES.to(torch.float64)
    bgr = pixels.flip(1) - torch.tensor(script.MEAN_BGR, dtype=torch.float64).reshape(3, 1, 1)
    expected = TF.conv2d(bgr, weight.permute(3, 2, 0, 1), bias)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (script.MEAN, script.DEVIATION))
    normalised = (pixels / 255 - mean) / std
    found = TF.conv2d(
        normalised,
        state["features.0.weight"].to(torch.float64),
        state["features.0.bias"].to(torch.float64),
    )
    assert torch.allclose(found, expected, rtol=0, atol=1e-2)  # of values up to some hundreds
    weight, bias = layers["block5_conv3"]
    assert torch.equal(
        state["features.28.weight"], torch.from_numpy(weight.transpose(3, 2, 0, 1)).float()
    )
    assert torch.equal(state["features.28.bias"], torch.from_numpy(bias).float())


def test_vgg_with_batch_norm_takes_biases_into_the_means():
    model, twin = twin_state("fcn-vgg16-bn")
    state = torchvision_vgg(twin, batch_norm=True)
    shift = torch.full_like(state["features.0.weight"][:, 0, 0, 0], 0.5)
    state["features.0.bias"] = shift
    state["features.1.running_mean"] = state["features.1.running_mean"] + shift
    report = load_state_dict(model, state, images=IMAGES, normalized=False)
    assert report["loaded"] > 50
    mean = model.features["1"].running_mean.to(torch.float64) * 2.0**-24
    expected = twin.features["1"].running_mean.to(torch.float64)
    assert torch.allclose(mean, expected, atol=1e-6)


def test_what_is_refused(tmp_path):
    model, twin = twin_state("fcn-vgg16")
    state = torchvision_vgg(twin)
    for change, text in (
        ({"features.99.weight": torch.zeros(1)}, "unknown names, such as features.99.weight"),
        ({"features.0.bias": torch.zeros(5)}, r"features.0.bias has shape \(5,\), not \(8,\)"),
        ({"features.0.bias": torch.full((8,), torch.nan)}, "features.0.bias has numbers that are"),
        ({"features.0.bias": torch.full((8,), 1e200, dtype=torch.float64)}, "are not finite"),
        ({"features.0.bias": torch.zeros(8).to_sparse()}, "features.0.bias is no dense tensor"),
        ({"features.0.bias": torch.zeros(8, dtype=torch.complex64)}, "no dense tensor of real"),
        ({"classifier.0.weight": torch.zeros(8, 50)}, r"\(8, 50\), which is no window of 7 x 7"),
        ({"score_fr.weight": torch.zeros(())}, r"score_fr.weight has shape \(\), not"),
        ({5: torch.zeros(1)}, "unknown names, such as 5"),
    ):
        with pytest.raises(IntaglioError, match=text):
            load_state_dict(model, state | change, images=IMAGES, normalized=False)
    path = tmp_path / "weights.pth"
    with pytest.raises(IntaglioError, match="no such file"):
        read_state(path)
    path.write_bytes(b"none")
    with pytest.raises(IntaglioError, match="not a file of PyTorch weights"):
        read_state(path)
    torch.save([1, 2], path)
    with pytest.raises(IntaglioError, match="holds no state dict"):
        read_state(path)
    torch.save(model, path)
    with pytest.raises(IntaglioError, match="objects besides tensors") as caught:
        read_state(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"features.0.bias": torch.zeros(5)}, r"features.0.bias has shape \(5,\), not \(8,\)"),
        ({"features.1.running_var": torch.full((8,), -1.0)}, "a variance of -1, below 0"),
        ({"features.1.running_mean": torch.zeros(3)}, r"running_mean has shape \(3,\), not \(8,\)"),
    ],
)
def test_what_is_refused_of_batch_norm(change, text):
    model, twin = twin_state("fcn-vgg16-bn")
    state = torchvision_vgg(twin, batch_norm=True)
    with pytest.raises(IntaglioError, match=text):
        load_state_dict(model, state | change, images=IMAGES, normalized=False)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
def test_a_checkpoint_of_a_training_script(tmp_path, key):
    """It has more than the weights, and names of DataParallel."""
    model, twin = twin_state("fcn-vgg16")
    state = torchvision_vgg(twin)
    load_state_dict(model, state, images=IMAGES)
    path, names = tmp_path / "checkpoint.pth", {f"module.{n}": v for n, v in state.items()}
    torch.save({key: names, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)
    again = build("fcn-vgg16", classes=4, width="1/8", seed=2)
    load_state_dict(again, read_state(path), images=IMAGES)
    assert weights_digest(again) == weights_digest(model)


def test_the_backbone_of_another_head():
    """torchvision's fcn_resnet50 has names of its own behind the backbone."""
    model, twin = twin_state("deeplabv3-resnet50")
    state = {n: v for n, v in twin.state_dict().items() if n.startswith("backbone.")}
    head = {"classifier.0.weight": torch.zeros(8, 32, 3, 3), "classifier.4.bias": torch.zeros(4)}
    report = load_state_dict(model, state | head, images=IMAGES)
    assert report["fresh"] and all(n.startswith("classifier.") for n in report["fresh"])


def test_a_run_starts_from_weights(tmp_path):
    _, twin = twin_state("fcn-vgg16")
    path = tmp_path / "vgg16.pth"
    torch.save(torchvision_vgg(twin), path)
    options = dict(model="fcn-vgg16", height=32, width=32, channels="1/8", steps=1, batch=2)
    digests = {
        train(
            TrainConfig(**options, weights=weights), out=tmp_path / run, progress=False, log=False
        )["digest"]
        for run, weights in (("a", str(path)), ("b", str(path)), ("c", ""))
    }
    assert len(digests) == 2
    again = TrainConfig(**options, weights=str(path))
    path.unlink()  # what has begun goes on without
    found = train(again, out=tmp_path / "a", progress=False, log=False)["digest"]
    assert found in digests
    with pytest.raises(IntaglioError, match="no such file"):
        train(TrainConfig(**options, weights="none.pth"), out=tmp_path / "d", progress=False)
    # What could not begin leaves its folder to the corrected command.
    train(TrainConfig(**options), out=tmp_path / "d", progress=False, log=False)
