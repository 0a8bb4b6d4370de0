"""Finds the first difference between two executions, and names it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Mismatch",
    "Region",
    "assert_equal_memories",
    "compare_layers",
    "compare_memories",
    "count_mismatches",
]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """The first difference: layer, position in it, both values, and how many there are.

    ``channel``, ``row``, ``column`` are -1 where the layer has no such dimension.
    """

    layer: str
    channel: int
    row: int
    column: int
    expected: int
    actual: int
    count: int
    total: int
    names: tuple[str, str] = ("expected", "actual")

    def __str__(self) -> str:
        place = ", ".join(
            f"{name} {value}"
            for name, value in (
                ("channel", self.channel),
                ("row", self.row),
                ("column", self.column),
            )
            if value >= 0
        )
        return (
            f"layer {self.layer}: {place}: {self.names[0]} {self.expected}, "
            f"{self.names[1]} {self.actual} ({self.count} of {self.total} differ)"
        )


@dataclass(frozen=True, kw_only=True)
class Region:
    """A named part of a memory: ``length`` bytes from ``offset``.

    With ``vector_bytes``, ``rows`` and ``columns`` it holds channel blocks of that many channels,
    and a difference is told as channel, row and column; otherwise as the byte's index in the
    column.
    """

    name: str
    offset: int
    length: int
    vector_bytes: int = 0
    rows: int = 0
    columns: int = 0


def compare_layers(
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    *,
    order: Sequence[str] | None = None,
    names: tuple[str, str] = ("expected", "actual"),
) -> Mismatch | None:
    """Return the first difference between two sets of layers, or None.

    Parameters
    ----------
    expected, actual
        Layer -> array; the last three dimensions are channel, row, column.
    order
        Layers in the order of computation, so that the first one named is the cause; by default the
        order of ``expected``.
    names
        What the two executions are called in the text.

    Raises
    ------
    ValueError
        A layer is missing in one of them, or has another shape: never a comparison of less.
    """
    order = list(expected) if order is None else list(order)
    for layer in order:
        if layer not in expected or layer not in actual:
            missing = names[0] if layer not in expected else names[1]
            raise ValueError(f"layer {layer!r} is missing in {missing}")
        left, right = np.asarray(expected[layer]), np.asarray(actual[layer])
        if left.shape != right.shape:
            raise ValueError(
                f"layer {layer!r} has shape {left.shape} in {names[0]}, {right.shape} in {names[1]}"
            )
        different = left != right
        if different.any():
            place = np.unravel_index(int(np.argmax(different)), different.shape)
            channel, row, column = (-1, -1, -1, *map(int, place))[-3:]
            return Mismatch(
                layer=layer,
                channel=channel,
                row=row,
                column=column,
                expected=int(left[place]),
                actual=int(right[place]),
                count=int(different.sum()),
                total=different.size,
                names=names,
            )
    return None


def count_mismatches(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> tuple[int, int]:
    """Return (values compared, values that differ) over the layers of ``expected``.

    Raises ValueError as :func:`compare_layers`.
    """
    compared = different = 0
    for layer, left in expected.items():
        mismatch = compare_layers({layer: left}, actual)
        compared += np.asarray(left).size
        different += 0 if mismatch is None else mismatch.count
    return compared, different


def compare_memories(
    expected: np.ndarray,
    actual: np.ndarray,
    regions: Sequence[Region] = (),
    *,
    names: tuple[str, str] = ("expected", "actual"),
) -> Mismatch | None:
    """Return the first difference between two memories of uint8, or None.

    Regions come first, in their order, then every other byte, as layer ``"memory"`` with the byte's
    offset as the column.

    Raises
    ------
    ValueError
        The memories differ in length, or a region does not lie in them.
    """
    if expected.shape != actual.shape:
        raise ValueError(f"memories of {expected.shape} and {actual.shape} bytes")
    different = expected != actual
    if not different.any():
        return None
    for region in regions:
        if region.offset < 0 or region.offset + region.length > len(expected):
            raise ValueError(f"region {region.name!r} does not lie in {len(expected)} bytes")
        part = slice(region.offset, region.offset + region.length)
        if not different[part].any():
            continue
        layers = []
        for memory in (expected, actual):
            array = memory[part].view(np.int8)
            if region.vector_bytes:  # blocks of channels, channel last
                array = array.reshape(-1, region.rows, region.columns, region.vector_bytes)
                array = array.transpose(0, 3, 1, 2).reshape(-1, region.rows, region.columns)
            layers.append({region.name: array})
        return compare_layers(*layers, names=names)
    return compare_layers({"memory": expected}, {"memory": actual}, names=names)


def assert_equal_memories(
    expected: np.ndarray,
    actual: np.ndarray,
    regions: Sequence[Region] = (),
    *,
    names: tuple[str, str] = ("expected", "actual"),
) -> None:
    """Raise AssertionError with the first difference between two memories."""
    mismatch = compare_memories(expected, actual, regions, names=names)
    if mismatch is not None:
        raise AssertionError(str(mismatch))
