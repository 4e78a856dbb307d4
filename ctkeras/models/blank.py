"""Weights that start at zero because something else sets them: a file, another model, or `classifier.initialise`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np


class BlankZeros(keras.initializers.Zeros):
    """Zeros from NumPy: JAX would compile one program per shape, half a second for the first model of a process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Accepts and ignores the arguments of any initializer."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None, **_: Any) -> Any:
        """Zeros of a shape; float32 without a dtype."""
        # Without a type stated here, JAX would compile a copy for each shape.
        return keras.ops.convert_to_tensor(np.zeros(shape, "float32"), dtype=dtype or "float32")


@contextlib.contextmanager
def initializers() -> Iterator[None]:
    """Makes layers start at zero inside the block, whatever initializer they name: random draws would take 10 s."""
    names = ("glorot_uniform", "GlorotUniform", "VarianceScaling", "he_normal", "zeros", "Zeros", "ones", "Ones")
    with keras.utils.custom_object_scope(dict.fromkeys(names, BlankZeros)):
        yield
