"""train(config): the only function that trains. The CLI, sweeps and tests all call it."""

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras import __version__, audit, decoded, evaluation, heap, runfolder, runtime, scoring, sources, tracking
from ctkeras.config import RunConfig, UserError
from ctkeras.stopping import Stop, watch

if TYPE_CHECKING:
    from ctkeras.loop import Data, Loop

FINISHED = ("max_epochs", "early_stopping", "hyperband")  # what ends a run for good; any other can be resumed
HIGH_LR = 0.01  # the sweep's upper end; above it fine-tuning forgets what ImageNet taught
WORST_SHOWN = 6  # images of a run at W&B
VERSIONED = ("keras", "jax", "keras-hub", "keras-cv", "tensorflow-datasets", "numpy", "wandb")


class TrainingFailed(RuntimeError):
    """A run that could not go on; its folder holds what was reached."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run leaves: its folder and the content of metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def load_data(source: sources.Source, config: RunConfig) -> "Data":
    """Decodes training and validation, or finds them decoded; test is not opened.

    Raises:
        UserError: an image that can't be read.
    """
    from ctkeras.loop import Data

    train, valid = (decoded.load_split(source, split, config.image_size) for split in ("train", "valid"))
    train, cleaned = audit.clean(train, source, leaks=config.leaks)
    if left_out := cleaned.train_images_dropped + cleaned.conflicts_dropped:
        runtime.note(
            f"Training on {cleaned.train_images} images: {left_out} also stand in valid or test or have two labels "
            "(ctkeras data check shows them; --leaks keep trains on them)."
        )
    return Data(train, valid, source.fingerprint, dataclasses.asdict(cleaned))


def train(
    config: RunConfig,
    *,
    data: "Data | None" = None,
    resume: Path | None = None,
    stop: Stop | None = None,
    run_id: str = "",
    tracker: tracking.Tracker | None = None,
    leave: Callable[[], None] | None = None,
    after_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> RunResult:
    """Trains one classifier and leaves its run folder.

    Args:
        config: every hyperparameter.
        data: arrays to use instead of config.data; TensorFlow is then needed only for augmentation and pixel mixup.
        resume: a run folder to go on in.
        stop: a wish to stop; the best epoch so far is then exported within 20 s, even while a step computes.
        run_id: name of the run folder; '' makes one up.
        tracker: a W&B run started before; this function ends it.
        leave: called after a run was ended while its step still computed; to exit the process, say.
        after_epoch: called with each epoch's row once it is on disk; a search asks `stop` there when a run is losing.

    Raises:
        UserError: something the user can put right, before anything slow.
        TrainingFailed: the loss is no longer finite.
    """
    folder = resume or Path(config.output_dir) / (run_id or runfolder.new_id(config.model_name))
    ending = _Ending(folder, tracker, stop or Stop())
    watch(ending.stop, lambda: ending.finish_for(leave))
    try:
        return _train(config, data, ending, after_epoch)
    except BaseException as error:
        ending.fail(error)
        raise
    finally:
        ending.stop.end()
        heap.release()


def _train(
    config: RunConfig, data: "Data | None", ending: "_Ending", after_epoch: Callable[[dict[str, Any]], None] | None
) -> RunResult:
    """Trains within a run whose ending is seen to."""
    source = sources.open_source(config.data) if data is None else None  # before keras is imported: within a second
    if (place := Path(config.output_dir)).exists() and not place.is_dir():
        raise UserError(f"output_dir {place} is a file; run folders are made in a folder")
    runtime.configure()
    from ctkeras import backbones, loop

    ending.passed("imports")
    weights = None
    if config.pretrained:
        weights = backbones.find_weights(config.model_name, config.weights_dir)
    if source is not None:
        data = load_data(source, config)
        ending.passed("data")
    _warn(config)
    assert data is not None  # for the type checker: it was given, or there is a source
    built = loop.build(
        config, classes=len(data.train.class_names), weights=weights
    )  # a file of other weights ends here
    ending.passed("model")
    folder = ending.folder
    _make(folder)
    runfolder.write_json(folder / "config.json", config.to_dict())
    resumed = (folder / runfolder.CHECKPOINT).exists()
    tracker = ending.tracker or tracking.start(config.to_dict(), run_id=folder.name, folder=folder, resume=resumed)
    ending.tracker = tracker
    run = loop.begin(config, data, built, folder=folder)
    ending.passed("features")
    ending.begin(run)
    tracker.catch_up(run.progress.history)
    stopped_by, trouble = _epochs(run, ending, tracker, after_epoch)
    ending.passed("epochs")
    metrics = ending.finish(stopped_by, failed=bool(trouble))
    if trouble:
        raise TrainingFailed(f"{trouble} {folder} holds what was reached.")
    return RunResult(folder, metrics)


def _warn(config: RunConfig) -> None:
    """Says what is allowed and seldom meant."""
    if config.freeze_backbone and not config.pretrained:
        runtime.note("Warning: pretrained is false and the backbone frozen: the head will learn from random features.")
    if config.cut != "head" and config.lr > HIGH_LR:
        runtime.note(
            f"Warning: lr {config.lr:g} suits a head alone; for layers with ImageNet weights about 1e-4 is usual."
        )


def _make(folder: Path) -> None:
    """Makes the run folder.

    Raises:
        UserError: its place can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the run folder {folder} can't be made ({error.strerror}); pass another --output_dir"
        ) from error


class _Ending:
    """Ends a run once, from whichever thread comes first: the training thread, or the watcher when a stop can't wait."""

    def __init__(self, folder: Path, tracker: tracking.Tracker | None, stop: Stop) -> None:
        self.folder, self.tracker, self.stop = folder, tracker, stop
        self.run: Loop | None = None
        self.metrics: dict[str, Any] | None = None
        self.lock = threading.RLock()  # held while the run's best epoch changes and while it is exported
        self.started, self.before = time.perf_counter(), 0.0
        self.spent = {
            "imports": 0.0,
            "data": 0.0,
            "model": 0.0,
            "features": 0.0,
            "epochs": 0.0,
        }  # seconds, this process
        self.last = self.started

    def passed(self, part: str) -> None:
        """Books the time since the last part of the run that has passed."""
        now = time.perf_counter()
        self.spent[part] += now - self.last
        self.last = now

    def begin(self, run: "Loop") -> None:
        """Takes the run on, once it is built."""
        self.run, self.before = run, run.progress.seconds

    def seconds(self) -> float:
        """The run's time so far, earlier processes' included."""
        return self.before + time.perf_counter() - self.started

    def finish(self, stopped_by: str, *, failed: bool = False) -> dict[str, Any]:
        """Exports, writes metrics and ends the W&B run; a second caller gets the first one's metrics."""
        with self.lock:
            if self.metrics is None:
                if self.run is not None:
                    self.run.progress.seconds = self.seconds()
                    metrics = _finish(self.run, self.folder, stopped_by, self.spent)
                else:
                    metrics = {"stopped_by": stopped_by, "val_acc": None, "best_epoch": 0, "epochs": 0}
                    runfolder.write_json(self.folder / "metrics.json", metrics)
                self.metrics = metrics
                if self.tracker is not None:
                    if self.run is not None and self.run.best:
                        _show(self.run, self.tracker, self.folder)
                    self.tracker.finish(metrics, exit_code=1 if failed else 0)
            return self.metrics

    def finish_for(self, leave: Callable[[], None] | None) -> None:
        """Ends the run from another thread than its own, which still computes; then lets go of the process, if told so."""
        self.finish(self.stop.reason)
        if leave is not None:
            leave()

    def fail(self, error: BaseException) -> None:
        """Ends the W&B run of a run that failed, with a short reason; exit code 2 for a mistake of the user's."""
        with self.lock:
            if self.metrics is None and self.tracker is not None:
                text = " ".join(f"{type(error).__name__}: {error}".split())
                code = 2 if isinstance(error, UserError) else 1
                self.tracker.finish({"failure": text[:300], "stopped_by": "error"}, exit_code=code)
                self.metrics = {}


def _epochs(
    run: "Loop",
    ending: _Ending,
    tracker: tracking.Tracker,
    after_epoch: Callable[[dict[str, Any]], None] | None,
) -> tuple[str, str]:
    """Trains until something ends it; returns why, and what went wrong, if anything did."""
    config, progress, proved = run.config, run.progress, False
    while progress.epoch < config.max_epochs:
        row = run.epoch(ending.stop)
        with ending.lock:
            if row is None or ending.metrics is not None:
                return ending.stop.reason, ""
            if run.bad_step() or not np.isfinite(row["val_loss"]):
                where = f"step {run.bad_step()}" if run.bad_step() else "validation"
                trouble = (
                    f"The loss is not finite in epoch {row['epoch']}, {where}: lower lr ({config.lr:g}) or warm up."
                )
                return "nan", trouble
            better = run.improved(row)
            progress.seconds = ending.seconds()
            run.save(ending.folder)
        tracker.log(row)
        runtime.note(_line(row, config.max_epochs, better))
        if after_epoch is not None:
            after_epoch(row)
        if better and not proved:
            _prove_early(run, ending)
            proved = True
        if config.early_stopping and row["epoch"] - progress.best_epoch >= config.early_stopping:
            return "early_stopping", ""
    return "max_epochs", ""


def _prove_early(run: "Loop", ending: _Ending) -> None:
    """Exports once at the first epoch's end where the graph has not been proved: a stop later on then has time enough."""
    from ctkeras import export

    if not export.is_proved(run.built.model):
        with runtime.waiting("Checking that this model exports and reloads with the same answers"), ending.lock:
            run.export(ending.folder)


def _show(run: "Loop", tracker: tracking.Tracker, folder: Path) -> None:
    """Gives W&B the views it can't make of numbers: the model, and tables and worst errors on validation."""
    valid, probabilities = run.data.valid, evaluation.softmax(run.best_logits)
    worst = [np.array(valid.images[i]) for i in tracking.worst_errors(valid.labels, probabilities)[:WORST_SHOWN]]
    tracker.log_validation(valid.labels, probabilities, valid.class_names, worst=worst)
    if run.config.log_model:
        metadata = {"model_name": run.config.model_name, "val_acc": run.progress.best_acc}
        tracker.log_model(folder, name=f"{run.config.model_name}-{folder.name}", metadata=metadata)


def _line(row: dict[str, Any], epochs: int, better: bool) -> str:
    """One epoch in a line; a star marks the best so far."""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  train_acc {row['train_acc']:.3f} train_loss {row['train_loss']:.3f}  "
        f"val_acc {row['val_acc']:.3f} val_loss {row['val_loss']:.3f}  lr {row['lr']:.2g}  "
        f"{row['epoch_seconds']:.1f} s{' *' if better else ''}"
    )


def _finish(run: "Loop", folder: Path, stopped_by: str, spent: dict[str, float]) -> dict[str, Any]:
    """Exports the best epoch's model and writes predictions.csv and metrics.json; a finished run drops its checkpoint."""
    progress, begun = run.progress, time.perf_counter()
    best = progress.history[progress.best_epoch - 1] if progress.best_epoch else {}
    if best:
        with runtime.waiting(f"Exporting epoch {progress.best_epoch}, the best, and checking the file"):
            run.export(folder)
        probabilities = evaluation.softmax(run.best_logits)
        rows = scoring.prediction_rows(run.data.valid, probabilities, "valid")
        runfolder.write_predictions(folder, rows, split="valid")
    metrics = {
        "val_acc": best.get("val_acc"),
        "val_loss": best.get("val_loss"),
        "train_acc": best.get("train_acc"),
        "train_loss": best.get("train_loss"),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "stopped_by": stopped_by,
        "params_total": sum(int(np.prod(w.shape)) for w in run.built.model.weights if w.name != "rate"),
        "params_trainable": sum(int(np.prod(v.shape)) for v in run.programs.suffix.trainable_variables),
        "seconds_total": progress.seconds,
        "seconds_compile": progress.compile_seconds,
        **run.compile_counts(),
        **{f"seconds_{part}": seconds for part, seconds in spent.items()},
        "seconds_export": time.perf_counter() - begun,
        **run.data.cleaned,
        "memory_bytes": runtime.memory_bytes(),
        "data_fingerprint": run.data.fingerprint,
        "versions": ", ".join([f"ctkeras {__version__}", *(f"{p} {runtime.version(p)}" for p in VERSIONED)]),
    }
    runfolder.write_json(folder / "metrics.json", metrics)
    if stopped_by in FINISHED:
        runfolder.drop_checkpoint(folder)
    return metrics
