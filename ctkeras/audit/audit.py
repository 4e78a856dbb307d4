"""What is wrong with a data set: unreadable files, duplicates, leaks, contradicting labels; and what training leaves out.

Two files hold the same image if their pixels are equal as training decodes them: in gray, at their own size. One picture
saved as RGBA, RGB and gray is therefore one image. (In the public set, comparing bytes, RGBA, RGB or gray always gives 847.)
Near-duplicates are defined in near.py; a near group is a set of images connected by near-duplicate pairs. Groups, of
slices that are or may be of one patient, are defined in groups.py.
"""

import contextlib
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.audit import groups
from ctkeras.audit.near import pairs as near_pairs
from ctkeras.data import accounts, decoded, layout
from ctkeras.data.decoded import Look
from ctkeras.data.sources import Source
from ctkeras.runtime import console, stored
from ctkeras.runtime.files import bound, cache_dir, touch

VERSION = "4"  # of the stored audit; raise it when what counts as the same image, or as one group, changes
LEAKS = (("test", "train"), ("valid", "train"), ("test", "valid"))  # (from, to), in the order they are reported
TRAINING = "training.json"  # the file of what training may know
CACHE_BYTES = 2**30  # bytes; the audit of 1,000 images takes 1.4 MB, its page 2 MB


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
    patient: str = ""  # a pseudonym, as in layout.Entry; '' where the data does not say
    group: int = 0  # of its patient, or of similar slices; contains every file of its near group


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
    # Of each image: uint8 [N, 32, 32], cropped to the body; and float32 [N, F], see facts.describe.
    thumbnails: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 32, 32), np.uint8), compare=False)
    facts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32), compare=False)

    @property
    def grouped_by(self) -> str:
        """What the groups are: "patient" where every image has one, otherwise "similarity"."""
        return "patient" if self.images and all(image.patient for image in self.images) else "similarity"

    def group_of(self, files: Sequence[str]) -> np.ndarray:
        """Returns the group of each file, int64 [N]; slices of one patient, copies and near-duplicates have the same.

        Raises:
            KeyError: the audit has no such file.
        """
        numbers = {image.file: image.group for image in self.images}
        return np.array([numbers[file] for file in files], np.int64)

    def regrouped(self, group_pattern: str) -> "Audit":
        """Returns the audit with its groups by the patient that a pattern finds in each file's path.

        Args:
            group_pattern: see groups.named; '' leaves the groups as they are.

        Raises:
            UserError: the pattern is not a regular expression, or does not match every file.
        """
        if not group_pattern or not self.images:
            return self
        patients = groups.named([image.file for image in self.images], group_pattern)
        numbers = groups.joined(groups.of_patients(patients), [image.near for image in self.images])
        rows = zip(self.images, patients, numbers.tolist(), strict=True)
        images = tuple(dataclasses.replace(image, patient=patient, group=group) for image, patient, group in rows)
        return dataclasses.replace(self, images=images)

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


def examine(source: Source) -> Audit:
    """Compares all images of a data set; unreadable ones are listed.

    Args:
        source: what open_source returned.
    """
    with console.waiting(f"Preparing the audit of {source.images:,} images"):
        looks, splits, unreadable = _read(source)
        numbers: dict[str, int] = {}  # of distinct images, by the SHA-256 of their pixels
        exact = [numbers.setdefault(look.pixels, len(numbers)) for look in looks]
        first = np.unique(exact, return_index=True)[1].tolist()  # the look of each distinct image
        pairs = near_pairs(np.stack([looks[at].thumbnail for at in first])) if len(first) > 1 else []
        connected = groups.connected(len(first), pairs)
        clusters = groups.clusters(np.array([looks[at].small for at in first]))
    near = [int(connected[number]) for number in exact]
    group = _groups([look.patient for look in looks], near, clusters[exact])
    images = [
        Image(look.file, split, look.class_name, number, alike, *look.header, patient=look.patient, group=own)
        for look, split, number, alike, own in zip(looks, splits, exact, near, group.tolist(), strict=True)
    ]
    named = tuple((looks[first[i]].file, looks[first[j]].file, round(agreement, 3)) for i, j, agreement in pairs)
    order = sorted(range(len(images)), key=lambda at: images[at].file)
    small, facts = (np.array([getattr(looks[at], name) for at in order]) for name in ("small", "facts"))
    return Audit(tuple(images[at] for at in order), unreadable, named, small, facts)


def _read(source: Source) -> tuple[list[Look], list[str], dict[str, str]]:
    """Returns the looks of the readable images, the split of each, and file to reason for the unreadable ones."""
    looks: list[Look] = []
    splits: list[str] = []
    unreadable: dict[str, str] = {}
    bar = console.Bar("reading", source.images)
    for split in layout.SPLITS:
        for look in decoded.looks(source, split):
            bar.update(len(looks) + len(unreadable) + 1)
            if isinstance(look, Look):
                looks.append(look)
                splits.append(split)
            else:
                unreadable[look[0]] = str(look[1])
    bar.close()
    return looks, splits, unreadable


def _groups(patients: Sequence[str], near: Sequence[int], clusters: np.ndarray) -> np.ndarray:
    """Groups of images, int [N]: patients where all are known, otherwise clusters, joined where they share a patient."""
    unknown = [patient or f" {number}" for number, patient in enumerate(patients)]  # each image its own
    whose = groups.of_patients(unknown)
    return groups.joined(whose, near) if patients and all(patients) else groups.joined(clusters, whose, near)


def check(source: Source, *, group_pattern: str = "") -> Audit:
    """Returns a data set's audit, from the cache where possible; unreadable images are listed in it.

    An audit with unreadable images is not stored, because training needs every image.

    Args:
        source: what open_source returned.
        group_pattern: as for load.

    Raises:
        UserError: the pattern does not match every file.
    """
    place = folder(source)

    def make() -> None:
        audited = examine(source)
        if audited.unreadable:
            raise _Unreadable(audited)
        _store(place, audited)
        bound(place.parent, CACHE_BYTES, keep=place)

    try:
        audited = stored.reuse(lambda: _read_stored(place), make, lock=place.with_name(f"{place.name}.lock"))
    except _Unreadable as unreadable:
        return unreadable.audited.regrouped(group_pattern)
    touch(place)
    return audited.regrouped(group_pattern)


def load(source: Source, *, group_pattern: str = "") -> Audit:
    """Returns a data set's audit, which is made only the first time and then stored in the cache folder.

    Args:
        source: what open_source returned.
        group_pattern: names the patient in each file's path, see groups.named; '' keeps the groups stored.

    Raises:
        UserError: an image cannot be read, or the pattern does not match every file.
    """
    return _complete(check(source), source).regrouped(group_pattern)


def training_list(source: Source) -> dict[str, Any]:
    """Returns what training may know of the audit, see for_training; the audit is made first if needed.

    Raises:
        UserError: an image cannot be read.
    """
    place = folder(source)
    with contextlib.suppress(
        FileNotFoundError, stored.Damaged
    ):  # then the audit is read, or made, and its list with it
        listed: dict[str, Any] = stored.read_json(place / TRAINING)
        touch(place)
        return listed
    return for_training(_complete(check(source), source))


def folder(source: Source) -> Path:
    """Returns the cache folder of a data set's audit."""
    return cache_dir("audit") / f"{source.key}-{VERSION}-f{stored.FORMAT}"


class _Unreadable(Exception):
    """The audit that was made has unreadable images, and is therefore not stored."""

    def __init__(self, audited: Audit) -> None:
        self.audited = audited


def _complete(audited: Audit, source: Source) -> Audit:
    """An audit without unreadable images, or an error that names them."""
    if audited.unreadable:
        raise accounts.refusal(audited.unreadable, images=source.images, path=source.path)
    return audited


def _read_stored(place: Path) -> Audit:
    """An audit from the cache. Training's list is verified too, so that it is made again together with the audit."""
    stored.read_json(place / TRAINING)
    table = stored.read_json(place / "audit.json")
    rows = tuple(Image(*row) for row in table["images"])
    pairs = tuple((first, second, agreement) for first, second, agreement in table["pairs"])
    return Audit(rows, {}, pairs, *(stored.read_array(place / f"{name}.npy") for name in ("thumbnails", "facts")))


def _store(place: Path, audited: Audit) -> None:
    """Writes an audit. Training's list is a separate file that names no test image; training opens no other."""
    for name, array in (("thumbnails", audited.thumbnails), ("facts", audited.facts)):
        stored.write_array(place / f"{name}.npy", array)
    table = {"images": [dataclasses.astuple(image) for image in audited.images], "pairs": audited.pairs}
    stored.write_json(place / "audit.json", table)
    stored.write_json(place / TRAINING, for_training(audited))  # last: if it exists, all do


def for_training(audited: Audit) -> dict[str, Any]:
    """Returns what training may know: which files to leave out, and the `near` and `group` of each file of train and valid.

    No file of test is named.
    """
    known = [image for image in audited.images if image.split != "test"]
    numbers = {kind: {image.file: getattr(image, kind) for image in known} for kind in ("near", "group")}
    return {**left_out(audited), **numbers}


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
