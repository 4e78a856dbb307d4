"""Which hyperparameters mattered: a random forest learns val_acc from them, and each is shuffled on trials it has not seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctkeras.report.results import Run

LEAST = 12  # runs; of fewer, nothing can be learned
FOLDS, REPEATS, TREES = 5, 5, 60
METHOD = (
    "Permutation importance (Breiman 2001): a random forest of 60 trees learns val_acc from the hyperparameters on four "
    "fifths of the runs; on the rest each hyperparameter's values are shuffled, 5 times, and the importance is what that "
    "costs in explained variance (R²; more than 1 where a shuffled guess is worse than none). Mean over the five fifths, "
    "whiskers one standard deviation"
)


class Importance(NamedTuple):
    """What the forest found."""

    names: tuple[str, ...]  # the most important first
    loss: tuple[float, ...]  # of R²
    spread: tuple[float, ...]  # standard deviation over the folds
    explained: float  # R² on runs not learned from; at 0 or below the ranks mean nothing
    runs: int


def importance(runs: Sequence[Run], names: Sequence[str]) -> Importance | None:
    """Ranks hyperparameters by what val_acc depends on; None when there are too few runs or names.

    Args:
        runs: with their val_acc; those that were stopped early count with the best they reached.
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
        # Costs in squared error, put in relation to the variance of all runs: a fold of few runs has no steady R² itself.
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
    """Values as numbers: text by its place in the alphabet, which splits can take apart; a wide range as logarithms."""
    if any(isinstance(value, str) for value in values):
        known = sorted({str(value) for value in values})
        return np.array([known.index(str(value)) for value in values], float)
    numbers = np.array([float(value) for value in values])
    return np.log(numbers) if numbers.min() > 0 and numbers.max() / numbers.min() > 20 else numbers
