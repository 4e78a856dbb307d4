"""Convolutions by oneDNN: XLA's values and gradients, in any geometry, at once, and what happens without the library."""

import ctypes
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax import lax

from ctkeras.cpu import binding, geometry, onednn

needs_onednn = pytest.mark.skipif(not onednn.available(), reason="oneDNN's wheel is for Linux on x86-64")
SHAPE = geometry.of((2, 8, 9, 3), (3, 3, 3, 5), strides=(1, 1), padding="same", depthwise=False)


def by_xla(inputs, kernel, shape):
    """The same convolution by XLA."""
    return lax.conv_general_dilated(
        inputs,
        kernel.reshape(*kernel.shape[:2], 1, -1) if shape.depthwise else kernel,
        (shape.stride_y, shape.stride_x),
        ((shape.top, shape.bottom), (shape.left, shape.right)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=shape.channels if shape.depthwise else 1,
    )


def drawn(shape, seed=0):
    """(inputs, kernel, direction of the outputs) for a geometry."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size, np.float32) for size in (shape.inputs, shape.kernel, shape.outputs)]


def geometries(count):
    """Random geometries, some of whose pixels no tap reads."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        batch, height, width, channels, filters, *taps = rng.integers([1, 5, 5, 1, 1, 1, 1], [4, 13, 13, 20, 20, 5, 5])
        depthwise = bool(rng.integers(2))
        yield geometry.of(
            (int(batch), int(height), int(width), int(channels)),
            (*map(int, taps), int(channels), 1 if depthwise else int(filters)),
            strides=tuple(map(int, rng.integers(1, 4, 2))),
            padding=str(rng.choice(["same", "valid"])),
            depthwise=depthwise,
        )


@needs_onednn
@pytest.mark.parametrize("shape", list(geometries(16)), ids=lambda shape: "x".join(map(str, shape)))
def test_it_computes_what_xla_computes(shape):
    inputs, kernel, direction = drawn(shape)

    def both(convolve):
        outputs, pull = jax.vjp(lambda x, k: convolve(x, k, shape), inputs, kernel)
        return outputs, *pull(direction)

    expected, found = jax.jit(lambda: (both(by_xla), both(onednn.convolve)))()
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(one)


@needs_onednn
@pytest.mark.parametrize("sizes", [((3, 10, 9, 6), 6, (1, 3)), ((1, 9, 14, 3), 19, (3, 1))])
def test_gradients_of_strided_1x1_kernels_are_right_every_time(sizes):
    """oneDNN's own are wrong in most of such calls, but only with two threads, and not in each call."""
    size, filters, strides = sizes
    shape = geometry.of(size, (1, 1, size[-1], filters), strides=strides, padding="same", depthwise=False)
    inputs, kernel, direction = drawn(shape)
    step = jax.jit(lambda x, k: jax.vjp(lambda x, k: onednn.convolve(x, k, shape), x, k)[1](direction))
    pixels = inputs[:, :: strides[0], :: strides[1]]
    expected = np.einsum("bhwc,bhwd->cd", pixels, direction)
    for _ in range(30):
        by_inputs, by_kernel = step(inputs, kernel)
        assert np.linalg.norm(by_kernel[0, 0] - expected) <= 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(
        np.asarray(by_inputs)[:, :: strides[0], :: strides[1]], direction @ kernel[0, 0].T, atol=1e-4
    )
    assert np.count_nonzero(by_inputs) <= pixels.size


@needs_onednn
def test_every_unsafe_geometry_reaches_onednn_without_its_stride(monkeypatch):
    """Whatever this CPU's instructions are: the other set's unsafe geometries are not given to oneDNN either."""
    called, real = [], onednn._call
    monkeypatch.setattr(onednn, "_call", lambda what, shape, *rest: called.append(shape) or real(what, shape, *rest))
    shape = geometry.of((2, 8, 9, 15), (1, 1, 15, 4), strides=(2, 3), padding="valid", depthwise=False)
    inputs, kernel, direction = drawn(shape)
    _, pull = jax.vjp(lambda x, k: onednn.convolve(x, k, shape), inputs, kernel)
    assert pull(direction)[0].shape == shape.inputs
    assert {(given.stride_y, given.stride_x) for given in called} == {(1, 1)} and len(called) == 3


SHARES_PROGRAMS = """
import sys
from ctkeras.runtime import process
process.configure()
import jax, keras, numpy as np
from ctkeras.cpu import check, geometry, onednn
samples = check.samples()
for name in sys.argv[1].split(","):
    print(name, check.difference(samples[name]) <= check.TOLERANCE)
for taps in map(int, sys.argv[2].split(",")):
    x, k = np.random.default_rng(taps).standard_normal((2, 9, 9, 6), np.float32), np.ones((taps, taps, 6, 5), np.float32)
    shape = geometry.of(x.shape, k.shape, strides=(1, 3), padding="same", depthwise=False)
    step = jax.jit(jax.value_and_grad(lambda x, k: (onednn.convolve(x, k, shape) ** 2).sum(), argnums=(0, 1)))
    value, (by_inputs, by_kernel) = step(x, k)
    print(taps, np.asarray(value).tobytes().hex(), hash(np.asarray(by_inputs).tobytes()), hash(np.asarray(by_kernel).tobytes()))
print("hits", process.compile_counts["cache_hits"], "misses", process.compile_counts["cache_misses"])
"""


@pytest.mark.slow
@needs_onednn
def test_programs_that_another_process_cached_give_the_same_numbers(tmp_path):
    """A cached program names its convolutions by their sizes, not by what this process made, so any order is right."""
    environment = os.environ | {"CTKERAS_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": "0"}

    def lines(kinds, taps):
        command = [sys.executable, "-c", SHARES_PROGRAMS, kinds, taps]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-500:]
        return done.stdout.splitlines()

    first = lines("1x1 convolution,strided convolution", "1,3,2")
    second = lines("strided convolution,1x1 convolution", "2,1,3")
    assert sorted(first[:-1]) == sorted(second[:-1]) and all(line.endswith("True") for line in first[:2])
    assert second[-1].endswith("misses 0")


@needs_onednn
def test_it_gives_the_same_bits_again():
    """A resumed run goes on as the uninterrupted one."""
    inputs, kernel, direction = drawn(SHAPE)
    step = jax.jit(lambda x, k: jax.vjp(lambda x, k: onednn.convolve(x, k, SHAPE), x, k)[1](direction))
    first = step(inputs, kernel)
    for _ in range(5):
        for one, other in zip(first, step(inputs, kernel), strict=True):
            np.testing.assert_array_equal(one, other)


@needs_onednn
def test_threads_at_once_do_not_mix_their_arrays():
    step = jax.jit(lambda x, k: onednn.convolve(x, k, SHAPE))
    given = [drawn(SHAPE, seed)[:2] for seed in range(6)]
    expected = [np.array(step(*pair)) for pair in given]
    wrong = []

    def work(number):
        for _ in range(50):
            if not np.array_equal(step(*given[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_onednn
def test_threads_beyond_the_first_few_are_served_by_one(monkeypatch):
    """The same numbers, whoever computes; with many cores each calling thread would get a team of as many."""
    inputs, kernel, _ = drawn(SHAPE)
    step = jax.jit(lambda x, k: onednn.convolve(x, k, SHAPE))
    expected, served, real = np.array(step(inputs, kernel)), [], onednn._elsewhere
    monkeypatch.setattr(onednn, "_callers", set())
    monkeypatch.setattr(onednn, "CALLERS", 0)
    monkeypatch.setattr(onednn, "_elsewhere", lambda *given: served.append(given[0]) or real(*given))
    np.testing.assert_array_equal(step(inputs, kernel), expected)
    assert served == ["forward"]


@needs_onednn
@pytest.mark.parametrize("shape", list(geometries(16)), ids=lambda shape: "x".join(map(str, shape)))
def test_a_packed_kernel_gives_the_same_bits(shape):
    inputs, kernel, _ = drawn(shape)
    expected = jax.jit(lambda x, k: onednn.convolve(x, k, shape))(inputs, kernel)
    packed = onednn.packed(kernel, shape)
    assert packed.ndim == 1 and packed.size >= kernel.size
    found = jax.jit(lambda x, k: onednn.convolve_packed(x, k, shape))(inputs, packed)
    np.testing.assert_array_equal(found, expected)


MADE_HERE_RUN_THERE = """
from ctkeras.runtime import process
process.configure()
import threading
import jax, numpy as np
from ctkeras.cpu import geometry, onednn
# Computed by way of a matrix product, whose scratch memory oneDNN ties to a thread.
shape = geometry.of((2, 3, 3, 2), (7, 7, 2, 4), strides=(2, 2), padding="same", depthwise=False)
inputs, kernel = np.ones(shape.inputs, np.float32), np.ones(shape.kernel, np.float32)
step = jax.jit(lambda x, k: jax.vjp(lambda x, k: onednn.convolve(x, k, shape), x, k)[1](np.ones(shape.outputs, np.float32)))
found = [np.asarray(step(inputs, kernel)[1])]
for _ in range(3):
    thread = threading.Thread(target=lambda: found.append(np.asarray(step(inputs, kernel)[1])))
    thread.start()
    thread.join()
print(len(found), all(np.array_equal(found[0], other) for other in found))
"""


@needs_onednn
@pytest.mark.parametrize(
    "machine", ["DEFAULT", *(pytest.param(each, marks=pytest.mark.slow) for each in ("AVX2", "SSE41"))]
)
def test_any_thread_may_run_what_another_made(machine):
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": machine}
    done = subprocess.run([sys.executable, "-c", MADE_HERE_RUN_THERE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.splitlines()[-1] == "4 True"


@needs_onednn
def test_a_convolution_that_fails_leaves_no_number_behind(monkeypatch):
    """An error can't go through XLA; it comes after the program, and whoever doesn't ask gets no numbers."""

    def failing(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(onednn, "_run", failing)
    inputs, kernel, _ = drawn(SHAPE)
    assert np.isnan(jax.jit(lambda x, k: onednn.convolve(x, k, SHAPE))(inputs, kernel)).all()
    with pytest.raises(RuntimeError, match="out of memory"):
        onednn.check()
    onednn.check()


@needs_onednn
def test_what_onednn_refuses_is_said_while_tracing():
    inputs, kernel, _ = drawn(SHAPE)
    with pytest.raises(RuntimeError, match="status"):
        jax.jit(lambda x, k: onednn.convolve(x, k, SHAPE._replace(top=-9)))(inputs, kernel)


ONE_STEP = """
from ctkeras.runtime import process
process.configure()
import jax, keras, numpy as np
from ctkeras.cpu import layers, onednn
stock = keras.layers.Conv2D(4, 3, padding="same")
layer = layers.for_cpu(stock).from_config(stock.get_config())
text = jax.jit(lambda x: layer(x)).lower(np.ones((1, 8, 8, 3), np.float32)).as_text()
print(onednn.available(), onednn.TARGET in text)
"""


@needs_onednn
@pytest.mark.parametrize(
    ("chosen", "expected"), [pytest.param("on", "True True", marks=pytest.mark.slow), ("xla", "False False")]
)
def test_the_environment_chooses(chosen, expected):
    environment = os.environ | {"CTKERAS_CPU_KERNELS": chosen}
    done = subprocess.run([sys.executable, "-c", ONE_STEP], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == expected


def test_without_the_library_xla_computes(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(binding, "dnnl", binding.dnnl.__wrapped__)  # as it was before it was found
    assert not onednn.available.__wrapped__()


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("taps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("size", [1, 5, 8, 9])
def test_same_padding_is_tensorflows(size, taps, stride):
    (expected,) = lax.padtype_to_pads((size,), (taps,), (stride,), "SAME")
    assert geometry.pads(size, taps, stride=stride, padding="same") == expected
    assert geometry.pads(size, taps, stride=stride, padding="valid") == (0, 0)


@needs_onednn
@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (onednn.verdict, "verdict", lambda: onednn.verdict.NOTHING),
        (onednn.jax, "default_backend", lambda: "gpu"),
        (onednn.jax, "local_device_count", lambda: 2),
        (onednn.binding, "dnnl", lambda: None),
    ],
    ids=["a jaxlib that failed the check", "a GPU", "two devices", "no library"],
)
def test_onednn_is_used_only_where_it_can_be(monkeypatch, place, name, value):
    assert onednn.available.__wrapped__()
    monkeypatch.setattr(place, name, value)
    assert not onednn.available.__wrapped__()


def test_a_workspace_is_aligned_reused_and_grown(monkeypatch):
    monkeypatch.setattr(binding, "_workspaces", [])
    addresses = [binding.workspace(size) for size in (1000, 10, 1000)]
    assert addresses[0] % 64 == 0
    assert len(set(addresses)) == 1
    assert len(binding._workspaces[0]) == 1000 + 64
    assert binding.workspace(5000) % 64 == 0
    start = ctypes.addressof(binding._workspaces[0])
    assert start <= binding.workspace(5000) and binding.workspace(5000) + 5000 <= start + len(binding._workspaces[0])


@needs_onednn
def test_the_wait_policy_is_set_only_while_the_library_loads(monkeypatch):
    during = []
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda path: during.append(os.environ["OMP_WAIT_POLICY"]) or load(path))
    path = binding.dnnl()._name
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    binding.loaded(path)
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    binding.loaded(path)
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert during == ["passive", "active"]
