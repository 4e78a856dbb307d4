"""One sweep file, unchanged, under each engine: the same trials, with the same hyperparameters and the same names."""

import json
import os
import pathlib
import subprocess

import pytest
import sweeps
from wandb_server import WandbServer

from ctkeras.config import PLACES
from ctkeras.runs.history import read_history

ROOT = pathlib.Path(__file__).parents[2]
GRID = {"lr": {"values": [0.001, 0.01]}, "dropout": {"values": [0.2, 0.4]}}
FIXED = {
    "model_name": "small_cnn",
    "freeze_backbone": False,
    "max_epochs": 2,
    "augmentation": 0.0,
    "data": "phantom:24",
}
# A task of Slurm's array is this command in its step; a cluster of its own is in test_slurm.py.
SRUN = '#!/bin/sh\nexec "$@"\n'


def run_sqlite(command, file, address):
    command("sweep", "run", file)


def run_journal(command, file, address):
    command("sweep", "run", file, "--storage", f"journal:{command.folder}/runs/study.log")


def run_postgresql(command, file, address):
    command("sweep", "run", file, "--storage", address)


def run_slurm(command, file, address):
    """Two tasks of the array at once."""
    (command.folder / "bin").mkdir()
    (command.folder / "bin/srun").write_text(SRUN)
    (command.folder / "bin/srun").chmod(0o755)
    (command.folder / "job.sh").write_text(command("sweep", "slurm", file, "--tasks", "2", "--gpus", "0").stdout)
    env = command.env | {"PATH": f"{command.folder}/bin:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7"}
    tasks = [
        subprocess.Popen(
            ["bash", "job.sh"],
            cwd=command.folder,
            env=env | {"SLURM_ARRAY_TASK_ID": str(number)},
            stdout=subprocess.DEVNULL,
        )
        for number in range(2)
    ]
    assert [task.wait(500) for task in tasks] == [0, 0]


def run_wandb(command, file, address):
    with WandbServer(seed=0) as server:
        command.env |= server.env(command.folder)
        command("sweep", "agent", command("sweep", "create", file, "--project", "ctkeras").stdout.split()[-1])
        assert server.unknown == []


ENGINES = {
    "sqlite": run_sqlite,
    "journal": run_journal,
    "postgresql": run_postgresql,
    "slurm": run_slurm,
    "wandb": run_wandb,
}


@pytest.mark.integration
def test_one_file_has_the_same_trials_under_each_engine(tmp_path, postgres):
    address, *_ = postgres
    (tmp_path / "sweep").mkdir()
    shared = sweeps.Command(tmp_path / "sweep")
    shared.write(sweeps.sweep(method="grid", hyperband=False, run_cap=4, **FIXED, **GRID))
    before = (tmp_path / "sweep/sweep.yaml").read_bytes()
    trials = {}
    for name, run in ENGINES.items():
        (tmp_path / name).mkdir()
        env = {"WANDB_MODE": "disabled"} if name != "wandb" else {}
        cache = str(tmp_path / "cache")  # of all engines: what is shared is built once
        command = sweeps.Command(tmp_path / name, PYTHONPATH=str(ROOT), CTKERAS_CACHE_DIR=cache, **env)
        run(command, str(tmp_path / "sweep/sweep.yaml"), address)
        trials[name] = sorted(facts(path.parent) for path in (tmp_path / name).glob("runs/*/metrics.json"))
    assert (tmp_path / "sweep/sweep.yaml").read_bytes() == before
    assert len(trials["sqlite"]) == 4
    assert {(json.loads(one)["lr"], json.loads(one)["dropout"]) for one, _ in trials["sqlite"]} == {
        (lr, dropout) for lr in (0.001, 0.01) for dropout in (0.2, 0.4)
    }
    for name in ENGINES:
        assert trials[name] == trials["sqlite"], name


def facts(folder):
    """A run's hyperparameters, and its numbers of each epoch without times."""
    config = json.loads((folder / "config.json").read_text())
    values = {name: value for name, value in config.items() if name not in PLACES}
    rows = [{k: v for k, v in row.items() if k not in sweeps.UNEQUAL} for row in read_history(folder)]
    return json.dumps(values, sort_keys=True), json.dumps(rows, sort_keys=True)
