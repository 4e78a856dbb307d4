"""The learning curve of a solved head: accuracy in grouped folds when only a share of the groups is trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.config import RunConfig
from ctkeras.data import sources
from ctkeras.data.decoded import Split
from ctkeras.errors import UserError
from ctkeras.evaluation import bootstrap
from ctkeras.runs.folder import read_config, write_json
from ctkeras.runtime import console, process
from ctkeras.training import folds, solve
from ctkeras.training.folds import Folds
from ctkeras.training.inputs import Data, feed_of, load_data

FILE = "learning.json"  # in the run folder
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the groups that each head is trained on
DRAWS = 3  # choices of these groups, for each share below 1; their mean is reported
_FITTED_FROM = 0.4  # the slope is that of the larger shares, because a curve flattens


def learning_curve(folder: Path, *, data: str | None = None) -> dict[str, Any]:
    """Measures how accuracy in folds grows with the number of groups, and writes learning.json.

    Each fold's head is solved on some of the groups of the other folds, with its own weight_decay, and answers for the
    whole fold. Groups are drawn so that class frequencies stay about equal. The backbone is run once; solving takes seconds.

    Args:
        folder: of a run whose head was solved in folds.
        data: the data set, when it is no longer where the run found it.

    Returns:
        folds; rows, each with share, groups and images (mean number trained on), acc, low and high (95%, resampling groups);
        per_doubling, the accuracy that twice as many groups bring; sentence, the same in words.

    Raises:
        UserError: the run's head was not solved in folds.
    """
    config = read_config(folder)
    if config.optimizer != "lbfgs" or not config.fold_count:
        raise UserError(
            f"{folder} was not solved in folds, so a learning curve would train it again for each point; use a run with "
            "--optimizer lbfgs --folds 5"
        )
    source = sources.open_source(data or config.data, slices=config.slices)
    process.configure()
    read = load_data(source, config)
    if read.folds is None:
        raise UserError(f"{source.path} has too few groups of similar slices for folds")
    curve = measure(config, _features(config, read), read.train, fold_of=read.folds.of)
    write_json(folder / FILE, curve)
    return curve


def measure(config: RunConfig, views: Sequence[np.ndarray], split: Split, *, fold_of: np.ndarray) -> dict[str, Any]:
    """Measures the curve on features.

    Args:
        config: as for solve.solve_folds.
        views: V views, each float [N, D].
        split: the pooled images, for their labels and groups.
        fold_of: int [N], the fold of each image.

    Returns:
        See learning_curve.
    """
    groups = folds.groups_of(split)
    divided = Folds(fold_of, np.zeros(len(fold_of), bool), refit=False)
    rng = np.random.default_rng([config.seed, 5])
    draws = [(share, draw) for share in SHARES for draw in range(DRAWS if share < 1 else 1)]
    bar = console.Bar("learning curve", len(draws))
    right: dict[float, list[np.ndarray]] = {share: [] for share in SHARES}
    sizes: dict[float, list[tuple[float, float]]] = {share: [] for share in SHARES}
    for done, (share, _) in enumerate(draws, start=1):
        chosen = draw_groups(split.labels, groups, share, rng=rng)
        solved = solve.solve_folds(config, views, split, folds=divided, chosen=chosen)
        right[share].append(solved.valid_logits.argmax(-1) == split.labels)
        sizes[share].append(_trained_on(groups, fold_of, chosen))
        bar.update(done)
    bar.close()
    rows = [_row(share, np.mean(right[share], 0), np.mean(sizes[share], 0), groups) for share in SHARES]
    slope = _per_doubling(rows)
    return {"folds": int(fold_of.max()) + 1, "rows": rows, "per_doubling": slope, "sentence": _sentence(rows, slope)}


def draw_groups(labels: np.ndarray, groups: np.ndarray, share: float, *, rng: np.random.Generator) -> np.ndarray:
    """Draws a share of the groups of each class: bool [N], whether an image's group is among them.

    Args:
        labels: int [N]; a group counts for the class that most of its images have.
        groups: int [N].
        share: above 0, at most 1; at least one group per class remains.
        rng: draws.
    """
    numbers, member = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(numbers), int(labels.max()) + 1))
    np.add.at(counts, (member, labels), 1)
    own = counts.argmax(1)
    drawn = np.zeros(len(numbers), bool)
    for label in np.unique(own):
        candidates = rng.permutation(np.flatnonzero(own == label))
        drawn[candidates[: max(1, round(share * len(candidates)))]] = True
    return drawn[member]


def _features(config: RunConfig, read: Data) -> Sequence[np.ndarray]:
    """The views of the pooled images' features, from the cache where they are."""
    from ctkeras.models.weights import find_weights
    from ctkeras.training import start
    from ctkeras.training.programs import frozen_fingerprint, phase_programs

    weights = find_weights(config.model_name, config.weights_dir) if config.pretrained else None
    built = start.build(config, classes=len(read.train.class_names), weights=weights)
    programs = phase_programs(built, config, "head")
    features = feed_of(programs, config, read, weights=frozen_fingerprint(programs)).features
    assert features is not None  # for the type checker: lbfgs trains on cached features only
    return features[0]


def _trained_on(groups: np.ndarray, fold_of: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """(groups, images) that a head is trained on, mean over the folds."""
    parts = [chosen & (fold_of != fold) for fold in range(int(fold_of.max()) + 1)]
    return float(np.mean([len(np.unique(groups[part])) for part in parts])), float(np.mean([p.sum() for p in parts]))


def _row(share: float, right: np.ndarray, size: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """One point of the curve.

    Args:
        share: of the groups.
        right: float [N], how often each image was answered rightly.
        size: groups and images that a head was trained on.
        groups: int [N].
    """
    bounds = bootstrap.bounds(lambda weights: {"acc": bootstrap.totals(weights, right) / weights.sum(1)}, groups)
    named = {"share": share, "groups": round(float(size[0]), 1), "images": round(float(size[1]), 1)}
    return {**named, "acc": float(right.mean()), "low": bounds["acc_low"], "high": bounds["acc_high"]}


def _per_doubling(rows: Sequence[dict[str, Any]]) -> float:
    """How much accuracy rises when groups double: the least-squares slope over log2 of their number."""
    later = [row for row in rows if row["share"] >= _FITTED_FROM]
    return float(np.polyfit(np.log2([row["groups"] for row in later]), [row["acc"] for row in later], 1)[0])


def _sentence(rows: Sequence[dict[str, Any]], slope: float) -> str:
    """The curve in words."""
    first, last = rows[0], rows[-1]
    return (
        f"With {first['groups']:.0f} groups to train on, accuracy on other groups is {first['acc']:.3f}; with "
        f"{last['groups']:.0f} it is {last['acc']:.3f}. If it continues like this, twice as many groups would change it by "
        f"about {100 * slope:+.1f} points."
    )
