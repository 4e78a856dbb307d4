"""How many threads NumPy's matrix products use."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

SMALL = 4_000_000  # numbers in a matrix; a product with more takes long enough to be worth a second thread


@contextlib.contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Computes on one thread inside the block where matrices are small, in the whole process.

    OpenBLAS' threads wait for each other actively. On a busy machine the one that is waited for does not run, so thousands
    of small products took 4 to 7 times as long, and 3 times the CPU time, as on one thread (benchmarks/RESULTS.md).

    Args:
        size: numbers in the largest matrix.
    """
    if size > SMALL:
        yield
        return
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@functools.cache  # finding them reads the process's whole list of mapped files
def _libraries() -> Any:
    """The libraries with threads that NumPy has loaded."""
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()
