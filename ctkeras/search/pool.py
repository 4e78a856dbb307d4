"""The pool of worker processes that trials run in: started, sent messages, watched and ended by their supervisor.

Written by hand because a worker may hang or be killed inside native code, which Python's process pools do not survive.
"""

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

from ctkeras.runtime import versions
from ctkeras.search.heartbeat import Awake

# A worker that computes may stay silent for this many times the patience: in its first epoch, which includes compiling, and
# later. A trial with slow epochs may take EPOCHS_LATE times its slowest one.
FIRST_EPOCH = 12
LATER_EPOCH = 6
EPOCHS_LATE = 10
IDLE_CPU_SECONDS = 1.0  # a silent worker that uses less CPU time than this does nothing


class Worker:
    """A worker process, as its supervisor sees it."""

    def __init__(self, env: Mapping[str, str], *, cores: Sequence[int], patience: float) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `end`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ctkeras.search.worker", *map(str, cores)],
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
        self.heard = self.moved = self.cpu = 0.0  # when it last sent, and last computed, something; its CPU time then

    def send(self, **message: Any) -> None:
        """Sends a message; does nothing if the worker has died."""
        if "trial" in message or "prepare" in message:
            self.slowest, self.heard = 0.0, self.clock()
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def messages(self) -> list[dict[str, Any]]:
        """The messages that it has sent since the last call."""
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.process.stdout.fileno(), 1 << 16):
                self.rest += part
        *lines, self.rest = self.rest.split(b"\n")
        if lines:
            self.heard = self.clock()
        messages = [json.loads(line) for line in lines]
        for message in messages:
            for row in message.get("epochs", []):
                self.slowest = max(self.slowest, row["epoch_seconds"])
        return messages

    def death(self) -> str:
        """How the process ended; '' while it is alive."""
        code = self.process.poll()
        if code is None:
            return ""
        name = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the worker {name}{self._last_words()}"

    def hang(self) -> str:
        """In what way the process hangs in a trial; '' while it makes progress."""
        now, cpu = self.clock(), cpu_seconds(self.process.pid)
        if cpu - self.cpu > IDLE_CPU_SECONDS:
            self.cpu, self.moved = cpu, now
        if now - max(self.heard, self.moved) > self.patience:
            return f"the worker hung: it sent and computed nothing for {self.patience:.0f} s"
        usual = max(LATER_EPOCH * self.patience, EPOCHS_LATE * self.slowest)
        longest = usual if self.slowest else FIRST_EPOCH * self.patience
        if now - self.heard > longest:
            return f"the worker hung: it computed for {longest:.0f} s without finishing an epoch"
        return ""

    def _last_words(self) -> str:
        """The last line that native code or Python wrote to standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 4000))
        lines = self.errors.read().decode(errors="replace").split("\n")
        written = [line.strip() for line in lines if line.strip()]
        return f": {written[-1][:200]}" if written else ""

    def end(self, *, kill: bool = False) -> None:
        """Ends the process: by closing its input, or by killing it."""
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
    """A fixed number of places for workers; each is started when it is first needed, and reused by later trials."""

    def __init__(self, count: int, *, patience: float, export_all: bool = False) -> None:
        self.export_all = export_all  # every trial writes its model; otherwise only the best one of a search
        self.environments, self.patience = environments(count), patience
        self.workers: list[Worker | None] = [None] * count

    def get(self, place: int) -> Worker:
        """The worker in a place, started if there is none."""
        worker = self.workers[place]
        if worker is None:
            env, cores = self.environments[place]
            worker = self.workers[place] = Worker(env, cores=cores, patience=self.patience)
        return worker

    def wait(self, seconds: float) -> None:
        """Waits until a worker sends something or ends."""
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                if worker is not None and worker.process.stdout is not None:
                    selector.register(worker.process.stdout, selectors.EVENT_READ)
            selector.select(seconds)

    def drop(self, place: int) -> None:
        """Kills the worker in a place; another is started when it is needed."""
        worker, self.workers[place] = self.workers[place], None
        if worker is not None:
            worker.end(kill=True)

    def end(self) -> None:
        """Ends all workers."""
        for place in range(len(self.workers)):
            self.drop(place)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far; if that cannot be read, the time itself, so that the process never seems to hang."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return time.monotonic()
    return used.user + used.system


def environments(workers: int) -> list[tuple[dict[str, str], Sequence[int]]]:
    """The environment and the CPU cores of each worker; an empty list of cores leaves the choice to the system.

    With several GPUs each worker has its part of them, and trains a trial on all of its own. With no GPU each has a share of
    the cores, because JAX would otherwise start as many threads as there are cores in every worker. Runs are recorded offline
    unless W&B's settings say otherwise.
    """
    base = dict(os.environ)
    base.pop("CTKERAS_STORAGE", None)
    if not base.get("WANDB_MODE") and not base.get("WANDB_DISABLED"):
        base["WANDB_MODE"] = "offline"
    gpus = _gpus()
    if workers > 1 and gpus:
        each = max(1, len(gpus) // workers)
        shared = {} if workers <= len(gpus) else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        own = [",".join(gpus[n * each % len(gpus) :][:each]) for n in range(workers)]
        return [({**base, "CUDA_VISIBLE_DEVICES": names, **shared}, ()) for names in own]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    share = len(cores) // workers
    if workers == 1 or not share:
        return [(base, ())] * workers
    return [(base, cores[n * share : (n + 1) * share]) for n in range(workers)]


def _gpus() -> list[str]:
    """The NVIDIA GPUs that JAX may use on this machine, as CUDA names them; empty without JAX's plugin for them."""
    if not any(versions.version(f"jax-cuda{n}-plugin") for n in (12, 13)) or os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if not (tool := shutil.which("nvidia-smi")):
        return []
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]
