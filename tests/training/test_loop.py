"""What ends a run and what counts as its best epoch, with epochs that are scripted instead of trained."""

import json
import math
import threading
import types

import numpy as np
import pytest

from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.models import classifier
from ctkeras.training import ending, loop, start, stopping, train
from ctkeras.training import run as run_module
from ctkeras.training.run import Progress
from ctkeras.training.steps import new_totals


class Programs:
    """Stores nothing, but counts."""

    def __init__(self):
        self.stored = 0

    def store(self, state):
        self.stored += 1


def scripted(monkeypatch, tmp_path, rows, **values):
    """(run, ending) whose epochs have these (val_acc, val_loss); None is an epoch that was stopped half-way."""
    weight = types.SimpleNamespace(value=np.zeros(1))
    totals = dict(new_totals())
    run = types.SimpleNamespace(
        config=RunConfig(max_epochs=len(rows), **values),
        progress=Progress("head"),
        programs=Programs(),
        members=[types.SimpleNamespace(state=types.SimpleNamespace(totals=totals))],
        weight=weight,
        built=None,
        best=[],
        best_logits=None,
        logits=None,
    )
    saved = []
    end = types.SimpleNamespace(
        exports=True,
        stop=stopping.Stop(),
        lock=threading.RLock(),
        metrics=None,
        seconds=lambda: 7.5,
        folder=tmp_path,
        saved=saved,
    )

    def epoch(run, stop):
        row = rows[run.progress.epoch]
        if row is None:
            stop.ask("sigterm")
            return None
        run.progress.epoch += 1
        weight.value = np.full(1, run.progress.epoch)
        run.logits = run.progress.epoch
        names = {"epoch": run.progress.epoch, "val_acc": row[0], "val_loss": row[1]}
        return names | dict.fromkeys(("train_acc", "train_loss", "lr", "epoch_seconds"), 0.5)

    monkeypatch.setattr(loop, "train_epoch", epoch)
    monkeypatch.setattr(run_module, "changing_weights", lambda config, built: [weight])
    monkeypatch.setattr(loop, "save", lambda run, folder: saved.append((run.progress.epoch, run.progress.seconds)))
    monkeypatch.setattr(loop, "_prove_early", lambda run, end: saved.append("proved"))
    return run, end


def run_epochs(run, end, **options):
    return loop.run_epochs(run, end, log=lambda row: None, **{"after_epoch": None} | options)


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(0.5, 1.0), (0.6, 2.0), (0.4, 0.1)], 2),  # accuracy first
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.95)], 2),  # ties by the smaller loss
        ([(0.5, 1.0), (0.5, 1.0)], 1),  # the first of equals
        ([(0.0, 9.0), (0.0, 10.0)], 1),  # even an accuracy of 0 is a best epoch
    ],
)
def test_the_best_epoch_is_by_accuracy_then_loss_then_the_first(monkeypatch, tmp_path, rows, best):
    monkeypatch.setattr(loop, "SOON", 0.0)
    run, end = scripted(monkeypatch, tmp_path, rows)
    assert run_epochs(run, end) == ("max_epochs", "")
    progress = run.progress
    assert (progress.best_epoch, progress.best_acc, progress.best_loss) == (best, *rows[best - 1])
    assert run.best[0].tolist() == [best]
    assert run.best_logits == best
    assert [row["epoch"] for row in progress.history] == list(range(1, len(rows) + 1))
    assert [each for each in end.saved if each != "proved"] == [(i + 1, 7.5) for i in range(len(rows))]
    assert end.saved.count("proved") == 1  # once per process
    assert progress.plateau.best_loss == min(loss for _, loss in rows)


def test_a_short_run_has_its_export_checked_at_its_end_only(monkeypatch, tmp_path):
    run, end = scripted(monkeypatch, tmp_path, [(0.5, 1.0), (0.6, 1.0)])
    run_epochs(run, end)
    assert "proved" not in end.saved


@pytest.mark.parametrize(
    ("patience", "epochs", "why"), [(0, 6, "max_epochs"), (2, 3, "early_stopping"), (3, 4, "early_stopping")]
)
def test_early_stopping_waits_exactly_its_epochs(monkeypatch, tmp_path, patience, epochs, why):
    run, end = scripted(monkeypatch, tmp_path, [(0.5, 1.0)] + [(0.4, 1.0)] * 5, early_stopping=patience)
    assert run_epochs(run, end) == (why, "")
    assert run.progress.epoch == epochs


def test_a_stopped_epoch_does_not_count(monkeypatch, tmp_path):
    run, end = scripted(monkeypatch, tmp_path, [(0.5, 1.0), None, (0.9, 0.1)])
    assert run_epochs(run, end) == ("sigterm", "")
    assert (run.progress.epoch, len(run.progress.history)) == (1, 1)


def test_a_run_that_another_thread_has_ended_changes_nothing_more(monkeypatch, tmp_path):
    run, end = scripted(monkeypatch, tmp_path, [(0.5, 1.0)] * 2)
    end.metrics = {}
    run_epochs(run, end)
    assert run.progress.history == end.saved == []


@pytest.mark.parametrize(
    ("bad_step", "val_loss", "where"),
    [(-1, math.nan, "validation"), (-1, math.inf, "validation"), (0, 1.0, "step 1"), (4, 1.0, "step 5")],
)
def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(monkeypatch, tmp_path, bad_step, val_loss, where):
    run, end = scripted(monkeypatch, tmp_path, [(0.5, val_loss)], lr=0.25)
    run.members[0].state.totals["bad_step"] = np.int32(bad_step)
    why, trouble = run_epochs(run, end)
    assert why == "nan"
    assert trouble.startswith(f"The loss is not finite in epoch 1, {where}: lower lr (0.25)")
    assert end.saved == []


def test_each_epochs_row_is_logged_and_then_handed_on(monkeypatch, tmp_path, capfd):
    run, end = scripted(monkeypatch, tmp_path, [(0.5, 1.0), (0.4, 1.0)])
    calls = []
    loop.run_epochs(
        run,
        end,
        log=lambda r: calls.append(("log", r["epoch"])),
        after_epoch=lambda r: calls.append(("after", r["epoch"])),
    )
    assert calls == [("log", 1), ("after", 1), ("log", 2), ("after", 2)]
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("epoch   1/2  train_acc 0.500")
    assert first.endswith("0.5 s *")  # the best so far
    assert second.endswith("0.5 s")


def test_the_head_is_trained_for_head_epochs_and_then_all():
    config = RunConfig(head_epochs=2, freeze_backbone=False)
    assert [loop.cut_at(config, epoch) for epoch in range(4)] == ["head", "head", "input", "input"]
    assert loop.cut_at(RunConfig(freeze_backbone=True), 0) == "head"


@pytest.mark.parametrize(
    ("values", "frozen"),
    [
        ({}, True),
        ({"freeze_batch_norm": False}, False),
        ({"pretrained": False}, False),
        ({"freeze_backbone": True}, False),
    ],
)
def test_batch_norm_is_frozen_only_where_pretrained_layers_are_trained(monkeypatch, values, frozen):
    seen = []
    monkeypatch.setattr(start, "programs_classifier", lambda structure: seen.append(structure))
    monkeypatch.setattr(classifier, "initialise", lambda built, **options: seen.append(options))
    config = RunConfig(**{"freeze_backbone": False, "freeze_batch_norm": True, "dropout": 0.4, "seed": 3} | values)
    start.build(config, classes=4, weights=None)
    assert seen[0].freeze_batch_norm == frozen
    assert (seen[0].classes, seen[0].image_size) == (4, config.image_size)
    assert seen[1] == {"seed": 3, "dropout": 0.4}


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"freeze_backbone": False, "lr": 0.011}, "suits training the head only"),
        ({"freeze_backbone": False, "lr": 0.011}, "0.0001 is usual"),
        ({"model_name": "small_cnn", "lr": 0.011}, "0.003 is usual"),
        ({"model_name": "small_cnn", "lr": 0.003}, ""),
        ({"freeze_backbone": False, "lr": 0.01}, ""),
        ({"freeze_backbone": True, "lr": 0.5}, ""),
        ({"freeze_backbone": True, "pretrained": False}, "random features"),
        ({"freeze_backbone": False, "pretrained": False, "lr": 0.001}, ""),
    ],
)
def test_settings_seldom_intended_are_warned_of(values, warning, capfd):
    train._warn(RunConfig(**values))
    said = capfd.readouterr().err
    assert warning in said
    assert bool(said) == bool(warning)


class Tracker:
    """Remembers how the W&B run was ended."""

    def __init__(self):
        self.ended = []

    def finish(self, summary, *, exit_code=0):
        self.ended.append((summary, exit_code))


@pytest.mark.parametrize(("error", "code"), [(UserError("no\nfile " + "x" * 400), 2), (ValueError("no\nfile"), 1)])
def test_a_failure_ends_the_wandb_run_once_with_its_reason(tmp_path, error, code):
    end = ending.Ending(tmp_path, Tracker(), stopping.Stop())
    end.fail(error)
    end.fail(error)
    ((summary, exit_code),) = end.tracker.ended
    assert exit_code == code
    assert summary["failure"].startswith(f"{type(error).__name__}: no file")
    assert len(summary["failure"]) <= 300
    assert summary["stopped_by"] == "error"


@pytest.mark.parametrize("failed", [False, True])
def test_a_run_ends_once_even_before_it_is_built(tmp_path, failed):
    end = ending.Ending(tmp_path, Tracker(), stopping.Stop())
    metrics = end.finish("sigterm", failed=failed)
    assert end.finish("max_epochs") is metrics
    assert metrics == {"stopped_by": "sigterm", "val_acc": None, "best_epoch": 0, "epochs": 0}
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"format": 1, **metrics}
    assert end.tracker.ended == [(metrics, int(failed))]


def test_a_runs_time_includes_that_of_earlier_processes(tmp_path):
    end = ending.Ending(tmp_path, None, stopping.Stop())
    end.begin(types.SimpleNamespace(progress=types.SimpleNamespace(seconds=1000.0)))
    assert 1000 <= end.seconds() < 1100
