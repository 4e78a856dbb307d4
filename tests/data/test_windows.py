"""Images of more than 8 bits keep their grays."""

import io

import numpy as np
import pytest
from PIL import Image

from ctkeras.data import images, windows
from ctkeras.errors import UserError


def encoded(array, kind):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


GRAY = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (GRAY.astype(np.uint16) * 16, "PNG"),
        (GRAY.astype(np.uint16) * 257, "PNG"),
        ((GRAY / 255).astype(np.float32), "TIFF"),
        (GRAY.astype(np.float32), "TIFF"),
    ],
)
def test_each_depth_gives_the_same_grays(array, kind):
    assert np.abs(images.decode_gray(encoded(array, kind), name="x").astype(int) - GRAY).max() <= 1


def test_negative_values_are_hounsfield_units():
    hu = GRAY.astype(np.int32) * 6 - 1000
    gray = images.decode_gray(encoded(hu, "TIFF"), name="x")
    assert np.abs(gray - np.clip((hu + 1350) / 1500, 0, 1) * 255).max() <= 1
    assert len(np.unique(gray)) > 100


def test_eight_bits_are_grays_already():
    content = encoded(GRAY, "PNG")
    assert (images.decode_gray(content, name="x", window="bone") == GRAY).all()
    assert (images.decode_gray(content, name="x", window="three") == GRAY[..., None]).all()


def test_percentile_uses_the_whole_range():
    gray = windows.to_gray(windows.Values(np.arange(1000.0).reshape(20, 50), None), "percentile")
    assert gray.min() == 0 and gray.max() == 255 and len(np.unique(gray)) == 256


def test_unknown_windows_are_refused():
    for window in ("liver", "0/40", "400", "400/"):
        with pytest.raises(UserError, match="window must be one of"):
            windows.check(window)
