"""A warm process that runs one trial after the other: `python -m ctkeras.warm`, started by `workers`.

It talks with its supervisor in JSON, an object a line. The supervisor sends `prepare`, `trial`, `go_on` and `stop`; the process
answers with `ready`, `refused`, `note`, `epochs`, `done` and `failed`. It ends when its supervisor does, however that ends.
"""

import contextlib
import ctypes
import io
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from ctkeras import runfolder, runtime
from ctkeras.config import RunConfig, UserError

LOG = "log.txt"  # in the run folder: what was said while the trial ran


class _Notes(io.TextIOBase):
    """Standard error of a worker: into the run's log, and to the supervisor, line by line."""

    encoding = "utf-8"

    def __init__(self, worker: "_Service") -> None:
        self.worker, self.rest = worker, ""

    def write(self, text: str) -> int:
        """Passes whole lines on; the rest waits for its end."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.worker.note(line)
        return len(text)

    def fileno(self) -> int:
        """Where native code writes to."""
        return 2


class _Service:
    """The worker's own side."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "wb")  # what libraries print must not come between the messages
        os.dup2(2, 1)
        self.lock = threading.Lock()
        self.answers: queue.Queue[bool] = queue.Queue()
        self.log: IO[str] | None = None
        self.stop: Any = None
        self.wanted: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def say(self, **message: Any) -> None:
        """Sends a message to the supervisor; without one there is nothing left to do."""
        with self.lock:
            try:
                self.out.write(json.dumps(message).encode() + b"\n")
                self.out.flush()
            except OSError:
                os._exit(1)

    def note(self, line: str) -> None:
        """Keeps a line in the run's log and passes it on."""
        if self.log is not None:
            self.log.write(line + "\n")
            self.log.flush()
        if line.strip():
            self.say(note=line)

    def listen(self) -> None:
        """Hears what the supervisor says, in a thread of its own, so that a wish to stop is heard while a trial runs."""
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "trial" in message:
                self._begin(self._trial, message["trial"])
            elif "prepare" in message:
                self._begin(self._prepare, message["prepare"])
            elif "go_on" in message:
                self.answers.put(message["go_on"])
            elif "stop" in message and self.stop is not None:
                self.stop.ask(message["stop"])
                self.answers.put(True)
        os._exit(0)  # the supervisor has ended, or wants no more

    def _begin(self, function: Any, argument: Any) -> None:
        from ctkeras.stopping import Stop

        self.stop, self.answers = Stop(), queue.Queue()
        self.wanted.put((function, argument))

    def work(self) -> None:
        """Does one thing after the other, in the main thread, whose memory is kept from step to step (heap.py)."""
        while True:
            function, argument = self.wanted.get()
            function(argument)

    def _prepare(self, wanted: dict[str, Any]) -> None:
        """Readies what all trials share, the data and ImageNet weights, or says what can't be had."""
        runtime.configure()
        from ctkeras import backbones, decoded, sources

        try:
            for name in wanted["models"]:
                backbones.find_weights(name, wanted["weights_dir"])
            if wanted["data"] and wanted["image_size"]:
                source = sources.open_source(wanted["data"])
                for split in ("train", "valid"):
                    decoded.load_split(source, split, wanted["image_size"])
        except UserError as error:
            self.say(refused=str(error))
        else:
            self.say(ready=True)

    def _trial(self, told: dict[str, Any]) -> None:
        """Runs one trial and says how it ended."""
        runtime.configure()
        from ctkeras import training, trial

        config = RunConfig.from_mapping(told["config"])
        folder = Path(config.output_dir) / told["run_id"]

        def follow(history: Sequence[dict[str, Any]]) -> None:
            if not history:
                return
            self.say(epochs=[_plain(row) for row in history])
            if history[-1]["epoch"] in told["asks"] and not self.stop.reason and not self.answers.get():
                self.stop.ask("hyperband")

        def leave() -> None:
            if self.stop.reason != "hyperband":  # that one is in no hurry, and the process is wanted again
                self.say(done=runfolder.read_json(folder / "metrics.json"))
                os._exit(0)

        try:
            with _alone(folder), open(folder / LOG, "a", encoding="utf-8") as self.log:
                result = trial.run_local(
                    config,
                    run_id=told["run_id"],
                    group=told["group"],
                    job_type=told["job_type"],
                    stop=self.stop,
                    before=follow,
                    after_epoch=lambda row: follow([row]),
                    leave=leave,
                )
            self.log = None
            self.say(done=_plain(result.metrics), memory=resident_bytes())
        except (UserError, training.TrainingFailed) as error:
            self.log = None
            self.say(failed=str(error))
        except BaseException as error:  # whatever it is, this process may be spoilt by it: another takes its place
            import traceback

            traceback.print_exc(file=self.log or sys.__stderr__)
            self.log = None
            self.say(failed=f"{type(error).__name__}: {error}", spoilt=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a run folder to one process: a worker whose supervisor has just been killed may not be gone yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the run folder {folder} can't be made ({error.strerror}); pass another --output_dir"
        ) from None
    with runtime.lock(folder / ".lock"):
        yield


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}


def resident_bytes() -> int:
    """Memory that this process has in use now."""
    return psutil.Process().memory_info().rss


def _end_with_supervisor() -> None:
    """Has the system kill this process when its supervisor ends: one that hangs wouldn't notice its input closing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> None:
    """The worker process."""
    _end_with_supervisor()
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the supervisor is the one to say what follows.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if cores := [int(text) for text in sys.argv[1:]]:
        os.sched_setaffinity(0, cores)
    service = _Service()
    sys.stderr = _Notes(service)
    threading.Thread(target=service.listen, name="supervisor", daemon=True).start()
    service.work()


if __name__ == "__main__":
    main()
