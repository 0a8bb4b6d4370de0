"""The tests here import ``chain`` from their own folder; the tiny run is made once."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from chain import TINY, intaglio, make_camvid


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="session")
def run(tmp_path_factory, data):
    """A run folder with everything that train, freeze, compile and verilog make."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    for words in (
        ("train", "--data", data, *TINY, "--steps", 3, "--twin", "--out", folder),
        ("freeze", folder),
        ("compile", folder, "--config", "mini-8x8"),
        ("verilog", "--config", "mini-8x8", "--out", folder / "accelerator.v"),
    ):
        result = intaglio(*words)
        assert result.status == 0, result.err
        assert len(result.out.splitlines()) >= 1
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run to break; its path is the only thing that differs."""
    folder = tmp_path / "copy"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("tb"))
    return folder
