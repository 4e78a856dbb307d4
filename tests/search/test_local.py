"""The local engine: each trial once, whoever dies; the same result as if nobody had; what the storage shows."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import optuna
import pytest
import sweeps

from ctkeras.config import EPOCH_METRICS, FIELDS, PLACES
from ctkeras.errors import UserError
from ctkeras.runs.folder import read_json
from ctkeras.runs.history import write_history
from ctkeras.runs.result import best_first
from ctkeras.search import heartbeat, local, plan, status, storage, trialstore
from ctkeras.sweep import phases
from ctkeras.sweep.file import dump, fixed, load
from ctkeras.training.stopping import Stop


def test_a_study_is_known_by_what_it_searches(tmp_path):
    content = sweeps.sweep()
    name = sweeps.planned(tmp_path, content).name
    turned = {key: content[key] for key in reversed(content)}
    turned["parameters"] = dict(reversed(content["parameters"].items()))
    assert sweeps.planned(tmp_path / "elsewhere", turned, weights_dir="w").name == name
    assert sweeps.planned(tmp_path, {**content, "run_cap": 60}).name == name  # a larger cap goes on with it
    assert sweeps.planned(tmp_path, content, data="phantom:96").name != name
    assert sweeps.planned(tmp_path, content, max_epochs="7").name != name
    assert sweeps.planned(tmp_path, sweeps.sweep(dropout=0.2)).name != name
    assert plan.plan(content, {}, title="tiny", seed=1).name != name


def test_a_copy_of_the_data_elsewhere_is_the_same_study(tmp_path, image_folder):
    copied = tmp_path / "copy"
    image_folder.rename(copied)
    names = []
    for place in (copied, tmp_path / "back"):
        copied = copied.rename(place) if place != copied else copied
        names.append(sweeps.planned(tmp_path, data=str(copied)).name)
    assert names[0] == names[1]


def test_options_win_over_the_sweep_nested_parameters_included(tmp_path):
    nested = {"optimization": {"parameters": {"lr": {"min": 0.01, "max": 0.1}, "weight_decay": {"value": 0.5}}}}
    content = sweeps.sweep()
    content["parameters"] = {k: v for k, v in content["parameters"].items() if k != "lr"} | nested
    found = sweeps.planned(tmp_path, content, lr="0.3")
    assert fixed(found.content)["lr"] == 0.3
    assert fixed(found.content)["weight_decay"] == 0.5
    assert "lr" not in found.varied
    trials = sweeps.opened(tmp_path, found)
    assert trials.claim([]).config["lr"] == 0.3


def test_flags_of_a_command_mean_here_what_they_mean_to_an_agent(tmp_path):
    content = sweeps.sweep(dropout=0.2)
    flags = ["--weight_decay=0.5", "--mixup_alpha", "0.1", "--dropout", "0.9", "${args}", "--data=phantom:96"]
    plain = sweeps.planned(tmp_path, content)
    told = {**content, "command": [*content["command"], *flags]}
    found = sweeps.planned(tmp_path, told)
    config = sweeps.opened(tmp_path, found).claim([]).config
    assert (config["weight_decay"], config["mixup_alpha"]) == (0.5, 0.1)
    assert (config["dropout"], config["data"]) == (0.2, "phantom:48")  # the sweep's own win
    assert found.name != plain.name
    assert sweeps.planned(tmp_path, content, weight_decay="0.5", mixup_alpha=0.1).name == found.name
    assert fixed(sweeps.planned(tmp_path, told, weight_decay="0.1").content)["weight_decay"] == 0.1
    for wrong in (["--config", "a.yaml"], ["--drop_out=1"], ["--dropout=2"], ["--dropout"]):
        with pytest.raises(UserError, match=r"command\.5: (--config|--drop_out|--dropout|dropout must be)"):
            sweeps.planned(tmp_path, {**content, "command": [*content["command"], *wrong]})


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_options_that_leave_nothing_to_search_are_refused(tmp_path, method):
    content = sweeps.sweep(method=method)
    for some in ({"lr": "0.3"}, {"dropout": "0.2"}):
        assert sweeps.planned(tmp_path, content, **some).total == content["run_cap"]
    with pytest.raises(UserError, match=r"nothing is left to search \(fixed by --lr, --dropout\)"):
        sweeps.planned(tmp_path, content, lr="0.3", dropout="0.2")
    assert sweeps.planned(tmp_path, {**content, "run_cap": 1}, lr="0.3", dropout="0.2").total == 1
    with pytest.raises(UserError, match="no parameter has several values"):
        sweeps.planned(tmp_path, sweeps.sweep(method=method, lr=0.1, dropout={"values": [0.2]}))
    by_data = sweeps.sweep(method=method, lr=0.1, dropout=0.2, data={"values": ["phantom:48", "phantom:96"]})
    assert sweeps.planned(tmp_path, by_data).total == by_data["run_cap"]


@pytest.mark.parametrize(
    "given", ["mysql://me:secret@host/db", "sqlite://", "postgresql+asyncpg://me:secret@host/db", "http://me:secret@h"]
)
def test_other_databases_are_refused_without_their_password(given):
    with pytest.raises(UserError, match="postgresql://") as caught:
        storage.address(given, "runs")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://me:s%40cret%7Bx@127.0.0.1:1/db",
        "postgres://me@127.0.0.1:1/db?password=s%40cret%7Bx",
        "postgresql+psycopg://me:s%40cret%7Bx@127.0.0.1:1/db?connect_timeout=1",
    ],
)
def test_a_password_is_in_no_message_and_in_no_exception_behind_it(given, capfd):
    url = storage.address(given, "runs")
    assert "cret" not in storage.shown(url)
    with pytest.raises(UserError, match=r"cannot use|psycopg") as caught:
        storage.open_storage(url)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__  # so that no traceback shows it
    assert "cret" not in str(caught.value)
    assert "cret" not in "".join(capfd.readouterr())
    assert storage.scrubbed("FATAL: s@cret{x and s%40cret%7Bx", url) == "FATAL: *** and ***"


def test_a_file_that_is_no_storage_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "notes.db"
    file.write_text("my notes")
    for text, create in ((str(file), True), (str(tmp_path / "none.db"), False), (str(tmp_path), True)):
        with pytest.raises(UserError, match=r"notes\.db|none\.db|cannot use"):
            storage.open_storage(storage.address(text, ""), create=create)
    assert file.read_text() == "my notes"
    assert not (tmp_path / "none.db").exists()


def _work(folder, url, content, seed):
    """One of several processes on a study."""
    rng, seen = random.Random(seed), []
    trials = sweeps.opened(folder, sweeps.planned(folder, content), url=url)
    while (job := trials.claim([])) is not None:
        seen.append(job.number)
        for epoch in range(1, rng.randint(2, 4)):
            trials.report(job, epoch, 0.5)
        assert trials.finish(job, {"val_acc": 0.5, "val_loss": 1.0, "epochs": 3, "stopped_by": "max_epochs"})
    (folder / f"{seed}.json").write_text(json.dumps(seen))


def assert_no_double(folder, url="", *, processes=4, trials=24):
    """Several processes on one storage: each trial is handed out once, and all of them are."""
    content = sweeps.sweep(run_cap=trials, hyperband=False)
    spawn = multiprocessing.get_context("spawn")
    started = [spawn.Process(target=_work, args=(folder, url, content, n)) for n in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    seen = [number for n in range(processes) for number in json.loads((folder / f"{n}.json").read_text())]
    assert sorted(seen) == list(range(trials))
    facts = sweeps.told(folder, url=url)
    assert {state for _, state, *_ in facts} == {"COMPLETE"}
    assert len(facts) == trials


@pytest.mark.slow
def test_four_processes_on_one_sqlite_file_never_take_the_same_trial(tmp_path):
    assert_no_double(tmp_path)


def test_a_trial_whose_holder_is_gone_is_resumed_under_its_number_and_no_other(tmp_path):
    found = sweeps.planned(tmp_path)
    gone = sweeps.opened(tmp_path, found, me=sweeps.somebody())
    lives = sweeps.opened(tmp_path, found, me=sweeps.somebody(alive=True))
    first, second = gone.claim([]), lives.claim([])
    assert (first.number, second.number) == (0, 0)
    assert second.resumed
    assert second.config == first.config
    third = sweeps.opened(tmp_path, found).claim([])
    assert third.number == 1  # as trial 0's holder is alive now
    assert not gone.beat(first)
    assert lives.beat(second)
    assert not gone.finish(first, {"val_acc": 0.5, "val_loss": 1.0, "epochs": 1, "stopped_by": "max_epochs"})


def test_a_holder_on_another_machine_is_dead_once_it_has_been_silent(tmp_path, monkeypatch):
    found = sweeps.planned(tmp_path, sweeps.sweep(run_cap=1))
    other = sweeps.opened(tmp_path, found, me=sweeps.somebody(elsewhere=True))
    mine = sweeps.opened(tmp_path, found)
    clock = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    mine.watch.clock = heartbeat.Awake()
    job = other.claim([])
    for beat in range(4):  # it lives as long as its beat changes, whatever the time between two looks
        assert mine.claim([]) is None
        clock[0] += 3600
        monkeypatch.setattr(heartbeat.time, "time", lambda beat=beat: beat)
        assert other.beat(job)
    looks = 0
    while mine.claim([]) is None:
        clock[0] += 5
        looks += 1
    assert 60 < looks * 5 < 75


def test_a_released_trial_is_free_at_once(tmp_path):
    found = sweeps.planned(tmp_path)
    mine = sweeps.opened(tmp_path, found)
    job = mine.claim([])
    mine.give_back(job)
    assert sweeps.opened(tmp_path, found).claim([]).number == job.number


def test_a_run_that_finished_unrecorded_is_recorded_and_not_run_again(tmp_path):
    found = sweeps.planned(tmp_path)
    gone = sweeps.opened(tmp_path, found, me=sweeps.somebody())
    job = gone.claim([])

    def die():
        if (job.folder / "metrics.json").exists():
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sweeps.pretend(gone, job, before=die)
    trials = sweeps.opened(tmp_path, found)
    again = trials.claim([])
    assert again.number == job.number
    assert again.metrics["stopped_by"] == "max_epochs"
    assert trials.finish(again, again.metrics)
    assert trials.all()[0].state.name == "COMPLETE"


def test_a_crash_is_counted_and_the_second_is_the_last(tmp_path):
    found = sweeps.planned(tmp_path)
    trials = sweeps.opened(tmp_path, found)
    job = trials.claim([])
    assert trials.crashed(job, "the worker was killed by SIGKILL")
    again = sweeps.opened(tmp_path, found, me=sweeps.somebody())
    trials.give_back(job)
    assert again.claim([]).tries == 1  # another process knows of it
    taken = sweeps.opened(tmp_path, found)
    job = taken.claim([])
    assert not taken.crashed(job, "the worker was killed by SIGSEGV")
    trial = taken.all()[0]
    assert trial.state.name == "FAIL"
    assert "SIGSEGV" in trial.user_attrs["failure"]
    assert taken.claim([]).number == 1


def test_a_value_out_of_range_fails_its_trial_with_a_reason_and_nothing_else(tmp_path):
    content = sweeps.sweep(
        method="random", run_cap=12, hyperband=False, dropout={"distribution": "normal", "mu": 0.9, "sigma": 0.2}
    )
    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, content))
    while (job := trials.claim([])) is not None:
        if job.failure:
            assert trials.fail(job, job.failure)
        else:
            sweeps.pretend(trials, job)
    states = [trial.state.name for trial in trials.all()]
    assert len(states) == 12
    assert {"FAIL", "COMPLETE"} == set(states)
    assert all("dropout" in t.user_attrs["failure"] for t in trials.all() if t.state.name == "FAIL")


def _to_the_end(folder, found, *, rng=None):
    """Does a search that trains nothing; with `rng`, its process dies again and again. Returns how often."""
    deaths = 0
    while True:
        trials = sweeps.opened(folder, found, me=sweeps.somebody() if rng else None)

        def die():
            if rng is not None and rng.random() < 0.08:
                raise InterruptedError

        try:
            while (job := trials.claim([])) is not None:
                die()
                if job.metrics is not None:
                    assert trials.finish(job, job.metrics)
                else:
                    sweeps.pretend(trials, job, before=die)
            return deaths
        except InterruptedError:
            deaths += 1
        finally:
            trials.storage.close()


@pytest.mark.slow
def test_a_search_whose_process_dies_again_and_again_ends_as_if_it_had_not(tmp_path):
    content = sweeps.sweep(run_cap=14)
    _to_the_end(tmp_path / "calm", sweeps.planned(tmp_path / "calm", content))
    deaths = _to_the_end(tmp_path / "rough", sweeps.planned(tmp_path / "rough", content), rng=random.Random(3))
    assert deaths >= 5
    calm, rough = sweeps.told(tmp_path / "calm"), sweeps.told(tmp_path / "rough")
    assert rough == calm
    assert {"COMPLETE", "PRUNED"} == {state for _, state, *_ in calm}


def test_a_larger_run_cap_goes_on_with_the_study(tmp_path):
    for cap in (3, 5):
        _to_the_end(tmp_path, sweeps.planned(tmp_path, sweeps.sweep(run_cap=cap)))
        assert len(sweeps.told(tmp_path)) == cap


def test_what_hyperband_stopped_is_pruned_counts_for_tpe_and_shows_in_the_status(tmp_path):
    found = sweeps.planned(tmp_path, sweeps.sweep(run_cap=10))
    _to_the_end(tmp_path, found)
    trials = sweeps.opened(tmp_path, found)
    pruned = [trial for trial in trials.all() if trial.state.name == "PRUNED"]
    assert pruned
    assert all(trial.value == trial.user_attrs["val_acc"] for trial in pruned)
    assert all(len(trial.intermediate_values) == trial.user_attrs["epochs"] in (2, 4) for trial in pruned)
    saved = sum(6 - len(trial.intermediate_values) for trial in pruned)
    assert status.epochs_saved(trials.all()) == saved
    text = "\n".join(status.report(trials.storage.trials))
    assert f"hyperband stopped {len(pruned)} trials and saved {saved} epochs" in text
    best = status.best(trials.all(), maximize=True)
    assert best.value == max(trial.value for trial in trials.all())
    assert f"best: trial {best.number}, val_acc {best.value:.4f}" in text
    rows = [line for line in text.splitlines() if line[:1].isdigit()]
    assert [line.split()[0] for line in rows] == [str(n) for n in range(10)]
    assert "model_name" not in text  # all have the same


def test_results_are_those_that_a_next_phase_takes(tmp_path):
    found = sweeps.planned(tmp_path)
    _to_the_end(tmp_path, found)
    results = trialstore.results(sweeps.opened(tmp_path, found).all())
    assert len(results) == 6
    content, _ = phases.next_phase(found.content, results, 2)
    top = best_first(results)[0]
    assert content["parameters"]["candidate"]["values"][0]["lr"] == top.config["lr"]
    again = load(_written(tmp_path, content)).content
    assert sweeps.planned(tmp_path, again).name == sweeps.planned(tmp_path, content).name  # YAML changes no number


def _written(folder, content):
    path = folder / "next.yaml"
    path.write_text(dump(content, ["next"]))
    return path


def test_a_status_of_nothing_says_so(tmp_path):
    opened = storage.open_storage(storage.address("", str(tmp_path)))
    with pytest.raises(UserError, match="no search"):
        status.report(opened.trials)


def test_what_all_trials_share_is_known_before_them(tmp_path):
    found = plan.shared(sweeps.planned(tmp_path))
    assert found == {
        "models": [],
        "weights_dir": "",
        "data": "phantom:48",
        "slices": ["all"],
        "forms": [(32, "body", "stretch", "as_is", "auto")],
    }
    varied = sweeps.planned(tmp_path, sweeps.sweep(image_size={"values": [32, 64]}))
    assert [size for size, *_ in plan.shared(varied)["forms"]] == [32, 64]
    drawn = sweeps.planned(tmp_path, sweeps.sweep(image_size={"min": 32, "max": 64}))
    assert plan.shared(drawn)["forms"] == []


def test_the_models_whose_weights_are_needed():
    assert plan.models_of(sweeps.sweep()) == []
    content = sweeps.sweep(pretrained=True, model_name={"values": ["resnet18", "mobilenet_v2"]})
    assert plan.models_of(content) == ["resnet18", "mobilenet_v2"]
    content = sweeps.sweep(pretrained=True, model_name={"values": ["resnet18", "small_cnn"]})  # without such weights
    assert plan.models_of(content) == ["resnet18"]
    assert plan.models_of({"parameters": {"lr": {"value": 1}}}) == ["efficientnet_b0"]
    candidate = {"values": [{"model_name": "resnet34", "lr": 0.1}]}
    assert plan.models_of({"parameters": {"candidate": candidate}}) == ["resnet34"]


def test_the_trial_study_in_the_file_is_optunas_own(tmp_path):
    """What optuna-dashboard reads: direction, params with distributions, states, intermediate values, our facts."""
    found = sweeps.planned(tmp_path)
    _to_the_end(tmp_path, found)
    study = optuna.load_study(study_name=found.name, storage=f"sqlite:///{tmp_path}/study.db")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert set(study.best_trial.params) == {"lr", "dropout"}
    assert study.best_trial.distributions["lr"].log
    assert study.best_trial.user_attrs["config"]["max_epochs"] == 6
    assert study.best_trial.user_attrs["folder"] == str(tmp_path / f"{found.name}-{study.best_trial.number:03d}")
    assert study.user_attrs["sweep"] == found.content


@pytest.mark.slow
def test_the_command_runs_goes_on_and_says_when_all_is_done(tmp_path):
    command = sweeps.Command(tmp_path)
    content = sweeps.sweep(method="grid", lr={"values": [0.01, 0.02]}, dropout=0.2, hyperband=False, max_epochs=2)
    del content["run_cap"]
    command.write(content)
    first = command("sweep", "run", "sweep.yaml")
    assert "trials" in first.stderr
    model = tmp_path / first.stdout.splitlines()[-1]
    assert model.name == "model.keras"
    assert model.exists()
    folder = model.parent
    assert {"config.json", "history.csv", "metrics.json", "contract.json", "log.txt"} <= {
        p.name for p in folder.iterdir()
    }
    assert "epoch   2/2" in (folder / "log.txt").read_text()
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert [row["lr"] for row in (read_json(p) for p in sorted(tmp_path.glob("runs/*/config.json")))] == [
        0.01,
        0.02,
    ]
    again = command("sweep", "run", "sweep.yaml")
    assert "has finished" in again.stdout
    assert again.stdout == first.stdout
    shown = command("sweep", "status", "runs/study.db").stdout
    assert "2 of 2 trials ended" in shown
    refused = command("sweep", "run", "sweep.yaml", "--lr", "-1", code=2)
    assert "lr must be" in refused.stderr


def test_a_clock_that_counts_only_time_awake(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    awake = heartbeat.Awake()
    clock[0] = 4
    assert awake() == 4
    clock[0] = 5000  # the process was stopped for an hour
    assert awake() == 4 + heartbeat.LOOK_SECONDS


def test_a_process_is_known_by_its_start_and_a_killed_one_is_gone(monkeypatch):
    me = heartbeat.Owner.me()
    assert me.pid == os.getpid()
    assert int(me.start) > 0
    assert len({me.token, heartbeat.Owner.me().token}) == 2
    assert heartbeat._lives(me.pid, me.start)
    assert not heartbeat._lives(me.pid, str(int(me.start) + 1))
    assert heartbeat._lives(me.pid, "")  # a start that could not be read: any process with this pid
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    start = heartbeat._started(child.pid)
    assert heartbeat._lives(child.pid, start)
    child.kill()
    deadline = time.monotonic() + 30
    while heartbeat._lives(child.pid, start) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert heartbeat._started(child.pid) == ""  # though its parent has not collected it yet
    child.wait()
    assert not heartbeat._lives(child.pid, "")
    assert heartbeat._space() == me.space
    monkeypatch.setattr(heartbeat.os, "readlink", _refused)  # not Linux
    assert heartbeat._space() == socket.gethostname()


def _refused(*_):
    raise OSError


def test_a_heartbeat_is_first_seen_and_then_missed(monkeypatch):
    clock = [0.0]
    watch = heartbeat.Watch(heartbeat.Owner.me())
    watch.clock = lambda: clock[0]
    other = dataclasses.replace(heartbeat.Owner.me(), space="other").to_dict()

    def gone(seconds, beat, **changed):
        clock[0] = seconds
        return watch.gone(other | changed, trial=0, beat=beat)

    assert not gone(1000, 1)
    assert not gone(1060, 1)
    assert gone(1060.1, 1)
    assert not gone(1061, 2)  # a new heartbeat
    assert not gone(1121, 2)
    assert not gone(1122, 2, token="new")  # a new holder with the same heartbeat
    assert not gone(1182, 2, token="new")
    assert gone(1182.1, 2, token="new")
    assert not watch.gone(other, trial=1, beat=1)  # another trial


def test_the_epochs_after_which_hyperband_may_stop_a_trial(tmp_path):
    def asks(**stopper):
        content = sweeps.sweep(max_epochs=9)
        content["early_terminate"] = {"type": "hyperband", "min_iter": 2, "eta": 2, **stopper}
        trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, content))
        return trials.asks(trials.claim([]))

    assert asks() == [2, 4, 8]
    assert asks(strict=True) == [2, 3, 4, 5, 6, 7, 8]
    assert asks(min_iter=20) == asks(min_iter=20, strict=True) == []
    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, sweeps.sweep(hyperband=False)))
    assert trials.asks(trials.claim([])) == []


def test_a_run_without_a_finite_metric_has_failed_and_one_that_lacks_it_takes_its_last_epoch(tmp_path):
    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, sweeps.sweep(run_cap=3, hyperband=False)))
    metrics = {"val_loss": 1.0, "epochs": 2, "best_epoch": 1, "stopped_by": "max_epochs"}
    job = trials.claim([])
    assert trials.finish(job, metrics)
    assert trials.all()[0].state.name == "FAIL"
    assert trials.all()[0].user_attrs["failure"] == "val_acc is nan"
    job = trials.claim([])
    job.folder.mkdir(parents=True)
    write_history(job.folder, [sweeps.row(job, 1), sweeps.row(job, 2)])
    assert trials.finish(job, metrics)
    assert trials.all()[1].value == sweeps.row(job, 2)["val_acc"]
    assert trials.all()[1].intermediate_values == {n: sweeps.row(job, n)["val_acc"] for n in (1, 2)}
    assert not trials.finish(job, metrics | {"val_acc": 0.1})  # recorded already
    assert not trials.fail(job, "no")
    trials.report(job, 3, 0.5)  # changes nothing, and raises nothing
    assert len(trials.all()[1].intermediate_values) == 2


def test_a_storage_that_does_not_answer_is_waited_for_but_not_for_ever(tmp_path, monkeypatch, capsys):
    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path))
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    answers, get = [100.0], trials.storage.trials.get_all_trials

    def get_all_trials(*args, **options):
        if clock[0] < answers[0]:
            raise optuna.exceptions.StorageInternalError("the server is restarting")
        return get(*args, **options)

    monkeypatch.setattr(trials.storage.trials, "get_all_trials", get_all_trials)
    assert trials.all() == []
    assert clock[0] == 100
    said = capsys.readouterr().err
    assert said.count("does not answer (the server is restarting); trying again …") == 1
    assert said.count("answers again.") == 1
    answers[0] = 1e9
    with pytest.raises(UserError, match=r"cannot use the storage .*restarting"):
        trials.all()
    assert clock[0] == pytest.approx(100 + 305)
    trials.hurry = lambda: True  # somebody wants to stop
    with pytest.raises(UserError):
        trials.all()
    assert clock[0] == pytest.approx(100 + 305)


def test_signals_request_a_stop_and_the_second_ctrl_c_ends_at_once():
    stop, before = Stop(), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with local._on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "sigterm"
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat it
        with pytest.raises(local._AtOnce):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("at_once", "reason"), [(False, ""), (True, "sigint")])
def test_a_search_returns_its_trials_and_closes_its_storage(tmp_path, monkeypatch, at_once, reason):
    closed = []
    monkeypatch.setattr(storage.Storage, "close", lambda self: closed.append(True))

    class Pretended:
        def __init__(self, trials, pool, *, stop, shared, budget):
            self.progress = types.SimpleNamespace(close=lambda: closed.append("line"))
            self.trials, self.stop = trials, stop
            assert (pool, shared["forms"][0][0]) == ("pool", 32)

        def run(self):
            sweeps.pretend(self.trials, self.trials.claim([]))
            if at_once:
                self.stop.ask("sigint")
                raise local._AtOnce

    monkeypatch.setattr(local, "Supervisor", Pretended)
    outcome = local.run(sweeps.planned(tmp_path), url=storage.address("", str(tmp_path)), pool="pool")
    assert (len(outcome.trials), outcome.stopped_by) == (0 if at_once else 1, reason)
    assert closed == ["line", True]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("", "sqlite:///runs/study.db"),
        ("a/b.db", "sqlite:///a/b.db"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("postgres://me:pw@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me@host:1/db?password=pw", "postgresql://me@host:1/db?password=***"),
    ],
)
def test_addresses_and_how_they_are_shown(given, shown):
    url = storage.address(given, "runs")
    assert storage.shown(url) == shown
    assert url.drivername == ("sqlite" if shown.startswith("sqlite") else "postgresql+psycopg")


def test_a_text_with_several_passwords_shows_none():
    text = "a postgresql://me:one@h/d b postgres://u:two@h/d?PassWord=three&x=1 c"
    assert storage.masked(text) == "a postgresql://me:***@h/d b postgres://u:***@h/d?PassWord=***&x=1 c"


def test_a_lock_keeps_others_out(tmp_path):
    opened = storage.open_storage(storage.address("", str(tmp_path)))
    with opened.lock("any"), pytest.raises(BlockingIOError):
        _try_lock(opened.file)
    _try_lock(opened.file)


def _try_lock(file):
    import fcntl

    with open(file.with_name(f".{file.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_owner_is_told_from_a_later_process_of_the_same_number():
    me = heartbeat.Owner.me()
    watch = heartbeat.Watch(me)
    assert not watch.gone(me.to_dict(), trial=0, beat=None)
    assert watch.gone(dataclasses.replace(me, start="1").to_dict(), trial=0, beat=None)
    assert watch.gone(None, trial=0, beat=None)


@pytest.mark.integration
def test_four_processes_on_postgresql_never_take_the_same_trial(tmp_path, postgres):
    address, *_ = postgres
    url = storage.address(address, "").render_as_string(hide_password=False)
    content = sweeps.sweep(run_cap=24, hyperband=False)
    assert_no_double(tmp_path, url)
    opened = storage.open_storage(storage.address(address, ""), create=False)
    text = "\n".join(status.report(opened.trials, study=sweeps.planned(tmp_path, content).name))
    assert "24 of 24 trials ended" in text


@pytest.mark.integration
def test_a_search_waits_for_postgresql_while_it_restarts(tmp_path, postgres, monkeypatch, capfd):
    address, stop, start = postgres
    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path, lr=0.02), url=address)
    job = trials.claim([])
    monkeypatch.setattr(trialstore, "PAUSE_SECONDS", 0.2)
    stop()
    restart = threading.Timer(2, start)
    restart.start()
    trials.report(job, 1, 0.5)
    restart.join()
    sweeps.pretend(trials, job)
    assert trials.all()[0].state.name == "COMPLETE"
    said = "".join(capfd.readouterr())
    assert said.count("does not answer") == 1
    assert "answers again" in said
    assert "cret" not in said


@pytest.mark.integration
@pytest.mark.parametrize("end", ["terminated", "restarted"])
def test_a_storage_opens_although_postgresql_drops_its_connection(postgres, monkeypatch, capfd, end):
    """The opener waits for the lock on the tables, which another connection holds, when the server ends both."""
    import sqlalchemy

    address, stop, start = postgres
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.5)
    url = storage.address(address, "")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%pg_advisory_lock%'"
    opened = []
    opener = threading.Thread(target=lambda: opened.append(storage.open_storage(url)))
    gone = contextlib.suppress(sqlalchemy.exc.OperationalError)  # the connections of the test, when the server restarts
    with gone, engine.connect() as other, storage._advisory_lock(engine, "tables"):
        opener.start()
        until = time.monotonic() + 60
        while not (pids := other.execute(sqlalchemy.text(waiting)).scalars().all()):
            assert time.monotonic() < until
            time.sleep(0.05)
        if end == "terminated":
            other.execute(sqlalchemy.text("SELECT pg_terminate_backend(:pid)"), {"pid": pids[0]})
        else:
            stop()
            start()
    engine.dispose()
    opener.join(60)
    assert opened[0].trials.get_all_studies() is not None
    opened[0].close()
    said = "".join(capfd.readouterr())
    assert said.count("dropped the connection") == 1
    assert "cret" not in said


@pytest.mark.integration
def test_the_command_on_postgresql_shows_its_password_to_nobody(tmp_path, postgres):
    address, *_ = postgres
    command = sweeps.Command(tmp_path, CTKERAS_STORAGE=address)
    content = sweeps.sweep(method="grid", lr={"values": [0.01, 0.02]}, dropout=0.2, hyperband=False, max_epochs=2)
    command.write(content)
    seen = []
    process = command.start("sweep", "run", "sweep.yaml", "--workers", "2")
    while process.poll() is None:
        shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        seen += [line for line in shown.splitlines() if "cret" in line and "pytest" not in line]
        time.sleep(0.2)
    assert process.returncode == 0
    assert seen == []
    log = (tmp_path / "log").read_text()
    assert "postgresql://me:***@" in log
    for text in (log, process.stdout.read(), command("sweep", "status", address).stdout):
        assert "cret" not in text
    wrong = address.replace("s%40cret", "other%40cret")
    for more in ((), ("--debug",)):
        refused = command("sweep", "run", "sweep.yaml", "--storage", wrong, *more, code=2)
        assert "cannot use" in refused.stderr
        assert "cret" not in refused.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"cret" not in path.read_bytes(), path


@pytest.fixture
def wandb_server():
    from wandb_server import WandbServer

    with WandbServer(seed=0) as running:
        yield running
        assert running.unknown == []


def _offline(env):
    """An environment with the server's account, in which W&B's mode is left to us."""
    return {name: value for name, value in env.items() if name not in ("WANDB_MODE", "WANDB_DIR")}


def _synced(command, server, *, runs):
    """The server's runs after `wandb sync` of all that was kept offline."""
    assert server.runs == {}
    folders = sorted(str(path) for path in command.folder.glob("runs/*/wandb/offline-run-*"))
    assert len(folders) == runs  # one a run, however often it was begun
    wandb = pathlib.Path(sys.executable).with_name("wandb")
    subprocess.run([wandb, "sync", *folders], cwd=command.folder, env=command.env, check=True, capture_output=True)
    return server.runs


def _facts(run):
    """What a run at W&B says of its trial: hyperparameters, names logged every epoch, numbers in the summary."""
    config = {name: run.config.get(name) for name in FIELDS if name not in PLACES}
    logged = [tuple(sorted(name for name in row if not name.startswith("_"))) for row in run.history]
    summary = sorted(name for name, value in run.summary.items() if isinstance(value, int | float) and name[0] != "_")
    return json.dumps(config, sort_keys=True), logged, summary, run.exitcode


@pytest.mark.integration
def test_smoke_under_both_engines_gives_the_same_trials_and_the_same_names(tmp_path):
    from wandb_server import WandbServer

    smoke = pathlib.Path(__file__).parent.parent.parent / "sweep_yaml" / "smoke.yaml"
    found = []
    for engine in ("local", "wandb"):
        (tmp_path / engine).mkdir()
        with WandbServer(seed=0) as server:
            env = server.env(tmp_path / engine)
            command = sweeps.Command(tmp_path / engine, **(_offline(env) if engine == "local" else env))
            if engine == "local":
                command("sweep", "run", str(smoke))
                runs = _synced(command, server, runs=4)
                name = next(iter(runs)).rpartition("-")[0]
                assert {(run.group, run.job_type) for run in runs.values()} == {(name, "smoke")}
            else:
                path = command("sweep", "create", str(smoke), "--project", "ctkeras").stdout.split()[-1]
                command("sweep", "agent", path)
                runs = server.runs
            assert server.unknown == []
            found.append(sorted((_facts(run) for run in runs.values()), key=str))
    assert found[0] == found[1]
    assert len(found[0]) == 4
    assert {names for _, logged, *_ in found[0] for names in logged} == {tuple(sorted(EPOCH_METRICS))}


@pytest.mark.integration
def test_a_run_that_was_killed_and_gone_on_with_syncs_whole(tmp_path, wandb_server):
    command = sweeps.Command(tmp_path, **_offline(wandb_server.env(tmp_path)))
    content = sweeps.sweep(method="grid", lr={"values": [0.01, 0.02]}, dropout=0.2, hyperband=False, max_epochs=150)
    command.write(content)
    process = command.start("sweep", "run", "sweep.yaml")
    while len(list(tmp_path.glob("runs/*/checkpoint.npz"))) < 1:
        time.sleep(0.1)
    time.sleep(1)
    process.kill()
    process.wait()
    command("sweep", "run", "sweep.yaml")
    runs = _synced(command, wandb_server, runs=2)
    for run in runs.values():
        assert [row["epoch"] for row in run.history] == list(range(1, 151))
        assert (run.state, run.exitcode) == ("finished", 0)


def test_a_new_study_takes_nothing_from_run_folders_of_a_deleted_one(tmp_path):
    found = sweeps.planned(tmp_path)
    _to_the_end(tmp_path, found)
    (tmp_path / "study.db").unlink()
    gone = sweeps.opened(tmp_path, found, me=sweeps.somebody())
    assert gone.claim([]).metrics is None
    again = sweeps.opened(tmp_path, found).claim([])
    assert again.resumed
    assert again.metrics is None


def test_trials_that_others_made_with_optuna_are_left_alone(tmp_path):
    found = sweeps.planned(tmp_path)
    trials = sweeps.opened(tmp_path, found)
    optuna.load_study(study_name=found.name, storage=f"sqlite:///{tmp_path}/study.db").ask()
    assert trials.claim([]).number == 1
    assert "2" in "\n".join(status.report(trials.storage.trials))
