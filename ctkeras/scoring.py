"""Evaluation of an exported model on one split, from the run folder alone."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras import decoded, evaluation, export, runfolder, runtime, sources
from ctkeras.config import UserError

BATCH = 32  # images a pass


def evaluate_run(folder: Path, split: str, *, data: str | None = None) -> dict[str, Any]:
    """Evaluates a run's model.keras and writes metrics_<split>.json and the split's rows of predictions.csv.

    Args:
        folder: a run folder.
        split: train, valid or test.
        data: the data set, when it is no longer where the run found it.

    Returns:
        The metrics; see evaluation.evaluate.

    Raises:
        UserError: no run folder, no model, or data of other classes.
    """
    config = runfolder.read_config(folder)
    source = sources.open_source(data or config.data)
    trained_on = runfolder.read_json(folder / "metrics.json").get("data_fingerprint")
    runtime.configure()
    model, names = export.open_model(folder)
    if tuple(names) != source.class_names:
        raise UserError(
            f"{folder} knows the classes {', '.join(names)}; {source.path} has {', '.join(source.class_names)}"
        )
    if source.fingerprint != trained_on:
        runtime.note("Note: these are other images than the run was trained on.")
    images = decoded.load_split(source, split, int(model.input.shape[1]))
    probabilities = _probabilities(model, images, split)
    metrics = {
        "split": split,
        "data": os.path.abspath(source.path) if source.kind != "phantom" else source.path,
        "data_fingerprint": source.fingerprint,
        **evaluation.evaluate(images.labels, probabilities, names),
    }
    runfolder.write_predictions(folder, prediction_rows(images, probabilities, split), split=split)
    runfolder.write_json(folder / f"metrics_{split}.json", metrics)
    return metrics


def _probabilities(model: Any, images: decoded.Split, split: str) -> np.ndarray:
    """The model's answers for a split in order: float32 [N, C]."""
    from ctkeras import pipeline

    bar = runtime.Bar(f"evaluating {split}", -(-len(images.files) // BATCH))
    answers = []
    for done, batch in enumerate(pipeline.eval_batches(images, BATCH), start=1):
        answers.append(np.asarray(model.predict_on_batch(batch.inputs.astype(np.float32))))
        bar.update(done)
    bar.close()
    return np.concatenate(answers)[: len(images.files)]


def prediction_rows(split: decoded.Split, probabilities: np.ndarray, split_name: str) -> list[dict[str, Any]]:
    """Rows of predictions.csv.

    Args:
        split: for files, labels and class names.
        probabilities: float [N, C].
        split_name: train, valid or test.
    """
    names, rows = split.class_names, []
    for file, label, row in zip(split.files, split.labels, probabilities, strict=True):
        chances = {f"p_{name}": f"{chance:.6f}" for name, chance in zip(names, row, strict=True)}
        rows.append(
            {"file": file, "split": split_name, "label": names[label], "predicted": names[row.argmax()], **chances}
        )
    return rows
