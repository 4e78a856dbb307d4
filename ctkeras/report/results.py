"""What runs wrote, read from run folders or from W&B; a damaged run is left out and listed with the reason."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras.config import FIELDS, PLACES, parse_value
from ctkeras.errors import UserError
from ctkeras.runs.folder import read_config_values, read_json, read_metrics
from ctkeras.runs.history import by_epoch, read_history
from ctkeras.runtime import console

_DEPTH = 3  # levels of folders that are searched for runs: study, phase, run
_NUMBERS: tuple[str, ...] = ("val_acc", "val_loss", "train_acc", "train_loss", "best_epoch", "epochs", "params_total")
_NUMBERS += ("params_trainable", "seconds_total", "seconds_compile", "memory_bytes")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run that reached a val_acc."""

    name: str  # unique among the results: the folder's path relative to the one given, or W&B's id
    folder: Path | None  # None for a run read from W&B
    config: Mapping[str, Any]  # the hyperparameters, with their types
    metrics: Mapping[str, Any]  # metrics.json, without values that should be numbers and aren't
    history: Sequence[Mapping[str, float]]  # history.csv, one row per epoch; NaN where nothing was written
    damage: str = ""  # what is wrong with history.csv, when `history` is empty because of it

    @property
    def val_acc(self) -> float:
        """The best epoch's validation accuracy."""
        return self.metrics["val_acc"]

    @property
    def model_name(self) -> str:
        """The architecture."""
        return self.config["model_name"]

    def number(self, name: str) -> float | None:
        """One of metrics.json's numbers; None when it is missing."""
        return self.metrics.get(name)


@dataclasses.dataclass(frozen=True)
class Results:
    """All that a report is written from; `runs` are best first: by val_acc, ties by val_loss, then by name."""

    title: str
    runs: tuple[Run, ...]
    skipped: tuple[tuple[str, str], ...] = ()  # name and reason, a sentence
    study: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # study.json
    place: Path | None = None  # the folder read; None for W&B
    sweep: str = ""  # ENTITY/PROJECT/SWEEP_ID

    @property
    def best(self) -> Run:
        """The run with the highest val_acc."""
        return self.runs[0]


def read(folder: Path) -> Results:
    """Reads a run folder, a folder of run folders or a study's folder.

    Raises:
        UserError: not a folder, or it has no run with a val_acc.
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder} is not a folder; report takes a run folder, a folder of run folders or a study's folder"
        )
    runs, skipped = [], []
    for place in _run_folders(folder):
        name = place.relative_to(folder).as_posix() if place != folder else folder.resolve().name
        try:
            runs.append(run := read_run(place, name))
            if run.damage:
                console.note(f"{name}: the report has no learning curves for it; {run.damage}")
        except UserError as error:
            skipped.append((name, str(error)))
    study: dict[str, Any] = {}
    if (folder / "study.json").exists():
        try:
            study = read_json(folder / "study.json")
        except UserError as error:
            skipped.append(("study.json", str(error)))
    if not runs:
        reasons = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise UserError(f"{folder} has no finished run{reasons}{more}; train writes run folders into its output_dir")
    return Results(folder.resolve().name, tuple(sorted(runs, key=_rank)), tuple(skipped), study, folder)


def from_wandb(sweep: str, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Results:
    """Results of a sweep's runs, as tracking.read_runs returns them.

    Args:
        sweep: ENTITY/PROJECT/SWEEP_ID.
        config: the sweep's configuration.
        rows: one mapping per run, with name, state, config, metrics and history.

    Raises:
        UserError: no run has a val_acc.
    """
    runs, skipped = [], []
    for row in rows:
        try:
            if row["state"] != "finished":
                raise UserError(f"its state at W&B is {row['state']}")
            metrics = _metrics(row["metrics"])
            # W&B doesn't say who stopped a run; in a sweep with hyperband it was hyperband, unless a person did.
            if "early_terminate" in config and metrics.get("stopped_by") in ("sweep", "sigterm", "sighup"):
                metrics["stopped_by"] = "hyperband"
            runs.append(Run(row["name"], None, _config(row["config"]), metrics, by_epoch(row["history"])))
        except UserError as error:
            skipped.append((str(row["name"]), str(error)))
    if not runs:
        raise UserError(f"{sweep} has no finished run with a val_acc yet; wait until a run has finished")
    return Results(sweep, tuple(sorted(runs, key=_rank)), tuple(skipped), sweep=sweep)


def read_run(folder: Path, name: str) -> Run:
    """Reads one run folder; it must have config.json and a val_acc in metrics.json.

    Raises:
        UserError: what is missing or damaged.
    """
    config = _config(read_config_values(folder))
    if not (folder / "metrics.json").exists():
        raise UserError("it has not finished: it has no metrics.json yet")
    metrics = _metrics(read_metrics(folder))
    try:
        return Run(name, folder, config, metrics, read_history(folder))
    except UserError as error:  # the rest of the run can be shown without its curves
        return Run(name, folder, config, metrics, [], str(error))


def _rank(run: Run) -> tuple[float, float, str]:
    """Best first."""
    return -run.val_acc, run.metrics.get("val_loss", math.inf), run.name


def _run_folders(root: Path) -> Iterator[Path]:
    """Run folders at most _DEPTH levels below root, in order; W&B's folders and hidden ones are left out."""
    for folder, below, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        is_run = "config.json" in files or ("metrics.json" in files and "history.csv" in files)
        if is_run:
            yield Path(folder)
        deeper = not is_run and depth < _DEPTH
        below[:] = [n for n in sorted(below) if n != "wandb" and not n.startswith(".")] if deeper else []


def _config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters among stored values, with defaults for those that an older version didn't store.

    Raises:
        UserError: a value of a wrong type or out of range.
    """
    return {name: parse_value(name, values.get(name, field.default)) for name, field in FIELDS.items()}


def _metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored metrics without values that should be numbers and aren't.

    Raises:
        UserError: no val_acc.
    """
    numbers = {name: _finite(values.get(name)) for name in _NUMBERS}
    known = {name: value for name, value in values.items() if name not in _NUMBERS}
    known |= {name: value for name, value in numbers.items() if value is not None}
    if not 0 <= known.get("val_acc", -1) <= 1:
        why = values.get("failure") or values.get("stopped_by")
        raise UserError(f"it has no val_acc{f' ({why})' if why else ''}")
    return known


def _finite(value: Any) -> float | None:
    """The value as a float when it is a finite number, otherwise None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def described(run: Run) -> str:
    """A run in a few words: resnet18, fine-tuned."""
    if not run.config["freeze_backbone"]:
        return f"{run.model_name}, {'fine-tuned' if run.config['pretrained'] else 'trained from scratch'}"
    start = run.config["unfreeze_from"]
    return f"{run.model_name}, frozen" if start == "head" else f"{run.model_name}, trained from {start}"


def searched(runs: Sequence[Run]) -> list[str]:
    """The hyperparameters that differ between runs, in the order of RunConfig; a place, the seed or a fold is not a choice."""
    left_out = {*PLACES, "seed", "fold", "log_model"}
    return [name for name in FIELDS if name not in left_out and len({run.config[name] for run in runs}) > 1]


def best_by_architecture(runs: Sequence[Run]) -> list[Run]:
    """The best run of each architecture, best first."""
    best: dict[str, Run] = {}
    for run in runs:
        best.setdefault(run.model_name, run)
    return list(best.values())


def by_configuration(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of two or more runs that differ only in their seed; the group with the best mean val_acc first.

    When two runs have the same seed, because a phase repeats a run of an earlier one, the last by name counts.
    """
    groups: dict[tuple, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        key = tuple(run.config[name] for name in FIELDS if name not in {*PLACES, "seed", "log_model"})
        groups.setdefault(key, {})[run.config["seed"]] = run
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    return sorted(several, key=lambda group: -sum(run.val_acc for run in group) / len(group))
