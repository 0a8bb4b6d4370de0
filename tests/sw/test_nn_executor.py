"""A frozen graph in PyTorch, without modules: the bytes of its definition."""

import numpy as np
import pytest
import torch

from intaglio.nn import GraphExecutor, kernels, to_graph
from intaglio.nn.kernels import native, plain
from intaglio.nn.models import build, calibrate, predict
from intaglio.spec.errors import IntaglioError
from intaglio_sim.random_graph import random_graph, random_input

KERNELS = [plain, *([native] if native.available() else [])]


def small_network():
    model = build("deeplab-mini", classes=5, width="1/4", seed=3)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 40), np.uint8)
    calibrate(model, torch.from_numpy(pixels))
    return model.eval(), torch.from_numpy(pixels)


@pytest.mark.parametrize("chosen", KERNELS, ids=lambda m: m.__name__.rpartition(".")[2])
@pytest.mark.parametrize("seed", range(12))
def test_every_value_of_a_random_graph(seed, chosen):
    graph, size = random_graph(seed), 2
    x = np.concatenate([random_input(graph, seed + i) for i in range(size)])
    expected = graph.evaluate(x)
    with kernels.use(chosen):
        executor = GraphExecutor(graph, outputs=tuple(graph.values))
    for _ in range(2):  # nothing of a call stays for the next
        found = executor(torch.from_numpy(x))
        for name, codes in zip(executor.outputs, found, strict=True):
            assert codes.numpy().dtype == expected[name].dtype
            assert (codes.numpy() == expected[name]).all(), name


def test_a_network_from_pixels_to_classes():
    model, pixels = small_network()
    graph = to_graph(model, height=32, width=40)  # of one image: the number is free
    classes, logits = GraphExecutor(graph)(pixels)
    assert (classes[:, 0] == predict(model, pixels)).all()
    with torch.no_grad():
        assert (logits == model(pixels).codes).all()
    codes = (pixels.to(torch.int16) - 128).to(torch.int8)
    (again,) = GraphExecutor(graph, outputs=graph.outputs[1:])(codes)
    assert (again == logits).all()


def test_only_what_is_asked_for_is_computed(monkeypatch):
    model, pixels = small_network()
    graph = to_graph(model, height=32, width=40)
    first = next(node for node in graph.nodes if node.op == "conv")
    # The other operations cannot even be prepared.
    made = []
    from intaglio.nn import executor as module

    inner = module._operation
    monkeypatch.setattr(module, "_operation", lambda n, d: made.append(n.name) or inner(n, d))
    (found,) = GraphExecutor(graph, outputs=[first.output])(pixels)
    assert made == [first.name]
    codes = (pixels.to(torch.int16) - 128).to(torch.int8).numpy()
    assert (found.numpy() == graph.evaluate(codes)[first.output]).all()


def test_results_belong_to_the_caller():
    model, pixels = small_network()
    graph = to_graph(model, height=32, width=40)
    executor = GraphExecutor(graph, outputs=tuple(graph.values))
    first = executor(pixels)
    kept = [x.clone() for x in first]
    executor(255 - pixels)
    assert all((a == b).all() for a, b in zip(first, kept, strict=True))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 32, 48, dtype=torch.uint8),
        torch.zeros(3, 32, 40, dtype=torch.uint8),
        torch.zeros(1, 3, 32, 40),
    ],
    ids=["size", "dimensions", "type"],
)
def test_wrong_images_are_refused(images):
    model, _ = small_network()
    executor = GraphExecutor(to_graph(model, height=32, width=40))
    with pytest.raises(ValueError, match=r"images must be uint8 or int8 \(N, 3, 32, 40\), not"):
        executor(images)


def test_an_unknown_value_is_named():
    with pytest.raises(IntaglioError, match="no value 'x9'"):
        GraphExecutor(random_graph(1), outputs=["x9"])
