"""The process that gives a search's trials to its workers, receives their messages, and replaces workers that die.

Written by hand because no library resumes a trial from its checkpoint after its worker was killed.
"""

import contextlib
import errno
import math
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctkeras.errors import CannotWrite, UserError
from ctkeras.runs.folder import FINISHED
from ctkeras.runtime import files
from ctkeras.search import progress, status
from ctkeras.search.budget import Budget
from ctkeras.search.cost import Cost
from ctkeras.search.exporting import export_best
from ctkeras.search.job import Job
from ctkeras.search.pool import Pool, Worker
from ctkeras.search.trialstore import Trials
from ctkeras.training.stopping import Stop

LOOK_SECONDS = 5.0  # between two looks for trials that other processes have abandoned
STOP_SECONDS = 60.0  # for workers to end their trials properly; a run takes up to 20
KILLED_TOGETHER_SECONDS = 1.0  # a worker that was killed this shortly before its supervisor has not crashed
PREPARED_AGAIN = 2  # times that another worker prepares data and weights; nothing of it is lost with a worker
HOPELESS = 5  # if this many trials have failed and none has succeeded, the others would fail too


class Supervisor:
    """Gives trials to workers, receives their messages, and replaces workers that die."""

    def __init__(
        self, trials: Trials, pool: Pool, *, stop: Stop, shared: Mapping[str, Any], budget: Budget | None = None
    ) -> None:
        self.trials, self.pool, self.stop, self.shared = trials, pool, stop, shared
        self.budget = budget or Budget.of(math.inf)
        search = trials.search
        self.cost = Cost(search, workers=len(pool.workers))
        self.progress = progress.Progress(
            search.job_type,
            search.total,
            search.varied,
            metric=search.metric,
            maximize=search.maximize,
            later=search.later,
            cost=self.cost,
            budget=self.budget,
        )
        self.jobs: list[Job | None] = [None] * len(pool.workers)
        self.looked, self.beaten, self.failed_here = 0.0, 0.0, 0
        self.halted = ""  # why nothing can be written, once a trial has found that

    def run(self) -> None:
        """Runs until all trials have ended, or a stop is requested."""
        self.progress.update(self.trials.all())
        if self.progress.ended >= self.trials.search.total:
            export_best(self.progress, self.pool, self.stop)
            return
        self._greet()
        self._prepare()
        while not self.stop.reason:
            self._hand_out()
            if not any(self.jobs) and (self.budget.spent or self._all_ended()):
                export_best(self.progress, self.pool, self.stop)
                return
            self._listen(1.0)
            self._look_after()
        self._stop_workers()
        if self.halted:
            raise CannotWrite(f"{self.halted}. The trials wait: run the same command to resume")

    def _greet(self) -> None:
        search, ended = self.trials.search, self.progress.ended
        where = (
            f"trials in {self.trials.storage.shown}, run folders {search.places.get('output_dir', '')}/{search.name}-*"
        )
        done = f" ({ended} done)" if ended else ""
        self.progress.say(f"{search.name}: {status.counted(search.total, 'trial')}{done}; {where}")

    def _prepare(self) -> None:
        """Lets a worker prepare what all trials share, so that no trial fails because something is missing."""
        for last in (False,) * PREPARED_AGAIN + (True,):
            worker = self.pool.get(0)
            worker.send(prepare=self.shared)
            while not self.stop.reason and not (reason := worker.death() or worker.hang()):
                self.pool.wait(1.0)
                for message in worker.messages():
                    if "refused" in message:
                        raise UserError(message["refused"])
                    if "ready" in message:
                        self._estimate(message)
                        return
                    self._hear_note(0, message)
            if self.stop.reason:
                return
            self.pool.drop(0)
            if last:
                raise UserError(f"data cannot be prepared, {PREPARED_AGAIN + 1} workers failed at it: {reason}")
            self.progress.say(f"preparing data and weights: {reason}; trying once more")

    def _estimate(self, ready: Mapping[str, Any]) -> None:
        """Prints what the trials will cost, if one of them trains more than a head or there is a budget."""
        self.cost.learn(ready.get("machine"), ready.get("images"))
        if self.cost.fine_tunes or math.isfinite(self.budget.seconds):
            self.progress.say(self.cost.sentence(self.trials.search.total - self.progress.ended))

    def _fits(self, config: Mapping[str, Any], done: int) -> bool:
        """Whether the budget has time for a trial."""
        first = self.progress.best is None and not any(self.jobs)
        return self.budget.fits(self.cost.of(config, done=done), first=first)

    def _hand_out(self) -> None:
        """Gives each idle worker a trial, as long as there are trials and the budget has time for them."""
        now = time.monotonic()
        if None not in self.jobs or now < self.looked or self.budget.spent:
            return
        for place, job in enumerate(self.jobs):
            while job is None and not self.stop.reason:
                job = self.trials.claim(self._in_hand(), fits=self._fits)
                if job is None:
                    self.looked = now + LOOK_SECONDS  # other processes may abandon trials later
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

    def _in_hand(self) -> list[int]:
        return [job.number for job in self.jobs if job is not None]

    def _start(self, place: int, job: Job) -> None:
        self.jobs[place] = job
        search = self.trials.search
        if job.resumed:
            self.progress.say(f"resuming trial {job.number}, which was started earlier")
        self.progress.running[job.number] = "starting"
        request: dict[str, Any] = {
            "run_id": job.run_id,
            "config": job.config,
            "group": search.group,
            "job_type": search.job_type,
        }
        request["export"] = self.pool.export_all
        self.pool.get(place).send(trial={**request, "asks": self.trials.asks(job)})

    def _all_ended(self) -> bool:
        """Whether no trial is left, in this process or in others; reports when others are still running some."""
        self.progress.update(self.trials.all())
        left = self.trials.search.total - self.progress.ended
        if left > 0:
            self.progress.say(f"waiting for trials that other processes run, at most {left}", once=True)
        return left <= 0

    def _listen(self, seconds: float) -> None:
        """Waits for messages and handles them."""
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
        """Shows a worker's note once: all trials send the same notes, and the run's log has them all.

        What a worker waits for goes into the live line. Without a live line, only the first trial's waits, which are the
        long ones, are shown.
        """
        text, job = str(message.get("note", "")), self.jobs[place]
        if not text or text.startswith((" ", "epoch ")):
            return
        if text.endswith("…") and job is not None:
            self.progress.running[job.number] = text
            self.progress.draw()
        if not text.endswith("…") or not (self.progress.live or self.cost.done):
            self.progress.say(text, once=True)

    def _hear(self, place: int, job: Job, message: Mapping[str, Any]) -> None:
        """Handles a message about the trial that a worker runs."""
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
        elif "halted" in message:
            self.jobs[place] = None
            self._halt(job, message["halted"])
            if message.get("spoilt"):
                self.pool.drop(place)
        elif "failed" in message:
            self.jobs[place] = None
            if self.trials.fail(job, message["failed"]):
                self._ended(job)
            if message.get("spoilt"):
                self.pool.drop(place)

    def _halt(self, job: Job, reason: str) -> None:
        """Ends the search because nothing can be written: a trial that fails only for that is run again next time."""
        self.halted = self.halted or reason
        self.stop.ask("nothing can be written")
        self._release(job)

    def _ended(self, job: Job) -> None:
        """Reports a trial that has ended."""
        trials = self.trials.all()
        self.progress.update(trials)
        ended = trials[job.number]
        self.progress.end(ended)
        self.failed_here += ended.value is None
        if self.failed_here >= HOPELESS and self.progress.best is None:
            reason = ended.user_attrs.get("failure", "")
            raise UserError(f"{self.failed_here} trials failed and none succeeded; the last one: {reason}")

    def _look_after(self) -> None:
        """Sends heartbeats for the trials of this process, and replaces workers that have died or hang."""
        now = time.monotonic()
        if now - self.beaten > self.trials.storage.beat_seconds:
            self.beaten = now
            for place, job in enumerate(self.jobs):
                if job is not None and not self.trials.beat(job):
                    self.progress.say(f"trial {job.number} was taken over by another process")
                    self._replace(place)
        for place, worker in enumerate(self.pool.workers):
            if worker is None:
                continue
            reason = worker.death()
            if reason:
                self._wait_if_killed(worker)
                self._hear_all(place)  # its last messages
            job = self.jobs[place]
            reason = reason or (worker.hang() if job is not None else "")
            if reason and not self.stop.reason:
                self._replace(place)
                if job is not None:
                    self._retry(place, job, reason)

    def _wait_if_killed(self, worker: Worker) -> None:
        """Waits a moment if a signal ended the worker: the same signal may be about to reach this process."""
        if worker.process.returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            time.sleep(KILLED_TOGETHER_SECONDS)

    def _retry(self, place: int, job: Job, reason: str) -> None:
        """Runs a trial once more if its worker died; the second time it has failed."""
        if not self.trials.beat(job):
            return  # another process has taken it over
        if full := files.full_disk(job.folder, files.cache_dir("jax"), Path(tempfile.gettempdir())):
            self._halt(job, str(files.cannot_write(full, errno.ENOSPC)))
            return
        if self.trials.crashed(job, reason):
            self.progress.say(f"trial {job.number}: {reason}; running it once more, from its last checkpoint")
            job.resumed = False
            self._start(place, job)
        else:
            self._ended(job)

    def _replace(self, place: int) -> None:
        """Kills a worker; the next trial in its place gets a new one."""
        self.pool.drop(place)
        self.jobs[place] = None

    def _stop_workers(self) -> None:
        """Lets running trials end properly; the next command resumes them."""
        busy = self._in_hand()
        if busy:
            trials = f"{'trial' if len(busy) == 1 else 'trials'} {', '.join(map(str, busy))}"
            self.progress.say(f"{self.stop.reason}: stopping {trials}; run the same command to resume")
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
            self._release(job)

    def _release(self, job: Job) -> None:
        """Gives a trial back; if that cannot be written either, it is taken over when this process has ended."""
        with contextlib.suppress(*([UserError] if self.halted else [])):
            self.trials.give_back(job)
