"""All use of wandb: start a run, log its epochs, finish it, and read sweeps."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ctkeras.runs.predictions import worst_errors
from ctkeras.runtime import console

DEFAULT_PROJECT = "ctkeras"


class Tracker:
    """One W&B run. Calls are passed to wandb, which ignores them if its settings disable it."""

    def __init__(self, run: Any) -> None:
        self.run = run
        # Number of rows that the server has; None if it is unknown.
        self.logged = int(run.starting_step) if run.resumed else None

    @property
    def online(self) -> bool:
        """Whether the run is recorded at a server, not only in files or nowhere."""
        return not (self.run.disabled or self.run.offline)

    def catch_up(self, history: Sequence[dict[str, Any]]) -> None:
        """Logs the epochs of a resumed run that the server lacks: a killed process may not have sent its last rows."""
        if self.logged is None:
            self.logged = len(history)
        for row in history:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Logs one epoch, only once, under plain names, which the metric of a sweep and hyperband refer to."""
        if row["epoch"] > (self.logged or 0):
            self.run.log(row)
            self.logged = row["epoch"]

    def config(self) -> dict[str, Any]:
        """The configuration of the run in W&B: the values of a sweep, including nested ones."""
        return dict(self.run.config)

    def set_config(self, values: dict[str, Any]) -> None:
        """Records hyperparameters under plain names, so that dashboards can plot those of nested candidates."""
        recorded = self.config()
        changed = {name: value for name, value in values.items() if name not in recorded or recorded[name] != value}
        self.run.config.update(changed, allow_val_change=True)

    def log_model(self, folder: Path, *, name: str, metadata: dict[str, Any]) -> None:
        """Uploads model.keras and contract.json as the model artifact of the run."""
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
        """Adds a table per class, a confusion matrix and the worst errors to the summary; history keeps one row per epoch.

        Args:
            labels: int [N].
            probabilities: float [N, C].
            class_names: C names in label order.
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
            f"{class_names[labels[i]]} predicted as {class_names[predicted[i]]} with {probabilities[i].max():.2f}"
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
        """Writes numbers and texts of the summary and finishes the run."""
        plain = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
        self.run.summary.update(plain)
        self.run.finish(exit_code=exit_code)


def start_run(
    config: dict[str, Any],
    *,
    run_id: str,
    folder: Path | None,
    resume: bool = False,
    group: str = "",
    job_type: str = "",
) -> Tracker:
    """Starts a W&B run: online, offline or disabled according to wandb's settings, and offline without credentials.

    Args:
        config: hyperparameters; values of a sweep override them.
        run_id: id of the run, which is also the name of the run folder.
        folder: folder for wandb's local files, unless WANDB_DIR is set; None for wandb's default.
        resume: resume the run of that id, if there is one.
        group: name of the group that the run belongs to, such as a study; '' for none.
        job_type: role of the run in the group, such as a phase; '' for none.
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
        # Silent unless online: wandb's summary repeats ours, and its advice assumes a network.
        settings=wandb.Settings(silent=quiet, console="off"),
    )
    return Tracker(run)


def _mode() -> Literal["offline"] | None:
    """None if wandb's settings decide; 'offline', with a note, if wandb would ask for an account or fail without one."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_DISABLED") or has_credentials():
        return None
    console.note(
        "W&B: no credentials, so this run is recorded offline; upload it later with `wandb login` and `wandb sync`."
    )
    return "offline"


def has_credentials() -> bool:
    """Whether wandb has an API key or token, from the environment, its settings or netrc. Neither prompts nor connects."""
    import wandb

    return not is_offline() and bool(
        wandb.login(prompt=False, verify=False)
    )  # offline, wandb.login would warn and return False


def is_offline() -> bool:
    """Whether wandb's settings, from the environment or its files, do not let it use its server."""
    import wandb

    return wandb.setup().settings.mode in ("offline", "dryrun", "disabled")


def lacking() -> str:
    """What is missing for using W&B's server, and how to provide it; '' if nothing is."""
    if is_offline():
        return "W&B online: unset WANDB_MODE, or run wandb online"
    return "" if has_credentials() else "a W&B login: run wandb login, or set WANDB_API_KEY"


def teardown() -> None:
    """Ends wandb's service process, as wandb does when the interpreter shuts down."""
    import wandb

    wandb.teardown()
