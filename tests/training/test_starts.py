"""The solved head that fine-tuning starts from: solved once for all runs that share what it depends on."""

import numpy as np
import pytest

from ctkeras.config import RunConfig
from ctkeras.data.decoded import Split
from ctkeras.runtime import files
from ctkeras.training import solve, solver, starts


@pytest.fixture
def problem():
    """Features of 60 images in one view, float32 [60, 20], and the images' split."""
    labels = (np.arange(60) % 3).astype(np.int32)
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((60, 20)) + labels[:, None]).astype(np.float32)
    pixels = np.zeros((60, 32, 32), np.uint8)
    return [features], Split(pixels, labels, tuple(map(str, range(60))), tuple("abc"))


@pytest.fixture
def solves(tmp_path, monkeypatch):
    """A list that grows with each head that is solved; the cache is empty."""
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path))
    counted, real = [], solver.solve
    monkeypatch.setattr(solver, "solve", lambda *args, **more: counted.append(more) or real(*args, **more))
    return counted


def tuned(**values):
    return RunConfig(model_name="mobilenet_v2", unfreeze_from="stage3", **values)


def test_a_head_is_solved_once_for_trials_that_differ_in_how_they_train(problem, solves, capsys):
    first = starts.head(tuned(), *problem)
    for values in ({"lr": 1e-3}, {"seed": 5}, {"batch_size": 32}, {"dropout": 0.1}, {"weight_decay": 1e-6}):
        again = starts.head(tuned(**values), *problem)
        np.testing.assert_array_equal(again.kernels[0], first.kernels[0])
        np.testing.assert_array_equal(again.biases[0], first.biases[0])
        np.testing.assert_array_equal(again.mean, first.mean)
        np.testing.assert_array_equal(again.scale, first.scale)
    assert len(solves) == 1
    assert capsys.readouterr().err.count("Starting from the head that an earlier run solved") == 5


def test_it_is_the_head_that_the_solver_returns(problem, solves):
    views, split = problem
    expected = solve.solve(tuned(weight_decay=starts.DECAY), views, split, valid=views[0])
    for _ in range(2):
        stored = starts.head(tuned(), views, split)
        np.testing.assert_array_equal(stored.kernels[0], expected.kernels[0])
        np.testing.assert_array_equal(stored.biases[0], expected.biases[0])


def test_whatever_a_head_depends_on_makes_another(problem, solves):
    views, split = problem
    starts.head(tuned(), views, split)
    starts.head(tuned(label_smoothing=0.1), views, split)
    starts.head(tuned(), [views[0] + 1], split)
    fewer = np.arange(60) < 50
    starts.head(tuned(), [views[0][fewer]], split.select(fewer))
    assert len(solves) == 4
    some = np.arange(60) < 55  # classes are no longer equally frequent, so weights in the loss matter
    for weighting in ("loss", "none"):
        starts.head(tuned(class_weighting=weighting), [views[0][some]], split.select(some))
    assert len(solves) == 6


def test_a_damaged_head_is_solved_again(problem, solves):
    first = starts.head(tuned(), *problem)
    (path,) = files.cache_dir(starts.PART).glob("*.npy")
    path.write_bytes(path.read_bytes()[:-40])
    again = starts.head(tuned(), *problem)
    assert len(solves) == 2
    np.testing.assert_array_equal(again.kernels[0], first.kernels[0])
