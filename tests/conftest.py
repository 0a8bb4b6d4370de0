"""Order of the tests: what is cheap and would explain the most runs first."""

from pathlib import Path

import pytest

#: Folders under tests/, from the definition to the whole chain; others come after them.
ORDER = ("spec", "sw", "hw", "rtl", "e2e")
HERE = Path(__file__).resolve().parent


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(HERE).parts[0]
    if folder.endswith(".py"):
        return -1  # tests/test_*.py: about the repository itself
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)  # stable: inside a folder the order stays
