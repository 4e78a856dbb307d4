"""The frozen prefix's output, computed once per image and view, cached on disk and shared by every trial and process.

Augmentation becomes a number of views: view 0 is the image as it is, and each other view is augmented once.
A view does not depend on a trial's seed, batch size or learning rate.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xxhash

from ctkeras.data import batches, ondisk
from ctkeras.data.batches import Batch, Recipe
from ctkeras.data.decoded import Split
from ctkeras.runtime import console, files, stored
from ctkeras.runtime.versions import version
from ctkeras.training.programs import Programs

CACHE_BYTES = 10 * 2**30  # a view of 1,000 images takes 5 MB at 1,280 features
BATCH = 16  # images per pass of the prefix; does not change the values, and a small one wastes little in the last pass


def load(
    programs: Programs, split: Split, *, name: str, views: int, weights: str, augmentation: float, precision: str
) -> list[np.ndarray]:
    """Returns a split's features, computing the views not cached yet; of several processes, one computes and the others wait.

    Args:
        programs: those of a model with a frozen prefix.
        split: decoded images.
        name: the split's name, for the message.
        views: V; view 0 is not augmented.
        weights: fingerprint of the prefix's weights; part of the features' key.
        augmentation: strength of the other views.
        precision: of the prefix; part of the features' key.

    Returns:
        V memory-mapped arrays, float32 [N, D], or [N, h, w, D] before a stage.
    """
    pixels = _digest(split.images)
    versions = [version(package) for package in ("keras", "jaxlib", "keras-cv")]
    folder = files.cache_dir("features")
    loaded = []
    for view in range(views):
        seen = augmentation if view else 0.0
        prefix = (
            programs.parts.prefix.name,
            str(programs.parts.prefix.output_shape),
        )  # by the shape, head_stages differ
        facts = (*prefix, weights, pixels, split.images.shape, view, seen, precision, *versions, stored.FORMAT)
        path = folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()}.npy"
        text = f"Computing {name} features, view {view + 1} of {views}, {len(split.files)} images"

        def make(path: Path = path, text: str = text, view: int = view, seen: float = seen) -> None:
            with console.waiting(text):
                stored.write_array(path, _compute(programs, split, view=view, augmentation=seen))
            files.bound(folder, CACHE_BYTES, keep=path)

        read = functools.partial(stored.read_array, path)
        waiting = f"Waiting for another process that computes {name} features"
        loaded.append(stored.reuse(read, make, lock=path.with_suffix(".lock"), waiting=waiting))
        files.touch(path)
    return loaded


def _compute(programs: Programs, split: Split, *, view: int, augmentation: float) -> np.ndarray:
    """One view's features: float32 [N, …]. Copies are computed once; an accelerator computes while the host prepares."""
    first, which = _distinct(split.images)
    if view and augmentation:  # each place has draws of its own
        first = which = np.arange(len(split.files))
    alone = dataclasses.replace(
        split, images=ondisk.select(split.images, first), files=tuple(split.files[i] for i in first)
    )
    bar = console.Bar("features", -(-len(first) // BATCH))
    outputs: list[np.ndarray] = []
    pending = None
    for batch in batches.view_batches(alone, view=view, augmentation=augmentation, batch_size=BATCH):
        begun = programs.prefix_step(batch.astype(np.float32))
        if pending is not None:
            outputs.append(np.asarray(pending))
            bar.update(len(outputs))
        pending = begun
    outputs.append(np.asarray(pending))
    bar.close()
    return np.concatenate(outputs)[which]


def _digest(images: Any) -> str:
    """A digest of images uint8 [N, …], read one by one. Each trial computes it, and SHA-256 takes ten times as long."""
    state = xxhash.xxh3_128()
    for image in images:
        state.update(np.ascontiguousarray(image).data)
    return state.hexdigest()


def _distinct(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of each distinct image's first copy, and for every image which of these it is: int [D], int [N]."""
    numbers: dict[bytes, int] = {}
    which = [
        numbers.setdefault(xxhash.xxh3_128_digest(image.data), len(numbers))
        for image in map(np.ascontiguousarray, images)
    ]
    return np.unique(which, return_index=True)[1], np.array(which)


def train_batches(
    features: Sequence[np.ndarray] | jax.Array,
    split: Split,
    recipe: Recipe,
    epoch: int,
    *,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Yields an epoch's batches of features: each image in one of its views, then mixup, then class weights.

    Args:
        features: from load, or all views as one array on a device, which then gathers the batches' inputs itself.
        split: for its labels.
        recipe: as for pixels.
        epoch: from 0.
        rows: int [N], the row of each image of the split among the features; None: the same.
    """
    classes = len(split.class_names)
    rng = np.random.default_rng([recipe.seed, epoch, 3])
    weights = batches.class_weights(split.labels, classes) if recipe.class_weighting == "loss" else np.ones(classes)
    one_hot = np.eye(classes, dtype=np.float32)
    for indices in batches.epoch_order(split.labels, recipe, epoch):
        places = indices if rows is None else rows[indices]
        inputs = _gather(features, rng.integers(len(features), size=len(indices)), places)
        labels = one_hot[split.labels[indices]]
        if recipe.mixup_alpha:
            inputs, labels = mixup(inputs, labels, alpha=recipe.mixup_alpha, rng=rng)
        yield Batch(inputs, labels, (labels @ weights).astype(np.float32))


def _gather(features: Sequence[np.ndarray] | jax.Array, views: np.ndarray, indices: np.ndarray) -> Any:
    """Each image in its view: float32 [B, …]."""
    if isinstance(features, jax.Array):
        return features[views, indices]
    gathered = np.empty((len(indices), *features[0].shape[1:]), np.float32)
    for view in np.unique(views):
        chosen = views == view
        gathered[chosen] = features[view][indices[chosen]]
    return gathered


def mixup(inputs: Any, labels: np.ndarray, *, alpha: float, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    """Mixup (Zhang et al. 2018) as keras-cv's layer draws it: one share per example, from Beta(alpha, alpha).

    Args:
        inputs: float32 [B, …], on the host or a device.
        labels: float32 [B, C].
        alpha: above 0.
        rng: draws the pairs and the shares.
    """
    pairs = rng.permutation(len(inputs))
    share = rng.beta(alpha, alpha, size=(len(inputs), 1)).astype(np.float32)
    wide = share.reshape(-1, *[1] * (inputs.ndim - 1))
    return wide * inputs + (1 - wide) * inputs[pairs], share * labels + (1 - share) * labels[pairs]


def eval_batches(
    features: Sequence[np.ndarray], split: Split, batch_size: int, *, rows: np.ndarray | None = None
) -> Iterator[Batch]:
    """Yields view 0 in order, the last batch padded and masked by weight 0; `rows` as for train_batches."""
    one_hot = np.eye(len(split.class_names), dtype=np.float32)[split.labels]
    ones = np.ones(len(one_hot), np.float32)
    for start in range(0, len(one_hot), batch_size):
        own = slice(start, start + batch_size)
        parts = (features[0][own if rows is None else rows[own]], one_hot[own], ones[own])
        yield Batch(*(batches.padded(part, batch_size) for part in parts))
