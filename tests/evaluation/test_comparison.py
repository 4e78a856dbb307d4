"""Two models on the same images: McNemar's exact test, and the paired difference with its interval."""

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


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 5), (1, 6), (10, 11), (40, 60)])
def test_mcnemar_tosses_a_coin_for_each_image_that_only_one_has_right(only_a, only_b):
    right_a = np.repeat([True, True, False, False], [50, only_a, only_b, 7])
    right_b = np.repeat([True, False, True, False], [50, only_a, only_b, 7])
    found_a, found_b, p = comparison.mcnemar(right_a, right_b)
    assert (found_a, found_b) == (only_a, only_b)
    tail = sum(stats.binom(only_a + only_b, 0.5).pmf(k) for k in range(min(only_a, only_b) + 1))
    assert p == pytest.approx(min(1.0, 2 * tail))
    assert comparison.mcnemar(right_b, right_a)[2] == pytest.approx(p)


def test_a_paired_difference_is_more_precise_than_two_intervals():
    rng = np.random.default_rng(0)
    right_a = rng.random(200) < 0.8
    right_b = right_a & (rng.random(200) < 0.95)  # wrong wherever a is, and a little more
    found = comparison.paired(right_a, right_b, np.arange(200))
    assert found["difference"] == pytest.approx(right_a.mean() - right_b.mean())
    assert found["difference_low"] <= found["difference"] <= found["difference_high"]
    assert found["difference_high"] - found["difference_low"] < (found["acc_a_high"] - found["acc_a_low"]) * 0.7
    drawn = rng.integers(200, size=(5000, 200))
    low, high = np.quantile(right_a[drawn].mean(1) - right_b[drawn].mean(1), (0.025, 0.975))
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((low, high), abs=0.01)


def test_copies_count_once_in_the_distinct_test():
    right_a, right_b = np.tile([True, True, False], 5), np.tile([False, False, False], 5)
    found = comparison.paired(right_a, right_b, np.tile(np.arange(3), 5))
    assert (found["n"], found["only_a"]) == (15, 10)
    assert (found["n_distinct"], found["distinct_only_a"]) == (3, 2)
    assert found["distinct_mcnemar_p"] == 0.5 > found["mcnemar_p"]


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


def test_copies_are_known_from_the_data(make_run, answers, image_folder):
    content = (image_folder / "valid/left/0.png").read_bytes()
    for number in (1, 2):
        (image_folder / f"valid/left/{number}.png").write_bytes(content)
    other = {file: (label, 0.9 if label else 0.1) for file, (label, _) in answers.items()}
    found = comparison.compare(make_run("a", other), make_run("b", answers), "valid")
    assert (found["n"], found["only_a"]) == (8, 4)
    assert (found["n_distinct"], found["distinct_only_a"]) == (6, 2)


def test_without_the_data_each_file_counts(make_run, answers, image_folder, capsys):
    a, b = make_run("a", answers), make_run("b", answers)
    image_folder.rename(image_folder.with_name("gone"))
    assert comparison.compare(a, b, "valid")["n_distinct"] == 8
    assert "copies" in capsys.readouterr().err
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
    assert "p = 0.125" in table[3]  # 4 of 4: 2 / 2**4
    assert table[-1] == "The difference may be noise."


def test_files_the_audit_does_not_know_are_images_of_their_own():
    from ctkeras.evaluation import evaluate

    known = audit.Image("a.png", "valid", "left", 0, 0, "PNG", "L", 8, 8)
    groups = evaluate.copies(audit.Audit((known, known), {}, ()), ("a.png", "b.png", "c.png"))
    assert len(np.unique(groups)) == 3
