"""DICOM files as scanners write them, of patients who do not exist."""

import io

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def scan(hu, *, patient, series, number=0, position=0.0, orientation=(1, 0, 0, 0, 1, 0), **tags):
    """One CT slice as a scanner writes it: uint16, intercept -1024."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID, one.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    one.PatientName, one.PatientID, one.PatientBirthDate = patient, f"MRN{patient}", "19510203"
    one.StudyInstanceUID, one.SeriesInstanceUID, one.StudyDate = f"{series[:60]}.1", series, "20240607"
    one.ImageType, one.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "Thorax"
    one.InstanceNumber, one.ImagePositionPatient = number, [0, 0, position]
    one.ImageOrientationPatient = list(orientation)
    one.Rows, one.Columns = hu.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelData = (hu + 1024).astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(one, name, value)
    return one


def hounsfield(seed, size=48):
    """A bright body in air, with noise: int [H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    return np.where(x**2 + y**2 < 0.14, rng.integers(-900, 300, (size, size)), -1000)


def as_bytes(one):
    file = io.BytesIO()
    one.save_as(file, enforce_file_format=True)
    return file.getvalue()
