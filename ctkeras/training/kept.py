"""The trained weights of a trial whose model nobody has opened yet, and the model exported from them when somebody does."""

import dataclasses
from pathlib import Path

from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.models import weights
from ctkeras.runs.checkpoint import TRAINED, Checkpoint, load_checkpoint, save_checkpoint
from ctkeras.runs.folder import read_config
from ctkeras.runtime import console, process
from ctkeras.training import start
from ctkeras.training.inputs import Data, members_of
from ctkeras.training.programs import frozen_fingerprint, phase_programs
from ctkeras.training.run import Loop, export_trained

MODEL = "model.keras"


def heads_of(config: RunConfig, data: Data) -> int:
    """The number of heads that are solved together in one graph; 1 for a run that trains in epochs."""
    return len(members_of(data)) if config.optimizer == "lbfgs" else 1


def keep(run: Loop, folder: Path) -> None:
    """Writes the best epoch's trained weights to trained.npz, from which `export` makes the model.

    An older model of the run, which has other weights now, is deleted.
    """
    facts = {
        "class_names": list(run.data.train.class_names),
        "heads": heads_of(run.config, run.data),
        "frozen": _frozen(run.config, run.built),
    }
    save_checkpoint(folder, Checkpoint({"best": run.best}, facts), name=TRAINED)
    for name in (MODEL, "contract.json"):
        (folder / name).unlink(missing_ok=True)


def export(folder: Path, *, weights_dir: str = "") -> Path:
    """Exports a run's model from its trained weights, unless that has been done; returns the path of model.keras.

    Args:
        folder: a run folder.
        weights_dir: of ImageNet weights, if they are no longer where the run found them.

    Raises:
        UserError: the run has no trained weights, or was trained on other ImageNet weights.
    """
    path = folder / MODEL
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
    if _frozen(config, built) != stored.facts["frozen"]:
        raise UserError(f"{folder} was trained on other ImageNet weights; name their folder by --weights_dir")
    with console.waiting("Exporting the model and checking the file"):
        export_trained(config, built, stored.arrays["best"], folder, class_names=names)
    return path


def _frozen(config: RunConfig, built: start.classifier.Classifier) -> str:
    """The fingerprint of the weights that the run does not train; '' if it trains all."""
    return frozen_fingerprint(phase_programs(built, config, config.cut))
