"""The worker: a process that runs one trial after another, `python -m ctkeras.search.worker`, started by the pool (pool.py).

It exchanges JSON with its supervisor, one object per line. The supervisor sends `prepare`, `trial`, `export`, `go_on` and
`stop`; the worker answers with `ready`, `refused`, `note`, `epochs`, `done`, `failed` and `exported`. It ends when its
supervisor does, even if that is killed: this is why it is written by hand.
"""

import contextlib
import ctypes
import dataclasses
import io
import itertools
import json
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from ctkeras.config import RunConfig
from ctkeras.errors import CannotWrite, UserError
from ctkeras.runs.checkpoint import load_checkpoint
from ctkeras.runs.folder import make_folder, read_metrics
from ctkeras.runtime import files, locks, process, streams
from ctkeras.tracking import run
from ctkeras.training.stopping import Stop
from ctkeras.training.train import RunResult, train


class _Followed(run.Tracker):
    """A tracker that also reports the epochs that earlier processes trained."""

    def __init__(self, begun: run.Tracker, before: Callable[[Sequence[dict[str, Any]]], None]) -> None:
        super().__init__(begun.run)
        self.before = before

    def catch_up(self, history: Sequence[dict[str, Any]]) -> None:
        """Logs them too; an offline run is written again from its start, because wandb cannot append to an earlier file."""
        if self.run.offline:
            self.logged = 0
        super().catch_up(history)
        self.before(history)


LOG = "log.txt"  # in the run folder: all messages of the trial


class _Notes(io.TextIOBase):
    """Standard error of a worker: written to the run's log and sent to the supervisor, line by line."""

    encoding = "utf-8"

    def __init__(self, worker: "_Service") -> None:
        self.worker, self.rest = worker, ""

    def write(self, text: str) -> int:
        """Passes complete lines on; an incomplete one waits for its end."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.worker.note(line)
        return len(text)

    def fileno(self) -> int:
        """The descriptor that native code writes to."""
        return 2


class _Service:
    """The worker's side of the conversation."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "wb")  # what libraries print must not mix with the messages
        os.dup2(2, 1)
        self.lock = threading.Lock()
        self.answers: queue.Queue[bool] = queue.Queue()
        self.log: IO[str] | None = None
        self.stop: Any = None
        self.requests: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def say(self, **message: Any) -> None:
        """Sends a message to the supervisor; ends the process if the supervisor is gone."""
        with self.lock:
            try:
                self.out.write(json.dumps(message).encode() + b"\n")
                self.out.flush()
            except OSError:
                os._exit(1)

    def note(self, line: str) -> None:
        """Writes a line to the run's log and sends it to the supervisor."""
        line = streams.shown(line)
        if self.log is not None:
            self.log.write(line + "\n")
            self.log.flush()
        if line.strip():
            self.say(note=line)

    def listen(self) -> None:
        """Receives messages in a thread of its own, so that a request to stop arrives while a trial runs."""
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "trial" in message:
                self._begin(self._trial, message["trial"])
            elif "prepare" in message:
                self._begin(self._prepare, message["prepare"])
            elif "export" in message:
                self._begin(self._export, message["export"])
            elif "go_on" in message:
                self.answers.put(message["go_on"])
            elif "stop" in message and self.stop is not None:
                self.stop.ask(message["stop"])
                self.answers.put(True)
        os._exit(0)  # the supervisor has ended, or has closed the input

    def _begin(self, function: Any, argument: Any) -> None:
        from ctkeras.training.stopping import Stop

        self.stop, self.answers = Stop(), queue.Queue()
        self.requests.put((function, argument))

    def work(self) -> None:
        """Serves one request after another, in the main thread, whose memory is reused from step to step (cpu/memory.py)."""
        while True:
            function, argument = self.requests.get()
            function(argument)

    def _prepare(self, needs: dict[str, Any]) -> None:
        """Prepares what all trials share, the data and ImageNet weights, or says what is missing."""
        process.configure()
        from ctkeras.data import decoded, sources
        from ctkeras.data.crop import Preparation
        from ctkeras.models import weights
        from ctkeras.training import costs

        images: dict[str, int] = {}
        try:
            for name in needs["models"]:
                weights.find_weights(name, needs["weights_dir"])
            for slices in needs.get("slices", ["all"]) if needs["data"] and needs["forms"] else []:
                source = sources.open_source(needs["data"], slices=slices)
                images = {split: sources.count(source, split) for split in ("train", "valid")}
                for (size, *form), split in itertools.product(needs["forms"], ("train", "valid")):
                    decoded.load_split(source, split, size, Preparation(*form))
        except UserError as error:
            self.say(refused=str(error))
        else:
            self.say(ready=True, machine=dataclasses.asdict(costs.machine()), images=images)

    def _export(self, folder: str) -> None:
        """Exports the model of a trial from its trained weights, and says '' or why that failed."""
        process.configure()
        from ctkeras.training import kept

        try:
            with _alone(Path(folder)):
                kept.export(Path(folder))
        except Exception as error:  # a full disk or other weights: the trial itself has ended properly
            self.say(exported=f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        else:
            self.say(exported="")

    def _trial(self, request: dict[str, Any]) -> None:
        """Runs one trial and says how it ended."""
        process.configure()
        from ctkeras.training.train import TrainingFailed

        config = RunConfig.from_mapping(request["config"])
        folder = Path(config.output_dir) / request["run_id"]

        def follow(history: Sequence[dict[str, Any]]) -> None:
            if not history:
                return
            self.say(epochs=[_plain(row) for row in history])
            if history[-1]["epoch"] in request["asks"] and not self.stop.reason and not self.answers.get():
                self.stop.ask("hyperband")

        def leave() -> None:
            if self.stop.reason != "hyperband":  # that one is in no hurry, and the process is needed for the next trial
                self.say(done=read_metrics(folder))
                os._exit(0)

        try:
            with _alone(folder), open(folder / LOG, "a", encoding="utf-8") as self.log:
                result = run_local(
                    config,
                    run_id=request["run_id"],
                    group=request["group"],
                    job_type=request["job_type"],
                    stop=self.stop,
                    before=follow,
                    after_epoch=lambda row: follow([row]),
                    leave=leave,
                    export=request["export"],
                )
            self.log = None
            self.say(done=_plain(result.metrics), memory=resident_bytes())
        except CannotWrite as error:
            self.log = None
            self.say(halted=str(error))
        except (UserError, TrainingFailed) as error:
            self.log = None
            self.say(failed=str(error))
        except BaseException as error:  # whatever it is, it may have damaged this process: another replaces it
            import traceback

            self.log = None  # it is closed
            if (number := files.refusal(error, folder / LOG)) in files.FULL:
                self.say(halted=str(files.cannot_write(folder, number)), spoilt=True)
                return
            with contextlib.suppress(OSError), open(folder / LOG, "a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            self.say(failed=f"{type(error).__name__}: {error}", spoilt=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Reserves a run folder for one process: a worker whose supervisor has just been killed may still be running."""
    make_folder(folder)
    with locks.hold(folder / ".lock"):
        yield


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of plain Python values, for JSON."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}


def resident_bytes() -> int:
    """Memory that this process has in use now."""
    return psutil.Process().memory_info().rss


def _end_with_supervisor() -> None:
    """Asks the system to kill this process when its supervisor ends: one that hangs would not notice its input closing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> None:
    """The worker process."""
    _end_with_supervisor()
    # Ctrl-C, a closed terminal and a scheduler's SIGTERM reach the whole process group; the supervisor decides what happens.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if cores := [int(text) for text in sys.argv[1:]]:
        os.sched_setaffinity(0, cores)
    service = _Service()
    sys.stderr = _Notes(service)
    threading.Thread(target=service.listen, name="supervisor", daemon=True).start()
    service.work()


def run_local(
    config: RunConfig,
    *,
    run_id: str,
    group: str,
    job_type: str,
    stop: Stop,
    before: Callable[[Sequence[dict[str, Any]]], None],
    after_epoch: Callable[[dict[str, Any]], None],
    leave: Callable[[], None],
    export: bool,
) -> RunResult:
    """Trains one trial of the local engine, from the checkpoint if its folder has one.

    Args:
        config: the trial's hyperparameters.
        run_id: the name of its folder, and its id at W&B.
        group: the name of its study at W&B.
        job_type: the name of its phase at W&B.
        stop: a request to stop.
        before: called with the epochs of earlier processes, after the run was resumed and before its next epoch.
        after_epoch: see training.train.
        leave: see training.train.
        export: write the model even if it is not uploaded to W&B.

    Raises:
        UserError: a value is invalid, or the data cannot be used.
        TrainingFailed: the loss is no longer finite.
    """
    folder = Path(config.output_dir) / run_id
    _drop_offline(folder, run_id)
    resumed = load_checkpoint(folder) is not None
    begun = run.start_run(
        config.to_dict(), run_id=run_id, folder=folder, resume=resumed, group=group, job_type=job_type
    )
    tracker = _Followed(begun, before)
    export = export or (config.log_model and tracker.online)  # W&B keeps the model of each run
    return train(
        config,
        run_id=run_id,
        stop=stop,
        tracker=tracker,
        leave=leave,
        after_epoch=after_epoch,
        export=export,
        reuse=True,
    )


def _drop_offline(folder: Path, run_id: str) -> None:
    """Deletes what earlier processes wrote of an offline run, which is about to be written again from its start."""
    for place in {folder, Path(os.environ.get("WANDB_DIR") or folder)}:
        for part in (place / "wandb").glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    main()
