"""The built-in scenes: reproducible, balanced, and out of reach of a linear pixel classifier."""

import math

import numpy as np
import pytest

from intaglio.data import epoch_batches, open_dataset, ordered_batches
from intaglio.data.shapes import SHAPES_CLASSES, SINE, scene
from intaglio.spec.errors import IntaglioError
from intaglio.spec.files import array_digest
from intaglio.spec.metrics import confusion_matrix, evaluate


def test_sines():
    assert [round(1024 * math.sin(2 * math.pi * k / 64)) for k in range(17)] == list(SINE)


def test_scenes_are_reproducible():
    first, second = (open_dataset("shapes", "train") for _ in range(2))
    assert len(first) == 1024 and len(open_dataset("shapes", "val")) == 64
    for index in (0, 5, 1023):
        assert np.array_equal(first[index].image, second[index].image)
        assert np.array_equal(first[index].mask, second[index].mask)
    assert first[0].image.shape == (64, 64, 3) and first[0].mask.shape == (64, 64)
    with pytest.raises(IntaglioError, match="shapes has no split 'test'; choose from train, val"):
        open_dataset("shapes", "test")


def test_scene_is_pinned():
    """The bytes of one scene: results in the documentation refer to these very pictures."""
    image, mask = scene(12345, 40, 56)
    assert array_digest({"image": image, "mask": mask})[:16] == "6d49d9b069e50772"


def test_no_scene_twice():
    names = set()
    for split in ("train", "val"):
        data = open_dataset("shapes", split, height=16, width=16)
        names |= {data[i].image.tobytes() for i in range(64)}
    assert len(names) == 128


def test_content_does_not_depend_on_the_resolution():
    small, large = (scene(99, size, size)[1] for size in (48, 144))
    assert (large[1::3, 1::3] == small).mean() > 0.97  # edges alone may differ


def test_every_class_is_common():
    data = open_dataset("shapes", "val")
    masks = np.stack([sample.mask for sample in data])
    share = np.bincount(masks.ravel(), minlength=len(SHAPES_CLASSES)) / masks.size
    assert len(share) == len(SHAPES_CLASSES)
    assert 0.4 < share[0] < 0.8 and share[1:].min() > 0.02
    present = [np.isin(k, sample.mask) for sample in data for k in range(1, len(SHAPES_CLASSES))]
    assert 1.5 < np.sum(present) / len(data) < 4


def features(image: np.ndarray, reach: int) -> np.ndarray:
    """All pixels within ``reach`` of each pixel, and 1: (H * W, features)."""
    h, w, _ = image.shape
    padded = np.pad(image / 128.0 - 1, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    side = range(2 * reach + 1)
    parts = [padded[i : i + h, j : j + w] for i in side for j in side]
    return np.concatenate([*parts, np.ones((h, w, 1))], 2).reshape(h * w, -1)


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("balance", [0, 1])
def test_linear_pixel_classifier_fails(reach, balance):
    """Least squares on RGB of 1, 9 or 25 pixels, plain or with balanced classes."""
    classes = len(SHAPES_CLASSES)
    train, val = open_dataset("shapes", "train"), open_dataset("shapes", "val")
    samples = [train[i] for i in range(50)]
    counts = np.bincount(np.concatenate([s.mask.ravel() for s in samples]), minlength=classes)
    weights = (counts.sum() / counts) ** balance
    left = right = 0
    for sample in samples:
        x, y = features(sample.image, reach), sample.mask.ravel()
        weighted = x * weights[y][:, None]
        left = left + weighted.T @ x
        right = right + weighted.T @ np.eye(classes)[y]
    solution = np.linalg.solve(left + 1e-3 * np.eye(len(left)), right)
    matrix = sum(
        confusion_matrix(s.mask.ravel(), (features(s.image, reach) @ solution).argmax(1), classes)
        for s in val
    )
    assert evaluate(matrix).miou < 0.2


@pytest.mark.slow
def test_small_network_learns():
    """Where the linear classifier has nothing, six hundred steps of a small float network do."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def block(c: int, k: int, stride: int, dilation: int) -> list:
        conv = nn.Conv2d(c, k, 3, stride, dilation, dilation, bias=False)
        return [conv, nn.BatchNorm2d(k), nn.ReLU()]

    torch.manual_seed(0)
    classes = len(SHAPES_CLASSES)
    layers = block(3, 16, 1, 1) + block(16, 32, 2, 1) + block(32, 64, 2, 1)
    layers += block(64, 64, 1, 2) + block(64, 64, 1, 4)
    net = nn.Sequential(*layers, nn.Conv2d(64, classes, 1), nn.Upsample(scale_factor=4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=600)
    train = open_dataset("shapes", "train")
    val = open_dataset("shapes", "val")
    for step in range(600):
        epoch, start = divmod(step, 64)
        options = dict(batch=16, seed=0, epoch=epoch, height=64, width=64, start=start)
        images, labels = next(epoch_batches(train, **options))
        logits = net(torch.from_numpy(images).float() / 64)
        target = torch.from_numpy(labels).long()
        loss = nn.functional.cross_entropy(logits, target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        matrix = sum(
            confusion_matrix(y, net(torch.from_numpy(x).float() / 64).argmax(1).numpy(), classes)
            for x, y in ordered_batches(val, batch=16)
        )
    assert evaluate(matrix).miou > 0.35
