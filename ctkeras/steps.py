"""The compiled programs of a run: train step, eval step, frozen prefix. Pure functions of (state, batch, hyperparameters).

What is a number (learning rate, decay, smoothing, dropout) comes in as data. What is structural keys a program; a process
that trains again with the same structure finds its program ready.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

from ctkeras import heap, model, onednn, runtime
from ctkeras.pipeline import Batch

# Bytes of a batch's inputs up to which a program on CPU copies them by itself, sooner than JAX places them. Large ones would
# be copied to where the heap keeps the program's own memory (heap.py).
TAKEN_AS_IS = 2**20
MOMENTUM = 0.9  # of sgd; torchvision's training reference


class Structure(NamedTuple):
    """What keys a program."""

    model_name: str
    image_size: int
    classes: int
    precision: str
    weights: Path | None
    freeze_batch_norm: bool


class Hyper(NamedTuple):
    """The numbers a train step takes, float32 scalars."""

    lr: np.float32
    weight_decay: np.float32
    label_smoothing: np.float32


class State(NamedTuple):
    """All that training changes. Lists follow the order of the Keras model's variables."""

    trainable: list[Any]
    non_trainable: list[Any]
    optimizer: list[Any]
    totals: dict[str, Any]  # of the epoch so far: loss, correct, examples, steps, bad_step (-1: none)


@functools.lru_cache(maxsize=6)  # a phase-1 sweep has three backbones, frozen or not
def classifier(structure: Structure) -> model.Classifier:
    """Builds a structure's model once a process."""
    return model.build(
        structure.model_name,
        structure.image_size,
        classes=structure.classes,
        precision=structure.precision,
        weights=structure.weights,
        freeze_batch_norm=structure.freeze_batch_norm,
    )


@dataclasses.dataclass
class Programs:
    """The functions of one structure cut at one point, compiled at their first use."""

    prefix: Any  # keras.Model or None
    suffix: Any  # keras.Model
    optimizer: Any  # keras optimizer
    decoupled: bool  # weight decay as AdamW has it
    on_features: bool  # batches hold the prefix's output
    compile_seconds: float = 0.0
    # The programs, each with the bytes of the host that it works in.
    compiled: dict[tuple, tuple[Any, int]] = dataclasses.field(default_factory=dict)

    def start(self) -> State:
        """The state as the model's variables have it now, the optimizer's at zero. Arrays are copies."""
        trainable = _copies(self.suffix.trainable_variables)
        zeros = [np.zeros(v.shape, v.dtype) for v in self.optimizer.variables]
        return self.place(State(trainable, _copies(self.suffix.non_trainable_variables), zeros, new_totals()))

    def store(self, state: State) -> None:
        """Puts a state's values into the Keras model's variables. Copies, as the state is used up by the next step."""
        for variable, value in zip(self.suffix.trainable_variables, state.trainable, strict=True):
            variable.assign(np.array(value))
        for variable, value in zip(self.suffix.non_trainable_variables, state.non_trainable, strict=True):
            variable.assign(np.array(value))

    def place(self, tree: Any) -> Any:
        """Puts arrays on the device, or on every device when there are several."""
        distribution = keras.distribution.distribution()
        if distribution is None:
            return jax.device_put(tree)
        return jax.device_put(tree, _replicated(distribution))

    def place_batch(self, batch: Batch) -> Batch:
        """Puts a batch on the device, or its parts on several, as keras.distribution's DataParallel lays data out."""
        distribution = keras.distribution.distribution()
        if distribution is None:
            as_it_is = jax.default_backend() == "cpu" and batch.inputs.nbytes <= TAKEN_AS_IS
            return batch if as_it_is else jax.device_put(batch)
        layouts = [distribution.get_data_layout(array.shape).backend_layout for array in batch]
        return Batch(*(jax.device_put(array, layout) for array, layout in zip(batch, layouts, strict=True)))

    def frozen_variables(self) -> list[Any]:
        """The prefix's variables as arrays; none when all is trained or the batches hold features."""
        if self.prefix is None or self.on_features:
            return []
        return [variable.value for variable in self.prefix.variables]

    def train_step(self, state: State, frozen: list[Any], batch: Batch, hyper: Hyper) -> State:
        """One optimizer step; `state` is used up."""
        return self._call(self._train_step, state, frozen, batch, hyper, sized_by=batch, donate=(0,))

    def eval_step(self, state: State, frozen: list[Any], batch: Batch) -> Any:
        """Logits float32 [B, C], in inference mode."""
        values = (state.trainable, state.non_trainable)
        return self._call(self._eval_step, values, frozen, batch.inputs, sized_by=batch)

    def prefix_step(self, inputs: np.ndarray) -> np.ndarray:
        """The frozen prefix's output for a batch of images: float32 [B, D], or [B, h, w, D] before a stage."""
        variables = [variable.value for variable in self.prefix.variables]
        return self._call(self._prefix_step, variables, self.place(inputs), sized_by=(inputs,))

    def _call(self, function: Callable, *args: Any, sized_by: tuple, donate: tuple[int, ...] = ()) -> Any:
        """Runs a function, compiling it when the arrays of `sized_by` have new shapes; those of all others never change."""
        key = (function.__name__, *((array.shape, array.dtype) for array in sized_by))
        if key not in self.compiled:
            start = time.perf_counter()
            distribution = keras.distribution.distribution()
            placed = {} if distribution is None else {"out_shardings": _replicated(distribution)}
            lowered = jax.jit(function, donate_argnums=donate, **placed).lower(*args)
            hits = runtime.compile_counts["cache_hits"]
            program = lowered.compile(runtime.compiler_options())
            if function == self._train_step and runtime.compile_counts["cache_hits"] == hits:
                runtime.compile_counts["train_programs_compiled"] += 1
            analysis = program.memory_analysis() if jax.default_backend() == "cpu" else None
            self.compiled[key] = program, analysis.temp_size_in_bytes if analysis else 0
            heap.release()  # compiling leaves hundreds of megabytes behind
            self.compile_seconds += time.perf_counter() - start
        program, size = self.compiled[key]
        if size < heap.MMAP_THRESHOLD:
            outputs = program(*args)
        else:
            jax.block_until_ready(args)  # else it would run behind our back, outside of `kept`
            with heap.kept(size):
                outputs = jax.block_until_ready(program(*args))
        onednn.check()
        return outputs

    def _prefix_step(self, variables: list[Any], inputs: Any) -> Any:
        outputs, _ = self.prefix.stateless_call(*_by_kind(self.prefix, variables), inputs, training=False)
        return outputs.astype("float32")

    def _inputs(self, frozen: list[Any], inputs: Any) -> Any:
        if self.prefix is None or self.on_features:
            return inputs
        return jax.lax.stop_gradient(self._prefix_step(frozen, inputs))

    def _eval_step(self, values: tuple[list, list], frozen: list[Any], inputs: Any) -> Any:
        logits, _ = self.suffix.stateless_call(*values, self._inputs(frozen, inputs), training=False)
        return logits

    def _train_step(self, state: State, frozen: list[Any], batch: Batch, hyper: Hyper) -> State:
        inputs = self._inputs(frozen, batch.inputs)

        def loss_of(trainable: list[Any]) -> tuple[Any, Any]:
            logits, updated = self.suffix.stateless_call(trainable, state.non_trainable, inputs, training=True)
            smooth = batch.labels * (1 - hyper.label_smoothing) + hyper.label_smoothing / logits.shape[-1]
            losses = -(smooth * jax.nn.log_softmax(logits)).sum(-1)
            return (losses * batch.weights).mean(), (logits, updated)

        (loss, (logits, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
        trainable, optimizer = self._apply(state, gradients, hyper)
        totals = _add(state.totals, loss, logits, batch)
        return State(trainable, updated, optimizer, totals)

    def _apply(self, state: State, gradients: list[Any], hyper: Hyper) -> tuple[list[Any], list[Any]]:
        """The update with weight decay: in the gradient (PyTorch's adam and sgd) or decoupled (adamw); kernels alone decay."""
        decays = [variable.ndim > 1 for variable in state.trainable]
        trainable = list(state.trainable)
        if self.decoupled:
            kept = 1 - hyper.lr * hyper.weight_decay
            trainable = [v * kept if decay else v for v, decay in zip(trainable, decays, strict=True)]
        else:
            pairs = zip(gradients, state.trainable, decays, strict=True)
            gradients = [g + hyper.weight_decay * v if decay else g for g, v, decay in pairs]
        optimizer = list(state.optimizer)
        optimizer[_lr_index(self.optimizer)] = hyper.lr
        return self.optimizer.stateless_apply(optimizer, gradients, trainable)


def new_totals() -> dict[str, Any]:
    """An epoch's sums, at their start."""
    zero = np.float32(0)
    return {"loss": zero, "correct": zero, "examples": zero, "steps": np.int32(0), "bad_step": np.int32(-1)}


def programs(built: model.Classifier, *, cut: str, on_features: bool, optimizer: str) -> Programs:
    """The programs of a classifier, made once and kept with it.

    Args:
        built: the model.
        cut: where training begins, one of config.CUTS.
        on_features: batches hold the prefix's output instead of images.
        optimizer: adam, adamw or sgd.
    """
    key = (cut, on_features, optimizer)
    if key not in built.programs:
        built.programs[key] = _programs(built, *key)
    return built.programs[key]


def _programs(built: model.Classifier, cut: str, on_features: bool, optimizer: str) -> Programs:
    prefix, suffix = built.split(cut)
    sgd = functools.partial(keras.optimizers.SGD, momentum=MOMENTUM)
    adam = functools.partial(keras.optimizers.Adam, epsilon=1e-8)  # PyTorch's epsilon; Keras' default is 1e-7
    instance = (sgd if optimizer == "sgd" else adam)(1.0)  # the rate comes in as data
    instance.build(suffix.trainable_variables)
    return Programs(prefix, suffix, instance, optimizer == "adamw", on_features)


def _lr_index(optimizer: Any) -> int:
    """Where an optimizer keeps its learning rate among its variables."""
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


def _copies(variables: list[Any]) -> list[np.ndarray]:
    """Host copies: the originals would be used up with the state."""
    return [np.array(variable.value) for variable in variables]


def _replicated(distribution: Any) -> Any:
    """A sharding that puts the whole array on every device of a distribution's mesh."""
    mesh = distribution.device_mesh.backend_mesh
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
