"""The report's part on the test split: its numbers three ways, or that it is closed."""

import shlex

from ctkeras.report import page
from ctkeras.report.findings import Findings
from ctkeras.report.page import Section, p

# Names of metrics in metrics_test.json that are shown three ways, and what a reader calls them.
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
    "sensitivity_at_valid_threshold_90": "sensitivity at validation's threshold for 0.90",
    "specificity_at_valid_threshold_90": "specificity at that threshold",
    "sensitivity_at_valid_threshold_95": "sensitivity at validation's threshold for 0.95",
    "specificity_at_valid_threshold_95": "specificity at that threshold",
}
WAYS = (
    ("", "all test images"),
    ("clean_", "without those that also stand in train or valid"),
    ("distinct_", "each distinct image once"),
)


def test_numbers(found: Findings) -> Section:
    """The test split's numbers three ways, or that it is closed."""
    test, run = found.test, found.chosen
    if not test:
        place = run.folder or run.name
        command = page.command(f"python -m ctkeras evaluate {shlex.quote(str(place))} --split test")
        words = "The test split has not been opened for this model. Open it once, when nothing is left to choose:"
        return page.section("test", "The test split", p(words), command)
    ways = [(prefix, name) for prefix, name in WAYS if f"{prefix}acc" in test]
    columns = ["", *(f"{name} (n = {test.get(f'{prefix}n', '–')})" for prefix, name in ways)]
    lines = []
    for metric, name in SHOWN.items():
        if metric in test:
            lines.append([name, *(page.three(test, f"{prefix}{metric}") for prefix, _ in ways)])
    method = "95% intervals: bootstrap over distinct images, 10,000 resamples. "
    if "sensitivity_at_specificity_90" in test:
        method += (
            "Sensitivity is that of calling an image anything but normal; a threshold chosen on the very images it is "
        )
        method += "measured on flatters, one chosen on validation doesn't."
    opened = test.get("opened")
    times = test.get("openings", 1)
    when = f"It was opened on {str(opened).replace('T', ', ')}" if opened else "It was opened"
    again = f", for time {times}: what is chosen by test numbers needs another test set."
    when += ", for the first time." if times == 1 else again
    return page.section(
        "test",
        "The test split, three ways",
        p(
            when,
            " Images of one patient, and copies, may stand in several splits; the second column leaves copies out.",
        ),
        page.table(columns, lines, caption="Test metrics with 95% intervals", numbers=range(1, len(columns))),
        p(method, class_="fine"),
        files=found.files("metrics_test.json", runs=[run]),
    )
