"""The metrics: scikit-learn's numbers, and bounds that resampling the images gives as well."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from ctkeras import evaluation

NAMES = ("a", "b", "c", "d")


def draw(count=120, classes=4, skill=1.5, seed=0, counts=None):
    """Labels, unbalanced, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count, p=counts or np.arange(1, classes + 1) / sum(range(classes + 1)))
    logits = rng.standard_normal((count, classes)) + skill * np.eye(classes)[labels]
    return labels, special.softmax(logits, axis=-1)


def resampled(labels, predicted, resamples=3000):
    """acc, balanced_acc and macro_f1 of images drawn with replacement, by scikit-learn."""
    rng, rows = np.random.default_rng(1), []
    for _ in range(resamples):
        chosen = rng.integers(len(labels), size=len(labels))
        true, called = labels[chosen], predicted[chosen]
        present = np.union1d(true, called)
        recall = [np.mean(called[true == c] == c) for c in np.unique(true)]
        f1 = [2 * np.sum((true == c) & (called == c)) / (np.sum(true == c) + np.sum(called == c)) for c in present]
        rows.append((np.mean(true == called), np.mean(recall), np.mean(f1)))
    return np.quantile(rows, (0.025, 0.975), axis=0).T


def test_metrics_are_scikit_learns():
    labels, probabilities = draw()
    predicted = probabilities.argmax(-1)
    values = evaluation.evaluate(labels, probabilities, NAMES)
    one_hot = np.eye(4)[labels]
    expected = {
        "n": len(labels),
        "acc": metrics.accuracy_score(labels, predicted),
        "balanced_acc": metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
        "loss": metrics.log_loss(labels, probabilities),
        "auc": metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
    }
    for i, name in enumerate(NAMES):
        expected[f"precision_{name}"] = metrics.precision_score(one_hot[:, i], predicted == i)
        expected[f"recall_{name}"] = metrics.recall_score(one_hot[:, i], predicted == i)
        expected[f"f1_{name}"] = metrics.f1_score(one_hot[:, i], predicted == i)
    for name, value in expected.items():
        assert values.pop(name) == pytest.approx(value, abs=1e-9), name
    np.testing.assert_array_equal(values.pop("confusion_matrix"), metrics.confusion_matrix(labels, predicted))
    assert set(values) == {f"{name}_{end}" for name in ("acc", "balanced_acc", "macro_f1") for end in ("low", "high")}


def test_auc_is_the_chance_of_ranking_an_image_of_the_class_above_another():
    labels, probabilities = draw(count=40)
    pairs = []
    for i in range(4):
        own, other = probabilities[labels == i, i], probabilities[labels != i, i]
        pairs.append(stats.mannwhitneyu(own, other).statistic / (len(own) * len(other)))
    assert evaluation.evaluate(labels, probabilities, NAMES)["auc"] == pytest.approx(np.mean(pairs), abs=1e-9)


@pytest.mark.parametrize(("count", "skill"), [(120, 1.5), (20, 0.5)])
def test_bounds_are_those_of_resampled_images(count, skill):
    labels, probabilities = draw(count=count, skill=skill)
    values = evaluation.evaluate(labels, probabilities, NAMES)
    expected = resampled(labels, probabilities.argmax(-1))
    for name, (low, high) in zip(("acc", "balanced_acc", "macro_f1"), expected, strict=True):
        assert values[f"{name}_low"] == pytest.approx(low, abs=0.02), name
        assert values[f"{name}_high"] == pytest.approx(high, abs=0.02), name


def test_accuracys_bounds_are_binomial():
    labels, probabilities = draw(count=400)
    values = evaluation.evaluate(labels, probabilities, NAMES)
    spread = stats.binom(400, values["acc"])
    assert values["acc_low"] == pytest.approx(spread.ppf(0.025) / 400, abs=0.006)
    assert values["acc_high"] == pytest.approx(spread.ppf(0.975) / 400, abs=0.006)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_contain_the_point_and_narrow_with_the_images(seed):
    widths = []
    for count in (30, 300):
        values = evaluation.evaluate(*draw(count=count, seed=seed), NAMES)
        for name in ("acc", "balanced_acc", "macro_f1"):
            assert 0 <= values[f"{name}_low"] <= values[name] <= values[f"{name}_high"] <= 1
        widths.append(values["acc_high"] - values["acc_low"])
    assert widths[1] < widths[0] / 2


def test_the_same_answers_give_the_same_bounds():
    assert evaluation.evaluate(*draw(), NAMES) == evaluation.evaluate(*draw(), NAMES)


def test_perfect_predictions():
    labels = np.arange(20) % 4
    values = evaluation.evaluate(labels, np.eye(4)[labels], NAMES)
    for name in ("acc", "balanced_acc", "macro_f1"):
        assert values[name] == values[f"{name}_low"] == values[f"{name}_high"] == 1
    assert values["auc"] == 1
    assert values["loss"] == 0
    assert values["confusion_matrix"] == (5 * np.eye(4)).tolist()


def test_wrong_predictions_have_a_finite_loss():
    labels = np.arange(20) % 4
    values = evaluation.evaluate(labels, np.eye(4)[(labels + 1) % 4], NAMES)
    assert values["acc"] == values["balanced_acc"] == values["macro_f1"] == 0
    assert values["auc"] < 0.5
    assert 10 < values["loss"] < 20


def test_predictions_by_chance():
    labels, probabilities = draw(count=4000, skill=0.0, counts=[0.25] * 4)
    values = evaluation.evaluate(labels, probabilities, NAMES)
    for name in ("acc", "balanced_acc", "macro_f1"):
        assert values[f"{name}_low"] - 0.01 < 0.25 < values[f"{name}_high"] + 0.01
    assert values["auc"] == pytest.approx(0.5, abs=0.02)
    uniform = evaluation.evaluate(labels, np.full((4000, 4), 0.25), NAMES)
    assert uniform["loss"] == pytest.approx(np.log(4))
    assert uniform["balanced_acc"] == 0.25  # one class is called always: never better than chance
    assert uniform["auc"] == 0.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("missing_called", [False, True])
def test_a_class_without_images_is_left_out_of_means(missing_called):
    labels, probabilities = draw(counts=[0.5, 0.3, 0.2, 0.0])
    probabilities[:, 3] = 0.0
    if missing_called:
        probabilities[:5] = [0, 0, 0, 1]
    values = evaluation.evaluate(labels, probabilities, NAMES)
    predicted = probabilities.argmax(-1)
    present = [0, 1, 2, 3] if missing_called else [0, 1, 2]
    f1 = metrics.f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)
    recall = metrics.recall_score(labels, predicted, labels=[0, 1, 2], average="macro")
    assert values["macro_f1"] == pytest.approx(f1)
    assert values["balanced_acc"] == pytest.approx(recall)
    assert values["recall_d"] == values["f1_d"] == values["precision_d"] == 0
    assert "auc" not in values
    assert np.shape(values["confusion_matrix"]) == (4, 4)
    assert all(np.isfinite(value) for name, value in values.items() if name != "confusion_matrix")


@pytest.mark.filterwarnings("error")
def test_one_image():
    values = evaluation.evaluate(np.array([2]), np.array([[0.1, 0.2, 0.4, 0.3]]), NAMES)
    assert values["n"] == values["acc"] == values["acc_low"] == 1
    assert values["loss"] == pytest.approx(-np.log(0.4))


@pytest.mark.parametrize("scale", [1, 50, 1e4])
def test_softmax_and_cross_entropy_are_scipys(scale):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(4, size=50), (scale * rng.standard_normal((50, 4))).astype(np.float32)
    probabilities = evaluation.softmax(logits)
    np.testing.assert_allclose(probabilities, special.softmax(logits.astype(np.float64), axis=-1), atol=1e-12)
    logs = special.log_softmax(logits.astype(np.float64), axis=-1)[np.arange(50), labels]
    expected = -np.maximum(logs, np.log(1e-7)).mean()  # one confident error counts as one of 1e-7
    assert evaluation.cross_entropy(labels, probabilities) == pytest.approx(expected)


def test_accuracy_is_the_share_of_right_answers():
    labels, probabilities = draw()
    assert evaluation.accuracy(labels, probabilities) == np.mean(probabilities.argmax(-1) == labels)
