"""DICOM files of other writers: each is right within one gray level of pydicom's own steps, or left out with a reason."""

import gzip
import io
import pathlib
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing, pixel_array
from pydicom.uid import RLELossless
from scan_files import as_bytes, hounsfield, scan

from ctkeras.data import dicom, images
from ctkeras.errors import UserError

# Of pydicom's own files, those whose pixels pydicom with GDCM cannot decode either.
UNDECODED = {"JPEG-lossy.dcm", "JPGExtended.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "MR_truncated.dcm"}
PERFUSION = "eCT_Supplemental.dcm"  # whose gray range is in functional groups, which pydicom's steps do not read


def reference(path):
    """Grays float [H, W] of a file's first frame, by pydicom's steps alone: modality, window, photometric interpretation."""
    one = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in one.file_meta:
        one.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    stored = pixel_array(one, index=0)
    if one.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, one)
    if stored.ndim == 3:
        return stored / np.iinfo(stored.dtype).max * 255 @ [0.299, 0.587, 0.114]
    shown = apply_modality_lut(stored, one).astype(float)
    if one.get("Modality") == "CT":
        gray = np.clip((shown + 1350) / 1500, 0, 1) * 255
    else:
        low, high = (
            (-(2 ** (one.BitsStored - 1)), 2 ** (one.BitsStored - 1) - 1)
            if one.PixelRepresentation
            else (0, 2**one.BitsStored - 1)
        )
        if "RescaleSlope" in one:
            low, high = low * one.RescaleSlope + one.RescaleIntercept, high * one.RescaleSlope + one.RescaleIntercept
        if "ModalityLUTSequence" in one:
            low, high = 0, 2 ** one.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        if "VOILUTSequence" in one:
            shown, low, high = apply_voi_lut(shown.astype(int), one), 0, 2 ** one.VOILUTSequence[0].LUTDescriptor[2] - 1
        elif one.get("WindowWidth"):
            shown = apply_windowing(shown, one)
        gray = np.clip((shown - low) / (high - low), 0, 1) * 255
    return 255 - gray if one.PhotometricInterpretation == "MONOCHROME1" else gray


def compare(files):
    """How many files were compared with the reference, how many are left out per reason, and which nobody decodes."""
    compared, reasons, undecoded = 0, {}, set()
    for file in sorted(files):
        if file.is_dir() or file.suffix in (".py", ".pyc") or not dicom.is_dicom(content := file.read_bytes()):
            continue
        try:
            reason = dicom.facts(content, name=file.name).reason
        except UserError:
            reason = "damaged"
        reasons[reason] = reasons.get(reason, 0) + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "Rows" not in pydicom.dcmread(file, force=True) or reason == "damaged" or file.name == PERFUSION:
                continue
            try:  # also files that are left out for what they show
                gray = images.decode_gray(content, name=file.name)
            except UserError:
                undecoded.add(file.name)
                continue
            assert np.abs(gray - reference(file)).max() <= 1, file.name
        compared += 1
    return compared, reasons, undecoded


def test_files_of_pydicom_are_right_or_left_out_with_a_reason():
    compared, reasons, undecoded = compare((pathlib.Path(pydicom.__file__).parent / "data/test_files").rglob("*"))
    assert compared > 60 and reasons[""] > 20
    expected = {"localiser or scout", "secondary capture", "not axial", "structured report", "DICOM without pixels"}
    assert {*expected, "truncated", "damaged"} <= set(reasons)
    assert undecoded == UNDECODED


@pytest.mark.slow  # large files
def test_files_of_the_package_pydicom_data_are_right_or_left_out_with_a_reason():
    package = pytest.importorskip("data_store")
    compared, _, undecoded = compare((pathlib.Path(package.__file__).parent / "data").rglob("*"))
    assert compared > 60
    assert not undecoded


@pytest.mark.parametrize("bits", [(8, 8), (16, 12), (16, 16)])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", ["plain", "big", "rle"])
def test_depths_signs_and_syntaxes_give_the_same_hounsfield_units(bits, signed, kind):
    allocated, stored = bits
    hu = hounsfield(5)
    slope = 1 if stored > 8 else 8
    intercept = (0 if stored > 8 else 100) if signed else -1024
    numbers = np.rint((hu - intercept) / slope).astype(f"{'i' if signed else 'u'}{allocated // 8}")
    one = scan(hu, patient="A", series="1.2", BitsAllocated=allocated, BitsStored=stored, HighBit=stored - 1)
    one.PixelRepresentation, one.RescaleSlope, one.RescaleIntercept = int(signed), slope, intercept
    one.PixelData = numbers.astype(
        numbers.dtype.newbyteorder(">" if kind == "big" and allocated > 8 else "<")
    ).tobytes()
    if kind == "rle":
        one["PixelData"].VR = "OW"
        one.compress(RLELossless, numbers)
    file = io.BytesIO()
    if kind == "big":
        one["PixelData"].VR = "OB" if allocated == 8 else "OW"
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        meta, plain = one.file_meta, pydicom.Dataset()
        plain.update(one)  # forgets that it was made in little endian
        one, plain.file_meta, plain.preamble = plain, meta, b"\0" * 128
    one.save_as(file, enforce_file_format=True)
    assert dicom.facts(file.getvalue(), name="x").reason == ""
    gray = images.decode_gray(file.getvalue(), name="x")
    expected = np.clip((numbers.astype(float) * slope + intercept + 1350) / 1500, 0, 1) * 255
    assert np.abs(gray - expected).max() <= 1 and gray.std() > 20


def test_without_preamble_and_meta_information_a_file_is_still_recognised():
    whole = as_bytes(scan(hounsfield(6), patient="A", series="1.2"))
    bare = whole[whole.index(b"\x08\x00\x08\x00CS") :]  # from the first tag of the data set on
    assert dicom.is_dicom(bare) and dicom.is_dicom(whole[132:])
    expected = images.decode_gray(whole, name="x")
    assert (images.decode_gray(bare, name="x") == expected).all()
    for other in (b"\x89PNG\r\n\x1a\n" + bytes(140), b"BM" + bytes(140), gzip.compress(whole), b"II*\x00" + bytes(140)):
        assert not dicom.is_dicom(other)


def test_a_truncated_or_damaged_file_has_a_reason():
    whole = as_bytes(scan(hounsfield(7), patient="A", series="1.2"))
    compressed = scan(hounsfield(7), patient="A", series="1.2")
    compressed.compress(RLELossless)
    assert dicom.facts(whole[:-100], name="x").reason == dicom.TRUNCATED
    assert dicom.facts(whole[: whole.index(b"\xe0\x7f\x10\x00")], name="x").reason == dicom.TRUNCATED
    assert dicom.facts(as_bytes(compressed)[:-300], name="x").reason == dicom.TRUNCATED


def test_a_missing_decoder_is_named(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    one = scan(hounsfield(8), patient="A", series="1.2")
    one.compress(RLELossless)
    content = as_bytes(one)
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    assert dicom.facts(content, name="x").reason == f"{dicom.NO_DECODER} (RLE Lossless)"
    monkeypatch.setattr(
        Decoder, "_validate_plugins", lambda self, plugin="": (_ for _ in ()).throw(RuntimeError("none"))
    )
    with pytest.raises(UserError, match=r'RLE Lossless.*pip install "ctkeras\[dicom\]"'):
        images.decode_gray(content, name="x")


def test_the_first_window_of_a_file_is_by_the_formula_of_the_standard():
    numbers = np.arange(48 * 48).reshape(48, 48) % 4096
    for function, low, high in (("LINEAR", 950, 1049), ("LINEAR_EXACT", 950, 1050)):
        one = scan(
            numbers - 1024,
            patient="A",
            series="1",
            Modality="MR",
            WindowWidth=100,
            WindowCenter=1000,
            RescaleIntercept=0,
        )
        one.VOILUTFunction = function
        gray = images.decode_gray(as_bytes(one), name="x")
        assert np.abs(gray - np.clip((numbers - low) / (high - low), 0, 1) * 255).max() <= 1
        one.PhotometricInterpretation = "MONOCHROME1"
        assert (images.decode_gray(as_bytes(one), name="x").astype(int) + gray == 255).all()


def test_computed_tomography_of_monochrome1_is_windowed_in_hounsfield_units_and_inverted():
    plain, inverted = (
        images.decode_gray(as_bytes(scan(hounsfield(9), patient="A", series="1", **tags)), name="x", window="bone")
        for tags in ({}, {"PhotometricInterpretation": "MONOCHROME1"})
    )
    assert (inverted == 255 - plain).all() and plain.std() > 10


@pytest.mark.slow  # highdicom takes 3 s to import
def test_an_enhanced_file_has_the_slices_of_the_series_it_was_converted_from():
    """Rescale, position and orientation are stated per frame, and frames are not in the order of their positions."""
    highdicom = pytest.importorskip("highdicom")
    slopes = (1, 2, 4)
    series = [
        scan(
            hounsfield(k),
            patient="DOE^JANE",
            series="1.2.3",
            number=k,
            position=(20, 0, 10)[k - 1],
            RescaleSlope=slopes[k - 1],
        )
        for k in (1, 2, 3)
    ]
    for one in series:
        one.PatientSex, one.StudyID, one.AccessionNumber, one.StudyTime, one.SeriesNumber = "F", "1", "1", "120000", 1
        one.PatientBirthDate, one.ReferringPhysicianName, one.FrameOfReferenceUID = "19510203", "", "1.2.4"
        one.PixelSpacing, one.SliceThickness, one.KVP = [1, 1], 5, 120
        one.PatientPosition, one.AcquisitionNumber = "HFS", 1
    made = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        series, series_instance_uid="1.2.5", series_number=2, sop_instance_uid="1.2.6", instance_number=1
    )
    content = as_bytes(made)
    facts = dicom.facts(content, name="x")
    assert facts.reason == "" and facts.patient == "MRNDOE^JANE" and sorted(facts.positions) == [0, 10, 20]
    where = {place: frame for frame, place in enumerate(facts.positions)}
    for one, slope in zip(series, slopes, strict=True):
        gray = images.decode_gray(content, name="x", frame=where[one.ImagePositionPatient[2]])
        expected = np.clip((one.pixel_array * float(slope) - 1024 + 1350) / 1500, 0, 1) * 255
        assert np.abs(gray - expected).max() <= 1
