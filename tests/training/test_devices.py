"""One run over several devices has the numbers of one device, also with odd batches, resumed elsewhere, and exported."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ctkeras.runs.history import read_history
from ctkeras.training import start

VALUES = {"data": "phantom:48", "image_size": 32, "model_name": "small_cnn", "pretrained": False, "folds": "0"}
VALUES |= {"max_epochs": 3, "batch_size": 8, "augmentation": 0.0, "freeze_backbone": False, "lr": 0.001}
FROZEN = {"freeze_backbone": True, "feature_views": 1}
# Each run is (name, hyperparameters, steps before it is stopped or 0, whether to resume it).
CODE = """
import json, sys
from pathlib import Path
from ctkeras.config import RunConfig
from ctkeras.training import stopping, train
class After(stopping.Stop):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs
    def row(self, row):
        if row["epoch"] == self.epochs:
            self.ask("sigterm")
folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
for name, values, epochs in runs:
    stop = After(epochs)
    config = RunConfig.from_mapping(values | {"output_dir": str(folder)})
    resume = folder / name if (folder / name).exists() else None
    train.train(config, run_id=name, stop=stop, after_epoch=stop.row, resume=resume)
import jax
print(jax.local_device_count())
"""


def train_on(devices, folder, *runs):
    """Trains runs one after another in one process that has so many devices. Returns what it wrote to the terminal."""
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "WANDB_MODE": "disabled"}
    env["CTKERAS_CACHE_DIR"] = str(folder / f"cache{devices}")  # or features would come from the other's
    runs = [(name, VALUES | values, epochs) for name, values, epochs in runs]
    command = [sys.executable, "-c", CODE, str(folder), json.dumps(runs)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == str(devices)
    return done.stderr


def assert_equal_numbers(one, other):
    rows, others = (read_history(folder) for folder in (one, other))
    assert len(rows) == len(others) == VALUES["max_epochs"]
    for mine, its in zip(rows, others, strict=True):
        assert float(mine["train_loss"]) == pytest.approx(float(its["train_loss"]), rel=2e-3)
        assert float(mine["val_loss"]) == pytest.approx(float(its["val_loss"]), rel=1e-2)


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one(tmp_path):
    """Trained from pixels and from features; stopped on one and resumed on the other; exported."""
    odd = {"batch_size": 7}
    train_on(1, tmp_path, ("pixels1", {}, 0), ("frozen1", FROZEN, 0), ("odd1", odd, 0), ("moved1", {}, 1))
    said = train_on(
        2,
        tmp_path,
        ("pixels2", {}, 0),
        ("frozen2", FROZEN, 0),
        ("odd2", odd, 0),
        ("again2", {}, 0),  # after a run on another number of devices, in the same process
        ("moved1", {}, 0),
        ("moved2", {}, 1),
    )
    train_on(1, tmp_path, ("moved2", {}, 0))
    assert "Spreading each batch over 2 devices." in said
    assert "Using one device of 2: no more of them divide batch_size 7 evenly." in said
    for one, other in (("pixels1", "pixels2"), ("frozen1", "frozen2"), ("odd1", "odd2"), ("pixels1", "again2")):
        assert_equal_numbers(tmp_path / one, tmp_path / other)
    for moved in ("moved1", "moved2"):
        assert_equal_numbers(tmp_path / "pixels1", tmp_path / moved)
    for one, other in (("pixels1", "pixels2"), ("frozen1", "frozen2")):
        mine, its = (json.loads((tmp_path / name / "contract.json").read_text()) for name in (one, other))
        assert mine.keys() == its.keys()
        answers = [exported(tmp_path / name) for name in (one, other)]
        np.testing.assert_allclose(*answers, atol=2e-3)


def exported(folder):
    """What a run's exported model answers to noise."""
    import keras

    model = keras.models.load_model(folder / "model.keras", compile=False)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("float32")
    return np.asarray(model.predict(images, verbose=0))


@pytest.mark.parametrize(("devices", "batch_size", "used"), [(4, 8, 4), (4, 6, 3), (4, 7, 1), (2, 1, 1), (8, 12, 6)])
def test_a_batch_is_spread_over_as_many_devices_as_divide_it(monkeypatch, capsys, devices, batch_size, used):
    import keras

    spread = []
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: [f"cpu:{n}" for n in range(devices)])
    monkeypatch.setattr(keras.distribution, "DataParallel", lambda devices: devices)
    monkeypatch.setattr(keras.distribution, "set_distribution", spread.append)
    start._distribute(batch_size)
    assert len(spread[0] or "1") == used
    assert (f"over {used} devices" if used > 1 else "Using one device") in capsys.readouterr().err
