"""The state of a search, in text: one line per trial, the table of all trials, and a live line on a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ctkeras.errors import UserError
from ctkeras.runtime.console import value_text
from ctkeras.sweep import file

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class NoSearch(UserError):
    """A storage in which no search has begun."""


def settings(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """One trial's values of the hyperparameters that a search varies."""
    return " ".join(f"{name}={value_text(config[name])}" for name in names if name in config)


def counted(number: int, noun: str) -> str:
    """A number of things, as in '1 trial' and '2 trials'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def best(trials: Sequence[FrozenTrial], *, maximize: bool) -> FrozenTrial | None:
    """The finished trial with the best value; of equal ones, the earliest."""
    done = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.value is not None]
    sign = -1.0 if maximize else 1.0
    return min(done, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


def epochs_saved(trials: Sequence[FrozenTrial]) -> int:
    """How many epochs hyperband has saved."""
    stopped = [trial.user_attrs for trial in trials if trial.state == TrialState.PRUNED]
    return sum(attrs["config"]["max_epochs"] - attrs["epochs"] for attrs in stopped if attrs.get("epochs") is not None)


def outcome(trial: FrozenTrial) -> str:
    """Why a trial has ended, or where it runs."""
    attrs = trial.user_attrs
    if trial.state == TrialState.FAIL:
        return attrs.get("failure", "failed outside ctkeras")
    if trial.state == TrialState.RUNNING:
        return "to be resumed" if attrs.get("owner") is None else f"on {attrs['owner']['host']}"
    again = "; run twice, because its worker died" if attrs.get("tries") else ""
    return f"{attrs.get('stopped_by') or ''}{again}"


def table(trials: Sequence[FrozenTrial], names: Sequence[str], *, metric: str) -> list[str]:
    """All trials as a table.

    Args:
        trials: of one study.
        names: the hyperparameters that the study varies.
        metric: the name of what is optimised.
    """
    header = ["trial", "state", "epochs", *dict.fromkeys((metric, "val_acc")), *names, "seconds", "ended by"]
    rows = [header]
    for trial in trials:
        attrs, config = trial.user_attrs, trial.user_attrs.get("config", {})
        epochs = attrs.get("epochs", len(trial.intermediate_values))
        value = trial.value if trial.value is not None else _last(trial)
        numbers = {metric: value, "val_acc": attrs.get("val_acc", value if metric == "val_acc" else None)}
        shown = [f"{number:.4f}" if number is not None else "" for number in numbers.values()]
        seconds = attrs.get("seconds")
        rows.append(
            [
                str(trial.number),
                STATES[trial.state],
                f"{epochs}/{config.get('max_epochs', '?')}",
                *shown,
                *(value_text(config[name]) if name in config else "" for name in names),
                f"{seconds:.0f}" if seconds is not None else "",
                outcome(trial),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def report(stored: BaseStorage, *, study: str = "") -> list[str]:
    """Tables of the searches in a storage, the latest last, each with its best trial and the epochs that hyperband saved.

    Args:
        stored: an open storage.
        study: the name of one search; '' for all.

    Raises:
        NoSearch: the storage has no search yet.
        UserError: it has none of that name.
    """
    searches = [s for s in stored.get_all_studies() if "sweep" in s.user_attrs]
    if not searches:
        raise NoSearch("there is no search in this storage yet")
    if study and study not in {s.study_name for s in searches}:
        names = ", ".join(s.study_name for s in searches)
        raise UserError(f"there is no search {study} in this storage; its searches: {names}")
    lines = []
    for one in searches:
        if study in ("", one.study_name):
            trials = stored.get_all_trials(one._study_id, deepcopy=False)
            maximize = one.directions[0] == StudyDirection.MAXIMIZE
            lines += [*_of_study(one.study_name, one.user_attrs, trials, maximize=maximize), ""]
    return lines[:-1]


def _of_study(name: str, attrs: Mapping[str, Any], trials: Sequence[FrozenTrial], *, maximize: bool) -> list[str]:
    """One search: heading, table, best trial, epochs saved."""
    metric = attrs.get("metric", "val_acc")
    ended = sum(trial.state.is_finished() for trial in trials)
    lines = [f"{name}: {ended} of {attrs.get('total', '?')} trials ended"]
    lines += table(trials, file.varied(attrs["sweep"]), metric=metric)
    top = best(trials, maximize=maximize)
    if top is not None:
        lines.append(f"best: trial {top.number}, {metric} {top.value:.4f}, {top.user_attrs.get('folder', '')}")
    if saved := epochs_saved(trials):
        stopped = sum(trial.state == TrialState.PRUNED for trial in trials)
        lines.append(f"hyperband stopped {counted(stopped, 'trial')} and saved {counted(saved, 'epoch')}")
    return lines


def _last(trial: FrozenTrial) -> float | None:
    """A running trial's metric after its last epoch."""
    last = trial.last_step
    return None if last is None or math.isnan(trial.intermediate_values[last]) else trial.intermediate_values[last]
