"""The process a run lives in: caches, XLA flags, devices, memory, progress on the terminal."""

import collections
import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctkeras.config import UserError

# jaxlib versions on which the flag below was seen to be known and to give the same numbers (an unknown flag aborts), and
# which call onednn.py.
VERIFIED_JAXLIB = ("0.10.2",)
# The default fusion is 3x slower for convolutions' weight gradients on CPU (benchmarks/RESULTS.md).
CPU_FLAGS = ("--xla_cpu_experimental_ynn_fusion_type=",)
COMPILE_CACHE_BYTES = 4 * 2**30  # bytes; a train step takes 1 to 40 MB


# What this process has compiled so far: train_programs_compiled, and JAX's cache_hits and cache_misses.
compile_counts: collections.Counter[str] = collections.Counter()


def cache_dir(part: str = "") -> Path:
    """The folder for what is kept between runs: $CTKERAS_CACHE_DIR, or ctkeras in the user's cache folder."""
    if root := os.environ.get("CTKERAS_CACHE_DIR"):
        return Path(root).expanduser().absolute() / part
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "ctkeras" / part


def version(package: str) -> str:
    """A package's installed version, '' when it isn't installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def configure() -> None:
    """Readies the process for JAX: XLA flags, quiet TensorFlow, the compile cache. To be called before jax is imported.

    CTKERAS_XLA_FLAGS=off leaves XLA_FLAGS as they are.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if "jax" not in sys.modules and os.environ.get("CTKERAS_XLA_FLAGS", "on") != "off":
        os.environ["XLA_FLAGS"] = with_cpu_flags(os.environ.get("XLA_FLAGS", ""))
    import jax

    with without("sklearn", "tensorflow"):
        import keras  # noqa: F401

    # On CPU a program runs in the thread that calls it, once its arguments are there (heap.py is for that thread's memory).
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "listening" not in compile_counts:  # once a process
        compile_counts["listening"] = 1
        jax.monitoring.register_event_listener(_count_compilation)
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir("jax")))
        jax.config.update("jax_compilation_cache_max_size", COMPILE_CACHE_BYTES)
    # JAX's thresholds leave out small and quick programs, of which a start-up is full.
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _count_compilation(event: str, **_: object) -> None:
    """Counts JAX's look-ups in the compile cache."""
    name = event.rpartition("/")[2]
    if name in ("cache_hits", "cache_misses"):
        compile_counts[name] += 1


def with_cpu_flags(flags: str) -> str:
    """The user's XLA flags and ours after them, where ours are verified and no GPU plugin is there to refuse them."""
    if version("jaxlib") not in VERIFIED_JAXLIB or any(
        importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)
    ):
        return flags
    mine = [flag for flag in CPU_FLAGS if flag.partition("=")[0] not in flags]
    return " ".join([flags, *mine]).strip()


@contextlib.contextmanager
def without(*modules: str) -> Iterator[None]:
    """Lets imports of modules fail meanwhile, where they are not imported yet; to make or load models in, not to run them.

    Keras imports TensorFlow to ask whether a setting is of a type of its, and scikit-learn for wrappers: seconds for nothing.
    """
    absent = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes an import raise ImportError
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def cpu_kernels() -> bool:
    """Whether training on CPU uses kernels.py's layers: unless CTKERAS_CPU_KERNELS=off."""
    import jax

    return jax.default_backend() == "cpu" and kernels_wanted() != "off"


def kernels_wanted() -> str:
    """CTKERAS_CPU_KERNELS: on, xla (without oneDNN) or off.

    Raises:
        UserError: it is something else.
    """
    wanted = os.environ.get("CTKERAS_CPU_KERNELS") or "on"
    if wanted not in ("on", "xla", "off"):
        raise UserError(f"CTKERAS_CPU_KERNELS must be on, xla or off; got {wanted!r}")
    return wanted


def compiler_options() -> dict[str, str | bool]:
    """Options that a program is compiled with: on CPU, those that make optimization barriers of kernels.py count.

    XLA's CPU backend drops them before it fuses; without the pass that drops them they are kept, and cost nothing.
    """
    verified = version("jaxlib") in VERIFIED_JAXLIB and os.environ.get("CTKERAS_XLA_FLAGS", "on") != "off"
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if verified and cpu_kernels() else {}


def configure_tensorflow() -> None:
    """Imports TensorFlow, which only feeds images here, without its start-up chatter and away from the GPU's memory.

    Raises:
        ImportError: it isn't installed.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_native_code():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # another library has used TensorFlow already
            tf.config.set_visible_devices([], "GPU")
    logging.getLogger("absl").setLevel(logging.ERROR)


def lend_importlib_resources() -> None:
    """Lets TFDS have the standard library's module as the backport that it asks for without depending on it."""
    import importlib.resources.abc

    sys.modules.setdefault("importlib_resources", importlib.resources)


@contextlib.contextmanager
def _quiet_native_code() -> Iterator[None]:
    """Drops what native code writes to standard error: TensorFlow's libraries heed no log level while they load."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def memory_bytes() -> int:
    """Peak memory in bytes: of the accelerator when there is one, else of this process."""
    import resource

    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves it there when all went well; else `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock between processes; the system gives it up when a process dies."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def bound(folder: Path, max_bytes: int, *, keep: Path) -> None:
    """Deletes the entries of a cache folder used longest ago until it holds at most `max_bytes`; never `keep`."""
    entries = []
    for entry in folder.iterdir():
        if entry.suffix == ".lock":  # deleted while held, it would keep nobody out
            continue
        with contextlib.suppress(OSError):  # another process may be deleting too
            entries.append((entry.stat().st_mtime, entry, folder_bytes(entry)))
    total = sum(size for _, _, size in entries)
    for _, entry, size in sorted(entries, key=lambda item: item[0]):
        if total <= max_bytes:
            return
        if entry != keep:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
            total -= size


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def note(text: str) -> None:
    """Tells the person waiting what is happening; standard error, so that standard output stays results alone."""
    print(text, file=sys.stderr, flush=True)


def value_text(value: Any) -> str:
    """A hyperparameter's value, short: true, 0.0012, resnet18."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def seconds_text(seconds: float) -> str:
    """A duration in the unit that suits it: 8.2 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{0 if minutes >= 9.95 else 1}f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line before a silent wait and one with its time after it, when it took over a second."""
    note(f"{text} …")
    start = time.perf_counter()
    yield
    if time.perf_counter() - start > 1:
        note(f"  done in {time.perf_counter() - start:.1f} s")


class Bar:
    """One epoch's progress: a bar with ETA on a terminal, nothing otherwise (the epoch's line says it then)."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.start = title, total, time.perf_counter()
        self.shown = sys.stderr.isatty()

    def update(self, done: int) -> None:
        """Draws `done` of `total` steps."""
        if not self.shown:
            return
        width = 24  # characters; fits beside title and ETA in 80 columns
        filled = width * done // self.total
        left = (time.perf_counter() - self.start) / done * (self.total - done)
        bar = "█" * filled + "░" * (width - filled)
        print(f"\r{self.title} {bar} {done}/{self.total}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clears the bar's line."""
        if self.shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
