"""The learning curve: which groups it trains on, how it grows, and the verb."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from ctkeras.cli.main import cli
from ctkeras.config import RunConfig
from ctkeras.data.decoded import Split
from ctkeras.errors import UserError
from ctkeras.training import learning
from ctkeras.training.train import train


def test_drawn_groups_are_whole_and_each_class_keeps_its_share():
    labels = np.repeat([0, 1, 2], (60, 30, 10))
    groups = np.arange(100) // 2
    chosen = learning.draw_groups(labels, groups, 0.4, rng=np.random.default_rng(0))
    assert all(len(set(chosen[groups == group])) == 1 for group in range(50))
    assert np.bincount(labels[chosen]).tolist() == [24, 12, 4]


def test_at_least_one_group_per_class_remains_and_all_with_the_whole_share():
    labels, groups = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2])
    few = learning.draw_groups(labels, groups, 0.01, rng=np.random.default_rng(0))
    assert set(labels[few]) == {0, 1} and few.sum() == 3
    assert learning.draw_groups(labels, groups, 1.0, rng=np.random.default_rng(0)).all()


def test_curve_rises_with_groups_and_its_last_point_is_the_accuracy_in_folds():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    features = rng.standard_normal((200, 150)) + 0.25 * rng.standard_normal((4, 150))[labels]
    pixels = rng.integers(0, 256, (200, 32, 32), np.uint8)
    files = tuple(f"{number:03d}.png" for number in range(200))
    split = Split(
        pixels, labels.astype(np.int32), files, tuple("abcd"), pixels, tuple(f"p{n // 2}" for n in range(200))
    )
    fold_of = np.arange(200) // 2 % 5
    curve = learning.measure(RunConfig(optimizer="lbfgs"), [features], split, fold_of=fold_of)
    rows = curve["rows"]
    assert [row["share"] for row in rows] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert rows[-1]["groups"] == 80 and rows[-1]["images"] == 160 and rows[0]["images"] == pytest.approx(32, abs=2)
    assert rows[-1]["acc"] > rows[0]["acc"] + 0.05
    assert all(row["low"] < row["acc"] < row["high"] for row in rows)
    assert curve["per_doubling"] > 0 and f"{100 * curve['per_doubling']:+.1f} points" in curve["sentence"]


@pytest.mark.slow
def test_verb_writes_the_curve_of_a_run_in_folds_and_refuses_others(tmp_path):
    values = {"data": "phantom:80", "model_name": "mobilenet_v2", "pretrained": False, "image_size": 32}
    values |= {"output_dir": str(tmp_path)}
    solved = train(RunConfig(**values), run_id="solved")
    done = CliRunner().invoke(cli, ["learning", str(solved.folder)], standalone_mode=False)
    assert done.exception is None, done.output
    curve = json.loads((solved.folder / "learning.json").read_text(encoding="utf-8"))
    assert curve["rows"][-1]["acc"] == pytest.approx(solved.metrics["val_acc"])
    assert curve["sentence"] in done.output and done.output.strip().endswith("learning.json")
    one = train(RunConfig(**values, folds=0), run_id="one")
    with pytest.raises(UserError, match="not solved in folds"):
        learning.learning_curve(one.folder)
