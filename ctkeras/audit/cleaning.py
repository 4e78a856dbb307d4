"""What training takes from the stored audit: images to leave out, and groups to keep together. No test image is named there."""

import dataclasses

import numpy as np

from ctkeras.audit import audit, groups
from ctkeras.data.decoded import Split
from ctkeras.data.sources import Source
from ctkeras.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What was left out of training, for the run's record."""

    leaks: str  # drop or keep
    train_images: int  # used for training
    train_images_dropped: int  # that also appear in valid or test, exactly or nearly
    conflicts_dropped: int  # not counted above: the same image in train under two labels


def clean(train: Split, source: Source, *, leaks: str) -> tuple[Split, Cleaned]:
    """Removes training images that appear in validation or test or have two labels; reads only training's stored list.

    Args:
        train: the training split.
        source: the data set that the split is from.
        leaks: drop, or keep to use every training image.

    Returns:
        The split (the same object if nothing is removed), and what was removed.

    Raises:
        UserError: a class would have no images left.
    """
    if leaks == "keep":
        return train, Cleaned(leaks, len(train.files), 0, 0)
    listed = audit.training_list(source)
    names = {kind: set(listed[kind]) for kind in ("leaks", "conflicts")}
    leaking, conflicting = (np.array([file in names[kind] for file in train.files], bool) for kind in names)
    remaining = ~(leaking | conflicting)
    _require_classes(train, remaining, "valid or test")
    cleaned = Cleaned(leaks, int(remaining.sum()), int(leaking.sum()), int(conflicting.sum()))
    return (train if remaining.all() else train.select(remaining)), cleaned


def clean_pool(pooled: Split, source: Source, *, leaks: str) -> tuple[Split, Cleaned]:
    """Removes images that appear in the test split from training and validation images pooled for folds.

    Args:
        pooled: from training/folds.pool, which has removed copies and images under two labels.
        source: the data set.
        leaks: drop, or keep to use every image.

    Returns:
        As clean.

    Raises:
        UserError: a class would have no images left.
    """
    if leaks == "keep":
        return pooled, Cleaned(leaks, len(pooled.files), 0, 0)
    in_test = set(audit.training_list(source)["in_test"])
    remaining = np.array([file not in in_test for file in pooled.files], bool)
    _require_classes(pooled, remaining, "test")
    cleaned = Cleaned(leaks, int(remaining.sum()), int((~remaining).sum()), 0)
    return (pooled if remaining.all() else pooled.select(remaining)), cleaned


def _require_classes(split: Split, remaining: np.ndarray, elsewhere: str) -> None:
    """Refuses a split in which a class has no images left."""
    for label, name in enumerate(split.class_names):
        own = split.labels == label
        if own.any() and not remaining[own].any():
            raise UserError(
                f"every training image of {name!r} also appears in {elsewhere}, or has two labels (data check shows "
                "them); add other images, or train with --leaks keep"
            )


def grouped(split: Split, source: Source, *, group_pattern: str = "") -> Split:
    """Returns a split with the audit's groups: slices of one patient, or similar ones, and copies of them.

    A group has the same number in training and validation.

    Args:
        split: of training and validation images.
        source: the data set.
        group_pattern: names the patient in each file's path, see groups.named; '' takes the groups as stored.

    Raises:
        UserError: the pattern does not match every file.
    """
    listed = audit.training_list(source)
    numbers = listed["group"]
    if group_pattern:  # of train and valid together, so that a patient in both has one number
        files = list(numbers)
        patients = groups.of_patients(groups.named(files, group_pattern))
        joined = groups.joined(patients, [listed["near"][file] for file in files])
        numbers = dict(zip(files, joined.tolist(), strict=True))
    return dataclasses.replace(split, groups=np.array([numbers[file] for file in split.files], np.int64))
