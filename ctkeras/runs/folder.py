"""The run folder `<output_dir>/<id>/`, which is the interface between verbs: its name, its JSON files and their format."""

import contextlib
import csv
import json
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctkeras import __version__
from ctkeras.config import RunConfig
from ctkeras.errors import UserError
from ctkeras.runtime import cells
from ctkeras.runtime.console import note
from ctkeras.runtime.files import FULL, atomic, cannot_write

FORMAT = 1  # of run folders, in config.json and metrics.json; 0 is that of folders from before it was written down
FINISHED = ("solved", "max_epochs", "early_stopping", "hyperband")  # a run stopped by anything else can be resumed


def new_id(model_name: str) -> str:
    """A run id that sorts by time and does not clash between machines."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{model_name}-{secrets.token_hex(3)}"


def require_folder(folder: str | Path, option: str, *, announce: bool = False) -> None:
    """Checks that a folder exists or can be created, before anything slow.

    Args:
        folder: where something will be written.
        option: the option that named it, for the message.
        announce: print a line when the folder does not exist yet; its name may be misspelt.

    Raises:
        UserError: it or a folder above it is a file, or cannot be written to.
    """
    place = Path(folder).expanduser().absolute()
    existing = next(path for path in (place, *place.parents) if os.path.lexists(path) or path == path.parent)
    above = "" if existing == place else f" cannot be created: {existing}"
    if not os.path.isdir(existing):
        raise UserError(f"{option} {folder}{above} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{option} {folder}{above} cannot be written to; name another folder")
    if announce and existing != place:
        note(f"The folder {folder} does not exist yet; it will be created.")


def make_folder(folder: Path) -> None:
    """Creates a run folder, or checks that the run folder there is one that this version can write.

    Raises:
        UserError: it cannot be created, or a newer version wrote it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise cannot_write(folder, int(error.errno or 0)) from error
        raise UserError(f"cannot create run folder {folder} ({error.strerror}); pass another --output_dir") from error
    require_known_format(folder)


def require_known_format(folder: Path) -> None:
    """Refuses a run folder that a newer version wrote; says nothing of missing or damaged files.

    Raises:
        UserError: the folder's format is newer than FORMAT.
    """
    for name in ("config.json", "metrics.json"):
        values = {}
        with contextlib.suppress(UserError):  # whoever needs the file reports it
            values = read_json(folder / name)
        _check_format(folder / name, values)


def _check_format(path: Path, values: Mapping[str, Any]) -> None:
    number = values.get("format", 0)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise UserError(f"{path} has format {number!r}; a whole number from 0 to {FORMAT} is allowed")
    if number > FORMAT:
        raise UserError(
            f"{path} has format {number}, and ctkeras {__version__} reads formats up to {FORMAT}; upgrade ctkeras"
        )


def write_config(folder: Path, config: RunConfig) -> None:
    """Writes config.json."""
    write_json(folder / "config.json", {"format": FORMAT, **config.to_dict()})


def read_config(folder: Path) -> RunConfig:
    """The configuration a run was started with.

    Raises:
        UserError: not a run folder, a damaged one, or one that a newer version wrote.
    """
    if not os.path.isdir(folder):  # unlike Path's, never raises: a name may be too long for a file
        raise UserError(f"{folder} is not a run folder; runs are under the output_dir they were started with")
    require_known_format(folder)
    return RunConfig.from_mapping(read_config_values(folder))


def read_config_values(folder: Path) -> dict[str, Any]:
    """config.json's values, not checked.

    Raises:
        UserError: it is missing or damaged, or a newer version wrote it.
    """
    return _read_versioned(folder / "config.json")


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Writes metrics.json."""
    write_json(folder / "metrics.json", {"format": FORMAT, **metrics})


def read_metrics(folder: Path) -> dict[str, Any]:
    """What write_metrics was given, a number that is not finite as None.

    Raises:
        UserError: metrics.json is missing or damaged, or a newer version wrote it.
    """
    return _read_versioned(folder / "metrics.json")


def _read_versioned(path: Path) -> dict[str, Any]:
    """A JSON file's values without its format."""
    values = read_json(path)
    _check_format(path, values)
    return {name: value for name, value in values.items() if name != "format"}


def read_contract(folder: Path) -> dict[str, Any]:
    """The contract.json beside an exported model.

    Raises:
        UserError: it is missing or damaged.
    """
    return read_json(folder / "contract.json")


def class_names(model: Path) -> list[str] | None:
    """The class names in the contract.json beside a model, in label order; None without that file.

    Args:
        model: a model.keras, or a run folder.

    Raises:
        UserError: the contract is damaged, or a newer version wrote the run folder.
    """
    folder = model if os.path.isdir(model) else model.parent
    require_known_format(folder)
    path = folder / "contract.json"
    if not os.path.lexists(path):
        return None
    try:
        names = read_contract(folder).get("class_names")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path} has no class_names, a list of strings")
    except UserError as error:
        raise UserError(f"{error}; repair it, or move it away to continue without class names") from error
    return names


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON atomically; numbers that JSON cannot express become null."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(_jsonable(values), indent=2) + "\n", encoding="utf-8")


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a run folder's JSON file.

    Raises:
        UserError: it is missing, or is not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); a run folder has config.json and metrics.json"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object")
    return values


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, durable: bool = True) -> None:
    """Writes rows as CSV, atomically; text that a spreadsheet would take for a formula is quoted (cells.py)."""
    with atomic(path, durable=durable) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: cells.quoted(value) for name, value in row.items()} for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads a run folder's CSV file; [] when it is missing.

    Raises:
        UserError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        return [{name: cells.unquoted(value) for name, value in row.items()} for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({error}); move it away") from error
