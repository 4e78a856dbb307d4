"""W&B's sweep schema on Optuna: which values a trial gets, how many trials there are, and which runs hyperband stops."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna


def require_supported(sweep: Mapping[str, Any]) -> None:
    """Refuses what this engine can't do, so that nothing in a sweep is ever ignored.

    Args:
        sweep: a sweep file's content.

    Raises:
        UserError: names the key, and what would be right.
    """
    raise NotImplementedError


def grid_points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of a grid in W&B's order, each once: names sorted, the last one varying fastest.

    Args:
        sweep: a supported sweep of method grid.

    Returns:
        One mapping of parameter to value a trial, constants included, nested parameters nested.
    """
    raise NotImplementedError


def total_trials(sweep: Mapping[str, Any]) -> int:
    """How many trials a sweep has: its run_cap, and for a grid never more than there are points."""
    raise NotImplementedError


def sample(
    study: optuna.Study, trial: optuna.trial.Trial, sweep: Mapping[str, Any], *, study_seed: int
) -> dict[str, Any]:
    """The parameters of one trial; what Optuna searches is suggested on the trial, under `outer.inner` where nested.

    Each parameter's draw depends on the study's seed, the trial's number and the parameter's name alone (bayes: and on the
    finished trials), so a trial that was cut off between two suggestions goes on to the same values.

    Args:
        study: the study the trial belongs to; its sampler is replaced.
        trial: number, and what was suggested for it before, if anything.
        sweep: a supported sweep.
        study_seed: from 0.

    Returns:
        Parameter to value, constants included, nested ones nested, as W&B would send them.
    """
    raise NotImplementedError


def bands(early_terminate: Mapping[str, Any], max_epochs: int) -> list[int]:
    """The epochs, from 1, after which hyperband compares runs: those of W&B that are below max_epochs, ascending.

    Args:
        early_terminate: type hyperband with min_iter, or max_iter and s; eta 3 unless given.
        max_epochs: what a run trains for when nothing stops it.
    """
    raise NotImplementedError


def should_stop(
    history: Sequence[float],
    others: Sequence[Sequence[float]],
    early_terminate: Mapping[str, Any],
    *,
    maximize: bool,
    max_epochs: int,
) -> bool:
    """Whether hyperband stops a run after the epoch it has just finished.

    Args:
        history: the run's metric after each epoch so far.
        others: the same of every other run of the sweep: finished, stopped and running ones.
        early_terminate: see bands.
        maximize: the goal.
        max_epochs: what the run trains for when nothing stops it.
    """
    raise NotImplementedError
