"""Whether probabilities mean what they say: reliability, expected calibration error, temperature."""

import numpy as np

from ctkeras.resampling import totals

BINS = 15  # of equal width over confidence 0 to 1, as Guo et al. 2017 have it
_TEMPERATURES = (0.05, 20.0)  # searched between; either end stands for 'without bound'
_TINY = float(np.finfo(np.float32).tiny)  # a probability of 0 is taken as this


def reliability(weights: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
    """Counts, mean confidence and accuracy by bin of confidence, a bin holding its upper edge.

    Args:
        weights: float [R, N], how often each of R resamples holds each image.
        confidence: float [N], the likeliest class's probability.
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
    """Expected calibration error (Guo et al. 2017) of what `reliability` returned: float [R]."""
    gaps = np.where(count > 0, np.abs(accuracy - confidence), 0)
    return (count * gaps).sum(1) / count.sum(1)


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities whose logits are divided by a temperature: float64 [N, C]; no answer changes, only how sure it is."""
    from scipy import special

    logs = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    return special.softmax(logs / temperature, axis=-1)


def temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature under which the labels are likeliest (Guo et al. 2017), between 0.05 and 20.

    Args:
        labels: int [N].
        probabilities: float [N, C].
    """
    from scipy import optimize, special

    logs = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    own = np.arange(len(labels)), labels

    def loss(log_temperature: float) -> float:
        return float(-special.log_softmax(logs / np.exp(log_temperature), axis=-1)[own].mean())

    # The loss is convex in 1/T, so it falls and then rises in log T: one minimum.
    found = optimize.minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
