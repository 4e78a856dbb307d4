"""From paths to splits and classes: SPLIT/CLASS/IMAGE, CLASS/IMAGE or CLASS/SPLIT/IMAGE, below any root."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ctkeras.data import accounts
from ctkeras.data.accounts import Account
from ctkeras.data.catalog import Catalog, Listed, is_hidden
from ctkeras.data.layout import Entry, class_names_of, split_name, weak_split_name
from ctkeras.errors import UserError

_PATIENTS = 12  # folders whose names differ only in digits: so many are patients, not classes


class Placed(NamedTuple):
    """Images with split and class, and what was understood on the way."""

    entries: tuple[Entry, ...]  # split is '' where the data has none
    notes: tuple[str, ...]
    layout: str  # as in SPLIT/CLASS/IMAGE


def place(catalog: Catalog, path: Path, account: Account) -> Placed:
    """Reads split and class of each file from its path.

    Args:
        catalog: what the data set consists of.
        path: of the data set, for messages.
        account: counts the files that are in no class.

    Raises:
        UserError: there is no such layout, there are two data sets, or a class is empty.
    """
    paths = [(PurePosixPath(file.name).parts, file) for file in catalog.files]
    roots = _roots(parts for parts, _ in paths)
    if roots:
        rows, notes, layout = *_by_split(paths, _one_root(roots, catalog, path), account), "SPLIT/CLASS/IMAGE"
    elif any(len(parts) > 2 and split_name(parts[-2]) for parts, _ in paths):
        rows, notes, layout = *_by_class_and_split(paths, account), "CLASS/SPLIT/IMAGE"
    else:
        rows, notes, layout = *_by_class(paths, path, account), "CLASS/IMAGE"
    if not rows:
        raise UserError(_no_layout(path, account))
    _refuse_empty(catalog, path, account)
    names, more = class_names_of([(split, folder) for split, folder, _ in rows])
    entries = tuple(
        Entry(split, names[split, folder], file.name, file.size, file.crc, place=file.place)
        for split, folder, file in rows
    )
    return Placed(entries, (*notes, *more), layout)


_Rows = list[tuple[str, str, Listed]]  # split, class folder, file
_Paths = list[tuple[tuple[str, ...], Listed]]


def _no_layout(path: Path, account: Account) -> str:
    """What is wrong with a data set in which no image has a class."""
    left_out = accounts.words(account.left_out())
    return (
        f"{path} contains no images in the layout train/CLASS/IMAGE, valid/CLASS/IMAGE, test/CLASS/IMAGE or CLASS/IMAGE"
        + (f"; files left out: {left_out}" if left_out else "")
    )


def _roots(paths: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The folders below which splits with classes are: those with the most splits."""
    splits = defaultdict(set)
    for parts in paths:
        for at, part in enumerate(parts[:-2]):
            if split := split_name(part):
                splits[parts[:at]].add(split)
    most = max(map(len, splits.values()), default=0)
    return {root for root, found in splits.items() if len(found) == most}


def _one_root(roots: set[tuple[str, ...]], catalog: Catalog, path: Path) -> set[tuple[str, ...]]:
    """The root; several only if each is the root of one zip of several."""
    if len(roots) > 1 and not all(root and root[0] in catalog.parts for root in roots):
        listed = ", ".join(sorted("/".join(root) or "." for root in roots))
        raise UserError(f"{path} contains more than one data set, in {listed}; pass one of these folders")
    return roots


def _by_split(paths: _Paths, roots: set[tuple[str, ...]], account: Account) -> tuple[_Rows, list[str]]:
    """Reads …/SPLIT/CLASS/…/IMAGE below the roots; an image elsewhere is left out."""
    inside = [(root, parts[len(root) :], file) for parts, file in paths for root in roots if parts[: len(root)] == root]
    outside = {file.name for _, file in paths} - {file.name for *_, file in inside}
    for name in sorted(outside):
        account.leave_out(accounts.NOT_A_SPLIT if "/" in name else accounts.NO_CLASS, name)
    split_of, notes = _split_folders({parts[0] for _, parts, _ in inside if len(parts) > 2})
    doubled = _doubled([parts for _, parts, _ in inside], split_of)
    rows: _Rows = []
    for _, parts, file in inside:
        split = split_of.get(parts[0], "") or (split_name(parts[0]) if len(parts) == 2 else "")
        at = 2 if parts[0] in doubled else 1
        if not split:
            account.leave_out(accounts.NOT_A_SPLIT if len(parts) > 1 else accounts.NO_CLASS, file.name)
        elif len(parts) <= at + 1:
            account.leave_out(accounts.NO_CLASS, file.name)
        else:
            rows.append((split, parts[at], file))
    return rows, notes


def _split_folders(folders: set[str]) -> tuple[dict[str, str], list[str]]:
    """Folder to split. A name such as dev counts only where no other folder is that split."""
    split_of = {folder: split for folder in sorted(folders) if (split := split_name(folder))}
    for folder in sorted(folders - set(split_of)):
        if (split := weak_split_name(folder)) and split not in split_of.values():
            split_of[folder] = split
    notes = []
    for split in sorted(set(split_of.values())):
        if len(own := sorted(folder for folder in split_of if split_of[folder] == split)) > 1:
            notes.append(f"The folders {' and '.join(own)} are both read as {split}.")
    return split_of, notes


def _doubled(paths: list[tuple[str, ...]], split_of: dict[str, str]) -> set[str]:
    """Split folders with nothing but a second folder of that split inside, as in train/train/CLASS/IMAGE."""
    doubled = set()
    for folder, split in split_of.items():
        own = [parts for parts in paths if parts[0] == folder]
        if all(len(parts) > 3 and split_name(parts[1]) == split for parts in own):
            doubled.add(folder)
    return doubled


def _by_class_and_split(paths: _Paths, account: Account) -> tuple[_Rows, list[str]]:
    """Reads …/CLASS/SPLIT/IMAGE."""
    rows: _Rows = []
    for parts, file in paths:
        if len(parts) > 2 and (split := split_name(parts[-2])):
            rows.append((split, parts[-3], file))
        else:
            account.leave_out(accounts.NOT_A_SPLIT if len(parts) > 1 else accounts.NO_CLASS, file.name)
    return rows, ["Read as CLASS/SPLIT/IMAGE: splits are inside the class folders."]


def _by_class(paths: _Paths, path: Path, account: Account) -> tuple[_Rows, list[str]]:
    """Reads CLASS/…/IMAGE below the deepest folder that holds all images in folders; splits are ''."""
    inside = [parts for parts, _ in paths if len(parts) > 1]
    root = _common([parts[:-1] for parts in inside])
    classes = {parts[len(root)] for parts in inside if len(parts) > len(root) + 1}
    if not classes and root:  # all in one folder
        root, classes = root[:-1], {root[-1]}
    if any(split_name(name) for name in classes):  # images in a split, but in no class
        for _, file in paths:
            account.leave_out(accounts.NO_CLASS, file.name)
        return [], []
    if len(classes) > _PATIENTS and len({re.sub(r"\d+", "0", name) for name in classes}) == 1:
        raise UserError(
            f"{path} has {len(classes)} folders named like patients ({min(classes)}, …), which are not classes; "
            "name a table of labels with --data TABLE.csv (columns patient and label), see docs/data.md"
        )
    rows: _Rows = []
    for parts, file in paths:
        if len(parts) > len(root) + 1 and parts[: len(root)] == root:
            rows.append(("", parts[len(root)], file))
        else:
            account.leave_out(accounts.NO_CLASS, file.name)
    return rows, []


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The beginning that all paths share."""
    if not paths:
        return ()
    first, last = min(paths), max(paths)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def _refuse_empty(catalog: Catalog, path: Path, account: Account) -> None:
    """Refuses a class folder without images, which would otherwise be ignored silently."""
    filled = {
        "/".join(parts[:n]) + "/"
        for parts in (file.name.split("/") for file in catalog.files)
        for n in range(len(parts))
    }
    for folder in sorted({unicodedata.normalize("NFC", folder) for folder in catalog.folders} - filled):
        parts = PurePosixPath(folder).parts
        is_class = len(parts) > 1 and bool(split_name(parts[-2])) and f"{'/'.join(parts[:-1])}/" in filled
        if is_class and not any(map(is_hidden, parts)):
            left_out = accounts.words(account.left_out())
            raise UserError(
                f"{path}: {folder} contains no images, so its class is empty; add images or remove the folder"
                + (f" (files left out: {left_out})" if left_out else "")
            )
