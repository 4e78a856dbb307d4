"""Sweeps at W&B: create, read, run an agent, download the best model."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctkeras.config import EPOCH_METRICS
from ctkeras.errors import UserError
from ctkeras.runs.result import Result
from ctkeras.tracking import settings
from ctkeras.tracking.run import DEFAULT_PROJECT


def create_sweep(sweep: dict[str, Any], *, project: str = "", entity: str = "") -> str:
    """Creates a sweep in W&B and returns its ENTITY/PROJECT/SWEEP_ID.

    Args:
        sweep: the content of a sweep file.
        project: W&B project; '' for that of the sweep file, of $WANDB_PROJECT, or else ctkeras.
        entity: W&B entity; '' for that of the sweep file, of $WANDB_ENTITY, or else the default one.
    """
    import wandb

    project = project or sweep.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
    entity = entity or sweep.get("entity") or os.environ.get("WANDB_ENTITY", "")
    sweep_id = wandb.sweep(sweep=sweep, entity=entity or None, project=project)
    return f"{entity or wandb.Api().default_entity}/{project}/{sweep_id}"


def read_sweep(path: str) -> tuple[dict[str, Any], list[Result]]:
    """The configuration of a sweep, and its finished runs that have a val_acc.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.

    Raises:
        UserError: there is no such sweep, or W&B cannot be reached.
    """
    sweep = _sweep(path)
    results = []
    for run in sweep.runs:
        summary = run.summary
        val_acc, val_loss = (_number(summary.get(name)) for name in ("val_acc", "val_loss"))
        if run.state == "finished" and math.isfinite(val_acc):
            results.append(Result(run.id, dict(run.config), val_acc, val_loss))
    return dict(sweep.config), results


def _number(value: Any) -> float:
    """A number of a summary, in which W&B writes NaN and infinity as text; NaN if it is missing."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _sweep(path: str) -> Any:
    """The sweep in W&B's public API.

    Raises:
        UserError: there is no such sweep, or W&B cannot be reached.
    """
    import wandb

    if path.count("/") != 2:
        raise UserError(f"a sweep must be given as ENTITY/PROJECT/SWEEP_ID; got {path}")
    try:
        return settings.patiently(lambda: wandb.Api().sweep(path), f"reading the sweep {path}")
    except Exception as error:  # wandb raises ValueError, CommError and requests' errors alike
        raise UserError(f"cannot read the sweep {path}: {settings.reason(error)}") from error


def download_model(path: str, run_name: str, folder: Path) -> Path:
    """Downloads the model artifact of a run of a sweep.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        run_name: id of the run.
        folder: folder for its files.

    Returns:
        The folder that holds them.

    Raises:
        UserError: the run did not log a model.
    """
    import wandb

    entity, project, _ = path.split("/")
    run = wandb.Api().run(f"{entity}/{project}/{run_name}")
    models = [artifact for artifact in run.logged_artifacts() if artifact.type == "model"]
    if not models:
        raise UserError(f"run {run_name} did not log a model; check that it was started with log_model true")
    return Path(models[-1].download(root=str(folder)))


def agent(path: str, function: Callable[[], None], *, count: int | None) -> None:
    """Runs the runs of a sweep one after another in this process; `wandb agent` starts a process for each.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        function: trains one run with the values in wandb.config; W&B stops a run by an exception inside it.
        count: number of runs; None for all until the sweep ends.
    """
    import wandb

    entity, project, sweep_id = path.split("/")
    begun = False

    def run() -> None:
        nonlocal begun
        begun = True
        function()

    def attend() -> None:
        try:
            wandb.agent(sweep_id, function=run, entity=entity, project=project, count=count)
        except Exception as error:
            if begun:  # repeated, it would do more runs than `count`
                raise UserError(f"the agent of {path} stopped: {settings.reason(error)}; start it again") from error
            raise

    settings.patiently(attend, f"registering an agent of {path}")


def read_runs(path: str, *, histories: int = 50) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The configuration of a sweep, and the name, state, config, metrics and history of all its runs, in any state.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        histories: number of runs, the best first, to fetch the epochs of; each takes one request.

    Raises:
        UserError: there is no such sweep, or W&B cannot be reached.
    """
    sweep = _sweep(path)
    try:
        runs = sorted(sweep.runs, key=lambda run: -_or_lowest(_number(run.summary.get("val_acc"))))
        rows = []
        for number, run in enumerate(runs):
            fetched = number < histories and math.isfinite(_number(run.summary.get("val_acc")))
            history = run.history(samples=10_000, pandas=False, keys=list(EPOCH_METRICS)) if fetched else []
            facts = {"name": run.id, "state": run.state, "config": dict(run.config), "metrics": dict(run.summary)}
            rows.append(facts | {"history": list(history)})
    except Exception as error:  # as in _sweep
        raise UserError(f"cannot read the runs of {path}: {' '.join(str(error).split())[:200]}") from error
    return dict(sweep.config), rows


def _or_lowest(value: float) -> float:
    """The value, or the lowest possible one if it is not finite."""
    return value if math.isfinite(value) else -math.inf
