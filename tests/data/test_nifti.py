"""NIfTI volumes written by nibabel: their axial slices, whatever the order of their axes."""

import nibabel
import numpy as np
import pytest

from ctkeras.data import images, nifti, sources
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
