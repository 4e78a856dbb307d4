"""DICOM and NIfTI: right values, right groups, nothing left out silently, nobody named in anything written."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from image_sets import write_images
from pydicom.data import get_testdata_file
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid
from scan_files import as_bytes, hounsfield, scan

from ctkeras.cli.main import cli
from ctkeras.data import decoded, dicom, images, layout, sources
from ctkeras.data.crop import Preparation
from ctkeras.errors import UserError

NAMES = [f"DOE{number}^JANE" for number in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three splits, two classes, two patients each, two slices each; and files that are left out."""
    root = tmp_path_factory.mktemp("scans") / "set"
    uids = []
    for i, name in enumerate(NAMES):
        split, label = ("train", "valid", "test")[i // 4], ("benign", "malignant")[i % 2]
        series = generate_uid()
        uids.append(series)
        place = root / split / label / name
        place.mkdir(parents=True)
        for k in range(2):
            one = scan(hounsfield(10 * i + k), patient=name, series=series, number=k, position=5.0 * k)
            one.save_as(place / ("IM0001" if k else f"{series}.dcm"), enforce_file_format=True)
    own = root / "train" / "benign" / NAMES[0]
    extra = {"patient": NAMES[0], "series": uids[0]}
    scan(hounsfield(90), **extra, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]).save_as(own / "scout.dcm")
    scan(hounsfield(91), **extra, orientation=(0, 1, 0, 0, 0, -1)).save_as(own / "sagittal.dcm")
    scan(hounsfield(92), **extra, SOPClassUID=SecondaryCaptureImageStorage).save_as(own / "capture.dcm")
    scan(hounsfield(93), **extra, BurnedInAnnotation="YES").save_as(own / "burned.dcm")
    return root, uids


def test_values_are_hounsfield_units_and_the_window_is_linear():
    hu = hounsfield(1)
    content = as_bytes(scan(hu, patient="A", series="1.2"))
    for window, low, width in (
        ("auto", -1350, 1500),
        ("mediastinal", -125, 350),
        ("bone", -500, 1800),
        ("400/40", -160, 400),
    ):
        gray = images.decode_gray(content, name="x", window=window)
        expected = np.clip((hu - low) / width, 0, 1) * 255
        assert np.abs(gray - expected).max() <= 0.51
    three = images.decode_gray(content, name="x", window="three")
    assert three.shape == (*hu.shape, 3)
    for channel, window in enumerate(("lung", "mediastinal", "bone")):
        assert (three[..., channel] == images.decode_gray(content, name="x", window=window)).all()


def test_monochrome1_is_inverted():
    hu = hounsfield(2)
    plain, inverted = (
        images.decode_gray(as_bytes(scan(hu, patient="A", series="1", Modality="DX", **tags)), name="x").astype(int)
        for tags in ({}, {"PhotometricInterpretation": "MONOCHROME1"})
    )
    assert np.abs(plain + inverted - 255).max() <= 1
    assert plain.std() > 10


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"]
)
def test_files_of_other_writers_match_pydicom(name):
    path = get_testdata_file(name)
    read = pydicom.dcmread(path)
    stored = read.pixel_array.astype(float)
    got = images.decode_gray(pathlib.Path(path).read_bytes(), name=name).astype(float)
    if read.Modality == "CT":
        expected = np.clip((stored * float(read.RescaleSlope) + float(read.RescaleIntercept) + 1350) / 1500, 0, 1) * 255
    else:
        expected = np.clip((stored - read.WindowCenter) / read.WindowWidth + 0.5, 0, 1) * 255
    assert np.abs(got - expected).max() <= 1


def test_frames_of_a_multi_frame_file_are_slices():
    content = pathlib.Path(get_testdata_file("examples_ybr_color.dcm")).read_bytes()
    assert len(dicom.facts(content, name="x").positions) == 30
    first, last = (images.decode_gray(content, name="x", frame=i) for i in (0, 29))
    assert first.shape == last.shape == (240, 320) and (first != last).any()


def test_series_become_entries_grouped_by_patient_and_the_rest_is_counted(folder):
    source = sources.open_source(str(folder[0]))
    assert source.images == 25 and len({entry.patient for entry in source.entries}) == 12
    assert all(len({e.patient for e in source.entries if e.split == split}) == 4 for split in layout.SPLITS)
    said = " ".join(sources.sentences(source))
    assert "1 localiser or scout" in said and "1 secondary capture" in said and "1 not axial" in said
    assert "25 axial slices of 12 patients" in said and "burned into" in said
    again = sources.open_source(str(folder[0]))  # from the cache
    assert again == source


def test_fingerprint_does_not_depend_on_the_salt(folder, monkeypatch, tmp_path):
    first = sources.open_source(str(folder[0]))
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path))
    second = sources.open_source(str(folder[0]))
    assert first.fingerprint == second.fingerprint and first.entries[0].patient != second.entries[0].patient


def test_three_windows_reach_the_cache_in_three_channels(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path))
    source = sources.open_source(str(folder[0]))
    split = decoded.load_split(source, "train", 32, Preparation(window="three"))
    gray = decoded.load_split(source, "train", 32, Preparation())
    assert split.images.shape == (9, 32, 32, 3)
    assert (split.images[..., 0] == gray.images).all() and (split.images[..., 0] != split.images[..., 1]).any()


def test_a_damaged_file_is_named_without_its_content(tmp_path):
    content = as_bytes(scan(hounsfield(3), patient="SECRET", series="1.2.3"))[:-900]
    with pytest.raises(UserError, match="damaged") as caught:
        images.decode_gray(content, name="x.dcm")
    assert "SECRET" not in str(caught.value)


@pytest.mark.slow  # seven commands
def test_nothing_written_identifies_anyone(folder, tmp_path):
    """Works as a user does, with W&B offline, then looks for every name, id, date and UID in every file and output."""
    root, uids = folder
    wandb = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path / "wandb-cache")}
    environment = {"CTKERAS_CACHE_DIR": str(tmp_path / "cache")} | wandb
    outputs = []

    def ctkeras(*words, allowed=(0,)):
        command = [sys.executable, "-m", "ctkeras", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment_of(environment), capture_output=True, text=True)
        assert done.returncode in allowed, done.stderr
        outputs.append(done.stdout + done.stderr)
        return done.stdout.splitlines()

    small = ("--model_name", "mobilenet_v2", "--pretrained", "false", "--image_size", "32", "--folds", "0")
    ctkeras("data", "describe", "--data", str(root))
    ctkeras("data", "split", "--data", str(root), "--out", "split.csv", "--report")
    ctkeras("data", "check", "--data", str(root), "--html", "check.html", allowed=(0, 1))
    ctkeras("train", "--data", "split.csv", "--output_dir", "runs", *small)
    run = pathlib.Path(
        ctkeras("train", "--data", str(root), "--output_dir", "runs", "--window", "three", *small)[-1]
    ).parent
    ctkeras("evaluate", str(run), "--split", "test")
    ctkeras("report", "runs")
    assert '"window": "three"' in (tmp_path / run / "contract.json").read_text()
    secrets = [*NAMES, *uids, "JANE", "MRNDOE", "19510203", "20240607"]
    written = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert NAMES[0].encode() in written.pop("split.csv")  # as documented: it says where the files are
    for end in ("predictions.csv", ".wandb", "check.html", "report.html"):
        assert any(place.endswith(end) for place in written), end
    for place, content in [*written.items(), *(("output", text.encode()) for text in outputs)]:
        for secret in secrets:
            assert secret.encode() not in content and secret not in place, (place, secret)


def environment_of(changes):
    import os

    return os.environ | changes


def labelled(root, patients):
    """Two series per split and class in folders, with the PatientID that `patients` gives for a number."""
    for number, (split, label) in enumerate((s, c) for s in layout.SPLITS for c in ("a", "b", "a", "b")):
        place = root / split / label / f"F{number}"
        place.mkdir(parents=True)
        one = scan(hounsfield(number), patient="N^N", series=generate_uid(), PatientID=patients(number))
        one.StudyInstanceUID = generate_uid()
        one.save_as(place / "IM1", enforce_file_format=True)
    return sources.open_source(str(root))


def test_groups_are_patients_or_else_studies(tmp_path):
    assert len({e.patient for e in labelled(tmp_path / "own", lambda number: f"M{number}").entries}) == 12
    assert len({e.patient for e in labelled(tmp_path / "twice", lambda number: f"M{number // 2}").entries}) == 6
    source = labelled(tmp_path / "same", lambda number: "ANONYMOUS")
    assert len({e.patient for e in source.entries}) == 12


@pytest.mark.parametrize("person", ["Meier_Hans", "7734120", "hans.meier-1951"])
def test_a_folder_that_names_a_person_beside_anonymised_headers_is_not_shown(tmp_path, person):
    labelled(tmp_path / "set", str)
    scout = scan(hounsfield(1), patient="ANON1", series="1.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    place = tmp_path / "set" / "train" / "a" / person
    place.mkdir()
    scout.save_as(place / "IM1.dcm", enforce_file_format=True)
    said = " ".join(sources.sentences(sources.open_source(str(tmp_path / "set"))))
    assert "1 localiser or scout (such as train/a/…/IM1.dcm)" in said and person not in said


def test_a_dicomdir_is_read_as_the_files_it_lists_once(tmp_path):
    """By pydicom's own file-sets: named as data it is its folder, named by a table it stands for its files."""
    import shutil

    origin = pathlib.Path(get_testdata_file("DICOMDIR")).parent
    for split in layout.SPLITS:
        for label in ("a", "b"):
            shutil.copytree(origin / "77654033" / "CT2", tmp_path / "set" / split / label / "CT2")
    shutil.copy(origin / "DICOMDIR", tmp_path / "set" / "DICOMDIR")
    folder, index = (sources.open_source(str(tmp_path / "set" / name)) for name in ("", "DICOMDIR"))
    assert folder.images == index.images > 0 and folder.fingerprint == index.fingerprint
    rows = dicom.directory((origin / "DICOMDIR").read_bytes(), name="x")
    assert len(rows) == len(set(rows)) == 31 and all((origin.joinpath(*parts)).is_file() for parts in rows)


def test_images_beside_scans_that_are_all_left_out_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    root = write_images(tmp_path / "set", classes=("a", "b"), counts={"train": 2, "valid": 1, "test": 1}, size=16)
    scout = scan(hounsfield(1), patient="DOE^JANE", series="1.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.save_as(root / "train" / "a" / "scout.dcm", enforce_file_format=True)
    (root / "train" / "doe-jane.txt").write_text("x")
    source = sources.open_source(str(root))
    assert source.images == 8
    assert {(row.reason, row.files) for row in source.left_out} == {("localiser or scout", 1), ("ending in .txt", 1)}
    assert "doe" not in str(source.left_out)


def test_a_scan_damaged_inside_its_pixels_is_named_with_its_place_only_where_asked(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    root = tmp_path / "set"
    shutil.copytree(folder[0], root)
    path = next((root / "train" / "malignant").rglob("*.dcm"))
    broken = pydicom.dcmread(path)
    broken.compress(pydicom.uid.RLELossless, encoding_plugin="pydicom")
    broken.PixelData = broken.PixelData[:40] + b"\xff" * 200 + broken.PixelData[240:]
    broken.save_as(path)
    with pytest.raises(UserError, match=r"1 of .* cannot be read: train/malignant/[0-9a-f]{12}\.dcm is a damaged"):
        decoded.load_split(sources.open_source(str(root)), "train", 24, Preparation())
    said = {
        words: CliRunner().invoke(cli, ["data", "check", "--data", str(root), *words]) for words in ((), ("--paths",))
    }
    assert path.parent.name not in said[()].output
    assert f"is {path}\n" in said["--paths",].output
