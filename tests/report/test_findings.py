"""A report has one winner: the run that a study chose, or the best one, and all other runs are compared with it."""

import json

import pytest
import run_folders
from pages import Parsed, written
from run_folders import edit

from ctkeras.evaluation import comparison
from ctkeras.report import findings, noise, results


def studied(folder, final, right=(60, 58, 60, 57), **study):
    """Four runs of two architectures, of which a study has chosen one; run-0000 has the lowest val_loss."""
    run_folders.answering(folder, right)
    for number in range(len(right)):
        edit(folder / f"run-000{number}/metrics.json", val_loss=0.1 + number)
    (folder / "study.json").write_text(json.dumps({"study": "s", "final": {"folder": final}, **study}))
    return folder


def found_in(folder):
    return findings.find(results.read(folder))


def test_without_a_study_the_winner_is_the_best_run(tmp_path):
    run_folders.answering(tmp_path, (58, 60, 59))
    found = found_in(tmp_path)
    assert found.chosen is found.results.best is found.runs[0]
    assert found.chosen.name == "run-0001"


def test_of_equally_accurate_runs_the_best_is_the_one_that_the_study_chose(tmp_path):
    found = found_in(studied(tmp_path, "run-0002"))
    assert [run.name for run in found.runs] == ["run-0002", "run-0000", "run-0001", "run-0003"]
    assert found.chosen is found.results.best
    assert [run.name for run in found.by_architecture()] == ["run-0002", "run-0001"]


def test_runs_are_compared_with_the_chosen_one(tmp_path):
    chosen_last = found_in(studied(tmp_path, "run-0003"))
    assert chosen_last.chosen.name == "run-0003"
    assert chosen_last.results.best.name == "run-0000"
    differences = {run.name: chosen_last.against_chosen(run).difference * 72 for run in chosen_last.runs}
    assert differences == pytest.approx({"run-0000": -3, "run-0001": -1, "run-0002": -3, "run-0003": 0})
    assert [run.name for run in chosen_last.by_architecture()] == ["run-0003", "run-0000"]
    assert chosen_last.interval(chosen_last.chosen).value == pytest.approx(57 / 72)


def test_the_page_names_one_winner(tmp_path):
    page = written(studied(tmp_path, "run-0002"))
    sections = Parsed(page).sections
    for name in ("won", "architectures", "hyperparameters"):
        assert "run-0002" in sections[name], name
        assert "run-0000" not in sections[name], name
    assert "Run run-0002" in sections["won"]
    assert sections["curves"].index("run-0002") < sections["curves"].index("run-0000")
    assert '<tr class="marked"><th scope="row">run-0002' in page
    assert "0.028 (" in sections["architectures"]  # run-0001 has 2 of 72 images fewer right


def test_the_page_says_so_when_another_run_is_more_accurate_than_the_winner(tmp_path):
    sections = Parsed(written(studied(tmp_path, "run-0003"))).sections
    assert "Run run-0003" in sections["won"]
    assert "is 0.042 ahead" in sections["won"]
    assert "The winner, and the best run of each other architecture" in sections["architectures"]
    assert "\u22120.042 (" in sections["architectures"]
    assert "run-0001" not in sections["architectures"]


@pytest.mark.parametrize(
    ("difference", "words"),
    [(0.0, "is equally accurate"), (0.1, "is 0.100 behind"), (-0.1, "is 0.100 ahead")],
)
def test_a_difference_is_put_into_words(difference, words):
    from ctkeras.report.sections.answer import _behind

    assert _behind(difference) == words


def test_the_runner_up_is_of_another_architecture_or_else_of_another_configuration(tmp_path):
    run_folders.answering(tmp_path / "two", (60, 50, 59))
    two = results.read(tmp_path / "two")
    assert noise.runner_up(two, two.best).name == "run-0001"
    run_folders.answering(tmp_path / "one", (60, 59, 58))
    config = json.loads((tmp_path / "one/run-0000/config.json").read_text())
    for number in (1, 2):  # the first differs only in its seed
        path = tmp_path / f"one/run-000{number}/config.json"
        path.write_text(json.dumps(config | {"seed": number} | ({"dropout": 0.9} if number == 2 else {})))
    one = results.read(tmp_path / "one")
    assert noise.runner_up(one, one.best).name == "run-0002"


def right(count, images=72):
    return {str(i): i < count for i in range(images)}


def test_runs_are_distinguished_from_the_winner_at_the_5_percent_level():
    # 5 images that only one has right give p = 2 / 2**5 = 0.0625, 7 give 0.016.
    assert comparison.indistinguishable(right(60), [right(55), right(53), right(60)], {}) == (2, 3)
    assert comparison.indistinguishable(right(60), [None, right(60, images=71), right(67)], {}) == (0, 1)
    assert comparison.against(right(60), right(55), {}).p == pytest.approx(0.0625, abs=0.01)


def test_a_run_is_behind_by_the_share_of_images():
    compared = comparison.against(right(60), right(40), {})
    assert compared.difference == pytest.approx(20 / 72)
    assert 0 < compared.low < compared.difference < compared.high
    assert comparison.against(right(60), right(60, images=71), {}) is None
    assert comparison.against({}, {}, {}) is None


def test_copies_count_once_in_the_comparison():
    twins = {str(i): i // 2 for i in range(72)}
    assert comparison.against(right(60), right(50), twins).p == pytest.approx(2 / 2**5, abs=0.01)  # 10 files, 5 images


def test_where_every_answer_is_wrong_the_interval_is_wilsons():
    from scipy import stats

    interval = comparison.accuracy_interval({str(i): False for i in range(30)}, {})
    exact = stats.binomtest(0, 30).proportion_ci(0.95, method="wilson")
    assert interval == pytest.approx((0.0, exact.low, exact.high, 30), abs=1e-6)
