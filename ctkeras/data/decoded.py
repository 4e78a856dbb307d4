"""A split's images, decoded once: resized for all trials, described for the audit, stored on disk and memory-mapped."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctkeras.data import accounts, crop, facts, layout, ondisk, sources, threads
from ctkeras.data.crop import Preparation
from ctkeras.data.facts import SMALL
from ctkeras.data.images import Header, as_rgb, in_windows
from ctkeras.data.images import thumbnail as images_thumbnail
from ctkeras.data.layout import Entry
from ctkeras.data.sources import Source
from ctkeras.errors import UserError
from ctkeras.runtime import console, files, stored
from ctkeras.runtime.files import bound, cache_dir

CACHE_BYTES = 20 * 2**30  # bytes; 1,000 slices at 224 take 50 MB
LOOKS_BYTES = 2**30  # bytes; 1,000 images take 17 MB
LOOKS_VERSION = "4"  # raise it when a look changes
LOOKED_THROUGH_AT_ONCE = 500  # images, in about a second; only more of them are announced
PIXELS_VERSION = "2"  # raise it when a file's pixels are read differently; the steps after that have crop.VERSION
_LOOK_ARRAYS = ("-small", "-facts", "")  # what follows the split's name in the files of a look's arrays


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Split:
    """One split in the order of its file names."""

    images: Any  # uint8 [N, S, S], or [N, S, S, 3] if the window is three: an array, or ondisk.Rows of arrays on disk
    labels: np.ndarray  # int32 [N]
    files: tuple[str, ...]
    class_names: tuple[str, ...]
    # uint8 [N, 32, 32]: cropped to the body whatever the images are, to tell which slices are alike; None for arrays.
    thumbnails: np.ndarray | None = None
    patients: tuple[str, ...] = ()  # of each image, as in layout.Entry; () for arrays
    groups: np.ndarray | None = (
        None  # int [N], images that must stay together, as the audit says; None if not asked for
    )

    def select(self, which: np.ndarray) -> "Split":
        """The images that a mask bool [N], or indices, name."""
        thumbnails = None if self.thumbnails is None else self.thumbnails[which]
        files = tuple(np.array(self.files, object)[which])
        patients = tuple(np.array(self.patients, object)[which]) if self.patients else ()
        groups = None if self.groups is None else self.groups[which]
        images = ondisk.select(self.images, which)
        return Split(images, self.labels[which], files, self.class_names, thumbnails, patients, groups)


class Look(NamedTuple):
    """What the audit needs to know about an image."""

    file: str
    class_name: str
    patient: str  # as in layout.Entry
    pixels: str  # SHA-256 of size and gray pixels, in hexadecimal
    header: Header
    small: np.ndarray  # uint8 [32, 32], cropped to the body
    facts: np.ndarray  # float32 [F], see facts.describe
    thumbnail: np.ndarray  # uint8 [128, 128], see near.py


def load_split(source: Source, split: str, image_size: int, preparation: Preparation) -> Split:
    """Returns a split's images and decodes them only the first time. No other split is opened.

    Args:
        source: what open_source returned.
        split: train, valid or test.
        image_size: pixels of a side.
        preparation: crop, fit and gray.

    Raises:
        UserError: an image cannot be read, or the disk is full.
    """
    folder = split_folder(source, image_size, preparation)

    def make() -> None:
        try:
            _decode(source, split, image_size=image_size, preparation=preparation, folder=folder)
        except _Unreadable as first:  # the others are named too, rather than one per attempt
            if source.images >= LOOKED_THROUGH_AT_ONCE:
                console.note(f"An image cannot be read; looking through all {source.images:,} …")
            reasons = unreadable(source) or {split: str(first)}
            raise accounts.refusal(reasons, images=source.images, path=source.path) from first
        bound(folder.parent, CACHE_BYTES, keep=folder)

    waiting = f"Waiting for another process that decodes {split}"
    found = stored.reuse(lambda: _read(folder, split), make, lock=folder.with_suffix(".lock"), waiting=waiting)
    files.touch(folder)
    return found


class _Unreadable(Exception):
    """An image that cannot be read."""


def unreadable(source: Source) -> dict[str, str]:
    """Returns file to reason for every image of all splits that cannot be read."""
    found = (look for split in layout.SPLITS for look in looks(source, split))
    return {look[0]: str(look[1]) for look in found if not isinstance(look, Look)}


def _read(folder: Path, split: str) -> Split:
    """A split from the cache."""
    table = stored.read_json(folder / f"{split}.json")
    pixels, thumbnails = (stored.read_array(folder / f"{split}{kind}.npy") for kind in ("", "-thumbnails"))
    names, patients = tuple(table["class_names"]), tuple(table["patients"])
    return Split(pixels, np.array(table["labels"], np.int32), tuple(table["files"]), names, thumbnails, patients)


def _decode(source: Source, split: str, *, image_size: int, preparation: Preparation, folder: Path) -> None:
    """Writes a split's arrays, and its looks if they are not cached, so that the audit does not decode it again."""
    wanted = _read_looks(source, split) is None
    span = preparation.span or source.span

    def describe(item: tuple[Entry, bytes | UserError]) -> tuple[Entry, np.ndarray, np.ndarray, Look | None]:
        entry, content = item
        forms = [(entry.window or "auto", source.span), (entry.window or preparation.window, span)]
        forms = forms[:1] if forms[0] == forms[1] else forms
        try:
            if isinstance(content, UserError):
                raise content
            grays, header = in_windows(content, forms, name=entry.file, frame=entry.frame)
        except UserError as error:
            raise _Unreadable(str(error)) from error
        first, last = grays[0], grays[-1]
        body = crop.cropped(first, Preparation())
        look = _look(entry, first, header, body) if wanted else None
        small = look.small if look else crop.prepare(body, SMALL, crop.WHOLE)
        last = as_rgb(last) if preparation.window == "three" else last
        if last is first and preparation.crop == "body":
            return entry, crop.prepare(body, image_size, preparation._replace(crop="none")), small, look
        return entry, crop.prepare(last, image_size, preparation), small, look

    count = sources.count(source, split)
    entries: list[Entry] = []
    looks: list[Look] = []
    with (
        console.waiting(f"Decoding {split} at {image_size} px, {count:,} images"),
        ondisk.scratch(folder, (split, f"{split}-thumbnails"), count) as (pixels, thumbnails),
    ):
        bar = console.Bar(f"reading {split}", count)
        for entry, prepared, small, look in threads.in_threads(describe, sources.contents(source, split)):
            pixels.put(len(entries), prepared)
            thumbnails.put(len(entries), small)
            looks += [look] if look is not None else []
            entries.append(entry)
            bar.update(len(entries))
        bar.close()
        order = sorted(range(len(entries)), key=lambda i: entries[i].file)
        ordered = order == list(range(len(entries)))  # as it nearly always is; then nothing is read into memory
        table = {
            "files": [entries[i].file for i in order],
            "labels": [source.class_names.index(entries[i].class_name) for i in order],
            "patients": [entries[i].patient for i in order],
            "class_names": source.class_names,
        }
        for name, rows in ((f"{split}-thumbnails", thumbnails), (split, pixels)):
            stored.write_array(folder / f"{name}.npy", rows.array() if ordered else rows.array()[order])
        stored.write_json(folder / f"{split}.json", table)  # last: if it exists, all do
    if wanted:
        _write_looks(source, split, looks)


def looks(source: Source, split: str) -> Iterator[Look | tuple[str, UserError]]:
    """Yields a split's looks in the order of the source; an unreadable image yields its file and the reason instead.

    Looks of a split that was decoded for training come from the cache; any other split is decoded now.

    Args:
        source: what open_source returned.
        split: train, valid or test.
    """
    if (cached := _read_looks(source, split)) is not None:
        yield from cached
    else:
        yield from threads.in_threads(
            lambda item: _describe(item[0], item[1], source.span), sources.contents(source, split)
        )


def _read_looks(source: Source, split: str) -> list[Look] | None:
    """A split's looks from the cache; None if they are not there, and after a damaged file has moved to quarantine."""
    folder = looks_folder(source)
    try:
        rows = stored.read_json(folder / f"{split}.json")
        arrays = [stored.read_array(folder / f"{split}{kind}.npy") for kind in _LOOK_ARRAYS]
    except FileNotFoundError:
        return None
    except stored.Damaged as damaged:
        stored.quarantine(damaged)
        return None
    return [
        Look(file, class_name, patient, pixels, Header(*header), *own)
        for (file, class_name, patient, pixels, header), *own in zip(rows, *arrays, strict=True)
    ]


def _write_looks(source: Source, split: str, looks: list[Look]) -> None:
    """Writes a split's looks, so that the audit does not decode the split again."""
    folder = looks_folder(source)
    columns = zip(*(look[-3:] for look in looks), strict=True)
    for kind, column in zip(_LOOK_ARRAYS, columns, strict=True):
        stored.write_array(folder / f"{split}{kind}.npy", np.stack(column))
    stored.write_json(folder / f"{split}.json", [look[:-3] for look in looks])  # last: if it exists, all do
    bound(folder.parent, LOOKS_BYTES, keep=folder)


def _describe(entry: Entry, content: bytes | UserError, span: str) -> Look | tuple[str, UserError]:
    """Returns the look of an encoded image, or its file and why it cannot be read."""
    try:
        if isinstance(content, UserError):
            raise content
        window = [(entry.window or "auto", span)]
        (gray,), header = in_windows(content, window, name=entry.file, frame=entry.frame)
        return _look(entry, gray, header, crop.cropped(gray, Preparation()))
    except UserError as error:
        return entry.file, error


def _look(entry: Entry, gray: np.ndarray, header: Header, body: np.ndarray) -> Look:
    """Returns the look of a decoded image, and of the part of it that shows the body."""
    pixels = hashlib.sha256(b"%d %d " % gray.shape + gray.tobytes()).hexdigest()
    thumbnail, small = images_thumbnail(gray), crop.prepare(body, SMALL, crop.WHOLE)
    described = facts.describe(gray, thumbnail, body)
    return Look(entry.file, entry.class_name, entry.patient, pixels, header, small, described, thumbnail)


def split_folder(source: Source, image_size: int, preparation: Preparation) -> Path:
    """Returns the cache folder of a data set's decoded splits in one form."""
    span = "" if preparation.span == source.span else preparation.span
    form = [
        part.replace("/", "_") for part in (*preparation[:-1], *filter(None, [span]))
    ]  # a window may be WIDTH/LEVEL
    version = f"{PIXELS_VERSION}f{stored.FORMAT}"
    return cache_dir("decoded") / "-".join([source.key, str(image_size), *form, crop.VERSION, version])


def looks_folder(source: Source) -> Path:
    """Returns the cache folder of a data set's looks."""
    return cache_dir("looks") / f"{source.key}-{LOOKS_VERSION}-f{stored.FORMAT}"
