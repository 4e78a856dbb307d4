"""oneDNN, the library that PyTorch computes convolutions with: its C interface, as far as convolutions need it.

It comes as a wheel without Python code (https://uxlfoundation.github.io/oneDNN). All arrays are float32, channels last.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
from typing import Any, NamedTuple

from ctkeras.cpu.geometry import Geometry

LIBRARY = "libdnnl.so.3"  # the C interface of oneDNN 3
# From dnnl_types.h and dnnl_common_types.h, which fix them for all versions of oneDNN 3.
CPU = 1
IN_ORDER = 1
FLOAT32 = 3
ANY_FORMAT = 1
TRAINING = 64
DIRECT = 1
SCRATCH_BY_USER = 1
SOURCE = 1  # DNNL_ARG_SRC
WEIGHTS = 33  # DNNL_ARG_WEIGHTS
OUTPUT = 17  # DNNL_ARG_DST
SCRATCH = 80  # DNNL_ARG_SCRATCHPAD
SOURCE_SLOPE = 129  # DNNL_ARG_DIFF_SRC
OUTPUT_SLOPE = 145  # DNNL_ARG_DIFF_DST
WEIGHTS_SLOPE = 161  # DNNL_ARG_DIFF_WEIGHTS
QUERY_WEIGHTS = 131
QUERY_WEIGHTS_SLOPE = 132
QUERY_SCRATCH = 136
ALIGNMENT = 64  # bytes; a cache line
# For each computation: its two inputs and its output.
ROLES = {
    "forward": (SOURCE, WEIGHTS, OUTPUT),
    "packed": (SOURCE, WEIGHTS, OUTPUT),  # forward, by a kernel that is in oneDNN's order already
    "by_inputs": (OUTPUT_SLOPE, WEIGHTS, SOURCE_SLOPE),
    "by_kernel": (SOURCE, OUTPUT_SLOPE, WEIGHTS_SLOPE),
}


class _Argument(ctypes.Structure):
    """dnnl_exec_arg_t."""

    _fields_ = (("role", ctypes.c_int), ("memory", ctypes.c_void_p))


class Primitive(NamedTuple):
    """A computation that is ready to run; any thread may run it, one at a time."""

    arrays: list[Any]  # memories of the inputs and the output; their addresses are set for each call
    workspace: list[tuple[Any, int]]  # memories of what it needs besides, and their bytes
    calls: list[tuple[Any, Any]]  # (oneDNN's primitive, arguments) in order


@functools.cache
def dnnl() -> Any:
    """The loaded library; None if it, or libgomp on a minimal Linux, is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("onednn-cpu-gomp") or ():
            if file.name == LIBRARY:
                return loaded(str(file.locate()))
    return None


def loaded(path: str) -> Any:
    """Loads the library; None if it cannot be loaded."""
    policy = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read while loading; spinning threads would slow XLA's
    try:
        found = ctypes.CDLL(path)
    except OSError:
        return None
    finally:
        if policy is None:
            del os.environ["OMP_WAIT_POLICY"]
    found.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
    found.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    found.dnnl_memory_set_data_handle.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    return found


def run(primitive: Primitive, addresses: tuple[int, ...]) -> None:
    """Runs a computation. It overwrites the workspace, so the caller sees to it that no other thread does the same.

    Args:
        primitive: from `primitive` or `packing`.
        addresses: of the inputs and the output, in the order of ROLES.

    Raises:
        RuntimeError: oneDNN fails.
    """
    place = workspace(sum(_aligned(size) for _, size in primitive.workspace))
    set_address = dnnl().dnnl_memory_set_data_handle
    for memory, address in zip(primitive.arrays, addresses, strict=True):
        _checked(set_address(memory, address))
    for memory, size in primitive.workspace:
        _checked(set_address(memory, place))
        place += _aligned(size)
    execute, stream = dnnl().dnnl_primitive_execute, _engine()[1]
    for call, arguments in primitive.calls:
        _checked(execute(call, stream, len(arguments), arguments))


_workspaces: list[Any] = []  # one buffer, of the largest size needed so far


def workspace(size: int) -> int:
    """The aligned address of a buffer of `size` bytes, valid until the next call."""
    if not _workspaces or len(_workspaces[0]) < size + ALIGNMENT:
        _workspaces[:] = [ctypes.create_string_buffer(size + ALIGNMENT)]
    return _aligned(ctypes.addressof(_workspaces[0]))


def _aligned(number: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-number // ALIGNMENT) * ALIGNMENT


@functools.cache  # for the life of the process, as JAX caches its programs
def primitive(what: str, shape: Geometry) -> Primitive:
    """A convolution or one of its gradients.

    Args:
        what: a key of ROLES.
        shape: from `geometry.of`.

    Raises:
        RuntimeError: oneDNN cannot compute this geometry.
    """
    source, output = _images(shape.inputs), _images(shape.outputs)
    given, any_order = _kernels(shape)
    description = _description("forward" if what == "packed" else what, shape, source, any_order, output)
    query = QUERY_WEIGHTS_SLOPE if what == "by_kernel" else QUERY_WEIGHTS
    chosen, scratch = _queried(description, query), _queried(description, QUERY_SCRATCH)
    given_memory, chosen_memory, scratch_memory = _memory(given), _memory(chosen), _memory(scratch)
    arrays = {SOURCE: _memory(source), OUTPUT: _memory(output), WEIGHTS: given_memory}
    arrays |= {SOURCE_SLOPE: arrays[SOURCE], OUTPUT_SLOPE: arrays[OUTPUT], WEIGHTS_SLOPE: given_memory}
    roles = ROLES[what]
    inside = [chosen_memory if role in (WEIGHTS, WEIGHTS_SLOPE) else arrays[role] for role in roles]
    convolution = _made(description), _arguments(*zip(roles, inside, strict=True), (SCRATCH, scratch_memory))
    needs = [(scratch_memory, _bytes(scratch))]
    if what == "packed":
        return Primitive(inside, needs, [convolution])
    ways = (given, given_memory), (chosen, chosen_memory)
    reorder, need = _reordering(*(ways[::-1] if what == "by_kernel" else ways))
    needs += [need, (chosen_memory, _bytes(chosen))]
    calls = [convolution, reorder] if what == "by_kernel" else [reorder, convolution]
    return Primitive([arrays[role] for role in roles], needs, calls)


@functools.cache
def packing(shape: Geometry) -> tuple[Primitive, int]:
    """What puts the kernel of a convolution into the order in which its "packed" computation reads it, and its bytes then."""
    given, any_order = _kernels(shape)
    description = _description("forward", shape, _images(shape.inputs), any_order, _images(shape.outputs))
    chosen = _queried(description, QUERY_WEIGHTS)
    memories = [_memory(given), _memory(chosen)]
    reorder, need = _reordering((given, memories[0]), (chosen, memories[1]))
    return Primitive(memories, [need], [reorder]), _bytes(chosen)


@functools.cache
def _engine() -> tuple[Any, Any]:
    """The (engine, stream) of oneDNN in this process."""
    engine, stream = ctypes.c_void_p(), ctypes.c_void_p()
    _checked(dnnl().dnnl_engine_create(ctypes.byref(engine), CPU, ctypes.c_size_t(0)))
    _checked(dnnl().dnnl_stream_create(ctypes.byref(stream), engine, IN_ORDER))
    return engine, stream


@functools.cache
def _attributes() -> Any:
    """Attributes of a primitive whose scratch memory comes from us; oneDNN's own belongs to the thread that made it."""
    made = ctypes.c_void_p()
    _checked(dnnl().dnnl_primitive_attr_create(ctypes.byref(made)))
    _checked(dnnl().dnnl_primitive_attr_set_scratchpad_mode(made, SCRATCH_BY_USER))
    return made


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
        create = dnnl().dnnl_memory_desc_create_with_tag
        _checked(create(ctypes.byref(made), number, dims, FLOAT32, ANY_FORMAT))
    else:
        create = dnnl().dnnl_memory_desc_create_with_strides
        _checked(create(ctypes.byref(made), number, dims, FLOAT32, _dims(*strides)))
    return made


def _queried(description: Any, what: int) -> Any:
    """A layout that oneDNN chose for a primitive."""
    return ctypes.c_void_p(dnnl().dnnl_primitive_desc_query_md(description, what, 0))


def _bytes(layout: Any) -> int:
    return int(dnnl().dnnl_memory_desc_get_size(layout))


def _memory(layout: Any) -> Any:
    """A memory of this layout; its address is set later."""
    made = ctypes.c_void_p()
    _checked(dnnl().dnnl_memory_create(ctypes.byref(made), layout, _engine()[0], None))
    return made


def _arguments(*pairs: tuple[int, Any]) -> Any:
    return (_Argument * len(pairs))(*(_Argument(role, memory) for role, memory in pairs))


def _made(description: Any) -> Any:
    made = ctypes.c_void_p()
    _checked(dnnl().dnnl_primitive_create(ctypes.byref(made), description))
    return made


def _description(what: str, shape: Geometry, source: Any, kernel: Any, output: Any) -> Any:
    """The description of a primitive; a gradient's needs the forward one as a hint."""
    engine, found, attributes = _engine()[0], dnnl(), _attributes()
    steps = (
        _dims(shape.stride_y, shape.stride_x),
        _dims(0, 0),  # no dilation
        _dims(shape.top, shape.left),
        _dims(shape.bottom, shape.right),
    )
    forward, made = ctypes.c_void_p(), ctypes.c_void_p()
    create = found.dnnl_convolution_forward_primitive_desc_create
    _checked(create(ctypes.byref(forward), engine, TRAINING, DIRECT, source, kernel, None, output, *steps, attributes))
    if what == "forward":
        return forward
    if what == "by_inputs":
        create = found.dnnl_convolution_backward_data_primitive_desc_create
        _checked(create(ctypes.byref(made), engine, DIRECT, source, kernel, output, *steps, forward, attributes))
        return made
    create = found.dnnl_convolution_backward_weights_primitive_desc_create
    _checked(create(ctypes.byref(made), engine, DIRECT, source, kernel, None, output, *steps, forward, attributes))
    return made


def _reordering(source: tuple[Any, Any], destination: tuple[Any, Any]) -> tuple[tuple[Any, Any], tuple[Any, int]]:
    """The call that copies a kernel, given as (layout, memory), into another layout, and its scratch memory with its bytes."""
    description, engine = ctypes.c_void_p(), _engine()[0]
    create = dnnl().dnnl_reorder_primitive_desc_create
    _checked(create(ctypes.byref(description), source[0], engine, destination[0], engine, _attributes()))
    scratch = _queried(description, QUERY_SCRATCH)
    memory = _memory(scratch)
    arguments = _arguments((SOURCE, source[1]), (OUTPUT, destination[1]), (SCRATCH, memory))
    return (_made(description), arguments), (memory, _bytes(scratch))


def _checked(status: int) -> None:
    if status:
        raise RuntimeError(f"oneDNN returned status {status}")
