"""Sites of the array's multipliers, fixed before placement.

A placer that minimises wire length puts each lane where its neighbours pull it, and ends with lanes
that are spread over several rows of multiplier blocks: measured on an ECP5-85F, a seventh of the
clock. The lanes form a chain, so they are laid along it, as close as the blocks lie.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["fix_multipliers"]

#: A multiplier of the array in a flattened netlist.
_MULTIPLIER = re.compile(r"(?:^|\.)array\.lane(\d+)\.multiplier(\d+)\.block\.cell$")
#: ECP5-85F: rows of multiplier blocks, columns in which one begins, and its four multipliers.
_ROWS = (34, 58, 10)
_COLUMNS = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
_IN_BLOCK = ((0, "MULT18_0"), (1, "MULT18_1"), (4, "MULT18_4"), (5, "MULT18_5"))


def _blocks(columns: int) -> Iterator[list[tuple[int, int]]]:
    """Yield runs of ``columns`` neighbouring blocks (x, y), along a line that turns at the ends of
    rows.
    """
    for turn, y in enumerate(_ROWS):
        row = _COLUMNS if turn % 2 == 0 else _COLUMNS[::-1]
        for start in range(0, len(row) - columns + 1, columns):
            yield [(x, y) for x in row[start : start + columns]]


def fix_multipliers(design: Mapping[str, Any]) -> int:
    """Give the array's multipliers in a netlist for the ECP5-85F their sites.

    Parameters
    ----------
    design
        The JSON netlist of yosys, flattened; the attribute ``BEL`` is added to its cells.

    Returns
    -------
    int
        How many were fixed: all of them, or none where there are not enough sites in a row.
    """
    cells = [cell for module in design["modules"].values() for cell in module["cells"].items()]
    lanes: dict[int, dict[int, dict[str, Any]]] = {}
    for name, cell in cells:
        match = _MULTIPLIER.search(name)
        if match and cell["type"] == "MULT18X18D":
            lanes.setdefault(int(match[1]), {})[int(match[2])] = cell
    if not lanes:
        return 0
    width = max(map(len, lanes.values()))
    runs = list(_blocks(-(-width // len(_IN_BLOCK))))
    if len(runs) < len(lanes):
        return 0
    for (_, lane), run in zip(sorted(lanes.items()), runs, strict=False):
        sites = (f"X{x + dx}/Y{y}/{bel}" for x, y in run for dx, bel in _IN_BLOCK)
        for (_, cell), site in zip(sorted(lane.items()), sites, strict=False):
            cell["attributes"]["BEL"] = site
    return sum(map(len, lanes.values()))
