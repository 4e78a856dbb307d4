"""The epochs of a run, from top to bottom: each batch's step, then validation, then the row, the best model, the checkpoint."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ctkeras.data import batches
from ctkeras.evaluation import probabilities
from ctkeras.models import export
from ctkeras.runtime import console, process
from ctkeras.training.inputs import feed_of
from ctkeras.training.programs import frozen_fingerprint, phase_programs
from ctkeras.training.run import Loop, Member, cut_at, export_best, improve, save, trained_model
from ctkeras.training.schedule import learning_rate
from ctkeras.training.steps import Hyper, State, new_totals
from ctkeras.training.together import separated, stacked

if TYPE_CHECKING:
    from ctkeras.training.ending import Ending
    from ctkeras.training.stopping import Stop

SOON = 4.0  # seconds of training before the export is checked; shorter runs check it only at their end
AT_ONCE = 16  # steps of a head on features in one program
# Programs on an accelerator: one computes while the next is sent, and a request to stop waits for no more.
IN_FLIGHT = 2


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
    config, progress, proved, begun = run.config, run.progress, False, time.perf_counter()
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
        if not proved and time.perf_counter() - begun > SOON and progress.epoch < config.max_epochs:
            _prove_early(run, ending)
            proved = True
        if config.early_stopping and row["epoch"] - progress.best_epoch >= config.early_stopping:
            return "early_stopping", ""
    return "max_epochs", ""


def train_epoch(run: Loop, stop: "Stop") -> dict[str, Any] | None:
    """Trains and validates one epoch of every member.

    Args:
        run: at the epoch's start.
        stop: its `reason` is read before each batch; the steps of those already read still run.

    Returns:
        The epoch's row of EPOCH_METRICS; None when it was stopped half-way, and nothing of it counts.
    """
    config, programs, epoch = run.config, run.programs, run.progress.epoch
    begun, compiled = time.perf_counter(), programs.compile_seconds
    groups = _side_by_side(run)
    total = sum(count * len(group) for group, count in groups)
    bar = console.Bar(f"epoch {epoch + 1}/{config.max_epochs}", total)
    if epoch == 0 and not programs.compiled:
        console.note("Compiling the training step (cached for later runs) …")
    lr, done = 0.0, 0
    for group, count in groups:
        for rate in _train_members(run, group, stop, steps=count):
            lr, done = rate, done + len(group)
            bar.update(done)
    bar.close()
    if done < total:
        return None
    totals = [jax.device_get(member.state.totals) for member in run.members]
    examples = sum(float(each["examples"]) for each in totals)
    finite = all(int(each["bad_step"]) < 0 for each in totals)
    val_acc, val_loss = validate(run)
    run.progress.epoch += 1
    run.progress.compile_seconds += programs.compile_seconds - compiled
    return {
        "epoch": run.progress.epoch,
        "train_acc": sum(float(each["correct"]) for each in totals) / examples,
        "train_loss": sum(float(each["loss"]) for each in totals) / examples if finite else math.nan,
        "val_acc": val_acc,
        "val_loss": val_loss,
        "lr": lr,
        "epoch_seconds": time.perf_counter() - begun,
        "memory_bytes": process.memory_bytes(),
    }


def _at_once(run: Loop) -> int:
    """How many steps of this phase run in one program."""
    programs = run.programs
    return AT_ONCE if run.progress.cut == "head" and programs.parts.on_features and not programs.is_spread() else 1


def _together(run: Loop) -> bool:
    """Whether members of as many steps train in one program: heads, on an accelerator.

    Longer suffixes do not, as a convolution with a kernel per member is slow. On a CPU an epoch of five heads would take a
    tenth less, and round differently from one head at a time.
    """
    return _at_once(run) > 1 and jax.default_backend() != "cpu"


def _side_by_side(run: Loop) -> list[tuple[list[Member], int]]:
    """The members in groups that train in one program, with each group's steps per epoch."""
    groups: dict[tuple[int, int], list[Member]] = {}
    together = _together(run)
    for number, member in enumerate(run.members):
        count = batches.steps_per_epoch(len(member.data.train.files), run.config.batch_size)
        groups.setdefault((count, 0 if together else number), []).append(member)
    return [(members, count) for (count, _), members in groups.items()]


def _train_members(run: Loop, members: list[Member], stop: "Stop", *, steps: int) -> Iterator[float]:
    """Trains one epoch of members side by side; yields the learning rate after each step, and ends early if it is to stop.

    Args:
        run: at the epoch's start.
        members: a group of _side_by_side.
        stop: its `reason` is read before each batch.
        steps: number of steps per epoch.
    """
    config, programs, epoch, at_once = run.config, run.programs, run.progress.epoch, _at_once(run)
    states = [member.state._replace(totals=programs.place(new_totals())) for member in members]
    state = stacked(states) if len(states) > 1 else states[0]
    frozen = programs.place(programs.frozen_variables())
    pending: list[Any] = []
    feeds = zip(*(member.feed.train(epoch) for member in members), strict=True)
    numbered = enumerate(itertools.takewhile(lambda _: not stop.reason, feeds))
    while several := list(itertools.islice(numbered, at_once)):
        rates = [
            learning_rate(config, epoch * steps + i, steps_per_epoch=steps, plateau=run.progress.plateau)
            for i, _ in several
        ]
        hypers = [Hyper(*map(np.float32, (lr, config.weight_decay, config.label_smoothing))) for lr in rates]
        if len(members) > 1:
            state = programs.fold_steps(state, [each for _, each in several], hypers=hypers, most=at_once)
        elif at_once > 1:
            state = programs.train_steps(state, [batch for _, (batch,) in several], hypers=hypers, most=at_once)
        else:
            batch = programs.place_batch(several[0][1][0])
            state = programs.train_step(state, frozen, batch, hypers[0])
        _wait_for_earlier(pending, state)
        yield from rates
    for member, trained in zip(members, separated(state) if len(members) > 1 else [state], strict=True):
        member.state = trained


def _wait_for_earlier(pending: list[Any], state: State) -> None:
    """On an accelerator, waits until no more than IN_FLIGHT programs are under way."""
    if jax.default_backend() == "cpu":
        return
    pending.append(state.totals["steps"] + 0)  # a copy: the next step uses up the state itself
    if len(pending) > IN_FLIGHT:
        jax.block_until_ready(pending.pop(0))


def validate(run: Loop) -> tuple[float, float]:
    """Sets `logits` to those of the validation images, in order; returns val_acc and val_loss."""
    programs, labels = run.programs, run.data.valid.labels
    frozen = programs.place(programs.frozen_variables())
    run.logits = np.zeros((len(labels), len(run.data.valid.class_names)), np.float32)
    for member in run.members:
        placed = (programs.place_batch(batch) for batch in member.feed.valid())
        outputs = [programs.eval_step(member.state, frozen, batch) for batch in placed]
        count = len(member.data.valid.labels)
        run.logits[member.rows] = np.concatenate([np.asarray(output) for output in outputs])[:count]
    answers = probabilities.softmax(run.logits)
    return probabilities.accuracy(labels, answers), probabilities.cross_entropy(labels, answers)


def not_finite(run: Loop, row: dict[str, Any]) -> str:
    """Where a loss of the last epoch was not finite, and what to do, in a sentence; '' when all were finite."""
    steps = [int(member.state.totals["bad_step"]) + 1 for member in run.members]
    step = next((step for step in steps if step), 0)  # from 1; 0 when every step's loss was finite
    if not step and np.isfinite(row["val_loss"]):
        return ""
    where = f"step {step}" if step else "validation"
    return f"The loss is not finite in epoch {row['epoch']}, {where}: lower lr ({run.config.lr:g}) or warm up."


def _prove_early(run: Loop, ending: "Ending") -> None:
    """Exports once, after an early epoch, a graph not yet proved to reload: a later stop then has enough time to export."""
    if ending.exports and not export.is_proved(trained_model(run.config, run.built, run.best)):
        with console.waiting("Checking that this model exports and reloads with the same answers"), ending.lock:
            export_best(run, ending.folder)


def unfreeze(run: Loop) -> None:
    """Moves from training the head to training from config.cut on, with a new optimizer, because its variables are others."""
    before, run.progress.cut = run.programs, run.config.cut
    run.programs = phase_programs(run.built, run.config, run.config.cut)
    run.weights = frozen_fingerprint(run.programs)
    for member in run.members:
        before.store(member.state)
        member.state = run.programs.start()
        member.feed = feed_of(run.programs, run.config, member.data, weights=run.weights)
    console.note(f"The head is trained; now training from {run.config.cut} on.")


def _line(row: dict[str, Any], epochs: int, better: bool) -> str:
    """One epoch in a line; a star marks the best so far."""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  train_acc {row['train_acc']:.3f} train_loss {row['train_loss']:.3f}  "
        f"val_acc {row['val_acc']:.3f} val_loss {row['val_loss']:.3f}  lr {row['lr']:.2g}  "
        f"{row['epoch_seconds']:.1f} s{' *' if better else ''}"
    )
