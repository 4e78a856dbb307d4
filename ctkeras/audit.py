"""What is wrong with a data set: unreadable, doubled, leaking or doubly labelled images; and what training leaves out.

Two files hold the same image when their pixels are equal as training decodes them: to gray, at their own size. So one
picture saved as RGBA, RGB and gray is one image. (In the public set bytes, RGBA, RGB and gray give the same 847.)
Near-duplicates are what near.py takes for one picture; a near group is what hangs together by them.
"""

import dataclasses
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ctkeras import decoded, near, runtime, sources
from ctkeras.config import UserError
from ctkeras.decoded import Split
from ctkeras.sources import Source

VERSION = "1"  # of the stored list; a new one for any change in what counts as the same image
LEAKS = (("test", "train"), ("valid", "train"), ("test", "valid"))  # (from, to), as they are told
CACHE_BYTES = 2**30  # bytes; the list of 1,000 images takes 0.2 MB, its page 2 MB


@dataclasses.dataclass(frozen=True)
class Image:
    """One readable image. Files with equal `exact` hold the same picture; with equal `near`, the same or a near one."""

    file: str
    split: str
    class_name: str
    exact: int  # number of the distinct image
    near: int  # number of its near group; groups of near hold whole groups of exact
    format: str  # of the bytes, as Pillow names it: PNG, JPEG, …
    mode: str  # as Pillow names it: RGBA, L, …
    width: int  # pixels
    height: int  # pixels


@dataclasses.dataclass(frozen=True)
class Leak:
    """Files of one split whose image stands in another."""

    split: str
    into: str
    files: tuple[str, ...]  # of `split`
    distinct: int  # different images among these
    exact: bool  # false: files with a near, but no equal twin in `into`


@dataclasses.dataclass(frozen=True)
class Audit:
    """The list made once for a data set; `images` are in the order of their names."""

    images: tuple[Image, ...]
    unreadable: dict[str, str]  # file to reason
    pairs: tuple[tuple[str, str, float], ...]  # near-duplicates, one file a distinct image; agreement up to 1

    def twins(self, *, near: bool = False) -> dict[str, int]:
        """File to the number of the distinct image it holds, of every split; `near` also joins near-duplicates."""
        return {image.file: image.near if near else image.exact for image in self.images}

    def leaked(self, split: str, into: tuple[str, ...], *, near: bool = True) -> set[str]:
        """Files of `split` whose image stands in one of the splits `into`, exact or, unless `near` is false, near."""
        twins = self.twins(near=near)
        there = {twins[image.file] for image in self.images if image.split in into}
        return {image.file for image in self.images if image.split == split and twins[image.file] in there}

    def leaks(self) -> list[Leak]:
        """The leaks between splits, in the order of LEAKS, exact before near; those with no file are left out."""
        exact = self.twins()
        found = []
        for split, into in LEAKS:
            same = self.leaked(split, (into,), near=False)
            alike = self.leaked(split, (into,)) - same
            for files, is_exact in ((same, True), (alike, False)):
                if files:
                    distinct = len({exact[file] for file in files})
                    found.append(Leak(split, into, tuple(sorted(files)), distinct, is_exact))
        return found

    def groups(self, *, near: bool = False) -> list[tuple[Image, ...]]:
        """Images that are the same, two or more together; `near`: groups that hold near-duplicates, whole."""
        groups = defaultdict(list)
        for image in self.images:
            groups[image.near if near else image.exact].append(image)
        least = {number for number, group in groups.items() if len({image.exact for image in group}) > 1}
        return [tuple(g) for number, g in groups.items() if (number in least if near else len(g) > 1)]

    def conflicts(self) -> list[tuple[str, str]]:
        """Pairs of files that hold the same image under two labels."""
        pairs = itertools.chain.from_iterable(itertools.combinations(group, 2) for group in self.groups())
        return [(a.file, b.file) for a, b in pairs if a.class_name != b.class_name]


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What was taken out of training, for the run's record."""

    leaks: str  # drop or keep
    train_images: int  # left to train on
    train_images_dropped: int  # that stand in validation or test, exact or near
    conflicts_dropped: int  # further ones: the same image in training under two labels


def examine(source: Source) -> Audit:
    """Reads every image of a data set and compares them all; one that can't be read is listed.

    Args:
        source: what open_source returned.
    """
    with runtime.waiting(f"Preparing the audit of {source.images:,} images"):
        found, unreadable, thumbnails = _read(source)
        pairs = near.pairs(np.array(thumbnails)) if len(thumbnails) > 1 else []
    together = _joined(len(thumbnails), pairs)
    found = [dataclasses.replace(image, near=together[image.exact]) for image in found]
    first = {image.exact: image.file for image in reversed(found)}
    named = tuple((first[i], first[j], round(agreement, 3)) for i, j, agreement in pairs)
    return Audit(tuple(sorted(found, key=lambda image: image.file)), unreadable, named)


def _read(source: Source) -> tuple[list[Image], dict[str, str], list[np.ndarray]]:
    """Facts of each image, the images that can't be read, and each distinct image's thumbnail, by its number."""
    found: list[Image] = []
    unreadable: dict[str, str] = {}
    thumbnails: list[np.ndarray] = []
    numbers: dict[str, int] = {}  # of pixels, by their SHA-256
    bar = runtime.Bar("reading", source.images)
    for split in sources.SPLITS:
        for look in decoded.looks(source, split):
            bar.update(len(found) + len(unreadable) + 1)
            if not isinstance(look, decoded.Look):
                file, error = look
                unreadable[file] = str(error)
                continue
            if look.pixels not in numbers:
                numbers[look.pixels] = len(thumbnails)
                thumbnails.append(look.thumbnail)
            number = numbers[look.pixels]
            found.append(Image(look.file, split, look.class_name, number, number, *look.header))
    bar.close()
    return found, unreadable, thumbnails


def _joined(count: int, pairs: Iterable[tuple[int, int, float]]) -> list[int]:
    """The smallest number that each of `count` hangs together with by pairs."""
    parents = list(range(count))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    for i, j, _ in pairs:
        low, high = sorted((root(i), root(j)))
        parents[high] = low
    return [root(number) for number in range(count)]


def load(source: Source) -> Audit:
    """Returns a data set's audit, made the first time only and kept under the cache folder.

    Raises:
        UserError: an image that can't be read.
    """
    table = json.loads((_kept(source) / "audit.json").read_text(encoding="utf-8"))
    rows = tuple(Image(*row) for row in table["images"])
    return Audit(rows, {}, tuple((first, second, agreement) for first, second, agreement in table["pairs"]))


def keep(source: Source, audited: Audit) -> None:
    """Stores an audit for load and clean.

    Training's list is a file of its own and names training images alone: training opens no other.

    Raises:
        UserError: the audit found an image that can't be read.
    """
    if audited.unreadable:
        others = (
            f" ({len(audited.unreadable)} such images: data check lists them)" if len(audited.unreadable) > 1 else ""
        )
        raise UserError(next(iter(audited.unreadable.values())) + others)
    table = {"images": [dataclasses.astuple(image) for image in audited.images], "pairs": audited.pairs}
    for name, content in (("audit", table), ("training", left_out(audited))):
        with runtime.atomic(folder(source) / f"{name}.json") as path:
            path.write_text(json.dumps(content), encoding="utf-8")


def folder(source: Source) -> Path:
    """Where a data set's audit is kept."""
    return runtime.cache_dir("audit") / f"{source.fingerprint[:16]}-{VERSION}"


def _kept(source: Source) -> Path:
    """The folder of an audit, once it is made."""
    place = folder(source)
    if not (place / "training.json").exists():  # written last
        with runtime.lock(place.with_name(f"{place.name}.lock")):
            if not (place / "training.json").exists():
                keep(source, examine(source))
        runtime.bound(place.parent, CACHE_BYTES, keep=place)
    os.utime(place)
    return place


def left_out(audited: Audit) -> dict[str, list[str]]:
    """Training files to leave out: those that stand in another split, and of the others those under two labels.

    Labels of training alone say what a conflict is, so that no label of validation or test has a part in training; an
    image in training and in another split goes as a leak, whatever its labels are.
    """
    leaks = audited.leaked("train", ("valid", "test"))
    labels = defaultdict(set)
    for image in audited.images:
        if image.split == "train":
            labels[image.exact].add(image.class_name)
    torn = {image.file for image in audited.images if image.split == "train" and len(labels[image.exact]) > 1}
    return {"leaks": sorted(leaks), "conflicts": sorted(torn - leaks)}


def clean(train: Split, source: Source, *, leaks: str) -> tuple[Split, Cleaned]:
    """Leaves out of training what stands in validation or test, and what has two labels; needs the stored list alone.

    Args:
        train: the training split.
        source: where it is from.
        leaks: drop, or keep to leave training as it is.

    Returns:
        The split, the same object when nothing is left out, and what was left out.

    Raises:
        UserError: a class would be left without images.
    """
    if leaks == "keep":
        return train, Cleaned(leaks, len(train.files), 0, 0)
    listed = json.loads((_kept(source) / "training.json").read_text(encoding="utf-8"))
    names = {kind: set(listed[kind]) for kind in ("leaks", "conflicts")}
    leaking, torn = (np.array([file in names[kind] for file in train.files], bool) for kind in ("leaks", "conflicts"))
    left = ~(leaking | torn)
    for label, name in enumerate(train.class_names):
        own = train.labels == label
        if own.any() and not left[own].any():
            raise UserError(
                f"every training image of {name!r} also stands in valid or test, or has two labels (data check shows "
                "them); add other images, or train with --leaks keep"
            )
    cleaned = Cleaned(leaks, int(left.sum()), int(leaking.sum()), int(torn.sum()))
    if left.all():
        return train, cleaned
    files = tuple(file for file, stays in zip(train.files, left, strict=True) if stays)
    return dataclasses.replace(train, images=train.images[left], labels=train.labels[left], files=files), cleaned
