"""The run folder `<output_dir>/<id>/`, which is the interface between verbs, and the checkpoint a run resumes from."""

import csv
import dataclasses
import json
import math
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras.config import EPOCH_METRICS, RunConfig, UserError
from ctkeras.runtime import atomic, note

CHECKPOINT = "checkpoint.npz"


def new_id(model_name: str) -> str:
    """A run id that sorts by time and doesn't clash between machines."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{model_name}-{secrets.token_hex(3)}"


def require_folder(folder: str | Path, option: str, *, told: bool = False) -> None:
    """Sees to it that a folder is there or can be made, before anything slow.

    Args:
        folder: where something will be written.
        option: that named it.
        told: say it when the folder isn't there yet; a name may be misspelt.

    Raises:
        UserError: a file stands there or above, or the place can't be written to.
    """
    place = Path(folder).expanduser().absolute()
    existing = next(path for path in (place, *place.parents) if os.path.lexists(path) or path == path.parent)
    above = "" if existing == place else f" can't be made: {existing}"
    if not os.path.isdir(existing):
        raise UserError(f"{option} {folder}{above} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{option} {folder}{above} can't be written to; name another folder")
    if told and existing != place:
        note(f"The folder {folder} isn't there yet; it is made.")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON atomically; numbers that JSON has no word for become null."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(_jsonable(values), indent=2) + "\n", encoding="utf-8")


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a run folder's JSON file.

    Raises:
        UserError: it isn't there or isn't a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror}); a run folder has config.json and metrics.json"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object")
    return values


def class_names(model: Path) -> list[str] | None:
    """The class names in the contract.json beside a model, in label order; None when there is none.

    Args:
        model: a model.keras, or a run folder.

    Raises:
        UserError: the contract is damaged.
    """
    path = model / "contract.json" if os.path.isdir(model) else model.with_name("contract.json")
    if not os.path.lexists(path):
        return None
    try:
        names = read_json(path).get("class_names")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path} has no class_names, a list of texts")
    except UserError as error:
        raise UserError(f"{error}; put it right, or move it away to go on without class names") from error
    return names


def read_config(folder: Path) -> RunConfig:
    """The configuration a run was started with.

    Raises:
        UserError: no run folder, or a damaged one.
    """
    if not os.path.isdir(folder):  # unlike Path's, never raises: a name may be too long for a file
        raise UserError(f"{folder} is not a run folder; runs are under the output_dir they were started with")
    return RunConfig.from_mapping(read_json(folder / "config.json"))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as CSV, atomically."""
    with atomic(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_history(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Writes history.csv: one row an epoch, the columns of EPOCH_METRICS."""
    write_csv(folder / "history.csv", EPOCH_METRICS, history)


def write_predictions(folder: Path, rows: Sequence[dict[str, Any]], *, split: str) -> None:
    """Puts a split's rows into predictions.csv, in place of that split's earlier ones.

    Args:
        folder: the run folder.
        rows: file, split, label, predicted, p_<class>….
        split: their split.
    """
    path = folder / "predictions.csv"
    others = []
    if path.exists():
        try:
            with open(path, newline="", encoding="utf-8") as file:
                earlier = list(csv.DictReader(file, strict=True))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} can't be read ({error}); move it away") from error
        if any(row.keys() != rows[0].keys() for row in earlier):
            raise UserError(f"{path} has other columns than this run's, {', '.join(rows[0])}; move it away")
        others = [row for row in earlier if row["split"] != split]
    write_csv(path, list(rows[0]), [*others, *rows])


@dataclasses.dataclass
class Checkpoint:
    """What a run needs to go on: arrays by name, and JSON-able facts."""

    arrays: dict[str, list[np.ndarray]]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes checkpoint.npz atomically."""
    named = {f"{key}/{i}": array for key, arrays in checkpoint.arrays.items() for i, array in enumerate(arrays)}
    facts = np.frombuffer(json.dumps(checkpoint.facts).encode(), np.uint8)
    with atomic(folder / CHECKPOINT) as partial, open(partial, "wb") as file:
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
    except Exception as error:  # numpy, zipfile and zlib each meet damage with errors of their own
        raise UserError(f"{path} is damaged ({error}); the run can't be resumed, start it anew") from error
    return Checkpoint(arrays, facts)


def drop_checkpoint(folder: Path) -> None:
    """Deletes the checkpoint of a finished run."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
