"""Accuracy of an exported model on validation images that are noisier, blurred, windowed, compressed, rotated or shifted."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctkeras.audit import audit
from ctkeras.data import decoded, sources
from ctkeras.errors import UserError
from ctkeras.evaluation import bootstrap
from ctkeras.models import export, fast, predict
from ctkeras.runs.folder import read_config, write_json
from ctkeras.runs.predictions import FOLDS, read_predictions
from ctkeras.runtime import console, process

if TYPE_CHECKING:
    import keras

FILE = "robustness.json"  # in the run folder
BATCH = 32  # images per forward pass
_SAME = 0.02  # largest difference in probability at which a member's answer is the out-of-fold one
Answer = Callable[[np.ndarray], np.ndarray]  # gray images uint8 [N, S, S] to probabilities [N, C]


class Change(NamedTuple):
    """One way in which scanners, reconstructions and exports differ, at five strengths."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # uint8 [S, S] to the same


def _noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(image + strength * rng.standard_normal(image.shape)), 0, 255).astype(np.uint8)


def _blur(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(strength)))


def _window(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    cut = 255 * strength / 100
    return np.clip(np.rint((image - cut) * 255 / (255 - 2 * cut)), 0, 255).astype(np.uint8)


def _jpeg(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=100 - int(strength))
    return np.asarray(Image.open(content))


def _rotation(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    from PIL import Image

    angle = strength * rng.choice((-1, 1))
    return np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))


def _offset(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    size, steps = len(image), np.rint(strength / 100 * len(image) * rng.choice((-1, 1), 2)).astype(int)
    padded = np.pad(image, size)  # black, as outside the body
    return padded[size + steps[0] : 2 * size + steps[0], size + steps[1] : 2 * size + steps[1]]


# Strengths reach from what is hardly visible to what nobody would export; five as in ImageNet-C (Hendrycks & Dietterich 2019).
CHANGES = (
    Change("noise", "gray levels", (5, 10, 15, 20, 30), _noise),
    Change("blur", "pixels", (0.5, 1, 1.5, 2, 3), _blur),
    Change("gray window", "% cut at each end", (5, 10, 15, 20, 25), _window),
    Change("JPEG", "below quality 100", (20, 40, 60, 80, 90), _jpeg),
    Change("rotation", "degrees", (5, 10, 15, 20, 30), _rotation),
    Change("crop offset", "% of the side", (2, 4, 6, 8, 10), _offset),
)


def robustness(folder: Path, *, data: str | None = None) -> dict[str, Any]:
    """Measures a run's model on changed validation images and writes robustness.json.

    Images are changed as the model takes them: gray, cropped, at the model's size. A run in folds was trained on the
    validation images; each image is then classified by the member that was not trained on it.

    Args:
        folder: a run folder with model.keras.
        data: the data set, when it is no longer where the run found it.

    Returns:
        split, n, acc (of unchanged images), low, high, by (who answers, in words), rows of change, strength, unit, acc, low,
        high by resampling groups, and worst, a sentence.

    Raises:
        UserError: no run folder, no model, or the data cannot be read or has other classes.
    """
    config = read_config(folder)
    process.configure()
    model, names, preparation = predict.open_model(folder)
    source = sources.open_source(data or config.data, slices=config.slices)
    if tuple(names) != source.class_names:
        raise UserError(
            f"the model in {folder} has the classes {', '.join(names)}; {source.path} has {', '.join(source.class_names)}"
        )
    audited = audit.load(source, group_pattern=config.group_pattern)
    split = decoded.load_split(source, "valid", int(model.input.shape[1]), preparation)
    answer, known, by = _answering(folder, model, split)
    images, labels = np.asarray(split.images)[known], split.labels[known]
    groups = audited.group_of(split.files)[known]
    plain = _accuracy(answer(images), labels, groups)
    rows, bar = [], console.Bar("changing images", sum(len(change.strengths) for change in CHANGES))
    for change in CHANGES:
        for strength in change.strengths:
            found = _accuracy(answer(changed(images, change, strength)), labels, groups)
            rows.append({"change": change.name, "strength": float(strength), "unit": change.unit, **found})
            bar.update(len(rows))
    bar.close()
    values = {"split": "valid", "n": len(labels), **plain, "by": by, "rows": rows, "worst": worst(plain["acc"], rows)}
    write_json(folder / FILE, values)
    return values


def changed(images: np.ndarray, change: Change, strength: float) -> np.ndarray:
    """Changed images, the same each time: uint8 [N, S, S] to uint8 [N, S, S]."""
    rng = np.random.default_rng(0)
    return np.stack([change.apply(image, strength, rng) for image in images])


def worst(plain: float, rows: Sequence[dict[str, Any]]) -> str:
    """The largest loss of accuracy in one sentence.

    Args:
        plain: accuracy on unchanged images.
        rows: of robustness.
    """
    row = min(rows, key=lambda row: row["acc"])
    lost = plain - row["acc"]
    if lost <= 0:
        return "No change at any strength lowers accuracy."
    return (
        f"Worst case: {row['change']} of {row['strength']:g} {row['unit']} lowers accuracy from {plain:.3f} to "
        f"{row['acc']:.3f} ({row['low']:.3f} to {row['high']:.3f})."
    )


def _accuracy(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Accuracy with bounds."""
    right = probabilities.argmax(-1) == labels
    low, high = bootstrap.share(right, groups)
    return {"acc": float(right.mean()), "low": low, "high": high}


def _answering(folder: Path, model: "keras.Model", split: decoded.Split) -> tuple[Answer, np.ndarray, str]:
    """What classifies the images, which images it can classify fairly (bool [N]), and who that is, in words."""
    everything = np.ones(len(split.files), bool)
    pooled = read_predictions(folder, FOLDS)
    if pooled is None:
        return lambda grays: _probabilities(model, grays), everything, "the exported model"
    places = {file: number for number, file in enumerate(pooled.files)}
    known = np.array([file in places for file in split.files])
    expected = pooled.probabilities[[places[file] for file in split.files if file in places]]
    if (members := _members(model)) is not None and known.any():
        each = _probabilities(members, np.asarray(split.images)[known])  # [n, M, C]
        gaps = np.abs(each - expected[:, None]).max(-1)
        if (gaps.min(1) < _SAME).all():
            own = gaps.argmin(1)
            by = "the member of the model that was not trained on the image"
            return lambda grays: _probabilities(members, grays)[np.arange(len(own)), own], known, by
    by = "the exported model, which was trained on these images too: only the losses say something, not the level"
    return lambda grays: _probabilities(model, grays), everything, by


def _members(model: "keras.Model") -> "keras.Model | None":
    """The model that gives each member's probabilities, [B, M, C]; None where there is one member."""
    import keras

    if not export.is_joined(model):
        return None
    return keras.Model(model.inputs, model.get_layer("member_probabilities").output)


def _probabilities(model: "keras.Model", grays: np.ndarray) -> np.ndarray:
    """A model's outputs for gray images uint8 [N, S, S]; the last batch is padded, so that one program is compiled."""
    program, answers = fast.program(model), []
    for start in range(0, len(grays), BATCH):
        batch = grays[start : start + BATCH]
        padded = np.pad(batch, ((0, min(BATCH, len(grays)) - len(batch)), (0, 0), (0, 0)))
        answers.append(program(padded[..., None].repeat(3, -1).astype(np.float32)))
    return np.concatenate(answers)[: len(grays)]
