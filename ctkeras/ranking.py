"""How well a score ranks one group of images above another, for many resamples at once."""

import numpy as np

_ROUNDING = 1e-9  # of a weight; 0.05 * 20 must allow one error, whatever its last bit


def curve(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve's counts: the weight of what scores at least each threshold, from the highest score down.

    Args:
        weights: float [R, N], how often each of R resamples holds each image.
        scores: float [N].
        positive: bool [N].

    Returns:
        (found, false): float [R, K], weight of positives and of negatives called positive at each of K distinct scores.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # ties are called together
    ordered = weights[:, order]
    found = np.cumsum(ordered * positive[order], axis=1)[:, ends]
    return found, np.cumsum(ordered, axis=1)[:, ends] - found


def auc(found: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, ties counted half, as scikit-learn's: float [R], NaN without positives or negatives."""
    mean_height = (found + found - np.diff(found, axis=1, prepend=0)) / 2
    with np.errstate(invalid="ignore"):
        return (np.diff(false, axis=1, prepend=0) * mean_height).sum(1) / (found[:, -1] * false[:, -1])


def average_precision(found: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Precision averaged over the steps of recall, as scikit-learn's: float [R], NaN without positives."""
    called = found + false
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    with np.errstate(invalid="ignore"):
        return (np.diff(found, axis=1, prepend=0) * precision).sum(1) / found[:, -1]


def sensitivity(found: np.ndarray, false: np.ndarray, specificity: float) -> np.ndarray:
    """Highest sensitivity of any threshold whose specificity is at least that asked for, nothing interpolated: float [R].

    NaN without positives or negatives. The threshold is each resample's own, chosen on what it is measured on.
    """
    with np.errstate(invalid="ignore"):
        return np.where(false[:, -1] > 0, _allowed(found, false, specificity).max(1) / found[:, -1], np.nan)


def threshold(scores: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """The threshold that `sensitivity` is measured at: positive is what scores at least this.

    Args:
        scores: float [N].
        positive: bool [N].
        specificity: the least share of negatives to score below it.

    Returns:
        The highest of those with the best sensitivity; infinity when any would call too many negatives positive.
    """
    allowed = _allowed(*curve(np.ones((1, len(scores))), scores, positive), specificity)[0]
    return float(np.unique(scores)[::-1][allowed.argmax()]) if allowed.max() > 0 else float("inf")


def _allowed(found: np.ndarray, false: np.ndarray, specificity: float) -> np.ndarray:
    """Positives found at each threshold, 0 at those that call too many negatives positive."""
    return np.where(false <= (1 - specificity) * false[:, -1:] + _ROUNDING, found, 0)
