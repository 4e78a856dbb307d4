"""One process gives a search's trials to its workers, listens to them, and replaces those that die."""

import signal
import time
from collections.abc import Mapping
from typing import Any

from ctkeras import owner, status
from ctkeras.config import UserError
from ctkeras.runs.folder import FINISHED
from ctkeras.training.stopping import Stop
from ctkeras.trials import Job, Trials
from ctkeras.workers import Pool, Worker

LOOK_SECONDS = 5.0  # between two looks for trials that others have left behind
STOP_SECONDS = 60.0  # for workers to end their trials in order; a run takes up to 20
KILLED_TOGETHER_SECONDS = 1.0  # a worker killed this shortly before its supervisor has not crashed
HOPELESS = 5  # trials that failed, and none that didn't: the rest would too


class Supervisor:
    """Gives trials to workers, listens to them, and replaces those that die."""

    def __init__(self, trials: Trials, pool: Pool, *, stop: Stop, shared: Mapping[str, Any]) -> None:
        self.trials, self.pool, self.stop, self.shared = trials, pool, stop, shared
        search = trials.search
        self.progress = status.Progress(
            search.job_type,
            search.total,
            search.varied,
            metric=search.metric,
            maximize=search.maximize,
            later=search.later,
        )
        self.jobs: list[Job | None] = [None] * len(pool.workers)
        self.looked = self.beaten = 0.0
        self.failed_here = 0

    def run(self) -> None:
        """Works until all trials have ended, or somebody wishes to stop."""
        self.progress.update(self.trials.all())
        if self.progress.ended >= self.trials.search.total:
            return
        self._greet()
        self._prepare()
        while not self.stop.reason:
            self._hand_out()
            if not any(self.jobs) and self._all_ended():
                return
            self._listen(1.0)
            self._look_after()
        self._stop_workers()

    def _greet(self) -> None:
        search, ended = self.trials.search, self.progress.ended
        where = (
            f"trials in {self.trials.storage.shown}, run folders {search.places.get('output_dir', '')}/{search.name}-*"
        )
        goes_on = f", going on after {ended}" if ended else ""
        self.progress.say(f"{search.name}: {search.total} trials{goes_on}; {where}")

    def _prepare(self) -> None:
        """Has a worker ready what the trials share, before any of them is spent on its absence."""
        for last in (False, True):  # once more when the worker dies over it
            worker = self.pool.get(0)
            worker.send(prepare=self.shared)
            while not self.stop.reason and not worker.death():
                self.pool.wait(1.0)
                for message in worker.messages():
                    if "refused" in message:
                        raise UserError(message["refused"])
                    if "ready" in message:
                        return
                    self._hear_note(0, message)
            if self.stop.reason:
                return
            if last:
                raise UserError(f"no worker can be started: {worker.death()}")
            self.pool.drop(0)

    def _hand_out(self) -> None:
        """Gives each idle worker a trial, as long as there are any."""
        now = time.monotonic()
        if None not in self.jobs or now < self.looked:
            return
        for place, job in enumerate(self.jobs):
            while job is None and not self.stop.reason:
                job = self.trials.claim([job.number for job in self.jobs if job is not None])
                if job is None:
                    self.looked = now + LOOK_SECONDS  # others' trials may be left behind later
                    return
                if job.metrics is not None:
                    self.trials.finish(job, job.metrics)
                elif job.failure:
                    self.trials.fail(job, job.failure)
                else:
                    self._start(place, job)
                    break
                self._ended(job)
                job = None

    def _start(self, place: int, job: Job) -> None:
        self.jobs[place] = job
        search = self.trials.search
        if job.taken_up:
            self.progress.say(f"trial {job.number} had been begun; going on with it")
        self.progress.running[job.number] = "starting"
        told = {"run_id": job.run_id, "config": job.config, "group": search.group, "job_type": search.job_type}
        self.pool.get(place).send(trial={**told, "asks": self.trials.asks(job)})

    def _all_ended(self) -> bool:
        """Whether nothing is left, here or elsewhere; says so when others still work."""
        self.progress.update(self.trials.all())
        left = self.trials.search.total - self.progress.ended
        if left > 0:
            self.progress.say(f"waiting for trials that other processes run, {left} at most", once=True)
        return left <= 0

    def _listen(self, seconds: float) -> None:
        """Waits for messages, and does what they ask for."""
        self.pool.wait(seconds)
        for place in range(len(self.jobs)):
            self._hear_all(place)

    def _hear_all(self, place: int) -> None:
        worker = self.pool.workers[place]
        for message in worker.messages() if worker is not None else []:
            job = self.jobs[place]
            if "note" in message:
                self._hear_note(place, message)
            elif job is not None:
                self._hear(place, job, message)

    def _hear_note(self, place: int, message: Mapping[str, Any]) -> None:
        """Shows what a worker says, once: every trial says the same, and the run's log keeps it.

        What it waits for goes into the live line; where there is none, the first trial's waits, the long ones, are shown.
        """
        text, job = str(message.get("note", "")), self.jobs[place]
        if not text or text.startswith((" ", "epoch ")):
            return
        if text.endswith("…") and job is not None:
            self.progress.running[job.number] = text
            self.progress.draw()
        if not text.endswith("…") or not (self.progress.live or self.progress.ends):
            self.progress.say(text, once=True)

    def _hear(self, place: int, job: Job, message: Mapping[str, Any]) -> None:
        """Takes in a message about the trial in hand."""
        worker = self.pool.workers[place]
        assert worker is not None
        if rows := message.get("epochs"):
            metric = self.trials.search.metric
            for row in rows:
                self.trials.report(job, row["epoch"], row[metric])
            last = rows[-1]
            shown = f"epoch {last['epoch']}/{job.config['max_epochs']} {metric} {last[metric]:.4f}"
            self.progress.running[job.number] = shown
            self.progress.draw()
            if last["epoch"] in self.trials.asks(job):
                worker.send(go_on=not self.trials.losing(job))
        elif "done" in message:
            self.jobs[place] = None
            if message["done"]["stopped_by"] in FINISHED:
                if self.trials.finish(job, message["done"]):
                    self._ended(job)
            else:
                self.trials.give_back(job)
        elif "failed" in message:
            self.jobs[place] = None
            if self.trials.fail(job, message["failed"]):
                self._ended(job)
            if message.get("spoilt"):
                self.pool.drop(place)

    def _ended(self, job: Job) -> None:
        """Tells of a trial that has ended."""
        trials = self.trials.all()
        self.progress.update(trials)
        ended = trials[job.number]
        self.progress.end(ended)
        self.failed_here += ended.value is None
        if self.failed_here >= HOPELESS and self.progress.best is None:
            reason = ended.user_attrs.get("failure", "")
            raise UserError(f"{self.failed_here} trials failed and none ended well; the last one: {reason}")

    def _look_after(self) -> None:
        """Shows that this process lives, and replaces workers that don't."""
        now = time.monotonic()
        if now - self.beaten > owner.BEAT_SECONDS:
            self.beaten = now
            for place, job in enumerate(self.jobs):
                if job is not None and not self.trials.beat(job):
                    self.progress.say(f"trial {job.number} was taken up by another process")
                    self._replace(place)
        for place, worker in enumerate(self.pool.workers):
            if worker is None:
                continue
            reason = worker.death()
            if reason:
                self._wait_if_killed(worker)
                self._hear_all(place)  # what it said before
            job = self.jobs[place]
            reason = reason or (worker.hang() if job is not None else "")
            if reason and not self.stop.reason:
                self._replace(place)
                if job is not None:
                    self._retry(place, job, reason)

    def _wait_if_killed(self, worker: Worker) -> None:
        """Gives a signal that was meant for this process too the time to arrive."""
        if worker.process.returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            time.sleep(KILLED_TOGETHER_SECONDS)

    def _retry(self, place: int, job: Job, reason: str) -> None:
        """Runs a trial once more whose worker died; then it has failed."""
        if not self.trials.beat(job):
            return  # another process has it by now
        if self.trials.crashed(job, reason):
            self.progress.say(f"trial {job.number}: {reason}; running it once more, from its last checkpoint")
            job.taken_up = False
            self._start(place, job)
        else:
            self._ended(job)

    def _replace(self, place: int) -> None:
        """Ends a worker for good; its place's next trial gets another."""
        self.pool.drop(place)
        self.jobs[place] = None

    def _stop_workers(self) -> None:
        """Has trials in flight end in order; they stay as they are for the next command."""
        busy = [job.number for job in self.jobs if job is not None]
        if busy:
            numbers = ", ".join(map(str, busy))
            self.progress.say(f"{self.stop.reason}: stopping trial {numbers}; the same command goes on with it")
        for worker in self.pool.workers:
            if worker is not None:
                worker.send(stop=self.stop.reason)
        end = time.monotonic() + STOP_SECONDS
        while any(self.jobs) and time.monotonic() < end:
            self._listen(0.5)
            for place, worker in enumerate(self.pool.workers):
                if worker is not None and worker.process.poll() is not None:
                    self._listen(0)
                    self._give_up(place)
        for place in range(len(self.jobs)):
            self._give_up(place)

    def _give_up(self, place: int) -> None:
        job = self.jobs[place]
        self._replace(place)
        if job is not None:
            self.trials.give_back(job)
