"""Sections that show what evaluate, the robustness and label checks and training's learning curve wrote, where they did."""

import json

import browser
import numpy as np
import pytest
import run_folders
from pages import Parsed, written
from run_folders import edit

from ctkeras.evaluation import curves
from ctkeras.report import findings, results
from ctkeras.report.sections import numbers

ADDED = ("similarity", "robustness", "training-size", "labels")
EVIL = '<img src="x" onerror="alert(1)">'


@pytest.fixture
def run(tmp_path):
    (folder,) = run_folders.write(tmp_path / "runs", runs=1, images=36)
    return run_folders.measured(folder)


def sections_of(run):
    return Parsed(written(run.parent)).sections


def test_three_numbers_lead_with_their_lookups_and_files(run):
    page = written(run.parent)
    assert next(iter(Parsed(page).sections)) == "numbers"
    text = " ".join(Parsed(page).sections["numbers"].split())
    for words in (
        "0.822",
        "95% interval 0.750 to 0.890 (315 images: plus or minus 5 points; 201 groups: plus or minus 7 points)",
        "Lookup: 0.921 (0.880 to 0.950); the most frequent class: 0.381.",
        "0.750",
        "40 test images whose most similar training image correlates below 0.88.",
        "31 groups: plus or minus 14 points",
        "Lookup: 0.600.",
        "Not measured: the run was not trained in folds.",
        "the split rewards recognising patients",
        "Selection could not see what test measures",
        "metrics_test.json",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("test", "valid", "said"),
    [
        ({}, {}, True),
        ({"lookup_acc_low": 0.65}, {}, False),
        ({}, {"lookup_acc_high": 0.9}, False),
        ({}, {"lookup_acc": None}, False),
    ],
)
def test_selection_is_blind_only_where_the_lookups_differ(run, test, valid, said):
    edit(run / "metrics_test.json", **test)
    edit(run / "metrics_valid.json", **valid)
    assert bool(numbers.unseen(findings.find(results.read(run.parent)))) == said


@pytest.mark.parametrize(
    ("lookup", "speaks", "said"), [(0.9, None, True), (0.45, None, False), (0.9, False, False), (0.4, True, True)]
)
def test_what_the_split_rewards(run, lookup, speaks, said):
    edit(run / "metrics_test.json", lookup_acc=lookup, lookup_speaks=speaks)
    assert bool(numbers.rewards(findings.find(results.read(run.parent)))) == said


def test_new_patients_are_those_of_grouped_folds(run):
    edit(run / "metrics.json", folds=5)
    path = run / "predictions.csv"
    path.write_text(path.read_text().replace(",valid,", ",folds,"))
    number = numbers.new_patients(findings.find(results.read(run.parent)))
    assert number.value == json.loads((run / "metrics.json").read_text())["val_acc"]
    assert number.interval.startswith("95% interval 0.")
    assert "trained without it and without slices like it" in number.words
    assert any(file.endswith("predictions.csv") for file in number.source)


def test_added_sections_show_their_files_and_are_absent_without(run, tmp_path):
    sections = sections_of(run)
    for name, words in {
        "similarity": ("above 0.97", "100.0% are right", "0.950"),
        "robustness": ("Worst case: blur of 2.5 px.", "rotation", "robustness.json"),
        "training-size": ("Twice the groups", "180", "learning.json"),
        "labels": ("2 images whose label", "train/large_cell/a.png", "squamous_cell", "labels.json"),
    }.items():
        assert all(word in sections[name] for word in words), name
    (plain,) = run_folders.write(tmp_path / "plain", runs=1)
    assert not set(ADDED) & set(sections_of(plain))


@pytest.mark.parametrize(
    "value", [None, "x", [], {"rows": 3}, {"rows": [1, {}, {"acc": "x"}, {"acc": None, "groups": {}}]}]
)
def test_odd_files_still_give_a_page(run, value):
    for name in findings.MEASURED:
        (run / name).write_text(json.dumps(value))
    edit(run / "metrics_test.json", by_similarity=value, novel_acc=value, lookup_acc=value, confusion_matrix=value)
    assert "numbers" in sections_of(run)


def test_hostile_values_stay_text(run):
    for name in ("robustness.json", "labels.json", "learning.json"):
        content = json.loads((run / name).read_text())
        for row in content["rows"]:
            row |= {key: EVIL for key in ("change", "unit", "file", "label", "suggested") if key in row}
        (run / name).write_text(json.dumps(content | {"worst": EVIL, "sentence": EVIL}))
    assert EVIL not in written(run.parent)


def test_few_images_of_a_class_are_said_under_the_table(run):
    assert "few images of normal (4)" in sections_of(run)["test"]
    edit(run / "metrics_test.json", confusion_matrix=[[100, 0, 0, 0], [0, 90, 0, 0], [0, 0, 10, 0], [0, 0, 0, 100]])
    assert "few images" not in sections_of(run)["test"]


def test_an_interrupted_run_is_listed(run):
    edit(run / "metrics.json", stopped_by="sigterm", epochs=3)
    assert "interrupted (sigterm) after 3 epochs" in sections_of(run)["skipped"]


def test_the_runner_ups_file_is_named(tmp_path):
    sections = Parsed(written(run_folders.answering(tmp_path, (60, 59)))).sections
    assert "run-0001/predictions.csv" in sections["won"]


# Curves


def test_curves_of_a_perfect_and_of_a_random_model():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    perfect, guess = np.eye(2)[labels], rng.random((200, 2))
    for curve, chance in ((curves.roc, None), (curves.precision_recall, 0.5)):
        drawn = curve(labels, perfect, 1)
        assert drawn.y.min() == 1 and drawn.low.min() == 1
        drawn = curve(labels, guess, 1)
        assert (drawn.low <= drawn.y + 0.05).all() and (drawn.y - 0.05 <= drawn.high).all()
        expected = drawn.x[1:] if chance is None else chance
        assert np.abs(drawn.y[1:] - expected).mean() < 0.15


def test_net_benefit_by_hand():
    labels, p_normal = np.array([0, 0, 1, 1]), np.array([0.9, 0.4, 0.3, 0.1])
    drawn = curves.net_benefit(labels, np.stack([p_normal, 1 - p_normal], 1), 0)
    place = int(np.abs(drawn.x - 0.5).argmin())  # acts on the last three, of which one is normal
    at = drawn.x[place]
    assert drawn.y[place] == pytest.approx(2 / 4 - 1 / 4 * at / (1 - at))
    assert drawn.y[0] <= 0.5 and curves.act_on_all(labels, 0)[0] == pytest.approx(0.5 - 0.5 * 0.02 / 0.98)


def test_repeated_images_widen_a_band():
    rng = np.random.default_rng(1)
    labels, chances = rng.integers(0, 2, 60), rng.random((60, 2))
    alone = curves.roc(labels, chances, 1)
    fourfold = curves.roc(np.tile(labels, 4), np.tile(chances, (4, 1)), 1, groups=np.tile(np.arange(60), 4))
    assert np.allclose(alone.y, fourfold.y)
    apart = curves.roc(np.tile(labels, 4), np.tile(chances, (4, 1)), 1)
    assert (fourfold.high - fourfold.low).mean() > 1.5 * (apart.high - apart.low).mean()


@pytest.mark.integration
@pytest.mark.skipif(browser.program() is None, reason="needs Chromium: apt-get install chromium")
def test_every_section_fits_a_desktop_and_a_phone(run):
    names = [
        f"{kind}_{name}" for kind in ("precision", "recall", "specificity", "auc", "ap") for name in run_folders.CLASSES
    ]
    edit(run / "metrics_test.json", **{f"{name}{end}": 0.987 for name in names for end in ("", "_low", "_high")})
    written(run.parent)
    with browser.chromium() as shown:
        for width in (1280, 360):
            for dark in (False, True):
                shown.open(run.parent / "report.html", width=width, dark=dark)
                assert shown.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
                assert shown.run("[...document.querySelectorAll('svg[role=img]')].every(s => s.querySelector('title'))")
        shown.open(run.parent / "report.html", width=1280)
        assert (
            shown.run(
                "Math.max(...[...document.querySelectorAll('.tight .scroll')].map(e => e.scrollWidth - e.clientWidth))"
            )
            <= 0
        )
        assert shown.complaints == []


def test_the_table_of_test_metrics_has_the_intervals_of_the_three_numbers(run):
    edit(run / "metrics_test.json", acc=0.9, acc_group_low=0.71, acc_group_high=0.99, grouped_by="patient")
    edit(run / "metrics_test.json", ece=0.0, ece_low=0.0, ece_high=0.0, opened="2026-11-26T01:50:05+00:00")
    sections = sections_of(run)
    assert "0.900 (0.710–0.990)" in sections["test"] and "bootstrap over patients" in sections["test"]
    assert "0.000 (–)" in sections["test"] and "2026-11-26 at 01:50 UTC" in sections["test"]
    edit(run / "metrics_test.json", acc_group_low=None, acc_group_high=None, acc_low=0.8, acc_high=0.95)
    section = sections_of(run)["test"]
    assert "0.900 (0.800–0.950)" in section and "bootstrap over distinct images" in section
