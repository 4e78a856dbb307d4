"""Convolutions that XLA's CPU backend runs slowly, written so that it runs them well. For training only.

The exported file holds the core layers these stand in for; the numbers agree within float tolerance. benchmarks/ measures.
"""

from typing import Any

import keras
from keras import ops


class ShiftedDepthwise(keras.layers.DepthwiseConv2D):
    """A depthwise convolution as a sum of shifted, scaled copies: 10 to 20 times XLA's own on CPU."""

    def call(self, inputs: Any) -> Any:
        """Convolves [B, H, W, C] with the layer's kernel [kh, kw, C, 1]."""
        kernel = ops.cast(self.kernel, inputs.dtype)
        height, width = kernel.shape[:2]
        (top, out_height), (left, out_width) = (
            _same(size, taps, stride) if self.padding == "same" else (0, (size - taps) // stride + 1)
            for size, taps, stride in zip(inputs.shape[1:3], kernel.shape[:2], self.strides, strict=True)
        )
        step_y, step_x = self.strides
        need_y = (out_height - 1) * step_y + height - inputs.shape[1] - top
        need_x = (out_width - 1) * step_x + width - inputs.shape[2] - left
        padded = ops.pad(inputs, [[0, 0], [top, max(0, need_y)], [left, max(0, need_x)], [0, 0]])
        total: Any = None
        for y in range(height):
            for x in range(width):
                rows = slice(y, y + (out_height - 1) * step_y + 1, step_y)
                columns = slice(x, x + (out_width - 1) * step_x + 1, step_x)
                term = padded[:, rows, columns] * kernel[y, x, :, 0]
                total = term if total is None else total + term
        return total if self.bias is None else total + ops.cast(self.bias, total.dtype)


def _same(size: int, taps: int, stride: int) -> tuple[int, int]:
    """Padding before, and output length, of TensorFlow's "same" rule."""
    out = -(-size // stride)
    return max(0, (out - 1) * stride + taps - size) // 2, out


class PointwiseDot(keras.layers.Conv2D):
    """A 1x1 convolution as a matrix product."""

    def call(self, inputs: Any) -> Any:
        """Multiplies [B, H, W, C] by the layer's kernel [1, 1, C, D], on every stride-th pixel."""
        step_y, step_x = self.strides
        seen = inputs[:, ::step_y, ::step_x] if self.strides != (1, 1) else inputs
        product = ops.matmul(seen, ops.cast(self.kernel, inputs.dtype)[0, 0])
        product = product if self.bias is None else product + ops.cast(self.bias, product.dtype)
        return self.activation(product)


REPLACES = {ShiftedDepthwise: keras.layers.DepthwiseConv2D, PointwiseDot: keras.layers.Conv2D}


def for_cpu(layer: Any) -> Any:
    """The class to train a layer with on CPU: a replacement where there is one, else its own."""
    plain = layer.get_config().get("data_format", "channels_last") == "channels_last"
    if type(layer) is keras.layers.DepthwiseConv2D and plain:
        simple = layer.depth_multiplier == 1 and layer.dilation_rate == (1, 1)
        return ShiftedDepthwise if simple and layer.activation is keras.activations.linear else type(layer)
    if type(layer) is keras.layers.Conv2D and plain and layer.kernel_size == (1, 1) and layer.groups == 1:
        return PointwiseDot
    return type(layer)


def core(layer: Any) -> type:
    """The core Keras class a layer is exported as."""
    return REPLACES.get(type(layer), type(layer))
