"""Two configurations over the same seeds: which one is better on validation, and whether the lead is more than noise."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.config import PLACES
from ctkeras.evaluation import comparison
from ctkeras.evaluation.comparison import Comparison
from ctkeras.runs.predictions import read_validation
from ctkeras.runs.result import Result, best_first
from ctkeras.search import status
from ctkeras.sweep import file

LEAST_FOR_SD = 3  # seeds; the standard deviation of two says nothing


@dataclasses.dataclass(frozen=True)
class Contender:
    """A configuration and its runs, one per seed."""

    config: dict[str, Any]  # without the seed and what belongs to a machine
    runs: dict[int, Result]  # by seed, in ascending order

    @property
    def accuracies(self) -> dict[int, float]:
        """val_acc by seed."""
        return {seed: run.val_acc for seed, run in self.runs.items()}

    @property
    def mean(self) -> float:
        """Mean val_acc over the seeds."""
        return float(np.mean(list(self.accuracies.values())))

    @property
    def spread(self) -> float | None:
        """Standard deviation of val_acc over the seeds; None if they are too few, or all gave the same."""
        values = list(self.accuracies.values())
        return float(np.std(values, ddof=1)) if len(values) >= LEAST_FOR_SD and len(set(values)) > 1 else None

    @property
    def best(self) -> Result:
        """The run with the highest val_acc; among equals, the one with the lowest val_loss."""
        return best_first(self.runs.values())[0]

    def to_dict(self) -> dict[str, Any]:
        """A configuration, for study.json."""
        return {
            "config": self.config,
            "mean_val_acc": self.mean,
            "sd_val_acc": self.spread,
            "val_acc": {str(seed): value for seed, value in self.accuracies.items()},
            "runs": {str(seed): run.name for seed, run in self.runs.items()},
        }


def contenders(results: Sequence[Result]) -> list[Contender]:
    """Runs by configuration: highest mean val_acc first, then lowest mean val_loss, then by the name of the first run."""
    grouped: dict[tuple, dict[int, Result]] = {}
    for result in sorted(results, key=lambda result: result.name):
        config = file.plain(result.config)
        key = tuple((name, value) for name, value in config.items() if name not in (*PLACES, "seed"))
        grouped.setdefault(key, {}).setdefault(int(config.get("seed", 0)), result)
    configurations = [Contender(dict(key), dict(sorted(runs.items()))) for key, runs in grouped.items()]
    return sorted(configurations, key=lambda one: (-one.mean, np.mean([run.val_loss for run in one.runs.values()])))


def compare(winner: Contender, other: Contender, folders: Mapping[str, Path], audited: Any = None) -> Comparison | None:
    """The winner's lead in accuracy over the seeds that both ran with, by the one test of a difference.

    Args:
        winner: the better one.
        other: the runner-up.
        folders: the run folders that are on this machine, by run name.
        audited: the audit.Audit of the data set, for its patients or groups of similar slices.

    Returns:
        None without both configurations' predictions for the same images.
    """
    shared = sorted(winner.runs.keys() & other.runs.keys())
    right = [[_right(folders.get(one.runs[seed].name)) for seed in shared] for one in (winner, other)]
    files = sorted(set.intersection(*(set(run) for runs in right for run in runs))) if shared else []
    if not files:
        return None
    each = np.array([[[run[file] for file in files] for run in runs] for runs in right])  # [2, seeds, images]
    groups, unit = comparison.units(audited, files)
    by_seed = (each[0] - each[1]).mean(1).tolist()
    right_a, right_b = each.mean(1)
    return comparison.difference_test(right_a, right_b, groups, unit=unit, by_seed=by_seed)


def standard_error(one: Contender, folders: Mapping[str, Path], audited: Any = None) -> float:
    """The standard error of a configuration's mean accuracy: of its choice of patients, and of its seeds.

    Slices of one patient or group are not independent, so groups count, not images (Cochran 1977, section 9.3): of the public
    set's 539 images in 187 groups the error is 0.031, and 0.019 if every image counted. 0 without predictions.

    Args:
        one: the configuration.
        folders: the run folders that are on this machine, by run name.
        audited: the audit.Audit of the data set, for its patients or groups of similar slices.
    """
    right = [found for run in one.runs.values() if (found := _right(folders.get(run.name)))]
    files = sorted(set.intersection(*(set(run) for run in right))) if right else []
    if not files:
        return 0.0
    each = np.array([[run[file] for file in files] for run in right])  # [seeds, images]
    groups, unit = comparison.units(audited, files)
    nothing = np.zeros(len(files))
    return comparison.difference_test(each.mean(0), nothing, groups, unit=unit, by_seed=each.mean(1).tolist()).error


def _right(folder: Path | None) -> dict[str, float]:
    """Which validation images a run got right: 1 or 0 by file. Empty if there are no predictions on this machine."""
    valid = read_validation(folder) if folder is not None else None
    if valid is None:
        return {}
    right = valid.probabilities.argmax(-1) == valid.labels
    return dict(zip(valid.files, right.astype(float).tolist(), strict=True))


def described(one: Contender) -> str:
    """A configuration's numbers over its seeds, and its main hyperparameters."""
    names = ["model_name", "freeze_backbone", "lr", "weight_decay", "batch_size", "dropout", "label_smoothing"]
    names += ["mixup_alpha", "optimizer", "scheduler", "max_epochs"]
    if one.config.get("optimizer") == "lbfgs":  # the others have no effect
        names = ["model_name", "head_stages", "fit", "gray", "class_weighting", "label_smoothing", "weight_decay"]
    elif one.config.get("unfreeze_from", "head") != "head":
        names.insert(2, "unfreeze_from")
    values = list(one.accuracies.values())
    seeds = status.counted(len(values), "seed")
    spread = f"{min(values):.4f} to {max(values):.4f}, {seeds}" if len(set(values)) > 1 else f"the same with {seeds}"
    spread = f"sd {one.spread:.4f}, {spread}" if one.spread is not None else spread
    spread = seeds if len(values) == 1 else spread
    settings = status.settings(one.config, names)
    return f"val_acc {one.mean:.4f}, {spread}; {settings}"
