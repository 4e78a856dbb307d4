"""A run on a split: numbers that predictions.csv gives again, the three ways, and the log of the test split's openings."""

import concurrent.futures
import csv
import datetime
import json
import shutil

import keras
import numpy as np
import pytest
from image_sets import write_images
from PIL import Image

from ctkeras.cli import main
from ctkeras.config import RunConfig
from ctkeras.data import crop, images, sources
from ctkeras.errors import UserError
from ctkeras.evaluation import evaluate, openings, summary
from ctkeras.evaluation.metrics import choose
from ctkeras.evaluation.metrics import evaluate as metrics_evaluate
from ctkeras.models import predict
from ctkeras.runs.folder import write_json
from ctkeras.runs.predictions import prediction_rows, read_predictions

SIZE, NAMES = 32, ("left", "right")


@pytest.fixture
def data(tmp_path):
    """Two classes; the test split holds two copies of an image of its own, one image of training and one of validation."""
    root = write_images(tmp_path / "data", classes=NAMES, counts={"train": 6, "valid": 4, "test": 5}, size=SIZE)
    shutil.copy(root / "test/left/0.png", root / "test/left/copy.png")
    shutil.copy(root / "test/left/0.png", root / "test/left/copy2.png")
    shutil.copy(root / "train/right/0.png", root / "test/right/seen.png")
    shutil.copy(root / "valid/right/0.png", root / "test/right/seen2.png")
    return root


@pytest.fixture
def run(tmp_path, data):
    """A run folder whose model knows something of which half is bright, and its validation predictions."""
    folder = tmp_path / "runs/one"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", RunConfig(data=str(data), image_size=SIZE).to_dict())
    fingerprint = sources.open_source(str(data)).fingerprint
    write_json(folder / "metrics.json", {"data_fingerprint": fingerprint})
    (folder / "contract.json").write_text(json.dumps({"class_names": NAMES}))
    write_model(folder, seed=0)
    evaluate.evaluate(folder, "valid")
    return folder


def write_model(folder, seed):
    keras.utils.set_random_seed(seed)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(keras.layers.AveragePooling2D(16)(image))
    x = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x))
    keras.Model(image, x).save(folder / "model.keras")


def opened(folder):
    return json.loads((folder / "test_opened.json").read_text())["openings"]


def rows_of(folder, split):
    with open(folder / "predictions.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def test_predictions_are_the_exported_models(run, data):
    network, names, _ = predict.open_model(run)
    rows = rows_of(run, "valid")
    assert len(rows) == 8
    for row in rows:
        shown = images.read_rgb(data / row["file"], SIZE, crop.WHOLE)[None].astype(np.float32)
        chances = np.asarray(network.predict_on_batch(shown))[0]
        assert [float(row[f"p_{name}"]) for name in names] == pytest.approx(chances.tolist(), abs=1e-6)
        assert row["predicted"] == names[chances.argmax()]
        assert row["label"] == row["file"].split("/")[1]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_number_can_be_computed_again_from_predictions(run, split):
    metrics = evaluate.evaluate(run, split)
    assert json.loads((run / f"metrics_{split}.json").read_text()) == metrics
    valid, own = (read_predictions(run, name) for name in ("valid", split))
    distinct = np.array(own.files)
    if split == "test":  # the two copies are the image they copy
        distinct = np.array(["test/left/0.png" if "copy" in file else file for file in own.files])
    numbers = np.unique(distinct, return_inverse=True)[1]
    again = metrics_evaluate(
        own.labels,
        own.probabilities,
        NAMES,
        groups=numbers,
        chosen=choose(valid.labels, valid.probabilities, NAMES),
    )
    assert {name: metrics[name] for name in again} == again
    assert not any(isinstance(value, dict) for value in metrics.values())


def test_test_numbers_are_given_three_ways(run):
    metrics = evaluate.evaluate(run, "test")
    own = read_predictions(run, "test")
    right = dict(zip(own.files, own.probabilities.argmax(-1) == own.labels, strict=True))
    assert metrics["n"] == len(right) == 14
    assert metrics["acc"] == pytest.approx(np.mean(list(right.values())))
    clean = [right[file] for file in right if "seen" not in file]
    assert (metrics["clean_n"], metrics["clean_n_distinct"]) == (12, 10)
    assert metrics["clean_acc"] == pytest.approx(np.mean(clean))
    once = [right[file] for file in right if "copy" not in file]
    assert metrics["distinct_n"] == metrics["n_distinct"] == 12
    assert metrics["distinct_acc"] == pytest.approx(np.mean(once))
    for prefix in ("", "clean_", "distinct_"):
        for name in ("acc", "balanced_acc", "macro_f1", "auc"):
            bounds = [metrics[f"{prefix}{name}{end}"] for end in ("_low", "", "_high")]
            assert bounds == sorted(bounds)


def test_validation_images_that_are_also_trained_on_are_left_out_of_clean(run, data):
    shutil.copy(data / "train/left/1.png", data / "valid/left/seen.png")
    metrics = evaluate.evaluate(run, "valid")
    assert (metrics["n"], metrics["clean_n"], metrics["distinct_n"]) == (9, 8, 9)
    assert "clean_n" not in evaluate.evaluate(run, "train")


def test_the_test_split_is_opened_once_and_recorded(run, capsys):
    assert not (run / "test_opened.json").exists()  # validation was evaluated
    first = evaluate.evaluate(run, "test")
    (opening,) = opened(run)
    assert opening["model_sha256"] == first["model_sha256"]
    assert opening["data_fingerprint"] == sources.open_source(opening["data"]).fingerprint
    assert datetime.datetime.fromisoformat(opening["opened"]).tzinfo
    assert "opened" not in capsys.readouterr().err
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert evaluate.evaluate(run, "test") == json.loads((run / "metrics_test.json").read_text()) == first
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    err = capsys.readouterr().err
    assert opening["opened"] in err
    assert "--again" in err


def test_opening_it_again_needs_an_option_and_is_recorded_too(run, capsys):
    first = evaluate.evaluate(run, "test")
    again = evaluate.evaluate(run, "test", again=True)
    assert [opening["again"] for opening in opened(run)] == [False, True]
    err = capsys.readouterr().err
    assert f"opened 1 time before, first on {opened(run)[0]['opened']}, for this model" in err
    varying = {"opened", "openings"}
    assert {k: v for k, v in first.items() if k not in varying} == {k: v for k, v in again.items() if k not in varying}
    assert (first["openings"], again["openings"]) == (1, 2)


def test_another_model_opens_it_anew_with_a_note_on_the_first(run, capsys):
    first = evaluate.evaluate(run, "test")
    write_model(run, seed=1)
    second = evaluate.evaluate(run, "test")
    assert second["loss"] != first["loss"]
    assert [opening["model_sha256"] for opening in opened(run)] == [first["model_sha256"], second["model_sha256"]]
    assert "for another model of this run" in capsys.readouterr().err


def test_other_test_images_are_not_answered_with_the_stored_numbers(run, data, capsys):
    first = evaluate.evaluate(run, "test")
    (data / "test/left/copy2.png").unlink()
    capsys.readouterr()
    assert evaluate.evaluate(run, "test")["n"] == first["n"] - 1
    assert len({opening["data_fingerprint"] for opening in opened(run)}) == 2
    assert "differs from the one that the run was trained on" in capsys.readouterr().err


def test_an_opening_that_was_interrupted_is_on_record(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_probabilities", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate.evaluate(run, "test")
    assert len(opened(run)) == 1
    evaluate.evaluate(run, "test")
    assert len(opened(run)) == 2


def test_each_model_that_saw_a_test_set_is_counted(run, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))  # whose log other tests have not written to
    others = [shutil.copytree(run, tmp_path / place) for place in ("runs/two", "elsewhere/three")]
    for seed, folder in enumerate(others, start=1):
        write_model(folder, seed)
    counts = [evaluate.evaluate(folder, "test")["models_before"] for folder in (run, *others)]
    assert counts == [0, 1, 2]  # the third is in another folder of runs: the log beside the cache knows
    assert "2 other models have been evaluated on this test set before" in capsys.readouterr().err
    assert evaluate.evaluate(run, "test", again=True)["models_before"] == 2
    log = openings.read(tmp_path / "runs/test_opened.json")
    assert [each["run"] for each in log] == ["one", "two", "one"]
    assert {name for each in log for name in each} == {"opened", "run", "model_sha256", "data_fingerprint"}
    (data / "test/left/copy2.png").unlink()  # another test set
    assert evaluate.evaluate(run, "test")["models_before"] == 0


def test_no_opening_is_lost_when_many_are_recorded_at_a_time(tmp_path):
    def record(number):
        folder = tmp_path / f"run{number}"
        openings.record(folder, {"model_sha256": str(number), "data_fingerprint": "d", "data": "x", "again": False})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(24)))
    assert {each["model_sha256"] for each in openings.read(tmp_path / "test_opened.json")} == set(map(str, range(24)))


def test_mistakes_open_nothing(run, data, tmp_path):
    spoilt = shutil.copytree(run, tmp_path / "spoilt")
    (spoilt / "predictions.csv").write_text("file,split,label\na,valid,left\n")
    other = write_images(tmp_path / "other", classes=("a", "b"), counts={"train": 1, "valid": 1, "test": 1})
    half, renamed = (shutil.copytree(run, tmp_path / name) for name in ("half", "renamed"))
    rows = (renamed / "predictions.csv").read_text()
    (renamed / "predictions.csv").write_text(rows.replace("p_left", "p_top").replace(",left", ",top"))
    (half / "model.keras").write_bytes(b"PK")
    cases = (
        (spoilt, None, "predictions.csv"),
        (run, str(other), "has the classes left, right; .* has a, b"),
        (half, None, "is not a Keras model"),
        (renamed, None, "has the classes top, right"),
    )
    for folder, spec, message in cases:
        with pytest.raises(UserError, match=message):
            evaluate.evaluate(folder, "test", data=spec)
        assert not (folder / "test_opened.json").exists()


def test_without_validation_predictions_nothing_is_chosen(run):
    (run / "predictions.csv").unlink()
    metrics = evaluate.evaluate(run, "test")
    assert "temperature" not in metrics and "ece" in metrics
    assert "temperature" in evaluate.evaluate(run, "valid")


def test_predictions_hold_a_float32_exactly():
    chances = np.random.default_rng(0).random((200, 2)).astype(np.float32) ** 20
    files = tuple(map(str, range(200)))
    rows = prediction_rows(files, np.zeros(200, int), chances, class_names=NAMES, split="valid")
    stored = np.array([[row["p_left"], row["p_right"]] for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(stored, chances)


def invoke(capfd, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main.main(["evaluate", *map(str, arguments)])
    out, err = capfd.readouterr()
    return exit_.value.code, out, err


def test_the_verb_prints_three_ways_with_intervals(run, capfd):
    code, out, _ = invoke(capfd, run, "--split", "test")
    assert code == 0
    said, _, table = out.partition("\n\n")
    lines = table.splitlines()
    metrics = json.loads((run / "metrics_test.json").read_text())
    assert said.splitlines() == summary.lines(metrics)
    for prefix, title in (("", "all images"), ("clean_", "not in train or valid"), ("distinct_", "each image once")):
        at = lines[0].index(title)
        for line in lines[1:5]:
            name = line.split()[0]
            low, high = metrics[f"{prefix}{name}_low"], metrics[f"{prefix}{name}_high"]
            assert line[at:].startswith(f"{metrics[prefix + name]:.3f} ({low:.3f} to {high:.3f})")
        assert lines[5][at:].split()[0] == str(metrics[f"{prefix}n"])
    assert invoke(capfd, run, "--split", "test")[:2] == (0, out)
    code, _, err = invoke(capfd, run, "--split", "test", "--again")
    assert (code, len(opened(run))) == (0, 2)
    assert "recorded" in err


def test_unless_asked_for_the_test_split_stays_closed(run, capfd):
    code, out, _ = invoke(capfd, run)
    assert code == 0
    assert "metrics_valid.json" in out
    assert not (run / "test_opened.json").exists()


def test_the_verb_says_which_class_has_few_images_left(run, data, capfd):
    for i in range(3):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(data / f"test/left/more{i}.png")
    _, out, _ = invoke(capfd, run, "--split", "test")
    assert [line.partition(";")[0] for line in out.splitlines() if "few" in line] == [
        "all images: few images of right (7)",
        "not in train or valid: few images of right (5)",
        "each image once: few images of left (8), right (7)",
    ]
