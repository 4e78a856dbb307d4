"""Data sets described by a table: one row per image, with its file and label, and maybe patient and split."""

import csv
import io
import os
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ctkeras.data.layout import MAX_FILE_BYTES, SPLIT_NAMES, Entry
from ctkeras.data.pseudonyms import pseudonyms
from ctkeras.errors import UserError
from ctkeras.runtime import archives, console
from ctkeras.runtime.cells import unquoted

ENDINGS = (".csv", ".tsv")
COLUMNS = ("file", "label", "patient", "split")
_LATER = {"slice", "window"}  # columns whose values cannot be followed
_SHOWN = 10  # errors listed


class Row(NamedTuple):
    """One row of a table as text; number is its line in a spreadsheet, from 2."""

    number: int
    file: str
    label: str
    patient: str
    split: str


def is_table(spec: str) -> bool:
    """Whether `--data` names a table, perhaps with names of columns after a colon."""
    return split_spec(spec)[0].lower().endswith((*ENDINGS, ".xlsx", ".parquet"))


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
    return names


def read_rows(path: Path, columns: dict[str, str]) -> list[Row]:
    """Reads a table: commas, semicolons or tabs; UTF-8 with or without BOM, or else Windows-1252.

    Args:
        path: a .csv or .tsv file.
        columns: the table's own names for `COLUMNS`, where they differ.

    Raises:
        UserError: it cannot be read, or has no columns for file and label.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{path}: tables are read as .csv or .tsv; save it as CSV")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")  # what Excel writes in Western Europe
    head = text.partition("\n")[0]
    delimiter = max("\t;,", key=head.count)
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{path} is not a table ({error}); save it as CSV") from error
    header = [cell.strip() for cell in table[0]] if table else []
    place = _places(path, header, columns)
    rows = []
    for number, cells in enumerate(table[1:], 2):
        if any(cell.strip() for cell in cells):
            own = {name: unquoted(cells[i].strip()) if i < len(cells) else "" for name, i in place.items()}
            file = own["file"].replace("\\", "/")
            rows.append(Row(number, file, own["label"], own.get("patient", ""), own.get("split", "")))
    if not rows:
        raise UserError(f"{path} has no rows; it needs one per image")
    return rows


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
        elif name in columns or name in ("file", "label"):
            hint = "a table with one column per class is not supported" if name == "label" else "see docs/data.md"
            raise UserError(
                f"{path} has no column {wanted!r}, it has {', '.join(header)}; name it with --columns {name}=NAME ({hint})"
            )
    if later := sorted(_LATER & set(lower)):
        raise UserError(f"{path} has a column {later[0]!r}, which is not supported; list one file per image without it")
    return place


def entries(path: Path, rows: list[Row]) -> list[Entry]:
    """Checks every row and reads its file's size and checksum; split is '' where the table gives none.

    Raises:
        UserError: rows are faulty: all in one message, at most ten of them in words.
    """
    errors: list[str] = []
    seen: dict[str, Row] = {}
    made: list[Entry] = []
    names = pseudonyms([row.patient for row in rows])
    found = Located(path.parent)
    bar = console.Bar(f"checking {path.name}", len(rows))
    for row, patient in zip(rows, names, strict=True):
        first = seen.setdefault(os.path.normpath(row.file), row)
        split = SPLIT_NAMES.get(row.split.lower(), "")
        fault = _fault(row, first, split)
        if not fault:
            try:
                size, crc = found.size_and_crc(row.file)
                made.append(Entry(split, row.label, row.file, size, crc, patient))
            except UserError as error:
                fault = str(error)
        if fault:
            errors.append(f"row {row.number}: {fault}")
        bar.update(row.number - 1)
    bar.close()
    found.close()
    if len({bool(row.split) for row in rows}) > 1:
        errors.append("the split is given in some rows only; fill in all or none")
    if errors:
        more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise UserError(f"{path} has {len(errors)} errors: {'; '.join(errors[:_SHOWN])}{more}")
    return sorted(made, key=lambda entry: entry.file)


def _fault(row: Row, first: Row, split: str) -> str:
    """Says what is wrong in a row by itself, or beside an earlier row of the same file."""
    if not row.file or not row.label:
        return f"the {'label' if row.file else 'file'} is empty"
    if any(mark in row.label for mark in ";|") or (row.label[0] in "[{" and "," in row.label):
        return f"the label {row.label!r} names several classes; a file has one"
    if row.split and not split:
        return f"the split is {row.split!r}; allowed are train, valid and test"
    if first.number != row.number:
        same = first.label == row.label
        return f"{row.file} is also in row {first.number}" + ("" if same else f", with the label {first.label!r}")
    return ""


class Located:
    """The files of a table: below its folder, absolute, or inside a zip (ARCHIVE.zip/inside.png); zips stay open."""

    def __init__(self, folder: Path) -> None:
        """Remembers the table's folder."""
        self.folder = folder
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def size_and_crc(self, file: str) -> tuple[int, int]:
        """Returns a file's size in bytes and its CRC-32.

        Raises:
            UserError: there is no such file, or it is too large.
        """
        archive, inside = self._archive(file)
        if archive is None:
            content = self.read(file)
            return len(content), zlib.crc32(content)
        try:
            member = archive.getinfo(inside)
        except KeyError as error:
            raise UserError(f"no file {file}") from error
        if member.file_size > MAX_FILE_BYTES:
            raise UserError(f"{file} is larger than {MAX_FILE_BYTES >> 20} MB")
        return member.file_size, member.CRC

    def read(self, file: str) -> bytes:
        """Returns a file's bytes.

        Raises:
            UserError: it is missing, too large or damaged.
        """
        archive, inside = self._archive(file)
        path = self.folder / file
        try:
            if archive is not None:
                return archives.read(archive, inside)
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"{file} is larger than {MAX_FILE_BYTES >> 20} MB")
            return path.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"no file {file}{_hint(path)}") from error
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror or error}") from error
        except UserError:
            raise
        except Exception as error:  # zipfile raises many types
            raise UserError(f"{file} is damaged ({error})") from error

    def close(self) -> None:
        """Closes the zips."""
        for archive in self._archives.values():
            archive.close()

    def _archive(self, file: str) -> tuple[zipfile.ZipFile | None, str]:
        """Returns the zip that a path leads into, if it does, and the path inside it."""
        at = file.lower().find(".zip/")
        path = self.folder / file[: at + 4]
        if at < 0 or path.is_dir():
            return None, file
        if path not in self._archives:
            try:
                archives.require_bounded(path)
                self._archives[path] = zipfile.ZipFile(path)
            except Exception as error:  # a damaged zip raises many types
                raise UserError(f"cannot open {path} ({error})") from error
        return self._archives[path], file[at + 5 :]


def _hint(path: Path) -> str:
    """Names a file beside a missing one whose name differs only by case."""
    try:
        beside = [name for name in os.listdir(path.parent) if name.lower() == path.name.lower()]
    except OSError:
        return ""
    return f" (there is {beside[0]}: upper and lower case differ)" if beside else ""
