"""What runs have left, read from run folders or from W&B; a damaged one is listed with its reason and left out."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras import runtime
from ctkeras.config import FIELDS, UserError, parse_value
from ctkeras.runs import folder as runfolder
from ctkeras.runs.history import by_epoch, read_history
from ctkeras.sweepfile import PLACES

_DEPTH = 3  # folders below the one given in which runs are looked for: study, phase, run
_NUMBERS: tuple[str, ...] = ("val_acc", "val_loss", "train_acc", "train_loss", "best_epoch", "epochs", "params_total")
_NUMBERS += ("params_trainable", "seconds_total", "seconds_compile", "memory_bytes")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run that reached a val_acc."""

    name: str  # unique among the results: the folder's path from the one given, or W&B's id
    folder: Path | None  # None for a run read from W&B
    config: Mapping[str, Any]  # the hyperparameters, as their types
    metrics: Mapping[str, Any]  # metrics.json; what should be a number is one, or is missing
    history: Sequence[Mapping[str, float]]  # history.csv, a row an epoch; NaN where nothing was written
    damage: str = ""  # what is wrong with history.csv, where that leaves `history` empty

    @property
    def val_acc(self) -> float:
        """The best epoch's validation accuracy."""
        return self.metrics["val_acc"]

    @property
    def model_name(self) -> str:
        """The architecture."""
        return self.config["model_name"]

    def number(self, name: str) -> float | None:
        """One of metrics.json's numbers; None when the run doesn't say."""
        return self.metrics.get(name)


@dataclasses.dataclass(frozen=True)
class Results:
    """All that a report is made of; `runs` are best first, by val_acc, ties by val_loss, then by name."""

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
        UserError: not a folder, or no run in it that reached a val_acc.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder; report takes a run folder, a folder of run folders or a study's")
    runs, skipped = [], []
    for place in _run_folders(folder):
        name = place.relative_to(folder).as_posix() if place != folder else folder.resolve().name
        try:
            runs.append(run := read_run(place, name))
            if run.damage:
                runtime.note(f"{name}: its learning curves are left out; {run.damage}")
        except UserError as error:
            skipped.append((name, str(error)))
    study: dict[str, Any] = {}
    if (folder / "study.json").exists():
        try:
            study = runfolder.read_json(folder / "study.json")
        except UserError as error:
            skipped.append(("study.json", str(error)))
    if not runs:
        reasons = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise UserError(f"no finished run in {folder}{reasons}{more}; train writes run folders into its output_dir")
    return Results(folder.resolve().name, tuple(sorted(runs, key=_rank)), tuple(skipped), study, folder)


def from_wandb(sweep: str, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Results:
    """Results of a sweep's runs as tracking.read_runs gives them.

    Args:
        sweep: ENTITY/PROJECT/SWEEP_ID.
        config: the sweep's.
        rows: mappings with name, state, config, metrics and history.

    Raises:
        UserError: none of them reached a val_acc.
    """
    runs, skipped = [], []
    for row in rows:
        try:
            if row["state"] != "finished":
                raise UserError(f"it is {row['state']}")
            metrics = _metrics(row["metrics"])
            # W&B tells a run only to stop; in a sweep with hyperband that is who asked, unless a person did.
            if "early_terminate" in config and metrics.get("stopped_by") in ("sweep", "sigterm"):
                metrics["stopped_by"] = "hyperband"
            runs.append(Run(row["name"], None, _config(row["config"]), metrics, by_epoch(row["history"])))
        except UserError as error:
            skipped.append((str(row["name"]), str(error)))
    if not runs:
        raise UserError(f"{sweep} has no finished run with a val_acc yet; let some finish first")
    return Results(sweep, tuple(sorted(runs, key=_rank)), tuple(skipped), sweep=sweep)


def read_run(folder: Path, name: str) -> Run:
    """Reads one run folder; what it can't do without are config.json and a val_acc in metrics.json.

    Raises:
        UserError: what is missing or damaged.
    """
    config = _config(runfolder.read_config_values(folder))
    if not (folder / "metrics.json").exists():
        raise UserError("it has not finished: there is no metrics.json yet")
    metrics = _metrics(runfolder.read_metrics(folder))
    try:
        return Run(name, folder, config, metrics, read_history(folder))
    except UserError as error:  # a run is worth showing without its curves
        return Run(name, folder, config, metrics, [], str(error))


def _rank(run: Run) -> tuple[float, float, str]:
    """Best first."""
    return -run.val_acc, run.metrics.get("val_loss", math.inf), run.name


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders at most _DEPTH below that hold a config.json or a metrics.json, in order; W&B's and hidden ones left out."""
    for folder, below, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        found = "config.json" in files or ("metrics.json" in files and "history.csv" in files)
        if found:
            yield Path(folder)
        keep = [] if found or depth >= _DEPTH else [n for n in sorted(below) if n != "wandb" and not n.startswith(".")]
        below[:] = keep


def _config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters among stored values, defaults where a run of an older version has none.

    Raises:
        UserError: a value of a wrong type or out of range.
    """
    return {name: parse_value(name, values.get(name, field.default)) for name, field in FIELDS.items()}


def _metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored metrics without what should be a number and is none.

    Raises:
        UserError: no val_acc.
    """
    numbers = {name: _finite(values.get(name)) for name in _NUMBERS}
    known = {name: value for name, value in values.items() if name not in _NUMBERS}
    known |= {name: value for name, value in numbers.items() if value is not None}
    if not 0 <= known.get("val_acc", -1) <= 1:
        why = values.get("failure") or values.get("stopped_by")
        raise UserError(f"it reached no val_acc{f' ({why})' if why else ''}")
    return known


def _finite(value: Any) -> float | None:
    """A finite number, or None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def searched(runs: Sequence[Run]) -> list[str]:
    """The hyperparameters that differ between runs, in the order of RunConfig; places and the seed are none to choose."""
    left_out = {*PLACES, "seed", "log_model"}
    return [name for name in FIELDS if name not in left_out and len({run.config[name] for run in runs}) > 1]


def best_by_architecture(runs: Sequence[Run]) -> list[Run]:
    """The best run of each architecture, best first."""
    best: dict[str, Run] = {}
    for run in runs:
        best.setdefault(run.model_name, run)
    return list(best.values())


def by_configuration(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ by nothing but their seed, two or more together; the group with the best mean val_acc first.

    Of runs with one seed, as when a phase repeats what an earlier one found, the last by name stands for all.
    """
    groups: dict[tuple, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        key = tuple(run.config[name] for name in FIELDS if name not in {*PLACES, "seed", "log_model"})
        groups.setdefault(key, {})[run.config["seed"]] = run
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    return sorted(several, key=lambda group: -sum(run.val_acc for run in group) / len(group))
