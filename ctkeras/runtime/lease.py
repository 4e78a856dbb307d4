"""A lock for folders shared between machines, where the system's own locks are missing or hold on one machine only.

Written by hand because the libraries' lock files either stay after a crash or are broken by two waiters at once.
"""

import contextlib
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

BEAT_SECONDS = 5.0  # between two signs of life of a holder
SILENT_SECONDS = 30.0  # without one, a holder on another machine is considered dead; above NFS's attribute cache of 3 s
LONGEST_PAUSE = 0.5  # seconds between two attempts


class Busy(TimeoutError):
    """Another process held a lock for longer than one was willing to wait."""


@contextlib.contextmanager
def hold(path: Path, *, patience: float = math.inf) -> Iterator[None]:
    """Holds a lock that excludes every process on every machine that sees the folder.

    The lock is a symbolic link whose target names its holder. Creating one is a single operation on the server with every
    version of NFS, and it writes the holder's name in the same operation, so no waiter ever sees a lock without an owner;
    creating a file exclusively needs NFS 3 and a second operation to write the name. A holder that died on this machine is
    noticed at once, one on another machine after SILENT_SECONDS.

    Args:
        path: of the link.
        patience: seconds to wait for a living holder.

    Raises:
        Busy: it was held for longer.
    """
    mine = f"{_space()}|{os.getpid()}|{secrets.token_hex(8)}"
    _acquire(path, mine, patience)
    released = threading.Event()
    threading.Thread(target=_beat, args=(path, released), name="lease", daemon=True).start()
    try:
        yield
    finally:
        released.set()
        if _holder(path) == mine:  # others take a lock whose holder was stopped for long
            path.unlink(missing_ok=True)


def _acquire(path: Path, mine: str, patience: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pause, seen = 0.001, ""
    begun = since = time.monotonic()
    while True:
        try:
            path.symlink_to(mine)
            return
        except FileExistsError:
            holder = _holder(path)
        if holder == mine:  # it was created, and the server's answer was lost
            return
        sign = f"{holder} {_touched(path)}"
        if sign != seen:
            seen, since = sign, time.monotonic()
        if holder and (_died_here(holder) or time.monotonic() - since > SILENT_SECONDS):
            _break(path, holder)
            continue
        if time.monotonic() - begun > patience:
            raise Busy(f"{path} is held by another process")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _break(path: Path, holder: str) -> None:
    """Removes a dead holder's lock; under a lock of its own, so that no second waiter removes the next holder's."""
    with hold(path.with_name(f"{path.name}.break")):
        if _holder(path) == holder:
            path.unlink(missing_ok=True)


def _beat(path: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)


def owner(path: Path) -> tuple[str, str]:
    """The machine and the process number of a lock's holder; empty if nobody holds it."""
    space, _, rest = _holder(path).partition("|")
    return space.partition(" ")[0], rest.partition("|")[0]


def _holder(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _touched(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _space() -> str:
    """Names this machine's process table, which is another one after a restart and in each container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _died_here(holder: str) -> bool:
    """Whether a holder was a process of this machine and has ended."""
    import psutil

    space, pid, _ = holder.rsplit("|", 2)
    if space != _space():
        return False
    try:
        return psutil.Process(int(pid)).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
