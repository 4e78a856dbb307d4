"""Shared by tests of the local engine: a tiny sweep, a search that trains nothing, and the command in a process."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import optuna
import yaml

from ctkeras.config import EPOCH_METRICS
from ctkeras.runs.folder import write_json
from ctkeras.runs.history import write_history
from ctkeras.search import heartbeat, plan, storage
from ctkeras.search.trialstore import Trials

CONSTANT = {
    "model_name": "mobilenet_v2",
    "pretrained": False,
    "freeze_backbone": True,
    "data": "phantom:48",
    "image_size": 32,
    "batch_size": 8,
    "max_epochs": 6,
}
VARYING = {
    "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
    "dropout": {"values": [0.2, 0.4]},
}
UNEQUAL = ("epoch_seconds", "memory_bytes")  # in the history of two equal runs
SAME = ("val_acc", "val_loss", "train_acc", "train_loss", "best_epoch", "epochs", "stopped_by", "data_fingerprint")


def sweep(*, method="bayes", run_cap=6, hyperband=True, **parameters):
    """A sweep's content; parameters are specifications, or constant values."""
    named = {name: value if isinstance(value, dict) else {"value": value} for name, value in parameters.items()}
    constant = {name: {"value": value} for name, value in CONSTANT.items()}
    content = {
        "name": "tiny",
        "method": method,
        "metric": {"name": "val_acc", "goal": "maximize"},
        "run_cap": run_cap,
        "command": ["${env}", "python", "-m", "ctkeras", "train"],
        "parameters": constant | VARYING | named,
    }
    return content | ({"early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2}} if hyperband else {})


def planned(folder, content=None, **options):
    return plan.plan(content or sweep(), {"output_dir": str(folder), **options}, title="tiny")


def opened(folder, planned_search, *, url=None, me=None):
    """The trials of a search; with `me`, as that process sees them."""
    trials = Trials(storage.open_storage(storage.address(url or "", str(folder))), planned_search)
    if me is not None:
        trials.me = trials.watch.me = me
    return trials


def somebody(*, alive=False, elsewhere=False):
    """A process that holds a trial."""
    here = heartbeat.Owner.me()
    if elsewhere:
        return dataclasses.replace(here, host="other", space="other")
    if alive:
        return here
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return dataclasses.replace(here, pid=gone.pid, start="1")


def row(job, epoch):
    """An epoch of a run that trains nothing: its numbers depend only on its hyperparameters."""
    quality = 1 - abs(job.config["lr"] - 0.01) - job.config["dropout"] / 10
    names = EPOCH_METRICS
    return dict.fromkeys(names, 0.5) | {"epoch": epoch, "val_acc": round(quality * epoch / (epoch + 1), 6)}


def pretend(trials, job, *, before=lambda: None):
    """Trains nothing, but writes and reports what a run would; `before` is called at each point where a process may die."""
    asks, stopped_by, rows = trials.asks(job), "max_epochs", []
    path = job.folder / "history.csv"
    if path.exists():
        with open(path, newline="") as file:
            rows = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]
        rows = [line | {"epoch": int(line["epoch"])} for line in rows]
        for line in rows:
            trials.report(job, line["epoch"], line["val_acc"])
    while True:
        if rows and rows[-1]["epoch"] in asks and trials.losing(job):
            stopped_by = "hyperband"
        before()
        if stopped_by == "hyperband" or len(rows) == job.config["max_epochs"]:
            break
        rows.append(row(job, len(rows) + 1))
        job.folder.mkdir(parents=True, exist_ok=True)
        write_history(job.folder, rows)
        before()
        trials.report(job, rows[-1]["epoch"], rows[-1]["val_acc"])
    metrics = {"val_acc": rows[-1]["val_acc"], "val_loss": 0.5, "epochs": len(rows), "best_epoch": len(rows)}
    metrics |= {"stopped_by": stopped_by, "seconds_total": 1.0}
    write_json(job.folder / "metrics.json", metrics)
    before()
    assert trials.finish(job, metrics)
    before()


def told(folder, *, url=""):
    """The content of a storage's only study, without times, owners and places."""
    study = optuna.load_study(study_name=None, storage=url or f"sqlite:///{folder}/study.db")
    hidden = ("owner", "places", "beat", "folder", "seconds", "crash", "run")
    facts = []
    for trial in study.get_trials():
        attrs = {key: value for key, value in trial.user_attrs.items() if key not in hidden}
        attrs["config"] = {key: value for key, value in attrs["config"].items() if key != "output_dir"}
        facts.append((trial.number, trial.state.name, trial.value, trial.params, trial.intermediate_values, attrs))
    return facts


def left(folder):
    """The content of the run folders under a folder, without times and what depends on compiling."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*/history.csv")):
        with open(path, newline="") as file:
            rows = [{k: v for k, v in line.items() if k not in UNEQUAL} for line in csv.DictReader(file)]
        metrics = json.loads((path.parent / "metrics.json").read_text())
        predictions = (path.parent / "predictions.csv").read_text()
        found[path.parent.name] = (rows, {name: metrics[name] for name in SAME}, predictions)
    return found


class Command:
    """`python -m ctkeras` in its own folder, with W&B offline."""

    def __init__(self, folder: pathlib.Path, **env: str) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        self.env = kept | {"HOME": str(folder)} | env

    def write(self, content, name="sweep.yaml"):
        (self.folder / name).write_text(yaml.safe_dump(content))

    def start(self, *words, log="log", new_group=False):
        with open(self.folder / log, "a") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "ctkeras", *words],
                cwd=self.folder,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=new_group,
            )

    def __call__(self, *words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "ctkeras", *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done


def epochs_of(folder):
    """The number of epochs that all runs under a folder have written."""
    rows = 0
    for path in pathlib.Path(folder).glob("runs/**/history.csv"):
        with contextlib.suppress(OSError):  # it is being replaced
            rows += len(path.read_text().splitlines()) - 1
    return rows


def kill_again_and_again(command, words, rng, *, epochs, kills=20):
    """Kills a command and its workers at random moments, then lets it finish. Returns how often it was killed.

    Some moments are in its first seconds, the others a random number of epochs later, however busy the machine is.

    Args:
        command: a Command.
        words: its arguments.
        rng: a random.Random that draws the moments.
        epochs: of the whole command.
        kills: at most this many.
    """
    for done in range(kills):
        early = rng.random() < 0.25
        until = epochs_of(command.folder) + (0 if early else rng.randint(1, max(1, epochs // kills - 1)))
        process = command.start(*words)
        while epochs_of(command.folder) < until and process.poll() is None:
            time.sleep(0.005)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(rng.uniform(0, 8 if early else 0.1)) == 0
            return done
        process.kill()
        process.wait()
    command(*words)
    return kills
