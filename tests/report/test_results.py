"""What a report reads from runs, and what it computes of them: order, groups, time saved, importance."""

import json
import math

import pytest
import run_folders
from run_folders import edit

from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.report import importance, results, savings
from ctkeras.report.results import Run


def made(name="a", *, history=(), val_acc=0.5, **values):
    """A run without a folder; values are hyperparameters, or metrics."""
    config = RunConfig().to_dict()
    metrics = {key: value for key, value in values.items() if key not in config} | {"val_acc": val_acc}
    return Run(name, None, config | {k: v for k, v in values.items() if k in config}, metrics, history)


def test_runs_are_ordered_by_accuracy_then_loss_then_name(tmp_path):
    for path, val_acc, val_loss in zip(
        run_folders.write(tmp_path, runs=5), (0.7, 0.8, 0.8, 0.8, 0.9), (0.1, 0.5, 0.4, 0.4, 0.9), strict=True
    ):
        edit(path / "metrics.json", val_acc=val_acc, val_loss=val_loss)
    names = [run.name for run in results.read(tmp_path).runs]
    assert names == [f"run-000{number}" for number in (4, 2, 3, 1, 0)]


def test_runs_are_found_three_levels_down_but_not_in_hidden_folders_or_those_of_wandb(tmp_path):
    for place in ("a/b", "a/b/c", ".hidden", "wandb"):
        run_folders.write(tmp_path / place, runs=1)
    assert [run.name for run in results.read(tmp_path).runs] == ["a/b/run-0000"]


@pytest.mark.parametrize(("val_acc", "usable"), [(0.0, True), (1.0, True), (-0.01, False), (1.01, False)])
def test_an_accuracy_is_a_share(tmp_path, val_acc, usable):
    (path,) = run_folders.write(tmp_path, runs=1)
    edit(path / "metrics.json", val_acc=val_acc)
    if usable:
        assert results.read_run(path, "x").val_acc == val_acc
    else:
        with pytest.raises(UserError, match="it has no val_acc"):
            results.read_run(path, "x")


def test_runs_of_a_wandb_sweep_are_read_from_rows():
    metrics = {"val_acc": 0.7, "val_loss": "NaN", "stopped_by": "sweep"}
    rows = [
        {"name": "b", "state": "finished", "config": {"lr": 0.1}, "metrics": metrics, "history": [{"epoch": 2}]},
        {"name": "a", "state": "finished", "config": {}, "metrics": {"val_acc": 0.8}, "history": []},
        {"name": "c", "state": "crashed", "config": {}, "metrics": {"val_acc": 0.9}, "history": []},
    ]
    read = results.from_wandb("e/p/s", {"early_terminate": {}}, rows)
    assert [run.name for run in read.runs] == ["a", "b"]
    assert read.skipped == (("c", "its state at W&B is crashed"),)
    assert read.runs[1].metrics["stopped_by"] == "hyperband"
    assert read.runs[1].config["lr"] == 0.1
    assert read.runs[1].number("val_loss") is None
    assert results.from_wandb("e/p/s", {}, rows).runs[1].metrics["stopped_by"] == "sweep"
    with pytest.raises(UserError, match="no finished run"):
        results.from_wandb("e/p/s", {}, rows[2:])


def test_what_was_searched_is_what_differs_but_for_seed_and_places():
    runs = [made(lr=0.1, seed=1, output_dir="a"), made(lr=0.2, seed=2, output_dir="b")]
    assert results.searched(runs) == ["lr"]


def test_the_best_run_of_each_architecture_is_its_first():
    runs = [made("a"), made("b", model_name="resnet18"), made("c"), made("d", model_name="resnet18")]
    assert [run.name for run in results.best_by_architecture(runs)] == ["a", "b"]


def test_configurations_are_grouped_over_seeds_the_best_mean_first():
    low = [made("a", lr=0.1, seed=0, val_acc=0.9), made("b", lr=0.1, seed=1, val_acc=0.1)]
    high = [made("c", lr=0.2, seed=0, val_acc=0.1), made("d", lr=0.2, seed=0, val_acc=0.6)]
    high.append(made("e", lr=0.2, seed=1, val_acc=0.6))
    groups = results.by_configuration([*high, *low, made("f", lr=0.3)])
    assert [[run.name for run in group] for group in groups] == [["d", "e"], ["a", "b"]]


def rows(*seconds):
    return [{"epoch": float(i), "epoch_seconds": s} for i, s in enumerate(seconds, 1)]


def test_epochs_that_were_not_trained_count_at_the_median_epoch():
    runs = [made(epochs=3.0, max_epochs=10, stopped_by="hyperband", history=rows(50.0, 2.0, 3.0))]
    runs += [made(epochs=10.0, max_epochs=10, stopped_by="hyperband"), made(epochs=3.0, stopped_by="nan")]
    assert savings.stopped(runs, by=("hyperband",)) == [savings.Stopped(3, 10, 21.0)]
    bare = made(epochs=4.0, max_epochs=5, stopped_by="hyperband", seconds_total=50.0, seconds_compile=10.0)
    assert savings.stopped([bare], by=("hyperband",)) == [savings.Stopped(4, 5, 10.0)]


def test_time_is_split_into_training_compiling_and_everything_else():
    run = made(seconds_total=100.0, seconds_compile=20.0, history=rows(50.0, math.nan, 10.0))
    assert savings.spent(run) == (40.0, 20.0, 40.0)
    assert savings.spent(made(seconds_total=100.0)) is None
    assert savings.spent(made(history=rows(1.0))) is None
    assert savings.spent(made(seconds_total=5.0, seconds_compile=20.0, history=rows(50.0))) == (5.0, 0.0, 0.0)


def test_programs_are_shared_by_structure_and_features_by_what_they_depend_on():
    def run(name, **values):
        return made(name, seconds_total=30.0, seconds_compile=10.0, history=rows(10.0), **values)

    assert [reused.runs for reused in savings.programs_reused([run("a"), run("b", lr=0.5, seed=3)])] == [2]
    assert savings.programs_reused([run("a"), run("b", batch_size=99)]) == []
    assert [reused.runs for reused in savings.preparation_reused([run("a"), run("b", batch_size=99)])] == [2]
    assert savings.preparation_reused([run("a"), run("b", augmentation=0.5)]) == []


def test_importance_needs_twelve_runs_that_differ():
    runs = [made(str(i), val_acc=0.5 + i / 100, dropout=i / 100) for i in range(12)]
    assert importance.importance(runs, ["dropout"]).runs == 12
    assert importance.importance(runs[:11], ["dropout"]) is None
    assert importance.importance(runs, []) is None
    assert importance.importance([made(dropout=i / 100) for i in range(12)], ["dropout"]) is None


def test_hyperparameters_become_numbers():
    assert importance._column(["b", "a", "b"]).tolist() == [1, 0, 1]
    assert importance._column([True, False]).tolist() == [1, 0]
    assert importance._column([1.0, 20.0]).tolist() == [1, 20]
    assert importance._column([1.0, 21.0]) == pytest.approx([0, math.log(21)])
    assert importance._column([0.0, 100.0]).tolist() == [0, 100]


def test_a_damaged_json_file_of_a_study_is_listed(tmp_path):
    run_folders.write(tmp_path, runs=1)
    (tmp_path / "study.json").write_text("{")
    read = results.read(tmp_path)
    assert read.study == {}
    assert [name for name, _ in read.skipped] == ["study.json"]
    (tmp_path / "study.json").write_text(json.dumps({"study": "s"}))
    assert results.read(tmp_path).study == {"study": "s"}
