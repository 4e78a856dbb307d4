"""The sizes of a convolution, and how many pixels of padding it has."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """The sizes of a convolution in pixels and channels; `depthwise` is 1 if each channel has its own filter."""

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    taps_y: int
    taps_x: int
    stride_y: int
    stride_x: int
    top: int
    bottom: int
    left: int
    right: int
    depthwise: int

    @property
    def inputs(self) -> tuple[int, ...]:
        """Shape of the inputs, [B, H, W, C]."""
        return self.batch, self.height, self.width, self.channels

    @property
    def kernel(self) -> tuple[int, ...]:
        """Shape of the kernel in Keras: [kh, kw, C, D], or [kh, kw, C, 1] if depthwise."""
        return self.taps_y, self.taps_x, self.channels, 1 if self.depthwise else self.filters

    @property
    def outputs(self) -> tuple[int, ...]:
        """Shape of the outputs, [B, H', W', D]."""
        rows = (self.height + self.top + self.bottom - self.taps_y) // self.stride_y + 1
        columns = (self.width + self.left + self.right - self.taps_x) // self.stride_x + 1
        return self.batch, rows, columns, self.filters


def pads(size: int, taps: int, *, stride: int, padding: str) -> tuple[int, int]:
    """Pixels of padding before and after a row or column.

    Args:
        size: pixels of the row or column.
        taps: pixels of the kernel or window in that direction.
        stride: pixels from one window to the next.
        padding: "valid" for none; "same" for TensorFlow's rule, ceil(size / stride) outputs with the odd pixel after.
    """
    if padding != "same":
        return 0, 0
    outputs = -(-size // stride)
    missing = max(0, (outputs - 1) * stride + taps - size)
    return missing // 2, missing - missing // 2


def of(
    inputs: tuple[int, ...], kernel: tuple[int, ...], *, strides: tuple[int, int], padding: str, depthwise: bool
) -> Geometry:
    """The geometry of a convolution.

    Args:
        inputs: shape [B, H, W, C].
        kernel: shape [kh, kw, C, D], or [kh, kw, C, 1] if depthwise.
        strides: pixels, vertical and horizontal.
        padding: "same" or "valid", as for `pads`.
        depthwise: whether each channel has its own filter.
    """
    vertical, horizontal = (
        pads(size, taps, stride=stride, padding=padding)
        for size, taps, stride in zip(inputs[1:3], kernel[:2], strides, strict=True)
    )
    filters = inputs[3] if depthwise else kernel[3]
    return Geometry._make((*inputs, filters, *kernel[:2], *strides, *vertical, *horizontal, int(depthwise)))
