"""Curves over all thresholds with 95% bands, from labels and probabilities only: ROC, precision-recall, net benefit."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ctkeras.evaluation import bootstrap, ranking

POINTS = 41  # of a curve
MOST_ODDS = 0.9  # threshold probability at which a decision curve ends; beyond it, one false alarm outweighs nine cases


class Curve(NamedTuple):
    """A curve and its 95% band at the same places: float [K] each."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def roc(labels: np.ndarray, probabilities: np.ndarray, label: int, *, groups: np.ndarray | None = None) -> Curve:
    """Sensitivity for a class (y) at the share of other images that is called it too (x), without interpolation.

    Args:
        labels: int [N].
        probabilities: float [N, C].
        label: the class, against all others.
        groups: int [N], what the band resamples; None for each image on its own.
    """
    positive, x = labels == label, np.linspace(0, 1, POINTS)

    def sensitivity(weights: np.ndarray) -> np.ndarray:
        true, false = ranking.curve(weights, probabilities[:, label], positive)
        allowed = (np.where(false <= at * false[:, -1:] + 1e-9, true, 0).max(1) for at in x)
        with np.errstate(invalid="ignore"):
            return np.stack([*allowed], 1) / true[:, -1:]

    return _with_band(x, sensitivity, groups, len(labels))


def precision_recall(
    labels: np.ndarray, probabilities: np.ndarray, label: int, *, groups: np.ndarray | None = None
) -> Curve:
    """The highest precision (y) of all thresholds with at least a recall (x).

    Args:
        labels: int [N].
        probabilities: float [N, C].
        label: the class, against all others.
        groups: see roc.
    """
    positive, x = labels == label, np.linspace(0, 1, POINTS)

    def precision(weights: np.ndarray) -> np.ndarray:
        true, false = ranking.curve(weights, probabilities[:, label], positive)
        called = true + false
        shares = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        best = [np.where(true >= at * true[:, -1:] - 1e-9, shares, 0).max(1) for at in x]
        return np.where(true[:, -1:] > 0, np.stack(best, 1), np.nan)

    return _with_band(x, precision, groups, len(labels))


def net_benefit(
    labels: np.ndarray, probabilities: np.ndarray, label: int, *, groups: np.ndarray | None = None
) -> Curve:
    """Net benefit (Vickers & Elkin 2006) of acting on images that are probably not of a class, such as normal.

    At a threshold t (x), an image is acted on if 1 - p_label is at least t; y is the share of rightly acted on images minus
    the share of wrongly acted on ones times t / (1 - t).

    Args:
        labels: int [N].
        probabilities: float [N, C].
        label: the class whose images should be left alone.
        groups: see roc.
    """
    x, sick, scores = thresholds(), labels != label, 1 - probabilities[:, label]
    gain = np.stack([(scores >= at) * np.where(sick, 1.0, -at / (1 - at)) for at in x], 1)
    return _with_band(x, lambda weights: bootstrap.totals(weights, gain) / weights.sum(1)[:, None], groups, len(labels))


def thresholds() -> np.ndarray:
    """The threshold probabilities of a decision curve: float [K]."""
    return np.linspace(0.02, MOST_ODDS, POINTS)


def act_on_all(labels: np.ndarray, label: int) -> np.ndarray:
    """The net benefit of acting on every image, at each of `thresholds`: float [K]."""
    share, at = float((labels != label).mean()), thresholds()
    return share - (1 - share) * at / (1 - at)


def _with_band(
    x: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], groups: np.ndarray | None, count: int
) -> Curve:
    """The curve of all images and its bounds by the bootstrap over groups."""
    bounds = bootstrap.bounds(lambda weights: {"y": statistic(weights)}, np.arange(count) if groups is None else groups)
    low, high = (np.array(bounds[f"y_{end}"], float) for end in ("low", "high"))
    return Curve(x, statistic(np.ones((1, count)))[0], low, high)
