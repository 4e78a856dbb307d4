"""Files shared between processes: the cache folder, atomic writes, locks, a size limit."""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


def cache_dir(part: str = "") -> Path:
    """The folder of a cache shared by all runs: in $CTKERAS_CACHE_DIR, or else in ctkeras in the user's cache folder.

    Args:
        part: name of the cache; '' for the folder that holds them all.
    """
    if root := os.environ.get("CTKERAS_CACHE_DIR"):
        return Path(root).expanduser().absolute() / part
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "ctkeras" / part


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames it to `path` on success; on failure `path` is unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock that excludes other processes; the system releases it when the process dies."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
