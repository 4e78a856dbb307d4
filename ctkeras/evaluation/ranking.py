"""How well a score ranks one group of images above another, for many resamples at once."""

import numpy as np

_ROUNDING = 1e-9  # of a weight; 0.05 * 20 must allow one error even if it is rounded down

_LONG = 300  # columns, from which adding whole rows is faster than cumsum


def curve(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The counts of the ROC curve: the weight of the images that score at least each threshold, from the highest score down.

    Args:
        weights: float [R, N], how often each of R resamples contains each image.
        scores: float [N].
        positive: bool [N].

    Returns:
        (true, false): float [R, K], weight of the positives and of the negatives that are called positive at each of K
        distinct scores.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores are called together
    ordered = weights.T[order]  # one row per image: sums then run over whole rows, many times faster than along them
    true = _accumulate(ordered * positive[order][:, None])
    false = _accumulate(ordered)
    if len(ends) < len(order):
        true, false = true[ends], false[ends]
    return true.T, (false - true).T


def auc(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, with ties counted half, as in scikit-learn: float [R], NaN without positives or negatives."""
    mean_height = true.T - _steps(true) / 2
    with np.errstate(invalid="ignore"):
        return np.einsum("kr,kr->r", _steps(false), mean_height) / (true[:, -1] * false[:, -1])


def areas(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC and average precision as in scikit-learn: precision averaged over the steps of recall, ties called together.

    Both are sums over positives, so only the counts at their scores are needed, which is several times faster than a curve.

    Args:
        weights: float [R, N], how often each of R resamples contains each image.
        scores: float [N].
        positive: bool [N].

    Returns:
        float [R] each; the AUC is NaN without positives or negatives, the average precision without positives.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, own = -scores[order], np.flatnonzero(positive[order])
    rows = weights.T[order]
    steps = rows[own]  # [P, R], the weights of the positives
    above = [
        np.searchsorted(ranked, ranked[own], side=side) for side in ("left", "right")
    ]  # images above, and with ties
    called, true = _sums(rows), _sums(steps)
    false = [called[at] - true[np.searchsorted(own, at)] for at in above]
    positives, negatives = true[-1], called[-1] - true[-1]
    with np.errstate(invalid="ignore"):
        lost = np.einsum("pr,pr->r", steps, false[0] + false[1]) / 2
        auc = 1 - lost / (positives * negatives)
        precision = true[np.searchsorted(own, above[1])] / np.maximum(called[above[1]], _ROUNDING)
        return auc, np.einsum("pr,pr->r", steps, precision) / positives


def sensitivity(true: np.ndarray, false: np.ndarray, specificity: float) -> np.ndarray:
    """The highest sensitivity of all thresholds with at least the given specificity, without interpolation: float [R].

    NaN without positives or negatives. Each resample has its own threshold, chosen on the images that it is measured on.
    """
    with np.errstate(invalid="ignore"):
        return np.where(false[:, -1] > 0, _allowed(true, false, specificity).max(1) / true[:, -1], np.nan)


def threshold(scores: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """The threshold at which `sensitivity` is measured: images that score at least this are called positive.

    Args:
        scores: float [N].
        positive: bool [N].
        specificity: the least share of negatives that must score below the threshold.

    Returns:
        The highest threshold with the best sensitivity; infinity if every one would call too many negatives positive.
    """
    allowed = _allowed(*curve(np.ones((1, len(scores))), scores, positive), specificity)[0]
    return float(np.unique(scores)[::-1][allowed.argmax()]) if allowed.max() > 0 else float("inf")


def _allowed(true: np.ndarray, false: np.ndarray, specificity: float) -> np.ndarray:
    """Positives called at each threshold; 0 at thresholds that call too many negatives positive."""
    return np.where(false <= (1 - specificity) * false[:, -1:] + _ROUNDING, true, 0)


def _steps(counts: np.ndarray) -> np.ndarray:
    """By how much counts [R, K] grow at each of the K scores: float [K, R]."""
    steps = counts.T.copy()
    steps[1:] -= counts.T[:-1]
    return steps


def _sums(rows: np.ndarray) -> np.ndarray:
    """Running sums of rows [K, R], from 0: float [K + 1, R]."""
    sums = np.zeros((len(rows) + 1, rows.shape[1]), rows.dtype)
    sums[1:] = rows
    _accumulate(sums[1:])
    return sums


def _accumulate(rows: np.ndarray) -> np.ndarray:
    """Running sums of rows [K, R], in place: cumsum adds column by column, so that it is 4 times slower on long rows."""
    if rows.shape[1] < _LONG:
        return np.cumsum(rows, axis=0, out=rows)
    for row in range(1, len(rows)):
        rows[row] += rows[row - 1]
    return rows
