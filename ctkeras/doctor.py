"""The lines of `doctor`: versions, devices, caches, data and W&B."""

import functools
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ctkeras import __version__
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.runtime import files, home, process, verdict, versions
from ctkeras.tracking import run, settings

PACKAGES = ("keras", "jax", "jaxlib", "tensorflow", "keras-cv", "keras-hub", "tensorflow-datasets", "wandb", "numpy")


LEAST_FREE = 2 * 2**30  # bytes on a disk; a run of the public set with its caches takes about 1
WRONG = "wrong: "  # begins the state of a part that would end a run


def report() -> Iterator[tuple[str, str]]:
    """Yields (name, state) for each line; whatever is wrong with a part is its state, and the others follow."""
    yield "ctkeras", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield package, versions.version(package) or "not installed"
    yield "keras backend", os.environ.get("KERAS_BACKEND", "")
    yield "home", _tried(_home)
    yield "temporary files", _tried(_temporary)
    yield "jax devices", (devices := _tried(_devices))
    if not devices.startswith(WRONG):
        yield "convolutions", _tried(_convolutions)
    yield "XLA_FLAGS", os.environ.get("XLA_FLAGS") or "none"
    yield "tensorflow sees GPU", _tried(_tensorflow_gpus)
    for part in ("data", "decoded", "looks", "features", "jax"):
        yield f"cache {part}", _tried(functools.partial(_cache, part))
    for name, folder in (("caches", files.cache_dir), ("here", Path.cwd)):
        yield f"disk of {name}", _tried(functools.partial(_disk, folder))
    yield "data", _tried(_data)
    yield "W&B", _tried(_wandb)


def _tried(part: Callable[[], str]) -> str:
    """The state of a part, or what is wrong with it."""
    try:
        return part()
    except Exception as error:  # whatever is wrong: this verb is there to say it
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return WRONG + " ".join(text.split())


def _home() -> str:
    """Whether the home folder can be written."""
    place = Path(os.path.expanduser("~"))
    if files.writable(place):
        return str(place)
    return f"{place} cannot be written: caches lie in {files.cache_dir()}, W&B's files in run folders"


def _temporary() -> str:
    """The folder for temporary files."""
    given = os.environ.get("TMPDIR")
    home.temporary_files()
    used = tempfile.gettempdir()
    return f"TMPDIR {given} cannot be written, so {used} is used" if given not in (None, "", used) else used


def _devices() -> str:
    """The devices that JAX computes on."""
    process.configure()
    import jax

    return ", ".join(f"{device.device_kind} ({device.platform})" for device in jax.local_devices())


def _cache(part: str) -> str:
    """The size of a cache and whether it can be written."""
    folder = files.cache_dir(part)
    if not files.writable(folder):
        raise UserError(f"{folder} cannot be written; set CTKERAS_CACHE_DIR to a folder that can")
    size = files.folder_bytes(folder) / 2**20 if folder.exists() else 0
    return f"{size:,.0f} MB in {folder}"


def _disk(place: Callable[[], Path]) -> str:
    """The free space on a folder's disk."""
    folder = place()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    state = f"{free / 2**30:,.0f} GB free at {existing}"
    if free < LEAST_FREE:
        raise UserError(
            f"{free / 2**20:,.0f} MB free at {existing}; make room, or set CTKERAS_CACHE_DIR or --output_dir"
        )
    return state


def _convolutions() -> str:
    """The library that computes convolutions in training, and how that is known."""
    import jax

    from ctkeras.cpu import state

    if jax.default_backend() != "cpu":
        return "XLA's own on this device"
    checked = "tested with this jaxlib"
    if verdict.installed() not in verdict.TESTED:
        checked = f"as a check here decided; delete {verdict.place()} to check again"
    if reason := state.why_slow():
        return f"XLA, because {reason}; {verdict.COST} ({checked})"
    return f"oneDNN ({verdict.installed()[1]}), {checked}"


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
        raise UserError(f"CTKERAS_DATA: {error}") from error
    return f"{spec}: {source.images:,} images, {source.kind}, {', '.join(source.class_names)}"


def _wandb() -> str:
    """How W&B would track a run."""
    settings.prepare()
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if mode := os.environ.get("WANDB_MODE"):
        return f"WANDB_MODE={mode}; {server}"
    login = "logged in" if run.has_credentials() else "no credentials: runs are recorded offline"
    return f"{login}; {server}"
