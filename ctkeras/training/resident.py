"""Training batches that an accelerator augments itself: it holds all images, and the host sends only the random draws.

The numbers are those of data/batches.py up to rounding. On a CPU its resampling is the faster one.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from ctkeras.data import batches
from ctkeras.data.augment import Draws
from ctkeras.data.batches import Batch, Drawn, Recipe
from ctkeras.data.decoded import Split


class Images(NamedTuple):
    """Training images: arrays of NumPy, or on a device."""

    pixels: Any  # uint8 [N, S, S] or [N, S, S, 3]
    labels: Any  # int32 [N]
    weights: Any  # float32 [C], of the classes in the loss


def images(split: Split, recipe: Recipe) -> Images:
    """What `train_batches` needs on the device, for the caller to put there.

    Args:
        split: the decoded training images.
        recipe: see Recipe.
    """
    classes = len(split.class_names)
    weights = batches.class_weights(split.labels, classes) if recipe.class_weighting == "loss" else np.ones(classes)
    return Images(np.asarray(split.images), split.labels, weights.astype(np.float32))


def train_batches(placed: Images, split: Split, recipe: Recipe, epoch: int) -> Iterator[Batch]:
    """Yields an epoch's batches as arrays on the device; see data.batches.train_batches.

    Args:
        placed: from `images`, on the device or on each of several.
        split: the decoded training images.
        recipe: with augmentation or mixup.
        epoch: from 0; with the seed it decides the order and every random draw.
    """
    return (_batch(placed, drawn) for drawn in batches.drawn_batches(split, recipe, epoch))


@jax.jit
def _batch(placed: Images, drawn: Drawn) -> Batch:
    """One batch: gathered, augmented, mixed, in three channels."""
    gathered = placed.pixels[drawn.indices].astype(jnp.float32)
    shown = gathered if gathered.ndim == 4 else gathered[..., None]
    soft = jax.nn.one_hot(placed.labels[drawn.indices], len(placed.weights))
    if drawn.draws is not None:
        shown = augmented(shown, drawn.draws)
    if drawn.mix is not None:
        pairs, shares = drawn.mix
        shown = _mixed(shown, pairs, shares[:, None, None, None])
        soft = _mixed(soft, pairs, shares[:, None])
    return Batch(jnp.broadcast_to(shown, (*shown.shape[:3], 3)), soft, (soft * placed.weights).sum(-1))


def augmented(shown: jax.Array, draws: Draws) -> jax.Array:
    """Augments a batch by the arithmetic of data.augment.augment.

    Args:
        shown: float32 [B, S, S, K], 0..255.
        draws: of each image.

    Returns:
        float32 [B, S, S, K], within 0..255.
    """
    warped = jax.vmap(_warped)(shown, draws.transforms)
    means, factor = warped.mean((1, 2), keepdims=True), draws.contrast[:, None, None, None]
    contrasted = jnp.clip((warped - means) * factor + means, 0, 255)
    return jnp.clip(contrasted + draws.brightness[:, None, None, None], 0, 255)


def _warped(image: jax.Array, transform: jax.Array) -> jax.Array:
    """One image [S, S, K] resampled bilinearly, with black outside; see Draws.transforms."""
    side = jnp.arange(image.shape[0], dtype=jnp.float32)
    across, along = side[None, :], side[:, None]
    column = transform[0] * across + transform[1] * along + transform[2]
    row = transform[3] * across + transform[4] * along + transform[5]
    planes = jax.vmap(lambda plane: map_coordinates(plane, [row, column], order=1, mode="constant"), -1, -1)
    return planes(image)


def _mixed(values: jax.Array, pairs: jax.Array, shares: jax.Array) -> jax.Array:
    """Each row with its share, and its partner with the rest."""
    return shares * values + (1 - shares) * values[pairs]
