"""Folds: training and validation images pooled, distinct images once, and divided so that no group is parted."""

from typing import NamedTuple

import numpy as np
import xxhash

from ctkeras.audit import groups
from ctkeras.data import crop, ondisk
from ctkeras.data.decoded import SMALL, Split


class Folds(NamedTuple):
    """How pooled images are divided."""

    of: np.ndarray  # int [N], the fold of each image, from 0
    given: np.ndarray  # bool [N], whether it is from the given validation split
    refit: bool  # one model on all images, rather than one per fold


def pool(train: Split, valid: Split) -> tuple[Split, np.ndarray]:
    """Both splits as one: of copies only the first by file name remains, and no image that has two labels.

    Args:
        train: training images.
        valid: validation images.

    Returns:
        The pooled images in the order of their file names, and bool [N], which of them are from validation.
    """
    images = ondisk.joined(train.images, valid.images)
    labels = np.concatenate([train.labels, valid.labels])
    files = np.array([*train.files, *valid.files], object)
    thumbnails = np.concatenate([thumbnails_of(train), thumbnails_of(valid)])
    copies: dict[bytes, list[int]] = {}
    for number in np.argsort(files, kind="stable"):
        copies.setdefault(xxhash.xxh3_128_digest(np.ascontiguousarray(images[number]).data), []).append(int(number))
    chosen = np.array([same[0] for same in copies.values() if len(set(labels[same].tolist())) == 1], int)
    patients = (*train.patients, *valid.patients) if train.patients and valid.patients else ()
    grouped = None
    if train.groups is not None and valid.groups is not None:
        grouped = np.concatenate([train.groups, valid.groups])
    everything = Split(images, labels, tuple(files), train.class_names, thumbnails, patients, grouped)
    return everything.select(chosen), chosen >= len(train.files)


def groups_of(split: Split) -> np.ndarray:
    """Which images must stay together: int [N], as the audit says.

    Of a split that was not audited: patients where every image names one, or else clusters of similar slices.
    """
    if split.groups is not None:
        return split.groups
    if split.patients and all(split.patients):
        return groups.of_patients(split.patients)
    return groups.clusters(thumbnails_of(split))


def thumbnails_of(split: Split) -> np.ndarray:
    """Thumbnails uint8 [N, 32, 32] by which slices are grouped; of arrays without, from the images as they are."""
    if split.thumbnails is not None:
        return split.thumbnails
    return np.stack([crop.prepare(np.asarray(image), SMALL, crop.WHOLE) for image in _gray(split.images)])


def _gray(pixels: np.ndarray) -> np.ndarray:
    """One channel of images, the first of three windows: uint8 [N, S, S]."""
    return pixels if pixels.ndim == 3 else pixels[..., 0]


def divide(pooled: Split, k: int, *, seed: int) -> np.ndarray:
    """The fold of each pooled image: int [N] from 0.

    Args:
        pooled: from pool.
        k: number of folds.
        seed: determines which groups are in one fold.

    Raises:
        UserError: there are too few groups for k folds.
    """
    return groups.folds(pooled.labels, groups_of(pooled), k, seed=seed)
