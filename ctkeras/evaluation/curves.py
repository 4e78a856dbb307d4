"""ROC, precision-recall and decision curves with bands, from labels and probabilities only."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ctkeras.evaluation import bootstrap, ranking
from ctkeras.evaluation.bootstrap import totals

GRID = np.linspace(0, 1, 101)  # of false positive rate and of recall, at which bands are measured
RESAMPLES = 2000  # a band is drawn, so its third digit does not matter
THRESHOLDS = np.linspace(0.01, 0.99, 99)  # probabilities of cancer at which one would act


class Curve(NamedTuple):
    """A curve over x, with pointwise 95% bounds; NaN where a bound is never defined."""

    x: np.ndarray  # float [K]
    y: np.ndarray  # float [K]
    low: np.ndarray  # float [K]
    high: np.ndarray  # float [K]


class Decision(NamedTuple):
    """Net benefit by threshold: of acting by the model, with bounds, and of acting on every image; on none it is 0."""

    model: Curve
    everyone: np.ndarray  # float [K]


def roc(labels: np.ndarray, probabilities: np.ndarray, label: int, *, groups: np.ndarray | None = None) -> Curve:
    """Sensitivity by false positive rate of one class against the others, at GRID.

    Args:
        labels: int [N].
        probabilities: float [N, C].
        label: the class.
        groups: int [N], of each image its patient or group of similar images, which are resampled; None: each image its own.

    Returns:
        The curve of scikit-learn, interpolated, as is usual for ROC (Fawcett 2006). NaN if a side has no images.
    """
    from sklearn import metrics

    own, scores = np.asarray(labels) == label, np.asarray(probabilities, np.float64)[:, label]
    if own.all() or not own.any():
        return _undefined(GRID)
    false, true, _ = metrics.roc_curve(own, scores, drop_intermediate=False)

    def by_resample(weights: np.ndarray) -> np.ndarray:
        hits, alarms = ranking.curve(weights, scores, own)
        return _interpolated(_share(alarms), _share(hits))

    return Curve(GRID, _at_grid(false, true), *_band(by_resample, groups, len(own)))


def precision_recall(
    labels: np.ndarray, probabilities: np.ndarray, label: int, *, groups: np.ndarray | None = None
) -> Curve:
    """Precision by recall of one class against the others: the best precision of all thresholds with at least that recall.

    Args:
        labels: int [N].
        probabilities: float [N, C].
        label: the class.
        groups: as for roc.

    Returns:
        The curve at GRID, from the points of scikit-learn, without interpolation between them, which would be optimistic
        (Davis & Goadrich 2006). NaN if a side has no images.
    """
    from sklearn import metrics

    own, scores = np.asarray(labels) == label, np.asarray(probabilities, np.float64)[:, label]
    if own.all() or not own.any():
        return _undefined(GRID)
    precision, recall, _ = metrics.precision_recall_curve(own, scores)
    y = _best_from(recall[None, -2::-1], precision[None, -2::-1])[
        0
    ]  # scikit-learn adds a last point without a threshold

    def by_resample(weights: np.ndarray) -> np.ndarray:
        hits, alarms = ranking.curve(weights, scores, own)
        with np.errstate(invalid="ignore"):
            return _best_from(_share(hits), hits / (hits + alarms))

    return Curve(GRID, y, *_band(by_resample, groups, len(own)))


def net_benefit(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], *, groups: np.ndarray | None = None
) -> Decision | None:
    """The decision curve of any other class against normal (Vickers & Elkin 2006).

    At threshold t, acting on the images with 1 - p_normal >= t brings TP / n - FP / n * t / (1 - t): a harm counts as much
    as t says that one weighs it against a benefit.

    Args:
        labels: int [N].
        probabilities: float [N, C].
        class_names: C names.
        groups: as for roc.

    Returns:
        Both lines at THRESHOLDS; None without a class called normal.
    """
    if "normal" not in class_names:
        return None
    normal = list(class_names).index("normal")
    sick, risk = np.asarray(labels) != normal, 1 - np.asarray(probabilities, np.float64)[:, normal]
    acted = risk[:, None] >= THRESHOLDS
    odds = THRESHOLDS / (1 - THRESHOLDS)
    gains = np.where(sick[:, None], 1.0, -odds)

    def by_resample(weights: np.ndarray) -> np.ndarray:
        return totals(weights, acted * gains) / weights.sum(1)[:, None]

    y = by_resample(np.ones((1, len(sick))))[0]
    return Decision(Curve(THRESHOLDS, y, *_band(by_resample, groups, len(sick))), gains.mean(0))


def _band(
    by_resample: Callable[[np.ndarray], np.ndarray], groups: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95% bounds, by resampling groups."""
    groups = np.arange(count) if groups is None else groups
    found = bootstrap.bounds(lambda weights: {"y": by_resample(weights)}, groups, resamples=RESAMPLES)
    low, high = (np.array([np.nan if v is None else v for v in found[f"y_{end}"]], float) for end in ("low", "high"))
    return low, high


def _share(counts: np.ndarray) -> np.ndarray:
    """Counts [R, K] as shares of the last one; NaN where that is 0."""
    with np.errstate(invalid="ignore"):
        return counts / counts[:, -1:]


def _at_grid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A rising curve at GRID; where it rises at one x, its top there. Straight lines between points."""
    xs, first = np.unique(x[::-1], return_index=True)
    return np.interp(GRID, xs, y[::-1][first])


def _interpolated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Curves [R, K] from (0, 0) at GRID, one by one: float [R, len(GRID)]."""
    rows = [_at_grid(np.append(0, one), np.append(0, other)) for one, other in zip(x, y, strict=True)]
    rows = [np.full(len(GRID), np.nan) if np.isnan(row).any() else row for row in rows]
    return np.array(rows)


def _best_from(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The best precision at recalls of at least each of GRID: rising recalls [R, K] to float [R, len(GRID)]."""
    best = np.fmax.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    places = [np.minimum(np.searchsorted(row, GRID - 1e-12), len(row) - 1) for row in recall]
    values = np.take_along_axis(best, np.array(places), axis=1)
    return np.where(np.isnan(recall[:, -1:]), np.nan, values)


def _undefined(x: np.ndarray) -> Curve:
    """A curve of a class that no image, or every image, has."""
    return Curve(x, *(np.full(len(x), np.nan) for _ in range(3)))
