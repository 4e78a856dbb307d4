"""One run's epochs: what is carried from step to step and from epoch to epoch, saved, and taken up again."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np

from ctkeras import (
    backbones,
    decoded,
    evaluation,
    export,
    features,
    kernels,
    model,
    pipeline,
    runfolder,
    runtime,
    steps,
)
from ctkeras.config import RunConfig, UserError
from ctkeras.schedule import Plateau, learning_rate

RESIDENT_BYTES = 2**30  # of features, or of validation, that stay on an accelerator; it has tens of times as much
IN_FLIGHT = 2  # steps on an accelerator; one computes while the next is sent, and a wish to stop waits for no more


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads: training and validation, never test."""

    train: decoded.Split
    valid: decoded.Split
    fingerprint: str
    cleaned: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # what the audit took out of training, for the record


@dataclasses.dataclass
class Progress:
    """Where a run stands after an epoch; with the arrays beside it, all that a checkpoint holds."""

    cut: str  # where the training of this phase begins, one of config.CUTS; the arrays are those behind it
    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_acc: float = -1.0
    best_loss: float = math.inf
    plateau: Plateau = dataclasses.field(default_factory=Plateau)
    seconds: float = 0.0
    compile_seconds: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Feed:
    """The batches of one phase of training."""

    train: Callable[[int], Iterator[pipeline.Batch]]
    valid: Callable[[], Iterator[pipeline.Batch]]


@dataclasses.dataclass
class Loop:
    """A run in progress."""

    config: RunConfig
    data: Data
    built: model.Classifier
    progress: Progress
    programs: steps.Programs
    state: steps.State
    feed: Feed
    weights: str  # the frozen weights' fingerprint
    compiled: dict[str, int]  # runtime.compile_counts at the start
    best: list[np.ndarray] = dataclasses.field(default_factory=list)  # weights, on the host
    best_logits: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0))
    )  # of validation, float32 [N, C]
    logits: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))  # those of the last epoch

    def epoch(self, stop: Any) -> dict[str, Any] | None:
        """Trains and validates one epoch.

        Args:
            stop: its `reason` is read before each step.

        Returns:
            The epoch's row of EPOCH_METRICS; None when it was stopped half-way, and nothing of it counts.
        """
        if cut_at(self.config, self.progress.epoch) != self.progress.cut:
            self._unfreeze()
        begun, compiled = time.perf_counter(), self.programs.compile_seconds
        lr = self._train_epoch(stop)
        if lr is None:
            return None
        totals = {key: float(value) for key, value in jax.device_get(self.state.totals).items()}
        val_acc, val_loss = self._validate()
        self.progress.epoch += 1
        self.progress.compile_seconds += self.programs.compile_seconds - compiled
        bad = totals["bad_step"] >= 0
        return {
            "epoch": self.progress.epoch,
            "train_acc": totals["correct"] / totals["examples"],
            "train_loss": math.nan if bad else totals["loss"] / totals["examples"],
            "val_acc": val_acc,
            "val_loss": val_loss,
            "lr": lr,
            "epoch_seconds": time.perf_counter() - begun,
            "memory_bytes": runtime.memory_bytes(),
        }

    def bad_step(self) -> int:
        """The epoch's first step whose loss was not finite, from 1; 0 when all were."""
        return int(self.state.totals["bad_step"]) + 1

    def _train_epoch(self, stop: Any) -> float | None:
        """Runs an epoch's steps; returns the last learning rate, None when asked to stop."""
        config, epoch = self.config, self.progress.epoch
        total = pipeline.steps_per_epoch(len(self.data.train.files), config.batch_size)
        self.state = self.state._replace(totals=self.programs.place(steps.new_totals()))
        frozen = self.programs.place(self.programs.frozen_variables())
        bar = runtime.Bar(f"epoch {epoch + 1}/{config.max_epochs}", total)
        lr, waiting, ahead = 0.0, [], jax.default_backend() != "cpu"
        for i, batch in enumerate(self.feed.train(epoch)):
            if stop.reason:
                bar.close()
                return None
            lr = learning_rate(config, epoch * total + i, steps_per_epoch=total, plateau=self.progress.plateau)
            hyper = steps.Hyper(*(np.float32(v) for v in (lr, config.weight_decay, config.label_smoothing)))
            if epoch == 0 and i == 0 and not self.programs.compiled:
                runtime.note("Compiling the training step (kept for later runs) …")
            self.state = self.programs.train_step(self.state, frozen, self.programs.place_batch(batch), hyper)
            if ahead:
                waiting.append(self.state.totals["steps"] + 0)  # a copy: the state itself is used up by the next step
            if len(waiting) > IN_FLIGHT:
                jax.block_until_ready(waiting.pop(0))
            bar.update(i + 1)
        bar.close()
        return lr

    def _validate(self) -> tuple[float, float]:
        """val_acc and val_loss of the state as it is."""
        self.logits = self._valid_logits()
        probabilities = evaluation.softmax(self.logits)
        labels = self.data.valid.labels
        return evaluation.accuracy(labels, probabilities), evaluation.cross_entropy(labels, probabilities)

    def _valid_logits(self) -> np.ndarray:
        """Logits of the validation images in order, float32 [N, C]."""
        frozen = self.programs.place(self.programs.frozen_variables())
        outputs = [
            self.programs.eval_step(self.state, frozen, self.programs.place_batch(batch)) for batch in self.feed.valid()
        ]
        return np.concatenate([np.asarray(output) for output in outputs])[: len(self.data.valid.files)]

    def improved(self, row: dict[str, Any]) -> bool:
        """Keeps the weights when the epoch is the best so far: by val_acc, ties by val_loss."""
        progress = self.progress
        better = (row["val_acc"], -row["val_loss"]) > (progress.best_acc, -progress.best_loss)
        if better:
            progress.best_epoch = row["epoch"]
            progress.best_acc, progress.best_loss = row["val_acc"], row["val_loss"]
            self.programs.store(self.state)
            self.best = [np.array(weight.value) for weight in self._kept_weights()]
            self.best_logits = self.logits
        progress.plateau = progress.plateau.after(row["val_loss"])
        progress.history.append(row)
        return better

    def export(self, folder: Path) -> None:
        """Writes the best epoch's model into the run folder; the state in training is not touched."""
        for weight, value in zip(self._kept_weights(), self.best, strict=True):
            weight.assign(value)
        names = self.data.train.class_names
        export.export(self.built.model, folder, class_names=names, model_name=self.config.model_name, kind=kernels.core)

    def _kept_weights(self) -> list[Any]:
        """The Keras weights that the whole run may change."""
        return programs_of(self.built, self.config, self.config.cut).suffix.weights

    def compile_counts(self) -> dict[str, int]:
        """What this process has compiled for the run: train programs, and hits and misses of JAX's cache."""
        names = ("train_programs_compiled", "cache_hits", "cache_misses")
        return {name: runtime.compile_counts[name] - self.compiled.get(name, 0) for name in names}

    def _unfreeze(self) -> None:
        """Goes from training the head to training everything; the optimizer starts anew, as its variables are others."""
        self.programs.store(self.state)
        self.progress.cut = self.config.cut
        self.programs = programs_of(self.built, self.config, self.config.cut)
        self.state = self.programs.start()
        self.weights = weights_of(self.programs)
        self.feed = feed_of(self.programs, self.config, self.data, weights=self.weights)
        runtime.note(f"The head is trained; training from {self.config.cut} on now.")

    def save(self, folder: Path) -> None:
        """Writes history.csv and the checkpoint."""
        progress = self.progress
        runfolder.write_history(folder, progress.history)
        facts = dataclasses.asdict(progress) | {"start": [self.data.fingerprint, self.weights]}
        state = {
            key: [np.asarray(a) for a in getattr(self.state, key)]
            for key in ("trainable", "non_trainable", "optimizer")
        }
        runfolder.save_checkpoint(
            folder, runfolder.Checkpoint({**state, "best": self.best, "best_logits": [self.best_logits]}, facts)
        )


def build(config: RunConfig, *, classes: int, weights: Path | None) -> model.Classifier:
    """Builds a run's model, or finds it built in this process; its weights are as the run starts with them.

    Args:
        config: every hyperparameter.
        classes: number of classes.
        weights: ImageNet weights, None to start from random ones.

    Raises:
        UserError: the file holds other weights.
    """
    _distribute(config.batch_size)
    structure = steps.Structure(
        model_name=config.model_name,
        image_size=config.image_size,
        classes=classes,
        precision=config.precision,
        weights=weights,
        freeze_batch_norm=config.freeze_batch_norm and config.pretrained and config.cut != "head",
    )
    with runtime.waiting(f"Building {config.model_name}"), runtime.without("tensorflow", "tensorflow_text"):
        built = steps.classifier(structure)
        model.initialise(built, seed=config.seed, dropout=config.dropout)
    return built


def begin(config: RunConfig, data: Data, built: model.Classifier, *, folder: Path) -> Loop:
    """Sets a run to its start, or to where its checkpoint says it was.

    Args:
        config: every hyperparameter.
        data: decoded images.
        built: its model, from build.
        folder: the run folder, whose checkpoint is taken up when it has one.

    Raises:
        UserError: the checkpoint belongs to other data or other weights.
    """
    compiled = dict(runtime.compile_counts)
    checkpoint = runfolder.load_checkpoint(folder)
    facts = dict(checkpoint.facts) if checkpoint else {}
    cut = facts.get("cut", cut_at(config, 0))
    programs = programs_of(built, config, cut)
    weights = weights_of(programs)
    progress = Progress(cut)
    state, best, best_logits = programs.start(), [], np.zeros((0, 0))
    if checkpoint:
        if facts.pop("start") != [data.fingerprint, weights]:
            raise UserError(f"{folder} was started on other images or other weights; it can only go on with the same")
        progress = Progress(**{**facts, "plateau": Plateau(**facts["plateau"])})
        state = programs.place(
            steps.State(**{k: checkpoint.arrays.get(k, []) for k in state._fields[:3]}, totals=steps.new_totals())
        )
        best, best_logits = checkpoint.arrays["best"], checkpoint.arrays["best_logits"][0]
    feed = feed_of(programs, config, data, weights=weights)
    return Loop(config, data, built, progress, programs, state, feed, weights, compiled, best, best_logits)


def cut_at(config: RunConfig, epoch: int) -> str:
    """Where training begins in an epoch, from 0."""
    return "head" if epoch < config.head_epochs else config.cut


def weights_of(programs: steps.Programs) -> str:
    """Tells the frozen weights from others; '' when nothing is frozen."""
    return backbones.fingerprint(programs.prefix.variables) if programs.prefix is not None else ""


def programs_of(built: model.Classifier, config: RunConfig, cut: str) -> steps.Programs:
    """The programs of a phase of the run."""
    on_features = cut != "input" and config.feature_cache
    return steps.programs(built, cut=cut, on_features=on_features, optimizer=config.optimizer)


def feed_of(programs: steps.Programs, config: RunConfig, data: Data, *, weights: str) -> Feed:
    """The batches of a phase: cached features where the prefix is frozen, else images."""
    recipe = pipeline.Recipe(
        config.batch_size, config.seed, config.class_weighting, config.mixup_alpha, config.augmentation
    )
    if not programs.on_features:
        size = data.valid.images.size * 4 * 3  # bytes as float32 in three channels
        return Feed(
            lambda epoch: pipeline.train_batches(data.train, recipe, epoch),
            _resident(programs, lambda: pipeline.eval_batches(data.valid, config.batch_size), size),
        )
    views = config.feature_views if config.augmentation else 1
    load = functools.partial(
        features.load, programs, weights=weights, augmentation=config.augmentation, precision=config.precision
    )
    train = load(data.train, name="training", views=views)
    valid = load(data.valid, name="validation", views=1)
    if jax.default_backend() != "cpu" and sum(view.nbytes for view in train) <= RESIDENT_BYTES:
        train = programs.place(np.stack(train))
    return Feed(
        lambda epoch: features.train_batches(train, data.train, recipe, epoch),
        _resident(programs, lambda: features.eval_batches(valid, data.valid, config.batch_size), valid[0].nbytes),
    )


def _resident(
    programs: steps.Programs, make: Callable[[], Iterator[pipeline.Batch]], size: int
) -> Callable[[], Iterator[pipeline.Batch]]:
    """Validation's batches, which are the same in every epoch: on an accelerator they stay there when they are few."""
    if jax.default_backend() == "cpu" or size > RESIDENT_BYTES:
        return make
    placed: list[pipeline.Batch] = []

    def batches() -> Iterator[pipeline.Batch]:
        if not placed:
            placed.extend(programs.place_batch(batch) for batch in make())
        return iter(placed)

    return batches


def _distribute(batch_size: int) -> None:
    """Spreads batches over all local devices when there are several and they divide the batch."""
    devices = jax.local_device_count()
    if devices > 1 and batch_size % devices == 0:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
        runtime.note(f"Spreading each batch over {devices} devices.")
    elif devices > 1:
        keras.distribution.set_distribution(None)
        runtime.note(f"Using one of {devices} devices: they don't divide batch_size {batch_size}.")
