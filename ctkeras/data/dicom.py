"""DICOM files: how they are recognised, what a header says, and which files are left out and why."""

import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ctkeras.errors import UserError

ENDINGS = (".dcm", ".dicom", ".ima")
AXIAL = 0.8  # least share of the normal along the body, the cosine of 37 degrees: gantry tilt is under 30
NO_DECODER = "compressed in a way that needs a decoder"  # which the extra has
TRUNCATED = "truncated"
_SCOUT = ("localizer", "localiser", "scout", "topogram", "surview")
_SCREENS = ("dose report", "dose info", "patient protocol", "screen save", "screensave")  # pictures of text
# Storage classes by the beginning of their UIDs (PS3.6, table A-1).
_DIRECTORY = "1.2.840.10008.1.3.10"
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # multi-frame ones begin with it
_REPORT = "1.2.840.10008.5.1.4.1.1.88."
_DOSE = ("1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.68")
_NO_IMAGES = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "SR", "KO", "REG", "DOC")
_PYDICOM = r"pydicom\."  # modules whose warnings are dropped
_DEEP_JPEG = "1.2.840.10008.1.2.4.51"  # of 12 bits, pydicom's plugins of Pillow and GDCM read none
_TAGS = (
    *("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "ImageType"),
    *("SeriesDescription", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber", "BurnedInAnnotation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DirectoryRecordSequence"),
    # What the length of the pixels follows from.
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)


class Facts(NamedTuple):
    """What listing needs to know of a DICOM file. The names and UIDs must never be written."""

    reason: str  # why the file is left out; '' if it is not
    patient: str  # PatientID, or else PatientName; identifies a person
    study: str  # StudyInstanceUID; identifies a person
    series: str  # SeriesInstanceUID; identifies a person
    positions: tuple[float, ...]  # of each frame: mm along the body, or its number where the file states no position
    burned_in: bool  # the file says that text is burned into its pixels
    names: tuple[str, ...]  # all values by which a path could identify the patient


def is_dicom(content: bytes) -> bool:
    """Whether a file begins as DICOM does: the magic DICM after 128 bytes, or, without it, a tag of an early group.

    PS3.10 requires the magic, but older files begin with their first tag: of group 2 or 8, little or big endian, followed by
    two letters (its value representation) or by a length below 1,024 bytes.
    """
    if content[128:132] == b"DICM":
        return True
    if content[:2] in (b"\x08\x00", b"\x02\x00") and content[3:4] in (b"\x00", b"\x01"):
        length = int.from_bytes(content[4:8], "little")
    elif content[:2] in (b"\x00\x08", b"\x00\x02") and content[2:3] in (b"\x00", b"\x01"):
        length = int.from_bytes(content[4:8], "big")
    else:
        return False
    letters = content[4:6]
    return len(content) > 8 and (length < 1024 or (letters.isalpha() and letters.isupper()))


def facts(content: bytes, *, name: str) -> Facts:
    """Reads what a DICOM file says about itself; its pixels are not decoded.

    Args:
        content: the file.
        name: what an error calls it.

    Raises:
        UserError: it is damaged.
    """
    header = read(content, name=name, specific_tags=list(_TAGS))
    if "Rows" not in header:  # pydicom forgets all that it has read where compressed pixels end too early
        header = read(content, name=name, specific_tags=list(_TAGS), stop_before_pixels=True)
    try:
        frames = int(header.get("NumberOfFrames") or 1)
        planes = list(_planes(header, frames))
        number = float(header.get("InstanceNumber") or 0)
        patient = str(header.get("PatientID") or header.get("PatientName") or "").strip()
        study, series = (str(header.get(key) or "") for key in ("StudyInstanceUID", "SeriesInstanceUID"))
        reason = _reason(header, [normal for normal, _ in planes]) or _unreadable(header, frames)
        places = tuple(number + i if place is None else place for i, (_, place) in enumerate(planes))
        burned_in = str(header.get("BurnedInAnnotation") or "").upper() == "YES"
        names = [str(header.get("PatientID") or ""), *re.split(r"[\^= ,]+", str(header.get("PatientName") or ""))]
        return Facts(reason, patient, study, series, places, burned_in, tuple({*names, study, series} - {""}))
    except UserError:
        raise
    except Exception as error:  # values that are not what their tags require raise many types, on access
        raise damaged(name, error) from error


def directory(content: bytes, *, name: str) -> list[tuple[str, ...]]:
    """The files that a DICOMDIR lists, each as the parts of its path from the folder of the DICOMDIR.

    Raises:
        UserError: it is damaged.
    """
    records = read(content, name=name).get("DirectoryRecordSequence") or []
    found = [record.get("ReferencedFileID") for record in records]
    parts = [(one,) if isinstance(one, str) else tuple(one) for one in found if one]
    return list(dict.fromkeys(parts))


def _reason(header: Any, normals: list[np.ndarray | None]) -> str:
    """Why a file is not an axial slice by its header; '' if it is."""
    kind = str(header.get("SOPClassUID") or "")
    modality = str(header.get("Modality") or "")
    if "DirectoryRecordSequence" in header or header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
        return "DICOMDIR (the files it lists are read by themselves)"
    if kind.startswith(_REPORT):
        return "dose report" if kind in _DOSE else "structured report"
    if "Rows" not in header:
        return "DICOM without pixels"
    if modality in _NO_IMAGES:
        return "DICOM that is not an image"
    kinds = " ".join(_kinds(header)).lower()
    text = f"{kinds} {header.get('SeriesDescription') or ''}".lower()
    if any(word in (kinds if "axial" in kinds else text) for word in _SCOUT):
        return "localiser or scout"
    if any(word in text for word in _SCREENS):
        return "dose report"
    if kind.startswith(_SECONDARY):
        return "secondary capture"
    if "perfusion" in kinds and "derived" in kinds:
        return "map of perfusion"
    if any(normal is not None and abs(normal[2]) < AXIAL for normal in normals):
        return "not axial"
    return ""


def _kinds(header: Any) -> list[str]:
    """The words of ImageType, and of the first frame's type in enhanced files."""
    words = [header.get("ImageType")]
    for group in _groups(header, 0):
        for sequence in ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence"):
            words += [item.get("FrameType") for item in group.get(sequence) or []]
    return [str(one) for word in words if word for one in ([word] if isinstance(word, str) else word)]


def _unreadable(header: Any, frames: int) -> str:
    """Why the pixels cannot be decoded as far as their length and compression say; '' if they can be."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder
    from pydicom.pixels.utils import get_expected_length

    stored = next(
        (header.get(key) for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if key in header), None
    )
    if not stored:
        return TRUNCATED
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed or not syntax.is_encapsulated:
        return TRUNCATED if len(stored) < get_expected_length(header) else ""
    if syntax == _DEEP_JPEG and int(header.get("BitsStored") or 8) > 8:
        return "compressed in a way that no decoder reads (JPEG of 12 bits)"
    try:
        if not get_decoder(syntax).is_available:
            return f"{NO_DECODER} ({syntax.name})"
    except NotImplementedError:
        return f"compressed in a way that no decoder reads ({syntax.name})"
    try:
        parts = sum(1 for _ in generate_frames(stored, number_of_frames=frames))
    except (ValueError, EOFError, IndexError):
        parts = 0
    return TRUNCATED if parts < frames else ""


def _planes(header: Any, frames: int) -> Iterator[tuple[np.ndarray | None, float | None]]:
    """Yields each frame's normal, float [3], and its place along it in mm; None where the file does not state them."""
    for frame in range(frames):
        plane, corner = (
            stated(header, frame, key, sequence)
            for key, sequence in (
                ("ImageOrientationPatient", "PlaneOrientationSequence"),
                ("ImagePositionPatient", "PlanePositionSequence"),
            )
        )
        if plane is None or len(plane) != 6:
            yield None, None
            continue
        normal = np.cross(np.array(plane[:3], float), np.array(plane[3:], float))
        upwards = normal if normal[2] >= 0 else -normal  # so that places rise from feet to head
        place = float(upwards @ np.array(corner, float)) if corner is not None and len(corner) == 3 else None
        yield normal, place


def stated(header: Any, frame: int, key: str, sequence: str) -> Any:
    """A value of a frame: of its functional group in enhanced files, of the shared one, or of the file; None if unstated."""
    for group in _groups(header, frame):
        for item in group.get(sequence) or []:
            if (value := item.get(key)) not in (None, ""):
                return value
    value = header.get(key)
    return None if value == "" else value


def _groups(header: Any, frame: int) -> list[Any]:
    """The functional groups of a frame, its own before the shared one; [] in files that have none."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    return [*list(own)[frame : frame + 1], *list(header.get("SharedFunctionalGroupsSequence") or [])[:1]]


def read(content: bytes, *, name: str, **options: Any) -> Any:
    """Reads a data set; values that its header states wrongly are left as they are.

    Args:
        content: the file.
        name: what an error calls it.
        **options: of pydicom.dcmread.

    Raises:
        UserError: it is damaged.
    """
    import pydicom

    _hush()
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True, **options)
        if (
            "TransferSyntaxUID" not in dataset.file_meta
        ):  # files without preamble and meta information are not compressed
            implicit, little = dataset.original_encoding
            plain = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
            dataset.file_meta.TransferSyntaxUID = plain if little else pydicom.uid.ExplicitVRBigEndian
        return dataset
    except Exception as error:  # pydicom raises many types; their texts can hold values of the header
        raise damaged(name, error) from error


def damaged(name: str, error: Exception) -> UserError:
    """The message for a damaged file, without the error's text, which can hold values of the header."""
    return UserError(f"{name} is a damaged DICOM file ({type(error).__name__}); remove it")


def _hush() -> None:
    """Drops pydicom's warnings, which can quote values of the header, by a permanent filter: swapping is not thread-safe."""
    import logging

    filters = warnings.filters
    if not any(one[0] == "ignore" and getattr(one[3], "pattern", "") == _PYDICOM for one in filters[:3]):
        warnings.filterwarnings("ignore", module=_PYDICOM)
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)
