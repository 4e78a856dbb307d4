"""The processes that trials run in, as their supervisor has them: started, spoken to, watched, ended."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

import psutil

from ctkeras import runtime
from ctkeras.owner import Awake

FIRST_EPOCH = (
    12  # a worker that computes may say nothing for this many times the patience: a first compile, a slow epoch
)
LATER_EPOCH = 6  # and later for this many times, or for EPOCHS_LATE of the trial's slowest epoch so far
EPOCHS_LATE = 10
IDLE_CPU_SECONDS = 1.0  # less CPU time than this while nothing is said is standing still


class Worker:
    """A worker process as its supervisor has it."""

    def __init__(self, env: Mapping[str, str], *, cores: Sequence[int], patience: float) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `end`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ctkeras.warm", *map(str, cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=dict(env),
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.patience, self.rest = patience, b""
        self.slowest = 0.0  # seconds of the trial's slowest epoch
        self.clock = Awake()
        self.heard = self.moved = self.cpu = 0.0  # when it last said, when it last computed something; CPU time then

    def send(self, **message: Any) -> None:
        """Sends a message; a worker that has died gets none."""
        if "trial" in message:
            self.slowest, self.heard = 0.0, self.clock()
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def messages(self) -> list[dict[str, Any]]:
        """What it has said since the last call."""
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.process.stdout.fileno(), 1 << 16):
                self.rest += part
        *lines, self.rest = self.rest.split(b"\n")
        if lines:
            self.heard = self.clock()
        found = [json.loads(line) for line in lines]
        for message in found:
            for row in message.get("epochs", []):
                self.slowest = max(self.slowest, row["epoch_seconds"])
        return found

    def death(self) -> str:
        """How the process ended, '' while it lives."""
        code = self.process.poll()
        if code is None:
            return ""
        name = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the worker {name}{self._last_words()}"

    def hang(self) -> str:
        """In what way the process hangs over a trial, '' while it goes on."""
        now, cpu = self.clock(), cpu_seconds(self.process.pid)
        if cpu - self.cpu > IDLE_CPU_SECONDS:
            self.cpu, self.moved = cpu, now
        if now - max(self.heard, self.moved) > self.patience:
            return f"the worker hung: it said and computed nothing for {self.patience:.0f} s"
        usual = max(LATER_EPOCH * self.patience, EPOCHS_LATE * self.slowest)
        longest = usual if self.slowest else FIRST_EPOCH * self.patience
        if now - self.heard > longest:
            return f"the worker hung: it computed for {longest:.0f} s without ending an epoch"
        return ""

    def _last_words(self) -> str:
        """The last line that native code or Python wrote to standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 4000))
        lines = self.errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""

    def end(self, *, kill: bool = False) -> None:
        """Ends the process: by closing its input, or at once."""
        if kill:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


class Pool:
    """A fixed number of places for workers, each started when it is first needed and kept for all that follows."""

    def __init__(self, count: int, *, patience: float) -> None:
        self.environments, self.patience = environments(count), patience
        self.workers: list[Worker | None] = [None] * count

    def get(self, place: int) -> Worker:
        """The worker of a place, started when there is none."""
        worker = self.workers[place]
        if worker is None:
            env, cores = self.environments[place]
            worker = self.workers[place] = Worker(env, cores=cores, patience=self.patience)
        return worker

    def wait(self, seconds: float) -> None:
        """Waits until a worker says something or ends."""
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                if worker is not None and worker.process.stdout is not None:
                    selector.register(worker.process.stdout, selectors.EVENT_READ)
            selector.select(seconds)

    def drop(self, place: int) -> None:
        """Ends a place's worker at once; another is started when it is needed."""
        worker, self.workers[place] = self.workers[place], None
        if worker is not None:
            worker.end(kill=True)

    def end(self) -> None:
        """Ends all workers."""
        for place in range(len(self.workers)):
            self.drop(place)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far; where that cannot be known, time itself, so that it never seems to stand still."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return time.monotonic()
    return used.user + used.system


def environments(workers: int) -> list[tuple[dict[str, str], Sequence[int]]]:
    """The environment and the CPU cores of each worker; no cores leave the choice to the system.

    Each has a GPU of its own where there are several, and a share of the cores where there is none, as JAX would otherwise
    start as many threads as there are cores in every one of them. Runs are kept offline unless W&B's settings say otherwise.
    """
    base = dict(os.environ)
    base.pop("CTKERAS_STORAGE", None)
    if not base.get("WANDB_MODE") and not base.get("WANDB_DISABLED"):
        base["WANDB_MODE"] = "offline"
    gpus = _gpus()
    if workers > 1 and gpus:
        shared = {} if workers <= len(gpus) else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return [({**base, "CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)], **shared}, ()) for n in range(workers)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    share = len(cores) // workers
    if workers == 1 or not share:
        return [(base, ())] * workers
    return [(base, cores[n * share : (n + 1) * share]) for n in range(workers)]


def _gpus() -> list[str]:
    """The NVIDIA GPUs that JAX may use here, as CUDA names them; none without JAX's plugin for them."""
    if not any(runtime.version(f"jax-cuda{n}-plugin") for n in (12, 13)) or os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if not (tool := shutil.which("nvidia-smi")):
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]
