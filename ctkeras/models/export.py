"""model.keras and contract.json: a file that plain Keras opens on any backend, checked by reloading it; and prediction."""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.data.crop import Preparation
from ctkeras.models import contract, fast, older, safety
from ctkeras.runtime import files, process, stored
from ctkeras.runtime.versions import version

if TYPE_CHECKING:
    import keras

Kind = Callable[["keras.layers.Layer"], type["keras.layers.Layer"]]  # from a layer to the class it is exported as
DROPOUT = r"dropout(_m\d+)?"  # its layer, one per member of a joined model
LOGITS = r"logits(_m\d+)?"  # the last layer, one per member
TOLERANCE = 1e-4  # largest error of the reloaded file's probabilities, or of their sum


def export(
    trained: "keras.Model",
    folder: Path,
    *,
    class_names: Sequence[str],
    model_name: str,
    preparation: Preparation,
    temperature: float | None = None,
    kind: Kind = type,
) -> Path:
    """Writes model.keras and contract.json to a run folder, atomically, and checks the file by reloading it.

    Args:
        trained: keras.Model from images [B, S, S, 3] to logits.
        folder: the run folder.
        class_names: C names in label order.
        model_name: name of the backbone, for the contract.
        preparation: of the images that it was trained on, for the contract.
        temperature: what logits are divided by; None leaves them as trained.
        kind: gives the core Keras class of a layer that training has replaced.

    Returns:
        The path of model.keras.

    Raises:
        RuntimeError: the reloaded file gives different answers; no file is left behind.
    """
    import keras

    path, values = folder / "model.keras", sum(math.prod(weight.shape) for weight in trained.weights)
    with files.atomic(path) as partial:
        with process.without("tensorflow"), safety.bounded(2 * values):  # of two models
            exported = core_model(trained, len(class_names), kind, temperature=temperature or 1.0)
            exported.save(partial)
            older.rewrite(partial)
            reloaded = keras.saving.load_model(partial, compile=False, safe_mode=True)
        _prove(trained, exported, reloaded)
    size = trained.input.shape[1]
    contract.write(
        folder,
        model_name=model_name,
        size=size,
        class_names=class_names,
        preparation=preparation,
        temperature=temperature,
    )
    return path


def core_model(trained: "keras.Model", classes: int, kind: Kind = type, *, temperature: float = 1.0) -> "keras.Model":
    """The trained model in float32 core Keras layers, with probabilities at the end.

    The temperature is in the weights of the last layer, so that no client needs to know of it, and models of any
    temperature share one compiled program. Of several members each is divided by it before the mean: it was chosen
    for answers of single members to images that they had not seen, because no image is unseen by all of them.

    Args:
        trained: keras.Model from images to logits, from classifier.build; any precision.
        classes: number of classes; logits of several heads are averaged as probabilities.
        kind: gives the core Keras class of a layer that training has replaced.
        temperature: what logits are divided by.
    """
    import keras

    from ctkeras.models import head

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return type(layer).from_config(layer.get_config())
        if re.fullmatch(DROPOUT, layer.name):
            return keras.layers.Dropout(float(layer.rate), name=layer.name)
        settings = layer.get_config()
        for key in settings:
            if key.endswith("_initializer"):
                settings[key] = "zeros"
        return kind(layer).from_config({**settings, "dtype": "float32"})

    image = keras.Input(trained.input.shape[1:], name="image")
    clean = keras.models.clone_model(trained, input_tensors=image, clone_function=clone)
    sources = {weight.path: weight for weight in trained.weights if not re.match(f"{DROPOUT}/", weight.path)}
    for target, source in zip(clean.weights, sources.values(), strict=True):
        value = np.array(source.value)
        target.assign(value / np.float32(temperature) if re.match(f"{LOGITS}/", source.path) else value)
    outputs = head.probabilities(clean.output, clean.output.shape[-1] // classes)
    return keras.Model(clean.input, outputs, name=trained.name)


def is_joined(model: "keras.Model") -> bool:
    """Whether an exported model's answers are the mean of several members' probabilities."""
    return "member_probabilities" in {layer.name for layer in model.layers}


def _prove(trained: "keras.Model", exported: "keras.Model", reloaded: "keras.Model") -> None:
    """Checks that the reloaded model has the saved one's weights and, once per graph, its settings or its answers.

    Keras makes both models from their settings alone: with the same settings and weights they give the same answers.
    """
    pairs = zip(exported.weights, reloaded.weights, strict=True)
    if not all(np.array_equal(np.asarray(a.value), np.asarray(b.value)) for a, b in pairs):
        raise RuntimeError("the exported file has different weights after reloading; nothing was exported")
    if is_proved(trained):
        return
    rng = np.random.default_rng(0)
    # One image: `predict` then finds its program in the cache.
    probe = rng.integers(0, 256, (1, *exported.input.shape[1:])).astype(np.float32)
    answers = _answers(reloaded, probe)
    # Reloading may fill in settings that the saved model does not state; then the answers decide.
    same = exported.to_json() == reloaded.to_json()
    difference = np.abs(answers.sum(-1) - 1 if same else answers - _answers(exported, probe)).max()
    if not difference <= TOLERANCE:
        raise RuntimeError(f"after reloading, the file's probabilities are {difference:.2g} off; nothing was exported")
    stored.write_json(_proof_of(trained), float(difference))


def is_proved(trained: "keras.Model") -> bool:
    """Whether this graph, with these versions, is known to give the same answers after saving and reloading."""
    try:
        return bool(stored.read_json(_proof_of(trained)) <= TOLERANCE)
    except FileNotFoundError:
        return False
    except stored.Damaged as damaged:
        stored.quarantine(damaged)
        return False


def _proof_of(trained: "keras.Model") -> Path:
    """The file that exists if the graph is proved."""
    versions = (version(package) for package in ("ctkeras", "keras", "jaxlib", "h5py"))
    key = repr((trained.to_json(), *versions))
    return files.cache_dir("proved") / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _answers(model: "keras.Model", batch: np.ndarray) -> np.ndarray:
    """Probabilities of a batch, float32 [B, C], on any backend of Keras."""
    return fast.program(model)(batch)
