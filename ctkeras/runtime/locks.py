"""Locks between processes: flock where it holds, otherwise a lease; and what a process that waits for one says."""

import contextlib
import errno
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ctkeras.runtime import console, files, lease, mounts

WITHOUT_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # a file system's answers if it has no such locks
WAIT_SECONDS = 2.0  # for a lock, before a line says so
AGAIN_SECONDS = 60.0  # between two such lines


@contextlib.contextmanager
def hold(path: Path, *, waiting: str = "", patience: float = math.inf) -> Iterator[None]:
    """Holds a lock that excludes other processes, on all machines that share the folder; it ends with its process.

    On a file system that machines share, and wherever flock fails (error 38 on Lustre without its option flock), it is a
    lease: there, flock may hold on one machine only without saying so.

    Args:
        path: of the lock file.
        waiting: what to print, with the holder, if another process holds the lock.
        patience: seconds to wait for a living holder.

    Raises:
        CannotWrite: the lock file cannot be created.
        lease.Busy: it was held for longer than the patience.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        if (number := files.refusal(error, path)) is None:
            raise
        raise files.cannot_write(path, number) from error
    link = path.with_name(f"{path.stem}.lease.lock")
    with contextlib.ExitStack() as stack, _announced(waiting, lambda: _holder(path, link)) as acquired:
        if not mounts.shared(path.parent):
            file = stack.enter_context(open(path, "r+"))
            try:
                _flock(file, patience)
            except OSError as error:
                if error.errno not in WITHOUT_FLOCK:
                    raise
            else:
                with contextlib.suppress(OSError):  # a full disk
                    file.truncate()
                    file.write(f"{socket.gethostname()}|{os.getpid()}")
                    file.flush()
                acquired()
                yield
                return
        stack.enter_context(lease.hold(link, patience=patience))
        acquired()
        yield


def _flock(file: IO[str], patience: float) -> None:
    """Locks an open file; raises Busy if it was held for longer than the patience."""
    import fcntl

    if patience == math.inf:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    begun, pause = time.monotonic(), 0.001
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() - begun > patience:
                raise lease.Busy(f"{file.name} is held by another process") from None
        time.sleep(pause)
        pause = min(2 * pause, lease.LONGEST_PAUSE)


def _holder(path: Path, link: Path) -> str:
    """Which process holds a lock, in words; '' if that cannot be read."""
    machine, number = lease.owner(link)
    if not number:
        with contextlib.suppress(OSError):
            machine, _, number = path.read_text(encoding="utf-8").partition("|")
    return f" (process {number} on {machine})" if number else ""


@contextlib.contextmanager
def _announced(text: str, holder: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Says after WAIT_SECONDS what is waited for, then every AGAIN_SECONDS for how long, until `acquired` is called."""
    acquired, begun = threading.Event(), time.monotonic()

    def say() -> None:
        if acquired.wait(WAIT_SECONDS):
            return
        console.note(f"{text}{holder()} …")
        while not acquired.wait(AGAIN_SECONDS):
            console.note(f"{text}{holder()}, for {console.seconds_text(time.monotonic() - begun)} so far …")

    def stop() -> None:
        acquired.set()
        if text and (waited := time.monotonic() - begun) > WAIT_SECONDS:
            console.note(f"  waited {console.seconds_text(waited)}")

    if text:
        threading.Thread(target=say, name="waiting", daemon=True).start()
    try:
        yield stop
    finally:
        acquired.set()
