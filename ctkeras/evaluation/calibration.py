"""Calibration of probabilities: reliability curve, expected calibration error, temperature."""

import numpy as np

from ctkeras.evaluation.bootstrap import totals

BINS = 15  # of equal width over confidence 0 to 1, as in Guo et al. 2017
_TEMPERATURES = (0.05, 20.0)  # bounds of the search; a result at either end means that there is no minimum
_TINY = float(np.finfo(np.float32).tiny)  # used in place of a probability of 0


def reliability(weights: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
    """Counts, mean confidence and accuracy per bin of confidence; a bin includes its upper edge.

    Args:
        weights: float [R, N], how often each of R resamples holds each image.
        confidence: float [N], the probability of the most probable class.
        right: bool [N], whether that class is the image's.

    Returns:
        Three float [R, BINS]; mean and accuracy are NaN in an empty bin.
    """
    member = np.eye(BINS)[np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)]
    count = totals(weights, member)
    sums = totals(weights, member * confidence[:, None]), totals(weights, member * right[:, None])
    with np.errstate(invalid="ignore"):
        return count, sums[0] / count, sums[1] / count


def error(count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017) from the output of `reliability`: float [R]."""
    gaps = np.where(count > 0, np.abs(accuracy - confidence), 0)
    return (count * gaps).sum(1) / count.sum(1)


def of(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error of probabilities float [N, C] for labels int [N]."""
    right = probabilities.argmax(-1) == labels
    return float(error(*reliability(np.ones((1, len(labels))), probabilities.max(-1), right))[0])


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logits divided by a temperature: float64 [N, C]; answers stay, only confidence changes."""
    from scipy import special

    logs = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    return special.softmax(logs / temperature, axis=-1)


def temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature at which the labels are most probable (Guo et al. 2017), between 0.05 and 20.

    As in Platt 2000, section 2.2, a label counts as (N + 1) / (N + 2), and the rest is shared by the other classes. Where
    every answer is right, the temperature would otherwise fall without end.

    Args:
        labels: int [N].
        probabilities: float [N, C].
    """
    from scipy import optimize, special

    count, classes = probabilities.shape
    logs = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    targets = np.where(np.eye(classes)[labels] > 0, count + 1, 1 / max(classes - 1, 1)) / (count + 2)

    def loss(log_temperature: float) -> float:
        return float(-(targets * special.log_softmax(logs / np.exp(log_temperature), axis=-1)).sum(1).mean())

    # The loss is convex in 1/T, so it falls and then rises in log T: one minimum.
    result = optimize.minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(result.x))
