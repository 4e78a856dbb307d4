"""Reuses the memory of a training step in the next one, on Linux with glibc.

XLA allocates the memory of a step, some gigabytes, at its start and frees it at its end. glibc maps such large blocks from
the kernel and unmaps them when they are freed, so the kernel has to clear every page in every step: a tenth of the time of
a ResNet's step, a third of a MobileNet's. While a program runs, the memory therefore comes from the heap, which reuses it
(mallopt(3)).
"""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
# Bytes; the value that glibc's own threshold adapts to. Setting any threshold stops glibc from adapting it.
MMAP_THRESHOLD = 32 * 2**20
# Bytes of address space, not of memory. glibc picks the smallest gap that fits, so what is allocated between two steps goes
# here and not where the memory of the next step will be.
HOLE = 128 * 2**20
PIN = 2**16  # bytes
MAX_MAPPINGS = 65536  # glibc's default
# Bytes more than XLA needs. It asks for aligned memory, for which glibc takes some bytes more and gives them back: a gap of
# exactly the size would be too small for the next step.
SLACK = 2**16


@functools.cache
def _libc() -> Any:
    """glibc, configured not to shrink its heap; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return None
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.mallopt(M_TRIM_THRESHOLD, -1)  # never shrink the heap by itself
    library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    library.mallopt(M_MMAP_MAX, 0)
    hole = library.malloc(HOLE)
    while library.malloc(PIN) < hole:  # a pin behind the hole separates it from the rest of the heap
        pass
    library.free(hole)
    library.mallopt(M_MMAP_MAX, MAX_MAPPINGS)
    return library


_places: dict[int, int] = {}  # by size: the address at which the heap last had room


@contextlib.contextmanager
def kept(size: int) -> Iterator[None]:
    """Allocates large blocks from the heap inside the block; only in the main thread: no other heap can grow that much.

    Args:
        size: bytes that will be allocated at once. Small sizes come from the heap anyway.
    """
    library = _libc()
    if library is None or size < MMAP_THRESHOLD or threading.current_thread() is not threading.main_thread():
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    try:
        place = library.malloc(size + SLACK) or 0
        library.free(place)
        if abs(place - _places.get(size, -SLACK)) >= SLACK:
            # Another allocation occupies the old address; without a release the heap would hold both places.
            release()
            _places[size] = place
        yield
    finally:
        library.mallopt(M_MMAP_MAX, MAX_MAPPINGS)


def release() -> None:
    """Returns all unused memory of the heap to the system."""
    library = _libc()
    if library is not None:
        library.malloc_trim(0)
