"""Batches and numbers of several steps, and states of several members, as one: what a program of many of them takes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctkeras.data.batches import Batch
from ctkeras.training.steps import Hyper, State


def batches(given: Sequence[Batch], most: int) -> Batch:
    """Batches of one shape as arrays [most, …]; a program leaves out those beyond its count, so any will do there."""
    return joined([*given, *[given[0]] * (most - len(given))])


def numbers(given: Sequence[Hyper], most: int) -> Hyper:
    """The numbers of several steps, each float32 [most]; see batches."""
    filled = [*given, *[given[0]] * (most - len(given))]
    return Hyper(*(np.array(column, np.float32) for column in zip(*filled, strict=True)))


def joined(given: Sequence[Batch]) -> Batch:
    """Batches along a new first axis, where they are: on the host, or on a device."""
    return Batch(*(_stack(arrays) for arrays in zip(*given, strict=True)))


def _stack(arrays: Sequence[Any]) -> Any:
    return jnp.stack(arrays) if isinstance(arrays[0], jax.Array) else np.stack(arrays)


@jax.jit
def stacked(states: list[State]) -> State:
    """The states of M members as one, each array [M, …]."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)


@jax.jit
def separated(states: State) -> list[State]:
    """The states of M members, from one of arrays [M, …]."""
    members = len(states.totals["steps"])
    return [jax.tree.map(lambda array, at=at: array[at], states) for at in range(members)]
