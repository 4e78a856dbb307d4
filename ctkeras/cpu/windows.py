"""Depthwise convolution and max pooling as operations on shifted copies of the images, which XLA's CPU backend does fast.

Its own convolution is slow with one input channel per output, and its gradient of max pooling is a scan.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ctkeras.cpu import barriers, geometry, moments

Windows = tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int]]


def windows_of(shape: tuple[int, ...], taps: tuple[int, int], strides: tuple[int, int], padding: str) -> Windows:
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
def depthwise(inputs: jax.Array, kernel: jax.Array, windows: Windows) -> jax.Array:
    """The depthwise convolution of [B, H, W, C] with [kh, kw, C]."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    total: Any = None
    for tap, shifted in zip(flat, _shifts(inputs, windows, 0.0), strict=True):
        total = shifted * tap if total is None else total + shifted * tap
    return total


def _depthwise_forward(inputs: jax.Array, kernel: jax.Array, windows: Windows) -> tuple[jax.Array, tuple]:
    return depthwise(inputs, kernel, windows), (inputs, kernel)


def _depthwise_backward(windows: Windows, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = residuals
    gradient = barriers.settled(gradient)
    terms = [gradient * tap for tap in kernel.reshape(-1, kernel.shape[-1])]
    by_inputs = barriers.settled(_unshifted(terms, inputs.shape, windows))
    by_kernel = moments.sums(tuple(shifted * gradient for shifted in _shifts(inputs, windows, 0.0)))
    return by_inputs, jnp.stack(by_kernel).reshape(kernel.shape).astype(kernel.dtype)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(inputs: jax.Array, windows: Windows) -> jax.Array:
    """The largest of each window of [B, H, W, C]."""
    return _max_pool_forward(inputs, windows)[0]


def _max_pool_forward(inputs: jax.Array, windows: Windows) -> tuple[jax.Array, tuple]:
    first, *others = _shifts(barriers.settled(inputs), windows, -jnp.inf)
    best, winner = first, jnp.zeros(first.shape, jnp.uint8)
    for number, shifted in enumerate(others, start=1):
        winner = jnp.where(shifted > best, jnp.uint8(number), winner)  # the first of equals, as in XLA
        best = jnp.maximum(shifted, best)
    return best, (winner, inputs.shape)


def _max_pool_backward(windows: Windows, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array]:
    winner, shape = residuals
    taps = windows[0][0] * windows[1][0]
    zero, gradient = jnp.zeros((), gradient.dtype), barriers.settled(gradient)
    return (
        barriers.settled(_unshifted([jnp.where(winner == n, gradient, zero) for n in range(taps)], shape, windows)),
    )


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
