"""All of wandb: start a run, log an epoch, finish."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ctkeras import runtime
from ctkeras.config import EPOCH_METRICS, UserError
from ctkeras.runs.predictions import worst_errors
from ctkeras.runs.result import Result

DEFAULT_PROJECT = "ctkeras"


class Tracker:
    """One W&B run. Every call passes through to wandb; disabled by wandb's own settings, it does nothing."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.logged = (
            int(run.starting_step) if run.resumed else None
        )  # rows the server has; None when it can't be known

    def catch_up(self, history: Sequence[dict[str, Any]]) -> None:
        """Logs the epochs of a resumed run that the server has not got: a killed process takes its last rows with it."""
        if self.logged is None:
            self.logged = len(history)
        for row in history:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Logs one epoch, once, under its bare names, which is what sweeps' metrics and hyperband read."""
        if row["epoch"] > (self.logged or 0):
            self.run.log(row)
            self.logged = row["epoch"]

    def config(self) -> dict[str, Any]:
        """The run's configuration as W&B holds it: a sweep's values, nested ones included."""
        return dict(self.run.config)

    def set_config(self, values: dict[str, Any]) -> None:
        """Records plain hyperparameters, so that dashboards can plot what a candidate held."""
        held = self.config()
        changed = {name: value for name, value in values.items() if held.get(name) != value or name not in held}
        self.run.config.update(changed, allow_val_change=True)

    def log_model(self, folder: Path, *, name: str, metadata: dict[str, Any]) -> None:
        """Uploads model.keras and contract.json as the run's model artifact."""
        if self.run.disabled:
            return
        import wandb

        artifact = wandb.Artifact(name, type="model", metadata=metadata)
        for file in ("model.keras", "contract.json"):
            artifact.add_file(str(folder / file))
        self.run.log_artifact(artifact)

    def log_validation(
        self, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], *, worst: Sequence[np.ndarray]
    ) -> None:
        """Puts a per-class table, a confusion matrix and the worst errors into the summary; history stays a row an epoch.

        Args:
            labels: int [N].
            probabilities: float [N, C].
            class_names: C names.
            worst: uint8 images [S, S] of the most confident errors, in the order of `worst_errors`.
        """
        if self.run.disabled:
            return
        import wandb

        predicted = probabilities.argmax(-1)
        matrix = np.zeros((len(class_names),) * 2, int)
        np.add.at(matrix, (labels, predicted), 1)
        rows = []
        for i, name in enumerate(class_names):
            recall, precision = (matrix[i, i] / max(1, total) for total in (matrix[i].sum(), matrix[:, i].sum()))
            rows.append([name, int(matrix[i].sum()), float(precision), float(recall)])
        table = [[name, *row] for name, row in zip(class_names, matrix.tolist(), strict=True)]
        captions = [
            f"{class_names[labels[i]]} called {class_names[predicted[i]]} at {probabilities[i].max():.2f}"
            for i in worst_errors(labels, probabilities)[: len(worst)]
        ]
        self.run.summary.update(
            {
                "valid_per_class": wandb.Table(columns=["class", "images", "precision", "recall"], data=rows),
                "valid_confusion_matrix": wandb.Table(columns=["true \\ predicted", *class_names], data=table),
                "valid_worst_errors": [wandb.Image(p, caption=c) for p, c in zip(worst, captions, strict=True)],
            }
        )

    def finish(self, summary: dict[str, Any], *, exit_code: int = 0) -> None:
        """Writes the summary's plain values and ends the run."""
        plain = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
        self.run.summary.update(plain)
        self.run.finish(exit_code=exit_code)


def create_sweep(sweep: dict[str, Any], *, project: str = "", entity: str = "") -> str:
    """Registers a sweep; returns its ENTITY/PROJECT/SWEEP_ID."""
    import wandb

    project = project or sweep.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
    entity = entity or sweep.get("entity") or os.environ.get("WANDB_ENTITY", "")
    sweep_id = wandb.sweep(sweep=sweep, entity=entity or None, project=project)
    return f"{entity or wandb.Api().default_entity}/{project}/{sweep_id}"


def read_sweep(path: str) -> tuple[dict[str, Any], list[Result]]:
    """A sweep's configuration and its finished runs that have a val_acc.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.

    Raises:
        UserError: no such sweep, or W&B can't be reached.
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
    """A summary's number; W&B writes NaN and infinity as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _sweep(path: str) -> Any:
    """The public API's sweep."""
    import wandb

    if path.count("/") != 2:
        raise UserError(f"a sweep is named ENTITY/PROJECT/SWEEP_ID; got {path}")
    try:
        return wandb.Api().sweep(path)
    except Exception as error:  # wandb raises ValueError, CommError and requests' errors alike
        raise UserError(f"the sweep {path} can't be read: {' '.join(str(error).split())[:200]}") from error


def download_model(path: str, run_name: str, folder: Path) -> Path:
    """Downloads the model artifact of a sweep's run.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        run_name: the run's id.
        folder: where its files go.

    Raises:
        UserError: the run logged no model.
    """
    import wandb

    entity, project, _ = path.split("/")
    run = wandb.Api().run(f"{entity}/{project}/{run_name}")
    models = [artifact for artifact in run.logged_artifacts() if artifact.type == "model"]
    if not models:
        raise UserError(f"run {run_name} logged no model; was it started with --log_model false?")
    return Path(models[-1].download(root=str(folder)))


def agent(path: str, function: Callable[[], None], *, count: int | None) -> None:
    """Runs a sweep's runs in this process, one after the other, as `wandb agent` does in processes of their own.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        function: trains one run, with wandb.config as the sweep sets it; an exception in it is W&B's wish to stop.
        count: how many; None until the sweep ends.
    """
    import wandb

    entity, project, sweep_id = path.split("/")
    wandb.agent(sweep_id, function=function, entity=entity, project=project, count=count)


def start(
    config: dict[str, Any],
    *,
    run_id: str,
    folder: Path | None,
    resume: bool = False,
    group: str = "",
    job_type: str = "",
) -> Tracker:
    """Starts a W&B run: online, offline or disabled as wandb's own settings say, offline without credentials.

    Args:
        config: hyperparameters; a sweep's own win.
        run_id: also the run folder's name.
        folder: wandb's local files go here, unless WANDB_DIR says otherwise; None leaves that to wandb.
        resume: go on with the run of that id, if there is one.
        group: what the run belongs to, as a study; '' for none.
        job_type: its part there, as a phase; '' for none.
    """
    import wandb

    mode = _mode()
    quiet = (mode or os.environ.get("WANDB_MODE")) in ("offline", "disabled")
    project = config.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
    run = wandb.init(
        project=project,
        id=run_id,
        name=run_id,
        group=group or None,
        job_type=job_type or None,
        config=config,
        dir=os.environ.get("WANDB_DIR") or (str(folder) if folder else None),
        mode=mode,
        resume="allow" if resume and not quiet else None,
        # Quiet unless online: wandb's summary repeats ours, and its advice assumes a network.
        settings=wandb.Settings(silent=quiet, console="off"),
    )
    return Tracker(run)


def _mode() -> Literal["offline"] | None:
    """None where wandb's settings decide; 'offline', said once, where it would ask for an account or fail without one."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_DISABLED") or has_credentials():
        return None
    runtime.note("W&B: no credentials, so this run is kept offline; `wandb login` and `wandb sync` upload it later.")
    return "offline"


def has_credentials() -> bool:
    """Whether wandb knows an API key or token, from the environment, its settings or netrc. Asks nobody, contacts nobody."""
    import wandb

    return not is_offline() and bool(wandb.login(prompt=False, verify=False))  # offline, it would warn and say no


def is_offline() -> bool:
    """Whether wandb's settings, from the environment or its files, keep it from its server."""
    import wandb

    return wandb.setup().settings.mode in ("offline", "dryrun", "disabled")


def lacking() -> str:
    """What is needed before W&B's server can be asked, and how to get it; '' where nothing is."""
    if is_offline():
        return "W&B online: unset WANDB_MODE, or run wandb online"
    return "" if has_credentials() else "a W&B login: run wandb login, or set WANDB_API_KEY"


def teardown() -> None:
    """Ends wandb's service process, as wandb does when the interpreter shuts down."""
    import wandb

    wandb.teardown()


def read_runs(path: str, *, histories: int = 50) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A sweep's configuration and all its runs, finished or not: name, state, config, metrics and history of each.

    Args:
        path: ENTITY/PROJECT/SWEEP_ID.
        histories: of how many runs to fetch the epochs, the best first; each takes a request.

    Raises:
        UserError: no such sweep, or W&B can't be reached.
    """
    sweep = _sweep(path)
    try:
        runs = sorted(sweep.runs, key=lambda run: -_or_lowest(_number(run.summary.get("val_acc"))))
        rows = []
        for number, run in enumerate(runs):
            wanted = number < histories and math.isfinite(_number(run.summary.get("val_acc")))
            history = run.history(samples=10_000, pandas=False, keys=list(EPOCH_METRICS)) if wanted else []
            facts = {"name": run.id, "state": run.state, "config": dict(run.config), "metrics": dict(run.summary)}
            rows.append(facts | {"history": list(history)})
    except Exception as error:  # as in _sweep
        raise UserError(f"the runs of {path} can't be read: {' '.join(str(error).split())[:200]}") from error
    return dict(sweep.config), rows


def _or_lowest(value: float) -> float:
    """The value, below all others where it is NaN."""
    return value if math.isfinite(value) else -math.inf
