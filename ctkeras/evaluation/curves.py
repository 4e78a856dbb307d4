"""Curves over all thresholds with 95% bands, from labels and probabilities only: ROC, precision-recall, net benefit."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from ctkeras.evaluation import bootstrap, ranking

POINTS = 41  # of a curve
_ROUNDING, _LEAST = 1e-9, 1e-12  # of a share; of a count, so that nothing is divided by 0
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
        places = _ranks(false, x, side="right")  # how many thresholds call at most that share of the others
        reached = np.take_along_axis(np.concatenate([np.zeros_like(true[:, :1]), true], 1), places, 1)
        with np.errstate(invalid="ignore"):
            return np.where(false[:, -1:] > 0, reached / true[:, -1:], np.nan)

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
        best = np.maximum.accumulate(shares[:, ::-1], 1)[:, ::-1]  # of this threshold and all lower ones
        places = np.minimum(_ranks(true, x, side="left"), best.shape[1] - 1)
        return np.where(true[:, -1:] > 0, np.take_along_axis(best, places, 1), np.nan)

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


def _ranks(counts: np.ndarray, shares: np.ndarray, *, side: Literal["left", "right"]) -> np.ndarray:
    """Where shares of each row's last count would be inserted: ascending rows [R, K] and shares [P] to int [R, P]."""
    rows = np.arange(len(counts))[:, None] * 2.0  # rows one after the other on one scale, so that one search does all
    scaled = counts / np.maximum(counts[:, -1:], _LEAST) + rows
    nudge = _ROUNDING if side == "right" else -_ROUNDING
    found = np.searchsorted(scaled.ravel(), (shares + rows + nudge).ravel(), side).reshape(len(counts), -1)
    return np.clip(found - np.arange(len(counts))[:, None] * counts.shape[1], 0, counts.shape[1])


def _with_band(
    x: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], groups: np.ndarray | None, count: int
) -> Curve:
    """The curve of all images and its bounds by the bootstrap over groups."""
    bounds = bootstrap.bounds(lambda weights: {"y": statistic(weights)}, np.arange(count) if groups is None else groups)
    low, high = (np.array(bounds[f"y_{end}"], float) for end in ("low", "high"))
    return Curve(x, statistic(np.ones((1, count)))[0], low, high)
