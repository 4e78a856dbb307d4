"""Work on images in threads, in order."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_AHEAD = 4  # images per thread that may be decoded ahead: at most 100 MB of slices of the usual size


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields a function's results in the order of the items, computed in threads: Pillow and numpy release Python's lock.

    Args:
        function: takes an item.
        items: read only a few ahead of the results.
    """
    threads = cores() + 1  # one more, because threads wait for that lock at times
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > _AHEAD * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
