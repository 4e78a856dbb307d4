"""From files to slices: pages of images, frames of DICOM, slices of NIfTI, and the scale of images of more than 8 bits."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ctkeras.data import accounts, catalog, deep, survey, volumes
from ctkeras.data.accounts import Account
from ctkeras.data.layout import Entry
from ctkeras.data.located import Located
from ctkeras.data.pseudonyms import pseudonyms
from ctkeras.data.survey import Held
from ctkeras.errors import UserError

NOT_A_SCAN = "neither DICOM nor NIfTI inside"
_OTHER_PAGE = "pages of another size than their file's first"
_NO_PAGE = "pages that no row of the table names"


def expanded(
    entries: Sequence[Entry], root: Path, account: Account, *, path: str
) -> tuple[list[Entry], str, list[str]]:
    """Replaces files by their slices.

    Args:
        entries: one per file, or per slice that a table names.
        root: the folder or zip to which places are relative.
        account: counts what is left out.
        path: of the data set, for messages.

    Returns:
        One entry per slice, sorted by file; the span of images of more than 8 bits, see deep.span_of; what was assumed.

    Raises:
        UserError: a table names a slice that a file does not have, or a scan is damaged.
    """
    found = Located(Path("/"))

    def read(entry: Entry, size: int = -1) -> bytes:
        return found.read((root / entry.path).as_posix(), size)

    try:
        held = survey.survey(entries, read)
        made: list[Entry] = []
        scans: list[Entry] = []
        for entry, row in zip(entries, held, strict=True):
            name = entry.path.rpartition("/")[2]
            if row.kind == survey.SCAN:
                scans.append(entry)
            elif row.kind == survey.IMAGE:
                made += _pages(entry, row, account)
            elif catalog.is_bare(name):
                account.leave_out(accounts.NOT_AN_IMAGE, entry.path)
            elif name.lower().endswith(catalog.SCANS):
                account.leave_out(NOT_A_SCAN, entry.path)
            else:
                made.append(entry)  # reported when it is read
        made += _of_scans(scans, read, path) if scans else []
    finally:
        found.close()
    _count_unnamed_pages(entries, held, account)
    spans = [row.range for row in held if row.range is not None]
    span = deep.span_of(spans)
    notes = _notes(held, span)
    return sorted(made, key=lambda entry: entry.file), span, notes


def _pages(entry: Entry, row: Held, account: Account) -> list[Entry]:
    """The entries of an image file: one, or one per page; the pages of a file stay together like those of a patient."""
    if entry.chosen:
        if entry.frame not in row.pages:
            raise UserError(f"{entry.file} has no slice {entry.frame}; it has {len(row.pages)}, from 0")
        return [dataclasses.replace(entry, file=f"{entry.file}#{entry.frame}", place=entry.path)]
    account.leave_out(_OTHER_PAGE, entry.path, row.other_pages)
    if len(row.pages) == 1:
        return [entry]
    patient = entry.patient or pseudonyms([entry.file])[0]
    digits = len(str(row.pages[-1]))
    return [
        dataclasses.replace(entry, file=f"{entry.file}#{page:0{digits}}", place=entry.path, patient=patient, frame=page)
        for page in row.pages
    ]


def _count_unnamed_pages(entries: Sequence[Entry], held: Sequence[Held], account: Account) -> None:
    """Counts the pages of image files of which a table names others."""
    named: dict[str, int] = {}
    pages: dict[str, int] = {}
    for entry, row in zip(entries, held, strict=True):
        if entry.chosen and row.kind == survey.IMAGE:
            named[entry.path] = named.get(entry.path, 0) + 1
            pages[entry.path] = len(row.pages)
    for path, count in pages.items():
        account.leave_out(_NO_PAGE, path, count - named[path])


def _of_scans(scans: list[Entry], read, path: str) -> list[Entry]:
    """The slices of DICOM and NIfTI files; of a file of which a table names slices, these."""
    files: dict[str, Entry] = {}
    chosen: dict[tuple[str, int], Entry] = {}
    for entry in scans:
        files.setdefault(entry.path, entry)
        if entry.chosen:
            chosen[entry.path, entry.frame] = entry
    listed = [dataclasses.replace(entry, frame=0, chosen=False) for entry in files.values()]
    made = []
    for entry in volumes.expand(tuple(listed), read, path=path):
        if not files[entry.path].chosen:
            made.append(entry)
        elif own := chosen.pop((entry.path, entry.frame), None):
            folder = "/".join(part for part in (own.split, own.class_name) if part)
            file = f"{folder}/{entry.file.rpartition('/')[2]}"
            patient = own.patient or entry.patient
            made.append(dataclasses.replace(own, file=file, place=entry.path, patient=patient))
    if chosen:
        (_, frame), own = next(iter(chosen.items()))
        raise UserError(f"{path}: {own.file} has no axial slice {frame}")
    return made


def _notes(held: Sequence[Held], span: str) -> list[str]:
    """What was assumed about pages and about images of more than 8 bits."""
    notes = []
    if paged := [row for row in held if len(row.pages) > 1]:
        pages = sum(len(row.pages) for row in paged)
        notes.append(
            f"{len(paged):,} image files have several pages, {pages:,} in all: each page is a slice, and those of a file stay "
            "together."
        )
    if span:
        images = [row for row in held if row.kind == survey.IMAGE]
        notes.append(deep.sentence(span, images=len(images), deep=sum(row.range is not None for row in images)))
    return notes
