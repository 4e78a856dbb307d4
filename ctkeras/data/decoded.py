"""A split's images, decoded once: resized for all trials, described for the audit, stored on disk and memory-mapped."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctkeras.data import crop, facts, sources, threads
from ctkeras.data.crop import Preparation
from ctkeras.data.facts import SMALL
from ctkeras.data.images import Header, decode, decode_gray
from ctkeras.data.images import thumbnail as images_thumbnail
from ctkeras.data.layout import Entry
from ctkeras.data.sources import Source
from ctkeras.errors import UserError
from ctkeras.runtime import console, files, stored
from ctkeras.runtime.files import bound, cache_dir

CACHE_BYTES = 20 * 2**30  # bytes; 1,000 slices at 224 take 50 MB
LOOKS_BYTES = 2**30  # bytes; 1,000 images take 17 MB
LOOKS_VERSION = "3"  # raise it when a look changes
_LOOK_ARRAYS = ("-small", "-facts", "")  # what follows the split's name in the files of a look's arrays


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Split:
    """One split in the order of its file names."""

    images: np.ndarray  # uint8 [N, S, S], or [N, S, S, 3] if the window is three
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
        return Split(self.images[which], self.labels[which], files, self.class_names, thumbnails, patients, groups)


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
        _decode(source, split, image_size=image_size, preparation=preparation, folder=folder)
        bound(folder.parent, CACHE_BYTES, keep=folder)

    waiting = f"Waiting for another process that decodes {split}"
    found = stored.reuse(lambda: _read(folder, split), make, lock=folder.with_suffix(".lock"), waiting=waiting)
    files.touch(folder)
    return found


def _read(folder: Path, split: str) -> Split:
    """A split from the cache."""
    table = stored.read_json(folder / f"{split}.json")
    pixels, thumbnails = (stored.read_array(folder / f"{split}{kind}.npy") for kind in ("", "-thumbnails"))
    names, patients = tuple(table["class_names"]), tuple(table["patients"])
    return Split(pixels, np.array(table["labels"], np.int32), tuple(table["files"]), names, thumbnails, patients)


def _decode(source: Source, split: str, *, image_size: int, preparation: Preparation, folder: Path) -> None:
    """Writes a split's arrays, and its looks if they are not cached, so that the audit does not decode it again."""
    wanted = _read_looks(source, split) is None

    def describe(item: tuple[Entry, bytes | UserError]) -> tuple[Entry, np.ndarray, np.ndarray, Look | None]:
        entry, content = item
        if isinstance(content, UserError):
            raise content
        name = f"{entry.file} in {source.path}"
        gray, header = decode(content, name=name, frame=entry.frame)
        look = _look(entry, gray, header) if wanted else None
        small = look.small if look else crop.prepare(gray, SMALL, Preparation())
        if preparation.window != "auto":
            gray = decode_gray(content, name=name, frame=entry.frame, window=preparation.window)
        return entry, crop.prepare(gray, image_size, preparation), small, look

    with console.waiting(f"Decoding {split} at {image_size} px"):
        rows, bar = [], console.Bar(f"reading {split}", sources.count(source, split))
        for row in threads.in_threads(describe, sources.contents(source, split)):
            rows.append(row)
            bar.update(len(rows))
        bar.close()
    looks = [look for *_, look in rows if look is not None]
    rows.sort(key=lambda row: row[0].file)
    table = {
        "files": [entry.file for entry, *_ in rows],
        "labels": [source.class_names.index(entry.class_name) for entry, *_ in rows],
        "patients": [entry.patient for entry, *_ in rows],
        "class_names": source.class_names,
    }
    stored.write_array(folder / f"{split}-thumbnails.npy", np.stack([small for _, _, small, _ in rows]))
    stored.write_array(folder / f"{split}.npy", np.stack([pixels for _, pixels, _, _ in rows]))
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
        yield from threads.in_threads(_describe, sources.contents(source, split))


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


def _describe(item: tuple[Entry, bytes | UserError]) -> Look | tuple[str, UserError]:
    """Returns the look of an encoded image, or its file and why it cannot be read."""
    entry, content = item
    try:
        if isinstance(content, UserError):
            raise content
        return _look(entry, *decode(content, name=entry.file, frame=entry.frame))
    except UserError as error:
        return entry.file, error


def _look(entry: Entry, gray: np.ndarray, header: Header) -> Look:
    """Returns the look of a decoded image."""
    pixels = hashlib.sha256(b"%d %d " % gray.shape + gray.tobytes()).hexdigest()
    small, described = facts.describe(gray)
    return Look(entry.file, entry.class_name, entry.patient, pixels, header, small, described, images_thumbnail(gray))


def split_folder(source: Source, image_size: int, preparation: Preparation) -> Path:
    """Returns the cache folder of a data set's decoded splits in one form."""
    form = [part.replace("/", "_") for part in preparation]  # a window may be WIDTH/LEVEL
    return cache_dir("decoded") / "-".join([source.key, str(image_size), *form, crop.VERSION, f"f{stored.FORMAT}"])


def looks_folder(source: Source) -> Path:
    """Returns the cache folder of a data set's looks."""
    return cache_dir("looks") / f"{source.key}-{LOOKS_VERSION}-f{stored.FORMAT}"
