"""predictions.csv: a model's probabilities for each image of the splits it was evaluated on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.runs.folder import read_csv, write_csv


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Predictions:
    """One split's rows of predictions.csv."""

    files: tuple[str, ...]
    labels: np.ndarray  # int [N]
    probabilities: np.ndarray  # float64 [N, C]
    class_names: tuple[str, ...]


PATIENTS = "predictions_patients.csv"
FOLDS = "folds"  # the split of rows that are each from a model that was not trained on the image


def read_validation(folder: Path) -> Predictions | None:
    """The images that a run was validated on: all, out of fold, if it was trained in folds, otherwise the validation split.

    Args:
        folder: the run folder.

    Raises:
        UserError: as read_predictions.
    """
    out_of_fold = read_predictions(folder, FOLDS)
    return out_of_fold if out_of_fold is not None else read_predictions(folder, "valid")


def read_predictions(folder: Path, split: str) -> Predictions | None:
    """A split's rows of predictions.csv; None when the run has none.

    Args:
        folder: the run folder.
        split: train, valid or test.

    Raises:
        UserError: the file is not one that this tool wrote.
    """
    path = folder / "predictions.csv"
    rows = read_csv(path)
    try:
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            return None
        names = [column.removeprefix("p_") for column in rows[0] if column.startswith("p_")]
        labels = np.array([names.index(row["label"]) for row in rows])
        probabilities = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
        return Predictions(tuple(row["file"] for row in rows), labels, probabilities, tuple(names))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {path} ({error}); move it away") from error


def prediction_rows(
    files: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, *, class_names: Sequence[str], split: str
) -> list[dict[str, Any]]:
    """Rows of predictions.csv, from which every metric can be computed again: nine digits hold a float32 exactly.

    Args:
        files: N names.
        labels: int [N].
        probabilities: float [N, C].
        class_names: C names, in label order.
        split: train, valid or test.
    """
    rows = []
    for file, label, row in zip(files, labels, probabilities, strict=True):
        shares = {f"p_{name}": f"{share:.9g}" for name, share in zip(class_names, row, strict=True)}
        answer = {"label": class_names[label], "predicted": class_names[row.argmax()]}
        rows.append({"file": file, "split": split, **answer, **shares})
    return rows


def write_predictions(
    folder: Path, rows: Sequence[dict[str, Any]], *, split: str, name: str = "predictions.csv"
) -> None:
    """Puts a split's rows into predictions.csv, in place of that split's earlier ones.

    Args:
        folder: the run folder.
        rows: file, split, label, predicted, p_<class>….
        split: their split.
        name: PATIENTS for rows per patient: patient, split, slices, label, predicted, p_<class>….

    Raises:
        UserError: the file there is damaged or has other columns.
    """
    path = folder / name
    earlier = read_csv(path)
    if any(row.keys() != rows[0].keys() for row in earlier):
        raise UserError(f"{path} has other columns than this run's, {', '.join(rows[0])}; move it away")
    write_csv(path, list(rows[0]), [*(row for row in earlier if row["split"] != split), *rows])


def worst_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Indices of the wrongly classified images, the most confident error first.

    Args:
        labels: int [N].
        probabilities: float [N, C].
    """
    wrong = np.flatnonzero(probabilities.argmax(-1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(-1), kind="stable")]
