"""Who holds a trial, and whether that process still lives; a trial whose holder is gone may be taken up by another."""

import dataclasses
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import psutil

SILENT_SECONDS = 60.0  # without a new beat, a holder that can't be looked up, as on another machine, is taken for dead
LOOK_SECONDS = 10.0  # at most this long can a single look vouch for
BEAT_SECONDS = 10.0  # between two beats; several may be late before SILENT_SECONDS are over


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process: `space` is where its number means something, `start` tells it from a later one of the same number."""

    host: str
    space: str
    pid: int
    start: str
    token: str

    @classmethod
    def me(cls) -> "Owner":
        """This process, under a token of its own."""
        return cls(socket.gethostname(), _space(), os.getpid(), _started(os.getpid()), secrets.token_hex(8))

    def to_dict(self) -> dict[str, Any]:
        """As it is kept with a trial."""
        return dataclasses.asdict(self)


class Awake:
    """A clock of the time in which this process could look: being stopped, or waiting for a database, doesn't count."""

    def __init__(self) -> None:
        self.last, self.seconds = time.monotonic(), 0.0

    def __call__(self) -> float:
        """Seconds so far, of which at most LOOK_SECONDS since the last call."""
        now = time.monotonic()
        self.seconds += min(now - self.last, LOOK_SECONDS)
        self.last = now
        return self.seconds


class Watch:
    """Tells which holders are gone, from what this process has seen of them so far; no clock but its own is used."""

    def __init__(self, me: Owner) -> None:
        self.me, self.clock = me, Awake()
        self.beats: dict[int, tuple[Any, float]] = {}  # by trial: the last beat, and when it was first seen

    def gone(self, owner: dict[str, Any] | None, *, trial: int, beat: Any) -> bool:
        """Whether a trial's holder is gone.

        Args:
            owner: the holder as kept with the trial; None when it has given the trial back.
            trial: its number.
            beat: its last beat.
        """
        if owner is None:
            return True
        if owner.get("space") == self.me.space:
            return not _lives(int(owner.get("pid", 0)), str(owner.get("start", "")))
        now, signs = self.clock(), (owner.get("token"), beat)
        seen, since = self.beats.setdefault(trial, (signs, now))
        if seen != signs:
            self.beats[trial] = (signs, now)
            return False
        return now - since > SILENT_SECONDS


def _space() -> str:
    """Names the running system and its process table: a container has its own, and so has a machine after a restart.

    psutil has neither the boot's id nor the namespace, and its boot time shifts with the clock.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process was started, in clock ticks since the system's start; '' if it has ended or that cannot be known.

    It is the difference of two times of one clock, so a clock that is set meanwhile changes nothing.
    """
    try:
        boot = psutil.boot_time()  # before the process is opened: older versions of psutil take the time from here
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""  # a killed process stays in the table until its parent looks
        return str(round((process.create_time() - boot) * os.sysconf("SC_CLK_TCK")))
    except psutil.Error:
        return ""


def _lives(pid: int, start: str) -> bool:
    """Whether a process of this system lives and is the one meant."""
    return _started(pid) == start if start else psutil.pid_exists(pid)
