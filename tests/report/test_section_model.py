"""The report's part on the model: its numbers are those of predictions.csv."""

import collections
import csv

import pytest
import run_folders
from pages import Parsed, written
from sklearn import metrics


def sections(folder, right):
    """The page's sections for one run that has the first so many of 72 images right, each with a confidence of 0.7."""
    run_folders.answering(folder, (right,))
    return Parsed(written(folder)).sections


@pytest.mark.parametrize(
    ("right", "words", "ece"),
    [
        (60, "83.3% of its answers are right and its mean confidence is 70.0%: it is underconfident.", 0.133),
        (40, "55.6% of its answers are right and its mean confidence is 70.0%: it is overconfident.", 0.144),
        (
            51,
            "70.8% of its answers are right and its mean confidence is 70.0%: it is well calibrated on average.",
            0.008,
        ),
        (
            49,
            "68.1% of its answers are right and its mean confidence is 70.0%: it is well calibrated on average.",
            0.019,
        ),
        (48, "66.7% of its answers are right and its mean confidence is 70.0%: it is overconfident.", 0.033),
    ],
)
def test_confidence_is_compared_with_accuracy(tmp_path, right, words, ece):
    section = sections(tmp_path, right)["reliability"]
    assert words in section
    assert f"(ECE, 15 bins){ece:.3f}" in section


def test_classes_are_counted_against_the_others(tmp_path):
    section = sections(tmp_path, 50)["confusion"]
    with open(tmp_path / "run-0000/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels, predicted = ([row[name] for row in rows] for name in ("label", "predicted"))
    names = list(run_folders.CLASSES)
    precision, recall, _, counts = metrics.precision_recall_fscore_support(labels, predicted, labels=names)
    for i, name in enumerate(names):
        others = [p == name for label, p in zip(labels, predicted, strict=True) if label != name]
        specificity = 1 - sum(others) / len(others)
        assert f"{name}{counts[i]}{precision[i]:.3f}{recall[i]:.3f}{specificity:.3f}" in section
    mistakes = collections.Counter(pair for pair in zip(labels, predicted, strict=True) if pair[0] != pair[1])
    (true, called), count = mistakes.most_common(1)[0]
    words = f"Its most frequent mistake: {count} of {labels.count(true)} images of {true} were called {called}."
    assert list(mistakes.values()).count(count) > 1 or words in section


def test_a_model_without_errors_has_none_to_show(tmp_path):
    page = sections(tmp_path, 72)
    assert "It made no mistakes." in page["confusion"]
    assert "None: every image was classified correctly." in page["errors"]


def test_the_most_confident_errors_come_first(tmp_path):
    run_folders.answering(tmp_path, (60,))
    path = tmp_path / "run-0000/predictions.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row[f"p_{row['predicted']}"] = f"{0.6 + i / 1000:.3f}"
    run_folders.write_csv(path, rows)
    section = Parsed(written(tmp_path)).sections["errors"]
    assert "12 of 72 images were misclassified" in section
    places = [section.index(rows[i]["file"]) for i in (71, 70, 69, 68, 67, 66)]
    assert places == sorted(places)
    assert rows[65]["file"] not in section
