"""Whether two models differ by more than noise, from their answers on the same images."""

from pathlib import Path
from typing import Any

import numpy as np

from ctkeras import audit, resampling, runtime, scoring, sources
from ctkeras.config import UserError
from ctkeras.runs import folder as runfolder
from ctkeras.runs.predictions import Predictions, read_predictions


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test (1947) of two models on the same images: is one right where the other is wrong more often?

    Args:
        right_a: bool [N], whether the first model is right.
        right_b: bool [N], whether the second is, on the same images.

    Returns:
        (images that only the first has right, images that only the second has right, two-sided binomial p).
    """
    from scipy import stats

    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    both = only_a + only_b
    return only_a, only_b, float(stats.binomtest(only_a, both).pvalue) if both else 1.0


def paired(right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Two models' accuracies and their difference with 95% bounds, and McNemar's test; flat.

    Args:
        right_a: bool [N], whether the first model is right.
        right_b: bool [N], whether the second is, on the same images.
        groups: int [N], equal for copies of an image; copies are resampled together, and for both models alike.

    Returns:
        n, n_distinct, acc_a, acc_b, difference (a minus b), each with _low and _high; only_a, only_b and mcnemar_p of all
        images; distinct_only_a, distinct_only_b and distinct_mcnemar_p of each distinct image once.
    """

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(1)
        acc_a, acc_b = (resampling.totals(weights, right) / total for right in (right_a, right_b))
        return {"acc_a": acc_a, "acc_b": acc_b, "difference": acc_a - acc_b}

    first = np.unique(groups, return_index=True)[1]
    numbers: dict[str, Any] = {"n": len(groups), "n_distinct": len(first)}
    numbers |= {name: float(value[0]) for name, value in statistics(np.ones((1, len(groups)))).items()}
    numbers |= resampling.bounds(statistics, groups)
    names = ("only_a", "only_b", "mcnemar_p")
    numbers |= dict(zip(names, mcnemar(right_a, right_b), strict=True))
    once = mcnemar(right_a[first], right_b[first])
    return numbers | {f"distinct_{name}": value for name, value in zip(names, once, strict=True)}


def compare(folder_a: Path, folder_b: Path, split: str, *, data: str | None = None) -> dict[str, Any]:
    """Compares two runs by their predictions.csv on a split; opens no model and no image.

    Args:
        folder_a: a run folder.
        folder_b: another.
        split: train, valid or test.
        data: the data set, when it is no longer where the first run found it; it shows which files are copies.

    Returns:
        See paired.

    Raises:
        UserError: a run has no predictions of that split, or the two runs' images or labels differ.
    """
    a, b = (_predictions(folder, split) for folder in (folder_a, folder_b))
    if a.class_names != b.class_names or not np.array_equal(_labelled(a), _labelled(b)):
        raise UserError(
            f"{folder_a} and {folder_b} were evaluated on different {split} images or labels; evaluate both on the same data"
        )
    order_a, order_b = (np.argsort(each.files) for each in (a, b))
    right_a, right_b = (each.probabilities.argmax(-1) == each.labels for each in (a, b))
    files = tuple(a.files[i] for i in order_a)
    return paired(right_a[order_a], right_b[order_b], _distinct(folder_a, files, data))


def _predictions(folder: Path, split: str) -> Predictions:
    """A split's predictions.

    Raises:
        UserError: the run has no predictions of that split.
    """
    runfolder.read_config(folder)
    if (predictions := read_predictions(folder, split)) is None:
        raise UserError(f"{folder} has no {split} predictions; create them with `evaluate {folder} --split {split}`")
    return predictions


def _labelled(predictions: Predictions) -> np.ndarray:
    """(file, label) of each image, in the order of files."""
    return np.array(sorted(zip(predictions.files, map(str, predictions.labels), strict=True)))


def _distinct(folder: Path, files: tuple[str, ...], data: str | None) -> np.ndarray:
    """Which distinct image each file holds; every file counts as distinct, with a note, where the data cannot be read."""
    try:
        return scoring.copies(audit.load(sources.open_source(data or runfolder.read_config(folder).data)), files)
    except UserError as error:
        if data:
            raise
        runtime.note(
            f"Note: copies of an image are counted as separate images because the data cannot be read ({error})."
        )
        return np.arange(len(files))
