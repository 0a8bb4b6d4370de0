"""Tests that simulate Verilog carry the marker ``rtl``."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "simulator" in callspec.params:
            item.add_marker(pytest.mark.rtl)
