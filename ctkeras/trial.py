"""One run whose hyperparameters come from a sweep: under W&B's agent, in `ctkeras sweep agent`, or in the local engine."""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctkeras import runtime, sweepfile, tracking
from ctkeras.config import FIELDS, RunConfig, UserError, parse_value
from ctkeras.runs.checkpoint import CHECKPOINT
from ctkeras.runs.folder import new_id
from ctkeras.training.stopping import Stop
from ctkeras.training.train import RunResult, TrainingFailed, train


def in_sweep() -> bool:
    """Whether W&B's agent started this process or this run."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_trial(flags: dict[str, Any], *, stop: Stop, leave: Any = None) -> RunResult | None:
    """Trains one run of a sweep, with the hyperparameters in wandb.config.

    An invalid value, or a loss that is no longer finite, ends the W&B run as failed with the reason. It raises nothing,
    because an agent gives up after a few processes that fail.

    Args:
        flags: hyperparameters from the command line; the sweep's values win over them.
        stop: a request to stop.
        leave: see training.train.

    Returns:
        The result; None if the run was refused or failed.
    """
    run_id = os.environ.get("WANDB_RUN_ID") or new_id("trial")
    known = {name: value for name, value in flags.items() if name in FIELDS}
    tracker = tracking.start(known, run_id=run_id, folder=None, resume=True)
    try:
        config = RunConfig.from_mapping(sweepfile.expand({**_parsed(known), **tracker.config()}))
    except UserError as error:
        runtime.note(f"Refused: {error}")
        tracker.finish({"failure": str(error), "stopped_by": "refused"}, exit_code=2)
        return None
    tracker.set_config(config.to_dict())
    folder = Path(config.output_dir) / run_id
    resume = folder if (folder / CHECKPOINT).exists() else None
    try:
        return train(config, run_id=run_id, resume=resume, stop=stop, tracker=tracker, leave=leave)
    except (UserError, TrainingFailed) as error:
        runtime.note(f"Failed: {error}")
        return None


def run_local(
    config: RunConfig,
    *,
    run_id: str,
    group: str,
    job_type: str,
    stop: Stop,
    before: Callable[[Sequence[dict[str, Any]]], None],
    after_epoch: Callable[[dict[str, Any]], None],
    leave: Callable[[], None],
) -> RunResult:
    """Trains one trial of the local engine, from the checkpoint if its folder has one.

    Args:
        config: the trial's hyperparameters.
        run_id: the name of its folder, and its id at W&B.
        group: the name of its study at W&B.
        job_type: the name of its phase at W&B.
        stop: a request to stop.
        before: called with the epochs of earlier processes, after the run was resumed and before its next epoch.
        after_epoch: see training.train.
        leave: see training.train.

    Raises:
        UserError: a value is invalid, or the data cannot be used.
        TrainingFailed: the loss is no longer finite.
    """
    folder = Path(config.output_dir) / run_id
    _drop_offline(folder, run_id)
    resumed = (folder / CHECKPOINT).exists()
    begun = tracking.start(
        config.to_dict(), run_id=run_id, folder=folder, resume=resumed, group=group, job_type=job_type
    )
    tracker = _Followed(begun, before)
    return train(config, run_id=run_id, stop=stop, tracker=tracker, leave=leave, after_epoch=after_epoch)


class _Followed(tracking.Tracker):
    """A tracker that also reports the epochs that earlier processes trained."""

    def __init__(self, begun: tracking.Tracker, before: Callable[[Sequence[dict[str, Any]]], None]) -> None:
        super().__init__(begun.run)
        self.before = before

    def catch_up(self, history: Sequence[dict[str, Any]]) -> None:
        """Logs them too; an offline run is written again from its start, because wandb cannot append to an earlier file."""
        if self.run.offline:
            self.logged = 0
        super().catch_up(history)
        self.before(history)


def _drop_offline(folder: Path, run_id: str) -> None:
    """Deletes what earlier processes wrote of an offline run, which is about to be written again from its start."""
    for place in {folder, Path(os.environ.get("WANDB_DIR") or folder)}:
        for part in (place / "wandb").glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(part, ignore_errors=True)


def stoppable(flags: dict[str, Any]) -> None:
    """Does one run for tracking.agent, which requests a stop by raising an exception in this thread.

    The run has a thread of its own, so that the exception never interrupts Keras or JAX.

    Args:
        flags: see run_trial.
    """
    stop = Stop()

    def run() -> None:
        try:
            result = run_trial(flags, stop=stop)
            if result is not None and result.metrics.get("val_acc") is not None:
                runtime.note(f"val_acc {result.metrics['val_acc']:.4f}  {result.folder / 'model.keras'}")
        except Exception as error:  # a crash of one run does not end the agent; W&B shows the run as failed
            runtime.note(f"The run crashed: {type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name="trial")
    thread.start()
    while thread.is_alive():
        try:
            thread.join(0.5)  # short, because the exception is raised only between bytecodes
        except Exception:
            stop.ask("sweep")


def _parsed(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags, converted to the types of their hyperparameters."""
    return {name: parse_value(name, value) for name, value in flags.items()}
