"""Many processes that start the same training at once: features and programs are made once, whoever dies."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ctkeras.data.decoded import Split
from ctkeras.runtime import locks, mounts, stored
from ctkeras.training import features

FORK = multiprocessing.get_context("fork")

PROCESSES = 8
# Imports once, without starting JAX, then forks: each child is a process of its own with the imports already paid.
CHILDREN = f"""
import errno, fcntl, json, os, sys, time
from pathlib import Path
import jax, keras
from ctkeras.config import RunConfig
from ctkeras.runtime import locks, mounts
from ctkeras.training import train
folder, kind, values = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
(folder / "mounts").write_text(f"server:/x {{folder}} {{'ext4' if kind == 'error 38' else kind}} rw 0 0\\n")
mounts.MOUNTS, locks.WAIT_SECONDS = folder / "mounts", 0.2
if kind == "error 38":
    def fails(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = fails

def child(number):
    sys.stderr = open(folder / f"{{number}}.err", "w", buffering=1)
    result = train.train(RunConfig.from_mapping(values | {{"output_dir": str(folder / "runs")}}), run_id=f"r{{number}}")
    (folder / f"{{number}}.done").write_text(json.dumps(result.metrics))

pids = []
for number in range({PROCESSES}):
    if not (pid := os.fork()):
        code = 1
        try:
            child(number)
            code = 0
        finally:
            os._exit(code)
    pids.append(pid)
print(" ".join(map(str, pids)), flush=True)
print(" ".join(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for pid in pids))
"""
SMALL = {"data": "phantom:24", "image_size": 32, "pretrained": False, "max_epochs": 1, "batch_size": 8, "folds": "0"}
SMALL |= {"model_name": "small_cnn", "augmentation": 0.0}


def train_at_once(folder, values, *, kind, kill=""):
    """Trains in many processes; with `kill`, the first that makes a file of this pattern dies. Returns the metrics."""
    env = os.environ | {"CTKERAS_CACHE_DIR": str(folder / "cache"), "WANDB_MODE": "disabled"}
    command = [sys.executable, "-c", CHILDREN, str(folder), kind, json.dumps(values)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline()
        if kill:
            end = time.monotonic() + 120
            while not (found := list(folder.glob(kill))):
                assert time.monotonic() < end
                time.sleep(0.01)
            victim = found[0]
            pid = int(victim.read_text().rpartition("|")[2] if victim.suffix == ".lock" else victim.name.split(".")[0])
            os.kill(pid, signal.SIGKILL)
        codes = [int(code) for code in parent.stdout.readline().split()]
    errors = "".join(path.read_text() for path in folder.glob("*.err"))
    assert sorted(codes) == [-signal.SIGKILL] * bool(kill) + [0] * (PROCESSES - bool(kill)), errors[-3000:]
    return [json.loads(path.read_text()) for path in folder.glob("*.done")], errors


def load_features(folder, number, start, *, dies):
    """Loads features as one task of many, from a backbone that is one multiplication, over a slow server."""
    sys.stderr = open(folder / f"{number}.err", "w", buffering=1)  # noqa: SIM115 - until the process ends
    write = stored.write_array

    def slowly(path, array):
        (folder / f"{os.getpid()}.{path.stem[:8]}.features").touch()
        first = len(list(folder.glob("*.features"))) == 1
        time.sleep(60 if dies and first else 0.5)
        write(path, array)

    stored.write_array, locks.WAIT_SECONDS = slowly, 0.1
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    split = Split(images, np.arange(20, dtype=np.int32) % 2, tuple(map(str, range(20))), ("a", "b"))
    prefix = SimpleNamespace(name="backbone", output_shape=(None, 3))
    backbone = SimpleNamespace(parts=SimpleNamespace(prefix=prefix), prefix_step=lambda batch: batch.mean((1, 2)) * 2)
    start.wait(60)
    facts = {"weights": "w", "augmentation": 0.0, "precision": "float32"}
    views = features.load(backbone, split, name="training", views=2, **facts)
    (folder / f"{number}.loaded").write_bytes(np.concatenate(views).tobytes())


@pytest.mark.parametrize(
    ("kind", "killed"),
    [pytest.param("ext4", 0, marks=pytest.mark.slow), ("nfs4", 1), pytest.param("error 38", 1, marks=pytest.mark.slow)],
)
def test_sixteen_processes_compute_features_once(tmp_path, monkeypatch, kind, killed):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path} {'nfs4' if kind == 'nfs4' else 'ext4'} rw 0 0\n")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    if kind == "error 38":
        monkeypatch.setattr(fcntl, "flock", no_flock)
    start = FORK.Barrier(16)
    given = [{"args": (tmp_path, number, start), "kwargs": {"dies": bool(killed)}} for number in range(16)]
    running = [FORK.Process(target=load_features, **one) for one in given]
    for one in running:
        one.start()
    if killed:
        while not (builders := list(tmp_path.glob("*.features"))):
            time.sleep(0.01)
        os.kill(int(builders[0].name.split(".")[0]), signal.SIGKILL)
    for one in running:
        one.join(60)
    assert sorted(one.exitcode for one in running) == [-signal.SIGKILL] * killed + [0] * (16 - killed)
    made = [path.name.split(".")[1] for path in tmp_path.glob("*.features")]
    assert len(set(made)) == 2  # one file per view
    assert len(made) == 2 + killed
    assert len({path.read_bytes() for path in tmp_path.glob("*.loaded")}) == 1
    said = [path.read_text() for path in tmp_path.glob("*.err")]
    waited = [text for text in said if "Waiting for another process that computes training features (process " in text]
    assert len(waited) >= 8  # on a busy machine some begin late and find it computed
    assert all("  waited " in text for text in waited[:1])


def no_flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "nfs4", "error 38"])
def test_a_training_step_is_compiled_once(tmp_path, kind):
    values = SMALL | {"freeze_backbone": False}
    metrics, errors = train_at_once(tmp_path, values, kind=kind)
    assert sum(one["train_programs_compiled"] for one in metrics) == 1
    assert len({one["val_loss"] for one in metrics}) == 1
    assert "Waiting for another process that compiles the training step (process " in errors


@pytest.mark.slow
def test_a_builder_killed_while_it_compiles_is_replaced(tmp_path):
    values = SMALL | {"freeze_backbone": False}
    metrics, _ = train_at_once(tmp_path, values, kind="ext4", kill="cache/jax/jit_train_step*.lock")
    assert sum(one["train_programs_compiled"] for one in metrics) == 1
    assert len({one["val_loss"] for one in metrics}) == 1
