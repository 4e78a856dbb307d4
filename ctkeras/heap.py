"""Keeps the memory of a training step with the process, on Linux with glibc.

XLA asks for a step's memory, some gigabytes, at its start and frees it at its end. glibc takes such sizes from the kernel
and gives them back at once, so that the kernel clears every page anew in every step: a tenth of a ResNet's step, a third of
a MobileNet's. While a program runs, the memory comes from the heap instead, which keeps it (mallopt(3)).
"""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
MMAP_THRESHOLD = (
    32 * 2**20
)  # bytes; where glibc's own threshold ends up when it adapts, which any setting keeps it from
MAPPED_AT_MOST = 65536  # glibc's default


@functools.cache
def _libc() -> Any:
    """glibc, set to keep its heap; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return None
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.mallopt(M_TRIM_THRESHOLD, -1)  # never give back by itself
    library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    return library


_places: dict[int, int] = {}  # where the heap last had room for a size


@contextlib.contextmanager
def kept(size: int) -> Iterator[None]:
    """Takes what this thread allocates meanwhile from the heap.

    Args:
        size: bytes that will be asked for at once. Small ones stay there anyway.
    """
    library = _libc()
    if library is None or size < MMAP_THRESHOLD:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    try:
        place = library.malloc(size)
        library.free(place)
        if place != _places.get(
            size
        ):  # something small lies in the old place now, which would be kept beside the new one
            release()
            _places[size] = place
        yield
    finally:
        library.mallopt(M_MMAP_MAX, MAPPED_AT_MOST)


def release() -> None:
    """Gives all kept memory that isn't in use back to the system."""
    library = _libc()
    if library is not None:
        library.malloc_trim(0)
