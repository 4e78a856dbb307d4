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

from ctkeras.data import images, threads
from ctkeras.data.augment import Draws, augment, draw, draw_mix, mix_pixels
from ctkeras.data.decoded import Split
from ctkeras.runtime import process

MAX_PARALLEL = 8  # batches that are augmented at once; each takes up to 40 MB


class Batch(NamedTuple):
    """The input of one step: arrays of NumPy, or on a device."""

    inputs: Any  # uint8 or float32 [B, S, S, 3], or features float32 [B, D]
    labels: Any  # float32 [B, C], soft
    weights: Any  # float32 [B]; 0 marks padding


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


def loss_weights(split: Split, weighting: str) -> np.ndarray:
    """Returns the classes' weights in the loss, float32 [C]: balanced if class_weighting is "loss", otherwise 1."""
    classes = len(split.class_names)
    return class_weights(split.labels, classes) if weighting == "loss" else np.ones(classes, np.float32)


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
    batch_of = _batch_function(split, recipe.class_weighting, bool(recipe.augmentation), bool(recipe.mixup_alpha))
    for batch in _mapped(batch_of, order, recipe, epoch):
        yield Batch(*batch)


class Drawn(NamedTuple):
    """What decides a batch of train_batches apart from the images: some kilobytes."""

    indices: Any  # int32 [B]
    draws: Draws | None  # None: not augmented
    mix: tuple[Any, Any] | None  # pairs int32 [B] and shares float32 [B]; None: no mixup


def drawn_batches(split: Split, recipe: Recipe, epoch: int) -> Iterator[Drawn]:
    """Yields the draws of train_batches' batches, for a device that has the images and augments them itself.

    Args:
        split: for the number and size of its images.
        recipe: with augmentation or mixup.
        epoch: as for train_batches.
    """
    augmented, mixed = bool(recipe.augmentation), bool(recipe.mixup_alpha)
    order = epoch_order(split.labels, recipe, epoch)
    for row in _mapped(_draw_function(split.images.shape[1], augmented, mixed), order, recipe, epoch):
        indices, *rest = row
        yield Drawn(indices, Draws(*rest[:3]) if augmented else None, (rest[-2], rest[-1]) if mixed else None)


def _mapped(function: Callable, order: np.ndarray, recipe: Recipe, epoch: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields a function's results for each step of an epoch, computed ahead by tf.data.

    Args:
        function: from _batch_function or _draw_function.
        order: int32 [steps, B], from epoch_order.
        recipe: see Recipe.
        epoch: from 0.
    """
    import tensorflow as tf

    seeds = np.random.default_rng([recipe.seed, epoch, 1]).integers(2**31 - 1, size=(len(order), 2), dtype=np.int32)
    numbers = (tf.constant(recipe.augmentation, tf.float32), tf.constant(recipe.mixup_alpha, tf.float32))
    dataset = tf.data.Dataset.from_tensor_slices((order, seeds))
    dataset = dataset.map(
        lambda indices, seed: function(indices, seed, *numbers),
        num_parallel_calls=min(threads.cores(), MAX_PARALLEL),
        deterministic=True,
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread sleeps for seconds, and in some epochs the end waits for that
    yield from dataset.with_options(options).prefetch(2).as_numpy_iterator()  # 2: one in use, one ready


def _plain_batches(split: Split, recipe: Recipe, order: np.ndarray) -> Iterator[Batch]:
    """Yields batches in which only the order is random; needs no TensorFlow."""
    classes, weights = len(split.class_names), loss_weights(split, recipe.class_weighting)
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
            channels = gray if gray.ndim == 4 else gray[..., None]
            yield _view_function()(channels, seed, np.float32(augmentation)).numpy()
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
    process.configure_tensorflow()
    import tensorflow as tf

    classes, weights = len(split.class_names), loss_weights(split, weighting)
    pixels, labels = tf.constant(split.images), tf.constant(split.labels)

    def batch_of(indices: Any, seed: Any, strength: Any, alpha: Any) -> tuple[Any, Any, Any]:
        gray = tf.gather(pixels, indices)
        gray = gray if gray.shape.rank == 4 else gray[..., None]
        soft = tf.one_hot(tf.gather(labels, indices), classes)
        if augmented:
            gray = augment(gray, seed, strength)
        if mixed:
            gray, soft = mix_pixels(tf.cast(gray, tf.float32), soft, seed, alpha)
        # After mixup, from the soft label: a mixture has the mean weight of its classes.
        return _three(gray), soft, tf.linalg.matvec(soft, weights)

    return tf.function(batch_of)


@functools.lru_cache(maxsize=4)
def _draw_function(side: int, augmented: bool, mixed: bool) -> Callable:
    """Returns a traced function from (indices [B], seed [2], strength, alpha) to the indices and their draws."""
    process.configure_tensorflow()
    import tensorflow as tf

    def drawn(indices: Any, seed: Any, strength: Any, alpha: Any) -> tuple[Any, ...]:
        count = tf.shape(indices)[0]
        draws = draw(count, float(side), seed, strength) if augmented else ()
        return (indices, *draws, *(draw_mix(count, seed, alpha) if mixed else ()))

    return tf.function(drawn)


@functools.cache
def _view_function() -> Callable:
    """Returns a traced function from (gray [B, S, S, 1], seed [2], strength) to the augmented batch."""
    process.configure_tensorflow()
    import tensorflow as tf

    return tf.function(lambda gray, seed, strength: _three(augment(gray, seed, strength)))


def _three(pixels: Any) -> Any:
    """Repeats a tensor [B, S, S, 1] over three channels; three windows stay as they are."""
    import tensorflow as tf

    return pixels if pixels.shape[-1] == 3 else tf.repeat(pixels, 3, axis=-1)
