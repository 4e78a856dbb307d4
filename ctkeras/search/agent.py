"""One run whose hyperparameters come from a sweep: under W&B's agent, in `ctkeras sweep agent`, or in the local engine."""

import os
import threading
from pathlib import Path
from typing import Any

from ctkeras.config import FIELDS, RunConfig, parse_value
from ctkeras.errors import UserError
from ctkeras.runs.checkpoint import CHECKPOINT
from ctkeras.runs.folder import new_id
from ctkeras.runtime import console
from ctkeras.sweep import file
from ctkeras.tracking.run import start_run
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
    tracker = start_run(known, run_id=run_id, folder=None, resume=True)
    try:
        config = RunConfig.from_mapping(file.expand({**_parsed(known), **tracker.config()}))
    except UserError as error:
        console.note(f"Refused: {error}")
        tracker.finish({"failure": str(error), "stopped_by": "refused"}, exit_code=2)
        return None
    tracker.set_config(config.to_dict())
    folder = Path(config.output_dir) / run_id
    resume = folder if (folder / CHECKPOINT).exists() else None
    try:
        return train(config, run_id=run_id, resume=resume, stop=stop, tracker=tracker, leave=leave)
    except (UserError, TrainingFailed) as error:
        console.note(f"Failed: {error}")
        return None


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
                console.note(f"val_acc {result.metrics['val_acc']:.4f}  {result.folder / 'model.keras'}")
        except Exception as error:  # a crash of one run does not end the agent; W&B shows the run as failed
            console.note(f"The run crashed: {type(error).__name__}: {error}")

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
