"""A run whose data or weights have moved since it was started: found where they are now, and recognised by their content."""

import os
from collections.abc import Mapping
from pathlib import Path

from ctkeras.config import RunConfig
from ctkeras.data import sources
from ctkeras.errors import UserError
from ctkeras.runs.checkpoint import load_checkpoint


def follow(config: RunConfig, folder: Path, moved: Mapping[str, str]) -> RunConfig:
    """Returns a run's configuration with the places where its data and weights are now.

    The data is compared with the run's by fingerprint, before anything slow; weights are compared when the model is built.

    Args:
        config: as the run folder has it.
        folder: the run folder.
        moved: data, weights_dir or both.

    Raises:
        UserError: the data is not there, or is not what the run was started on.
    """
    if moved:
        config = RunConfig.from_mapping({**config.to_dict(), **moved})
    try:
        source = sources.open_source(config.data)
    except UserError as error:
        if "data" in moved or os.path.lexists(os.path.expanduser(config.data)):
            raise
        raise UserError(f"{error}; if the data of {folder} has moved, pass --data with where it is now") from error
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None and checkpoint.facts["start"][0] != source.fingerprint:
        raise UserError(
            f"{folder} was started on other images than those of {config.data} (fingerprint "
            f"{checkpoint.facts['start'][0][:16]}, not {source.fingerprint[:16]}); pass --data with the set it was started on, "
            "or start a new run"
        )
    return config
