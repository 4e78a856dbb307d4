"""What counts as one picture: saved again, resized, cropped, drawn on. And what does not: another slice."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ctkeras.audit import near
from ctkeras.data import images, layout, phantom, sources

COUNT = 8


@pytest.fixture(scope="module")
def slices():
    return [phantom.phantom_slice(seed, seed % 4, size=256) for seed in range(COUNT)]


def found(pictures):
    return {(i, j): agreement for i, j, agreement in near.pairs(np.stack([images.thumbnail(p) for p in pictures]))}


def saved(gray, **options):
    content = io.BytesIO()
    Image.fromarray(gray).save(content, **options)
    return np.asarray(Image.open(content).convert("L"))


def resized(gray, width, height):
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BICUBIC))


def cropped(gray, left, top, right, bottom):
    height, width = gray.shape
    return gray[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)]


def scribbled(gray):
    picture = Image.fromarray(gray.copy())
    ImageDraw.Draw(picture).line([(40, 30), (110, 120)], fill=255, width=3)
    return np.asarray(picture)


def bent(gray, seed, *, pixels):
    """Content moved about smoothly, by so many pixels: what a neighbouring slice does to vessels and borders."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    moves = [ndimage.gaussian_filter(rng.normal(size=gray.shape), 8) for _ in range(2)]
    grid = np.indices(gray.shape) + [pixels * move / move.std() for move in moves]
    return ndimage.map_coordinates(gray, grid, order=1, mode="nearest")


CHANGES = {
    "jpeg of quality 75": lambda g: saved(g, format="JPEG", quality=75),
    "jpeg of quality 30": lambda g: saved(g, format="JPEG", quality=30),
    "half the size": lambda g: resized(g, 128, 128),
    "twice the size": lambda g: resized(g, 512, 512),
    "another aspect": lambda g: resized(g, 300, 200),
    "a little cropped": lambda g: cropped(g, 0.02, 0.01, 0.0, 0.03),
    "cropped at one side": lambda g: cropped(g, 0.08, 0.0, 0.0, 0.0),
    "cropped all round": lambda g: cropped(g, 0.06, 0.05, 0.06, 0.04),
    "cropped, saved and resized": lambda g: resized(
        saved(cropped(g, 0.05, 0.0, 0.02, 0.05), format="JPEG", quality=50), 200, 180
    ),
    "a black rim": lambda g: np.pad(g, 16),
    "darker": lambda g: np.uint8(g * 0.7 + 10),
    "other gamma": lambda g: np.uint8(255 * (g / 255) ** 0.8),
    "a stroke": scribbled,
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_picture_is_known_again(slices, change):
    pairs = found([*slices, *map(CHANGES[change], slices)])
    assert set(pairs) == {(i, i + COUNT) for i in range(COUNT)}
    assert all(near.THRESHOLD <= agreement <= 1 for agreement in pairs.values())


def test_a_crop_is_known_whichever_comes_first(slices):
    crops = [cropped(gray, 0.08, 0.0, 0.05, 0.06) for gray in slices]
    assert set(found([*crops, *slices])) == {(i, i + COUNT) for i in range(COUNT)}


def test_a_place_is_turned_round_when_the_first_lies_on_the_second():
    sides = np.array([[0.02, 0.98], [0.02, 0.86], [0.14, 0.98]])
    (_, one), (_, other) = (near._once(np.array([[*pair, 5, 0.9]]), sides) for pair in ((0, 1), (1, 0)))
    (shift, scale), (back, shrink) = ((place[0, :2], place[0, 2:]) for place in (one, other))
    for at in (-1.0, 0.3, 1.0):  # there and back again
        np.testing.assert_allclose(back + shrink * (shift + scale * at), at, atol=1e-6)


def test_slices_of_different_patients_are_different(slices):
    assert found(slices) == {}


def test_a_slice_whose_every_vessel_moves_is_another_slice(slices):
    smooth = [bent(gray, seed, pixels=0) for seed, gray in enumerate(slices)]
    assert len(found([*slices, *smooth])) == COUNT  # that it was bent at all is not what tells
    moved = [bent(gray, seed, pixels=2) for seed, gray in enumerate(slices)]
    shown = [[images.thumbnail(gray).ravel() for gray in both] for both in zip(slices, moved, strict=True)]
    correlation = [np.corrcoef(both)[0, 1] for both in shown]
    assert min(correlation) > 0.9  # whole pictures correlate nevertheless
    assert found([*slices, *moved]) == {}


def test_how_far_neighbouring_slices_agree(slices, monkeypatch):
    # Far below the threshold, where the measure depends on its every part.
    monkeypatch.setattr(near, "THRESHOLD", 0.0)
    monkeypatch.setattr(near, "_FIRST_THRESHOLD", -1.0)
    pairs = found([*slices[:4], *(bent(gray, seed, pixels=2) for seed, gray in enumerate(slices[:4]))])
    agreement = [pairs[i, i + 4] for i in range(4)]
    np.testing.assert_allclose(agreement, [0.652, 0.584, 0.435, 0.543], atol=0.005)


def test_the_limits_are_those_measured_on_the_public_set():
    assert (images.SIZE, near.THRESHOLD, near._PERCENTILE, near._BLOCK) == (128, 0.85, 15, 8)
    assert (near._CANDIDATE, near._FIRST_THRESHOLD, near._LEAST_SHOWN, near._MOST) == (0.88, 0.7, 8, 8)


def test_where_nothing_shows_nothing_is_claimed():
    black = np.zeros((64, 64), np.uint8)
    dot = black.copy()
    dot[10, 10] = 255
    assert found([black, dot, black + 3]) == {}


def test_the_same_spot_on_two_empty_pictures_is_too_little_to_tell_by():
    empty = np.full((128, 128), 40, np.uint8)
    spotted = [empty.copy(), empty.copy()]
    for picture, corner in zip(spotted, (0, 120), strict=True):
        picture[56:72, 56:72] = 200
        picture[corner : corner + 3, 4:7] = 80  # so that they differ
    (both, _) = near._candidates(np.stack(spotted))
    assert both.tolist() == [[0, 1]]  # likely at first sight
    assert found(spotted) == {}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_pictures(slices, count):
    thumbnails = np.array([images.thumbnail(gray) for gray in slices[:count]]).reshape(-1, images.SIZE, images.SIZE)
    assert near.pairs(thumbnails) == []


def test_many_copies_hang_together(slices):
    rng = np.random.default_rng(0)
    copies = [cropped(slices[0], *rng.uniform(0, 0.05, 4)) for _ in range(12)]  # more than are compared with each
    reached, before = {0}, 0
    pairs = found([*copies, *slices[1:]])
    while len(reached) > before:
        before = len(reached)
        reached |= {end for pair in pairs if reached & set(pair) for end in pair}
    assert reached == set(range(12))


def test_an_index_finds_the_pairs_that_comparing_with_all_finds(slices, monkeypatch):
    pictures = [*slices, *map(CHANGES["cropped, saved and resized"], slices), *map(scribbled, slices)]
    usual = found(pictures)
    monkeypatch.setattr(near, "_COMPARED_WITH_ALL", 10)
    assert found(pictures) == usual
    assert len(usual) == 3 * COUNT


@pytest.mark.parametrize(("batch", "chunk", "few"), [(5, 7, 3), (1000, 1000, 1000)])
def test_pairs_do_not_depend_on_how_many_are_worked_on_at_once(slices, monkeypatch, batch, chunk, few):
    pictures = [*slices, *map(CHANGES["cropped, saved and resized"], slices), *map(scribbled, slices)]
    usual = found(pictures)
    assert len(usual) == 3 * COUNT
    for name, value in {"_BATCH": batch, "_CHUNK": chunk, "_FEW": few}.items():
        monkeypatch.setattr(near, name, value)
    other = found(pictures)
    assert other.keys() == usual.keys()
    np.testing.assert_allclose(list(other.values()), list(usual.values()), atol=1e-4)


def test_a_picture_is_laid_over_another_bilinearly(slices):
    from scipy import ndimage

    rng = np.random.default_rng(0)
    pictures = np.stack([images.thumbnail(gray) for gray in slices]).astype(np.float32)
    numbers = rng.integers(0, COUNT, 20)
    place = np.concatenate([rng.uniform(-0.2, 0.2, (20, 2)), rng.uniform(0.8, 1.2, (20, 2))], axis=1)
    at = near._positions(images.SIZE)[::2]
    warped, inside = near._warped(pictures, numbers, place.astype(np.float32), at)
    assert 0.5 < inside.mean() < 1
    for number, (right, down, wide, high), own, there in zip(numbers, place, warped, inside, strict=True):
        x, y = ((shift + scale * at + 1) * images.SIZE / 2 - 0.5 for shift, scale in ((right, wide), (down, high)))
        grid = np.meshgrid(y, x)  # columns first, as _warped has them
        expected = ndimage.map_coordinates(pictures[number], grid, order=1, mode="nearest")
        np.testing.assert_allclose(own[there], expected[there], atol=0.05)
        outside = (np.abs(shift + scale * at) > 1 for shift, scale in ((right, wide), (down, high)))
        columns, rows = outside
        assert not there[columns].any()
        assert not there[:, rows].any()


@pytest.mark.parametrize("width", [2, 64, 1024])
def test_medians_are_medians(width):
    rows = np.random.default_rng(0).normal(size=(30, width)).astype(np.float32)
    np.testing.assert_array_equal(near._medians(rows), np.median(rows, axis=1))


@pytest.mark.slow
def test_the_threshold_lies_in_a_gap_of_the_real_set(real_data, monkeypatch):
    distinct = {}
    source = sources.open_source(real_data)
    for split in layout.SPLITS:
        for entry, content in sources.contents(source, split):
            gray = images.decode_gray(content, name=entry.file)
            distinct.setdefault((gray.shape, gray.tobytes()), gray)
    monkeypatch.setattr(near, "THRESHOLD", 0.7)
    agreement = np.array(list(found(list(distinct.values())).values()))
    low, high = agreement[agreement < 0.85].max(), agreement[agreement >= 0.85].min()
    assert low < 0.81
    assert high > 0.88
    assert (agreement < 0.85).sum() > 10  # neighbouring slices are among those compared
