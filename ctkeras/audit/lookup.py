"""What a lookup scores that knows no anatomy: each image gets the class of the training image that it resembles most.

Where splits share patients, the most similar slice is the same patient's, and a lookup of 32 x 32 thumbnails names the
class. A model's accuracy says something about lungs only by how far it exceeds this.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ctkeras.audit.audit import Audit, Image

RESAMPLES, LEVEL = 1000, 0.05  # of the bootstrap over groups; the interval holds 1 - LEVEL
_ROWS = 512  # images compared with all references at once
_NONE = -3  # in place of a correlation
# A lookup is spoken of where its lower bound is above chance by the first, and above its accuracy without images of the same
# group by the second. In 100 random patient-disjoint splits of generated sets it was above chance by at most 0.23; in the
# public set it is by 0.40 and 0.51 (valid, test), and above its accuracy without them by 0.10 and 0.16.
_OVER_CHANCE, _OVER_APART = 0.3, 0.05
_LATER = {"train": ("valid", "test"), "valid": ("test",), "test": ()}  # splits whose images training leaves out


class Nearest(NamedTuple):
    """The reference that an image resembles most."""

    file: str
    class_name: str
    correlation: float  # of 32 x 32 thumbnails, cropped to the body


class Lookup(NamedTuple):
    """How often the most similar reference has an image's class."""

    n: int  # images
    acc: float
    low: float  # 95% interval, by resampling groups
    high: float
    chance: float  # share of the references' most frequent class in the split
    apart: float  # accuracy with references of an image's own group left out; NaN where nothing is left

    @property
    def speaks(self) -> bool:
        """Whether the split rewards recognising patients: well above chance, and only because of slices of the same group."""
        without = self.chance if np.isnan(self.apart) else self.apart
        return self.low >= self.chance + _OVER_CHANCE and self.low >= without + _OVER_APART


def nearest(
    audited: Audit, split: str, into: Sequence[str] = ("train",), *, leaks: str = "drop", apart: bool = False
) -> dict[str, Nearest]:
    """Returns the most similar reference of each image of a split, by correlation of their thumbnails.

    Args:
        audited: the data set's audit.
        split: whose images are looked up.
        into: splits that the references are from.
        leaks: drop, exact or keep, see references.
        apart: only references of another group than the image's own, as in folds.

    Returns:
        For each file of `split` that has a reference.
    """
    own, known = _of(audited, (split,)), references(audited, into, leaks=leaks)
    best, correlation = _most_similar(audited, own, known)[int(apart)]
    rows = zip(own, best.tolist(), correlation.tolist(), strict=True)
    images = audited.images
    return {
        images[at].file: Nearest(images[to].file, images[to].class_name, value)
        for at, to, value in rows
        if value > _NONE
    }


def lookup(audited: Audit, split: str, into: Sequence[str] = ("train",), *, leaks: str = "drop") -> Lookup:
    """Returns how often the most similar reference has an image's class.

    Args:
        audited: the data set's audit.
        split: whose images are looked up.
        into: splits that the references are from.
        leaks: drop, exact or keep, see references.
    """
    own, known = _of(audited, (split,)), references(audited, into, leaks=leaks)
    if not len(own) or not len(known):
        return Lookup(len(own), math.nan, math.nan, math.nan, math.nan, math.nan)
    names = np.array([image.class_name for image in audited.images])
    (best, _), (other, similarity) = _most_similar(audited, own, known)
    right = names[best] == names[own]
    common, counts = np.unique(names[known], return_counts=True)
    low, high = _interval(right, _numbers(audited.images, own, "group"))
    there = similarity > _NONE
    apart = float((names[other] == names[own])[there].mean()) if there.any() else float("nan")
    chance = float((names[own] == common[counts.argmax()]).mean())
    return Lookup(len(own), float(right.mean()), low, high, chance, apart)


def _of(audited: Audit, splits: Sequence[str]) -> np.ndarray:
    """The numbers of the images of some splits: int [n]."""
    return np.flatnonzero([image.split in splits for image in audited.images])


def references(audited: Audit, into: Sequence[str], *, leaks: str = "drop") -> np.ndarray:
    """Returns the numbers of the images of some splits that others are compared with: int [n].

    Args:
        audited: the data set's audit.
        into: the splits.
        leaks: drop: only images that training uses, none that appears in a later split, exactly or nearly; exact: only exact
            copies of later images are left out; keep: all.
    """
    numbers = _of(audited, into)
    if leaks == "keep":
        return numbers
    left_out: set[str] = set()
    for split in into:
        later = tuple(name for name in _LATER[split] if name not in into)
        left_out |= audited.leaked(split, later, near=leaks == "drop")
    return numbers[[audited.images[at].file not in left_out for at in numbers]]


def _most_similar(
    audited: Audit, own: np.ndarray, known: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(number int [n], correlation float [n]) of the most similar reference, and of the most similar of another group.

    A correlation of _NONE says that there is none.
    """
    if not len(known):
        none = np.zeros(len(own), np.int64), np.full(len(own), float(_NONE))
        return none, none
    rows = [*_blocks(audited, own, known)]
    first, one, second, two = (np.concatenate(column) for column in zip(*rows, strict=True))
    return (first, one), (second, two)


def _blocks(audited: Audit, own: np.ndarray, known: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields what _most_similar returns, for some images at a time."""
    units, groups = _unit(audited.thumbnails[known]), _numbers(audited.images, known, "group")
    for start in range(0, len(own), _ROWS):
        part = own[start : start + _ROWS]
        correlation = _unit(audited.thumbnails[part]) @ units.T
        best, rows = correlation.argmax(1), np.arange(len(part))
        values = correlation[rows, best]
        correlation[_numbers(audited.images, part, "group")[:, None] == groups] = _NONE
        other = correlation.argmax(1)
        yield known[best], values, known[other], correlation[rows, other]


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1, float32 [n, D], whose products are correlations; a flat thumbnail is all 0."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _numbers(images: Sequence[Image], which: np.ndarray, name: str) -> np.ndarray:
    """A field of some images: int [n]."""
    return np.array([getattr(images[at], name) for at in which], np.int64)


def _interval(right: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The 95% interval of an accuracy, by resampling groups (Efron 1979)."""
    numbers = np.unique(groups, return_inverse=True)[1]
    sizes, hits = np.bincount(numbers), np.bincount(numbers, right)
    drawn = np.random.default_rng(0).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    low, high = np.quantile(hits[drawn].sum(1) / sizes[drawn].sum(1), (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)
