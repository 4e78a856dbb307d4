"""Training batches that an accelerator augments itself: it holds all images, and the host sends only the random draws.

The numbers are those of data/batches.py up to rounding. On a CPU its resampling is the faster one.
"""

import functools
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
    return Images(np.asarray(split.images), split.labels, batches.loss_weights(split, recipe.class_weighting))


def train_batches(placed: Images, split: Split, recipe: Recipe, epoch: int) -> Iterator[Batch]:
    """Yields an epoch's batches as arrays on the device; see data.batches.train_batches.

    Args:
        placed: from `images`, on the device.
        split: the decoded training images.
        recipe: with augmentation or mixup.
        epoch: from 0; with the seed it decides the order and every random draw.
    """
    for drawn in batches.drawn_batches(split, recipe, epoch):
        places = None if drawn.draws is None else _places(drawn.draws.transforms, placed.pixels.shape[1])
        yield _batch(placed, drawn, places)


@functools.partial(jax.jit, static_argnums=1)
def _places(transforms: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    """Where each pixel of an augmented batch comes from, rows and columns, each float32 [B, S, S].

    A program of its own: in one with the resampling, XLA computes places twice and rounds them in two ways. Where a place is
    nearly a whole number, it then takes the pixel of one and the share of the other, which is a wrong pixel.

    Args:
        transforms: as in Draws.
        side: S, pixels.
    """
    across = jnp.arange(side, dtype=jnp.float32)
    along, factors = across[:, None], transforms[:, :6, None, None]
    columns = factors[:, 0] * across + factors[:, 1] * along + factors[:, 2]
    return factors[:, 3] * across + factors[:, 4] * along + factors[:, 5], columns


@jax.jit
def _batch(placed: Images, drawn: Drawn, places: tuple[jax.Array, jax.Array] | None) -> Batch:
    """One batch: gathered, augmented, mixed, in three channels."""
    gathered = placed.pixels[drawn.indices].astype(jnp.float32)
    shown = gathered if gathered.ndim == 4 else gathered[..., None]
    soft = jax.nn.one_hot(placed.labels[drawn.indices], len(placed.weights))
    if drawn.draws is not None:
        shown = _augmented(shown, drawn.draws, places)
    if drawn.mix is not None:
        pairs, shares = drawn.mix
        shown = _mixed(shown, pairs, shares[:, None, None, None])
        soft = _mixed(soft, pairs, shares[:, None])
    return Batch(jnp.broadcast_to(shown, (*shown.shape[:3], 3)), soft, (soft * placed.weights).sum(-1))


def _augmented(shown: jax.Array, draws: Draws, places: Any) -> jax.Array:
    """Augments a batch, float32 [B, S, S, K], by the arithmetic of data.augment.augment; it stays within 0..255."""
    warped = jax.vmap(_warped)(shown, *places)
    means, factor = warped.mean((1, 2), keepdims=True), draws.contrast[:, None, None, None]
    contrasted = jnp.clip((warped - means) * factor + means, 0, 255)
    return jnp.clip(contrasted + draws.brightness[:, None, None, None], 0, 255)


def _warped(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """One image [S, S, K] resampled bilinearly at [S, S] places, with black outside."""
    plane = functools.partial(map_coordinates, coordinates=[rows, columns], order=1, mode="constant")
    return jax.vmap(plane, -1, -1)(image)


def _mixed(values: jax.Array, pairs: jax.Array, shares: jax.Array) -> jax.Array:
    """Each row with its share, and its partner with the rest."""
    return shares * values + (1 - shares) * values[pairs]
