"""One phase of a study, on the local engine or through W&B, and its sweep file, which a person can read and run again."""

import dataclasses
import functools
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras import config
from ctkeras.config import FIELDS
from ctkeras.errors import UserError
from ctkeras.runs.folder import read_json, read_metrics, write_json
from ctkeras.runs.result import Result, best_first
from ctkeras.runtime import console, files
from ctkeras.search import agent, plan, status, storage, trialstore
from ctkeras.search import local as search
from ctkeras.search.budget import Budget
from ctkeras.search.plan import Search
from ctkeras.search.pool import Pool
from ctkeras.study import timed
from ctkeras.sweep import file
from ctkeras.tracking import sweeps

SWEEPS = "wandb.json"  # in the study's folder: the sweep of each phase at W&B


@dataclasses.dataclass(frozen=True)
class Task:
    """A phase that is to be run."""

    number: int
    content: dict[str, Any]  # the sweep
    options: dict[str, Any]  # hyperparameters that are the same in all trials, and places
    seed: int  # of the search
    group: str  # the name of the study
    folder: Path  # of the study
    later: int  # number of trials in later phases
    first: Search  # of phase 1; it has read the data


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase that has ended."""

    number: int
    sweep: str  # name of the search in the storage, or path of the sweep at W&B
    results: list[Result]
    failed: int
    stopped: int  # number of runs, by hyperband
    epochs_saved: int
    seconds: float  # of all its runs
    left_out: str = ""  # what a budget of time left out, in a sentence


Engine = Callable[[Task], Phase | None]


def write(
    folder: Path, number: int, content: Mapping[str, Any], reasons: Sequence[str], options: Mapping[str, Any]
) -> Path:
    """Writes a phase's sweep file, with the commands that run it, unless it exists already.

    Args:
        folder: of the study.
        number: of the phase.
        content: the sweep.
        reasons: how the sweep was made, one line each.
        options: of the study and its search; those that are not in the sweep become options of the command.
    """
    path = folder / f"phase{number}.yaml"
    more = {name: value for name, value in options.items() if name not in FIELDS or name in config.PLACES}
    words = ["python", "-m", "ctkeras", "sweep", "run", str(path), *(f"--{n}={v}" for n, v in more.items())]
    header = [*reasons, f"  {shlex.join(words)}", f"  python -m ctkeras sweep create {shlex.quote(str(path))}"]
    text = file.dump(content, header)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with files.atomic(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return path


def local(task: Task, *, url: Any, pool: Pool, budget: Budget | None = None) -> Phase | None:
    """Runs a phase on this machine, or together with others that share the storage; None if it was stopped.

    Args:
        task: the phase.
        url: of the storage.
        pool: the workers.
        budget: the time left for this phase and those after it; None without a limit. What it leaves out is written to the
            study's folder, and a later command continues with it only once the study has ended.
    """
    planned = _planned(task)
    given = budget and budget.part(timed.share(task.folder, task.number, trials=planned.total, later=task.later))
    outcome = search.run(planned, url=url, pool=pool, budget=given)
    if outcome.stopped_by:
        return None
    if outcome.left_out:
        timed.mark(task.folder, task.number)
    results = trialstore.results(outcome.trials)
    if not results and outcome.left_out and task.number > 1:
        return Phase(task.number, planned.name, [], 0, 0, 0, 0.0, outcome.left_out)
    if not results and outcome.left_out:
        raise UserError(f"{outcome.left_out}, given more time")
    if not results:
        raise UserError(f"no trial of phase {task.number} succeeded; see: ctkeras sweep status {storage.shown(url)}")
    attrs = [one.user_attrs for one in outcome.trials]
    return Phase(
        task.number,
        planned.name,
        results,
        failed=sum(one.value is None for one in outcome.trials),
        stopped=sum(one.get("stopped_by") == "hyperband" for one in attrs),
        epochs_saved=status.epochs_saved(outcome.trials),
        seconds=sum(one.get("seconds") or 0.0 for one in attrs),
        left_out=outcome.left_out,
    )


def _planned(task: Task) -> Search:
    """The search of a phase; that of phase 1 was planned with the study and now gets the study's folder."""
    if task.number == 1:
        places = {**task.first.places, "output_dir": str(task.folder)}
        return dataclasses.replace(task.first, places=places, group=task.group, later=task.later)
    fingerprints = {task.first.places.get("data", ""): task.first.fingerprint}
    return plan.plan(
        task.content,
        task.options,
        title=f"phase{task.number}",
        seed=task.seed,
        group=task.group,
        later=task.later,
        fingerprints=fingerprints,
    )


def wandb(task: Task, *, project: str, entity: str) -> Phase | None:
    """Runs a phase as a sweep at W&B, in one process; None if it was stopped.

    Args:
        task: the phase.
        project: the project at W&B.
        entity: the team or user at W&B.
    """
    path = task.folder / SWEEPS
    known = read_json(path) if path.exists() else {}
    key = f"phase{task.number}"
    if key not in known:
        known[key] = sweeps.create_sweep(task.content, project=project, entity=entity)
        write_json(path, known)
    places = {name: value for name, value in task.options.items() if name in config.PLACES}
    if _agent(known[key], functools.partial(agent.stoppable, places)):
        return None
    _, results = sweeps.read_sweep(known[key])
    if not results:
        raise UserError(f"no run of phase {task.number} succeeded; see the sweep {known[key]}")
    recorded = [_metrics(task.folder / result.name) for result in results]
    stopped = [metrics for metrics in recorded if metrics.get("stopped_by") in ("sigterm", "sighup", "sweep")]
    saved = sum(
        int(result.config.get("max_epochs", 0)) - int(metrics["epochs"])
        for result, metrics in zip(results, recorded, strict=True)
        if metrics in stopped
    )
    seconds = sum(float(metrics.get("seconds_total") or 0.0) for metrics in recorded)
    return Phase(task.number, known[key], results, failed=0, stopped=len(stopped), epochs_saved=saved, seconds=seconds)


def _agent(path: str, function: Callable[[], None]) -> bool:
    """Does the runs of a sweep to its end; returns whether Ctrl-C came first, which W&B's agent does not report."""
    interrupts = []

    def interrupt(*_: Any) -> None:
        interrupts.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        sweeps.agent(path, function, count=None)
    except KeyboardInterrupt:
        interrupts.append(True)
    finally:
        signal.signal(signal.SIGINT, before)
    return bool(interrupts)


def _metrics(folder: Path) -> dict[str, Any]:
    """A run's metrics.json; empty if the run is not on this machine."""
    return read_metrics(folder) if (folder / "metrics.json").exists() else {}


def summary(phase: Phase) -> str:
    """The outcome of a phase, in one line."""
    if not phase.results:
        return f"phase {phase.number}: {phase.left_out}"
    trials_text = status.counted(len(phase.results) + phase.failed, "trial")
    best = best_first(phase.results)[0]
    parts = [f"phase {phase.number}: {trials_text} in {console.seconds_text(phase.seconds)}"]
    parts += [f"{phase.failed} failed"] if phase.failed else []
    parts += (
        [f"{phase.stopped} stopped early, {status.counted(phase.epochs_saved, 'epoch')} saved"] if phase.stopped else []
    )
    parts.append(f"best val_acc {best.val_acc:.4f} ({best.config['model_name']}, run {best.name})")
    parts += [phase.left_out] if phase.left_out else []
    return ", ".join(parts)


def to_dict(phase: Phase) -> dict[str, Any]:
    """A phase, for study.json."""
    best = best_first(phase.results)[0]
    return {
        "phase": phase.number,
        "sweep": phase.sweep,
        "sweep_file": f"phase{phase.number}.yaml",
        "trials": len(phase.results) + phase.failed,
        "failed": phase.failed,
        "stopped": phase.stopped,
        "epochs_saved": phase.epochs_saved,
        "seconds": phase.seconds,
        "left_out": phase.left_out,
        "best": {"run": best.name, "val_acc": best.val_acc, "val_loss": best.val_loss},
        "runs": [{"run": r.name, "val_acc": r.val_acc, "val_loss": r.val_loss} for r in phase.results],
    }
