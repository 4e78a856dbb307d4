"""checkpoint.npz, the arrays and facts that a run resumes from; trained.npz, those that its model is exported from later."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.runtime import console
from ctkeras.runtime.files import atomic, cannot_write

CHECKPOINT = "checkpoint.npz"
DAMAGED = ".damaged"  # behind the name of a checkpoint that was set aside
TRAINED = "trained.npz"  # the trained weights only: of a head some 20 kB


@dataclasses.dataclass
class Checkpoint:
    """What a run needs to resume, or its model to be exported: arrays by name, and facts that JSON can hold."""

    arrays: dict[str, list[np.ndarray]]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, name: str = CHECKPOINT, durable: bool = True) -> None:
    """Writes checkpoint.npz, or TRAINED, atomically; `durable` as for files.atomic."""
    named = {f"{key}/{i}": array for key, arrays in checkpoint.arrays.items() for i, array in enumerate(arrays)}
    facts = np.frombuffer(json.dumps(checkpoint.facts).encode(), np.uint8)
    with atomic(folder / name, durable=durable) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **named, facts=facts)


def load_checkpoint(folder: Path, *, name: str = CHECKPOINT) -> Checkpoint | None:
    """Reads checkpoint.npz, or TRAINED; None when the run has none. Each array has a CRC-32, which is verified.

    A damaged checkpoint is set aside with a line, and the run, which then has none, starts from its beginning.

    Raises:
        UserError: the file cannot be opened, or the trained weights are damaged.
        CannotWrite: a damaged checkpoint cannot be renamed.
    """
    path = folder / name
    if not path.exists():
        return None
    arrays: dict[str, list[np.ndarray]] = {}
    if not (path.is_file() and os.access(path, os.R_OK)):  # not damage: whoever may read it finds it whole
        raise UserError(f"cannot read {path}: it is not a file, or its permissions forbid it")
    try:
        with np.load(path, allow_pickle=False) as content:
            facts = json.loads(content["facts"].tobytes())
            for key in content.files:
                if key != "facts":
                    arrays.setdefault(key.rpartition("/")[0], []).append(content[key])
    except Exception as error:  # numpy, zipfile and zlib each raise errors of their own
        if name != CHECKPOINT:
            raise UserError(f"{path} is damaged ({error}); its run has no model without it; start a new one") from error
        _set_aside(path, " ".join(str(error).split())[:120])
        return None
    return Checkpoint(arrays, facts)


def _set_aside(path: Path, reason: str) -> None:
    """Renames a damaged checkpoint in its folder, which may be the only disk with room for it."""
    aside = path.with_name(path.name + DAMAGED)
    try:
        path.replace(aside)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise cannot_write(path, error.errno or 0) from error
    console.note(f"{path} was damaged ({reason}) and is now {aside.name}; the run starts from its beginning.")


def drop_checkpoint(folder: Path) -> None:
    """Deletes the checkpoint of a finished run."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
