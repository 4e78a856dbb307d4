"""Replacements for layers that are slow in XLA's CPU backend. For training only.

The exported file holds the core layers that they replace; the numbers agree within float tolerance, and benchmarks/ measures
the speed. Three properties of XLA's CPU backend are behind all of them. It fuses a product into a sum over pixels only if
several such sums form one variadic reduction, and it spreads a sum over cores only along the axes that remain, so sums go
over pixels first and over images last. Its own convolution is slow with one input channel per output. Its gradient of max
pooling is a scan.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax import lax

from ctkeras.cpu import geometry, onednn


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


SUMMED_AT_ONCE = 14  # pixels; they stay in the first-level cache, 2 to 3 times faster than a whole image at once


def _settled(values: jax.Array) -> jax.Array:
    """The same values, computed once and stored. XLA's CPU backend computes cheap values again wherever they are read.

    That is good for element-wise operations, but very slow inside the strided loops of a convolution's gradient. It works
    only in programs compiled with xla.compiler_options().
    """
    return lax.optimization_barrier(values)


@jax.custom_vjp
def _settled_gradient(values: jax.Array) -> jax.Array:
    """The same values; the gradient that flows back through them is settled."""
    return values


_settled_gradient.defvjp(lambda values: (values, None), lambda _, gradient: (_settled(gradient),))


def _sums(terms: tuple[jax.Array, ...]) -> list[jax.Array]:
    """Sums of [B, H, W, C] arrays over images and pixels, in one pass: a list of float32 [C]."""
    zeros = (jnp.zeros((), jnp.float32),) * len(terms)
    partial = [term.astype(jnp.float32) for term in terms]
    for _ in range(2):
        rows = partial[0].size // partial[0].shape[-1]
        group = next(n for n in range(SUMMED_AT_ONCE, 0, -1) if rows % n == 0)
        grouped = tuple(term.reshape(rows // group, group, term.shape[-1]) for term in partial)
        partial = lax.reduce(grouped, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (1,))
    return [total.sum(0) for total in partial]


class OnePassBatchNorm(keras.layers.BatchNormalization):
    """BatchNormalization that computes its sums in one pass over the activations, forward and backward."""

    def call(self, inputs: jax.Array, training: bool | None = None, mask: jax.Array | None = None) -> jax.Array:
        """Normalises [B, H, W, C] by the moments of the batch in training and updates the moving moments."""
        if not (training and self.trainable) or len(inputs.shape) != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        gamma = self.gamma.value if self.scale else jnp.ones(channels, jnp.float32)
        beta = self.beta.value if self.center else jnp.zeros(channels, jnp.float32)
        outputs, mean, variance = _normalise(inputs, gamma, beta, self.epsilon)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(
    inputs: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(normalised inputs, mean, variance), with moments over all axes but the last."""
    return _normalise_forward(inputs, gamma, beta, epsilon)[0]


def _normalise_forward(inputs: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float) -> tuple[tuple, tuple]:
    wide = inputs.astype(jnp.float32)
    number = inputs.size // inputs.shape[-1]
    total, squares = _sums((wide, wide * wide))
    mean = total / number
    variance = jnp.maximum(squares / number - mean * mean, 0.0)  # rounding may make it negative
    inverse = lax.rsqrt(variance + epsilon)
    outputs = (wide * (gamma * inverse) + (beta - mean * gamma * inverse)).astype(inputs.dtype)
    return (outputs, mean, variance), (inputs, gamma, mean, inverse)


def _normalise_backward(epsilon: float, residuals: tuple, gradients: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ioffe & Szegedy 2015. The moments pass on no gradient: they only update the moving moments."""
    inputs, gamma, mean, inverse = residuals
    gradient, wide = gradients[0].astype(jnp.float32), inputs.astype(jnp.float32)
    number = inputs.size // inputs.shape[-1]
    by_beta, by_product = _sums((gradient, gradient * wide))
    by_gamma = (by_product - mean * by_beta) * inverse
    scale = gamma * inverse
    slope = -scale * by_gamma * inverse / number
    by_inputs = gradient * scale + wide * slope - (scale * by_beta / number + slope * mean)
    return by_inputs.astype(inputs.dtype), by_gamma, by_beta


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _by_onednn(layer: keras.layers.Layer, inputs: jax.Array, *, depthwise: bool = False) -> jax.Array | None:
    """The convolution by oneDNN, without bias; None if oneDNN is not available or the type is not float32."""
    if inputs.dtype != jnp.float32 or not onednn.available():
        return None
    kernel = layer.kernel.value
    shape = geometry.of(inputs.shape, kernel.shape, strides=layer.strides, padding=layer.padding, depthwise=depthwise)
    return onednn.convolve(inputs, kernel, shape)


class SettledConv(keras.layers.Conv2D):
    """A convolution whose inputs, and the gradient of its outputs, are computed once."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Convolves [B, H, W, C] with the layer's kernel [kh, kw, C, D]."""
        product = _by_onednn(self, inputs)
        if product is None:
            product = lax.conv_general_dilated(
                _settled(inputs),
                self.kernel.value.astype(inputs.dtype),
                self.strides,
                self.padding.upper(),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            product = _settled_gradient(product)
        product = product if self.bias is None else product + self.bias.value.astype(product.dtype)
        return self.activation(product)


class ShiftedDepthwise(keras.layers.DepthwiseConv2D):
    """A depthwise convolution as a sum of shifted, scaled copies: 10 to 20 times faster than XLA's own on CPU."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Convolves [B, H, W, C] with the layer's kernel [kh, kw, C, 1]."""
        outputs = _by_onednn(self, inputs, depthwise=True)
        if outputs is None:
            windows = _windows(inputs.shape, self.kernel_size, self.strides, self.padding)
            outputs = _depthwise(inputs, self.kernel.value.astype(inputs.dtype)[..., 0], windows)
        return outputs if self.bias is None else outputs + self.bias.value.astype(outputs.dtype)


class PointwiseDot(keras.layers.Conv2D):
    """A 1x1 convolution as a matrix product."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Multiplies every stride-th pixel of [B, H, W, C] by the layer's kernel [1, 1, C, D]."""
        product = _by_onednn(self, inputs)
        if product is None:
            step_y, step_x = self.strides
            strided = inputs[:, ::step_y, ::step_x] if self.strides != (1, 1) else inputs
            product = _settled_gradient(jnp.matmul(strided, self.kernel.value.astype(inputs.dtype)[0, 0]))
        product = product if self.bias is None else product + self.bias.value.astype(product.dtype)
        return self.activation(product)


class IndexedMaxPooling(keras.layers.MaxPooling2D):
    """Max pooling that records which pixel of each window is largest, so that the gradient is a sum and not a scan."""

    def call(self, inputs: jax.Array) -> jax.Array:
        """Takes the largest of each window of [B, H, W, C]."""
        return _max_pool(inputs, _windows(inputs.shape, self.pool_size, self.strides, self.padding))


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
Windows = tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int]]


def _windows(shape: tuple[int, ...], taps: tuple[int, int], strides: tuple[int, int], padding: str) -> Windows:
    """For height and width: (taps, stride, padding before, padding after, outputs)."""

    def along(size: int, tap: int, stride: int) -> tuple[int, int, int, int, int]:
        before, after = geometry.pads(size, tap, stride=stride, padding=padding)
        return tap, stride, before, after, (size + before + after - tap) // stride + 1

    return along(shape[1], taps[0], strides[0]), along(shape[2], taps[1], strides[1])


def _padding(windows: Windows) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *((before, after, 0) for _, _, before, after, _ in windows), (0, 0, 0)]


def _shifts(inputs: jax.Array, windows: Windows, fill: float) -> list[jax.Array]:
    """The padded inputs that each tap reads: a list of [B, outputs, outputs, C], row by row."""
    padded = lax.pad(inputs, jnp.array(fill, inputs.dtype), _padding(windows))
    (taps_y, stride_y, _, _, rows), (taps_x, stride_x, _, _, columns) = windows
    return [
        padded[:, y : y + (rows - 1) * stride_y + 1 : stride_y, x : x + (columns - 1) * stride_x + 1 : stride_x]
        for y in range(taps_y)
        for x in range(taps_x)
    ]


def _unshifted(terms: list[jax.Array], shape: tuple[int, ...], windows: Windows) -> jax.Array:
    """The transpose of `_shifts`: adds up each tap's [B, outputs, outputs, C] at the pixels that it read."""
    (_, stride_y, top, bottom, rows), (taps_x, stride_x, left, right, columns) = windows
    height, width = shape[1] + top + bottom, shape[2] + left + right
    total: Any = None
    for number, term in enumerate(terms):
        y, x = divmod(number, taps_x)
        after_y, after_x = height - y - (rows - 1) * stride_y - 1, width - x - (columns - 1) * stride_x - 1
        spread = [(0, 0, 0), (y, after_y, stride_y - 1), (x, after_x, stride_x - 1), (0, 0, 0)]
        back = lax.pad(term, jnp.zeros((), term.dtype), spread)
        total = back if total is None else total + back
    return total[:, top : top + shape[1], left : left + shape[2]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(inputs: jax.Array, kernel: jax.Array, windows: Windows) -> jax.Array:
    """The depthwise convolution of [B, H, W, C] with [kh, kw, C]."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    total: Any = None
    for tap, shifted in zip(flat, _shifts(inputs, windows, 0.0), strict=True):
        total = shifted * tap if total is None else total + shifted * tap
    return total


def _depthwise_forward(inputs: jax.Array, kernel: jax.Array, windows: Windows) -> tuple[jax.Array, tuple]:
    return _depthwise(inputs, kernel, windows), (inputs, kernel)


def _depthwise_backward(windows: Windows, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = residuals
    gradient = _settled(gradient)
    terms = [gradient * tap for tap in kernel.reshape(-1, kernel.shape[-1])]
    by_inputs = _settled(_unshifted(terms, inputs.shape, windows))
    by_kernel = _sums(tuple(shifted * gradient for shifted in _shifts(inputs, windows, 0.0)))
    return by_inputs, jnp.stack(by_kernel).reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(inputs: jax.Array, windows: Windows) -> jax.Array:
    """The largest of each window of [B, H, W, C]."""
    return _max_pool_forward(inputs, windows)[0]


def _max_pool_forward(inputs: jax.Array, windows: Windows) -> tuple[jax.Array, tuple]:
    first, *others = _shifts(_settled(inputs), windows, -jnp.inf)
    best, winner = first, jnp.zeros(first.shape, jnp.uint8)
    for number, shifted in enumerate(others, start=1):
        winner = jnp.where(shifted > best, jnp.uint8(number), winner)  # the first of equals, as in XLA
        best = jnp.maximum(shifted, best)
    return best, (winner, inputs.shape)


def _max_pool_backward(windows: Windows, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array]:
    winner, shape = residuals
    taps = windows[0][0] * windows[1][0]
    zero, gradient = jnp.zeros((), gradient.dtype), _settled(gradient)
    return (_settled(_unshifted([jnp.where(winner == n, gradient, zero) for n in range(taps)], shape, windows)),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
REPLACES: dict[type, type] = {  # the core class that each replaces
    OnePassBatchNorm: keras.layers.BatchNormalization,
    ShiftedDepthwise: keras.layers.DepthwiseConv2D,
    PointwiseDot: keras.layers.Conv2D,
    SettledConv: keras.layers.Conv2D,
    IndexedMaxPooling: keras.layers.MaxPooling2D,
    RecomputedSilu: keras.layers.Activation,
}
