"""What an image of a data set is: its split, class and place; the names of splits and classes."""

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctkeras.errors import UserError

SPLITS = ("train", "valid", "test")
# What folders and tables call them, alone or before a word such as set or images.
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SUFFIX = r"(?:[ _.-]?(?:set|data|dataset|images|imgs|split|folder))?"
_SPLIT = re.compile(rf"({'|'.join(_SPLIT_WORDS)}){_SUFFIX}")
# Names that count only where nothing else is that split.
_WEAK = {"dev": "valid", "development": "valid", "eval": "valid", "evaluation": "valid", "holdout": "test"}
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
    place: str = ""  # path inside the source where `file` is a pseudonym or a page; '' if it is `file`; never written
    frame: int = 0  # which slice of a volume, or page of a file
    window: str = ""  # of this image alone; '' for that of the run
    slice: int = -1  # the one slice or page that a table labels, by its number in the file, from 0; -1: all

    @property
    def path(self) -> str:
        """Where the image is inside the source; may identify a patient."""
        return self.place or self.file


def split_name(name: str) -> str:
    """The split that a name stands for: train, valid or test; '' for none.

    Example:
        >>> split_name("Training"), split_name("val_images"), split_name("other")
        ('train', 'valid', '')
    """
    match = _SPLIT.fullmatch(name.strip().lower())
    return _SPLIT_WORDS[match[1]] if match else ""


def weak_split_name(name: str) -> str:
    """The split that a name such as dev stands for if no other name does; '' for none."""
    return _WEAK.get(name.strip().lower(), "")


def class_names_of(folders: Sequence[tuple[str, str]]) -> tuple[dict[tuple[str, str], str], list[str]]:
    """The class name that each class folder stands for: spellings that differ by case or blanks are one class.

    Args:
        folders: split and class folder of each image.

    Returns:
        (split, folder) to class name, and what was taken for one class, in words.
    """
    distinct = set(folders)
    if _is_chest_ct(distinct):
        return {(split, folder): _class_name(folder) for split, folder in distinct}, []
    names, notes = one_spelling(folder for _, folder in folders), []
    merged = defaultdict(set)
    for folder, name in names.items():
        merged[name].add(folder)
    for name, own in sorted(merged.items()):
        if len(own) > 1:
            notes.append(f"The class names {', '.join(map(repr, sorted(own)))} are read as one class, {name!r}.")
    return {(split, folder): names[folder] for split, folder in distinct}, notes


def spelling(name: str) -> str:
    """What names that differ only by case or blanks have in common."""
    return " ".join(name.split()).casefold()


def one_spelling(names: Iterable[str]) -> dict[str, str]:
    """Each name's most frequent spelling among those that differ only by case or blanks."""
    counts = Counter(names)
    best: dict[str, str] = {}
    for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        best.setdefault(spelling(name), name.strip())
    return {name: best[spelling(name)] for name in counts}


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
    return in_label_order(present["train"])


def in_label_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: by number if all are numbers, otherwise by letter."""
    names = set(names)
    return tuple(sorted(names, key=lambda name: (float(name), name)) if all(map(_is_number, names)) else sorted(names))


def _is_number(text: str) -> bool:
    """Whether text is a finite number."""
    return bool(re.fullmatch(r"[+-]?\d+(\.\d+)?", text))


def fingerprint(entries: tuple[Entry, ...]) -> str:
    """Returns the SHA-256 of names, classes, contents and patients; the same for a zip and for its unpacked folder.

    Patients count by the order of their first image, so that pseudonyms, which differ between machines, do not matter.
    """
    numbers: dict[str, int] = {}
    rows = "\n".join(
        f"{e.split}\t{e.class_name}\t{e.file}\t{e.size}\t{e.crc:08x}"
        + (f"\t{numbers.setdefault(e.patient, len(numbers))}" if e.patient else "")
        + (f"\twindow {e.window}" if e.window else "")
        for e in entries
    )
    return hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest()
