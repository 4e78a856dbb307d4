"""Curves: scikit-learn's points, bands that hold the curve and count copies once, and net benefit by its definition."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from ctkeras.evaluation import bootstrap, curves


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)


def draw(count=150, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    return labels, special.softmax(rng.standard_normal((count, 3)) + 1.5 * np.eye(3)[labels], axis=-1)


@pytest.mark.parametrize("make", [curves.roc, curves.precision_recall, curves.net_benefit])
def test_bands_hold_the_curve_and_count_copies_once(make):
    labels, probabilities = draw()
    curve = make(labels, probabilities, 0)
    assert ((curve.low <= curve.y + 0.01) & (curve.y <= curve.high + 0.01)).mean() > 0.95
    tripled = make(np.repeat(labels, 3), np.repeat(probabilities, 3, axis=0), 0, groups=np.repeat(np.arange(150), 3))
    for one, other in zip(tripled, curve, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)  # resamples are summed in float32


def test_roc_is_scikit_learns_without_interpolation():
    labels, probabilities = draw()
    curve = curves.roc(labels, probabilities, 2)
    false, true, _ = metrics.roc_curve(labels == 2, probabilities[:, 2], drop_intermediate=False)
    for x, y in zip(curve.x, curve.y, strict=True):
        assert y == pytest.approx(true[false <= x + 1e-9].max())


def test_precision_recall_is_scikit_learns_best_precision_from_a_recall_on():
    labels, probabilities = draw()
    curve = curves.precision_recall(labels, probabilities, 1)
    precision, recall, _ = metrics.precision_recall_curve(labels == 1, probabilities[:, 1])
    for x, y in zip(curve.x, curve.y, strict=True):
        assert y == pytest.approx(precision[:-1][recall[:-1] >= x - 1e-9].max())  # the last point has no threshold


def test_net_benefit_weighs_false_alarms_by_the_odds_of_the_threshold():
    labels, probabilities = draw()
    curve, every = curves.net_benefit(labels, probabilities, 1), curves.act_on_all(labels, 1)
    sick, risk = labels != 1, 1 - probabilities[:, 1]
    for at in (5, 20, 35):
        t = curve.x[at]
        acted = risk >= t
        assert curve.y[at] == pytest.approx(np.mean(acted & sick) - np.mean(acted & ~sick) * t / (1 - t))
        assert every[at] == pytest.approx(sick.mean() - (1 - sick.mean()) * t / (1 - t))
