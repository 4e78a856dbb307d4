"""Data sets described by a table: one row per image, volume or folder, with its label, and maybe patient and split."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ctkeras.data import catalog, layout, tables, windows
from ctkeras.data.accounts import Account
from ctkeras.data.beside import Beside
from ctkeras.data.layout import Entry
from ctkeras.data.pseudonyms import pseudonyms
from ctkeras.errors import UserError
from ctkeras.runtime import console
from ctkeras.runtime.cells import unquoted

COLUMNS = ("file", "label", "patient", "split", "slice", "window")
NO_ROW = "that no row of the table names"
_SHOWN = 10  # errors listed
_EMPTY = ("nan", "na", "n/a", "#n/a")  # what programs write for a missing label
_MEASURED = 20  # different labels that are not whole numbers: more are measurements, not classes


class Row(NamedTuple):
    """One row of a table as text; number is its line in a spreadsheet, from 2."""

    number: int
    file: str
    label: str
    patient: str = ""
    split: str = ""
    slice: str = ""  # which slice of a volume, or page of a file, from 0; '' for all
    window: str = ""


def is_table(spec: str) -> bool:
    """Whether `--data` names a table, perhaps with names of columns after a colon."""
    path = split_spec(spec)[0]
    return path.lower().endswith((*tables.ENDINGS, ".xls")) and not os.path.isdir(os.path.expanduser(path))


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Parts FILE:label=diagnosis,patient=PatientID into the file and the names of its columns.

    Raises:
        UserError: a column that a table does not have is named.
    """
    path, colon, text = spec.rpartition(":")
    if not colon or "=" not in text or os.path.exists(os.path.expanduser(spec)):
        return spec, {}
    return path, columns_of(text)


def columns_of(text: str) -> dict[str, str]:
    """Reads label=diagnosis,patient=PatientID.

    Raises:
        UserError: it is written differently, or names a column that a table does not have.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    names = {name.strip(): own.strip() for name, _, own in pairs}
    if unknown := sorted(set(names) - set(COLUMNS)):
        raise UserError(f"columns: got {unknown[0]!r}; allowed are {', '.join(COLUMNS)}, as in label=diagnosis")
    if empty := next((name for name, own in names.items() if not own), None):
        raise UserError(f"columns: {empty} has no name; write {empty}=NAME, as in label=diagnosis")
    return names


def read_rows(path: Path, columns: dict[str, str]) -> list[Row]:
    """Reads a table.

    Args:
        path: see tables.read.
        columns: the table's own names for `COLUMNS`, where they differ.

    Raises:
        UserError: it cannot be read, or has no columns for file and label.
    """
    table = tables.read(path)
    place = _places(path, table[0] if table else [], columns)
    rows = []
    for number, cells in enumerate(table[1:], 2):
        if any(cells):
            own = {name: unquoted(cells[i]) if i < len(cells) else "" for name, i in place.items()}
            own.setdefault("file", own.get("patient", ""))
            rows.append(Row(number, **{**own, "file": own["file"].replace("\\", "/")}))
    if not rows:
        raise UserError(f"{path} has no rows; it needs one per image")
    return _with_classes(path, rows)


def _with_classes(path: Path, rows: list[Row]) -> list[Row]:
    """The rows with labels that are classes: one spelling of each, whole numbers without a point.

    Raises:
        UserError: the labels are measurements.
    """
    labels = {row.label for row in rows if row.label and row.label.lower() not in _EMPTY}
    numbers = {label: _number(label) for label in labels}
    if labels and all(number is not None for number in numbers.values()):
        whole = all(number == int(number) for number in numbers.values() if number is not None)
        if not whole and len(labels) > _MEASURED:
            raise UserError(
                f"{path} has {len(labels)} different numbers as labels, such as {min(labels)}; a label names a class"
            )
        names = {label: str(int(number)) for label, number in numbers.items() if whole and number is not None}
    else:
        names = layout.one_spelling(row.label for row in rows if row.label in labels)
    return [row._replace(label=names.get(row.label, row.label)) for row in rows]


def _number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _places(path: Path, header: list[str], columns: dict[str, str]) -> dict[str, int]:
    """Returns where in a row each column is."""
    lower = [name.lower() for name in header]
    if repeated := next((name for name, number in Counter(lower).items() if number > 1 and name), None):
        raise UserError(f"{path} has more than one column {repeated!r}; name each column once")
    place = {}
    for name in COLUMNS:
        wanted = columns.get(name, name)
        if wanted.lower() in lower:
            place[name] = lower.index(wanted.lower())
    needed = [*columns, *([] if "patient" in place else ["file"]), "label"]
    for name in needed:
        if name not in place:
            wanted, shown = columns.get(name, name), ", ".join(filter(None, header[:20])) or "none"
            hint = "a table with one column per class is not supported" if name == "label" else "see docs/data.md"
            raise UserError(
                f"{path} has no column {wanted!r}, it has {shown}; name it with --columns {name}=NAME ({hint})"
            )
    return place


def entries(path: Path, rows: list[Row], account: Account) -> list[Entry]:
    """Checks every row and reads its file's size and checksum; split is '' where the table gives none.

    Args:
        path: of the table.
        rows: from read_rows.
        account: counts images beside those that the table names.

    Raises:
        UserError: rows are faulty: all in one message, at most ten of them in words.
    """
    errors: list[str] = []
    seen: dict[tuple[str, str], Row] = {}
    made: list[Entry] = []
    names = pseudonyms([row.patient for row in rows])
    labels = {row.label for row in rows}
    found = Beside(path.parent)
    bar = console.Bar(f"checking {path.name}", len(rows))
    for done, (row, patient) in enumerate(zip(rows, names, strict=True), 1):
        first = seen.setdefault((os.path.normpath(row.file), row.slice), row)
        split = layout.split_name(row.split) or layout.weak_split_name(row.split)
        fault = _fault(row, first, split, labels)
        if not fault:
            try:
                made += _entries_of(row, found, account, split=split, patient=patient)
            except UserError as error:
                fault = str(error)
        if fault:
            errors.append(f"row {row.number}: {fault}")
        bar.update(done)
    bar.close()
    found.close()
    if len({bool(row.split) for row in rows}) > 1:
        errors.append("the split is given in some rows only; fill in all or none")
    if errors:
        more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        count = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
        raise UserError(f"{path} has {count}: {'; '.join(errors[:_SHOWN])}{more}")
    _count_unnamed(path.parent, made, account)
    return sorted(made, key=lambda entry: (entry.file, entry.slice))


def _fault(row: Row, first: Row, split: str, labels: set[str]) -> str:
    """Says what is wrong in a row by itself, or beside an earlier row of the same file."""
    if not row.file or not row.label or row.label.lower() in _EMPTY:
        return f"the {'label' if row.file else 'file'} is empty"
    parts = [part.strip() for part in row.label.split(",")]
    several = any(mark in row.label for mark in ";|") or (len(parts) > 1 and labels.issuperset(parts))
    if several or (row.label[0] in "[{" and "," in row.label):
        return f"the label {row.label!r} names several classes; a file has one"
    if row.split and not split:
        return f"the split is {row.split!r}; allowed are train, valid and test"
    if row.slice and not row.slice.isdecimal():
        return f"the slice is {row.slice!r}; it is a whole number from 0"
    if row.window:
        try:
            windows.check(row.window)
        except UserError as error:
            return str(error)
        if row.window == "three":
            return "the window three is for all images: leave the cell empty and use --window three"
    if first.number != row.number:
        same = first.label == row.label
        return f"{row.file} is also in row {first.number}" + ("" if same else f", with the label {first.label!r}")
    return ""


def _entries_of(row: Row, found: Beside, account: Account, *, split: str, patient: str) -> list[Entry]:
    """The entry of a row, or those of the images in the folder that it names."""
    made = []
    inside = found.images_in(row.file, account)
    if inside is not None and row.slice:
        raise UserError(f"{row.file} is a folder, of which slice {row.slice} cannot be taken; name a file")
    for file in [row.file] if inside is None else inside:
        place = found.place(file)
        size, crc = found.size_and_crc(place)
        moved = place if place != file else ""
        made.append(
            Entry(split, row.label, file, size, crc, patient, moved, window=row.window, slice=int(row.slice or -1))
        )
    if not made:
        raise UserError(f"the folder {row.file} contains no images")
    return made


def _count_unnamed(folder: Path, made: Sequence[Entry], account: Account) -> None:
    """Counts the images in the folders of the table's files that no row names."""
    named = {os.path.normpath(entry.path) for entry in made}
    for inside in sorted({os.path.dirname(entry.path) for entry in made}):
        if os.path.isabs(inside) or not (folder / inside).is_dir():
            continue
        for name in sorted(os.listdir(folder / inside)):
            file = os.path.normpath(os.path.join(inside, name))
            is_image = not catalog.why_not(name) and not catalog.is_bare(name)
            if is_image and file not in named and (folder / file).is_file():
                account.leave_out(NO_ROW, file)
