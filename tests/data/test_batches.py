"""The training input: the same draws for the same seed, honest labels after mixup, anatomy left the right way round."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.utils.class_weight import compute_class_weight

from ctkeras.data import augment as augment_module
from ctkeras.data import decoded
from ctkeras.data.augment import BRIGHTNESS, CONTRAST, ROTATION, SHIFT, ZOOM, augment
from ctkeras.data.batches import (
    Recipe,
    _batch_function,
    epoch_order,
    eval_batches,
    steps_per_epoch,
    train_batches,
    view_batches,
)
from ctkeras.data.batches import class_weights as batches_class_weights
from ctkeras.runtime import process
from ctkeras.training import features

SIZE = 32  # pixels of a side
ALL_RANDOM = {"class_weighting": "loss", "mixup_alpha": 0.4, "augmentation": 1.0}


def make_split(counts=(5, 3, 4), seed=0):
    """Noise images, `counts` of each class, in mixed order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    pixels = rng.integers(0, 256, (len(labels), SIZE, SIZE), dtype=np.uint8)
    return make_split_of(pixels, labels, classes=len(counts))


def make_split_of(pixels, labels, classes):
    files = tuple(f"{i}.png" for i in range(len(labels)))
    names = tuple(f"class_{i}" for i in range(classes))
    return decoded.Split(pixels.astype(np.uint8), np.asarray(labels, np.int32), files, names)


def flat_split(levels):
    """One image a class, constant at the class' gray level."""
    pixels = np.broadcast_to(np.asarray(levels, np.uint8)[:, None, None], (len(levels), 4, 4))
    return make_split_of(pixels, np.arange(len(levels)), classes=len(levels))


def drawn(split, recipe, epoch):
    """An epoch's batches as bytes."""
    return [tuple(array.tobytes() for array in batch) for batch in train_batches(split, recipe, epoch)]


def centroid(image):
    """Centre of brightness (row, column) of [S, S], from the image's centre in pixels."""
    places = np.arange(len(image)) - (len(image) - 1) / 2
    return np.array([(image.sum(1 - axis) * places).sum() for axis in (0, 1)]) / image.sum()


@pytest.fixture
def only(monkeypatch):
    """Sets all augmentations but one to nothing and returns a function that applies it to a batch of gray images."""
    process.configure_tensorflow()
    import tensorflow as tf

    ranges = ("ROTATION", "SHIFT", "ZOOM", "BRIGHTNESS", "CONTRAST")

    def use(name, images, strength=1.0, seed=(3, 4)):
        for other in ranges:
            if other != name:
                monkeypatch.setattr(augment_module, other, 0.0)
        transform = tf.function(lambda gray, draws: augment(gray, draws, strength))  # eagerly, Keras takes JAX
        return transform(images[..., None], np.array(seed, np.int32)).numpy()[..., 0]

    return use


@pytest.mark.parametrize("changes", [{}, {"augmentation": 0.0}, {"mixup_alpha": 0.0}])
def test_same_seed_and_epoch_give_the_same_bytes_whatever_was_drawn_before(changes):
    split = make_split()
    recipe = Recipe(4, seed=1, **(ALL_RANDOM | changes))
    in_turn = [drawn(split, recipe, epoch) for epoch in range(3)]
    _batch_function.cache_clear()
    assert drawn(split, recipe, 2) == in_turn[2]  # nothing was drawn before
    unfinished = train_batches(split, recipe, 0)
    next(unfinished)
    assert drawn(split, recipe, 1) == in_turn[1]  # an epoch was left half-way


@pytest.mark.parametrize("changes", [{}, {"augmentation": 0.0, "mixup_alpha": 0.0}])
def test_another_seed_or_epoch_gives_other_batches(changes):
    split = make_split()
    values = ALL_RANDOM | changes
    reference = drawn(split, Recipe(4, seed=1, **values), 0)
    for seed, epoch in ((1, 1), (2, 0)):
        other = drawn(split, Recipe(4, seed=seed, **values), epoch)
        assert len(other) == len(reference)
        assert all(a != b for a, b in zip(reference, other, strict=True))


def test_steps_of_one_epoch_have_draws_of_their_own():
    split = make_split_of(np.full((8, SIZE, SIZE), 100), np.zeros(8), classes=1)  # equal images: only draws differ
    batches = drawn(split, Recipe(4, seed=0, augmentation=1.0), 0)
    assert len(set(batches)) == len(batches) == 2


@pytest.mark.parametrize("weighting", ["none", "loss"])
def test_an_epoch_shows_each_image_at_most_once_and_leaves_out_other_images_each_time(weighting):
    labels = np.zeros(11, np.int32)
    left_out = set()
    for epoch in range(6):
        order = epoch_order(labels, Recipe(4, seed=0, class_weighting=weighting), epoch)
        assert order.shape == (2, 4)
        assert len(np.unique(order)) == 8
        left_out.add(tuple(np.setdiff1d(np.arange(11), order)))
    assert len(left_out) > 1


@pytest.mark.parametrize(("augmentation", "mixup_alpha"), [(0.0, 0.0), (1.0, 0.4)])
def test_a_set_smaller_than_a_batch_wraps_to_a_full_one(augmentation, mixup_alpha):
    split = make_split((2, 1))
    recipe = Recipe(8, seed=0, augmentation=augmentation, mixup_alpha=mixup_alpha)
    (batch,) = train_batches(split, recipe, 0)
    assert [len(array) for array in batch] == [8, 8, 8]
    times = np.bincount(epoch_order(split.labels, recipe, 0).ravel(), minlength=3)
    assert sorted(times) == [2, 3, 3]


def test_class_weights_average_one_and_are_scikit_learns():
    labels = np.repeat(np.arange(4), (7, 1, 30, 12))
    weights = batches_class_weights(labels, 4)
    assert weights[labels].mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(4), y=labels), rtol=1e-6)


def test_sampling_shows_the_classes_equally_often():
    labels = np.repeat(np.arange(3), (90, 8, 2)).astype(np.int32)
    recipe = Recipe(10, seed=0, class_weighting="sampling")
    seen = labels[np.concatenate([epoch_order(labels, recipe, epoch).ravel() for epoch in range(30)])]
    shares = np.bincount(seen) / len(seen)
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / len(seen)))  # 4 standard errors
    unweighted = epoch_order(labels, Recipe(10, seed=0), 0).ravel()
    assert (labels[unweighted] == 0).mean() == 0.9


@pytest.mark.parametrize("weighting", ["none", "sampling"])
def test_weights_are_one_unless_the_loss_is_weighted(weighting):
    for recipe in (Recipe(4, 0, weighting), Recipe(4, 0, weighting, mixup_alpha=0.4)):
        for batch in train_batches(make_split(), recipe, 0):
            np.testing.assert_allclose(batch.weights, 1, atol=1e-6)


@pytest.mark.parametrize(("augmentation", "mixup_alpha"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5)])
def test_loss_weights_are_those_of_the_soft_labels(augmentation, mixup_alpha):
    split = make_split((8, 3, 1))
    class_weights = batches_class_weights(split.labels, 3)
    batches = list(train_batches(split, Recipe(4, 5, "loss", mixup_alpha, augmentation), 0))
    for batch in batches:
        np.testing.assert_allclose(batch.weights, batch.labels @ class_weights, rtol=1e-5)
    labels = np.concatenate([batch.labels for batch in batches])
    assert (labels.max(-1) < 0.99).any() == bool(mixup_alpha)


def test_without_augmentation_and_mixup_the_images_are_raw():
    split = make_split()
    recipe = Recipe(4, seed=3)
    order = epoch_order(split.labels, recipe, 1)
    for indices, batch in zip(order, train_batches(split, recipe, 1), strict=True):
        assert batch.inputs.dtype == np.uint8
        for channel in range(3):
            np.testing.assert_array_equal(batch.inputs[..., channel], split.images[indices])
        np.testing.assert_array_equal(batch.labels, np.eye(3)[split.labels[indices]])


def test_without_augmentation_and_mixup_no_tensorflow_is_imported():
    code = """
import sys
import numpy as np
from ctkeras.data import batches, decoded
split = decoded.Split(np.zeros((5, 8, 8), np.uint8), np.zeros(5, np.int32), ("f",) * 5, ("a", "b"))
made = [*batches.train_batches(split, batches.Recipe(2, 0, "loss"), 0), *batches.eval_batches(split, 2)]
made += [*batches.view_batches(split, view=0, augmentation=1.0, batch_size=2)]
assert len(made) == 2 + 3 + 3
print(*{"tensorflow", "keras", "keras_cv"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_augmented_pixels_stay_in_range_and_gray(mixup_alpha):
    split = make_split((8, 8))
    split.images[::2] = 250  # near the top, where brightness and contrast would leave the range
    for batch in train_batches(split, Recipe(4, 0, mixup_alpha=mixup_alpha, augmentation=2.0), 0):
        assert batch.inputs.dtype == np.float32
        assert batch.inputs.shape == (4, SIZE, SIZE, 3)
        assert batch.inputs.min() >= 0
        assert batch.inputs.max() <= 255
        np.testing.assert_array_equal(batch.inputs[..., 0], batch.inputs[..., 1])
        np.testing.assert_array_equal(batch.inputs[..., 0], batch.inputs[..., 2])


def test_augmentation_never_mirrors():
    rows, columns = np.mgrid[:SIZE, :SIZE]
    image = 255 * np.exp(-((rows - 24) ** 2 + (columns - 5) ** 2) / 32)  # a spot off the centre and off the diagonals
    split = make_split_of(np.tile(image, (64, 1, 1)), np.zeros(64), classes=1)
    count = 0
    for batch in train_batches(split, Recipe(16, seed=0, augmentation=2.0), 0):
        for seen in batch.inputs[..., 0]:
            own, *mirrored = (
                np.corrcoef(seen.ravel(), other.ravel())[0, 1]
                for other in (image, image[:, ::-1], image[::-1], image[::-1, ::-1], image.T)
            )
            assert own > max(mirrored)
            count += 1
    assert count == 64


def test_no_thread_of_tensorflow_tunes_the_input(monkeypatch):
    """It sleeps for as long again as an epoch has taken, and in some epochs the end waits for that: 8 s after 33 s."""
    import tensorflow as tf

    read, seen = tf.data.Dataset.as_numpy_iterator, []
    monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", lambda data: seen.append(data.options()) or read(data))
    assert len(list(train_batches(make_split(), Recipe(4, seed=0, augmentation=1.0), 0))) == 3
    assert [options.autotune.enabled for options in seen] == [False]


def test_images_of_a_batch_are_augmented_each_in_its_own_way():
    image = np.random.default_rng(0).integers(60, 180, (SIZE, SIZE))
    split = make_split_of(np.tile(image, (8, 1, 1)), np.zeros(8), classes=1)
    (batch,) = train_batches(split, Recipe(8, seed=0, augmentation=1.0), 0)
    assert len({seen.tobytes() for seen in batch.inputs}) == 8


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_shifts_stay_within_their_range_and_reach_both_ways(only, strength):
    blobs = np.zeros((64, SIZE, SIZE), np.float32)
    blobs[:, 14:18, 14:18] = 100
    moved = np.array([centroid(image) for image in only("SHIFT", blobs, strength)])
    limit = SHIFT * strength * SIZE
    assert np.abs(moved).max() <= limit + 0.01
    assert (moved.min(0) < -limit / 2).all()
    assert (moved.max(0) > limit / 2).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.5  # height and width are drawn apart


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_rotations_stay_within_their_range_and_turn_both_ways(only, strength):
    bars = np.zeros((64, SIZE, SIZE), np.float32)
    bars[:, 15:17, 3:29] = 100
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    turned = only("ROTATION", bars, strength)
    slopes = [(image * rows * columns).sum() / (image * columns**2).sum() for image in turned]
    angles = np.degrees(np.arctan(slopes))
    limit = ROTATION * strength
    assert np.abs(angles).max() <= limit + 0.5
    assert angles.min() < -limit / 2
    assert angles.max() > limit / 2
    assert np.abs([centroid(image) for image in turned]).max() < 0.2  # pixels: about the centre


def test_zooms_stay_within_their_range_and_keep_the_aspect(only):
    squares = np.zeros((64, SIZE, SIZE), np.float32)
    squares[:, 8:24, 8:24] = 100
    zoomed = only("ZOOM", squares)
    places = (np.arange(SIZE) - (SIZE - 1) / 2) ** 2
    spread = np.array([[(i.sum(1 - axis) * places).sum() / i.sum() for axis in (0, 1)] for i in zoomed])
    before = (squares[0].sum(0) * places).sum() / squares[0].sum()
    sides = np.sqrt(spread / before)
    assert sides.min() > 1 - ZOOM - 0.03  # resampling blurs an edge by up to half a pixel of 16
    assert sides.max() < 1 / (1 - ZOOM) + 0.03
    assert sides.min() < 0.96
    assert sides.max() > 1.04
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], rtol=0.01)


def test_brightness_shifts_all_pixels_alike_within_its_range(only):
    images = np.random.default_rng(0).integers(60, 190, (64, SIZE, SIZE)).astype(np.float32)
    difference = only("BRIGHTNESS", images) - images
    shifts = difference.mean((1, 2))
    np.testing.assert_allclose(difference, np.broadcast_to(shifts[:, None, None], difference.shape), atol=1e-3)
    limit = 255 * BRIGHTNESS
    assert np.abs(shifts).max() <= limit
    assert shifts.min() < -limit / 2
    assert shifts.max() > limit / 2


def test_contrast_scales_the_distance_to_the_mean_within_its_range(only):
    images = np.random.default_rng(0).integers(60, 190, (64, SIZE, SIZE)).astype(np.float32)
    seen = only("CONTRAST", images)
    np.testing.assert_allclose(seen.mean((1, 2)), images.mean((1, 2)), rtol=0.01)
    scales = seen.std((1, 2)) / images.std((1, 2))
    assert np.abs(scales - 1).max() <= CONTRAST + 1e-3
    assert scales.min() < 1 - CONTRAST / 2
    assert scales.max() > 1 + CONTRAST / 2


@pytest.mark.parametrize("alpha", [0.001, 0.2, 2.0])
def test_mixup_labels_sum_to_one_and_mix_as_the_pixels_do(alpha):
    levels = np.array([0, 30, 90, 140, 255], np.float32)
    split = flat_split(levels)
    for epoch in range(4):
        (batch,) = train_batches(split, Recipe(5, seed=0, mixup_alpha=alpha), epoch)
        assert np.isfinite(batch.inputs).all()
        assert np.isfinite(batch.labels).all()
        assert batch.labels.min() >= 0
        np.testing.assert_allclose(batch.labels.sum(-1), 1, atol=1e-6)
        expected = np.broadcast_to((batch.labels @ levels)[:, None, None, None], batch.inputs.shape)
        np.testing.assert_allclose(batch.inputs, expected, atol=1e-3)


def pixel_shares(alpha, *, size, epochs):
    """The own image's share in each mixture, from batches in which each image is its own class."""
    split = flat_split(np.arange(size))
    recipe = Recipe(size, seed=0, mixup_alpha=alpha)
    shares = []
    for epoch in range(epochs):
        own = epoch_order(split.labels, recipe, epoch)[0]
        (batch,) = train_batches(split, recipe, epoch)
        shares.append(batch.labels[np.arange(size), own])
    return np.concatenate(shares)


def feature_shares(alpha, *, size, epochs):
    """The same from the features' mixup."""
    rng = np.random.default_rng(0)
    one_hot = np.eye(size, dtype=np.float32)
    return np.concatenate([features.mixup(one_hot, one_hot, alpha=alpha, rng=rng)[1].diagonal() for _ in range(epochs)])


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_mixup_shares_follow_the_beta_distribution_in_pixels_and_features_alike(alpha):
    shares = {kind.__name__: kind(alpha, size=64, epochs=8) for kind in (pixel_shares, feature_shares)}
    # A share of 1 is an image paired with itself, about one a batch.
    for own in shares.values():
        assert (own > 1 - 1e-6).mean() < 0.1
    for name, own in shares.items():
        own = own[own < 1 - 1e-6]
        assert stats.kstest(own, stats.beta(alpha, alpha).cdf).pvalue > 0.01, name
        assert stats.kstest(own, stats.beta(2 * alpha, alpha).cdf).pvalue < 1e-6, name  # the test can tell
    assert stats.ks_2samp(*shares.values()).pvalue > 0.01


@pytest.mark.parametrize("kind", [pixel_shares, feature_shares])
@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1])
def test_a_small_mixup_alpha_leaves_most_images_whole(kind, alpha):
    shares = kind(alpha, size=64, epochs=8)
    beta = stats.beta(alpha, alpha)
    expected = beta.cdf(0.9) - beta.cdf(0.1)  # 0.002, 0.02 and 0.2: the smaller alpha, the more Beta is a coin
    mixed = ((shares > 0.1) & (shares < 0.9)).sum()
    assert stats.binomtest(int(mixed), len(shares), expected).pvalue > 0.001, f"{mixed} of {len(shares)} are mixed"


def test_mixup_pairs_are_a_permutation_and_another_each_batch():
    split = flat_split(np.arange(16))
    recipe = Recipe(16, seed=0, mixup_alpha=1.0)
    seen = set()
    for epoch in range(3):
        own = epoch_order(split.labels, recipe, epoch)[0]
        (batch,) = train_batches(split, recipe, epoch)
        others = batch.labels.copy()
        others[np.arange(16), own] = 0
        pairs = np.where(others.max(-1) > 0, others.argmax(-1), own)
        assert len(np.unique(pairs)) == 16
        seen.add(tuple(pairs[np.argsort(own)]))
    assert len(seen) == 3


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (6, 3), (2, 5)])
def test_eval_batches_keep_the_order_and_mask_what_pads_them(count, batch_size):
    split = make_split((count - 1, 1))
    batches = list(eval_batches(split, batch_size))
    assert {array.shape[0] for batch in batches for array in batch} == {batch_size}
    inputs, labels, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(inputs[:count], np.repeat(split.images[..., None], 3, axis=-1))
    np.testing.assert_array_equal(labels[:count].argmax(-1), split.labels)
    np.testing.assert_array_equal(weights, np.arange(len(weights)) < count)
    assert not labels[count:].any()


def test_views_are_fixed_and_differ_but_for_the_first():
    split = make_split((3, 2))

    def view(number, strength=1.0):
        batches = list(view_batches(split, view=number, augmentation=strength, batch_size=3))
        assert {batch.shape for batch in batches} == {(3, SIZE, SIZE, 3)}
        return np.concatenate(batches)[:5].astype(np.float32)

    raw = np.repeat(split.images[..., None], 3, axis=-1)
    np.testing.assert_array_equal(view(0), raw)
    np.testing.assert_array_equal(view(2, strength=0.0), raw)
    np.testing.assert_array_equal(view(1), view(1))
    assert len({view(number).tobytes() for number in range(3)}) == 3
    assert view(1, strength=0.5).tobytes() != view(1).tobytes()


def test_the_ranges_at_strength_1():
    assert (ROTATION, SHIFT, ZOOM) == (10, 0.05, 0.10)  # degrees, share of the side
    assert (BRIGHTNESS, CONTRAST) == (0.10, 0.15)


def test_an_order_is_the_same_in_every_version():
    # A run that is resumed after an upgrade goes on with the same batches.
    assert epoch_order(np.zeros(7, np.int32), Recipe(3, seed=5), 2).tolist() == [[0, 4, 5], [3, 1, 2]]
    sampled = epoch_order(np.array([0, 0, 0, 0, 1, 1, 2], np.int32), Recipe(3, 5, "sampling"), 2)
    assert sampled.tolist() == [[2, 4, 5], [6, 0, 4]]


@pytest.mark.parametrize(("examples", "steps"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (9, 2)])
def test_steps_are_full_batches(examples, steps):
    assert steps_per_epoch(examples, 4) == steps


def test_an_absent_class_has_a_finite_weight():
    np.testing.assert_allclose(batches_class_weights(np.array([0, 0, 2]), 3), [0.5, 1, 1])
