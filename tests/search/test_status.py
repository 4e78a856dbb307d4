"""What a search shows: words for values, the table of trials, and the lines while it runs."""

import datetime
import os
import pathlib
import signal
import subprocess
import sys
import types

import optuna
import pytest
from optuna.trial import TrialState
from sweeps import opened, planned, pretend

from ctkeras.errors import UserError
from ctkeras.runtime import console
from ctkeras.search import budget, cost, status
from ctkeras.search import progress as progress_module
from ctkeras.search.progress import Progress

CONFIG = {"lr": 0.0123456, "model_name": "resnet18", "max_epochs": 10, "freeze_backbone": True}


@pytest.fixture
def study():
    """A study, and what adds a trial to it."""
    made = optuna.create_study(direction="maximize", study_name="lr-1234")

    def add(state, value=None, *, values=(), **attrs):
        attrs = {"config": CONFIG, **attrs}
        epochs = dict(enumerate(values, 1))
        made.add_trial(
            optuna.trial.create_trial(state=state, value=value, user_attrs=attrs, intermediate_values=epochs)
        )
        return made.get_trials()[-1]

    made.add = add
    return made


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (False, "false"), (0.0123456, "0.0123"), (32, "32")])
def test_a_value_is_short(value, text):
    assert console.value_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0.4 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (600, "10 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (36000, "10.0 h"),
    ],
)
def test_a_duration_has_a_suitable_unit(seconds, text):
    assert console.seconds_text(seconds) == text


def test_one_thing_is_not_several():
    assert [status.counted(number, "trial") for number in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]


def test_the_best_trial_is_the_earliest_of_equals_in_either_direction(study):
    study.add(TrialState.FAIL)
    for value in (0.5, 0.7, 0.7, 0.2, 0.2):
        study.add(TrialState.PRUNED if value == 0.2 else TrialState.COMPLETE, value)
    assert status.best(study.get_trials(), maximize=True).number == 2
    assert status.best(study.get_trials(), maximize=False).number == 4
    assert status.best(study.get_trials()[:1], maximize=True) is None


def test_how_a_trial_ended_or_where_it_runs(study):
    def said(state, value=None, **attrs):
        return status.outcome(study.add(state, value, **attrs))

    assert said(TrialState.FAIL, failure="not finite") == "not finite"
    assert said(TrialState.FAIL) == "failed outside ctkeras"
    assert said(TrialState.RUNNING, owner={"host": "gpu1"}) == "on gpu1"
    assert said(TrialState.RUNNING, owner=None) == "to be resumed"
    assert said(TrialState.COMPLETE, 0.5, stopped_by="early_stopping") == "early_stopping"
    assert said(TrialState.COMPLETE, 0.5, tries=1, stopped_by="max_epochs").startswith("max_epochs; run twice")
    assert said(TrialState.COMPLETE, 0.5) == ""


def test_the_table_has_a_line_per_trial(study):
    study.add(TrialState.COMPLETE, 0.75, values=[0.5, 0.75], epochs=2, val_acc=0.75, seconds=12.4, stopped_by="x")
    study.add(TrialState.RUNNING, values=[0.5, 0.625, 0.5], owner={"host": "gpu1"})
    study.add(TrialState.RUNNING, values=[float("nan")], owner=None, config={})
    lines = status.table(study.get_trials(), ["lr", "freeze_backbone"], metric="val_acc")
    assert [line.split() for line in lines] == [
        ["trial", "state", "epochs", "val_acc", "lr", "freeze_backbone", "seconds", "ended", "by"],
        ["0", "finished", "2/10", "0.7500", "0.0123", "true", "12", "x"],
        ["1", "running", "3/10", "0.5000", "0.0123", "true", "on", "gpu1"],
        ["2", "running", "1/?", "to", "be", "resumed"],
    ]
    assert lines[0].index("state") == lines[1].index("finished") == lines[2].index("running")
    by_loss = status.table(study.get_trials(), [], metric="val_loss")
    assert by_loss[1].split()[3:5] == ["0.7500", "0.7500"]
    assert by_loss[2].split()[3:] == ["0.5000", "on", "gpu1"]  # a running trial's metric is not its val_acc


def test_the_report_has_a_table_per_search_and_says_what_it_lacks(study):
    stored = study._storage
    with pytest.raises(UserError, match="no search in this storage yet"):
        status.report(stored)
    parameters = {"lr": {"values": [1, 2]}}
    study.set_user_attr("sweep", {"parameters": parameters})
    study.set_user_attr("total", 3)
    study.add(TrialState.PRUNED, 0.5, epochs=4, folder="runs/a")
    study.add(TrialState.COMPLETE, 0.25, epochs=10)
    other = optuna.create_study(study_name="other", storage=stored)
    other.set_user_attr("sweep", {"parameters": parameters})
    lines = status.report(stored, study="lr-1234")
    assert lines[0] == "lr-1234: 2 of 3 trials ended"
    assert len(lines) == 6
    assert lines[-2:] == ["best: trial 0, val_acc 0.5000, runs/a", "hyperband stopped 1 trial and saved 6 epochs"]
    assert "\n\nother: 0 of ? trials ended" in "\n".join(status.report(stored))
    with pytest.raises(UserError, match="no search third in this storage; its searches: lr-1234, other"):
        status.report(stored, study="third")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets; the day begins at noon."""
    now = types.SimpleNamespace(seconds=0.0)
    noon = datetime.datetime(2030, 1, 1, 12)
    real = types.SimpleNamespace(
        datetime=types.SimpleNamespace(now=lambda: noon + datetime.timedelta(seconds=now.seconds)),
        timedelta=datetime.timedelta,
    )
    monkeypatch.setattr(progress_module, "datetime", real)
    monkeypatch.setattr(cost.time, "monotonic", lambda: now.seconds)
    return now


def test_the_lines_of_a_search_estimate_its_end(study, clock, capsys):
    progress = Progress("phase1", 4, ["lr"], metric="val_acc", maximize=True, later=2)
    for seconds, value in ((600, 0.5), (660, 0.75), (720, None)):
        clock.seconds = seconds
        attrs = {"epochs": 3, "seconds": 59.6} if value else {"failure": "not finite"}
        progress.running[len(progress.cost.done)] = "epoch 1/3"
        trial = study.add(TrialState.COMPLETE if value else TrialState.FAIL, value, **attrs)
        progress.update(study.get_trials())
        progress.end(trial)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == (
        "phase1 1/4: trial 0  val_acc 0.5000  lr=0.0123  3 epochs, 60 s  "
        "[best 0.5000 (trial 0), 30 min left, all phases done at 13:00]"  # 5 more of 10 minutes each
    )
    assert "[best 0.7500 (trial 1), 2.0 min left, all phases done at 12:15]" in second  # one minute each
    assert third.startswith("phase1 3/4: trial 2  failed  lr=0.0123  not finite  [best 0.7500")
    assert progress.running == {}
    last = Progress("phase1", 3, ["lr"], metric="val_acc", maximize=True)
    last.update(study.get_trials())
    last.end(study.get_trials()[-1])
    assert capsys.readouterr().err.endswith("[best 0.7500 (trial 1)]\n")  # nothing is left


def test_a_budget_ends_a_search_before_its_estimate(study, clock, capsys):
    """The clock stands at 0 when the budget of 20 minutes begins; half of it is this search's."""
    given = budget.Budget.of(1200).part(0.5)
    progress = Progress("phase1", 4, ["lr"], metric="val_acc", maximize=True, later=2, budget=given)
    clock.seconds = 300
    study.add(TrialState.COMPLETE, 0.5, epochs=3, seconds=300.0)
    progress.update(study.get_trials())
    progress.end(study.get_trials()[-1])
    # By the estimate, 3 more here take 15 minutes, and 5 in all 25.
    assert "[best 0.5000 (trial 0), 5.0 min left, all phases done at 12:20]" in capsys.readouterr().err


def test_a_live_line_is_drawn_over_and_fits_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress_module.shutil, "get_terminal_size", lambda: types.SimpleNamespace(columns=40))
    progress = Progress("tiny", 4, [], metric="val_acc", maximize=True)
    progress.running = {1: "starting", 0: "epoch 2/6 val_acc 0.5000"}
    progress.draw()
    assert capsys.readouterr().err == "\r\x1b[2Ktiny 0/4  trial 0: epoch 2/6 val_acc 0."
    progress.say("a note", once=True)
    said = capsys.readouterr().err
    assert said.startswith("\r\x1b[2Ka note\n\r\x1b[2Ktiny 0/4")
    progress.say("a note", once=True)
    assert capsys.readouterr().err == ""
    progress.say("a note")
    assert "a note" in capsys.readouterr().err
    progress.close()
    assert capsys.readouterr().err == "\r\x1b[2K"


def test_watching_waits_for_the_first_trial_follows_the_next_and_ends_with_ctrl_c_in_one_line(tmp_path):
    code = "from ctkeras.cli import main, sweep; sweep.WATCH_SECONDS = 0.1; main.run()"
    words = [sys.executable, "-c", code, "sweep", "status", f"journal:{tmp_path}/study.log", "--watch"]
    env = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:

        def until(text):
            assert any(text in line for line in process.stdout), process.stderr.read()

        until("there is no file")
        trials = opened(tmp_path, planned(tmp_path), url=f"journal:{tmp_path}/study.log")
        until(f"{trials.search.name}: 0 of 6 trials ended")
        pretend(trials, trials.claim([]))
        until("1 of 6 trials ended")
        until("best: trial 0")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert errors.splitlines() == ["No longer watching; the search is not affected."]
