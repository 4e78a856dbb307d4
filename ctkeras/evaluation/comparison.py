"""Whether two models differ by more than noise, from their answers on the same images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctkeras.audit import audit
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.evaluation import bootstrap, evaluate
from ctkeras.runs.folder import read_config
from ctkeras.runs.predictions import Predictions, read_predictions
from ctkeras.runtime import console

LEVEL = 0.05  # of McNemar's test and of intervals: two runs with a p of at least this cannot be distinguished


class Comparison(NamedTuple):
    """How far one run is behind another on the same images."""

    difference: float  # the first run's accuracy minus the other's
    low: float
    high: float
    p: float  # of the exact McNemar test, each distinct image once


class Interval(NamedTuple):
    """An accuracy with its 95% bounds."""

    value: float
    low: float
    high: float
    images: int


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test (1947) of two models on the same images: is one right where the other is wrong more often?

    Args:
        right_a: bool [N], whether the first model is right.
        right_b: bool [N], whether the second is, on the same images.

    Returns:
        (images that only the first classifies correctly, images that only the second does, two-sided binomial p).
    """
    from scipy import stats

    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    both = only_a + only_b
    return only_a, only_b, float(stats.binomtest(only_a, both).pvalue) if both else 1.0


def paired(right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Two models' accuracies and their difference with 95% bounds, and McNemar's test; flat.

    Args:
        right_a: bool [N], whether the first model is right.
        right_b: bool [N], whether the second is, on the same images.
        groups: int [N], equal for copies of an image; copies are resampled together, and for both models alike.

    Returns:
        n, n_distinct, acc_a, acc_b, difference (a minus b), each with _low and _high; only_a, only_b and mcnemar_p of all
        images; distinct_only_a, distinct_only_b and distinct_mcnemar_p of each distinct image once.
    """

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        acc_a, acc_b = (bootstrap.totals(weights, right) / total for right in (right_a, right_b))
        return {"acc_a": acc_a, "acc_b": acc_b, "difference": acc_a - acc_b}

    first = np.unique(groups, return_index=True)[1]
    numbers: dict[str, Any] = {"n": len(groups), "n_distinct": len(first)}
    numbers |= {name: float(value[0]) for name, value in statistics(np.ones((1, len(groups)))).items()}
    numbers |= bootstrap.bounds(statistics, groups)
    names = ("only_a", "only_b", "mcnemar_p")
    numbers |= dict(zip(names, mcnemar(right_a, right_b), strict=True))
    once = mcnemar(right_a[first], right_b[first])
    return numbers | {f"distinct_{name}": value for name, value in zip(names, once, strict=True)}


def compare(folder_a: Path, folder_b: Path, split: str, *, data: str | None = None) -> dict[str, Any]:
    """Compares two runs by their predictions.csv on a split; opens no model and no image.

    Args:
        folder_a: a run folder.
        folder_b: another.
        split: train, valid or test.
        data: the data set, when it is no longer where the first run found it; it shows which files are copies.

    Returns:
        See paired.

    Raises:
        UserError: a run has no predictions of that split, or the two runs' images or labels differ.
    """
    a, b = (_predictions(folder, split) for folder in (folder_a, folder_b))
    if a.class_names != b.class_names or not np.array_equal(_labelled(a), _labelled(b)):
        raise UserError(
            f"{folder_a} and {folder_b} were evaluated on different {split} images or labels; evaluate both on the same data"
        )
    order_a, order_b = (np.argsort(each.files) for each in (a, b))
    right_a, right_b = (each.probabilities.argmax(-1) == each.labels for each in (a, b))
    files = tuple(a.files[i] for i in order_a)
    return paired(right_a[order_a], right_b[order_b], _distinct(folder_a, files, data))


def _predictions(folder: Path, split: str) -> Predictions:
    """A split's predictions.

    Raises:
        UserError: the run has no predictions of that split.
    """
    read_config(folder)
    if (predictions := read_predictions(folder, split)) is None:
        raise UserError(f"{folder} has no {split} predictions; create them with `evaluate {folder} --split {split}`")
    return predictions


def _labelled(predictions: Predictions) -> np.ndarray:
    """(file, label) of each image, in the order of files."""
    return np.array(sorted(zip(predictions.files, map(str, predictions.labels), strict=True)))


def _distinct(folder: Path, files: tuple[str, ...], data: str | None) -> np.ndarray:
    """Which distinct image each file holds; every file counts as distinct, with a note, where the data cannot be read."""
    try:
        return evaluate.copies(audit.load(sources.open_source(data or read_config(folder).data)), files)
    except UserError as error:
        if data:
            raise
        console.note(
            f"Note: copies of an image are counted as separate images because the data cannot be read ({error})."
        )
        return np.arange(len(files))


def accuracy_interval(right: Mapping[str, bool], twins: Mapping[str, int]) -> Interval:
    """Accuracy with bounds by the bootstrap over distinct images; exact ones (Clopper & Pearson 1934) at 0 and 1.

    Args:
        right: file to whether the answer was right.
        twins: file to the number of its distinct image; a file that it lacks is an image of its own.
    """
    values = np.array(list(right.values()), float)
    share, n = float(values.mean()), len(values)
    if share in (0.0, 1.0):  # every resample is the same then, and the bootstrap's interval would have no width
        edge = (LEVEL / 2) ** (1 / n)
        return Interval(share, edge if share else 0.0, 1.0 if share else 1 - edge, n)
    bounds = bootstrap.bounds(lambda w: {"acc": bootstrap.totals(w, values) / w.sum(1)}, _groups(right, twins))
    return Interval(share, bounds["acc_low"], bounds["acc_high"], n)


def against(first: Mapping[str, bool], other: Mapping[str, bool], twins: Mapping[str, int]) -> Comparison | None:
    """One run against another, paired by image; None when they were evaluated on different images.

    Args:
        first: file to whether the answer was right.
        other: the same for the other run.
        twins: see accuracy_interval.
    """
    if first.keys() != other.keys() or not first:
        return None
    numbers = paired(*_paired(first, other), _groups(first, twins))
    names = ("difference", "difference_low", "difference_high", "distinct_mcnemar_p")
    return Comparison(*(numbers[name] for name in names))


def _paired(first: Mapping[str, bool], other: Mapping[str, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two runs' right answers in one order of files: bool [N] each."""
    return np.array(list(first.values())), np.array([other[file] for file in first])


def indistinguishable(first: Mapping[str, bool], others: Sequence[Mapping[str, bool] | None]) -> tuple[int, int]:
    """How many runs on the same images McNemar's test cannot distinguish from the first, and out of how many."""
    same = [other for other in others if other is not None and other.keys() == first.keys()]
    return sum(mcnemar(*_paired(first, other))[2] >= LEVEL for other in same), len(same)


def _groups(right: Mapping[str, bool], twins: Mapping[str, int]) -> np.ndarray:
    """Which distinct image each file holds: int [N]."""
    own = {file: -1 - i for i, file in enumerate(right)}
    return np.array([twins.get(file, own[file]) for file in right])
