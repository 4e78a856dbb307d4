"""The study: budgets, hand-overs, the winner and its noise; all three phases to the report, whatever dies in between."""

import csv
import dataclasses
import functools
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
import sweeps

from ctkeras.cli.study import _numbers
from ctkeras.cli.study import study as study_study
from ctkeras.config import RunConfig
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.evaluation import comparison, evaluate
from ctkeras.runs.folder import read_json, write_json
from ctkeras.runs.predictions import prediction_rows, write_predictions
from ctkeras.runs.result import Result, best_first
from ctkeras.search import budget, local, storage
from ctkeras.search import plan as plan_module
from ctkeras.search.plan import plan as plan_plan
from ctkeras.search.trialstore import Trials
from ctkeras.study import ending, engines, plan, study, verdict, winner
from ctkeras.sweep import phases
from ctkeras.sweep.file import dump, fix, load

TINY = {
    "data": "phantom:48",
    "pretrained": "false",
    "freeze_backbone": "true",
    "image_size": "32",
    "batch_size": "8",
    "max_epochs": "3",
}


def options(**more):
    return [f"--{name}={value}" for name, value in {**TINY, **more}.items()]


@pytest.mark.parametrize(
    ("share", "trials"),
    [(1.0, (45, 20, 10)), (0.1, (5, 2, 1)), (0.5, (23, 10, 5)), (0.01, (1, 1, 1)), (1 / 3, (15, 7, 4))],
)
def test_a_budget_rounds_up(share, trials):
    assert plan.plan(phases.PHASE1, TINY, budget=share).trials == trials


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": 0.0},
        {"budget": 1.5},
        {"budget": float("nan")},
        {"trials": [1, 2]},
        {"trials": [4, 0, 4]},
        {"models": ["resnet"]},
        {"options": {**TINY, "seed": "1"}},
        {"options": {**TINY, "dropout": "2"}},
        {"options": {**TINY, "learning_rate": "2"}},
        {"options": {}},
    ],
)
def test_what_makes_no_study_is_refused(wrong):
    with pytest.raises(UserError):
        plan.plan(phases.PHASE1, wrong.pop("options", TINY), **wrong)


def test_phase_1_is_the_shipped_file():
    file = pathlib.Path(__file__).parent.parent.parent / "sweep_yaml" / "phase1.yaml"
    assert load(file).content == phases.PHASE1


def results(count, *, seed=0, models=("resnet18", "mobilenet_v2"), **more):
    """Runs of a phase, by chance."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        values = {
            "model_name": rng.choice(models),
            "lr": rng.choice([0.1, 0.01, 0.001]),
            "dropout": rng.choice([0.2, 0.4]),
        }
        config = RunConfig.from_mapping({**TINY, **values, **more}).to_dict()
        found.append(Result(f"run-{number}", config, round(rng.random(), 3), rng.random()))
    return found


def test_phase_3_has_at_least_two_configurations_and_two_seeds_and_what_is_fixed_stays():
    planned = plan.plan(phases.PHASE1, {**TINY, "dropout": "0.3"}, budget=0.01)
    two, _ = study._next(planned, fix(phases.PHASE1, study._fixed(planned)), results(5), 2)
    assert two["parameters"]["dropout"] == {"value": 0.3}
    assert two["run_cap"] == 1
    three, reasons = study._next(planned, two, results(4, dropout=0.3), 3)
    assert len(three["parameters"]["candidate"]["values"]) == 2
    assert three["parameters"]["seed"] == {"values": [0, 1]}
    assert three["parameters"]["max_epochs"] == {"value": 3}
    assert "chosen from 4 finished runs" in " ".join(reasons)
    ten = plan.plan(phases.PHASE1, TINY)
    assert study._next(ten, two, results(4), 3)[0]["parameters"]["seed"] == {"values": [0, 1, 2, 3, 4]}


def test_one_architecture_hands_on_its_two_best_configurations():
    planned = plan.plan(phases.PHASE1, TINY, models=["mobilenet_v2"])
    assert planned.content["parameters"]["model_name"] == {"values": ["mobilenet_v2"]}
    found = results(9, models=["mobilenet_v2"])
    two, _ = study._next(planned, planned.content, found, 2)
    first, second = two["parameters"]["candidate"]["values"]
    assert first["lr"] == best_first(found)[0].config["lr"]
    assert first != second
    assert first["model_name"] == second["model_name"] == "mobilenet_v2"


def _phase_3(one, two):
    """The lr and dropout of phase 3's candidates, from the runs of phases 1 and 2."""
    planned = plan.plan(phases.PHASE1, TINY)
    content, _ = study._next(planned, planned.content, one, 2)
    done = [engines.Phase(n, "", runs, 0, 0, 0, 0.0) for n, runs in ((1, one), (2, two))]
    assert study._to_choose_from(content, done[:1]) == one
    three, _ = study._next(planned, content, study._to_choose_from(content, done), 3)
    return [(one["lr"], one["dropout"]) for one in three["parameters"]["candidate"]["values"]]


def _result(lr, dropout, val_acc):
    config = RunConfig.from_mapping({**TINY, "lr": lr, "dropout": dropout}).to_dict()
    return Result(f"{lr} {dropout}", config, val_acc, 1.0)


def test_phase_3_takes_phase_2s_best_two_and_phase_1s_best_where_that_is_better():
    one = [_result(0.1, 0.2, 0.6), _result(0.2, 0.2, 0.5), _result(0.3, 0.2, 0.59)]
    better = [_result(0.1, 0.4, 0.8), _result(0.2, 0.4, 0.7), _result(0.2, 0.5, 0.1)]
    assert _phase_3(one, better) == [(0.1, 0.4), (0.2, 0.4)]
    worse = [_result(0.1, 0.4, 0.5), _result(0.2, 0.4, 0.4)]
    assert _phase_3(one, worse) == [(0.1, 0.2), (0.1, 0.4)]
    only_one = [_result(0.1, 0.2, 0.6)] * 3
    assert _phase_3(one, only_one) == [(0.1, 0.2), (0.3, 0.2)]


def test_a_phase_2_with_fewer_points_than_runs_takes_each_once():
    fixed = {**TINY, "dropout": "0.3", "label_smoothing": "0", "mixup_alpha": "0"}
    planned = plan.plan(phases.PHASE1, fixed)
    two, _ = study._next(planned, fix(phases.PHASE1, study._fixed(planned)), results(9), 2)
    assert two["method"] == "grid"
    assert plan_plan(two, {**TINY}, title="two").total == 2


def test_a_hand_over_can_be_run_again_and_is_then_the_same_study(tmp_path):
    planned = plan.plan(phases.PHASE1, {**TINY, "output_dir": str(tmp_path)}, trials=[3, 2, 4], seed=5)
    folder = tmp_path / planned.name
    task = {**planned.options, "output_dir": str(folder)}
    first = fix(planned.content, study._fixed(planned))
    for number, content in ((1, first), (2, study._next(planned, first, results(5), 2)[0])):
        more = {"storage": planned.storage, "search_seed": planned.seed}
        path = engines.write(folder, number, content, ["Why."], {**task, **more})
        text = path.read_text()
        line = next(line for line in text.splitlines() if "sweep run" in line)
        words = dict(word[2:].split("=", 1) for word in shlex.split(line[1:]) if word.startswith("--"))
        assert set(words) == {"data", "output_dir", "storage", "search_seed"}
        again = plan_plan(load(path).content, {"data": words["data"]}, title="x", seed=int(words["search_seed"]))
        assert again.name == plan_plan(content, task, title="x", seed=5).name


def contender(accuracies, lr=0.1, **more):
    config = RunConfig.from_mapping({**TINY, "lr": lr, **more}).to_dict()
    return [Result(f"{lr}-{seed}", {**config, "seed": seed}, acc, 1 - acc) for seed, acc in enumerate(accuracies)]


def predict(folder, right, wrong):
    """A run folder whose predictions on validation are right for the first images."""
    return _predict(folder, [n < right for n in range(right + wrong)])


def _predict(folder, hits):
    """A run folder whose predictions on validation are right for these images."""
    chances = np.array([[0.75, 0.25] if hit else [0.25, 0.75] for hit in hits])
    files, labels = [str(n) for n in range(len(hits))], np.zeros(len(hits), int)
    folder.mkdir()
    rows = prediction_rows(files, labels, chances, class_names=("a", "b"), split="valid")
    write_predictions(folder, rows, split="valid")
    return folder


def test_the_winner_is_the_better_mean_over_seeds_not_the_best_run():
    lucky, steady = contender([0.9, 0.5, 0.5], lr=0.1), contender([0.7, 0.7, 0.7], lr=0.2)
    first, second = winner.contenders([*lucky, *steady])
    assert (first.config["lr"], second.config["lr"]) == (0.2, 0.1)
    assert first.mean == pytest.approx(0.7)
    assert first.spread is None  # all the same: not shown as precision
    assert second.spread == pytest.approx(0.2309, abs=1e-4)
    assert second.best.name == "0.1-0"
    assert "data" not in first.config
    assert "seed" not in first.config


def test_a_large_lead_is_more_than_noise_and_no_predictions_are_no_test(tmp_path):
    right = {"0.1": (95, 5), "0.2": (30, 70)}
    far = winner.contenders([*contender([0.95, 0.95, 0.95], lr=0.1), *contender([0.30, 0.30, 0.30], lr=0.2)])
    folders = {
        name: predict(tmp_path / name, *right[name.partition("-")[0]])
        for one in far
        for name in (run.name for run in one.runs.values())
    }
    difference = winner.compare(*far, folders)
    assert (difference.seeds, difference.n, difference.unit) == (3, 100, "image")
    assert difference.difference == pytest.approx(0.65)
    assert not difference.inside_noise
    assert winner.standard_error(far[0], folders) == pytest.approx((0.95 * 0.05 / 99) ** 0.5)
    assert winner.compare(*far, {"0.1-0": folders["0.1-0"]}) is None  # the other's predictions are on another machine


@pytest.mark.slow
def test_the_noise_covers_what_chance_makes_of_equal_configurations(tmp_path):
    """Two equally good configurations, seeds and images drawn: their difference is outside the noise in about one of 20."""
    rng = random.Random(1)
    outside = 0
    for trial in range(100):
        runs, folders = [], {}
        difficulty = [rng.betavariate(4, 1.5) for _ in range(72)]
        for lr in (0.1, 0.2):
            accuracies = []
            for seed in range(5):
                ability = rng.gauss(0, 0.04)
                hits = [rng.random() < min(1, max(0, p + ability)) for p in difficulty]
                folders[f"{lr}-{seed}"] = _predict(tmp_path / f"{trial}-{lr}-{seed}", hits)
                accuracies.append(sum(hits) / 72)
            runs += contender(accuracies, lr=lr)
        outside += not winner.compare(*winner.contenders(runs), folders).inside_noise
    assert outside <= 10


def test_the_winner_of_equal_accuracies_has_the_lower_loss():
    """Between configurations by the mean over seeds, between seeds of one by each run's own."""

    def runs(lr, losses):
        pairs = zip(contender([0.5] * len(losses), lr=lr), losses, strict=True)
        return [dataclasses.replace(run, val_loss=loss) for run, loss in pairs]

    for one, other in ((0.1, 0.2), (0.2, 0.1)):
        first, second = winner.contenders([*runs(one, [0.9, 0.2, 0.9]), *runs(other, [0.6, 0.5, 0.6])])
        assert (first.config["lr"], second.config["lr"]) == (other, one)
        assert (first.best.name, second.best.name) == (f"{other}-1", f"{one}-1")
    first, second = winner.contenders([*runs(0.2, [0.5, 0.5]), *runs(0.1, [0.5, 0.5])])
    assert (first.config["lr"], first.best.name) == (0.1, "0.1-0")  # everything equal: by name


TRIAL_SECONDS = 10.0  # that each pretended trial takes of a budget
SPENT = []  # of the trials so far, in seconds


def _pretended(planned, *, url, pool, budget=None):
    """In place of search.run: each trial's run folder as training would leave it, with nothing trained."""
    trials = Trials(storage.open_storage(url), planned)

    def fits(config, done):
        return budget is None or budget.fits(TRIAL_SECONDS, first=not trials.all())

    while (job := trials.claim([], fits=fits)) is not None:
        SPENT.append(TRIAL_SECONDS)
        sweeps.pretend(trials, job)
        for name in ("model.keras", "contract.json"):
            (job.folder / name).touch()
    trials.storage.close()
    left = planned.total - len(trials.all())
    return local.Outcome(trials.all(), "", budget.sentence(left, planned.total) if budget and budget.spent else "")


def _evaluated(folder, split, *, data):
    """In place of evaluate.evaluate."""
    write_json(folder / f"metrics_{split}.json", {"n": 8, "acc": 0.75, "acc_low": 0.5, "acc_high": 0.9})


def _row(job, epoch):
    """An epoch of a run that trains nothing: all that phases 1 and 2 search, and the seed, make a difference."""
    config, row = job.config, _row_of_sweeps(job, epoch)
    lost = config["label_smoothing"] / 100 + config["mixup_alpha"] / 1000 + config["seed"] / 10000
    return row | {"val_acc": row["val_acc"] - lost}


_row_of_sweeps = sweeps.row
STUDY_SWEEP = {**phases.PHASE1, "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2}}


@pytest.fixture
def whole_study(tmp_path, image_folder, monkeypatch):
    """A study of which all but the training is real; how often the data was read, and what search.plan was called with."""
    counts = {"read": 0, "planned": [], "evaluated": 0}
    open_source, plan = sources.open_source, plan_plan

    def counted(*args, **options):
        counts["read"] += 1
        return open_source(*args, **options)

    def planned(*args, **options):
        counts["planned"].append(options["title"])
        return plan(*args, **options)

    def evaluated(*args, **options):
        counts["evaluated"] += 1
        _evaluated(*args, **options)

    monkeypatch.setattr(sources, "open_source", counted)
    monkeypatch.setattr(plan_module, "plan", planned)
    monkeypatch.setattr(local, "run", _pretended)
    monkeypatch.setattr(sweeps, "row", _row)
    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    options = {**TINY, "data": str(image_folder), "output_dir": str(tmp_path / "runs")}
    url = storage.address("", str(tmp_path / "runs"))
    engine = functools.partial(engines.local, url=url, pool=None)
    return options, engine, counts


def test_a_study_plans_each_phase_once_and_reads_its_data_once(whole_study):
    options, engine, counts = whole_study
    found = study.run(plan.plan(STUDY_SWEEP, options, models=["mobilenet_v2"], trials=[4, 3, 4]), engine)
    assert counts == {"read": 2, "planned": ["phase1", "phase2", "phase3"], "evaluated": 1}
    assert [len(phase.results) for phase in found.phases] == [4, 3, 4]
    stored = optuna.storages.RDBStorage(f"sqlite:///{found.folder.parent / storage.FILE}")
    names = [optuna.load_study(study_name=phase.sweep, storage=stored).metric_names for phase in found.phases]
    assert names == [["val_acc"]] * 3  # what optuna-dashboard shows


@pytest.fixture
def timed_study(whole_study, monkeypatch):
    """Runs a study of 8, 3 and 4 trials, each of 10 s, with a budget in seconds; and how many trials each phase has then."""
    options, engine, _ = whole_study
    monkeypatch.setattr(budget.time, "monotonic", lambda: sum(SPENT))
    planned = plan.plan(STUDY_SWEEP, options, models=["mobilenet_v2"], trials=[8, 3, 4])

    def run(seconds, *, until=3):
        begun = sum(SPENT)
        given = budget.Budget.of(seconds) if seconds else None
        pretended = functools.partial(engine, budget=given)
        outcome = study.run(planned, lambda task: pretended(task) if task.number <= until else None)
        assert not seconds or sum(SPENT) - begun <= seconds
        return outcome

    return run


def trials_of(outcome):
    return [len(phase.results) for phase in outcome.phases]


def test_a_budget_of_time_is_divided_among_the_phases_and_the_same_command_goes_on(timed_study):
    found = timed_study(100)
    first, second, third = trials_of(found)
    assert 1 <= first < 8
    assert second >= 1
    assert third >= 1
    assert first + second + third <= 10
    facts = json.loads((found.folder / "study.json").read_text())
    left = [phase["left_out"] for phase in facts["phases"]]
    assert left[0].startswith(
        f"{8 - first} of 8 trials are left out: the next one, which takes about 10 s, would not end within"
    )
    more = timed_study(100)
    assert trials_of(more)[0] > first
    assert trials_of(timed_study(0)) == [8, 3, 4]


def test_a_study_with_a_budget_that_is_interrupted_keeps_the_phases_that_have_ended(timed_study):
    assert timed_study(100, until=1) is None
    found = timed_study(1000)
    assert trials_of(found)[0] < 8  # what phase 2 was made from
    assert trials_of(found)[1:] == [3, 4]
    assert trials_of(timed_study(1000))[0] == 8


def test_phases_for_which_there_is_no_time_are_left_out(timed_study, capsys):
    found = timed_study(15)
    assert trials_of(found) == [1]
    assert found.winner.best.name.startswith("phase1-")
    assert "The winner is chosen among the runs of phase 1." in capsys.readouterr().err
    shutil.rmtree(found.folder.parent)
    with pytest.raises(UserError, match="8 of 8 trials are left out"):
        timed_study(5)


def test_what_a_study_hands_on_and_writes_down(whole_study, capsys):
    options, engine, counts = whole_study
    planned = plan.plan(STUDY_SWEEP, options, models=["mobilenet_v2"], trials=[8, 3, 4], command="ctkeras study")
    found = study.run(planned, engine)
    said = capsys.readouterr().err
    facts = json.loads((found.folder / "study.json").read_text())
    assert found.folder == planned.output_dir / planned.name
    assert (facts["study"], facts["command"]) == (planned.name, "ctkeras study")
    assert [(phase["phase"], phase["trials"], phase["seconds"]) for phase in facts["phases"]] == [
        (1, 8, 8.0),
        (2, 3, 3.0),
        (3, 4, 4.0),
    ]
    assert facts["seconds"] == 15.0
    assert facts["seeds"] == 2
    assert facts["ahead"] == pytest.approx(facts["winner"]["mean_val_acc"] - facts["runner_up"]["mean_val_acc"])
    assert facts["ahead"] > 0
    best = max((run for phase in facts["phases"][:2] for run in phase["runs"]), key=lambda run: run["val_acc"])
    assert facts["winner"]["val_acc"]["0"] == best["val_acc"]
    assert facts["winner"]["val_acc"]["1"] == pytest.approx(best["val_acc"] - 1e-4)
    metrics = [read_json(path) for path in found.folder.glob("phase1-*/metrics.json")]
    stopped = [one["epochs"] for one in metrics if one["stopped_by"] == "hyperband"]
    assert stopped
    assert [phase["stopped"] for phase in facts["phases"]] == [len(stopped), 0, 0]
    assert [phase["epochs_saved"] for phase in facts["phases"]] == [sum(3 - epochs for epochs in stopped), 0, 0]
    for phase in facts["phases"]:
        ranked = sorted(phase["runs"], key=lambda run: (-run["val_acc"], run["val_loss"], run["run"]))
        assert phase["best"] == ranked[0]
        assert (phase["failed"], phase["sweep_file"]) == (0, f"phase{phase['phase']}.yaml")
    assert facts["test"] == {"n": 8, "acc": 0.75, "acc_low": 0.5, "acc_high": 0.9}
    assert facts["final"]["folder"] == found.winner.best.name
    assert found.final == found.folder / found.winner.best.name
    for number in (1, 2, 3):
        assert f"{planned.name}, phase {number} of 3 (" in said
        assert (found.folder / f"phase{number}.yaml").exists()
    again = study.run(planned, engine)
    assert ending.to_dict(planned, planned.name, again) == facts
    assert counts["evaluated"] == 1  # the test split is opened once


def test_a_phase_in_one_line():
    runs = [_result(0.1, 0.2, 0.5), _result(0.2, 0.2, 0.75)]
    line = "phase 1: 3 trials in 1.7 min, 1 failed, 1 stopped early, 4 epochs saved, best val_acc 0.7500 "
    model = RunConfig.model_name
    assert engines.summary(engines.Phase(1, "", runs, 1, 1, 4, 100.0)) == line + f"({model}, run 0.2 0.2)"
    assert engines.to_dict(engines.Phase(1, "", runs, 1, 1, 4, 100.0))["trials"] == 3
    line = f"phase 2: 1 trial in 1 s, best val_acc 0.5000 ({model}, run 0.1 0.2)"
    assert engines.summary(engines.Phase(2, "", runs[:1], 0, 0, 0, 1.0)) == line


def test_the_verdict_in_sentences():
    first, second = winner.contenders([*contender([0.75, 0.85], lr=0.1), *contender([0.5, 0.6], lr=0.2)])
    compared = comparison.Comparison(0.25, 0.05, 0.45, 0.01, "patient", 20, 72, 2, 0.1)
    test = {"n": 10, "acc": 0.8, "acc_low": 0.5, "acc_high": 0.9}
    place = pathlib.Path("runs"), [], first, second
    lines = verdict.verdict(ending.Outcome(*place, compared, pathlib.Path("a"), test))
    assert lines[0].startswith("winner:    val_acc 0.8000, 0.7500 to 0.8500, 2 seeds; model_name=")
    assert lines[1].startswith("runner-up: val_acc 0.5500, 0.5000 to 0.6000, 2 seeds; model_name=")
    assert lines[2] == (
        "Winner and runner-up: the difference of 0.250 is more than chance at the 5% level: 95% interval 0.050 to 0.450, "
        "p = 0.01 (paired permutation test over 20 patients and 2 seeds)."
    )
    assert lines[3:] == [
        "final model: a/model.keras",
        "test accuracy 0.8000 (95% interval 0.5000 to 0.9000, 10 images), evaluated once",
    ]
    assert "cannot be tested" in verdict.verdict(ending.Outcome(*place, None, pathlib.Path("a"), test))[2]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"lr": 0.1, "dropout": 0.2}, "lr=0.1 weight_decay=0.0001 batch_size=8 dropout=0.2"),
        ({"optimizer": "lbfgs"}, "class_weighting=loss label_smoothing=0 weight_decay=auto"),
        ({"unfreeze_from": "stage3", "folds": 5}, "unfreeze_from=stage3 lr=0.1"),
    ],
)
def test_a_configuration_is_described_by_what_has_an_effect_on_it(own, words):
    (one,) = winner.contenders(contender([0.7, 0.8], **own))
    assert words in winner.described(one)


def test_a_study_that_is_stopped_goes_no_further(whole_study):
    options, engine, counts = whole_study
    planned = plan.plan(STUDY_SWEEP, options, models=["mobilenet_v2"], trials=[3, 2, 2])
    assert study.run(planned, lambda task: engine(task) if task.number < 2 else None) is None
    assert not list(planned.output_dir.glob("*/phase3.yaml"))
    assert counts["evaluated"] == 0


def test_the_command_hands_its_options_on(command_line):
    result = command_line(*options(), "--models=resnet18,resnet34", "--trials=4,2,6", "--budget=0.5", "--wide")
    assert (result.exception, result.return_value) == (None, 0)
    assert result.stdout == f"the verdict\n{command_line.folder}/report of phantom:48\n"
    planned = command_line.calls.study
    assert planned.content["parameters"]["model_name"] == {"values": ["resnet18", "resnet34"]}
    assert (planned.trials, planned.wide, planned.seed) == ((2, 1, 3), True, 0)
    assert planned.command.startswith("python -m ctkeras study --data=phantom:48 ")
    assert planned.storage == str(command_line.folder / "study.db")
    assert command_line.calls.engine.func is engines.local
    assert str(command_line.calls.engine.keywords["url"].database) == planned.storage
    assert (command_line.calls.pools, command_line.calls.ended) == ([(1, 300)], [True])


def test_the_command_takes_another_phase_1_and_shows_no_password(command_line):
    file = command_line.folder / "own.yaml"
    file.write_text(dump({**phases.PHASE1, "run_cap": 7}, ["own"]))
    words = ["--storage=postgresql://me:secret@host/db", "--workers=2", "--search_seed=3", "--patience=9"]
    result = command_line(*options(), f"--phase1={file}", *words)
    assert result.exception is None
    planned = command_line.calls.study
    assert (planned.trials, planned.seed) == ((7, 20, 10), 3)
    assert planned.storage == "postgresql://me:***@host/db"
    assert "secret" not in planned.command
    assert command_line.calls.engine.keywords["url"].password == "secret"
    assert command_line.calls.pools == [(2, 9)]


def test_a_command_that_is_stopped_says_how_to_resume(command_line):
    result = command_line(*options(), outcome=False)
    assert result.return_value == 130
    assert result.stdout == ""
    assert "Stopped; run the same command to resume." in result.stderr


def test_a_study_at_wandb_needs_an_account(command_line, monkeypatch):
    result = command_line(*options(), "--engine=wandb", "--entity=me", "--project=p")
    assert isinstance(result.exception, UserError)
    monkeypatch.setattr(sys.modules[study_study.callback.__module__], "require_login", lambda: None)
    assert command_line(*options(), "--engine=wandb", "--entity=me", "--project=p").exception is None
    engine = command_line.calls.engine
    assert (engine.func, engine.keywords) == (engines.wandb, {"project": "p", "entity": "me"})


def test_the_command_takes_a_share_or_a_time_as_budget(command_line):
    result = command_line(*options(), "--trials=4,2,6", "--budget=2h")
    assert result.exception is None
    assert command_line.calls.study.trials == (4, 2, 6)
    assert command_line.calls.engine.keywords["budget"].seconds == 7200
    assert command_line(*options(), "--trials=4,2,6", "--budget=0.5").exception is None
    assert command_line.calls.study.trials == (2, 1, 3)
    assert command_line.calls.engine.keywords["budget"] is None
    for words, said in (
        (["--budget=2x"], "a share from 0 to 1, or a time"),
        (["--budget=2"], "above 0 and at most 1"),
        (["--budget=1h", "--storage=postgresql://me@host/db"], "one machine"),
    ):
        assert said in str(command_line(*options(), *words).exception)


@pytest.mark.parametrize("text", ["1,2,x", "1;2;3", "1,,2"])
def test_numbers_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="three whole numbers"):
        _numbers(text)


def _study_command(folder, **env):
    command = sweeps.Command(folder, **{"WANDB_MODE": "disabled", **env})
    words = ("study", "--models=mobilenet_v2", "--trials=4,2,4", *options())
    return command, words


def outcome(folder):
    """A study's outcome, less times."""
    (path,) = folder.glob("runs/study-*/study.json")
    told = json.loads(path.read_text())

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key != "seconds"}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return timeless(told)


@pytest.mark.slow
def test_the_whole_study_to_its_report_and_again(tmp_path):
    command, words = _study_command(tmp_path)
    done = command(*words)
    report = tmp_path / done.stdout.splitlines()[-1]
    assert report.suffix == ".html"
    assert report.exists()
    folder = report.parent
    told = json.loads((folder / "study.json").read_text())
    assert [phase["trials"] for phase in told["phases"]] == [4, 2, 4]
    assert told["inside_noise"] in (True, False)
    assert ("may be chance" in done.stdout) == told["inside_noise"]
    assert len(told["winner"]["val_acc"]) == len(told["runner_up"]["val_acc"]) == 2
    assert told["winner"]["mean_val_acc"] >= told["runner_up"]["mean_val_acc"]
    final = folder / told["final"]["folder"]
    assert (final / "model.keras").exists()
    assert list(folder.glob("*/metrics_test.json")) == [final / "metrics_test.json"]  # the test split, once
    assert told["final"]["folder"] in told["winner"]["runs"].values()
    before = (final / "metrics_test.json").stat().st_mtime_ns
    again = command(*words)
    assert again.stdout == done.stdout
    assert (final / "metrics_test.json").stat().st_mtime_ns == before
    shown = command("sweep", "status", "runs/study.db").stdout
    assert shown.count("trials ended") == 3
    two = (folder / "phase2.yaml").read_text()
    line = next(line for line in two.splitlines() if "sweep run" in line)
    assert "has finished" in command(*shlex.split(line.removeprefix("#"))[3:]).stdout


@pytest.mark.slow
def test_the_demo_learns(tmp_path):
    """`nox -s demo`, the first command of the README, with the options that noxfile.py has."""
    noxfile = (pathlib.Path(__file__).parents[2] / "noxfile.py").read_text(encoding="utf-8")
    options = [word for line in re.findall(r"^DEMO .*$", noxfile, re.M) for word in re.findall(r'"(--[^"]*)"', line)]
    assert "--models=small_cnn" in options
    done = sweeps.Command(tmp_path, WANDB_MODE="offline")("study", *options)
    report = tmp_path / done.stdout.splitlines()[-1]
    assert "trained from scratch" in report.read_text(encoding="utf-8")
    told = json.loads((report.parent / "study.json").read_text())
    assert told["test"]["n"] == 400
    assert told["test"]["acc"] > 0.85
    assert told["test"]["acc_low"] > 0.75
    assert "has no effect" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_study_killed_at_random_moments_ends_as_if_nothing_had_happened(tmp_path):
    """At 20 of them, or as many as CTKERAS_KILLS says, while its epochs last: a hundred take an hour."""
    kills = int(os.environ.get("CTKERAS_KILLS", "20"))
    (tmp_path / "calm").mkdir()
    calm, words = _study_command(tmp_path / "calm")
    rough, _ = _study_command(tmp_path)
    words = [*words, "--max_epochs=24", "--feature_cache=false"]  # epochs long enough to be killed in
    calm(*words)
    epochs = sweeps.epochs_of(tmp_path / "calm")
    assert sweeps.kill_again_and_again(rough, words, random.Random(0), epochs=epochs, kills=kills) == kills
    assert outcome(tmp_path) == outcome(tmp_path / "calm")
    (one,), (other,) = tmp_path.glob("runs/study-*"), (tmp_path / "calm").glob("runs/study-*")
    assert sweeps.left(one) == sweeps.left(other)
    assert len(list(one.glob("*/metrics.json"))) == 10


@pytest.mark.slow
def test_ctrl_c_stops_a_study_and_the_same_command_goes_on(tmp_path):
    command, words = _study_command(tmp_path)
    process = command.start(*words)
    while not list(tmp_path.glob("runs/study-*/phase1-*/history.csv")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "run the same command to resume" in (tmp_path / "log").read_text()
    assert "report.html" in command(*words).stdout.splitlines()[-1]


@pytest.mark.integration
def test_a_study_through_wandb(tmp_path):
    from wandb_server import WandbServer

    with WandbServer(seed=0) as server:
        command, words = _study_command(tmp_path, **server.env(tmp_path))
        command.env["WANDB_MODE"] = "online"
        done = command(*words, "--engine=wandb", "--project=ctkeras")
        assert len(server.sweeps) == 3
        assert len(server.runs) == 10
        assert all(run.exitcode == 0 for run in server.runs.values())
        again = command(*words, "--engine=wandb", "--project=ctkeras")
        assert again.stdout == done.stdout[done.stdout.index("winner:") :]  # without wandb's own lines
        assert len(server.runs) == 10
        assert server.unknown == []
    told = outcome(tmp_path)
    (folder,) = tmp_path.glob("runs/study-*")
    assert (folder / told["final"]["folder"] / "model.keras").exists()
    assert (folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_study_on_the_real_images(tmp_path, real_data, real_weights):
    command = sweeps.Command(tmp_path, WANDB_MODE="disabled")
    words = ["--models=mobilenet_v2", f"--data={real_data}", f"--weights_dir={real_weights}", "--budget=0.1"]
    with open(tmp_path / "errors", "w") as errors:
        done = subprocess.run(
            [sys.executable, "-m", "ctkeras", "study", *words, "--freeze_backbone=true"],
            cwd=tmp_path,
            env=command.env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
    assert done.returncode == 0, (tmp_path / "errors").read_text()[-3000:]
    told = outcome(tmp_path)
    assert [phase["trials"] for phase in told["phases"]] == [1, 3, 4]
    assert told["in_folds"]["folds"] == 5
    assert told["winner"]["mean_val_acc"] > 0.5  # the largest class has 0.32
    assert told["test"]["n"] == 315
    assert told["test"]["acc_low"] > 0.38  # the largest class
    (folder,) = tmp_path.glob("runs/study-*")
    with open(folder / told["final"]["folder"] / "predictions.csv", newline="") as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"folds", "test"}
