"""What won, and whether that is more than noise: runs compared image by image on the same validation images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ctkeras import resampling
from ctkeras.comparison import mcnemar, paired
from ctkeras.config import UserError
from ctkeras.report.results import Results, Run, best_by_architecture
from ctkeras.runs.predictions import read_predictions

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


def right_answers(run: Run) -> dict[str, bool] | None:
    """File to whether the run classified it correctly, on validation; None when its folder doesn't say."""
    if run.folder is None:
        return None
    try:
        predictions = read_predictions(run.folder, "valid")
    except UserError:
        return None
    if predictions is None:
        return None
    right = predictions.probabilities.argmax(-1) == predictions.labels
    return dict(zip(predictions.files, right.tolist(), strict=True))


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
    bounds = resampling.bounds(lambda w: {"acc": resampling.totals(w, values) / w.sum(1)}, _groups(right, twins))
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


def runner_up(results: Results, winner: Run) -> Run | None:
    """The run that the winner is compared with: the best of another architecture, otherwise of another configuration."""
    for other in best_by_architecture(results.runs):
        if other.model_name != winner.model_name:
            return other
    different = (run for run in results.runs if run is not winner and _plain(run) != _plain(winner))
    return next(different, None)


def _plain(run: Run) -> dict[str, Any]:
    """A configuration without its seed."""
    return {name: value for name, value in run.config.items() if name != "seed"}
