"""Grad-CAM: where in an image an exported model finds its evidence for a class, from the plain Keras file."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctkeras.data import crop, images
from ctkeras.data.crop import Preparation
from ctkeras.errors import UserError
from ctkeras.evaluation import heatmap
from ctkeras.models import fast
from ctkeras.runtime import console, process, xla
from ctkeras.runtime.files import atomic

if TYPE_CHECKING:
    import jax
    import keras

BATCH = 32  # images per pass
Explainer = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Explained:
    """The probabilities of one image and its heat map for a class."""

    shown: np.ndarray  # uint8 [H, W], the image in its own aspect ratio, at the size of the picture
    probabilities: np.ndarray  # float32 [C]
    label: int  # the class whose evidence the heat map shows
    heat: np.ndarray  # float32 [h, w]


def heat_maps(
    model: "keras.Model",
    pixels: np.ndarray,
    classes: Sequence[int] | np.ndarray | None = None,
    *,
    batch_size: int = BATCH,
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017) of images: how much each place of the last feature map is evidence for a class.

    The channels of the feature map are weighted by the mean gradient of the class's logit and summed, and negative values
    are set to 0. With a head of global average pooling and one dense layer, that is CAM (Zhou et al. 2016) divided by the
    number of places.

    Args:
        model: from predict.open_model.
        pixels: uint8 or float32 [N, S, S, 3], RGB in 0..255, as the model takes them.
        classes: int [N], the class to find evidence for; None for the most probable class of each image.
        batch_size: images per pass.

    Returns:
        float32 [N, h, w], not negative, in units of the logit.

    Raises:
        UserError: the model has no feature map, or Keras does not run on JAX.
    """
    explain = explainer(model)
    labels = np.full(len(pixels), -1) if classes is None else np.asarray(classes)
    batch_size = min(batch_size, len(pixels))
    maps = []
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size].astype(np.float32)
        missing = batch_size - len(batch)  # padded, so that only one program is compiled
        batch = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
        heat, _ = explain(batch, np.pad(labels[start : start + batch_size], (0, missing)))
        maps.append(heat[: batch_size - missing])
    return np.concatenate(maps)


def explainer(model: "keras.Model") -> Explainer:
    """Compiles Grad-CAM for a model.

    Args:
        model: from predict.open_model.

    Returns:
        A function from (float32 [B, S, S, 3], int [B], -1 for the most probable class) to (heat float32 [B, h, w],
        probabilities float32 [B, C]).

    Raises:
        UserError: as heat_maps.
    """
    import jax
    import jax.numpy as jnp
    import keras

    if keras.backend.backend() != "jax":
        raise UserError(f"Grad-CAM needs JAX; KERAS_BACKEND is {keras.backend.backend()}: set it to jax, or unset it")
    with process.without("tensorflow"):
        body, tail = _cut(model)
    states = [fast.states(part) for part in (body, tail)]
    body = fast.twin(body)

    def heat(states: list, pixels: "jax.Array", classes: "jax.Array") -> "tuple[jax.Array, jax.Array]":
        maps, _ = body.stateless_call(*states[0], pixels, training=False)
        maps = list(maps) if isinstance(maps, list | tuple) else [maps]  # Keras unpacks a list of one output

        def evidence(maps: "list[jax.Array]") -> "tuple[jax.Array, jax.Array]":
            inputs = maps if len(maps) > 1 else maps[0]
            (logits, answers), _ = tail.stateless_call(*states[1], inputs, training=False)
            chosen = jnp.where(classes < 0, answers.argmax(-1), classes)
            # In inference images do not affect each other, so the gradient of the sum holds that of each image.
            return jnp.take_along_axis(logits, chosen[:, None], axis=1).sum(), answers

        slopes, answers = jax.grad(evidence, has_aux=True)(maps)
        heats = [(slope.mean((1, 2), keepdims=True) * a).sum(-1) for slope, a in zip(slopes, maps, strict=True)]
        return jax.nn.relu(sum(_summed_to(heat, heats[-1].shape[1:]) for heat in heats)), answers

    compiled = jax.jit(heat, compiler_options=xla.compiler_options())

    def explain(pixels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = compiled(states, fast.padded(pixels), fast.padded(classes))
        maps, answers = (np.asarray(array)[: len(pixels)] for array in found)
        fast.check()
        return maps, answers

    return explain


def _summed_to(heat: "jax.Array", shape: tuple[int, int]) -> "jax.Array":
    """A heat map [B, H, W] on the coarser grid of the last stage, whose places hold the sums of what they cover."""
    rows, columns = (_overlaps(fine, coarse) for fine, coarse in zip(heat.shape[1:], shape, strict=True))
    return rows @ heat @ columns.T


def _overlaps(fine: int, coarse: int) -> np.ndarray:
    """The share of each of `fine` places that lies in each of `coarse` places of the same length: float32 [coarse, fine]."""
    starts, places = np.arange(coarse)[:, None] * fine / coarse, np.arange(fine)
    shared = np.minimum(starts + fine / coarse, places + 1) - np.maximum(starts, places)
    return np.maximum(shared, 0).astype(np.float32)


def explain_files(
    model: "keras.Model",
    files: Sequence[Path],
    *,
    preparation: Preparation,
    label: int | None = None,
    batch_size: int = BATCH,
) -> Iterator[tuple[Path, Explained | None, str]]:
    """Yields (file, its probabilities and heat map or None, '' or the reason why it cannot be read), in order.

    Args:
        model: from predict.open_model.
        files: image files.
        preparation: from predict.open_model.
        label: the class to find evidence for; None for the most probable class of each image.
        batch_size: images per pass.

    Raises:
        UserError: as heat_maps.
    """
    explain = explainer(model)
    size = model.input.shape[1]
    batch_size = min(batch_size, len(files))
    labels = np.full(batch_size, -1 if label is None else label)
    for start in range(0, len(files), batch_size):
        pixels = np.zeros((batch_size, size, size, 3), np.float32)
        read: list[tuple[Path, np.ndarray | None, str]] = []
        for i, file in enumerate(files[start : start + batch_size]):
            try:
                gray = images.decode_gray(
                    _content(file), name=str(file), window=preparation.window, span=preparation.span
                )
                pixels[i] = images.as_rgb(crop.prepare(gray, size, preparation))
                seen = crop.framed(gray if gray.ndim == 2 else gray[..., 0], preparation)  # of three windows, lung
                read.append((file, heatmap.fitted(seen), ""))
            except UserError as error:
                read.append((file, None, str(error)))
        heat, answers = explain(pixels, labels)
        if start == 0 and heat[0].size == 1:
            console.note(
                f"Note: at {size} px the last feature map of this model has only one place, so the heat map shows no "
                "location; train with a larger image_size."
            )
        for i, (file, shown, reason) in enumerate(read):
            chosen = int(answers[i].argmax()) if label is None else label
            yield file, None if shown is None else Explained(shown, answers[i], chosen, heat[i]), reason


def write_picture(explained: Explained, class_names: Sequence[str], path: Path, *, name: str) -> None:
    """Writes the image and its heat map side by side as a PNG, with the prediction, a colour bar and a warning.

    Args:
        explained: from explain_files.
        class_names: C names in label order.
        path: the PNG; its folder is created.
        name: title of the image.
    """
    best = int(explained.probabilities.argmax())
    rows, columns = explained.heat.shape
    picture = heatmap.side_by_side(
        explained.shown,
        explained.heat,
        title=f"predicted: {class_names[best]}, probability {explained.probabilities[best]:.3f}",
        under_image=name,
        under_heat=f"evidence for {class_names[explained.label]} ({explained.probabilities[explained.label]:.3f})",
        foot=f"Grad-CAM, {columns}x{rows} places, scaled to the maximum of this image. Research only, not for diagnosis.",
    )
    with atomic(path) as partial:
        picture.save(partial)


def picture_paths(files: Sequence[Path], folder: Path) -> list[Path]:
    """The path of a picture for each file: <stem>_heat.png, with a number if stems repeat; never one of the files.

    Args:
        files: image files.
        folder: the folder for the pictures.
    """
    taken = {file.resolve() for file in files}
    paths = []
    for file in files:
        path, number = folder / f"{file.stem}_heat.png", 1
        while path.resolve() in taken:
            number += 1
            path = folder / f"{file.stem}_heat_{number}.png"
        taken.add(path.resolve())
        paths.append(path)
    return paths


def _content(file: Path) -> bytes:
    """The bytes of a file."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


def _cut(model: "keras.Model") -> "tuple[keras.Model, keras.Model]":
    """Splits a model at the feature maps that its head reads: images to these, and these to logits and probabilities.

    The maps [B, h, w, D] are the inputs of the head's poolings, or the last feature map of a model without such.
    """
    import keras

    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    try:
        layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
        maps = [layer.output for layer in layers if len(getattr(layer.output, "shape", ())) == 4]
        if not pools and not maps:
            raise ValueError("no layer has a feature map as its output")
        of_head = [layer.input for layer in pools if re.fullmatch(r"pool(_\d+)?(_m\d+)?", layer.name)]
        read = of_head or [pools[-1].input if pools else maps[-1]]
        return keras.Model(model.inputs, read), keras.Model(read, [_logits(model), model.outputs[0]])
    except (ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"Grad-CAM needs a model whose head follows one last feature map; this model has none ({reason})"
        ) from error


def _logits(model: "keras.Model") -> "keras.KerasTensor":
    """The input of the softmax or sigmoid at the end of a model; its output, if it ends in neither."""
    import keras

    last, names = model.layers[-1], [layer.name for layer in model.layers]
    if "member_probabilities" in names:  # several heads, whose mean logit stands for the model
        return keras.layers.GlobalAveragePooling1D()(model.get_layer("member_probabilities").input)
    closing = (keras.activations.softmax, keras.activations.sigmoid)
    closes = getattr(last, "activation", None) in closing
    if isinstance(last, keras.layers.Softmax) or (closes and isinstance(last, keras.layers.Activation)):
        return last.input
    if not closes:
        return keras.layers.Identity()(model.outputs[0])  # a tensor can be an output of a model only once
    linear = type(last).from_config({**last.get_config(), "activation": "linear", "name": f"{last.name}_logits"})
    logits = linear(last.input)
    linear.set_weights(last.get_weights())
    return logits
