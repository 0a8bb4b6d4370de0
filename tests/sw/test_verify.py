"""``verify``: what it counts, and where it stops."""

import numpy as np
import pytest

from intaglio.spec.errors import IntaglioError
from intaglio_sim import executors
from intaglio_sim.executors import Network
from intaglio_sim.random_graph import random_graph, random_input
from intaglio_sim.verify import verify


@pytest.fixture
def network():
    return Network(graph=random_graph(3, layers=3))


@pytest.fixture
def images(network):
    return [random_input(network.graph, seed)[0] for seed in range(3)]


@pytest.fixture
def ran(monkeypatch):
    """Two more executors that note their runs: ``good``, and ``broken``, with one byte changed."""
    order = []

    def note(name, broken):
        def make(network):
            correct = executors.make_executor("spec", network)

            def run(image):
                order.append(name)
                layers = {key: array.copy() for key, array in correct(image).items()}
                if broken:
                    layers[list(layers)[1]].flat[0] ^= 1
                return layers

            return run

        return make

    monkeypatch.setitem(executors._MAKERS, "broken", note("broken", True))
    monkeypatch.setitem(executors._MAKERS, "good", note("good", False))
    return order


def nbytes(network):
    return sum(int(np.prod(value.shape[1:])) for value in network.graph.values.values())


def test_counts_every_byte_of_each_executor(network, images, ran):
    result = verify(network, images, ["spec", "good"])
    assert (result.images, result.mismatches, result.first_mismatch) == (3, 0, "")
    assert result.bytes_compared == 3 * nbytes(network)
    assert len(result.class_maps) == 3


def test_stops_at_the_first_difference(network, images, ran):
    told = []
    result = verify(network, images, ["spec", "good", "broken", "golden"], progress=told.append)
    assert ran == ["good", "broken"]
    assert result.images == 1
    assert result.mismatches_of == {"good": 0, "broken": 1, "golden": 0}
    one = nbytes(network)
    assert result.compared_of == {"good": one, "broken": one, "golden": 0}
    second = list(network.graph.values)[1]
    assert result.first_mismatch.startswith(f"image 0: layer {second}: channel 0, row 0, column 0")
    assert told[-1] == result.first_mismatch


def test_keep_going_compares_all(network, images, ran):
    result = verify(network, images, ["spec", "broken", "good"], keep_going=True)
    assert ran == ["broken", "good"] * 3
    assert (result.images, result.mismatches) == (3, 3)
    assert result.bytes_compared == 2 * 3 * nbytes(network)


@pytest.mark.parametrize(
    ("names", "text"),
    [(["spec"], "at least two"), (["spec", "spec"], "twice"), (["spec", "gold"], "'gold'")],
)
def test_refuses(network, images, names, text):
    with pytest.raises(IntaglioError, match=text):
        verify(network, images, names)
