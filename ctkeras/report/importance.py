"""Which hyperparameters mattered: a random forest learns val_acc from them, then each is shuffled on unseen runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctkeras.report.results import Run

LEAST = 12  # runs; nothing can be learned from fewer
FOLDS, REPEATS, TREES = 5, 5, 60
METHOD = (
    "Permutation importance (Breiman 2001): a random forest of 60 trees learns val_acc from the hyperparameters of 80% of "
    "the runs. In the other 20%, the values of one hyperparameter are shuffled, 5 times, and its importance is the loss of "
    "explained variance (R²), which exceeds 1 where the shuffled prediction is worse than the mean. This is repeated for "
    "each 20% of the runs; bars show the mean, whiskers one standard deviation"
)


class Importance(NamedTuple):
    """How much each hyperparameter matters."""

    names: tuple[str, ...]  # the most important first
    loss: tuple[float, ...]  # of R²
    spread: tuple[float, ...]  # standard deviation over the folds
    explained: float  # R² on runs that the forest wasn't trained on; at 0 or below, the order means nothing
    runs: int


def importance(runs: Sequence[Run], names: Sequence[str]) -> Importance | None:
    """Ranks hyperparameters by how much val_acc depends on them; None when there are too few runs or names.

    Args:
        runs: any; a run that was stopped early counts with its best val_acc.
        names: hyperparameters that differ between runs.
    """
    if len(runs) < LEAST or not names:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    features = np.column_stack([_column([run.config[name] for run in runs]) for name in names])
    values = np.array([run.val_acc for run in runs])
    if values.std() < 1e-9:
        return None
    losses, predicted = [], np.empty_like(values)
    for learn, rest in KFold(FOLDS, shuffle=True, random_state=0).split(features):
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=0).fit(features[learn], values[learn])
        predicted[rest] = forest.predict(features[rest])
        # Squared error relative to the variance of all runs, because the R² of a fold of few runs is unstable.
        shuffled = permutation_importance(
            forest, features[rest], values[rest], scoring="neg_mean_squared_error", n_repeats=REPEATS, random_state=0
        )
        losses.append(shuffled.importances_mean / values.var())
    mean, spread = np.mean(losses, axis=0), np.std(losses, axis=0)
    order = np.argsort(-mean, kind="stable")
    return Importance(
        tuple(names[i] for i in order),
        tuple(mean[order].tolist()),
        tuple(spread[order].tolist()),
        float(r2_score(values, predicted)),
        len(runs),
    )


def _column(values: Sequence) -> np.ndarray:
    """Values as numbers: text, or auto among numbers, by position, which a tree can split; a wide range as logarithms."""
    if any(isinstance(value, str) for value in values):
        known = sorted(set(values), key=lambda value: (isinstance(value, str), value))
        return np.array([known.index(value) for value in values], float)
    numbers = np.array([float(value) for value in values])
    return np.log(numbers) if numbers.min() > 0 and numbers.max() / numbers.min() > 20 else numbers
