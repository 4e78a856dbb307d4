"""The crop to the body and the preparation: on generated slices, odd images, and against the reference in the docs."""

import pathlib
import re

import numpy as np
import pytest

from ctkeras.data import crop, phantom
from ctkeras.data.crop import Preparation


@pytest.fixture(scope="module")
def reference():
    """The function on the page about the exported model: numpy and Pillow, nothing of ctkeras."""
    root = next(folder for folder in pathlib.Path(__file__).parents if (folder / "pyproject.toml").exists())
    (block,) = re.findall(r"^```python\n(.*?)^```$", (root / "docs/model.md").read_text(encoding="utf-8"), re.S | re.M)
    names = {}
    exec(block, names)
    assert "ctkeras" not in block
    return names["reference"]


def odd_images():
    """Images that a data set may hold."""
    rng = np.random.default_rng(0)
    slices = [phantom.phantom_slice(seed, seed % 4, size=size) for seed, size in enumerate((64, 128, 256, 512))]
    coarse = slices[2] // 16 * 17
    framed = np.pad(slices[1], 6, constant_values=255)
    wide = np.pad(slices[3], ((0, 0), (200, 90)))
    noise = rng.integers(0, 256, (97, 301), np.uint8)
    flat = [np.full((40, 50), value, np.uint8) for value in (0, 128, 255)]
    return [*slices, coarse, framed, wide, noise, *flat, np.zeros((1, 1), np.uint8), np.eye(3, dtype=np.uint8) * 255]


@pytest.mark.parametrize("choice", [Preparation(c, f, g) for c in crop.CROPS for f in crop.FITS for g in crop.GRAYS])
def test_reference_of_the_docs_gives_the_same(reference, choice):
    for image in odd_images():
        ours = crop.prepare(image, 64, choice)
        assert ours.shape == (64, 64) and ours.dtype == np.uint8
        theirs = reference(image, 64, crop=choice.crop, fit=choice.fit, gray_mode=choice.gray)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("size", [64, 128, 512])
def test_box_of_a_generated_slice_holds_the_lesion_and_little_air(size):
    for seed in range(24):
        top, left, bottom, right = crop.body_box(phantom.phantom_slice(seed, seed % 4, size=size))
        assert 0.35 < (bottom - top) * (right - left) / size**2 < 0.95
        lesion = phantom.lesion_mask(seed, seed % 4, size=size)
        assert lesion[top:bottom, left:right].sum() == lesion.sum()


def test_air_around_the_body_and_the_table_are_cut_off():
    y, x = np.mgrid[:300, :400]
    image = np.zeros((300, 400), np.uint8)
    image[((x - 180) / 120) ** 2 + ((y - 120) / 80) ** 2 < 1] = 150
    image[250:255, 20:380] = 200  # the table
    np.testing.assert_allclose(crop.body_box(image), (40, 60, 200, 300), atol=4)
    coarse = image // 16 * 16
    np.testing.assert_allclose(crop.body_box(coarse), crop.body_box(image), atol=4)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_whole_image_where_nothing_is_found(value):
    assert crop.body_box(np.full((30, 50), value, np.uint8)) == (0, 0, 30, 50)


def test_whole_image_where_the_region_is_small_or_a_frame():
    spot = np.zeros((100, 100), np.uint8)
    spot[40:60, 40:60] = 255
    assert crop.body_box(spot) == (0, 0, 100, 100)
    frame = np.pad(np.zeros((80, 80), np.uint8), 10, constant_values=255)
    assert crop.body_box(frame) == (0, 0, 100, 100)


def test_pad_keeps_the_aspect_and_stretch_does_not():
    bar = np.full((50, 100), 200, np.uint8)
    padded = crop.prepare(bar, 64, Preparation("none", "pad", "as_is"))
    assert (padded > 0).sum() == 32 * 64 and (padded[16:48] == 200).all()
    assert (crop.prepare(bar, 64, Preparation("none", "stretch", "as_is")) == 200).all()


def test_stretch_of_grays_brings_percentiles_to_the_ends():
    ramp = np.linspace(60, 180, 64 * 64).reshape(64, 64).astype(np.uint8)
    stretched = crop.stretched(ramp)
    assert stretched.min() == 0 and stretched.max() == 255
    assert (crop.stretched(np.full((8, 8), 9, np.uint8)) == 9).all()


def test_the_opening_and_the_percentiles_are_those_of_scipy_and_numpy():
    from scipy import ndimage

    from ctkeras.data import facts

    rng = np.random.default_rng(0)
    for share in np.linspace(0, 1, 20):
        bright = ndimage.maximum_filter((rng.random((128, 128)) < share**3).astype(np.uint8), 7)
        least = ndimage.minimum_filter(bright, crop.OPENING, mode="nearest")
        expected = ndimage.maximum_filter(least, crop.OPENING, mode="nearest")
        np.testing.assert_array_equal(crop._opened(bright), expected)
        gray = (rng.random((61, 128)) ** (1 + 3 * share) * 255).astype(np.uint8)
        np.testing.assert_allclose(facts._percentiles(gray), np.percentile(gray, (1, 25, 50, 75, 99)), atol=1e-9)
