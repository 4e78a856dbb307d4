"""Two models on the same images: the one test of a difference, its interval and its words."""

import json

import numpy as np
import pytest
from scipy import stats

from ctkeras.audit import audit
from ctkeras.cli import main
from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.evaluation import comparison
from ctkeras.runs.folder import write_json
from ctkeras.runs.predictions import write_predictions

NAMES = ("left", "right")


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 5), (1, 6), (4, 8)])
def test_of_single_images_the_test_is_mcnemars_exact_one(only_a, only_b):
    right_a = np.repeat([True, True, False], [1, only_a, only_b])
    right_b = np.repeat([True, False, True], [1, only_a, only_b])
    tail = sum(stats.binom(only_a + only_b, 0.5).pmf(k) for k in range(min(only_a, only_b) + 1))
    found = comparison.difference_test(right_a, right_b, np.arange(len(right_a)), unit="image")
    assert found.p == pytest.approx(min(1.0, 2 * tail), abs=1e-9 if len(right_a) < 14 else 0.01)
    turned = comparison.difference_test(right_b, right_a, np.arange(len(right_a)), unit="image")
    assert (turned.difference, turned.low, turned.p) == (-found.difference, -found.high, found.p)


def test_the_interval_the_p_and_the_words_never_contradict_each_other():
    rng = np.random.default_rng(0)
    verdicts = set()
    for number in range(150):
        right_a, right_b = rng.random((2, 60)) < np.array([[0.8], [0.55]])
        seeds = [[], rng.normal(0.2, 0.05, 3).tolist()][number % 2]
        found = comparison.difference_test(right_a, right_b, np.arange(60) // 3, unit="patient", by_seed=seeds)
        assert found.low <= found.difference <= found.high
        assert found.inside_noise == (found.low <= 0 <= found.high) == ("may be chance" in comparison.worded(found))
        verdicts.add(found.inside_noise)
    assert verdicts == {True, False}
    edge = comparison.Comparison(0.01, 0.0002, 0.02, 0.04, "patient", 1, 9, 1, 0.005)
    assert "0.0002 to 0.020" in comparison.worded(edge)
    assert "over 1 patient)" in comparison.worded(edge)


@pytest.mark.slow
def test_slices_of_one_patient_are_not_independent():
    """Equally good models that are right on whole patients: by image one of two is called different, by patient one of 20."""
    rng = np.random.default_rng(1)
    wrong = {"patient": 0, "image": 0}
    for _ in range(150):
        right_a, right_b = np.repeat(rng.random((2, 30)) < 0.7, 10, axis=1)
        for unit, groups in (("patient", np.arange(300) // 10), ("image", np.arange(300))):
            wrong[unit] += not comparison.difference_test(right_a, right_b, groups, unit=unit).inside_noise
    assert wrong["patient"] <= 15
    assert wrong["image"] > 50


def test_the_standard_error_is_that_of_a_bootstrap_over_patients():
    rng = np.random.default_rng(2)
    groups = np.sort(rng.integers(0, 40, 300))
    right_a, right_b = (rng.random(300) < rng.beta(2, 1, 40)[groups] for _ in range(2))
    ahead, numbers = right_a.astype(float) - right_b, np.unique(groups)
    rows = {number: np.flatnonzero(groups == number) for number in numbers}
    drawn = [ahead[np.concatenate([rows[n] for n in rng.choice(numbers, len(numbers))])].mean() for _ in range(2000)]
    found = comparison.difference_test(right_a, right_b, groups, unit="patient")
    assert found.error == pytest.approx(np.std(drawn), rel=0.15)


def test_copies_are_one_unit():
    right_a, right_b = np.tile([True, True, False], 5), np.tile([False, False, False], 5)
    found = comparison.paired(right_a, right_b, np.tile(np.arange(3), 5))
    assert (found["n"], found["n_units"], found["only_a"], found["p"]) == (15, 3, 10, 0.5)


@pytest.fixture
def make_run(tmp_path, image_folder):
    """Writes a run folder with predictions: files to (label, probability of right)."""

    def make(name, answers, *, split="valid", names=NAMES):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_json(folder / "config.json", RunConfig(data=str(image_folder)).to_dict())
        rows = [
            {
                "file": file,
                "split": split,
                "label": names[label],
                "predicted": names[chance > 0.5],
                f"p_{names[0]}": 1 - chance,
                f"p_{names[1]}": chance,
            }
            for file, (label, chance) in answers.items()
        ]
        write_predictions(folder, rows, split=split)
        return folder

    return make


@pytest.fixture
def answers(image_folder):
    files = sorted(path.relative_to(image_folder).as_posix() for path in image_folder.glob("valid/*/*.png"))
    return {file: (int("right" in file), 0.9) for file in files}


def test_images_are_matched_by_name_not_by_row(make_run, answers):
    turned = dict(reversed(answers.items()))
    found = comparison.compare(make_run("a", answers), make_run("b", turned), "valid")
    assert (found["n"], found["difference"], found["only_a"], found["only_b"]) == (8, 0.0, 0, 0)
    assert found["acc_a"] == found["acc_b"] == 0.5


def test_the_unit_is_known_from_the_data(make_run, answers, image_folder):
    content = (image_folder / "valid/left/0.png").read_bytes()
    for number in (1, 2):
        (image_folder / f"valid/left/{number}.png").write_bytes(content)
    other = {file: (label, 0.9 if label else 0.1) for file, (label, _) in answers.items()}
    found = comparison.compare(make_run("a", other), make_run("b", answers), "valid")
    assert (found["n"], found["only_a"], found["unit"]) == (8, 4, "group of similar slices")
    assert found["n_units"] <= 6


def test_without_the_data_each_file_counts(make_run, answers, image_folder, capsys):
    a, b = make_run("a", answers), make_run("b", answers)
    image_folder.rename(image_folder.with_name("gone"))
    found = comparison.compare(a, b, "valid")
    assert (found["n_units"], found["unit"]) == (8, "image")
    assert "slices of one patient" in capsys.readouterr().err
    with pytest.raises(UserError, match="elsewhere is not a file or folder"):
        comparison.compare(a, b, "valid", data="elsewhere")


def test_different_images_labels_or_classes_are_not_compared(make_run, answers):
    a = make_run("a", answers)
    some = dict(list(answers.items())[:-1])
    relabelled = {file: (1 - label, chance) for file, (label, chance) in answers.items()}
    for name, other in (("some", some), ("relabelled", relabelled)):
        with pytest.raises(UserError, match="different valid images or labels"):
            comparison.compare(a, make_run(name, other), "valid")
    with pytest.raises(UserError, match="different valid images or labels"):
        comparison.compare(a, make_run("named", answers, names=("l", "r")), "valid")


def test_a_split_that_was_not_evaluated_says_how_to(make_run, answers, capfd, tmp_path):
    a, b = make_run("a", answers), make_run("b", answers)
    for arguments, message in (
        ((a, b, "--split", "test"), f"evaluate {a} --split test"),
        ((a, tmp_path / "none"), "is not a run folder"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main.main(["compare", *map(str, arguments)])
        assert exit_.value.code == 2
        assert message in capfd.readouterr().err


def test_the_verb_prints_what_was_found(make_run, answers, capfd):
    a = make_run("a", {file: (label, 0.1 + 0.8 * label) for file, (label, _) in answers.items()})
    b = make_run("b", answers)
    for more in ((), ("--json",)):
        with pytest.raises(SystemExit) as exit_:
            main.main(["compare", str(a), str(b), *more])
        assert exit_.value.code == 0
    *table, line = capfd.readouterr().out.splitlines()
    assert json.loads(line) == comparison.compare(a, b, "valid")
    assert table[-1].startswith("The difference of 0.500 may be chance: 95% interval ")
    assert "paired permutation test over " in table[-1]


def test_files_the_audit_does_not_know_are_images_of_their_own():
    from ctkeras.evaluation import evaluate

    known = audit.Image("a.png", "valid", "left", 0, 0, "PNG", "L", 8, 8)
    groups = evaluate.copies(audit.Audit((known, known), {}, ()), ("a.png", "b.png", "c.png"))
    assert len(np.unique(groups)) == 3
