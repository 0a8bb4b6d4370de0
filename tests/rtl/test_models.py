"""Scoreboard, stimulus, packing, comparison: the parts of the benches that need no simulator."""

import random

import numpy as np
import pytest
from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from intaglio_sim import stimulus
from intaglio_sim.bfm.packing import pack, row_to_int, unpack
from intaglio_sim.diff import (
    Region,
    assert_equal_memories,
    compare_layers,
    compare_memories,
    count_mismatches,
)
from intaglio_sim.scoreboard import Scoreboard


def test_scoreboard_counts_and_drains():
    board = Scoreboard([1, 2], name="pixel", show=hex)
    board.check(1)
    assert not board.done and board.remaining == 1 and board.checked == 1
    with pytest.raises(AssertionError, match="1 more pixels expected after 1"):
        board.assert_drained()
    with pytest.raises(AssertionError, match=r"pixel 1 \(row 3\): got 0xff, expected 0x2"):
        board.check(255, "row 3")
    with pytest.raises(AssertionError, match="pixel 1: got 0x0, expected no more"):
        board.check(0)


def test_scoreboard_is_not_happy_with_silence():
    with pytest.raises(AssertionError, match="0 items checked, not at least one"):
        Scoreboard().assert_drained()
    board = Scoreboard()
    board.expect("a")
    board.check("a")
    board.assert_drained(1)
    with pytest.raises(AssertionError, match="1 items checked, not 2"):
        board.assert_drained(2)


def test_a_quarter_of_the_stimulus_are_edges():
    values = stimulus.integers(random.Random(1), 8000, bits=16)
    known = stimulus.edges(16)
    assert {-(1 << 15), (1 << 15) - 1, 0, 1, -1} <= set(known) <= set(values)
    share = sum(value in known for value in values) / len(values)
    assert 0.22 < share < 0.28
    assert min(values) == -(1 << 15) and max(values) == (1 << 15) - 1
    assert values == stimulus.integers(random.Random(1), 8000, bits=16)


@pytest.mark.parametrize("bits", [1, 2, 8, 48])
@pytest.mark.parametrize("is_signed", [False, True])
def test_edges_fit(bits, is_signed):
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)
    found = stimulus.edges(bits, signed=is_signed)
    assert found[0] == low and found[-1] == high and found == sorted(set(found))


def test_ties_are_hit():
    values = stimulus.near_ties(random.Random(2), 1000, shift=5, bits=20)
    assert sum(value % 32 == 16 for value in values) > 300
    assert {value % 32 for value in values} == {15, 16, 17}
    assert stimulus.near_ties(random.Random(2), 3, shift=0, bits=4)


def test_matrix_types():
    array = stimulus.matrix(random.Random(3), (5, 7), bits=8)
    assert array.dtype == np.int8 and array.shape == (5, 7)
    assert stimulus.matrix(random.Random(3), (2,), bits=32, signed=False).dtype == np.uint32


def test_packing():
    layout = data.StructLayout(
        {
            "a": 3,
            "b": signed(5),
            "c": data.ArrayLayout(unsigned(4), 2),
            "d": data.StructLayout({"e": 1}),
        }
    )
    value = {"a": 5, "b": -3, "c": [1, 15], "d": {"e": 1}}
    word = pack(layout, value)
    assert word == 5 | (29 << 3) | (1 << 8) | (15 << 12) | (1 << 16)
    assert unpack(layout, word) == value
    assert word == layout.const(value).as_value().value  # Amaranth's own packing
    with pytest.raises(ValueError, match=r"must be in \[-16, 15\], not 16"):
        pack(layout, value | {"b": 16})
    with pytest.raises(ValueError, match="no value for field 'a'"):
        pack(layout, {"b": 1})
    with pytest.raises(ValueError, match="unknown fields 'x'"):
        pack(layout, value | {"x": 1})


def test_rows():
    assert row_to_int(np.array([1, -1], np.int8)) == 0xFF01
    assert row_to_int(np.array([1, -2], np.int32)) == 0xFFFFFFFE_00000001
    assert row_to_int(np.arange(8, dtype=np.uint8)[::2]) == 0x06040200


def test_the_first_difference_is_named():
    a = {"conv": np.zeros((2, 3, 4), np.int8), "pool": np.ones((2, 2, 2), np.int8)}
    b = {name: array.copy() for name, array in a.items()}
    assert compare_layers(a, b) is None and count_mismatches(a, b) == (32, 0)
    b["pool"][0, 0, 0] = 9
    b["conv"][1, 2, 3], b["conv"][1, 0, 2] = 5, -7
    found = compare_layers(a, b, names=("golden", "icarus"))
    assert str(found) == (
        "layer conv: channel 1, row 0, column 2: golden 0, icarus -7 (2 of 24 differ)"
    )
    assert compare_layers(a, b, order=["pool"]).layer == "pool"
    assert count_mismatches(a, b) == (32, 3)


def test_less_is_never_compared():
    a = {"conv": np.zeros((2, 3), np.int8)}
    with pytest.raises(ValueError, match="layer 'conv' is missing in actual"):
        compare_layers(a, {})
    with pytest.raises(ValueError, match="layer 'x' is missing in expected"):
        compare_layers(a, a, order=["x"])
    with pytest.raises(ValueError, match=r"shape \(2, 3\) in expected, \(2, 2\) in actual"):
        compare_layers(a, {"conv": np.zeros((2, 2), np.int8)})
    with pytest.raises(ValueError, match="memories of"):
        compare_memories(np.zeros(3, np.uint8), np.zeros(4, np.uint8))


def test_memories_by_region():
    rows, columns, lanes = 3, 5, 8
    a = np.zeros(1000, np.uint8)
    regions = [
        Region(name="first", offset=0, length=16),
        Region(name="map", offset=64, length=2 * rows * columns * lanes, vector_bytes=lanes,
               rows=rows, columns=columns),
    ]  # fmt: skip
    b = a.copy()
    assert compare_memories(a, b, regions) is None
    b[64 + ((1 * rows + 2) * columns + 4) * lanes + 3] = 255
    b[20] = 1  # in no region: the regions come first
    found = compare_memories(a, b, regions)
    assert (found.layer, found.channel, found.row, found.column) == ("map", 11, 2, 4)
    assert (found.expected, found.actual, found.count, found.total) == (0, -1, 1, 240)
    found = compare_memories(a, b)
    assert (found.layer, found.channel, found.row, found.column) == ("memory", -1, -1, 20)
    with pytest.raises(AssertionError, match="layer map: channel 11, row 2, column 4: expected 0"):
        assert_equal_memories(a, b, regions)
    with pytest.raises(ValueError, match="region 'far' does not lie in 1000 bytes"):
        compare_memories(a, b, [Region(name="far", offset=999, length=2)])
