"""Heat maps as pictures: an order that shows in lightness, heat where it belongs, text that fits."""

import numpy as np
import pytest
from PIL import Image

from ctkeras.evaluation import heatmap


def lightness(colours):
    """CIE L* of sRGB colours, uint8 [..., 3]."""
    shares = colours / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_palette_grows_lighter_evenly():
    steps = np.diff(lightness(heatmap.colours(np.linspace(0, 1, 51))))
    assert steps.min() > 0.4 * steps.mean()
    assert steps.max() < 2.5 * steps.mean()


def test_the_palette_runs_from_black_to_pale_yellow():
    np.testing.assert_array_equal(
        heatmap.colours(np.array([0.0, 0.2, 1.0])), [(0, 0, 0), (62, 22, 96), (252, 230, 150)]
    )


def test_the_maximum_heat_covers_seven_tenths_of_the_image():
    gray = np.full((4, 4), 100, np.uint8)
    covered = heatmap.overlay(gray, np.full((2, 2), 5.0))
    np.testing.assert_array_equal(covered[0, 0], np.rint(0.3 * 100 + 0.7 * np.array([252, 230, 150])))


def test_no_heat_leaves_the_image_as_it_is():
    gray = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    np.testing.assert_array_equal(heatmap.overlay(gray, np.zeros((3, 4))), gray[..., None].repeat(3, -1))


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_heat_lies_where_the_map_has_it(corner):
    gray, heat = np.full((60, 90), 120, np.uint8), np.zeros((4, 5), np.float32)
    heat[corner] = 3.0
    changed = np.abs(heatmap.overlay(gray, heat).astype(int) - 120).sum(-1)
    for other in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        assert (changed[other] > 100) == (other == corner)
    half = changed[
        (slice(30, None), slice(30))[0] if corner[0] else slice(30), slice(45, None) if corner[1] else slice(45)
    ]
    assert half.sum() == changed.sum()


def test_heat_is_told_by_its_shape_alone():
    gray = np.full((32, 32), 80, np.uint8)
    heat = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    np.testing.assert_array_equal(heatmap.overlay(gray, heat), heatmap.overlay(gray, 1024 * heat))


@pytest.mark.parametrize(
    ("shape", "expected"), [((100, 200), (192, 384)), ((500, 40), (384, 31)), ((1, 900), (1, 384))]
)
def test_fitted_keeps_the_shape_and_fills_the_side(shape, expected):
    assert heatmap.fitted(np.zeros(shape, np.uint8)).shape == expected


@pytest.mark.parametrize("shape", [(384, 384), (192, 384), (384, 31), (1, 384)])
def test_side_by_side_holds_image_heat_and_text(shape):
    gray = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    heat = np.zeros((2, 2), np.float32)
    heat[0, 0] = 1.0
    text = {
        "title": "predicted: a",
        "under_image": "x" * 500 + ".png",
        "under_heat": "evidence for ä 肺",
        "foot": "foot",
    }
    pixels = np.asarray(heatmap.side_by_side(gray, heat, **text))
    windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], (1, min(shape[1], 31)))
    first = (windows == gray[:1, : min(shape[1], 31)]).all((-1, -2))
    assert first.any()  # the image itself, unchanged
    y, x = np.argwhere(first)[0]
    np.testing.assert_array_equal(pixels[y : y + shape[0], x : x + shape[1]], gray[..., None].repeat(3, -1))
    beside = pixels[y : y + shape[0], x + shape[1] :]
    laid = heatmap.overlay(gray, heat)
    assert any((beside[:, i : i + shape[1]] == laid).all() for i in range(beside.shape[1] - shape[1] + 1))
    border = np.concatenate([pixels[:4].reshape(-1, 3), pixels[:, :4].reshape(-1, 3), pixels[:, -4:].reshape(-1, 3)])
    assert (border == 255).all()  # no text runs out of the picture
    blank = np.asarray(heatmap.side_by_side(gray, heat, title="", under_image="", under_heat="", foot=""))
    assert blank.shape == pixels.shape
    assert (blank != pixels).any(-1).sum() > 200


def test_long_text_keeps_its_beginning_and_end():
    from PIL import ImageFont

    font = ImageFont.load_default(size=13)
    shown = heatmap._shortened(f"start{'-' * 300}end.png", 200, font)
    assert font.getlength(shown) <= 200
    assert shown.startswith("start") and shown.endswith("end.png")
    assert heatmap._shortened("short", 200, font) == "short"


def test_the_picture_is_saved_as_it_is(tmp_path):
    picture = heatmap.side_by_side(
        np.zeros((64, 64), np.uint8), np.ones((2, 2)), title="a", under_image="b", under_heat="c", foot="d"
    )
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), np.asarray(picture))
