"""checkpoint.npz: the arrays and facts that a run resumes from."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.errors import UserError
from ctkeras.runtime.files import atomic

CHECKPOINT = "checkpoint.npz"


@dataclasses.dataclass
class Checkpoint:
    """What a run needs to resume: arrays by name, and facts that JSON can hold."""

    arrays: dict[str, list[np.ndarray]]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, durable: bool = True) -> None:
    """Writes checkpoint.npz atomically; `durable` as for files.atomic."""
    named = {f"{key}/{i}": array for key, arrays in checkpoint.arrays.items() for i, array in enumerate(arrays)}
    facts = np.frombuffer(json.dumps(checkpoint.facts).encode(), np.uint8)
    with atomic(folder / CHECKPOINT, durable=durable) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **named, facts=facts)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Reads checkpoint.npz; None when the run has none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    arrays: dict[str, list[np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            for name in stored.files:
                if name != "facts":
                    arrays.setdefault(name.rpartition("/")[0], []).append(stored[name])
    except Exception as error:  # numpy, zipfile and zlib each raise errors of their own
        raise UserError(f"{path} is damaged ({error}); this run cannot be resumed; start a new one") from error
    return Checkpoint(arrays, facts)


def drop_checkpoint(folder: Path) -> None:
    """Deletes the checkpoint of a finished run."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
