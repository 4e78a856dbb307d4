"""A run from config to run folder: what it leaves, that it learns, that it resumes to the same numbers, that it stops well."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctkeras.config import EPOCH_METRICS, RunConfig
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.evaluation import calibration
from ctkeras.runs import places
from ctkeras.runs.folder import read_config
from ctkeras.runs.predictions import read_predictions
from ctkeras.search.worker import run_local
from ctkeras.training import loop, stopping
from ctkeras.training.train import TrainingFailed, train

TINY = {"data": "phantom:48", "model_name": "mobilenet_v2", "pretrained": False, "image_size": 32, "batch_size": 8}
# Fine-tuning everything, with all that draws at random or remembers: mixup, augmentation, dropout, plateau, warm-up.
FULL = TINY | {
    "freeze_backbone": False,
    "mixup_alpha": 0.4,
    "scheduler": "plateau",
    "warmup_epochs": 1,
    "max_epochs": 4,
}
FROZEN = TINY | {"freeze_backbone": True, "mixup_alpha": 0.4, "max_epochs": 4, "feature_views": 2}
STAGE = FROZEN | {"unfreeze_from": "stage4"}
HEAD_FIRST = FULL | {"head_epochs": 2, "optimizer": "sgd", "lr": 0.01}


class StopAfter(stopping.Stop):
    """Asks to stop when it has been read `reads` times without being asked, as a signal at that moment would."""

    def __init__(self, reads):
        super().__init__()
        self.left = reads

    @property
    def reason(self):
        self.left -= 1
        return "sigterm" if self.left < 0 else ""

    @reason.setter
    def reason(self, value):
        pass


def config(tmp_path, **values):
    return RunConfig.from_mapping({"output_dir": str(tmp_path), **values})


def read_history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def numbers(folder):
    """What a resumed run must repeat: the history without its times, and the predictions."""
    rows = [{k: row[k] for k in row if k not in ("epoch_seconds", "memory_bytes")} for row in read_history(folder)]
    return rows, (folder / "predictions.csv").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(config(tmp_path_factory.mktemp("runs"), **FROZEN))


def test_run_folder_holds_what_is_promised(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert {"config.json", "history.csv", "metrics.json", "model.keras", "contract.json", "predictions.csv"} <= names
    assert "checkpoint.npz" not in names
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    needed = "val_acc val_loss best_epoch epochs params_total params_trainable seconds_total seconds_compile stopped_by"
    assert {*needed.split(), "data_fingerprint", "versions"} <= metrics.keys()
    stored_config = json.loads((finished.folder / "config.json").read_text())
    for values in (metrics, stored_config):
        assert not any(isinstance(value, dict | list) for value in values.values())
    assert (stored_config.pop("format"), metrics["format"]) == (1, 1)
    assert RunConfig.from_mapping(stored_config) == read_config(finished.folder)


def test_history_has_a_row_an_epoch_under_the_declared_names(finished):
    rows = read_history(finished.folder)
    assert tuple(rows[0]) == EPOCH_METRICS
    assert [int(row["epoch"]) for row in rows] == list(range(1, FROZEN["max_epochs"] + 1))
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())


def test_metrics_are_those_of_the_best_epoch_by_accuracy_then_loss(finished):
    rows = [{key: float(value) for key, value in row.items()} for row in read_history(finished.folder)]
    best = min(rows, key=lambda row: (-row["val_acc"], row["val_loss"]))
    assert finished.metrics["best_epoch"] == best["epoch"]
    assert finished.metrics["val_acc"] == pytest.approx(best["val_acc"])
    assert finished.metrics["val_loss"] == pytest.approx(best["val_loss"])


def test_exported_model_gives_the_recorded_predictions_and_accuracy(finished, tmp_path):
    from ctkeras.evaluation import evaluate

    folder = shutil.copytree(finished.folder, tmp_path / "run")
    before = (folder / "predictions.csv").read_text().splitlines()
    metrics = evaluate.evaluate(folder, "valid")
    assert metrics["acc"] == pytest.approx(finished.metrics["val_acc"])
    assert metrics["loss"] == pytest.approx(finished.metrics["val_loss_calibrated"], abs=1e-4)
    assert metrics["loss_uncalibrated"] == pytest.approx(finished.metrics["val_loss"], abs=1e-4)
    assert metrics["ece"] == pytest.approx(finished.metrics["val_ece_calibrated"], abs=1e-4)
    assert metrics["ece_uncalibrated"] == pytest.approx(finished.metrics["val_ece"], abs=1e-4)
    after = (folder / "predictions.csv").read_text().splitlines()
    assert [row.split(",")[:4] for row in before] == [row.split(",")[:4] for row in after]


def test_calibration_changes_confidence_and_no_answer(finished, tmp_path):
    plain = train(config(tmp_path, **FROZEN, calibrate=False))
    assert numbers(plain.folder)[0] == numbers(finished.folder)[0]
    temperature = finished.metrics["temperature"]
    assert "temperature" not in plain.metrics and finished.metrics["val_acc"] == plain.metrics["val_acc"]
    stated = [json.loads((run.folder / "contract.json").read_text())["temperature"] for run in (finished, plain)]
    assert stated == [temperature, None]
    before, after = (read_predictions(run.folder, "valid").probabilities for run in (plain, finished))
    np.testing.assert_allclose(calibration.tempered(before, temperature), after, atol=1e-6)
    assert finished.metrics["val_loss_calibrated"] < finished.metrics["val_loss"] == plain.metrics["val_loss"]


def test_parameters_are_counted(finished):
    import keras

    model = keras.saving.load_model(finished.folder / "model.keras")
    assert finished.metrics["params_total"] == model.count_params()
    head = model.get_layer("logits")
    assert finished.metrics["params_trainable"] == sum(int(np.prod(w.shape)) for w in head.weights)


@pytest.mark.parametrize(
    ("values", "epochs"),
    [
        pytest.param(FULL, 2, id="full", marks=pytest.mark.slow),
        pytest.param(FROZEN, 2, id="frozen", marks=pytest.mark.slow),
        pytest.param(FROZEN | {"folds": 2, "best": "last"}, 2, id="folds"),
        pytest.param(STAGE, 2, id="stage", marks=pytest.mark.slow),
        pytest.param(STAGE | {"head_epochs": 2}, 2, id="between_head_and_stage", marks=pytest.mark.slow),
        pytest.param(HEAD_FIRST, 2, id="between_head_and_all", marks=pytest.mark.slow),
        pytest.param(HEAD_FIRST, 3, id="after_head", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_repeats_the_uninterrupted_one(tmp_path, values, epochs):
    whole = train(config(tmp_path, **values), run_id="whole")
    images = sources.open_source(values["data"]).images
    steps = images * 6 // 10 // values["batch_size"]
    if members := values.get("folds"):  # of train and valid, 3 images in 4, each member trains on half
        steps = members * (images * 3 // 4 // 2 // values["batch_size"])
    cut = train(config(tmp_path, **values), run_id="cut", stop=StopAfter(epochs * steps + 1))
    assert cut.metrics["stopped_by"] == "sigterm"
    assert cut.metrics["epochs"] == epochs
    resumed = train(read_config(cut.folder), resume=cut.folder)
    assert numbers(resumed.folder) == numbers(whole.folder)
    assert resumed.metrics["best_epoch"] == whole.metrics["best_epoch"]
    assert resumed.metrics["stopped_by"] == "max_epochs"


def test_a_heads_steps_have_the_same_numbers_in_programs_of_any_length(tmp_path, monkeypatch):
    """Of three steps per epoch: one program of three, a program of two and one of one, and each by itself."""
    values = FROZEN | {"dropout": 0.4, "warmup_epochs": 1, "scheduler": "cosine"}
    found = []
    for most in (16, 2, 1):
        monkeypatch.setattr(loop, "AT_ONCE", most)
        rows = read_history(train(config(tmp_path, **values), run_id=f"at_once-{most}", export=False).folder)
        found.append([[float(row[name]) for name in ("train_loss", "val_loss", "train_acc", "lr")] for row in rows])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


def test_heads_side_by_side_have_the_numbers_of_one_at_a_time_and_resume(tmp_path, monkeypatch):
    """As on an accelerator: stopped in the third epoch of four, between its two batches."""
    values = FROZEN | {"folds": 2, "best": "last", "dropout": 0.4}
    runs = {"one_at_a_time": train(config(tmp_path, **values), run_id="one_at_a_time", export=False)}
    monkeypatch.setattr(loop, "_together", lambda run: True)
    runs["together"] = train(config(tmp_path, **values), run_id="together", export=False)
    cut = train(config(tmp_path, **values), run_id="cut", stop=StopAfter(2 * 2 + 1), export=False)
    assert (cut.metrics["stopped_by"], cut.metrics["epochs"]) == ("sigterm", 2)
    runs["resumed"] = train(read_config(cut.folder), resume=cut.folder, export=False)
    assert numbers(runs["resumed"].folder) == numbers(runs["together"].folder)
    for name in ("train_loss", "val_loss", "train_acc"):
        alone, together = (
            [float(row[name]) for row in read_history(runs[which].folder)] for which in ("one_at_a_time", "together")
        )
        np.testing.assert_allclose(together, alone, rtol=1e-3)


def test_same_seed_same_numbers_in_a_used_process_other_seed_others(tmp_path, finished):
    again = train(config(tmp_path, **FROZEN))
    assert numbers(again.folder) == numbers(finished.folder)
    other = train(config(tmp_path, **FROZEN | {"seed": 1}))
    assert numbers(other.folder) != numbers(finished.folder)


def test_stop_before_the_first_epochs_end_leaves_no_model_and_says_so(tmp_path):
    train(config(tmp_path, **FROZEN), run_id="cut", stop=StopAfter(1))
    assert not (tmp_path / "cut" / "model.keras").exists()
    metrics = json.loads((tmp_path / "cut" / "metrics.json").read_text())
    assert metrics["stopped_by"] == "sigterm"
    assert metrics["val_acc"] is None


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


def as_a_trial(found):
    """As a worker of a search trains a trial that another worker began."""
    seen = []
    kinds = {"group": "", "job_type": "", "before": seen.extend, "leave": lambda: None, "export": True}
    done = run_local(found, run_id="cut", stop=stopping.Stop(), after_epoch=lambda row: None, **kinds)
    assert seen == []  # no epoch of the lost process counts
    return done


def as_resumed(found):
    return train(found, resume=Path(found.output_dir) / "cut")


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run that was stopped after its first epoch."""
    found = train(config(tmp_path_factory.mktemp("runs"), **FROZEN), run_id="cut", stop=StopAfter(8))
    assert found.metrics["epochs"] > 0
    return found.folder


@pytest.mark.parametrize("again", [as_resumed, pytest.param(as_a_trial, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-9], lambda _: b""], ids=["bit", "cut", "empty"])
def test_a_run_whose_checkpoint_is_damaged_trains_from_its_start(tmp_path, finished, cut, capsys, damage, again):
    folder = shutil.copytree(cut, tmp_path / "cut")
    path = folder / "checkpoint.npz"
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    done = again(config(tmp_path, **FROZEN))
    assert numbers(done.folder) == numbers(finished.folder)
    assert capsys.readouterr().err.count("checkpoint.npz was damaged") == 1
    assert (folder / "checkpoint.npz.damaged").exists() and not path.exists()


def test_resume_refuses_other_data(tmp_path):
    cut = train(config(tmp_path, **FROZEN), stop=StopAfter(8))
    stored = read_config(cut.folder).to_dict()
    with pytest.raises(UserError, match="other images"):
        train(RunConfig.from_mapping(stored | {"data": "phantom:52"}), resume=cut.folder)
    (place,) = places.read(cut.folder)  # what was refused has not trained
    assert place["ended"] == cut.metrics["stopped_by"]


def test_nan_ends_the_run_with_its_step_and_a_hint(tmp_path):
    with pytest.raises(TrainingFailed, match=r"epoch 1, step \d+.*lower lr"):
        train(config(tmp_path, **FROZEN | {"lr": 1e38, "optimizer": "sgd"}), run_id="nan")
    assert json.loads((tmp_path / "nan" / "metrics.json").read_text())["stopped_by"] == "nan"


@pytest.mark.parametrize("values", [FROZEN, pytest.param(STAGE, marks=pytest.mark.slow)], ids=["frozen", "stage"])
def test_other_numbers_compile_nothing(tmp_path, values):
    """Nor do they load a compiled program again; structural settings do."""
    train(config(tmp_path, **values))
    numbers = {"lr": 0.01, "weight_decay": 0.01, "dropout": 0.1, "label_smoothing": 0.2, "mixup_alpha": 0.7, "seed": 5}
    metrics = train(config(tmp_path, **values | numbers | {"scheduler": "step"})).metrics
    assert [metrics[name] for name in ("train_programs_compiled", "cache_hits", "cache_misses")] == [0, 0, 0]
    other = train(config(tmp_path, **values | {"batch_size": 7, "max_epochs": 1})).metrics
    assert other["train_programs_compiled"] + other["cache_hits"] > 0


@pytest.mark.slow
def test_a_second_process_finds_the_compiled_programs(tmp_path):
    import subprocess
    import sys

    flags = [f"--{name}={value}" for name, value in (STAGE | {"max_epochs": 1, "batch_size": 9}).items()]
    for number in range(2):
        command = [sys.executable, "-m", "ctkeras", "train", f"--output_dir={tmp_path / str(number)}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder,) = (tmp_path / str(number)).iterdir()
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["train_programs_compiled"] == 1 - number
        assert (metrics["cache_misses"] == 0) == bool(number)


@pytest.mark.slow
def test_before_a_stage_nothing_changes_and_behind_it_all_does(tmp_path):
    import keras

    result = train(config(tmp_path, **STAGE | {"freeze_batch_norm": False, "lr": 0.01}), run_id="stage")
    train(config(tmp_path, **FROZEN), run_id="head")
    stage, head = (keras.saving.load_model(tmp_path / name / "model.keras") for name in ("stage", "head"))
    changed = [
        not np.array_equal(one.value, other.value) for one, other in zip(stage.weights, head.weights, strict=True)
    ]
    first = changed.index(True)
    assert 0.3 * len(changed) < first < len(changed) - 2  # stage4 is the last third of MobileNetV2's layers
    assert all(changed[first:])
    assert result.metrics["params_trainable"] < result.metrics["params_total"]


def test_early_stopping_waits_its_epochs(tmp_path):
    values = FROZEN | {"max_epochs": 60, "early_stopping": 3, "lr": 0.05}
    result = train(config(tmp_path, **values))
    assert result.metrics["stopped_by"] == "early_stopping"
    assert result.metrics["epochs"] == result.metrics["best_epoch"] + 3


def test_training_never_opens_the_test_split(tmp_path, monkeypatch):
    from ctkeras.data import decoded
    from ctkeras.training import inputs

    inputs._loaded.cache_clear()
    opened = []
    load = decoded.load_split
    monkeypatch.setattr(decoded, "load_split", lambda *args: opened.append(args[1]) or load(*args))
    train(config(tmp_path, **FROZEN))
    assert opened == ["train", "valid"]


def test_frozen_random_backbone_is_warned_of(tmp_path, capsys):
    train(config(tmp_path, **FROZEN))
    assert "random features" in capsys.readouterr().err


@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_arrays_train_without_tensorflow(tmp_path, frozen):
    """In a process of its own, where importing TensorFlow fails."""
    import subprocess
    import sys

    code = f"""
import sys
class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError(name)
sys.meta_path.insert(0, NoTensorFlow())
import numpy as np
from ctkeras.data import decoded
from ctkeras.config import RunConfig
from ctkeras.training.inputs import Data
from ctkeras.training.train import train
rng = np.random.default_rng(0)
def split(n):
    labels = np.arange(n, dtype=np.int32) % 2
    pixels = rng.integers(0, 100, (n, 32, 32)).astype(np.uint8) + (labels * 100).astype(np.uint8)[:, None, None]
    return decoded.Split(pixels, labels, tuple(map(str, range(n))), ("dark", "bright"))
values = dict(pretrained=False, model_name="mobilenet_v2", image_size=32, batch_size=8, max_epochs=2, augmentation=0, lr=0.01)
config = RunConfig(freeze_backbone={frozen}, output_dir={str(tmp_path)!r}, **values)
print(train(config, data=Data(split(24), split(8), "arrays")).metrics["epochs"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["2"]


def test_real_images_with_real_weights_reach_a_linear_classifiers_accuracy(tmp_path, real_data, real_weights):
    values = {"data": real_data, "model_name": "mobilenet_v2", "weights_dir": real_weights, "feature_views": 1}
    result = train(config(tmp_path, **values))
    assert result.metrics["val_acc"] >= 0.75


@pytest.mark.slow
def test_a_run_after_fine_tuning_starts_from_the_weight_file_again(tmp_path):
    """In a warm process the model is reused; what one run has learnt must not leak into the next."""
    import keras

    from ctkeras.models import blank

    (tmp_path / "weights").mkdir()
    with blank.initializers():
        whole = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    rng = np.random.default_rng(0)
    whole.set_weights([rng.uniform(0.5, 1.0, w.shape) * (0.1 if w.ndim > 1 else 1) for w in whole.weights])
    whole.save_weights(tmp_path / "weights" / "mobilenet_v2.weights.h5")
    values = FULL | {
        "model_name": "mobilenet_v2",
        "pretrained": True,
        "weights_dir": str(tmp_path / "weights"),
        "max_epochs": 1,
        "warmup_epochs": 0,
    }
    first = train(config(tmp_path, **values))
    again = train(config(tmp_path, **values))
    assert numbers(again.folder) == numbers(first.folder)
