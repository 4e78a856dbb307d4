"""How well a score ranks one group of images above another, for many resamples at once."""

import numpy as np

_ROUNDING = 1e-9  # of a weight; 0.05 * 20 must allow one error, whatever its last bit


def sweep(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums weights by score, highest first: what each step of a falling threshold newly calls positive.

    Args:
        weights: float [R, N], how often each of R resamples holds each image.
        scores: float [N].
        positive: bool [N].

    Returns:
        (hits, misses): float [R, K], weight of positives and of negatives at each of K distinct scores.
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    ordered, own = weights[:, order], positive[order]
    return np.add.reduceat(ordered * own, starts, axis=1), np.add.reduceat(ordered * ~own, starts, axis=1)


def auc(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, ties counted half, as scikit-learn's: float [R], NaN without positives or negatives."""
    lower = misses.sum(1, keepdims=True) - np.cumsum(misses, axis=1)
    with np.errstate(invalid="ignore"):
        return (hits * (lower + misses / 2)).sum(1) / (hits.sum(1) * misses.sum(1))


def average_precision(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Precision averaged over the steps of recall, as scikit-learn's: float [R], NaN without positives."""
    found, called = np.cumsum(hits, axis=1), np.cumsum(hits + misses, axis=1)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    with np.errstate(invalid="ignore"):
        return (hits * precision).sum(1) / hits.sum(1)


def sensitivity(hits: np.ndarray, misses: np.ndarray, specificity: float) -> np.ndarray:
    """Highest sensitivity of any threshold whose specificity is at least that asked for, nothing interpolated: float [R].

    NaN without positives or negatives. The threshold is each resample's own, chosen on what it is measured on.
    """
    allowed = np.cumsum(misses, axis=1) <= (1 - specificity) * misses.sum(1, keepdims=True) + _ROUNDING
    found = np.where(allowed, np.cumsum(hits, axis=1), 0).max(1)
    with np.errstate(invalid="ignore"):
        return np.where(misses.sum(1) > 0, found / hits.sum(1), np.nan)


def threshold(scores: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """The threshold that `sensitivity` is measured at: positive is what scores at least this.

    Args:
        scores: float [N].
        positive: bool [N].
        specificity: the least share of negatives to score below it.

    Returns:
        The highest of those with the best sensitivity; infinity when any would call too many negatives positive.
    """
    hits, misses = (each[0] for each in sweep(np.ones((1, len(scores))), scores, positive))
    found = np.where(np.cumsum(misses) <= (1 - specificity) * misses.sum() + _ROUNDING, np.cumsum(hits), 0)
    return float(np.unique(scores)[::-1][found.argmax()]) if found.max() > 0 else float("inf")
