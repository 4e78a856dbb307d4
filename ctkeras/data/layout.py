"""How images lie in a zip or a folder: splits, classes, and which files count."""

import dataclasses
import hashlib
import os
import re
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from ctkeras.data.images import EXTENSIONS
from ctkeras.errors import UserError
from ctkeras.runtime import archives

SCANS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
SPLITS = ("train", "valid", "test")
MAX_FILE_BYTES = 256 * 2**20  # bytes per image file, far above any slice, so that a zip bomb is refused unread
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
# The Kaggle set names its class folders by class, place and stage in train and valid, but only by class in test.
CT_CLASSES = {
    "adenocarcinoma": r"adenocarcinoma",
    "large_cell": r"large[._ -]?cell",
    "normal": r"normal$",
    "squamous_cell": r"squamous[._ -]?cell",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image: its split, class name, path inside the source (with /), size in bytes, CRC-32 and patient."""

    split: str
    class_name: str
    file: str
    size: int
    crc: int
    patient: str = ""  # equal for the slices of one patient, and a pseudonym; '' where the data does not say
    place: str = ""  # path inside the source of a scan, whose `file` is a pseudonym; '' if it is `file`; never written
    frame: int = 0  # which slice of a volume

    @property
    def path(self) -> str:
        """Where the image is inside the source; may identify a patient."""
        return self.place or self.file


def list_folder(root: Path) -> list[tuple[str, int, int]]:
    """Returns (path, bytes, CRC-32) of each image under a folder; reads them, since a changed file may keep size and date."""
    files = []
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link to a parent folder would never end
            below.clear()
            continue
        seen.add(real)
        for path in (Path(folder, name) for name in names):
            inside = path.relative_to(root).as_posix()
            if not is_image_name(inside):
                continue
            _check_name(inside, root)
            try:
                if path.stat().st_size > MAX_FILE_BYTES:
                    raise UserError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MB; no CT slice is that large")
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror or error}") from error
            files.append((inside, len(content), zlib.crc32(content)))
    return sorted(files)


def _check_name(name: str, path: Path) -> None:
    """Refuses a file name that is not valid Unicode, because predictions.csv could not hold it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"{path} contains a file whose name is not valid Unicode, {shown}; rename it") from error


def list_zip(path: Path) -> list[tuple[str, int, int]]:
    """Returns (path, bytes, CRC-32) of each image in a zip, from its directory; nothing is unpacked."""
    archives.require_bounded(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # a damaged zip also raises IndexError, UnicodeDecodeError, struct.error
        raise UserError(f"{path} is not a zip file ({error}); --data takes a zip or a folder") from error
    files = []
    for member in members:
        parts = PurePosixPath(member.filename).parts
        if ".." in parts or member.filename.startswith("/") or "\\" in member.orig_filename:
            raise UserError(
                f"{path} contains {member.orig_filename!r}, which points outside its folder; this zip is not safe to read"
            )
        if not member.filename or member.is_dir() or not is_image_name(member.filename):
            continue
        if member.flag_bits & 1:
            raise UserError(f"{member.filename} in {path} is encrypted; unpack the zip and pass the folder")
        if member.file_size > MAX_FILE_BYTES:
            raise UserError(
                f"{member.filename} in {path} unpacks to more than {MAX_FILE_BYTES >> 20} MB; no CT slice is that large"
            )
        _check_name(member.filename, path)
        files.append((member.filename, member.file_size, member.CRC))
    names = [name for name, _, _ in files]
    if repeated := next((name for name, count in Counter(names).items() if count > 1), None):
        raise UserError(f"{path} contains {repeated} twice; unpack it and pass the folder")
    return sorted(files)


def is_image_name(name: str) -> bool:
    """Whether a path names an image and is not a hidden file of an operating system."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and (name.lower().endswith((*EXTENSIONS, *SCANS)) or _is_bare(parts[-1]))


def _is_bare(name: str) -> bool:
    """Whether a file's name has no ending, or a number for one, as DICOM files do whose names are UIDs."""
    ending = name.rpartition(".")[2]
    return name.upper() != "DICOMDIR" and ("." not in name or ending.isdigit())


def classified(files: list[tuple[str, int, int]], path: Path) -> tuple[Entry, ...]:
    """Reads split and class from each path, …/split/class/…/image; all must have the same root."""
    placed: list[tuple[str, str, tuple[str, int, int]]] = []
    roots: Counter[str] = Counter()
    for file in files:
        parts = PurePosixPath(file[0]).parts
        depth = next((i for i, part in enumerate(parts[:-2]) if part.lower() in SPLIT_NAMES), None)
        if depth is not None:
            roots["/".join(parts[:depth])] += 1
            placed.append((SPLIT_NAMES[parts[depth].lower()], parts[depth + 1], file))
    if not placed:
        raise UserError(
            f"{path} contains no images in the layout train/CLASS/IMAGE, valid/CLASS/IMAGE, test/CLASS/IMAGE; "
            f"if it has CLASS/IMAGE, ctkeras data split --data {path} --out split.csv divides it"
        )
    if len(roots) > 1:
        raise UserError(
            f"{path} contains more than one data set, in {', '.join(sorted(root or '.' for root in roots))}; "
            "pass one of these folders"
        )
    named = _class_name if _is_chest_ct({(split, folder) for split, folder, _ in placed}) else str
    return tuple(Entry(split, named(folder), *file) for split, folder, file in placed)


def by_class(files: list[tuple[str, int, int]], path: Path) -> tuple[Entry, ...]:
    """Reads classes whether there are splits or not: SPLIT/CLASS/IMAGE as `classified`, else …/CLASS/IMAGE."""
    if any(part.lower() in SPLIT_NAMES for name, _, _ in files for part in PurePosixPath(name).parts[:-2]):
        return classified(files, path)
    inside = [file for file in files if "/" in file[0]]
    if not inside:
        raise UserError(f"{path} contains no images in the layout CLASS/IMAGE")
    return tuple(Entry("", PurePosixPath(file[0]).parent.name, *file) for file in inside)


def refuse_empty(folders: list[str], files: list[tuple[str, int, int]], path: Path) -> None:
    """Refuses a class folder without images, which would otherwise be ignored silently.

    Args:
        folders: paths inside the source, each ending in /.
        files: the images listed.
        path: the source.
    """
    filled = {
        "/".join(parts[:n]) + "/" for parts in (name.split("/") for name, _, _ in files) for n in range(len(parts))
    }
    for folder in sorted(set(folders) - filled):
        parts = PurePosixPath(folder).parts
        is_class = len(parts) > 1 and parts[-2].lower() in SPLIT_NAMES and f"{'/'.join(parts[:-1])}/" in filled
        if is_class and not any(part.startswith(".") or part == "__MACOSX" for part in parts):
            raise UserError(
                f"{path}: {folder} contains no images, so its class is empty; add images or remove the folder"
            )


def _is_chest_ct(folders: set[tuple[str, str]]) -> bool:
    """Whether class folders are the Kaggle set's: train has its four, and no split has two folders for the same class."""
    train = {_class_name(folder) for split, folder in folders if split == "train"}
    return train == set(CT_CLASSES) and len({(split, _class_name(folder)) for split, folder in folders}) == len(folders)


def _class_name(folder: str) -> str:
    """Returns a folder's class: one of the Kaggle set's four short names, else the folder's own name."""
    for name, pattern in CT_CLASSES.items():
        if re.match(pattern, folder.lower()):
            return name
    return folder


def checked_classes(entries: tuple[Entry, ...], path: Path) -> tuple[str, ...]:
    """Returns the class names in label order, after checking that every split has all of them.

    Raises:
        UserError: a split is missing, a class is missing from a split or from train, or there are fewer than two.
    """
    present = {split: {entry.class_name for entry in entries if entry.split == split} for split in SPLITS}
    for split in SPLITS:
        if not present[split]:
            raise UserError(
                f"{path} has no images in {split}/; it needs train/, valid/ and test/, each with one folder per class"
            )
    for split in ("valid", "test"):
        if unknown := sorted(present[split] - present["train"]):
            raise UserError(
                f"{path}: {split}/ has the class {unknown[0]!r}, which train/ does not; add images to train/ or remove it"
            )
        if missing := sorted(present["train"] - present[split]):
            raise UserError(
                f"{path}: the class {missing[0]!r} is empty in {split}/; add images or remove it from train/"
            )
    if len(present["train"]) < 2:
        raise UserError(f"{path} has one class, {present['train'].pop()!r}; a classifier needs two or more")
    return tuple(sorted(present["train"]))


def fingerprint(entries: tuple[Entry, ...]) -> str:
    """Returns the SHA-256 of names, classes, contents and patients; the same for a zip and for its unpacked folder.

    Patients count by the order of their first image, so that pseudonyms, which differ between machines, do not matter.
    """
    numbers: dict[str, int] = {}
    rows = "\n".join(
        f"{e.split}\t{e.class_name}\t{e.file}\t{e.size}\t{e.crc:08x}"
        + (f"\t{numbers.setdefault(e.patient, len(numbers))}" if e.patient else "")
        for e in entries
    )
    return hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest()
