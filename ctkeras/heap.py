"""Keeps the memory of a training step with the process, on Linux with glibc.

XLA asks for a step's memory, some gigabytes, at its start and frees it at its end. glibc takes such sizes from the kernel
and gives them back at once, so that the kernel clears every page anew in every step: a tenth of a ResNet's step, a third of
a MobileNet's. While a program runs, the memory comes from the heap instead, which keeps it (mallopt(3)).
"""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
# Bytes; where glibc's own threshold ends up when it adapts, which any setting keeps it from.
MMAP_THRESHOLD = 32 * 2**20
# Bytes of addresses, not of memory: glibc takes the smallest room that fits, so what is allocated between two steps comes to
# lie here rather than where the next step's memory was.
HOLE = 128 * 2**20
PIN = 2**16  # bytes
MAPPED_AT_MOST = 65536  # glibc's default
ALIGNMENT = 64  # bytes; XLA's on CPU


@functools.cache
def _libc() -> Any:
    """glibc, set to keep its heap; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return None
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.aligned_alloc.restype, library.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.mallopt(M_TRIM_THRESHOLD, -1)  # never give back by itself
    library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    library.mallopt(M_MMAP_MAX, 0)
    hole = library.malloc(HOLE)
    while library.malloc(PIN) < hole:  # one that lies behind the hole keeps it apart from the rest of the heap
        pass
    library.free(hole)
    library.mallopt(M_MMAP_MAX, MAPPED_AT_MOST)
    return library


_places: dict[int, int] = {}  # where the heap last had room for a size


@contextlib.contextmanager
def kept(size: int) -> Iterator[None]:
    """Takes what is allocated meanwhile from the heap; in the main thread alone, as no other's heap holds such sizes.

    Args:
        size: bytes that will be asked for at once. Small ones stay there anyway.
    """
    library = _libc()
    if library is None or size < MMAP_THRESHOLD or threading.current_thread() is not threading.main_thread():
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    try:
        place = library.aligned_alloc(ALIGNMENT, size)  # as XLA will
        library.free(place)
        if place != _places.get(size):
            # Something else lies in the old place now, which would be kept beside the new one.
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
