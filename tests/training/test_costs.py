"""What a run costs: from runs measured on the same machine, else from similar ones, else from the published table."""

import pytest

from ctkeras.config import RunConfig
from ctkeras.runtime import stored
from ctkeras.training import costs
from ctkeras.training.train import train

HERE = costs.Machine("EPYC", 2, False)
IMAGES = {"train": 640, "valid": 64}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(costs, "machine", lambda: HERE)


def tuned(**values):
    return RunConfig(
        **{"model_name": "mobilenet_v2", "freeze_backbone": False, "batch_size": 32, "max_epochs": 10, **values}
    )


def epochs(*seconds):
    return [{"epoch": number, "epoch_seconds": each} for number, each in enumerate(seconds, 1)]


def test_without_a_measurement_the_published_table_counts_and_says_so():
    found = costs.estimate(tuned(), IMAGES, HERE)
    assert found.source == "reference"
    assert found.seconds == pytest.approx(costs.TUNED_SECONDS + 20 * 10 * 0.82)
    four = costs.estimate(tuned(), IMAGES, costs.Machine("EPYC", 4, False))
    assert four.seconds == pytest.approx(costs.TUNED_SECONDS + 20 * 10 * 0.41)
    assert costs.estimate(tuned(model_name="resnet50"), IMAGES, HERE) is None
    assert costs.estimate(tuned(), IMAGES, costs.Machine("H100", 1, True)) is None


def test_what_was_measured_here_counts_for_the_same_kind_of_run_of_any_length():
    # 20 steps per epoch of 0.5 s; the first epoch also compiles, and the export takes 7 s.
    costs.remember(tuned(max_epochs=3), epochs(25.0, 10.0, 10.0), steps=20, rest=7.0)
    found = costs.estimate(tuned(), IMAGES, HERE)
    assert (found.source, found.factor) == ("measured", costs.MEASURED)
    assert found.seconds == pytest.approx(7.0 + 20 * 10 * 0.5)
    assert costs.estimate(tuned(lr=1e-5, dropout=0.1, seed=4), IMAGES, HERE) == found
    for other in (
        {"model_name": "resnet18"},
        {"image_size": 128},
        {"freeze_backbone": True, "unfreeze_from": "stage3"},
    ):
        assert costs.estimate(tuned(**other), IMAGES, HERE).source == "reference"
    assert costs.estimate(tuned(), IMAGES, costs.Machine("EPYC", 4, False)).source == "reference"


def test_a_run_of_one_epoch_is_measured_without_its_compiling():
    costs.remember(tuned(max_epochs=1), epochs(25.0), steps=20, compiling=15.0)
    assert costs.estimate(tuned(), IMAGES, HERE).seconds == pytest.approx(100.0)


def test_another_batch_size_is_estimated_per_image_and_with_more_doubt():
    costs.remember(tuned(), epochs(*[10.0] * 10), steps=20)
    found = costs.estimate(tuned(batch_size=16), IMAGES, HERE)
    assert (found.source, found.factor) == ("similar", costs.SIMILAR)
    assert found.seconds == pytest.approx(100.0)  # twice as many steps of half the time


def test_runs_that_differed_widen_the_estimate_and_the_latest_count():
    for seconds in (10.0, 10.0, 25.0):
        costs.remember(tuned(), epochs(*[seconds] * 10), steps=20)
    assert costs.estimate(tuned(), IMAGES, HERE).factor == pytest.approx(2.5)
    for _ in range(costs.MOST_KEPT):
        costs.remember(tuned(), epochs(*[20.0] * 10), steps=20)
    found = costs.estimate(tuned(), IMAGES, HERE)
    assert (found.seconds, found.factor) == (pytest.approx(200.0), costs.MEASURED)


def test_folds_train_a_member_each_on_the_others_images():
    assert costs.steps_of(tuned(), IMAGES) == 20
    assert costs.steps_of(tuned(folds=4), IMAGES) == 4 * (528 // 32)
    assert costs.steps_of(tuned(folds=4, fold="1"), IMAGES) == 528 // 32
    assert costs.steps_of(RunConfig(), IMAGES) == 1  # a solved head


def test_a_damaged_measurement_is_forgotten(tmp_path):
    costs.remember(tuned(), epochs(10.0, 10.0), steps=20)
    for path in (tmp_path / "cache" / costs.PART).glob("*.json"):
        path.write_text(path.read_text().replace("step", "stop"))
    assert costs.estimate(tuned(), IMAGES, HERE).source == "reference"


def test_a_run_leaves_its_cost(tmp_path):
    values = {"data": "phantom:48", "pretrained": False, "image_size": 32, "batch_size": 8, "max_epochs": 2}
    config = RunConfig(model_name="mobilenet_v2", optimizer="adamw", output_dir=str(tmp_path), **values)
    assert costs.estimate(config, IMAGES, HERE).source == "reference"
    result = train(config, export=False)
    path = costs._path(HERE, config, 8)
    (one,) = stored.read_json(path)
    rows = result.metrics["epochs"]
    assert rows == 2
    assert one["step"] > 0
    assert one["rest"] <= result.metrics["seconds_total"]
    assert costs.estimate(config, IMAGES, HERE).source == "measured"
