"""What a search did not have to compute: epochs that were never trained, programs and features that were kept."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ctkeras.report.results import Run

# What a compiled program, and what a frozen backbone's features, depend on; a run that shares all of it finds them kept.
PROGRAM = ("model_name", "freeze_backbone", "unfreeze_from", "optimizer", "batch_size", "image_size", "precision")
PREPARED: tuple[str, ...] = (
    "model_name",
    "freeze_backbone",
    "unfreeze_from",
    "feature_cache",
    "feature_views",
    "augmentation",
)
PREPARED += ("image_size", "precision", "pretrained", "data")


class Kept(NamedTuple):
    """Runs that share what was computed once."""

    what: str  # the architecture and how it was trained
    runs: int
    first: float  # seconds that the first of them spent
    later: float  # seconds, the mean of the others
    saved: float  # seconds


class Stopped(NamedTuple):
    """A run that ended before its last epoch."""

    epochs: int
    limit: int
    seconds: float  # that the epochs left would have taken, at the run's own pace


def stopped(runs: Sequence[Run], *, by: Sequence[str]) -> list[Stopped]:
    """Runs that something ended early.

    Args:
        runs: any.
        by: values of stopped_by, as hyperband.
    """
    found = []
    for run in runs:
        epochs, limit = int(run.metrics.get("epochs", 0)), int(run.config["max_epochs"])
        if run.metrics.get("stopped_by") in by and epochs < limit:
            found.append(Stopped(epochs, limit, (limit - epochs) * _pace(run)))
    return found


def _pace(run: Run) -> float:
    """Seconds of a usual epoch; the median, as the first one compiles."""
    seconds = [s for s in (row.get("epoch_seconds", math.nan) for row in run.history) if math.isfinite(s)]
    if seconds:
        return statistics.median(seconds)
    total, compiling = run.number("seconds_total") or 0.0, run.number("seconds_compile") or 0.0
    return max(0.0, total - compiling) / max(1.0, run.number("epochs") or 1.0)


def spent(run: Run) -> tuple[float, float, float] | None:
    """Seconds of a run: training, compiling, and all else (images, features, building, exporting); None if it doesn't say."""
    total, compiling = run.number("seconds_total"), run.number("seconds_compile") or 0.0
    if total is None or not run.history:
        return None
    epochs = sum(s for s in (row.get("epoch_seconds", 0.0) for row in run.history) if math.isfinite(s))
    training = min(max(0.0, epochs - compiling), total)
    return training, min(compiling, total - training), max(0.0, total - training - compiling)


def programs_kept(runs: Sequence[Run]) -> list[Kept]:
    """What later runs of the same structure saved on compiling, in comparison with the first."""
    return _kept(runs, PROGRAM, lambda parts: parts[1])


def preparation_kept(runs: Sequence[Run]) -> list[Kept]:
    """What later runs saved on images, features and building, in comparison with the first that needed the same."""
    return _kept(runs, PREPARED, lambda parts: parts[2])


def _kept(runs: Sequence[Run], key: Sequence[str], part: Callable[[Any], float]) -> list[Kept]:
    """Groups of runs that share `key`, in the order of their names, which is that of time; later ones are never a loss."""
    groups: dict[tuple, list[float]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        if (parts := spent(run)) is not None:
            groups.setdefault(tuple(run.config[name] for name in key), []).append(part(parts))
    merged: dict[str, Kept] = {}
    for values, seconds in groups.items():
        if len(seconds) < 2:
            continue
        facts = dict(zip(key, values, strict=True))
        what = f"{facts['model_name']}, {'frozen' if facts['freeze_backbone'] else 'fine-tuned'}"
        saved = sum(max(0.0, seconds[0] - later) for later in seconds[1:])
        before = merged.get(what, Kept(what, 0, 0.0, 0.0, 0.0))
        runs_now = before.runs + len(seconds)
        later = (before.later * before.runs + statistics.fmean(seconds[1:]) * len(seconds)) / runs_now
        merged[what] = Kept(what, runs_now, before.first + seconds[0], later, before.saved + saved)
    return sorted(merged.values(), key=lambda kept: -kept.saved)
