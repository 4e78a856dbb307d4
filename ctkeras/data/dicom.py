"""DICOM files: what a header says, which files are left out, and the values of a slice."""

import io
import warnings
from typing import Any, NamedTuple

import numpy as np

from ctkeras.data.windows import Values
from ctkeras.errors import UserError

ENDINGS = (".dcm", ".dicom", ".ima")
AXIAL = 0.8  # least share of the normal along the body, the cosine of 37 degrees: gantry tilt is under 30
_SCOUT = ("localizer", "localiser", "scout", "topogram", "surview")
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # UID of Secondary Capture; multi-frame ones begin with it
_TAGS = (
    *("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"),
    *("ImageType", "SeriesDescription", "ImageOrientationPatient", "ImagePositionPatient", "InstanceNumber"),
    *("NumberOfFrames", "Rows", "BurnedInAnnotation", "SharedFunctionalGroupsSequence", "Modality"),
    "PerFrameFunctionalGroupsSequence",
)


class Facts(NamedTuple):
    """What listing needs to know of a DICOM file. The names and UIDs must never be written."""

    reason: str  # why the file is left out; '' if it is not
    patient: str  # PatientID, or else PatientName; identifies a person
    series: str  # SeriesInstanceUID; identifies a person
    position: float  # mm along the body, or the instance number where the file states no position
    frames: int
    burned_in: bool  # the file says that text is burned into its pixels


def is_dicom(content: bytes) -> bool:
    """Whether a file begins as DICOM does: the magic DICM after 128 bytes, or, without them, an early group of tags."""
    return content[128:132] == b"DICM" or content[:4] in (b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def facts(content: bytes, *, name: str) -> Facts:
    """Reads a DICOM file's header.

    Args:
        content: the file.
        name: what an error calls it.

    Raises:
        UserError: it is damaged.
    """
    header = _read(content, name=name, specific_tags=list(_TAGS), stop_before_pixels=True)
    frames = int(header.get("NumberOfFrames") or 1)
    orientation, position = _plane(header)
    normal = None if orientation is None else np.cross(orientation[:3], orientation[3:])
    place = float(header.get("InstanceNumber") or 0)
    if normal is not None and position is not None:
        place = float(normal @ position)
    patient = str(header.get("PatientID") or header.get("PatientName") or "")
    burned_in = str(header.get("BurnedInAnnotation") or "").upper() == "YES"
    reason = _reason(header, normal)
    return Facts(reason, patient, str(header.get("SeriesInstanceUID") or ""), place, frames, burned_in)


def _reason(header: Any, normal: np.ndarray | None) -> str:
    """Why a file is not an axial slice; '' if it is."""
    kinds = header.get("ImageType") or ()
    text = " ".join([*(kinds if not isinstance(kinds, str) else [kinds]), str(header.get("SeriesDescription") or "")])
    if "Rows" not in header:
        return "DICOM without pixels"
    if str(header.get("Modality") or "") in ("SEG", "RTDOSE", "RTSTRUCT", "PR", "SR"):
        return "DICOM that is not an image"
    if any(word in text.lower() for word in _SCOUT):
        return "localiser or scout"
    if str(header.get("SOPClassUID") or "").startswith(_SECONDARY):
        return "secondary capture"
    if normal is not None and abs(normal[2]) < AXIAL:
        return "not axial"
    return ""


def _plane(header: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Orientation float [6] and position float [3] of a file, or of the first frame of an enhanced one."""
    found: dict[str, np.ndarray | None] = {}
    groups = [*(header.get("PerFrameFunctionalGroupsSequence") or [])[:1]]
    groups += [*(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    for key, sequence, length in (
        ("ImageOrientationPatient", "PlaneOrientationSequence", 6),
        ("ImagePositionPatient", "PlanePositionSequence", 3),
    ):
        value = header.get(key)
        for group in groups:
            value = value or next((item.get(key) for item in group.get(sequence) or []), None)
        found[key] = np.array(value, float) if value is not None and len(value) == length else None
    return found["ImageOrientationPatient"], found["ImagePositionPatient"]


def values(content: bytes, *, name: str, frame: int = 0) -> Values:
    """Decodes one frame: HU for CT, by its rescale slope and intercept; MONOCHROME1 is inverted; colour becomes gray.

    Args:
        content: the file.
        name: what an error calls it.
        frame: from 0.

    Raises:
        UserError: it is damaged, or its compression needs a package that is not installed.
    """
    dataset = _read(content, name=name)
    array = _frame(dataset, name, frame)
    if array.ndim == 3:
        from PIL import Image

        top = float(np.iinfo(array.dtype).max)
        eight = array if array.dtype == np.uint8 else (array / (top / 255)).astype(np.uint8)
        return Values(np.asarray(Image.fromarray(eight).convert("L")), (0.0, 255.0))
    slope, intercept = _rescale(dataset, frame)
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    if dataset.get("Modality") == "CT" and not inverted:
        return Values(array.astype(np.float32) * slope + intercept, None)
    bits = int(dataset.get("BitsStored") or 8 * array.dtype.itemsize)
    signed = bool(dataset.get("PixelRepresentation"))
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    width, level = _first(dataset.get("WindowWidth")), _first(dataset.get("WindowCenter"))
    shown = array.astype(np.float32) * slope + intercept
    low, high = low * slope + intercept, high * slope + intercept
    if width and level is not None:
        low, high = level - width / 2, level + width / 2
    return Values(low + high - shown, (low, high)) if inverted else Values(shown, (low, high))


def _frame(dataset: Any, name: str, frame: int) -> np.ndarray:
    """One frame as stored, [H, W] or RGB [H, W, 3]."""
    from pydicom.pixels import apply_color_lut, pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = pixel_array(dataset, index=frame)
        if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            return apply_color_lut(array, dataset)
        return array
    except Exception as error:  # pydicom and its decoders raise many types
        text = " ".join(str(error).split())
        if "missing" in text or "plugins" in text or "Unable to decompress" in text:
            kind = dataset.file_meta.get("TransferSyntaxUID")
            kind = kind.name if kind is not None else "unknown"
            raise UserError(
                f'{name} is compressed ({kind}), which needs a decoder: pip install "ctkeras[dicom]"'
            ) from error
        raise UserError(f"{name} is a damaged DICOM file ({type(error).__name__}); remove it") from error


def _rescale(dataset: Any, frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame; enhanced files state them in functional groups."""
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    groups += list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    transformed = [item for group in groups for item in group.get("PixelValueTransformationSequence") or []]
    for holder in (*transformed, dataset):
        if (slope := holder.get("RescaleSlope")) is not None:
            return float(slope), float(holder.get("RescaleIntercept") or 0)
    return 1.0, 0.0


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    if value is None or value == "":
        return None
    return float(value[0]) if hasattr(value, "__len__") and not isinstance(value, str) else float(value)


def _read(content: bytes, *, name: str, **options: Any) -> Any:
    """Reads a data set; values that its header states wrongly are left as they are."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(io.BytesIO(content), force=True, **options)
    except Exception as error:  # pydicom raises many types; their texts can hold values of the header
        raise UserError(f"{name} is a damaged DICOM file ({type(error).__name__}); remove it") from error
