"""A full disk, a damaged database and a dropped connection: told at once or waited for, and no trial is lost."""

import contextlib
import resource
import socket
import subprocess
import sys
import threading
import types

import pytest
import sqlalchemy
import sweeps

from ctkeras.errors import CannotWrite, UserError
from ctkeras.search import damage, storage, supervisor
from ctkeras.sweep.file import dump
from ctkeras.training.stopping import Stop

URL = sqlalchemy.make_url("postgresql+psycopg://me:secret@host/db")


def stored(tmp_path):
    """A study.db with a trial."""
    trials = sweeps.opened(tmp_path, sweeps.planned(tmp_path))
    trials.claim([])
    trials.storage.close()
    return trials.storage.file


def test_a_database_damaged_inside_is_reported_at_once(tmp_path):
    file = stored(tmp_path)
    whole = file.read_bytes()
    damaged = bytearray(whole)
    for page in range(3, len(whole) // 4096):
        damaged[page * 4096 : page * 4096 + 64] = bytes(range(64))
    file.write_bytes(bytes(damaged))
    with pytest.raises(UserError, match=r"study\.db.*the file is damaged; restore a copy"):
        storage.open_storage(storage.address(str(file), ""))
    file.write_bytes(whole)
    storage.open_storage(storage.address(str(file), "")).close()


def operational(text, *, dropped=False):
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception(text), connection_invalidated=dropped)


@pytest.mark.parametrize(
    "first", [operational("gone", dropped=True), operational("FATAL: the database system is starting up")]
)
def test_a_connection_dropped_while_a_storage_opens_is_waited_for(first, monkeypatch, capsys):
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0)
    errors = [first, operational("connection refused"), operational("connection refused")]

    def opened():
        if errors:
            raise errors.pop(0)
        return "storage"

    assert storage._patiently(opened, URL) == "storage"
    [line] = capsys.readouterr().err.splitlines()
    assert "dropped the connection" in line and "secret" not in line


def test_waiting_for_a_dropped_connection_ends(monkeypatch):
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(storage, "OUTAGE_SECONDS", 0.01)

    def opened():
        raise operational("gone", dropped=True)

    with pytest.raises(UserError, match="cannot use the storage postgresql"), storage.faults(URL):
        storage._patiently(opened, URL)


def test_a_server_that_closes_the_connection_is_tried_again(monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(storage, "OUTAGE_SECONDS", 2.0)
    server, accepted = socket.create_server(("127.0.0.1", 0)), []

    def drop():
        with contextlib.suppress(OSError):  # the test has closed it
            while True:
                accepted.append(server.accept()[0].close())

    threading.Thread(target=drop, daemon=True).start()
    address = storage.address(f"postgresql://me:secret@127.0.0.1:{server.getsockname()[1]}/db", "")
    with pytest.raises(UserError, match="cannot use the storage") as error:
        storage.open_storage(address)
    server.close()
    assert len(accepted) > 2
    assert "secret" not in str(error.value)


def test_a_server_that_cannot_be_reached_is_an_error_at_once():
    calls = []

    def opened():
        calls.append(1)
        raise operational("connection refused")

    with pytest.raises(sqlalchemy.exc.OperationalError):
        storage._patiently(opened, URL)
    assert calls == [1]


def test_what_no_waiting_heals_has_advice():
    assert "free some space" in damage.hopeless(operational("database or disk is full"))
    assert damage.hopeless(operational("database is locked")) == ""


def test_a_trial_that_cannot_write_waits_for_the_next_command(tmp_path):
    found = sweeps.planned(tmp_path)
    trials = sweeps.opened(tmp_path, found)
    job, stop = trials.claim([]), Stop()
    watched = supervisor.Supervisor(trials, types.SimpleNamespace(workers=[object()]), stop=stop, shared={})
    watched.jobs = [job]
    watched._hear(0, job, {"halted": "cannot write checkpoint.npz: No space left on device"})
    assert (watched.jobs, stop.reason, trials.all()[0].state.name) == ([None], "nothing can be written", "RUNNING")
    assert sweeps.opened(tmp_path, found).claim([]).number == job.number


def test_an_error_that_names_the_file_is_a_users_and_the_systems():
    from ctkeras.runtime import files

    error = files.cannot_write(files.cache_dir("features") / "a.npy", 28)
    assert isinstance(error, CannotWrite) and isinstance(error, UserError) and isinstance(error, OSError)
    assert "a.npy: No space left on device; free some space there, or set CTKERAS_CACHE_DIR" in str(error)


@pytest.mark.slow
def test_after_a_full_disk_the_same_command_runs_every_trial(tmp_path):
    file = tmp_path / "tiny.yaml"
    whole = {"model_name": "small_cnn", "pretrained": False, "freeze_backbone": False, "folds": 0, "max_epochs": 2}
    content = sweeps.sweep(method="random", run_cap=3, hyperband=False, data="phantom:48", image_size=32, **whole)
    file.write_text(dump(content, "# tiny"))
    command = [sys.executable, "-m", "ctkeras", "sweep", "run", str(file), "--output_dir", str(tmp_path / "runs")]

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))  # bytes; a checkpoint is larger

    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, check=False)
    assert full.returncode == 2, full.stderr
    assert "File too large" in full.stderr and "run the same command to resume" in full.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "failed" not in again.stderr
