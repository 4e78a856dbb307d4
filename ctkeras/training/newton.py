"""Newton steps for several logistic regressions on the same rows at once, each step by conjugate gradients.

Nocedal & Wright 2006, algorithm 7.1, with the Hessian's approximate diagonal as preconditioner.
"""

from typing import NamedTuple

import numpy as np

from ctkeras.runtime import blas, console

_NEWTON_STEPS, _CG_STEPS, _HALVINGS = 100, 250, 40


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross entropy per row: float64 [..., N, C] to [..., N]."""
    top = logits.max(-1, keepdims=True)
    shifted = logits - top
    return np.log(np.exp(shifted).sum(-1)) * labels.sum(-1) - (shifted * labels).sum(-1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


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
        """About the Hessian's diagonal, [P, R + 1, 1]: exact if a row's share of it did not depend on its place or class.

        It is the same for all classes. A gradient's sum over classes is 0, and so stays that of the directions; along a
        vector that is added to all classes the loss is almost flat, so what led there would take many steps to come back.
        """
        spread = np.einsum("pn,pnc->p", self.weights, probabilities * (1 - probabilities)) / probabilities.shape[-1]
        kernel = spread[:, None] * self.variances + self.strengths[:, None]
        return np.concatenate([kernel, np.maximum(spread, 1e-12)[:, None]], axis=1)[..., None]

    def losses(self, logits: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """The loss of each problem: [P]."""
        fit = np.einsum("pn,pn->p", self.weights, cross_entropy(logits, self.labels))
        return fit + self.strengths / 2 * np.einsum("prc,prc->p", heads[:, :-1], heads[:, :-1])


def minimise(
    rows: np.ndarray,
    variances: np.ndarray,
    labels: np.ndarray,
    *,
    weights: np.ndarray,
    strengths: np.ndarray,
    tolerance: float,
    what: str = "",
) -> tuple[np.ndarray, np.ndarray, int]:
    """Solves P problems together, from zero.

    Args:
        rows: float64 [N, R].
        variances: float64 [R], mean square of each coordinate.
        labels: float [N, C], soft.
        weights: float [P, N], of each row in each problem.
        strengths: float [P], of L2.
        tolerance: of the gradient, relative to its start.
        what: which heads these are, for the progress bar.

    Returns:
        Heads [P, R + 1, C], the biases last; their losses [P]; and the number of Newton steps.
    """
    labels = np.asarray(labels, np.float64)
    every = _Problems(rows, variances, labels, weights / weights.sum(1, keepdims=True), np.asarray(strengths, float))
    heads = np.zeros((len(strengths), rows.shape[1] + 1, labels.shape[1]))
    losses, first = np.zeros(len(strengths)), np.zeros(len(strengths))
    active, steps = np.arange(len(strengths)), 0
    number = f"{len(strengths)} heads" if len(strengths) > 1 else "a head"
    bar = console.Bar(f"solving {number}{what and f', {what}'}", 100, after=2.0)
    with blas.threads_for(rows.size):
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
            bar.update(_percent(relative, tolerance, of=len(strengths)))
            if not open_.any() or steps == _NEWTON_STEPS:
                break
            active, problems = active[open_], problems.some(open_)
            direction = _newton(problems, probabilities[open_], gradients[open_], relative[open_])
            length = _step_length(problems, heads[active], logits[open_], direction, gradients[open_], losses[active])
            heads[active] += length[:, None, None] * direction
            active = active[length > 0]  # no step lowers the loss further: rounding is reached
            if not len(active):
                break
    bar.close()
    return heads, losses, steps


def _percent(relative: np.ndarray, tolerance: float, *, of: int) -> int:
    """How far the gradients of the unsolved among `of` problems have fallen, on a logarithmic scale: 1 to 100."""
    fallen = np.clip(np.log(np.maximum(relative, tolerance)) / np.log(tolerance), 0, 1)
    return max(1, round(100 * (of - len(relative) + fallen.sum()) / of))


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
