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

States = list[list[Any]]  # values of the trainable and the other variables
Program = Callable[[np.ndarray], np.ndarray]  # from images float32 [B, S, S, 3] to answers float32 [B, C]
# Numbers of images that have a program of their own. Compiling one takes some seconds, more than the images that are added.
SIZES = (1, 4, 8, 32)


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
    from ctkeras.models.blank import BlankZeros

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


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows followed by as many rows of zeros as the next of SIZES needs, so that few programs are compiled.

    Args:
        rows: [B, …]; unchanged if B is more than the largest size.

    Returns:
        [B', …] with B' in SIZES, or at least 32.

    Example:
        >>> padded(np.ones((3, 2))).shape
        (4, 2)
    """
    size = next((size for size in SIZES if size >= len(rows)), len(rows))
    return np.pad(rows, ((0, size - len(rows)), *((0, 0),) * (rows.ndim - 1))) if size > len(rows) else rows


def states(model: "keras.Model") -> States:
    """The values of a model's trainable and other variables, as `stateless_call` takes them."""
    return [[v.value for v in of] for of in (model.trainable_variables, model.non_trainable_variables)]


@functools.lru_cache(maxsize=2)  # a client calls the same model again and again
def program(model: "keras.Model") -> Program:
    """Compiles the answers of a model, once for each of SIZES and any larger batch; XLA's cache on disk keeps the result.

    A model without fast layers answers by Keras' own program.

    Args:
        model: from predict.open_model. Its weights are read at each call.
    """
    fast = twin(model)
    if fast is model:
        return lambda images: np.asarray(model.predict_on_batch(padded(images)))[: len(images)]
    import jax

    from ctkeras.cpu import memory, packs

    def answers(state: States, kernels: dict[str, "jax.Array"], images: "jax.Array") -> "jax.Array":
        with packs.using(kernels):
            return fast.stateless_call(*state, images, training=False)[0]

    jitted = jax.jit(answers, compiler_options=xla.compiler_options())
    kernels = Kernels(fast)
    compiled: dict[tuple, tuple[Any, int]] = {}  # the programs, each with the bytes of memory that it works in

    def run(images: np.ndarray) -> np.ndarray:
        fed, state = padded(images), states(model)
        given = jax.block_until_ready((state, kernels.packed(state, len(fed)), jax.device_put(fed)))
        kind = fed.shape, fed.dtype
        if kind not in compiled:
            program = jitted.lower(*given).compile()
            analysis = program.memory_analysis()
            compiled[kind] = program, analysis.temp_size_in_bytes if analysis else 0
        program, size = compiled[kind]
        with memory.kept(size):
            rows = np.asarray(program(*given))
        check()
        return rows[: len(images)]

    return run


class Kernels:
    """The kernels of a model's convolutions in oneDNN's order, for the sizes of batches that were asked for."""

    def __init__(self, model: "keras.Model") -> None:
        """Args: a model from `twin`."""
        self.model = model
        self.state: list[Any] = []  # the arrays that the packed kernels were made from; JAX never changes an array
        self.made: dict[int, dict[str, Any]] = {}

    def packed(self, state: States, batch: int) -> dict[str, Any]:
        """The kernels by their variables' paths, made anew if a weight has changed.

        Args:
            state: from `states`.
            batch: number of images. More than the largest of SIZES have none: copies for any number would fill the memory,
                and so many images take far longer than putting kernels in order.
        """
        from ctkeras.cpu import layers, onednn

        if batch > SIZES[-1]:
            return {}
        now = [array for part in state for array in part]
        same = len(now) == len(self.state) and all(a is b for a, b in zip(now, self.state, strict=True))
        made = self.made if same else {}
        if batch not in made:
            variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
            values = {v.path: array for v, array in zip(variables, now, strict=True)}
            shapes = layers.convolutions(self.model, batch)
            made = made | {batch: {path: onednn.packed(values[path], shape) for path, shape in shapes.items()}}
        self.state, self.made = now, made
        return made[batch]


def check() -> None:
    """Raises the error of a convolution in a program that has just run; XLA cannot pass it on itself."""
    from ctkeras.cpu import onednn

    onednn.check()
