"""Convolutions on CPU by oneDNN inside JAX's compiled programs. float32, channels last.

XLA's own convolutions take 20% longer for ResNets and several times as long for depthwise networks. JAX runs oneDNN as a
custom call to a Python function, which costs little next to a convolution of milliseconds and needs no compiler.
"""

import concurrent.futures
import ctypes
import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctkeras.cpu import binding
from ctkeras.cpu.geometry import Geometry
from ctkeras.runtime import verdict, xla

TARGET = "ctkeras_convolution"
CALLERS = 4  # threads that call oneDNN themselves; OpenMP starts a team for each, of as many threads as there are cores


@functools.cache
def available() -> bool:
    """Whether oneDNN is installed and gives XLA's numbers with this jaxlib; CTKERAS_CPU_KERNELS=xla turns it off."""
    # Only with one device: XLA would gather the inputs of a custom call from several.
    if xla.kernels_wanted() != "on" or jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return False
    return verdict.verdict().kernels == "on" and binding.dnnl() is not None


def convolve(inputs: jax.Array, kernel: jax.Array, shape: Geometry) -> jax.Array:
    """Convolves images with a kernel.

    Args:
        inputs: float32 [B, H, W, C].
        kernel: float32 [kh, kw, C, D], or [kh, kw, C, 1] if depthwise.
        shape: from `geometry.of`.

    Returns:
        float32 [B, H', W', D].

    Raises:
        RuntimeError: oneDNN cannot compute this geometry.
    """
    return _convolve(*_whole(inputs, shape), kernel)


def packed(kernel: jax.Array, shape: Geometry) -> jax.Array:
    """A kernel in the order in which oneDNN reads it, for `convolve_packed`.

    `convolve` brings its kernel into that order at each call, which takes a third of the time for a single image.

    Args:
        kernel: as for `convolve`.
        shape: from `geometry.of`; another number of images may need another order.

    Returns:
        float32 [N].
    """
    reorder, size = binding.packing(_without_stride(shape))
    given, made = np.ascontiguousarray(kernel, np.float32), np.empty(size // 4, np.float32)
    with _lock:
        binding.run(reorder, (given.ctypes.data, made.ctypes.data))
    return jax.device_put(made)  # jnp.asarray would compile a program per size


def convolve_packed(inputs: jax.Array, kernel: jax.Array, shape: Geometry) -> jax.Array:
    """`convolve`, by a kernel from `packed` for the same geometry; it has no gradient."""
    inputs, shape = _whole(inputs, shape)
    return _call("packed", shape, shape.outputs, inputs, kernel)


def _whole(inputs: jax.Array, shape: Geometry) -> tuple[jax.Array, Geometry]:
    """The inputs and geometry that oneDNN gets: a strided 1x1 convolution gets every stride-th pixel.

    oneDNN would copy these itself, and where there are fewer input channels than its blocks hold (8 with AVX2, 16 with
    AVX-512), it writes past the memory of that copy: gradients of kernels are wrong, and the process may crash at any later
    moment (uxlfoundation/oneDNN, issue 6035).
    """
    plain = _without_stride(shape)
    return (inputs if plain == shape else inputs[:, :: shape.stride_y, :: shape.stride_x]), plain


def _without_stride(shape: Geometry) -> Geometry:
    """The geometry of a strided 1x1 convolution on the pixels that it reads; any other unchanged."""
    if (shape.taps_y, shape.taps_x) != (1, 1) or (shape.stride_y, shape.stride_x) == (1, 1):
        return shape
    _, height, width, _ = shape.outputs
    return shape._replace(height=height, width=width, stride_y=1, stride_x=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _convolve(inputs: jax.Array, shape: Geometry, kernel: jax.Array) -> jax.Array:
    """As convolve, in the geometry as it is."""
    return _call("forward", shape, shape.outputs, inputs, kernel)


def _forward(inputs: jax.Array, shape: Geometry, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(inputs, shape, kernel), (inputs, kernel)


def _backward(
    shape: Geometry, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = residuals
    by_inputs = _call("by_inputs", shape, shape.inputs, gradient, kernel)  # XLA removes it if its result is not used
    return by_inputs, _call("by_kernel", shape, shape.kernel, inputs, gradient)


_convolve.defvjp(_forward, _backward)


def _call(what: str, shape: Geometry, result: tuple[int, ...], *arrays: jax.Array) -> jax.Array:
    _register()
    with _lock:
        binding.primitive(what, shape)  # what oneDNN cannot compute fails here, while JAX traces
    typed = jax.ShapeDtypeStruct(result, jnp.float32)
    words = " ".join(map(str, (what, *shape)))
    return jax.ffi.ffi_call(TARGET, typed, custom_call_api_version=3, legacy_backend_config=words)(*arrays)


@functools.cache
def _register() -> None:
    """Tells JAX of the function that it calls."""
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_target), platform="cpu", api_version=0)


_lock = threading.Lock()  # oneDNN uses all cores for one convolution, and the workspace is one
_callers: set[int] = set()
_failures: list[BaseException] = []


def check() -> None:
    """Raises the error of a program that has just run; XLA cannot pass on an exception itself."""
    if _failures:
        raise _failures.pop()


@functools.cache
def _worker() -> concurrent.futures.ThreadPoolExecutor:
    """The thread that computes for all but the first CALLERS threads, so that OpenMP starts few teams on many cores."""
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="onednn")


@functools.lru_cache(maxsize=4096)
def _named(words: bytes) -> tuple[str, Geometry]:
    """The computation that `_call` asked for."""
    what, *numbers = words.decode().split()
    return what, Geometry._make(map(int, numbers))


@ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_char),
    ctypes.c_size_t,
    ctypes.c_void_p,
)
def _target(output: int, inputs: Any, words: Any, length: int, _: int) -> None:
    """The function that XLA calls, with the `words` of `_call`. The last argument is a status that jaxlib cannot set."""
    what, shape = _named(words[:length])
    addresses = (inputs[0], inputs[1], output)
    try:
        thread = threading.get_ident()
        if thread in _callers or len(_callers) < CALLERS:
            _callers.add(thread)
            _run(what, shape, addresses)
        else:
            _elsewhere(what, shape, addresses)
    except BaseException as error:
        _failures.append(error)
        sizes = {"by_inputs": shape.inputs, "by_kernel": shape.kernel}.get(what, shape.outputs)
        ctypes.memset(output, 0xFF, int(np.prod(sizes)) * 4)  # NaN, so that nobody computes on with what was in memory


def _elsewhere(what: str, shape: Geometry, addresses: tuple[int, ...]) -> None:
    running = _worker().submit(_run, what, shape, addresses)
    try:
        running.result()
    finally:
        # Ctrl-C may end the wait above, but the arrays must live until the call is done.
        concurrent.futures.wait([running])


def _run(what: str, shape: Geometry, addresses: tuple[int, ...]) -> None:
    with _lock:
        binding.run(binding.primitive(what, shape), addresses)
