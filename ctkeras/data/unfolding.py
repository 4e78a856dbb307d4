"""From files to slices: pages of images, frames of DICOM, slices of NIfTI, and the scale of images of more than 8 bits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ctkeras.data import accounts, catalog, deep, survey, volumes
from ctkeras.data.accounts import Account
from ctkeras.data.layout import Entry
from ctkeras.data.located import Located
from ctkeras.data.pseudonyms import pseudonyms
from ctkeras.data.survey import Held
from ctkeras.errors import UserError

NOT_A_SCAN = "neither DICOM nor NIfTI inside"
_OTHER_PAGE = "further pictures of a file that are not slices (of another size, or of a JPEG)"
_NO_PAGE = "pages that no row of the table names"


def expanded(
    entries: Sequence[Entry], root: Path, account: Account, *, path: str, slices: str = "all"
) -> tuple[list[Entry], str, list[str]]:
    """Replaces files by their slices.

    Args:
        entries: one per file, or per slice that a table names.
        root: the folder or zip to which places are relative.
        account: counts what is left out.
        path: of the data set, for messages.
        slices: which slices of DICOM series and NIfTI volumes, see slices.chosen.

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
                made += _pages(entry, row, account, path=path)
            elif catalog.is_bare(name):
                account.leave_out(accounts.NOT_AN_IMAGE, entry.path)
            elif name.lower().endswith(catalog.SCANS):
                account.leave_out(NOT_A_SCAN, entry.path)
            else:
                made.append(entry)  # reported when it is read
        notes: list[str] = []
        if scans:
            account.names_patients = True
            made += volumes.expand(tuple(scans), read, path=path, choice=slices, account=account, notes=notes)
        if scans and not made:
            raise UserError(f"{path} has no axial slices; left out: {accounts.words(account.left_out())}")
    finally:
        found.close()
    _count_unnamed_pages(entries, held, account)
    spans = [row.range for row in held if row.range is not None]
    span = deep.span_of(spans)
    return sorted(made, key=lambda entry: entry.file), span, [*notes, *_notes(entries, held, span)]


def _pages(entry: Entry, row: Held, account: Account, *, path: str) -> list[Entry]:
    """The entries of an image file: one, or one per page; the pages of a file stay together like those of a patient."""
    if entry.slice >= 0:
        if entry.slice not in row.pages:
            raise UserError(f"{path}: {entry.file} has no slice {entry.slice}; it has {len(row.pages)}, from 0")
        return [replace(entry, file=f"{entry.file}#{entry.slice}", place=entry.path, frame=entry.slice)]
    account.leave_out(_OTHER_PAGE, entry.path, row.other_pages)
    if len(row.pages) == 1:
        return [entry]
    patient = entry.patient or pseudonyms([entry.file])[0]
    digits = len(str(row.pages[-1]))
    return [
        replace(entry, file=f"{entry.file}#{page:0{digits}}", place=entry.path, patient=patient, frame=page)
        for page in row.pages
    ]


def _count_unnamed_pages(entries: Sequence[Entry], held: Sequence[Held], account: Account) -> None:
    """Counts the pages of image files of which a table names others."""
    named: dict[str, int] = {}
    pages: dict[str, int] = {}
    for entry, row in zip(entries, held, strict=True):
        if entry.slice >= 0 and row.kind == survey.IMAGE:
            named[entry.path] = named.get(entry.path, 0) + 1
            pages[entry.path] = len(row.pages)
    for path, count in pages.items():
        account.leave_out(_NO_PAGE, path, count - named[path])


def _notes(entries: Sequence[Entry], held: Sequence[Held], span: str) -> list[str]:
    """What was assumed about pages and about images of more than 8 bits."""
    notes = []
    whole = [row for entry, row in zip(entries, held, strict=True) if entry.slice < 0]
    if paged := [row for row in whole if len(row.pages) > 1]:
        pages = sum(len(row.pages) for row in paged)
        notes.append(
            f"{len(paged):,} image files have several pages, {pages:,} in all: each page is a slice, and those of a file stay "
            "together."
        )
    if span:
        images = [row for row in held if row.kind == survey.IMAGE]
        notes.append(deep.sentence(span, [row.range for row in images if row.range is not None], images=len(images)))
    return notes
