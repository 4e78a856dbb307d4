"""The epochs of a run, from top to bottom: each batch's step, then validation, then the row, the best model, the checkpoint."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ctkeras.data import batches
from ctkeras.evaluation import metrics
from ctkeras.models import export
from ctkeras.runtime import console, process
from ctkeras.training.inputs import feed_of
from ctkeras.training.programs import frozen_fingerprint, phase_programs
from ctkeras.training.run import Loop, cut_at, export_best, improve, save
from ctkeras.training.schedule import learning_rate
from ctkeras.training.steps import Hyper, State, new_totals

if TYPE_CHECKING:
    from ctkeras.training.ending import Ending
    from ctkeras.training.stopping import Stop

IN_FLIGHT = 2  # steps on an accelerator: one computes while the next is sent, and a request to stop waits for no more


def run_epochs(
    run: Loop,
    ending: "Ending",
    *,
    log: Callable[[dict[str, Any]], None],
    after_epoch: Callable[[dict[str, Any]], None] | None,
) -> tuple[str, str]:
    """Trains epoch by epoch until the run ends.

    Args:
        run: from start.begin.
        ending: its lock is held while the best epoch changes; it may have ended the run from another thread.
        log: called with each epoch's row.
        after_epoch: called with each epoch's row once it is on disk.

    Returns:
        Why it ended, and what went wrong, '' for nothing.
    """
    config, progress, proved = run.config, run.progress, False
    while progress.epoch < config.max_epochs:
        if cut_at(config, progress.epoch) != progress.cut:
            unfreeze(run)
        row = train_epoch(run, ending.stop)
        with ending.lock:
            if row is None or ending.metrics is not None:
                return ending.stop.reason, ""
            if trouble := not_finite(run, row):
                return "nan", trouble
            better = improve(run, row)
            progress.seconds = ending.seconds()
            save(run, ending.folder)
        log(row)
        console.note(_line(row, config.max_epochs, better))
        if after_epoch is not None:
            after_epoch(row)
        if better and not proved:
            _prove_early(run, ending)
            proved = True
        if config.early_stopping and row["epoch"] - progress.best_epoch >= config.early_stopping:
            return "early_stopping", ""
    return "max_epochs", ""


def train_epoch(run: Loop, stop: "Stop") -> dict[str, Any] | None:
    """Trains and validates one epoch.

    Args:
        run: at the epoch's start.
        stop: its `reason` is read before each step.

    Returns:
        The epoch's row of EPOCH_METRICS; None when it was stopped half-way, and nothing of it counts.
    """
    config, programs, epoch = run.config, run.programs, run.progress.epoch
    begun, compiled = time.perf_counter(), programs.compile_seconds
    steps = batches.steps_per_epoch(len(run.data.train.files), config.batch_size)
    run.state = run.state._replace(totals=programs.place(new_totals()))
    frozen = programs.place(programs.frozen_variables())
    bar = console.Bar(f"epoch {epoch + 1}/{config.max_epochs}", steps)
    pending: list[Any] = []
    lr = 0.0
    if epoch == 0 and not programs.compiled:
        console.note("Compiling the training step (cached for later runs) …")
    for i, batch in enumerate(run.feed.train(epoch)):
        if stop.reason:
            bar.close()
            return None
        lr = learning_rate(config, epoch * steps + i, steps_per_epoch=steps, plateau=run.progress.plateau)
        numbers = lr, config.weight_decay, config.label_smoothing, config.layer_decay, config.ema
        hyper = Hyper(*map(np.float32, numbers))
        run.state = programs.train_step(run.state, frozen, programs.place_batch(batch), hyper)
        _wait_for_earlier(pending, run.state)
        bar.update(i + 1)
    bar.close()
    totals = {name: float(value) for name, value in jax.device_get(run.state.totals).items()}
    val_acc, val_loss = validate(run)
    run.progress.epoch += 1
    run.progress.compile_seconds += programs.compile_seconds - compiled
    return {
        "epoch": run.progress.epoch,
        "train_acc": totals["correct"] / totals["examples"],
        "train_loss": math.nan if totals["bad_step"] >= 0 else totals["loss"] / totals["examples"],
        "val_acc": val_acc,
        "val_loss": val_loss,
        "lr": lr,
        "epoch_seconds": time.perf_counter() - begun,
        "memory_bytes": process.memory_bytes(),
    }


def _wait_for_earlier(pending: list[Any], state: State) -> None:
    """On an accelerator, waits until no more than IN_FLIGHT steps are under way."""
    if jax.default_backend() == "cpu":
        return
    pending.append(state.totals["steps"] + 0)  # a copy: the next step uses up the state itself
    if len(pending) > IN_FLIGHT:
        jax.block_until_ready(pending.pop(0))


def validate(run: Loop) -> tuple[float, float]:
    """Sets `logits` to those of the validation images, in order; returns val_acc and val_loss."""
    programs, labels = run.programs, run.data.valid.labels
    frozen = programs.place(programs.frozen_variables())
    outputs = [programs.eval_step(run.state, frozen, programs.place_batch(batch)) for batch in run.feed.valid()]
    run.logits = np.concatenate([np.asarray(output) for output in outputs])[: len(labels)]
    probabilities = metrics.softmax(run.logits)
    return metrics.accuracy(labels, probabilities), metrics.cross_entropy(labels, probabilities)


def not_finite(run: Loop, row: dict[str, Any]) -> str:
    """Where a loss of the last epoch was not finite, and what to do, in a sentence; '' when all were finite."""
    step = int(run.state.totals["bad_step"]) + 1  # from 1; 0 when every step's loss was finite
    if not step and np.isfinite(row["val_loss"]):
        return ""
    where = f"step {step}" if step else "validation"
    return f"The loss is not finite in epoch {row['epoch']}, {where}: lower lr ({run.config.lr:g}) or warm up."


def _prove_early(run: Loop, ending: "Ending") -> None:
    """Exports once, after the first epoch, a graph not yet proved to reload: a later stop then has enough time to export."""
    if not export.is_proved(run.built.model):
        with console.waiting("Checking that this model exports and reloads with the same answers"), ending.lock:
            export_best(run, ending.folder)


def unfreeze(run: Loop) -> None:
    """Moves from training the head to training from config.cut on, with a new optimizer, because its variables are others."""
    run.programs.store(run.state)
    run.progress.cut = run.config.cut
    run.programs = phase_programs(run.built, run.config, run.config.cut)
    run.state = run.programs.start()
    run.weights = frozen_fingerprint(run.programs)
    run.feed = feed_of(run.programs, run.config, run.data, weights=run.weights)
    console.note(f"The head is trained; now training from {run.config.cut} on.")


def _line(row: dict[str, Any], epochs: int, better: bool) -> str:
    """One epoch in a line; a star marks the best so far."""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  train_acc {row['train_acc']:.3f} train_loss {row['train_loss']:.3f}  "
        f"val_acc {row['val_acc']:.3f} val_loss {row['val_loss']:.3f}  lr {row['lr']:.2g}  "
        f"{row['epoch_seconds']:.1f} s{' *' if better else ''}"
    )
