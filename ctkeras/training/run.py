"""A run in progress: what its epochs change, and how its best model is chosen, saved and exported."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.config import RunConfig
from ctkeras.cpu import layers
from ctkeras.evaluation import calibration
from ctkeras.evaluation.probabilities import softmax
from ctkeras.models import classifier, export, join
from ctkeras.runs import places
from ctkeras.runs.checkpoint import TRAINED, Checkpoint, save_checkpoint
from ctkeras.runs.history import write_history
from ctkeras.training.inputs import Data, Feed, members_of, preparation_of
from ctkeras.training.programs import Programs, frozen_fingerprint, phase_programs
from ctkeras.training.schedule import Plateau
from ctkeras.training.steps import State

WORTH_FLUSHING = 0.5  # seconds of an epoch; of shorter ones, a power cut may lose the run
STORED = ("trainable", "non_trainable", "optimizer")  # of each member's state, in a checkpoint


@dataclasses.dataclass
class Progress:
    """Where a run is after an epoch; with the arrays beside it, all that a checkpoint holds."""

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
class Member:
    """One of the models that a run trains side by side: one per fold, or the only one."""

    data: Data  # what it trains and is validated on
    state: State
    feed: Feed
    rows: np.ndarray | slice  # which of the run's validation images it answers for


@dataclasses.dataclass
class Loop:
    """A run in progress."""

    config: RunConfig
    data: Data
    built: classifier.Classifier
    progress: Progress
    programs: Programs
    members: list[Member]
    weights: str  # the frozen weights' fingerprint
    compiled: dict[str, int]  # process.compile_counts at the start
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # more for metrics.json
    best: list[np.ndarray] = dataclasses.field(default_factory=list)  # weights, on the host
    # Of validation, float32 [N, C]: at the best epoch, and at the last.
    best_logits: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    logits: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    tempered: tuple[np.ndarray, float] | None = None  # best_logits and their temperature, once it was asked for


def improve(run: Loop, row: dict[str, Any]) -> bool:
    """Adds the row to the history; takes the epoch's weights if it is the best so far: by val_acc, ties by val_loss.

    If the last epoch is what is wanted, the weights of each epoch are taken.
    """
    progress = run.progress
    better = (row["val_acc"], -row["val_loss"]) > (progress.best_acc, -progress.best_loss)
    if better or run.config.best == "last":
        progress.best_epoch = row["epoch"]
        progress.best_acc, progress.best_loss = row["val_acc"], row["val_loss"]
        run.best = []
        for member in run.members:
            run.programs.store(member.state)
            run.best += [np.array(weight.value) for weight in changing_weights(run.config, run.built)]
        run.best_logits = run.logits
    progress.plateau = progress.plateau.after(row["val_loss"])
    progress.history.append(row)
    return better


def save(run: Loop, folder: Path) -> None:
    """Writes history.csv, the checkpoint, and that this process still works."""
    write_history(folder, run.progress.history)
    places.seen(folder)
    facts = dataclasses.asdict(run.progress) | {"start": [run.data.fingerprint, run.weights]}
    arrays = {
        f"{name}{number or ''}": [np.asarray(array) for array in getattr(member.state, name)]
        for number, member in enumerate(run.members)
        for name in STORED
    }
    durable = run.progress.history[-1]["epoch_seconds"] >= WORTH_FLUSHING
    checkpoint = Checkpoint({**arrays, "best": run.best, "best_logits": [run.best_logits]}, facts)
    save_checkpoint(folder, checkpoint, durable=durable)


def heads_of(config: RunConfig, data: Data) -> int:
    """The number of heads that are solved together in one graph; 1 for a run that trains in epochs."""
    return len(members_of(data)) if config.optimizer == "lbfgs" else 1


def keep(run: Loop, folder: Path) -> None:
    """Writes the best epoch's trained weights to trained.npz, from which kept.export makes the model.

    An older model of the run, which has other weights now, is deleted.
    """
    facts = {
        "class_names": list(run.data.train.class_names),
        "heads": heads_of(run.config, run.data),
        "frozen": frozen_of(run.config, run.built),
        "temperature": temperature(run),
        "span": run.data.span,
    }
    save_checkpoint(folder, Checkpoint({"best": run.best}, facts), name=TRAINED)
    for name in ("model.keras", "contract.json"):
        (folder / name).unlink(missing_ok=True)


def frozen_of(config: RunConfig, built: classifier.Classifier) -> str:
    """The fingerprint of the weights that a run does not train; '' if it trains all."""
    return frozen_fingerprint(phase_programs(built, config, config.cut))


def export_best(run: Loop, folder: Path) -> None:
    """Writes the best epoch's model into the run folder; the state in training does not change."""
    names, softness, span = run.data.train.class_names, temperature(run), run.data.span
    export_trained(run.config, run.built, run.best, folder, class_names=names, temperature=softness, span=span)


def export_trained(
    config: RunConfig,
    built: classifier.Classifier,
    best: Sequence[np.ndarray],
    folder: Path,
    *,
    class_names: Sequence[str],
    temperature: float | None,
    span: str,
) -> None:
    """Writes model.keras and contract.json from the weights that a run has trained.

    Args:
        config: of the run.
        built: its model; the weights that were not trained are those that the run started with.
        best: the values of changing_weights, of one member after the other.
        folder: the run folder.
        class_names: C names in label order.
        temperature: what logits are divided by; None without calibration.
        span: the grays of deep images, see Preparation.
    """
    export.export(
        trained_model(config, built, best),
        folder,
        class_names=class_names,
        model_name=config.model_name,
        preparation=preparation_of(config)._replace(span=span),
        temperature=temperature,
        kind=layers.core,
    )


def temperature(run: Loop) -> float | None:
    """What the logits of the best epoch are divided by, from its answers on validation; None without calibration."""
    if not run.config.calibrate or not len(run.best_logits):
        return None
    if run.tempered is None or run.tempered[0] is not run.best_logits:  # asked for several times at the end of a run
        found = calibration.temperature(run.data.valid.labels, softmax(run.best_logits))
        run.tempered = run.best_logits, found
    return run.tempered[1]


def answers(run: Loop) -> np.ndarray:
    """The exported model's probabilities of the validation images, of each fold from its own member: float64 [N, C]."""
    return softmax(run.best_logits / (temperature(run) or 1.0))


def trained_model(config: RunConfig, built: classifier.Classifier, best: Sequence[np.ndarray]) -> Any:
    """The keras.Model with the best epoch's weights; of members trained side by side, one model with all of them."""
    weights = changing_weights(config, built)
    parts = [best[start : start + len(weights)] for start in range(0, len(best), len(weights))]
    if len(parts) > 1:
        paths = [weight.path for weight in weights]
        values = [dict(zip(paths, part, strict=True)) for part in parts]
        return join.joined(built.model, built.frozen_layers(config.cut), values)
    for weight, value in zip(weights, parts[0], strict=True):
        weight.assign(value)
    return built.model


def changing_weights(config: RunConfig, built: classifier.Classifier) -> list[Any]:
    """The Keras weights that the whole run may change."""
    return phase_programs(built, config, config.cut).parts.suffix.weights


def cut_at(config: RunConfig, epoch: int) -> str:
    """Where training begins in an epoch, counted from 0."""
    return "head" if epoch < config.head_epochs else config.cut
