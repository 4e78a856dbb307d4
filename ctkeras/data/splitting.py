"""Divides images into train, valid and test so that no group is parted and classes keep their shares."""

import numpy as np

from ctkeras.data.layout import SPLITS
from ctkeras.errors import UserError

FRACTIONS = (0.7, 0.15, 0.15)  # of the images, for train, valid and test


def divide(
    labels: np.ndarray, groups: np.ndarray, *, fractions: tuple[float, float, float] = FRACTIONS, seed: int = 0
) -> np.ndarray:
    """Assigns each image to a split; all images of a group go to the same one.

    First every split gets a group of each class, classes with few groups before others; then each of the remaining groups,
    large ones first, goes to the split that lacks most of its classes.

    Args:
        labels: int [N], from 0.
        groups: int [N], the images that must stay together: of a patient, or similar.
        fractions: share of the images in train, valid and test; a split with the share 0 stays empty.
        seed: decides the order among groups of one size.

    Returns:
        int [N], index into `layout.SPLITS`.

    Raises:
        UserError: the fractions are negative or do not add up to 1.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        shown = ", ".join(f"{value:g}" for value in fractions)
        raise UserError(f"the fractions of train, valid and test add up to 1, for example 0.7,0.15,0.15; got {shown}")
    if not len(labels):
        return np.zeros(0, int)
    groups = np.unique(groups, return_inverse=True)[1]
    counts = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(counts, (groups, labels), 1)  # images per group and class
    target = np.array(fractions)[:, None] * counts.sum(0)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(counts[order].sum(1), kind="stable")]  # small groups first
    chosen = np.full(len(counts), -1)
    got = np.zeros_like(target)

    def give(group: int, split: int) -> None:
        chosen[group] = split
        got[split] += counts[group]

    for label in np.argsort((counts > 0).sum(0), kind="stable"):
        for split in (0, 2, 1):  # training needs the class most, validation can do without it first
            free = [group for group in order if chosen[group] < 0 and counts[group, label]]
            if free and fractions[split] and not got[split, label]:
                give(free[0], split)
    lacking = target / np.maximum(target, 1e-9)
    for group in order[::-1]:
        if chosen[group] < 0:
            need = (lacking - got / np.maximum(target, 1e-9)) @ counts[group]
            need[np.array(fractions) == 0] = -np.inf
            give(group, int(need.argmax()))
    return chosen[groups]


def missing(labels: np.ndarray, groups: np.ndarray, splits: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """Says which classes a split lacks, and why: one line per class.

    Args:
        labels: int [N].
        groups: int [N].
        splits: int [N], index into `layout.SPLITS`.
        class_names: in the order of labels.
    """
    lines = []
    for label, name in enumerate(class_names):
        own = labels == label
        if lacking := [split for i, split in enumerate(SPLITS) if not (own & (splits == i)).any()]:
            number = len(np.unique(groups[own]))
            lines.append(
                f"Class {name!r} is missing from {' and '.join(lacking)}: its {own.sum()} images are in {number} "
                f"group{'s' if number != 1 else ''}, and a group is never divided."
            )
    return lines
