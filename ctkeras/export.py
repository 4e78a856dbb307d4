"""model.keras and contract.json: a file that plain Keras opens on any backend, proved by reloading it; and prediction."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras import images, runtime
from ctkeras.config import UserError
from ctkeras.runs import folder as runfolder

INTENDED_USE = (
    "Research on the classification of chest-CT slices. Not a medical device; not for diagnosis, triage or treatment."
)
TOLERANCE = 1e-4  # of a probability, between the reloaded file and the trained model computing in float32


def export(
    trained: Any, folder: Path, *, class_names: Sequence[str], model_name: str, kind: Callable[[Any], Any] = type
) -> Path:
    """Writes model.keras and contract.json into a run folder, atomically, and proves the file by reloading it.

    Args:
        trained: keras.Model from images [B, S, S, 3] to logits.
        folder: the run folder.
        class_names: C names in label order.
        model_name: for the contract.
        kind: the core class of a layer, where training has replaced it.

    Returns:
        The path of model.keras.

    Raises:
        RuntimeError: the reloaded file gives other answers; no file is left behind.
    """
    import keras

    path = folder / "model.keras"
    with runtime.atomic(path) as partial:
        with runtime.without("tensorflow"):
            exported = core_model(trained, kind)
            exported.save(partial)
            reloaded = keras.saving.load_model(partial, compile=False, safe_mode=True)
        _prove(trained, exported, reloaded)
    size = trained.input.shape[1]
    contract = {
        "model_name": model_name,
        "input_shape": [size, size, 3],
        "input_dtype": "float32",
        "input_range": [0, 255],
        "input_colour": "gray repeated over RGB; the file normalises by itself",
        "input_resize": "to the square by antialiased bilinear filtering, aspect not kept",
        "output": "probabilities, one a class, in the order of class_names",
        "class_names": list(class_names),
        "intended_use": INTENDED_USE,
    }
    with runtime.atomic(folder / "contract.json") as partial:
        partial.write_text(json.dumps(contract, indent=2) + "\n", encoding="utf-8")
    return path


def core_model(trained: Any, kind: Callable[[Any], Any] = type) -> Any:
    """The trained model as float32 core Keras layers with a softmax at its end.

    Args:
        trained: keras.Model from images to logits, as model.build makes it; any precision.
        kind: the core class of a layer, where training has replaced it.
    """
    import keras

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return type(layer).from_config(layer.get_config())
        if layer.name == "dropout":
            return keras.layers.Dropout(float(layer.rate), name="dropout")
        settings = layer.get_config()
        for key in settings:
            if key.endswith("_initializer"):
                settings[key] = "zeros"
        return kind(layer).from_config({**settings, "dtype": "float32"})

    image = keras.Input(trained.input.shape[1:], name="image")
    clean = keras.models.clone_model(trained, input_tensors=image, clone_function=clone)
    sources = {weight.path: weight for weight in trained.weights if not weight.path.startswith("dropout/")}
    for target, source in zip(clean.weights, sources.values(), strict=True):
        target.assign(np.array(source.value))
    return keras.Model(clean.input, keras.layers.Softmax(name="probabilities")(clean.output), name=trained.name)


def _prove(trained: Any, exported: Any, reloaded: Any) -> None:
    """Compares a reloaded model with the one saved: by its weights, and where its graph is not yet proved by its answers."""
    pairs = zip(exported.weights, reloaded.weights, strict=True)
    if not all(np.array_equal(np.asarray(a.value), np.asarray(b.value)) for a, b in pairs):
        raise RuntimeError("the exported file has lost weights; nothing was exported")
    if is_proved(trained):
        return
    rng = np.random.default_rng(0)
    probe = rng.integers(0, 256, (2, *exported.input.shape[1:])).astype(np.float32)
    difference = np.abs(_answers(exported, probe) - _answers(reloaded, probe)).max()
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the exported file's answers differ by {difference:.2g}; nothing was exported")
    with runtime.atomic(_proof_of(trained)) as partial:
        partial.write_text(f"{difference:.3g}\n", encoding="utf-8")


def is_proved(trained: Any) -> bool:
    """Whether a model of this graph was seen, by these versions, to give the same answers after saving and reloading."""
    return _proof_of(trained).exists()


def _proof_of(trained: Any) -> Path:
    """The file whose presence says that a graph is proved."""
    versions = (runtime.version(package) for package in ("ctkeras", "keras", "jaxlib", "h5py"))
    key = repr((trained.to_json(), *versions))
    return runtime.cache_dir("proved") / hashlib.sha256(key.encode()).hexdigest()[:32]


def _answers(model: Any, batch: np.ndarray) -> np.ndarray:
    """Probabilities of a batch, float32 [B, C], on whatever backend Keras runs."""
    return np.asarray(model.predict_on_batch(batch))


def open_model(path: Path) -> tuple[Any, list[str]]:
    """Opens an exported model in safe mode.

    Args:
        path: model.keras, or a run folder holding it.

    Returns:
        The model and its class names, from contract.json beside it, else class_0, class_1, ….

    Raises:
        UserError: no such file, not a Keras file, not one that takes images, or one with code in it.
    """
    import keras

    path = path / "model.keras" if os.path.isdir(path) else path
    if not os.path.isfile(path):
        raise UserError(f"{path} is not there; give a model.keras, which training writes into its run folder")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is no model this can open; give a model.keras, which training writes into its run folder"
        )
    try:
        with runtime.without("tensorflow"):
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        size = model.input.shape
        answers = model.output.shape
    except Exception as error:  # zipfile, h5py, json and Keras each raise their own
        raise UserError(f"{path} is no model this can open ({' '.join(str(error).split())[:200]})") from error
    if len(answers) != 2 or not answers[1]:
        raise UserError(f"{path} answers with shape {tuple(answers)}; a classifier gives a probability a class")
    if len(size) != 4 or size[3] != 3 or not size[1] or size[1] != size[2]:
        raise UserError(f"{path} takes input of shape {tuple(size)}; a classifier of square RGB images is needed")
    return model, _class_names(path.with_name("contract.json"), answers[1])


def check_contract(folder: Path) -> None:
    """Checks that a downloaded model.keras takes and gives what the contract.json beside it says.

    Raises:
        UserError: it doesn't, or either is missing.
    """
    model, _ = open_model(folder)
    try:
        contract = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
        shape, classes = list(contract["input_shape"]), list(contract["class_names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} has no usable contract.json ({error})") from error
    if shape != list(model.input.shape[1:]) or len(classes) != model.output.shape[-1]:
        raise UserError(
            f"{folder}: the model takes {model.input.shape[1:]} and has {model.output.shape[-1]} classes; "
            f"its contract says {shape} and {len(classes)}"
        )
    size = shape[0]
    answers = _answers(model, np.zeros((1, size, size, 3), np.float32))
    if not np.allclose(answers.sum(-1), 1.0, atol=1e-3):
        raise UserError(f"{folder}: the model's answers are no probabilities, as its contract says")


def open_named(path: Path) -> tuple[Any, list[str]]:
    """Opens an exported model for somebody's use, who is told when its class names are unknown.

    Args:
        path: a model.keras, or a run folder.

    Returns:
        (model, class names in label order).

    Raises:
        UserError: no model, a damaged contract, or one of another model.
    """
    told = runfolder.class_names(path)  # before Keras is loaded
    runtime.configure()
    model, names = open_model(path)
    if told is None:
        runtime.note(
            f"No contract.json lies beside {path}: its class names are unknown, so {names[0]}, … stand for them."
        )
    elif len(told) != len(names):
        raise UserError(f"{path} tells {len(names)} classes apart, and the contract.json beside it names {len(told)}")
    return model, names


def _class_names(path: Path, classes: int) -> list[str]:
    """The contract's class names, when it is there and fits the model."""
    try:
        names = [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["class_names"]]
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    return names if len(names) == classes else [f"class_{i}" for i in range(classes)]


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The image files that paths name: files as they are, folders searched through, in order.

    Raises:
        UserError: a path isn't there, or nothing is left.
    """
    found: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            found += sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in images.EXTENSIONS)
        elif os.path.exists(path):
            found.append(path)
        else:
            raise UserError(f"{path} is not there")
    if not found:
        raise UserError(f"no images in {', '.join(map(str, paths))}; known endings: {' '.join(images.EXTENSIONS)}")
    return found


def predict(
    model: Any, files: Sequence[Path], *, batch_size: int = 32
) -> Iterator[tuple[Path, np.ndarray | None, str]]:
    """Yields (file, probabilities [C] or None, '' or why it could not be read), in order.

    Args:
        model: from open_model.
        files: image files.
        batch_size: images a batch; the last batch is padded so that no second program is compiled.

    Raises:
        UserError: the model's answers are no probabilities.
    """
    size = model.input.shape[1]
    batch_size = min(batch_size, len(files))
    for start in range(0, len(files), batch_size):
        rows: list[tuple[Path, np.ndarray | None, str]] = []
        pixels = np.zeros((batch_size, size, size, 3), np.float32)
        for i, file in enumerate(files[start : start + batch_size]):
            try:
                pixels[i] = images.read_rgb(file, size)
                rows.append((file, pixels[i], ""))
            except UserError as error:
                rows.append((file, None, str(error)))
        answers = _answers(model, pixels)
        if not np.allclose(answers.sum(-1), 1.0, atol=1e-3):
            raise UserError("the model's answers don't add up to 1, so they are no probabilities; it lacks a softmax")
        for (file, read, reason), answer in zip(rows, answers, strict=False):
            yield file, None if read is None else answer, reason
