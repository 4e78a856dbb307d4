"""Metrics of probabilities themselves: loss, calibration, and detection of other classes than normal, for many resamples."""

from collections.abc import Sequence

import numpy as np

from ctkeras.evaluation import calibration, ranking
from ctkeras.evaluation.bootstrap import totals

SPECIFICITIES = (90, 95)  # percent, at which sensitivity for images of other classes than normal is measured
_CLIP = 1e-7  # lowest probability in a loss, so that one confident error doesn't make it infinite; Keras' epsilon


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


def of_probabilities(
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
        inside = chosen.get("calibrated")  # then the temperature is in the answers, and is taken out again
        name, factor = ("uncalibrated", 1 / chosen["temperature"]) if inside else ("calibrated", chosen["temperature"])
        tempered = calibration.tempered(probabilities, factor)
        metrics[f"ece_{name}"] = calibration.error(*calibration.reliability(weights, tempered.max(-1), right))
        metrics[f"loss_{name}"] = totals(weights, _losses(labels, tempered)) / total
    if (scored := against_normal(labels, probabilities, class_names)) is None:
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


def against_normal(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """(1 - p_normal as float [N], whether the image is of another class as bool [N]); None without a class called normal."""
    if "normal" not in class_names:
        return None
    normal = list(class_names).index("normal")
    return 1 - probabilities[:, normal].astype(np.float64), labels != normal
