"""The end of a run: its exported model, predictions.csv, metrics.json and W&B's summary, whichever thread ends it."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras import __version__
from ctkeras.errors import UserError
from ctkeras.evaluation import calibration
from ctkeras.evaluation.probabilities import accuracy, cross_entropy, softmax
from ctkeras.runs import places
from ctkeras.runs.checkpoint import drop_checkpoint
from ctkeras.runs.folder import FINISHED, write_metrics
from ctkeras.runs.predictions import FOLDS, prediction_rows, worst_errors, write_predictions
from ctkeras.runtime import console, process, versions
from ctkeras.tracking.run import Tracker
from ctkeras.training.stopping import Stop

if TYPE_CHECKING:
    from ctkeras.training.run import Loop

WORST_SHOWN = 6  # images of a run at W&B
VERSIONED = ("keras", "jax", "keras-hub", "keras-cv", "tensorflow-datasets", "numpy", "wandb")


class Ending:
    """Ends a run once: from the training thread, or from the watcher's when a stop cannot wait for a step to end."""

    def __init__(self, folder: Path, tracker: Tracker | None, stop: Stop, *, exports: bool = True) -> None:
        self.folder, self.tracker, self.stop = folder, tracker, stop
        self.exports = exports  # the model; otherwise only the trained weights, from which it can be exported later
        self.run: Loop | None = None
        self.kept: Path | None = None  # where the last checkpoint is kept for later runs; see earlier.py
        self.metrics: dict[str, Any] | None = None
        self.lock = threading.RLock()  # held while the run's best epoch changes and while it is exported
        self.started, self.before = time.perf_counter(), 0.0
        # Seconds of this process.
        self.spent = {"imports": 0.0, "data": 0.0, "model": 0.0, "features": 0.0, "epochs": 0.0}
        self.last = self.started

    def passed(self, part: str) -> None:
        """Adds the time since the last call to a part of the run."""
        now = time.perf_counter()
        self.spent[part] += now - self.last
        self.last = now

    def begin(self, run: "Loop") -> None:
        """Takes on a run once it is built."""
        self.run, self.before = run, run.progress.seconds

    def worked(self) -> float:
        """This process's time so far, in seconds."""
        return time.perf_counter() - self.started

    def seconds(self) -> float:
        """The run's time so far, earlier processes' included."""
        return self.before + self.worked()

    def finish(self, stopped_by: str, *, failed: bool = False) -> dict[str, Any]:
        """Exports, writes metrics and ends the W&B run; called again, returns the first call's metrics."""
        with self.lock:
            if self.metrics is None:
                if self.run is not None:
                    self.run.progress.seconds = self.seconds()
                    metrics = _finish(self.run, self.folder, stopped_by, self.spent, exports=self.exports)
                    self._drop_checkpoint(stopped_by)
                else:
                    metrics = {"stopped_by": stopped_by, "val_acc": None, "best_epoch": 0, "epochs": 0}
                    write_metrics(self.folder, metrics)
                self.metrics = metrics
                places.seen(self.folder, stopped_by)
                if self.tracker is not None:
                    if self.run is not None and self.run.best:
                        _show(self.run, self.tracker, self.folder)
                    self.tracker.finish(metrics, exit_code=1 if failed else 0)
            return self.metrics

    def _drop_checkpoint(self, stopped_by: str) -> None:
        """Deletes a finished run's checkpoint, once it is kept for later runs of the same epochs."""
        if stopped_by not in FINISHED:
            return
        if self.kept is not None and self.run is not None and stopped_by == "max_epochs":
            from ctkeras.training import earlier

            with contextlib.suppress(OSError, UserError):  # a full cache is not the run's failure
                earlier.give(self.kept, self.folder, epochs=self.run.progress.epoch)
        drop_checkpoint(self.folder)

    def finish_for(self, leave: Callable[[], None] | None) -> None:
        """Ends the run from another thread while its own still computes; then calls `leave`."""
        self.finish(self.stop.reason)
        if leave is not None:
            leave()

    def fail(self, error: BaseException) -> None:
        """Ends the W&B run of a run that failed, with a short reason; exit code 2 for a mistake of the user's."""
        with self.lock:
            if self.metrics is None and self.run is not None:
                with contextlib.suppress(OSError, UserError):  # the disk may be what failed
                    places.seen(self.folder, "error")
            if self.metrics is None and self.tracker is not None:
                text = " ".join(f"{type(error).__name__}: {error}".split())
                code = 2 if isinstance(error, UserError) else 1
                self.tracker.finish({"failure": text[:300], "stopped_by": "error"}, exit_code=code)
                self.metrics = {}


def _finish(run: "Loop", folder: Path, stopped_by: str, spent: dict[str, float], *, exports: bool) -> dict[str, Any]:
    """Exports the model or keeps its weights, and writes the other files."""
    begun = time.perf_counter()
    if run.progress.best_epoch:
        _export(run, folder, exports=exports)
    metrics = {
        **_numbers(run, stopped_by),
        **run.facts,
        **_in_folds(run),
        **_calibrated(run),
        **_counts(run),
        **{f"seconds_{part}": seconds for part, seconds in spent.items()},
        "seconds_export": time.perf_counter() - begun,
        **run.data.cleaned,
        "memory_bytes": process.memory_bytes(),
        "data_fingerprint": run.data.fingerprint,
        "versions": ", ".join([f"ctkeras {__version__}", *(f"{p} {versions.version(p)}" for p in VERSIONED)]),
    }
    write_metrics(folder, metrics)
    return metrics


def _export(run: "Loop", folder: Path, *, exports: bool) -> None:
    """Writes the best epoch's model, or the weights that it can be exported from, and its answers on validation."""
    from ctkeras.training.run import answers, export_best, keep

    solved = run.config.optimizer == "lbfgs"
    word = "last" if run.config.best == "last" else "best"
    what = "the model" if solved else f"epoch {run.progress.best_epoch}, the {word},"
    if exports:
        with console.waiting(f"Exporting {what} and checking the file"):
            export_best(run, folder)
    else:
        keep(run, folder)
    valid, probabilities = run.data.valid, answers(run)
    split = "valid" if run.data.folds is None else FOLDS
    rows = prediction_rows(valid.files, valid.labels, probabilities, class_names=valid.class_names, split=split)
    write_predictions(folder, rows, split=split)


def _numbers(run: "Loop", stopped_by: str) -> dict[str, Any]:
    """What a run reached, how large its model is and how long it took."""
    progress, parts = run.progress, run.programs.parts
    best = progress.history[progress.best_epoch - 1] if progress.best_epoch else {}
    return {
        **{name: best.get(name) for name in ("val_acc", "val_loss", "train_acc", "train_loss")},
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "stopped_by": stopped_by,
        "params_total": _size(run.built.model.weights) + (len(run.members) - 1) * _size(parts.suffix.weights),
        "params_trainable": len(run.members) * _size(parts.suffix.trainable_variables),
        "seconds_total": progress.seconds,
        "seconds_compile": progress.compile_seconds,
    }


def _size(weights: Sequence[Any]) -> int:
    """The number of parameters, without dropout's rate."""
    return sum(int(np.prod(weight.shape)) for weight in weights if weight.name != "rate")


def _in_folds(run: "Loop") -> dict[str, Any]:
    """Of a run in folds, their number and the accuracy on the images of the given validation split."""
    folds, labels = run.data.folds, run.data.valid.labels
    if folds is None:
        return {}
    given, probabilities = folds.given, softmax(run.best_logits)
    acc = accuracy(labels[given], probabilities[given]) if given.any() and len(probabilities) else None
    return {"folds": int(folds.of.max()) + 1, "given_val_n": int(given.sum()), "given_val_acc": acc}


def _calibrated(run: "Loop") -> dict[str, Any]:
    """The exported temperature, and loss and calibration error on validation; the _calibrated ones at that temperature."""
    from ctkeras.training.run import answers, temperature

    if not len(run.best_logits):
        return {}
    labels, found = run.data.valid.labels, {"val_ece": calibration.of(run.data.valid.labels, softmax(run.best_logits))}
    if (value := temperature(run)) is not None:
        found |= {"temperature": value, "val_loss_calibrated": cross_entropy(labels, answers(run))}
        found["val_ece_calibrated"] = calibration.of(labels, answers(run))
    return found


def _counts(run: "Loop") -> dict[str, int]:
    """What this process has compiled for the run: train programs, and hits and misses of JAX's cache."""
    names = ("train_programs_compiled", "cache_hits", "cache_misses")
    return {name: process.compile_counts[name] - run.compiled.get(name, 0) for name in names}


def _show(run: "Loop", tracker: Tracker, folder: Path) -> None:
    """Gives W&B the views it cannot make of numbers: the model, and tables and worst errors on validation."""
    from ctkeras.training.run import answers

    valid, probabilities = run.data.valid, answers(run)
    worst = [np.array(valid.images[i]) for i in worst_errors(valid.labels, probabilities)[:WORST_SHOWN]]
    worst = [image if image.ndim == 2 else image[..., 0] for image in worst]  # of three windows, lung
    tracker.log_validation(valid.labels, probabilities, valid.class_names, worst=worst, folder=folder)
    if run.config.log_model and (folder / "model.keras").exists():
        metadata = {"model_name": run.config.model_name, "val_acc": run.progress.best_acc}
        tracker.log_model(folder, name=f"{run.config.model_name}-{folder.name}", metadata=metadata)
