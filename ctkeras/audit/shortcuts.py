"""What files reveal apart from their pixels: format, mode, size, and how well these predict the class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ctkeras.audit.audit import Image
from ctkeras.data.layout import SPLITS

FORMATS = {
    ".png": {"PNG"},
    ".jpg": {"JPEG", "MPO"},
    ".jpeg": {"JPEG", "MPO"},
    ".jfif": {"JPEG", "MPO"},
    ".jpe": {"JPEG", "MPO"},
    ".jp2": {"JPEG2000"},
    ".j2k": {"JPEG2000"},
    ".pgm": {"PPM"},
    ".ppm": {"PPM"},
    ".pnm": {"PPM"},
    ".npy": {"NPY"},
    ".bmp": {"BMP", "DIB"},
    ".gif": {"GIF"},
    ".tif": {"TIFF"},
    ".tiff": {"TIFF"},
    ".webp": {"WEBP"},
}
FOLDS = 5


def contradicting(images: Sequence[Image]) -> dict[str, str]:
    """Returns file to format for files whose format differs from the extension of their name; slices of scans have none."""
    return {
        image.file: image.format
        for image in images
        if image.format not in FORMATS.get(PurePosixPath(image.file.lower()).suffix, {image.format})
    }


def balance(images: Sequence[Image]) -> dict[str, dict[str, int]]:
    """Returns the number of images of each class in each split."""
    counts = Counter((image.split, image.class_name) for image in images)
    names = sorted({image.class_name for image in images})
    return {split: {name: counts[split, name] for name in names} for split in SPLITS}


def modes(images: Sequence[Image]) -> dict[str, dict[str, int]]:
    """Returns the number of images of each class by format and mode, such as "PNG RGBA"."""
    counts = Counter((image.class_name, f"{image.format} {image.mode}") for image in images)
    names = sorted({image.class_name for image in images})
    return {name: {kind: n for (owner, kind), n in sorted(counts.items()) if owner == name} for name in names}


def sizes(images: Sequence[Image]) -> dict[str, dict[str, Any]]:
    """Returns smallest, median and largest width, height (pixels) and aspect (width / height) of each class."""
    table: dict[str, dict[str, Any]] = {}
    for name in sorted({image.class_name for image in images}):
        own = np.array([(i.width, i.height, i.width / i.height) for i in images if i.class_name == name])
        rows = zip(("width", "height", "aspect"), np.quantile(own, (0, 0.5, 1), axis=0).T, strict=True)
        table[name] = {kind: [round(float(value), 3) for value in values] for kind, values in rows}
        table[name]["different_sizes"] = len(np.unique(own[:, :2], axis=0))
    return table


def class_by_file(images: Sequence[Image]) -> dict[str, Any]:
    """Returns how well a small decision tree predicts the class of a training image without seeing its pixels.

    Cross-validated with near-duplicates in the same fold; otherwise the tree would recognise copies by their size.

    Returns:
        images, folds, majority (accuracy of always predicting the most frequent class), chance (accuracy that 97.5% of
        useless classifiers at that rate stay below), and accuracy: by mode, size, aspect, and all of them. Only
        `images` and a `reason` if there are too few.
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
        predicted = model_selection.cross_val_predict(model, columns, labels, groups=groups, cv=splitter)
        accuracy[name] = round(float((predicted == labels).mean()), 4)
    majority = float(np.bincount(labels).max() / len(labels))
    spread = np.sqrt(majority * (1 - majority) / len(np.unique(groups)))  # copies add no information
    return {
        "images": len(train),
        "folds": folds,
        "majority": round(majority, 4),
        "chance": round(float(majority + 1.96 * spread), 4),
        "accuracy": accuracy,
    }


def _columns(images: Sequence[Image]) -> dict[str, np.ndarray]:
    """Returns the features that may reveal a class: float [N, columns] each."""
    kinds = [f"{image.format} {image.mode}" for image in images]
    mode = np.array([[kind == other for other in sorted(set(kinds))] for kind in kinds], float)
    size = np.array([(image.width, image.height) for image in images], float)
    aspect = size[:, :1] / size[:, 1:]
    return {"mode": mode, "size": size, "aspect": aspect, "all": np.concatenate([mode, size, aspect], axis=1)}
