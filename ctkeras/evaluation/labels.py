"""Images whose label looks wrong: under two labels, or contradicted by models that were not trained on them."""

from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.audit import audit
from ctkeras.data import decoded, sources
from ctkeras.errors import UserError
from ctkeras.runs.folder import read_config, write_json
from ctkeras.runs.predictions import FOLDS, Predictions, read_predictions, read_validation

FILE = "labels.json"  # in the run folder
CONFLICT, DOUBT = "two labels", "contradicted"  # why an image is in the list
PICTURES = 12  # of the first images, in the folder labels/ of the run


def check(folder: Path, *, data: str | None = None) -> dict[str, Any]:
    """Lists the images whose label looks wrong, the most doubtful first, and writes labels.json.

    First come images that the data set holds under two labels, of which one must be wrong whatever a model says. Training in
    folds leaves them out. Then those that confident learning finds. Nothing is changed: a person who can read the images
    decides.

    Args:
        folder: a run folder with predictions of images that their model was not trained on.
        data: the data set, when it is no longer where the run found it.

    Returns:
        by, folds or valid; n, how many images were checked; rows of file, label, suggested, p_label, p_suggested (None where
        no model that was not trained on the image has classified it) and reason.

    Raises:
        UserError: no run folder, no such predictions, or the data cannot be read.

    Example:
        >>> check(Path("runs/example"))["rows"][0]["reason"]
        'two labels'
    """
    config = read_config(folder)
    predicted = read_validation(folder)
    if predicted is None:
        raise UserError(f"{folder} has no predictions; create them with `evaluate {folder}`")
    source = sources.open_source(data or config.data, slices=config.slices)
    rows = _conflicts(audit.load(source), predicted)
    listed = {row["file"] for row in rows}
    rows += [row for row in _doubtful(predicted) if row["file"] not in listed]
    by = "valid" if read_predictions(folder, FOLDS) is None else FOLDS
    values = {"by": by, "n": len(predicted.files), "rows": rows}
    write_json(folder / FILE, values)
    return values


def confident(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confident learning (Northcutt, Jiang & Chuang 2021): the images that are confidently of another class than their label.

    An image is confidently of a class if its probability is at least the mean probability of that class over the images
    labelled so; of several such classes, the most probable one counts. As in cleanlab's filter of the same name, an image
    whose most probable class is its label is not listed. cleanlab itself would bring pandas for these few lines.

    Args:
        labels: int [N].
        probabilities: float [N, C], each from a model that was not trained on the image.

    Returns:
        Indices int [M] and the suggested classes int [M], by p_label - p_suggested, the lowest first.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    with np.errstate(invalid="ignore"):
        least = (
            np.bincount(labels, own, minlength=len(counts)) / counts
        )  # NaN for a class without images: never reached
    allowed = np.where(probabilities >= least, probabilities, -1.0)
    suggested = allowed.argmax(-1)
    doubtful = (allowed.max(-1) >= 0) & (suggested != labels) & (probabilities.argmax(-1) != labels)
    which = np.flatnonzero(doubtful)
    margin = own[which] - probabilities[which, suggested[which]]
    which = which[np.argsort(margin, kind="stable")]
    return which, suggested[which]


def write_pictures(folder: Path, rows: list[dict[str, Any]], *, data: str | None = None) -> list[Path]:
    """Writes the first images with the evidence for the suggested class (Grad-CAM) to the folder labels/ of the run.

    Args:
        folder: the run folder, with its model.keras.
        rows: from check.
        data: as for check.
    """
    from ctkeras.evaluation import gradcam
    from ctkeras.models import fast, predict
    from ctkeras.runtime import process

    process.configure()
    model, names, preparation = predict.open_model(folder)
    config, size = read_config(folder), int(model.input.shape[1])
    source = sources.open_source(data or config.data, slices=config.slices)
    chosen = {row["file"]: row for row in rows[:PICTURES]}
    grays: dict[str, np.ndarray] = {}
    for split in ("train", "valid"):  # an image of test may be here as a copy under two labels; it is not opened
        loaded = decoded.load_split(source, split, size, preparation)
        grays |= {file: image for file, image in zip(loaded.files, loaded.images, strict=True) if file in chosen}
    shown = [file for file in chosen if file in grays]
    pixels = np.stack([grays[file] for file in shown])[..., None].repeat(3, -1).astype(np.float32)
    wanted = np.array([names.index(chosen[file]["suggested"]) for file in shown])
    heats = gradcam.heat_maps(model, pixels, wanted)
    answers = fast.program(model)(pixels)
    paths = []
    for number, file in enumerate(shown):
        paths.append(folder / "labels" / f"{number + 1:02}.png")
        explained = gradcam.Explained(np.asarray(grays[file]), answers[number], int(wanted[number]), heats[number])
        gradcam.write_picture(explained, names, paths[-1], name=f"labelled {chosen[file]['label']}: {file}")
    return paths


def _conflicts(audited: audit.Audit, predicted: Predictions) -> list[dict[str, Any]]:
    """Rows of the images that the data set holds under two labels, both files of each."""
    classes = {image.file: image.class_name for image in audited.images}
    rows: dict[str, dict[str, Any]] = {}
    for first, second in audited.conflicts():
        for file, other in ((first, second), (second, first)):
            rows.setdefault(file, _row(predicted, file, classes[file], classes[other], CONFLICT))
    return list(rows.values())


def _doubtful(predicted: Predictions) -> list[dict[str, Any]]:
    """Rows of the images that confident learning finds."""
    which, suggested = confident(predicted.labels, predicted.probabilities)
    names = predicted.class_names
    return [
        _row(predicted, predicted.files[at], names[predicted.labels[at]], names[other], DOUBT)
        for at, other in zip(which, suggested, strict=True)
    ]


def _row(predicted: Predictions, file: str, label: str, suggested: str, reason: str) -> dict[str, Any]:
    """One image of the list."""
    chances: list[float | None] = [None, None]
    if file in predicted.files:
        row = predicted.probabilities[predicted.files.index(file)]
        chances = [float(row[predicted.class_names.index(name)]) for name in (label, suggested)]
    values = {"file": file, "label": label, "suggested": suggested, "p_label": chances[0], "p_suggested": chances[1]}
    return values | {"reason": reason}
