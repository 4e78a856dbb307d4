"""Curves: scikit-learn's points, bands that hold the curve, and net benefit by its definition."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from ctkeras.evaluation import curves

NAMES = ("adenocarcinoma", "normal", "squamous_cell")


def draw(count=150, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    return labels, special.softmax(rng.standard_normal((count, 3)) + 1.5 * np.eye(3)[labels], axis=-1)


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    monkeypatch.setattr(curves, "RESAMPLES", 400)


@pytest.mark.parametrize("make", [curves.roc, curves.precision_recall])
def test_bands_hold_the_curve_and_count_copies_once(make):
    labels, probabilities = draw()
    curve = make(labels, probabilities, 0)
    assert ((curve.low <= curve.y + 0.01) & (curve.y <= curve.high + 0.01)).mean() > 0.95
    assert (curve.low >= 0).all() and (curve.high <= 1).all()
    tripled = make(np.repeat(labels, 3), np.repeat(probabilities, 3, axis=0), 0, groups=np.repeat(np.arange(150), 3))
    np.testing.assert_allclose(tripled.y, curve.y)
    np.testing.assert_allclose(tripled.low, curve.low, atol=1e-9)


def test_roc_is_scikit_learns():
    labels, probabilities = draw()
    curve = curves.roc(labels, probabilities, 2)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(
        metrics.roc_auc_score(labels == 2, probabilities[:, 2]), abs=0.01
    )
    for limit in (0.1, 0.5):
        false, true, _ = metrics.roc_curve(labels == 2, probabilities[:, 2], drop_intermediate=False)
        at = np.searchsorted(curve.x, limit)
        assert true[false <= limit - 0.02].max() - 1e-9 <= curve.y[at] <= true[false <= limit + 0.02].max() + 1e-9


def test_precision_recall_is_the_best_of_all_thresholds():
    labels, probabilities = draw()
    curve = curves.precision_recall(labels, probabilities, 1)
    own, score = labels == 1, probabilities[:, 1]
    points = [(np.mean(score[own] >= t), np.mean(own[score >= t])) for t in score]
    for x, y in zip(curve.x[::10], curve.y[::10], strict=True):
        assert y == pytest.approx(max(precision for recall, precision in points if recall >= x - 1e-12))
    assert curve.y[-1] >= own.mean()


def test_net_benefit_weighs_false_alarms_by_the_odds_of_the_threshold():
    labels, probabilities = draw()
    found = curves.net_benefit(labels, probabilities, NAMES)
    sick, risk = labels != 1, 1 - probabilities[:, 1]
    for at in (9, 49, 79):  # thresholds 0.1, 0.5, 0.8
        t = found.model.x[at]
        acted = risk >= t
        expected = np.mean(acted & sick) - np.mean(acted & ~sick) * t / (1 - t)
        assert found.model.y[at] == pytest.approx(expected)
        assert found.everyone[at] == pytest.approx(sick.mean() - (1 - sick.mean()) * t / (1 - t))
        assert found.model.low[at] <= expected <= found.model.high[at]
    assert curves.net_benefit(labels, probabilities, ("a", "b", "c")) is None


@pytest.mark.filterwarnings("error")
def test_a_class_without_images_has_no_curve():
    labels, probabilities = draw()
    for make in (curves.roc, curves.precision_recall):
        assert np.isnan(make(np.minimum(labels, 1), probabilities, 2).y).all()
        rare = np.where(np.arange(150) == 0, 2, np.minimum(labels, 1))  # missing from a third of resamples
        assert np.isfinite(make(rare, probabilities, 2).low).all()
