"""Answers by the fast layers: equal to the file's own, without a change to the model."""

import concurrent.futures

import jax
import keras
import numpy as np
import pytest

from ctkeras.cpu import layers, onednn
from ctkeras.models import classifier, export, fast

SIZE = 48
needs_onednn = pytest.mark.skipif(not onednn.available(), reason="oneDNN's wheel is for Linux on x86-64")


@pytest.fixture(scope="module")
def exported() -> keras.Model:
    """An exported graph with depthwise, pointwise and other convolutions."""
    built = classifier.build("mobilenet_v3_large", SIZE, classes=3, head_stages=2)
    classifier.initialise(built, seed=0, dropout=0.0)
    return export.core_model(built.model, 3, layers.core)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)


def test_answers_are_those_of_the_core_layers(exported, pixels):
    before, kinds = exported.to_json(), [type(layer) for layer in exported.layers]
    answers = fast.program(exported)(pixels)
    np.testing.assert_allclose(answers, np.asarray(exported.predict_on_batch(pixels)), atol=1e-5)
    assert exported.to_json() == before and [type(layer) for layer in exported.layers] == kinds


def test_fast_layers_stand_for_the_slow_ones(exported, monkeypatch):
    kinds = {type(layer) for layer in fast.twin(exported).layers}
    assert {layers.ShiftedDepthwise, layers.PointwiseDot, layers.SettledConv} <= kinds
    monkeypatch.setenv("CTKERAS_CPU_KERNELS", "off")
    assert fast.twin(exported) is exported


def test_weights_are_read_at_each_call(exported, pixels):
    answer = fast.program(exported)
    logits = exported.get_layer("logits")
    bias = np.asarray(logits.bias)
    logits.bias.assign([0.0, 50.0, 0.0])
    assert answer(pixels)[:, 1].min() > 0.99
    logits.bias.assign(bias)
    assert fast.program(exported) is answer  # no second program for the same model


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 4), (4, 4), (5, 8), (9, 32), (32, 32), (33, 33)])
def test_few_sizes_have_programs(count, size):
    rows = np.arange(1.0, 2 * count + 1).reshape(count, 2)
    made = fast.padded(rows)
    assert made.shape == (size, 2)
    np.testing.assert_array_equal(made[:count], rows)
    assert not made[count:].any()


def test_numbers_of_images_share_a_program(exported, pixels):
    """Three and four images run the same compiled program, and each image's answer is what it has alone."""
    three = np.concatenate([pixels, pixels[:1] / 2])
    answer, before = fast.program(exported), fast.program(exported)(three)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    four = answer(np.concatenate([three, pixels[:1]]))
    assert before.shape == (3, 3) and not [event for event in compiled if "compile" in event]
    np.testing.assert_allclose(four[:3], before, atol=1e-6)
    np.testing.assert_allclose(four[3], before[0], atol=1e-6)


def test_a_model_that_cannot_be_cloned_answers_by_its_own_layers(pixels):
    class Unknown(keras.Model):
        def call(self, images):
            return keras.ops.softmax(keras.ops.mean(images, (1, 2)))

    model = Unknown()
    model(pixels)
    assert fast.twin(model) is model
    np.testing.assert_allclose(fast.program(model)(pixels).sum(-1), 1, atol=1e-5)


@needs_onednn
def test_kernels_are_put_in_order_once_and_again_when_weights_change(exported, pixels, monkeypatch):
    made, real = [], onednn.packed
    monkeypatch.setattr(onednn, "packed", lambda kernel, shape: made.append(shape.batch) or real(kernel, shape))
    model = keras.models.clone_model(exported)
    answer = fast.program(model)
    first = answer(pixels[:1])
    kernels = len(made)
    assert kernels == len(layers.convolutions(fast.twin(model), 1)) > 20
    np.testing.assert_array_equal(answer(pixels[:1]), first)
    assert made == [1] * kernels
    answer(np.concatenate([pixels, pixels]))
    more = made[kernels:]
    assert set(more) == {4}
    model.set_weights(exported.get_weights())
    np.testing.assert_allclose(answer(pixels[[0, 1, 1]])[:2], np.asarray(exported.predict_on_batch(pixels)), atol=1e-5)
    assert made[kernels:] == 2 * more
    many = np.repeat(pixels[:1], fast.SIZES[-1] + 1, 0)  # of any larger number no copies are kept
    np.testing.assert_allclose(answer(many)[-1], answer(pixels)[0], atol=1e-5)
    assert len(made) == kernels + 2 * len(more)


@needs_onednn
def test_a_layer_that_is_used_twice_answers_too(pixels):
    inputs = keras.Input((SIZE, SIZE, 3))
    twice = keras.layers.Conv2D(3, 3, padding="same")
    outputs = keras.layers.Conv2D(4, 3)(twice(twice(inputs)))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(outputs))
    np.testing.assert_allclose(
        fast.program(model)(pixels), np.asarray(model.predict_on_batch(pixels)), rtol=1e-4, atol=1e-3
    )


@pytest.mark.slow
def test_threads_that_trace_at_once_get_their_own_answers(exported, pixels):
    """As an app does that answers its first questions together."""
    model = keras.models.clone_model(exported)
    model.set_weights(exported.get_weights())
    expected, answer = np.asarray(exported.predict_on_batch(pixels)), fast.program(model)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(answer, [pixels[:1], pixels, np.repeat(pixels[:1], 5, 0)]))
    for found, rows in zip(answers, ([0], [0, 1], [0] * 5), strict=True):
        np.testing.assert_allclose(found, expected[rows], atol=1e-5)
