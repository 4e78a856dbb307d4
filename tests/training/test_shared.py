"""Many processes that start the same training at once: features and programs are made once, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

PROCESSES = 8
# Imports once, without starting JAX, then forks: each child is a process of its own with the imports already paid.
CHILDREN = f"""
import errno, fcntl, json, os, sys, time
from pathlib import Path
import jax, keras
from ctkeras.config import RunConfig
from ctkeras.runtime import locks, mounts, process, stored
from ctkeras.training import programs, train
folder, kind, values = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
(folder / "mounts").write_text(f"server:/x {{folder}} {{'ext4' if kind == 'error 38' else kind}} rw 0 0\\n")
mounts.MOUNTS, locks.WAIT_SECONDS = folder / "mounts", 0.2
if kind == "error 38":
    def fails(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = fails
written, compiling = stored.write_array, programs.Programs._call

def slowly(path, array):
    if "features" in path.parts:
        (folder / f"{{os.getpid()}}.{{path.stem[:8]}}.features").touch()
        time.sleep(1.5)  # a slow server
    written(path, array)

def child(number):
    sys.stderr = open(folder / f"{{number}}.err", "w", buffering=1)
    stored.write_array = slowly
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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kill"), [("ext4", ""), ("nfs4", "*.features"), ("error 38", "*.features")])
def test_features_are_computed_once(tmp_path, kind, kill):
    values = SMALL | {"freeze_backbone": True}
    metrics, errors = train_at_once(tmp_path, values, kind=kind, kill=kill)
    made = [path.name.split(".")[1] for path in tmp_path.glob("*.features")]
    assert len(set(made)) == 2  # of training and of validation
    assert len(made) == 2 + bool(kill)
    assert len({one["val_loss"] for one in metrics}) == 1
    assert "features (process " in errors
    assert "  waited " in errors


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
