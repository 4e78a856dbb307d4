"""train(config): the only function that trains. The CLI, sweeps and tests all call it."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctkeras.config import RunConfig, default_lr
from ctkeras.cpu import memory
from ctkeras.data import sources, threads
from ctkeras.errors import UserError
from ctkeras.runs import places
from ctkeras.runs.checkpoint import load_checkpoint
from ctkeras.runs.folder import FINISHED, make_folder, new_id, write_config
from ctkeras.runtime import console, process
from ctkeras.tracking import settings
from ctkeras.tracking.run import Tracker, start_run
from ctkeras.training.ending import Ending
from ctkeras.training.inputs import Data, load_data
from ctkeras.training.stopping import Stop, watch

if TYPE_CHECKING:
    from ctkeras.training.run import Loop

HIGH_LR = 0.01  # the sweep's upper end; above it fine-tuning forgets what ImageNet taught


class TrainingFailed(RuntimeError):
    """A run that could not continue; its folder holds what was reached."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A run's folder and the content of its metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def train(
    config: RunConfig,
    *,
    data: Data | None = None,
    resume: Path | None = None,
    stop: Stop | None = None,
    run_id: str = "",
    tracker: Tracker | None = None,
    leave: Callable[[], None] | None = None,
    after_epoch: Callable[[dict[str, Any]], None] | None = None,
    export: bool = True,
    reuse: bool = False,
) -> RunResult:
    """Trains one classifier and writes its run folder.

    Args:
        config: every hyperparameter.
        data: arrays to use instead of config.data; TensorFlow is then needed only for augmentation and pixel mixup.
        resume: the run folder of a run to resume.
        stop: a request to stop; the best epoch so far is then exported within 20 s, even while a step computes.
        run_id: name of the run folder; '' for a new one.
        tracker: a W&B run started before; this function ends it.
        leave: called after a run was ended while its step still computed; to exit the process, for example.
        after_epoch: called with each epoch's row once it is on disk; a search asks `stop` there when a run is losing.
        export: write model.keras; otherwise only the trained weights, from which `ctkeras export` makes it.
        reuse: take up epochs that an earlier run trained under the same settings and seed, and keep this run's for later ones.

    Raises:
        UserError: something the user can correct, before anything slow.
        TrainingFailed: the loss is no longer finite.

    Example:
        >>> import ctkeras
        >>> config = ctkeras.RunConfig(
        ...     data="phantom:48", model_name="mobilenet_v2", pretrained=False, image_size=32, max_epochs=1
        ... )
        >>> result = ctkeras.train(config, run_id="example")
        >>> result.metrics["epochs"], result.folder.joinpath("model.keras").exists()
        (1, True)
    """
    folder = resume or Path(config.output_dir) / (run_id or new_id(config.model_name))
    ending = Ending(folder, tracker, stop or Stop(), exports=export)
    watch(ending.stop, lambda: ending.finish_for(leave))
    try:
        return _train(config, data, ending, after_epoch, reuse=reuse)
    except BaseException as error:
        ending.fail(error)
        raise
    finally:
        ending.stop.end()
        memory.release()


def _train(
    config: RunConfig,
    data: Data | None,
    ending: Ending,
    after_epoch: Callable[[dict[str, Any]], None] | None,
    *,
    reuse: bool,
) -> RunResult:
    """The run in order: data, weights, model, folder, start, epochs, ending."""
    source = None
    if data is None:  # before keras is imported: within a second
        source = sources.open_source(config.data, slices=config.slices)
        sources.announce(source)
    if (place := Path(config.output_dir)).exists() and not place.is_dir():
        raise UserError(f"output_dir {place} is a file; name a folder, in which run folders are created")
    if ending.tracker is None:
        settings.prepare(config.project)  # a mode or a key that W&B refuses, before anything slow
    process.configure()
    process.require_jax()
    from ctkeras.cpu import state
    from ctkeras.models.weights import find_weights
    from ctkeras.training import earlier, loop, solve, start
    from ctkeras.training.run import heads_of

    ending.passed("imports")
    weights = find_weights(config.model_name, config.weights_dir) if config.pretrained else None
    if source is not None:
        data = load_data(source, config)
        ending.passed("data")
    _warn(config)
    state.note()
    assert data is not None  # for the type checker: it was given, or there is a source
    classes = len(data.train.class_names)
    built = start.build(
        config, classes=classes, weights=weights, members=heads_of(config, data)
    )  # refuses a file of other weights
    ending.passed("model")
    folder = ending.folder
    make_folder(folder)
    write_config(folder, config)
    resumed = load_checkpoint(folder) is not None  # before W&B hears of it: a damaged one is not resumed
    tracker = ending.tracker or start_run(config.to_dict(), run_id=folder.name, folder=folder, resume=resumed)
    ending.tracker = tracker
    ending.kept = earlier.place(config, built, data=data.fingerprint) if reuse else None
    taken = earlier.take(config, ending.kept, folder) if ending.kept else 0
    run = start.begin(config, data, built, folder=folder)
    if taken:
        start.take_up(run, folder)
    ending.passed("features")
    # Only now: a run that is refused has not trained.
    places.begin(folder, seconds=ending.worked(), processors=threads.cores(), accelerators=start.accelerators())
    ending.begin(run)
    tracker.catch_up(run.progress.history)
    train_run = solve.run_solved if config.optimizer == "lbfgs" else loop.run_epochs
    stopped_by, trouble = train_run(run, ending, log=tracker.log, after_epoch=after_epoch)
    ending.passed("epochs")
    metrics = ending.finish(stopped_by, failed=bool(trouble))
    if stopped_by in FINISHED and not trouble:
        _remember_cost(run, metrics)
    if trouble:
        raise TrainingFailed(f"{trouble} {folder} holds what was reached.")
    return RunResult(folder, metrics)


def _remember_cost(run: "Loop", metrics: dict[str, Any]) -> None:
    """Keeps what the run took, for the estimates of later ones, unless the cache cannot be written."""
    from ctkeras.data import batches
    from ctkeras.training import costs

    sizes = [len(member.data.train.files) for member in run.members]
    steps = sum(batches.steps_per_epoch(size, run.config.batch_size) for size in sizes)
    with contextlib.suppress(OSError, UserError):
        history, solved = run.progress.history, run.config.optimizer == "lbfgs"
        between = max(0.0, metrics["seconds_epochs"] - sum(row["epoch_seconds"] for row in history))
        costs.remember(
            run.config,
            history,
            steps=1 if solved else steps,
            rest=between + metrics["seconds_export"],
            compiling=metrics["seconds_compile"],
        )


def _warn(config: RunConfig) -> None:
    """Warns of settings that are allowed but seldom intended."""
    if config.freeze_backbone and not config.pretrained:
        console.note(
            "Warning: pretrained is false and the backbone is frozen: the head will learn from random features."
        )
    if config.cut != "head" and config.lr > HIGH_LR:
        console.note(
            f"Warning: lr {config.lr:g} suits training the head only; for what is trained here {default_lr(config):g} is usual."
        )
