"""Weights that start at zero: nothing is compiled for them."""

import keras
import numpy as np
import pytest

from ctkeras.models import blank
from ctkeras.runtime import process


def compiled():
    return process.compile_counts["cache_hits"] + process.compile_counts["cache_misses"]


@pytest.mark.parametrize("shape", [(), (11,), (3, 5, 7, 13)])
def test_zeros_of_a_new_shape_compile_nothing(shape):
    before = compiled()
    zeros = keras.Variable(blank.BlankZeros(), shape=shape, dtype="float32")
    assert compiled() == before
    assert zeros.value.dtype == np.float32 and zeros.value.shape == shape
    assert not np.asarray(zeros.value).any()


def test_a_layer_of_the_library_compiles_nothing_inside_the_block():
    before = compiled()
    with blank.initializers():
        layer = keras.layers.Conv2D(17, 3)
        layer.build((None, 9, 9, 19))
    assert compiled() == before
    assert not np.asarray(layer.kernel).any()
