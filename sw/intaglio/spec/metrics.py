"""Segmentation metrics from an integer confusion matrix.

The matrix is the whole state: matrices of batches or workers add up to the matrix of the data set.
Divisions happen once, at the very end, and are the only floating point here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["VOID", "Metrics", "confusion_matrix", "evaluate"]

#: Label of a pixel that counts neither in training nor in a metric.
VOID = 255


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Count in ``m[t, p]`` the pixels of true class ``t`` that were predicted as class ``p``.

    The result is int64 (classes, classes). ``labels`` holds 0 .. classes - 1 and VOID,
    ``predictions`` 0 .. classes - 1; both are integer arrays of one shape. Void pixels are not
    counted. Raises ``ValueError`` for another shape or value.
    """
    if not 1 <= classes <= VOID:
        raise ValueError(f"classes must be in [1, {VOID}], not {classes}")
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels have shape {labels.shape}, predictions {predictions.shape}")
    for name, array in (("labels", labels), ("predictions", predictions)):
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, not {array.dtype}")
    counted = labels != VOID
    truth = labels[counted].astype(np.int64)
    if truth.size and not (truth.min() >= 0 and truth.max() < classes):
        bad = truth[(truth < 0) | (truth >= classes)][0]
        raise ValueError(f"label {bad} is outside [0, {classes - 1}] and not void ({VOID})")
    if predictions.size and not (predictions.min() >= 0 and predictions.max() < classes):
        bad = predictions[(predictions < 0) | (predictions >= classes)][0]
        raise ValueError(f"prediction {bad} is outside [0, {classes - 1}]")
    pairs = truth * classes + predictions[counted].astype(np.int64)
    counts = np.bincount(pairs, minlength=classes * classes)
    return counts.astype(np.int64).reshape(classes, classes)


@dataclass(frozen=True)
class Metrics:
    """What a confusion matrix says; all fractions are in [0, 1].

    ``miou`` is the mean of ``iou`` over the classes that occur; ``iou`` has one entry for each
    class, None where the class does not occur; ``pixels`` is the number of counted pixels. With no
    pixel both means are 0.0.
    """

    miou: float
    pixel_accuracy: float
    iou: tuple[float | None, ...]
    pixels: int


def evaluate(matrix: np.ndarray, *, subset: Iterable[int] | None = None) -> Metrics:
    """Compute the metrics of the confusion matrix ``matrix`` (classes, classes).

    A class occurs when at least one pixel has it as its true label. A class that is only ever
    predicted is not averaged (its false pixels already lower the IoU of the true class), so that
    two networks measured on the same images are averaged over the same classes. ``subset`` names
    the classes to average over and to report, such as ``Dataset.main_classes``; the pixel accuracy
    is always over all pixels.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix is square, not {matrix.shape}")
    if matrix.dtype.kind not in "iu" or (matrix < 0).any():
        raise ValueError("a confusion matrix holds integers >= 0")
    classes = len(matrix)
    chosen = set(range(classes)) if subset is None else set(subset)
    if not chosen <= set(range(classes)):
        raise ValueError(f"subset {sorted(chosen)} has a class outside [0, {classes - 1}]")
    iou: list[float | None] = []
    for k in range(classes):
        true, predicted = int(matrix[k].sum()), int(matrix[:, k].sum())
        both = int(matrix[k, k])
        iou.append(both / (true + predicted - both) if true and k in chosen else None)
    occurring = [value for value in iou if value is not None]
    pixels = int(matrix.sum())
    return Metrics(
        miou=math.fsum(occurring) / len(occurring) if occurring else 0.0,
        pixel_accuracy=int(matrix.trace()) / pixels if pixels else 0.0,
        iou=tuple(iou),
        pixels=pixels,
    )
