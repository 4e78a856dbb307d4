"""DICOM and NIfTI files among a data set's images: one entry per axial slice, under names that identify nobody."""

import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

from ctkeras.data import dicom, scan_listing, slices
from ctkeras.data.accounts import Account
from ctkeras.data.layout import SPLITS, Entry
from ctkeras.data.pseudonyms import nameless
from ctkeras.data.scan_listing import Listed, may_be_scan
from ctkeras.errors import UserError

_MISSING = "listed in DICOMDIR but missing"


def expand(
    entries: tuple[Entry, ...],
    read: Callable[[Entry], bytes],
    *,
    path: str,
    account: Account,
    notes: list[str],
    choice: str = slices.ALL,
) -> tuple[Entry, ...]:
    """Replaces DICOM and NIfTI files by their axial slices; other entries stay as they are.

    Args:
        entries: as listed; a file's own name identifies a patient, so it becomes `place`, and `file` a hash of its content.
        read: returns a file's bytes.
        path: the data set's, for messages.
        account: counts the files that are left out.
        notes: gets what was read and assumed, in sentences.
        choice: which slices of each series or volume, see slices.chosen.

    Returns:
        Entries in the order of their files.

    Raises:
        UserError: the choice is not one, or a package is missing.
    """
    slices.check(choice)
    if not any(may_be_scan(entry.path) for entry in entries):
        return entries
    entries, missing = _without_directories(entries, read)
    files = list({entry.path: entry for entry in entries}.values())
    rows, examples = scan_listing.listed(files, read)
    if not any(row.kind for row in rows):
        return entries
    of = {file.path: row for file, row in zip(files, rows, strict=True)}
    others = [entry for entry in entries if not of[entry.path].kind]
    made = _named(_chosen(entries, of, choice), of)
    notes += _report(rows, made, path, choice)
    reasons = Counter([row.reason for row in rows if row.reason] + [_MISSING] * missing)
    known = {entry.class_name for entry in entries} | set(SPLITS)
    _leave_out(reasons, {reason: nameless(files[number].path, known) for reason, number in examples.items()}, account)
    return tuple(sorted([*made, *others], key=lambda entry: entry.file))


def _without_directories(entries: tuple[Entry, ...], read: Callable[[Entry], bytes]) -> tuple[tuple[Entry, ...], int]:
    """Replaces a DICOMDIR, which a table may name, by the files that it lists; and how many of these are missing."""
    made: list[Entry] = []
    missing = 0
    for entry in entries:
        if PurePosixPath(entry.path).name.upper() != "DICOMDIR":
            made.append(entry)
            continue
        for parts in dicom.directory(read(entry), name=entry.path):
            file = str(PurePosixPath(entry.path).parent.joinpath(*parts))
            own = replace(entry, file=file, place="")
            try:
                content = read(own)
                made.append(replace(own, size=len(content), crc=zlib.crc32(content)))
            except UserError:
                missing += 1
    return tuple(made), missing


def _chosen(entries: tuple[Entry, ...], of: dict[str, Listed], choice: str) -> list[Entry]:
    """The chosen slices of each series or volume, each with its frame and patient; still under their own names."""
    labelled = {entry.path for entry in entries if entry.slice >= 0}
    series: dict[tuple[str, str], list[tuple[float, Entry]]] = defaultdict(list)
    for entry in entries:
        row = of[entry.path]
        if not row.kind or row.reason:
            continue
        # Where a table labels slices, a row for their whole volume labels none.
        whole = entry.slice < 0 and len(row.positions) > 1
        if whole and (entry.path in labelled or choice == slices.LABELLED):
            continue
        own = replace(entry, patient=entry.patient or row.patient, place=entry.path)
        series[entry.split, row.series] += [(row.positions[i], replace(own, frame=i)) for i in _frames(entry, row)]
    return [
        members[i][1] for members in series.values() for i in slices.chosen([place for place, _ in members], choice)
    ]


def _frames(entry: Entry, row: Listed) -> range:
    """Which slices of a file an entry is about: all, or the one that a table names by its number in the file, from 0."""
    count = len(row.positions)
    if entry.slice < 0:
        return range(count)
    if entry.slice >= count:
        raise UserError(
            f"a table names slice {entry.slice} of a volume in class {entry.class_name!r}, which has {count}: 0 to {count - 1}"
        )
    number = count - 1 - entry.slice if row.headfirst else entry.slice
    return range(number, number + 1)


def _named(made: list[Entry], of: dict[str, Listed]) -> list[Entry]:
    """The entries under names made of their files' content, and for copies a number."""
    copies: dict[str, dict[str, int]] = defaultdict(dict)
    named = []
    for entry in sorted(made, key=lambda entry: (entry.path, entry.frame)):
        digest = hashlib.sha256(f"{entry.size} {entry.crc}".encode()).hexdigest()[:12]
        number = copies[digest].setdefault(entry.path, len(copies[digest]))
        row = of[entry.path]
        name = f"{digest}-copy{number}" if number else digest
        if row.kind == "nifti" or len(row.positions) > 1:
            name += f"-{entry.frame:04d}"
        folder = "/".join(part for part in (entry.split, entry.class_name) if part)
        named.append(replace(entry, file=f"{folder}/{name}.{'dcm' if row.kind == 'dicom' else 'nii'}"))
    return named


def _report(rows: list[Listed], made: list[Entry], path: str, choice: str) -> list[str]:
    """What was read and what was assumed, in sentences."""
    kept = [row for row in rows if row.kind and not row.reason]
    if not kept:
        return []
    kinds = Counter(row.kind for row in kept)
    files = " and ".join(f"{count:,} {'DICOM' if kind == 'dicom' else 'NIfTI'} files" for kind, count in kinds.items())
    patients = len({entry.patient for entry in made if entry.patient})
    of_all = f" ({choice} of {sum(len(row.positions) for row in kept):,})" if choice != slices.ALL else ""
    lines = [f"{path}: {files}, {len(made):,} axial slices{of_all} of {patients:,} patients."]
    if burned_in := sum(row.burned_in for row in kept):
        lines.append(
            f"Warning: {burned_in:,} files state that text is burned into their pixels; it may name the patient."
        )
    return lines


def _leave_out(reasons: Counter[str], examples: dict[str, str], account: Account) -> None:
    """Counts what is left out, with an example in which no patient is named.

    Raises:
        UserError: files need a decoder that is not installed; leaving them out would train on the rest without a word.
    """
    if needing := [reason for reason in reasons if reason.startswith(dicom.NO_DECODER)]:
        count = sum(reasons[reason] for reason in needing)
        raise UserError(f'{count:,} DICOM files are {needing[0]}: pip install "ctkeras[dicom]"')
    for reason, count in reasons.items():
        account.leave_out(reason, examples.get(reason, ""), count, safe=True)
