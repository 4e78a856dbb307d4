"""Compiled programs in JAX's cache, with checksums: JAX itself would run a damaged program."""

import contextlib
import warnings
from typing import Any

from ctkeras.runtime import stored

PART = "jax"  # of the cache folder
SUFFIX = f"-f{stored.FORMAT}"  # of a key: entries without a checksum have other names


class Sealed:
    """JAX's cache of programs: a damaged entry moves to quarantine and is compiled again."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self._path = cache._path  # JAX shows it in messages

    def get(self, key: str) -> bytes | None:
        """Returns an entry; None if it is missing or damaged."""
        try:
            whole = self.cache.get(key + SUFFIX)
            return None if whole is None else stored.unsealed(whole)
        except OSError:  # another process holds JAX's lock for long, or the folder is readable only
            return None
        except ValueError as error:
            stored.quarantine(stored.Damaged(self.cache._path / f"{key}{SUFFIX}-cache", str(error)))
            return None

    def put(self, key: str, value: bytes) -> None:
        """Adds an entry; a program that cannot be stored is compiled again next time."""
        with contextlib.suppress(OSError):
            self.cache.put(key + SUFFIX, stored.sealed(value))


def seal() -> None:
    """Gives every entry of JAX's cache of programs a checksum, from before JAX opens the cache.

    It replaces an internal function of JAX. If a version of JAX has none of that name, programs are cached without checksums.
    """
    with warnings.catch_warnings(), contextlib.suppress(ImportError, AttributeError):
        from jax._src import compilation_cache

        open_cache = compilation_cache.get_file_cache
        if getattr(open_cache, "sealed", False):
            return

        def opened(path: str) -> Any:
            cache = open_cache(path)
            return cache and (Sealed(cache[0]), cache[1])

        opened.sealed = True  # type: ignore[attr-defined]
        compilation_cache.get_file_cache = opened
