"""Sites of the array's multipliers."""

import re

import pytest

from intaglio_hw.floorplan import fix_multipliers


def _design(lanes: int, width: int) -> dict:
    names = [
        f"u.array.lane{lane}.multiplier{i}.block.cell"
        for lane in range(lanes)
        for i in range(width)
    ]
    names.append("u.vector.requantizer.product_low_0.cell")
    cells = {name: {"type": "MULT18X18D", "attributes": {}} for name in names}
    cells["u.array.lane0.multiplier0.block.other"] = {"type": "TRELLIS_FF", "attributes": {}}
    return {"modules": {"harness": {"cells": cells}}}


@pytest.mark.parametrize(("lanes", "width"), [(16, 8), (8, 16), (8, 8), (1, 8), (4, 5)])
def test_a_lane_lies_in_a_row_beside_the_one_before(lanes, width) -> None:
    design = _design(lanes, width)
    assert fix_multipliers(design) == lanes * width
    cells = design["modules"]["harness"]["cells"]
    sites = {name: cell["attributes"]["BEL"] for name, cell in cells.items() if cell["attributes"]}
    assert len(set(sites.values())) == len(sites) == lanes * width
    assert not any("requantizer" in name or "other" in name for name in sites)
    places = {}
    for name, site in sites.items():
        lane = int(re.search(r"lane(\d+)", name)[1])
        x, y = map(int, re.match(r"X(\d+)/Y(\d+)/MULT18_[0145]$", site).groups())
        places.setdefault(lane, []).append((x, y))
    for lane in range(lanes):
        (y,) = {y for _, y in places[lane]}
        xs = [x for x, _ in places[lane]]
        assert max(xs) - min(xs) <= 9 * -(-width // 4) + 2
        if lane and y == places[lane - 1][0][1]:
            before = [x for x, _ in places[lane - 1]]
            assert min(abs(a - b) for a in xs for b in before) <= 9


def test_what_does_not_fit_is_left_to_the_placer() -> None:
    for lanes, width in ((16, 16), (19, 8), (0, 0)):
        design = _design(lanes, width)
        assert fix_multipliers(design) == 0
        cells = design["modules"]["harness"]["cells"].values()
        assert not any(cell["attributes"] for cell in cells)
