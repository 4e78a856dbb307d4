"""checkpoint.npz, the arrays and facts that a run resumes from; trained.npz, those that its model is exported from later."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.runtime.files import atomic

CHECKPOINT = "checkpoint.npz"
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
    """Reads checkpoint.npz, or TRAINED; None when the run has none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / name
    if not path.exists():
        return None
    arrays: dict[str, list[np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            for key in stored.files:
                if key != "facts":
                    arrays.setdefault(key.rpartition("/")[0], []).append(stored[key])
    except Exception as error:  # numpy, zipfile and zlib each raise errors of their own
        raise UserError(f"{path} is damaged ({error}); this run cannot be resumed; start a new one") from error
    return Checkpoint(arrays, facts)


def drop_checkpoint(folder: Path) -> None:
    """Deletes the checkpoint of a finished run."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
