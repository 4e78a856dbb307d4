"""Answers of an exported model by the layers that training uses on a CPU, whose convolutions are several times faster.

The model itself stays in core Keras layers: a second graph of the same shape has the fast layers, and reads the weights of
the first at each call.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.runtime import process, xla

if TYPE_CHECKING:
    import keras

Program = Callable[[np.ndarray], np.ndarray]  # from images float32 [B, S, S, 3] to answers float32 [B, C]


def twin(model: "keras.Model") -> "keras.Model":
    """The model with the fast layers of this device, and with blank weights; the model itself if it has none to replace.

    Args:
        model: a functional or sequential model; any other is returned as it is.

    Returns:
        A model whose variables have the order and the shapes of the given one, for `stateless_call`.
    """
    import keras

    if keras.backend.backend() != "jax" or not xla.cpu_kernels():
        return model
    from ctkeras.cpu import layers
    from ctkeras.models.classifier import BlankZeros

    def clone(layer: Any) -> Any:
        settings = layer.get_config()
        if isinstance(layer, keras.layers.Layer):
            settings |= {key: BlankZeros() for key in settings if key.endswith("_initializer")}
            return layers.for_cpu(layer).from_config(settings)
        return type(layer).from_config(settings)

    try:
        with process.without("tensorflow"):
            fast = keras.models.clone_model(model, clone_function=clone)
    except (ValueError, TypeError, AttributeError):  # a model that Keras cannot clone answers by its own layers
        return model
    same = [v.shape for v in fast.variables] == [v.shape for v in model.variables]
    return fast if same else model


def states(model: "keras.Model") -> list[list[Any]]:
    """The values of a model's trainable and other variables, as `stateless_call` takes them."""
    return [[v.value for v in of] for of in (model.trainable_variables, model.non_trainable_variables)]


@functools.lru_cache(maxsize=2)  # a client calls the same model again and again
def program(model: "keras.Model") -> Program:
    """Compiles the answers of a model, once per batch size; XLA's cache on disk keeps the result.

    A model without fast layers answers by Keras' own program.

    Args:
        model: from predict.open_model. Its weights are read at each call.
    """
    fast = twin(model)
    if fast is model:
        return lambda images: np.asarray(model.predict_on_batch(images))
    import jax

    def answers(state: list[list[Any]], images: "jax.Array") -> "jax.Array":
        return fast.stateless_call(*state, images, training=False)[0]

    compiled = jax.jit(answers, compiler_options=xla.compiler_options())

    def run(images: np.ndarray) -> np.ndarray:
        rows = np.asarray(compiled(states(model), images))
        check()
        return rows

    return run


def check() -> None:
    """Raises the error of a convolution in a program that has just run; XLA cannot pass it on itself."""
    from ctkeras.cpu import onednn

    onednn.check()
