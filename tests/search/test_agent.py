"""Runs of a sweep: quickly with a pretended W&B, and with the real wandb client against a local server."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
import yaml
from wandb_server import WandbServer

from ctkeras.config import EPOCH_METRICS, RunConfig
from ctkeras.errors import UserError
from ctkeras.runs.checkpoint import CHECKPOINT, Checkpoint, save_checkpoint
from ctkeras.runs.folder import read_json, write_json
from ctkeras.runs.result import Result
from ctkeras.search import agent as agent_module
from ctkeras.search import worker
from ctkeras.search.agent import in_sweep, stoppable
from ctkeras.search.agent import run_trial as agent_run_trial
from ctkeras.study import engines
from ctkeras.tracking.run import Tracker
from ctkeras.training.stopping import Stop
from ctkeras.training.train import TrainingFailed

WANDB = pathlib.Path(sys.executable).with_name("wandb")
NAMES = set(EPOCH_METRICS)
TINY = {"model_name": "mobilenet_v2", "pretrained": False, "data": "phantom:48", "image_size": 32, "batch_size": 8}
TINY |= {"optimizer": "adamw"}
COMMAND = ["${env}", "python", "-m", "ctkeras", "train"]


@pytest.fixture
def server():
    with WandbServer(seed=0) as running:
        yield running
        assert running.unknown == []


@pytest.fixture
def shell(server, tmp_path):
    """Runs a command as a user would, in a folder of its own, against the local server."""
    env = server.env(tmp_path) | {"CTKERAS_CACHE_DIR": os.environ["CTKERAS_CACHE_DIR"], "KERAS_BACKEND": "jax"}

    def run(*words, check=True, **more):
        command = [sys.executable, "-m", "ctkeras", *words] if words[0] != "wandb" else [WANDB, *words[1:]]
        done = subprocess.run(
            command, cwd=tmp_path, env=env | more, capture_output=True, text=True, timeout=400, check=False
        )
        assert not check or done.returncode == 0, done.stdout[-1500:] + done.stderr[-2500:]
        return done

    run.env, run.folder = env, tmp_path
    return run


def create(shell, parameters, **more):
    """Registers a sweep over TINY runs; returns its path."""
    fixed = {name: {"value": value} for name, value in TINY.items() if name not in parameters}
    sweep = {"method": "grid", "metric": {"name": "val_acc", "goal": "maximize"}, "command": COMMAND, **more}
    sweep["parameters"] = fixed | {"max_epochs": {"value": 3}} | parameters
    (shell.folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return shell("sweep", "create", "sweep.yaml", "--project", "ctkeras").stdout.split()[-1]


def assert_whole(run, *, epochs):
    """A finished run: one row per epoch under the declared names, and its numbers in the summary."""
    assert (run.state, run.exitcode) == ("finished", 0)
    assert [row["epoch"] for row in run.history] == list(range(1, epochs + 1))
    for row in run.history:
        assert {name for name in row if not name.startswith("_")} == NAMES
    assert run.summary["val_acc"] == max(row["val_acc"] for row in run.history)
    assert isinstance(run.config["lr"], float | int)


@pytest.mark.integration
def test_a_grid_under_the_real_agent_to_its_end(server, shell):
    """Two runs in processes of their own; candidates arrive as plain values, an explicit key wins."""
    candidates = [{"lr": 0.01, "dropout": 0.4}, {"lr": 0.02, "dropout": 0.2}]
    path = create(shell, {"candidate": {"values": candidates}, "lr": {"value": 0.005}}, command=[*COMMAND, "${args}"])
    shell("wandb", "agent", path)
    assert len(server.runs) == 2
    for run in server.runs.values():
        assert_whole(run, epochs=3)
        assert run.config["lr"] == 0.005
    assert {run.config["dropout"] for run in server.runs.values()} == {0.2, 0.4}


@pytest.mark.integration
def test_an_agent_that_meets_four_errors_when_it_registers_goes_on(server, shell):
    path = create(shell, {"lr": {"values": [0.005]}}, command=[*COMMAND, "${args}"])
    server.fail_next(4, path_contains="mutation CreateAgent")
    shell("sweep", "agent", path)
    assert server.faults_left == 0
    (run,) = server.runs.values()
    assert_whole(run, epochs=3)


@pytest.mark.integration
def test_a_warm_process_does_a_bayes_sweep_survives_bad_values_and_hands_on(server, shell):
    """bayes with run_cap in one process; phase 2, phase 3 and the best model follow from it."""
    path = create(
        shell,
        {"lr": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-2}, "dropout": {"values": [0.2, 0.3]}},
        method="bayes",
        run_cap=3,
    )
    shell("sweep", "agent", path)
    assert len(server.runs) == 3
    for run in server.runs.values():
        assert_whole(run, epochs=3)
    later = [run.summary["seconds_total"] for run in list(server.runs.values())[1:]]
    assert max(later) < 10
    shell("sweep", "next", path, "--phase", "2", "--out", "two.yaml")
    two = yaml.safe_load((shell.folder / "two.yaml").read_text())
    two |= {"run_cap": 2}
    (shell.folder / "two.yaml").write_text(yaml.safe_dump(two))
    path2 = shell("sweep", "create", "two.yaml", "--project", "ctkeras").stdout.split()[-1]
    shell("sweep", "agent", path2)
    shell("sweep", "next", path2, "--phase", "3", "--out", "three.yaml")
    three = yaml.safe_load((shell.folder / "three.yaml").read_text())
    assert three["parameters"]["seed"]["values"] == [0, 1, 2, 3, 4]
    shell("sweep", "check", "three.yaml")
    model = shell("sweep", "best", path2, "--download").stdout.split()[-1]
    best = max((r for r in server.runs.values() if r.sweep in path2), key=lambda r: r.summary["val_acc"])
    names = json.loads((shell.folder / model).with_name("contract.json").read_text())["class_names"]
    assert len(names) == 4
    assert best.summary["val_acc"] >= 0


@pytest.mark.integration
def test_a_refused_value_ends_its_run_and_not_the_agent(server, shell):
    (shell.folder / "sweep.yaml").write_text("unused")
    path = create(shell, {"seed": {"values": [1, 2]}, "max_epochs": {"value": 1}})
    sweep = server.sweeps[path.split("/")[-1]]
    sweep.config["parameters"]["dropout"] = {"value": 1.5}  # past our check, as a plain `wandb sweep` would let it
    shell("wandb", "agent", path)
    assert len(server.runs) == 2
    for run in server.runs.values():
        assert run.exitcode == 2
        assert "dropout" in run.summary["failure"]
        assert run.history == []


@pytest.mark.integration
def test_a_stopped_run_finishes_with_exit_code_0_and_its_model(server, shell):
    """W&B's stop, through the real agent: SIGTERM to the process."""
    path = create(shell, {"max_epochs": {"value": 4000}, "seed": {"values": [1]}})

    def stop():
        while True:
            for name, run in server.runs.items():
                if len(run.history) >= 2:
                    server.stop_run(name)
                    return
            time.sleep(0.5)

    threading.Thread(target=stop, daemon=True).start()
    shell("wandb", "agent", path)
    (run,) = server.runs.values()
    assert (run.state, run.exitcode) == ("finished", 0)
    assert run.summary["stopped_by"] == "sigterm"
    assert [row["epoch"] for row in run.history] == list(range(1, len(run.history) + 1))
    assert (shell.folder / "runs" / next(iter(server.runs)) / "model.keras").exists()


@pytest.mark.integration
def test_faults_of_the_server_lose_no_row(server, shell):
    path = create(shell, {"seed": {"values": [1]}, "max_epochs": {"value": 40}})

    def spoil():
        while not any(run.history for run in server.runs.values()):
            time.sleep(0.1)
        server.fail_next(2, path_contains="file_stream")
        server.drop_next(1, path_contains="file_stream")

    threading.Thread(target=spoil, daemon=True).start()
    shell("sweep", "agent", path)
    (run,) = server.runs.values()
    assert_whole(run, epochs=40)


@pytest.mark.integration
def test_a_killed_trial_leaves_the_agent_going_and_resumes_when_it_is_run_again(server, shell):
    path = create(shell, {"seed": {"values": [1, 2]}, "max_epochs": {"value": 300}})
    killed = []

    def kill():
        while not killed:
            for name, run in server.runs.items():
                if len(run.history) >= 2:
                    found = subprocess.run(
                        ["pgrep", "-f", f"config-{name}|ctkeras train"], capture_output=True, text=True
                    )
                    pids = [int(pid) for pid in found.stdout.split() if int(pid) != os.getpid()]
                    for pid in pids:
                        if f"WANDB_RUN_ID={name}" in pathlib.Path(f"/proc/{pid}/environ").read_text(errors="ignore"):
                            os.kill(pid, signal.SIGKILL)
                            killed.append(name)
            time.sleep(0.2)

    threading.Thread(target=kill, daemon=True).start()
    shell("wandb", "agent", path)
    assert len(server.runs) == 2
    (other,) = (run for name, run in server.runs.items() if name not in killed)
    assert_whole(other, epochs=300)
    entity, project, sweep_id = path.split("/")
    again = {"WANDB_RUN_ID": killed[0], "WANDB_ENTITY": entity, "WANDB_PROJECT": project, "WANDB_SWEEP_ID": sweep_id}
    params = next(shell.folder.rglob(f"config-{killed[0]}.yaml"))
    shell("train", "--_wandb={'x': 1}", **again, WANDB_SWEEP_PARAM_PATH=str(params))
    assert_whole(server.runs[killed[0]], epochs=300)


class PretendedTracker:
    """W&B's run, with what its sweep has chosen."""

    def __init__(self, chosen):
        self.chosen, self.recorded, self.ended = chosen, None, None

    def config(self):
        return self.chosen

    def set_config(self, values):
        self.recorded = values

    def finish(self, summary, *, exit_code=0):
        self.ended = (summary, exit_code)


@pytest.fixture
def agent(monkeypatch, tmp_path):
    """Runs trial.run_trial with a pretended W&B and a pretended training; returns what both were given."""
    calls = types.SimpleNamespace(trained=[], started=[])
    monkeypatch.setenv("WANDB_RUN_ID", "run-1")

    def run(chosen, flags, *, train=lambda: "result"):
        tracker = PretendedTracker(chosen)

        def start(known, **options):
            calls.started.append((known, options))
            return tracker

        def trained(config, **options):
            calls.trained.append((config, options))
            return train()

        monkeypatch.setattr(agent_module, "start_run", start)
        monkeypatch.setattr(agent_module, "train", trained)
        stop = Stop()
        result = agent_run_trial({"output_dir": str(tmp_path), **flags}, stop=stop, leave="leave")
        return result, tracker, stop

    run.calls, run.folder = calls, tmp_path
    return run


def test_the_sweeps_values_win_over_flags_and_a_candidate_is_taken_apart(agent):
    result, tracker, stop = agent({"candidate": {"lr": 0.02}, "dropout": 0.4}, {"dropout": "0.2", "other": "1"})
    config, options = agent.calls.trained[0]
    assert result == "result"
    assert (config.lr, config.dropout) == (0.02, 0.4)
    assert tracker.recorded == config.to_dict()
    assert tracker.ended is None  # training ends it
    assert options == {"run_id": "run-1", "resume": None, "stop": stop, "tracker": tracker, "leave": "leave"}
    known, started = agent.calls.started[0]
    assert known == {"output_dir": str(agent.folder), "dropout": "0.2"}
    assert started == {"run_id": "run-1", "folder": None, "resume": True}


def test_a_run_with_a_checkpoint_is_resumed(agent):
    (agent.folder / "run-1").mkdir()
    (agent.folder / "run-1" / CHECKPOINT).touch()
    agent({}, {})
    assert agent.calls.trained[0][1]["resume"] == agent.folder / "run-1"


def test_a_value_that_is_refused_fails_its_run_before_it_trains(agent, capsys):
    result, tracker, _ = agent({"dropout": 1.5}, {})
    assert result is None
    assert agent.calls.trained == []
    summary, code = tracker.ended
    assert (summary["stopped_by"], code) == ("refused", 2)
    assert "dropout" in summary["failure"]
    assert "Refused: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [UserError, TrainingFailed])
def test_a_training_that_fails_raises_nothing(agent, capsys, error):
    def fails():
        raise error("the loss is not finite")

    assert agent({}, {}, train=fails)[0] is None
    assert "Failed: the loss is not finite" in capsys.readouterr().err


def test_an_agents_stop_and_a_crash_reach_the_run_and_nobody_else(monkeypatch, capsys):
    begun, seen = threading.Event(), []

    def run_trial(flags, *, stop):
        begun.set()
        seen.append((flags, stop.wait(), stop.reason))
        raise ValueError("what a pity")

    monkeypatch.setattr(agent_module, "run_trial", run_trial)
    join = threading.Thread.join

    def joined(thread, timeout=None):
        begun.wait()
        if not seen and thread.name == "trial" and not raised:
            raised.append(True)
            raise RuntimeError("W&B's agent stops this run")
        join(thread, timeout)

    raised = []
    monkeypatch.setattr(threading.Thread, "join", joined)
    stoppable({"data": "here"})
    assert seen == [({"data": "here"}, True, "sweep")]
    assert "The run crashed: ValueError: what a pity" in capsys.readouterr().err


def test_whether_an_agent_started_this_process(monkeypatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert not in_sweep()
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert in_sweep()


@pytest.mark.parametrize("offline", [True, False])
def test_a_local_trial_reports_earlier_epochs_and_writes_an_offline_run_again(monkeypatch, tmp_path, offline):
    """Only an offline run is logged from its first epoch on; both report what was trained before."""
    old = tmp_path / "trial-0" / "wandb" / "offline-run-1-trial-0"
    other = old.with_name("offline-run-1-trial-1")
    for folder in (old, other):
        folder.mkdir(parents=True)
    save_checkpoint(tmp_path / "trial-0", Checkpoint({}, {}))
    monkeypatch.delenv("WANDB_DIR", raising=False)
    logged, reported, calls = [], [], []
    run = types.SimpleNamespace(offline=offline, log=lambda row, **_: logged.append(row["epoch"]), summary={})

    def start(values, **options):
        calls.append((values, options))
        return types.SimpleNamespace(run=run)

    def train(config, *, tracker, **options):
        calls.append(options)
        tracker.logged = 1
        tracker.catch_up([{"epoch": 1}, {"epoch": 2}])

    monkeypatch.setattr(worker.run, "start_run", start)
    monkeypatch.setattr(Tracker, "__init__", lambda self, run: setattr(self, "run", run))
    monkeypatch.setattr(worker, "train", train)
    chosen = RunConfig.from_mapping({"output_dir": str(tmp_path)})
    given = {"stop": Stop(), "after_epoch": print, "leave": print, "export": True}
    worker.run_local(chosen, run_id="trial-0", group="g", job_type="j", before=reported.extend, **given)
    assert reported == [{"epoch": 1}, {"epoch": 2}]
    assert logged == ([1, 2] if offline else [2])
    assert (old.exists(), other.exists()) == (False, True)
    folder = tmp_path / "trial-0"
    options = {"run_id": "trial-0", "folder": folder, "resume": True, "group": "g", "job_type": "j"}
    assert calls[0] == (chosen.to_dict(), options)
    assert calls[1] == {"run_id": "trial-0", **given, "reuse": True}


def test_a_phase_at_wandb_is_one_sweep_and_is_counted_from_the_run_folders(monkeypatch, tmp_path):
    created, agents = [], []
    results = [Result(name, {"max_epochs": 10, "model_name": "resnet18"}, 0.5, 0.5) for name in ("a", "b", "c")]
    for name, by, epochs in (("a", "early_stopping", 8), ("b", "sigterm", 4), ("c", "sweep", 7)):
        (tmp_path / name).mkdir()
        metrics = {"stopped_by": by, "epochs": epochs, "seconds_total": 2.0}
        write_json(tmp_path / name / "metrics.json", metrics)
    monkeypatch.setattr(engines.sweeps, "create_sweep", lambda *a, **k: created.append((a, k)) or "me/p/1")
    monkeypatch.setattr(engines.sweeps, "agent", lambda path, function, *, count: agents.append((path, count)))
    monkeypatch.setattr(engines.sweeps, "read_sweep", lambda path: ({}, results))
    task = engines.Task(2, {"method": "grid"}, {"data": "d", "lr": "1"}, 0, "study", tmp_path, 0, None)
    for _ in range(2):  # the second time the sweep is there already
        phase = engines.wandb(task, project="p", entity="me")
        assert (phase.number, phase.sweep, phase.results, phase.failed) == (2, "me/p/1", results, 0)
        assert (phase.stopped, phase.epochs_saved, phase.seconds) == (2, 9, 6.0)
    assert created == [(({"method": "grid"},), {"project": "p", "entity": "me"})]
    assert agents == [("me/p/1", None)] * 2
    assert read_json(tmp_path / engines.SWEEPS) == {"phase2": "me/p/1"}
    results.clear()
    with pytest.raises(UserError, match="no run of phase 2 succeeded"):
        engines.wandb(task, project="p", entity="me")

    def interrupted(path, function, *, count):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(engines.sweeps, "agent", interrupted)
    assert engines.wandb(task, project="p", entity="me") is None
    assert signal.getsignal(signal.SIGINT) is before
