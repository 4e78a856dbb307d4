"""A run whose hyperparameters come from a sweep: under W&B's agent, in `ctkeras sweep agent`, and in the local engine."""

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
    """Whether an agent started this process, or this part of it."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_trial(flags: dict[str, Any], *, stop: Stop, leave: Any = None) -> RunResult | None:
    """Trains one run of a sweep, with what wandb.config says.

    A value that can't be used, or a loss that is no longer finite, ends the W&B run as failed with its reason; it raises
    nothing, as an agent gives up after a few processes that fail.

    Args:
        flags: hyperparameters from the command line, below the sweep's.
        stop: a wish to stop.
        leave: see training.train.

    Returns:
        The result; None when there is none.
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
    """Trains one trial of the local engine, from its checkpoint when its folder has one.

    Args:
        config: the trial's hyperparameters.
        run_id: its folder's name and its id at W&B.
        group: its study, at W&B.
        job_type: its phase, at W&B.
        stop: a wish to stop.
        before: called with the epochs of earlier processes, once the run goes on and before its next epoch.
        after_epoch: see training.train.
        leave: see training.train.

    Raises:
        UserError: a value, or the data, can't be used.
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
    """A tracker that also tells of the epochs that earlier processes trained."""

    def __init__(self, begun: tracking.Tracker, before: Callable[[Sequence[dict[str, Any]]], None]) -> None:
        super().__init__(begun.run)
        self.before = before

    def catch_up(self, history: Sequence[dict[str, Any]]) -> None:
        """Logs them too; an offline run is written anew and whole, as wandb can't go on in an earlier process's file."""
        if self.run.offline:
            self.logged = 0
        super().catch_up(history)
        self.before(history)


def _drop_offline(folder: Path, run_id: str) -> None:
    """Deletes what earlier processes have written of a run offline; the run is about to be written whole."""
    for place in {folder, Path(os.environ.get("WANDB_DIR") or folder)}:
        for part in (place / "wandb").glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(part, ignore_errors=True)


def stoppable(flags: dict[str, Any]) -> None:
    """One run in a warm process, for tracking.agent, which expresses a wish to stop as an exception in this thread.

    The run has a thread of its own, so that the exception never hits Keras or JAX half-way.

    Args:
        flags: see run_trial.
    """
    stop = Stop()

    def run() -> None:
        try:
            result = run_trial(flags, stop=stop)
            if result is not None and result.metrics.get("val_acc") is not None:
                runtime.note(f"val_acc {result.metrics['val_acc']:.4f}  {result.folder / 'model.keras'}")
        except Exception as error:  # one run's crash doesn't end the agent; W&B has it as failed
            runtime.note(f"The run crashed: {type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name="trial")
    thread.start()
    while thread.is_alive():
        try:
            thread.join(0.5)  # short, as the exception is raised between bytecodes alone
        except Exception:
            stop.ask("sweep")


def _parsed(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags as the types of their hyperparameters."""
    return {name: parse_value(name, value) for name, value in flags.items()}
