"""The process of a run: its caches, XLA flags, devices, memory, and progress on the terminal."""

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

# jaxlib versions that were tested: they accept the flag below (an unknown flag aborts the process), give the same numbers
# with it, and can call onednn.py.
VERIFIED_JAXLIB = ("0.10.2",)
# On CPU the default fusion makes weight gradients of convolutions 3 times slower (benchmarks/RESULTS.md).
CPU_FLAGS = ("--xla_cpu_experimental_ynn_fusion_type=",)
COMPILE_CACHE_BYTES = 4 * 2**30  # bytes; a train step takes 1 to 40 MB


# Counts of this process so far: train_programs_compiled, and cache_hits and cache_misses of JAX's compile cache.
compile_counts: collections.Counter[str] = collections.Counter()


def cache_dir(part: str = "") -> Path:
    """The folder of a cache shared by all runs: in $CTKERAS_CACHE_DIR, or else in ctkeras in the user's cache folder.

    Args:
        part: name of the cache; '' for the folder that holds them all.
    """
    if root := os.environ.get("CTKERAS_CACHE_DIR"):
        return Path(root).expanduser().absolute() / part
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "ctkeras" / part


def version(package: str) -> str:
    """The installed version of a package; '' if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def configure() -> None:
    """Prepares the process for JAX: sets XLA flags, silences TensorFlow and enables the compile cache.

    Call it before jax is imported. CTKERAS_XLA_FLAGS=off leaves XLA_FLAGS unchanged.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if "jax" not in sys.modules and os.environ.get("CTKERAS_XLA_FLAGS", "on") != "off":
        os.environ["XLA_FLAGS"] = with_cpu_flags(os.environ.get("XLA_FLAGS", ""))
    import jax

    with without("sklearn", "tensorflow"):
        import keras  # noqa: F401

    # On CPU, run each program in the thread that calls it: heap.py reuses memory of that thread only.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "listening" not in compile_counts:  # once per process
        compile_counts["listening"] = 1
        jax.monitoring.register_event_listener(_count_compilation)
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir("jax")))
        jax.config.update("jax_compilation_cache_max_size", COMPILE_CACHE_BYTES)
    # By default JAX does not cache small programs that compile quickly, and a start-up compiles many of those.
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _count_compilation(event: str, **_: object) -> None:
    """Counts hits and misses in JAX's compile cache."""
    name = event.rpartition("/")[2]
    if name in ("cache_hits", "cache_misses"):
        compile_counts[name] += 1


def with_cpu_flags(flags: str) -> str:
    """The user's XLA flags, followed by ours if this jaxlib was tested with them and no GPU plugin could reject them."""
    if version("jaxlib") not in VERIFIED_JAXLIB or any(
        importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)
    ):
        return flags
    missing = [flag for flag in CPU_FLAGS if flag.partition("=")[0] not in flags]
    return " ".join([flags, *missing]).strip()


@contextlib.contextmanager
def without(*modules: str) -> Iterator[None]:
    """Makes imports of these modules fail inside the block, unless they are already imported.

    It is for building and loading models, not for running them. Keras imports TensorFlow only to check the type of a
    setting, and scikit-learn only for its wrappers, which would take seconds.
    """
    absent = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes an import raise ImportError
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def cpu_kernels() -> bool:
    """Whether the layers of kernels.py are used: on CPU, unless CTKERAS_CPU_KERNELS=off."""
    import jax

    return jax.default_backend() == "cpu" and kernels_wanted() != "off"


def kernels_wanted() -> str:
    """The value of CTKERAS_CPU_KERNELS: on (the default), xla (without oneDNN) or off.

    Raises:
        UserError: it has another value.
    """
    wanted = os.environ.get("CTKERAS_CPU_KERNELS") or "on"
    if wanted not in ("on", "xla", "off"):
        raise UserError(f"CTKERAS_CPU_KERNELS must be on, xla or off; got {wanted!r}")
    return wanted


def compiler_options() -> dict[str, str | bool]:
    """Compiler options for a program: on CPU, those that keep the optimization barriers of kernels.py.

    XLA's CPU backend removes them before it fuses. Without that pass they remain, at no cost.
    """
    verified = version("jaxlib") in VERIFIED_JAXLIB and os.environ.get("CTKERAS_XLA_FLAGS", "on") != "off"
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if verified and cpu_kernels() else {}


def configure_tensorflow() -> None:
    """Imports TensorFlow without its start-up messages and hides the GPU from it: here it only feeds images.

    Raises:
        ImportError: it is not installed.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_native_code():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # another library has already used TensorFlow
            tf.config.set_visible_devices([], "GPU")
    logging.getLogger("absl").setLevel(logging.ERROR)


def lend_importlib_resources() -> None:
    """Provides the standard library's importlib.resources as the backport that TFDS imports without declaring it."""
    import importlib.resources.abc

    sys.modules.setdefault("importlib_resources", importlib.resources)


@contextlib.contextmanager
def _quiet_native_code() -> Iterator[None]:
    """Discards what native code writes to standard error: TensorFlow's libraries ignore the log level while they load."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def memory_bytes() -> int:
    """Peak memory in bytes: of the accelerator if it reports it, or else of this process."""
    import resource

    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames it to `path` on success; on failure `path` is unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock that excludes other processes; the system releases it when the process dies."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def bound(folder: Path, max_bytes: int, *, keep: Path) -> None:
    """Deletes the least recently used entries of a cache folder until it holds at most `max_bytes`; never `keep`."""
    entries = []
    for entry in folder.iterdir():
        if entry.suffix == ".lock":  # deleting a held lock would let others in
            continue
        with contextlib.suppress(OSError):  # another process may be deleting at the same time
            entries.append((entry.stat().st_mtime, entry, folder_bytes(entry)))
    total = sum(size for _, _, size in entries)
    for _, entry, size in sorted(entries, key=lambda item: item[0]):
        if total <= max_bytes:
            return
        if entry != keep:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
            total -= size


def folder_bytes(path: Path) -> int:
    """Size in bytes of a file, or of all files under a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def note(text: str) -> None:
    """Prints a line of progress to standard error, so that standard output holds only results."""
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
    """Prints a line before a long step, and its duration afterwards if it took more than a second."""
    note(f"{text} …")
    start = time.perf_counter()
    yield
    if time.perf_counter() - start > 1:
        note(f"  done in {time.perf_counter() - start:.1f} s")


class Bar:
    """A progress bar with the time left, for one epoch; drawn only on a terminal (a log gets one line per epoch)."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.start = title, total, time.perf_counter()
        self.shown = sys.stderr.isatty()

    def update(self, done: int) -> None:
        """Draws the bar after `done` of `total` steps."""
        if not self.shown:
            return
        width = 24  # characters; fits beside title and ETA in 80 columns
        filled = width * done // self.total
        left = (time.perf_counter() - self.start) / done * (self.total - done)
        bar = "█" * filled + "░" * (width - filled)
        print(f"\r{self.title} {bar} {done}/{self.total}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clears the line of the bar."""
        if self.shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
