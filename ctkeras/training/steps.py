"""The steps of a run: train, evaluate, and compute features. Pure functions of (parts, state, batch, hyperparameters).

Each number (learning rate, decay, smoothing, dropout) is an argument or in the state, so that another value runs the same
compiled program; programs.py compiles.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctkeras.data.batches import Batch


class Hyper(NamedTuple):
    """The numbers a train step takes, float32 scalars; of K steps in one program, [K]."""

    lr: Any
    weight_decay: Any
    label_smoothing: Any


class State(NamedTuple):
    """All that training changes. Lists follow the order of the Keras model's variables."""

    trainable: list[Any]
    non_trainable: list[Any]
    optimizer: list[Any]
    totals: dict[str, Any]  # of the epoch so far: loss, correct, examples, steps, bad_step (-1: none)


class Parts(NamedTuple):
    """What a program is compiled from and does not change: the model cut in two, and the optimizer."""

    prefix: Any  # keras.Model, frozen; None when everything is trained
    suffix: Any  # keras.Model, trained
    optimizer: Any  # keras optimizer
    decoupled: bool  # weight decay as AdamW has it
    on_features: bool  # batches hold the prefix's output


def new_totals() -> dict[str, Any]:
    """An epoch's sums, at their start."""
    zero = np.float32(0)
    return {"loss": zero, "correct": zero, "examples": zero, "steps": np.int32(0), "bad_step": np.int32(-1)}


def train_step(parts: Parts, state: State, frozen: list[Any], batch: Batch, hyper: Hyper) -> State:
    """One optimizer step: forward, loss, gradients, update, totals.

    Args:
        parts: the model and its optimizer.
        state: before the step.
        frozen: the prefix's variables; [] when everything is trained or the batch holds features.
        batch: inputs [B, …], labels [B, C] and weights [B].
        hyper: the numbers of this step.
    """
    inputs = _suffix_inputs(parts, frozen, batch.inputs)

    def loss_of(trainable: list[Any]) -> tuple[Any, Any]:
        logits, updated = parts.suffix.stateless_call(trainable, state.non_trainable, inputs, training=True)
        return _loss(logits, batch, hyper.label_smoothing), (logits, updated)

    (loss, (logits, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
    trainable, optimizer = _update(parts, state, gradients, hyper)
    return State(trainable, updated, optimizer, _add(state.totals, loss, logits, batch))


def train_steps(parts: Parts, state: State, frozen: list[Any], batch: Batch, hyper: Hyper, count: Any) -> State:
    """Several optimizer steps, one after the other in one program: a head's step takes less time than a call from Python.

    Args:
        parts: the model and its optimizer.
        state: before the first step.
        frozen: as for train_step.
        batch: of K steps: inputs [K, B, …], labels [K, B, C] and weights [K, B].
        hyper: the numbers of each step, float32 [K].
        count: int32, how many of the K are done; another number runs the same program.
    """

    def step(number: Any, before: State) -> State:
        own, numbers = jax.tree.map(
            lambda each: jax.lax.dynamic_index_in_dim(each, number, keepdims=False), (batch, hyper)
        )
        after = train_step(parts, before, frozen, own, numbers)
        return State(list(after.trainable), list(after.non_trainable), list(after.optimizer), after.totals)

    return jax.lax.fori_loop(0, count, step, state)


def fold_steps(parts: Parts, states: State, frozen: list[Any], batch: Batch, hyper: Hyper, count: Any) -> State:
    """train_steps of several members at once, which differ in their data and have the same numbers.

    Args:
        parts: the model and its optimizer.
        states: of M members, each array [M, …].
        frozen: as for train_step.
        batch: of K steps of each member: inputs [M, K, B, …], labels [M, K, B, C] and weights [M, K, B].
        hyper: as for train_steps.
        count: as for train_steps.
    """
    return jax.vmap(lambda state, own: train_steps(parts, state, frozen, own, hyper, count))(states, batch)


def eval_step(parts: Parts, values: tuple[list[Any], list[Any]], frozen: list[Any], inputs: Any) -> Any:
    """Logits float32 [B, C], in inference mode.

    Args:
        parts: the model.
        values: the state's trainable and non_trainable.
        frozen: as for train_step.
        inputs: a batch's inputs [B, …].
    """
    logits, _ = parts.suffix.stateless_call(*values, _suffix_inputs(parts, frozen, inputs), training=False)
    return logits


def prefix_step(parts: Parts, variables: list[Any], inputs: Any) -> Any:
    """The frozen prefix's output: float32 [B, D], or [B, h, w, D] before a stage.

    Args:
        parts: the model, with a prefix.
        variables: the prefix's, in the order of its `variables`.
        inputs: images [B, S, S, 3].
    """
    outputs, _ = parts.prefix.stateless_call(*_by_kind(parts.prefix, variables), inputs, training=False)
    return outputs.astype("float32")


def _suffix_inputs(parts: Parts, frozen: list[Any], inputs: Any) -> Any:
    """What the suffix takes: a batch's inputs as they are, or the frozen prefix's output for them."""
    if parts.prefix is None or parts.on_features:
        return inputs
    return jax.lax.stop_gradient(prefix_step(parts, frozen, inputs))


def _loss(logits: Any, batch: Batch, label_smoothing: Any) -> Any:
    """Weighted cross-entropy with smoothed labels, mean over the batch."""
    smooth = batch.labels * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    losses = -(smooth * jax.nn.log_softmax(logits)).sum(-1)
    return (losses * batch.weights).mean()


def _update(parts: Parts, state: State, gradients: list[Any], hyper: Hyper) -> tuple[list[Any], list[Any]]:
    """The update with weight decay, of kernels only: in the gradient (PyTorch's adam and sgd) or decoupled (adamw)."""
    decays = [variable.ndim > 1 for variable in state.trainable]
    trainable = list(state.trainable)
    if parts.decoupled:
        share = 1 - hyper.lr * hyper.weight_decay
        trainable = [v * share if decay else v for v, decay in zip(trainable, decays, strict=True)]
    else:
        pairs = zip(gradients, state.trainable, decays, strict=True)
        gradients = [g + hyper.weight_decay * v if decay else g for g, v, decay in pairs]
    optimizer = list(state.optimizer)
    optimizer[_lr_index(parts.optimizer)] = hyper.lr
    return parts.optimizer.stateless_apply(optimizer, gradients, trainable)


def _lr_index(optimizer: Any) -> int:
    """The index of the learning rate among an optimizer's variables."""
    return next(i for i, variable in enumerate(optimizer.variables) if variable.path.endswith("learning_rate"))


def _by_kind(prefix: Any, variables: list[Any]) -> tuple[list[Any], list[Any]]:
    """Splits values in the order of `prefix.variables` into those of its trainable and its other variables."""
    by_id = {id(variable): value for variable, value in zip(prefix.variables, variables, strict=True)}
    return (
        [by_id[id(variable)] for variable in prefix.trainable_variables],
        [by_id[id(variable)] for variable in prefix.non_trainable_variables],
    )


def _add(totals: dict[str, Any], loss: Any, logits: Any, batch: Batch) -> dict[str, Any]:
    """An epoch's sums after one more step; they stay on the device until the epoch ends."""
    finite = jnp.isfinite(loss)
    first_bad = jnp.where(~finite & (totals["bad_step"] < 0), totals["steps"], totals["bad_step"])
    hits = (logits.argmax(-1) == batch.labels.argmax(-1)).sum()
    size = logits.shape[0]
    return {
        "loss": totals["loss"] + loss * size,
        "correct": totals["correct"] + hits.astype("float32"),
        "examples": totals["examples"] + size,
        "steps": totals["steps"] + 1,
        "bad_step": first_bad.astype("int32"),
    }
