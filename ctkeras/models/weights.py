"""Finds, downloads and identifies ImageNet weights."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.models.backbones import BACKBONES, REACH_SECONDS

if TYPE_CHECKING:
    import keras


def find_weights(name: str, weights_dir: str) -> Path:
    """Finds the ImageNet weights of a backbone: in `weights_dir`, in the download cache, or by downloading them.

    Args:
        name: a key of BACKBONES.
        weights_dir: folder to search first; '' for none.

    Returns:
        The path of a file, or of a folder for timm.

    Raises:
        UserError: the backbone has no ImageNet weights, or the download failed, after 30 s at most; names the file to
            provide.
    """
    upstream = BACKBONES[name].upstream_name
    if not upstream:
        raise UserError(f"there are no ImageNet weights for {name}; it is trained from random ones (pretrained false)")
    if weights_dir:
        folder = Path(weights_dir).expanduser()
        if not folder.is_dir():
            raise UserError(f"weights_dir {weights_dir} is not a folder")
        for path in (folder / f"{name}.weights.h5", folder / upstream):
            if path.exists():
                return _complete(path)
    try:
        return _download(name)
    except Exception as error:  # urllib, keras, requests and huggingface_hub each raise their own
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        what = f"{upstream}/ (config.json and model.safetensors)" if _is_timm(name) else upstream
        where = f"into {weights_dir}" if weights_dir else "into a folder and pass it as --weights_dir"
        raise UserError(
            f"no ImageNet weights for {name}: the download failed ({reason}); put {name}.weights.h5 or {what} {where}"
        ) from error


def _is_timm(name: str) -> bool:
    return BACKBONES[name].source.startswith("hf://")


def _complete(path: Path) -> Path:
    """The path of weights; a timm folder is checked for both of its files."""
    for part in ("config.json", "model.safetensors") if path.is_dir() else ():
        if not (path / part).is_file():
            raise UserError(f"{path} lacks {part}; a timm folder must hold config.json and model.safetensors")
    return path


def _download(name: str) -> Path:
    """Downloads weights to the library's own cache, unless they are there."""
    import keras

    from ctkeras.runtime import console

    row = BACKBONES[name]
    if _is_timm(name):
        return _download_timm(row.source.removeprefix("hf://"))
    cached = Path(_keras_home(), "models", row.upstream_name)
    if not cached.exists():
        _reach(row.source)
        console.note(f"Downloading ImageNet weights for {name} …")
    hashed, home = row.md5 or None, _keras_home()
    return Path(
        keras.utils.get_file(row.upstream_name, row.source, cache_subdir="models", file_hash=hashed, cache_dir=home)
    )


def _keras_home() -> str:
    """The folder in which keras.utils.get_file stores files."""
    return os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")


def _download_timm(repository: str) -> Path:
    """Downloads the two files of a timm repository from the Hugging Face hub, unless they are in its cache."""
    import huggingface_hub

    from ctkeras.runtime import console

    files = ("config.json", "model.safetensors")
    found = [huggingface_hub.try_to_load_from_cache(repository, file) for file in files]
    whole = [isinstance(path, str) and _is_intact(Path(path)) for path in found]
    if not all(whole):
        _reach(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
        console.note(f"Downloading ImageNet weights from {repository} …")
        # A file that is there but damaged is downloaded again; one that is missing needs no force.
        found = [
            huggingface_hub.hf_hub_download(repository, file, force_download=isinstance(path, str) and not intact)
            for file, path, intact in zip(files, found, whole, strict=True)
        ]
    return Path(str(found[0])).parent


def _is_intact(path: Path) -> bool:
    """Whether a file of the hub's cache is what was downloaded: a large one is stored under its SHA-256."""
    blob = path.resolve()
    return len(blob.name) != 64 or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def _reach(address: str) -> None:
    """Raises OSError if a server does not answer in time; any answer counts."""
    import threading
    import urllib.error
    import urllib.request

    failure: list[Exception] = [TimeoutError(f"no answer within {REACH_SECONDS} s")]

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=REACH_SECONDS).close()
            failure.clear()
        except urllib.error.HTTPError:
            failure.clear()
        except Exception as error:
            failure[0] = error

    thread = threading.Thread(target=ask, daemon=True)  # in a thread, because DNS lookup has no time limit
    thread.start()
    thread.join(REACH_SECONDS)
    if failure:
        raise OSError(str(failure[0]))


def fingerprint(variables: "list[keras.Variable]") -> str:
    """SHA-256 of the values of variables, in order; differs between sets of weights."""
    values = [variable.value for variable in variables]
    known, found = _last[0]
    if len(known) != len(values) or any(a is not b for a, b in zip(known, values, strict=True)):
        digest = hashlib.sha256()
        for value in values:
            digest.update(np.ascontiguousarray(value).tobytes())
        found = digest.hexdigest()
        _last[0] = values, found
    return found


# The arrays of the last fingerprint, and it: each trial asks several times, and JAX never changes an array.
_last: list[tuple[list[Any], str]] = [([], hashlib.sha256().hexdigest())]
