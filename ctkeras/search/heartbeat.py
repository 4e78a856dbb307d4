"""Heartbeats: who holds a trial, and whether that process is still alive. A trial whose holder is gone goes to another process.

Written by hand because the holders share only a storage, perhaps from several machines whose clocks differ.
"""

import dataclasses
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import psutil

SILENT_SECONDS = 60.0  # without a new heartbeat, a holder on another machine is considered dead
LOOK_SECONDS = 10.0  # the most that a single look adds to the clock
BEAT_SECONDS = 10.0  # between two heartbeats; several may be late before SILENT_SECONDS are over


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process: `space` is the system that its `pid` belongs to, `start` distinguishes it from later ones with that pid."""

    host: str
    space: str
    pid: int
    start: str
    token: str

    @classmethod
    def me(cls) -> "Owner":
        """This process, with a new token."""
        return cls(socket.gethostname(), _space(), os.getpid(), _started(os.getpid()), secrets.token_hex(8))

    def to_dict(self) -> dict[str, Any]:
        """As stored with a trial."""
        return dataclasses.asdict(self)


class Awake:
    """A clock that counts only the time in which this process could look: not while it was stopped or waited for a database."""

    def __init__(self) -> None:
        self.last, self.seconds = time.monotonic(), 0.0

    def __call__(self) -> float:
        """Seconds so far, of which at most LOOK_SECONDS since the last call."""
        now = time.monotonic()
        self.seconds += min(now - self.last, LOOK_SECONDS)
        self.last = now
        return self.seconds


class Watch:
    """Decides which holders are gone, from the heartbeats that this process has seen; it uses only its own clock."""

    def __init__(self, me: Owner, *, silent_seconds: float | None = None) -> None:
        self.me, self.clock, self.silent_seconds = me, Awake(), silent_seconds or SILENT_SECONDS
        self.beats: dict[int, tuple[Any, float]] = {}  # per trial: the last heartbeat, and when it was first seen

    def gone(self, owner: dict[str, Any] | None, *, trial: int, beat: Any) -> bool:
        """Whether a trial's holder is gone.

        Args:
            owner: the holder as stored with the trial; None when it has given the trial back.
            trial: the trial's number.
            beat: the holder's last heartbeat.
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
        return now - since > self.silent_seconds


def _space() -> str:
    """Names the running system and its process table, which are new in each container and after each restart.

    Read by hand because psutil has neither the boot id nor the namespace, and its boot time shifts with the clock.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process was started, in clock ticks since the system's start; '' if it has ended or cannot be inspected.

    Both times are from the same clock, so setting that clock changes nothing.
    """
    try:
        boot = psutil.boot_time()  # before the process is opened: older versions of psutil take the time from here
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""  # a killed process stays in the table until its parent collects it
        return str(round((process.create_time() - boot) * os.sysconf("SC_CLK_TCK")))
    except psutil.Error:
        return ""


def _lives(pid: int, start: str) -> bool:
    """Whether a process of this system is alive and is the one meant."""
    return _started(pid) == start if start else psutil.pid_exists(pid)
