"""The study: budgets, hand-overs, the winner and its noise; all three phases to the report, whatever dies in between."""

import csv
import json
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import sweeps

from ctkeras import contest, phases, search, study, sweepfile
from ctkeras.config import RunConfig, UserError
from ctkeras.runs.predictions import prediction_rows, write_predictions
from ctkeras.runs.result import Result, best_first

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
    ("budget", "trials"),
    [(1.0, (45, 20, 10)), (0.1, (5, 2, 1)), (0.5, (23, 10, 5)), (0.01, (1, 1, 1)), (1 / 3, (15, 7, 4))],
)
def test_a_budget_rounds_up(budget, trials):
    assert study.plan(sweepfile.PHASE1, TINY, budget=budget).trials == trials


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
        study.plan(sweepfile.PHASE1, wrong.pop("options", TINY), **wrong)


def test_phase_1_is_the_shipped_file():
    file = pathlib.Path(__file__).parent.parent / "sweep_yaml" / "phase1.yaml"
    assert sweepfile.load(file).content == sweepfile.PHASE1


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
    planned = study.plan(sweepfile.PHASE1, {**TINY, "dropout": "0.3"}, budget=0.01)
    two, _ = study._next(planned, sweepfile.fix(sweepfile.PHASE1, study._fixed(planned)), results(5), 2)
    assert two["parameters"]["dropout"] == {"value": 0.3}
    assert two["run_cap"] == 1
    three, reasons = study._next(planned, two, results(4, dropout=0.3), 3)
    assert len(three["parameters"]["candidate"]["values"]) == 2
    assert three["parameters"]["seed"] == {"values": [0, 1]}
    assert three["parameters"]["max_epochs"] == {"value": 3}
    assert "chosen from 4 finished runs" in " ".join(reasons)
    ten = study.plan(sweepfile.PHASE1, TINY)
    assert study._next(ten, two, results(4), 3)[0]["parameters"]["seed"] == {"values": [0, 1, 2, 3, 4]}


def test_one_architecture_hands_on_its_two_best_configurations():
    planned = study.plan(sweepfile.PHASE1, TINY, models=["mobilenet_v2"])
    assert planned.content["parameters"]["model_name"] == {"values": ["mobilenet_v2"]}
    found = results(9, models=["mobilenet_v2"])
    two, _ = study._next(planned, planned.content, found, 2)
    first, second = two["parameters"]["candidate"]["values"]
    assert first["lr"] == best_first(found)[0].config["lr"]
    assert first != second
    assert first["model_name"] == second["model_name"] == "mobilenet_v2"


def _phase_3(one, two):
    """The lr and dropout of phase 3's candidates, from the runs of phases 1 and 2."""
    planned = study.plan(sweepfile.PHASE1, TINY)
    content, _ = study._next(planned, planned.content, one, 2)
    done = [phases.Phase(n, "", runs, 0, 0, 0, 0.0) for n, runs in ((1, one), (2, two))]
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
    planned = study.plan(sweepfile.PHASE1, fixed)
    two, _ = study._next(planned, sweepfile.fix(sweepfile.PHASE1, study._fixed(planned)), results(9), 2)
    assert two["method"] == "grid"
    assert search.plan(two, {**TINY}, title="two").total == 2


def test_a_hand_over_can_be_run_again_and_is_then_the_same_study(tmp_path):
    planned = study.plan(sweepfile.PHASE1, {**TINY, "output_dir": str(tmp_path)}, trials=[3, 2, 4], seed=5)
    folder = tmp_path / study.name_of(planned)
    task = {**planned.options, "output_dir": str(folder)}
    first = sweepfile.fix(planned.content, study._fixed(planned))
    for number, content in ((1, first), (2, study._next(planned, first, results(5), 2)[0])):
        more = {"storage": planned.storage, "search_seed": planned.seed}
        path = phases.write(folder, number, content, ["Why."], {**task, **more})
        text = path.read_text()
        line = next(line for line in text.splitlines() if "sweep run" in line)
        words = dict(word[2:].split("=", 1) for word in shlex.split(line[1:]) if word.startswith("--"))
        assert set(words) == {"data", "output_dir", "storage", "search_seed"}
        again = search.plan(
            sweepfile.load(path).content, {"data": words["data"]}, title="x", seed=int(words["search_seed"])
        )
        assert again.name == search.plan(content, task, title="x", seed=5).name


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
    first, second = contest.contenders([*lucky, *steady])
    assert (first.config["lr"], second.config["lr"]) == (0.2, 0.1)
    assert first.mean == pytest.approx(0.7)
    assert first.spread == pytest.approx(0.0)
    assert second.spread == pytest.approx(0.2309, abs=1e-4)
    assert second.best.name == "0.1-0"
    assert "data" not in first.config
    assert "seed" not in first.config


def test_a_small_lead_is_inside_the_noise_and_a_large_one_is_not(tmp_path):
    close = contest.contenders([*contender([0.80, 0.82], lr=0.1), *contender([0.80, 0.81], lr=0.2)])
    difference = contest.compare(*close, {})
    assert difference.ahead == pytest.approx(0.005)
    assert difference.inside_noise
    right = {"0.1": (95, 5), "0.2": (30, 70)}
    far = contest.contenders([*contender([0.95, 0.95, 0.95], lr=0.1), *contender([0.30, 0.30, 0.30], lr=0.2)])
    folders = {
        name: predict(tmp_path / name, *right[name.partition("-")[0]])
        for one in far
        for name in (run.name for run in one.runs.values())
    }
    difference = contest.compare(*far, folders)
    assert (difference.seeds, difference.images) == (3, 100)
    assert not difference.inside_noise
    one_folder = {"0.1-0": folders["0.1-0"]}  # the other's predictions are on another machine
    assert contest.compare(*far, one_folder).images == 100


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
        outside += not contest.compare(*contest.contenders(runs), folders).inside_noise
    assert outside <= 10


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
    assert ("inside the noise" in done.stdout) == told["inside_noise"]
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
@pytest.mark.timeout(3600)
def test_a_study_killed_at_twenty_random_moments_ends_as_if_nothing_had_happened(tmp_path):
    (tmp_path / "calm").mkdir()
    calm, words = _study_command(tmp_path / "calm")
    rough, _ = _study_command(tmp_path)
    words = [*words, "--max_epochs=24", "--feature_cache=false"]  # epochs long enough to be killed in
    calm(*words)
    assert sweeps.kill_again_and_again(rough, words, random.Random(0), epochs=sweeps.epochs_of(tmp_path / "calm")) == 20
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
    assert "the same command goes on" in (tmp_path / "log").read_text()
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
    assert [phase["trials"] for phase in told["phases"]] == [5, 2, 4]
    assert told["winner"]["mean_val_acc"] > 0.5  # the largest class has 0.32
    assert told["test"]["n"] == 315
    assert told["test"]["acc_low"] > 0.38  # the largest class
    (folder,) = tmp_path.glob("runs/study-*")
    with open(folder / told["final"]["folder"] / "predictions.csv", newline="") as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"valid", "test"}
