"""The compiled steps of a run. What is structural identifies a program; a process that trains again reuses it."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import keras
import numpy as np

from ctkeras.config import RunConfig
from ctkeras.cpu import memory, onednn
from ctkeras.data.batches import Batch
from ctkeras.models.classifier import Classifier, build
from ctkeras.models.weights import fingerprint
from ctkeras.runtime import process, programs, xla
from ctkeras.training import together
from ctkeras.training.steps import Hyper, Parts, State, new_totals
from ctkeras.training.steps import eval_step as steps_eval_step
from ctkeras.training.steps import fold_steps as steps_fold_steps
from ctkeras.training.steps import prefix_step as steps_prefix_step
from ctkeras.training.steps import train_step as steps_train_step
from ctkeras.training.steps import train_steps as steps_train_steps

# Bytes of a batch's inputs up to which a program on CPU copies them by itself, sooner than JAX places them. Large ones would
# be copied to where the heap keeps the program's own memory (cpu/memory.py).
TAKEN_AS_IS = 2**20
# Of the steps, for the line that waits for another process.
NAMES = {
    "train_step": "the training step",
    "train_steps": "the training steps",
    "fold_steps": "the training steps of all folds",
    "eval_step": "the validation step",
    "prefix_step": "the frozen part",
}
TRAINING = (steps_train_step, steps_train_steps, steps_fold_steps)
MOMENTUM = 0.9  # of sgd; torchvision's training reference


class Structure(NamedTuple):
    """What identifies a model in this process."""

    model_name: str
    image_size: int
    classes: int
    precision: str
    weights: Path | None
    freeze_batch_norm: bool
    head_stages: int
    members: int


@functools.lru_cache(maxsize=6)  # a phase-1 sweep has three backbones, frozen or not
def classifier(structure: Structure) -> Classifier:
    """Builds a structure's model, once per process."""
    return build(
        structure.model_name,
        structure.image_size,
        classes=structure.classes,
        precision=structure.precision,
        weights=structure.weights,
        freeze_batch_norm=structure.freeze_batch_norm,
        head_stages=structure.head_stages,
        members=structure.members,
    )


@dataclasses.dataclass
class Programs:
    """The steps of one model cut at one point, each compiled at its first use."""

    parts: Parts
    compile_seconds: float = 0.0
    # The programs, each with the bytes of host memory that it works in.
    compiled: dict[tuple, tuple[Any, int]] = dataclasses.field(default_factory=dict)

    def start(self) -> State:
        """The state as the model's variables have it now, the optimizer's at zero. Arrays are copies."""
        trainable, non_trainable = (
            _copies(self.parts.suffix.trainable_variables),
            self.parts.suffix.non_trainable_variables,
        )
        zeros = [np.zeros(v.shape, v.dtype) for v in self.parts.optimizer.variables]
        return self.place(State(trainable, _copies(non_trainable), zeros, new_totals()))

    def store(self, state: State) -> None:
        """Writes a state's values into the Keras model's variables. Copies, because the next step uses up the state."""
        for variable, value in zip(self.parts.suffix.trainable_variables, state.trainable, strict=True):
            variable.assign(np.array(value))
        for variable, value in zip(self.parts.suffix.non_trainable_variables, state.non_trainable, strict=True):
            variable.assign(np.array(value))

    def place(self, tree: Any) -> Any:
        """Puts arrays on the device, or on every device when there are several."""
        distribution = keras.distribution.distribution()
        if distribution is None:
            return jax.device_put(tree)
        return jax.device_put(tree, _replicated(distribution))

    def place_batch(self, batch: Batch) -> Batch:
        """Puts a batch on the device, or spreads it over several as keras.distribution's DataParallel lays data out."""
        distribution = keras.distribution.distribution()
        if distribution is None:
            as_it_is = jax.default_backend() == "cpu" and batch.inputs.nbytes <= TAKEN_AS_IS
            return batch if as_it_is else jax.device_put(batch)
        layouts = [distribution.get_data_layout(array.shape).backend_layout for array in batch]
        return Batch(*(jax.device_put(array, layout) for array, layout in zip(batch, layouts, strict=True)))

    def is_spread(self) -> bool:
        """Whether each batch is divided among several devices."""
        return keras.distribution.distribution() is not None

    def frozen_variables(self) -> list[Any]:
        """The prefix's variables as arrays; [] when everything is trained or the batches hold features."""
        if self.parts.prefix is None or self.parts.on_features:
            return []
        return [variable.value for variable in self.parts.prefix.variables]

    def train_step(self, state: State, frozen: list[Any], batch: Batch, hyper: Hyper) -> State:
        """steps.train_step, compiled; `state` is used up."""
        return self._call(steps_train_step, state, frozen, batch, hyper, sized_by=batch, donate=(0,))

    def train_steps(self, state: State, batches: Sequence[Batch], *, hypers: Sequence[Hyper], most: int) -> State:
        """steps.train_steps, compiled once for any number of batches up to `most`; `state` is used up.

        Args:
            state: before the first step.
            batches: of features, all of one shape.
            hypers: the numbers of each step.
            most: how many batches the program takes.
        """
        batch, numbers, count = together.batches(batches, most), together.numbers(hypers, most), np.int32(len(batches))
        return self._call(steps_train_steps, state, [], batch, numbers, count, sized_by=batch, donate=(0,))

    def fold_steps(
        self, states: State, batches: Sequence[Sequence[Batch]], *, hypers: Sequence[Hyper], most: int
    ) -> State:
        """steps.fold_steps, as train_steps: `states` is from together.stacked, and each step has a batch of each member."""
        batch = together.joined([together.batches(own, most) for own in zip(*batches, strict=True)])
        numbers, count = together.numbers(hypers, most), np.int32(len(batches))
        return self._call(steps_fold_steps, states, [], batch, numbers, count, sized_by=batch, donate=(0,))

    def eval_step(self, state: State, frozen: list[Any], batch: Batch) -> Any:
        """steps.eval_step, compiled: logits float32 [B, C]."""
        values = (state.trainable, state.non_trainable)
        return self._call(steps_eval_step, values, frozen, batch.inputs, sized_by=batch)

    def prefix_step(self, inputs: np.ndarray) -> np.ndarray:
        """steps.prefix_step, compiled: the features of a batch of images, which several devices share if they divide it."""
        variables = self.place([variable.value for variable in self.parts.prefix.variables])
        distribution, placed = keras.distribution.distribution(), self.place(inputs)
        if distribution is not None and len(inputs) % distribution.num_model_replicas == 0:
            placed = jax.device_put(inputs, distribution.get_data_layout(inputs.shape).backend_layout)
        return self._call(steps_prefix_step, variables, placed, sized_by=(inputs,))

    def _call(self, step: Callable, *args: Any, sized_by: tuple, donate: tuple[int, ...] = ()) -> Any:
        """Runs a step, compiling it when the arrays of `sized_by` have new shapes, or others devices compute.

        The shapes of all other arrays never change.
        """
        distribution = keras.distribution.distribution()
        devices = distribution.num_model_replicas if distribution else 1
        key = (step.__name__, devices, *((array.shape, array.dtype) for array in sized_by))
        if key not in self.compiled:
            start = time.perf_counter()
            self.compiled[key] = _compile(functools.partial(step, self.parts), args, donate, counted=step in TRAINING)
            self.compile_seconds += time.perf_counter() - start
        program, size = self.compiled[key]
        if size < memory.MMAP_THRESHOLD:
            outputs = program(*args)
        else:
            jax.block_until_ready(args)  # otherwise it would run after this returns, outside of `kept`
            with memory.kept(size):
                outputs = jax.block_until_ready(program(*args))
        onednn.check()
        return outputs


def _compile(step: functools.partial, args: tuple, donate: tuple[int, ...], *, counted: bool) -> tuple[Any, int]:
    """Compiles a step for arguments like these, or loads it from JAX's cache.

    Args:
        step: a pure function of arrays.
        args: its arguments.
        donate: indices of the arguments that a call uses up.
        counted: count it in process.compile_counts when it was not in the cache.

    Returns:
        The program and the bytes of host memory that it works in; 0 on an accelerator.
    """
    distribution = keras.distribution.distribution()
    placed = {} if distribution is None else {"out_shardings": _replicated(distribution)}
    lowered = jax.jit(step, donate_argnums=donate, **placed).lower(*args)
    hits = process.compile_counts["cache_hits"]
    with programs.built_once(NAMES[step.func.__name__]):
        program = lowered.compile(xla.compiler_options())
    if counted and process.compile_counts["cache_hits"] == hits:
        process.compile_counts["train_programs_compiled"] += 1
    analysis = program.memory_analysis() if jax.default_backend() == "cpu" else None
    memory.release()  # compiling leaves hundreds of megabytes behind
    return program, analysis.temp_size_in_bytes if analysis else 0


def programs_at(built: Classifier, *, cut: str, on_features: bool, optimizer: str) -> Programs:
    """The programs of a classifier, created once and stored with it.

    Args:
        built: the model.
        cut: where training begins, one of config.CUTS.
        on_features: batches hold the prefix's output instead of images.
        optimizer: adam, adamw or sgd.
    """
    key = (cut, on_features, optimizer)
    if key not in built.programs:
        built.programs[key] = Programs(_parts(built, *key))
    return built.programs[key]


def _parts(built: Classifier, cut: str, on_features: bool, optimizer: str) -> Parts:
    prefix, suffix = built.split(cut)
    sgd = functools.partial(keras.optimizers.SGD, momentum=MOMENTUM)
    adam = functools.partial(keras.optimizers.Adam, epsilon=1e-8)  # PyTorch's epsilon; Keras' default is 1e-7
    instance = (sgd if optimizer == "sgd" else adam)(1.0)  # each step sets the rate
    instance.build(suffix.trainable_variables)
    return Parts(prefix, suffix, instance, optimizer == "adamw", on_features)


def phase_programs(built: Classifier, config: RunConfig, cut: str) -> Programs:
    """The programs of one phase of a run, which trains from `cut` on."""
    on_features = cut != "input" and config.feature_cache
    return programs_at(built, cut=cut, on_features=on_features, optimizer=config.optimizer)


def frozen_fingerprint(made: Programs) -> str:
    """The fingerprint of the frozen weights; '' when nothing is frozen."""
    return fingerprint(made.parts.prefix.variables) if made.parts.prefix is not None else ""


def _copies(variables: list[Any]) -> list[np.ndarray]:
    """Host copies: the originals would be used up with the state."""
    return [np.array(variable.value) for variable in variables]


def _replicated(distribution: Any) -> Any:
    """A sharding that puts the whole array on every device of a distribution's mesh."""
    mesh = distribution.device_mesh.backend_mesh
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
