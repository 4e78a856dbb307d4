"""Generated slices written as clinical files: DICOM series and NIfTI volumes, of patients who do not exist."""

import io
import itertools
from pathlib import Path

import numpy as np

from ctkeras.data import sources
from ctkeras.data.layout import SPLITS
from ctkeras.data.windows import WINDOWS
from ctkeras.errors import UserError

_THICKNESS = 5.0  # mm


def write(out: Path, form: str, spec: str) -> int:
    """Writes a generated set as SPLIT/CLASS/PATIENT-n: a folder with a DICOM series, or one NIfTI volume.

    Args:
        out: a new folder.
        form: dicom or nifti.
        spec: as `--data` names generated sets; without patients, each slice is of another one.

    Returns:
        The number of slices.

    Raises:
        UserError: nibabel is missing.
    """
    count = 0
    numbers = itertools.count(1)
    for split in SPLITS:
        items = [(entry, content) for entry, content in sources.read(sources.open_source(spec), split)]
        items.sort(key=lambda item: (item[0].class_name, item[0].patient or item[0].file, item[0].file))
        for (label, _), own in itertools.groupby(items, key=lambda i: (i[0].class_name, i[0].patient or i[0].file)):
            slices = np.stack([_hounsfield(content) for _, content in own])
            number = next(numbers)
            place = out / split / label / f"PATIENT-{number:04d}"
            (_dicom if form == "dicom" else _nifti)(slices, place, number)
            count += len(slices)
    return count


def _hounsfield(content: bytes) -> np.ndarray:
    """HU of a generated slice, whose grays are taken for those of the lung window: int16 [H, W]."""
    from PIL import Image

    width, level = WINDOWS["lung"]
    return np.rint(np.asarray(Image.open(io.BytesIO(content)), float) / 255 * width + level - width / 2).astype(
        np.int16
    )


def _dicom(slices: np.ndarray, place: Path, number: int) -> None:
    """Writes a series as scanners do: 12 bits, a rescale intercept, one file per slice."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    place.mkdir(parents=True)
    study, series = (generate_uid(entropy_srcs=[f"ctkeras phantom {number} {kind}"]) for kind in ("study", "series"))
    for index, hu in enumerate(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"ctkeras phantom {number} {index}"])
        one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID, one.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
        one.PatientName, one.PatientID = f"PHANTOM^{number}", f"PHANTOM-{number:04d}"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.InstanceNumber = study, series, index + 1
        one.ImageType, one.ImageOrientationPatient = ["DERIVED", "PRIMARY", "AXIAL"], [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient, one.SliceThickness = [0, 0, _THICKNESS * index], _THICKNESS
        one.Rows, one.Columns = hu.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.RescaleSlope, one.RescaleIntercept = 1, -1350  # the darkest gray is -1350 HU
        one.PixelData = (hu + 1350).astype("<u2").tobytes()
        one.save_as(place / f"IM{index + 1:04d}", enforce_file_format=True)


def _nifti(slices: np.ndarray, place: Path, _: int) -> None:
    """Writes a volume whose axes go left, back, up, as converters of DICOM write them."""
    try:
        import nibabel
    except ImportError as error:
        raise UserError('--as nifti needs nibabel: pip install "ctkeras[nifti]"') from error
    place.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, _THICKNESS, 1.0])
    nibabel.save(nibabel.Nifti1Image(slices.transpose(2, 1, 0), affine), place.with_name(f"{place.name}.nii.gz"))
