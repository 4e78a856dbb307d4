"""The compiled step: its numbers are data, its updates PyTorch's, its sums those of the epoch."""

import jax
import keras
import numpy as np
import pytest

from ctkeras.data.batches import Batch
from ctkeras.models import backbones
from ctkeras.models.classifier import Classifier, build, initialise
from ctkeras.training import steps, together
from ctkeras.training.programs import Structure, programs_at
from ctkeras.training.programs import classifier as programs_classifier

SIZE, FEATURES, CLASSES, COUNT = 32, 6, 4, 8
OPTIMIZERS = ("adam", "adamw", "sgd")


def hyper(lr=0.1, weight_decay=0.0, label_smoothing=0.0):
    return steps.Hyper(np.float32(lr), np.float32(weight_decay), np.float32(label_smoothing))


def linear(optimizer, seed=0):
    """Programs of softmax regression, with random weights."""
    features = keras.Input((FEATURES,))
    head = keras.layers.Dense(CLASSES, name="logits")
    built = Classifier(keras.Model(features, head(features)), "linear", [])
    rng = np.random.default_rng(seed)
    head.kernel.assign(rng.standard_normal(head.kernel.shape))
    head.bias.assign(rng.standard_normal(CLASSES))
    return programs_at(built, cut="input", on_features=False, optimizer=optimizer)


def linear_batch(seed=0):
    """Features with soft labels and uneven weights."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((COUNT, FEATURES)).astype(np.float32)
    labels = rng.dirichlet(np.ones(CLASSES), COUNT).astype(np.float32)
    return Batch(inputs, labels, rng.uniform(0.5, 2.0, COUNT).astype(np.float32))


def run(programs, batches, hypers, state=None):
    """(kernel, bias) after each step."""
    state = programs.start() if state is None else state
    after = []
    for batch, numbers in zip(batches, hypers, strict=True):
        state = programs.train_step(state, [], programs.place_batch(batch), numbers)
        after.append([np.array(value) for value in state.trainable])
    return after, state


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def loss_and_gradients(kernel, bias, batch, label_smoothing=0.0):
    """Weighted, smoothed cross-entropy and its gradients, float64, derived by hand."""
    logs = log_softmax(batch.inputs.astype(np.float64) @ kernel + bias)
    target = batch.labels * (1 - label_smoothing) + label_smoothing / CLASSES
    weights = batch.weights[:, None] / COUNT
    error = weights * (np.exp(logs) * target.sum(-1, keepdims=True) - target)
    return -(weights * target * logs).sum(), [batch.inputs.T.astype(np.float64) @ error, error.sum(0)]


def reference(optimizer, values, batches, lr, weight_decay, label_smoothing):
    """Values after each step: sgd with momentum, Adam with L2, or AdamW as their papers and PyTorch have them."""
    values = [np.array(value, np.float64) for value in values]
    first, second = [0, 0], [0, 0]
    after = []
    for t, batch in enumerate(batches, start=1):
        _, gradients = loss_and_gradients(*values, batch, label_smoothing)
        for i, gradient in enumerate(gradients):
            decay = weight_decay if i == 0 else 0  # the kernel alone
            if optimizer == "adamw":
                values[i] = values[i] * (1 - lr * decay)
            else:
                gradient = gradient + decay * values[i]
            if optimizer == "sgd":
                first[i] = 0.9 * first[i] + gradient
                values[i] = values[i] - lr * first[i]
            else:
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                mean, square = first[i] / (1 - 0.9**t), second[i] / (1 - 0.999**t)
                values[i] = values[i] - lr * mean / (np.sqrt(square) + 1e-8)
        after.append([value.copy() for value in values])
    return after


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_are_those_of_the_papers_with_decay_of_the_kernel_alone(optimizer, weight_decay):
    programs, batches = linear(optimizer), [linear_batch(seed) for seed in range(10)]
    start = programs.start()
    values = [np.array(value) for value in start.trainable]
    after, _ = run(programs, batches, [hyper(0.05, weight_decay, 0.1)] * 10, start)
    expected = reference(optimizer, values, batches, 0.05, weight_decay, 0.1)
    for got, wanted in zip(after, expected, strict=True):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    if weight_decay:
        other = "adam" if optimizer == "adamw" else "adamw"
        confused = reference(other, values, batches, 0.05, weight_decay, 0.1)
        assert np.abs(confused[-1][0] - after[-1][0]).max() > 1e-2  # the comparison can tell


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_a_pure_function(optimizer, weight_decay, label_smoothing):
    """Called without a compiled program: it gives the update computed by hand, and neither state nor model changes."""
    parts, batch = linear(optimizer).parts, linear_batch()
    values = [np.array(variable.value) for variable in parts.suffix.trainable_variables]
    zeros = [np.zeros(variable.shape, variable.dtype) for variable in parts.optimizer.variables]
    state = steps.State([value.copy() for value in values], [], zeros, steps.new_totals())
    after = steps.train_step(parts, state, [], batch, hyper(0.05, weight_decay, label_smoothing))
    (expected,) = reference(optimizer, values, [batch], 0.05, weight_decay, label_smoothing)
    loss, _ = loss_and_gradients(*(value.astype(np.float64) for value in values), batch, label_smoothing)
    for got, wanted in zip(after.trainable, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert float(after.totals["loss"]) == pytest.approx(loss * COUNT, rel=1e-5)
    for one, other in zip([*state.trainable, *state.optimizer], [*values, *zeros], strict=True):
        np.testing.assert_array_equal(one, other)
    assert state.totals == steps.new_totals()
    for variable, value in zip(parts.suffix.trainable_variables, values, strict=True):
        np.testing.assert_array_equal(variable.value, value)
    logits = steps.eval_step(parts, (values, []), [], batch.inputs)
    np.testing.assert_allclose(logits, batch.inputs @ values[0] + values[1], rtol=1e-5, atol=1e-5)


def test_adams_epsilon_is_pytorchs():
    assert linear("adam").parts.optimizer.epsilon == linear("adamw").parts.optimizer.epsilon == 1e-8


@pytest.mark.integration
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_are_pytorchs(optimizer, weight_decay):
    import torch

    programs, batches = linear(optimizer), [linear_batch(seed) for seed in range(10)]
    start = programs.start()
    layer = torch.nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.array(start.trainable[0]).T))
        layer.bias.copy_(torch.tensor(np.array(start.trainable[1])))
    groups = [{"params": [layer.weight], "weight_decay": weight_decay}, {"params": [layer.bias], "weight_decay": 0.0}]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    theirs = kind(groups, lr=0.05, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    after, _ = run(programs, batches, [hyper(0.05, weight_decay, 0.1)] * 10, start)
    for batch, (kernel, bias) in zip(batches, after, strict=True):
        inputs, labels, weights = (torch.tensor(array) for array in batch)
        theirs.zero_grad()
        losses = torch.nn.functional.cross_entropy(layer(inputs), labels, reduction="none", label_smoothing=0.1)
        (losses * weights).mean().backward()
        theirs.step()
        np.testing.assert_allclose(kernel.T, layer.weight.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(bias, layer.bias.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_learning_rate_is_that_of_each_step(optimizer):
    programs = linear(optimizer)
    after, _ = run(programs, [linear_batch()] * 2, [hyper(0.05), hyper(0.05)])
    slower, _ = run(programs, [linear_batch()] * 2, [hyper(0.05), hyper(0.0005)])
    still, _ = run(programs, [linear_batch()], [hyper(0.0)])
    np.testing.assert_array_equal(slower[0][0], after[0][0])
    assert np.abs(slower[1][0] - after[1][0]).max() > 1e-3
    np.testing.assert_array_equal(still[0][0], np.array(programs.start().trainable[0]))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_the_loss_is_the_weighted_smoothed_cross_entropy(label_smoothing):
    programs, batch = linear("sgd"), linear_batch()
    start = programs.start()
    kernel, bias = (np.array(value, np.float64) for value in start.trainable)
    expected, _ = loss_and_gradients(kernel, bias, batch, label_smoothing)
    _, state = run(programs, [batch], [hyper(label_smoothing=label_smoothing)], start)
    assert float(state.totals["loss"]) / COUNT == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_examples_of_weight_0_contribute_nothing(optimizer):
    programs, batch = linear(optimizer), linear_batch()
    weights = batch.weights * (np.arange(COUNT) < 5)
    garbage = Batch(batch.inputs.copy(), batch.labels.copy(), weights)
    garbage.inputs[5:] = 1e3
    garbage.labels[5:] = [1, 0, 0, 0]
    one, _ = run(programs, [batch._replace(weights=weights)], [hyper(0.05, 0.1, 0.1)])
    other, _ = run(programs, [garbage], [hyper(0.05, 0.1, 0.1)])
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_totals_are_the_epochs_sums():
    programs, batches = linear("sgd"), [linear_batch(seed) for seed in range(3)]
    state = programs.start()
    loss = correct = 0
    for batch in batches:
        kernel, bias = (np.array(value, np.float64) for value in state.trainable)
        loss += loss_and_gradients(kernel, bias, batch)[0] * COUNT
        correct += ((batch.inputs @ kernel + bias).argmax(-1) == batch.labels.argmax(-1)).sum()
        _, state = run(programs, [batch], [hyper()], state)
    totals = {key: float(value) for key, value in state.totals.items()}
    assert totals.pop("loss") == pytest.approx(loss, rel=1e-5)
    assert totals == {"correct": correct, "examples": 3 * COUNT, "steps": 3, "bad_step": -1}
    assert 0 < correct < 3 * COUNT


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("bad", [0, 2])
def test_the_first_step_without_a_finite_loss_is_remembered(bad, value):
    programs, batches = linear("adam"), [linear_batch(seed) for seed in range(4)]
    batches[bad].inputs[0, 0] = value
    _, state = run(programs, batches, [hyper()] * 4)
    assert int(state.totals["bad_step"]) == bad
    assert int(state.totals["steps"]) == 4


def test_the_state_starts_at_the_models_values_and_is_stored_back():
    programs = linear("adam")
    before = [np.array(variable.value) for variable in programs.parts.suffix.trainable_variables]
    after, state = run(programs, [linear_batch()] * 2, [hyper()] * 2)
    for variable, value in zip(programs.parts.suffix.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value)  # training works on copies
    programs.store(state)
    for variable, value in zip(programs.parts.suffix.trainable_variables, after[-1], strict=True):
        np.testing.assert_array_equal(variable.value, value)
    assert all(not np.any(value) for value in programs.start().optimizer)  # a new run's optimizer remembers nothing
    run(programs, [linear_batch()], [hyper()], state)  # the state can go on after it was stored


def tiny(image_size):
    image = keras.Input((image_size, image_size, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, name="conv")(image)
    return keras.Model(image, keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x)))


@pytest.fixture
def built(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "tiny", backbones.Backbone(tiny, backbones._TORCH, "hf://none/tiny"))
    classifier = build("tiny", SIZE, classes=CLASSES)
    initialise(classifier, seed=0, dropout=0.3)
    return classifier


def image_batch(seed=0, weight=1.0):
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype(np.float32)
    return Batch(
        inputs, np.eye(CLASSES, dtype=np.float32)[np.arange(COUNT) % CLASSES], np.full(COUNT, weight, np.float32)
    )


def step(programs, batch, numbers):
    frozen = programs.place(programs.frozen_variables())
    return programs.train_step(programs.start(), frozen, programs.place_batch(batch), numbers)


@pytest.mark.parametrize("cut", ["head", "stage2", "input"])
def test_other_numbers_run_the_same_program_and_count(built, cut):
    programs = programs_at(built, cut=cut, on_features=False, optimizer="adamw")
    plain = {"lr": 0.1, "weight_decay": 0.1, "label_smoothing": 0.1, "dropout": 0.3, "seed": 0}
    changes = [{}, {"lr": 0.01}, {"weight_decay": 0.5}, {"label_smoothing": 0.4}, {"dropout": 0.8}, {"seed": 1}]
    seen = []
    with_compiles = []
    for change in changes:
        values = plain | change
        initialise(built, seed=values.pop("seed"), dropout=values.pop("dropout"))
        state = step(programs, image_batch(), hyper(**values))
        jax.block_until_ready(state.totals)
        seen.append(b"".join(np.array(value).tobytes() for value in state.trainable))
        with_compiles.append((len(programs.compiled), programs.compile_seconds))
    assert len(set(seen)) == len(changes)  # each number has an effect
    assert len(set(with_compiles)) == 1  # and none its own program
    assert with_compiles[0][0] == 1


def test_another_shape_is_another_program(built):
    programs = programs_at(built, cut="head", on_features=False, optimizer="sgd")
    step(programs, image_batch(), hyper())
    step(programs, Batch(*(part[:4] for part in image_batch())), hyper())
    assert len(programs.compiled) == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_biases_and_batch_norm_do_not_decay(built, optimizer):
    rng = np.random.default_rng(0)
    for weight in built.model.trainable_variables:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    programs = programs_at(built, cut="input", on_features=False, optimizer=optimizer)
    before = {variable.path: np.array(variable.value) for variable in built.model.trainable_variables}
    state = step(programs, image_batch(weight=0.0), hyper(0.1, weight_decay=0.5))  # no gradient: decay alone
    kernels = 0
    for (path, value), after in zip(before.items(), state.trainable, strict=True):
        if path.endswith("kernel"):
            # sgd's L2 step and adamw's are one; Adam makes every first step as long as the learning rate.
            expected = value - 0.1 if optimizer == "adam" else value * (1 - 0.1 * 0.5)
            np.testing.assert_allclose(after, expected, rtol=1e-5)
            kernels += 1
        else:
            np.testing.assert_array_equal(after, value)
    assert kernels == 2
    assert len(before) == 6


def test_eval_is_in_inference_mode_and_changes_nothing(built):
    programs = programs_at(built, cut="input", on_features=False, optimizer="sgd")
    state = step(programs, image_batch(), hyper())
    one, other = (np.array(programs.eval_step(state, [], image_batch())) for _ in range(2))
    np.testing.assert_array_equal(one, other)  # no dropout, statistics at rest
    programs.store(state)
    np.testing.assert_allclose(one, built.model.predict_on_batch(image_batch().inputs), atol=1e-4)


def test_a_process_keeps_its_models_and_programs(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "tiny", backbones.Backbone(tiny, backbones._TORCH, "hf://none/tiny"))
    structure = Structure("tiny", SIZE, CLASSES, "float32", None, False, 1, 1)
    one, again = programs_classifier(structure), programs_classifier(structure._replace(image_size=SIZE))
    assert one is again
    assert programs_classifier(structure._replace(classes=2)) is not one
    options = {"cut": "head", "on_features": True}
    kept = programs_at(one, optimizer="adam", **options)
    assert programs_at(again, optimizer="adam", **options) is kept
    assert programs_at(again, optimizer="adamw", **options) is not kept


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_steps_in_one_program_are_the_steps_one_by_one(optimizer, count):
    programs = linear(optimizer)
    batches = [linear_batch(seed) for seed in range(count)]
    hypers = [hyper(lr=0.1 / (1 + step), weight_decay=0.01, label_smoothing=0.1) for step in range(count)]
    after, single = run(programs, batches, hypers)
    several = programs.train_steps(programs.start(), batches, hypers=hypers, most=4)
    for ours, each in zip(several.trainable, after[-1], strict=True):
        np.testing.assert_allclose(np.asarray(ours), each, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(several) == jax.tree.structure(single)
    for name in single.totals:
        np.testing.assert_allclose(several.totals[name], single.totals[name], rtol=1e-5)
    assert int(several.totals["steps"]) == count


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_members_side_by_side_are_the_members_one_by_one(optimizer):
    programs = linear(optimizer)
    feeds = [[linear_batch(10 * member + step) for step in range(3)] for member in range(3)]
    hypers = [hyper(lr=0.1 / (1 + step), weight_decay=0.01, label_smoothing=0.1) for step in range(3)]
    one_by_one = [programs.train_steps(programs.start(), feed, hypers=hypers, most=4) for feed in feeds]
    joined = together.stacked([programs.start() for _ in feeds])
    found = together.separated(programs.fold_steps(joined, list(zip(*feeds, strict=True)), hypers=hypers, most=4))
    for ours, expected in zip(found, one_by_one, strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected)
    assert not np.allclose(found[0].trainable[0], found[1].trainable[0])


def test_another_number_of_steps_runs_the_same_program():
    programs, state = linear("adamw"), None
    for count in (4, 1, 2):
        batches = [linear_batch(seed) for seed in range(count)]
        state = programs.train_steps(state or programs.start(), batches, hypers=[hyper()] * count, most=4)
    assert len(programs.compiled) == 1
