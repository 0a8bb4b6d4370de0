"""Compares what a component delivers with what was expected, item by item."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Scoreboard"]


class Scoreboard:
    """A queue of expected items.

    Parameters
    ----------
    expected
        The items in order; :meth:`expect` adds more.
    name
        Stands in the error texts.
    show
        Turns an item into text.

    ``checked`` counts comparisons. ``done`` is true when nothing is expected any more.
    """

    def __init__(
        self, expected: Iterable[Any] = (), *, name: str = "item", show: Callable[[Any], str] = repr
    ) -> None:
        self._expected = deque(expected)
        self._name, self._show = name, show
        self.checked = 0

    def expect(self, item: Any) -> None:
        """Add one expected item."""
        self._expected.append(item)

    def check(self, actual: Any, context: Any = None) -> None:
        """Compare ``actual`` with the next expected item.

        Raises
        ------
        AssertionError
            It differs, or nothing is expected; the text names the index, both items and
            ``context``.
        """
        about = "" if context is None else f" ({context})"
        if not self._expected:
            raise AssertionError(
                f"{self._name} {self.checked}{about}: got {self._show(actual)}, expected no more"
            )
        expected = self._expected.popleft()
        if actual != expected:
            raise AssertionError(
                f"{self._name} {self.checked}{about}: got {self._show(actual)}, "
                f"expected {self._show(expected)}"
            )
        self.checked += 1

    @property
    def done(self) -> bool:
        """Value of whether all that was expected has been seen."""
        return not self._expected

    @property
    def remaining(self) -> int:
        """Value of the items still expected."""
        return len(self._expected)

    def assert_drained(self, count: int | None = None) -> None:
        """Raise AssertionError unless everything was seen, ``count`` items if given.

        With no items at all it fails: a checker must not be happy with silence.
        """
        if self._expected:
            raise AssertionError(
                f"{self.remaining} more {self._name}s expected after {self.checked}"
            )
        if self.checked == 0 or (count is not None and self.checked != count):
            wanted = "at least one" if count is None else str(count)
            raise AssertionError(f"{self.checked} {self._name}s checked, not {wanted}")
