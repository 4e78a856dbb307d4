"""The solved head in the product: on its features, by folds, in the model's graph, and as the start of fine-tuning."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ctkeras.audit import groups
from ctkeras.config import RunConfig
from ctkeras.data.decoded import Split
from ctkeras.errors import UserError
from ctkeras.evaluation import probabilities
from ctkeras.training import folds, solve, solver
from ctkeras.training.folds import Folds
from ctkeras.training.inputs import Data, in_fold

CLASSES = 3


def split_of(labels, *, seed=0):
    """Images that are all unlike each other, under labels int [N]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32), np.uint8)
    files = tuple(f"{number:04d}.png" for number in range(len(labels)))
    return Split(pixels, np.asarray(labels, np.int32), files, tuple("abc")[: int(max(labels)) + 1], pixels)


@pytest.fixture
def problem():
    """Features float32 [90, 40] with some signal, in two views; the split; its folds."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), (45, 30, 15))
    features = rng.standard_normal((90, 40)) + 0.5 * rng.standard_normal((CLASSES, 40))[labels] + 3
    views = [features.astype(np.float32), (features + 0.3 * rng.standard_normal((90, 40))).astype(np.float32)]
    fold_of = np.arange(90) % 4
    return views, split_of(labels), Folds(fold_of, np.arange(90) < 20, False)


def config(**values):
    return RunConfig(**{"optimizer": "lbfgs", **values})


def by_scikit_learn(rows, labels, weights, *, weight_decay, mean, scale, queries):
    """Probabilities of queries by scikit-learn's solver."""
    model = LogisticRegression(C=1 / (weight_decay * weights.sum()), tol=1e-10, max_iter=100_000)
    model.fit((rows - mean) / scale, labels, sample_weight=weights)
    return model.predict_proba((queries - mean) / scale)


def test_solved_head_is_scikit_learns(problem):
    (features, _), split, _ = problem
    solution = solve.solve(config(weight_decay=0.05), [features], split, valid=features[:7])
    counts = np.bincount(split.labels)
    weights = (len(split.labels) / (CLASSES * counts))[split.labels]  # of class_weighting loss
    mean, scale = features.astype(float).mean(0), features.astype(float).std(0)
    expected = by_scikit_learn(
        features, split.labels, weights, weight_decay=0.05, mean=mean, scale=scale, queries=features
    )
    np.testing.assert_allclose(probabilities.softmax(solution.train_logits), expected, atol=1e-5)
    np.testing.assert_allclose(solution.valid_logits, solution.train_logits[:7], atol=1e-10)
    assert solution.weight_decays == [0.05]


@pytest.mark.parametrize("values", [{"class_weighting": "none"}, {"label_smoothing": 0.2}, {"weight_decay": 0.5}])
def test_settings_of_the_loss_change_the_head(problem, values):
    views, split, _ = problem
    plain, other = (
        solve.solve(config(**{"weight_decay": 0.05, **given}), views, split, valid=views[0]) for given in ({}, values)
    )
    assert np.abs(plain.valid_logits - other.valid_logits).max() > 0.01


@pytest.mark.parametrize(
    "values", [{"lr": 1e-3}, {"scheduler": "step"}, {"batch_size": 2}, {"max_epochs": 3}, {"dropout": 0.0}]
)
def test_settings_of_epochs_change_nothing(problem, values):
    views, split, _ = problem
    plain, other = (solve.solve(config(**given), views, split, valid=views[0]) for given in ({}, values))
    np.testing.assert_array_equal(plain.valid_logits, other.valid_logits)


def test_each_out_of_fold_row_is_from_a_head_that_did_not_see_the_image(problem):
    """The members trained again, by hand and by another solver, without their folds."""
    views, split, divided = problem
    solution = solve.solve_folds(config(weight_decay=0.05), views, split, folds=divided)
    assert len(solution.kernels) == 4
    rows, labels, fold_of = np.concatenate(views), np.tile(split.labels, 2), np.tile(divided.of, 2)
    weights = (90 / (CLASSES * np.bincount(split.labels)))[labels]
    mean, scale = rows.astype(float).mean(0), rows.astype(float).std(0)
    answers = probabilities.softmax(solution.valid_logits)
    average = np.zeros_like(answers)
    for fold in range(4):
        seen, out = fold_of != fold, divided.of == fold
        expected = by_scikit_learn(
            *(rows[seen], labels[seen], weights[seen]), weight_decay=0.05, mean=mean, scale=scale, queries=views[0]
        )
        np.testing.assert_allclose(answers[out], expected[out], atol=1e-5)
        average += expected / 4
    np.testing.assert_allclose(probabilities.softmax(solution.train_logits), average, atol=1e-5)


def test_a_label_has_no_part_in_its_own_out_of_fold_row(problem):
    views, split, divided = problem
    plain = solve.solve_folds(config(class_weighting="none", weight_decay=0.05), views, split, folds=divided)
    other = split.labels.copy()
    out = divided.of == 2
    other[out] = (other[out] + 1) % CLASSES
    changed = solve.solve_folds(
        config(class_weighting="none", weight_decay=0.05), views, split_of(other), folds=divided
    )
    np.testing.assert_allclose(changed.valid_logits[out], plain.valid_logits[out], atol=1e-7)
    assert np.abs(changed.valid_logits[~out] - plain.valid_logits[~out]).max() > 0.01


def test_refit_is_one_head_on_everything_with_out_of_fold_answers(problem):
    views, split, divided = problem
    members = solve.solve_folds(config(weight_decay=0.05), views, split, folds=divided)
    refitted = solve.solve_folds(config(weight_decay=0.05), views, split, folds=divided._replace(refit=True))
    whole = solve.solve(config(weight_decay=0.05), views, split, valid=views[0])
    assert len(refitted.kernels) == 1
    np.testing.assert_allclose(refitted.kernels[0], whole.kernels[0], atol=1e-8)
    np.testing.assert_array_equal(refitted.valid_logits, members.valid_logits)


def test_weight_decay_is_chosen_from_the_grid_by_folds(problem):
    views, split, divided = problem
    solution = solve.solve(config(), views, split, valid=views[0])
    assert solution.weight_decays[0] in solver.GRID
    solution = solve.solve_folds(config(), views, split, folds=divided)
    assert len(solution.weight_decays) == 4
    assert set(solution.weight_decays) <= set(solver.GRID)


def test_weight_decay_of_too_few_groups_is_the_usual_one(problem, capsys):
    views, split, _ = problem
    alike = Split(split.images, split.labels, split.files, split.class_names, np.repeat(split.thumbnails[:1], 90, 0))
    solution = solve.solve(config(), views, alike, valid=views[0])
    assert solution.weight_decays == [solve.USUAL_DECAY]
    assert "too few groups of similar slices" in capsys.readouterr().err


def test_no_weight_decay_at_all_is_a_very_small_one(problem):
    views, split, _ = problem
    solution = solve.solve(config(weight_decay=0), views, split, valid=views[0])
    assert np.isfinite(solution.valid_logits).all()
    assert 0 < solution.weight_decays[0] < solver.GRID[0]


def test_pool_holds_each_distinct_image_once_and_none_with_two_labels():
    train, valid = split_of([0, 0, 1, 1, 2, 2]), split_of([0, 1, 2], seed=1)
    valid.images[0] = train.images[1]  # a copy, with its label
    valid.images[1] = train.images[4]  # a copy under another label
    valid = Split(valid.images, valid.labels, ("v0.png", "v1.png", "v2.png"), valid.class_names, valid.thumbnails)
    pooled, given = folds.pool(train, valid)
    assert pooled.files == ("0000.png", "0001.png", "0002.png", "0003.png", "0005.png", "v2.png")
    assert given.tolist() == [False] * 5 + [True]
    for file, image, label in zip(pooled.files, pooled.images, pooled.labels, strict=True):
        source = train if file in train.files else valid
        place = source.files.index(file)
        np.testing.assert_array_equal(image, source.images[place])
        assert label == source.labels[place]


def test_no_group_is_parted_and_each_fold_has_each_class():
    labels = np.arange(60) % 3
    split = split_of(labels)
    small = split.images.copy()
    for first in range(0, 60, 6):  # images 0 and 3, 6 and 9, … are of one patient
        small[first + 3] = np.clip(small[first].astype(int) + 3, 0, 255)
    split = Split(split.images, split.labels, split.files, split.class_names, small)
    fold_of = folds.divide(split, 5, seed=0)
    clusters = folds.groups_of(split)
    assert len(set(clusters)) == 50
    for cluster in set(clusters):
        assert len(set(fold_of[clusters == cluster])) == 1
    for fold in range(5):
        assert set(labels[fold_of == fold]) == {0, 1, 2}
    pooled = Data(split, split, "f")
    part = in_fold(pooled, fold_of, 3)
    training, validation = part.train, part.valid
    assert [split.files[row] for row in part.pool[2]] == list(validation.files)
    assert sorted(training.files + validation.files) == sorted(split.files)
    assert set(validation.files) == set(np.array(split.files)[fold_of == 3])
    assert (fold_of != folds.divide(split, 5, seed=1)).any()
    with pytest.raises(UserError, match="fold 7 has no images"):
        in_fold(pooled, fold_of, 7)


def test_more_folds_than_groups_are_refused():
    with pytest.raises(UserError, match="use fewer folds"):
        groups.folds(np.arange(4) % 2, np.arange(4) // 2, 3, seed=0)


TINY = {"data": "phantom:48", "model_name": "mobilenet_v2", "pretrained": False, "image_size": 32, "batch_size": 8}


def train(folder, **values):
    from ctkeras.training.train import train as run

    return run(RunConfig(output_dir=str(folder), **{**TINY, **values}))


@pytest.fixture(scope="module")
def in_folds(tmp_path_factory):
    return train(tmp_path_factory.mktemp("folds"), folds=3)


def rows_of(folder):
    import csv

    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_in_folds_has_one_row_and_an_out_of_fold_answer_per_image(in_folds):
    values = in_folds.metrics
    assert (values["stopped_by"], values["epochs"], values["folds"]) == ("solved", 1, 3)
    assert {"given_val_acc", "given_val_n", "weight_decay", "val_acc", "val_loss"} <= values.keys()
    assert len((in_folds.folder / "history.csv").read_text().splitlines()) == 2
    rows = rows_of(in_folds.folder)
    assert {row["split"] for row in rows} == {"folds"}
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(values["val_acc"])
    given = [row["label"] == row["predicted"] for row in rows if row["file"].startswith("valid/")]
    assert (len(given), np.mean(given)) == (values["given_val_n"], pytest.approx(values["given_val_acc"]))
    contract = json.loads((in_folds.folder / "contract.json").read_text())
    assert contract["preparation"] == {
        **{"crop": "body", "fit": "stretch", "gray": "as_is", "window": "auto", "span": ""},
        **{"resize": "antialiased bilinear", "version": "1"},
    }


def test_members_are_one_file_of_core_layers_whose_answer_is_their_mean(in_folds):
    import keras

    model = keras.saving.load_model(in_folds.folder / "model.keras", compile=False, safe_mode=True)
    assert all(type(layer).__module__.startswith("keras.src.") for layer in model.layers)
    assert model.get_layer("logits").output.shape[-1] == 3 * model.output.shape[-1]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    logits = np.asarray(keras.Model(model.input, model.get_layer("logits").output).predict_on_batch(pixels))
    expected = probabilities.softmax(logits.reshape(3, 3, -1)).mean(1)
    np.testing.assert_allclose(model.predict_on_batch(pixels), expected, atol=1e-5)


@pytest.mark.slow
def test_evaluate_shows_out_of_fold_answers_for_what_the_model_was_trained_on(in_folds, tmp_path):
    import shutil

    from ctkeras.data import crop, decoded, sources
    from ctkeras.evaluation.evaluate import evaluate
    from ctkeras.models import predict

    folder = shutil.copytree(in_folds.folder, tmp_path / "run")
    before = {row["file"]: row for row in rows_of(folder)}
    for split in ("train", "valid"):
        found = evaluate(folder, split)
        own = [row for row in rows_of(folder) if row["split"] == split]
        assert own and all(row["file"].startswith(f"{split}/") for row in own)
        for row in own:
            assert {**before[row["file"]], "split": split} == row
        assert found["acc"] == pytest.approx(np.mean([row["label"] == row["predicted"] for row in own]))
    evaluate(folder, "test")
    model, names, preparation = predict.open_model(folder)
    assert preparation == crop.Preparation()
    test = decoded.load_split(sources.open_source("phantom:48"), "test", 32, preparation)
    expected = model.predict_on_batch(np.repeat(test.images[..., None], 3, -1).astype(np.float32))
    rows = [row for row in rows_of(folder) if row["split"] == "test"]
    found = [[float(row[f"p_{name}"]) for name in names] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)


TRAINED = {"head": {"lr": 0.03}, "stage4": {"unfreeze_from": "stage4"}, "input": {"freeze_backbone": False}}


@pytest.mark.parametrize("cut", ["head", "stage4", "input"])
@pytest.mark.slow  # of heads, test_train.py compares the numbers in the quick tests
def test_folds_trained_side_by_side_are_the_folds_trained_one_by_one(tmp_path, cut):
    from ctkeras.evaluation import gradcam

    # One temperature is chosen for all members together, and another for each alone.
    values = {**TRAINED[cut], "folds": 2, "max_epochs": 2, "best": "last", "calibrate": False}
    together = train(tmp_path, **values)
    assert (together.metrics["folds"], together.metrics["stopped_by"]) == (2, "max_epochs")
    assert {"given_val_n", "given_val_acc"} <= together.metrics.keys()
    members = [train(tmp_path, **values, fold=fold) for fold in range(2)]
    rows = {row["file"]: row["predicted"] for row in rows_of(together.folder) if row["split"] == "folds"}
    assert rows == {row["file"]: row["predicted"] for member in members for row in rows_of(member.folder)}
    model, *alone = (open_file(run.folder / "model.keras") for run in (together, *members))
    assert all(type(layer).__module__.startswith("keras.src.") for layer in model.layers)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    expected = np.mean([member.predict_on_batch(pixels) for member in alone], axis=0)
    np.testing.assert_allclose(model.predict_on_batch(pixels), expected, atol=1e-5)
    assert gradcam.heat_maps(model, pixels).shape[0] == 3


def open_file(path):
    import keras

    return keras.saving.load_model(path, compile=False, safe_mode=True)


def test_refit_leaves_one_head(tmp_path, in_folds):
    result = train(tmp_path, folds=3, fold="refit")
    assert result.metrics["val_acc"] == in_folds.metrics["val_acc"]
    assert result.metrics["params_total"] < in_folds.metrics["params_total"]


@pytest.mark.slow
def test_data_too_small_for_folds_is_validated_on_its_own_split(tmp_path, capsys):
    from image_sets import clean_set, write_set

    source = write_set(tmp_path / "set", clean_set())
    result = train(tmp_path / "runs", data=source.path)
    err = capsys.readouterr().err
    assert "Validating on the given split instead of folds" in err
    assert "folds" not in result.metrics
    assert {row["split"] for row in rows_of(result.folder)} == {"valid"}
    with pytest.raises(UserError):
        train(tmp_path / "runs", data=source.path, folds=20)


def test_images_that_are_in_test_too_leave_the_pool(tmp_path):
    from image_sets import clean_set, write_set

    from ctkeras.data import sources
    from ctkeras.training.inputs import load_data

    files = {f"train/{c}/{i}.png": 10 * (c == "b") + i for c in "ab" for i in range(8)}
    files |= {f"valid/{c}/0.png": 30 + (c == "b") for c in "ab"} | {f"test/{c}/0.png": 40 + (c == "b") for c in "ab"}
    files |= {"test/a/of_train.png": 3, "test/b/of_valid.png": 31, "valid/a/of_train.png": 5}
    write_set(tmp_path / "set", files)
    source = sources.open_source(str(tmp_path / "set"))
    data = load_data(source, RunConfig(**{**TINY, "data": str(tmp_path / "set"), "folds": 3}))
    assert data.folds is not None
    assert data.train is data.valid
    assert {"train/a/3.png", "valid/b/0.png", "valid/a/of_train.png"}.isdisjoint(data.train.files)
    assert len(data.train.files) == 16  # 19 files: one image twice, two that are in test
    assert clean_set()  # the plain set has no copies at all


@pytest.mark.slow
def test_fine_tuning_starts_from_the_solved_head(tmp_path):
    """Bright and dark images: even a network of no training tells them apart once its head is solved."""
    import keras

    from ctkeras.models import blank
    from ctkeras.training.train import train as run

    with blank.initializers():
        whole = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    rng = np.random.default_rng(0)
    for weight in whole.weights:
        if len(weight.shape) > 1:
            weight.assign(np.sqrt(1 / np.prod(weight.shape[:-1])) * rng.standard_normal(weight.shape))
        else:
            weight.assign(np.full(weight.shape, weight.name in ("gamma", "moving_variance"), np.float32))
    whole.save_weights(tmp_path / "mobilenet_v2.weights.h5")

    def bright_and_dark(count):
        labels = np.arange(count, dtype=np.int32) % 2
        pixels = rng.integers(0, 100, (count, 32, 32)) + 120 * labels[:, None, None]
        return Split(pixels.astype(np.uint8), labels, tuple(map(str, range(count))), ("dark", "bright"))

    data = Data(bright_and_dark(32), bright_and_dark(16), "arrays")
    values = {**TINY, "pretrained": True, "weights_dir": str(tmp_path), "output_dir": str(tmp_path / "runs")}
    values |= {"augmentation": 0, "dropout": 0.0}
    solved = run(RunConfig(**values, folds=0), data=data)
    assert solved.metrics["val_acc"] == 1.0
    tuned = run(RunConfig(**values, max_epochs=1, lr=1e-7, unfreeze_from="stage4"), data=data)
    assert tuned.metrics["val_acc"] == 1.0
    assert tuned.metrics["val_loss"] == pytest.approx(solved.metrics["val_loss"], abs=0.01)
