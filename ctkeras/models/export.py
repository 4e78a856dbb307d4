"""model.keras and contract.json: a file that plain Keras opens on any backend, checked by reloading it; and prediction."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.runtime import files, process
from ctkeras.runtime.versions import version

if TYPE_CHECKING:
    import keras

Kind = Callable[["keras.layers.Layer"], type["keras.layers.Layer"]]  # from a layer to the class it is exported as
INTENDED_USE = (
    "Research on the classification of chest-CT slices. Not a medical device; not for diagnosis, triage or treatment."
)
TOLERANCE = 1e-4  # largest difference in probability between the reloaded file and the trained model in float32


def export(
    trained: "keras.Model", folder: Path, *, class_names: Sequence[str], model_name: str, kind: Kind = type
) -> Path:
    """Writes model.keras and contract.json to a run folder, atomically, and checks the file by reloading it.

    Args:
        trained: keras.Model from images [B, S, S, 3] to logits.
        folder: the run folder.
        class_names: C names in label order.
        model_name: name of the backbone, for the contract.
        kind: gives the core Keras class of a layer that training has replaced.

    Returns:
        The path of model.keras.

    Raises:
        RuntimeError: the reloaded file gives different answers; no file is left behind.
    """
    import keras

    path = folder / "model.keras"
    with files.atomic(path) as partial:
        with process.without("tensorflow"):
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
        "input_colour": "gray repeated over RGB; the model normalises it",
        "input_resize": "to the square, by antialiased bilinear filtering; the aspect ratio is not preserved",
        "output": "one probability per class, in the order of class_names",
        "class_names": list(class_names),
        "intended_use": INTENDED_USE,
    }
    with files.atomic(folder / "contract.json") as partial:
        partial.write_text(json.dumps(contract, indent=2) + "\n", encoding="utf-8")
    return path


def core_model(trained: "keras.Model", kind: Kind = type) -> "keras.Model":
    """The trained model in float32 core Keras layers, with a softmax at the end.

    Args:
        trained: keras.Model from images to logits, from classifier.build; any precision.
        kind: gives the core Keras class of a layer that training has replaced.
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


def _prove(trained: "keras.Model", exported: "keras.Model", reloaded: "keras.Model") -> None:
    """Compares the weights of the reloaded and the saved model, and also their answers if the graph is not yet proved."""
    pairs = zip(exported.weights, reloaded.weights, strict=True)
    if not all(np.array_equal(np.asarray(a.value), np.asarray(b.value)) for a, b in pairs):
        raise RuntimeError("the exported file has different weights after reloading; nothing was exported")
    if is_proved(trained):
        return
    rng = np.random.default_rng(0)
    probe = rng.integers(0, 256, (2, *exported.input.shape[1:])).astype(np.float32)
    difference = np.abs(_answers(exported, probe) - _answers(reloaded, probe)).max()
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the exported file gives probabilities that differ by {difference:.2g} after reloading; nothing was exported"
        )
    with files.atomic(_proof_of(trained)) as partial:
        partial.write_text(f"{difference:.3g}\n", encoding="utf-8")


def is_proved(trained: "keras.Model") -> bool:
    """Whether this graph, with these versions, is known to give the same answers after saving and reloading."""
    return _proof_of(trained).exists()


def _proof_of(trained: "keras.Model") -> Path:
    """The file that exists if the graph is proved."""
    versions = (version(package) for package in ("ctkeras", "keras", "jaxlib", "h5py"))
    key = repr((trained.to_json(), *versions))
    return files.cache_dir("proved") / hashlib.sha256(key.encode()).hexdigest()[:32]


def _answers(model: "keras.Model", batch: np.ndarray) -> np.ndarray:
    """Probabilities of a batch, float32 [B, C], on any backend of Keras."""
    return np.asarray(model.predict_on_batch(batch))
