"""Metrics with intervals, from labels and probabilities; numpy, scipy and scikit-learn only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctkeras.evaluation import bootstrap, calibration, ranking
from ctkeras.evaluation.bootstrap import totals

SPECIFICITIES = (90, 95)  # percent, at which sensitivity for images of other classes than normal is measured
# Computed three ways: for all images, without images of earlier splits, and for each distinct image once.
MAIN = ("acc", "balanced_acc", "macro_f1", "auc", "ap", "loss", "ece", "against_normal_auc") + tuple(
    f"sensitivity_at_specificity_{percent}" for percent in SPECIFICITIES
)
_UNBOUNDED = ("reliability_count", "reliability_confidence")
_CLIP = 1e-7  # lowest probability in a loss, so that one confident error doesn't make it infinite; Keras' epsilon


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
        ece_calibrated and loss_calibrated, at the chosen temperature;
        if a class is called normal, for finding the others by 1 - p_normal: against_normal_auc;
        sensitivity_at_specificity_90 and _95, optimistic because the threshold is chosen on the same images;
        sensitivity_at_valid_threshold_90 and _95, and specificity_…, with the thresholds chosen on validation.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    groups = np.arange(len(labels)) if groups is None else groups
    inputs = labels, probabilities, class_names, chosen or {}
    matrix, auc, ap = _by_scikit_learn(labels, probabilities)
    points = _of_answers(matrix[None], auc[None], ap[None], class_names)
    points |= _of_probabilities(np.ones((1, len(labels))), *inputs)
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
    """95% bounds of some metrics by resampling groups; Wilson's for a share that all resamples give alike, such as 1."""

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = _of_answers(*_by_weights(weights, labels, probabilities), class_names)
        parts |= _of_probabilities(weights, labels, probabilities, class_names, chosen)
        return {name: parts[name] for name in parts if name in names}

    bounds = bootstrap.bounds(statistics, groups)
    predicted = probabilities.argmax(-1)
    shares = {"acc": (np.ones(len(labels), bool), predicted == labels)}
    for i, name in enumerate(class_names):
        shares[class_key("precision", name)] = predicted == i, labels == i
        shares[class_key("recall", name)] = labels == i, predicted == i
        shares[class_key("specificity", name)] = labels != i, predicted != i
    for name, (of, right) in shares.items():
        low, high = f"{name}_low", f"{name}_high"
        if of.any() and low in bounds and bounds[low] == bounds[high]:
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
    if (scored := _against_normal(labels, probabilities, class_names)) is not None:
        for percent in SPECIFICITIES:
            chosen[f"valid_threshold_{percent}"] = ranking.threshold(*scored, percent / 100)
    return chosen


def class_key(metric: str, class_name: str) -> str:
    """The name of a metric of one class; a class called low or high must not look like a bound."""
    return f"{metric}_{class_name}" + ("_class" if class_name.endswith(("low", "high")) else "")


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The share of images whose most probable class is the right one."""
    return float((probabilities.argmax(-1) == labels).mean())


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood, natural logarithm."""
    return float(_losses(labels, probabilities).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities from logits, float64 [N, C]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each image: float64 [N]."""
    own = np.take_along_axis(probabilities.astype(np.float64), labels[:, None].astype(np.int64), axis=1)[:, 0]
    return -np.log(np.clip(own, _CLIP, 1.0))


def _by_scikit_learn(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The split's confusion matrix [C, C], and each class's AUC and average precision [C], NaN where undefined."""
    from sklearn import metrics

    classes = range(probabilities.shape[1])
    matrix = metrics.confusion_matrix(labels, probabilities.argmax(-1), labels=classes)
    auc, ap = np.full((2, len(classes)), np.nan)
    for i in classes:
        if 0 < (own := labels == i).sum() < len(labels):
            auc[i] = metrics.roc_auc_score(own, probabilities[:, i])
        if own.any():
            ap[i] = metrics.average_precision_score(own, probabilities[:, i])
    return matrix, auc, ap


def _by_weights(
    weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for R resamples at once, weights float [R, N]: [R, C, C], [R, C], [R, C]; scikit-learn would take minutes."""
    classes = probabilities.shape[1]
    cell = np.eye(classes**2)[labels * classes + probabilities.argmax(-1)]
    matrices = totals(weights, cell).reshape(-1, classes, classes)
    auc, ap = np.empty((2, len(weights), classes))
    for i in range(classes):
        curve = ranking.curve(weights, probabilities[:, i], labels == i)
        auc[:, i], ap[:, i] = ranking.auc(*curve), ranking.average_precision(*curve)
    return matrices, auc, ap


def _of_answers(
    matrices: np.ndarray, auc: np.ndarray, ap: np.ndarray, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metrics of R confusion matrices [R, C, C] and of auc and ap [R, C], float [R] each.

    A class without images is NaN and left out of means; a class that is never predicted has precision 0, as in scikit-learn.
    """
    hits, true, called = matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)
    total = matrices.sum((1, 2))[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        by_class = {
            "precision": np.where((called == 0) & (true > 0), 0, hits / called),
            "recall": hits / true,
            "specificity": (total - true - called + hits) / (total - true),
            "f1": 2 * hits / (true + called),
            "auc": auc,
            "ap": ap,
        }
    metrics = {
        "acc": hits.sum(1) / total[:, 0],
        "balanced_acc": _mean(by_class["recall"]),
        "macro_f1": _mean(by_class["f1"]),
        "auc": _mean(auc),
        "ap": _mean(ap),
    }
    for metric, numbers in by_class.items():
        metrics |= {class_key(metric, name): numbers[:, i] for i, name in enumerate(class_names)}
    return metrics


def _of_probabilities(
    weights: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    chosen: dict[str, float],
) -> dict[str, np.ndarray]:
    """Loss, calibration and detection of other classes than normal, for R resamples: float [R], reliability [R, 15]."""
    total = weights.sum(1)
    right = probabilities.argmax(-1) == labels
    bins = calibration.reliability(weights, probabilities.max(-1), right)
    metrics = {"loss": totals(weights, _losses(labels, probabilities)) / total, "ece": calibration.error(*bins)}
    metrics |= dict(zip(("reliability_count", "reliability_confidence", "reliability_accuracy"), bins, strict=True))
    if "temperature" in chosen:
        tempered = calibration.tempered(probabilities, chosen["temperature"])
        metrics["ece_calibrated"] = calibration.error(*calibration.reliability(weights, tempered.max(-1), right))
        metrics["loss_calibrated"] = totals(weights, _losses(labels, tempered)) / total
    if (scored := _against_normal(labels, probabilities, class_names)) is None:
        return metrics
    curve = ranking.curve(weights, *scored)
    metrics["against_normal_auc"] = ranking.auc(*curve)
    scores, sick = scored
    for percent in SPECIFICITIES:
        metrics[f"sensitivity_at_specificity_{percent}"] = ranking.sensitivity(*curve, percent / 100)
        if (threshold := chosen.get(f"valid_threshold_{percent}")) is not None:
            for metric, own, right in (
                ("sensitivity", sick, scores >= threshold),
                ("specificity", ~sick, scores < threshold),
            ):
                with np.errstate(invalid="ignore"):
                    share = totals(weights, own & right) / totals(weights, own)
                metrics[f"{metric}_at_valid_threshold_{percent}"] = share
    return metrics


def _against_normal(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """(1 - p_normal as float [N], whether the image is of another class as bool [N]); None without a class called normal."""
    if "normal" not in class_names:
        return None
    normal = list(class_names).index("normal")
    return 1 - probabilities[:, normal].astype(np.float64), labels != normal


def _mean(numbers: np.ndarray) -> np.ndarray:
    """Means over classes of float [R, C], ignoring NaN."""
    defined = ~np.isnan(numbers)
    with np.errstate(invalid="ignore"):
        return np.where(defined, numbers, 0).sum(1) / defined.sum(1)


def _plain(point: np.ndarray) -> Any:
    """A number or a list of numbers, with None where it is undefined."""
    if point.ndim:
        return [_plain(each) for each in point]
    return None if np.isnan(point) else float(point)
