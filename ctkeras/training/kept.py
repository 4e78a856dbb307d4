"""The model of a trial that has kept only its trained weights, exported when somebody wants to open it."""

import dataclasses
from pathlib import Path

from ctkeras.errors import UserError
from ctkeras.models import weights
from ctkeras.runs.checkpoint import TRAINED, load_checkpoint
from ctkeras.runs.folder import read_config
from ctkeras.runtime import console, process
from ctkeras.training import start
from ctkeras.training.run import export_trained, frozen_of


def export(folder: Path, *, weights_dir: str = "") -> Path:
    """Exports a run's model from its trained weights, unless that has been done; returns the path of model.keras.

    Args:
        folder: a run folder.
        weights_dir: of ImageNet weights, if they are no longer where the run found them.

    Raises:
        UserError: the run has no trained weights, or was trained on other ImageNet weights.
    """
    path = folder / "model.keras"
    config = read_config(folder)
    if path.exists() and (folder / "contract.json").exists():
        return path
    stored = load_checkpoint(folder, name=TRAINED)
    if stored is None:
        raise UserError(
            f"{folder} has neither a model nor trained weights; if the run was stopped, resume it: "
            f"python -m ctkeras train --resume {folder}"
        )
    process.configure()
    config = dataclasses.replace(config, weights_dir=weights_dir or config.weights_dir)
    found = weights.find_weights(config.model_name, config.weights_dir) if config.pretrained else None
    names = stored.facts["class_names"]
    built = start.build(config, classes=len(names), weights=found, members=stored.facts["heads"])
    if frozen_of(config, built) != stored.facts["frozen"]:
        raise UserError(f"{folder} was trained on other ImageNet weights; name their folder by --weights_dir")
    with console.waiting("Exporting the model and checking the file"):
        export_trained(config, built, stored.arrays["best"], folder, class_names=names)
    return path
