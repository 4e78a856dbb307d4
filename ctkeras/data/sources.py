"""Where images come from: a zip, a folder or Kaggle in split/class/image layout, listed and checked before any is decoded."""

import dataclasses
import io
import os
import zipfile
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from ctkeras.data import manifest, splitting, volumes
from ctkeras.data.layout import (
    CT_CLASSES,
    SPLITS,
    Entry,
    by_class,
    checked_classes,
    classified,
    fingerprint,
    list_folder,
    list_zip,
    refuse_empty,
)
from ctkeras.errors import UserError
from ctkeras.runtime import archives, console

KAGGLE_SET = "mohamedhanyyy/chest-ctscan-images"


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set; `fingerprint` changes when any image, file name or class changes."""

    kind: str  # chest_ct, folder or phantom
    path: str
    class_names: tuple[str, ...]
    fingerprint: str
    entries: tuple[Entry, ...] = ()
    images: int = 0

    @property
    def key(self) -> str:
        """The name of the data set's entries in the cache: the whole fingerprint, so that no two sets share them."""
        return self.fingerprint


def open_source(spec: str) -> Source:
    """Finds and checks the data set that `--data` names.

    Args:
        spec: a zip file, a folder, a table (.csv, .tsv), `phantom`, `phantom:<images>` or `kaggle`.

    Raises:
        UserError: there is no such file or folder, its layout is not the one required, or one of its files is faulty.
    """
    if not spec:
        raise UserError("no data given: use --data FILE.zip, --data FOLDER, --data phantom, or set CTKERAS_DATA")
    if spec == "phantom" or spec.startswith("phantom:"):
        return _phantom(spec)
    if manifest.is_table(spec):
        return _table(spec)
    path = _download_from_kaggle() if spec == "kaggle" else Path(os.path.expanduser(spec))
    if os.path.isdir(path):
        listed = list_folder(path)
        folders = [folder.relative_to(path).as_posix() + "/" for folder in path.rglob("*") if folder.is_dir()]
    elif os.path.isfile(path):
        listed = list_zip(path)
        with zipfile.ZipFile(path) as archive:
            folders = [member.filename for member in archive.infolist() if member.filename.endswith("/")]
    else:
        raise UserError(
            f"{spec} is not a file or folder; --data takes a zip, a folder, a table, phantom, phantom:<images> or kaggle"
        )
    entries = _expanded(classified(listed, path), path)
    refuse_empty(folders, listed, path)
    class_names = checked_classes(entries, path)
    kind = "chest_ct" if class_names == tuple(CT_CLASSES) else "folder"
    return Source(kind, str(path), class_names, fingerprint(entries), entries, len(entries))


def listed(spec: str) -> tuple[Path, list[Entry]]:
    """Lists a data set whether or not it has splits, to divide it.

    Args:
        spec: a zip file, a folder or a table; folders may be SPLIT/CLASS/IMAGE or CLASS/IMAGE.

    Returns:
        The set's path, and its images; split is '' where the data has none.

    Raises:
        UserError: there is no such file or folder, it is faulty, or it has fewer than two classes.
    """
    file, columns = manifest.split_spec(spec)
    path = Path(os.path.expanduser(file))
    if manifest.is_table(spec):
        entries = list(_expanded(tuple(manifest.entries(path, manifest.read_rows(path, columns))), path))
    elif path.exists():
        entries = list(_expanded(by_class(list_folder(path) if path.is_dir() else list_zip(path), path), path))
    else:
        raise UserError(f"{spec} is not a file or folder; a zip, a folder or a table can be divided")
    if len({entry.class_name for entry in entries}) < 2:
        raise UserError(f"{path} has one class, {entries[0].class_name!r}; a classifier needs two or more")
    return path, entries


def location(root: Path, entry: Entry) -> Path:
    """Returns where an image is: below its table's folder, its folder, or its zip."""
    return Path(os.path.abspath(root.parent if manifest.is_table(str(root)) else root)) / entry.path


def thumbnails(root: Path, entries: list[Entry]) -> np.ndarray:
    """Decodes images to the small form by which they are compared: uint8 [N, 32, 32].

    Raises:
        UserError: an image cannot be read.
    """
    from ctkeras.data import crop, images, threads

    found = manifest.Located(Path("/"))
    bar = console.Bar("comparing images", len(entries))

    def small(item: tuple[Entry, bytes]) -> np.ndarray:
        return crop.prepare(images.decode_gray(item[1], name=item[0].file, frame=item[0].frame), 32, crop.Preparation())

    rows = []
    for row in threads.in_threads(small, ((e, found.read(location(root, e).as_posix())) for e in entries)):
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
    path = Path(source.path)
    before: tuple[Entry, bytes] | None = None
    if source.kind == "phantom":
        yield from _drawn(source, split, only)
    elif manifest.is_table(source.path):
        yield from _of_table(path, entries)
    elif path.is_dir():
        for entry in entries:
            try:
                yield entry, (content := _reuse(entry, before) or (path / entry.path).read_bytes())
                before = entry, content
            except OSError as error:
                yield entry, UserError(f"cannot read {path / entry.file}: {error.strerror or error}")
    else:
        with zipfile.ZipFile(path) as archive:
            for entry in entries:
                try:
                    yield entry, (content := _reuse(entry, before) or archives.read(archive, entry.path))
                    before = entry, content
                except Exception as error:  # zipfile raises many types, see list_zip
                    yield entry, UserError(f"{entry.file} in {path} is damaged ({error}); download the zip again")


def _reuse(entry: Entry, before: tuple[Entry, bytes] | None) -> bytes | None:
    """The bytes of the entry before, if both are slices of one volume: it is read and decoded once."""
    return before[1] if before and entry.place and before[0].place == entry.place else None


def _expanded(entries: tuple[Entry, ...], path: Path) -> tuple[Entry, ...]:
    """Replaces DICOM and NIfTI files by their slices."""
    if not any(volumes.may_be_scan(entry.file) for entry in entries):
        return entries
    found = manifest.Located(Path("/"))
    try:
        return volumes.expand(entries, lambda entry: found.read(location(path, entry).as_posix()), path=str(path))
    finally:
        found.close()


def _of_table(path: Path, entries: list[Entry]) -> Iterator[tuple[Entry, bytes | UserError]]:
    """Yields the encoded images that rows of a table name."""
    found = manifest.Located(path.parent)
    before: tuple[Entry, bytes] | None = None
    try:
        for entry in entries:
            try:
                yield entry, (content := _reuse(entry, before) or found.read(entry.path))
                before = entry, content
            except UserError as error:
                yield entry, error
    finally:
        found.close()


def _table(spec: str) -> Source:
    """Opens a table; without splits, its patients are divided."""
    file, columns = manifest.split_spec(spec)
    path = Path(os.path.expanduser(file))
    entries = list(_expanded(tuple(manifest.entries(path, manifest.read_rows(path, columns))), path))
    if not entries[0].split:
        entries = _divided(entries, path)
    _warn_of_parted(entries, path)
    class_names = checked_classes(tuple(entries), path)
    return Source("folder", str(path), class_names, fingerprint(tuple(entries)), tuple(entries), len(entries))


def _divided(entries: list[Entry], path: Path) -> list[Entry]:
    """Divides the patients of a table that gives no splits; always in the same way."""
    if not all(entry.patient for entry in entries):
        raise UserError(
            f"{path} has neither splits nor a patient in each row; ctkeras data split --data {path} --out split.csv "
            "divides it by similarity"
        )
    names = sorted({entry.class_name for entry in entries})
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(entry.patient, len(numbers)) for entry in entries])
    labels = np.array([names.index(entry.class_name) for entry in entries])
    parts = splitting.divide(labels, groups)
    console.note(f"{path} gives no splits: its {len(numbers)} patients are divided into train, valid and test.")
    for line in splitting.missing(labels, groups, parts, tuple(names)):
        console.note(line)
    return [dataclasses.replace(entry, split=SPLITS[part]) for entry, part in zip(entries, parts, strict=True)]


def _warn_of_parted(entries: list[Entry], path: Path) -> None:
    """Warns of patients whose images are in more than one split."""
    where: dict[str, set[str]] = {}
    for entry in entries:
        where.setdefault(entry.patient, set()).add(entry.split)
    where.pop("", None)
    if parted := sum(len(splits) > 1 for splits in where.values()):
        console.note(
            f"Warning: {parted} of {len(where)} patients in {path} are in more than one split, so validation and test "
            "reward recognising them; ctkeras data split divides by patient."
        )


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


def _download_from_kaggle() -> Path:
    """Downloads the public set with kagglehub, which caches it.

    Raises:
        UserError: kagglehub or the key is missing, or Kaggle cannot be reached.
    """
    try:
        import kagglehub
    except ImportError as error:
        raise UserError('--data kaggle needs kagglehub: pip install "ctkeras[kaggle]"') from error
    has_key = os.environ.get("KAGGLE_KEY") or os.environ.get("KAGGLE_API_TOKEN")
    places = (Path.home() / ".kaggle/kaggle.json", Path.home() / ".kaggle/access_token")
    if not has_key and not any(place.exists() for place in places):
        raise UserError("--data kaggle needs a Kaggle key: put kaggle.json in ~/.kaggle, or pass a downloaded zip")
    try:
        return Path(kagglehub.dataset_download(KAGGLE_SET))
    except Exception as error:  # kagglehub raises its own errors, and those of requests and urllib3
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot download {KAGGLE_SET} ({reason}); pass a downloaded zip instead") from error
