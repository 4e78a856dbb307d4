"""What each DICOM or NIfTI file of a data set is, read once and cached without anything that identifies anybody."""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ctkeras.data import dicom, nifti, threads
from ctkeras.data.layout import Entry
from ctkeras.data.pseudonyms import pseudonyms
from ctkeras.errors import UserError
from ctkeras.runtime import console, stored
from ctkeras.runtime.files import cache_dir

_VERSION = "3"  # raise it when what is listed changes
_SHORTEST = 3  # characters of a patient's name or number that are searched for in paths
_BIDS = re.compile(
    r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[_/.])"
)  # how BIDS names a subject (bids-specification.readthedocs.io)


class Listed(NamedTuple):
    """One file as the cache keeps it: nothing that identifies anybody."""

    kind: str  # dicom, nifti, or '' for other images
    reason: str  # why it is left out; '' if it is not
    patient: str  # a pseudonym; '' where a table has to say
    series: str  # a pseudonym
    positions: tuple[float, ...]  # of each slice along the body
    burned_in: bool
    headfirst: bool = False  # a volume whose file counts its slices from the head, against ours


class _Read(NamedTuple):
    """A file's row with its own identifiers, which `listed` replaces."""

    row: Listed
    study: str
    names: tuple[str, ...]  # all that identifies its patient


def listed(entries: Sequence[Entry], read: Callable[[Entry], bytes]) -> tuple[list[Listed], dict[str, int]]:
    """Each file's row, from the cache if the same files were listed before.

    Args:
        entries: one per file.
        read: returns a file's bytes.

    Returns:
        The rows, and for each reason the number of a file whose path names no patient, if there is one.

    Raises:
        UserError: the cache cannot be written, or nibabel is missing.
    """
    names = "\n".join(f"{entry.path}\t{entry.size}\t{entry.crc}" for entry in entries)
    key = hashlib.sha256(f"{_VERSION}\n{pseudonyms(['x'])}\n{names}".encode()).hexdigest()[:32]
    cached = cache_dir("listings") / f"{key}.json"
    if (known := stored.find_json(cached)) is not None:
        return [Listed(*row)._replace(positions=tuple(row[4])) for row in known["rows"]], known["examples"]
    found: list[_Read] = []
    bar = console.Bar("reading headers", len(entries))
    for row in threads.in_threads(lambda item: _read(*item), ((entry, read(entry)) for entry in entries)):
        found.append(row)
        bar.update(len(found))
    bar.close()
    rows, examples = _anonymous(found), _examples(entries, found)
    stored.write_json(cached, {"rows": rows, "examples": examples})
    return rows, examples


def _anonymous(found: list[_Read]) -> list[Listed]:
    """The rows with pseudonyms: of the patient, or else the study, or else the series."""
    scans = [one for one in found if one.row.kind == "dicom" and not one.row.reason]
    studies = {one.study for one in scans}
    shared = len({one.row.patient for one in scans}) == 1 and len(studies) > 1
    if shared and scans[0].row.patient:
        console.note(
            f"All DICOM files state the same patient, so their {len(studies):,} studies are the groups instead."
        )
    patients = pseudonyms([_patient(one, shared=shared) for one in found])
    series = pseudonyms([one.row.series for one in found])
    return [one.row._replace(patient=p, series=s) for one, p, s in zip(found, patients, series, strict=True)]


def _patient(one: _Read, *, shared: bool) -> str:
    """What stands for a file's patient: identifies a person."""
    own = "" if shared and one.row.kind == "dicom" else one.row.patient
    return own or one.study or one.row.series


def _examples(entries: Sequence[Entry], found: list[_Read]) -> dict[str, int]:
    """For each reason the number of a file whose path holds no name, number or UID of any patient of the set."""
    names = {name.casefold() for one in found for name in one.names if len(name) >= _SHORTEST}
    examples: dict[str, int] = {}
    for number, (entry, one) in enumerate(zip(entries, found, strict=True)):
        reason, path = one.row.reason, entry.path.casefold()
        if reason and reason not in examples and one.names and not any(name in path for name in names):
            examples[reason] = number
    return examples


def _read(entry: Entry, content: bytes) -> _Read:
    """What a file is."""
    if dicom.is_dicom(content):
        try:
            facts = dicom.facts(content, name="a file")
        except UserError:
            return _Read(_left_out("dicom", "damaged"), "", ())
        row = Listed("dicom", facts.reason, facts.patient, facts.series, facts.positions, facts.burned_in)
        return _Read(row, facts.study, facts.names)
    if nifti.is_nifti(content):
        try:
            count, headfirst = nifti.facts(content, name="a volume")
        except nifti.Damaged as error:
            return _Read(_left_out("nifti", error.reason), "", ())
        subject = match[1] if (match := _BIDS.search(entry.path)) else entry.path
        row = Listed("nifti", "", subject, entry.path, tuple(range(count)), False, headfirst)
        return _Read(row, "", (subject,))
    if entry.path.lower().endswith((*dicom.ENDINGS, *nifti.ENDINGS)) or may_be_scan(entry.path):
        return _Read(_left_out("dicom", "neither DICOM nor NIfTI inside"), "", ())
    return _Read(Listed("", "", "", "", (0.0,), False), "", ())


def may_be_scan(name: str) -> bool:
    """Whether a file's name leaves open that it is DICOM or NIfTI: by its ending, or because it has none."""
    last = name.lower().rpartition("/")[2]
    known = last.endswith((*dicom.ENDINGS, *nifti.ENDINGS))
    return known or "." not in last or last.rpartition(".")[2].isdigit()  # names may be UIDs


def _left_out(kind: str, reason: str) -> Listed:
    return Listed(kind, reason, "", "", (), False)
