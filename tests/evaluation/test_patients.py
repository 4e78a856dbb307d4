"""Per patient: means of probabilities, and intervals that count patients instead of slices."""

import csv

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from ctkeras.audit.audit import Audit, Image
from ctkeras.evaluation import bootstrap, patients, summary
from ctkeras.runs.predictions import Predictions

NAMES = ("a", "b")


def predictions(slices=6, count=20, seed=0, labels=None):
    """Answers for `slices` slices of each of `count` patients, right a little more often than not; and their patients."""
    rng = np.random.default_rng(seed)
    own = np.repeat(np.arange(count), slices)
    labels = own % 2 if labels is None else labels
    first = np.clip(0.5 + 0.1 * (1 - 2 * labels) + rng.normal(0, 0.2, len(own)), 0.01, 0.99)
    files = tuple(f"test/{NAMES[label]}/{i}.png" for i, label in enumerate(labels))
    return Predictions(files, labels, np.stack([first, 1 - first], 1), NAMES), [f"patient-{i}" for i in own]


def test_a_patients_answer_is_the_mean_of_its_slices():
    answers, names = predictions()
    order = np.random.default_rng(1).permutation(len(names))
    shuffled = Predictions(
        tuple(answers.files[i] for i in order), answers.labels[order], answers.probabilities[order], NAMES
    )
    own = patients.averaged(shuffled, [names[i] for i in order])
    expected = answers.probabilities.reshape(20, 6, 2).mean(1)
    for name, row, label in zip(own.names, own.probabilities, own.labels, strict=True):
        number = int(name.removeprefix("patient-"))
        assert np.allclose(row, expected[number]) and label == number % 2
    assert (own.slices == 6).all() and not own.mixed


def test_metrics_are_those_of_the_means_and_the_interval_is_by_patients():
    answers, names = predictions()
    found = patients.results(answers, names)
    means, labels = answers.probabilities.reshape(20, 6, 2).mean(1), np.arange(20) % 2
    assert found["patient_n"] == 20
    assert found["patient_acc"] == pytest.approx((means.argmax(1) == labels).mean())
    assert found["patient_auc"] == pytest.approx(roc_auc_score(labels, means[:, 1]))
    assert found["patient_macro_f1"] == pytest.approx(f1_score(labels, means.argmax(1), average="macro"))
    low, high = bootstrap.share(means.argmax(1) == labels, np.arange(20))
    assert (found["patient_acc_low"], found["patient_acc_high"]) == pytest.approx((low, high))
    sure = Predictions(answers.files, answers.labels, np.eye(2)[answers.labels], NAMES)
    found = patients.results(sure, names)
    assert (found["patient_acc_low"], found["patient_acc_high"]) == pytest.approx(bootstrap.wilson(1.0, 20))


def test_a_patient_whose_slices_have_several_labels_has_none():
    labels = np.repeat(np.arange(20) % 2, 6)
    labels[3] = 1 - labels[3]
    answers, names = predictions(labels=labels)
    found = patients.results(answers, names)
    assert found["patient_n"] == 19 and found["patient_mixed_n"] == 1
    assert "1 more have slices of several classes" in summary._per_patient(found)


def test_patients_count_only_where_all_are_known_and_one_has_several_slices():
    def audited(names):
        images = (Image(f"{i}.png", "test", "a", i, i, "PNG", "L", 8, 8, name) for i, name in enumerate(names))
        return Audit(tuple(images), {}, ())

    files = ["0.png", "1.png", "2.png"]
    assert patients.known(audited(["p", "p", "q"]), files) == ["p", "p", "q"]
    assert patients.known(audited(["p", "", "q"]), files) == []
    assert patients.known(audited(["p", "q", "r"]), files) == []
    assert patients.known(None, files) == [] and patients.results(predictions()[0], []) == {}


@pytest.mark.slow  # trains two models
def test_evaluate_compare_and_the_report_show_patients(tmp_path, monkeypatch):
    """A run on generated patients: the table per patient, one line each of evaluate and compare, one row of the report."""
    import ctkeras
    from ctkeras.evaluation.comparison import compare
    from ctkeras.report import findings, results
    from ctkeras.report.sections import patients as section

    monkeypatch.chdir(tmp_path)
    config = {"data": "phantom:96:patients=24", "model_name": "mobilenet_v2", "pretrained": False, "image_size": 32}
    for seed in (0, 1):
        ctkeras.train(ctkeras.RunConfig(**config, seed=seed, folds=0, log_model=False), run_id=f"r{seed}")
        found = ctkeras.evaluate(f"runs/r{seed}", "valid")
    with open("runs/r1/predictions_patients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["patient_n"] == len({row["patient"] for row in rows})
    assert sum(int(row["slices"]) for row in rows) == found["n"]
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(found["patient_acc"])
    assert any(line.startswith("Per patient, by the mean of the slices") for line in summary.lines(found))
    compared = compare(tmp_path / "runs/r0", tmp_path / "runs/r1", "valid")
    assert compared["patient_n"] == found["patient_n"] and compared["patient_acc_b"] == found["patient_acc"]
    assert "patients" in compared["patient_verdict"]
    found_runs = findings.find(results.read(tmp_path / "runs"))
    assert f"{found['patient_n']} patients" in str(section.table(found_runs))
