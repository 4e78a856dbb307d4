"""Epochs of an earlier trial, taken up: the same numbers as trained from the start, and never those of another setting."""

import csv

import numpy as np
import pytest

from ctkeras.config import RunConfig
from ctkeras.runtime import files
from ctkeras.training import earlier, loop
from ctkeras.training.train import train

TINY = {"data": "phantom:48", "model_name": "mobilenet_v2", "pretrained": False, "image_size": 32, "batch_size": 8}
STAGE = TINY | {"unfreeze_from": "stage4", "mixup_alpha": 0.4, "max_epochs": 2}


@pytest.fixture(autouse=True)
def no_epochs(monkeypatch, tmp_path):
    """No epochs are kept from other tests; the rest of the cache stays."""
    monkeypatch.setattr(earlier, "PART", f"epochs-{tmp_path.name}")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains a run; returns its result and the epochs that it trained itself."""
    epochs, real = [], loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", lambda run, stop: epochs.append(run.progress.epoch + 1) or real(run, stop))

    def run(name, *, reuse=True, **values):
        epochs.clear()
        config = RunConfig.from_mapping({**STAGE, "output_dir": str(tmp_path), **values})
        return train(config, run_id=name, export=False, reuse=reuse), list(epochs)

    return run


def numbers(result):
    """History without times, answers, and trained weights."""
    with open(result.folder / "history.csv", newline="") as file:
        rows = [{k: row[k] for k in row if k not in ("epoch_seconds", "memory_bytes")} for row in csv.DictReader(file)]
    with np.load(result.folder / "trained.npz") as stored:
        arrays = [stored[key].tobytes() for key in sorted(stored.files) if key != "facts"]
    return rows, (result.folder / "predictions.csv").read_text(), arrays


def test_of_the_kept_states_the_longest_that_is_whole_and_not_too_long_is_taken(tmp_path):
    kept = files.cache_dir(earlier.PART) / "key"
    for epochs in (2, 4, 8):
        folder = tmp_path / f"run{epochs}"
        folder.mkdir()
        (folder / "checkpoint.npz").write_bytes(b"state after %d" % epochs)
        earlier.give(kept, folder, epochs=epochs)
    taken = {}
    for most in (1, 3, 4, 7, 30):
        folder = tmp_path / f"new{most}"
        folder.mkdir()
        taken[most] = earlier.take(RunConfig(max_epochs=most), kept, folder)
        if taken[most]:
            assert (folder / "checkpoint.npz").read_bytes() == b"state after %d" % taken[most]
    assert taken == {1: 0, 3: 2, 4: 4, 7: 4, 30: 8}
    assert earlier.take(RunConfig(max_epochs=30), kept, folder) == 0  # it has a checkpoint of its own
    (kept / "00008.npz").write_bytes(b"state after 9")
    (folder / "checkpoint.npz").unlink()
    assert earlier.take(RunConfig(max_epochs=30), kept, folder) == 4


@pytest.mark.slow
def test_a_longer_run_on_a_plateau_schedule_takes_up_a_shorter_one(trained, capsys):
    assert trained("short", scheduler="plateau")[1] == [1, 2]
    longer, epochs = trained("longer", scheduler="plateau", max_epochs=4)
    assert epochs == [3, 4]
    assert longer.metrics["epochs_taken_up"] == 2
    assert "Taking up 2 epochs that an earlier trial trained" in capsys.readouterr().err
    whole, epochs = trained("whole", reuse=False, scheduler="plateau", max_epochs=4)
    assert epochs == [1, 2, 3, 4]
    assert numbers(longer) == numbers(whole)
    assert not list(longer.folder.glob("checkpoint*"))
    assert trained("shorter", scheduler="plateau", max_epochs=1)[1] == [1]  # nothing so short is kept


@pytest.mark.slow
def test_the_same_run_again_trains_nothing_and_has_the_same_numbers(trained):
    first, _ = trained("first")
    again, epochs = trained("again")
    assert epochs == []
    assert numbers(again) == numbers(first)
    assert again.metrics["epochs"] == 2


@pytest.mark.slow
def test_whatever_changes_an_epoch_trains_from_the_start(trained):
    trained("first")
    assert trained("longer", max_epochs=3)[1] == [1, 2, 3]  # on a cosine, the first epochs differ too
    for name, value in {"seed": 1, "lr": 1e-3, "data": "phantom:54", "dropout": 0.1}.items():
        assert trained(f"other-{name}", **{name: value})[1] == [1, 2]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_not_taken_up(trained):
    first, _ = trained("first")
    (path,) = files.cache_dir(earlier.PART).glob("*/*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    again, epochs = trained("again")
    assert epochs == [1, 2]
    assert numbers(again) == numbers(first)
