"""NIfTI volumes written by nibabel: their axial slices, whatever the order of their axes."""

import nibabel
import numpy as np
import pytest

from ctkeras.data import images, located, nifti, sources
from ctkeras.errors import UserError


def volume(seed=0):
    """HU, axes right, front, up: int16 [8, 10, 6]."""
    return np.random.default_rng(seed).integers(-1000, 400, (8, 10, 6)).astype(np.int16)


def written(array, orientation, path):
    """A file whose axes are stored in another order, as converters write them."""
    canonical = nibabel.orientations.axcodes2ornt("RAS")
    turn = nibabel.orientations.ornt_transform(canonical, nibabel.orientations.axcodes2ornt(orientation))
    image = nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])).as_reoriented(turn)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "SRA", "PIR"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_slices_are_axial_by_the_affine(tmp_path, orientation, ending):
    array = volume()
    content = written(array, orientation, tmp_path / f"a{ending}").read_bytes()
    assert nifti.is_nifti(content) and nifti.slices(content, name="a") == 6
    for index in (0, 5):
        gray = images.decode_gray(content, name="a", frame=index).astype(float)
        seen = array[::-1, ::-1, index].T  # patient's right on the left, front at the top
        assert np.abs(gray - np.clip((seen + 1350.0) / 1500, 0, 1) * 255).max() <= 1


def test_volumes_in_class_folders_become_slices_of_patients(tmp_path):
    for split in ("train", "valid", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            written(volume(len(split) + ord(label)), "LPS", tmp_path / split / label / "DOE_JANE.nii.gz")
    source = sources.open_source(str(tmp_path))
    assert source.images == 36 and len({entry.patient for entry in source.entries}) == 6
    assert not any("DOE" in entry.file for entry in source.entries)
    assert len(list(sources.read(source, "train"))) == 12


def test_four_axes_are_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match="of 4 axes"):
        images.decode_gray((tmp_path / "a.nii").read_bytes(), name="a")


@pytest.mark.parametrize("angle", [0, 12, -30])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASL", "IPR"])
def test_oblique_and_permuted_affines_are_read_as_nibabel_reads_them(tmp_path, angle, codes):
    """Against as_closest_canonical, for turned volumes with a scale, one slice among them."""
    for depth in (1, 5):
        array = np.random.default_rng(depth).integers(0, 1500, (8, 10, depth)).astype(np.int16)
        turn = np.deg2rad(angle)
        affine = np.diag([0.7, 0.7, 3.0, 1.0])
        affine[:3, :3] = [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]] @ affine[:3, :3]
        to = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
        )
        image = nibabel.Nifti1Image(array, affine).as_reoriented(to)
        image.header.set_slope_inter(1, -1024)
        nibabel.save(image, tmp_path / "a.nii.gz")
        content = (tmp_path / "a.nii.gz").read_bytes()
        expected = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz")).get_fdata()
        assert nifti.slices(content, name="a") == depth
        for index in range(depth):
            got = nifti.values(content, name="a", index=index).array
            assert np.abs(got - expected[::-1, ::-1, index].T).max() < 1e-3


def test_damaged_volumes_are_one_line_and_counted(tmp_path):
    whole = written(volume(), "LPS", tmp_path / "a.nii.gz").read_bytes()
    plain = written(volume(), "LPS", tmp_path / "a.nii").read_bytes()
    flipped = whole[:-40] + bytes(byte ^ 0x55 for byte in whole[-40:-20]) + whole[-20:]
    for content, reason in ((whole[:-50], "damaged"), (flipped, "damaged"), (plain[:-50], "truncated")):
        with pytest.raises(UserError, match=f"a is a {reason} NIfTI file") as caught:
            nifti.values(content, name="a", index=0)
        assert "\n" not in str(caught.value)
    for split in ("train", "valid", "test"):
        for label in ("a", "b"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            written(volume(len(split) + ord(label)), "LPS", tmp_path / "set" / split / label / "one.nii.gz")
    (tmp_path / "set/train/a/two.nii.gz").write_bytes(flipped)
    source = sources.open_source(str(tmp_path / "set"))
    assert source.images == 36
    assert [(row.reason.startswith("damaged NIfTI file"), row.files) for row in source.left_out] == [(True, 1)]


def test_subjects_of_bids_are_patients(tmp_path):
    for split, subject in (("train", "sub-01"), ("valid", "sub-02"), ("test", "sub-03")):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for session in (1, 2):
                name = f"{subject}_ses-{session}_ct.nii.gz"
                written(volume(session + ord(label) + len(subject)), "LPS", tmp_path / split / label / name)
    source = sources.open_source(str(tmp_path))
    assert len({entry.patient for entry in source.entries}) == 3


def test_volumes_may_be_larger_than_slices(monkeypatch, tmp_path):
    monkeypatch.setattr(located, "MAX_FILE_BYTES", 500)
    for split in ("train", "valid", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            written(volume(len(split) + ord(label)), "LPS", tmp_path / split / label / "one.nii")  # 1,312 bytes
    assert sources.open_source(str(tmp_path)).images == 36
    (tmp_path / "train/a/two.png").write_bytes(bytes(1312))
    with pytest.raises(UserError, match="larger than"):
        sources.open_source(str(tmp_path))
