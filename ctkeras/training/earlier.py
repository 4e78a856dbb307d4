"""Epochs that an earlier trial trained under the same settings and seed, taken up instead of trained again.

An epoch depends on max_epochs by the schedules cosine and step, so there only a run of the same length is taken up; by plateau
any shorter one is.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ctkeras import __version__
from ctkeras.config import PLACES, RunConfig
from ctkeras.models.weights import fingerprint
from ctkeras.runs.checkpoint import CHECKPOINT
from ctkeras.runtime import console, files, stored
from ctkeras.runtime.versions import version
from ctkeras.training import costs

if TYPE_CHECKING:
    from ctkeras.models.classifier import Classifier

PART = "epochs"  # of the cache
# The last state of a ResNet18 with its optimizer and best epoch takes some 180 MB, of a MobileNetV2 36 MB: ten to fifty trials.
CACHE_BYTES = 2 * 2**30
WITHOUT_EFFECT = (*PLACES, "log_model", "calibrate")  # on what an epoch does
VERSIONED = ("jaxlib", "keras", "keras-cv", "tensorflow", "numpy", "onednn-cpu-gomp")
CHOICES = ("CTKERAS_CPU_KERNELS", "CTKERAS_XLA_FLAGS", "XLA_FLAGS")  # of the environment, which change rounding


def place(config: RunConfig, built: "Classifier", *, data: str) -> Path | None:
    """The folder of the cache for runs whose epochs are the same; None if training a head, which takes seconds.

    Args:
        config: every hyperparameter.
        built: its model, with the weights that the run starts with.
        data: the data's fingerprint.
    """
    if config.cut == "head":
        return None
    values = {name: value for name, value in config.to_dict().items() if name not in WITHOUT_EFFECT}
    if config.scheduler == "plateau":
        del values["max_epochs"]
    facts = [values, data, fingerprint(built.model.variables), str(costs.machine()), __version__, stored.FORMAT]
    facts += [[version(name) for name in VERSIONED], [os.environ.get(name, "") for name in CHOICES]]
    return files.cache_dir(PART) / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def take(config: RunConfig, kept: Path, folder: Path) -> int:
    """Gives a new run the longest checkpoint of an earlier one; returns its number of epochs, 0 if there is none.

    Args:
        config: its max_epochs.
        kept: from place.
        folder: of the run; one that has a checkpoint already resumes from that.
    """
    if (folder / CHECKPOINT).exists() or not kept.is_dir():
        return 0
    for path in sorted(kept.glob("[0-9]*.npz"), reverse=True):
        epochs = int(path.stem)
        if epochs <= config.max_epochs and stored.is_whole(path):
            with files.atomic(folder / CHECKPOINT) as partial:
                shutil.copyfile(path, partial)
            files.touch(kept)
            console.note(f"Taking up {epochs} epochs that an earlier trial trained under the same settings and seed.")
            return epochs
    return 0


def give(kept: Path, folder: Path, *, epochs: int) -> None:
    """Keeps the last checkpoint of a run for later ones, in place of deleting it.

    Args:
        kept: from place.
        folder: of the run, which has trained all its epochs.
        epochs: how many.
    """
    path = kept / f"{epochs:05d}.npz"
    if path.exists() or not (folder / CHECKPOINT).exists():
        return
    kept.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as partial:
        shutil.copyfile(folder / CHECKPOINT, partial)
    stored.vouch(path)
    files.bound(kept.parent, CACHE_BYTES, keep=kept)
