"""What a run reads: its decoded images, and the batches of each phase of its training."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.audit import audit
from ctkeras.config import RunConfig
from ctkeras.data import decoded, sources
from ctkeras.data.batches import Batch, Recipe, eval_batches, train_batches
from ctkeras.runtime import console

if TYPE_CHECKING:
    from ctkeras.training.programs import Programs

RESIDENT_BYTES = 2**30  # of features, or of validation, that stay on an accelerator; it has tens of times as much


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads: training and validation, never test."""

    train: decoded.Split
    valid: decoded.Split
    fingerprint: str
    # What the audit removed from training, for metrics.json.
    cleaned: dict[str, Any] = dataclasses.field(default_factory=dict)


def load_data(source: sources.Source, config: RunConfig) -> Data:
    """Decodes training and validation, or reads them from the cache; test is not opened.

    Raises:
        UserError: an image cannot be read.
    """
    train, valid = (decoded.load_split(source, split, config.image_size) for split in ("train", "valid"))
    train, cleaned = audit.clean(train, source, leaks=config.leaks)
    if left_out := cleaned.train_images_dropped + cleaned.conflicts_dropped:
        console.note(
            f"Training on {cleaned.train_images} images: {left_out} are left out because they also appear in valid or "
            "test, or have two labels (ctkeras data check lists them; --leaks keep trains on them)."
        )
    return Data(train, valid, source.fingerprint, dataclasses.asdict(cleaned))


@dataclasses.dataclass
class Feed:
    """The batches of one phase of training."""

    train: Callable[[int], Iterator[Batch]]  # of an epoch, from 0
    valid: Callable[[], Iterator[Batch]]


def feed_of(programs: "Programs", config: RunConfig, data: Data, *, weights: str) -> Feed:
    """The batches of a phase: cached features where the prefix is frozen, otherwise images.

    Args:
        programs: of this phase.
        config: every hyperparameter.
        data: decoded images.
        weights: fingerprint of the frozen weights; identifies cached features.
    """
    if not programs.parts.on_features:
        size = data.valid.images.size * 4 * 3  # bytes as float32 in three channels
        return Feed(
            lambda epoch: train_batches(data.train, _recipe(config), epoch),
            _resident(programs, lambda: eval_batches(data.valid, config.batch_size), size),
        )
    return _feature_feed(programs, config, data, weights=weights)


def _feature_feed(programs: "Programs", config: RunConfig, data: Data, *, weights: str) -> Feed:
    """Batches of cached features; on an accelerator they stay there when they fit into RESIDENT_BYTES."""
    import jax

    from ctkeras.training import features

    load = functools.partial(
        features.load, programs, weights=weights, augmentation=config.augmentation, precision=config.precision
    )
    train = load(data.train, name="training", views=config.feature_views if config.augmentation else 1)
    valid = load(data.valid, name="validation", views=1)
    if jax.default_backend() != "cpu" and sum(view.nbytes for view in train) <= RESIDENT_BYTES:
        train = programs.place(np.stack(train))
    return Feed(
        lambda epoch: features.train_batches(train, data.train, _recipe(config), epoch),
        _resident(programs, lambda: features.eval_batches(valid, data.valid, config.batch_size), valid[0].nbytes),
    )


def _recipe(config: RunConfig) -> Recipe:
    return Recipe(config.batch_size, config.seed, config.class_weighting, config.mixup_alpha, config.augmentation)


def _resident(programs: "Programs", make: Callable[[], Iterator[Batch]], size: int) -> Callable[[], Iterator[Batch]]:
    """Validation's batches, the same in every epoch: on an accelerator they stay there when they are small."""
    import jax

    if jax.default_backend() == "cpu" or size > RESIDENT_BYTES:
        return make
    placed: list[Batch] = []

    def batches() -> Iterator[Batch]:
        if not placed:
            placed.extend(programs.place_batch(batch) for batch in make())
        return iter(placed)

    return batches
