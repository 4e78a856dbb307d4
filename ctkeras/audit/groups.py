"""Groups of images that must stay together, and folds that never part one: patients, or else clusters of similar slices.

Neighbouring slices of one patient look alike, and a model that has seen one names the other. A fold is an honest question
only where no group lies on both of its sides.
"""

import re
from collections.abc import Sequence

import numpy as np

from ctkeras.data.similarity import clusters, connected, joined, of_patients
from ctkeras.errors import UserError

__all__ = ["clusters", "connected", "folds", "joined", "named", "of_patients"]


def named(files: Sequence[str], pattern: str) -> list[str]:
    r"""Names the patient of each file by a pattern, as a pseudonym: patients are numbered from 1 by first occurrence.

    Args:
        files: paths inside the data set, with /.
        pattern: a regular expression, searched for in each path; its first group names the patient.

    Returns:
        One pseudonym per file.

    Raises:
        UserError: it is not a regular expression, has no group, or does not match every file.

    Example:
        >>> named(["train/a/p7-01.png", "train/a/p7-02.png", "test/b/p9-01.png"], r"(p\d+)-")
        ['1', '1', '2']
    """
    usage = f"a path such as {files[0] if files else 'train/a/p012-3.png'!r}; as in --group_pattern '(p\\d+)-'"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"group_pattern {pattern!r} is not a regular expression ({error}); it names the patient in {usage}"
        ) from error
    if not expression.groups:
        raise UserError(f"group_pattern {pattern!r} needs brackets around the part that names the patient in {usage}")
    matches = [expression.search(file) for file in files]
    names = [match[1] if match else None for match in matches]
    if missing := [file for file, name in zip(files, names, strict=True) if not name]:
        raise UserError(
            f"group_pattern {pattern!r} does not find a patient in {len(missing):,} of {len(files):,} files, such as "
            f"{missing[0]}; its first brackets must match in every path, as in --group_pattern '(p\\d+)-'"
        )
    numbers: dict[str | None, str] = {}
    return [numbers.setdefault(name, str(len(numbers) + 1)) for name in names]


def folds(labels: np.ndarray, groups: np.ndarray, k: int, *, seed: int) -> np.ndarray:
    """Divides images into k folds of about equal class frequencies, each group whole in one fold.

    Groups are dealt out one by one, the largest first, each to the fold in which class counts then differ least between
    folds; the seed decides the order among groups of one size.

    Args:
        labels: int [N], of distinct images.
        groups: int [N].
        k: number of folds, at least 2.
        seed: of the order.

    Returns:
        int64 [N], the fold of each image, from 0.

    Raises:
        UserError: a class has too few groups to be in training whichever fold is held out.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    counts = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(counts, (groups, labels), 1)  # images per group and class
    if len(counts) < k:
        raise UserError(f"{k} folds need at least {k} groups of images; the data has {len(counts)}: use fewer folds")
    single = np.flatnonzero((counts > 0).sum(0) == 1)
    if len(single):
        raise UserError(
            f"all images of class number {single[0]} are in one group, which some fold would take out of training whole: "
            "use --folds 0 and the given validation split"
        )
    order = np.random.default_rng([seed, 4]).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    shares = counts / counts.sum(0).clip(1)
    dealt, fold_of = np.zeros((k, counts.shape[1])), np.empty(len(counts), np.int64)
    for group in order:
        spread = [_spread(dealt, shares[group], fold) for fold in range(k)]
        fold_of[group] = np.argmin(spread)
        dealt[fold_of[group]] += shares[group]
    if len(np.unique(fold_of)) < k:
        raise UserError(f"some of {k} folds would have no images, because a class has too few groups: use fewer folds")
    return fold_of[groups]


def _spread(dealt: np.ndarray, share: np.ndarray, fold: int) -> float:
    """How unequal the folds' class shares [k, C] would be with one more group's share [C] in a fold."""
    after = dealt.copy()
    after[fold] += share
    return float(after.var(0).mean())
