"""Two configurations over the same seeds: which is better on validation, and whether that is more than noise."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras import sweepfile
from ctkeras.runs.predictions import read_predictions
from ctkeras.runs.result import Result, best_first

LEVEL = 0.95  # of the interval around a difference


@dataclasses.dataclass(frozen=True)
class Contender:
    """A configuration and its runs, one a seed, by seed."""

    config: dict[str, Any]  # less what belongs to a seed or a machine
    runs: dict[int, Result]

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
        """Standard deviation of val_acc over the seeds, 0 for a single one."""
        values = list(self.accuracies.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    @property
    def best(self) -> Result:
        """The seed with the highest val_acc, ties by val_loss."""
        return best_first(self.runs.values())[0]

    def to_dict(self) -> dict[str, Any]:
        """For study.json."""
        return {
            "config": self.config,
            "mean_val_acc": self.mean,
            "sd_val_acc": self.spread,
            "val_acc": {str(seed): value for seed, value in self.accuracies.items()},
            "runs": {str(seed): run.name for seed, run in self.runs.items()},
        }


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the winner is ahead, and how far chance alone could put it."""

    ahead: float  # of mean val_acc
    noise: float  # half the width of the 95% interval around `ahead`
    seeds: int  # that both have
    images: int  # of validation; 0 when no run's predictions are here, and the images' share of the noise is left out

    @property
    def inside_noise(self) -> bool:
        """Whether the runner-up could as well be the better one."""
        return self.ahead <= self.noise


def contenders(results: Sequence[Result]) -> list[Contender]:
    """Runs by configuration, the best mean val_acc first, ties by mean val_loss, then by the first run's name."""
    grouped: dict[tuple, dict[int, Result]] = {}
    for result in sorted(results, key=lambda result: result.name):
        config = sweepfile.plain(result.config)
        key = tuple((name, value) for name, value in config.items() if name not in (*sweepfile.PLACES, "seed"))
        grouped.setdefault(key, {}).setdefault(int(config.get("seed", 0)), result)
    found = [Contender(dict(key), dict(sorted(runs.items()))) for key, runs in grouped.items()]
    return sorted(found, key=lambda one: (-one.mean, np.mean([run.val_loss for run in one.runs.values()])))


def compare(winner: Contender, other: Contender, folders: Mapping[str, Path]) -> Difference:
    """The winner's lead in mean val_acc, and its 95% interval.

    Two kinds of chance add up: other seeds, paired as both configurations ran with the same ones (Student's t), and other
    validation images, as the runs' accuracies are shares of a few dozen images. Where predictions are at hand, images are
    paired too, each by how many seeds got it right; else the accuracies' binomial variances are taken.

    Args:
        winner: the better one.
        other: the runner-up.
        folders: run folders by run name, those that are on this machine.
    """
    shared = sorted(winner.runs.keys() & other.runs.keys())
    ahead = winner.mean - other.mean
    pairs = [winner.runs[seed].val_acc - other.runs[seed].val_acc for seed in shared]
    of_seeds = _half_width(pairs)
    right = [[_right(folders.get(one.runs[seed].name)) for seed in shared] for one in (winner, other)]
    files = set.intersection(*(set(run) for runs in right for run in runs)) if shared else set()
    if files:
        per_image = [float(np.mean([a[f] - b[f] for a, b in zip(*right, strict=True)])) for f in sorted(files)]
        return Difference(ahead, math.hypot(of_seeds, _half_width(per_image)), len(shared), len(files))
    images = max((len(_right(folder)) for folder in folders.values()), default=0)
    variance = sum(one.mean * (1 - one.mean) for one in (winner, other)) / images if images else 0.0
    return Difference(ahead, math.hypot(of_seeds, 1.96 * math.sqrt(variance)), len(shared), images)


def _half_width(values: Sequence[float]) -> float:
    """Half the width of the 95% interval around a mean by Student's t; 0 where one value leaves nothing to judge by."""
    from scipy import stats

    count = len(values)
    if count < 2:
        return 0.0
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))


def _right(folder: Path | None) -> dict[str, float]:
    """Which validation images a run got right, 1 or 0 by file; none when its predictions aren't here."""
    valid = read_predictions(folder, "valid") if folder is not None else None
    if valid is None:
        return {}
    right = valid.probabilities.argmax(-1) == valid.labels
    return dict(zip(valid.files, right.astype(float).tolist(), strict=True))
