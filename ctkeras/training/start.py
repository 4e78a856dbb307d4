"""The start of a run: its model, and the loop at epoch 0 or where a checkpoint left it."""

import dataclasses
from pathlib import Path

import jax
import keras
import numpy as np

from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.models import classifier, head
from ctkeras.runs.checkpoint import Checkpoint, load_checkpoint
from ctkeras.runs.history import write_history
from ctkeras.runtime import console, process
from ctkeras.training import solve, solver, starts
from ctkeras.training.inputs import Data, Feed, feed_of, members_of
from ctkeras.training.programs import Structure, frozen_fingerprint, phase_programs, programs_at
from ctkeras.training.programs import classifier as programs_classifier
from ctkeras.training.run import STORED, Loop, Member, Progress, cut_at
from ctkeras.training.schedule import Plateau
from ctkeras.training.steps import State, new_totals


def build(config: RunConfig, *, classes: int, weights: Path | None, members: int = 1) -> classifier.Classifier:
    """Builds a run's model, or reuses the one built in this process; its weights are those the run starts with.

    Args:
        config: every hyperparameter.
        classes: number of classes.
        weights: ImageNet weights, None to start from random ones.
        members: number of heads on the one backbone.

    Raises:
        UserError: the file holds other weights.
    """
    _distribute(config.batch_size)
    structure = Structure(
        model_name=config.model_name,
        image_size=config.image_size,
        classes=classes,
        precision=config.precision,
        weights=weights,
        freeze_batch_norm=config.freeze_batch_norm and config.pretrained and config.cut != "head",
        head_stages=config.head_stages,
        members=members,
    )
    with console.waiting(f"Building {config.model_name}"), process.without("tensorflow", "tensorflow_text"):
        built = programs_classifier(structure)
        classifier.initialise(built, seed=config.seed, dropout=config.dropout)
    return built


def begin(config: RunConfig, data: Data, built: classifier.Classifier, *, folder: Path) -> Loop:
    """Puts a run at its start, or where its checkpoint left it.

    Args:
        config: every hyperparameter.
        data: decoded images.
        built: its model, from build.
        folder: the run folder, which may have a checkpoint.

    Raises:
        UserError: the checkpoint belongs to other data or other weights.
    """
    compiled = dict(process.compile_counts)
    checkpoint = load_checkpoint(folder)
    facts = dict(checkpoint.facts) if checkpoint else {}
    cut = facts.get("cut", cut_at(config, 0))
    programs = phase_programs(built, config, cut)
    weights = frozen_fingerprint(programs)
    progress, best, best_logits = Progress(cut), [], np.zeros((0, 0))
    if checkpoint:
        if facts.pop("start") != [data.fingerprint, weights]:
            raise UserError(
                f"{folder} was started on other images or other weights; resume it with the same, or start a new run"
            )
        progress = Progress(**{**facts, "plateau": Plateau(**facts["plateau"])})
        best, best_logits = checkpoint.arrays["best"], checkpoint.arrays["best_logits"][0]
    members = []
    parts = [data] if config.optimizer == "lbfgs" else members_of(data)
    for number, part in enumerate(parts):
        feed = feed_of(programs, config, part, weights=weights)
        if checkpoint is None:
            prepare_head(config, part, built, feed)
            state = programs.start()
        else:
            state = programs.place(_stored_state(checkpoint, number))
        rows = part.pool[2] if len(parts) > 1 and part.pool else slice(None)
        members.append(Member(part, state, feed, rows))
    return Loop(config, data, built, progress, programs, members, weights, compiled, best=best, best_logits=best_logits)


def take_up(run: Loop, folder: Path) -> None:
    """Makes the epochs of another run, whose checkpoint this one has begun with, its own: its time is not."""
    run.progress.seconds = run.progress.compile_seconds = 0.0
    run.facts["epochs_taken_up"] = run.progress.epoch
    write_history(folder, run.progress.history)


def _stored_state(checkpoint: Checkpoint, number: int) -> State:
    """The state of a run's member, as the checkpoint has it."""
    stored = {name: checkpoint.arrays.get(f"{name}{number or ''}", []) for name in STORED}
    return State(**stored, totals=new_totals())


def prepare_head(config: RunConfig, data: Data, built: classifier.Classifier, feed: Feed) -> None:
    """Gives the head its statistics and, before fine-tuning, the weights that solve it on the features as they are.

    A head with random weights sends gradients into the backbone that undo what ImageNet taught it (Kumar et al. 2022,
    arXiv 2202.10054), so fine-tuning starts from the solved head. Random backbones have no features worth solving.

    Args:
        config: every hyperparameter.
        data: decoded images.
        built: the model, whose weights are set.
        feed: of the first phase.
    """
    if config.optimizer == "lbfgs":
        return  # solve.install does the same
    if feed.features is not None and cut_at(config, 0) == "head":
        mean, scale = solver.statistics(np.concatenate(feed.arrays()[0]))
        head.set_statistics(built.model, mean, scale)
    elif config.cut != "head" and config.pretrained:
        programs = programs_at(built, cut="head", on_features=True, optimizer=config.optimizer)
        fixed = dataclasses.replace(config, augmentation=0, feature_views=1)
        train, _ = feed_of(programs, fixed, data, weights=frozen_fingerprint(programs)).arrays()
        solve.put(built.model, starts.head(config, train, data.train))


def accelerators() -> int:
    """The number of GPUs that this process trains on; 0: it trains on the CPU."""
    return 0 if jax.default_backend() == "cpu" else jax.local_device_count()


def _distribute(batch_size: int) -> None:
    """Spreads batches over as many local devices as divide the batch into equal parts, each with all of the variables."""
    devices = keras.distribution.list_devices()
    if len(devices) == 1:
        return
    count = max(count for count in range(1, len(devices) + 1) if batch_size % count == 0)
    parallel = keras.distribution.DataParallel(devices=devices[:count]) if count > 1 else None
    keras.distribution.set_distribution(parallel)
    used = f"Spreading each batch over {count} devices" if parallel else "Using one device"
    more = "" if count == len(devices) else f" of {len(devices)}: no more of them divide batch_size {batch_size} evenly"
    console.note(f"{used}{more}.")
