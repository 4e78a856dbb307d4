"""The metrics: scikit-learn's numbers, and bounds that resampling the images one by one gives as well."""

import json

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from ctkeras.evaluation import bootstrap, calibration, ranking
from ctkeras.evaluation.answers import class_key
from ctkeras.evaluation.metrics import choose, evaluate, three_ways
from ctkeras.evaluation.probabilities import accuracy, cross_entropy, softmax
from ctkeras.runs import folder

NAMES = ("a", "b", "c", "d")
MAIN = ("acc", "balanced_acc", "macro_f1", "auc", "ap", "loss", "ece", "against_normal_auc")
MAIN += ("sensitivity_at_specificity_90", "sensitivity_at_specificity_95")
CANCER = ("adenocarcinoma", "large_cell", "normal", "squamous_cell")


def draw(count=120, classes=4, skill=1.5, seed=0, counts=None):
    """Labels, unbalanced, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count, p=counts or np.arange(1, classes + 1) / sum(range(classes + 1)))
    logits = rng.standard_normal((count, classes)) + skill * np.eye(classes)[labels]
    return labels, special.softmax(logits, axis=-1)


def reference(labels, probabilities, groups, statistic, resamples):
    """A statistic's bounds by drawing distinct images one after the other, each with its copies."""
    rng, found = np.random.default_rng(1), []
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        found.append(statistic(labels[rows], probabilities[rows]))
    return np.nanquantile(found, (0.025, 0.975), axis=0).T


def by_definition(labels, probabilities):
    """acc, balanced_acc, macro_f1, the second class's precision, recall, specificity, auc and ap."""
    predicted, own, score = probabilities.argmax(-1), labels == 1, probabilities[:, 1]
    recall = [np.mean(predicted[labels == c] == c) for c in np.unique(labels)]
    present = np.union1d(labels, predicted)
    f1 = [
        2 * np.sum((labels == c) & (predicted == c)) / (np.sum(labels == c) + np.sum(predicted == c)) for c in present
    ]
    pairs = score[own][:, None] - score[~own]
    precision = [np.mean(own[score >= threshold]) for threshold in score[own]]
    return (
        np.mean(labels == predicted),
        np.mean(recall),
        np.mean(f1),
        np.mean(own[predicted == 1]),
        np.mean(predicted[own] == 1),
        np.mean(predicted[~own] != 1),
        np.mean(pairs > 0) + np.mean(pairs == 0) / 2,
        np.mean(precision),
    )


REFERENCED = ("acc", "balanced_acc", "macro_f1", "precision_b", "recall_b", "specificity_b", "auc_b", "ap_b")


def test_metrics_are_scikit_learns():
    labels, probabilities = draw()
    predicted = probabilities.argmax(-1)
    values = evaluate(labels, probabilities, NAMES)
    one_hot = np.eye(4)[labels]
    expected = {
        "n": len(labels),
        "acc": metrics.accuracy_score(labels, predicted),
        "balanced_acc": metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
        "loss": metrics.log_loss(labels, probabilities),
        "auc": metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "ap": metrics.average_precision_score(one_hot, probabilities, average="macro"),
    }
    for i, name in enumerate(NAMES):
        expected[f"precision_{name}"] = metrics.precision_score(one_hot[:, i], predicted == i)
        expected[f"recall_{name}"] = metrics.recall_score(one_hot[:, i], predicted == i)
        expected[f"specificity_{name}"] = metrics.recall_score(one_hot[:, i], predicted == i, pos_label=0)
        expected[f"f1_{name}"] = metrics.f1_score(one_hot[:, i], predicted == i)
        expected[f"auc_{name}"] = metrics.roc_auc_score(one_hot[:, i], probabilities[:, i])
        expected[f"ap_{name}"] = metrics.average_precision_score(one_hot[:, i], probabilities[:, i])
    for name, value in expected.items():
        assert values.pop(name) == pytest.approx(value, abs=1e-9), name
    np.testing.assert_array_equal(values.pop("confusion_matrix"), metrics.confusion_matrix(labels, predicted))
    assert values["n_distinct"] == len(labels)
    for name in expected:
        assert name == "n" or values[f"{name}_low"] <= values[f"{name}_high"]


def test_auc_is_the_chance_of_ranking_an_image_of_the_class_above_another():
    labels, probabilities = draw(count=40)
    pairs = []
    for i in range(4):
        own, other = probabilities[labels == i, i], probabilities[labels != i, i]
        pairs.append(stats.mannwhitneyu(own, other).statistic / (len(own) * len(other)))
    assert evaluate(labels, probabilities, NAMES)["auc"] == pytest.approx(np.mean(pairs), abs=1e-9)


@pytest.mark.parametrize("copies", [0, 60])
def test_bounds_are_those_of_distinct_images_drawn_one_by_one(copies):
    labels, probabilities = draw(count=120)
    groups = np.arange(120)
    # Copies of a few images, as the public set has them: what one of them adds is no evidence of its own.
    labels = np.concatenate([labels, labels[np.arange(copies) % 20]])
    probabilities = np.concatenate([probabilities, probabilities[np.arange(copies) % 20]])
    groups = np.concatenate([groups, np.arange(copies) % 20])
    values = evaluate(labels, probabilities, NAMES, groups=groups)
    expected = reference(labels, probabilities, groups, by_definition, 3000)
    for name, (low, high) in zip(REFERENCED, expected, strict=True):
        assert values[f"{name}_low"] == pytest.approx(low, abs=0.02), name
        assert values[f"{name}_high"] == pytest.approx(high, abs=0.02), name


def test_copies_of_all_images_change_no_number_when_they_are_known_as_copies():
    labels, probabilities = draw(count=60)
    once = evaluate(labels, probabilities, CANCER)
    twice = (np.tile(labels, 3), np.tile(probabilities, (3, 1)), CANCER)
    known = evaluate(*twice, groups=np.tile(np.arange(60), 3))
    assert (known["n"], known["n_distinct"]) == (180, 60)
    for name in once.keys() - {"n", "class_names", "confusion_matrix", "reliability_count"}:
        assert known[name] == pytest.approx(once[name], abs=1e-6), name  # resamples are summed in float32
    unknown = evaluate(*twice)
    assert unknown["acc_high"] - unknown["acc_low"] < 0.7 * (once["acc_high"] - once["acc_low"])


def test_how_groups_are_numbered_changes_nothing():
    labels, probabilities = draw(count=50)
    groups = np.arange(50) // 2
    first = evaluate(labels, probabilities, NAMES, groups=groups)
    assert first == evaluate(labels, probabilities, NAMES, groups=7 - 3 * groups)


@pytest.mark.parametrize("elements", [1, 1000])
def test_resamples_do_not_depend_on_how_many_are_computed_at_a_time(monkeypatch, elements):
    groups = np.array([0, 0, 1, 2, 3])

    def mean(weights):
        return {"mean": weights @ np.arange(5.0) / weights.sum(1)}

    whole = bootstrap.bounds(mean, groups)
    monkeypatch.setattr(bootstrap, "_ELEMENTS", elements)
    assert bootstrap.bounds(mean, groups) == whole


def test_accuracys_bounds_are_binomial():
    labels, probabilities = draw(count=400)
    values = evaluate(labels, probabilities, NAMES)
    spread = stats.binom(400, values["acc"])
    assert values["acc_low"] == pytest.approx(spread.ppf(0.025) / 400, abs=0.006)
    assert values["acc_high"] == pytest.approx(spread.ppf(0.975) / 400, abs=0.006)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_contain_the_point_and_narrow_with_the_images(seed):
    widths = []
    for count in (30, 300):
        values = evaluate(*draw(count=count, seed=seed), NAMES)
        for name in ("acc", "balanced_acc", "macro_f1"):
            assert 0 <= values[f"{name}_low"] <= values[name] <= values[f"{name}_high"] <= 1
        widths.append(values["acc_high"] - values["acc_low"])
    assert widths[1] < widths[0] / 2


def test_the_same_answers_give_the_same_bounds():
    assert evaluate(*draw(), NAMES) == evaluate(*draw(), NAMES)


def test_bounds_are_the_same_in_every_version():
    """Published intervals must be reproducible: number of resamples, seed, order of draws and quantiles are fixed."""
    values, groups = np.sin(np.arange(80)), np.arange(80) // 2

    def statistics(weights):
        total = weights.sum(1)
        return {"mean": bootstrap.totals(weights, values) / total, "n": total, "never": np.full(len(weights), np.nan)}

    expected = {"mean_low": -0.17197430265518962, "mean_high": 0.20984052006246065, "n_low": 80, "n_high": 80}
    assert bootstrap.bounds(statistics, groups) == pytest.approx(expected, rel=1e-6)
    assert bootstrap.bounds(statistics, -7 * groups[::-1])["n_low"] == 80  # whatever the groups are called


def test_a_class_that_is_never_called_has_precision_0():
    labels, probabilities = draw()
    probabilities[:, 1] = 0
    values = evaluate(labels, probabilities, NAMES)
    assert values["precision_b"] == values["precision_b_low"] == values["recall_b"] == values["f1_b"] == 0
    assert values["specificity_b"] == 1


def test_a_bin_of_confidence_holds_its_upper_edge():
    confidence, right = np.array([0.2, 0.4, 1.0, 0.0, 0.201]), np.array([True, False, True, False, True])
    count, mean, share = (row[0] for row in calibration.reliability(np.ones((1, 5)), confidence, right))
    assert np.flatnonzero(count).tolist() == [0, 2, 3, 5, 14]
    assert (mean[2], share[2], mean[5], share[5]) == (0.2, 1, 0.4, 0)
    assert calibration.error(count[None], mean[None], share[None])[0] == pytest.approx((0.8 + 0.4 + 0 + 0 + 0.799) / 5)


def test_the_temperature_is_bounded():
    labels = np.arange(20) % 4
    sure, unsure = 0.9 * np.eye(4)[labels] + 0.025, 0.1 * np.eye(4)[labels] + 0.225
    surest = calibration.tempered(unsure, calibration.temperature(labels, unsure)).max(-1)
    np.testing.assert_allclose(surest, 21 / 22, atol=1e-4)  # always right, but no surer than 20 images allow
    assert calibration.temperature((labels + 1) % 4, sure) == pytest.approx(20, abs=0.1)  # always wrong: ever less sure


def test_perfect_predictions():
    labels = np.arange(20) % 4
    values = evaluate(labels, np.eye(4)[labels], NAMES)
    rarest = stats.binomtest(5, 5).proportion_ci(method="wilson").low
    for name in ("balanced_acc", "macro_f1", "auc", "auc_b"):  # never surer than the rarest class allows
        assert values[name] == values[f"{name}_high"] == 1
        assert values[f"{name}_low"] == pytest.approx(rarest)
    assert values["acc"] == values["acc_high"] == values["recall_a"] == values["auc"] == 1
    for name, count in (("acc", 20), ("recall_a", 5), ("specificity_a", 15)):  # no resample errs: exact bounds instead
        exact = stats.binomtest(count, count).proportion_ci(method="wilson")
        assert values[f"{name}_low"] == pytest.approx(exact.low)
    assert values["loss"] == 0
    assert values["confusion_matrix"] == (5 * np.eye(4)).tolist()


def test_wrong_predictions_have_a_finite_loss():
    labels = np.arange(20) % 4
    values = evaluate(labels, np.eye(4)[(labels + 1) % 4], NAMES)
    assert values["acc"] == values["balanced_acc"] == values["macro_f1"] == 0
    assert values["auc"] < 0.5
    assert 10 < values["loss"] < 20


def test_predictions_by_chance():
    labels, probabilities = draw(count=600, skill=0.0, counts=[0.25] * 4)
    values = evaluate(labels, probabilities, NAMES)
    for name in ("acc", "balanced_acc", "macro_f1"):
        assert values[f"{name}_low"] - 0.01 < 0.25 < values[f"{name}_high"] + 0.01
    assert values["auc"] == pytest.approx(0.5, abs=0.04)
    uniform = evaluate(labels[:100], np.full((100, 4), 0.25), NAMES)
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
    values = evaluate(labels, probabilities, NAMES)
    predicted = probabilities.argmax(-1)
    present = [0, 1, 2, 3] if missing_called else [0, 1, 2]
    f1 = metrics.f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)
    recall = metrics.recall_score(labels, predicted, labels=[0, 1, 2], average="macro")
    assert values["macro_f1"] == pytest.approx(f1)
    assert values["balanced_acc"] == pytest.approx(recall)
    assert not {"recall_d", "auc_d", "ap_d", "recall_d_low", "auc", "ap", "auc_low"} & values.keys()
    assert ("f1_d" in values) == ("precision_d" in values) == missing_called
    assert np.shape(values["confusion_matrix"]) == (4, 4)
    assert all(np.isfinite(value) for value in values.values() if not isinstance(value, list))


@pytest.mark.filterwarnings("error")
def test_one_image():
    values = evaluate(np.array([2]), np.array([[0.1, 0.2, 0.4, 0.3]]), NAMES)
    assert values["n"] == values["acc"] == values["acc_high"] == 1
    assert values["acc_low"] == pytest.approx(0.207, abs=1e-3)  # nothing is known from one image
    assert values["loss"] == pytest.approx(-np.log(0.4))


@pytest.mark.parametrize("scale", [1, 50, 1e4])
def test_softmax_and_cross_entropy_are_scipys(scale):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(4, size=50), (scale * rng.standard_normal((50, 4))).astype(np.float32)
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities, special.softmax(logits.astype(np.float64), axis=-1), atol=1e-12)
    logs = special.log_softmax(logits.astype(np.float64), axis=-1)[np.arange(50), labels]
    expected = -np.maximum(logs, np.log(1e-7)).mean()  # one confident error counts as one of 1e-7
    assert cross_entropy(labels, probabilities) == pytest.approx(expected)


def test_accuracy_is_the_share_of_right_answers():
    labels, probabilities = draw()
    assert accuracy(labels, probabilities) == np.mean(probabilities.argmax(-1) == labels)


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_ranking_is_scikit_learns(ties):
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, (20, 80)).astype(float)
    positive = rng.random(80) < 0.4
    scores = rng.standard_normal(80) + positive
    scores = np.round(scores) if ties else scores
    curve = ranking.curve(weights, scores, positive)
    auc, ap = ranking.areas(weights, scores, positive)
    np.testing.assert_allclose(ranking.auc(*curve), auc)
    for i, row in enumerate(weights):
        kept = row > 0
        given = positive[kept], scores[kept]
        assert auc[i] == pytest.approx(metrics.roc_auc_score(*given, sample_weight=row[kept]), abs=1e-12)
        assert ap[i] == pytest.approx(metrics.average_precision_score(*given, sample_weight=row[kept]), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("specificity", [0.9, 0.95, 1.0])
def test_sensitivity_is_the_best_of_all_thresholds_that_spare_enough_negatives(ties, specificity):
    rng = np.random.default_rng(0)
    for _ in range(20):
        positive = rng.random(60) < 0.6
        scores = rng.standard_normal(60) + positive
        scores = np.round(2 * scores) if ties else scores
        called = [scores >= threshold for threshold in (*np.unique(scores), np.inf)]
        allowed = [each for each in called if np.mean(~each[~positive]) >= specificity - 1e-12]
        best = max(np.mean(each[positive]) for each in allowed)
        curve = ranking.curve(np.ones((1, 60)), scores, positive)
        assert ranking.sensitivity(*curve, specificity)[0] == pytest.approx(best)
        threshold = ranking.threshold(scores, positive, specificity)
        assert np.mean(scores[positive] >= threshold) == pytest.approx(best)
        assert np.mean(scores[~positive] < threshold) >= specificity - 1e-12


def test_twenty_negatives_allow_one_error_at_specificity_95():
    scores = np.array([0.9, *np.linspace(0.1, 0.2, 19), 0.5, 0.6])
    positive = np.arange(22) >= 20
    assert ranking.sensitivity(*ranking.curve(np.ones((1, 22)), scores, positive), 0.95)[0] == 1


def test_what_is_not_normal_is_found_by_the_probability_of_normal():
    labels, probabilities = draw(count=200)
    values = evaluate(labels, probabilities, CANCER)
    sick, score = labels != 2, 1 - probabilities[:, 2]
    assert values["against_normal_auc"] == pytest.approx(metrics.roc_auc_score(sick, score))
    false, true, _ = metrics.roc_curve(sick, score, drop_intermediate=False)
    for percent in (90, 95):
        name = f"sensitivity_at_specificity_{percent}"
        assert values[name] == pytest.approx(true[false <= 1 - percent / 100 + 1e-9].max())
        assert values[f"{name}_low"] <= values[name] <= values[f"{name}_high"]
    assert not [name for name in evaluate(labels, probabilities, NAMES) if "sensitivity" in name]


def test_thresholds_from_validation_are_applied_as_they_are():
    labels, probabilities = draw(count=300, seed=1)
    valid = draw(count=70, seed=2)
    chosen = choose(*valid, CANCER)
    values = evaluate(labels, probabilities, CANCER, chosen=chosen)
    for percent in (90, 95):
        threshold = chosen[f"valid_threshold_{percent}"]
        called = 1 - probabilities[:, 2] >= threshold
        assert values[f"valid_threshold_{percent}"] == threshold
        assert values[f"sensitivity_at_valid_threshold_{percent}"] == pytest.approx(called[labels != 2].mean())
        assert values[f"specificity_at_valid_threshold_{percent}"] == pytest.approx(1 - called[labels == 2].mean())
        assert np.mean(1 - valid[1][valid[0] == 2, 2] < threshold) >= percent / 100
    own = evaluate(*valid, CANCER, chosen=chosen)  # chosen on what it is measured on: the same number
    assert own["sensitivity_at_valid_threshold_90"] == pytest.approx(own["sensitivity_at_specificity_90"])


def test_calibration_error_is_the_mean_gap_by_bin():
    labels, probabilities = draw(count=500)
    values = evaluate(labels, probabilities, NAMES)
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    gap = 0.0
    for i in range(15):
        own = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        assert values["reliability_count"][i] == own.sum()
        if not own.any():
            assert values["reliability_accuracy"][i] is values["reliability_accuracy_low"][i] is None
            continue
        assert values["reliability_accuracy"][i] == pytest.approx(right[own].mean())
        assert values["reliability_confidence"][i] == pytest.approx(confidence[own].mean())
        assert values["reliability_accuracy_low"][i] <= right[own].mean() <= values["reliability_accuracy_high"][i]
        gap += own.mean() * abs(right[own].mean() - confidence[own].mean())
    assert values["ece"] == pytest.approx(gap)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_found_is_the_one_that_labels_were_drawn_at(temperature):
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((20_000, 4))
    drawn = special.softmax(logits / temperature, axis=-1)
    labels = (rng.random((20_000, 1)) > drawn.cumsum(-1)).sum(-1)
    claimed = special.softmax(logits, axis=-1)
    found = calibration.temperature(labels, claimed)
    assert found == pytest.approx(temperature, rel=0.05)
    values = evaluate(labels[:500], claimed[:500], NAMES, chosen={"temperature": found})
    if temperature != 1.0:
        assert values["ece_calibrated"] < values["ece"] / 2
        assert values["loss_calibrated"] < values["loss"]


def test_temperature_is_a_minimum_of_the_loss_and_changes_no_answer():
    labels, probabilities = draw(count=100)
    found = calibration.temperature(labels, probabilities)
    losses = [cross_entropy(labels, calibration.tempered(probabilities, found * factor)) for factor in (0.9, 1.0, 1.1)]
    assert losses[1] < min(losses[0], losses[2])
    tempered = calibration.tempered(probabilities, found)
    np.testing.assert_array_equal(tempered.argmax(-1), probabilities.argmax(-1))
    np.testing.assert_allclose(calibration.tempered(probabilities, 1.0), probabilities, atol=1e-12)
    np.testing.assert_allclose(tempered.sum(-1), 1)


@pytest.mark.filterwarnings("error")
def test_certainty_itself_can_be_tempered():
    labels = np.arange(20) % 4
    certain = np.eye(4)[labels]
    np.testing.assert_allclose(calibration.tempered(certain, 0.1), certain)
    assert calibration.temperature((labels + (np.arange(20) < 4)) % 4, certain) > 10  # certain, and wrong at times
    assert np.isfinite(calibration.tempered(certain, 20.0)).all()


def test_three_ways_are_evaluations_of_parts():
    labels, probabilities = draw(count=150)
    groups, seen = np.arange(150) % 110, np.arange(150) % 5 == 0
    given = {"groups": groups, "chosen": {"temperature": 2.0}}
    values = three_ways(labels, probabilities, CANCER, seen=seen, **given)
    whole = evaluate(labels, probabilities, CANCER, **given)
    assert whole.items() <= values.items()
    parts = {
        "clean": evaluate(labels[~seen], probabilities[~seen], CANCER, groups=groups[~seen]),
        "distinct": evaluate(labels[:110], probabilities[:110], CANCER),
    }
    for prefix, part in parts.items():
        for name in (
            "n",
            "n_distinct",
            "confusion_matrix",
            *(f"{m}{end}" for m in MAIN for end in ("", "_low", "_high")),
        ):
            assert values[f"{prefix}_{name}"] == part[name], (prefix, name)
    assert values["clean_n"] == 120
    assert values["distinct_n"] == values["n_distinct"] == 110


@pytest.mark.parametrize("prefix", ["", "clean_"])
def test_bounds_by_units_are_those_of_units_as_copies(prefix):
    labels, probabilities = draw(count=120)
    units, seen = np.arange(120) // 4, np.arange(120) % 5 == 0
    values = three_ways(labels, probabilities, CANCER, groups=np.arange(120), seen=seen, units=units)
    own = ~seen if prefix else np.ones(120, bool)
    alike = evaluate(labels[own], probabilities[own], CANCER, groups=units[own])
    assert values[f"{prefix}group_n"] == len(np.unique(units[own])) == 30
    for name in MAIN:
        assert values[f"{prefix}{name}"] == alike[name]
        for end in ("low", "high"):
            assert values[f"{prefix}{name}_group_{end}"] == alike[f"{name}_{end}"]


def test_a_share_is_bounded_by_groups():
    right = np.arange(60) % 5 > 0
    wide, narrow = (bootstrap.share(right, groups) for groups in (np.arange(60) % 5, np.arange(60)))
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]
    exact = stats.binomtest(12, 12).proportion_ci(method="wilson")
    assert bootstrap.share(np.ones(60, bool), np.arange(60) // 5) == pytest.approx(tuple(exact))


def test_parts_may_be_empty_or_not_asked_for():
    labels, probabilities = draw(count=20)
    given = labels, probabilities, NAMES
    values = three_ways(*given, groups=np.arange(20), seen=np.ones(20, bool))
    assert values["clean_n"] == 0
    assert "clean_acc" not in values
    values = three_ways(*given, groups=np.arange(20), seen=None)
    assert not [name for name in values if name.startswith("clean")]


def test_classes_called_low_and_high_do_not_pass_for_bounds():
    labels, probabilities = draw(count=60)
    named = evaluate(labels, probabilities, ("low", "high", "x", "x_low"))
    plain = evaluate(labels, probabilities, NAMES)
    assert named["auc_low"] == plain["auc_low"]
    assert len(named) == len(plain)
    for name, own in zip(("low", "high", "x", "x_low"), NAMES, strict=True):
        assert named[class_key("auc", name)] == plain[f"auc_{own}"]


def test_all_of_it_is_json(tmp_path):
    labels, probabilities = draw(count=60)
    chosen = choose(labels, probabilities, CANCER)
    values = three_ways(labels, probabilities, CANCER, groups=np.arange(60), seen=labels == 0, chosen=chosen)
    folder.write_json(tmp_path / "metrics.json", values)
    assert json.loads((tmp_path / "metrics.json").read_text()) == values
