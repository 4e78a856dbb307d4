"""The training input: order → gather → augment → mixup → class weights → prefetch, and evaluation's fixed batches.

decoded.py decodes and caches the images once for all trials. Every random draw is a function of (seed, epoch, step), so
the same seed gives the same batches, also after a resume.

The augmentations imitate what varies between scans of the same anatomy: rotation and shift (how the patient lies), zoom
(body size, field of view), brightness and contrast (window setting, dose). No flips: a mirrored chest has its heart on
the right, which is a finding. No elastic deformation or cut-out: they change lesion edges, in which the classes differ.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ctkeras import images, runtime
from ctkeras.decoded import Split

# At strength 1. Angles and shifts are those of usual positioning, contrast that of common window settings.
ROTATION = 10.0  # degrees either way
SHIFT = 0.05  # of the side, either way
ZOOM = 0.10  # of the side, either way
BRIGHTNESS = 0.10  # of 0..255, either way
CONTRAST = 0.15  # of the distance to the mean, either way


class Batch(NamedTuple):
    """The input of one step."""

    inputs: np.ndarray  # uint8 or float32 [B, S, S, 3], or features float32 [B, D]
    labels: np.ndarray  # float32 [B, C], soft
    weights: np.ndarray  # float32 [B]; 0 marks padding


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides the training batches apart from the images."""

    batch_size: int
    seed: int
    class_weighting: str = "none"
    mixup_alpha: float = 0.0
    augmentation: float = 0.0


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns balanced weights n / (C n_c), as scikit-learn's `class_weight="balanced"`: float32 [C], mean 1 over labels.

    Args:
        labels: int [N].
        classes: number of classes C.
    """
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the full batches per epoch, at least one; each epoch leaves out different images of the remainder."""
    return max(1, examples // batch_size)


def epoch_order(labels: np.ndarray, recipe: Recipe, epoch: int) -> np.ndarray:
    """Returns the order of images in an epoch, which depends only on (seed, epoch): int32 [steps, B].

    Args:
        labels: int [N].
        recipe: class_weighting "sampling" draws images with replacement so that classes are equally frequent.
        epoch: from 0.
    """
    rng = np.random.default_rng([recipe.seed, epoch, 0])
    steps = steps_per_epoch(len(labels), recipe.batch_size)
    needed = steps * recipe.batch_size
    if recipe.class_weighting == "sampling":
        weights = class_weights(labels, int(labels.max()) + 1)[labels]
        order = rng.choice(len(labels), size=needed, p=weights / weights.sum())
    else:  # repeats images if there are fewer than a batch holds, because the compiled program fixes the batch size
        order = np.resize(rng.permutation(len(labels)), needed)
    return order.astype(np.int32).reshape(steps, recipe.batch_size)


def train_batches(split: Split, recipe: Recipe, epoch: int) -> Iterator[Batch]:
    """Yields an epoch's batches of augmented images.

    Args:
        split: the decoded training images.
        recipe: see Recipe.
        epoch: from 0; with the seed it decides the order and every random draw.
    """
    order = epoch_order(split.labels, recipe, epoch)
    if not recipe.augmentation and not recipe.mixup_alpha:
        yield from _plain_batches(split, recipe, order)
        return
    runtime.configure_tensorflow()
    import tensorflow as tf

    seeds = np.random.default_rng([recipe.seed, epoch, 1]).integers(2**31 - 1, size=(len(order), 2), dtype=np.int32)
    batch_of = _batch_function(split, recipe.class_weighting, bool(recipe.augmentation), bool(recipe.mixup_alpha))
    numbers = (tf.constant(recipe.augmentation, tf.float32), tf.constant(recipe.mixup_alpha, tf.float32))
    dataset = tf.data.Dataset.from_tensor_slices((order, seeds))
    dataset = dataset.map(
        lambda indices, seed: batch_of(indices, seed, *numbers), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    for batch in dataset.prefetch(2).as_numpy_iterator():  # 2: one in use, one ready
        yield Batch(*batch)


def _plain_batches(split: Split, recipe: Recipe, order: np.ndarray) -> Iterator[Batch]:
    """Yields batches in which only the order is random; needs no TensorFlow."""
    classes = len(split.class_names)
    weights = class_weights(split.labels, classes) if recipe.class_weighting == "loss" else np.ones(classes, np.float32)
    for indices in order:
        labels = split.labels[indices]
        yield Batch(images.as_rgb(split.images[indices]), np.eye(classes, dtype=np.float32)[labels], weights[labels])


def view_batches(split: Split, *, view: int, augmentation: float, batch_size: int) -> Iterator[np.ndarray]:
    """Yields one augmented view of every image in order, float32 [B, S, S, 3], the last batch padded with zeros.

    Args:
        split: the decoded images.
        view: decides the draws, without any trial's seed, so that trials share views; view 0 is not augmented.
        augmentation: strength.
        batch_size: images per batch.
    """
    for start in range(0, len(split.files), batch_size):
        gray = padded(np.asarray(split.images[start : start + batch_size]), batch_size)
        if view and augmentation:
            seed = np.random.default_rng([view, start]).integers(2**31 - 1, size=2, dtype=np.int32)
            yield _view_function()(gray[..., None], seed, np.float32(augmentation)).numpy()
        else:
            yield images.as_rgb(gray)


def eval_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yields images in order and not augmented; the last batch is padded, with weight 0."""
    one_hot = np.eye(len(split.class_names), dtype=np.float32)
    for start in range(0, len(split.files), batch_size):
        stop = start + batch_size
        labels = one_hot[split.labels[start:stop]]
        gray = padded(np.asarray(split.images[start:stop]), batch_size)
        weights = padded(np.ones(len(labels), np.float32), batch_size)
        yield Batch(images.as_rgb(gray), padded(labels, batch_size), weights)


def padded(array: np.ndarray, length: int) -> np.ndarray:
    """Returns the array with zeros appended up to `length` rows."""
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))


@functools.lru_cache(maxsize=4)
def _batch_function(split: Split, weighting: str, augmented: bool, mixed: bool) -> Callable:
    """Returns a traced function from (indices [B], seed [2], strength, alpha) to a batch, shared by runs with other numbers."""
    import tensorflow as tf

    classes = len(split.class_names)
    pixels, labels = tf.constant(split.images), tf.constant(split.labels)
    weights = class_weights(split.labels, classes) if weighting == "loss" else np.ones(classes, np.float32)

    def batch_of(indices: Any, seed: Any, strength: Any, alpha: Any) -> tuple[Any, Any, Any]:
        gray = tf.gather(pixels, indices)[..., None]
        soft = tf.one_hot(tf.gather(labels, indices), classes)
        if augmented:
            gray = _augment(gray, seed, strength)
        if mixed:
            gray, soft = _mixup(tf.cast(gray, tf.float32), soft, seed, alpha)
        # After mixup, from the soft label: a mixture has the mean weight of its classes.
        return tf.repeat(gray, 3, axis=-1), soft, tf.linalg.matvec(soft, weights)

    return tf.function(batch_of)


def _uniform(seed: Any, which: int, half_width: Any, shape: tuple) -> Any:
    """Returns stateless draws from -half_width..half_width; `which` distinguishes the draws of one batch."""
    import tensorflow as tf

    return tf.random.stateless_uniform(shape, seed=seed + [0, which], minval=-half_width, maxval=half_width)


def _augment(gray: Any, seed: Any, strength: Any) -> Any:
    """Augments a batch: one warp, then keras-cv's contrast and brightness with our draws, because theirs cannot be seeded.

    Args:
        gray: uint8 [B, S, S, 1].
        seed: int32 [2].
        strength: factor on the ranges above, a scalar.

    Returns:
        float32 [B, S, S, 1], within 0..255.
    """
    import keras_cv
    import tensorflow as tf

    layers, size = keras_cv.layers, tf.shape(gray)[0]
    out = _warp(gray, seed, strength)
    for layer, half_width, centre, which in (
        (layers.RandomContrast((0, 255), 0.5), CONTRAST * strength, 1.0, 5),
        (layers.RandomBrightness(0.5), 255 * BRIGHTNESS * strength, 0.0, 6),
    ):
        draws = centre + _uniform(seed, which, half_width, (size, 1, 1, 1))
        layer.get_random_transformation_batch = functools.partial(_given, draws)
        out = layer(out)
    return out


def _warp(gray: Any, seed: Any, strength: Any) -> Any:
    """Rotates, zooms and shifts a batch in one bilinear resampling; three in a row, as by three layers, blur lesion edges.

    Args:
        gray: uint8 [B, S, S, 1].
        seed: int32 [2].
        strength: factor on the ranges above, a scalar.
    """
    import tensorflow as tf

    count, side = tf.shape(gray)[0], tf.cast(tf.shape(gray)[1], tf.float32)
    angle = _uniform(seed, 4, np.pi / 180 * ROTATION * strength, (count,))
    zoom = 1.0 + _uniform(seed, 1, ZOOM * strength, (count,))
    down, right = (side * _uniform(seed, which, SHIFT * strength, (count,)) for which in (2, 3))
    cos, sin, middle = zoom * tf.cos(angle), zoom * tf.sin(angle), (side - 1) / 2
    # Maps each output pixel to its source: (cos x - sin y, sin x + cos y) about the middle, then shifted.
    across = [cos, -sin, middle * (1 - cos + sin) + right]
    along = [sin, cos, middle * (1 - sin - cos) + down]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(gray, tf.float32),
        transforms=tf.stack([*across, *along, tf.zeros_like(cos), tf.zeros_like(cos)], axis=1),
        output_shape=tf.shape(gray)[1:3],
        fill_value=0.0,  # air, as outside the scanner's circle
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _given(draws: Any, *_: Any, **__: Any) -> Any:
    """Replaces a keras-cv layer's own draws."""
    return draws


@functools.cache
def _view_function() -> Callable:
    """Returns a traced function from (gray [B, S, S, 1], seed [2], strength) to the augmented batch."""
    runtime.configure_tensorflow()
    import tensorflow as tf

    return tf.function(lambda gray, seed, strength: tf.repeat(_augment(gray, seed, strength), 3, axis=-1))


def _log_gamma_draw(seed: Any, which: int, alpha: Any, shape: Any) -> Any:
    """Returns stateless draws of log Gamma(alpha), float32 (Marsaglia & Tsang 2000, note on alpha below 1)."""
    import tensorflow as tf

    boosted = tf.random.stateless_gamma(shape, seed + [0, which], alpha + 1.0)
    uniform = tf.random.stateless_uniform(shape, seed + [1, which], minval=1e-38)  # above 0, for the logarithm
    return tf.math.log(boosted) + tf.math.log(uniform) / alpha


def _mixup(batch: Any, labels: Any, seed: Any, alpha: Any) -> tuple[Any, Any]:
    """Applies keras-cv's MixUp, with its two draws, pairs and shares, taken from `seed`.

    Args:
        batch: float32 [B, S, S, 1].
        labels: float32 [B, C].
        seed: int32 [2].
        alpha: of Beta(alpha, alpha), above 0, a scalar.
    """
    import keras_cv
    import tensorflow as tf

    class SeededMixUp(keras_cv.layers.MixUp):
        def _mixup(self, images: Any) -> tuple[Any, Any, Any]:
            count = tf.shape(images)[:1]
            pairs = tf.argsort(tf.random.stateless_uniform(count, seed + [0, 9]))
            # In logarithms, by G(a) = G(a + 1) U^(1/a): for small alpha both draws would underflow to 0.
            logs = [_log_gamma_draw(seed, which, alpha, count) for which in (7, 8)]
            shares = tf.sigmoid(logs[0] - logs[1])
            share = tf.reshape(shares, [-1, 1, 1, 1])
            return share * images + (1.0 - share) * tf.gather(images, pairs), shares, pairs

    mixed = SeededMixUp()({"images": batch, "labels": labels})
    return mixed["images"], mixed["labels"]
