"""Trained weights that are kept instead of a model: the model exported from them later is the one exported at once."""

import dataclasses
import json

import numpy as np
import pytest

import ctkeras
from ctkeras.errors import UserError
from ctkeras.models import contract, predict
from ctkeras.runs.checkpoint import TRAINED
from ctkeras.training import kept
from ctkeras.training.train import train

TINY = {"data": "phantom:48", "model_name": "mobilenet_v2", "pretrained": False, "image_size": 32, "seed": 3}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"folds": 2}, marks=pytest.mark.slow),
        pytest.param({"model_name": "small_cnn", "max_epochs": 1, "batch_size": 8}, marks=pytest.mark.slow),
    ],
)
def test_a_model_exported_later_gives_the_answers_of_one_exported_at_once(tmp_path, values):
    config = ctkeras.RunConfig.from_mapping({**TINY, "output_dir": str(tmp_path), **values})
    at_once = train(config, run_id="at_once").folder
    later = train(config, run_id="later", export=False).folder
    assert not (later / "model.keras").exists()
    with pytest.raises(UserError, match=rf"not been exported yet.*ctkeras export .*{later.name}"):
        predict.open_model(later)
    train(
        dataclasses.replace(config, seed=4), run_id="other", export=False
    )  # the process's model has other weights now
    path = kept.export(later)
    written = path.stat().st_mtime_ns
    assert kept.export(later) == path
    assert path.stat().st_mtime_ns == written  # once
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32)).astype(np.uint8)
    answers = [ctkeras.load(folder).predict(images).probabilities for folder in (at_once, later)]
    np.testing.assert_allclose(*answers, atol=1e-5)
    contracts = [json.loads((folder / "contract.json").read_text()) for folder in (at_once, later)]
    assert [each.pop("model_sha256") for each in contracts][1] == contract.digest(path)
    assert contracts[0] == contracts[1]


def test_a_model_is_not_exported_with_other_frozen_weights_or_from_nothing(tmp_path):
    config = ctkeras.RunConfig.from_mapping({**TINY, "output_dir": str(tmp_path), "folds": 2})
    folder = train(config, run_id="run", export=False).folder
    assert (folder / TRAINED).stat().st_size < 500_000  # a head, not the backbone
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"seed": 3', '"seed": 4'))  # of a random backbone
    with pytest.raises(UserError, match="other ImageNet weights"):
        kept.export(folder)
    (folder / TRAINED).unlink()
    with pytest.raises(UserError, match="neither a model nor trained weights"):
        kept.export(folder)
