"""The two networks: eval mode is the frozen graph, no float while training, sizes, twins."""

import copy
import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from intaglio.nn import IntTensor, graph_op, kernels, record, to_graph
from intaglio.nn import functional as F
from intaglio.nn.kernels import native, plain
from intaglio.nn.layers import bilinear_master, normal_master
from intaglio.nn.loss import SoftmaxCrossEntropy
from intaglio.nn.models import build, build_twin, calibrate, check_size, predict
from intaglio.nn.recipe import apply_recipe
from intaglio.spec import ops
from intaglio.spec.errors import IntaglioError
from intaglio.spec.graph import OPERATIONS
from intaglio.spec.variants import Recipe
from intaglio.train import SGD, Schedule, weights_digest

RNG = np.random.default_rng(7)
MINI = ["deeplab-mini", "fcn-mini"]
#: The large ones, at an eighth of their width, are in test_nn_large_models.
SMALL = ("deeplab-mini", "fcn-mini")


def images(n, height, width):
    return torch.from_numpy(RNG.integers(0, 256, (n, 3, height, width), np.uint8))


def labels(n, height, width, classes):
    found = torch.from_numpy(RNG.integers(0, classes, (n, height, width), np.uint8))
    found[:, 0] = 255
    return found


@pytest.mark.parametrize("name", MINI)
@pytest.mark.parametrize("chosen", ["native", "plain"])
def test_training_on_no_images_is_refused(name, chosen):
    if chosen == "native" and not native.available():
        pytest.skip("no C compiler")
    model = build(name, classes=4, width="1/4")
    with kernels.use({"native": native, "plain": plain}[chosen]):
        with pytest.raises(ValueError, match="at least one pixel of one image"):
            model(images(0, 16, 16))


# --- eval mode --------------------------------------------------------------------------------

REQUANTIZE = dict(shift=9, low=-127, high=127)
EVAL_OPS = [
    ("conv", 1, dict(stride=(2, 1), padding=(1, 0, 2, 1), dilation=(1, 2), pad_code=-5)),
    ("conv", 2, dict(stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), pad_code=0)),
    ("conv_transpose", 1, dict(stride=(2, 2), padding=(1, 1, 0, 1))),
    ("max_pool", 1, dict(kernel=(3, 2), stride=(2, 2), padding=(1, 0, 1, 1))),
    ("avg_pool", 1, dict(kernel=(6, 8), stride=(1, 1), padding=(0, 0, 0, 0))),
    ("avg_pool", 1, dict(kernel=(2, 3), stride=(2, 2), padding=(1, 0, 0, 1))),
    ("resize", 1, dict(ratio=(3, 2), corners="half_pixel")),
    ("resize", 1, dict(ratio=(4, 8), corners="align")),
    ("broadcast", 0, dict(size=(3, 4))),
    ("add", 2, dict(shift_a=2, shift_b=0, shift=3, low=0, high=127)),
    ("concat", 3, {}),
    ("argmax", 1, {}),
]


@pytest.mark.parametrize("chosen", [plain, native], ids=["plain", "native"])
@pytest.mark.parametrize("op, inputs, attributes", EVAL_OPS)
def test_every_operation_of_the_graph_has_the_bytes_of_its_definition(
    op, inputs, attributes, chosen
):
    if chosen is native and not native.available():
        pytest.skip("no C compiler")
    shape = (2, 5, 6, 8) if op != "broadcast" else (2, 5, 1, 1)
    arrays = [RNG.integers(-128, 128, shape, np.int8) for _ in range(max(inputs, 1))]
    if op == "argmax":
        arrays = [x // 40 for x in arrays]  # ties
    tensors, attributes = {}, dict(attributes)
    if op in ("conv", "conv_transpose"):
        axes = (5, 5, 3, 3)
        tensors["weight"] = RNG.integers(-127, 128, axes, np.int8)
    if "weight" in tensors or op == "avg_pool":
        n = 1 if op == "avg_pool" else 5
        tensors["multiplier"] = RNG.integers(-300, 300, n, np.int16)
        tensors["bias"] = RNG.integers(-(1 << 30), 1 << 30, n, np.int64) >> 8
        attributes |= REQUANTIZE | ({"shift": 20} if "weight" in tensors else {})
    if op == "conv":
        attributes["residual_shift"] = 12
    expected_options = {k: v for k, v in attributes.items() if k != "residual_shift"}
    if inputs == 2 and op == "conv":
        expected_options |= {"residual": arrays[1], "residual_shift": 12}
    given = arrays[:1] if op == "conv" else arrays
    expected = getattr(ops, op)(*given, *tensors.values(), **expected_options)
    with kernels.use(chosen):
        xs = [IntTensor(torch.from_numpy(x), -4) for x in arrays]
        found = graph_op(op, "n", xs, -4, attributes, tensors)
    assert (found.codes.numpy() == expected).all()
    assert {op for op, _, _ in EVAL_OPS} == set(OPERATIONS)


@pytest.mark.parametrize("name", SMALL)
def test_eval_mode_is_the_recorded_graph(name):
    model = build(name, classes=5, width="1/4", seed=3)
    x = images(3, 32, 40)
    calibrate(model, x)
    model.eval()
    codes = F.quantize_image(x)
    with record(model) as recorder:
        logits = model(codes)
        classes = model.argmax(logits)
        graph = recorder.finish(classes, logits)
    values = graph.evaluate(codes.codes.numpy())
    assert (values[logits.value_name] == logits.codes.numpy()).all()
    assert (values[classes.value_name][:, 0] == predict(model, x).numpy()).all()
    assert to_graph(model, height=32, width=40, batch=3).digest() == graph.digest()
    # Nothing in the network is degenerate: hardware tests rely on it.
    for node in graph.nodes:
        assert len(np.unique(values[node.output])) > (1 if node.op == "argmax" else 5), node.name
    paths = {path for path, _ in model.named_modules()}
    assert {node.name for node in graph.nodes} <= paths


def _logits(model, x):
    with torch.no_grad():
        return model(x).codes


def _changes(model):
    """Ways to change a model in eval mode, each with its name."""
    conv = next(m for m in model.modules() if hasattr(m, "kernel") and hasattr(m, "weight"))
    norm = next((m for m in model.modules() if hasattr(m, "running_mean")), None)
    scores = [m for m in model.modules() if getattr(m, "bias", None) is not None][-1]
    other = build(model.name, classes=model.classes, width="1/4", seed=11)

    def step():
        model.train()
        optimizer = SGD(model.named_parameters(), seed=1)
        for _ in range(2):
            optimizer.zero_grad()
            loss = SoftmaxCrossEntropy()(model(images(2, 32, 32)), labels(2, 32, 32, 5))
            loss.backward()
            optimizer.step(Fraction(1, 20))
        model.eval()

    def written_by_a_kernel():  # memory that PyTorch does not see, then assigned
        conv.weight.codes.numpy()[...] //= 3
        conv.weight.assign(conv.weight.codes, conv.weight.exponent)

    def in_inference_mode():
        with torch.inference_mode():
            conv.weight.codes.neg_()

    def replaced():
        norm.running_mean = norm.running_mean + (1 << 22)

    changes = {
        "assign": lambda: conv.weight.assign(conv.weight.codes // 2, conv.weight.exponent),
        "exponent": lambda: conv.weight.assign(conv.weight.codes, conv.weight.exponent + 1),
        "in place": lambda: conv.weight.codes[0].fill_(77),
        "bias": lambda: scores.bias.codes.add_(1 << 12),
        "kernel": written_by_a_kernel,
        "inference mode": in_inference_mode,
        "load": lambda: model.load_state_dict(other.state_dict()),
        "train": step,
    }
    if norm is not None:
        changes |= {
            "mean": lambda: norm.running_mean.add_(1 << 22),
            "deviation": lambda: norm.running_deviation.mul_(3),
            "replaced": replaced,
            "relu": lambda: setattr(norm, "relu", not norm.relu),
            "calibrate": lambda: calibrate(model, images(2, 32, 32) // 3),
        }
    return changes


@pytest.mark.parametrize("name", SMALL)
def test_what_eval_mode_keeps_is_never_stale(name):
    model = build(name, classes=5, width="1/4", seed=3)
    x = images(2, 32, 32)
    calibrate(model, x)
    model.eval()
    for change, apply in _changes(model).items():
        before = _logits(model, x)
        assert (_logits(model, x) == before).all()
        apply()
        found = _logits(model, x)
        with record(model):  # folds everything anew
            expected = _logits(model, F.quantize_image(x))
        assert (found == expected).all(), change
        assert (found != before).any(), change


def test_what_eval_mode_keeps_serves_several_sizes_and_is_not_copied():
    model = build("deeplab-mini", classes=5, width="1/4", seed=3)
    sizes = [(32, 32), (64, 48), (33, 41), (32, 32)]
    calibrate(model, images(2, 32, 32))
    model.eval()
    xs = [images(2, *size) for size in sizes]
    kept = [_logits(model, x) for x in xs]
    layer = next(m for m in model.modules() if m.__class__.__name__ == "Conv2d")
    assert layer.prepared is not None
    twin = copy.deepcopy(model)
    assert all(getattr(m, "prepared", None) is None for m in twin.modules())
    for x, found in zip(xs, kept, strict=True):
        with kernels.use(plain):
            assert (_logits(model, x) == found).all()
        assert (_logits(twin, x) == found).all()
    model.train()
    assert layer.prepared is None


def test_recording_needs_eval_mode_and_one_input():
    model = build("fcn-mini", classes=3, width="1/4")
    with pytest.raises(ValueError, match="eval mode"), record(model):
        pass
    model.eval()
    a, b = (IntTensor(torch.zeros(1, 2, 3, 3, dtype=torch.int8), 0) for _ in range(2))
    options = dict(shift_a=0, shift_b=0, shift=0, low=-127, high=127)
    with record(model), pytest.raises(ValueError, match="one input"):
        graph_op("add", "n", [a, b], 0, options, {})


@pytest.mark.parametrize("name", SMALL)
def test_folded_batch_norm_predicts_what_training_mode_computes(name):
    """Running statistics of one batch, then the same batch: codes differ by roundings only."""
    model = build(name, classes=5, width="1/4", seed=3)
    x = images(4, 32, 32)
    calibrate(model, x)
    model.train()
    with torch.no_grad():
        before = model(x)
    model.eval()
    with torch.no_grad():
        after = model(x)
    a = before.to_float()
    b = after.to_float()
    assert float((a - b).abs().mean()) < 0.12 * float(a.std()) + 2.0**after.exponent


# --- training ---------------------------------------------------------------------------------


class NoFloats(TorchDispatchMode):
    """Refuses every operator with a floating tensor among its arguments or results."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def check(self, func, value):
        if isinstance(value, IntTensor):
            for codes, _ in value.terms:
                self.check(func, codes)
        elif isinstance(value, torch.Tensor):
            if value.dtype.is_floating_point or value.dtype.is_complex:
                raise AssertionError(f"{func} has a tensor of {value.dtype}")
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.check(func, item)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(str(func))
        self.check(func, (args, tuple((kwargs or {}).values())))
        if (kwargs or {}).get("dtype") is not None:
            assert not kwargs["dtype"].is_floating_point, func
        result = func(*args, **(kwargs or {}))
        self.check(func, result)
        return result


@pytest.mark.parametrize("chosen", [plain, native], ids=["plain", "native"])
@pytest.mark.parametrize("name", SMALL)
def test_no_floating_tensor_between_input_and_metrics(name, chosen):
    if chosen is native and not native.available():
        pytest.skip("no C compiler")
    model = build(name, classes=5, width="1/4", seed=3)
    x, y = images(2, 32, 32), labels(2, 32, 32, 5)
    optimizer, loss = SGD(model.named_parameters(), seed=1), SoftmaxCrossEntropy()
    rate = Schedule(rate="1/10", steps=3).at(0)
    watch = NoFloats()
    with kernels.use(chosen), watch:
        for _ in range(2):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step(rate)
        model.eval()
        predict(model, x)
    assert ("aten._int_mm.default" in watch.seen) == (chosen is plain)
    assert all(p.grad is not None and p.grad.codes.any() for p in model.parameters())


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(error_bits=16, error_rounding="stochastic", norm="l2", magnitude=False),
        Recipe(error_bits=9, master_bits=24),
    ],
    ids=["16-stochastic-l2-dropped", "9-diffusion-24"],
)
def test_no_floating_tensor_in_a_variant(recipe):
    model = build("deeplab-mini", classes=5, width="1/8", seed=3)
    x, y = images(2, 32, 32), labels(2, 32, 32, 5)
    apply_recipe(model, recipe)
    optimizer = SGD(model.named_parameters(), seed=1, recipe=recipe)
    with NoFloats():
        SoftmaxCrossEntropy()(model(x), y).backward()
        optimizer.step(Schedule(rate="1/100", steps=3).at(0))


def test_the_watch_sees_floats():
    with NoFloats(), pytest.raises(AssertionError, match="float32"):
        torch.zeros(2) + 1


def step(model, x, y, seed=5):
    optimizer, loss = SGD(model.named_parameters(), seed=seed), SoftmaxCrossEntropy()
    schedule = Schedule(rate="1/10", steps=3)
    for number in range(3):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step(schedule.at(number))
    return weights_digest(model)


@pytest.mark.parametrize("name", SMALL)
def test_bytes_do_not_depend_on_threads_kernels_or_what_came_before(name):
    x, y = images(3, 32, 40), labels(3, 32, 40, 5)
    threads, found = torch.get_num_threads(), []
    modules = [plain, native] if native.available() else [plain]
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for chosen in modules:
                with kernels.use(chosen):
                    found.append(step(build(name, classes=5, width="1/4", seed=2), x, y))
    finally:
        torch.set_num_threads(threads)
    assert len(set(found)) == 1
    assert found[0] != step(build(name, classes=5, width="1/4", seed=2), x, y, seed=6)


def test_gradients_of_two_passes_add_up_and_models_can_be_copied():
    model = build("fcn-mini", classes=3, width="1/4", seed=1)
    twice = copy.deepcopy(model)
    x, y = images(2, 16, 16), labels(2, 16, 16, 3)
    loss = SoftmaxCrossEntropy()
    loss(model(x), y).backward()
    for _ in range(2):
        loss(twice(x), y).backward()
    for a, b in zip(model.parameters(), twice.parameters(), strict=True):
        assert isinstance(b, torch.nn.Parameter)
        assert torch.equal(2 * a.grad.codes.to(torch.int64), b.grad.codes)
    state = model.state_dict()
    other = build("fcn-mini", classes=3, width="1/4", seed=9)
    other.load_state_dict(state)
    assert weights_digest(other) == weights_digest(model)


# --- construction -----------------------------------------------------------------------------


def test_normal_master_has_the_standard_deviation_and_headroom():
    master = normal_master((64, 32, 3, 3), 0.0589, 4, 1)
    values = master.to_float()
    assert float(values.std()) == pytest.approx(0.0589, rel=0.01)
    assert abs(float(values.mean())) < 0.001
    assert int(master.codes.abs().max()) <= 1 << 14
    assert torch.equal(master.codes, normal_master((64, 32, 3, 3), 0.0589, 4, 1).codes)


def test_bilinear_master_interpolates():
    weight = bilinear_master((2, 2, 4, 4), 2).to_float()
    assert weight[0, 0, 1].tolist() == [0.1875, 0.5625, 0.5625, 0.1875]
    assert float(weight[0, 1].abs().max()) == 0
    x = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 3, 4)
    y = torch.nn.functional.conv_transpose2d(x, weight[:1, :1], stride=2, padding=1)
    expected = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    assert torch.equal(y[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


@pytest.mark.parametrize("name", SMALL)
def test_twin_starts_from_the_same_weights(name):
    model = build(name, classes=5, width="1/4", seed=3)
    floats = dict(build_twin(model).named_parameters())
    assert set(floats) == {n for n, _ in model.named_parameters()}
    for n, p in model.named_parameters():
        assert floats[n].dtype == torch.float32
        assert torch.equal(floats[n].detach().to(torch.float64), p.to_float())


@pytest.mark.parametrize("name, low, high", [("deeplab-mini", 2e5, 5e5), ("fcn-mini", 2e5, 5e5)])
def test_size_of_the_networks(name, low, high):
    model = build(name, classes=11)
    assert low < sum(p.numel() for p in model.parameters()) < high
    for module in model.modules():
        if hasattr(module, "running_mean"):
            assert len(module.running_mean) % 8 == 0


def test_what_is_refused():
    with pytest.raises(IntaglioError, match="'unet' is unknown; choose from deeplab-mini, fcn-mi"):
        build("unet", classes=3)
    with pytest.raises(IntaglioError, match=r"classes must be in \[2, 150\], not 1"):
        build("fcn-mini", classes=1)
    for width in (100, "x", "1/0", float("nan")):
        with pytest.raises(IntaglioError, match=rf"in \[1/8, 8\], such as 1/4, not {width}"):
            build("fcn-mini", classes=3, width=width)
    model = build("fcn-mini", classes=3, width="1/4")
    with pytest.raises(IntaglioError, match="height must be a positive multiple of 8, not 36"):
        check_size(model, 36, 40)


def backward(model):
    """Differentiate the loss of always the same batch."""
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=g)
    y = torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8, generator=g)
    SoftmaxCrossEntropy()(model(x), y).backward()


def test_gradients_take_one_byte_for_each_weight_and_any_slices_give_the_same(monkeypatch):
    found = []
    for size in (1 << 23, 1000, 1):  # whole, some rows, one row at a time
        monkeypatch.setattr("intaglio.train.optimizer.SLICE", size)
        model = build("fcn-mini", classes=3, width="1/4", seed=1)
        optimizer = SGD(model.named_parameters(), seed=1)
        for step in range(3):
            optimizer.zero_grad()
            backward(model)
            for p in model.parameters():
                if p.dim() == 4:
                    assert p.grad.codes.dtype == torch.int8
                    assert len(p.grad.terms) == 1 and p.grad.codes.is_contiguous()
            if step == 1:  # a guess that is far off changes nothing
                for state in optimizer._states.values():
                    state.scale, state.maxima[:] = 1000, [1, 1, 1]
            optimizer.step(Schedule(rate="1/20", steps=3).at(step))
            for p in model.parameters():
                assert p.grad.codes.dtype == (torch.int8 if p.dim() == 4 else torch.int16)
        found.append(weights_digest(model))
    assert len(set(found)) == 1


def test_a_second_backward_pass_before_the_step_is_refused():
    model = build("fcn-mini", classes=3, width="1/4", seed=1)
    optimizer = SGD(model.named_parameters(), seed=1)
    backward(model)
    with pytest.raises(RuntimeError, match="a backward pass on top of another one"):
        backward(model)
    optimizer.zero_grad()
    backward(model)
    before = {n: p.grad.codes.clone() for n, p in model.named_parameters()}
    younger = SGD(model.named_parameters(), seed=1)  # takes the parameters over
    optimizer.zero_grad()
    backward(model)
    assert all(torch.equal(before[n], p.grad.codes) for n, p in model.named_parameters())
    assert all(s.gradient is None for s in optimizer._states.values())
    del younger
    for p in model.parameters():
        p.grad = None
    backward(model)
    assert all(p.grad.codes.dtype in (torch.int32, torch.int64) for p in model.parameters())


@pytest.mark.parametrize("forget", ["zero_grad", "by hand"])
def test_a_pass_that_ends_in_an_error_leaves_nothing_behind(monkeypatch, forget):
    monkeypatch.setattr("intaglio.train.optimizer.TOGETHER", 3)
    found = []
    for fails in (False, True):
        model = build("fcn-mini", classes=3, width="1/4", seed=1)
        optimizer = SGD(model.named_parameters(), seed=1)
        weights = [p for p in model.parameters() if p.dim() == 4]
        if fails:
            # Gradients arrive from the last layer on: some are quantised, and some wait.
            handle = weights[-6].register_hook(lambda _: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                backward(model)
            handle.remove()
            assert optimizer._waiting
            for p in model.parameters() if forget == "by hand" else ():
                p.grad = None
            if forget == "zero_grad":
                optimizer.zero_grad()
        backward(model)
        if forget == "zero_grad":
            assert all(p.grad.codes.dtype == torch.int8 for p in weights)
        optimizer.step(Schedule(rate="1/20", steps=3).at(0))
        found.append([p.codes for p in model.parameters()])  # running statistics know both passes
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_vectors_refuse_a_second_pass_too_and_take_gradients_that_are_set_by_hand():
    model = build("fcn-mini", classes=3, width="1/4", seed=1)
    for p in model.parameters():
        p.requires_grad_(p.dim() != 4)
    optimizer = SGD(model.named_parameters(), seed=1)
    backward(model)
    with pytest.raises(RuntimeError, match="a backward pass on top of another one"):
        backward(model)
    optimizer.zero_grad()
    name, chosen = next((n, p) for n, p in model.named_parameters() if p.dim() != 4)
    chosen.grad = IntTensor(torch.arange(chosen.numel(), dtype=torch.int32) << 16, -40)
    optimizer.step(Schedule(rate="1/20", steps=3).at(0))
    assert chosen.grad.codes.dtype == torch.int16
    moved = {n for n, (codes, _) in optimizer.momenta.items() if codes.any()}
    assert moved == {name}


def test_a_frozen_parameter_leaves_its_older_optimiser():
    model = build("fcn-mini", classes=3, width="1/4", seed=1)
    older = SGD(model.named_parameters(), seed=1)
    name, frozen = next(iter(model.named_parameters()))
    frozen.requires_grad_(False)
    younger = SGD(model.named_parameters(), seed=2)
    backward(model)
    assert frozen.grad is None
    before = frozen.codes.clone()
    younger.step(Schedule(rate="1/20", steps=3).at(0))
    assert torch.equal(frozen.codes, before)
    frozen.requires_grad_(True)
    younger.zero_grad()
    backward(model)
    assert older._states[name].gradient is None
    younger.step(Schedule(rate="1/20", steps=3).at(1))
    assert frozen.grad.codes.dtype == torch.int8 and not torch.equal(frozen.codes, before)


def test_a_model_that_trains_can_be_saved_whole():
    model = build("deeplab-mini", classes=3, width="1/4", seed=1)
    optimizer = SGD(model.named_parameters(), seed=1)
    backward(model)
    optimizer.step(Schedule(rate="1/20", steps=3).at(0))
    x = images(1, 16, 16)
    expected = predict(model.eval(), x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert weights_digest(other) == weights_digest(model)
    assert torch.equal(predict(other, x), expected)
    optimizer = SGD(other.named_parameters(), seed=1)
    backward(other.train())
    for name, parameter in other.named_parameters():
        assert parameter.grad is optimizer._states[name].gradient is not None


def test_a_graph_is_differentiated_once():
    model = build("fcn-mini", classes=3, width="1/4", seed=1)
    loss = SoftmaxCrossEntropy()(model(images(2, 16, 16)), labels(2, 16, 16, 3))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a graph is differentiated once"):
        loss.backward()
