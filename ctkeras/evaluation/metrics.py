"""Metrics with intervals, from labels and probabilities; numpy, scipy and scikit-learn only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctkeras.evaluation import bootstrap, calibration, ranking
from ctkeras.evaluation.answers import by_scikit_learn, by_weights, class_key, of_answers
from ctkeras.evaluation.probabilities import SPECIFICITIES, against_normal, of_probabilities

# Computed three ways: for all images, without images of earlier splits, and for each distinct image once.
MAIN = ("acc", "balanced_acc", "macro_f1", "auc", "ap", "loss", "ece", "against_normal_auc") + tuple(
    f"sensitivity_at_specificity_{percent}" for percent in SPECIFICITIES
)
_UNBOUNDED = ("reliability_count", "reliability_confidence")
_COUNTLESS = ("loss", "ece", "loss_calibrated", "ece_calibrated", "loss_uncalibrated", "ece_uncalibrated")  # no shares


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    groups: np.ndarray | None = None,
    chosen: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Metrics of one split: name to number, with `<name>_low` and `<name>_high` as its 95% bounds (see bootstrap.bounds).

    Args:
        labels: int [N].
        probabilities: float [N, C].
        class_names: C names.
        groups: int [N], equal for copies of an image; None when no two are.
        chosen: what `choose` returned for validation, to be applied here.

    Returns:
        n, n_distinct, class_names, confusion_matrix (one row per true class), `chosen`, and those of these that are defined:
        acc, balanced_acc, macro_f1, loss; auc and ap (average precision), means over classes;
        for each class against the others, named by `class_key`: precision, recall, specificity, f1, auc, ap;
        ece, with reliability_count, reliability_confidence and reliability_accuracy per bin (see calibration). Resampling
        adds noise to each bin, so the bounds of a small ece are above it;
        ece_calibrated and loss_calibrated, at the chosen temperature; of a model that has it inside (chosen has
        `calibrated`) instead ece_uncalibrated and loss_uncalibrated, of its answers without it;
        if a class is called normal, for finding the others by 1 - p_normal: against_normal_auc;
        sensitivity_at_specificity_90 and _95, optimistic because the threshold is chosen on the same images;
        sensitivity_at_valid_threshold_90 and _95, and specificity_…, with the thresholds chosen on validation.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    groups = np.arange(len(labels)) if groups is None else groups
    inputs = labels, probabilities, class_names, chosen or {}
    matrix, auc, ap = by_scikit_learn(labels, probabilities)
    points = of_answers(matrix[None], auc[None], ap[None], class_names)
    points |= of_probabilities(np.ones((1, len(labels))), *inputs)
    if len(np.unique(labels)) < len(class_names):  # means over fewer classes would be other metrics
        points |= {"auc": np.array([np.nan]), "ap": np.array([np.nan])}
    plain = {name: _plain(point[0]) for name, point in points.items()}
    values = {
        "n": len(labels),
        "n_distinct": len(np.unique(groups)),
        "class_names": list(class_names),
        **(chosen or {}),
    }
    values |= {name: number for name, number in plain.items() if number is not None}

    values |= _bounds(*inputs, groups, [name for name in values if name not in _UNBOUNDED])
    values["confusion_matrix"] = matrix.astype(int).tolist()
    return values


def _bounds(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    chosen: dict[str, float],
    groups: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    """95% bounds of some metrics by resampling groups; Wilson's for what all resamples give alike, such as 1.

    A share rests on its own groups. Other metrics, such as an AUC, rest at best on those of the rarest class.
    """

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = of_answers(*by_weights(weights, labels, probabilities), class_names)
        parts |= of_probabilities(weights, labels, probabilities, class_names, chosen)
        return {name: parts[name] for name in parts if name in names}

    bounds = bootstrap.bounds(statistics, groups)
    predicted = probabilities.argmax(-1)
    shares = {"acc": (np.ones(len(labels), bool), predicted == labels)}
    for i, name in enumerate(class_names):
        shares[class_key("precision", name)] = predicted == i, labels == i
        shares[class_key("recall", name)] = labels == i, predicted == i
        shares[class_key("specificity", name)] = labels != i, predicted != i
    rarest = min(len(np.unique(groups[labels == i])) for i in np.unique(labels))
    for name in names:
        low, high = f"{name}_low", f"{name}_high"
        if name in _COUNTLESS or low not in bounds or bounds[low] != bounds[high]:
            continue
        if name not in shares:
            if bounds[low] in (0.0, 1.0):
                bounds[low], bounds[high] = bootstrap.wilson(bounds[low], rarest)
            continue
        of, right = shares[name]
        if of.any():
            bounds[low], bounds[high] = bootstrap.wilson(float(right[of].mean()), len(np.unique(groups[of])))
    return bounds


def three_ways(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    groups: np.ndarray,
    seen: np.ndarray | None,
    chosen: dict[str, float] | None = None,
    units: np.ndarray | None = None,
) -> dict[str, Any]:
    """Metrics of all images, and MAIN again for two subsets, with prefixes clean_ and distinct_, each with its own n.

    Args:
        labels: int [N].
        probabilities: float [N, C].
        class_names: C names.
        groups: int [N], equal for copies of an image.
        seen: bool [N], whether the image is also in an earlier split; clean_ excludes these. None: no clean_ metrics.
        chosen: what `choose` returned for validation.
        units: int [N], of each image its patient or group of similar images; None: not known.

    Returns:
        See evaluate; distinct_ uses the first file of each distinct image. With units also group_n, their number, and for MAIN
        of all images and of clean_ the bounds by resampling units: <name>_group_low and <name>_group_high.
    """
    values = evaluate(labels, probabilities, class_names, groups=groups, chosen=chosen)
    first = np.zeros(len(labels), bool)
    first[np.unique(groups, return_index=True)[1]] = True
    for prefix, subset in (("clean", None if seen is None else ~seen), ("distinct", first)):
        if subset is None:
            continue
        part = {"n": 0, "n_distinct": 0}
        if subset.any():
            own = labels[subset], probabilities[subset], class_names
            part = evaluate(*own, groups=groups[subset])
            if units is not None and prefix == "clean":
                values |= _by_unit(*own, units[subset], [name for name in MAIN if name in part], "clean_")
        names = ["n", "n_distinct", "confusion_matrix"]
        names += [f"{name}{end}" for name in MAIN for end in ("", "_low", "_high")]
        values |= {f"{prefix}_{name}": part[name] for name in names if name in part}
    if units is not None:
        values |= _by_unit(labels, probabilities, class_names, units, [name for name in MAIN if name in values], "")
    return values


def _by_unit(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    units: np.ndarray,
    names: Sequence[str],
    prefix: str,
) -> dict[str, Any]:
    """The number of units and the bounds of some metrics by resampling them, named with a prefix."""
    bounds = _bounds(labels, np.asarray(probabilities, np.float64), class_names, {}, units, names)
    named = {f"{prefix}{name}_group_{end}": f"{name}_{end}" for name in names for end in ("low", "high")}
    return {f"{prefix}group_n": len(np.unique(units))} | {
        key: bounds[own] for key, own in named.items() if own in bounds
    }


def choose(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Values chosen on validation for use on another split: temperature, valid_threshold_90 and _95 of 1 - p_normal.

    Args:
        labels: int [N].
        probabilities: float [N, C].
        class_names: C names.
    """
    chosen = {"temperature": calibration.temperature(labels, probabilities)}
    if (scored := against_normal(labels, probabilities, class_names)) is not None:
        for percent in SPECIFICITIES:
            chosen[f"valid_threshold_{percent}"] = ranking.threshold(*scored, percent / 100)
    return chosen


def _plain(point: np.ndarray) -> Any:
    """A number or a list of numbers, with None where it is undefined."""
    if point.ndim:
        return [_plain(each) for each in point]
    return None if np.isnan(point) else float(point)
