"""What is wrong with a data set: unreadable files, duplicates, leaks, contradicting labels; and what training leaves out.

Two files hold the same image if their pixels are equal as training decodes them: in gray, at their own size. One picture
saved as RGBA, RGB and gray is therefore one image. (In the public set, comparing bytes, RGBA, RGB or gray always gives 847.)
Near-duplicates are defined in near.py; a near group is a set of images connected by near-duplicate pairs.
"""

import dataclasses
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ctkeras.audit.near import pairs as near_pairs
from ctkeras.data import decoded, layout
from ctkeras.data.decoded import Split
from ctkeras.data.sources import Source
from ctkeras.errors import UserError
from ctkeras.runtime import console
from ctkeras.runtime.files import atomic, bound, cache_dir, lock

VERSION = "2"  # of the stored audit; raise it when what counts as the same image changes
LEAKS = (("test", "train"), ("valid", "train"), ("test", "valid"))  # (from, to), in the order they are reported
CACHE_BYTES = 2**30  # bytes; the audit of 1,000 images takes 0.2 MB, its page 2 MB


@dataclasses.dataclass(frozen=True)
class Image:
    """One readable image. Files with equal `exact` hold the same picture; with equal `near`, the same or nearly the same."""

    file: str
    split: str
    class_name: str
    exact: int  # number of the distinct image
    near: int  # number of its near group, which contains every file of its distinct image
    format: str  # of the bytes, as Pillow names it: PNG, JPEG, …
    mode: str  # as Pillow names it: RGBA, L, …
    width: int  # pixels
    height: int  # pixels


@dataclasses.dataclass(frozen=True)
class Leak:
    """Files of one split whose image also appears in another."""

    split: str
    into: str
    files: tuple[str, ...]  # of `split`
    distinct: int  # different images among these
    exact: bool  # false: files with a near-duplicate in `into`, but no equal image


@dataclasses.dataclass(frozen=True)
class Audit:
    """Every image of a data set and what they have in common; `images` are sorted by file name."""

    images: tuple[Image, ...]
    unreadable: dict[str, str]  # file to reason
    pairs: tuple[tuple[str, str, float], ...]  # near-duplicates, one file per distinct image; agreement up to 1

    def twins(self, *, near: bool = False) -> dict[str, int]:
        """Returns file to number of its distinct image, for every split; `near` counts near-duplicates as one."""
        return {image.file: image.near if near else image.exact for image in self.images}

    def leaked(self, split: str, into: tuple[str, ...], *, near: bool = True) -> set[str]:
        """Returns files of `split` whose image appears in a split of `into`, exactly or, unless `near` is false, nearly."""
        twins = self.twins(near=near)
        others = {twins[image.file] for image in self.images if image.split in into}
        return {image.file for image in self.images if image.split == split and twins[image.file] in others}

    def leaks(self) -> list[Leak]:
        """Returns the leaks between splits, in the order of LEAKS, exact before near; only those that have files."""
        exact = self.twins()
        leaks = []
        for split, into in LEAKS:
            same = self.leaked(split, (into,), near=False)
            alike = self.leaked(split, (into,)) - same
            for files, is_exact in ((same, True), (alike, False)):
                if files:
                    distinct = len({exact[file] for file in files})
                    leaks.append(Leak(split, into, tuple(sorted(files)), distinct, is_exact))
        return leaks

    def groups(self, *, near: bool = False) -> list[tuple[Image, ...]]:
        """Returns groups of two or more equal images; `near`: whole near groups that contain near-duplicates."""
        groups = defaultdict(list)
        for image in self.images:
            groups[image.near if near else image.exact].append(image)
        if near:
            return [tuple(group) for group in groups.values() if len({image.exact for image in group}) > 1]
        return [tuple(group) for group in groups.values() if len(group) > 1]

    def conflicts(self) -> list[tuple[str, str]]:
        """Returns pairs of files that hold the same image under two labels."""
        pairs = itertools.chain.from_iterable(itertools.combinations(group, 2) for group in self.groups())
        return [(a.file, b.file) for a, b in pairs if a.class_name != b.class_name]


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What was left out of training, for the run's record."""

    leaks: str  # drop or keep
    train_images: int  # used for training
    train_images_dropped: int  # that also appear in valid or test, exactly or nearly
    conflicts_dropped: int  # not counted above: the same image in train under two labels


def examine(source: Source) -> Audit:
    """Compares all images of a data set; unreadable ones are listed.

    Args:
        source: what open_source returned.
    """
    with console.waiting(f"Preparing the audit of {source.images:,} images"):
        images, unreadable, thumbnails = _read(source)
        pairs = near_pairs(np.array(thumbnails)) if len(thumbnails) > 1 else []
    groups = _joined(len(thumbnails), pairs)
    images = [dataclasses.replace(image, near=groups[image.exact]) for image in images]
    first = {image.exact: image.file for image in reversed(images)}
    named = tuple((first[i], first[j], round(agreement, 3)) for i, j, agreement in pairs)
    return Audit(tuple(sorted(images, key=lambda image: image.file)), unreadable, named)


def _read(source: Source) -> tuple[list[Image], dict[str, str], list[np.ndarray]]:
    """Returns the readable images, file to reason for the unreadable ones, and each distinct image's thumbnail."""
    images: list[Image] = []
    unreadable: dict[str, str] = {}
    thumbnails: list[np.ndarray] = []
    numbers: dict[str, int] = {}  # of pixels, by their SHA-256
    bar = console.Bar("reading", source.images)
    for split in layout.SPLITS:
        for look in decoded.looks(source, split):
            bar.update(len(images) + len(unreadable) + 1)
            if not isinstance(look, decoded.Look):
                file, error = look
                unreadable[file] = str(error)
                continue
            if look.pixels not in numbers:
                numbers[look.pixels] = len(thumbnails)
                thumbnails.append(look.thumbnail)
            number = numbers[look.pixels]
            images.append(Image(look.file, split, look.class_name, number, number, *look.header))
    bar.close()
    return images, unreadable, thumbnails


def _joined(count: int, pairs: Iterable[tuple[int, int, float]]) -> list[int]:
    """Returns, for each of `count` numbers, the smallest number that pairs connect it with."""
    parents = list(range(count))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    for i, j, _ in pairs:
        low, high = sorted((root(i), root(j)))
        parents[high] = low
    return [root(number) for number in range(count)]


def check(source: Source) -> Audit:
    """Returns a data set's audit, from the cache where possible; unreadable images are listed in it.

    An audit with unreadable images is not stored, because training needs every image.
    """
    place = folder(source)
    if not _is_stored(place):
        with lock(place.with_name(f"{place.name}.lock")):
            if not _is_stored(place):
                audited = examine(source)
                if audited.unreadable:
                    return audited
                _store(place, audited)
        bound(place.parent, CACHE_BYTES, keep=place)
    return load(source)


def load(source: Source) -> Audit:
    """Returns a data set's audit, which is made only the first time and then stored in the cache folder.

    Raises:
        UserError: an image cannot be read.
    """
    table = json.loads((_stored(source) / "audit.json").read_text(encoding="utf-8"))
    rows = tuple(Image(*row) for row in table["images"])
    return Audit(rows, {}, tuple((first, second, agreement) for first, second, agreement in table["pairs"]))


def folder(source: Source) -> Path:
    """Returns the cache folder of a data set's audit."""
    return cache_dir("audit") / f"{source.key}-{VERSION}"


def _stored(source: Source) -> Path:
    """Returns the folder of a stored audit, which is made first if needed."""
    place = folder(source)
    if not _is_stored(place) and (unreadable := check(source).unreadable):
        others = f" ({len(unreadable)} such images: data check lists them)" if len(unreadable) > 1 else ""
        raise UserError(next(iter(unreadable.values())) + others)
    os.utime(place)
    return place


def _is_stored(place: Path) -> bool:
    """Whether a folder holds a complete audit: training.json is written last."""
    return (place / "training.json").exists()


def _store(place: Path, audited: Audit) -> None:
    """Writes an audit. Training's list is a separate file that names no test image; training opens no other."""
    table = {"images": [dataclasses.astuple(image) for image in audited.images], "pairs": audited.pairs}
    for name, content in (("audit", table), ("training", left_out(audited))):
        with atomic(place / f"{name}.json") as path:
            path.write_text(json.dumps(content), encoding="utf-8")


def left_out(audited: Audit) -> dict[str, list[str]]:
    """Returns the training files to leave out: those in another split, and of the rest those under two labels.

    `in_test` has the files of train and valid that appear in test, for folds, which pool train and valid. Only labels of the
    training split decide what a conflict is, so that no validation or test label influences training. An image in training
    and in another split counts as a leak, whatever its labels are.
    """
    leaks = audited.leaked("train", ("valid", "test"))
    labels = defaultdict(set)
    for image in audited.images:
        if image.split == "train":
            labels[image.exact].add(image.class_name)
    conflicts = {image.file for image in audited.images if image.split == "train" and len(labels[image.exact]) > 1}
    in_test = audited.leaked("train", ("test",)) | audited.leaked("valid", ("test",))
    return {"leaks": sorted(leaks), "conflicts": sorted(conflicts - leaks), "in_test": sorted(in_test)}


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
    listed = json.loads((_stored(source) / "training.json").read_text(encoding="utf-8"))
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
    in_test = set(json.loads((_stored(source) / "training.json").read_text(encoding="utf-8"))["in_test"])
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
