"""Metrics of answers and of their order, from confusion matrices and ranks, for many resamples at once."""

from collections.abc import Sequence

import numpy as np

from ctkeras.evaluation import ranking
from ctkeras.evaluation.bootstrap import totals


def class_key(metric: str, class_name: str) -> str:
    """The name of a metric of one class; a class called low or high must not look like a bound."""
    return f"{metric}_{class_name}" + ("_class" if class_name.endswith(("low", "high")) else "")


def by_scikit_learn(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The split's confusion matrix [C, C], and each class's AUC and average precision [C], NaN where undefined."""
    from sklearn import metrics

    classes = range(probabilities.shape[1])
    matrix = metrics.confusion_matrix(labels, probabilities.argmax(-1), labels=classes)
    auc, ap = np.full((2, len(classes)), np.nan)
    for i in classes:
        if 0 < (own := labels == i).sum() < len(labels):
            auc[i] = metrics.roc_auc_score(own, probabilities[:, i])
        if own.any():
            ap[i] = metrics.average_precision_score(own, probabilities[:, i])
    return matrix, auc, ap


def by_weights(
    weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for R resamples at once, weights float [R, N]: [R, C, C], [R, C], [R, C]; scikit-learn would take minutes."""
    classes = probabilities.shape[1]
    cell = np.eye(classes**2)[labels * classes + probabilities.argmax(-1)]
    matrices = totals(weights, cell).reshape(-1, classes, classes)
    auc, ap = np.empty((2, len(weights), classes))
    for i in range(classes):
        auc[:, i], ap[:, i] = ranking.areas(weights, probabilities[:, i], labels == i)
    return matrices, auc, ap


def of_answers(
    matrices: np.ndarray, auc: np.ndarray, ap: np.ndarray, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metrics of R confusion matrices [R, C, C] and of auc and ap [R, C], float [R] each.

    A class without images is NaN and left out of means; a class that is never predicted has precision 0, as in scikit-learn.
    """
    hits, true, called = matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)
    total = matrices.sum((1, 2))[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        by_class = {
            "precision": np.where((called == 0) & (true > 0), 0, hits / called),
            "recall": hits / true,
            "specificity": (total - true - called + hits) / (total - true),
            "f1": 2 * hits / (true + called),
            "auc": auc,
            "ap": ap,
        }
    metrics = {
        "acc": hits.sum(1) / total[:, 0],
        "balanced_acc": _mean(by_class["recall"]),
        "macro_f1": _mean(by_class["f1"]),
        "auc": _mean(auc),
        "ap": _mean(ap),
    }
    for metric, numbers in by_class.items():
        metrics |= {class_key(metric, name): numbers[:, i] for i, name in enumerate(class_names)}
    return metrics


def _mean(numbers: np.ndarray) -> np.ndarray:
    """Means over classes of float [R, C], ignoring NaN."""
    defined = ~np.isnan(numbers)
    with np.errstate(invalid="ignore"):
        return np.where(defined, numbers, 0).sum(1) / defined.sum(1)
