"""Changed images: what each change does, and who may answer for a run in folds."""

import json

import keras
import numpy as np
import pytest
from image_sets import write_images

from ctkeras.cli import main
from ctkeras.config import RunConfig
from ctkeras.data import crop, decoded, phantom, sources
from ctkeras.evaluation import robustness
from ctkeras.runs.folder import write_json
from ctkeras.runs.predictions import FOLDS, prediction_rows, write_predictions

SIZE, NAMES = 32, ("left", "right")
SLICE = phantom.phantom_slice(1, 1, size=96)


@pytest.mark.parametrize("change", robustness.CHANGES, ids=lambda change: change.name)
def test_a_stronger_change_changes_more(change):
    assert len(change.strengths) == 5
    images = np.stack([SLICE, SLICE[::-1]])
    gaps = []
    for strength in change.strengths:
        altered = robustness.changed(images, change, strength)
        assert (altered.shape, altered.dtype) == (images.shape, np.uint8)
        np.testing.assert_array_equal(altered, robustness.changed(images, change, strength))
        gaps.append(np.abs(altered.astype(float) - images).mean())
    assert gaps[0] > 0 and gaps == sorted(gaps)


def test_noise_has_the_strength_it_says():
    noise = robustness.CHANGES[0]
    flat = np.full((1, 200, 200), 128, np.uint8)
    assert robustness.changed(flat, noise, 10.0).std() == pytest.approx(10, rel=0.05)


def test_an_offset_moves_by_a_share_of_the_side():
    offset = robustness.CHANGES[-1]
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 50, 50] = 255
    ((_, y, x),) = np.argwhere(robustness.changed(image, offset, 10.0))
    assert (abs(y - 50), abs(x - 50)) == (10, 10)


@pytest.fixture
def run(tmp_path):
    """A run whose model compares the brightness of both halves."""
    root = write_images(tmp_path / "data", classes=NAMES, counts={"train": 4, "valid": 6, "test": 1}, size=SIZE)
    folder = tmp_path / "runs/one"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", RunConfig(data=str(root), image_size=SIZE).to_dict())
    (folder / "contract.json").write_text(json.dumps({"class_names": NAMES}))
    model = halves(1)
    model.save(folder / "model.keras")
    return folder


def halves(members):
    """A model of several members: the first is right, each further one turned round and less sure."""
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D((SIZE, SIZE // 2))(image))
    dense = keras.layers.Dense(2 * members)
    x = dense(x)
    if members > 1:
        x = keras.layers.Softmax(name="member_probabilities")(keras.layers.Reshape((members, 2))(x))
        x = keras.layers.GlobalAveragePooling1D()(x)
    else:
        x = keras.layers.Softmax()(x)
    model = keras.Model(image, x)
    kernel = np.zeros((6, members, 2), np.float32)
    for m in range(members):
        kernel[:3, m, 0] = kernel[3:, m, 1] = (-1) ** m * 0.02 / (m + 1)
    dense.set_weights([kernel.reshape(6, -1), np.zeros(2 * members, np.float32)])
    return model


def test_each_change_is_measured_at_each_strength(run, capfd):
    with pytest.raises(SystemExit) as exit_:
        main.main(["evaluate", str(run), "--robustness"])
    assert exit_.value.code == 0
    values = json.loads((run / "robustness.json").read_text())
    assert (values["split"], values["n"], values["acc"], values["by"]) == ("valid", 12, 1.0, "the exported model")
    assert len(values["rows"]) == 30
    for row in values["rows"]:
        assert row.keys() == {"change", "strength", "unit", "acc", "low", "high"}
        assert row["low"] <= row["acc"] <= row["high"]
    out = capfd.readouterr().out
    assert values["worst"] in out
    assert all(change.name in out for change in robustness.CHANGES)


def test_in_folds_the_member_that_was_not_trained_on_an_image_answers(run):
    halves(2).save(run / "model.keras")
    config = json.loads((run / "config.json").read_text())
    split = decoded.load_split(sources.open_source(config["data"]), "valid", SIZE, crop.WHOLE)
    members = robustness._members(keras.saving.load_model(run / "model.keras"))
    each = robustness._probabilities(members, np.asarray(split.images))
    fold = np.arange(12) % 2
    files = split.files[:10]  # two were left out of the folds
    rows = prediction_rows(files, split.labels[:10], each[np.arange(12), fold][:10], class_names=NAMES, split=FOLDS)
    write_predictions(run, rows, split=FOLDS)
    found = robustness.robustness(run)
    assert "not trained on the image" in found["by"]
    assert (found["n"], found["acc"]) == (10, 0.5)  # the second member is always wrong
    for row in rows:
        row["p_left"], row["p_right"] = 0.5, 0.5  # of models that are not in the file
    write_predictions(run, rows, split=FOLDS)
    found = robustness.robustness(run)
    assert found["n"] == 12 and "trained on these images too" in found["by"]


def test_the_worst_case_is_named():
    rows = [
        {"change": "blur", "strength": 2.0, "unit": "pixels", "acc": 0.6, "low": 0.5, "high": 0.7},
        {"change": "noise", "strength": 5.0, "unit": "gray levels", "acc": 0.8, "low": 0.7, "high": 0.9},
    ]
    assert robustness.worst(0.9, rows) == (
        "Worst case: blur of 2 pixels lowers accuracy from 0.900 to 0.600 (0.500 to 0.700)."
    )
    assert "No change" in robustness.worst(0.5, rows)


def test_test_images_are_not_used(run, capfd):
    with pytest.raises(SystemExit) as exit_:
        main.main(["evaluate", str(run), "--robustness", "--split", "test"])
    assert exit_.value.code == 2
    assert "no choice rests on test" in capfd.readouterr().err
