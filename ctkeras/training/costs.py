"""What training costs on this machine: seconds per step, kept from each run that ends, from which a later run is estimated."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.config import RunConfig
from ctkeras.data import batches, threads
from ctkeras.runtime import files, stored
from ctkeras.runtime.place import processor

PART = "costs"  # of the cache
MOST_KEPT = 9  # runs of one kind that are remembered, the latest
# How far an estimate may be off, as a factor: allowances, not measurements. Medians of one step on a shared machine vary by a
# fifth (benchmarks/RESULTS.md); what is not known of other batch sizes and other machines is taken to be more.
MEASURED, SIMILAR, REFERENCE = 1.4, 2.0, 3.0
# Seconds of one step of 32 images at 224 px where everything is trained, on two cores of an AMD EPYC (benchmarks/RESULTS.md).
STEPS = {"resnet18": 2.36, "resnet34": 3.58, "efficientnet_b0": 2.33, "mobilenet_v2": 0.82}
SOURCE = "benchmarks/RESULTS.md"
# Of the same page: a head on cached features, per trial and per step; a fine-tuned run's start and end.
HEAD_SECONDS, HEAD_STEP, TUNED_SECONDS = 5.0, 0.0015, 15.0


@dataclasses.dataclass(frozen=True)
class Machine:
    """What trains: a GPU's name, or the processor's, and how many of them or of its cores."""

    name: str
    count: int
    gpu: bool

    def __str__(self) -> str:
        if self.gpu:
            return f"GPU ({self.name}{f', {self.count} of them' if self.count > 1 else ''})"
        return f"CPU ({self.name}, {self.count} core{'s' if self.count != 1 else ''})"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The seconds that a run takes, and how far that may be off."""

    seconds: float
    factor: float
    source: str  # measured, similar or reference


def machine() -> Machine:
    """The machine that this process trains on."""
    import jax

    if jax.default_backend() != "cpu":
        return Machine(jax.local_devices()[0].device_kind, jax.local_device_count(), True)
    return Machine(processor(), threads.cores(), False)


def steps_of(config: RunConfig, images: Mapping[str, int]) -> int:
    """The steps of one epoch, of all members together; a solved head counts as one.

    Args:
        config: every hyperparameter.
        images: number of images in train and valid.
    """
    count = config.fold_count
    if config.optimizer == "lbfgs":
        return 1
    if not count:
        return batches.steps_per_epoch(images["train"], config.batch_size)
    members = count if config.fold == "all" else 1
    pooled = images["train"] + images["valid"]
    return members * batches.steps_per_epoch(pooled * (count - 1) // count, config.batch_size)


def remember(
    config: RunConfig, history: Sequence[Mapping[str, Any]], *, steps: int, rest: float = 0.0, compiling: float = 0.0
) -> None:
    """Keeps what a run took, without what only the first of several runs does: preparing data, building, compiling.

    Args:
        config: every hyperparameter.
        history: one row per epoch.
        steps: per epoch, of all members together.
        rest: seconds between and after epochs, such as those of the export.
        compiling: seconds of the first epoch in which programs were compiled.
    """
    if not history or steps < 1:
        return
    first, *others = (float(row["epoch_seconds"]) for row in history)
    step = float(np.median(others or [max(0.0, first - compiling)])) / steps
    one = {"step": step, "rest": rest, "batch": config.batch_size}
    path = _path(machine(), config, config.batch_size)
    for target in (path, _path(machine(), config, 0)):  # by batch size, and of any
        kept = stored.find_json(target) or []
        target.parent.mkdir(parents=True, exist_ok=True)
        stored.write_json(target, [*kept, one][-MOST_KEPT:])


def estimate(
    config: RunConfig, images: Mapping[str, int], where: Machine, *, read: Callable[[Path], Any] = stored.find_json
) -> Estimate | None:
    """The seconds that a run takes if nothing stops it, once data and programs are prepared; None if nothing is known.

    Args:
        config: every hyperparameter.
        images: number of images in train and valid.
        where: the machine that it will run on.
        read: returns what is kept in a file, or None.
    """
    epochs = 1 if config.optimizer == "lbfgs" else config.max_epochs
    steps = steps_of(config, images) * epochs
    if kept := read(_path(where, config, config.batch_size)):
        totals = [one["step"] * steps + one["rest"] for one in kept]
        middle = float(np.median(totals))
        spread = max(max(totals) / middle, middle / max(min(totals), 1e-9))
        return Estimate(middle, max(MEASURED, min(spread, REFERENCE)), "measured")
    if kept := read(_path(where, config, 0)):
        totals = [one["step"] / one["batch"] * config.batch_size * steps + one["rest"] for one in kept]
        return Estimate(float(np.median(totals)), SIMILAR, "similar")
    return None if where.gpu else _by_reference(config, steps, cores=where.count)


def _by_reference(config: RunConfig, steps: int, *, cores: int) -> Estimate | None:
    """The estimate from the published table; training from a later stage on counts as training everything, which is more."""
    if config.cut == "head" and config.feature_cache:
        return Estimate(
            HEAD_SECONDS + (0 if config.optimizer == "lbfgs" else HEAD_STEP * steps), REFERENCE, "reference"
        )
    if config.model_name not in STEPS:
        return None
    share = config.batch_size / 32 * (config.image_size / 224) ** 2 * 2 / max(1, cores)
    return Estimate(TUNED_SECONDS + STEPS[config.model_name] * share * steps, REFERENCE, "reference")


def _path(where: Machine, config: RunConfig, batch_size: int) -> Path:
    """The file of the runs of one kind on one kind of machine; batch size 0 stands for any."""
    facts = [
        *(where.name, where.count, config.model_name, config.cut, config.head_epochs > 0, config.feature_cache),
        *(config.optimizer == "lbfgs", config.image_size, config.precision, config.head_stages, config.pretrained),
        *(config.fold_count, batch_size, stored.FORMAT),
    ]
    return files.cache_dir(PART) / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.json"
