"""A whole study from DICOM to the report in one command, and nothing that it writes identifies anyone."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
from pydicom.uid import generate_uid
from scan_files import hounsfield, scan

SLICES = 4


def write_patients(root):
    """Writes 24 patients in three splits and two classes, in folders named after them; returns all that identifies them."""
    secrets = set()
    for number in range(24):
        split, label = ("train", "train", "valid", "test")[number // 6], ("benign", "malignant")[number % 2]
        name, mrn, series = f"QUENDT{number:02d}^MILVA", f"MRN77{number:02d}42", generate_uid()
        place = root / split / label / mrn / name.replace("^", "_")
        place.mkdir(parents=True)
        for k in range(SLICES):
            one = scan(
                hounsfield(50 * number + k) + 200 * (number % 2),
                patient=name,
                series=series,
                number=k,
                position=5.0 * k,
            )
            one.PatientID, one.PatientBirthDate, one.AccessionNumber = mrn, "19510203", f"ACC99{number:02d}7"
            one.StudyInstanceUID, one.FrameOfReferenceUID = generate_uid(entropy_srcs=[series]), generate_uid()
            one.StudyDate, one.StudyTime, one.StudyID = "20240607", "112233.445", f"STUDY88{number:02d}"
            one.ReferringPhysicianName, one.InstitutionName = "ZWANIK^DORO", "Klinik Hohenquast"
            one.OtherPatientIDs, one.PatientComments = f"ALT66{number:02d}", "Rufname Pippo"
            block = one.private_block(0x0011, "CTKERAS TEST", create=True)
            block.add_new(0x01, "LO", f"Private {mrn} secretvalue")
            one.save_as(place / f"{one.SOPInstanceUID}.dcm", enforce_file_format=True)
            secrets |= {str(one.SOPInstanceUID), str(one.StudyInstanceUID), str(one.FrameOfReferenceUID)}
        secrets |= {
            name,
            name.partition("^")[0],
            mrn,
            series,
            f"ACC99{number:02d}7",
            f"STUDY88{number:02d}",
            f"ALT66{number:02d}",
        }
    return secrets | {"MILVA", "19510203", "20240607", "112233.445", "ZWANIK", "Hohenquast", "Pippo", "secretvalue"}


def texts(root):
    """The name and content of every file below a folder, and of the members of archives."""
    for path in root.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(root)), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for member in archive.namelist():
                        yield f"{path.relative_to(root)}/{member}", archive.read(member)


@pytest.mark.timeout(1800)
@pytest.mark.slow  # a study, a check and a report
def test_a_study_goes_from_dicom_to_the_report_and_names_nobody(tmp_path):
    secrets = write_patients(tmp_path / "in" / "set")
    out = tmp_path / "out"
    out.mkdir()
    environment = os.environ | {"CTKERAS_CACHE_DIR": str(out / "cache"), "WANDB_MODE": "offline", "WANDB_DIR": str(out)}
    tiny = ["--pretrained=false", "--image_size=32", "--max_epochs=2", "--window=three", "--slices=middle:3"]
    data = ["--data", str(tmp_path / "in" / "set")]

    def run(*words, ok=(0,)):
        command = [sys.executable, "-m", "ctkeras", *words]
        done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True)
        assert done.returncode in ok, done.stderr[-3000:]
        return done.stdout + done.stderr

    said = run("study", *data, *tiny, "--models", "mobilenet_v2", "--trials", "1,1,2", "--output_dir", "study")
    assert "72 axial slices (middle:3 of 96) of 24 patients" in said
    (report,) = (out / "study").rglob("report*.html")
    assert "Per patient, by the mean over its slices" in report.read_text()
    (folder,) = (path.parent for path in (out / "study").rglob("metrics_test.json"))  # the winner, evaluated once
    metrics = json.loads((folder / "metrics_test.json").read_text())
    assert metrics["n"] == 18 and metrics["patient_n"] == 6 and metrics["grouped_by"] == "patient"
    assert (folder / "predictions_patients.csv").exists()
    said += run("data", "check", *data, ok=(0, 1)) + run("data", "describe", *data)
    written = dict(texts(out))
    assert any("wandb" in name for name in written) and any(name.endswith("predictions.csv") for name in written)
    for name, content in [*written.items(), ("output", said.encode())]:
        for secret in secrets:
            assert secret not in name and secret.encode() not in content, (name, secret)
