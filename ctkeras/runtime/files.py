"""Files shared between processes: the cache folder, atomic writes, a size limit."""

import contextlib
import errno
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ctkeras.errors import CannotWrite, UserError
from ctkeras.runtime import home

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the quota, or the limit of file sizes
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
LEAST_FREE = 2**20  # bytes; with less, an error without a reason is that of a full disk


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
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames it to `path` on success; on failure `path` is unchanged.

    Args:
        path: of the file.
        durable: wait until the file and the folder's entry are on the disk, so that a power cut leaves the old file or the
            new one. It takes 10 ms, too long for what is written several times per second.

    Raises:
        CannotWrite: the disk is full, or the folder cannot be written to.
    """
    # The machine is part of the name because processes on two machines may have the same number.
    unique = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{path.stem}.{unique}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if durable:
            flush(partial)
        os.replace(partial, path)
        if durable:
            with contextlib.suppress(OSError):  # some network file systems cannot flush a folder
                flush(path.parent)
    except UserError:
        raise
    except Exception as error:
        if (number := refusal(error, path)) is not None:
            raise cannot_write(path, number) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refusal(error: BaseException, path: Path) -> int | None:
    """Why the system refuses to write, as in errno; None if an error is of another kind.

    Args:
        error: what was raised; libraries raise errors of their own when a disk is full.
        path: the file to be written.
    """
    number = getattr(error, "errno", None)
    if number in FULL or number in REFUSED:
        return number
    return errno.ENOSPC if full_disk(path.parent) else None


def full_disk(*folders: Path) -> Path | None:
    """The first of some folders, which need not exist, whose disk has no space left; None if all have."""
    for folder in folders:
        existing = next((place for place in (folder, *folder.parents) if place.is_dir()), folder)
        with contextlib.suppress(OSError):
            if shutil.disk_usage(existing).free < LEAST_FREE:
                return folder
    return None


def cannot_write(path: Path, number: int) -> CannotWrite:
    """The error that names a file, why it cannot be written, and what to change.

    Args:
        path: the file.
        number: the reason, as in errno.
    """
    inside = path.is_relative_to(cache_dir())
    option = "set CTKERAS_CACHE_DIR to another folder" if inside else "name another folder with --output_dir"
    advice = f"free some space there, or {option}" if number in FULL else option
    reason = os.strerror(number)
    error = CannotWrite(f"cannot write {path}: {reason}; {advice}")
    error.errno, error.strerror, error.filename = number, reason, str(path)
    return error


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


def touch(path: Path) -> None:
    """Marks an entry of the cache as used now, because `bound` deletes first what was used longest ago."""
    with contextlib.suppress(OSError):  # a cache that others prepared may be readable only
        os.utime(path)


def folder_bytes(path: Path) -> int:
    """Size in bytes of a file, or of all files under a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
