"""What won, and whether that is more than noise: runs compared image by image on the same validation images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ctkeras import comparison, resampling
from ctkeras.config import UserError
from ctkeras.report.results import Results, Run, best_by_architecture
from ctkeras.runs.predictions import read_predictions

LEVEL = 0.05  # of McNemar's test: above it, two runs are not told apart


class Comparison(NamedTuple):
    """A run against the best one, on the same images."""

    difference: float  # accuracy behind the best, the best's less its own
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
    """File to whether the run was right, on validation; None when its folder doesn't say."""
    if run.folder is None:
        return None
    try:
        found = read_predictions(run.folder, "valid")
    except UserError:
        return None
    if found is None:
        return None
    right = found.probabilities.argmax(-1) == found.labels
    return dict(zip(found.files, right.tolist(), strict=True))


def accuracy_interval(right: Mapping[str, bool], twins: Mapping[str, int]) -> Interval:
    """Accuracy with bounds by the bootstrap over distinct images; exact ones (Clopper & Pearson 1934) where all agree.

    Args:
        right: file to whether the answer was right.
        twins: file to the number of its distinct image; a file it lacks is one of its own.
    """
    values = np.array(list(right.values()), float)
    share, n = float(values.mean()), len(values)
    if share in (0.0, 1.0):  # every resample is the same then, which is no interval
        edge = (LEVEL / 2) ** (1 / n)
        return Interval(share, edge if share else 0.0, 1.0 if share else 1 - edge, n)
    found = resampling.bounds(lambda w: {"acc": resampling.totals(w, values) / w.sum(1)}, _groups(right, twins))
    return Interval(share, found["acc_low"], found["acc_high"], n)


def against(best: Mapping[str, bool], other: Mapping[str, bool], twins: Mapping[str, int]) -> Comparison | None:
    """The best run against another, paired by image; None when they have not seen the same images.

    Args:
        best: file to whether the answer was right.
        other: the same of the other run.
        twins: see accuracy_interval.
    """
    if best.keys() != other.keys() or not best:
        return None
    found = comparison.paired(*_paired(best, other), _groups(best, twins))
    return Comparison(
        *(found[name] for name in ("difference", "difference_low", "difference_high", "distinct_mcnemar_p"))
    )


def _paired(best: Mapping[str, bool], other: Mapping[str, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two runs' right answers in one order of files: bool [N] each."""
    return np.array(list(best.values())), np.array([other[file] for file in best])


def runner_up(results: Results, best: Run) -> Run | None:
    """The run that the best one is measured against: the best of another architecture, else of another configuration."""
    for other in best_by_architecture(results.runs):
        if other.model_name != best.model_name:
            return other
    different = (run for run in results.runs if run is not best and _plain(run) != _plain(best))
    return next(different, None)


def _plain(run: Run) -> dict[str, Any]:
    """A configuration without its seed."""
    return {name: value for name, value in run.config.items() if name != "seed"}


def not_told_apart(best: Mapping[str, bool], others: Sequence[Mapping[str, bool] | None]) -> tuple[int, int]:
    """How many of the runs that saw the same images McNemar's test doesn't tell from the best one, and of how many."""
    same = [other for other in others if other is not None and other.keys() == best.keys()]
    return sum(comparison.mcnemar(*_paired(best, other))[2] >= LEVEL for other in same), len(same)


def _groups(right: Mapping[str, bool], twins: Mapping[str, int]) -> np.ndarray:
    """Which distinct image each file holds: int [N]."""
    own = {file: -1 - i for i, file in enumerate(right)}
    return np.array([twins.get(file, own[file]) for file in right])
