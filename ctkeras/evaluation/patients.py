"""Answers per patient: the mean of the probabilities of a patient's slices, and the metrics of these means."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctkeras.audit.audit import Audit
from ctkeras.evaluation import metrics
from ctkeras.runs.predictions import Predictions

SHOWN = {"patient_acc": "accuracy", "patient_macro_f1": "macro F1", "patient_auc": "AUC"}
_LEAST = 2  # patients; a single one has no interval


class Patients(NamedTuple):
    """One row per patient of a split, in the order of their first slices."""

    names: tuple[str, ...]  # pseudonyms
    labels: np.ndarray  # int [P]
    probabilities: np.ndarray  # float64 [P, C], means over slices
    slices: np.ndarray  # int [P], how many each mean is over
    mixed: int  # patients whose slices have several labels; they have no label and are left out


def known(audited: Audit | None, files: Sequence[str]) -> list[str]:
    """The patient of each file, a pseudonym; [] unless all are known and some patient has more than one slice.

    Args:
        audited: of the data set; None if it cannot be read.
        files: N names.
    """
    of = {image.file: image.patient for image in audited.images} if audited is not None else {}
    patients = [of.get(file, "") for file in files]
    return patients if all(patients) and len(set(patients)) < len(patients) else []


def averaged(predictions: Predictions, patients: Sequence[str]) -> Patients:
    """Averages the answers of each patient's slices.

    Args:
        predictions: of N slices.
        patients: N names.
    """
    names = list(dict.fromkeys(patients))
    numbers = {name: i for i, name in enumerate(names)}
    member = np.array([numbers[name] for name in patients], np.int64)
    slices = np.bincount(member, minlength=len(names))
    sums = np.zeros((len(names), predictions.probabilities.shape[1]))
    np.add.at(sums, member, predictions.probabilities)
    counts = np.zeros_like(sums)
    np.add.at(counts, (member, predictions.labels), 1)
    whole = (counts > 0).sum(1) == 1
    return Patients(
        tuple(name for name, one in zip(names, whole, strict=True) if one),
        counts.argmax(1)[whole],
        (sums / slices[:, None])[whole],
        slices[whole],
        int((~whole).sum()),
    )


def results(predictions: Predictions, patients: Sequence[str]) -> dict[str, Any]:
    """Metrics per patient: patient_n, and patient_acc, patient_macro_f1 and patient_auc with _low and _high.

    The intervals are by resampling patients; an accuracy that all resamples give alike, such as 1, has Wilson's.

    Args:
        predictions: of N slices.
        patients: from `known`; [] gives {}.

    Returns:
        With patient_mixed_n, the patients whose slices have several labels, where there are such. auc is missing if a class
        has no patient.
    """
    if not patients:
        return {}
    own = averaged(predictions, patients)
    mixed = {"patient_mixed_n": own.mixed} if own.mixed else {}
    if len(own.names) < _LEAST:
        return mixed
    values = metrics.evaluate(own.labels, own.probabilities, predictions.class_names)
    wanted = [name.removeprefix("patient_") for name in SHOWN]
    ends = [f"{name}{end}" for name in wanted for end in ("", "_low", "_high")]
    return {"patient_n": len(own.names), **mixed} | {f"patient_{name}": values[name] for name in ends if name in values}


def rows(own: Patients, class_names: Sequence[str], split: str) -> list[dict[str, Any]]:
    """Rows of predictions_patients.csv."""
    return [
        {"patient": name, "split": split, "slices": int(slices), "label": class_names[label]}
        | {"predicted": class_names[int(chances.argmax())]}
        | {f"p_{of}": f"{share:.9g}" for of, share in zip(class_names, chances, strict=True)}
        for name, label, chances, slices in zip(own.names, own.labels, own.probabilities, own.slices, strict=True)
    ]
