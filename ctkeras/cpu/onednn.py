"""Convolutions on CPU by oneDNN, the library that PyTorch uses, inside JAX's compiled programs. float32, channels last.

XLA's own convolutions take 20% longer for ResNets and several times as long for depthwise networks. oneDNN is a separate
wheel with a C interface (https://uxlfoundation.github.io/oneDNN). JAX runs it as a custom call to a Python function, which
costs little next to a convolution of milliseconds and needs no compiler. The C interface is bound in this one file, so it
is longer than others.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import importlib.metadata
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctkeras.cpu.geometry import Geometry
from ctkeras.runtime import verdict, xla

TARGET = "ctkeras_convolution"
LIBRARY = "libdnnl.so.3"  # the C interface of oneDNN 3
# From dnnl_types.h and dnnl_common_types.h, which fix them for all versions of oneDNN 3.
CPU = 1
IN_ORDER = 1
FLOAT32 = 3
ANY_FORMAT = 1
TRAINING = 64
DIRECT = 1
SOURCE = 1  # DNNL_ARG_SRC
WEIGHTS = 33  # DNNL_ARG_WEIGHTS
OUTPUT = 17  # DNNL_ARG_DST
SOURCE_SLOPE = 129  # DNNL_ARG_DIFF_SRC
OUTPUT_SLOPE = 145  # DNNL_ARG_DIFF_DST
WEIGHTS_SLOPE = 161  # DNNL_ARG_DIFF_WEIGHTS
QUERY_WEIGHTS = 131
QUERY_WEIGHTS_SLOPE = 132
ALIGNMENT = 64  # bytes; a cache line
# For each computation: its two inputs and its output.
ROLES = {
    "forward": (SOURCE, WEIGHTS, OUTPUT),
    "by_inputs": (OUTPUT_SLOPE, WEIGHTS, SOURCE_SLOPE),
    "by_kernel": (SOURCE, OUTPUT_SLOPE, WEIGHTS_SLOPE),
}


@functools.cache
def available() -> bool:
    """Whether oneDNN is installed and gives XLA's numbers with this jaxlib; CTKERAS_CPU_KERNELS=xla turns it off."""
    # Only with one device: XLA would gather the inputs of a custom call from several.
    if xla.kernels_wanted() != "on" or jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return False
    return verdict.verdict().kernels == "on" and _library() is not None


@functools.cache
def _library() -> Any:
    """The loaded library; None if it, or libgomp on a minimal Linux, is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("onednn-cpu-gomp") or ():
            if file.name == LIBRARY:
                return _loaded(str(file.locate()))
    return None


def _loaded(path: str) -> Any:
    """Loads the library and registers the custom call with JAX; None if it cannot be loaded."""
    policy = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read while loading; spinning threads would slow XLA's
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return None
    finally:
        if policy is None:
            del os.environ["OMP_WAIT_POLICY"]
    library.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
    library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_target), platform="cpu", api_version=0)
    return library


def convolve(inputs: jax.Array, kernel: jax.Array, shape: Geometry) -> jax.Array:
    """Convolves images with a kernel.

    A strided 1x1 convolution gets every stride-th pixel. oneDNN would copy these itself, and where there are fewer input
    channels than its blocks hold (8 with AVX2, 16 with AVX-512), it writes past the memory of that copy: gradients of
    kernels are wrong, and the process may crash at any later moment (uxlfoundation/oneDNN, issue 6035).

    Args:
        inputs: float32 [B, H, W, C].
        kernel: float32 [kh, kw, C, D], or [kh, kw, C, 1] if depthwise.
        shape: from `geometry.of`.

    Returns:
        float32 [B, H', W', D].

    Raises:
        RuntimeError: oneDNN cannot compute this geometry.
    """
    if (shape.taps_y, shape.taps_x) == (1, 1) and (shape.stride_y, shape.stride_x) != (1, 1):
        _, height, width, _ = shape.outputs
        inputs = inputs[:, :: shape.stride_y, :: shape.stride_x]
        shape = shape._replace(height=height, width=width, stride_y=1, stride_x=1)
    return _convolve(inputs, kernel, shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(inputs: jax.Array, kernel: jax.Array, shape: Geometry) -> jax.Array:
    """As convolve, in the geometry as it is."""
    return _call("forward", shape, shape.outputs, inputs, kernel)


def _backward(
    shape: Geometry, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = residuals
    by_inputs = _call("by_inputs", shape, shape.inputs, gradient, kernel)  # XLA removes it if its result is not used
    return by_inputs, _call("by_kernel", shape, shape.kernel, inputs, gradient)


_convolve.defvjp(lambda inputs, kernel, shape: (_convolve(inputs, kernel, shape), (inputs, kernel)), _backward)


def _call(what: str, shape: Geometry, result: tuple[int, ...], *arrays: jax.Array) -> jax.Array:
    _worker().submit(_primitive, what, shape).result()  # what oneDNN cannot compute fails here, while JAX traces
    typed = jax.ShapeDtypeStruct(result, jnp.float32)
    words = " ".join(map(str, (what, *shape)))
    return jax.ffi.ffi_call(TARGET, typed, custom_call_api_version=3, legacy_backend_config=words)(*arrays)


class _Argument(ctypes.Structure):
    """dnnl_exec_arg_t."""

    _fields_ = (("role", ctypes.c_int), ("memory", ctypes.c_void_p))


class _Primitive(NamedTuple):
    """A convolution that is ready to run: its memories, and its calls (primitive, arguments) in order."""

    arrays: list[Any]  # memories of the two inputs and the output; their addresses are set for each call
    kernel: Any  # memory of the kernel in the layout that oneDNN chose, in the workspace
    kernel_bytes: int
    calls: list[tuple[Any, Any]]


@functools.cache
def _worker() -> concurrent.futures.ThreadPoolExecutor:
    """The one thread that creates and runs primitives.

    The scratch memory of a primitive belongs to the thread that created it. XLA calls from any of its threads, and OpenMP
    would start a team of threads for each.
    """
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="onednn")


_failures: list[BaseException] = []


def check() -> None:
    """Raises the error of a program that has just run; XLA cannot pass on an exception itself."""
    if _failures:
        raise _failures.pop()


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
    what, *numbers = words[:length].decode().split()
    shape = Geometry._make(map(int, numbers))
    try:
        running = _worker().submit(_run, what, shape, (inputs[0], inputs[1], output))
        try:
            running.result()
        finally:
            concurrent.futures.wait(
                [running]
            )  # Ctrl-C may end the wait above, but the arrays must live until the call is done
    except BaseException as error:
        _failures.append(error)
        sizes = {"forward": shape.outputs, "by_inputs": shape.inputs, "by_kernel": shape.kernel}[what]
        ctypes.memset(output, 0xFF, math.prod(sizes) * 4)  # NaN, so that nobody computes on with what was in memory


def _run(what: str, shape: Geometry, addresses: tuple[int, int, int]) -> None:
    """Runs a convolution; called in the worker's thread."""
    library, stream, primitive = _library(), _engine()[1], _primitive(what, shape)
    places = (*addresses, _workspace(primitive.kernel_bytes))
    for memory, address in zip((*primitive.arrays, primitive.kernel), places, strict=True):
        _checked(library.dnnl_memory_set_data_handle(memory, ctypes.c_void_p(address)))
    for call, arguments in primitive.calls:
        _checked(library.dnnl_primitive_execute(call, stream, len(arguments), arguments))


_workspaces: list[Any] = []  # one buffer, of the largest size needed so far


def _workspace(size: int) -> int:
    """The aligned address of a buffer of `size` bytes, valid until the next call."""
    if not _workspaces or len(_workspaces[0]) < size + ALIGNMENT:
        _workspaces[:] = [ctypes.create_string_buffer(size + ALIGNMENT)]
    return -(-ctypes.addressof(_workspaces[0]) // ALIGNMENT) * ALIGNMENT


@functools.cache
def _engine() -> tuple[Any, Any]:
    """The (engine, stream) of oneDNN in this process."""
    engine, stream = ctypes.c_void_p(), ctypes.c_void_p()
    _checked(_library().dnnl_engine_create(ctypes.byref(engine), CPU, ctypes.c_size_t(0)))
    _checked(_library().dnnl_stream_create(ctypes.byref(stream), engine, IN_ORDER))
    return engine, stream


@functools.cache
def _primitive(what: str, shape: Geometry) -> _Primitive:
    """Creates a convolution; cached for the life of the process, as JAX caches its programs."""
    source = _images(shape.inputs)
    output = _images(shape.outputs)
    given, any_order = _kernels(shape)
    description = _description(what, shape, source, any_order, output)
    query = QUERY_WEIGHTS_SLOPE if what == "by_kernel" else QUERY_WEIGHTS
    chosen = ctypes.c_void_p(_library().dnnl_primitive_desc_query_md(description, query, 0))
    given_memory, chosen_memory = _memory(given), _memory(chosen)
    arrays = {SOURCE: _memory(source), OUTPUT: _memory(output), WEIGHTS: given_memory}
    arrays |= {SOURCE_SLOPE: arrays[SOURCE], OUTPUT_SLOPE: arrays[OUTPUT], WEIGHTS_SLOPE: given_memory}
    roles = ROLES[what]
    inside = [chosen_memory if role in (WEIGHTS, WEIGHTS_SLOPE) else arrays[role] for role in roles]
    convolution = _made(description), _arguments(*zip(roles, inside, strict=True))
    if what == "by_kernel":
        reorder = _reordering(chosen, given), _arguments((SOURCE, chosen_memory), (OUTPUT, given_memory))
        calls = [convolution, reorder]
    else:
        reorder = _reordering(given, chosen), _arguments((SOURCE, given_memory), (OUTPUT, chosen_memory))
        calls = [reorder, convolution]
    size = _library().dnnl_memory_desc_get_size(chosen)
    return _Primitive([arrays[role] for role in roles], chosen_memory, size, calls)


def _images(shape: tuple[int, ...]) -> Any:
    """The layout of [B, H, W, C] in memory; oneDNN's order of sizes is B, C, H, W."""
    batch, height, width, channels = shape
    return _layout((batch, channels, height, width), (height * width * channels, 1, width * channels, channels))


def _kernels(shape: Geometry) -> tuple[Any, Any]:
    """The layout of the kernel in Keras, and one whose order oneDNN may choose."""
    taps_y, taps_x, channels, filters = shape.kernel
    row = taps_x * channels * filters
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    if shape.depthwise:  # oneDNN's groups come first
        sizes, strides = (channels, 1, 1, taps_y, taps_x), (1, 1, 1, row, channels)
    else:
        sizes, strides = (filters, channels, taps_y, taps_x), (1, filters, row, channels * filters)
    return _layout(sizes, strides), _layout(sizes)


def _dims(*values: int) -> Any:
    return (ctypes.c_int64 * 12)(*values)  # DNNL_MAX_NDIMS


def _layout(sizes: tuple[int, ...], strides: tuple[int, ...] | None = None) -> Any:
    made, number, dims = ctypes.c_void_p(), len(sizes), _dims(*sizes)
    if strides is None:
        create = _library().dnnl_memory_desc_create_with_tag
        _checked(create(ctypes.byref(made), number, dims, FLOAT32, ANY_FORMAT))
    else:
        create = _library().dnnl_memory_desc_create_with_strides
        _checked(create(ctypes.byref(made), number, dims, FLOAT32, _dims(*strides)))
    return made


def _memory(layout: Any) -> Any:
    """A memory of this layout; its address is set later."""
    made = ctypes.c_void_p()
    _checked(_library().dnnl_memory_create(ctypes.byref(made), layout, _engine()[0], None))
    return made


def _arguments(*pairs: tuple[int, Any]) -> Any:
    return (_Argument * len(pairs))(*(_Argument(role, memory) for role, memory in pairs))


def _made(description: Any) -> Any:
    made = ctypes.c_void_p()
    _checked(_library().dnnl_primitive_create(ctypes.byref(made), description))
    return made


def _description(what: str, shape: Geometry, source: Any, kernel: Any, output: Any) -> Any:
    """The description of a primitive; a gradient's needs the forward one as a hint."""
    engine, library = _engine()[0], _library()
    steps = (
        _dims(shape.stride_y, shape.stride_x),
        _dims(0, 0),  # no dilation
        _dims(shape.top, shape.left),
        _dims(shape.bottom, shape.right),
    )
    forward, made = ctypes.c_void_p(), ctypes.c_void_p()
    create = library.dnnl_convolution_forward_primitive_desc_create
    _checked(create(ctypes.byref(forward), engine, TRAINING, DIRECT, source, kernel, None, output, *steps, None))
    if what == "forward":
        return forward
    if what == "by_inputs":
        create = library.dnnl_convolution_backward_data_primitive_desc_create
        _checked(create(ctypes.byref(made), engine, DIRECT, source, kernel, output, *steps, forward, None))
        return made
    create = library.dnnl_convolution_backward_weights_primitive_desc_create
    _checked(create(ctypes.byref(made), engine, DIRECT, source, kernel, None, output, *steps, forward, None))
    return made


def _reordering(source: Any, destination: Any) -> Any:
    """A primitive that copies a kernel from one layout to another."""
    description, engine = ctypes.c_void_p(), _engine()[0]
    create = _library().dnnl_reorder_primitive_desc_create
    _checked(create(ctypes.byref(description), source, engine, destination, engine, None))
    return _made(description)


def _checked(status: int) -> None:
    if status:
        raise RuntimeError(f"oneDNN returned status {status}")
