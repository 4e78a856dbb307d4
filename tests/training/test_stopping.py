"""A stop is seen to while the main thread is stuck in a step, with the real signals, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ctkeras.training import stopping

# The CLI, with one step that blocks the main thread for a minute as a long compiled call does, and says when.
STUCK = """
import sys, time
from ctkeras.cli.main import run
from ctkeras.training.programs import Programs
one, several, done, stuck_at = Programs.train_step, Programs.train_steps, [], int(sys.argv.pop(1))
def count(steps):
    before = len(done)
    done.extend([1] * steps)
    if before < stuck_at <= len(done):
        print("stuck", flush=True)
        time.sleep(60)
def train_step(self, *args):
    count(1)
    return one(self, *args)
def train_steps(self, state, batches, **options):
    count(len(batches))
    return several(self, state, batches, **options)
Programs.train_step, Programs.train_steps = train_step, train_steps
run()
"""
TRAIN = (
    "train --data phantom:48 --model_name mobilenet_v2 --pretrained false --image_size 32 --batch_size 8 --max_epochs 9 "
    "--optimizer adamw"
)


def stopped(tmp_path, *words, stuck_at, number, env=None):
    """Starts a run, sends a signal once it is stuck; returns (exit code, seconds it took to end, run folder, output)."""
    command = [sys.executable, "-c", STUCK, str(stuck_at), *TRAIN.split(), *words, "--output_dir", str(tmp_path)]
    env = os.environ | (env or {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline().strip() == "stuck", process.stderr.read()[-2000:]
    sent = time.monotonic()
    process.send_signal(number)
    output = "".join(process.communicate(timeout=50))
    (folder,) = (path for path in tmp_path.iterdir() if path.name != "wandb")
    return process.returncode, time.monotonic() - sent, folder, output


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "frozen"), [(signal.SIGTERM, "true"), (signal.SIGINT, "true"), (signal.SIGTERM, "false")]
)
def test_a_stuck_run_leaves_its_best_model_within_20_s(tmp_path, number, frozen):
    steps = 48 * 6 // 10 // 8
    words = ("--freeze_backbone", frozen)
    code, seconds, folder, output = stopped(tmp_path, *words, stuck_at=2 * steps + 2, number=number)
    assert code == 0, output[-2000:]
    assert seconds < 20
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["stopped_by"] == number.name.lower()
    assert metrics["epochs"] == 2
    assert (folder / "predictions.csv").exists()
    import keras

    assert keras.saving.load_model(folder / "model.keras").output.shape == (None, 4)
    done = subprocess.run(
        [sys.executable, "-m", "ctkeras", "train", "--resume", folder], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 9


@pytest.mark.integration
def test_a_run_stuck_in_its_first_epoch_says_that_there_is_no_model(tmp_path):
    code, seconds, folder, _ = stopped(tmp_path, stuck_at=2, number=signal.SIGTERM)
    assert code == 0
    assert seconds < 20
    assert json.loads((folder / "metrics.json").read_text())["stopped_by"] == "sigterm"
    assert not (folder / "model.keras").exists()


def test_the_first_reason_stays_and_nobody_waits_after_the_end():
    stop = stopping.Stop()
    stop.ask("sigterm")
    stop.ask("sigint")
    assert stop.reason == "sigterm"
    assert stop.wait()
    stop.end()
    assert not stop.wait()


def test_the_watcher_leaves_a_run_alone_that_ends_by_itself(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 0.2)
    calls = []
    for ends_by_itself in (True, False):
        stop = stopping.Stop()
        stopping.watch(stop, lambda: calls.append(1))
        stop.ask("sigterm")
        if ends_by_itself:
            stop.end()
        time.sleep(0.5)
    assert calls == [1]


def test_signals_ask_and_earlier_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    stop = stopping.Stop()
    with stopping.on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait()
    assert stop.reason == "sigterm"
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]
