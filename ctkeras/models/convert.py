"""An exported model in other formats: ONNX, LiteRT and TensorFlow's SavedModel, by Keras' own exporters.

Each file is opened by its own runtime and compared with the model before it is there under its name. Keras converts on
its TensorFlow backend, so this runs in a process of its own: `python -m ctkeras.models.convert MODEL FORMAT FILE`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctkeras.errors import UserError
from ctkeras.runtime import console, files

TOLERANCE = 1e-4  # largest difference in probability between the model and the converted file
IMAGES = 10  # compared
_MARK = "difference "  # before the last line that the process prints


class Format(NamedTuple):
    """A format that models are converted to."""

    keras: str  # its name for model.export
    file: str  # in the run folder
    modules: tuple[str, ...]  # that it needs beyond what ctkeras itself does
    extra: str  # of ctkeras that installs these


FORMATS = {
    "onnx": Format("onnx", "model.onnx", ("onnx", "tf2onnx", "onnxruntime"), "onnx"),
    "litert": Format("litert", "model.tflite", ("ai_edge_litert",), "litert"),
    "savedmodel": Format("tf_saved_model", "saved_model", (), ""),
}


def convert(model: Path, kind: str, out: Path) -> tuple[Path, float]:
    """Writes a model in another format, with its contract beside it.

    Args:
        model: a model.keras that predict.open_model can open.
        kind: a key of FORMATS.
        out: the folder to write to.

    Returns:
        The path of the file, or folder, and the largest difference in probability on ten images.

    Raises:
        UserError: a package is missing, or the converted file gives other answers; no file is left behind.
    """
    form = FORMATS[kind]
    if missing := [name for name in form.modules if importlib.util.find_spec(name) is None]:
        raise UserError(f'--to {kind} needs {", ".join(missing)}: pip install "ctkeras[{form.extra}]"')
    path = out / form.file
    place = out / f".{kind}-{os.getpid()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with console.waiting(f"Converting to {kind} and comparing answers to {IMAGES} images"):
            difference = _in_own_process(model, kind, place / form.file)
        if not difference <= TOLERANCE:
            raise UserError(f"the {kind} file gives probabilities that differ by {difference:.2g}; nothing was written")
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(place / form.file, path)
        stated = model.with_name("contract.json")
        if stated.is_file() and stated.parent.resolve() != out.resolve():
            with files.atomic(out / stated.name) as partial:
                shutil.copyfile(stated, partial)
    except OSError as error:
        if (number := files.refusal(error, path)) is None:
            raise
        raise files.cannot_write(path, number) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return path, difference


def _in_own_process(model: Path, kind: str, target: Path) -> float:
    """Converts in a process whose Keras runs on TensorFlow; returns the largest difference in probability."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "ctkeras.models.convert", str(model), kind, str(target)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    last = ended.stdout.strip().rpartition("\n")[2]
    if ended.returncode or not last.startswith(_MARK):
        reason = " ".join(ended.stderr.strip().rpartition("\n")[2].split())[:300]
        raise UserError(f"{model} cannot be converted to {kind} ({reason or f'exit code {ended.returncode}'})")
    return float(last.removeprefix(_MARK))


def _convert_here(model: str, kind: str, target: str) -> float:
    """Converts, opens the result by its own runtime, and compares answers."""
    import keras

    opened = keras.saving.load_model(model, compile=False, safe_mode=True)
    size = opened.input.shape[1]
    pixels = probe(size)
    expected = np.asarray(opened.predict_on_batch(pixels))
    signature = [keras.InputSpec(shape=(None, size, size, 3), dtype="float32", name="image")]
    opened.export(target, format=FORMATS[kind].keras, verbose=False, input_signature=signature)
    run = _RUNTIMES[kind](target)
    return float(np.abs(np.concatenate([run(pixels[i : i + 1]) for i in range(IMAGES)]) - expected).max())


def probe(size: int) -> np.ndarray:
    """Ten images of stripes, rings and noise: float32 [10, S, S, 3], 0..255."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    patterns = [np.sin(k * (x * (k % 3) + y)) + np.cos(k * np.hypot(x - 0.5, y - 0.5)) for k in range(1, IMAGES + 1)]
    noisy = np.stack(patterns) * 60 + 128 + rng.normal(0, 20, (IMAGES, size, size))
    return np.repeat(np.clip(noisy, 0, 255).astype(np.float32)[..., None], 3, axis=-1)


def _onnx(target: str) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    return lambda pixels: np.asarray(session.run(None, {taken.name: pixels})[0])


def _litert(target: str) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=target)
    taken, given = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(pixels: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(taken, pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(taken, pixels)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(given))

    return run


def _savedmodel(target: str) -> Callable[[np.ndarray], np.ndarray]:
    import keras

    layer = keras.layers.TFSMLayer(target, call_endpoint="serve")
    return lambda pixels: np.asarray(layer(pixels))


_RUNTIMES = {"onnx": _onnx, "litert": _litert, "savedmodel": _savedmodel}

if __name__ == "__main__":
    print(f"{_MARK}{_convert_here(*sys.argv[1:])}")
