"""Confusion matrix and means against counts made by hand and by rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from intaglio.spec.metrics import VOID, confusion_matrix, evaluate


def test_confusion_by_hand():
    labels = np.array([[0, 0, 1], [2, VOID, 1]], np.uint8)
    predictions = np.array([[0, 1, 1], [0, 2, 1]], np.uint8)
    matrix = confusion_matrix(labels, predictions, 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    result = evaluate(matrix)
    assert result.pixels == 5
    assert result.pixel_accuracy == 3 / 5
    assert result.iou == (1 / 3, 2 / 3, 0.0)
    assert result.miou == pytest.approx(1 / 3, abs=1e-15)


def test_against_sets_and_fractions():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 5, VOID], size=(4, 9, 7)).astype(np.uint8)
    predictions = rng.integers(0, 7, size=labels.shape).astype(np.uint8)
    result = evaluate(confusion_matrix(labels, predictions, 7))
    ious = []
    places = [tuple(p) for p in np.argwhere(labels != VOID)]
    for k in range(7):
        truth = {p for p in places if labels[p] == k}
        found = {p for p in places if predictions[p] == k}
        if not truth:
            assert result.iou[k] is None
            continue
        ious.append(Fraction(len(truth & found), len(truth | found)))
        assert result.iou[k] == float(ious[-1])
    assert len(ious) == 5  # classes 4 and 6 never occur, though they are predicted
    assert result.miou == pytest.approx(float(sum(ious) / len(ious)), abs=1e-15)


def test_matrices_add():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 4, size=(2, 6, 50))
    whole = confusion_matrix(labels, predictions, 4)
    parts = sum(confusion_matrix(a, b, 4) for a, b in zip(labels, predictions, strict=True))
    assert np.array_equal(whole, parts)


def test_subset():
    matrix = np.array([[5, 1, 0], [0, 2, 2], [0, 0, 0]])
    result = evaluate(matrix, subset=[1, 2])
    assert result.iou == (None, 2 / 5, None)
    assert result.miou == 2 / 5
    assert result.pixel_accuracy == 7 / 10


def test_nothing_counted():
    void = np.full((2, 2), VOID, np.uint8)
    result = evaluate(confusion_matrix(void, np.zeros((2, 2), np.uint8), 3))
    assert (result.miou, result.pixel_accuracy, result.pixels) == (0.0, 0.0, 0)
    assert result.iou == (None, None, None)


@pytest.mark.parametrize(
    ("labels", "predictions", "classes", "error", "text"),
    [
        ([[0]], [0], 2, ValueError, r"labels have shape \(1, 1\), predictions \(1,\)"),
        ([0, 9], [0, 0], 3, ValueError, r"label 9 is outside \[0, 2\] and not void \(255\)"),
        ([0, 1], [3, 0], 3, ValueError, r"prediction 3 is outside \[0, 2\]"),
        ([0], [0], 256, ValueError, r"classes must be in \[1, 255\], not 256"),
        ([0.0], [0], 2, TypeError, "labels must be integers, not float64"),
    ],
)
def test_confusion_errors(labels, predictions, classes, error, text):
    with pytest.raises(error, match=text):
        confusion_matrix(np.array(labels), np.array(predictions), classes)


@pytest.mark.parametrize(
    ("matrix", "subset", "text"),
    [
        (np.zeros((2, 3), int), None, r"square, not \(2, 3\)"),
        (np.array([[-1]]), None, "integers >= 0"),
        (np.zeros((2, 2)), None, "integers >= 0"),
        (np.zeros((2, 2), int), [2], r"subset \[2\] has a class outside \[0, 1\]"),
    ],
)
def test_evaluate_errors(matrix, subset, text):
    with pytest.raises(ValueError, match=text):
        evaluate(matrix, subset=subset)
