"""The report's part on the test split: its numbers for three sets of images, or that it has not been opened."""

import shlex
from collections.abc import Mapping
from typing import Any

from ctkeras.report.findings import Findings
from ctkeras.report.html import page
from ctkeras.report.html.page import Section, p
from ctkeras.report.html.words import known, number, with_interval

# Metrics in metrics_test.json that are shown, and their names for a reader.
SHOWN = {
    "acc": "accuracy",
    "balanced_acc": "balanced accuracy",
    "macro_f1": "macro F1",
    "auc": "AUC, mean over classes",
    "ap": "average precision, mean over classes",
    "ece": "calibration error (ECE)",
    "against_normal_auc": "AUC, cancer against normal",
    "sensitivity_at_specificity_90": "sensitivity at specificity 0.90",
    "sensitivity_at_specificity_95": "sensitivity at specificity 0.95",
    "sensitivity_at_valid_threshold_90": "sensitivity at the threshold for 0.90 on validation",
    "specificity_at_valid_threshold_90": "specificity at that threshold",
    "sensitivity_at_valid_threshold_95": "sensitivity at the threshold for 0.95 on validation",
    "specificity_at_valid_threshold_95": "specificity at that threshold",
}
WAYS = (
    ("", "all test images"),
    ("clean_", "without those also in train or valid"),
    ("distinct_", "each distinct image once"),
)


FEW = 10  # images of a class; with fewer, one image moves its recall by more than a tenth


def _few(test: Mapping[str, Any]) -> list[str]:
    """Which columns rest on few images of a class, as evaluate prints it."""
    words = []
    for prefix, title in WAYS:
        matrix, names = test.get(f"{prefix}confusion_matrix"), test.get("class_names")
        if not isinstance(matrix, list) or not isinstance(names, list):
            continue
        counts = [sum(filter(known, row)) if isinstance(row, list) else 0 for row in matrix]
        few = [f"{name} ({count:,.0f})" for name, count in zip(names, counts, strict=False) if count < FEW]
        if few:
            words.append(
                f"{title.capitalize()}: few images of {', '.join(few)}; balanced accuracy, macro F1 and AUC depend on them."
            )
    return words


def _bounded(test: Mapping[str, Any], name: str) -> str:
    """A metric with its interval by patients or groups, or, where that is missing, by images."""
    own = f"{name}_group" if known(test.get(f"{name}_group_low")) else name
    value, low, high = (test.get(key) for key in (name, f"{own}_low", f"{own}_high"))
    if known(value) and value in (0, 1) and low == high:
        return f"{number(value)} (–)"
    return with_interval(value, low, high)


def _method(test: Mapping[str, Any]) -> str:
    """How the intervals of the table were made."""
    images = "bootstrap over distinct images, 10,000 resamples"
    if known(test.get("acc_group_low")):
        units = "patients" if test.get("grouped_by") == "patient" else "groups of similar images"
        images = (
            f"bootstrap over {units} in the first two columns, without the last four rows; in all others over distinct "
        )
        images += "images; 10,000 resamples"
    return f"{images}; (–): all resamples are alike, so they say nothing about chance"


def test_numbers(found: Findings) -> Section:
    """The test split's numbers for three sets of images, or that it has not been opened."""
    test, run = found.test, found.chosen
    if not test:
        place = run.folder or run.name
        command = page.command(f"python -m ctkeras evaluate {shlex.quote(str(place))} --split test")
        words = "The test split has not been opened for this model. Open it once, after every choice has been made:"
        return page.section("test", "The test split", p(words), command)
    ways = [(prefix, name) for prefix, name in WAYS if f"{prefix}acc" in test]
    columns = ["", *(f"{name} (n = {test.get(f'{prefix}n', '–')})" for prefix, name in ways)]
    lines = []
    for metric, name in SHOWN.items():
        if metric in test:
            lines.append([name, *(_bounded(test, f"{prefix}{metric}") for prefix, _ in ways)])
    method = f"95% intervals: {_method(test)}. "
    if "sensitivity_at_specificity_90" in test:
        method += (
            "Sensitivity is the share of images of other classes that are not called normal. A threshold chosen on the "
        )
        method += "test images themselves makes it optimistic; a threshold chosen on validation does not."
    opened = test.get("opened")
    times = test.get("openings", 1)
    when = f"It was opened on {opened[:10]} at {opened[11:16]} UTC" if isinstance(opened, str) else "It was opened"
    again = f", opening number {times}. If anything was chosen by test numbers, use another test set."
    when += ", for the first time." if times == 1 else again
    return page.section(
        "test",
        "The test split, counted in three ways",
        p(
            when,
            " Copies of an image, and images of one patient, may be in several splits; the second column leaves copies out.",
        ),
        page.table(columns, lines, caption="Test metrics with 95% intervals", numbers=range(1, len(columns))),
        *(p(words, class_="fine") for words in _few(test)),
        p(method, class_="fine"),
        files=found.files("metrics_test.json", runs=[run]),
    )
