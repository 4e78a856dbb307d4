"""Metrics with intervals, from labels and probabilities; numpy and scikit-learn only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000  # bootstrap; the 95% bounds then move by about 0.001 between seeds on 300 images
_CLIP = 1e-7  # probability; keeps one confident error from an infinite loss, as Keras' backend epsilon


def evaluate(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Metrics of one split, flat: name to number; `_low` and `_high` are 95% bootstrap bounds.

    Args:
        labels: int [N].
        probabilities: float [N, C].
        class_names: C names.

    Returns:
        n, acc, loss, balanced_acc, macro_f1, auc (one against the rest, macro), each class's precision, recall and f1,
        and the confusion matrix, rows by true class.
    """
    from sklearn import metrics

    classes = range(len(class_names))
    predicted = probabilities.argmax(-1)
    matrix = metrics.confusion_matrix(labels, predicted, labels=classes)
    values: dict[str, Any] = {"n": len(labels)}
    values |= {name: float(numbers[0]) for name, numbers in _of_confusion(matrix[None]).items()}
    values["loss"] = cross_entropy(labels, probabilities)
    values |= _bounds(labels, predicted, len(class_names))
    if len(np.unique(labels)) == len(class_names):
        one_hot = np.eye(len(class_names))[labels]
        values["auc"] = float(metrics.roc_auc_score(one_hot, probabilities, average="macro"))
    scores = metrics.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0.0)
    for kind, numbers in zip(("precision", "recall", "f1"), scores, strict=False):
        values |= {f"{kind}_{name}": float(number) for name, number in zip(class_names, numbers, strict=True)}
    values["confusion_matrix"] = matrix.tolist()
    return values


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The share of images whose likeliest class is theirs."""
    return float((probabilities.argmax(-1) == labels).mean())


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood, natural logarithm."""
    own = np.take_along_axis(probabilities.astype(np.float64), labels[:, None].astype(np.int64), axis=1)
    return float(-np.log(np.clip(own, _CLIP, 1.0)).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities from logits, float64 [N, C]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _bounds(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """95% percentile bootstrap bounds (Efron & Tibshirani 1993), resampling images."""
    cells = np.bincount(labels * classes + predicted, minlength=classes**2)
    # Resampling images is drawing the confusion matrix's cells: one multinomial a resample.
    drawn = np.random.default_rng(0).multinomial(len(labels), cells / cells.sum(), size=RESAMPLES)
    resampled = _of_confusion(drawn.reshape(-1, classes, classes))
    bounds = {}
    for name, numbers in resampled.items():
        bounds[f"{name}_low"], bounds[f"{name}_high"] = (float(q) for q in np.quantile(numbers, (0.025, 0.975)))
    return bounds


def _of_confusion(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """acc, balanced_acc and macro_f1 of confusion matrices int [R, C, C]; a class a resample lacks is left out of means."""
    hits = matrices.diagonal(axis1=1, axis2=2)
    true, called = matrices.sum(2), matrices.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, f1 = hits / true, 2 * hits / (true + called)
    return {
        "acc": hits.sum(1) / matrices.sum((1, 2)),
        "balanced_acc": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
    }
