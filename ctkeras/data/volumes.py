"""DICOM and NIfTI files among a data set's images: one entry per axial slice, under names that identify nobody."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ctkeras.data import dicom, nifti, threads
from ctkeras.data.layout import Entry
from ctkeras.data.pseudonyms import pseudonyms
from ctkeras.errors import UserError
from ctkeras.runtime import console, stored
from ctkeras.runtime.files import cache_dir

_VERSION = "1"  # raise it when what is listed changes


class _Listed(NamedTuple):
    """One file as the cache keeps it: nothing that identifies anybody."""

    kind: str  # dicom, nifti, or '' for other images
    reason: str  # why it is left out; '' if it is not
    patient: str  # a pseudonym
    series: str  # a pseudonym
    position: float
    frames: int
    burned_in: bool


def expand(entries: tuple[Entry, ...], read: Callable[[Entry], bytes], *, path: str) -> tuple[Entry, ...]:
    """Replaces DICOM and NIfTI files by their axial slices; other entries stay as they are.

    Args:
        entries: as listed; a file's own name identifies a patient, so it becomes `place`, and `file` a hash of its content.
        read: returns a file's bytes.
        path: the data set's, for messages.

    Returns:
        Entries in the order of their files. What is left out is printed with its reason and number.

    Raises:
        UserError: a file is damaged, or none is left.
    """
    if not any(may_be_scan(entry.file) for entry in entries):
        return entries
    rows = _listed(entries, read, path)
    if not any(row.kind for row in rows):
        return entries
    seen: Counter[str] = Counter()
    made: list[Entry] = []
    for entry, row in zip(entries, rows, strict=True):
        if not row.kind:
            made.append(entry)
        elif not row.reason:
            made += _slices(entry, row, seen)
    _report(rows, path)
    if not made:
        raise UserError(f"{path} has no axial slices; see the lines above for what was left out")
    return tuple(sorted(made, key=lambda entry: entry.file))


def may_be_scan(name: str) -> bool:
    """Whether a file's name leaves open that it is DICOM or NIfTI: by its ending, or because it has none."""
    last = name.lower().rpartition("/")[2]
    known = last.endswith((*dicom.ENDINGS, *nifti.ENDINGS))
    return known or "." not in last or last.rpartition(".")[2].isdigit()  # names may be UIDs


def _slices(entry: Entry, row: _Listed, seen: Counter[str]) -> list[Entry]:
    """A file's entries, one per frame."""
    digest = hashlib.sha256(f"{entry.size} {entry.crc}".encode()).hexdigest()[:12]
    seen[digest] += 1
    digest += f"-copy{seen[digest] - 1}" if seen[digest] > 1 else ""
    folder = "/".join(part for part in (entry.split, entry.class_name) if part)
    ending = "dcm" if row.kind == "dicom" else "nii"
    own = replace(entry, place=entry.file, patient=entry.patient or row.patient)
    if row.kind == "dicom" and row.frames == 1:
        return [replace(own, file=f"{folder}/{digest}.{ending}")]
    return [replace(own, file=f"{folder}/{digest}-{i:04d}.{ending}", frame=i) for i in range(row.frames)]


def _report(rows: list[_Listed], path: str) -> None:
    """Prints what was read, what was left out and why, and what was assumed."""
    kinds = Counter(row.kind for row in rows if row.kind and not row.reason)
    slices = sum(row.frames for row in rows if row.kind and not row.reason)
    files = " and ".join(f"{count:,} {'DICOM' if kind == 'dicom' else 'NIfTI'} files" for kind, count in kinds.items())
    patients = len({row.patient for row in rows if row.patient and not row.reason})
    console.note(f"{path}: {files or 'no scans'}, {slices:,} axial slices of {patients:,} patients.")
    if left_out := Counter(row.reason for row in rows if row.reason):
        listed = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        console.note(f"Left out {sum(left_out.values()):,} files: {listed}.")
    if burned_in := sum(row.burned_in for row in rows):
        console.note(
            f"Warning: {burned_in:,} files state that text is burned into their pixels; it may name the patient."
        )


def _listed(entries: tuple[Entry, ...], read: Callable[[Entry], bytes], path: str) -> list[_Listed]:
    """Each file's row, from the cache if the same files were listed before."""
    names = "\n".join(f"{entry.file}\t{entry.size}\t{entry.crc}" for entry in entries)
    key = hashlib.sha256(f"{_VERSION} {stored.FORMAT}\n{pseudonyms(['x'])}\n{names}".encode()).hexdigest()
    cached = cache_dir("listings") / f"{key}.json"
    try:
        return [_Listed(*row) for row in stored.read_json(cached)]
    except FileNotFoundError:
        pass
    except stored.Damaged as damaged:
        stored.quarantine(damaged)
    rows, bar = [], console.Bar("reading headers", len(entries))
    for row in threads.in_threads(lambda item: _row(*item), ((entry, read(entry)) for entry in entries)):
        rows.append(row)
        bar.update(len(rows))
    bar.close()
    patients = pseudonyms([row.patient or row.series for row in rows])
    series = pseudonyms([row.series for row in rows])
    rows = [row._replace(patient=p, series=s) for row, p, s in zip(rows, patients, series, strict=True)]
    stored.write_json(cached, rows)
    return rows


def _row(entry: Entry, content: bytes) -> _Listed:
    """What a file is; still with its own identifiers, which _listed replaces."""
    if dicom.is_dicom(content):
        facts = dicom.facts(content, name="a file")
        return _Listed(
            "dicom", facts.reason, facts.patient, facts.series, facts.position, facts.frames, facts.burned_in
        )
    if nifti.is_nifti(content):
        return _Listed("nifti", "", entry.file, entry.file, 0.0, nifti.slices(content, name="a volume"), False)
    if entry.file.lower().endswith((*dicom.ENDINGS, *nifti.ENDINGS)) or may_be_scan(entry.file):
        return _Listed("dicom", "neither DICOM nor NIfTI inside", "", "", 0.0, 0, False)
    return _Listed("", "", "", "", 0.0, 1, False)
