"""All use of wandb: start a run, log its epochs, finish it, and read sweeps."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ctkeras.errors import UserError
from ctkeras.runs.predictions import worst_errors
from ctkeras.runtime import console
from ctkeras.tracking import settings

DEFAULT_PROJECT = "ctkeras"


class NoRun:
    """In the place of a W&B run where W&B is disabled: importing wandb takes a second and it checks its settings."""

    disabled, offline, resumed, starting_step = True, False, False, 0

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        """Does nothing."""

    def finish(self, *, exit_code: int) -> None:
        """Does nothing."""


class Tracker:
    """One W&B run. No failure of W&B's reaches the training, which has its own record in the run folder: it is reported."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.reported: set[str] = set()
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
            with self.harmless("an epoch"):
                self.run.log(row)
            self.logged = row["epoch"]

    def config(self) -> dict[str, Any]:
        """The configuration of the run in W&B: the values of a sweep, including nested ones."""
        return dict(self.run.config)

    def set_config(self, values: dict[str, Any]) -> None:
        """Records hyperparameters under plain names, so that dashboards can plot those of nested candidates."""
        if self.run.disabled:
            return
        recorded = self.config()
        changed = {name: value for name, value in values.items() if name not in recorded or recorded[name] != value}
        with self.harmless("hyperparameters"):
            self.run.config.update(changed, allow_val_change=True)

    def log_model(self, folder: Path, *, name: str, metadata: dict[str, Any]) -> None:
        """Uploads model.keras and contract.json as the model artifact of the run."""
        if self.run.disabled:
            return
        import wandb

        with self.harmless("the model"), settings.staging_in(folder):
            artifact = wandb.Artifact(name, type="model", metadata=metadata)
            for file in ("model.keras", "contract.json"):
                artifact.add_file(str(folder / file))
            self.run.log_artifact(artifact)

    def log_validation(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        class_names: Sequence[str],
        *,
        worst: Sequence[np.ndarray],
        folder: Path,
    ) -> None:
        """Adds a table per class, a confusion matrix and the worst errors to the summary; history keeps one row per epoch.

        Args:
            labels: int [N].
            probabilities: float [N, C].
            class_names: C names in label order.
            worst: uint8 images [S, S] of the most confident errors, in the order of `worst_errors`.
            folder: the run folder.
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
        with self.harmless("tables and images"), settings.staging_in(folder):
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
        with self.harmless("the summary"):
            self.run.summary.update(plain)
        with self.harmless("the end of the run"):
            self.run.finish(exit_code=exit_code)

    @contextlib.contextmanager
    def harmless(self, what: str) -> Iterator[None]:
        """Reports an error of W&B's inside the block in one line, once per kind of thing, instead of raising it."""
        try:
            yield
        except Exception as error:  # wandb raises its own errors, and those of the system
            if what not in self.reported:
                console.note(
                    f"Warning: W&B could not record {what} ({settings.reason(error)}); the run itself is not affected."
                )
            self.reported.add(what)


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

    A run that is not a sweep's is recorded offline if W&B cannot be reached, and not at all if that fails too.

    Args:
        config: hyperparameters; values of a sweep override them.
        run_id: id of the run, which is also the name of the run folder.
        folder: folder for wandb's local files, unless WANDB_DIR is set; None for wandb's default.
        resume: resume the run of that id, if there is one.
        group: name of the group that the run belongs to, such as a study; '' for none.
        job_type: role of the run in the group, such as a phase; '' for none.

    Raises:
        UserError: W&B refuses the run, or cannot be reached for a run of a sweep, whose hyperparameters it has.
    """
    if settings.apply_mode() == "disabled":
        return Tracker(NoRun())
    settings.move_from_home()
    arguments = {
        "project": config.get("project") or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        "id": run_id,
        "name": run_id,
        "group": group or None,
        "job_type": job_type or None,
        "config": config,
        "dir": os.environ.get("WANDB_DIR") or (str(folder) if folder else None),
    }
    mode = _mode()
    of_sweep = bool(os.environ.get("WANDB_SWEEP_ID"))
    try:
        return _init(arguments, mode, resume=resume)
    except Exception as error:  # wandb raises its own errors, pydantic's and the system's
        if of_sweep or not (settings.is_passing(error) or mode == "offline" or is_offline()):
            raise UserError(f"W&B refuses this run: {settings.reason(error)}") from error
        if mode == "offline" or is_offline():
            console.note(f"Warning: W&B cannot record this run ({settings.reason(error)}); its folder has everything.")
            return Tracker(NoRun())
        console.note(
            f"W&B cannot be reached ({settings.reason(error)}), so this run is recorded offline; upload it later with "
            "wandb sync."
        )
    teardown()  # wandb's service still holds the id for the attempt that failed
    try:
        return _init(arguments, "offline", resume=False)
    except Exception as error:  # as above
        console.note(f"Warning: W&B cannot record this run ({settings.reason(error)}); its folder has everything.")
        return Tracker(NoRun())


def _init(arguments: dict[str, Any], mode: Literal["offline"] | None, *, resume: bool) -> Tracker:
    """Starts the run itself.

    Args:
        arguments: of wandb.init.
        mode: None if wandb's settings decide.
        resume: resume the run of that id, if there is one.
    """
    import wandb

    quiet = (mode or os.environ.get("WANDB_MODE")) == "offline"
    run = wandb.init(
        **arguments,
        mode=mode,
        resume="allow" if resume and not quiet else None,
        # Silent unless online: wandb's summary repeats ours, and its advice assumes a network.
        settings=wandb.Settings(silent=quiet, console="off"),
    )
    return Tracker(run)


def _mode() -> Literal["offline"] | None:
    """None if wandb's settings decide; 'offline', with a note, if wandb would ask for an account or fail without one."""
    if os.environ.get("WANDB_MODE") or has_credentials():
        return None
    console.note(
        "W&B: no credentials, so this run is recorded offline; upload it later with `wandb login` and `wandb sync`."
    )
    return "offline"


def has_credentials() -> bool:
    """Whether wandb has an API key or token, from the environment, its settings or netrc. Neither prompts nor connects."""
    return not is_offline() and settings.has_key()  # offline, wandb.login would warn and return False


def is_offline() -> bool:
    """Whether wandb's settings, from the environment or its files, do not let it use its server."""
    with settings.readable() as found:
        return found.mode in ("offline", "dryrun", "disabled")


def lacking() -> str:
    """What is missing for using W&B's server, and how to provide it; '' if nothing is.

    Raises:
        UserError: as settings.prepare.
    """
    settings.prepare()
    if os.environ.get("WANDB_MODE") == "disabled" or is_offline():
        return "W&B online: unset WANDB_MODE and WANDB_DISABLED, or run wandb online"
    return "" if has_credentials() else "a W&B login: run wandb login, or set WANDB_API_KEY"


def teardown() -> None:
    """Ends wandb's service process, as wandb does when the interpreter shuts down."""
    import wandb

    with contextlib.suppress(Exception):  # the run has ended; its files are written
        wandb.teardown()
