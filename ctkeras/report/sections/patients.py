"""The report's numbers per patient: the means of the answers for each patient's slices."""

from collections.abc import Mapping
from typing import Any

from ctkeras.errors import UserError
from ctkeras.evaluation import patients
from ctkeras.report.findings import Findings
from ctkeras.report.html import page
from ctkeras.report.html.page import Html
from ctkeras.report.html.words import known, plural, three
from ctkeras.runs.predictions import read_validation


def table(found: Findings) -> Html | None:
    """One row per split with patients of several slices; None without such."""
    rows = [("validation", _validation(found)), ("test", found.test)]
    lines = [
        [name, plural(int(values["patient_n"]), "patient"), *(three(values, metric) for metric in patients.SHOWN)]
        for name, values in rows
        if known(values.get("patient_n")) and known(values.get("patient_acc"))
    ]
    if not lines:
        return None
    return page.table(
        ["split", "patients", *patients.SHOWN.values()],
        lines,
        caption="Per patient, by the mean over its slices, with 95% intervals by resampling patients",
        numbers=range(1, 5),
    )


def _validation(found: Findings) -> Mapping[str, Any]:
    """What evaluate measured, or else the same from the answers that the run was validated by; {} if these are missing."""
    measured = found.measured.get("metrics_valid.json", {})
    if "patient_n" in measured or found.chosen.folder is None:
        return measured
    try:
        own = read_validation(found.chosen.folder)
    except UserError:  # the report says elsewhere that the file is damaged
        return {}
    return patients.results(own, patients.known(found.audit, own.files)) if own is not None else {}
