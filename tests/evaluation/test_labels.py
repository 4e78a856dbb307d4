"""Labels that look wrong: confident learning by its definition, and images under two labels first."""

import json
import shutil

import numpy as np
import pytest
from image_sets import write_images

from ctkeras.cli import main
from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.evaluation import labels
from ctkeras.runs.folder import write_json
from ctkeras.runs.predictions import FOLDS, prediction_rows, write_predictions

NAMES = ("left", "right")


def test_an_image_is_doubted_if_it_is_confidently_of_another_class():
    chances = np.array([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    given = np.array([0, 0, 0, 1, 1, 1])  # class 1 is confident from 0.683 on, class 0 from 0.567
    which, suggested = labels.confident(given, chances)
    assert (which.tolist(), suggested.tolist()) == ([2], [1])


def test_the_furthest_from_its_label_comes_first():
    rng = np.random.default_rng(0)
    true = rng.integers(3, size=300)
    given = np.where(np.arange(300) < 12, (true + 1) % 3, true)
    logits = rng.standard_normal((300, 3)) + 3 * np.eye(3)[true]
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    which, suggested = labels.confident(given, chances)
    assert len(which[which < 12]) >= 8  # of the 12 wrong labels, and few of the 288 others
    assert len(which[which >= 12]) <= 2
    margin = chances[which, given[which]] - chances[which, suggested]
    assert (np.diff(margin) >= 0).all() and (margin < 0).all()


@pytest.mark.filterwarnings("error")
def test_a_class_without_images_is_never_suggested():
    chances = np.array([[0.6, 0.1, 0.3], [0.1, 0.5, 0.4], [0.2, 0.1, 0.7]])
    assert 2 not in labels.confident(np.array([0, 1, 1]), chances)[1]


@pytest.fixture
def run(tmp_path):
    """A run in folds: right/0 is left/0 under another label, and left out; left/3 looks like a right one."""
    root = write_images(tmp_path / "data", classes=NAMES, counts={"train": 6, "valid": 1, "test": 1}, size=32)
    shutil.copy(root / "train/left/0.png", root / "train/right/0.png")
    folder = tmp_path / "runs/one"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", RunConfig(data=str(root), image_size=32).to_dict())
    files = [f"train/{name}/{i}.png" for name in NAMES for i in range(1, 6)]
    given = np.repeat([0, 1], 5)
    right = 0.9 - 0.01 * np.arange(10) - 0.75 * (np.arange(10) == 2)
    chances = np.where(np.eye(2, dtype=bool)[given], right[:, None], 1 - right[:, None])
    rows = prediction_rows(files, given, chances, class_names=NAMES, split=FOLDS)
    write_predictions(folder, rows, split=FOLDS)
    return folder


def test_an_image_under_two_labels_comes_first(run):
    found = labels.check(run)
    assert found == json.loads((run / "labels.json").read_text())
    assert (found["by"], found["n"]) == ("folds", 10)
    assert [(row["file"], row["label"], row["suggested"], row["reason"]) for row in found["rows"]] == [
        ("train/left/0.png", "left", "right", "two labels"),
        ("train/right/0.png", "right", "left", "two labels"),
        ("train/left/3.png", "left", "right", "contradicted"),
    ]
    assert found["rows"][0]["p_label"] is None  # no model outside its folds has classified it
    assert (found["rows"][2]["p_label"], found["rows"][2]["p_suggested"]) == pytest.approx((0.13, 0.87))


def test_the_verb_lists_them(run, capfd):
    with pytest.raises(SystemExit) as exit_:
        main.main(["labels", str(run)])
    assert exit_.value.code == 0
    first, conflict, _, doubt, last = capfd.readouterr().out.splitlines()
    assert first.startswith("3 labels look wrong of 10 images")
    assert conflict.strip() == "train/left/0.png: the same image is also labelled right"
    assert doubt.strip() == "train/left/3.png: labelled left, suggested right (0.87 against 0.13)"
    assert last.endswith("labels.json")


def test_pictures_show_the_evidence_for_the_suggested_class(run):
    import keras

    image = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(4, 5, strides=4, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(maps)
    keras.Model(image, keras.layers.Dense(2, activation="softmax")(x)).save(run / "model.keras")
    (run / "contract.json").write_text(json.dumps({"class_names": NAMES}))
    written = labels.write_pictures(run, labels.check(run)["rows"])
    assert [path.name for path in written] == ["01.png", "02.png", "03.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_without_predictions_it_says_how_to_get_them(run):
    (run / "predictions.csv").unlink()
    with pytest.raises(UserError, match="create them with `evaluate"):
        labels.check(run)
