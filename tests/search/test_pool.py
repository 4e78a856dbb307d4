"""The pool of workers: watched, replaced, never left running; their trials resume from the last checkpoint."""

import contextlib
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time

import optuna
import psutil
import pytest
import sweeps

from ctkeras.search import pool as pool_module
from ctkeras.search.pool import Pool, Worker, _gpus, cpu_seconds, environments
from ctkeras.search.pool import os as pool_os

NOTHING = {"models": [], "weights_dir": "", "data": "", "forms": []}
SEEDS = {"values": [0, 1, 2, 3]}


def until(true, seconds=120.0):
    """Waits for something to become true, and returns it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def said(worker, kind, seconds=120.0):
    """The next message of a kind, those before it let go."""
    return until(lambda: next((m for m in worker.messages() if kind in m), None), seconds)


@pytest.fixture
def worker():
    started = Worker(os.environ, cores=(), patience=300)
    yield started
    started.end(kill=True)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_readies_what_trials_share_and_says_what_it_lacks(worker, tmp_path, image_folder):
    worker.send(prepare=NOTHING)
    assert said(worker, "ready")
    worker.send(prepare={**NOTHING, "models": ["mobilenet_v2"], "weights_dir": str(tmp_path / "none")})
    assert "not a folder" in said(worker, "refused")["refused"]
    (image_folder / "train" / "left" / "3.png").write_bytes(b"no image")
    worker.send(prepare={**NOTHING, "data": str(image_folder), "forms": [(32, "body", "stretch", "as_is")]})
    assert "3.png" in said(worker, "refused")["refused"]
    worker.end()  # its input closed
    assert worker.process.returncode == 0


def test_a_death_is_named_with_its_signal(worker):
    assert worker.death() == ""
    worker.process.send_signal(signal.SIGSEGV)
    assert "SIGSEGV" in until(worker.death)


def test_a_worker_that_ends_says_how_and_what_it_wrote_last(worker):
    worker.process.kill()
    worker.process.wait()
    worker.process.returncode = 3
    worker.errors.write(b"first\n\n  the last words  \n\n")
    assert worker.death() == "the worker ended with exit code 3: the last words"
    worker.process.returncode = -signal.SIGABRT
    worker.errors.truncate(0)
    assert worker.death() == "the worker was killed by SIGABRT"


def test_the_slowest_epoch_is_the_trials_own_and_a_part_of_a_message_waits(worker, monkeypatch):
    first = b'{"epochs": [{"epoch_seconds": 2}, {"epoch_seconds": 5}]}\n{"no'
    second = b'te": 1}\n{"epochs": [{"epoch_seconds": 3}]}\n'
    worker.clock, clock = lambda: clock[0], [7.0]

    received = [first]
    monkeypatch.setattr(pool_os, "read", lambda *_: received.pop(0) if received else b"")
    assert worker.messages() == [{"epochs": [{"epoch_seconds": 2}, {"epoch_seconds": 5}]}]
    assert (worker.slowest, worker.heard) == (5, 7.0)
    received.append(second)
    assert worker.messages() == [{"note": 1}, {"epochs": [{"epoch_seconds": 3}]}]
    assert worker.slowest == 5
    clock[0] = 9.0
    assert worker.messages() == []
    assert worker.heard == 7.0
    worker.send(trial={})
    assert (worker.slowest, worker.heard) == (0, 9.0)


def test_the_cpu_time_of_a_process(monkeypatch):
    begun = cpu_seconds(os.getpid())
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert 0.2 < cpu_seconds(os.getpid()) - begun < 5
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(time, "monotonic", lambda: 123.0)
    assert cpu_seconds(gone.pid) == 123.0


def test_a_worker_hears_no_ctrl_c_that_was_meant_for_its_supervisor(worker):
    worker.send(prepare=NOTHING)
    said(worker, "ready")
    for number in (signal.SIGINT, signal.SIGTERM):
        worker.process.send_signal(number)
    worker.send(prepare=NOTHING)
    assert said(worker, "ready")


def test_standing_still_is_a_hang_and_computing_is_not(monkeypatch):
    """Time and CPU time are given; a first epoch may take twelve times the patience, a later one ten of the slowest."""
    clock = [0.0]
    monkeypatch.setattr(pool_module, "cpu_seconds", lambda pid: clock[0] if computes else 0.0)
    worker = Worker(os.environ, cores=(), patience=100)
    worker.clock = lambda: clock[0]
    try:
        computes = True
        for seconds in range(0, 1200, 50):
            clock[0] = seconds
            assert worker.hang() == ""
        clock[0] = 1201
        assert "computed for 1200 s" in worker.hang()
        worker.heard = worker.moved = clock[0]
        worker.slowest = 90.0  # its epochs are slow: 15 minutes without one are no hang
        clock[0] += 899
        assert worker.hang() == ""
        clock[0] += 2
        assert "900 s" in worker.hang()
        computes, worker.heard = False, clock[0]
        worker.moved = clock[0]
        clock[0] += 99
        assert worker.hang() == ""
        clock[0] += 2
        assert "sent and computed nothing" in worker.hang()
    finally:
        worker.end(kill=True)


def test_a_stopped_process_is_seen_to_stand_still(worker):
    worker.patience = 2.0
    worker.send(prepare=NOTHING)
    said(worker, "ready")
    worker.process.send_signal(signal.SIGSTOP)
    assert "sent and computed nothing" in until(worker.hang, 30)


@pytest.mark.parametrize("stopped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_no_worker_outlives_its_supervisor(stopped):
    code = "import os, time; from ctkeras.search.pool import Worker\n"
    code += "print(Worker(os.environ, cores=(), patience=300).process.pid, flush=True); time.sleep(600)"
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(supervisor.stdout.readline())
    until(lambda: "ctkeras.search.worker" in " ".join(psutil.Process(pid).cmdline()))
    time.sleep(2)  # for its imports; whenever it is stopped, it must end
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not alive(pid), 20)


def test_cores_are_shared_out_and_each_worker_gets_a_gpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(pool_module, "_gpus", list)
    assert [list(cores) for _, cores in environments(3)] == [[0, 1], [2, 3], [4, 5]]
    assert [list(cores) for _, cores in environments(1)] == [[]]
    assert [list(cores) for _, cores in environments(9)] == [[]] * 9
    monkeypatch.setattr(pool_module, "_gpus", lambda: ["0", "1"])
    seen = [env["CUDA_VISIBLE_DEVICES"] for env, _ in environments(3)]
    assert seen == ["0", "1", "0"]
    assert all(env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false" for env, _ in environments(3))
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in environments(2)[0][0]
    monkeypatch.setattr(pool_module, "_gpus", lambda: list("01234"))
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in environments(2)] == ["0,1", "2,3"]  # one trial over two
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in environments(5)] == list("01234")


def test_runs_are_kept_offline_unless_the_user_has_said_how(monkeypatch):
    monkeypatch.setattr(pool_module, "_gpus", list)
    monkeypatch.setenv("CTKERAS_STORAGE", "postgresql://me:secret@host/db")
    for mode, expected in (("", "offline"), ("online", "online"), ("disabled", "disabled")):
        monkeypatch.setenv("WANDB_MODE", mode)
        ((env, _),) = environments(1)
        assert env["WANDB_MODE"] == expected
        assert "secret" not in str(env)


def test_gpus_are_those_cuda_may_show(monkeypatch):
    monkeypatch.setattr(pool_module.versions, "version", lambda name: "0.10" if name == "jax-cuda12-plugin" else "")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert _gpus() == ["2", "GPU-abc"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert _gpus() == []


def told(number, folder, *, epochs=3, asks=(), **values):
    """A trial as a supervisor sends it."""
    from ctkeras.config import RunConfig

    fixed = {**sweeps.CONSTANT, "optimizer": "adamw", "max_epochs": epochs, "output_dir": str(folder)}
    config = RunConfig.from_mapping(fixed | values)
    request = {"run_id": f"trial-{number}", "config": config.to_dict(), "group": "g", "job_type": "j"}
    return request | {"asks": list(asks), "export": False}


@pytest.mark.slow
def test_one_process_serves_many_trials_whatever_becomes_of_them(worker, tmp_path):
    """Trained, stopped as losing, refused, diverged; one that a person stopped is gone on with by another process."""
    worker.send(trial=told(0, tmp_path))
    done = said(worker, "done")["done"]
    assert (done["stopped_by"], done["epochs"]) == ("max_epochs", 3)
    worker.send(trial=told(1, tmp_path, epochs=9, asks=[2, 4]))
    for epoch, answer in ((2, True), (4, False)):
        until(lambda epoch=epoch: [m for m in worker.messages() if m.get("epochs", [{}])[-1].get("epoch") == epoch])
        worker.send(go_on=answer)
    done = said(worker, "done")["done"]
    assert (done["stopped_by"], done["epochs"]) == ("hyperband", 4)
    assert not (tmp_path / "trial-1" / "model.keras").exists()
    worker.send(export=str(tmp_path / "trial-1"))
    assert said(worker, "exported")["exported"] == ""
    assert (tmp_path / "trial-1" / "model.keras").exists()
    worker.send(export=str(tmp_path / "nowhere"))
    assert "config.json" in said(worker, "exported")["exported"]
    worker.send(trial=told(2, tmp_path, data="phantom:5"))
    assert "phantom:5" in said(worker, "failed")["failed"]
    worker.send(trial=told(3, tmp_path, lr=1e30, optimizer="sgd"))
    assert "not finite" in said(worker, "failed")["failed"]
    worker.send(trial=told(4, tmp_path, epochs=5000))
    said(worker, "epochs")
    worker.send(stop="sigint")
    stopped = said(worker, "done")["done"]
    assert stopped["stopped_by"] == "sigint"
    assert (tmp_path / "trial-4" / "checkpoint.npz").exists()
    worker.end()
    other = Worker(os.environ, cores=(), patience=300)
    try:
        other.send(trial=told(4, tmp_path, epochs=stopped["epochs"] + 2))
        goes_on = said(other, "epochs")["epochs"]
        assert [row["epoch"] for row in goes_on] == list(range(1, stopped["epochs"] + 1))  # those of before, at once
        done = said(other, "done")["done"]
        assert (done["stopped_by"], done["epochs"]) == ("max_epochs", stopped["epochs"] + 2)
    finally:
        other.end(kill=True)


class Sweep(sweeps.Command):
    """A sweep of four seeds, whose epochs take long enough to be disturbed: the backbone runs in each."""

    def __init__(self, folder, *, epochs=40, **parameters):
        super().__init__(folder)
        self.env["WANDB_MODE"] = "disabled"
        content = sweeps.sweep(
            method="grid", hyperband=False, seed=SEEDS, lr=0.01, dropout=0.2, max_epochs=epochs, feature_cache=False
        )
        content["parameters"] |= parameters
        del content["run_cap"]
        self.write(content)

    def trials(self):
        file = self.folder / "runs" / "study.db"
        names = optuna.get_all_study_names(f"sqlite:///{file}") if file.exists() else []
        return optuna.load_study(study_name=names[0], storage=f"sqlite:///{file}").get_trials() if names else []

    def trains(self, least=3):
        """Numbers of the trials in flight that have had some epochs."""
        query = "select number from trials join trial_intermediate_values using (trial_id) where state = 'RUNNING' "
        query += f"group by trial_id having count(*) >= {least}"
        with contextlib.suppress(sqlite3.OperationalError):  # no file, or no tables yet
            file = (self.folder / "runs" / "study.db").as_uri()
            with contextlib.closing(sqlite3.connect(f"{file}?mode=ro", uri=True)) as connection:
                return [number for (number,) in connection.execute(query)]
        return []

    def workers(self, supervisor):
        children = psutil.Process(supervisor.pid).children()
        return [child.pid for child in children if "ctkeras.search.worker" in child.cmdline()]


@pytest.mark.slow
def test_a_killed_and_a_hanging_worker_cost_their_trials_nothing_but_time(tmp_path):
    (tmp_path / "calm").mkdir()
    calm, rough = Sweep(tmp_path / "calm"), Sweep(tmp_path)
    calm("sweep", "run", "sweep.yaml")
    process = rough.start("sweep", "run", "sweep.yaml", "--patience", "25")
    until(rough.trains)
    os.kill(rough.workers(process)[0], signal.SIGKILL)
    until(lambda: 1 in rough.trains(), 200)
    os.kill(rough.workers(process)[0], signal.SIGSTOP)
    assert process.wait(300) == 0
    log = (tmp_path / "log").read_text()
    assert "killed by SIGKILL; running it once more" in log
    assert "sent and computed nothing for 25 s; running it once more" in log
    assert [t.user_attrs.get("tries") for t in rough.trials()] == [1, 1, None, None]
    assert sweeps.left(tmp_path / "runs") == sweeps.left(tmp_path / "calm" / "runs")


@pytest.mark.slow
def test_a_trial_that_kills_every_worker_fails_and_the_search_goes_on(tmp_path):
    sweep = Sweep(tmp_path)
    process = sweep.start("sweep", "run", "sweep.yaml")
    killed: list[int] = []

    def another():
        return 0 in sweep.trains() and [pid for pid in sweep.workers(process) if pid not in killed]

    for _ in range(2):
        killed += until(another)
        os.kill(killed[-1], signal.SIGKILL)
    assert process.wait(300) == 0
    states = [trial.state.name for trial in sweep.trials()]
    assert states == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert "died 2 times" in sweep.trials()[0].user_attrs["failure"]
    assert "died 2 times" in sweep("sweep", "status", "runs/study.db").stdout


@pytest.mark.slow
def test_trials_that_fail_by_themselves_are_told_with_their_reasons(tmp_path):
    parameters = {"lr": {"values": [0.01, 1e30]}, "optimizer": {"value": "sgd"}, "seed": {"value": 0}}
    sweep = Sweep(tmp_path, epochs=2, **parameters)
    done = sweep("sweep", "run", "sweep.yaml")
    assert "1 of them failed" in done.stdout
    shown = sweep("sweep", "status", "runs/study.db").stdout
    assert "The loss is not finite" in shown
    assert [trial.state.name for trial in sweep.trials()] == ["COMPLETE", "FAIL"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_stop_leaves_everything_to_go_on_with(tmp_path, number):
    (tmp_path / "calm").mkdir()
    calm, sweep = Sweep(tmp_path / "calm"), Sweep(tmp_path)
    calm("sweep", "run", "sweep.yaml")
    process = sweep.start("sweep", "run", "sweep.yaml", new_group=True)
    until(sweep.trains)
    pids = sweep.workers(process)
    begun = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal or a scheduler does
    assert process.wait(60) == 128 + number
    assert time.monotonic() - begun < 30
    assert not any(alive(pid) for pid in pids)
    assert "run the same command to resume" in (tmp_path / "log").read_text()
    assert sweep.trains()
    sweep("sweep", "run", "sweep.yaml")
    assert all(not trial.user_attrs.get("tries") for trial in sweep.trials())
    assert sweeps.left(tmp_path / "runs") == sweeps.left(tmp_path / "calm" / "runs")


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    sweep = Sweep(tmp_path, freeze_backbone={"value": False}, epochs=50, image_size={"value": 160})
    process = sweep.start("sweep", "run", "sweep.yaml", new_group=True)
    until(lambda: sweep.trials() and sweep.workers(process))
    pids = sweep.workers(process)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(5) == 130
    until(lambda: not any(alive(pid) for pid in pids), 5)


@pytest.mark.slow
def test_two_workers_do_a_sweep_between_them(tmp_path):
    sweep = Sweep(tmp_path)
    sweep("sweep", "run", "sweep.yaml", "--workers", "2")
    trials = sweep.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert trials[1].datetime_start < trials[0].datetime_complete  # at the same time


@pytest.mark.slow
def test_memory_stays_flat_over_fifty_trials(worker, tmp_path):
    """Trials of one structure, as a search has them in turn; frozen, and once in a while fine-tuned."""
    memory = []
    for number in range(60):
        tuned = number % 6 == 5
        worker.send(trial=told(number, tmp_path, seed=number, lr=10 ** -(2 + number % 3), freeze_backbone=not tuned))
        memory.append(said(worker, "done")["memory"])
    early, late = statistics.median(memory[10:20]), statistics.median(memory[50:60])
    assert late - early < 0.03 * early, [f"{value / 2**20:.0f}" for value in memory]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_search_killed_at_twenty_random_moments_ends_as_if_nothing_had_happened(tmp_path):
    content = sweeps.sweep(
        run_cap=16, freeze_backbone={"values": [True, False]}, max_epochs=24, feature_cache=False
    )  # epochs long enough to be killed in
    (tmp_path / "calm").mkdir()
    calm, rough = sweeps.Command(tmp_path / "calm"), sweeps.Command(tmp_path)
    for command in (calm, rough):
        command.env["WANDB_MODE"] = "disabled"
        command.write(content)
    words = ("sweep", "run", "sweep.yaml")
    calm(*words)
    assert sweeps.kill_again_and_again(rough, words, random.Random(0), epochs=sweeps.epochs_of(tmp_path / "calm")) == 20
    assert sweeps.told(tmp_path / "runs") == sweeps.told(tmp_path / "calm" / "runs")
    assert sweeps.left(tmp_path / "runs") == sweeps.left(tmp_path / "calm" / "runs")


def test_a_pool_starts_what_is_needed_and_ends_it():
    pool = Pool(2, patience=300)
    assert pool.workers == [None, None]
    first = pool.get(1)
    assert pool.get(1) is first
    pool.drop(1)
    assert first.process.returncode is not None
    pids = [pool.get(place).process.pid for place in (0, 1)]
    pool.end()
    assert not any(alive(pid) for pid in pids)
