"""Layers that XLA's CPU backend runs slowly, written so that it runs them well. For training only.

The exported file holds the core layers these stand in for; the numbers agree within float tolerance. benchmarks/ measures.
Three things are behind all of them. XLA's CPU backend fuses a product into a sum over pixels only when several such sums
form one variadic reduction, and it spreads a sum over cores only along what remains of it, so sums go over pixels first
and over images last. Its own convolution is slow where there is one input channel an output, and its gradient of max
pooling is a scan.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax import lax

from ctkeras import onednn


def for_cpu(layer: Any) -> type:
    """The class to train a layer with on CPU: a replacement where there is one, else its own."""
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
        return OnePassBatchNorm if layer.axis in (-1, 3) and not layer.synchronized else kind
    if kind is keras.layers.Activation and layer.activation is keras.activations.silu:
        return RecomputedSilu
    if kind is keras.layers.MaxPooling2D:
        return IndexedMaxPooling if layer.pool_size[0] * layer.pool_size[1] <= 255 else kind  # it counts in 8 bits
    return kind


def core(layer: Any) -> type:
    """The core Keras class a layer is exported as."""
    return REPLACES.get(type(layer), type(layer))


SUMMED_AT_ONCE = 14  # pixels; their lines stay in the first cache, 2 to 3 times faster than an image at once


def _settled(values: Any) -> Any:
    """The values themselves, computed once and kept: XLA's CPU backend computes cheap ones anew in each of their readers.

    That is right for neighbours, and ruinous inside the strided loops of a convolution's gradient. It holds in programs
    compiled with runtime.compiler_options().
    """
    return lax.optimization_barrier(values)


@jax.custom_vjp
def _settled_gradient(values: Any) -> Any:
    """The values as they are; the gradient that comes back through them is settled."""
    return values


_settled_gradient.defvjp(lambda values: (values, None), lambda _, gradient: (_settled(gradient),))


def _sums(terms: tuple[Any, ...]) -> list[Any]:
    """Sums over images and pixels of [B, H, W, C] arrays, in float32: a list of [C], all in one pass."""
    zeros = (jnp.zeros((), jnp.float32),) * len(terms)
    kept = [term.astype(jnp.float32) for term in terms]
    for _ in range(2):
        rows = kept[0].size // kept[0].shape[-1]
        group = next(n for n in range(SUMMED_AT_ONCE, 0, -1) if rows % n == 0)
        grouped = tuple(term.reshape(rows // group, group, term.shape[-1]) for term in kept)
        kept = lax.reduce(grouped, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (1,))
    return [total.sum(0) for total in kept]


class OnePassBatchNorm(keras.layers.BatchNormalization):
    """BatchNormalization whose sums, forward and backward, take one pass over the activations each."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises [B, H, W, C] by the batch's moments in training, and moves the kept ones towards them."""
        if not (training and self.trainable) or len(inputs.shape) != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        gamma = self.gamma.value if self.scale else jnp.ones(channels, jnp.float32)
        beta = self.beta.value if self.center else jnp.zeros(channels, jnp.float32)
        outputs, mean, variance = _normalise(inputs, gamma, beta, self.epsilon)
        for kept, seen in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept.assign(kept * self.momentum + seen * (1.0 - self.momentum))
        return outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """(normalised inputs, their mean, their variance), the moments over all but the last axis."""
    return _normalise_forward(inputs, gamma, beta, epsilon)[0]


def _normalise_forward(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any]:
    wide = inputs.astype(jnp.float32)
    number = inputs.size // inputs.shape[-1]
    total, squares = _sums((wide, wide * wide))
    mean = total / number
    variance = jnp.maximum(squares / number - mean * mean, 0.0)  # rounding may take it below
    inverse = lax.rsqrt(variance + epsilon)
    outputs = (wide * (gamma * inverse) + (beta - mean * gamma * inverse)).astype(inputs.dtype)
    return (outputs, mean, variance), (inputs, gamma, mean, inverse)


def _normalise_backward(epsilon: float, kept: tuple, gradients: tuple) -> tuple[Any, Any, Any]:
    """Ioffe & Szegedy 2015. The moments' own gradients are none: they only move the kept ones."""
    inputs, gamma, mean, inverse = kept
    gradient, wide = gradients[0].astype(jnp.float32), inputs.astype(jnp.float32)
    number = inputs.size // inputs.shape[-1]
    by_beta, by_product = _sums((gradient, gradient * wide))
    by_gamma = (by_product - mean * by_beta) * inverse
    scale = gamma * inverse
    slope = -scale * by_gamma * inverse / number
    by_inputs = gradient * scale + wide * slope - (scale * by_beta / number + slope * mean)
    return by_inputs.astype(inputs.dtype), by_gamma, by_beta


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _by_onednn(layer: Any, inputs: Any, *, depthwise: bool = False) -> Any:
    """The convolution without its bias, by oneDNN; None where that isn't for it."""
    if inputs.dtype != jnp.float32 or not onednn.available():
        return None
    kernel = layer.kernel.value
    shape = onednn.geometry(
        inputs.shape, kernel.shape, strides=layer.strides, padding=layer.padding, depthwise=depthwise
    )
    return onednn.convolve(inputs, kernel, shape)


class SettledConv(keras.layers.Conv2D):
    """A convolution whose inputs, and the gradient of its outputs, are computed once."""

    def call(self, inputs: Any) -> Any:
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
    """A depthwise convolution as a sum of shifted, scaled copies: 10 to 20 times XLA's own on CPU."""

    def call(self, inputs: Any) -> Any:
        """Convolves [B, H, W, C] with the layer's kernel [kh, kw, C, 1]."""
        outputs = _by_onednn(self, inputs, depthwise=True)
        if outputs is None:
            windows = _windows(inputs.shape, self.kernel_size, self.strides, self.padding)
            outputs = _depthwise(inputs, self.kernel.value.astype(inputs.dtype)[..., 0], windows)
        return outputs if self.bias is None else outputs + self.bias.value.astype(outputs.dtype)


class PointwiseDot(keras.layers.Conv2D):
    """A 1x1 convolution as a matrix product."""

    def call(self, inputs: Any) -> Any:
        """Multiplies [B, H, W, C] by the layer's kernel [1, 1, C, D], on every stride-th pixel."""
        product = _by_onednn(self, inputs)
        if product is None:
            step_y, step_x = self.strides
            seen = inputs[:, ::step_y, ::step_x] if self.strides != (1, 1) else inputs
            product = _settled_gradient(jnp.matmul(seen, self.kernel.value.astype(inputs.dtype)[0, 0]))
        product = product if self.bias is None else product + self.bias.value.astype(product.dtype)
        return self.activation(product)


class IndexedMaxPooling(keras.layers.MaxPooling2D):
    """Max pooling that remembers which pixel of its window won, so that the gradient is a sum instead of a scan."""

    def call(self, inputs: Any) -> Any:
        """Pools [B, H, W, C]."""
        return _max_pool(inputs, _windows(inputs.shape, self.pool_size, self.strides, self.padding))


class RecomputedSilu(keras.layers.Activation):
    """x sigmoid(x) that keeps x alone for the gradient, where XLA would write and read the sigmoid as well."""

    def call(self, inputs: Any) -> Any:
        """Activates an array of any shape."""
        return _silu(inputs)


@jax.custom_vjp
def _silu(inputs: Any) -> Any:
    return jax.nn.silu(inputs)


def _silu_backward(inputs: Any, gradient: Any) -> tuple[Any]:
    share = jax.nn.sigmoid(inputs)
    return (gradient * share * (1 + inputs * (1 - share)),)


_silu.defvjp(lambda inputs: (jax.nn.silu(inputs), inputs), _silu_backward)

Windows = tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int]]


def _windows(shape: tuple[int, ...], taps: tuple[int, int], strides: tuple[int, int], padding: str) -> Windows:
    """Per direction, height and width: (taps, stride, padding before, padding after, outputs), by TensorFlow's rules."""
    found = []
    for size, tap, stride in zip(shape[1:3], taps, strides, strict=True):
        out = -(-size // stride) if padding == "same" else (size - tap) // stride + 1
        needed = max(0, (out - 1) * stride + tap - size) if padding == "same" else 0
        found.append((tap, stride, needed // 2, needed - needed // 2, out))
    return found[0], found[1]


def _padding(windows: Windows) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *((before, after, 0) for _, _, before, after, _ in windows), (0, 0, 0)]


def _shifts(inputs: Any, windows: Windows, fill: float) -> list[Any]:
    """The padded inputs as each tap sees them: a list of [B, outputs, outputs, C], row by row."""
    padded = lax.pad(inputs, jnp.array(fill, inputs.dtype), _padding(windows))
    (taps_y, stride_y, _, _, rows), (taps_x, stride_x, _, _, columns) = windows
    return [
        padded[:, y : y + (rows - 1) * stride_y + 1 : stride_y, x : x + (columns - 1) * stride_x + 1 : stride_x]
        for y in range(taps_y)
        for x in range(taps_x)
    ]


def _unshifted(terms: list[Any], shape: tuple[int, ...], windows: Windows) -> Any:
    """The transpose of `_shifts`: each tap's [B, outputs, outputs, C] put back where it came from, and added up."""
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
def _depthwise(inputs: Any, kernel: Any, windows: Windows) -> Any:
    """The depthwise convolution of [B, H, W, C] with [kh, kw, C]."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    total: Any = None
    for tap, seen in zip(flat, _shifts(inputs, windows, 0.0), strict=True):
        total = seen * tap if total is None else total + seen * tap
    return total


def _depthwise_forward(inputs: Any, kernel: Any, windows: Windows) -> tuple[Any, Any]:
    return _depthwise(inputs, kernel, windows), (inputs, kernel)


def _depthwise_backward(windows: Windows, kept: tuple, gradient: Any) -> tuple[Any, Any]:
    inputs, kernel = kept
    gradient = _settled(gradient)
    terms = [gradient * tap for tap in kernel.reshape(-1, kernel.shape[-1])]
    by_inputs = _settled(_unshifted(terms, inputs.shape, windows))
    by_kernel = _sums(tuple(seen * gradient for seen in _shifts(inputs, windows, 0.0)))
    return by_inputs, jnp.stack(by_kernel).reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(inputs: Any, windows: Windows) -> Any:
    """The largest of each window of [B, H, W, C]."""
    return _max_pool_forward(inputs, windows)[0]


def _max_pool_forward(inputs: Any, windows: Windows) -> tuple[Any, Any]:
    first, *others = _shifts(_settled(inputs), windows, -jnp.inf)
    best, winner = first, jnp.zeros(first.shape, jnp.uint8)
    for number, seen in enumerate(others, start=1):
        winner = jnp.where(seen > best, jnp.uint8(number), winner)  # the first of equals, as XLA has it
        best = jnp.maximum(seen, best)
    return best, (winner, inputs.shape)


def _max_pool_backward(windows: Windows, kept: tuple, gradient: Any) -> tuple[Any]:
    winner, shape = kept
    taps = windows[0][0] * windows[1][0]
    zero, gradient = jnp.zeros((), gradient.dtype), _settled(gradient)
    return (_settled(_unshifted([jnp.where(winner == n, gradient, zero) for n in range(taps)], shape, windows)),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)

REPLACES: dict[type, type] = {
    OnePassBatchNorm: keras.layers.BatchNormalization,
    ShiftedDepthwise: keras.layers.DepthwiseConv2D,
    PointwiseDot: keras.layers.Conv2D,
    SettledConv: keras.layers.Conv2D,
    IndexedMaxPooling: keras.layers.MaxPooling2D,
    RecomputedSilu: keras.layers.Activation,
}
