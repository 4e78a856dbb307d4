"""The store of a search's trials: each is claimed once, followed and recorded, even if processes die in between."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.runs.checkpoint import CHECKPOINT, TRAINED
from ctkeras.runs.folder import FINISHED, read_metrics
from ctkeras.runs.history import read_history
from ctkeras.runs.result import Result
from ctkeras.runtime import console
from ctkeras.runtime.place import place
from ctkeras.search import damage, sampling, storage
from ctkeras.search.heartbeat import Owner, Watch
from ctkeras.search.job import Job
from ctkeras.search.plan import Search
from ctkeras.sweep import file, hyperband

TRIES = 2  # a trial whose worker dies is run once more
PAUSE_SECONDS = storage.PAUSE_SECONDS
OUTAGE_SECONDS = storage.OUTAGE_SECONDS


def _patient(method: Callable) -> Callable:
    """Repeats a call while the database cannot be reached; workers continue to train meanwhile."""

    @functools.wraps(method)
    def call(self: "Trials", *args: Any, **options: Any) -> Any:
        begun, reported = time.monotonic(), False
        while True:
            try:
                result = method(self, *args, **options)
            except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError, OSError) as error:
                elsewhere = isinstance(error, OSError) and not self.storage.sparing  # a run folder's, not the storage's
                if isinstance(error, UserError):  # a file of a run folder that cannot be written
                    raise
                if elsewhere or damage.hopeless(error) or time.monotonic() - begun > OUTAGE_SECONDS or self.hurry():
                    with storage.faults(self.storage.url):
                        raise
                if not reported:
                    reason = storage.scrubbed(" ".join(str(error.__cause__ or error).split())[:160], self.storage.url)
                    console.note(f"The storage {self.storage.shown} does not answer ({reason}); trying again …")
                reported = True
                time.sleep(PAUSE_SECONDS)
                continue
            if reported:
                console.note(f"The storage {self.storage.shown} answers again.")
            return result

    return call


class Trials:
    """The trials of one search, as one process sees them; for use by one thread."""

    def __init__(self, opened: storage.Storage, search: Search, *, hurry: Callable[[], bool] = lambda: False) -> None:
        self.storage, self.search, self.hurry = opened, search, hurry
        self.me = Owner.me()
        self.watch = Watch(self.me, silent_seconds=opened.silent_seconds)
        self.unwritten: dict[int, dict[int, float]] = {}  # by trial: epochs that no other process needs yet
        self.study_id = self._open()

    @_patient
    def _open(self) -> int:
        """Creates the study, or opens it."""
        direction = optuna.study.StudyDirection.MAXIMIZE if self.search.maximize else None
        stored, name = self.storage.trials, self.search.name
        with self.storage.lock(name):
            if name not in {study.study_name for study in stored.get_all_studies()}:
                stored.create_new_study([direction or optuna.study.StudyDirection.MINIMIZE], name)
                optuna.load_study(study_name=name, storage=stored).set_metric_names([self.search.metric])
            study_id = stored.get_study_id_from_name(name)
            facts = {"sweep": self.search.content, "total": self.search.total, "metric": self.search.metric}
            held = stored.get_study_user_attrs(study_id)
            for key, value in facts.items():
                if held.get(key) != value:
                    stored.set_study_user_attr(study_id, key, value)
        return study_id

    @_patient
    def all(self) -> list[FrozenTrial]:
        """Every trial so far, by number."""
        return self.storage.trials.get_all_trials(self.study_id, deepcopy=False)

    @_patient
    def claim(
        self, in_hand: Collection[int], *, fits: Callable[[dict[str, Any], int], bool] = lambda config, done: True
    ) -> Job | None:
        """Claims a trial: one whose holder is gone, otherwise a new one; None if there is none now.

        Args:
            in_hand: numbers of the trials that this process runs.
            fits: whether there is time for a trial, from its hyperparameters and the epochs that it has trained already.
        """
        with self.storage.lock(self.search.name):
            trials = self.storage.trials.get_all_trials(self.study_id, deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING and trial.number not in in_hand and self._gone(trial):
                    job = self._resumed(trial)
                    if job.metrics is None and not fits(job.config, trial.last_step or 0):
                        return None
                    places = [*trial.user_attrs.get("places", []), place() | {"from": int(time.time())}]
                    with self.storage.together():
                        self._set(trial._trial_id, owner=self.me.to_dict(), places=places)
                    return job
            return self._new(trials, fits) if len(trials) < self.search.total else None

    def _gone(self, trial: FrozenTrial) -> bool:
        owner, beat = trial.user_attrs.get("owner"), trial.user_attrs.get("beat")
        if "config" not in trial.user_attrs:
            return False  # made by somebody with Optuna itself
        if owner is not None and owner.get("token") == self.me.token:
            return True  # held by this process, which does not run it: the answer to an earlier claim was lost
        return self.watch.gone(owner, trial=trial.number, beat=beat)

    def _resumed(self, trial: FrozenTrial) -> Job:
        """A trial that another process began: to be resumed, or only to be recorded."""
        config = {**trial.user_attrs["config"], **self.search.places}
        job = Job(trial.number, trial._trial_id, self._run_id(trial.number), config)
        job.tries, job.resumed = trial.user_attrs.get("tries", 0), True
        with contextlib.suppress(UserError):  # there is no such file yet
            metrics = read_metrics(job.folder)
            job.metrics = metrics if metrics.get("stopped_by") in FINISHED else None
        return job

    def _new(self, trials: Sequence[FrozenTrial], fits: Callable[[dict[str, Any], int], bool]) -> Job | None:
        """Creates a new trial in one transaction, so that it is stored with all its values or not at all.

        Its values are sampled on a copy of the study in memory. A trial that there is no time for is not stored.
        """
        copy = optuna.create_study(direction="maximize" if self.search.maximize else "minimize")
        copy.add_trials(trials)
        values = sampling.sample(copy, copy.ask(), self.search.content, study_seed=self.search.seed)
        drawn = copy.get_trials()[-1]
        job = Job(len(trials), -1, self._run_id(len(trials)), {})
        given = file.expand(values) | self.search.places
        try:
            job.config = RunConfig.from_mapping(given).to_dict()
        except UserError as error:
            job.config, job.failure = {"output_dir": "", **given}, str(error)
        else:
            if not fits(job.config, 0):
                return None
            # Left by a study that was deleted: this is a new run.
            for name in (CHECKPOINT, TRAINED, "model.keras", "metrics.json"):
                (job.folder / name).unlink(missing_ok=True)
        facts: dict[str, Any] = {
            "config": job.config,
            "run": job.run_id,
            "folder": str(job.folder),
            "owner": self.me.to_dict(),
        }
        facts["places"] = [place() | {"from": int(time.time())}]
        for key, value in facts.items():
            drawn.set_user_attr(key, value)
        job.trial_id = self.storage.trials.create_new_trial(self.study_id, drawn)
        return job

    def _run_id(self, number: int) -> str:
        return f"{self.search.name}-{number:03d}"

    def _set(self, trial_id: int, **facts: Any) -> None:
        for key, value in facts.items():
            self.storage.trials.set_trial_user_attr(trial_id, key, value)

    def _mine(self, job: Job) -> bool:
        """Whether this process still holds the trial; another may have considered it dead and claimed the trial."""
        trial = self.storage.trials.get_trial(job.trial_id)
        owner = trial.user_attrs.get("owner") or {}
        return trial.state == TrialState.RUNNING and owner.get("token") == self.me.token

    @_patient
    def beat(self, job: Job) -> bool:
        """Records a heartbeat; returns whether this process still holds the trial."""
        if not self._mine(job):
            return False
        with self.storage.together():
            self._write_epochs(job)
            self._set(job.trial_id, beat=int(time.time()))
        return True

    @_patient
    def report(self, job: Job, epoch: int, value: float) -> None:
        """Records the metric after an epoch; repeating it changes nothing.

        A journal gets epochs only when hyperband compares trials, and only those that it compares.
        """
        asks = self.asks(job)
        if self.storage.sparing and epoch <= max(asks, default=0):
            self.unwritten.setdefault(job.number, {})[epoch] = value
        if self.storage.sparing and epoch not in asks:
            return
        try:
            with self.storage.together():
                if self.storage.sparing:
                    self._write_epochs(job)
                else:
                    self.storage.trials.set_trial_intermediate_value(job.trial_id, epoch, value)
        except optuna.exceptions.UpdateFinishedTrialError:  # another holder has finished it
            return

    def _write_epochs(self, job: Job) -> None:
        """Writes the epochs that have been kept back, unless they are stored already."""
        held = self.storage.trials.get_trial(job.trial_id).intermediate_values
        for epoch, value in self.unwritten.pop(job.number, {}).items():
            if held.get(epoch) != value:
                self.storage.trials.set_trial_intermediate_value(job.trial_id, epoch, value)

    def asks(self, job: Job) -> list[int]:
        """The epochs after which hyperband may stop a trial."""
        stopper, epochs = self.search.content.get("early_terminate"), job.config["max_epochs"]
        bands = hyperband.bands(stopper, epochs) if stopper else []
        return list(range(bands[0], epochs)) if stopper and bands and stopper.get("strict") else bands

    def losing(self, job: Job) -> bool:
        """Whether hyperband stops a trial after its last reported epoch, compared with the epochs of all trials."""
        values = {trial.number: _in_order(trial.intermediate_values) for trial in self.all()}
        history = values.pop(job.number, [])
        return hyperband.should_stop(
            history,
            list(values.values()),
            self.search.content["early_terminate"],
            maximize=self.search.maximize,
            max_epochs=job.config["max_epochs"],
        )

    @_patient
    def finish(self, job: Job, metrics: dict[str, Any]) -> bool:
        """Records a trial that has finished; returns whether this process still held it.

        Optuna calls a trial that hyperband stopped pruned, and still learns from its value.
        """
        metric = self.search.metric
        history = _by_epoch(job.folder, metric)
        value = metrics.get(metric)
        value = (list(history.values()) or [math.nan])[-1] if value is None else float(value)
        if not math.isfinite(value):
            return self.fail(job, f"{metric} is {value}")
        self.unwritten.pop(job.number, None)  # they are in the history
        needed = max(self.asks(job), default=0) if self.storage.sparing else math.inf
        with self.storage.lock(self.search.name):
            if not self._mine(job):
                return False
            with self.storage.together():
                return self._end(job, metrics, value, {e: v for e, v in history.items() if e <= needed})

    def _end(self, job: Job, metrics: dict[str, Any], value: float, history: dict[int, float]) -> bool:
        """Writes how a trial ended."""
        held = self.storage.trials.get_trial(job.trial_id).intermediate_values
        for epoch, number in history.items():
            if held.get(epoch) != number:
                self.storage.trials.set_trial_intermediate_value(job.trial_id, epoch, number)
        recorded = ("val_acc", "val_loss", "epochs", "best_epoch", "stopped_by")
        self._set(job.trial_id, seconds=metrics.get("seconds_total"), **{key: metrics.get(key) for key in recorded})
        state = TrialState.PRUNED if metrics["stopped_by"] == "hyperband" else TrialState.COMPLETE
        return self.storage.trials.set_trial_state_values(job.trial_id, state, [value])

    @_patient
    def fail(self, job: Job, reason: str) -> bool:
        """Records a trial that failed, with the reason; returns whether this process still held it."""
        with self.storage.lock(self.search.name):
            if not self._mine(job):
                return False
            with self.storage.together():
                self._set(job.trial_id, failure=" ".join(reason.split())[:500], stopped_by="error")
                return self.storage.trials.set_trial_state_values(job.trial_id, TrialState.FAIL)

    @_patient
    def crashed(self, job: Job, reason: str) -> bool:
        """Counts the death of a trial's worker; returns whether to run the trial once more. Otherwise it has failed."""
        job.tries += 1
        if job.tries >= TRIES:
            self.fail(job, f"its worker died {job.tries} times; the last time: {reason}")
            return False
        if self._mine(job):
            self._set(job.trial_id, tries=job.tries, crash=reason[:500])
        return True

    @_patient
    def give_back(self, job: Job) -> None:
        """Releases a trial, so that any process can resume it at once."""
        if self._mine(job):
            self._set(job.trial_id, owner=None)


def results(trials: Sequence[FrozenTrial]) -> list[Result]:
    """The trials that ended with a val_acc, including those that hyperband stopped, in the form that W&B's runs have too."""
    return [
        Result(t.user_attrs["run"], t.user_attrs["config"], t.user_attrs["val_acc"], t.user_attrs["val_loss"])
        for t in trials
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.user_attrs.get("val_acc") is not None
    ]


def _in_order(values: dict[int, float]) -> list[float]:
    return [values[epoch] for epoch in sorted(values)]


def _by_epoch(folder: Path, metric: str) -> dict[int, float]:
    """A run's metric by epoch; empty when its history is not on this machine or is damaged."""
    try:
        return {int(row["epoch"]): row[metric] for row in read_history(folder)}
    except (UserError, KeyError):
        return {}
