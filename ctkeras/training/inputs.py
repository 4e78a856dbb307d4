"""What a run reads: its decoded images, and the batches of each phase of its training."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctkeras.audit import cleaning
from ctkeras.config import RunConfig, is_auto
from ctkeras.data import decoded, sources
from ctkeras.data.batches import Batch, Recipe, eval_batches, train_batches
from ctkeras.data.crop import Preparation
from ctkeras.data.decoded import Split
from ctkeras.errors import UserError
from ctkeras.runtime import console
from ctkeras.training import folds
from ctkeras.training.folds import Folds

if TYPE_CHECKING:
    from ctkeras.training.programs import Programs

RESIDENT_BYTES = 2**30  # of features, of training images, or of validation, that stay on an accelerator


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads: training and validation, never test. With all folds in one run, both are the pooled images."""

    train: Split
    valid: Split
    fingerprint: str
    # What the audit removed from training, for metrics.json.
    cleaned: dict[str, Any] = dataclasses.field(default_factory=dict)
    folds: Folds | None = None
    # In one fold, all pooled images, and which of these are trained on and validated on: features are computed for all.
    pool: tuple[Split, np.ndarray, np.ndarray] | None = None
    span: str = ""  # of images of more than 8 bits, see deep.span_of; for the contract


def members_of(data: Data) -> list[Data]:
    """What each member of a run trains on and validates on: one per fold, or the run's own data."""
    if data.folds is None or data.folds.refit:
        return [data]
    return [in_fold(data, data.folds.of, fold) for fold in range(int(data.folds.of.max()) + 1)]


def in_fold(data: Data, fold_of: np.ndarray, fold: int) -> Data:
    """The data of one fold: validation is its images, training those of all others.

    Args:
        data: its training images are the pooled ones.
        fold_of: int [N], the fold of each pooled image.
        fold: from 0.

    Raises:
        UserError: the fold has no images.
    """
    inside = fold_of == fold
    if not inside.any():
        raise UserError(f"fold {fold} has no images; use fewer folds")
    train, valid = data.train.select(~inside), data.train.select(inside)
    rows = data.train, np.flatnonzero(~inside), np.flatnonzero(inside)
    return dataclasses.replace(data, train=train, valid=valid, folds=None, pool=rows)


class Wanted(NamedTuple):
    """What of a run's settings decides its data."""

    image_size: int
    form: Preparation
    leaks: str
    group_pattern: str
    grouped: bool  # images need their groups
    fold_count: int  # 0: the given split
    auto: bool  # the given split will do where folds are not possible
    fold: str
    seed: int


def load_data(source: sources.Source, config: RunConfig) -> Data:
    """Decodes training and validation, or reads them from the cache; test is not opened.

    Raises:
        UserError: an image cannot be read, or the images cannot be divided into folds.
    """
    data, notes = _loaded(
        source,
        Wanted(
            image_size=config.image_size,
            form=preparation_of(config),
            leaks=config.leaks,
            group_pattern=config.group_pattern,
            # Solved heads choose their weight_decay by folds of training.
            grouped=bool(config.fold_count) or config.optimizer == "lbfgs",
            fold_count=config.fold_count,
            auto=is_auto(config.folds),
            fold=config.fold,
            seed=config.seed if config.fold_count else 0,
        ),
    )
    for note in notes:
        console.note(note)
    return data


@functools.lru_cache(maxsize=1)  # the trials of a search read the same
def _loaded(source: sources.Source, wanted: Wanted) -> tuple[Data, list[str]]:
    """The data of a run, and what there is to say about it."""
    train, valid = (decoded.load_split(source, split, wanted.image_size, wanted.form) for split in ("train", "valid"))
    notes: list[str] = []
    if wanted.grouped:
        train, valid = (cleaning.grouped(one, source, group_pattern=wanted.group_pattern) for one in (train, valid))
    if wanted.fold_count:
        try:
            return _in_folds(source, wanted, train, valid)
        except UserError as error:
            if not wanted.auto:
                raise
            notes.append(f"Validating on the given split instead of folds: {error}.")
    train, cleaned = cleaning.clean(train, source, leaks=wanted.leaks)
    if left_out := cleaned.train_images_dropped + cleaned.conflicts_dropped:
        notes.append(
            f"Training on {cleaned.train_images} images: {left_out} are left out because they also appear in valid or "
            "test, or have two labels (ctkeras data check lists them; --leaks keep trains on them)."
        )
    return Data(train, valid, source.fingerprint, dataclasses.asdict(cleaned), span=source.span), notes


def _in_folds(source: sources.Source, wanted: Wanted, train: Split, valid: Split) -> tuple[Data, list[str]]:
    """The pooled images, or the part of them that one fold trains and validates on."""
    pooled, given = folds.pool(train, valid)
    given_files = set(np.array(pooled.files, object)[given])
    pooled, cleaned = cleaning.clean_pool(pooled, source, leaks=wanted.leaks)
    given = np.array([file in given_files for file in pooled.files], bool)
    fold_of = folds.divide(pooled, wanted.fold_count, seed=wanted.seed)
    note = (
        f"Cross-validating in {wanted.fold_count} folds of {len(pooled.files)} distinct images of train and valid; similar "
        "slices stay in one fold."
    )
    divided = Folds(fold_of, given, wanted.fold == "refit")
    data = Data(pooled, pooled, source.fingerprint, dataclasses.asdict(cleaned), divided, span=source.span)
    return in_fold(data, fold_of, int(wanted.fold)) if wanted.fold.isdecimal() else data, [note]


def preparation_of(config: RunConfig) -> Preparation:
    """How images are brought to the form of the model's input."""
    return Preparation(config.crop, config.fit, config.gray, config.window)


@dataclasses.dataclass
class Feed:
    """The batches of one phase of training."""

    train: Callable[[int], Iterator[Batch]]  # of an epoch, from 0
    valid: Callable[[], Iterator[Batch]]
    # With a frozen prefix, what the batches are taken from: views of training, and validation, each float32 [N, …].
    features: tuple[Sequence[np.ndarray], np.ndarray] | None = None
    rows: np.ndarray | None = None  # int, which of these rows are training's; None: all
    valid_rows: np.ndarray | None = None

    def arrays(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The features of the training images, V views of float32 [N, …], and those of the validation images."""
        assert self.features is not None  # for the type checker: asked for only where the prefix is frozen
        train, valid = self.features
        if self.rows is None:
            return list(train), valid
        return [view[self.rows] for view in train], valid[self.valid_rows]


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
        valid = _validation(programs, lambda: eval_batches(data.valid, config.batch_size), size)
        return Feed(_pixel_batches(programs, config, data), valid)
    return _feature_feed(programs, config, data, weights=weights)


def _pixel_batches(programs: "Programs", config: RunConfig, data: Data) -> Callable[[int], Iterator[Batch]]:
    """Training's batches by epoch; a single accelerator augments images that fit into RESIDENT_BYTES itself."""
    import jax

    recipe = _recipe(config)
    alone = jax.default_backend() != "cpu" and not programs.is_spread()
    # In folds each member would have its own copy of nearly the same images there.
    fits = data.pool is None and data.train.images.size <= RESIDENT_BYTES
    if not (alone and fits and (recipe.augmentation or recipe.mixup_alpha)):
        return lambda epoch: train_batches(data.train, recipe, epoch)
    from ctkeras.training import resident

    placed = programs.place(resident.images(data.train, recipe))
    return lambda epoch: resident.train_batches(placed, data.train, recipe, epoch)


def _feature_feed(programs: "Programs", config: RunConfig, data: Data, *, weights: str) -> Feed:
    """Batches of cached features; on an accelerator they stay there when they fit into RESIDENT_BYTES."""
    import jax

    from ctkeras.training import features

    load = functools.partial(
        features.load, programs, weights=weights, augmentation=config.augmentation, precision=config.precision
    )
    views = config.feature_views if config.augmentation else 1
    rows = valid_rows = None
    if data.pool is None:
        train, valid = load(data.train, name="training", views=views), load(data.valid, name="validation", views=1)
    else:
        pooled, rows, valid_rows = data.pool
        train = valid = load(pooled, name="pooled", views=views)
    read = train, valid[0]
    if jax.default_backend() != "cpu" and sum(view.nbytes for view in train) <= RESIDENT_BYTES:
        train = programs.place(np.stack(train))
    return Feed(
        lambda epoch: features.train_batches(train, data.train, _recipe(config), epoch, rows=rows),
        _validation(
            programs,
            lambda: features.eval_batches(valid, data.valid, config.batch_size, rows=valid_rows),
            len(data.valid.files) * valid[0][0].nbytes,
        ),
        read,
        rows,
        valid_rows,
    )


def _recipe(config: RunConfig) -> Recipe:
    return Recipe(config.batch_size, config.seed, config.class_weighting, config.mixup_alpha, config.augmentation)


def _validation(programs: "Programs", make: Callable[[], Iterator[Batch]], size: int) -> Callable[[], Iterator[Batch]]:
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
