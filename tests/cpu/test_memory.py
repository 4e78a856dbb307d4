"""Memory kept between steps: the kernel clears no pages anew, the peak stays, and it goes back when asked."""

import subprocess
import sys
import threading

import pytest

from ctkeras.cpu import memory

MEASURED = """
import resource, sys
from ctkeras.runtime import process
process.configure()  # as commands do, because JAX reads some settings only once
import jax, jax.numpy as jnp, numpy as np
from ctkeras.cpu import memory

def work(x):  # its 160 MB are no output
    return lax_sum(jnp.fft.irfft(jnp.fft.rfft(x)))

lax_sum = lambda x: (x * x).sum()
x = jnp.ones((1000, 20000), jnp.float32).block_until_ready()
program = jax.jit(work).lower(x).compile()
size = program.memory_analysis().temp_size_in_bytes
assert size > 2 * memory.MMAP_THRESHOLD, size
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
seen, peaks = [], []
for step in range(10):
    junk = np.ones(300_000)  # something of a program's own lands on the heap in between
    before = faults()
    with memory.kept(size if sys.argv[1] == "kept" else 0):
        program(x).block_until_ready()
    seen.append(faults() - before)
    peaks.append(peak())
held = resident()
memory.release()
print(size, min(seen[2:]), peaks[0], peaks[-1], held, resident())
"""


def measured(how):
    done = subprocess.run([sys.executable, "-c", MEASURED, how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return map(int, done.stdout.split())


ANSWERS = """
import resource
from ctkeras.runtime import process
process.configure()
import numpy as np
from ctkeras.cpu import layers
from ctkeras.models import classifier, export, fast
built = classifier.build("mobilenet_v2", 160, classes=4)
classifier.initialise(built, seed=0, dropout=0.0)
answer = fast.program(export.core_model(built.model, 4, layers.core))
images = np.zeros((32, 160, 160, 3), np.float32)
seen = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    answer(images)
    seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(seen[2:]), seen)
"""


@pytest.mark.skipif(memory._libc() is None, reason="glibc alone has mallopt")
@pytest.mark.slow
def test_answers_of_a_model_find_their_memory_again():
    done = subprocess.run([sys.executable, "-c", ANSWERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) < 2000, done.stdout  # pages; anew they would be 38,000


@pytest.mark.skipif(memory._libc() is None, reason="glibc alone has mallopt")
def test_a_program_finds_its_memory_again():
    size, faults, first_peak, last_peak, held, left = measured("kept")
    pages = size / 4096
    assert faults < pages / 50
    assert last_peak < first_peak + size / 4
    assert left < held - size / 2
    _, faults_mapped, *_ = measured("mapped")
    assert faults_mapped > pages / 3  # else there was nothing to keep


def test_small_programs_and_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_libc", lambda: None)
    with memory.kept(2**40):
        pass
    memory.release()


def test_other_threads_are_left_alone(monkeypatch):
    """Their memory isn't on the heap; giving it back and taking it again in every step would cost them time."""
    monkeypatch.setattr(memory, "release", lambda: released.append(1))
    released = []

    def work():
        with memory.kept(2**30):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not released


STEPPED = """
import resource
import jax, numpy as np
from ctkeras.runtime import process
process.configure()
from ctkeras.data import batches
from ctkeras.models import classifier
from ctkeras.training import steps
from ctkeras.training.programs import programs_at
built = classifier.build("mobilenet_v2", 64, classes=3)
classifier.initialise(built, seed=0, dropout=0.0)
programs = programs_at(built, cut="input", on_features=False, optimizer="adamw")
rng = np.random.default_rng(0)
state, faults = programs.start(), []
numbers = steps.Hyper(*(np.float32(value) for value in (1e-3, 1e-4, 0.0)))
for _ in range(8):
    images = rng.integers(0, 256, (32, 64, 64, 3)).astype(np.float32)
    batch = batches.Batch(images, np.eye(3, dtype=np.float32)[rng.integers(0, 3, 32)], np.ones(32, np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    state = programs.train_step(state, [], programs.place_batch(batch), numbers)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
_, size = programs.compiled[next(iter(programs.compiled))]
print(size, *faults[3:])
"""


@pytest.mark.slow
@pytest.mark.skipif(memory._libc() is None, reason="glibc alone has mallopt")
def test_training_steps_find_their_memory_again():
    """Nothing that a step allocates first may take the place that the one before left."""
    done = subprocess.run([sys.executable, "-c", STEPPED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size, *faults = map(int, done.stdout.split())
    assert size > 3 * memory.MMAP_THRESHOLD
    assert sorted(faults)[len(faults) // 2] < size / 4096 / 20
