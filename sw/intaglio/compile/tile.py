"""Tile geometry: which source rows and columns an output tile needs."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Span", "divisions", "split", "strided_span", "tiles", "window_span"]


@dataclass(frozen=True)
class Span:
    """Every ``step``-th source position of ``[start, stop)`` of one axis, and the position of
    output 0, tap 0 relative to the first, in steps.
    """

    start: int
    stop: int
    offset: int
    step: int = 1

    @property
    def positions(self) -> range:
        """Value of the source positions."""
        return range(self.start, self.stop, self.step)

    @property
    def size(self) -> int:
        """Value of the number of positions."""
        return len(self.positions)


def window_span(
    size: int, first: int, count: int, *, kernel: int, stride: int, dilation: int, before: int
) -> Span:
    """Return the part of a source axis of ``size`` that outputs ``first ... first + count - 1``
    need.

    Positions in the padding are left out. A window that lies in the padding altogether still gets
    one position, since a tile cannot be empty.
    """
    begin = first * stride - before
    end = begin + (count - 1) * stride + (kernel - 1) * dilation + 1
    start = min(max(begin, 0), size - 1)
    stop = max(min(end, size), start + 1)
    return Span(start, stop, begin - start)


def strided_span(size: int, first: int, count: int, *, stride: int, before: int) -> Span:
    """Return the positions of a source axis of ``size`` that a single tap of outputs ``first ...
    first + count - 1`` meets: one for each output, ``stride`` apart.

    Like :func:`window_span`, without the padding, and at least one position.
    """
    begin = first * stride - before
    skipped = max(0, -(begin // stride))  # outputs before the first position
    start = begin + skipped * stride
    if skipped >= count or start >= size:
        # All in the padding: the one position is not met.
        return Span(0, 1, -count, stride) if skipped else Span(size - 1, size, 1, stride)
    inside = min(count - skipped, (size - 1 - start) // stride + 1)
    return Span(start, start + (inside - 1) * stride + 1, -skipped, stride)


def split(total: int, most: int, step: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of nearly equal parts of ``total``, each of at most ``most``.

    Parts begin at multiples of ``step``; ``most`` is at least ``step``.
    """
    units = -(-total // step)
    parts = -(-units // (most // step))
    base, extra = divmod(units, parts)
    first = 0
    for part in range(parts):
        count = min((base + (part < extra)) * step, total - first)
        yield first, count
        first += count


def tiles(
    rows: int, cols: int, most_rows: int, most_cols: int, col_step: int = 1
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (row, rows, column, columns) of tiles that cover ``rows`` x ``cols``."""
    for row, tile_rows in split(rows, most_rows):
        for col, tile_cols in split(cols, most_cols, col_step):
            yield row, tile_rows, col, tile_cols


def divisions(total: int, step: int = 1) -> list[int]:
    """Return the largest parts, multiples of ``step``, that cut ``total`` into 1, 2, 3, ... equal
    parts.

    >>> divisions(15)
    [15, 8, 5, 4, 3, 2, 1]
    """
    units = -(-total // step)
    sizes = {-(-units // parts) for parts in range(1, units + 1)}
    return [size * step for size in sorted(sizes, reverse=True)]
