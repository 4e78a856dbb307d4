"""A run whose hyperparameters come from a W&B sweep: `ctkeras train` under an agent, and each run of `ctkeras sweep agent`."""

import os
import threading
from pathlib import Path
from typing import Any

from ctkeras import runfolder, runtime, sweepfile, tracking, training
from ctkeras.config import FIELDS, RunConfig, UserError, parse_value
from ctkeras.stopping import Stop


def in_sweep() -> bool:
    """Whether an agent started this process, or this part of it."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_trial(flags: dict[str, Any], *, stop: Stop, leave: Any = None) -> training.RunResult | None:
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
    run_id = os.environ.get("WANDB_RUN_ID") or runfolder.new_id("trial")
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
    resume = folder if (folder / runfolder.CHECKPOINT).exists() else None
    try:
        return training.train(config, run_id=run_id, resume=resume, stop=stop, tracker=tracker, leave=leave)
    except (UserError, training.TrainingFailed) as error:
        runtime.note(f"Failed: {error}")
        return None


def stoppable() -> None:
    """One run in a warm process, for tracking.agent, which expresses a wish to stop as an exception in this thread.

    The run has a thread of its own, so that the exception never hits Keras or JAX half-way.
    """
    stop = Stop()

    def run() -> None:
        try:
            result = run_trial({}, stop=stop)
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
