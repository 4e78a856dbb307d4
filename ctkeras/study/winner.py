"""Two configurations over the same seeds: which one is better on validation, and whether the lead is more than noise."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.config import PLACES
from ctkeras.runs.predictions import read_validation
from ctkeras.runs.result import Result, best_first
from ctkeras.search import status
from ctkeras.sweep import file

LEVEL = 0.95  # confidence level of the interval around a difference


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
    def spread(self) -> float:
        """Standard deviation of val_acc over the seeds; 0 for a single seed."""
        values = list(self.accuracies.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

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


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the winner is ahead, and how much of that chance could explain."""

    ahead: float  # of mean val_acc
    noise: float  # half the width of the 95% interval around `ahead`
    seeds: int  # number of seeds that both have
    images: int  # of validation; 0 without predictions on this machine, and the noise then leaves the images out
    error: float = 0.0  # standard error of `ahead`

    @property
    def inside_noise(self) -> bool:
        """Whether the runner-up could equally well be the better one."""
        return self.ahead <= self.noise


def contenders(results: Sequence[Result]) -> list[Contender]:
    """Runs by configuration: highest mean val_acc first, then lowest mean val_loss, then by the name of the first run."""
    grouped: dict[tuple, dict[int, Result]] = {}
    for result in sorted(results, key=lambda result: result.name):
        config = file.plain(result.config)
        key = tuple((name, value) for name, value in config.items() if name not in (*PLACES, "seed"))
        grouped.setdefault(key, {}).setdefault(int(config.get("seed", 0)), result)
    configurations = [Contender(dict(key), dict(sorted(runs.items()))) for key, runs in grouped.items()]
    return sorted(configurations, key=lambda one: (-one.mean, np.mean([run.val_loss for run in one.runs.values()])))


def compare(winner: Contender, other: Contender, folders: Mapping[str, Path]) -> Difference:
    """The winner's lead in mean val_acc, its 95% interval and its standard error.

    Two kinds of chance add up. One is the choice of seeds: both configurations ran with the same ones, so they are compared
    in pairs (Student's t). The other is the choice of validation images, because an accuracy is a share of a few dozen of
    them. With the predictions of both, images are compared in pairs too, each by the share of seeds that were right;
    otherwise the binomial variances of the two accuracies are used.

    Args:
        winner: the better one.
        other: the runner-up.
        folders: the run folders that are on this machine, by run name.
    """
    shared = sorted(winner.runs.keys() & other.runs.keys())
    ahead = winner.mean - other.mean
    pairs = [winner.runs[seed].val_acc - other.runs[seed].val_acc for seed in shared]
    of_seeds, error = _half_width(pairs), _standard_error(pairs)
    right = [[_right(folders.get(one.runs[seed].name)) for seed in shared] for one in (winner, other)]
    files = set.intersection(*(set(run) for runs in right for run in runs)) if shared else set()
    if files:
        per_image = [float(np.mean([a[f] - b[f] for a, b in zip(*right, strict=True)])) for f in sorted(files)]
        noise = math.hypot(of_seeds, _half_width(per_image))
        return Difference(ahead, noise, len(shared), len(files), math.hypot(error, _standard_error(per_image)))
    images = max((len(_right(folder)) for folder in folders.values()), default=0)
    variance = sum(one.mean * (1 - one.mean) for one in (winner, other)) / images if images else 0.0
    noise = math.hypot(of_seeds, 1.96 * math.sqrt(variance))
    return Difference(ahead, noise, len(shared), images, math.hypot(error, math.sqrt(variance)))


def _half_width(values: Sequence[float]) -> float:
    """Half the width of the 95% interval around a mean, by Student's t; 0 for a single value, which has no spread."""
    from scipy import stats

    count = len(values)
    if count < 2:
        return 0.0
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * _standard_error(values)


def _standard_error(values: Sequence[float]) -> float:
    """The standard error of a mean; 0 for a single value, which has no spread."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


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
    values = list(one.accuracies.values())
    spread = f"sd {one.spread:.4f}, {min(values):.4f} to {max(values):.4f}, {status.counted(len(values), 'seed')}"
    settings = status.settings(one.config, names)
    return f"val_acc {one.mean:.4f}, {spread}; {settings}"
