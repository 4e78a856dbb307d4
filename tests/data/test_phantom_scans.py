"""Generated DICOM and NIfTI are read back as the slices they were made of."""

import numpy as np
import pytest

from ctkeras.data import images, phantom_scans, sources


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_written_scans_have_the_grays_of_the_generated_slices(form, tmp_path):
    spec = "phantom:48:patients=12"
    assert phantom_scans.write(tmp_path / "set", form, spec) == 48
    made, read = sources.open_source(spec), sources.open_source(str(tmp_path / "set"))
    assert read.images == 48 and len({entry.patient for entry in read.entries}) == 12
    for split in ("train", "valid", "test"):
        pairs = [
            sorted(
                (entry.class_name, images.decode_gray(content, name="x", frame=entry.frame).astype(int).tolist())
                for entry, content in sources.read(source, split)
            )
            for source in (made, read)
        ]
        for (label, expected), (label_read, got) in zip(*pairs, strict=True):
            assert label == label_read and np.abs(np.array(expected) - np.array(got)).max() <= 1
