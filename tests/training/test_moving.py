"""A stopped run resumes after its data has moved, and refuses other data before anything slow."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ctkeras.config import RunConfig
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.runs.checkpoint import CHECKPOINT, Checkpoint, save_checkpoint
from ctkeras.runs.folder import write_config
from ctkeras.training import moving


@pytest.fixture
def stopped(tmp_path, image_folder, monkeypatch):
    """A run folder with the checkpoint of a run on `images`, a relative path that is not there any more."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    write_config(folder, RunConfig.from_mapping({"data": "images"}))
    start = [sources.open_source(str(image_folder)).fingerprint, ""]
    save_checkpoint(folder, Checkpoint({"best": [np.ones(1)]}, {"start": start}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def config(folder):
    return RunConfig.from_mapping({"data": "images", "model_name": "resnet18", "lr": 0.01})


def test_moved_data_is_followed_and_everything_else_stays(stopped, image_folder):
    found = moving.follow(config(stopped), stopped, {"data": str(image_folder)})
    assert found == RunConfig.from_mapping({**config(stopped).to_dict(), "data": str(image_folder)})


def test_the_zip_of_the_same_images_is_the_same_data(stopped, image_folder, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", image_folder)
    assert moving.follow(config(stopped), stopped, {"data": packed}).data == packed


def test_other_data_is_refused_by_its_fingerprint(stopped, image_folder):
    next(image_folder.rglob("*.png")).write_bytes(next((image_folder / "test").rglob("*.png")).read_bytes() + b"1")
    with pytest.raises(UserError, match="was started on other images"):
        moving.follow(config(stopped), stopped, {"data": str(image_folder)})


def test_data_that_is_gone_is_named_with_what_to_pass(stopped):
    with pytest.raises(UserError, match=r"images is not a file or folder.*pass --data with where it is now"):
        moving.follow(config(stopped), stopped, {})
    with pytest.raises(UserError, match="nowhere is not a file or folder") as error:
        moving.follow(config(stopped), stopped, {"data": "nowhere"})
    assert "has moved" not in str(error.value)


@pytest.mark.slow
def test_an_interrupted_command_resumes_in_another_folder(image_folder, tmp_path):
    def ctkeras(*words, cwd):
        command = [sys.executable, "-m", "ctkeras", "train", *map(str, words)]
        return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    (tmp_path / "b").mkdir()
    options = [
        "--model_name=small_cnn",
        "--pretrained=false",
        "--freeze_backbone=false",
        "--image_size=32",
        "--folds=0",
    ]
    options += ["--max_epochs=500", "--batch_size=4", "--augmentation=0", "--early_stopping=0"]
    begun = ctkeras("--data", image_folder.name, *options, cwd=image_folder.parent)
    while not (found := list(image_folder.parent.glob(f"runs/*/{CHECKPOINT}"))):
        assert begun.poll() is None, begun.stderr.read()
        time.sleep(0.2)
    begun.send_signal(signal.SIGINT)
    begun.communicate(timeout=100)
    run = found[0].parent
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(
        json.dumps(stored | {"max_epochs": len((run / "history.csv").read_text().split())})
    )
    place = shutil.move(image_folder, tmp_path / "moved")
    relative = os.path.relpath(run, tmp_path / "b")
    for words, code, text in (
        ([], 2, "pass --data with where it is now"),
        (["--data", place], 0, ""),
    ):
        resumed = ctkeras("--resume", relative, *words, cwd=tmp_path / "b")
        _, err = resumed.communicate(timeout=200)
        assert (resumed.returncode, text in err) == (code, True), err
    assert (run / "model.keras").exists()
