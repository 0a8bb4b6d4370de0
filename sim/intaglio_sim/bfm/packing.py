"""Structured payloads as the packed vectors that Verilog ports are."""

from collections.abc import Mapping, Sequence

import numpy as np
from amaranth.hdl import Shape, ShapeCastable
from amaranth.lib import data

__all__ = ["pack", "row_to_int", "unpack"]


def pack(layout, value) -> int:
    """Return ``value`` as the bits of ``layout``.

    ``layout`` is an Amaranth shape or a (nested) ``data.Layout``; ``value`` an integer, or a
    mapping or sequence with a value for each field.

    Raises
    ------
    ValueError
        A field is missing or unknown, or a value does not fit.
    """
    if isinstance(layout, data.Layout):
        if isinstance(value, (int, np.integer)):
            return _checked(int(value), Shape.cast(layout), "payload")
        pairs = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
        word = 0
        for key, field in layout:
            if key not in pairs:
                raise ValueError(f"no value for field {key!r}")
            word |= pack(field.shape, pairs.pop(key)) << field.offset
        if pairs:
            raise ValueError(f"unknown fields {', '.join(map(repr, pairs))}")
        return word
    return _checked(int(value), Shape.cast(layout), "value")


def _checked(value: int, shape: Shape, what: str) -> int:
    low = -(1 << (shape.width - 1)) if shape.signed and shape.width else 0
    high = (1 << (shape.width - shape.signed)) - 1 if shape.width else 0
    if not low <= value <= high:
        raise ValueError(f"{what} must be in [{low}, {high}], not {value}")
    return value & ((1 << shape.width) - 1)


def unpack(layout, word: int):
    """Return the fields in ``word``: a dict (struct), a list (array) or an integer."""
    if isinstance(layout, data.Layout):
        parts = {
            key: unpack(field.shape, (word >> field.offset) & ((1 << field.width) - 1))
            for key, field in layout
        }
        return (
            [parts[i] for i in range(len(parts))] if isinstance(layout, data.ArrayLayout) else parts
        )
    if isinstance(layout, ShapeCastable):
        return word
    shape = Shape.cast(layout)
    if shape.signed and word >> (shape.width - 1):
        word -= 1 << shape.width
    return word


def row_to_int(row: np.ndarray | Sequence[int] | bytes | int) -> int:
    """Return a scratchpad row (numpy vector, bytes) as one little-endian number."""
    if isinstance(row, (int, np.integer)):
        return int(row)
    if isinstance(row, np.ndarray):
        row = np.ascontiguousarray(row).tobytes()
    return int.from_bytes(bytes(row), "little")
