"""The lines of `doctor`: versions, devices, caches, data and W&B."""

import os
import platform
from collections.abc import Iterator

from ctkeras import __version__
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.runtime import files, process, versions, xla
from ctkeras.tracking import run

PACKAGES = ("keras", "jax", "jaxlib", "tensorflow", "keras-cv", "keras-hub", "tensorflow-datasets", "wandb", "numpy")


def report() -> Iterator[tuple[str, str]]:
    """Yields (name, state) for each line."""
    yield "ctkeras", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield package, versions.version(package) or "not installed"
    yield "keras backend", os.environ.get("KERAS_BACKEND", "")
    process.configure()
    import jax

    yield "jax devices", ", ".join(f"{device.device_kind} ({device.platform})" for device in jax.local_devices())
    yield "convolutions", _convolutions()
    yield "XLA_FLAGS", os.environ.get("XLA_FLAGS") or "none"
    yield "tensorflow sees GPU", _tensorflow_gpus()
    for part in ("data", "decoded", "looks", "features", "jax"):
        folder = files.cache_dir(part)
        size = files.folder_bytes(folder) / 2**20 if folder.exists() else 0
        yield f"cache {part}", f"{size:,.0f} MB in {folder}"
    yield "data", _data()
    yield "W&B", _wandb()


def _convolutions() -> str:
    """The library that computes convolutions in training."""
    import jax

    from ctkeras.cpu import onednn

    if jax.default_backend() != "cpu":
        return "XLA's own on this device"
    if onednn.available():
        return f"oneDNN ({versions.version('onednn-cpu-gomp')})"
    if xla.kernels_wanted() != "on":
        return f"XLA, because CTKERAS_CPU_KERNELS is {xla.kernels_wanted()}"
    if versions.version("jaxlib") not in xla.VERIFIED_JAXLIB:
        return f"XLA, which is slower: oneDNN was tested only with jaxlib {', '.join(xla.VERIFIED_JAXLIB)}"
    return (
        "XLA, which is slower: onednn-cpu-gomp is not installed, libgomp.so.1 is missing (Debian: apt install libgomp1), "
        "or JAX has more than one device"
    )


def _tensorflow_gpus() -> str:
    """Whether TensorFlow would take a GPU from JAX in a run."""
    try:
        process.configure_tensorflow()
        import tensorflow as tf
    except ImportError:
        return "not installed"
    return "yes: it would take memory from JAX" if tf.config.get_visible_devices("GPU") else "no, as intended"


def _data() -> str:
    """The data set that CTKERAS_DATA names."""
    spec = os.environ.get("CTKERAS_DATA", "")
    if not spec:
        return "CTKERAS_DATA is not set"
    try:
        source = sources.open_source(spec)
    except UserError as error:
        return f"CTKERAS_DATA: {error}"
    return f"{spec}: {source.images:,} images, {source.kind}, {', '.join(source.class_names)}"


def _wandb() -> str:
    """How W&B would track a run."""
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if mode := os.environ.get("WANDB_MODE"):
        return f"WANDB_MODE={mode}; {server}"
    login = "logged in" if run.has_credentials() else "no credentials: runs are recorded offline"
    return f"{login}; {server}"
