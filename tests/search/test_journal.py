"""A journal as the storage: torn lines, killed writers, stale locks, many processes, opening time, export, shared folders."""

import collections
import contextlib
import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from sweeps import opened, planned, pretend, somebody, sweep

from ctkeras.data import decoded, sources
from ctkeras.data.crop import Preparation
from ctkeras.errors import UserError
from ctkeras.runtime import files, lease, locks, mounts, stored
from ctkeras.search import journal, storage
from ctkeras.search.export import export
from ctkeras.sweep import hyperband

FINISHED = ("COMPLETE", "PRUNED")
FORK = multiprocessing.get_context("fork")


def wait(condition, *, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def address(folder):
    return f"journal:{folder}/study.log"


def work(folder, planned_search):
    """Takes trials until all have ended, as one of many processes."""
    trials = opened(folder, planned_search, url=address(folder))
    while not all_ended(trials):
        job = trials.claim([])
        if job is None:
            time.sleep(0.05)
        elif job.metrics is not None:
            trials.finish(job, job.metrics)
        else:
            pretend(trials, job, before=lambda: time.sleep(random.random() / 200))


def all_ended(trials):
    ended = [trial.state.is_finished() for trial in trials.all()]
    return len(ended) == trials.search.total and all(ended)


def facts(trials):
    return [(t.number, t.state.name, t.value, t.params) for t in trials.all()]


def operations(folder):
    lines = (folder / "study.log").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def test_a_search_in_a_journal_decides_as_in_sqlite(tmp_path):
    content = sweep(run_cap=12)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one = opened(tmp_path / "a", planned(tmp_path / "a", content))
    two = opened(tmp_path / "b", planned(tmp_path / "b", content), url=address(tmp_path / "b"))
    for trials in (one, two):
        while (job := trials.claim([])) is not None:
            pretend(trials, job)
    assert facts(one) == facts(two)
    assert {state for _, state, *_ in facts(two)} == set(FINISHED)  # hyperband has stopped some


def test_a_trial_costs_a_handful_of_writes(tmp_path, monkeypatch):
    trials = opened(tmp_path, planned(tmp_path, sweep(hyperband=False, max_epochs=30)), url=address(tmp_path))
    writes = []
    write = os.fsync
    monkeypatch.setattr(files, "flush", lambda path: None)  # of the run folder's own files
    monkeypatch.setattr(os, "fsync", lambda number: (writes.append(number), write(number)))
    pretend(trials, trials.claim([]))
    assert len(writes) == 2  # begun, ended
    assert trials.all()[0].intermediate_values == {}  # without hyperband, epochs are in the run folder only


def test_a_torn_line_is_dropped_and_the_next_write_is_whole(tmp_path):
    trials = opened(tmp_path, planned(tmp_path), url=address(tmp_path))
    job = trials.claim([])
    with open(tmp_path / "study.log", "ab") as file:
        file.write(b'{"op_code":8,"worker_id":"gone","trial_')
    again = opened(tmp_path, planned(tmp_path), url=address(tmp_path))
    assert len(again.all()) == 1
    pretend(again if again._mine(job) else trials, job)
    assert operations(tmp_path)[-1]["op_code"] == 6
    with_optuna = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    )
    assert [t.state.name for t in with_optuna.get_all_trials(0)] == ["COMPLETE"]  # optuna-dashboard reads it too


def test_a_damaged_line_hides_no_other(tmp_path):
    trials = opened(tmp_path, planned(tmp_path), url=address(tmp_path))
    pretend(trials, trials.claim([]))
    with open(tmp_path / "study.log", "ab") as file:
        file.write(bytes(40) + b"\n")
    pretend(trials, trials.claim([]))
    assert len(opened(tmp_path, planned(tmp_path), url=address(tmp_path)).all()) == 2


def test_what_is_not_a_journal_is_refused(tmp_path):
    (tmp_path / "study.log").write_text("epoch 1 done\n")
    with pytest.raises(UserError, match="not a journal"):
        storage.open_storage(storage.address(address(tmp_path), ""))
    assert (tmp_path / "study.log").read_text() == "epoch 1 done\n"
    with pytest.raises(UserError, match="no file"):
        storage.open_storage(storage.address(f"journal:{tmp_path}/other.log", ""), create=False)


def test_a_trial_of_a_dead_process_is_taken_over_once(tmp_path):
    gone = opened(tmp_path, planned(tmp_path), url=address(tmp_path), me=somebody())
    number = gone.claim([]).number
    first, second = (opened(tmp_path, planned(tmp_path), url=address(tmp_path)) for _ in range(2))
    job = first.claim([])
    assert job.number == number
    assert job.resumed
    assert second.claim([]).number == number + 1


@pytest.mark.parametrize(("processes", "trials", "kills"), [(8, 24, 6)])
@pytest.mark.slow
def test_killed_processes_lose_and_repeat_nothing(tmp_path, processes, trials, kills):
    kill_at_random(tmp_path, processes=processes, trials=trials, kills=kills)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [8, 32])
def test_sixty_kills_lose_and_repeat_nothing(tmp_path, processes):
    kill_at_random(tmp_path, processes=processes, trials=300, kills=60)


def kill_at_random(folder, *, processes, trials, kills):
    """Kills one or four of many processes at random moments; then every trial has ended exactly once."""
    rng = random.Random(processes)
    search = planned(folder, sweep(method="random", run_cap=trials))
    running = []
    for kill in range(kills + 1):
        while len(running) < processes:
            running.append(FORK.Process(target=work, args=(folder, search)))
            running[-1].start()
        if kill == kills:
            break
        time.sleep(rng.uniform(0.02, 0.4))
        for victim in rng.sample(running, rng.choice((1, 4))):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(victim.pid, signal.SIGKILL)
        for one in running:
            one.join(0.02)
        running = [one for one in running if one.is_alive()]
    for one in running:
        one.join(200)
        assert one.exitcode in (0, -signal.SIGKILL)  # a signal may arrive a moment later
    shown = facts(opened(folder, search, url=address(folder)))
    assert [number for number, *_ in shown] == list(range(trials))
    assert {state for _, state, *_ in shown} <= set(FINISHED)
    ends = collections.Counter(line["trial_id"] for line in operations(folder) if line["op_code"] == 6)
    assert set(ends.values()) == {1}
    assert decisions_replayed(folder, search) > trials / 2
    assert not list(folder.glob("*.lock")) + list(folder.glob("*.break"))


def decisions_replayed(folder, search):
    """Replays the journal line by line: each decision of hyperband is that of one process with the history of that moment.

    Another process may write between a trial's report and its decision, so the history of a moment is that of some line from
    the report up to the trial's next line. Returns the number of decisions.
    """
    early, epochs = search.content["early_terminate"], 6
    bands = hyperband.bands(early, epochs)
    lines, values, decisions = operations(folder), {}, 0
    for place, line in enumerate(lines):
        if line["op_code"] != 7:
            continue
        number, step = line["trial_id"], int(line["step"])
        values.setdefault(number, {})[step] = line["intermediate_value"]
        later = [at for at in range(place + 1, len(lines)) if lines[at].get("trial_id") == number]
        later = [at for at in later if lines[at]["op_code"] in (6, 7)]
        if step not in bands or not later:
            continue
        stopped = lines[later[0]]["op_code"] == 6 and lines[later[0]]["state"] == optuna.trial.TrialState.PRUNED.value
        known, possible = {trial: dict(own) for trial, own in values.items()}, set()
        for at in range(place, later[0]):
            if lines[at]["op_code"] == 7:
                known.setdefault(lines[at]["trial_id"], {})[int(lines[at]["step"])] = lines[at]["intermediate_value"]
            histories = {trial: [own[epoch] for epoch in sorted(own)] for trial, own in known.items()}
            own = histories.pop(number)
            possible.add(hyperband.should_stop(own, list(histories.values()), early, maximize=True, max_epochs=epochs))
        assert stopped in possible, (number, step)
        decisions += 1
    return decisions


def two_thousand(folder):
    """A journal of 2,000 trials, all like the first. Returns the number of lines per trial."""
    trials = opened(folder, planned(folder, sweep(method="random", run_cap=2000)), url=address(folder))
    pretend(trials, trials.claim([]))
    per_trial = [line for line in operations(folder) if line["op_code"] in (4, 6, 7, 8)]
    with open(folder / "study.log", "ab") as file:
        for one in range(1, 2000):
            for line in per_trial:
                moved = line | ({"trial_id": one} if "trial_id" in line else {})
                file.write(json.dumps(moved).encode() + b"\n")
    return len(per_trial)


def test_opening_two_thousand_trials_is_quick(tmp_path):
    lines = two_thousand(tmp_path)
    begun = time.process_time()  # of this process, because others may keep the cores busy
    storage.open_storage(storage.address(address(tmp_path), ""))
    seconds = time.process_time() - begun
    print(f"{seconds:.2f} s, {os.path.getsize(tmp_path / 'study.log') / 1e6:.1f} MB, {lines} lines per trial")
    assert seconds < 2


@pytest.mark.slow
def test_exporting_two_thousand_trials_loses_none(tmp_path):
    two_thousand(tmp_path)
    begun = time.process_time()
    export(storage.address(address(tmp_path), ""), tmp_path / "study.db")
    seconds, megabytes = time.process_time() - begun, os.path.getsize(tmp_path / "study.db") / 1e6
    print(f"exported in {seconds:.1f} s of CPU time, {megabytes:.1f} MB")
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/study.db")
    assert len(study.get_trials(deepcopy=False)) == 2000


def test_export_copies_all_trials_to_sqlite(tmp_path):
    trials = opened(tmp_path, planned(tmp_path), url=address(tmp_path))
    for _ in range(3):
        pretend(trials, trials.claim([]))
    assert export(storage.address(address(tmp_path), ""), tmp_path / "study.db") == 1
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/study.db")
    assert [(t.number, t.state.name, t.value, t.params) for t in study.trials] == facts(trials)
    with pytest.raises(UserError, match="exists already"):
        export(storage.address(address(tmp_path), ""), tmp_path / "study.db")


def every_kind(study):
    """Trials with every state, infinite and missing values, several kinds of parameters and attributes."""
    kinds = {
        "lr": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
        "batch_size": optuna.distributions.IntDistribution(8, 64, step=8),
        "model_name": optuna.distributions.CategoricalDistribution(["resnet18", None, True, 2]),
    }
    states, values = optuna.trial.TrialState, [0.1, float("inf"), float("-inf"), 0.2]
    for number, (name, value) in enumerate(zip(["resnet18", None, True, 2], values, strict=True)):
        study.add_trial(
            optuna.create_trial(
                state=states.PRUNED if number == 3 else states.COMPLETE,
                value=value,
                params={"lr": 1e-3 / (number + 1), "batch_size": 8 + 8 * number, "model_name": name},
                distributions=kinds,
                user_attrs={"ä": [number, {"deep": None}]},
                system_attrs={"seed": "x" * 3000},
                intermediate_values={1: float("nan"), 5: float("inf"), 2: 0.25 * number, 7: float("-inf")},
            )
        )
    study.add_trial(optuna.create_trial(state=states.FAIL))
    study.enqueue_trial({"lr": 0.002})
    study.ask(kinds)
    study.set_user_attr("plan", {"a": [1, 2]})


def test_a_copy_is_what_optuna_would_copy(tmp_path):
    source = journal.open_journal(tmp_path / "study.log", create=True)
    for name, direction in (("one", "maximize"), ("two", "minimize")):
        every_kind(optuna.create_study(study_name=name, storage=source, direction=direction))
    assert export(storage.address(address(tmp_path), ""), tmp_path / "study.db") == 2
    for name in ("one", "two"):
        optuna.copy_study(from_study_name=name, from_storage=source, to_storage=f"sqlite:///{tmp_path}/optuna.db")
    ours, optunas = (
        [optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/{file}.db") for name in ("one", "two")]
        for file in ("study", "optuna")
    )
    for mine, other in zip(ours, optunas, strict=True):
        assert (mine.direction, mine.user_attrs) == (other.direction, other.user_attrs)
        # A value that is not a number differs from itself, so as text.
        assert [repr(trial) for trial in mine.trials] == [repr(trial) for trial in other.trials]
        assert len(mine.trials) == 6
        mine.tell(mine.ask(), 0.5)  # a study to go on with
        assert mine.trials[-1].number == 6


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "cifs", "fuse.sshfs"])
def test_sqlite_is_refused_on_a_shared_file_system(tmp_path, monkeypatch, kind):
    mount(tmp_path, monkeypatch, kind)
    with pytest.raises(UserError, match=f"not safe on {kind}.*--storage journal:{tmp_path}/study.log"):
        storage.open_storage(storage.address("", str(tmp_path)))
    assert not (tmp_path / "study.db").exists()
    storage.open_storage(storage.address(address(tmp_path), "")).close()


def mount(folder, monkeypatch, kind):
    table = folder / "mounts"
    table.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {str(folder).replace(' ', chr(92) + '040')} {kind} rw 0 0\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)


def test_a_local_folder_is_not_shared(tmp_path, monkeypatch):
    mount(tmp_path, monkeypatch, "ext4")
    assert mounts.shared(tmp_path / "deep") == ""
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    assert mounts.shared(tmp_path) == ""


def count_up(path):
    """Adds one to a number in a file, slowly, under a lock where flock fails with error 38."""

    def fails(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    fcntl.flock = fails
    for _ in range(5):
        with locks.hold(path.with_suffix(".lock")):
            number = int(path.read_text())
            time.sleep(0.002)
            path.write_text(str(number + 1))


def test_sixteen_processes_exclude_each_other_where_flock_fails(tmp_path):
    path = tmp_path / "number"
    path.write_text("0")
    running = [FORK.Process(target=count_up, args=(path,)) for _ in range(16)]
    for one in running:
        one.start()
    for one in running:
        one.join(60)
        assert one.exitcode == 0
    assert path.read_text() == "80"


def test_a_lease_of_a_silent_machine_is_broken_and_of_a_live_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "SILENT_SECONDS", 0.5)
    (tmp_path / "a.lock").symlink_to("other machine|1|token")
    begun = time.monotonic()
    with lease.hold(tmp_path / "a.lock"):
        assert 0.5 < time.monotonic() - begun < 5
    code = (
        "import sys, time; from pathlib import Path; from ctkeras.runtime import lease\n"
        "lease.BEAT_SECONDS = 0.1; lease._space = lambda: 'other machine'\n"
        "with lease.hold(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(1.5)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        with lease.hold(tmp_path / "a.lock"):
            assert time.monotonic() - begun > 1


def test_a_holder_that_was_stopped_does_not_remove_the_next_ones_lock(tmp_path):
    with lease.hold(tmp_path / "a.lock"):
        (tmp_path / "a.lock").unlink()
        (tmp_path / "a.lock").symlink_to(f"{socket.gethostname()}|1|token")
    assert (tmp_path / "a.lock").is_symlink()


def test_waiting_for_another_process_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "SILENT_SECONDS", 0.5)
    mount(tmp_path, monkeypatch, "nfs4")
    (tmp_path / "a.lease.lock").symlink_to("other boot 1|1|token")
    with locks.hold(tmp_path / "a.lock", waiting="Waiting for another process"):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Waiting for another process (process 1 on other) …"
    assert lines[-1].startswith("  waited 0.")
    assert journal.SILENT_SECONDS > 2 * journal.BEAT_SECONDS


def load_slowly(folder, number):
    """Loads a split as a task on a node would, with a slow shared folder; records builds, lines and what it got."""
    sys.stderr = open(folder / f"{number}.err", "w", buffering=1)  # noqa: SIM115 - until the process ends
    write = stored.write_array

    def slow(path, array):
        (folder / f"{os.getpid()}.builds").touch()
        time.sleep(1.0)
        write(path, array)

    stored.write_array, locks.WAIT_SECONDS = slow, 0.1
    loaded = decoded.load_split(sources.open_source("phantom:48"), "train", 32, Preparation())
    content = hashlib.sha256(np.asarray(loaded.images).tobytes() + loaded.labels.tobytes()).hexdigest()
    (folder / f"{number}.loaded").write_text(content)


@pytest.mark.parametrize(("kind", "killed"), [("ext4", 0), ("nfs4", 1)])
@pytest.mark.slow
def test_sixteen_processes_build_what_they_share_once(tmp_path, monkeypatch, kind, killed):
    mount(tmp_path, monkeypatch, kind)
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    running = [FORK.Process(target=load_slowly, args=(tmp_path, number)) for number in range(16)]
    for one in running:
        one.start()
    if killed:
        wait(lambda: list(tmp_path.glob("*.builds")))
        os.kill(int(next(tmp_path.glob("*.builds")).stem), signal.SIGKILL)  # a node's builder dies; its lock is free
    for one in running:
        one.join(60)
    assert sorted(one.exitcode for one in running) == [-signal.SIGKILL] * killed + [0] * (16 - killed)
    assert len(list(tmp_path.glob("*.builds"))) == 1 + killed
    contents = [path.read_text() for path in tmp_path.glob("*.loaded")]
    assert len(contents) == 16 - killed
    assert len(set(contents)) == 1
    waited = [
        path
        for path in tmp_path.glob("*.err")
        if "Waiting for another process that decodes train (process " in path.read_text()
    ]
    assert len(waited) >= 8  # a process that begins late finds it built
