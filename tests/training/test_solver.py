"""The solved head: against scikit-learn, against a fold by hand, and its invariances."""

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ctkeras.training import newton, solver


def problem(rows, width, *, classes=4, seed=0):
    """Features of a falling spectrum with some signal, as a network's are, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    features = (
        rng.standard_normal((rows, width)) @ np.diag(np.geomspace(3, 0.01, width)) @ rng.standard_normal((width, width))
    )
    features += 0.3 * rng.standard_normal((classes, width))[labels] * features.std(0)
    return np.abs(features).astype(np.float32), labels


def sklearn_logits(features, labels, *, weight_decay, weights, mean, scale, queries):
    model = LogisticRegression(C=1 / (weight_decay * weights.sum()), tol=1e-10, max_iter=100_000)
    model.fit((features - mean) / scale, labels, sample_weight=weights)
    return model.decision_function((queries - mean) / scale)


@pytest.mark.parametrize(("rows", "width"), [(80, 300), (300, 60)])
@pytest.mark.parametrize("weight_decay", [0.003, 0.3])
def test_agrees_with_scikit_learn(rows, width, weight_decay):
    features, labels = problem(rows, width)
    weights = np.random.default_rng(1).uniform(0.2, 2, rows)
    factors = solver.factorise(features)
    head = solver.solve(factors, np.eye(4)[labels], weight_decay=weight_decay, weights=weights)
    wanted = sklearn_logits(
        features,
        labels,
        weight_decay=weight_decay,
        weights=weights,
        mean=factors.mean,
        scale=factors.scale,
        queries=features,
    )
    logits = features @ head.kernel + head.bias
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), wanted, atol=1e-5)


def test_is_the_same_without_rotation(monkeypatch):
    features, labels = problem(60, 40)
    targets = solver.smoothed(np.eye(4)[labels], 0.1)
    rotated = solver.solve(solver.factorise(features), targets, weight_decay=0.01)
    monkeypatch.setattr(solver, "LARGEST_ROTATION", 10)
    plain = solver.solve(solver.factorise(features), targets, weight_decay=0.01)
    np.testing.assert_allclose(plain.kernel, rotated.kernel, atol=1e-6)
    assert plain.loss == pytest.approx(rotated.loss, abs=1e-12)


def test_soft_labels_are_weighted_hard_ones():
    features, labels = problem(50, 70)
    soft = solver.smoothed(np.eye(4)[labels], 0.2)
    one = solver.solve(solver.factorise(features), soft, weight_decay=0.1)
    copies = np.repeat(features, 4, axis=0)  # a copy per class, weighted by its share
    four = solver.solve(solver.factorise(copies), np.tile(np.eye(4), (50, 1)), weight_decay=0.1, weights=soft.ravel())
    np.testing.assert_allclose(one.kernel, four.kernel, atol=1e-7)


def test_a_row_of_weight_zero_has_no_effect():
    features, labels = problem(60, 90)
    weights = np.r_[np.ones(50), np.zeros(10)]
    factors = solver.factorise(features)
    changed = np.r_[labels[:50], (labels[50:] + 1) % 4]
    heads = [solver.solve(factors, np.eye(4)[some], weight_decay=0.1, weights=weights) for some in (labels, changed)]
    np.testing.assert_array_equal(heads[0].kernel, heads[1].kernel)


@pytest.mark.parametrize("largest", [solver.LARGEST_ROTATION, 40])
def test_a_fold_is_solved_as_if_its_rows_were_all_there_are(largest, monkeypatch):
    """On axes of its own or, where there are too many rows for that, on those of all."""
    features, labels = problem(60, 90, seed=largest)  # of its own: parts are kept with the features
    used = np.arange(60) % 4 != 1
    factors = solver.factorise(features)
    monkeypatch.setattr(solver, "LARGEST_ROTATION", largest)
    head = solver.solve(factors, np.eye(4)[labels], weight_decay=0.01, weights=used * 2.0)
    queries = features[~used]
    wanted = sklearn_logits(
        features[used], labels[used], weight_decay=0.01, weights=np.ones(used.sum()),
        mean=factors.mean, scale=factors.scale, queries=queries,
    )  # fmt: skip
    logits = queries @ head.kernel + head.bias
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), wanted, atol=1e-5)
    assert len(factors.parts) == (largest > 40)


def test_a_rotation_is_kept_for_the_same_features_only():
    features, _ = problem(30, 40)
    factors = solver.factorise(features)
    assert solver.factorise(features.copy()) is factors
    changed = features.copy()
    changed[3, 5] += 1
    other = solver.factorise(changed)
    assert other is not factors
    assert not np.array_equal(other.rows, factors.rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weak_strength_takes_few_products(smoothing, monkeypatch):
    """Hundreds of steps lead to the same optimum where the preconditioner lets classes drift together."""
    features, labels = problem(120, 300)
    products, real = [], newton._Problems.curved
    monkeypatch.setattr(newton._Problems, "curved", lambda *given: products.append(1) or real(*given))
    targets = solver.smoothed(np.eye(4)[labels], smoothing)
    solver.solve(solver.factorise(features), targets, weight_decay=1e-4, weights=(np.arange(120) % 5 > 0) * 1.0)
    assert len(products) < 150


def test_constant_features_get_no_weight():
    features, labels = problem(60, 20)
    features[:, 3] = 7
    head = solver.solve(solver.factorise(features), np.eye(4)[labels], weight_decay=0.1)
    assert np.isfinite(head.kernel).all() and np.abs(head.kernel[3]).max() < 1e-12


def test_folds_are_each_solved_without_their_rows():
    features, labels = problem(80, 120)
    folds = np.arange(80) % 4
    weights = np.random.default_rng(1).uniform(0.5, 2, 80)
    factors = solver.factorise(features)
    grid = (0.01, 0.1, 1.0)
    choice = solver.choose_weight_decay(factors, np.eye(4)[labels], folds=folds, weights=weights, grid=grid)
    for number, value in enumerate(grid):
        log_odds = np.zeros((80, 4))
        for fold in range(4):
            trained = folds != fold
            log_odds[~trained] = sklearn_logits(
                features[trained], labels[trained], weight_decay=value, weights=weights[trained],
                mean=factors.mean, scale=factors.scale, queries=features[~trained],
            )  # fmt: skip
        assert choice.losses[number] == pytest.approx(best_tempered(log_odds, labels), abs=1e-4)
    assert choice.weight_decay == grid[int(np.argmin(choice.losses))]


def best_tempered(logits, labels):
    """The least log-loss over a fine grid of temperatures."""
    losses = []
    for scale in np.exp(np.linspace(-3, 3, 2001)):
        log_odds = scale * logits - np.log(np.exp(scale * logits).sum(1, keepdims=True))
        losses.append(-log_odds[np.arange(len(labels)), labels].mean())
    return min(losses)


def test_rows_that_are_not_scored_do_not_count():
    features, labels = problem(60, 90)
    views = np.concatenate([features, features + 0.1])
    folds, scored = np.tile(np.arange(60) % 3, 2), np.arange(120) < 60
    choice = solver.choose_weight_decay(
        solver.factorise(views), np.eye(4)[np.tile(labels, 2)], folds=folds, scored=scored, grid=(0.1,)
    )
    assert choice.losses[0] == pytest.approx(best_tempered(choice.logits[:60], labels), abs=1e-4)


def test_no_value_loses_to_saying_nothing():
    # A weak L2 is far too sure of itself where labels are noisy; its temperature mends that.
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(200, 60)), np.arange(200) % 4
    features[:, :8] += 1.5 * np.repeat(np.eye(4), 2, 1)[labels]
    noisy = labels.copy()
    noisy[rng.permutation(200)[:40]] = rng.integers(0, 4, 40)
    choice = solver.choose_weight_decay(solver.factorise(features), np.eye(4)[noisy], folds=np.arange(200) // 4 % 5)
    assert choice.losses.max() <= np.log(4) + 1e-6  # at its temperature no value is worse than saying nothing


def test_an_easy_set_takes_the_strongest_of_equal_values():
    features = np.repeat(np.eye(4) * 9, 10, 0) + np.random.default_rng(0).normal(size=(40, 4)) * 0.01
    labels = np.repeat(np.arange(4), 10)
    choice = solver.choose_weight_decay(solver.factorise(features), np.eye(4)[labels], folds=np.arange(40) % 5)
    assert choice.weight_decay >= 0.1


def test_a_whole_search_takes_seconds():
    features, labels = problem(600, 1856)
    start = time.perf_counter()
    factors = solver.factorise(features)
    choice = solver.choose_weight_decay(factors, np.eye(4)[labels], folds=np.arange(600) % 5)
    solver.solve(factors, np.eye(4)[labels], weight_decay=choice.weight_decay)
    assert time.perf_counter() - start < 30  # about 1 s on a quiet core
