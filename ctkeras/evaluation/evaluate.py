"""Evaluation of an exported model on one split, from its run folder, and the record of each opening of the test split."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.audit import audit
from ctkeras.data import decoded, sources
from ctkeras.data.layout import SPLITS
from ctkeras.errors import UserError
from ctkeras.evaluation import openings, patients, similarity
from ctkeras.evaluation.metrics import choose, three_ways
from ctkeras.models import contract, export, fast, predict
from ctkeras.runs.folder import read_config, read_metrics, write_json
from ctkeras.runs.predictions import (
    FOLDS,
    PATIENTS,
    Predictions,
    prediction_rows,
    read_predictions,
    read_validation,
    write_predictions,
)
from ctkeras.runtime import console, process

BATCH = 32  # images per forward pass
# For each split, the earlier ones, whose images are not new to a model that is evaluated on it.
USED_BEFORE = {"train": (), "valid": ("train",), "test": ("train", "valid")}


def evaluate(
    folder: Path | str, split: str = "valid", *, data: str | None = None, again: bool = False
) -> dict[str, Any]:
    """Evaluates a run's model.keras and writes metrics_<split>.json and the split's rows of predictions.csv.

    The test split is opened once per model: the opening is recorded in test_opened.json before an image is read, and
    later calls return the stored numbers.

    Args:
        folder: a run folder.
        split: train, valid or test.
        data: the data set, when it is no longer where the run found it.
        again: open the test split once more; this opening is recorded too.

    Returns:
        The metrics; see metrics.three_ways, and patients.results.

    Raises:
        UserError: no run folder, no model, an unknown split, or data with other classes.

    Example:
        >>> import ctkeras
        >>> metrics = ctkeras.evaluate("runs/example", "valid")
        >>> metrics["acc_low"] <= metrics["acc"] <= metrics["acc_high"]
        True
    """
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    folder = Path(folder)
    config = read_config(folder)
    source = sources.open_source(data or config.data, slices=config.slices)
    trained_on = read_metrics(folder).get("data_fingerprint")
    identity = {"model_sha256": _sha256(folder / "model.keras"), "data_fingerprint": source.fingerprint}
    if split == "test" and not again and (stored := openings.stored(folder, identity)):
        return stored
    earlier = read_validation(folder)
    process.configure()
    model, names, preparation = predict.open_model(folder)
    _check_classes(folder, names, source, earlier)
    if source.fingerprint != trained_on:
        console.note("Note: this data set differs from the one that the run was trained on.")
    audited = audit.load(source, group_pattern=config.group_pattern)
    at = os.path.abspath(source.path) if source.kind != "phantom" else source.path
    facts = {"split": split, "data": at, **identity}
    if split == "test":
        facts |= openings.record(folder, {**identity, "data": at, "again": again})
    undone = True  # whether the answers without the model's temperature follow from its answers
    if split == "test" or not (rows := _out_of_fold_rows(folder, split, audited)):
        images = decoded.load_split(source, split, int(model.input.shape[1]), preparation)
        chances = _probabilities(model, images, split)
        rows = prediction_rows(images.files, images.labels, chances, class_names=images.class_names, split=split)
        undone = not export.is_joined(model)  # a mean of members' answers does not say what each of them was
    write_predictions(folder, rows, split=split)
    metrics = facts | _metrics(folder, split, audited, leaks=config.leaks, undone=undone)
    metrics |= _per_patient(folder, split, audited)
    write_json(folder / f"metrics_{split}.json", metrics)
    return metrics


def _out_of_fold_rows(folder: Path, split: str, audited: audit.Audit) -> list[dict[str, Any]]:
    """The out-of-fold rows of a split's images, if the run was trained in folds: its model was trained on them.

    Args:
        folder: the run folder.
        split: train or valid.
        audited: which file is in which split.
    """
    pooled = read_predictions(folder, FOLDS)
    if pooled is None:
        return []
    own = {image.file for image in audited.images if image.split == split}
    chosen = [number for number, file in enumerate(pooled.files) if file in own]
    console.note(
        f"The run was trained in folds, on the {split} images too: each of these numbers is from a member of the model that "
        "was not trained on the image."
    )
    return prediction_rows(
        [pooled.files[number] for number in chosen],
        pooled.labels[chosen],
        pooled.probabilities[chosen],
        class_names=pooled.class_names,
        split=split,
    )


def _metrics(folder: Path, split: str, audited: audit.Audit, *, leaks: str, undone: bool) -> dict[str, Any]:
    """A split's metrics, computed only from predictions.csv, contract.json and the audit: anyone can reproduce them."""
    own, valid = read_predictions(folder, split), read_validation(folder)
    assert own is not None  # for the type checker: it has just been written
    leaked = audited.leaked(split, USED_BEFORE[split])
    seen = np.array([file in leaked for file in own.files]) if USED_BEFORE[split] else None
    metrics = {"grouped_by": audited.grouped_by} | three_ways(
        own.labels,
        own.probabilities,
        own.class_names,
        groups=copies(audited, own.files),
        seen=seen,
        chosen=_chosen(folder, valid, undone=undone),
        units=audited.group_of(own.files),
    )
    if (temperature := contract.temperature(folder / "contract.json")) is not None:
        metrics |= {"temperature": temperature, "calibrated": True}
    if split == "train":
        return metrics
    folds = read_predictions(folder, FOLDS) is not None
    into = ("train", "valid") if folds else ("train",)
    trained = similarity.Trained(into, leaks, apart=folds and split == "valid")
    right = own.probabilities.argmax(-1) == own.labels
    return metrics | similarity.results(audited, split, files=own.files, right=right, seen=seen, trained=trained)


def _chosen(folder: Path, valid: Predictions | None, *, undone: bool) -> dict[str, float]:
    """What was chosen on validation; of a calibrated model, the temperature is its own, if it can be taken out again."""
    chosen = choose(valid.labels, valid.probabilities, valid.class_names) if valid else {}
    if (temperature := contract.temperature(folder / "contract.json")) is None:
        return chosen
    chosen.pop("temperature", None)
    return chosen | ({"temperature": temperature, "calibrated": True} if undone else {})


def _per_patient(folder: Path, split: str, audited: audit.Audit) -> dict[str, Any]:
    """Metrics of the means over each patient's slices, which are written to predictions_patients.csv; {} without patients."""
    own = read_predictions(folder, split)
    if own is None or not (names := patients.known(audited, own.files)):
        return {}
    if rows := patients.rows(patients.averaged(own, names), own.class_names, split):
        write_predictions(folder, rows, split=split, name=PATIENTS)
    return patients.results(own, names)


def copies(audited: audit.Audit, files: tuple[str, ...]) -> np.ndarray:
    """Which distinct image each file holds: int [N], equal for copies."""
    twins = audited.twins()
    return np.array([twins.get(file, -1 - i) for i, file in enumerate(files)])


def _check_classes(folder: Path, names: list[str], source: sources.Source, valid: Predictions | None) -> None:
    """Refuses data or predictions whose classes are not the model's."""
    if tuple(names) != source.class_names:
        raise UserError(
            f"the model in {folder} has the classes {', '.join(names)}; {source.path} has {', '.join(source.class_names)}"
        )
    if valid is not None and valid.class_names != tuple(names):
        raise UserError(f"{folder / 'predictions.csv'} has the classes {', '.join(valid.class_names)}; move it away")


def _probabilities(model: Any, images: decoded.Split, split: str) -> np.ndarray:
    """The model's answers for a split in order: float32 [N, C]."""
    from ctkeras.data import batches

    bar = console.Bar(f"evaluating {split}", -(-len(images.files) // BATCH))
    answer, answers = fast.program(model), []
    for done, batch in enumerate(batches.eval_batches(images, BATCH), start=1):
        answers.append(answer(batch.inputs.astype(np.float32)))
        bar.update(done)
    bar.close()
    return np.concatenate(answers)[: len(images.files)]


def _sha256(path: Path) -> str:
    """A file's SHA-256, '' when there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
