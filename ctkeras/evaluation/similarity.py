"""Results by how similar each image is to the images that a model was trained on, beside a lookup of the most similar one."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctkeras.audit import lookup
from ctkeras.audit.audit import Audit
from ctkeras.evaluation import bootstrap

# Correlations of 32 x 32 thumbnails. In the public set, test images above the first were all classified correctly by a linear
# head on MobileNetV2; below NOVEL, which is where the lookup falls to what it scores on other patients, 73% to 80%.
EDGES = (0.97, 0.92, 0.85)
NOVEL = 0.88
NOTHING = -1.0  # in place of the correlation of an image without a reference


class Trained(NamedTuple):
    """What a model has seen of a data set, seen from one split."""

    into: tuple[str, ...]  # splits whose images it was trained on
    leaks: str  # drop: without those that also appear in a later split; keep: all
    apart: bool  # each image was classified by a model trained without its group, as in folds


def results(
    audited: Audit, split: str, *, files: Sequence[str], right: np.ndarray, seen: np.ndarray | None, trained: Trained
) -> dict[str, Any]:
    """Accuracy by similarity to the nearest training image, and the lookup's beside it.

    Args:
        audited: the data set's audit.
        split: valid or test.
        files: N names of its images.
        right: bool [N], whether the model's answer is right.
        seen: bool [N], whether an image is also in an earlier split.
        trained: on what the model was trained.

    Returns:
        by_similarity, a list from the most similar images to the least: from, to, n, acc, low, high, lookup_acc;
        novel_n and novel_acc, of images whose nearest training image correlates below NOVEL; lookup_acc, lookup_chance,
        lookup_speaks (the split rewards recognising patients), lookup_apart, clean_lookup_acc and novel_lookup_acc. All bounds
        are by resampling groups. Empty without references.
    """
    near = lookup.nearest(audited, split, trained.into, leaks=trained.leaks, apart=trained.apart)
    if not near:
        return {}
    classes = {image.file: image.class_name for image in audited.images}
    correlation = np.array([near[file].correlation if file in near else NOTHING for file in files])
    hit = np.array([file in near and near[file].class_name == classes[file] for file in files])
    units = audited.group_of(files)
    values = _lookup(audited, split, trained, files=files, hit=hit, units=units)
    if seen is not None and (~seen).any():
        values["clean_lookup_acc"] = float(hit[~seen].mean())
    novel = _part(correlation < NOVEL, right, hit, units)
    names = {"n": "novel_n", "acc": "novel_acc", "low": "novel_acc_low", "high": "novel_acc_high"}
    names |= {"lookup_acc": "novel_lookup_acc", "groups": "novel_group_n"}
    values |= {names[name]: value for name, value in novel.items() if value is not None}
    edges = (None, *EDGES, None)
    rows = []
    for high, low in itertools.pairwise(edges):
        within = (correlation >= (-2 if low is None else low)) & (correlation < (2 if high is None else high))
        part = _part(within, right, hit, units)
        del part["groups"]
        rows.append({"from": low, "to": high, **part})
    return values | {"by_similarity": rows}


def _lookup(
    audited: Audit, split: str, trained: Trained, *, files: Sequence[str], hit: np.ndarray, units: np.ndarray
) -> dict[str, Any]:
    """The lookup's accuracy with bounds, chance, and whether it is so good that the split rewards recognising patients.

    Of a split as published, it is the number of `data check`: references are all training images but exact copies, because
    the question is what the split measures, rather than what training may use.
    """
    leaks = "exact" if trained.leaks == "drop" else trained.leaks
    found = lookup.lookup(audited, split, trained.into, leaks=leaks)
    if not trained.apart:
        near = lookup.nearest(audited, split, trained.into, leaks=leaks)
        classes = {image.file: image.class_name for image in audited.images}
        hit = np.array([file in near and near[file].class_name == classes[file] for file in files])
    low, high = bootstrap.share(hit, units)
    bounds = {"lookup_acc": float(hit.mean()), "lookup_acc_low": low, "lookup_acc_high": high}
    speaks = bool(found.speaks and not trained.apart)
    return bounds | {"lookup_chance": found.chance, "lookup_speaks": speaks, "lookup_apart": trained.apart}


def _part(which: np.ndarray, right: np.ndarray, hit: np.ndarray, units: np.ndarray) -> dict[str, Any]:
    """Number, groups, accuracy with bounds and the lookup's accuracy of some images; None where there are none."""
    if not which.any():
        return {"n": 0, "groups": 0, "acc": None, "low": None, "high": None, "lookup_acc": None}
    low, high = bootstrap.share(right[which], units[which])
    numbers = {"n": int(which.sum()), "groups": len(np.unique(units[which]))}
    return numbers | {
        "acc": float(right[which].mean()),
        "low": low,
        "high": high,
        "lookup_acc": float(hit[which].mean()),
    }
