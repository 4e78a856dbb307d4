"""Which slices of series and volumes are used: by place, by number, or by a table's labels."""

import csv

import nibabel
import numpy as np
import pytest
from pydicom.uid import generate_uid
from scan_files import hounsfield, scan

from ctkeras.config import RunConfig
from ctkeras.data import images, slices, sources
from ctkeras.errors import UserError

PLACES = [30.0, 10.0, 50.0, 20.0, 40.0, 60.0]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("all", [10, 20, 30, 40, 50, 60]),
        ("middle:2", [30, 40]),
        ("middle:3", [20, 30, 40]),
        ("middle:9", [10, 20, 30, 40, 50, 60]),
        ("every:2", [10, 30, 50]),
        ("every:7", [10]),
    ],
)
def test_slices_are_chosen_by_place(choice, expected):
    assert [PLACES[i] for i in slices.chosen(PLACES, choice)] == expected


@pytest.mark.parametrize("choice", ["middle", "middle:0", "every:-1", "some", "every:2.5", "ALL"])
def test_other_choices_are_refused_by_data_and_config(choice):
    with pytest.raises(UserError, match=r"all, middle:N, every:K or labelled"):
        slices.check(choice)
    with pytest.raises(UserError, match=r"slices must be all, middle:N, every:K or labelled"):
        RunConfig(slices=choice)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Per split and class one series of five slices, whose files are not in the order of their places."""
    root = tmp_path_factory.mktemp("series") / "set"
    for number, (split, label) in enumerate((s, c) for s in ("train", "valid", "test") for c in ("a", "b")):
        own, uid = root / split / label / f"P{number}", generate_uid()
        own.mkdir(parents=True)
        for k, place in enumerate((20.0, 0.0, 40.0, 10.0, 30.0)):
            one = scan(hounsfield(10 * number + k), patient=f"P{number}", series=uid, number=k, position=place)
            one.ImageComments = str(place)
            one.save_as(own / f"IM{k}", enforce_file_format=True)
    return root


def places(source, split):
    """The places along the body, in mm, of a split's slices."""
    import io

    import pydicom

    return sorted(
        float(pydicom.dcmread(io.BytesIO(content)).ImagePositionPatient[2])
        for _, content in sources.read(source, split)
    )


def test_series_are_cut_by_place_and_each_choice_has_its_own_fingerprint(series):
    opened = {choice: sources.open_source(str(series), slices=choice) for choice in ("all", "middle:3", "every:2")}
    assert [source.images for source in opened.values()] == [30, 18, 18]
    assert places(opened["middle:3"], "train") == sorted([10.0, 20.0, 30.0] * 2)
    assert places(opened["every:2"], "train") == sorted([0.0, 20.0, 40.0] * 2)
    assert len({source.fingerprint for source in opened.values()}) == 3


def test_a_table_labels_slices_of_volumes_by_their_number_in_the_file(tmp_path):
    """Volumes stored from the feet and from the head: the number is that of the file's own axis."""
    array = np.random.default_rng(0).integers(-1000, 400, (8, 10, 6)).astype(np.int16)
    rows = []
    for number, split in enumerate(("train", "valid", "test")):
        for kind, sign in (("feet", 3.0), ("head", -3.0)):
            nibabel.save(
                nibabel.Nifti1Image(array + number, np.diag([1.0, 1.0, sign, 1.0])), tmp_path / f"{split}-{kind}.nii.gz"
            )
            rows += [[f"{split}-{kind}.nii.gz", "ab"[k % 2], f"{split}-{kind}", split, k] for k in (0, 1, 4)]
    with open(tmp_path / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "patient", "split", "slice"], *rows])
    source = sources.open_source(str(tmp_path / "table.csv"), slices="labelled")
    assert source.images == 18 and {entry.class_name for entry in source.entries} == {"a", "b"}
    seen = set()
    for entry, content in sources.read(source, "train"):
        gray = images.decode_gray(content, name="x", frame=entry.frame).astype(float)
        number = next(
            k for k in range(6)
            if np.abs(gray - np.clip((array[::-1, ::-1, k].T + 1350.0) / 1500, 0, 1) * 255).max() <= 1
        )  # fmt: skip
        assert entry.class_name == "ab"[number % 2]
        seen.add((entry.patient, number))
    assert len(seen) == 6 and {number for _, number in seen} == {0, 1, 4}


def test_a_slice_that_is_not_there_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4), np.int16), np.eye(4)), tmp_path / "v.nii")
    (tmp_path / "t.csv").write_text("file,label,patient,split,slice\nv.nii,a,p,train,4\n")
    with pytest.raises(UserError, match=r"slice 4 .*has 4: 0 to 3"):
        sources.open_source(str(tmp_path / "t.csv"))
