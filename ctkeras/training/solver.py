"""A linear head on fixed features, solved to its optimum: multinomial logistic regression with L2, in float64.

    loss = sum_i s_i CE(y_i, softmax(x_i W + b)) / sum_i s_i  +  weight_decay / 2 |W|^2

The loss has one minimum, so no learning rate, schedule, batch size or number of epochs has any effect. x are standardised
features, s sample weights, y soft labels; the bias b is free. weight_decay means what it means to adam and sgd in steps.py.

Features are rotated once to the principal axes of the training rows, where the Hessian is close to diagonal, and where
600 rows of 1,856 features have 599 coordinates. All strengths and folds then share that rotation, and one batch of
Newton steps solves them together, each step by conjugate gradients (Nocedal & Wright 2006, algorithm 7.1). It is
NumPy on the host: of 516 rows, choosing among 11 strengths by 5 folds takes 1.3 s on one core, and no program is compiled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Half decades. Below, the head fits every image by heart; above, every image gets the class frequencies.
GRID = tuple(float(f"{10 ** (power / 2):.1g}") for power in range(-7, 4))
LARGEST_ROTATION = 3000  # rows or features, whichever is fewer; a rotation of more takes longer than it saves
TOLERANCE = 1e-10  # of the gradient, relative to its start
_ROUGH = 1e-5  # the same where only a loss is compared
_NEWTON_STEPS, _CG_STEPS, _HALVINGS = 100, 250, 40
_RANK = 1e-12  # of the largest eigenvalue; smaller ones are rounding


class Factors(NamedTuple):
    """Training rows on their principal axes. N rows, D features, R axes."""

    mean: np.ndarray  # float64 [D], of each feature
    scale: np.ndarray  # float64 [D], its standard deviation; 1 where the feature is constant
    axes: np.ndarray | None  # float64 [D, R]; None: not rotated, R = D
    rows: np.ndarray  # float64 [N, R], standardised and rotated
    variances: np.ndarray  # float64 [R], mean square of each coordinate


class Head(NamedTuple):
    """Weights of a linear head on features as they are, standardisation folded in: logits = features @ kernel + bias."""

    kernel: np.ndarray  # float64 [D, C]
    bias: np.ndarray  # float64 [C]
    loss: float  # at the optimum, with the L2 term
    steps: int  # Newton steps taken


class Choice(NamedTuple):
    """A strength of L2 chosen by folds."""

    weight_decay: float
    losses: np.ndarray  # float64 [G], out-of-fold log-loss of each value of the grid
    logits: np.ndarray  # float64 [N, C], out-of-fold, at the chosen value; 0 in rows of no fold


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature: float [N, D] to float64 [D] each; the deviation of a constant one is 1."""
    rows = np.asarray(features, np.float64)
    mean, scale = rows.mean(0), rows.std(0)
    return mean, np.where(scale > 1e-12 * np.maximum(1, np.abs(mean)), scale, 1.0)


def factorise(features: np.ndarray) -> Factors:
    """Standardises features and rotates them to their principal axes.

    Args:
        features: float [N, D], of the training rows.
    """
    rows = np.asarray(features, np.float64)
    mean, scale = statistics(rows)
    rows = (rows - mean) / scale
    count, width = rows.shape
    if min(count, width) > LARGEST_ROTATION:
        return Factors(mean, scale, None, rows, np.mean(rows**2, 0))
    if count < width:
        spectrum, vectors = np.linalg.eigh(rows @ rows.T)
        present = spectrum > _RANK * max(spectrum[-1], 1e-300)
        lengths = np.sqrt(spectrum[present])
        axes = rows.T @ (vectors[:, present] / lengths)
    else:
        spectrum, vectors = np.linalg.eigh(rows.T @ rows)
        present = spectrum > _RANK * max(spectrum[-1], 1e-300)
        axes = vectors[:, present]
    return Factors(mean, scale, axes, rows @ axes, spectrum[present] / count)


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
    heads, losses, steps = _minimise(factors, labels, weights[None], np.array([weight_decay]), tolerance=TOLERANCE)
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
    """Chooses the strength of L2 whose out-of-fold log-loss is least. All values and folds are solved together.

    Standardisation and rotation are those of all rows: they know no label.

    Args:
        factors: of the training rows.
        labels: float [N, C], soft.
        folds: int [N], the fold in which each row is held out; -1 for a row that is always trained on.
        weights: float [N], per row in training; None: all 1.
        scored: bool [N], rows that the log-loss counts, such as the first view of each image; None: all.
        grid: values to choose from, above 0.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    logits = _out_of_fold(factors, labels, folds=folds, weights=weights, grid=grid)
    counted = (folds >= 0) & (True if scored is None else scored)
    losses = _average_losses(logits, labels, weights, counted)
    best = int(np.argmin(losses))
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
    """Chooses a strength of L2 for each fold's member: that of least out-of-fold log-loss on all other folds.

    Args:
        factors: of all rows.
        labels: float [N, C], soft.
        folds: int [N], from 0.
        weights: float [N], per row in training.
        scored: bool [N], rows that the log-loss counts.
        grid: values to choose from, above 0.
    """
    logits = _out_of_fold(factors, labels, folds=folds, weights=weights, grid=grid)
    numbers = range(int(folds.max()) + 1)
    losses = [_average_losses(logits, labels, weights, scored & (folds != fold)) for fold in numbers]
    return [float(grid[int(np.argmin(each))]) for each in losses]


def _out_of_fold(
    factors: Factors, labels: np.ndarray, *, folds: np.ndarray, weights: np.ndarray, grid: Sequence[float]
) -> np.ndarray:
    """Logits [G, N, C] of each row by the head that did not see its fold, per value; 0 in rows of no fold."""
    held_out = folds == np.unique(folds[folds >= 0])[:, None]  # [K, N]
    trained = np.tile(np.where(held_out, 0.0, weights), (len(grid), 1))  # [G K, N], the grid outermost
    strengths = np.repeat(np.asarray(grid, float), len(held_out))
    heads, _, _ = _minimise(factors, labels, trained, strengths, tolerance=_ROUGH)
    logits = np.zeros((len(grid), *labels.shape))
    for number, head in enumerate(heads):
        out = held_out[number % len(held_out)]
        logits[number // len(held_out), out] = factors.rows[out] @ head[:-1] + head[-1]
    return logits


def _average_losses(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The weighted log-loss of counted rows, per value of the grid: [G, N, C] to [G]."""
    return np.array([np.average(_cross_entropy(rows, labels)[counted], weights=weights[counted]) for rows in logits])


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross entropy per row: float64 [..., N, C] to [..., N]."""
    top = logits.max(-1, keepdims=True)
    shifted = logits - top
    return np.log(np.exp(shifted).sum(-1)) * labels.sum(-1) - (shifted * labels).sum(-1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _unrotated(factors: Factors, head: np.ndarray, loss: float, steps: int) -> Head:
    """A head [R + 1, C] on rotated rows as one on the features themselves."""
    kernel = head[:-1] if factors.axes is None else factors.axes @ head[:-1]
    kernel = kernel / factors.scale[:, None]
    return Head(kernel, head[-1] - factors.mean @ kernel, loss, steps)


class _Problems(NamedTuple):
    """P problems on the same rows, of which each has weights and a strength of its own."""

    rows: np.ndarray  # [N, R]
    variances: np.ndarray  # [R]
    labels: np.ndarray  # [N, C]
    weights: np.ndarray  # [P, N], of sum 1
    strengths: np.ndarray  # [P]

    def some(self, which: np.ndarray) -> "_Problems":
        """The problems that a mask [P] names."""
        return self._replace(weights=self.weights[which], strengths=self.strengths[which])

    def logits(self, heads: np.ndarray) -> np.ndarray:
        """[P, R + 1, C] to [P, N, C], by one matrix product."""
        problems, _, classes = heads.shape
        flat = self.rows @ heads[:, :-1].transpose(1, 0, 2).reshape(-1, problems * classes)
        return flat.reshape(-1, problems, classes).transpose(1, 0, 2) + heads[:, -1:]

    def gradient(self, residuals: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """Adds up residuals [P, N, C] over rows, and the L2 term of heads: [P, R + 1, C]."""
        problems, count, classes = residuals.shape
        flat = self.rows.T @ residuals.transpose(1, 0, 2).reshape(count, -1)
        kernel = flat.reshape(-1, problems, classes).transpose(1, 0, 2) + self.strengths[:, None, None] * heads[:, :-1]
        return np.concatenate([kernel, residuals.sum(1, keepdims=True)], axis=1)

    def curved(self, probabilities: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """The Hessian at `probabilities` [P, N, C] times heads: [P, R + 1, C]."""
        weighted = probabilities * self.logits(heads)
        residuals = weighted - probabilities * weighted.sum(-1, keepdims=True)
        return self.gradient(self.weights[..., None] * residuals, heads)

    def diagonal(self, probabilities: np.ndarray) -> np.ndarray:
        """About the Hessian's diagonal, [P, R + 1, C]: exact if a row's share of it did not depend on its place."""
        spread = np.einsum("pn,pnc->pc", self.weights, probabilities * (1 - probabilities))[:, None]
        kernel = spread * self.variances[:, None] + self.strengths[:, None, None]
        return np.concatenate([kernel, np.maximum(spread, 1e-12)], axis=1)

    def losses(self, logits: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """The loss of each problem: [P]."""
        fit = np.einsum("pn,pn->p", self.weights, _cross_entropy(logits, self.labels))
        return fit + self.strengths / 2 * np.einsum("prc,prc->p", heads[:, :-1], heads[:, :-1])


def _minimise(
    factors: Factors, labels: np.ndarray, weights: np.ndarray, strengths: np.ndarray, *, tolerance: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Solves P problems from zero: heads [P, R + 1, C] on rotated rows, losses [P], Newton steps taken."""
    labels = np.asarray(labels, np.float64)
    every = _Problems(
        factors.rows, factors.variances, labels, weights / weights.sum(1, keepdims=True), np.asarray(strengths, float)
    )
    heads = np.zeros((len(strengths), factors.rows.shape[1] + 1, labels.shape[1]))
    losses, first = np.zeros(len(strengths)), np.zeros(len(strengths))
    active, steps = np.arange(len(strengths)), 0
    for steps in range(_NEWTON_STEPS + 1):
        problems = every.some(active)
        logits = problems.logits(heads[active])
        losses[active] = problems.losses(logits, heads[active])
        probabilities = _softmax(logits)
        residuals = problems.weights[..., None] * (probabilities * labels.sum(-1, keepdims=True) - labels)
        gradients = problems.gradient(residuals, heads[active])
        sizes = np.sqrt(_dot(gradients, gradients))
        if steps == 0:
            first = np.maximum(sizes, 1e-300)
        relative = sizes / first[active]
        open_ = relative > tolerance
        if not open_.any() or steps == _NEWTON_STEPS:
            break
        active, problems = active[open_], problems.some(open_)
        direction = _newton(problems, probabilities[open_], gradients[open_], relative[open_])
        length = _step_length(problems, heads[active], logits[open_], direction, gradients[open_], losses[active])
        heads[active] += length[:, None, None] * direction
        active = active[length > 0]  # no step lowers the loss further: rounding is reached
        if not len(active):
            break
    return heads, losses, steps


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The inner product per problem: [P, R + 1, C] twice to [P]."""
    return np.einsum("prc,prc->p", a, b)


def _newton(problems: _Problems, probabilities: np.ndarray, gradients: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """About minus the inverse Hessian times the gradient, by preconditioned conjugate gradients: [P, R + 1, C]."""
    scale = problems.diagonal(probabilities)
    solution, remainder = np.zeros_like(gradients), -gradients
    conditioned = remainder / scale
    direction, product = conditioned, _dot(remainder, conditioned)
    goal = product * np.minimum(0.25, relative**0.5) ** 2  # tighter near the end: superlinear convergence
    for _ in range(_CG_STEPS):
        going = product > goal
        if not going.any():
            break
        curved = problems.curved(probabilities, direction)
        curvature = _dot(direction, curved)
        step = np.where(going & (curvature > 0), product / np.where(curvature > 0, curvature, 1), 0)[:, None, None]
        solution, remainder = solution + step * direction, remainder - step * curved
        conditioned = remainder / scale
        before, product = product, np.where(going, _dot(remainder, conditioned), product)
        ratio = np.where(going, product / np.where(before > 0, before, 1), 0)
        direction = conditioned + ratio[:, None, None] * direction
    return solution


def _step_length(
    problems: _Problems,
    heads: np.ndarray,
    logits: np.ndarray,
    direction: np.ndarray,
    gradients: np.ndarray,
    losses: np.ndarray,
) -> np.ndarray:
    """Halves the step until the loss falls by enough (Armijo), per problem: [P]; 0 where no step lowers it."""
    along = problems.logits(direction)
    slope = _dot(gradients, direction)
    length = np.ones(len(losses))
    rounding = 1e-14 * np.maximum(1, np.abs(losses))
    for _ in range(_HALVINGS):
        tried = problems.losses(logits + length[:, None, None] * along, heads + length[:, None, None] * direction)
        short = tried > losses + 1e-4 * length * slope + rounding
        if not short.any():
            return length
        length = np.where(short, length / 2, length)
    return np.where(short, 0, length)
