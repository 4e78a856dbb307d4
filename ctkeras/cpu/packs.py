"""Kernels in the order in which oneDNN reads them, for a model that answers: made once, as its weights stay as they are."""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping

import jax

from ctkeras.cpu.geometry import Geometry

Shapes = dict[str, Geometry]  # by the path of a kernel's variable
# Of the thread that traces: an app answers in several.
_given: contextvars.ContextVar[Mapping[str, jax.Array] | None] = contextvars.ContextVar("kernels", default=None)


@contextlib.contextmanager
def using(kernels: Mapping[str, jax.Array]) -> Iterator[None]:
    """While JAX traces a model inside the block, its convolutions read these kernels.

    Args:
        kernels: from `onednn.packed`, by the path of the kernel's variable.
    """
    before = _given.set(kernels)
    try:
        yield
    finally:
        _given.reset(before)


def given(path: str) -> jax.Array | None:
    """The kernel to read instead of a variable, by the variable's path; None outside `using`."""
    return (_given.get() or {}).get(path)
