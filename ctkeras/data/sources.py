"""Where images come from: a zip, a folder, a table or Kaggle, listed and checked before any is decoded."""

import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from ctkeras.data import accounts, division, kaggle, manifest
from ctkeras.data.accounts import LeftOut
from ctkeras.data.finding import find
from ctkeras.data.layout import CT_CLASSES, Entry, checked_classes, fingerprint
from ctkeras.data.located import Located
from ctkeras.errors import UserError
from ctkeras.runtime import console


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set; `fingerprint` changes when any image, file name or class changes."""

    kind: str  # chest_ct, folder or phantom
    path: str
    class_names: tuple[str, ...]
    fingerprint: str
    entries: tuple[Entry, ...] = ()
    images: int = 0
    root: str = ""  # the folder, or zip, to which the entries' places are relative
    span: str = ""  # of images of more than 8 bits, see deep.span_of
    layout: str = ""  # how it was understood: SPLIT/CLASS/IMAGE, a table, …
    left_out: tuple[LeftOut, ...] = ()  # files that are not read
    notes: tuple[str, ...] = ()  # what was assumed, in sentences

    @property
    def key(self) -> str:
        """The name of the data set's entries in the cache: the whole fingerprint, so that no two sets share them."""
        return self.fingerprint


def open_source(spec: str, *, slices: str = "all") -> Source:
    """Finds and checks the data set that `--data` names.

    Args:
        spec: a zip file, several with commas between, a folder, a table (.csv, .tsv, .xlsx, .parquet), `phantom`,
            `phantom:<images>` or `kaggle`.
        slices: which slices of DICOM series and NIfTI volumes, see slices.chosen.

    Raises:
        UserError: there is no such file or folder, its layout is not known, or one of its files is faulty.
    """
    if not spec:
        raise UserError("no data given: use --data FILE.zip, --data FOLDER, --data phantom, or set CTKERAS_DATA")
    if spec == "phantom" or spec.startswith("phantom:"):
        return _phantom(spec)
    place = Path(os.path.expanduser(spec))
    if manifest.is_table(spec) or not os.path.isfile(place) or not zipfile.is_zipfile(place):
        return _opened(spec, slices)
    facts = os.stat(place)
    return _zip(spec, slices, (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))


@functools.lru_cache(maxsize=2)
def _zip(spec: str, slices: str, facts: tuple[int, ...]) -> Source:
    """A single zip, which each trial of a search opens: read again once the file has changed, by what the system says of it."""
    return _opened(spec, slices)


def _opened(spec: str, slices: str) -> Source:
    """Finds and checks a data set that is not generated."""
    found = find(str(kaggle.download()) if spec == "kaggle" else spec, slices)
    entries, notes = division.completed(found.entries, lambda some: thumbnails(found.root, some, span=found.span))
    found.notes += [*notes, *_parted(entries, found.path)]
    class_names = checked_classes(tuple(entries), Path(found.path))
    kind = "chest_ct" if class_names == tuple(CT_CLASSES) and not manifest.is_table(found.path) else "folder"
    return Source(
        *(kind, found.path, class_names, fingerprint(tuple(entries)), tuple(entries), len(entries)),
        root=str(found.root),
        span=found.span,
        layout=found.layout,
        left_out=found.account.left_out(),
        notes=tuple(found.notes),
    )


def listed(spec: str) -> tuple[Path, list[Entry], str]:
    """Lists a data set whether or not it has splits, to divide it.

    Args:
        spec: as for open_source.

    Returns:
        The folder or zip to which places are relative; the images, whose split is '' where the data has none; the span.

    Raises:
        UserError: there is no such file or folder, it is faulty, or it has fewer than two classes.
    """
    found = find(spec, "all")
    if len({entry.class_name for entry in found.entries}) < 2:
        raise UserError(f"{found.path} has one class, {found.entries[0].class_name!r}; a classifier needs two or more")
    return found.root, found.entries, found.span


def sentences(source: Source) -> list[str]:
    """What was understood of a data set, in lines: the account of its files, then what was assumed."""
    if source.kind == "phantom":
        return []
    return [accounts.sentence(source.images, source.left_out), *source.notes]


def announce(source: Source) -> None:
    """Prints what of a data set is not read and what was assumed; nothing if all files are read as they are."""
    if source.left_out or source.notes:
        for line in sentences(source):
            console.note(line)


def location(root: Path, entry: Entry) -> Path:
    """Returns where an image is: below its data set's folder, or inside a zip, as ARCHIVE.zip/inside.png."""
    return Path(os.path.abspath(root)) / entry.path


def thumbnails(root: Path, entries: list[Entry], *, span: str = "") -> np.ndarray:
    """Decodes images to the small form by which they are compared: uint8 [N, 32, 32].

    An image that cannot be read is noise, so that it resembles no other; it is reported when the data is checked.
    """
    from ctkeras.data import crop, images, threads

    found = Located(Path("/"))
    bar = console.Bar("comparing images", len(entries))

    def small(item: tuple[int, Entry, bytes]) -> np.ndarray:
        number, entry, content = item
        try:
            gray = images.decode_gray(
                content, name=entry.file, frame=entry.frame, span=span, window=entry.window or "auto"
            )
        except UserError:
            gray = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        return crop.prepare(gray, 32, crop.Preparation())

    def contents() -> Iterator[tuple[int, Entry, bytes]]:
        for number, entry in enumerate(entries):
            try:
                yield number, entry, found.read(location(root, entry).as_posix())
            except UserError:
                yield number, entry, b""

    rows = []
    for row in threads.in_threads(small, contents()):
        rows.append(row)
        bar.update(len(rows))
    bar.close()
    found.close()
    return np.stack(rows)


def count(source: Source, split: str) -> int:
    """Returns the number of images in a split."""
    if source.kind == "phantom":
        from ctkeras.data import phantom_sets

        return phantom_sets.count(phantom_sets.parse(source.path), split)
    return sum(entry.split == split for entry in source.entries)


def read(source: Source, split: str) -> Iterator[tuple[Entry, bytes]]:
    """Yields the encoded images of one split.

    Raises:
        UserError: a file is missing, or its bytes do not match the zip's checksum.
    """
    for entry, content in contents(source, split):
        if isinstance(content, UserError):
            raise content
        yield entry, content


def contents(
    source: Source, split: str, *, only: Container[str] | None = None
) -> Iterator[tuple[Entry, bytes | UserError]]:
    """Yields the encoded images of one split; an unreadable file yields the reason instead of its bytes.

    Args:
        source: what open_source returned; generated images are drawn.
        split: train, valid or test.
        only: the files to read; None for all.
    """
    entries = [entry for entry in source.entries if entry.split == split and (only is None or entry.file in only)]
    if source.kind == "phantom":
        yield from _drawn(source, split, only)
        return
    root, found = Path(source.root), Located(Path("/"))
    before: tuple[str, bytes] | None = None  # of a volume, so that it is read once
    try:
        for entry in entries:
            try:
                place = location(root, entry).as_posix()
                content = before[1] if before and before[0] == place else found.read(place)
                before = place, content
                yield entry, content
            except UserError as error:
                yield entry, error
    finally:
        found.close()


def _parted(entries: list[Entry], path: str) -> list[str]:
    """Warns of patients whose images are in more than one split."""
    where: dict[str, set[str]] = {}
    for entry in entries:
        where.setdefault(entry.patient, set()).add(entry.split)
    where.pop("", None)
    if parted := sum(len(splits) > 1 for splits in where.values()):
        return [
            f"Warning: {parted} of {len(where)} patients in {path} are in more than one split, so validation and test "
            "reward recognising them; ctkeras data split divides by patient."
        ]
    return []


def _drawn(source: Source, split: str, only: Container[str] | None) -> Iterator[tuple[Entry, bytes]]:
    """Yields the generated images of one split, as PNG."""
    from PIL import Image

    from ctkeras.data import crop, phantom, phantom_sets

    recipe = phantom_sets.parse(source.path)
    for item in phantom_sets.items(recipe, split):
        if only is not None and item.file not in only:
            continue
        content = io.BytesIO()
        picture = phantom.phantom_slice(item.seed, item.label, position=item.position)
        if recipe.leaking and split != "test":
            picture = crop.cropped(picture, crop.Preparation())
        Image.fromarray(picture).save(content, "PNG")
        entry = Entry(split, phantom.CLASSES[item.label], item.file, content.tell(), 0, item.patient)
        yield entry, content.getvalue()


def _phantom(spec: str) -> Source:
    """Returns a generated set; its fingerprint is its recipe and the version of what is drawn."""
    from ctkeras.data import phantom, phantom_sets

    recipe = phantom_sets.parse(spec)
    return Source("phantom", spec, phantom.CLASSES, phantom_sets.fingerprint(recipe), images=recipe.images)
