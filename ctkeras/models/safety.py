"""What a model file from elsewhere may hold, checked before Keras opens it, so that it can run no code and fill no memory.

Keras' safe mode refuses Python code in a file. It does not bound sizes, follows links inside HDF5 files, and has layers that
read other files or run programs of their own.
"""

import contextlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctkeras.errors import UserError
from ctkeras.runtime import archives

if TYPE_CHECKING:
    import h5py

MEGABYTE = 2**20
WEIGHTS_BYTES = 600 * MEGABYTE  # 150 million weights; the largest backbone here has 21 million
BOUNDS = {"metadata.json": MEGABYTE, "config.json": 16 * MEGABYTE, "model.weights.h5": WEIGHTS_BYTES}
DEEPEST, MOST_NODES = 60, 400_000  # levels and values of config.json; those of densenet121 are 14 and 50,000
MOST_OBJECTS = 50_000  # groups and arrays in the weights
# Where the classes that a configuration names may live, and those of them that run code or read other files.
MODULES = re.compile(
    r"(keras|keras\.(layers|initializers|regularizers|constraints|activations|dtype_policies|optimizers|losses|metrics)"
    r"|keras\.src\.(models|layers|ops|backend)\.[a-z_.]+|builtins)(\..*)?"
)
CODE = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "function", "type", "get_file")
READING = ("StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "SklearnClassifier")


def check(path: Path) -> int:
    """Checks a model.keras.

    Args:
        path: the file.

    Returns:
        The number of values in its weights, which no model built from it may exceed by much; for `bounded`.

    Raises:
        UserError: it is larger than any model here, holds more than a model or something that is not plain layers.
    """
    listed = archives.members(path, largest=WEIGHTS_BYTES)
    _require_parts(listed, path)
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            _check_config(config, path)
            del config
            values = _check_weights(archive.read("model.weights.h5"), path)
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be a model") from error
    except Exception as error:  # zipfile, json, zlib and h5py raise different classes
        raise UserError(f"{path} cannot be opened as a Keras model ({' '.join(str(error).split())[:200]})") from error
    return values


def _require_parts(listed: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuses a zip that holds anything but a model's three files, or one of them twice or beyond its bound."""
    names, wrong = [member.filename for member in listed], ""
    for name in names:
        if name not in BOUNDS or names.count(name) > 1:
            wrong = f"it holds {name!r}{' twice' if name in BOUNDS else ''}"
    for name, most in BOUNDS.items():
        size = next((member.file_size for member in listed if member.filename == name), None)
        if size is None:
            wrong = f"it lacks {name}"
        elif size > most:
            wrong = f"{name} has {size >> 20} MB, more than {most >> 20}"
    if wrong:
        raise UserError(
            f"{path} cannot be opened as a Keras model ({wrong}; it needs {', '.join(BOUNDS)} and nothing else)"
        )


def _check_config(config: Any, path: Path) -> None:
    """Refuses classes from outside Keras, those that run code or read files, and depth and size beyond any model's."""
    level, nodes = [config], 0
    for _ in range(DEEPEST):
        nodes += len(level)
        if nodes > MOST_NODES:
            raise UserError(f"{path} has more values in config.json than any model")
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                if "class_name" in node:
                    _check_class(node, path)
                below += node.values()
            elif isinstance(node, list):
                below += node
        level = below
        if not level:
            return
    raise UserError(f"{path} is nested too deeply to be a model")


def _check_class(node: dict[str, Any], path: Path) -> None:
    name, module, registered = str(node["class_name"]), node.get("module"), node.get("registered_name")
    if name in CODE or name in READING:
        raise UserError(
            f"{path} holds {name}, which runs code or reads other files; a model of plain Keras layers is needed"
        )
    foreign = module is not None and not (isinstance(module, str) and MODULES.fullmatch(module))
    if foreign or (registered is not None and registered != name):
        raise UserError(
            f"{path} holds {str(registered or name)!r}, which is not Keras' own; a model of plain Keras layers is needed"
        )


def _check_weights(content: bytes, path: Path) -> int:
    """The number of values in an HDF5 file of weights, after refusing links and arrays that it only claims to hold."""
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        values, size = 0, 0
        for number, array in enumerate(_arrays(file, path)):
            if array.external or array.is_virtual or array.dtype.kind not in "fiub":
                raise UserError(f"{path} has weights outside itself, or that are not numbers")
            values, size = values + array.size, size + array.nbytes
            if size > WEIGHTS_BYTES or number > MOST_OBJECTS or size > archives.RATIO * len(content):
                raise UserError(f"{path} unpacks to more weights than any model here has, {WEIGHTS_BYTES >> 20} MB")
    return values


def _arrays(file: "h5py.File", path: Path) -> Iterator["h5py.Dataset"]:
    """Every array in an HDF5 file."""
    import h5py

    waiting, seen = [file["/"]], set[int]()
    while waiting:
        group = waiting.pop()
        place = h5py.h5o.get_info(group.id).addr
        if place in seen or len(seen) > MOST_OBJECTS:
            raise UserError(f"{path} has weights that contain themselves, or too many of them")
        seen.add(place)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{path} has weights that link elsewhere ({name})")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                yield item


@contextlib.contextmanager
def bounded(values: int) -> Iterator[None]:
    """Inside the block, Keras builds no more weights than a file holds: a configuration may claim a layer of any size.

    Args:
        values: from `check`.

    Raises:
        UserError: more weights were asked for.
    """
    import keras

    from ctkeras.models.blank import BlankZeros

    most, built = 2 * values + 100_000, 0  # some layers have state that is not stored
    original = keras.layers.Layer.add_weight

    def add_weight(self: Any, shape: Any = None, *arguments: Any, **options: Any) -> Any:
        nonlocal built
        built += math.prod(shape or ())
        if built > most:
            raise UserError(f"it asks for more weights than it holds ({values:,})")
        if isinstance(options.get("initializer"), keras.initializers.Zeros):
            options["initializer"] = BlankZeros()  # the file sets the values; JAX would compile a program per shape
        return original(self, shape, *arguments, **options)

    keras.layers.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = original
