"""W&B's client is called with what sweeps and dashboards read, once per epoch, and not where its settings forbid it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from ctkeras.errors import UserError
from ctkeras.runs import predictions
from ctkeras.tracking import run as run_module
from ctkeras.tracking import settings, sweeps
from ctkeras.tracking.run import Tracker, lacking
from ctkeras.tracking.run import start_run as run_start


class Run:
    """A wandb run that records what it is given."""

    def __init__(self, *, resumed=False, starting_step=0, disabled=False, config=()):
        self.resumed, self.starting_step, self.disabled = resumed, starting_step, disabled
        self.rows, self.summary, self.artifacts, self.ended = [], {}, [], None
        self.config = Config(config)

    def log(self, row):
        self.rows.append(row["epoch"])

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def finish(self, *, exit_code):
        self.ended = exit_code


class Config(dict):
    def update(self, values, *, allow_val_change):
        assert allow_val_change
        self.changed = values
        super().update(values)


def epochs(*numbers):
    return [{"epoch": number} for number in numbers]


def test_each_epoch_is_logged_once():
    tracker = Tracker(Run())
    for row in epochs(1, 2, 2, 1, 3):
        tracker.log(row)
    assert tracker.run.rows == [1, 2, 3]


@pytest.mark.parametrize(
    ("resumed", "starting_step", "rows"),
    [
        (True, 3, [4, 5]),  # the server has three rows
        (True, 0, [1, 2, 3, 4, 5]),
        (False, 0, [5]),  # it cannot be known what the server has: it is taken to have all
    ],
)
def test_a_resumed_run_logs_what_the_server_lacks(resumed, starting_step, rows):
    tracker = Tracker(Run(resumed=resumed, starting_step=starting_step))
    tracker.catch_up(epochs(1, 2, 3, 4))
    tracker.log({"epoch": 5})
    assert tracker.run.rows == rows


def test_only_changed_hyperparameters_are_recorded():
    tracker = Tracker(Run(config={"lr": 0.1, "candidate": {"seed": 1}}))
    tracker.set_config({"lr": 0.1, "seed": 1, "data": None})
    assert tracker.run.config.changed == {"seed": 1, "data": None}
    assert tracker.config() == {"lr": 0.1, "candidate": {"seed": 1}, "seed": 1, "data": None}


def test_worst_errors_are_the_wrong_ones_the_most_confident_first():
    labels = np.array([0, 1, 0, 1, 1])
    probabilities = np.array([[0.4, 0.6], [0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]])
    assert predictions.worst_errors(labels, probabilities).tolist() == [1, 0, 3]


def test_the_summary_of_validation_has_precision_and_recall_per_class(monkeypatch, tmp_path):
    import wandb

    monkeypatch.setattr(wandb, "Table", lambda columns, data: (columns, data))
    monkeypatch.setattr(wandb, "Image", lambda pixels, caption: caption)
    tracker = Tracker(Run())
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    tracker.log_validation(labels, probabilities, ["a", "b"], worst=[np.zeros((2, 2), np.uint8)], folder=tmp_path)
    per_class = tracker.run.summary["valid_per_class"]
    assert per_class[0] == ["class", "images", "precision", "recall"]
    assert per_class[1] == [["a", 3, 1.0, pytest.approx(2 / 3)], ["b", 1, 0.5, 1.0]]
    assert tracker.run.summary["valid_confusion_matrix"][1] == [["a", 2, 1], ["b", 0, 1]]
    assert tracker.run.summary["valid_worst_errors"] == ["a predicted as b with 0.70"]


def test_a_disabled_run_gets_no_artifact_and_no_table(tmp_path):
    tracker = Tracker(Run(disabled=True))
    tracker.log_model(tmp_path / "nowhere", name="m", metadata={})
    tracker.log_validation(np.array([0]), np.array([[1.0]]), ["a"], worst=[], folder=tmp_path)
    assert (tracker.run.artifacts, tracker.run.summary) == ([], {})


def test_finishing_writes_plain_values_and_the_exit_code():
    tracker = Tracker(Run())
    tracker.finish({"val_acc": 0.5, "stopped_by": "done", "epochs": 3, "matrix": [[1]], "none": None}, exit_code=1)
    assert tracker.run.summary == {"val_acc": 0.5, "stopped_by": "done", "epochs": 3}
    assert tracker.run.ended == 1
    tracker.finish({})
    assert tracker.run.ended == 0


@pytest.fixture
def wandb(monkeypatch):
    """wandb whose calls are recorded by name."""
    import wandb

    calls = {}
    monkeypatch.setattr(wandb, "init", lambda **given: calls.update(given) or Run())
    monkeypatch.setattr(wandb, "sweep", lambda **given: calls.update(given) or "abc123")
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me"))
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(run_module, "has_credentials", lambda: True)
    return calls


def start(tmp_path, **options):
    return run_start({"lr": 1}, run_id="r1", folder=tmp_path, **options)


def test_a_run_is_started_online_with_its_id(wandb, tmp_path):
    start(tmp_path, resume=True, group="study", job_type="phase1")
    assert (wandb["id"], wandb["name"], wandb["project"]) == ("r1", "r1", "ctkeras")
    assert (wandb["group"], wandb["job_type"], wandb["mode"], wandb["resume"]) == ("study", "phase1", None, "allow")
    assert wandb["dir"] == str(tmp_path)
    assert not wandb["settings"].silent
    start(tmp_path)
    assert (wandb["group"], wandb["job_type"], wandb["resume"]) == (None, None, None)


def test_without_credentials_a_run_is_offline_and_says_so(wandb, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "has_credentials", lambda: False)
    start(tmp_path, resume=True)
    assert (wandb["mode"], wandb["resume"], wandb["settings"].silent) == ("offline", None, True)
    assert "recorded offline" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "online")
    start(tmp_path)
    assert wandb["mode"] is None  # wandb's settings decide


@pytest.mark.parametrize("mode", ["offline", "Offline", "dryrun"])
def test_wandbs_own_mode_is_left_to_it(wandb, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_DIR", "/elsewhere")
    monkeypatch.setenv("WANDB_PROJECT", "named")
    start(tmp_path, resume=True)
    assert (wandb["mode"], wandb["resume"], wandb["settings"].silent) == (None, None, True)
    assert (wandb["dir"], wandb["project"]) == ("/elsewhere", "named")


def test_a_sweep_is_created_where_option_file_or_environment_say(wandb, monkeypatch):
    assert sweeps.create_sweep({}) == "me/ctkeras/abc123"
    assert (wandb["entity"], wandb["project"]) == (None, "ctkeras")
    monkeypatch.setenv("WANDB_PROJECT", "of-environment")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert sweeps.create_sweep({}) == "team/of-environment/abc123"
    assert sweeps.create_sweep({"project": "of-file", "entity": "lab"}) == "lab/of-file/abc123"
    assert sweeps.create_sweep({"project": "of-file"}, project="given", entity="us") == "us/given/abc123"


@pytest.mark.parametrize("path", ["abc", "me/abc", "a/b/c/d"])
def test_a_sweep_needs_its_whole_address(path):
    with pytest.raises(UserError, match="ENTITY/PROJECT/SWEEP_ID"):
        sweeps.read_sweep(path)


def served(monkeypatch, *runs):
    sweep = SimpleNamespace(config={"method": "grid"}, runs=list(runs))
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(sweep=lambda path: sweep))


def run_of(name, state="finished", **summary):
    history = [{"epoch": 1}]
    return SimpleNamespace(id=name, state=state, config={"lr": 1}, summary=summary, history=lambda **options: history)


def test_finished_runs_with_a_val_acc_are_results(monkeypatch):
    served(
        monkeypatch,
        run_of("a", val_acc=0.5, val_loss="NaN"),
        run_of("b", state="running", val_acc=0.9),
        run_of("c", val_acc="NaN"),
        run_of("d"),
    )
    config, results = sweeps.read_sweep("e/p/s")
    assert config == {"method": "grid"}
    assert [(result.name, result.val_acc) for result in results] == [("a", 0.5)]
    assert math.isnan(results[0].val_loss)


def test_all_runs_are_read_the_best_first_and_few_histories(monkeypatch):
    runs = [run_of("a", val_acc=0.5), run_of("b", state="crashed"), run_of("c", val_acc=0.7), run_of("d", val_acc=0.6)]
    served(monkeypatch, *runs)
    _, rows = sweeps.read_runs("e/p/s", histories=2)
    assert [row["name"] for row in rows] == ["c", "d", "a", "b"]
    assert [len(row["history"]) for row in rows] == [1, 1, 0, 0]
    _, rows = sweeps.read_runs("e/p/s")
    assert [len(row["history"]) for row in rows] == [1, 1, 1, 0]


def test_what_is_lacking_for_the_server_is_named(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(settings, "prepare", lambda: None)
    monkeypatch.setattr(run_module, "is_offline", lambda: True)
    assert "WANDB_MODE" in lacking()
    monkeypatch.setattr(run_module, "is_offline", lambda: False)
    monkeypatch.setattr(run_module, "has_credentials", lambda: False)
    assert "wandb login" in lacking()
    monkeypatch.setattr(run_module, "has_credentials", lambda: True)
    assert lacking() == ""


def test_the_model_of_a_run_is_downloaded(monkeypatch, tmp_path):
    def artifact(kind):
        return SimpleNamespace(type=kind, download=lambda root: f"{root}/{kind}")

    logged = [artifact("dataset"), artifact("model")]
    run = SimpleNamespace(logged_artifacts=lambda: logged)
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(run=lambda path: {"e/p/r": run}[path]))
    assert sweeps.download_model("e/p/s", "r", tmp_path) == tmp_path / "model"
    logged.pop()
    with pytest.raises(UserError, match="did not log a model"):
        sweeps.download_model("e/p/s", "r", tmp_path)
