"""What the environment says about W&B is understood or refused at once, and no failure of W&B's reaches a run."""

import os
from types import SimpleNamespace

import pytest

from ctkeras.errors import UserError
from ctkeras.tracking import run as run_module
from ctkeras.tracking import settings
from ctkeras.tracking.run import NoRun, Tracker, start_run

NAMES = ("MODE", "DISABLED", "API_KEY", "PROJECT", "ENTITY", "BASE_URL", "SILENT", "DIR", "DATA_DIR", "SWEEP_ID")


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """An environment without W&B's variables, whose changes are undone, and a home folder without a key."""
    for name in NAMES:
        monkeypatch.setenv(f"WANDB_{name}", "")
        monkeypatch.delenv(f"WANDB_{name}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({"WANDB_MODE": ""}, ""),
        ({"WANDB_MODE": " Offline "}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "DISABLED"}, "disabled"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "disabled"),
        ({"WANDB_DISABLED": "false", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_DISABLED": "False"}, ""),
    ],
)
def test_a_mode_is_understood_as_it_was_meant(monkeypatch, given, mode):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert settings.apply_mode() == mode
    assert os.environ.get("WANDB_MODE", "") == mode


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WANDB_MODE", "weird", "online, offline or disabled; got 'weird'"),
        ("WANDB_PROJECT", "team/ct", "holds '/'"),
        ("WANDB_PROJECT", "x" * 129, "129 characters"),
        ("WANDB_ENTITY", "a/b", "WANDB_ENTITY"),
        ("WANDB_API_KEY", "abc", "40+ characters"),
        ("WANDB_BASE_URL", "nonsense", "base_url"),
        ("WANDB_SILENT", "perhaps", "silent"),
        ("WANDB_MODE", "online", "has no key"),
    ],
)
def test_what_wandb_would_refuse_later_is_refused_at_once(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        settings.prepare()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_disabled_run_checks_and_imports_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    settings.prepare()
    tracker = start_run({}, run_id="r", folder=tmp_path)
    assert isinstance(tracker.run, NoRun)
    tracker.log({"epoch": 1})
    tracker.set_config({"lr": 1})
    tracker.finish({"val_acc": 1.0})
    assert list(tmp_path.iterdir()) == []


class Failing:
    """A W&B run of which every call fails."""

    disabled = resumed = offline = False

    def __getattr__(self, name):
        raise OSError("no space left")


def test_no_failure_of_wandb_reaches_a_run(capsys, tmp_path):
    tracker = Tracker(Failing())
    for epoch in (1, 2, 3):
        tracker.log({"epoch": epoch})
    tracker.log_model(tmp_path, name="m", metadata={})
    tracker.finish({"val_acc": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "an epoch" in line]) == 1
    assert all("not affected" in line for line in lines)


@pytest.mark.parametrize(
    "error", ["dial tcp: connection refused", "returned error 502: bad gateway", "did not respond in time"]
)
def test_a_server_that_cannot_be_reached_leaves_an_offline_run(monkeypatch, tmp_path, capsys, error):
    modes = []

    def init(arguments, mode, *, resume):
        modes.append(mode)
        if mode is None:
            raise RuntimeError(error)
        return Tracker(SimpleNamespace(resumed=False, disabled=False))

    monkeypatch.setattr(run_module, "_init", init)
    monkeypatch.setattr(run_module, "has_credentials", lambda: True)
    start_run({}, run_id="r", folder=tmp_path)
    assert modes == [None, "offline"]
    assert "recorded offline" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    with pytest.raises(UserError, match="W&B refuses"):
        start_run({}, run_id="r", folder=tmp_path)


def test_a_refusal_is_the_users_to_mend(monkeypatch, tmp_path):
    monkeypatch.setattr(run_module, "_init", lambda *a, **o: (_ for _ in ()).throw(RuntimeError("permission denied")))
    monkeypatch.setattr(run_module, "has_credentials", lambda: True)
    with pytest.raises(UserError, match="permission denied"):
        start_run({}, run_id="r", folder=tmp_path)


def test_an_action_is_repeated_while_the_server_fails_and_no_longer(monkeypatch, capsys):
    waits, answers = [], [RuntimeError("HTTP 500"), RuntimeError("returned error 503: x"), "sweep"]
    monkeypatch.setattr(settings.time, "sleep", waits.append)

    def action():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert settings.patiently(action, "reading") == "sweep"
    assert waits == [2, 4]
    answers[:] = [ValueError("no such sweep")]
    with pytest.raises(ValueError, match="no such"):
        settings.patiently(action, "reading")
    answers[:] = [RuntimeError("HTTP 500")] * 100
    monkeypatch.setattr(settings, "PATIENCE", 0.0)
    with pytest.raises(RuntimeError):
        settings.patiently(action, "reading")


def test_wandb_stages_in_the_run_folder_unless_told_where(monkeypatch, tmp_path):
    with settings.staging_in(tmp_path / "run"):
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "run" / "wandb")
    assert "WANDB_DATA_DIR" not in os.environ
    monkeypatch.setenv("WANDB_DATA_DIR", "/given")
    with settings.staging_in(tmp_path / "run"):
        assert os.environ["WANDB_DATA_DIR"] == "/given"
