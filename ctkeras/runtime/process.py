"""The process of a run: its caches, XLA flags, devices, memory, and progress on the terminal."""

import collections
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from ctkeras.errors import UserError
from ctkeras.runtime import home, programs
from ctkeras.runtime.files import cache_dir
from ctkeras.runtime.xla import require_devices, require_known_flags, with_cpu_flags

# Counts of this process so far: train_programs_compiled, and cache_hits and cache_misses of JAX's compile cache.
compile_counts: collections.Counter[str] = collections.Counter()


def configure() -> None:
    """Prepares the process for JAX: sets XLA flags, silences TensorFlow, enables the compile cache, and imports Keras.

    Call it before jax is imported. CTKERAS_XLA_FLAGS=off leaves XLA_FLAGS unchanged.

    Raises:
        UserError: JAX has no device of the kind that JAX_PLATFORMS names, XLA does not know a flag, Keras was imported on
            another backend, or no cache folder can be written.
    """
    home.temporary_files()
    home.named_user()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if "jax" not in sys.modules and os.environ.get("CTKERAS_XLA_FLAGS", "on") != "off":
        require_known_flags(os.environ.get("XLA_FLAGS", ""))
        os.environ["XLA_FLAGS"] = with_cpu_flags(os.environ.get("XLA_FLAGS", ""))
    _import_jax()
    import jax

    # On CPU, run each program in the thread that calls it: cpu/memory.py reuses memory of that thread only. JAX reads this
    # when it opens its devices, and not again.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    require_devices()
    _import_keras()
    if "listening" not in compile_counts:  # once per process
        compile_counts["listening"] = 1
        jax.monitoring.register_event_listener(_count_compilation)
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir(programs.PART)))
        jax.config.update("jax_compilation_cache_max_size", programs.MAX_BYTES)
        programs.install()
    # By default JAX does not cache small programs that compile quickly, and a start-up compiles many of those.
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _import_jax() -> None:
    """Imports JAX, with the types that all numbers here were measured in.

    Raises:
        UserError: one of its variables has a value that it does not take.
    """
    try:
        import jax
    except ValueError as error:
        raise UserError(
            f"JAX refuses a variable: {' '.join(str(error).split())[:200]}; correct it, or unset it"
        ) from error
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")


def _import_keras() -> None:
    """Imports Keras with its defaults, whatever a user's keras.json or another library has set: a run's numbers depend on them.

    Raises:
        UserError: KERAS_BACKEND names a backend that cannot be imported, or Keras was imported on another one.
    """
    wanted = os.environ.get("KERAS_BACKEND") or "jax"
    if "keras" not in sys.modules:
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("KERAS_")}
        try:
            with (
                tempfile.TemporaryDirectory() as empty,
                without("sklearn", "pandas", *(["tensorflow"] if wanted != "tensorflow" else [])),
            ):
                os.environ |= {"KERAS_HOME": empty, "KERAS_BACKEND": wanted}
                import keras
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"KERAS_BACKEND is {wanted!r} and cannot be used ({reason}); set it to jax, or unset it"
            ) from error
        finally:
            del os.environ["KERAS_HOME"]
            os.environ |= hidden
    import keras

    if keras.backend.backend() != wanted:
        raise UserError(
            f"Keras was imported on {keras.backend.backend()} before ctkeras, which needs it on {wanted}: import ctkeras "
            f"first, or set KERAS_BACKEND={wanted}"
        )
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)  # Keras' own default, as all here
    keras.config.set_image_data_format("channels_last")


def require_jax() -> None:
    """Checks that Keras runs on JAX: ctkeras trains only there, while the exported model runs on any backend.

    Raises:
        UserError: it runs on another backend.
    """
    keras = sys.modules.get("keras")
    backend = keras.backend.backend() if keras else os.environ.get("KERAS_BACKEND")
    if backend != "jax":
        raise UserError(
            f"Keras runs on {backend} and ctkeras trains on jax: set KERAS_BACKEND=jax before keras is imported"
        )


def _count_compilation(event: str, **_: object) -> None:
    """Counts hits and misses in JAX's compile cache."""
    name = event.rpartition("/")[2]
    if name in ("cache_hits", "cache_misses"):
        compile_counts[name] += 1


@contextlib.contextmanager
def without(*modules: str) -> Iterator[None]:
    """Makes imports of these modules fail inside the block, unless they are already imported.

    It is for building and loading models, not for running them. Keras imports TensorFlow only to check the type of a
    setting, scikit-learn only for its wrappers, and pandas only for data frames given to its models, which would take seconds.
    """
    absent = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes an import raise ImportError
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


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
