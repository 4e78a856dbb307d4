"""The classifier: one flat graph, cut without loss, frozen parts left alone, the same start for every run."""

import re

import jax
import keras
import numpy as np
import pytest

from ctkeras.config import CUTS
from ctkeras.data.batches import Batch
from ctkeras.errors import UserError
from ctkeras.models import backbones, blank, classifier
from ctkeras.training import steps
from ctkeras.training.programs import programs_at

SIZE, CLASSES = 32, 3
HEAD = ["standardise/moving_mean", "standardise/moving_variance", "dropout/rate", "logits/kernel", "logits/bias"]
HYPER = steps.Hyper(np.float32(0.1), np.float32(1e-4), np.float32(0.1))


def tiny(image_size):
    """A backbone with all that real ones have: BatchNorm, depthwise and 1x1 convolutions, a sum, dropout of its own."""
    image = keras.Input((image_size, image_size, 3))
    x = keras.layers.Conv2D(6, 3, strides=4, use_bias=False, name="conv")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm", momentum=0.999)(x))
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = keras.layers.Dropout(0.2, name="drop")(keras.layers.BatchNormalization(name="norm_2")(y))
    return keras.Model(image, keras.layers.Conv2D(5, 1, name="project")(keras.layers.Add()([x, y])))


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "tiny", backbones.Backbone(tiny, backbones._TORCH, "hf://none/tiny"))


@pytest.fixture
def weights(tmp_path):
    """A file of weights of the tiny backbone, standing in for ImageNet's."""
    with blank.initializers():
        source = tiny(SIZE)
    rng = np.random.default_rng(7)
    for weight in source.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    source.save_weights(tmp_path / "tiny.weights.h5")
    return tmp_path / "tiny.weights.h5"


def fresh(seed=0, dropout=0.3, **options):
    built = classifier.build("tiny", SIZE, classes=CLASSES, **options)
    classifier.initialise(built, seed=seed, dropout=dropout)
    return built


def images(count=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.float32)


def batch(count=8):
    return Batch(
        images(count), np.eye(CLASSES, dtype=np.float32)[np.arange(count) % CLASSES], np.ones(count, np.float32)
    )


def train(built, *, frozen, count=3, optimizer="sgd"):
    """Trains some steps and puts the result into the model."""
    programs = programs_at(built, cut="head" if frozen else "input", on_features=False, optimizer=optimizer)
    state, kept = programs.start(), programs.place(programs.frozen_variables())
    for _ in range(count):
        state = programs.train_step(state, kept, programs.place_batch(batch()), HYPER)
    programs.store(state)
    return programs, state


def values(variables):
    """Values by path; Keras numbers seed generators through a process, which is of no account here."""
    paths = [re.sub(r"seed_generator(_\d+)?", f"seed_generator {i}", v.path) for i, v in enumerate(variables)]
    return {path: np.array(variable.value) for path, variable in zip(paths, variables, strict=True)}


def changed(before, after):
    assert before.keys() == after.keys()
    return {path for path in before if before[path].tobytes() != after[path].tobytes()}


def test_the_frozen_split_composes_to_the_whole():
    built = fresh()
    train(built, frozen=False)  # statistics and weights away from their start
    prefix, suffix = built.split("head")
    inputs = images()
    expected = built.model.predict_on_batch(inputs)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(suffix.predict_on_batch(prefix.predict_on_batch(inputs)), expected, atol=1e-5)
    owned = {weight.path for part in (prefix, suffix) for weight in part.weights}
    assert owned == {weight.path for weight in built.model.weights}
    assert {weight.path for weight in suffix.weights} == set(HEAD)


def test_unfrozen_the_suffix_is_the_model():
    built = fresh()
    prefix, suffix = built.split("input")
    assert prefix is None
    assert suffix is built.model


def check_flat(name):
    built = classifier.build(name, SIZE, classes=CLASSES)
    assert not [layer.name for layer in built.model.layers if isinstance(layer, keras.Model)]
    for layer in built.model.layers:
        assert type(layer).__module__.startswith(("keras.src.", "ctkeras.")), type(layer)
    assert built.model.input.shape == (None, SIZE, SIZE, 3)
    assert built.model.output.shape == (None, CLASSES)
    return built


@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v3_large"])
def test_no_model_is_nested_in_the_graph(name):
    check_flat(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(backbones.BACKBONES))
def test_no_backbone_is_nested_and_its_weights_come_first_in_the_model(name):
    built = check_flat(name)
    names = [weight.path for weight in built.model.weights]
    assert names[-len(HEAD) :] == HEAD  # so that initialise puts loaded weights where they belong
    with blank.initializers():
        backbone = backbones.build(name, SIZE)
    assert [weight.shape for weight in backbone.weights] == [
        weight.shape for weight in built.model.weights[: -len(HEAD)]
    ]


def test_frozen_training_touches_only_the_head():
    built = fresh()
    train(built, frozen=False)  # BatchNorm's statistics away from their start
    before = values(built.model.variables)
    _, state = train(built, frozen=True)
    assert int(state.totals["steps"]) == 3
    differing = changed(before, values(built.model.variables))
    assert {"logits/kernel", "logits/bias"} <= differing
    assert all(path.startswith(("logits/", "seed_generator", "dropout/")) for path in differing), differing
    assert "dropout/rate" not in differing


def test_a_frozen_step_on_images_is_the_step_on_their_features():
    """The prefix runs in inference mode: BatchNorm by its statistics, its own dropout off."""
    built = fresh()
    train(built, frozen=False)
    classifier.initialise(built, seed=0, dropout=0.3)
    on_images, on_features = (
        programs_at(built, cut="head", on_features=choice, optimizer="sgd") for choice in (False, True)
    )
    frozen = on_images.place(on_images.frozen_variables())
    one = on_images.train_step(on_images.start(), frozen, on_images.place_batch(batch()), HYPER)
    features = batch()._replace(inputs=np.asarray(on_features.prefix_step(images())))
    other = on_features.train_step(on_features.start(), [], on_features.place_batch(features), HYPER)
    for a, b in zip(one.trainable, other.trainable, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("freeze_batch_norm", [False, True])
def test_fine_tuning_reaches_every_trainable_variable(freeze_batch_norm):
    built = fresh(dropout=0.0, freeze_batch_norm=freeze_batch_norm)
    before = values(built.model.weights)
    train(built, frozen=False, count=2)
    differing = changed(before, values(built.model.weights))
    norms = {path for path in before if path.startswith("norm")}
    assert len(norms) == 8
    expected = before.keys() - set(HEAD[:3]) - (norms if freeze_batch_norm else set())
    assert differing == expected


def test_freeze_batch_norm_normalises_by_the_statistics():
    built = fresh(freeze_batch_norm=True)
    norm = built.model.get_layer("norm")
    norm.moving_mean.assign(np.full(6, 0.7))
    norm.moving_variance.assign(np.full(6, 2.0))
    inputs = np.random.default_rng(0).standard_normal((4, 3, 3, 6)).astype(np.float32)
    np.testing.assert_array_equal(norm(inputs, training=True), norm(inputs, training=False))
    np.testing.assert_allclose(norm(inputs, training=True), (inputs - 0.7) / np.sqrt(2.0 + norm.epsilon), rtol=1e-4)


def test_trained_statistics_move_by_the_momentum():
    built = fresh()
    inputs = built.model.get_layer("norm").input
    seen = keras.Model(built.model.input, inputs).predict_on_batch(images())
    train(built, frozen=False, count=1)
    moved = np.array(built.model.get_layer("norm").moving_mean)
    np.testing.assert_allclose(moved, (1 - classifier.BATCH_NORM_MOMENTUM) * seen.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)


def test_normalisation_is_inside_the_model(monkeypatch):
    scale, offset = np.array([0.01, 0.02, 0.03]), np.array([-1.0, 0.0, 2.0])
    monkeypatch.setitem(backbones.BACKBONES, "tiny", backbones.Backbone(tiny, (scale, offset), "hf://none/tiny"))
    built = fresh()
    backbone_input = keras.Model(built.model.input, built.model.get_layer("conv").input)
    np.testing.assert_allclose(backbone_input.predict_on_batch(images()), images() * scale + offset, atol=1e-4)


def dropout_layer(rate, shape):
    layer = classifier.TracedDropout()
    layer.build((None, *shape))
    layer.rate.assign(rate)
    return layer


def test_dropout_of_rate_0_and_in_inference_is_the_identity():
    inputs = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    np.testing.assert_array_equal(dropout_layer(0.0, (32,))(inputs, training=True), inputs)
    np.testing.assert_array_equal(dropout_layer(0.9, (32,))(inputs, training=False), inputs)
    np.testing.assert_array_equal(dropout_layer(0.9, (32,))(inputs), inputs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_expectation(rate, dtype):
    count = 200_000
    outputs = np.asarray(dropout_layer(rate, (count,))(np.ones((1, count), dtype), training=True), np.float64)
    error = 5 * np.sqrt(rate * (1 - rate) / count)  # 5 standard errors
    rounding = 0.004 if dtype == "bfloat16" else 0  # the rate itself has 8 bits
    assert (outputs == 0).mean() == pytest.approx(rate, abs=error + rounding)
    assert outputs.mean() == pytest.approx(1, abs=error / (1 - rate) + rounding)
    assert len(np.unique(outputs)) == 2


def test_dropout_draws_anew_each_time_and_repeats_from_the_same_seed():
    layer, inputs = dropout_layer(0.5, (100,)), np.ones((1, 100), np.float32)
    start = np.array(layer.seed_generator.state)
    first, second = (np.array(layer(inputs, training=True)) for _ in range(2))
    assert (first != second).any()
    layer.seed_generator.state.assign(start)
    np.testing.assert_array_equal(layer(inputs, training=True), first)


def test_another_dropout_rate_needs_no_new_program():
    layer = dropout_layer(0.0, (1000,))
    traced = []

    @jax.jit
    def dropped(other, inputs):
        traced.append(1)
        return layer.stateless_call([], other, inputs, training=True)[0]

    shares = []
    for rate in (0.0, 0.2, 0.7):
        layer.rate.assign(rate)
        other = [variable.value for variable in layer.non_trainable_variables]
        shares.append(float((dropped(other, np.ones((1, 1000), np.float32)) == 0).mean()))
    assert len(traced) == 1
    np.testing.assert_allclose(shares, [0.0, 0.2, 0.7], atol=0.08)


def test_bfloat16_gives_float32_logits_and_keeps_float32_weights():
    built, exact = fresh(precision="bfloat16"), fresh()
    assert built.model.get_layer("conv").compute_dtype == "bfloat16"
    assert built.model.get_layer("normalization").compute_dtype == "float32"
    logits, expected = (one.model.predict_on_batch(images()) for one in (built, exact))
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    programs, state = train(built, frozen=False)
    assert {str(value.dtype) for value in state.trainable} == {"float32"}
    assert {str(weight.dtype) for weight in built.model.weights} == {"float32"}
    assert programs.eval_step(state, [], batch()).dtype == np.float32


def test_initialise_gives_the_same_start_on_a_fresh_and_on_a_used_model():
    used = fresh(seed=5, dropout=0.1)
    for frozen in (False, True):
        train(used, frozen=frozen)
    classifier.initialise(used, seed=1, dropout=0.4)
    assert not changed(values(fresh(seed=1, dropout=0.4).model.variables), values(used.model.variables))


def test_initialise_gives_loaded_weights_back_to_a_used_model(weights):
    used = fresh(seed=5, weights=weights)
    loaded = values(used.model.weights)
    train(used, frozen=False)
    assert changed(loaded, values(used.model.weights)) >= {"conv/kernel", "norm/moving_mean"}
    classifier.initialise(used, seed=5, dropout=0.3)
    assert not changed(loaded, values(used.model.weights))
    classifier.initialise(used, seed=1, dropout=0.3)
    assert not changed(values(fresh(seed=1, weights=weights).model.variables), values(used.model.variables))


def test_loaded_weights_are_those_of_the_file_and_no_seed_changes_them(weights):
    rng = np.random.default_rng(7)
    with blank.initializers():
        expected = [rng.uniform(0.5, 1.5, weight.shape).astype(np.float32) for weight in tiny(SIZE).weights]
    for seed in (0, 1):
        backbone = fresh(seed=seed, weights=weights).model.weights[: -len(HEAD)]
        for weight, value in zip(backbone, expected, strict=True):
            np.testing.assert_array_equal(weight.value, value)


def test_another_seed_gives_another_start():
    one, other = (values(fresh(seed=seed).model.variables) for seed in (0, 1))
    differing = changed(one, other)
    assert {"conv/kernel", "depthwise/kernel", "project/kernel", "logits/kernel"} <= differing
    assert any("seed_generator" in path for path in differing)
    assert not {path for path in differing if path.endswith(("bias", "gamma", "beta", "mean", "variance"))}


def test_random_weights_have_the_published_scales():
    """He et al. 2015, fan out, for convolutions; Glorot & Bengio 2010, uniform, for the head; BatchNorm the identity."""
    built = classifier.build("resnet18", SIZE, classes=CLASSES)
    classifier.initialise(built, seed=0, dropout=0.0)
    for layer in built.model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.array(layer.kernel)
            expected = np.sqrt(2 / (kernel.shape[0] * kernel.shape[1] * kernel.shape[3]))
            assert kernel.std() == pytest.approx(expected, rel=0.05)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.name != "standardise":
            for name, value in {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1}.items():
                assert (np.array(getattr(layer, name)) == value).all()
    head = np.array(built.model.get_layer("logits").kernel)
    limit = np.sqrt(6 / sum(head.shape))
    assert 0.98 * limit < np.abs(head).max() <= limit
    assert not np.array(built.model.get_layer("logits").bias).any()


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "densenet121"))]
)
def test_each_stage_cuts_the_network_in_two_that_make_the_whole(name):
    """Later stages train fewer layers, and prefix and suffix in turn give the whole network's logits."""
    built = classifier.build(name, 64, classes=3)
    classifier.initialise(built, seed=0, dropout=0.0)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    whole = built.model.predict_on_batch(images)
    trained = []
    for number, stage in enumerate(CUTS[1:-1], start=1):
        prefix, suffix = built.split(stage)
        assert prefix.output.shape[1] == 64 // 2**number
        trained.append(len(suffix.trainable_variables))
        assert not {id(v) for v in prefix.variables} & {id(v) for v in suffix.variables}
        assert len(prefix.variables) + len(suffix.variables) == len(built.model.variables)
    np.testing.assert_allclose(suffix.predict_on_batch(prefix.predict_on_batch(images)), whole, rtol=1e-4, atol=1e-5)
    assert trained == sorted(trained, reverse=True)
    assert len(set(trained)) == 4


def test_a_network_too_small_for_a_stage_says_so():
    image = keras.Input((8, 8, 3))
    small = keras.Model(image, keras.layers.Conv2D(2, 3, strides=2)(image), name="small")
    with pytest.raises(UserError, match="small has no such stage"):
        classifier._stage_input(small, "stage4")


def test_a_stage_begins_at_the_last_of_the_narrowest_tensors_of_its_size():
    """Sides are rounded up: 9 px, 5 px at half, 3 px at a quarter."""
    image = keras.Input((9, 9, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(image)
    first = keras.layers.Conv2D(4, 1)(x)
    second = keras.layers.ReLU()(first)
    wide = keras.layers.Conv2D(6, 1)(second)
    third = keras.layers.Conv2D(5, 3, strides=2, padding="same")(wide)
    network = keras.Model(image, keras.layers.Conv2D(7, 1, strides=2)(third))
    assert classifier._stage_input(network, "stage1") is second
    assert classifier._stage_input(network, "stage2") is third


def test_a_stage_does_not_begin_inside_a_block():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same")(image)
    inside = keras.layers.Conv2D(2, 1)(x)
    met = keras.layers.Add()([keras.layers.Conv2D(6, 1)(inside), x])
    out = keras.layers.Conv2D(7, 3, strides=2, padding="same")(met)
    assert classifier._stage_input(keras.Model(image, out), "stage1") is met


def test_a_seed_gives_the_same_values_in_every_version():
    built = fresh(seed=3)
    head = np.array(built.model.get_layer("logits").kernel)
    conv = np.array(built.model.get_layer("conv").kernel)
    np.testing.assert_allclose(head[0], [-0.248566, 0.563518, -0.715676], rtol=1e-4)
    np.testing.assert_allclose(conv[0, 0, 0, :3], [0.164332, 0.008621, -0.178508], rtol=1e-4)
