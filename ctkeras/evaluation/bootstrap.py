"""The bootstrap: distinct images are drawn with replacement, each with all its copies, to find a statistic's bounds.

Written by hand because scipy's bootstrap cannot draw images together with their copies.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ctkeras.runtime import console

RESAMPLES = 10_000  # between seeds, the 95% bounds then differ by about 0.001 on 300 images
_SEED = 0
_Z = 1.959964  # standard normal quantile of 0.975
_ELEMENTS = 400_000  # weights in memory at a time: 1.6 MB, which fits a processor's cache


def bounds(statistics: Callable[[np.ndarray], dict[str, np.ndarray]], groups: np.ndarray) -> dict[str, Any]:
    """95% bounds by the percentile bootstrap (Efron & Tibshirani 1993), resampling distinct images, not files.

    Of G distinct images, G are drawn with replacement, each with all its copies, because copies are not new evidence. The
    bounds are the 2.5th and 97.5th percentiles over those resamples in which the statistic is defined.

    Args:
        statistics: takes weights float32 [R, N], how often each resample holds each image; returns float [R] or [R, K] by name.
        groups: int [N], equal for copies of an image.

    Returns:
        `<name>_low` and `<name>_high`: floats, left out if never defined, or lists of K with None where never defined.
    """
    parts = [statistics(weights) for weights in _draws(groups)]
    quantiles: dict[str, Any] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        for end, share in (("low", 0.025), ("high", 0.975)):
            quantile = _quantile(values, share)
            if isinstance(quantile, list) or np.isfinite(quantile):
                quantiles[f"{name}_{end}"] = quantile
    return quantiles


def share(right: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95% bounds of a share by resampling groups; Wilson's where every resample is the same, at 0 and 1.

    Args:
        right: bool [N].
        groups: int [N], of each image the patient or the group of similar images.
    """
    values = right.astype(np.float64)
    found = bounds(lambda weights: {"share": totals(weights, values) / weights.sum(1)}, groups)
    if found["share_low"] == found["share_high"]:
        return wilson(float(values.mean()), len(np.unique(groups)))
    return found["share_low"], found["share_high"]


def wilson(value: float, count: int) -> tuple[float, float]:
    """95% bounds of a share of `count` independent trials (Wilson 1927), which have a width at 0 and 1 too."""
    middle, half = value + _Z**2 / (2 * count), _Z * np.sqrt(value * (1 - value) / count + _Z**2 / (4 * count**2))
    low, high = (float((middle + sign * half) / (1 + _Z**2 / count)) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def totals(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over each resample's images: weights float [R, N] and values [N] or [N, K] to float [R] or [R, K].

    Not by `@` of dense arrays: in products of such thin matrices, BLAS' threads mostly wait for each other, on a busy
    machine for minutes. The values are mostly 0, so a sparse product also has less to add.
    """
    from scipy import sparse

    if values.ndim == 1:
        return np.einsum("nr,n->r", weights.T, values.astype(weights.dtype))
    return (sparse.csr_array(values.T.astype(weights.dtype)) @ np.ascontiguousarray(weights.T)).T


def _draws(groups: np.ndarray):
    """Yields weights float32 [R, N], a few resamples at a time, RESAMPLES in total; equal groups give equal weights."""
    rng = np.random.default_rng(_SEED)
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    member = first.argsort().argsort()[member]  # numbered in order of appearance, whatever the groups' own numbers
    count = len(first)
    rows = min(RESAMPLES, max(1, _ELEMENTS // len(groups)))
    bar = console.Bar("resampling", RESAMPLES)
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        chosen = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count)
        yield times.T.astype(np.float32)[member].T  # in memory one row per image, which ranking and totals go through
        bar.update(start + size)
    bar.close()


def _quantile(values: np.ndarray, share: float) -> Any:
    """A quantile over resamples of float [R], or a list of K for float [R, K]; ignores NaN unless all values are NaN."""
    if values.ndim == 2:
        each = [_quantile(column, share) for column in values.T]
        return [None if np.isnan(quantile) else quantile for quantile in each]
    defined = values[~np.isnan(values)]
    return float(np.quantile(defined, share)) if len(defined) else float("nan")
