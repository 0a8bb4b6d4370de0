"""The repository as a package: what an installation elsewhere needs is declared here."""

import ast
import doctest
import importlib
import pkgutil
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import intaglio.spec

ROOT = Path(__file__).resolve().parent.parent
ROOTS = {"sw": "intaglio", "hw": "intaglio_hw", "sim": "intaglio_sim"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources() -> list[Path]:
    """Return the Python files of the three packages."""
    return [path for root, name in ROOTS.items() for path in (ROOT / root / name).rglob("*.py")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(texts: list[str]) -> set[str]:
    found = {re.match(r"[A-Za-z0-9._-]+", text) for text in texts}
    return {normal(match.group()) for match in found if match}


def test_every_source_is_in_a_package() -> None:
    files = sources()
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(ROOTS)
    for path in files:
        folder = path.parent
        while folder.parent != ROOT:
            assert (folder / "__init__.py").is_file(), f"{folder} is not a package: not installed"
            folder = folder.parent


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_every_data_file_is_installed(root: str, package: str) -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    top = ROOT / root / package
    covered = {path for glob in data[package] for path in top.glob(glob)}
    covered |= {path for glob in data["*"] for path in top.rglob(glob)}
    for path in top.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert path in covered, f"{path.relative_to(ROOT)} matches no pattern of package-data"


def test_every_import_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    declared = requirement_names(PROJECT["project"]["dependencies"])
    declared |= requirement_names([text for texts in extras.values() for text in texts])
    providers = packages_distributions()
    known = set(sys.stdlib_module_names) | set(ROOTS.values())
    seen = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - known:
                seen.add(top)
                owners = {normal(owner) for owner in providers.get(top, [top])}
                assert owners & declared, f"{path.relative_to(ROOT)} imports {top}: not declared"
    assert "numpy" in seen


def test_every_direct_dependency_is_locked() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = requirement_names(PROJECT["project"]["dependencies"])
    wanted |= requirement_names([text for texts in extras.values() for text in texts])
    assert wanted - {"intaglio"} <= set(pins)
    assert pins["torch"] == "2.13.0"
    assert not [pin for pin in pins.values() if "+" in pin], "a local build is one machine's choice"


def test_examples_in_the_definition() -> None:
    attempted = 0
    for module in pkgutil.walk_packages(intaglio.spec.__path__, "intaglio.spec."):
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, f"{module.name}: {result.failed} examples fail"
        attempted += result.attempted
    assert attempted > 0
