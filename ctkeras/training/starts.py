"""The solved heads that fine-tuning starts from: each is solved once, and shared by every trial and process."""

import hashlib
from collections.abc import Sequence

import numpy as np

from ctkeras.config import RunConfig
from ctkeras.data.decoded import Split
from ctkeras.runtime import console, files, stored
from ctkeras.training import solve, solver

PART = "starts"  # of the cache
CACHE_BYTES = 2**28  # a head of 1,856 features and four classes takes 90 kB
# Of a head that is only a start. It is not the run's own weight_decay, which decays the backbone too and has another scale:
# so trials that differ in it start from the same head.
DECAY = 1e-4


def head(config: RunConfig, train: Sequence[np.ndarray], split: Split) -> solve.Solution:
    """Returns the head that is solved on training features, from the cache if any run has solved it; its logits are empty.

    Args:
        config: its label_smoothing and class_weighting.
        train: V views, each float32 [N, D].
        split: the training images, for their labels.
    """
    problem = solve.problem(config, train, split)
    path = files.cache_dir(PART) / f"{_key(problem)}.npy"
    solved: list[bool] = []

    def make() -> None:
        with console.waiting("Solving the head that fine-tuning starts from"):
            rows, targets, weights = problem
            factors = solver.factorise(rows)
            found = solver.solve(factors, targets, weight_decay=DECAY, weights=weights)
            by_feature = np.column_stack([factors.mean, factors.scale, found.kernel])
            stored.write_array(path, np.vstack([by_feature, [0.0, 0.0, *found.bias]]))
        files.bound(path.parent, CACHE_BYTES, keep=path)
        solved.append(True)

    waiting = "Waiting for another process that solves the head that fine-tuning starts from"
    table = np.array(
        stored.reuse(lambda: stored.read_array(path), make, lock=path.with_suffix(".lock"), waiting=waiting)
    )
    files.touch(path)
    if not solved:
        console.note("Starting from the head that an earlier run solved on the same features.")
    by_feature, bias = table[:-1], table[-1, 2:]
    none = np.zeros((0, len(bias)))
    return solve.Solution(by_feature[:, 0], by_feature[:, 1], [by_feature[:, 2:]], [bias], [DECAY], none, none)


def _key(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> str:
    """The SHA-256 of all that a head depends on: features, soft targets, weights, and the solver's own strength and format."""
    state = hashlib.sha256(repr((DECAY, stored.FORMAT)).encode())
    for array in map(np.ascontiguousarray, problem):
        state.update(repr((array.shape, str(array.dtype))).encode())
        state.update(array.data)
    return state.hexdigest()
