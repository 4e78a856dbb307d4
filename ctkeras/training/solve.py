"""A head on fixed features, solved to its optimum in place of epochs: one head, or one per fold."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctkeras.audit import groups
from ctkeras.config import RunConfig, is_auto
from ctkeras.data.batches import class_weights
from ctkeras.data.decoded import Split
from ctkeras.errors import UserError
from ctkeras.evaluation import probabilities
from ctkeras.models import head
from ctkeras.runs.history import write_history
from ctkeras.runtime import console, process
from ctkeras.training import solver
from ctkeras.training.folds import Folds, groups_of
from ctkeras.training.run import Loop, improve

if TYPE_CHECKING:
    import keras

    from ctkeras.training.ending import Ending

INNER_FOLDS = 5  # by which weight_decay is chosen inside training
# Where there are too few groups to choose by folds. From 0.003 to 0.3 grouped folds of the public set differ by 2 points.
USUAL_DECAY = 0.1


class Solution(NamedTuple):
    """Solved heads. M heads, one without folds; N images; D features; C classes."""

    mean: np.ndarray  # float64 [D], of the training features
    scale: np.ndarray  # float64 [D], their standard deviations
    kernels: list[np.ndarray]  # M of float64 [D, C], on features as they are
    biases: list[np.ndarray]  # M of float64 [C]
    weight_decays: list[float]  # M
    train_logits: np.ndarray  # float64 [N, C], of the model as it is exported
    valid_logits: np.ndarray  # float64 [n, C]; with folds, each image's from a head that did not see it


def run_solved(
    run: Loop,
    ending: "Ending",
    *,
    log: Callable[[dict[str, Any]], None],
    after_epoch: Callable[[dict[str, Any]], None] | None,
) -> tuple[str, str]:
    """Solves a run's head, in place of loop.run_epochs; the arguments and what is returned are the same.

    The run has one row, as epoch 1.
    """
    if ending.stop.reason:
        return ending.stop.reason, ""
    row = _solve_run(run)
    with ending.lock:
        if ending.metrics is not None:
            return ending.stop.reason, ""
        improve(run, row)
        run.progress.seconds = ending.seconds()
        write_history(ending.folder, run.progress.history)
    log(row)
    folds, decay = run.data.folds, run.facts["weight_decay"]
    source = "validation" if folds is None else f"{int(folds.of.max()) + 1} folds of {len(folds.of)} images"
    console.note(
        f"solved  train_acc {row['train_acc']:.3f}  val_acc {row['val_acc']:.3f} val_loss {row['val_loss']:.3f} ({source})  "
        f"weight_decay {decay:.3g}  {row['epoch_seconds']:.1f} s"
    )
    if after_epoch is not None:
        after_epoch(row)
    return "solved", ""


def _solve_run(run: Loop) -> dict[str, Any]:
    """Solves the head, puts it into the model and the state, and returns the row of EPOCH_METRICS."""
    begun, config, data = time.perf_counter(), run.config, run.data
    train, valid = run.members[0].feed.arrays()
    with console.waiting("Solving the head"):
        if data.folds is None:
            solution = solve(config, train, data.train, valid=valid)
        else:
            solution = solve_folds(config, train, data.train, folds=data.folds)
    put(run.built.model, solution)
    run.members[0].state = run.programs.start()
    run.logits = solution.valid_logits.astype(np.float32)
    run.progress.epoch = 1
    fitted, validated = probabilities.softmax(solution.train_logits), probabilities.softmax(solution.valid_logits)
    # Of folds, the geometric mean.
    run.facts["weight_decay"] = float(np.exp(np.mean(np.log(solution.weight_decays))))
    return {
        "epoch": 1,
        "train_acc": probabilities.accuracy(data.train.labels, fitted),
        "train_loss": probabilities.cross_entropy(data.train.labels, fitted),
        "val_acc": probabilities.accuracy(data.valid.labels, validated),
        "val_loss": probabilities.cross_entropy(data.valid.labels, validated),
        "lr": 0.0,
        "epoch_seconds": time.perf_counter() - begun,
        "memory_bytes": process.memory_bytes(),
    }


def solve(config: RunConfig, train: Sequence[np.ndarray], split: Split, *, valid: np.ndarray) -> Solution:
    """Solves one head on the training features.

    Args:
        config: its weight_decay, label_smoothing, class_weighting and seed count.
        train: V views, each float [N, D].
        split: the training images, for their labels and groups.
        valid: float [n, D].
    """
    rows, targets, weights = problem(config, train, split)
    factors = solver.factorise(rows)
    strength = config.weight_decay
    if is_auto(strength):
        strength = _chosen(config, factors, targets, weights, split=split)
    solved = solver.solve(factors, targets, weight_decay=_positive(strength), weights=weights)
    logits = [np.asarray(features, float) @ solved.kernel + solved.bias for features in (train[0], valid)]
    return Solution(factors.mean, factors.scale, [solved.kernel], [solved.bias], [_positive(strength)], *logits)


def solve_folds(
    config: RunConfig,
    train: Sequence[np.ndarray],
    split: Split,
    *,
    folds: Folds,
    chosen: np.ndarray | None = None,
) -> Solution:
    """Solves one head per fold, each on the images of all other folds, or one on all images if they are to be refitted.

    All heads share the standardisation, which knows no label. If weight_decay is auto, a member takes that of least
    calibrated out-of-fold loss on the images it is trained on. The labels of its own fold are not counted in that loss;
    they are in it only through the heads of the other folds, which were trained on them.

    Args:
        config: as for solve.
        train: V views, each float [N, D].
        split: the pooled images, for their labels.
        folds: how they are divided.
        chosen: bool [N], the images that heads may be trained on; None: all.
    """
    rows, targets, weights = problem(config, train, split)
    factors, tiled, images = solver.factorise(rows), np.tile(folds.of, len(train)), len(split.labels)
    first = np.arange(len(tiled)) < images
    if chosen is not None:
        used = np.tile(chosen, len(train))
        weights, first = np.where(used, weights, 0.0), first & used
    count = int(folds.of.max()) + 1
    strengths = [config.weight_decay] * count
    if is_auto(config.weight_decay):
        strengths = solver.choose_per_fold(factors, targets, folds=tiled, weights=weights, scored=first)
    features, logits = np.asarray(train[0], float), np.zeros((images, targets.shape[1]))
    members: list[solver.Head] = []
    for fold, strength in enumerate(strengths):
        others = np.where(tiled == fold, 0.0, weights)
        members.append(solver.solve(factors, targets, weight_decay=_positive(strength), weights=others))
        held_out = folds.of == fold
        logits[held_out] = features[held_out] @ members[-1].kernel + members[-1].bias
    if folds.refit:
        strength = float(np.exp(np.mean(np.log([_positive(strength) for strength in strengths]))))
        strengths, members = [strength], [solver.solve(factors, targets, weight_decay=strength, weights=weights)]
    answers = sum(probabilities.softmax(features @ member.kernel + member.bias) for member in members) / len(members)
    return Solution(
        factors.mean,
        factors.scale,
        [member.kernel for member in members],
        [member.bias for member in members],
        [_positive(strength) for strength in strengths],
        np.log(np.maximum(answers, 1e-30)),
        logits,
    )


def put(model: "keras.Model", solution: Solution) -> None:
    """Puts solved heads into a Keras model, on features that it standardises."""
    mean, scale = solution.mean, np.maximum(solution.scale, head.LEAST_SCALE)
    head.set_statistics(model, mean, scale)
    kernels = [kernel * scale[:, None] for kernel in solution.kernels]
    biases = [bias + mean @ kernel for kernel, bias in zip(solution.kernels, solution.biases, strict=True)]
    head.set_weights(model, kernels, biases)


def problem(config: RunConfig, train: Sequence[np.ndarray], split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a head is solved on: rows [V * N, D], soft targets [V * N, C] and weights [V * N] of all views together.

    Args:
        config: its label_smoothing and class_weighting.
        train: V views, each float [N, D].
        split: the training images, for their labels.
    """
    classes = len(split.class_names)
    targets = solver.smoothed(np.eye(classes)[split.labels], config.label_smoothing)
    balanced = class_weights(split.labels, classes) if config.class_weighting != "none" else np.ones(classes)
    weights = balanced[split.labels].astype(float)
    return np.concatenate(train), np.tile(targets, (len(train), 1)), np.tile(weights, len(train))


def _chosen(
    config: RunConfig, factors: solver.Factors, targets: np.ndarray, weights: np.ndarray, *, split: Split
) -> float:
    """The weight_decay of least calibrated loss in grouped folds of training, counted on each image's first view."""
    images = len(split.labels)
    try:
        fold_of = groups.folds(split.labels, groups_of(split), INNER_FOLDS, seed=config.seed)
    except UserError:
        console.note(
            f"weight_decay is {USUAL_DECAY:g}: there are too few groups of similar slices to choose it by folds."
        )
        return USUAL_DECAY
    tiled = np.tile(fold_of, len(targets) // images)
    first = np.arange(len(tiled)) < images
    return solver.choose_weight_decay(factors, targets, folds=tiled, weights=weights, scored=first).weight_decay


def _positive(strength: float) -> float:
    """A strength of L2 at which the loss has its one minimum; without any, a head that separates all images has none."""
    return max(float(strength), solver.GRID[0] / 10)
