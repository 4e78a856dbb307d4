"""What a search did not have to compute: epochs that were never trained, programs and features that were reused."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ctkeras.report.results import Run, described

# What a compiled program, and what prepared images and features, depend on; a run that shares all of it reuses them.
PROGRAM = ("model_name", "freeze_backbone", "unfreeze_from", "optimizer", "batch_size", "image_size", "precision")
PREPARED: tuple[str, ...] = ("model_name", "freeze_backbone", "unfreeze_from", "feature_cache", "feature_views")
PREPARED += ("augmentation", "image_size", "precision", "pretrained", "data")


class Reused(NamedTuple):
    """Runs that share something that was computed once."""

    what: str  # the architecture and how it was trained
    runs: int
    first: float  # seconds that the first run spent on it
    later: float  # seconds that each of the others spent, the mean
    saved: float  # seconds


class Stopped(NamedTuple):
    """A run that ended before its last epoch."""

    epochs: int
    limit: int
    seconds: float  # that its remaining epochs would have taken, at the run's own pace


def stopped(runs: Sequence[Run], *, by: Sequence[str]) -> list[Stopped]:
    """Runs that ended early.

    Args:
        runs: any.
        by: the values of stopped_by to count, such as hyperband.
    """
    ended_early = []
    for run in runs:
        epochs, limit = int(run.metrics.get("epochs", 0)), int(run.config["max_epochs"])
        if run.metrics.get("stopped_by") in by and epochs < limit:
            ended_early.append(Stopped(epochs, limit, (limit - epochs) * _pace(run)))
    return ended_early


def _pace(run: Run) -> float:
    """Seconds of a typical epoch: the median, because the first epoch includes compiling."""
    seconds = [s for s in (row.get("epoch_seconds", math.nan) for row in run.history) if math.isfinite(s)]
    if seconds:
        return statistics.median(seconds)
    total, compiling = run.number("seconds_total") or 0.0, run.number("seconds_compile") or 0.0
    return max(0.0, total - compiling) / max(1.0, run.number("epochs") or 1.0)


def spent(run: Run) -> tuple[float, float, float] | None:
    """Seconds of a run: training, compiling, everything else (images, features, building, exporting); None if unknown."""
    total, compiling = run.number("seconds_total"), run.number("seconds_compile") or 0.0
    if total is None or not run.history:
        return None
    epochs = sum(s for s in (row.get("epoch_seconds", 0.0) for row in run.history) if math.isfinite(s))
    training = min(max(0.0, epochs - compiling), total)
    return training, min(compiling, total - training), max(0.0, total - training - compiling)


def programs_reused(runs: Sequence[Run]) -> list[Reused]:
    """What later runs of the same structure saved on compiling, compared with the first."""
    return _reused(runs, PROGRAM, lambda parts: parts[1])


def preparation_reused(runs: Sequence[Run]) -> list[Reused]:
    """What later runs saved on images, features and building, compared with the first that needed the same."""
    return _reused(runs, PREPARED, lambda parts: parts[2])


def _reused(runs: Sequence[Run], key: Sequence[str], part: Callable[[Any], float]) -> list[Reused]:
    """Groups of runs that share `key`, ordered by name and so by time; a later run that took longer counts as 0."""
    groups: dict[tuple, list[float]] = {}
    names: dict[tuple, str] = {}
    for run in sorted(runs, key=lambda run: run.name):
        if (parts := spent(run)) is not None:
            shared = tuple(run.config[name] for name in key)
            groups.setdefault(shared, []).append(part(parts))
            names.setdefault(shared, described(run))
    merged: dict[str, Reused] = {}
    for shared, seconds in groups.items():
        if len(seconds) < 2:
            continue
        what = names[shared]
        saved = sum(max(0.0, seconds[0] - later) for later in seconds[1:])
        before = merged.get(what, Reused(what, 0, 0.0, 0.0, 0.0))
        runs_now = before.runs + len(seconds)
        later = (before.later * before.runs + statistics.fmean(seconds[1:]) * len(seconds)) / runs_now
        merged[what] = Reused(what, runs_now, before.first + seconds[0], later, before.saved + saved)
    return sorted(merged.values(), key=lambda reused: -reused.saved)
