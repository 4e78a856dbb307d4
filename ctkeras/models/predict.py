"""Opens an exported model with its contract and classifies image files."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctkeras.cpu import memory
from ctkeras.data.crop import Preparation, prepare
from ctkeras.data.images import as_rgb, read_rgb
from ctkeras.data.listing import image_files
from ctkeras.errors import UserError
from ctkeras.models import contract, fast, safety
from ctkeras.runs.checkpoint import TRAINED
from ctkeras.runs.folder import class_names as folder_class_names
from ctkeras.runs.folder import read_json
from ctkeras.runtime import console, process

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Table:
    """Probabilities of images: one row per image, one column per class.

    `table["normal"]` is the column of a class, `table.rows()` gives dicts for JSON or `pandas.DataFrame`.
    """

    images: list[str]  # N file names, or numbers from 0 as text for an array
    class_names: list[str]  # C names in label order
    probabilities: np.ndarray  # float32 [N, C]

    @property
    def predicted(self) -> list[str]:
        """The most probable class of each image."""
        return [self.class_names[label] for label in self.probabilities.argmax(-1)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, class_name: str) -> np.ndarray:
        if class_name not in self.class_names:
            raise KeyError(f"{class_name!r} is not a class; the classes are {', '.join(self.class_names)}")
        return self.probabilities[:, self.class_names.index(class_name)]

    def rows(self) -> list[dict[str, Any]]:
        """One dict per image: image, predicted, and the probability of each class under its name."""
        columns = zip(self.images, self.predicted, self.probabilities.tolist(), strict=True)
        return [
            {"image": image, "predicted": predicted, **dict(zip(self.class_names, probabilities, strict=True))}
            for image, predicted, probabilities in columns
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedModel:
    """An exported classifier with its contract, from `load`. Calling it is `predict`."""

    model: "keras.Model"  # float32 [B, S, S, 3] in 0..255 to probabilities float32 [B, C]
    class_names: list[str]  # C names in label order
    preparation: Preparation  # how images are brought to the form of the model's input
    contract: dict[str, Any]  # the content of contract.json; {} if there is none

    def predict(self, inputs: str | Path | Sequence[str | Path] | np.ndarray, *, batch_size: int = 32) -> Table:
        """Classifies images, prepared as in training: to gray, cropped, resized to the square of the model, repeated over RGB.

        Args:
            inputs: an image file, a folder or a list of both; or an array in 0..255, gray [B, H, W] or RGB [B, H, W, 3],
                uint8 or float, of any size.
            batch_size: images per batch.

        Raises:
            UserError: there are no images, one cannot be read, or the array is not one of images in 0..255.
        """
        if isinstance(inputs, np.ndarray):
            probabilities = self._of_array(inputs, batch_size)
            return Table([str(i) for i in range(len(inputs))], self.class_names, probabilities)
        paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
        files = image_files(Path(path).expanduser() for path in paths)
        rows = []
        for _, row, reason in predict(self.model, files, preparation=self.preparation, batch_size=batch_size):
            if row is None:
                raise UserError(reason)
            rows.append(row)
        return Table([str(file) for file in files], self.class_names, np.stack(rows))

    __call__ = predict

    def _of_array(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        """Probabilities float32 [B, C] of an array."""
        size, grays = self.model.input.shape[1], _gray(pixels)
        rows = _in_batches(
            self.model, len(grays), lambda i: as_rgb(prepare(grays[i], size, self.preparation)), batch_size
        )
        return np.stack([row for row, _ in rows if row is not None])


class Opened(NamedTuple):
    """An exported model, and what its contract says."""

    model: "keras.Model"
    class_names: list[str]  # in label order
    preparation: Preparation


def open_model(path: Path) -> Opened:
    """Opens an exported model in safe mode.

    Args:
        path: a model.keras, or a run folder that holds one.

    Returns:
        The model; its class names, from contract.json beside it, or else class_0, class_1, …; and how its images are
        prepared: as the contract says, or, if it does not, the whole image stretched to the square.

    Raises:
        UserError: the file is missing, is not a Keras file, holds code, or is not a classifier of square RGB images.
    """
    import keras

    path = path / "model.keras" if os.path.isdir(path) else path
    if not os.path.isfile(path) and path.with_name(TRAINED).exists():
        raise UserError(f"{path} has not been exported yet; write it with: python -m ctkeras export {path.parent}")
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist; name a run folder, or the model.keras that training wrote to one")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not a Keras model; name a run folder, or the model.keras that training wrote to one"
        )
    values = safety.check(path)
    try:
        with process.without("tensorflow"), safety.bounded(values):
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        inputs, outputs = model.input.shape, model.output.shape
    except Exception as error:  # zipfile, h5py, json and Keras raise different classes
        raise UserError(f"{path} cannot be opened as a Keras model ({' '.join(str(error).split())[:200]})") from error
    if len(outputs) != 2 or not outputs[1]:
        raise UserError(f"{path} has outputs of shape {tuple(outputs)}; a classifier has one probability per class")
    if len(inputs) != 4 or inputs[3] != 3 or not inputs[1] or inputs[1] != inputs[2]:
        raise UserError(f"{path} has inputs of shape {tuple(inputs)}; a classifier of square RGB images is needed")
    stated = path.with_name("contract.json")
    return Opened(model, contract.class_names(stated, outputs[1]), contract.preparation(stated))


def check_contract(folder: Path) -> None:
    """Checks that the inputs and outputs of a model.keras are those that the contract.json beside it states.

    Args:
        folder: the folder that holds both.

    Raises:
        UserError: they differ, or a file is missing or damaged.
    """
    model = open_model(folder).model
    try:
        stated = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
        shape, classes = list(stated["input_shape"]), list(stated["class_names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} has no valid contract.json ({error})") from error
    if shape != list(model.input.shape[1:]) or len(classes) != model.output.shape[-1]:
        raise UserError(
            f"{folder}: the model has inputs of shape {list(model.input.shape[1:])} and {model.output.shape[-1]} classes; "
            f"its contract.json states {shape} and {len(classes)} classes"
        )
    _probabilities(fast.program(model), np.zeros((1, *shape), np.float32))


def open_named(path: Path) -> Opened:
    """Opens an exported model and prints a note if its class names are unknown.

    Args:
        path: a model.keras, or a run folder.

    Returns:
        As open_model.

    Raises:
        UserError: there is no model, or the contract is damaged or belongs to another model.
    """
    contract_names = folder_class_names(path)  # before Keras is loaded
    process.configure()
    opened = open_model(path)
    names = opened.class_names
    if contract_names is None:
        console.note(
            f"There is no contract.json beside {path}: its class names are unknown and shown as {names[0]}, …."
        )
    elif len(contract_names) != len(names):
        raise UserError(
            f"{path} has {len(names)} classes, but the contract.json beside it names {len(contract_names)}; "
            "use the contract.json of the same run"
        )
    return opened


def predict(
    model: "keras.Model", files: Sequence[Path], *, preparation: Preparation, batch_size: int = 32
) -> Iterator[tuple[Path, np.ndarray | None, str]]:
    """Yields (file, probabilities float32 [C] or None, '' or the reason why it cannot be read), in order.

    Args:
        model: from open_model.
        files: image files.
        preparation: from open_model.
        batch_size: images per batch. The last batch is padded, so that only one program is compiled.

    Raises:
        UserError: the outputs of the model are not probabilities.
    """
    size = model.input.shape[1]
    rows = _in_batches(model, len(files), lambda i: read_rgb(files[i], size, preparation), batch_size)
    for file, (probabilities, reason) in zip(files, rows, strict=True):
        yield file, probabilities, reason


def _in_batches(
    model: "keras.Model", count: int, read: Callable[[int], np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray | None, str]]:
    """Yields (probabilities float32 [C], '') for each of `count` images, or (None, the error) if `read` raises UserError."""
    size, batch_size = model.input.shape[1], min(batch_size, count)
    answer = fast.program(model)
    try:
        for start in range(0, count, batch_size):
            numbers, errors = range(start, min(start + batch_size, count)), {}
            pixels = np.zeros((batch_size, size, size, 3), np.float32)
            for number in numbers:
                try:
                    pixels[number - start] = read(number)
                except UserError as error:
                    errors[number] = str(error)
            for number, row in zip(numbers, _probabilities(answer, pixels), strict=False):
                yield (None, errors[number]) if number in errors else (row, "")
    finally:
        if batch_size > 1:  # a single image takes little, and a client may ask about many, one by one
            memory.release()


def _probabilities(answer: fast.Program, batch: np.ndarray) -> np.ndarray:
    """Probabilities of a batch, float32 [B, C].

    Raises:
        UserError: they do not add up to 1.
    """
    probabilities = answer(batch)
    if not np.allclose(probabilities.sum(-1), 1.0, atol=1e-3):
        raise UserError(
            "the outputs of the model do not add up to 1, so they are not probabilities; it lacks a softmax"
        )
    return probabilities


def _gray(pixels: np.ndarray) -> np.ndarray:
    """The gray images of an array, as decoding a file of them gives: uint8 [B, H, W].

    Raises:
        UserError: the array is not one of images in 0..255.
    """
    from PIL import Image

    rgb = pixels.ndim == 4 and pixels.shape[3] == 3
    if (not rgb and (pixels.ndim != 3 or pixels.shape[2] == 3)) or not pixels.size:
        raise UserError(
            f"an array of images must have shape [B, H, W] or [B, H, W, 3]; got {list(pixels.shape)}. "
            "A single image needs a first axis: image[None]"
        )
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 255):  # NaN too
            raise UserError(f"pixels must be in 0..255; got {low:g} to {high:g}")
        if 0 < high <= 1 and pixels.dtype.kind == "f":
            raise UserError(
                f"pixels must be in 0..255; got {low:g} to {high:g}, which looks like 0..1: multiply by 255"
            )
        pixels = np.rint(pixels).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels]) if rgb else pixels


def load(path: str | Path) -> ExportedModel:
    """Opens an exported model with its contract.

    Args:
        path: a run folder, or the model.keras in one.

    Raises:
        UserError: there is no model, or its contract is damaged or belongs to another model.

    Example:
        >>> model = ctkeras.load("runs/example")
        >>> table = model.predict("images")
        >>> table.images, table["normal"].shape
        (['images/0.png', 'images/1.png'], (2,))
    """
    path = Path(path).expanduser()
    opened = open_named(path)
    stated = path / "contract.json" if os.path.isdir(path) else path.with_name("contract.json")
    return ExportedModel(*opened, read_json(stated) if stated.exists() else {})
