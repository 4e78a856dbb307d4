"""Compiled programs on disk, with checksums, compiled by one of the processes that need them at the same moment.

JAX's own cache would run a damaged program, has a lock that not every shared file system offers, and stores nothing more
after a process was killed between its two writes of an entry, until that entry is read again.
"""

import contextlib
import contextvars
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctkeras.runtime import files, locks, stored

PART = "jax"  # of the cache folder
SUFFIX = f"-f{stored.FORMAT}"  # of a key: entries without a checksum have other names
MAX_BYTES = 4 * 2**30  # of the folder; a train step takes 1 to 40 MB
CHECK_BYTES = 2**27  # after so many new bytes, and at its first entry, a process checks the folder's size
# Longer than a step compiles on slow cores. A process that is stopped, not killed, holds its lock, and must not hold up all.
PATIENCE = 600.0  # seconds

# What this process compiles, and its locks until that is done.
_turn: contextvars.ContextVar[tuple[str, contextlib.ExitStack] | None] = contextvars.ContextVar("turn", default=None)


@contextlib.contextmanager
def built_once(name: str) -> Iterator[None]:
    """Within the block, a program missing from the cache is compiled by one process; others wait for it and load it.

    On one machine, compiling at once would divide the cores, so all would be ready later than the one; between machines,
    waiting costs the time that compiling would. A builder that dies frees its lock, and one of those that wait compiles.
    After PATIENCE, a process compiles by itself.

    Args:
        name: what is compiled, for the line that a waiting process prints.
    """
    with contextlib.ExitStack() as held:
        token = _turn.set((name, held))
        try:
            yield
        finally:
            _turn.reset(token)


class Cache:
    """JAX's cache of programs: entries appear whole, and a damaged one moves to quarantine and is compiled again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder  # JAX shows it in messages
        self.added: int | None = None  # bytes since the folder's size was checked

    def get(self, key: str) -> bytes | None:
        """Returns an entry; None if it is missing or damaged, and this process is to compile it."""
        content, turn = self._read(key), _turn.get()
        if content is not None or turn is None:
            return content
        name, held = turn
        waiting = f"Waiting for another process that compiles {name}"
        with contextlib.suppress(
            OSError
        ):  # busy for long, or a folder that is readable only: it compiles without a lock
            held.enter_context(locks.hold(self._path / f"{key}.lock", waiting=waiting, patience=PATIENCE))
        content = self._read(key)
        if content is not None:
            held.close()  # sooner than at the block's end, so that all load at once
        return content

    def put(self, key: str, value: bytes) -> None:
        """Adds an entry; a program that cannot be stored is compiled again next time."""
        path = self._file(key)
        with contextlib.suppress(OSError):
            stored.write_bytes(path, value, durable=False)
            self._bound(path, len(value))

    def _file(self, key: str) -> Path:
        return self._path / f"{key}{SUFFIX}-cache"

    def _read(self, key: str) -> bytes | None:
        path = self._file(key)
        try:
            content = stored.read_bytes(path)
        except FileNotFoundError:
            return None
        except stored.Damaged as damaged:
            with contextlib.suppress(OSError):  # the folder is readable only
                stored.quarantine(damaged)
            return None
        files.touch(path)
        return content

    def _bound(self, path: Path, size: int) -> None:
        """Keeps the folder small. Its size is not checked at each entry: a start-up compiles many small programs."""
        if self.added is None or self.added > CHECK_BYTES:
            files.bound(self._path, MAX_BYTES, keep=path)
            self.added = 0
        self.added += size


def install() -> None:
    """Makes JAX use this cache in place of its own, from before JAX opens it.

    It replaces an internal function of JAX. If a version of JAX has none of that name, JAX's own cache is used.
    """
    with warnings.catch_warnings(), contextlib.suppress(ImportError, AttributeError):
        from jax._src import compilation_cache

        if not hasattr(compilation_cache, "get_file_cache"):
            return

        def opened(path: str) -> tuple[Any, str]:
            return Cache(Path(path)), path

        compilation_cache.get_file_cache = opened
