"""The readers on the real releases, where they are present (INTAGLIO_DATA, or ../shared/data)."""

import os
from pathlib import Path

import numpy as np
import pytest

from intaglio.data import epoch_batches, open_dataset

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("INTAGLIO_DATA", ROOT.parent / "shared" / "data"))


def needs(folder: str) -> list[pytest.MarkDecorator]:
    reason = f"no {folder} in the folder that INTAGLIO_DATA names"
    return [pytest.mark.data, pytest.mark.skipif(not (DATA / folder).is_dir(), reason=reason)]


CASES = [
    pytest.param("camvid", "CamVid", "train", 367, marks=needs("CamVid")),
    pytest.param("camvid", "CamVid", "val", 101, marks=needs("CamVid")),
    pytest.param("voc", "VOCdevkit", "train", None, marks=needs("VOCdevkit")),
    pytest.param("voc", "VOCdevkit", "val", None, marks=needs("VOCdevkit")),
    pytest.param("voc", "VOCdevkit", "trainaug", None, marks=needs("VOCdevkit")),
    pytest.param(
        "ade20k", "ADEChallengeData2016", "val", None, marks=needs("ADEChallengeData2016")
    ),
]


@pytest.mark.parametrize(("name", "folder", "split", "count"), CASES)
def test_reads(name, folder, split, count):
    data = open_dataset(f"{name}:{DATA / folder}", split, height=60, width=80)
    assert len(data) == count if count else len(data) >= 1
    step = max(1, len(data) // 40)
    known = np.zeros(256, np.int64)
    for index in range(0, len(data), step):
        sample = data[index]
        assert sample.image.shape == (60, 80, 3) and sample.mask.shape == (60, 80)
        known += np.bincount(sample.mask.ravel(), minlength=256)
    assert known[len(data.classes) : 255].sum() == 0
    assert (known[: len(data.classes)] > 0).sum() >= 5
    if len(data) >= 4:
        batch = epoch_batches(data, batch=4, seed=0, epoch=0, height=48, width=64)
        images, labels = next(batch)
        assert images.shape == (4, 3, 48, 64) and labels.shape == (4, 48, 64)


@pytest.mark.parametrize("split", [pytest.param("train", marks=needs("CamVid"))])
def test_camvid_classes_are_where_they_should_be(split):
    """Road is the most frequent class of CamVid and lies below the sky: the order is right."""
    data = open_dataset(f"camvid:{DATA / 'CamVid'}", split, height=60, width=80)
    masks = np.stack([data[i].mask for i in range(0, len(data), 8)])
    counts = np.bincount(masks.ravel(), minlength=256)
    assert data.classes[int(counts.argmax())] == "Road"
    rows = np.arange(60)[None, :, None]
    height = {
        name: (rows * (masks == data.classes.index(name))).sum()
        / (masks == data.classes.index(name)).sum()
        for name in ("Sky", "Building", "Road")
    }
    assert height["Sky"] < height["Building"] < height["Road"]


@pytest.mark.parametrize("split", [pytest.param("val", marks=needs("ADEChallengeData2016"))])
def test_ade20k_names(split):
    data = open_dataset(f"ade20k:{DATA}", split)
    assert data.classes[:4] == ("wall", "building", "sky", "floor")
    assert len(data.classes) == 150
