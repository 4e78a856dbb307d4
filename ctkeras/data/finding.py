"""Finds the images that `--data` names, in a folder, in zips or by a table, with their classes."""

import dataclasses
import os
from pathlib import Path

from ctkeras.data import accounts, catalog, manifest, placing, tables, unfolding
from ctkeras.data.accounts import Account
from ctkeras.data.layout import Entry
from ctkeras.errors import UserError


@dataclasses.dataclass
class Found:
    """A data set before its splits are completed."""

    path: str
    root: Path
    entries: list[Entry]
    layout: str
    account: Account
    notes: list[str]
    span: str = ""


def find(spec: str, slices: str) -> Found:
    """Lists what `--data` names, with the class of each image and its split where the data has one.

    Args:
        spec: files or a folder, as for sources.open_source.
        slices: which slices of DICOM series and NIfTI volumes, see slices.chosen.

    Raises:
        UserError: there is no such file or folder, its layout is not known, or one of its files is faulty.
    """
    account = Account()
    if manifest.is_table(spec):
        return _of_table(spec, account, slices)
    if manifest.split_spec(spec)[1]:
        raise UserError(
            f"columns are those of a table, as in table.csv:label=diagnosis; got {spec}, which is not a table"
        )
    path = Path(os.path.expanduser(spec))
    if os.path.exists(path):
        path = path.parent if path.name == "DICOMDIR" and path.is_file() else path  # the folder that it is the index of
        if os.path.isdir(path) and (table := _labels_in(path)):
            found = _of_table(str(table), account, slices)
            found.notes.insert(0, f"The labels are read from {table.name} in {path}.")
            return found
        listing = catalog.of(path, account)
    else:
        parts = [Path(os.path.expanduser(part.strip())) for part in spec.split(",")]
        if len(parts) < 2 or not all(os.path.isfile(part) for part in parts):
            missing = next((part for part in parts if not os.path.exists(part)), path)
            raise UserError(
                f"{missing if len(parts) > 1 else spec} is not a file or folder; --data takes a zip, several zips with commas "
                "between, a folder, a table, phantom, phantom:<images> or kaggle"
            )
        listing = catalog.of_zips(parts, account)
    placed = placing.place(listing, path, account)
    root = Path(os.path.abspath(listing.root))
    entries, span, notes = unfolding.expanded(placed.entries, root, account, path=str(path), slices=slices)
    if not entries:
        raise UserError(f"{path} contains no images that can be read: {accounts.words(account.left_out())}")
    return Found(str(path), root, entries, placed.layout, account, [*placed.notes, *notes], span)


def _labels_in(folder: Path) -> Path | None:
    """The table of labels in a folder of images, if it has exactly one with the columns of a manifest."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(tables.ENDINGS))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    usable = []
    for name in names:
        try:
            header = {cell.lower() for cell in next(iter(tables.read(folder / name)), [])}
        except UserError:
            continue
        if "label" in header and header & {"file", "patient"}:
            usable.append(folder / name)
    return usable[0] if len(usable) == 1 else None


def _of_table(spec: str, account: Account, slices: str) -> Found:
    """Lists the images of a table."""
    file, columns = manifest.split_spec(spec)
    path = Path(os.path.expanduser(file))
    rows = manifest.read_rows(path, columns)
    listed = manifest.entries(path, rows, account)
    root = Path(os.path.abspath(path.parent))
    entries, span, notes = unfolding.expanded(listed, root, account, path=str(path), slices=slices)
    if not entries:
        raise UserError(f"{path} names no images that can be read: {accounts.words(account.left_out())}")
    return Found(str(path), root, entries, "a table of files and labels", account, notes, span)
