"""Files shared between processes: the cache folder, atomic writes, locks, a size limit."""

import contextlib
import errno
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ctkeras.runtime import home

WITHOUT_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # a file system's answers if it has no such locks
WAIT_SECONDS = 2.0  # for a lock, before a line says so


def cache_dir(part: str = "") -> Path:
    """The folder of a cache shared by all runs: in $CTKERAS_CACHE_DIR, or else in ctkeras in the user's cache folder.

    Args:
        part: name of the cache; '' for the folder that holds them all.
    """
    if root := os.environ.get("CTKERAS_CACHE_DIR"):
        return Path(root).expanduser().absolute() / part
    usual = os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or usual) / "ctkeras"
    return (folder if writable(folder) else home.instead_of(folder)) / part


def writable(folder: Path) -> bool:
    """Whether files can be written into a folder that exists, or that can be created."""
    place = Path(os.path.abspath(folder))
    existing = next(path for path in (place, *place.parents) if os.path.lexists(path) or path == path.parent)
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames it to `path` on success; on failure `path` is unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The machine is part of the name because processes on two machines may have the same number.
    unique = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{path.stem}.{unique}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path, *, waiting: str = "") -> Iterator[None]:
    """Holds a lock that excludes other processes, on all machines that share the folder; it ends with its process.

    On a file system that machines share, and wherever flock fails (error 38 on Lustre without its option flock), it is a
    lease: there, flock may hold on one machine only without saying so.

    Args:
        path: of the lock file.
        waiting: a line to print if another process holds the lock.
    """
    import fcntl

    from ctkeras.runtime import lease, mounts

    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack, _announced(waiting) as acquired:
        if not mounts.shared(path.parent):
            file = stack.enter_context(open(path, "w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in WITHOUT_FLOCK:
                    raise
            else:
                acquired()
                yield
                return
        stack.enter_context(lease.hold(path.with_name(f"{path.stem}.lease.lock")))
        acquired()
        yield


@contextlib.contextmanager
def _announced(text: str) -> Iterator[Callable[[], None]]:
    """Prints a line if `acquired`, which this yields, is not called within WAIT_SECONDS."""
    from ctkeras.runtime import console

    timer = threading.Timer(WAIT_SECONDS, console.note, [f"{text} …"])
    timer.daemon = True
    if text:
        timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def bound(folder: Path, max_bytes: int, *, keep: Path) -> None:
    """Deletes the least recently used entries of a cache folder until it holds at most `max_bytes`; never `keep`."""
    entries = []
    for entry in folder.iterdir():
        if entry.suffix == ".lock":  # deleting a held lock would let others in
            continue
        with contextlib.suppress(OSError):  # another process may be deleting at the same time
            entries.append((entry.stat().st_mtime, entry, folder_bytes(entry)))
    total = sum(size for _, _, size in entries)
    for _, entry, size in sorted(entries, key=lambda item: item[0]):
        if total <= max_bytes:
            return
        if entry != keep:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
            total -= size


def folder_bytes(path: Path) -> int:
    """Size in bytes of a file, or of all files under a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
