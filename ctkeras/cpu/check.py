"""Compares the fast layers with Keras' own, forward and gradients: `python -m ctkeras.cpu.check`, run by runtime/verdict.py.

It exits with 1 and a line if they differ. It is a process of its own because a jaxlib that does not know our XLA flag or
our custom call may end it.
"""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.runtime import process, versions, xla

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-4  # of the largest value; float32 sums in another order differ by 1e-6 of it
IMAGES = (2, 15, 15, 16)  # [B, H, W, C]; odd, so that a strided window meets the edge


def samples() -> "dict[str, keras.layers.Layer]":
    """One of Keras' layers for each kind that has a replacement, by name."""
    from keras import layers

    return {
        "convolution": layers.Conv2D(8, 3, padding="same"),
        "strided convolution": layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
        "depthwise convolution": layers.DepthwiseConv2D(3, padding="same"),
        "strided depthwise convolution": layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False),
        "1x1 convolution": layers.Conv2D(8, 1),
        "strided 1x1 convolution": layers.Conv2D(8, 1, strides=2, use_bias=False),
        "max pooling": layers.MaxPooling2D(3, strides=2, padding="same"),
        "batch normalisation": layers.BatchNormalization(),
    }


def difference(stock: "keras.layers.Layer") -> float:
    """How far outputs and gradients of a layer's replacement are from its own, as a part of the largest value.

    Args:
        stock: one of Keras' layers, not built; its replacement gets its weights.
    """
    import jax
    import jax.numpy as jnp
    import keras

    from ctkeras.cpu import layers, onednn

    rng = np.random.default_rng(0)
    images = rng.normal(size=IMAGES).astype(np.float32)
    fast = layers.for_cpu(stock).from_config(stock.get_config())
    for layer in (stock, fast):
        layer.build(IMAGES)
    fast.set_weights(stock.get_weights())
    weight = rng.normal(size=stock.compute_output_shape(IMAGES)).astype(np.float32)

    def slopes(layer: Any, options: dict) -> Any:
        training = {"training": True} if isinstance(stock, keras.layers.BatchNormalization) else {}

        def loss(trained: list, inputs: jax.Array) -> Any:
            fixed = [v.value for v in layer.non_trainable_variables]
            outputs, _ = layer.stateless_call(trained, fixed, inputs, **training)
            return (outputs * jnp.asarray(weight)).sum(), outputs

        program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), compiler_options=options)
        (_, outputs), (by_weights, by_inputs) = program([v.value for v in layer.trainable_variables], images)
        onednn.check()
        return [np.asarray(array) for array in (outputs, by_inputs, *by_weights)]

    pairs = zip(slopes(stock, {}), slopes(fast, xla.compiler_options()), strict=True)
    return max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-6)) for a, b in pairs)


def main() -> int:
    """Checks each kind; returns 0 if all agree."""
    process.configure()
    from ctkeras.cpu import onednn

    if xla.kernels_wanted() == "on" and versions.version("onednn-cpu-gomp") and not onednn.available():
        print("oneDNN cannot be loaded (libgomp.so.1 may be missing; Debian: apt install libgomp1)", file=sys.stderr)
        return 1
    for name, stock in samples().items():
        with process.without("tensorflow"):
            apart = difference(stock)
        if not apart <= TOLERANCE:  # NaN too
            print(f"a {name} differs from XLA's by {apart:.1g} of its largest value", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
