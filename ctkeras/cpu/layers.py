"""Replacements for layers that are slow in XLA's CPU backend.

The exported file holds the core layers that they replace; the numbers agree within float tolerance, and benchmarks/ measures
the speed.
"""

import contextlib
import math

import jax
import jax.numpy as jnp
import keras
from jax import lax

from ctkeras.cpu import barriers, geometry, moments, onednn, packs, windows

FEW = 64  # pixels of all images; so small a product is done sooner by XLA than oneDNN is called


def for_cpu(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The class that trains a layer on CPU: its replacement if there is one, or else its own class."""
    kind = type(layer)
    if layer.get_config().get("data_format", "channels_last") != "channels_last":
        return kind
    if kind is keras.layers.DepthwiseConv2D:
        simple = layer.depth_multiplier == 1 and layer.dilation_rate == (1, 1)
        return ShiftedDepthwise if simple and layer.activation is keras.activations.linear else kind
    if kind is keras.layers.Conv2D and layer.kernel_size == (1, 1) and layer.groups == 1:
        return PointwiseDot
    if kind is keras.layers.Conv2D and layer.groups == 1 and layer.dilation_rate == (1, 1):
        return SettledConv
    if kind is keras.layers.BatchNormalization:
        return OnePassBatchNorm if layer.axis in (-1, 3) else kind
    if kind is keras.layers.Activation and layer.activation is keras.activations.silu:
        return RecomputedSilu
    if kind is keras.layers.MaxPooling2D:
        return (
            IndexedMaxPooling if layer.pool_size[0] * layer.pool_size[1] <= 255 else kind
        )  # winners are counted in 8 bits
    return kind


def core(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The core Keras class that a layer is exported as."""
    return REPLACES.get(type(layer), type(layer))


class OnePassBatchNorm(keras.layers.BatchNormalization):
    """BatchNormalization that computes its sums in one pass over the activations, forward and backward."""

    def call(self, inputs: jax.Array, training: bool | None = None, mask: jax.Array | None = None) -> jax.Array:
        """Normalises [B, H, W, C] by the moments of the batch in training and updates the moving moments."""
        if not (training and self.trainable) or len(inputs.shape) != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        gamma = self.gamma.value if self.scale else jnp.ones(channels, jnp.float32)
        beta = self.beta.value if self.center else jnp.zeros(channels, jnp.float32)
        outputs, mean, variance = moments.normalise(inputs, gamma, beta, self.epsilon)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


def convolutions(model: keras.Model, batch: int) -> packs.Shapes:
    """The geometry of each convolution that oneDNN computes when a model gets `batch` images.

    Args:
        model: with these layers. One that it uses twice, or inside another layer, is left out.
        batch: number of images.
    """
    found: packs.Shapes = {}
    for layer in model.layers if onednn.available() else ():
        if isinstance(layer, ShiftedDepthwise | SettledConv | PointwiseDot):
            with contextlib.suppress(AttributeError, ValueError):  # from Keras, if it is used twice
                inputs = (batch, *layer.input.shape[1:])
                if layer.compute_dtype == "float32" and None not in inputs and not _small(layer, inputs):
                    found[layer.kernel.path] = _shape(layer, inputs)
    return found


def _shape(layer: keras.layers.Layer, inputs: tuple[int, ...]) -> geometry.Geometry:
    depthwise = isinstance(layer, ShiftedDepthwise)
    return geometry.of(inputs, layer.kernel.shape, strides=layer.strides, padding=layer.padding, depthwise=depthwise)


def _small(layer: keras.layers.Layer, inputs: tuple[int, ...]) -> bool:
    """Whether XLA computes a layer sooner: a small matrix product."""
    return isinstance(layer, PointwiseDot) and math.prod(inputs[:-1]) <= FEW


def _by_onednn(layer: keras.layers.Layer, inputs: jax.Array) -> jax.Array | None:
    """The convolution by oneDNN, without bias; None if XLA has to compute it, or does so sooner."""
    if inputs.dtype != jnp.float32 or not onednn.available() or _small(layer, inputs.shape):
        return None
    shape, packed = _shape(layer, inputs.shape), packs.given(layer.kernel.path)
    if packed is not None:
        return onednn.convolve_packed(inputs, packed, shape)
    return onednn.convolve(inputs, layer.kernel.value, shape)


class SettledConv(keras.layers.Conv2D):
    """A convolution whose inputs, and the gradient of its outputs, are computed once."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Convolves [B, H, W, C] with the layer's kernel [kh, kw, C, D]."""
        product = _by_onednn(self, inputs)
        if product is None:
            product = lax.conv_general_dilated(
                barriers.settled(inputs),
                self.kernel.value.astype(inputs.dtype),
                self.strides,
                self.padding.upper(),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            product = barriers.settled_gradient(product)
        product = product if self.bias is None else product + self.bias.value.astype(product.dtype)
        return self.activation(product)


class ShiftedDepthwise(keras.layers.DepthwiseConv2D):
    """A depthwise convolution as a sum of shifted, scaled copies: 10 to 20 times faster than XLA's own on CPU."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Convolves [B, H, W, C] with the layer's kernel [kh, kw, C, 1]."""
        outputs = _by_onednn(self, inputs)
        if outputs is None:
            where = windows.windows_of(inputs.shape, self.kernel_size, self.strides, self.padding)
            outputs = windows.depthwise(inputs, self.kernel.value.astype(inputs.dtype)[..., 0], where)
        return outputs if self.bias is None else outputs + self.bias.value.astype(outputs.dtype)


class PointwiseDot(keras.layers.Conv2D):
    """A 1x1 convolution as a matrix product."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Multiplies every stride-th pixel of [B, H, W, C] by the layer's kernel [1, 1, C, D]."""
        product = _by_onednn(self, inputs)
        if product is None:
            step_y, step_x = self.strides
            strided = inputs[:, ::step_y, ::step_x] if self.strides != (1, 1) else inputs
            product = barriers.settled_gradient(jnp.matmul(strided, self.kernel.value.astype(inputs.dtype)[0, 0]))
        product = product if self.bias is None else product + self.bias.value.astype(product.dtype)
        return self.activation(product)


class IndexedMaxPooling(keras.layers.MaxPooling2D):
    """Max pooling that records which pixel of each window is largest, so that the gradient is a sum and not a scan."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Takes the largest of each window of [B, H, W, C]."""
        return windows.max_pool(inputs, windows.windows_of(inputs.shape, self.pool_size, self.strides, self.padding))


class RecomputedSilu(keras.layers.Activation):
    """x sigmoid(x) that stores only x for the gradient; XLA would store the sigmoid as well."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Applies the activation to an array of any shape."""
        return _silu(inputs)


@jax.custom_vjp
def _silu(inputs: jax.Array) -> jax.Array:
    return jax.nn.silu(inputs)


def _silu_backward(inputs: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    share = jax.nn.sigmoid(inputs)
    return (gradient * share * (1 + inputs * (1 - share)),)


_silu.defvjp(lambda inputs: (jax.nn.silu(inputs), inputs), _silu_backward)
REPLACES: dict[type, type] = {  # the core class that each replaces
    OnePassBatchNorm: keras.layers.BatchNormalization,
    ShiftedDepthwise: keras.layers.DepthwiseConv2D,
    PointwiseDot: keras.layers.Conv2D,
    SettledConv: keras.layers.Conv2D,
    IndexedMaxPooling: keras.layers.MaxPooling2D,
    RecomputedSilu: keras.layers.Activation,
}
