"""Order of the tests, cheap ones that explain the most first; the same numbers each time."""

from pathlib import Path
from typing import Any

import pytest

#: Folders under tests/, from the definition to the whole chain; others come after them.
ORDER = ("spec", "sw", "hw", "rtl", "e2e")
HERE = Path(__file__).resolve().parent
#: Module -> state of its generator ``RNG`` before the first of its tests.
STATES: dict[str, Any] = {}


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(HERE).parts[0]
    if folder.endswith(".py"):
        return -1  # tests/test_*.py: about the repository itself
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)  # stable: inside a folder the order stays


@pytest.fixture(autouse=True)
def _same_numbers(request: pytest.FixtureRequest) -> None:
    """Let each test draw the same numbers from its module's ``RNG``, whichever ran before it."""
    rng = getattr(request.module, "RNG", None)
    if rng is not None:
        generator = rng.bit_generator
        generator.state = STATES.setdefault(request.module.__name__, generator.state)
