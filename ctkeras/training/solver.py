"""A linear head on fixed features, solved to its optimum: multinomial logistic regression with L2, in float64.

    loss = sum_i s_i CE(y_i, softmax(x_i W + b)) / sum_i s_i  +  weight_decay / 2 |W|^2

The loss has one minimum, so no learning rate, schedule, batch size or number of epochs has any effect. x are standardised
features, s sample weights, y soft labels; the bias b is free. weight_decay means what it means to adam and sgd in steps.py.

Features are rotated once to the principal axes of the training rows, where the Hessian is close to diagonal, and where
600 rows of 1,856 features have 599 coordinates. A fold that has fewer rows than these is rotated once more, to axes of its
own. One batch of Newton steps then solves all strengths together, each step by conjugate gradients (Nocedal & Wright 2006,
algorithm 7.1). It is NumPy on the host, and no program is compiled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from ctkeras.evaluation import calibration, probabilities
from ctkeras.runtime import blas
from ctkeras.training import newton

# Half decades. Below, the head fits every image by heart; above, every image gets the class frequencies.
GRID = tuple(float(f"{10 ** (power / 2):.1g}") for power in range(-7, 4))
KEPT_BYTES = 2**26  # of features whose rotation is kept for the next trial of a process
LARGEST_ROTATION = 3000  # rows or features, whichever is fewer; a rotation of more takes longer than it saves
TOLERANCE = 1e-10  # of the gradient, relative to its start
TIED = 1e-3  # of log-loss, in nats
_ROUGH = (
    1e-7  # the same where only losses are compared; at 1e-5 the choice among nearly equal ones depends on the solver
)
_RANK = 1e-12  # of the largest eigenvalue; smaller ones are rounding


class Factors(NamedTuple):
    """Training rows on their principal axes. N rows, D features, R axes."""

    mean: np.ndarray  # float64 [D], of each feature
    scale: np.ndarray  # float64 [D], its standard deviation; 1 where the feature is constant
    axes: np.ndarray | None  # float64 [D, R]; None: not rotated, R = D
    rows: np.ndarray  # float64 [N, R], standardised and rotated
    variances: np.ndarray  # float64 [R], mean square of each coordinate
    parts: dict[bytes, "Part"]  # by the mask of its rows; made when it is first needed


class Part(NamedTuple):
    """Some of the rows on axes of their own. n rows, r axes."""

    axes: np.ndarray  # float64 [R, r]
    rows: np.ndarray  # float64 [n, r]
    variances: np.ndarray  # float64 [r], mean square of each coordinate


class Head(NamedTuple):
    """Weights of a linear head on features as they are, standardisation folded in: logits = features @ kernel + bias."""

    kernel: np.ndarray  # float64 [D, C]
    bias: np.ndarray  # float64 [C]
    loss: float  # at the optimum, with the L2 term
    steps: int  # Newton steps taken


class Choice(NamedTuple):
    """A strength of L2 chosen by folds."""

    weight_decay: float
    losses: np.ndarray  # float64 [G], calibrated out-of-fold log-loss of each value of the grid
    logits: np.ndarray  # float64 [N, C], out-of-fold, at the chosen value; 0 in rows of no fold


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature: float [N, D] to float64 [D] each; the deviation of a constant one is 1."""
    rows = np.asarray(features, np.float64)
    mean, scale = rows.mean(0), rows.std(0)
    return mean, np.where(scale > 1e-12 * np.maximum(1, np.abs(mean)), scale, 1.0)


def factorise(features: np.ndarray) -> Factors:
    """Standardises features and rotates them to their principal axes; of the same features again, what it returned before.

    Args:
        features: float [N, D], of the training rows.
    """
    rows = np.ascontiguousarray(features, np.float64)
    if rows.nbytes > KEPT_BYTES:
        return _factorise(rows)
    key = (*rows.shape, xxhash.xxh3_128_digest(rows.data))
    if key not in _kept:
        made = _factorise(rows)
        _kept.clear()  # trials of one search have the same features
        _kept[key] = made
    return _kept[key]


_kept: dict[tuple, Factors] = {}


def _factorise(features: np.ndarray) -> Factors:
    """As factorise, of float64 [N, D]."""
    mean, scale = statistics(features)
    rows = (features - mean) / scale
    if min(rows.shape) > LARGEST_ROTATION:
        return Factors(mean, scale, None, rows, np.mean(rows**2, 0), {})
    return Factors(mean, scale, *_rotated(rows), {})


def _rotated(rows: np.ndarray) -> Part:
    """Rows on their principal axes: float64 [N, D]."""
    count, width = rows.shape
    with blas.threads_for(rows.size):
        spectrum, vectors = np.linalg.eigh(rows @ rows.T if count < width else rows.T @ rows)
        present = spectrum > _RANK * max(spectrum[-1], 1e-300)
        axes = vectors[:, present]
        if count < width:
            axes = rows.T @ (axes / np.sqrt(spectrum[present]))
        return Part(axes, rows @ axes, spectrum[present] / count)


def _part(factors: Factors, used: np.ndarray) -> Part | None:
    """The rows of a mask [N], on axes of their own; None if they are no fewer than the axes of all rows.

    On the axes of all, some directions would have none of them, and the loss bends there by the L2 term alone, so that the
    solver's steps would be far too short.
    """
    count = int(used.sum())
    if not 0 < count < factors.rows.shape[1] or count > LARGEST_ROTATION:
        return None
    key = np.packbits(used).tobytes()
    if key not in factors.parts:
        factors.parts[key] = _rotated(factors.rows[used])
    return factors.parts[key]


def _minimised(
    factors: Factors,
    labels: np.ndarray,
    *,
    weights: np.ndarray,
    strengths: Sequence[float],
    tolerance: float,
    what: str = "",
) -> tuple[np.ndarray, np.ndarray, int]:
    """Heads [P, R + 1, C] on the rows of `factors`, one for each strength, their losses and the Newton steps taken."""
    used = weights > 0
    part = _part(factors, used)
    if part is None:
        used = np.ones_like(used)
    rows, variances = (factors.rows, factors.variances) if part is None else (part.rows, part.variances)
    heads, losses, steps = newton.minimise(
        rows,
        variances,
        labels[used],
        weights=np.tile(weights[used], (len(strengths), 1)),
        strengths=np.asarray(strengths, float),
        tolerance=tolerance,
        what=what,
    )
    if part is not None:
        heads = np.concatenate([part.axes @ heads[:, :-1], heads[:, -1:]], axis=1)
    return heads, losses, steps


def smoothed(labels: np.ndarray, smoothing: float) -> np.ndarray:
    """Mixes soft labels, float [N, C], with the uniform distribution: `smoothing` in [0, 1) is the share of that."""
    return labels * (1 - smoothing) + smoothing / labels.shape[1]


def solve(factors: Factors, labels: np.ndarray, *, weight_decay: float, weights: np.ndarray | None = None) -> Head:
    """Finds the head of least loss.

    Args:
        factors: of the training rows.
        labels: float [N, C], soft.
        weight_decay: strength of L2, above 0.
        weights: float [N], per row; 0 leaves a row out of the loss. None: all 1.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    heads, losses, steps = _minimised(factors, labels, weights=weights, strengths=[weight_decay], tolerance=TOLERANCE)
    return _unrotated(factors, heads[0], float(losses[0]), steps)


def choose_weight_decay(
    factors: Factors,
    labels: np.ndarray,
    *,
    folds: np.ndarray,
    weights: np.ndarray | None = None,
    scored: np.ndarray | None = None,
    grid: Sequence[float] = GRID,
) -> Choice:
    """Chooses the strength of L2 whose calibrated out-of-fold log-loss is least. All values and folds are solved together.

    Standardisation and rotation are those of all rows: they know no label.

    Args:
        factors: of the training rows.
        labels: float [N, C], soft; the loss is that of the most probable class.
        folds: int [N], the fold in which each row is held out; -1 for a row that is always trained on.
        weights: float [N], per row in training; None: all 1.
        scored: bool [N], rows that the log-loss counts, such as the first view of each image; None: all.
        grid: values to choose from, above 0, in ascending order.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    logits = _out_of_fold(factors, labels, folds=folds, weights=weights, grid=grid)
    counted = (folds >= 0) & (True if scored is None else scored)
    losses = _calibrated_losses(logits, labels, counted)
    best = _strongest(losses)
    return Choice(float(grid[best]), losses, logits[best])


def choose_per_fold(
    factors: Factors,
    labels: np.ndarray,
    *,
    folds: np.ndarray,
    weights: np.ndarray,
    scored: np.ndarray,
    grid: Sequence[float] = GRID,
) -> list[float]:
    """Chooses a strength of L2 for each fold's member: that of least calibrated out-of-fold log-loss on all other folds.

    Args:
        factors: of all rows.
        labels: float [N, C], soft.
        folds: int [N], from 0.
        weights: float [N], per row in training.
        scored: bool [N], rows that the log-loss counts.
        grid: values to choose from, above 0, in ascending order.
    """
    logits = _out_of_fold(factors, labels, folds=folds, weights=weights, grid=grid)
    numbers = range(int(folds.max()) + 1)
    losses = [_calibrated_losses(logits, labels, scored & (folds != fold)) for fold in numbers]
    return [float(grid[_strongest(each)]) for each in losses]


def _out_of_fold(
    factors: Factors, labels: np.ndarray, *, folds: np.ndarray, weights: np.ndarray, grid: Sequence[float]
) -> np.ndarray:
    """Logits [G, N, C] of each row by the head that did not see its fold, per value; 0 in rows of no fold."""
    logits, numbers = np.zeros((len(grid), *labels.shape)), np.unique(folds[folds >= 0])
    for fold in numbers:
        out = folds == fold
        heads, _, _ = _minimised(
            factors,
            labels,
            weights=np.where(out, 0.0, weights),
            strengths=grid,
            tolerance=_ROUGH,
            what=f"fold {fold + 1} of {len(numbers)}",
        )
        logits[:, out] = factors.rows[out] @ heads[:, :-1] + heads[:, -1:]
    return logits


def _calibrated_losses(logits: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The log-loss of counted rows at the temperature that suits them best, per value of the grid: [G, N, C] to [G].

    A weak L2 makes a head too sure of itself, and a plain log-loss takes that for bad classification: on the public set it
    chose a strength of 1, which is 6 points of accuracy below 0.003 (benchmarks/ACCURACY.md). One number mends confidence
    afterwards (Guo et al. 2017), so it must not decide. Every row counts alike, as in val_acc.
    """
    classes = labels[counted].argmax(-1)
    hard = np.eye(labels.shape[1])[classes]

    def loss(rows: np.ndarray) -> float:
        softest = calibration.temperature(classes, probabilities.softmax(rows))
        return float(newton.cross_entropy(rows / softest, hard).mean())

    return np.array([loss(rows[counted]) for rows in logits])


def _strongest(losses: np.ndarray) -> int:
    """The index of the strongest L2 whose loss is the least, or within TIED of it: weak ones all separate an easy set."""
    return int(np.flatnonzero(losses <= losses.min() + TIED)[-1])


def _unrotated(factors: Factors, head: np.ndarray, loss: float, steps: int) -> Head:
    """A head [R + 1, C] on rotated rows as one on the features themselves."""
    kernel = head[:-1] if factors.axes is None else factors.axes @ head[:-1]
    kernel = kernel / factors.scale[:, None]
    return Head(kernel, head[-1] - factors.mean @ kernel, loss, steps)
