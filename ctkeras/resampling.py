"""The bootstrap: images drawn anew with replacement, each with all its copies, and the bounds of what is computed of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ctkeras import runtime

RESAMPLES = 10_000  # the 95% bounds then move by about 0.001 between seeds on 300 images
_SEED = 0
_ELEMENTS = 100_000  # weights computed with at a time: 0.8 MB, which stays in a processor's cache


def bounds(statistics: Callable[[np.ndarray], dict[str, np.ndarray]], groups: np.ndarray) -> dict[str, Any]:
    """95% bounds by the percentile bootstrap (Efron & Tibshirani 1993), resampling distinct images, not files.

    Of G distinct images, G are drawn with replacement, each with all its copies: copies are no new evidence. Bounds are
    the 2.5th and 97.5th percentile over resamples, those left out in which a statistic isn't defined.

    Args:
        statistics: from weights float64 [R, N], how often a resample holds each image, to name: float [R] or [R, K].
        groups: int [N], equal for copies of an image.

    Returns:
        `<name>_low` and `<name>_high`, floats, or lists of K with None where undefined; a float undefined always is left out.
    """
    parts = [statistics(weights) for weights in _draws(groups)]
    found: dict[str, Any] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        for end, share in (("low", 0.025), ("high", 0.975)):
            quantile = _quantile(values, share)
            if isinstance(quantile, list) or np.isfinite(quantile):
                found[f"{name}_{end}"] = quantile
    return found


def totals(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over each resample's images: weights float [R, N] and values [N] or [N, K] to float [R] or [R, K].

    Not by `@`: in such thin products BLAS' threads mostly wait for each other, on a busy machine for minutes.
    """
    return np.einsum("rn,n...->r...", weights, values)


def _draws(groups: np.ndarray):
    """Yields float64 [R, N] a few resamples at a time, RESAMPLES in all, the same for the same groups."""
    rng = np.random.default_rng(_SEED)
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    member = first.argsort().argsort()[member]  # numbered as they come, whatever the groups are called
    count = len(first)
    rows = min(RESAMPLES, max(1, _ELEMENTS // len(groups)))
    bar = runtime.Bar("resampling", RESAMPLES)
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        chosen = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count)
        yield times[:, member].astype(np.float64)
        bar.update(start + size)
    bar.close()


def _quantile(values: np.ndarray, share: float) -> Any:
    """A quantile over resamples of float [R], or a list of those of float [R, K]; NaN is left out, alone it stays."""
    if values.ndim == 2:
        each = [_quantile(column, share) for column in values.T]
        return [None if np.isnan(quantile) else quantile for quantile in each]
    defined = values[~np.isnan(values)]
    return float(np.quantile(defined, share)) if len(defined) else float("nan")
