"""Sweeps with the real wandb client against a local server: runs, stops, refusals, faults, artifacts, phases."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from wandb_server import WandbServer

from ctkeras import config

pytestmark = pytest.mark.integration
WANDB = pathlib.Path(sys.executable).with_name("wandb")
NAMES = set(config.EPOCH_METRICS)
TINY = {"model_name": "mobilenet_v2", "pretrained": False, "data": "phantom:48", "image_size": 32, "batch_size": 8}
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
    """A finished run: one row an epoch under the declared names, and its numbers in the summary."""
    assert (run.state, run.exitcode) == ("finished", 0)
    assert [row["epoch"] for row in run.history] == list(range(1, epochs + 1))
    for row in run.history:
        assert {name for name in row if not name.startswith("_")} == NAMES
    assert run.summary["val_acc"] == max(row["val_acc"] for row in run.history)
    assert isinstance(run.config["lr"], float | int)


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
