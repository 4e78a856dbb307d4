"""Features of the frozen prefix: those of the model itself, computed once, kept under all that they depend on."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import keras
import numpy as np
import pytest

from ctkeras.data import decoded
from ctkeras.data.batches import Recipe
from ctkeras.models import backbones, classifier
from ctkeras.models.weights import fingerprint
from ctkeras.runtime import files
from ctkeras.training import features, steps
from ctkeras.training.inputs import RESIDENT_BYTES, _validation
from ctkeras.training.programs import Programs, programs_at

SIZE, COUNT, WIDTH = 32, 37, 5  # pixels; images, more than a pass holds; features


def tiny(image_size):
    """A backbone in a second."""
    image = keras.Input((image_size, image_size, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False)(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(image, keras.layers.Conv2D(WIDTH, 1)(x))


def make_programs(seed=0, precision="float32"):
    built = classifier.build("tiny", SIZE, classes=3, precision=precision)
    classifier.initialise(built, seed=seed, dropout=0.0)
    return programs_at(built, cut="head", on_features=True, optimizer="adamw")


def make_split(seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8)
    labels = rng.integers(3, size=COUNT).astype(np.int32)
    return decoded.Split(pixels, labels, tuple(f"{i}.png" for i in range(COUNT)), ("a", "b", "c"))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache of its own; returns a function that lists the files of features in it."""
    monkeypatch.setitem(backbones.BACKBONES, "tiny", backbones.Backbone(tiny, backbones._TORCH, "hf://none/tiny"))
    monkeypatch.setenv("CTKERAS_CACHE_DIR", str(tmp_path))
    return lambda: {path.name for path in files.cache_dir("features").glob("*.npy")}


def load(programs, split, *, views=2, augmentation=1.0, precision="float32"):
    options = {"augmentation": augmentation, "precision": precision}
    weights = fingerprint(programs.parts.prefix.variables)
    return features.load(programs, split, name="training", views=views, weights=weights, **options)


def test_kept_features_are_the_computed_ones_and_are_not_computed_again(kept, capsys):
    programs, split = make_programs(), make_split()
    computed = load(programs, split, views=3)
    assert capsys.readouterr().err.count("Computing training features") == 3
    again = load(programs, split, views=3)
    assert "Computing" not in capsys.readouterr().err
    np.testing.assert_array_equal(again, computed)
    assert [(view.shape, view.dtype) for view in computed] == [((COUNT, WIDTH), np.float32)] * 3
    assert all(isinstance(view, np.memmap) for view in computed)
    assert len(kept()) == 3


@pytest.fixture
def passes(monkeypatch):
    """How many images each pass of the prefix held."""
    held = []
    step = Programs.prefix_step
    monkeypatch.setattr(Programs, "prefix_step", lambda self, inputs: (held.append(len(inputs)), step(self, inputs))[1])
    return held


@pytest.mark.parametrize("distinct", [1, 5, features.BATCH, COUNT])
def test_copies_are_computed_once_and_have_the_features_of_their_image(kept, passes, distinct):
    programs, every = make_programs(), make_split()
    (alone,) = load(programs, every, views=1)
    which = np.random.default_rng(1).permutation(np.arange(COUNT) % distinct)
    copied = dataclasses.replace(every, images=every.images[which])
    del passes[:]
    views = load(programs, copied, views=2)
    np.testing.assert_array_equal(views[0], alone[which])
    assert len(np.unique(views[1], axis=0)) == COUNT  # a copy's other views are draws of its own
    full = -(-COUNT // features.BATCH)
    assert passes == [features.BATCH] * (-(-distinct // features.BATCH) + full)


@pytest.mark.parametrize("count", [1, features.BATCH, features.BATCH + 1])
@pytest.mark.parametrize("batch", [4, 32])
def test_features_do_not_depend_on_how_many_images_a_pass_holds(kept, monkeypatch, count, batch):
    programs, every = make_programs(), make_split()
    (usual,) = load(programs, every, views=1)
    few = dataclasses.replace(
        every, images=every.images[:count], labels=every.labels[:count], files=every.files[:count]
    )
    monkeypatch.setattr(features, "BATCH", batch)
    np.testing.assert_allclose(load(programs, few, views=1)[0], usual[:count], atol=1e-6)


PROCESS = """
import pathlib, sys, time
from ctkeras.runtime import process
process.configure()
import numpy as np
import test_features as tests
from ctkeras.models import backbones
from ctkeras.training import steps
from ctkeras.training.programs import Programs, programs_at

backbones.BACKBONES["tiny"] = backbones.Backbone(tests.tiny, backbones._TORCH, "hf://none/tiny")
programs, split = tests.make_programs(), tests.make_split()
passes, step = [], Programs.prefix_step

def slow(self, inputs):
    passes.append(1)
    time.sleep(0.5)  # seconds; long enough for the other to come
    return step(self, inputs)

Programs.prefix_step = slow
own, other = map(pathlib.Path, sys.argv[1:])
own.touch()
while not other.exists():
    time.sleep(0.005)
views = tests.load(programs, split)
np.save(own.with_suffix(".npy"), np.stack(views))
print(len(passes))
"""


def started(cache, code, *arguments):
    """A process that computes features."""
    paths = [str(pathlib.Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CTKERAS_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_of_two_processes_at_once_each_view_is_computed_by_one(kept, tmp_path):
    ends = [tmp_path / "a", tmp_path / "b"]
    processes = [started(tmp_path, PROCESS, *pair) for pair in (ends, ends[::-1])]
    passes = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(passes) == 2 * -(-COUNT // features.BATCH)  # two views, whoever computed which
    first, second = (np.load(end.with_suffix(".npy")) for end in ends)
    np.testing.assert_array_equal(first, second)
    assert len(kept()) == 2


@pytest.mark.slow
def test_a_process_killed_over_features_keeps_nobody_out(kept, tmp_path):
    code = PROCESS.replace("time.sleep(0.5)", "print('in', flush=True); time.sleep(600)")
    process = started(tmp_path, code, tmp_path / "a", tmp_path / "a")
    assert process.stdout.readline() == "in\n"
    process.kill()
    process.communicate()
    assert kept() == set()
    load(make_programs(), make_split())
    assert len(kept()) == 2


def test_views_differ_and_the_first_is_not_augmented(kept):
    programs, split = make_programs(), make_split()
    views = load(programs, split, views=3)
    assert len({view.tobytes() for view in views}) == 3
    np.testing.assert_array_equal(load(programs, split, views=1, augmentation=2.0)[0], views[0])


def test_view_0_is_the_models_pooled_output_on_raw_images(kept):
    programs, split = make_programs(), make_split()
    built = classifier.build("tiny", SIZE, classes=3)
    classifier.initialise(built, seed=0, dropout=0.0)
    raw = np.repeat(split.images[..., None], 3, axis=-1).astype(np.float32)
    expected = keras.Model(built.model.input, built.model.get_layer("pool").output).predict_on_batch(raw)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(load(programs, split, views=1)[0], expected, atol=1e-5)


def test_more_views_compute_only_the_new_ones(kept, capsys):
    programs, split = make_programs(), make_split()
    load(programs, split, views=1)
    capsys.readouterr()
    load(programs, split, views=2)
    assert "view 2 of 2" in (said := capsys.readouterr().err)
    assert said.count("Computing") == 1


def test_what_the_features_depend_on_keys_their_file(kept):
    split = make_split()
    programs = make_programs()
    load(programs, split)
    known = kept()
    assert len(known) == 2

    def new(*args, **changes):
        nonlocal known
        load(*args, **changes)
        before, known = known, kept()
        assert before <= known
        return len(known - before)

    assert new(programs, split) == 0
    assert new(programs, split, augmentation=0.5) == 1  # view 0 is not augmented
    assert new(programs, split, precision="bfloat16") == 2
    assert new(programs, make_split(seed=1)) == 2
    one_pixel = make_split()
    one_pixel.images[-1, -1, -1] ^= 1
    assert new(programs, one_pixel) == 2
    weight = programs.parts.prefix.weights[-1]
    weight.assign(np.asarray(weight.value) + 1e-6)
    assert new(programs, split) == 2


def test_a_model_built_anew_with_the_same_weights_finds_the_features(kept, capsys):
    split = make_split()
    first = load(make_programs(), split)
    classifier.build("tiny", SIZE, classes=2)  # another trial's model in between
    capsys.readouterr()
    again = load(make_programs(), split)
    assert "Computing" not in capsys.readouterr().err
    np.testing.assert_array_equal(again, first)


def test_features_are_float32_under_bfloat16(kept):
    split = make_split()
    (exact,) = load(make_programs(), split, views=1)
    (rounded,) = load(make_programs(precision="bfloat16"), split, views=1, precision="bfloat16")
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def numbered(views):
    """Features that say which view of which image they are."""
    return np.stack([np.stack([np.array([view, i], np.float32) for i in range(COUNT)]) for view in range(views)])


@pytest.mark.parametrize("weighting", ["none", "loss", "sampling"])
def test_batches_hold_existing_views_of_images_with_their_labels(weighting):
    split, seen = make_split(), set()
    recipe = Recipe(8, seed=0, class_weighting=weighting)
    for epoch in range(20):
        for batch in features.train_batches(numbered(3), split, recipe, epoch):
            assert [array.shape for array in batch] == [(8, 2), (8, 3), (8,)]
            assert {array.dtype for array in batch} == {np.dtype("float32")}
            view, image = batch.inputs.astype(int).T
            np.testing.assert_array_equal(batch.labels, np.eye(3)[split.labels[image]])
            assert batch.weights.std() > 0 or weighting != "loss"
            seen |= set(zip(view.tolist(), image.tolist(), strict=True))
    assert {view for view, _ in seen} == {0, 1, 2}
    assert {image for _, image in seen} == set(range(COUNT))
    assert len(seen) > 2 * COUNT  # an image's view changes from epoch to epoch


def test_batches_repeat_with_seed_and_epoch_and_only_then():
    split = make_split()

    def drawn(seed, epoch):
        recipe = Recipe(8, seed=seed, class_weighting="loss", mixup_alpha=0.3)
        batches = features.train_batches(numbered(3), split, recipe, epoch)
        return b"".join(array.tobytes() for batch in batches for array in batch)

    assert drawn(0, 1) == drawn(0, 1)
    assert len({drawn(seed, epoch) for seed in range(2) for epoch in range(2)}) == 4


def test_mixed_features_are_the_same_mix_as_their_labels():
    split = make_split()
    levels = np.array([1.0, 10.0, 100.0], np.float32)
    constant = np.broadcast_to(levels[split.labels][None, :, None], (2, COUNT, 4))
    recipe = Recipe(8, seed=0, class_weighting="loss", mixup_alpha=0.4)
    mixed = 0
    for batch in features.train_batches(constant, split, recipe, 0):
        np.testing.assert_allclose(batch.labels.sum(-1), 1, atol=1e-6)
        np.testing.assert_allclose(batch.inputs, np.repeat((batch.labels @ levels)[:, None], 4, axis=1), rtol=1e-5)
        mixed += (batch.labels.max(-1) < 0.99).sum()
    assert mixed > 0


def test_features_on_a_device_give_the_same_batches():
    split = make_split()
    recipe = Recipe(8, seed=0, class_weighting="loss", mixup_alpha=0.4)
    on_host = features.train_batches(numbered(3), split, recipe, 1)
    on_device = features.train_batches(jax.device_put(numbered(3)), split, recipe, 1)
    for one, other in zip(on_host, on_device, strict=True):
        assert isinstance(other.inputs, jax.Array)
        np.testing.assert_allclose(one.inputs, other.inputs, rtol=1e-5)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.weights, other.weights)


@pytest.mark.parametrize("batch_size", [8, 37, 50])
def test_eval_batches_hold_view_0_in_order_padded_and_masked(batch_size):
    split = make_split()
    batches = list(features.eval_batches(numbered(3), split, batch_size))
    assert {len(array) for batch in batches for array in batch} == {batch_size}
    inputs, labels, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(inputs[:COUNT], numbered(1)[0])
    np.testing.assert_array_equal(labels[:COUNT].argmax(-1), split.labels)
    np.testing.assert_array_equal(weights, np.arange(len(weights)) < COUNT)


def test_validation_stays_on_an_accelerator_when_it_is_small(monkeypatch):
    """Its batches are sent in the first epoch alone."""
    split, made = make_split(), []
    programs = Programs(steps.Parts(None, None, None, decoupled=False, on_features=True))

    def make():
        made.append(1)
        return features.eval_batches(numbered(1), split, 8)

    def epochs(size):
        batches = _validation(programs, make, size)
        return [list(batches()) for _ in range(3)]

    assert len(epochs(100)) == len(made) == 3  # on CPU there is nothing to gain
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    first, _, last = epochs(100)
    assert len(made) == 4
    for one, other in zip(first, last, strict=True):
        assert one.inputs is other.inputs
    np.testing.assert_array_equal(np.concatenate([b.inputs for b in last])[:COUNT], numbered(1)[0])
    epochs(RESIDENT_BYTES + 1)
    assert len(made) == 7
