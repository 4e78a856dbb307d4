"""The CPU layers: the stock layers' values and gradients, alone and in whole networks."""

import jax
import keras
import numpy as np
import pytest

from ctkeras.cpu import layers as layers_module
from ctkeras.cpu import moments, onednn
from ctkeras.cpu.layers import (
    REPLACES,
    IndexedMaxPooling,
    OnePassBatchNorm,
    PointwiseDot,
    RecomputedSilu,
    SettledConv,
    ShiftedDepthwise,
    core,
    for_cpu,
)
from ctkeras.models import classifier

BATCH, CHANNELS, FILTERS = 2, 3, 5


@pytest.fixture(params=["onednn", "xla"])
def path(request, monkeypatch):
    """Both ways that a convolution is computed; XLA's is the one where oneDNN isn't installed."""
    if request.param == "xla":
        monkeypatch.setattr(onednn, "available", lambda: False)
    elif not onednn.available():
        pytest.skip("oneDNN's wheel is for Linux on x86-64")


def pair_of(stock, shape, seed=0):
    """A stock layer and its replacement, both with the same random weights."""
    replacement = for_cpu(stock).from_config(stock.get_config())
    stock.build((BATCH, *shape, CHANNELS))
    replacement.build((BATCH, *shape, CHANNELS))
    rng = np.random.default_rng(seed)
    for one, other in zip(stock.weights, replacement.weights, strict=True):
        one.assign(rng.standard_normal(one.shape))
        other.assign(one.value)
    return stock, replacement


def values_and_gradients(layers, shape, seed=1):
    """Per layer: its output and the gradients of a random projection of it, by inputs and by each weight."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((BATCH, *shape, CHANNELS)).astype(np.float32)
    size = layers[0].compute_output_shape(inputs.shape)
    direction = rng.standard_normal(size).astype(np.float32)

    def projected(layer, weights, x):
        output, _ = layer.stateless_call(weights, [], x)
        return (output * direction).sum(), output

    def both(weights, x):
        gradient = [jax.grad(lambda w, x, lyr=layer: projected(lyr, w, x), (0, 1), has_aux=True) for layer in layers]
        return [g(weights, x) for g in gradient]

    return quickly(both, [weight.value for weight in layers[0].weights], inputs)


def quickly(function, *args):
    """Calls a function compiled without optimisation, which takes half the time."""
    return jax.jit(function).lower(*args).compile({"xla_backend_optimization_level": 0})(*args)


def assert_same(one, other, rtol):
    """Compares trees of arrays by the norm of their difference."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        assert np.abs(a).max() > 0
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(a)


# Odd and even in both directions; a bias where the sizes are swapped.
@pytest.mark.parametrize(("shape", "use_bias"), [((8, 9), False), ((9, 8), True)])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.usefixtures("path")
def test_shifted_depthwise_is_the_stock_depthwise(kernel_size, strides, padding, shape, use_bias):
    stock = keras.layers.DepthwiseConv2D(kernel_size, strides=strides, padding=padding, use_bias=use_bias)
    layers = pair_of(stock, shape)
    assert type(layers[1]) is ShiftedDepthwise
    assert_same(*values_and_gradients(layers, shape), rtol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel_size", "strides"), [((2, 3), 1), (1, 2), (2, 3)])
@pytest.mark.usefixtures("path")
def test_shifted_depthwise_covers_uneven_kernels_and_strides_beyond_them(kernel_size, strides, padding):
    layers = pair_of(keras.layers.DepthwiseConv2D(kernel_size, strides=strides, padding=padding), (7, 9))
    assert type(layers[1]) is ShiftedDepthwise
    assert_same(*values_and_gradients(layers, (7, 9)), rtol=1e-5)


@pytest.mark.parametrize(("use_bias", "activation"), [(True, "relu"), (False, "linear")])
@pytest.mark.parametrize("shape", [(8, 9), (1, 1)])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.usefixtures("path")
def test_pointwise_dot_is_the_stock_convolution(strides, padding, shape, use_bias, activation):
    options = {"padding": padding, "use_bias": use_bias, "activation": activation}
    layers = pair_of(keras.layers.Conv2D(FILTERS, 1, strides=strides, **options), shape)
    assert type(layers[1]) is PointwiseDot
    assert_same(*values_and_gradients(layers, shape), rtol=1e-5)


@pytest.mark.parametrize(("use_bias", "activation"), [(True, "relu"), (False, "linear")])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel_size", "strides"), [(3, 1), (3, 2), (7, 2), ((1, 3), 1)])
@pytest.mark.usefixtures("path")
def test_settled_conv_is_the_stock_convolution(kernel_size, strides, padding, use_bias, activation):
    options = {"padding": padding, "use_bias": use_bias, "activation": activation}
    layers = pair_of(keras.layers.Conv2D(FILTERS, kernel_size, strides=strides, **options), (8, 9))
    assert type(layers[1]) is SettledConv
    assert_same(*values_and_gradients(layers, (8, 9)), rtol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("pool_size", "strides"), [(3, 2), (2, 2), (3, 1), ((2, 3), (1, 2)), (2, 3)])
def test_indexed_max_pooling_is_the_stock_one_ties_included(pool_size, strides, padding):
    stock = keras.layers.MaxPooling2D(pool_size, strides=strides, padding=padding)
    replacement = for_cpu(stock).from_config(stock.get_config())
    assert type(replacement) is IndexedMaxPooling
    inputs = np.random.default_rng(0).integers(-3, 3, (BATCH, 8, 9, CHANNELS)).astype(np.float32)  # many ties

    def gradient(layer):
        direction = np.random.default_rng(1).standard_normal(layer.compute_output_shape(inputs.shape))
        return quickly(jax.value_and_grad(lambda x: (layer(x) * direction.astype(np.float32)).sum()), inputs)

    assert_same(gradient(stock), gradient(replacement), rtol=1e-6)


def test_recomputed_silu_is_the_stock_one():
    stock = keras.layers.Activation("swish")
    replacement = for_cpu(stock).from_config(stock.get_config())
    assert type(replacement) is RecomputedSilu
    inputs = np.linspace(-30, 30, 241, dtype=np.float32)
    direction = np.random.default_rng(0).standard_normal(241).astype(np.float32)

    def gradient(layer):
        return quickly(jax.value_and_grad(lambda x: (layer(x) * direction).sum()), inputs)

    assert_same(gradient(stock), gradient(replacement), rtol=1e-5)


@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False)])
def test_one_pass_batch_norm_is_the_stock_one(scale, center):
    """Values, gradients and moved statistics, on channels of unlike mean and spread."""
    stock = keras.layers.BatchNormalization(scale=scale, center=center, momentum=0.8)
    layers = pair_of(stock, (8, 9))
    assert type(layers[1]) is OnePassBatchNorm
    rng = np.random.default_rng(2)
    inputs = (rng.standard_normal((BATCH, 8, 9, CHANNELS)) * [0.1, 1, 20] + [3, 0, -50]).astype(np.float32)
    direction = rng.standard_normal(inputs.shape).astype(np.float32)

    def step(layer):
        def projected(trainable, x):
            other = [variable.value for variable in layer.non_trainable_variables]
            outputs, moved = layer.stateless_call(trainable, other, x, training=True)
            return (outputs * direction).sum(), (outputs, moved)

        trainable = [variable.value for variable in layer.trainable_variables]
        return quickly(jax.value_and_grad(projected, (0, 1), has_aux=True), trainable, inputs)

    assert_same(step(layers[0]), step(layers[1]), rtol=2e-4)  # float32 keeps 1e-3 of a spread of 20 at a mean of -50


def test_batch_norm_in_inference_and_when_frozen_is_the_stock_one():
    layers = pair_of(keras.layers.BatchNormalization(), (4, 4))
    inputs = np.random.default_rng(0).standard_normal((BATCH, 4, 4, CHANNELS)).astype(np.float32)
    for layer in layers:
        layer.moving_variance.assign(np.abs(layer.moving_variance.value) + 0.5)
    np.testing.assert_array_equal(*(layer(inputs, training=False) for layer in layers))
    for layer in layers:
        layer.trainable = False
    before = np.array(layers[1].moving_mean.value)
    np.testing.assert_array_equal(*(layer(inputs, training=True) for layer in layers))
    np.testing.assert_array_equal(layers[1].moving_mean.value, before)


@pytest.mark.parametrize(
    "stock",
    [
        keras.layers.Conv2D(FILTERS, 3, padding="same", dtype="mixed_bfloat16"),
        keras.layers.DepthwiseConv2D(3, padding="same", dtype="mixed_bfloat16"),
        keras.layers.Conv2D(FILTERS, 1, dtype="mixed_bfloat16"),
    ],
)
def test_bfloat16_computes_in_bfloat16_with_float32_weights(stock):
    layers = pair_of(stock, (8, 8))
    inputs = np.random.default_rng(0).standard_normal((BATCH, 8, 8, CHANNELS)).astype(np.float32)
    expected, output = (layer(inputs) for layer in layers)
    assert str(output.dtype) == str(expected.dtype) == "bfloat16"
    assert {str(weight.dtype) for weight in layers[1].weights} == {"float32"}
    assert_same(expected.astype("float32"), output.astype("float32"), rtol=0.02)  # 8 bits: 0.004 a rounding


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.DepthwiseConv2D(3, dilation_rate=2),
        keras.layers.DepthwiseConv2D(3, activation="relu"),
        keras.layers.DepthwiseConv2D(3, data_format="channels_first"),
        keras.layers.Conv2D(4, 3, dilation_rate=2),
        keras.layers.Conv2D(6, 1, groups=3),
        keras.layers.Conv2D(6, 3, groups=3),
        keras.layers.Conv2D(4, 1, data_format="channels_first"),
        keras.layers.SeparableConv2D(4, 1),
        keras.layers.Conv2DTranspose(4, 1),
        keras.layers.BatchNormalization(axis=1),
        keras.layers.MaxPooling2D(16),  # 256 places
        keras.layers.AveragePooling2D(2),
        keras.layers.Activation("relu"),
    ],
)
def test_layers_that_the_kernels_do_not_cover_stay_as_they_are(layer):
    assert for_cpu(layer) is type(layer)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.DepthwiseConv2D(3),
        keras.layers.Conv2D(4, 1),
        keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(),
        keras.layers.MaxPooling2D(3),
        keras.layers.MaxPooling2D((15, 17)),  # 255 places, as many as 8 bits count
        keras.layers.BatchNormalization(axis=3),
        keras.layers.Activation("silu"),
        keras.layers.ReLU(),
    ],
)
def test_core_undoes_the_replacement(layer):
    replaced = for_cpu(layer).from_config(layer.get_config())
    assert (type(replaced) in REPLACES) == (type(layer) is not keras.layers.ReLU)
    assert core(replaced) is type(layer)
    assert core(replaced).from_config(replaced.get_config()).get_config() == layer.get_config()


def network(name, size, monkeypatch, kind=None):
    """A classifier with random weights, its convolutions of the kind."""
    if kind is not None:
        monkeypatch.setattr(layers_module, "for_cpu", kind)
    built = classifier.build(name, size, classes=3)
    monkeypatch.undo()
    classifier.initialise(built, seed=0, dropout=0.2)
    return built.model


def both_networks(name, size, monkeypatch):
    """(stock, replaced) with the same weights; the replaced one has replacements."""
    stock, replaced = network(name, size, monkeypatch, kind=type), network(name, size, monkeypatch)
    count = sum(type(layer) in REPLACES for layer in replaced.layers)
    assert count > (10 if name == "small_cnn" else 30)
    assert not any(type(layer) in REPLACES for layer in stock.layers)
    for one, other in zip(stock.variables, replaced.variables, strict=True):
        np.testing.assert_array_equal(one.value, other.value)
    return stock, replaced


def images(size, count=4):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.float32)


def state_of(network):
    return [v.value for v in network.trainable_variables], [v.value for v in network.non_trainable_variables]


@pytest.mark.parametrize("name", ["mobilenet_v2", "small_cnn", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("path")
def test_a_whole_network_gives_the_stock_networks_logits(name, monkeypatch):
    stock, replaced = both_networks(name, 32, monkeypatch)
    inputs = images(32)

    def logits(network):
        return quickly(lambda state, x: network.stateless_call(*state, x, training=False)[0], state_of(network), inputs)

    assert_same(logits(stock), logits(replaced), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "resnet18", "small_cnn"])
@pytest.mark.usefixtures("path")
def test_a_whole_network_trains_as_the_stock_network(name, monkeypatch):
    stock, replaced = both_networks(name, 64, monkeypatch)
    inputs, labels = images(64), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]

    def step(network):
        def loss(trainable, other):
            logits, updated = network.stateless_call(trainable, other, inputs, training=True)
            return -(labels * jax.nn.log_softmax(logits)).sum(), (logits, updated)

        return quickly(jax.value_and_grad(loss, has_aux=True), *state_of(network))

    (loss, (logits, updated)), gradients = step(stock)
    (other_loss, (other_logits, other_updated)), other_gradients = step(replaced)
    assert np.isclose(loss, other_loss, rtol=1e-4)
    assert_same(logits, other_logits, rtol=1e-3)
    for one, other in zip(updated, other_updated, strict=True):  # BatchNorm's statistics
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
    assert all(np.any(np.asarray(gradient)) for gradient in gradients)
    scale = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))
    for one, other in zip(gradients, other_gradients, strict=True):
        # Rounding may turn a relu at its edge, seen to move a gradient by 0.01. The second term is for shifts before a
        # BatchNorm, whose gradient is zero but for rounding.
        assert np.linalg.norm(np.subtract(one, other)) <= 0.03 * np.linalg.norm(one) + 1e-5 * scale


def test_the_variance_of_a_constant_is_not_negative():
    """By its formula, the mean square less the squared mean, rounding may take it below 0."""
    inputs = np.full((4, 5, 7, 3), [0.1, 1000.1, -77.7], np.float32)
    outputs, mean, variance = moments.normalise(inputs, np.ones(3, np.float32), np.zeros(3, np.float32), 1e-3)
    assert (np.asarray(variance) >= 0).all() and (np.asarray(variance) < 1).all()
    np.testing.assert_allclose(mean, inputs[0, 0, 0], rtol=1e-5)
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize("rows", [(1, 1, 1), (2, 7, 14), (3, 5, 11), (1, 13, 17)])
def test_sums_over_any_number_of_pixels(rows):
    term = np.random.default_rng(0).standard_normal((*rows, 4)).astype(np.float32)
    one, other = moments.sums((term, term * term))
    np.testing.assert_allclose(one, term.sum((0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other, (term * term).sum((0, 1, 2)), rtol=1e-4)


def test_without_onednn_inputs_and_gradients_of_a_convolution_are_computed_once(monkeypatch):
    monkeypatch.setattr(onednn, "available", lambda: False)
    stock = keras.layers.Conv2D(FILTERS, 3, padding="same")
    layer = for_cpu(stock).from_config(stock.get_config())
    layer.build((BATCH, 8, 8, CHANNELS))
    inputs = np.zeros((BATCH, 8, 8, CHANNELS), np.float32)
    assert str(jax.make_jaxpr(lambda x: layer(x))(inputs)).count("optimization_barrier") == 1
    gradient = jax.make_jaxpr(jax.grad(lambda x: layer(x).sum()))(inputs)
    assert str(gradient).count("optimization_barrier") >= 2
