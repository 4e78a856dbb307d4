"""What files say beside their pictures: format, mode, size, share of classes, and how far these tell the class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ctkeras.audit import Image
from ctkeras.sources import SPLITS

FORMATS = {
    ".png": {"PNG"},
    ".jpg": {"JPEG", "MPO"},
    ".jpeg": {"JPEG", "MPO"},
    ".bmp": {"BMP", "DIB"},
    ".gif": {"GIF"},
    ".tif": {"TIFF"},
    ".tiff": {"TIFF"},
    ".webp": {"WEBP"},
}
FOLDS = 5


def contradicting(images: Sequence[Image]) -> dict[str, str]:
    """Files whose format isn't what the ending of their name says, with the format."""
    found = {}
    for image in images:
        if image.format not in FORMATS[PurePosixPath(image.file.lower()).suffix]:
            found[image.file] = image.format
    return found


def balance(images: Sequence[Image]) -> dict[str, dict[str, int]]:
    """Images of each class in each split."""
    counts = Counter((image.split, image.class_name) for image in images)
    names = sorted({image.class_name for image in images})
    return {split: {name: counts[split, name] for name in names} for split in SPLITS}


def modes(images: Sequence[Image]) -> dict[str, dict[str, int]]:
    """Images of each class by format and mode, as in "PNG RGBA"."""
    counts = Counter((image.class_name, f"{image.format} {image.mode}") for image in images)
    names = sorted({image.class_name for image in images})
    return {name: {kind: n for (owner, kind), n in sorted(counts.items()) if owner == name} for name in names}


def sizes(images: Sequence[Image]) -> dict[str, dict[str, Any]]:
    """Smallest, median and largest width, height (pixels) and aspect (width / height) of each class."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({image.class_name for image in images}):
        own = np.array([(i.width, i.height, i.width / i.height) for i in images if i.class_name == name])
        rows = zip(("width", "height", "aspect"), np.quantile(own, (0, 0.5, 1), axis=0).T, strict=True)
        found[name] = {kind: [round(float(value), 3) for value in values] for kind, values in rows}
        found[name]["different_sizes"] = len(np.unique(own[:, :2], axis=0))
    return found


def told_by_file(images: Sequence[Image]) -> dict[str, Any]:
    """How often a small decision tree tells the class of a training image from its file alone.

    Cross-validated with near-duplicates kept on one side, else the tree would know copies by their size.

    Returns:
        images, folds, majority (accuracy of always saying the most frequent class), chance (accuracy that 97.5% of
        useless classifiers of that rate stay below), and accuracy: by mode, size, aspect, and all of them. Only
        `images` and a `reason` when there are too few.
    """
    from sklearn import model_selection, tree

    train = [image for image in images if image.split == "train"]
    _, labels = np.unique([image.class_name for image in train], return_inverse=True)
    groups = np.array([image.near for image in train])
    folds = min(FOLDS, *(len(np.unique(groups[labels == label])) for label in np.unique(labels))) if train else 0
    if folds < 2:
        return {"images": len(train), "reason": "a class has fewer than two different training images"}
    splitter = model_selection.StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    accuracy = {}
    for name, columns in _columns(train).items():
        model = tree.DecisionTreeClassifier(max_depth=4, min_samples_leaf=min(5, folds), random_state=0)
        told = model_selection.cross_val_predict(model, columns, labels, groups=groups, cv=splitter)
        accuracy[name] = round(float((told == labels).mean()), 4)
    majority = float(np.bincount(labels).max() / len(labels))
    spread = np.sqrt(majority * (1 - majority) / len(np.unique(groups)))  # copies say nothing new
    return {
        "images": len(train),
        "folds": folds,
        "majority": round(majority, 4),
        "chance": round(float(majority + 1.96 * spread), 4),
        "accuracy": accuracy,
    }


def _columns(images: Sequence[Image]) -> dict[str, np.ndarray]:
    """What a class may be told by: float [N, columns] each."""
    kinds = [f"{image.format} {image.mode}" for image in images]
    mode = np.array([[kind == other for other in sorted(set(kinds))] for kind in kinds], float)
    size = np.array([(image.width, image.height) for image in images], float)
    aspect = size[:, :1] / size[:, 1:]
    return {"mode": mode, "size": size, "aspect": aspect, "all": np.concatenate([mode, size, aspect], axis=1)}
