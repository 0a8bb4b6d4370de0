"""The page: what it says, that it needs no network, and that names cannot break it."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from intaglio.compile import compile_graph
from intaglio.report.charts import curves, timeline
from intaglio.report.layers import layer_cycles, layer_table
from intaglio.report.page import Artifact, Picture, Training, render
from intaglio.spec.config import CONFIGS
from intaglio.spec.isa import Unit
from intaglio.spec.metrics import confusion_matrix, evaluate
from intaglio_sim.golden.cycles import CycleModel, Span
from intaglio_sim.random_graph import random_graph

CLASSES = ("road", "<sky> & more", "car")
PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)


class Tags(HTMLParser):
    """Collects tags and what they refer to, and checks that they are closed in order."""

    VOID = {"meta", "img", "link", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def compiled():
    graph = random_graph(3, layers=6)
    program = compile_graph(graph, CONFIGS["tiny-8x8"])
    return graph, program, CycleModel(config=program.config).run(program)


def training(**changes) -> Training:
    truth = np.array([[0, 1], [1, 2]])
    fields = {
        "name": "<b>mine</b>",
        "model": "fcn-mini",
        "data": "shapes",
        "size": (8, 16),
        "steps": 10,
        "batch": 2,
        "seed": 0,
        "parameters": 1234,
        "classes": CLASSES,
        "palette": PALETTE,
        "integers": evaluate(confusion_matrix(truth, np.array([[0, 1], [1, 1]]), 3)),
        "losses": {"integers": [(1, 2.0), (10, 1.0)]},
    }
    return Training(**{**fields, **changes})


def verification(compiled, **changes):
    graph, program, timeline_ = compiled
    fields = {
        "layers": 6,
        "bytes_compared": 98765,
        "mismatches": 0,
        "executors": ["spec", "golden"],
        "first_mismatch": "",
        "comparisons": [
            {
                "name": "golden",
                "compared_with": "spec",
                "size": [8, 16],
                "images": 1,
                "bytes_compared": 98765,
                "mismatches": 0,
            }
        ],
        "config": program.config.name,
        "layer_size": [8, 16],
        "layer_table": layer_table(graph, program, timeline_, measured=timeline_.spans),
    }
    return {**fields, **changes}


SYNTHESIS = {
    "board": "ulx3s-85f",
    "family": "ecp5",
    "device": "85k",
    "config": "tiny-8x8",
    "fmax_mhz": 101.25,
    "seeds": [{"seed": 1, "fmax_mhz": 101.25}],
    "mac_per_cycle": 64,
    "peak_gops": 12.96,
    "resources": {"lut": 41820, "ff": 11, "dsp": 12, "bram": 13},
    "available": {"lut": 83640, "ff": 83640, "dsp": 156, "bram": 208},
    "components": {"array": {"lut": 41820, "ff": 11, "dsp": 12, "bram": 13}},
}


def test_a_whole_page(compiled) -> None:
    graph, _, timeline_ = compiled
    mask = np.array([[0, 1, 2, 255]] * 4, np.uint8)
    page = render(
        training(floats=evaluate(confusion_matrix(mask % 3, mask % 3, 3))),
        artifacts=[Artifact(name="model.onnx", command="intaglio freeze", digest="ab" * 32)],
        pictures=[
            Picture(
                name="a",
                image=np.zeros((4, 4, 3), np.uint8),
                truth=mask,
                integers=mask,
                floats=mask,
            )
        ],
        verification=verification(compiled),
        synthesis=SYNTHESIS,
        spans={"cycle model": timeline_.spans},
    )
    tags = Tags(page)
    text = " ".join(tags.text)
    assert all(reference.startswith("data:") for reference in tags.references)
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\((?!data:)", page)
    assert len(tags.references) == 4
    for node in graph.nodes:
        assert node.name in text
    for found in ("<b>mine</b>", "<sky> & more", "ab" * 32, "98,765", "101.2", "41,820", "50 %"):
        assert found in text, found
    assert "0.00 % off the RTL" in text, "measured and modelled are the same spans here"
    # Mean of IoU 1, 2/3, 0: the class that is never right counts.
    assert "55.6" in text


def test_the_chip() -> None:
    """Critical path, networks, seeds; a part is not called the whole."""
    synthesis = SYNTHESIS | {
        "critical_path": [{"component": "vector.walker", "delay_ns": 5.551}],
        "networks": {"fcn-mini": {"size": [8, 9], "images_per_s": 7.25, "sustained_gops": 1.5}},
    }
    text = " ".join(Tags(render(training(), artifacts=[], synthesis=synthesis)).text)
    for found in (
        "101.2 MHz (median of 101.2), 64 MAC per cycle, 13.0 GOPS peak",
        "Critical path: vector.walker 5.551 ns.",
        "fcn-mini at 8x9: 7.25 images per second, 1.50 GOPS",
        "whole accelerator",
    ):
        assert found in text, found
    part = SYNTHESIS | {"part": "array", "fmax_mhz": None, "error": "no route"}
    text = " ".join(Tags(render(training(), artifacts=[], synthesis=part)).text)
    assert "array of configuration tiny-8x8 alone" in text and "Not placed: no route." in text
    assert "whole accelerator" not in text


def test_what_is_missing_is_left_out() -> None:
    text = " ".join(Tags(render(training(), artifacts=[])).text)
    for heading in ("Pictures", "Verification", "Layers on the accelerator", "On the chip"):
        assert heading not in text
    assert "float32 twin" not in text.split("Training")[0]


def test_a_mismatch_stands_out(compiled) -> None:
    wrong = verification(compiled, mismatches=3, first_mismatch="layer conv1: channel 0")
    page = render(training(), artifacts=[], verification=wrong)
    assert 'class="big bad">3<' in page
    assert "First: layer conv1: channel 0." in page


def test_layers_add_up(compiled) -> None:
    graph, program, timeline_ = compiled
    rows = layer_table(graph, program, timeline_)
    assert [row["name"] for row in rows] == [node.name for node in graph.nodes]
    assert sum(row["model_cycles"] for row in rows) == max(s.end for s in timeline_.spans)
    assert sum(row["macs"] for row in rows) == timeline_.macs
    assert all(row["cycles"] is None for row in rows)
    bus = program.config.R * timeline_.counters["write_beats"]
    assert sum(row["written"] for row in rows) == bus
    shifted = [
        Span(s.index, s.unit, s.start, s.end + 5, s.offered, s.layer) for s in timeline_.spans
    ]
    measured = layer_table(graph, program, timeline_, measured=shifted)
    assert sum(row["cycles"] for row in measured) == 5 + max(s.end for s in timeline_.spans)


def test_layer_cycles_charge_what_moves_the_end(compiled) -> None:
    _, program, timeline_ = compiled
    first = next(name for name in program.layers if name)
    ends = layer_cycles(program, timeline_.spans)
    assert ends[first] == max(s.end for s in timeline_.spans if s.layer == first)


def test_curves_are_drawn_to_scale() -> None:
    svg = curves({"a": [(0, 0.0), (10, 4.0)], "b": [(0, 4.0), (10, 0.0)]}, label="loss & co")
    root = ElementTree.fromstring(svg)
    lines = [
        [tuple(map(float, point.split(","))) for point in element.get("points").split()]
        for element in root.iter("polyline")
    ]
    (a0, a1), (b0, b1) = lines
    assert a0[0] == b0[0] and a1[0] == b1[0] and a0[0] < a1[0]
    assert a0[1] == b1[1] and a1[1] == b0[1] and a1[1] < a0[1], "larger values are higher up"
    assert curves({}, label="x") == ""


def test_timeline_has_a_lane_for_each_unit() -> None:
    spans = [
        Span(0, Unit.LOAD, 0, 100, 0, "one"),
        Span(1, Unit.ARRAY, 100, 900, 100, "one"),
        Span(2, Unit.STORE, 900, 1000, 900, "two <3>"),
    ]
    root = ElementTree.fromstring(timeline({"model": spans}))
    drawn = {e.get("class"): e for e in root.iter("rect") if e.get("class") != "lane"}
    assert set(drawn) == {"u0a", "u1a", "u3b"}
    widths = {name: float(e.get("width")) for name, e in drawn.items()}
    assert widths["u1a"] == pytest.approx(8 * widths["u0a"], rel=0.01)
    assert drawn["u3b"].find("title").text == "two <3>: 900 to 1,000"
    assert timeline({"model": []}) == ""
